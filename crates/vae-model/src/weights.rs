//! Weights files: safetensors, with the model's config in their metadata.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad};
use vae_base::{ConditionSpec, ItemSpec};

use crate::preprocessing::LatentScaling;
use crate::tensor_file::OpenTensorFile;
use crate::{Framing, ImageShape, ModelConfig, ModelError, nn, write_whole};

/// The name of the weights file in the folder of a checkpoint.
pub const WEIGHTS_FILE: &str = "weights.safetensors";

/// The one metadata key of a weights file; its value is [`Header`] as JSON.
const HEADER_KEY: &str = "vae";

/// The description of the model in a weights file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    pub(crate) model: ModelConfig,
    /// The shape of the model's images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<ImageShape>,
    /// Kind and shape of items other than images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) item: Option<ItemSpec>,
    #[serde(default, skip_serializing_if = "ConditionSpec::is_empty")]
    pub(crate) condition: ConditionSpec,
    /// `None` if unknown when the file was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) framing: Option<Framing>,
    /// The names of custom parts, by their role in the model.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) own_parts: BTreeMap<String, String>,
    /// Whether NaN and infinite weights were imported on purpose. In other files they are an error.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) allow_non_finite: bool,
    /// What latent diffusion multiplies the latents by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) latent_scaling: Option<LatentScaling>,
}

impl Header {
    /// Kind and shape of the model's items.
    pub(crate) fn data_item(&self, path: &Path) -> Result<ItemSpec, ModelError> {
        match (self.image, &self.item) {
            (Some(image), None) => Ok(image.into()),
            (None, Some(item)) => Ok(item.clone()),
            _ => Err(ModelError::weights(
                path,
                "its metadata has to have one of `image` and `item`, the shape of the model's items",
            )),
        }
    }
}

/// The folder of the best checkpoint within a run.
const BEST: &str = "checkpoints/best";

/// The weights file for a path, which may be that file, or the folder of a checkpoint or run.
pub(crate) fn file_in(path: &Path) -> PathBuf {
    let best = path.join(BEST).join(WEIGHTS_FILE);
    if best.is_file() {
        best
    } else if path.is_dir() {
        path.join(WEIGHTS_FILE)
    } else {
        path.to_owned()
    }
}

pub(crate) fn save(
    path: &Path,
    header: &Header,
    tensors: &[(String, Tensor)],
) -> Result<(), ModelError> {
    let header = serde_json::to_string(header)
        .map_err(|error| ModelError::weights(path, format!("config as JSON: {error}")))?;
    write_tensors(path, tensors, &[(HEADER_KEY, &header)])
}

/// Writes named tensors as f32, together with text entries, to a safetensors file. The file appears under its name only
/// when it is complete.
///
/// # Errors
/// The file system refuses.
pub fn write_tensors(
    path: &Path,
    tensors: &[(String, Tensor)],
    metadata: &[(&str, &str)],
) -> Result<(), ModelError> {
    let bytes: Vec<(&str, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, tensor)| {
            let shape = tensor.size().iter().map(|&n| n as usize).collect();
            Ok((name.as_str(), shape, f32_bytes(tensor)?))
        })
        .collect::<Result<_, ModelError>>()?;
    let refused =
        |error: safetensors::SafeTensorError| ModelError::weights(path, error.to_string());
    let views = bytes
        .iter()
        .map(|(name, shape, data)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), data).map_err(refused)?;
            Ok((*name, view))
        })
        .collect::<Result<Vec<_>, ModelError>>()?;
    let metadata: HashMap<String, String> = metadata
        .iter()
        .map(|&(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    // With an empty table, safetensors writes a header that it cannot read.
    let metadata = (!metadata.is_empty()).then_some(metadata);
    let file = safetensors::serialize(views, metadata).map_err(refused)?;
    write_whole(path, &file).map_err(ModelError::io(path))
}

/// The values as little-endian f32, in row-major order.
pub(crate) fn f32_bytes(tensor: &Tensor) -> Result<Vec<u8>, ModelError> {
    let flat = tensor
        .detach()
        .to_device(Device::Cpu)
        .to_kind(Kind::Float)
        .flatten(0, -1);
    let values = Vec::<f32>::try_from(flat)?;
    Ok(values.into_iter().flat_map(f32::to_le_bytes).collect())
}

/// Opens a weights file: its description of the model, and the file itself.
pub(crate) fn open(path: &Path) -> Result<(Header, OpenTensorFile), ModelError> {
    let file = OpenTensorFile::open(path)?;
    let json = file.metadata.get(HEADER_KEY).ok_or_else(|| {
        ModelError::weights(
            path,
            "its metadata has no `vae` entry, so this program did not write it",
        )
    })?;
    let header = serde_json::from_str(json).map_err(|error| {
        ModelError::weights(
            path,
            format!("this version cannot read its model config: {error}"),
        )
    })?;
    Ok((header, file))
}

/// Checks that a file's tensors are the variables of a model. The error lists the names that are missing or unexpected
/// and the shapes that differ. `source` returns where a tensor of that name came from, or an empty string.
pub(crate) fn check(
    path: &Path,
    found: &BTreeMap<String, Vec<i64>>,
    wanted: &BTreeMap<String, Vec<i64>>,
    source: impl Fn(&str) -> String,
) -> Result<(), ModelError> {
    /// A longer list would not help.
    const MOST_PROBLEMS: usize = 20;
    let mut problems = Vec::new();
    for (name, wanted) in wanted {
        let source = source(name);
        match found.get(name) {
            None => problems.push(format!("{name} {wanted:?}{source} is missing")),
            Some(found) if found != wanted => problems.push(format!(
                "{name}{source} has shape {found:?}, expected {wanted:?}"
            )),
            Some(_) => {}
        }
    }
    for (name, shape) in found.iter().filter(|(name, _)| !wanted.contains_key(*name)) {
        let source = source(name);
        problems.push(format!("{name} {shape:?}{source} is unexpected"));
    }
    if problems.is_empty() {
        return Ok(());
    }
    let n_problems = problems.len();
    problems.truncate(MOST_PROBLEMS);
    let mut text = problems.join("; ");
    if n_problems > MOST_PROBLEMS {
        text.push_str(&format!("; and {} more", n_problems - MOST_PROBLEMS));
    }
    Err(ModelError::weights(path, text))
}

/// The tensors with NaN or infinite values, as text: the name, and how many of its values are affected.
pub(crate) fn non_finite(tensors: &BTreeMap<String, Tensor>) -> Result<Vec<String>, ModelError> {
    let mut names = Vec::new();
    for (name, tensor) in tensors {
        let n_finite = i64::try_from(tensor.f_isfinite()?.f_sum(Kind::Int64)?)?;
        let n_values = tensor.numel() as i64;
        if n_finite < n_values {
            names.push(format!("{name} ({} of {n_values})", n_values - n_finite));
        }
    }
    Ok(names)
}

/// Copies loaded tensors into a model's variables. Names and shapes must have been checked.
pub(crate) fn assign(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
    variables: &nn::VarStore,
) -> Result<(), ModelError> {
    for (name, mut variable) in variables.variables() {
        let tensor = tensors.get(&name).ok_or_else(|| {
            ModelError::weights(path, format!("lacks the tensor {name} of this model"))
        })?;
        no_grad(|| variable.f_copy_(tensor))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{StateDictMap, Vae};

    #[test]
    fn nan_weights_are_loaded_only_if_they_were_imported_on_purpose() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join(WEIGHTS_FILE);
        let config: ModelConfig = toml::from_str("network.mlp.hidden = [3]").expect("a model");
        let image = ImageShape {
            channels: 1,
            height: 2,
            width: 2,
        };
        let vae = Vae::new(&config, image, Device::Cpu, 1).expect("a model");
        let (name, variable) = vae.named_variables().swap_remove(0);
        let n_values = variable.numel();
        let _ = no_grad(|| variable.view([-1]).get(1).fill_(f64::NAN));
        vae.save(&file).expect("saved");
        let error = Vae::load(&file, Device::Cpu).expect_err("NaN").to_string();
        let wanted = format!("NaN or infinite weights: {name} (1 of {n_values})");
        assert!(error.ends_with(&wanted), "{error}");

        let map = StateDictMap {
            allow_non_finite: true,
            ..Default::default()
        };
        let (vae, _) = Vae::import(&config, image, &file, &map, Device::Cpu).expect("imported");
        vae.save(&file).expect("saved");
        let loaded = Vae::load(&file, Device::Cpu).expect("loaded");
        loaded.save(&file).expect("saved");
        Vae::load(&file, Device::Cpu).expect("loaded again");
    }
}
