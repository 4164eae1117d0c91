//! Weights files: safetensors, with the model's config in their metadata.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, nn, no_grad};

use crate::{Framing, ImageShape, ModelConfig, ModelError, write_whole};

/// The name of the weights file in the folder of a checkpoint.
pub const WEIGHTS_FILE: &str = "weights.safetensors";

/// The one metadata key of a weights file; its value is [`Header`] as JSON.
const HEADER_KEY: &str = "vae";

/// What a weights file says of its model.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    pub(crate) model: ModelConfig,
    pub(crate) image: ImageShape,
    /// None in files of before it was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) framing: Option<Framing>,
}

/// The best checkpoint's folder in that of a run.
const BEST: &str = "checkpoints/best";

/// The weights file itself, or the one in the folder of a checkpoint or run.
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

/// Writes named tensors as f32, and text entries beside them, to a safetensors file. It appears
/// under its name only when it is whole.
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
    // An empty table makes safetensors write a header that it cannot read.
    let metadata = (!metadata.is_empty()).then_some(metadata);
    let file = safetensors::serialize(views, metadata).map_err(refused)?;
    write_whole(path, &file).map_err(|source| ModelError::Io {
        path: path.to_owned(),
        source,
    })
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

pub(crate) fn load(path: &Path) -> Result<(Header, BTreeMap<String, Tensor>), ModelError> {
    let TensorFile { metadata, tensors } = read_tensors(path)?;
    let json = metadata.get(HEADER_KEY).ok_or_else(|| {
        ModelError::weights(
            path,
            "its metadata has no `vae` entry; this program did not write it",
        )
    })?;
    let header = serde_json::from_str(json).map_err(|error| {
        ModelError::weights(
            path,
            format!("its model config is not one this version knows: {error}"),
        )
    })?;
    Ok((header, tensors))
}

/// What [`write_tensors`] wrote.
#[derive(Debug)]
pub struct TensorFile {
    /// The text entries.
    pub metadata: HashMap<String, String>,
    /// The tensors by name: f32, on the CPU.
    pub tensors: BTreeMap<String, Tensor>,
}

/// Reads what [`write_tensors`] wrote.
///
/// # Errors
/// No such file, a damaged one, or tensors of another kind than f32.
pub fn read_tensors(path: &Path) -> Result<TensorFile, ModelError> {
    let bytes = fs::read(path).map_err(|source| ModelError::Io {
        path: path.to_owned(),
        source,
    })?;
    let damaged = |error: safetensors::SafeTensorError| {
        ModelError::weights(
            path,
            format!("no whole safetensors file ({error}); was it cut short?"),
        )
    };
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
    let mut tensors = BTreeMap::new();
    for (name, view) in SafeTensors::deserialize(&bytes).map_err(damaged)?.tensors() {
        if view.dtype() != Dtype::F32 {
            return Err(ModelError::weights(
                path,
                format!("{name} is {:?}, f32 is needed", view.dtype()),
            ));
        }
        let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
        let tensor = Tensor::f_from_data_size(view.data(), &shape, Kind::Float)?;
        tensors.insert(name, tensor);
    }
    Ok(TensorFile {
        metadata: metadata.metadata().clone().unwrap_or_default(),
        tensors,
    })
}

/// A `state_dict` of PyTorch under our names, as f32.
pub(crate) fn read_state_dict(
    path: &Path,
    names: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, Tensor>, ModelError> {
    let bytes = fs::read(path).map_err(|source| ModelError::Io {
        path: path.to_owned(),
        source,
    })?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| {
        ModelError::weights(
            path,
            format!(
                "no whole safetensors file ({error}); `safetensors.torch.save_file` writes one"
            ),
        )
    })?;
    if let Some(name) = names.keys().find(|name| file.tensor(name).is_err()) {
        let problem = format!("{name}, of the map of names, is not in it");
        return Err(ModelError::weights(path, problem));
    }
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        if name.ends_with(".num_batches_tracked") {
            continue;
        }
        let kind = match view.dtype() {
            Dtype::F16 => Kind::Half,
            Dtype::BF16 => Kind::BFloat16,
            Dtype::F32 => Kind::Float,
            Dtype::F64 => Kind::Double,
            other => {
                let problem = format!("{name} is {other:?}, a floating-point kind is needed");
                return Err(ModelError::weights(path, problem));
            }
        };
        let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
        let tensor = Tensor::f_from_data_size(view.data(), &shape, kind)?.to_kind(Kind::Float);
        let ours = names.get(&name).cloned().unwrap_or_else(|| name.clone());
        if tensors.insert(ours.clone(), tensor).is_some() {
            let problem = format!("two tensors are mapped to {ours}, {name} is one of them");
            return Err(ModelError::weights(path, problem));
        }
    }
    Ok(tensors)
}

/// Lists all that keeps tensors from being a model's variables.
pub(crate) fn check(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
    variables: &nn::VarStore,
    names: &BTreeMap<String, String>,
) -> Result<(), ModelError> {
    let variables: BTreeMap<_, _> = variables.variables().into_iter().collect();
    let theirs = |ours: &str| {
        let mapped = names.iter().find(|(_, name)| *name == ours);
        mapped.map_or(String::new(), |(theirs, _)| format!(" (from {theirs})"))
    };
    let mut problems = Vec::new();
    for (name, variable) in &variables {
        let wanted = variable.size();
        match tensors.get(name).map(Tensor::size) {
            None => problems.push(format!("{name} {wanted:?}{} is missing", theirs(name))),
            Some(found) if found != wanted => problems.push(format!(
                "{name}{} has shape {found:?}, {wanted:?} is needed",
                theirs(name)
            )),
            Some(_) => {}
        }
    }
    for (name, tensor) in tensors
        .iter()
        .filter(|(name, _)| !variables.contains_key(*name))
    {
        let size = tensor.size();
        problems.push(format!("{name} {size:?}{} is left over", theirs(name)));
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(ModelError::weights(path, problems.join("; ")))
}

/// Copies loaded tensors into a model's variables; names and shapes must agree exactly.
pub(crate) fn assign(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
    variables: &nn::VarStore,
) -> Result<(), ModelError> {
    let variables = variables.variables();
    if let Some(name) = tensors.keys().find(|name| !variables.contains_key(*name)) {
        return Err(ModelError::weights(
            path,
            format!("holds a tensor {name} that this model does not have"),
        ));
    }
    for (name, mut variable) in variables {
        let tensor = tensors.get(&name).ok_or_else(|| {
            ModelError::weights(path, format!("lacks the tensor {name} of this model"))
        })?;
        if tensor.size() != variable.size() {
            return Err(ModelError::weights(
                path,
                format!(
                    "{name} has shape {:?}, this model wants {:?}",
                    tensor.size(),
                    variable.size()
                ),
            ));
        }
        no_grad(|| variable.f_copy_(tensor))?;
    }
    Ok(())
}
