//! Black-and-white images drawn from gray ones.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::derive_seed;

/// How bytes become 0 or 255, which a Bernoulli likelihood reads as pixels of 0 and 1 (`dataset.binarization` in a
/// config).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Binarization {
    /// Each time an image is used, each byte p becomes 255 with probability p / 255 and 0 otherwise, independently
    /// for each channel (Salakhutdinov & Murray 2008; Burda et al. 2016, §5). Every training epoch draws anew;
    /// evaluations use the same draw in every run.
    Dynamic,
    /// Every image is drawn once: each byte p becomes 255 with probability p / 255. The result is the same in every
    /// epoch and run. The model can then overfit to the draw, as with Larochelle's binarized MNIST (which is a
    /// different draw).
    Static,
}

impl Binarization {
    /// The random draws of a training epoch.
    pub(crate) fn draws_of_epoch(self, seed: u64, epoch: u64) -> PixelDraws {
        match self {
            Binarization::Dynamic => PixelDraws::new(derive_seed(seed, epoch, "binarization")),
            Binarization::Static => self.fixed_draws(),
        }
    }

    /// The random draws of every other pass and of plots: the same in every run, so that evaluations can be compared.
    pub(crate) fn fixed_draws(self) -> PixelDraws {
        PixelDraws::new(derive_seed(0, 0, "fixed binarization"))
    }
}

/// The random draws of one pass over a data set.
///
/// The draws of an image depend only on the pass and on the image's position in the data set. The algorithm must
/// never change, because a resumed run continues in the middle of an epoch: random bytes come from a ChaCha8 stream
/// whose 256-bit key is the seed of the pass as 8 little-endian bytes followed by zeros, and whose nonce is the
/// position. Each pixel takes the next of these bytes that is not 255, a uniform number from 0 to 254, and becomes
/// white if its own byte p is greater, which is true for p of the 255 numbers.
#[derive(Clone, Debug)]
pub(crate) struct PixelDraws(ChaCha8Rng);

impl PixelDraws {
    fn new(pass_seed: u64) -> PixelDraws {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&pass_seed.to_le_bytes());
        PixelDraws(ChaCha8Rng::from_seed(key))
    }

    /// Sets every byte of the image at this position to 0 or 255.
    pub(crate) fn binarize(&self, position: u64, image: &mut [u8]) {
        let mut rng = self.0.clone();
        rng.set_stream(position);
        // Whole ChaCha blocks: the generator makes four at once.
        let mut draws = [0; 256];
        let mut n_used = draws.len();
        let mut draw = || loop {
            if n_used == draws.len() {
                rng.fill_bytes(&mut draws);
                n_used = 0;
            }
            let draw = draws[n_used];
            n_used += 1;
            if draw < 255 {
                return draw;
            }
        };
        for byte in image {
            *byte = if draw() < *byte { 255 } else { 0 };
        }
    }

    /// A binarized copy of the images u8 [B, C, H, W] on the CPU that are at these B positions.
    pub(crate) fn binarized(
        &self,
        images: &Tensor,
        positions: impl Iterator<Item = u64>,
    ) -> Tensor {
        let size = images.size();
        let n_bytes = size[1..].iter().product::<i64>() as usize;
        let mut bytes = vec![0; images.numel()];
        images.contiguous().copy_data(&mut bytes, images.numel());
        for (position, image) in positions.zip(bytes.chunks_exact_mut(n_bytes)) {
            self.binarize(position, image);
        }
        Tensor::from_data_size(&bytes, &size, Kind::Uint8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn training(seed: u64, epoch: u64) -> PixelDraws {
        Binarization::Dynamic.draws_of_epoch(seed, epoch)
    }

    fn binarized(draws: &PixelDraws, position: u64, mut image: Vec<u8>) -> Vec<u8> {
        draws.binarize(position, &mut image);
        image
    }

    #[test]
    fn draws_never_change() {
        // From tests/reference_order.py. Other values would break resuming every earlier run.
        let cases = [
            (training(0, 0), 0, "1100001010110101", 1_041_029),
            (training(0, 0), 1, "1100100001100000", 1_002_954),
            (training(7, 3), 59_999, "0000110000001100", 940_748),
            (
                Binarization::Dynamic.fixed_draws(),
                0,
                "0001000011101010",
                1_015_098,
            ),
        ];
        for (draws, position, wanted_few, wanted_sum) in cases {
            let few: String = binarized(&draws, position, vec![128; 16])
                .iter()
                .map(|&byte| if byte == 255 { '1' } else { '0' })
                .collect();
            assert_eq!(few, wanted_few);
            // Long enough to contain redrawn bytes.
            let many = (0..2000).map(|i| (i % 256) as u8).collect();
            let white = binarized(&draws, position, many)
                .into_iter()
                .enumerate()
                .filter(|&(_, byte)| byte == 255);
            assert_eq!(white.map(|(i, _)| i).sum::<usize>(), wanted_sum);
        }
    }

    #[test]
    fn static_draws_are_the_fixed_ones_in_every_epoch_and_run() {
        let image = vec![128; 2000];
        let of = |draws: &PixelDraws| binarized(draws, 3, image.clone());
        let fixed = of(&Binarization::Dynamic.fixed_draws());
        for (seed, epoch) in [(0, 0), (0, 5), (9, 1)] {
            assert_eq!(of(&Binarization::Static.draws_of_epoch(seed, epoch)), fixed);
        }
        assert_ne!(of(&training(0, 0)), fixed);
    }

    #[test]
    fn a_byte_is_white_as_often_as_it_says() {
        const N: usize = 100_000;
        for p in 0..=255 {
            let image = binarized(&training(1, 1), p.into(), vec![p; N]);
            let n_white = image.iter().filter(|&&byte| byte == 255).count();
            let n_black = image.iter().filter(|&&byte| byte == 0).count();
            assert_eq!(n_white + n_black, N);
            let share = f64::from(p) / 255.0;
            // 0 for the bytes 0 and 255, which never change. Small enough to tell 254/255 from 254/256.
            let deviation = (N as f64 * share * (1.0 - share)).sqrt();
            let excess = n_white as f64 - N as f64 * share;
            assert!(excess.abs() <= 5.0 * deviation, "{p}: {n_white} of {N}");
        }
    }

    #[test]
    fn draws_of_other_images_epochs_and_runs_are_independent() {
        const N: usize = 100_000;
        let of = |draws: &PixelDraws, position| binarized(draws, position, vec![128; N]);
        let share = 128.0 / 255.0;
        let equal = share * share + (1.0 - share) * (1.0 - share);
        let deviation = (N as f64 * equal * (1.0 - equal)).sqrt();
        let one = of(&training(1, 1), 0);
        assert_eq!(of(&training(1, 1), 0), one);
        for other in [
            of(&training(1, 1), 1),
            of(&training(1, 2), 0),
            of(&training(2, 1), 0),
            of(&Binarization::Dynamic.fixed_draws(), 0),
        ] {
            let n_equal = one.iter().zip(&other).filter(|(a, b)| a == b).count();
            let excess = n_equal as f64 - N as f64 * equal;
            assert!(excess.abs() < 5.0 * deviation, "{n_equal} of {N}");
        }
    }
}
