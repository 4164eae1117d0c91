//! `posterior.vector_quantized`: discrete codes of a learned codebook.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ModelError;
use crate::network::{LARGEST_DEPTH, LARGEST_SIZE, check_depth, check_sizes};

/// Vector quantization (VQ-VAE, van den Oord et al. 2017, <https://arxiv.org/abs/1711.00937>): d latents together are
/// replaced by the nearest of K vectors, the codebook, which is learned. The gradient passes the rounding as if it was
/// not there. The loss gets, with z for the encoder's output, e for its code and sg for a constant to gradients,
/// β·|z − sg(e)|², the commitment, which keeps the encoder near its codes (and |sg(z) − e|² if the codebook is learned by
/// gradient), summed over all codes of an item.
///
/// In a latent map `[C, h, w]` each place has a code of C latents. A vector of Z latents is one code, or with
/// `code_dims` = d it is Z/d of them: the first latents of all codes, then their second ones, and so on. There is no
/// density, and so neither kl nor elbo: the regularizer is `"none"`, the prior `"uniform_codes"`. All of it is computed
/// in f32.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VectorQuantizedConfig {
    /// K, the number of vectors in a codebook. Default 512.
    #[schemars(range(min = 2, max = MOST_CODES))]
    pub codes: i64,
    /// Latents of a code. By default all channels of a place in a map, else all latents (divided by `heads`).
    #[schemars(range(min = 1, max = LARGEST_SIZE))]
    pub code_dims: Option<i64>,
    /// Parts into which the latents of a place are divided, each with a codebook of its own (product quantization,
    /// Jégou et al. 2011, <https://doi.org/10.1109/TPAMI.2010.57>). Default 1.
    #[schemars(range(min = 1, max = LARGEST_DEPTH))]
    pub heads: i64,
    /// Codebooks one after the other, each for what is left of the latents after the one before it (residual
    /// quantization, Lee et al. 2022, <https://arxiv.org/abs/2203.01941>). The latents are the sum. Default 1.
    #[schemars(range(min = 1, max = LARGEST_DEPTH))]
    pub depth: i64,
    /// β, the weight of the commitment: of the term that moves the encoder's output, not the codebook. Default 0.25.
    #[schemars(range(min = 0.0, max = 1e6))]
    pub commitment: f64,
    /// How the codebook is learned.
    pub codebook: CodebookConfig,
    /// Which distance is meant by the nearest code.
    pub distance: CodeDistance,
    /// How the gradient passes the rounding.
    pub gradient: CodeGradient,
    /// Whether a code that no training item used for an epoch is replaced by an output of the encoder, with its
    /// averages. Default true.
    pub revive: bool,
}

impl Default for VectorQuantizedConfig {
    fn default() -> Self {
        Self {
            codes: 512,
            code_dims: None,
            heads: 1,
            depth: 1,
            commitment: 0.25,
            codebook: CodebookConfig::default(),
            distance: CodeDistance::default(),
            gradient: CodeGradient::default(),
            revive: true,
        }
    }
}

/// How a codebook is learned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CodebookConfig {
    /// A code is the average of the encoder's outputs that are nearest to it, over the last steps (van den Oord et al.
    /// 2017, appendix A.1): k-means whose points move.
    Ema(CodebookEmaConfig),
    /// By the optimizer, with the loss |sg(z) − e|².
    Gradient,
}

impl Default for CodebookConfig {
    fn default() -> Self {
        Self::Ema(CodebookEmaConfig::default())
    }
}

/// Averages of the encoder's outputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CodebookEmaConfig {
    /// γ, how much of the averages a step keeps: counts N ← γ·N + (1 − γ)·n and sums m ← γ·m + (1 − γ)·Σ z, and a code is
    /// m/N. Default 0.99.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub decay: f64,
}

impl Default for CodebookEmaConfig {
    fn default() -> Self {
        Self { decay: 0.99 }
    }
}

/// The distance between a latent vector and a code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CodeDistance {
    /// |z − e|.
    #[default]
    Euclidean,
    /// The angle between them: both are brought to length 1 (ViT-VQGAN, Yu et al. 2022,
    /// <https://arxiv.org/abs/2110.04627>, §3.2).
    Cosine,
}

/// The gradient through the rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CodeGradient {
    /// That of the code, as if it was the encoder's output.
    #[default]
    StraightThrough,
    /// That of the code, turned and stretched as the encoder's output would have to be to become the code (Fifty et al.
    /// 2024, <https://arxiv.org/abs/2410.06424>).
    Rotation,
}

/// The largest number of codes. A counter for each of them has to fit into memory.
const MOST_CODES: i64 = 1 << 20;

const KEY: &str = "model.posterior.vector_quantized";

impl VectorQuantizedConfig {
    pub(super) fn check(&self, latent_dims: i64) -> Result<(), ModelError> {
        let refuse =
            |key: &str, problem: String| Err(ModelError::config(format!("{KEY}.{key}"), problem));
        if !(2..=MOST_CODES).contains(&self.codes) {
            let found = self.codes;
            return refuse(
                "codes",
                format!("found {found}, expected a number from 2 to {MOST_CODES}"),
            );
        }
        for (key, n) in [("heads", self.heads), ("depth", self.depth)] {
            check_depth(&format!("{KEY}.{key}"), n)?;
        }
        if let Some(code_dims) = self.code_dims {
            check_sizes(&format!("{KEY}.code_dims"), &[code_dims])?;
        }
        if !(0.0..=1e6).contains(&self.commitment) {
            let found = self.commitment;
            return refuse(
                "commitment",
                format!("found {found:?}, expected a number from 0 to 1e6"),
            );
        }
        if let CodebookConfig::Ema(CodebookEmaConfig { decay }) = self.codebook
            && !(0.0..1.0).contains(&decay)
        {
            return refuse(
                "codebook.ema.decay",
                format!("found {decay:?}, expected a number from 0 to less than 1"),
            );
        }
        if self.distance == CodeDistance::Cosine && self.depth > 1 {
            return refuse(
                "distance",
                "what is left of a vector of length 1 has another length, so that residual quantization \
                 (depth > 1) knows no angles; euclidean would fit"
                    .to_owned(),
            );
        }
        let n_place = self.n_place_dims(latent_dims, None);
        match n_place {
            Some(n) if latent_dims % n == 0 => Ok(()),
            _ => {
                let (heads, dims) = (self.heads, self.code_dims.unwrap_or(1));
                refuse(
                    "code_dims",
                    format!(
                        "{latent_dims} latent dimensions do not divide into codes; a multiple of {} would fit \
                         (heads · code_dims)",
                        heads.saturating_mul(dims)
                    ),
                )
            }
        }
    }

    /// Checks the channels of a latent map.
    pub(crate) fn check_map(&self, channels: i64) -> Result<(), ModelError> {
        match self.n_place_dims(channels, Some(channels)) {
            Some(n) if n == channels => Ok(()),
            _ => Err(ModelError::config(
                "model.latent_shape",
                format!(
                    "found {channels} channels, but a place has {} head(s) of {} latents; leave code_dims out, and \
                     let heads divide the channels",
                    self.heads,
                    self.code_dims
                        .map_or_else(|| "equally many".to_owned(), |n| n.to_string())
                ),
            )),
        }
    }

    /// d, for a checked config. `channels` are those of a latent map.
    pub(super) fn dims_of_code(&self, latent_dims: i64, channels: Option<i64>) -> i64 {
        let of_place = self.n_place_dims(latent_dims, channels);
        of_place.unwrap_or(latent_dims) / self.heads
    }

    /// Latents of a place, those of all heads; `None` where heads do not divide them.
    fn n_place_dims(&self, latent_dims: i64, channels: Option<i64>) -> Option<i64> {
        match self.code_dims {
            Some(dims) => dims.checked_mul(self.heads),
            None => {
                let all = channels.unwrap_or(latent_dims);
                (all % self.heads == 0).then_some(all)
            }
        }
    }
}
