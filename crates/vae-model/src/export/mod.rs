//! Models for other runtimes: deterministic, and with the description of their inputs.

mod message;
mod onnx;
mod torchscript;

use tch::Tensor;

pub use torchscript::torchscript_file;

use self::onnx::Sizes;
use crate::part::Part;
use crate::{Conditioned, ModelError, Preprocessing, Vae};

impl Vae {
    /// One half as TorchScript, the bytes of a `.pt` file. It is traced, so that libtorch runs the same operations, at
    /// any batch size. The encoder's outputs are stacked, `[2, N, Z]` or, without log-variances, `[1, N, Z]`: Python
    /// unpacks `mean, log_var = encoder(images)`. In a model with a condition both halves have it as a second input,
    /// f32 `[N, D]` with NaN where it is unknown.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn to_torchscript(&self, part: Part) -> Result<Vec<u8>, ModelError> {
        torchscript::trace(self, part)
    }

    /// One half as ONNX (opset 17), the bytes of an `.onnx` file. Its metadata entry `preprocessing` has the model's
    /// [`Preprocessing`] as JSON.
    ///
    /// # Errors
    /// A posterior or likelihood without an ONNX export; TorchScript supports all of them.
    ///
    /// ```
    /// use tch::Device;
    /// use vae_model::{ImageShape, ModelConfig, Part, Vae};
    ///
    /// # fn main() -> Result<(), vae_model::ModelError> {
    /// let shape = ImageShape { channels: 1, height: 28, width: 28 };
    /// let vae = Vae::new(&ModelConfig::default(), shape, Device::Cpu, 1)?;
    /// let file = vae.to_onnx(Part::Decoder)?;
    /// assert!(file.len() > 4 * 56_385); // Four bytes for each parameter.
    /// # Ok(())
    /// # }
    /// ```
    pub fn to_onnx(&self, part: Part) -> Result<Vec<u8>, ModelError> {
        onnx::model(self, part, Sizes::Own)
    }

    /// [`Self::to_onnx`] for images of any size that the network can take, such as multiples of its factor: latents and
    /// log-variances are maps `[N, C, h, w]`, not flat. The metadata still has the model's own size.
    ///
    /// # Errors
    /// Those of [`Self::to_onnx`]; a model that is tied to the size of its images: its latents are a vector, it has a
    /// condition, or a layer between maps and vectors.
    pub fn to_onnx_of_any_size(&self, part: Part) -> Result<Vec<u8>, ModelError> {
        onnx::model(self, part, Sizes::Any)
    }

    /// The outputs of an exported half for the same input: `[mean, log_var]`, `[mean]` or `[images]`.
    ///
    /// # Errors
    /// An input of another shape or kind.
    pub fn run_part<'a>(
        &self,
        part: Part,
        input: impl Into<Conditioned<'a>>,
    ) -> Result<Vec<Tensor>, ModelError> {
        let input = input.into();
        match part {
            Part::Encoder => {
                let posterior = self.encode_floats(input)?;
                let log_var = posterior.log_var();
                Ok([Some(posterior.center()), log_var]
                    .into_iter()
                    .flatten()
                    .collect())
            }
            Part::Decoder => Ok(vec![self.decode_in_place(input)?]),
        }
    }
}

fn preprocessing_json(preprocessing: &Preprocessing) -> Result<String, ModelError> {
    serde_json::to_string(preprocessing)
        .map_err(|error| ModelError::export(format!("preprocessing as JSON: {error}")))
}
