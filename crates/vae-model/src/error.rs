//! Errors of models: in configs, inputs and weights files.

use std::path::PathBuf;

use tch::TchError;
use thiserror::Error;

use crate::ImageShape;

/// An error of this crate. Invalid configs, images and files return one; nothing panics.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A config value that the model cannot be built with.
    #[error("{key}: {problem}")]
    Config {
        /// The key in the config, as in `model.network.conv.strides`.
        key: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// Images whose shape or kind differs from the model's.
    #[error("images are {found}, this model wants {kind} [B, C, H, W] with C×H×W = {wanted}")]
    Images {
        /// Kind and shape of the given tensor.
        found: String,
        /// The expected kind: bytes, or f32 for an exported part.
        kind: &'static str,
        /// The shape of the model's images.
        wanted: ImageShape,
    },
    /// A condition for a model without one, a missing condition, or one of a wrong shape.
    #[error("condition: found {found}; {wanted}")]
    Condition {
        /// Kind and shape of the given tensor.
        found: String,
        /// What the model expects.
        wanted: String,
    },
    /// Latents whose shape differs from the model's.
    #[error("latents have shape {found:?}, this model wants [B, {latent_dims}]")]
    Latents {
        /// Shape of the given tensor.
        found: Vec<i64>,
        /// The model's latent dimensions.
        latent_dims: i64,
    },
    /// A model that has no elbo.
    #[error(
        "a deterministic posterior has no density, so this model has no elbo; its reconstruction is in \
         the terms of its draws"
    )]
    NoElbo,
    /// A model without an encoder, which cannot encode, reconstruct or score an image.
    #[error(
        "this model is a generator without an encoder (posterior = \"none\"): it has no latents of an image; \
         optimization finds some (--invert)"
    )]
    NoEncoder,
    /// A model whose latents are not codes.
    #[error(
        "this model's latents are not codes; the posteriors vector_quantized, finite_scalar and lookup_free have some"
    )]
    NoCodes,
    /// Codes that do not fit the model.
    #[error("found {found}, expected i64 [N, {n_slots}] from 0 to {}", n_codes - 1)]
    Codes {
        /// What they are.
        found: String,
        /// Codes of an item.
        n_slots: i64,
        /// Different codes.
        n_codes: i64,
    },
    /// A model whose latents cannot be searched by gradient descent.
    #[error(
        "this model's latents are codes, which cannot be found by gradient descent; a posterior with continuous latents \
         (diagonal_gaussian, von_mises_fisher, …) fits"
    )]
    NotInvertible,
    /// Gradients are needed, and the networks compute in strips.
    #[error(
        "latents are searched by gradients, which do not pass networks that compute in strips of rows; \
         set_strip_rows(None) first"
    )]
    InStrips,
    /// A sampler that these latents have no use for.
    #[error("the sampler {kind}: {problem}")]
    Sampler {
        /// Its kind.
        kind: &'static str,
        /// What was found, and which kind would fit.
        problem: String,
    },
    /// A model that cannot be exported in this format.
    #[error("{problem}")]
    Export {
        /// What is not supported, and what is.
        problem: String,
    },
    /// A weights file that is damaged, or belongs to another model.
    #[error("{path}: {problem}")]
    Weights {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason, which the message has too.
        source: std::io::Error,
    },
    /// libtorch refused, out of memory for example.
    #[error("libtorch refused: {0}")]
    Torch(#[from] TchError),
}

impl ModelError {
    pub(crate) fn config(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Config {
            key: key.into(),
            problem: problem.into(),
        }
    }

    pub(crate) fn export(problem: impl Into<String>) -> Self {
        Self::Export {
            problem: problem.into(),
        }
    }

    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        |source| Self::Io { path, source }
    }

    pub(crate) fn weights(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self::Weights {
            path: path.into(),
            problem: shown(&problem.into()),
        }
    }
}

/// Messages may quote the contents of a file: escapes control characters and limits the length.
fn shown(problem: &str) -> String {
    const MOST_CHARS: usize = 4000;
    let mut shown = String::with_capacity(problem.len().min(MOST_CHARS));
    for (i, char) in problem.chars().enumerate() {
        if i == MOST_CHARS {
            shown.push('…');
            break;
        }
        match char.is_control() {
            true => shown.extend(char.escape_default()),
            false => shown.push(char),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_whole() {
        let refused = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let error = ModelError::io("weights.safetensors")(refused);
        assert_eq!(error.to_string(), "weights.safetensors: permission denied");
        let error = ModelError::from(TchError::Torch("out of memory".to_owned()));
        assert_eq!(
            error.to_string(),
            "libtorch refused: Internal torch error: out of memory"
        );
    }

    #[test]
    fn what_a_file_says_does_not_reach_the_terminal_as_it_is() {
        let error = ModelError::weights("a", format!("\u{1b}[31m{}", "é".repeat(5000)));
        let message = error.to_string();
        assert!(message.starts_with("a: \\u{1b}[31mé"), "{message}");
        assert!(message.ends_with("é…") && message.chars().count() < 4020);
    }
}
