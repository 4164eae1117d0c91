//! Exports TorchScript by tracing.

use std::path::Path;

use tch::{CModule, Device, Kind, Tensor, no_grad};

use crate::part::Part;
use crate::{ImageShape, ModelError, Vae};

/// The batch size during tracing. With 1 the trace could record a broadcast.
const TRACED_BATCH: i64 = 2;

/// Upper limit for the size of an archive without its weights.
const BYTES_OF_CODE: usize = 1 << 20;

/// Size of a tensor in an archive, with the name and padding of its entry.
fn n_bytes(tensor: &Tensor) -> usize {
    4 * tensor.numel() + 512
}

pub(super) fn trace(vae: &Vae, part: Part) -> Result<Vec<u8>, ModelError> {
    let vae = vae.frozen()?; // A trace cannot hold constants that require gradients.
    let options = (Kind::Float, Device::Cpu);
    let input = match part {
        Part::Encoder => {
            let ImageShape {
                channels,
                height,
                width,
            } = vae.image_shape();
            let shape = [TRACED_BATCH, channels, height, width];
            match vae.item().is_tokens() {
                true => Tensor::zeros(shape, (Kind::Int64, Device::Cpu)),
                false => Tensor::full(shape, 0.5, options),
            }
        }
        Part::Decoder => Tensor::zeros([TRACED_BATCH, vae.config().n_latents()], options),
    };
    let inputs: Vec<Tensor> = [Some(input), vae.unknown(TRACED_BATCH)]
        .into_iter()
        .flatten()
        .collect();
    let mut failure = None;
    let module = no_grad(|| {
        CModule::create_by_tracing(
            part.name(),
            "forward",
            &inputs,
            &mut |inputs: &[Tensor]| match vae.run_part(part, (&inputs[0], inputs.get(1))) {
                Ok(outputs) if part == Part::Encoder => vec![Tensor::stack(&outputs, 0)],
                Ok(outputs) => outputs,
                Err(error) => {
                    failure = Some(error);
                    Vec::new()
                }
            },
        )
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    let weights = vae.named_variables();
    torchscript_file(
        &module,
        part.name(),
        weights.iter().map(|(_, weight)| weight),
    )
}

/// The bytes of a `.pt` file with this traced module and its `weights`. `name` becomes a part of the file.
///
/// # Errors
/// The folder for temporary files has no place for it, or libtorch refuses.
pub fn torchscript_file<'a>(
    module: &CModule,
    name: &str,
    weights: impl Iterator<Item = &'a Tensor>,
) -> Result<Vec<u8>, ModelError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| ModelError::Io { path, source }
    };
    // The archive gets the file's name, which must not begin with a dot.
    let folder = tempfile::tempdir().map_err(io(&std::env::temp_dir()))?;
    let file = folder.path().join(format!("{name}.pt"));
    // libtorch's writer aborts the process when the disk is full, so the free space is checked first.
    let n_bytes = BYTES_OF_CODE + weights.map(n_bytes).sum::<usize>();
    std::fs::write(&file, vec![0; n_bytes]).map_err(io(&file))?;
    module.save(&file)?;
    std::fs::read(&file).map_err(io(&file))
}
