//! `dataset.arrays.layout`: the meaning of an array's axes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// The axes of an array, in their order in the file: N rows with one item each, C channels, T time steps, H rows and
/// W columns of an image, D values of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub enum ArrayLayout {
    /// `[N, D]`: vectors, also the rows of a table.
    #[serde(rename = "n_d")]
    Nd,
    /// `[N, T]`: series of one channel.
    #[serde(rename = "n_t")]
    Nt,
    /// `[N, C, T]`: series of several channels.
    #[serde(rename = "n_c_t")]
    Nct,
    /// `[N, T, C]`: series of several channels, as in Keras.
    #[serde(rename = "n_t_c")]
    Ntc,
    /// `[N, H, W]`: images of one channel, as in Keras' `mnist.npz`.
    #[serde(rename = "n_h_w")]
    Nhw,
    /// `[N, C, H, W]`: images, as in PyTorch.
    #[serde(rename = "n_c_h_w")]
    Nchw,
    /// `[N, H, W, C]`: images, as in Keras, NumPy and image libraries.
    #[serde(rename = "n_h_w_c")]
    Nhwc,
}

impl ArrayLayout {
    /// The default layout of an array with this number of axes.
    pub(super) fn of_axes(n_axes: usize) -> Option<ArrayLayout> {
        match n_axes {
            2 => Some(Self::Nd),
            3 => Some(Self::Nct),
            4 => Some(Self::Nchw),
            _ => None,
        }
    }

    /// The name in a config.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nd => "n_d",
            Self::Nt => "n_t",
            Self::Nct => "n_c_t",
            Self::Ntc => "n_t_c",
            Self::Nhw => "n_h_w",
            Self::Nchw => "n_c_h_w",
            Self::Nhwc => "n_h_w_c",
        }
    }

    pub(super) fn n_axes(self) -> usize {
        self.name().split('_').count()
    }

    /// Whether bytes in this layout are pixels.
    pub(super) fn is_of_images(self) -> bool {
        matches!(self, Self::Nhw | Self::Nchw | Self::Nhwc)
    }

    /// The shape of an item: `[D]`, `[C, T]` or `[C, H, W]`. `sides` is the shape of a row of the array; it has as
    /// many axes as the layout.
    pub(super) fn item_shape(self, sides: &[usize]) -> Vec<i64> {
        let sides: Vec<i64> = sides.iter().map(|&side| side as i64).collect();
        match (self, &sides[..]) {
            (Self::Nt | Self::Nhw, sides) => [&[1], sides].concat(),
            (Self::Ntc, &[t, c]) => vec![c, t],
            (Self::Nhwc, &[h, w, c]) => vec![c, h, w],
            _ => sides,
        }
    }

    /// Converts rows of an array to maps `[n, C, H, W]`.
    pub(super) fn maps(self, rows: &Tensor) -> Tensor {
        match self {
            Self::Nd | Self::Nt => rows.unsqueeze(1).unsqueeze(1),
            Self::Nct => rows.unsqueeze(2),
            Self::Ntc => rows.transpose(1, 2).unsqueeze(2),
            Self::Nhw => rows.unsqueeze(1),
            Self::Nchw => rows.shallow_clone(),
            Self::Nhwc => rows.permute([0, 3, 1, 2]),
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;
    use vae_base::{ItemKind, ItemSpec};

    use super::*;

    const ALL: [ArrayLayout; 7] = [
        ArrayLayout::Nd,
        ArrayLayout::Nt,
        ArrayLayout::Nct,
        ArrayLayout::Ntc,
        ArrayLayout::Nhw,
        ArrayLayout::Nchw,
        ArrayLayout::Nhwc,
    ];

    #[test]
    fn rows_have_the_map_of_their_item() {
        for layout in ALL {
            let written = serde_json::to_value(layout).unwrap();
            assert_eq!(written, layout.name());
            let sides: Vec<usize> = [2, 3, 4][..layout.n_axes() - 1].to_vec();
            let size: Vec<i64> = [5, 2, 3, 4][..layout.n_axes()].to_vec();
            let rows = Tensor::arange(
                size.iter().product::<i64>(),
                (Kind::Int64, tch::Device::Cpu),
            );
            let maps = layout.maps(&rows.view(&size[..]));
            let item = ItemSpec::new(ItemKind::Array, layout.item_shape(&sides));
            assert_eq!(maps.size()[1..], item.map().sides(), "{layout:?}");
            assert_eq!(maps.size()[0], 5);
        }
    }

    #[test]
    fn channels_that_come_last_are_put_first() {
        let rows = Tensor::from_slice(&[1_i64, 2, 3, 4, 5, 6]);
        // Two steps of three channels.
        let series = ArrayLayout::Ntc.maps(&rows.view([1, 2, 3]));
        assert_eq!(
            Vec::<i64>::try_from(series.contiguous().view(-1)).unwrap(),
            [1, 4, 2, 5, 3, 6]
        );
        // One row of two pixels of three colors.
        let image = ArrayLayout::Nhwc.maps(&rows.view([1, 1, 2, 3]));
        assert_eq!(image.size(), [1, 3, 1, 2]);
        assert_eq!(
            Vec::<i64>::try_from(image.contiguous().view(-1)).unwrap(),
            [1, 4, 2, 5, 3, 6]
        );
    }
}
