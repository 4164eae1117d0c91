//! TorchScript, by tracing.

use tch::{CModule, Device, Kind, Tensor, no_grad};

use super::Part;
use crate::{ImageShape, ModelError, Vae};

/// Traced with two, so that nothing takes a dimension of 1 for one to broadcast.
const TRACED_BATCH: i64 = 2;

pub(super) fn trace(vae: &Vae, part: Part) -> Result<Vec<u8>, ModelError> {
    let vae = vae.frozen()?; // What a gradient could change cannot be a constant of a trace.
    let options = (Kind::Float, Device::Cpu);
    let input = match part {
        Part::Encoder => {
            let ImageShape {
                channels,
                height,
                width,
            } = vae.image_shape();
            Tensor::full([TRACED_BATCH, channels, height, width], 0.5, options)
        }
        Part::Decoder => Tensor::zeros([TRACED_BATCH, vae.config().latent_dims], options),
    };
    let mut failure = None;
    let module = no_grad(|| {
        CModule::create_by_tracing(
            part.name(),
            "forward",
            &[input],
            &mut |inputs: &[Tensor]| {
                vae.run_part(part, &inputs[0]).unwrap_or_else(|error| {
                    failure = Some(error);
                    Vec::new()
                })
            },
        )
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    let file = tempfile::NamedTempFile::new().map_err(|source| ModelError::Io {
        path: std::env::temp_dir(),
        source,
    })?;
    module.save(file.path())?;
    std::fs::read(file.path()).map_err(|source| ModelError::Io {
        path: file.path().to_owned(),
        source,
    })
}
