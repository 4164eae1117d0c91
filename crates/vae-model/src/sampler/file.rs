//! Samplers in files: safetensors with the sampler's kind and size, and the weights that it belongs to.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::{Device, no_grad};

use super::{LatentSpace, Sampler, SamplerConfig, outline};
use crate::ModelError;
use crate::tensor_file::OpenTensorFile;
use crate::weights::{check, non_finite, write_tensors};

/// The one metadata key of a sampler's file; its value is [`Header`] as JSON.
const HEADER_KEY: &str = "sampler";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    config: SamplerConfig,
    space: LatentSpace,
    record: SamplerRecord,
}

/// Where a fitted sampler comes from and how good it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplerRecord {
    /// SHA-256 of the weights of the model whose latents these are.
    pub weights: String,
    /// The name of the checkpoint's folder, for people.
    pub checkpoint: String,
    /// The mean of ln p(z|c) over the validation items' latents in nats, by which its size was chosen; none of a kind
    /// without a density.
    pub log_prob: Option<f64>,
    /// Whether that is a lower bound.
    pub is_bound: bool,
    /// The same of the model's own prior.
    pub prior_log_prob: Option<f64>,
    /// The number of training items.
    pub n_train: i64,
    /// The number of validation items.
    pub n_validation: i64,
    /// The seed of the fit.
    pub seed: u64,
}

impl SamplerRecord {
    /// What compares with the prior and other samplers, in nats.
    #[must_use]
    pub fn comparable(&self) -> Option<f64> {
        self.log_prob.filter(|_| !self.is_bound)
    }
}

fn header(path: &Path, file: &OpenTensorFile) -> Result<Header, ModelError> {
    let wrong = |problem: String| ModelError::weights(path, problem);
    let json = file.metadata.get(HEADER_KEY).ok_or_else(|| {
        wrong("its metadata has no `sampler` entry; `vae fit-sampler` did not write it".to_owned())
    })?;
    serde_json::from_str(json).map_err(|error| {
        wrong(format!(
            "this version cannot read its sampler: {error}; `vae fit-sampler` fits it anew"
        ))
    })
}

impl SamplerRecord {
    /// What the file of a sampler says of it, with its kind and size; its tensors are not read.
    ///
    /// # Errors
    /// A file that is damaged, or that another program wrote.
    pub fn read(path: &Path) -> Result<(SamplerConfig, Self), ModelError> {
        let Header { config, record, .. } = header(path, &OpenTensorFile::open(path)?)?;
        Ok((config, record))
    }
}

impl Sampler {
    /// Writes it to a file that appears under its name only when it is complete.
    ///
    /// # Errors
    /// NaN or infinite values, which the fit of damaged latents gives; the file system refuses.
    pub fn save(&self, path: &Path, record: &SamplerRecord) -> Result<(), ModelError> {
        let tensors = self.named_variables();
        let names = non_finite(
            &tensors
                .iter()
                .map(|(n, t)| (n.clone(), t.shallow_clone()))
                .collect(),
        )?;
        if !names.is_empty() {
            let problem = format!(
                "not written: NaN or infinite values in {}",
                names.join(", ")
            );
            return Err(ModelError::weights(path, problem));
        }
        let header = Header {
            config: self.config.clone(),
            space: self.space.clone(),
            record: record.clone(),
        };
        let json = serde_json::to_string(&header)
            .map_err(|error| ModelError::weights(path, error.to_string()))?;
        write_tensors(path, &tensors, &[(HEADER_KEY, &json)])
    }

    /// Reads a sampler for a model with these latents.
    ///
    /// # Errors
    /// A file that is damaged, or that another program wrote; a sampler of other latents.
    pub fn load(
        path: &Path,
        space: &LatentSpace,
        device: Device,
    ) -> Result<(Self, SamplerRecord), ModelError> {
        let mut file = OpenTensorFile::open(path)?;
        let found = header(path, &file)?;
        if found.space != *space {
            let problem = format!(
                "it was fitted to other latents: found {} dimensions and {} columns of a condition, this model has {} \
                 and {}; `vae fit-sampler` fits it anew",
                found.space.latent_dims,
                found.space.condition.n_columns(),
                space.latent_dims,
                space.condition.n_columns()
            );
            return Err(ModelError::weights(path, problem));
        }
        let wanted = outline(&found.config, space)
            .map_err(|error| ModelError::weights(path, error.to_string()))?;
        check(path, &file.shapes(), wanted.shapes(), |_| String::new())?;
        let tensors = file.read_all()?;
        let names = non_finite(&tensors)?;
        if !names.is_empty() {
            let problem = format!("NaN or infinite values in {}", names.join(", "));
            return Err(ModelError::weights(path, problem));
        }
        let sampler = Self::new(&found.config, space, device, 0)?;
        for (name, mut variable) in sampler.named_variables() {
            let tensor = tensors.get(&name).ok_or_else(|| {
                ModelError::weights(path, format!("lacks the tensor {name} of this sampler"))
            })?;
            no_grad(|| variable.f_copy_(tensor))?;
        }
        Ok((sampler, found.record))
    }
}
