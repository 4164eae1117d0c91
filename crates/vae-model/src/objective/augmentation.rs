//! Differentiable augmentation of what a discriminator sees.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use vae_torch::Generator;

use crate::share;

/// A random change of every image that a discriminator sees, real or generated, so that it cannot learn a small data
/// set by heart. Gradients go through it, and the generator does not learn it (Zhao et al. 2020,
/// <https://arxiv.org/abs/2006.10738>; the amounts are those of the authors' program).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Augmentation {
    /// Brightness, saturation and contrast.
    Color,
    /// A shift by up to an eighth of each side; what comes in is gray.
    Translation,
    /// A gray rectangle of half of each side.
    Cutout,
}

impl Augmentation {
    /// Changes images `[B, C, H, W]` with values from −1 to 1, each in its own way.
    pub(super) fn apply(self, images: &Tensor, generator: &mut Generator) -> Tensor {
        match self {
            Self::Color => color(images, generator),
            Self::Translation => translated(images, generator),
            Self::Cutout => cut(images, generator),
        }
    }
}

/// A uniform number of each image, `[B, 1, 1, 1]`.
fn numbers(images: &Tensor, bounds: [f64; 2], generator: &mut Generator) -> Tensor {
    let draw = |n| generator.uniform(bounds, [n, 1, 1, 1], images.device());
    share::drawn_for(images.size()[0], draw)
}

/// A uniform integer of each image from `low` to `high`, `[B, 1]`.
fn integers(images: &Tensor, [low, high]: [i64; 2], generator: &mut Generator) -> Tensor {
    let options = (Kind::Int64, images.device());
    let draw = |n| generator.randint(high - low + 1, [n, 1], options);
    share::drawn_for(images.size()[0], draw) + low
}

fn mean(images: &Tensor, dims: &[i64]) -> Tensor {
    images.mean_dim(dims, true, Kind::Float)
}

fn color(images: &Tensor, generator: &mut Generator) -> Tensor {
    let bright = images + numbers(images, [-0.5, 0.5], generator);
    let gray = mean(&bright, &[1]);
    let saturated = (&bright - &gray) * numbers(images, [0.0, 2.0], generator) + gray;
    let level = mean(&saturated, &[1, 2, 3]);
    (&saturated - &level) * numbers(images, [0.5, 1.5], generator) + level
}

fn translated(images: &Tensor, generator: &mut Generator) -> Tensor {
    let size = images.size();
    let mut shifted = images.shallow_clone();
    for (dim, side) in [(2, size[2]), (3, size[3])] {
        let most = (side as f64 / 8.0 + 0.5) as i64;
        let shift = integers(images, [-most, most], generator); // [B, 1]
        let places = Tensor::arange(side, (Kind::Int64, images.device())).unsqueeze(0) + shift; // [B, side]
        let is_inside = places.ge(0).logical_and(&places.lt(side));
        let (mut shape, mut expanded) = (vec![size[0], 1, 1, 1], size.clone());
        shape[dim] = side;
        expanded[dim] = side;
        let places = places.clamp(0, side - 1).view(shape.as_slice());
        let source = places.expand(&expanded, false);
        let is_inside = is_inside.view(shape.as_slice()).to_kind(images.kind());
        shifted = shifted.gather(dim as i64, &source, false) * is_inside;
    }
    shifted
}

fn cut(images: &Tensor, generator: &mut Generator) -> Tensor {
    let size = images.size();
    let mut is_cut = Tensor::ones([size[0], 1, 1, 1], (Kind::Bool, images.device()));
    for (dim, side) in [(2, size[2]), (3, size[3])] {
        let length = (side as f64 / 2.0 + 0.5) as i64;
        let middle = integers(images, [0, side - 1 + (1 - length % 2)], generator);
        let first = middle - length / 2;
        let places = Tensor::arange(side, (Kind::Int64, images.device())).unsqueeze(0);
        let inside = places
            .ge_tensor(&first)
            .logical_and(&places.lt_tensor(&(&first + length))); // [B, side]
        let mut shape = vec![size[0], 1, 1, 1];
        shape[dim] = side;
        is_cut = is_cut.logical_and(&inside.view(shape.as_slice()));
    }
    images.masked_fill(&is_cut, 0.0)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    const ALL: [Augmentation; 3] = [
        Augmentation::Color,
        Augmentation::Translation,
        Augmentation::Cutout,
    ];

    fn images() -> Tensor {
        let values = Tensor::arange(64 * 3 * 16 * 12, (Kind::Float, Device::Cpu)).sin();
        values.view([64, 3, 16, 12])
    }

    #[test]
    fn each_image_is_changed_in_its_own_way_and_by_the_seed_alone() {
        for augmentation in ALL {
            let same = images().narrow(0, 0, 1).repeat([64, 1, 1, 1]);
            let changed = augmentation.apply(&same, &mut Generator::cpu(1));
            assert_eq!(changed.size(), same.size());
            let spread = changed.var_dim([0].as_slice(), true, false);
            assert!(spread.max().double_value(&[]) > 0.0, "{augmentation:?}");
            assert_eq!(augmentation.apply(&same, &mut Generator::cpu(1)), changed);
        }
    }

    #[test]
    fn a_translation_moves_by_an_eighth_at_most_and_leaves_gray_behind() {
        // One white pixel in the middle of a row and a column.
        let one = Tensor::zeros([64, 1, 16, 16], (Kind::Float, Device::Cpu));
        let _ = one.narrow(2, 8, 1).narrow(3, 8, 1).fill_(1.0);
        let moved = Augmentation::Translation.apply(&one, &mut Generator::cpu(1));
        let sums = moved.sum_dim_intlist([1, 2, 3].as_slice(), false, Kind::Float);
        assert_eq!(sums, Tensor::ones([64], (Kind::Float, Device::Cpu)));
        let where_to = moved.sum_dim_intlist([0, 1, 3].as_slice(), false, Kind::Float);
        for row in 0..16 {
            let n = where_to.double_value(&[row]);
            assert_eq!(n > 0.0, (6..=10).contains(&row), "row {row}: {n}");
        }
        let white = Tensor::ones([64, 1, 16, 16], (Kind::Float, Device::Cpu));
        let moved = Augmentation::Translation.apply(&white, &mut Generator::cpu(1));
        let edge = moved.select(2, 0).sum(Kind::Float).double_value(&[]);
        assert!(edge < 64.0 * 16.0, "nothing came in");
    }

    #[test]
    fn a_cutout_is_at_most_a_quarter_and_gray() {
        let white = Tensor::ones([64, 2, 16, 16], (Kind::Float, Device::Cpu));
        let cut = Augmentation::Cutout.apply(&white, &mut Generator::cpu(1));
        let shares = cut.mean_dim([1, 2, 3].as_slice(), false, Kind::Float) * -1.0 + 1.0;
        let (least, most) = (
            shares.min().double_value(&[]),
            shares.max().double_value(&[]),
        );
        assert!(
            least > 0.0 && (most - 0.25).abs() < 1e-6,
            "{least} to {most}"
        );
        assert_eq!(
            cut.select(1, 0),
            cut.select(1, 1),
            "every channel is cut alike"
        );
    }

    #[test]
    fn color_keeps_what_has_no_color_gray() {
        let gray = images().narrow(1, 0, 1).repeat([1, 3, 1, 1]);
        let changed = Augmentation::Color.apply(&gray, &mut Generator::cpu(1));
        let difference = (changed.select(1, 0) - changed.select(1, 2)).abs().max();
        assert!(difference.double_value(&[]) < 1e-6);
    }

    #[test]
    fn gradients_go_through() {
        for augmentation in ALL {
            let images = images().set_requires_grad(true);
            let changed = augmentation.apply(&images, &mut Generator::cpu(1));
            changed.sum(Kind::Float).backward();
            let n = images.grad().ne(0.0).sum(Kind::Float).double_value(&[]);
            assert!(n > 0.5 * images.numel() as f64, "{augmentation:?}");
        }
    }
}
