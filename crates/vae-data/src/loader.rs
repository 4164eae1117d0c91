//! In which order an epoch visits the images, and the batches it makes of them.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use tch::{Device, Kind, Tensor};

use crate::{Dataset, derive_seed};

/// The image indices 0 to `n_images` − 1, shuffled for `epoch` of the run with this `seed`.
///
/// Fixed for all time, on every platform, since a run resumed amid an epoch continues in this order:
/// a ChaCha8 stream whose 256-bit key is [`derive_seed`]`(seed, epoch, "order")` as 8 little-endian
/// bytes and then zeros (nonce 0) gives u64 numbers; for i from `n_images` − 1 down to 1, index i
/// changes places with an index drawn uniformly from 0 to i (Fisher & Yates; bounded without bias as
/// in Lemire 2019).
///
/// ```
/// let mut order = vae_data::loader::shuffled_order(5, 1, 0);
/// assert_ne!(order, vae_data::loader::shuffled_order(5, 1, 1));
/// order.sort();
/// assert_eq!(order, [0, 1, 2, 3, 4]);
/// ```
pub fn shuffled_order(n_images: usize, seed: u64, epoch: u64) -> Vec<i64> {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&derive_seed(seed, epoch, "order").to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(key);

    let mut order: Vec<i64> = (0..n_images as i64).collect();
    for i in (1..n_images).rev() {
        let j = uniform_below(i as u64 + 1, || rng.next_u64());
        order.swap(i, j as usize);
    }
    order
}

/// A uniform number below `bound` (> 0) from uniform u64 numbers: Lemire 2019, algorithm 5. The high
/// half of draw · bound is that number; the few draws whose low half would make it biased are redrawn.
fn uniform_below(bound: u64, mut draw: impl FnMut() -> u64) -> u64 {
    let lowest_fair = bound.wrapping_neg() % bound;
    loop {
        let product = u128::from(draw()) * u128::from(bound);
        if product as u64 >= lowest_fair {
            return (product >> 64) as u64;
        }
    }
}

/// How many batches `n_images` make, the partial last one included.
///
/// # Panics
/// If `batch_size` is 0.
pub fn n_batches(n_images: usize, batch_size: usize) -> usize {
    n_images.div_ceil(batch_size)
}

/// One pass over a data set: u8 `[B, C, H, W]` batches on a device, every image exactly once, the
/// last batch smaller where the number of images is no multiple of the batch size.
///
/// Each batch is a copy. To go on amid an epoch use [`Iterator::skip`]: passing over batches costs
/// nothing, whatever their number.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    dataset: &'a Dataset,
    order: Order,
    batch_size: usize,
    device: Device,
    /// Index of the next batch.
    next: usize,
}

#[derive(Clone, Debug)]
enum Order {
    Sequential,
    Shuffled(Vec<i64>),
}

impl<'a> Batches<'a> {
    /// Every image in the data set's own order, for evaluation.
    ///
    /// # Panics
    /// If `batch_size` is 0.
    pub fn sequential(dataset: &'a Dataset, batch_size: usize, device: Device) -> Batches<'a> {
        Batches::new(dataset, Order::Sequential, batch_size, device)
    }

    /// Every image in the [`shuffled_order`] of `seed` and `epoch`, for training.
    ///
    /// # Panics
    /// If `batch_size` is 0.
    pub fn shuffled(
        dataset: &'a Dataset,
        batch_size: usize,
        device: Device,
        seed: u64,
        epoch: u64,
    ) -> Batches<'a> {
        let order = shuffled_order(dataset.len(), seed, epoch);
        Batches::new(dataset, Order::Shuffled(order), batch_size, device)
    }

    fn new(dataset: &'a Dataset, order: Order, batch_size: usize, device: Device) -> Batches<'a> {
        assert!(batch_size > 0, "batch size 0, expected at least 1");
        Batches {
            dataset,
            order,
            batch_size,
            device,
            next: 0,
        }
    }

    fn n_left(&self) -> usize {
        n_batches(self.dataset.len(), self.batch_size).saturating_sub(self.next)
    }
}

impl Iterator for Batches<'_> {
    type Item = Tensor;

    fn next(&mut self) -> Option<Tensor> {
        if self.n_left() == 0 {
            return None;
        }
        let start = self.next * self.batch_size;
        let end = self
            .dataset
            .len()
            .min(start.saturating_add(self.batch_size));
        self.next += 1;

        let images = self.dataset.images();
        Some(match &self.order {
            // A copy even on the CPU: a view would let the model's in-place operations reach the data.
            Order::Sequential => images
                .narrow(0, start as i64, (end - start) as i64)
                .to_device_(self.device, Kind::Uint8, false, true),
            Order::Shuffled(order) => images
                .index_select(0, &Tensor::from_slice(&order[start..end]))
                .to_device(self.device),
        })
    }

    /// Passes over `n` batches without touching an image, and so does [`Iterator::skip`], built on it.
    fn nth(&mut self, n: usize) -> Option<Tensor> {
        self.next += n.min(self.n_left());
        self.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.n_left(), Some(self.n_left()))
    }
}

impl ExactSizeIterator for Batches<'_> {}
