//! How much each latent dimension is used.

use serde::{Deserialize, Serialize};

/// How much each latent dimension is used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatentUse {
    /// Mean kl of each latent dimension in nats; none if the posterior and prior have no closed form for it.
    pub kl: Option<Vec<f64>>,
    /// Variance over the images of the posterior's center in each dimension.
    pub center_variance: Vec<f64>,
    /// The number of images that the variance is over; 0 in files of versions that did not write it.
    #[serde(default)]
    pub n_images: u64,
}

impl LatentUse {
    /// Variance of the posterior's center above which a latent dimension counts as in use.
    pub const ACTIVE_VARIANCE: f64 = 0.01;

    /// With fewer images, chance affects the variance too much to tell which dimensions are in use: with one image it is
    /// 0 in every dimension of every model. With ten, a dimension with a normal center of variance ½ appears unused
    /// once in two million times.
    pub const LEAST_IMAGES: u64 = 10;

    /// Whether there were enough images to tell which dimensions are in use.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.n_images >= Self::LEAST_IMAGES
    }

    /// Latent dimensions in use: the variance of the posterior's center over the images is above 0.01
    /// (Burda et al. 2016, <https://arxiv.org/abs/1509.00519>, §5.1).
    #[must_use]
    pub fn active_units(&self) -> u64 {
        let dims = 0..self.center_variance.len();
        dims.filter(|&dim| self.is_active(dim)).count() as u64
    }

    /// Whether a latent dimension is in use.
    #[must_use]
    pub fn is_active(&self, dim: usize) -> bool {
        let variance = self.center_variance.get(dim);
        variance.is_some_and(|&variance| variance > Self::ACTIVE_VARIANCE)
    }

    /// A score of each dimension that is larger the more it is used: the kl if it is known, else the variance of the
    /// center.
    #[must_use]
    pub fn ranking(&self) -> &[f64] {
        self.kl.as_deref().unwrap_or(&self.center_variance)
    }
}
