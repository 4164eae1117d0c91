//! The fitted samplers of a run: a file for each kind in its folder `samplers`, tied to the weights of one checkpoint.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use vae_model::{Sampler, SamplerConfig, SamplerKind, SamplerRecord};

use crate::{OpenCheckpoint, RunDir, RunError, Session};

/// A sampler's file, without its tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundSampler {
    /// Kind and size.
    pub config: SamplerConfig,
    /// Where it comes from and how good it is.
    pub record: SamplerRecord,
}

/// The samplers of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FoundSamplers {
    /// Those fitted to the latents of the checkpoint in use.
    pub usable: Vec<FoundSampler>,
    /// Those fitted to the latents of other weights.
    pub others: Vec<FoundSampler>,
}

impl FoundSamplers {
    /// The sampler with the highest likelihood of validation latents, if that is higher than the prior's. Kinds without
    /// an exact likelihood are not compared: they are used where they are named.
    #[must_use]
    pub fn best(&self) -> Option<&FoundSampler> {
        let compared = self.usable.iter().filter_map(|found| {
            let log_prob = found.record.comparable()?;
            let is_better = found
                .record
                .prior_log_prob
                .is_none_or(|prior| log_prob > prior);
            is_better.then_some((log_prob, found))
        });
        let best = compared.max_by(|(a, _), (b, _)| a.total_cmp(b));
        best.map(|(_, found)| found)
    }
}

impl RunDir {
    /// The file of a sampler, `samplers/gmm.safetensors`.
    #[must_use]
    pub fn sampler_file(&self, kind: SamplerKind) -> PathBuf {
        self.samplers().join(format!("{kind}.safetensors"))
    }

    /// Writes a sampler to its file, which replaces an earlier one of the same kind.
    ///
    /// # Errors
    /// The file system refuses; NaN or infinite values.
    pub fn save_sampler(
        &self,
        sampler: &Sampler,
        record: &SamplerRecord,
    ) -> Result<PathBuf, RunError> {
        let folder = self.samplers();
        fs::create_dir_all(&folder).map_err(RunError::io(&folder))?;
        let file = self.sampler_file(sampler.config().kind());
        sampler.save(&file, record)?;
        Ok(file)
    }

    /// What the files of samplers say, for use with a checkpoint.
    ///
    /// # Errors
    /// A file that is damaged, or that another program wrote.
    pub fn find_samplers(&self, checkpoint: &OpenCheckpoint) -> Result<FoundSamplers, RunError> {
        let mut found = FoundSamplers::default();
        let mut weights = None;
        for kind in SamplerKind::ALL {
            let file = self.sampler_file(kind);
            match fs::metadata(&file) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                metadata => metadata.map_err(RunError::io(&file))?,
            };
            let (config, record) = SamplerRecord::read(&file)?;
            let weights = match &weights {
                Some(weights) => weights,
                // Of large files it takes a second.
                None => weights.insert(checkpoint.weights_digest()?),
            };
            let of = match record.weights == *weights {
                true => &mut found.usable,
                false => &mut found.others,
            };
            of.push(FoundSampler { config, record });
        }
        Ok(found)
    }
}

impl Session {
    /// The samplers of the run; none of weights that belong to no run.
    ///
    /// # Errors
    /// A file that is damaged, or that another program wrote.
    pub fn find_samplers(&self) -> Result<FoundSamplers, RunError> {
        match (self.run_dir(), self.checkpoint()) {
            (Ok(run_dir), Ok(checkpoint)) => run_dir.find_samplers(checkpoint),
            _ => Ok(FoundSamplers::default()),
        }
    }

    /// The fitted sampler of a kind.
    ///
    /// # Errors
    /// The run has none, or one for the latents of other weights; a damaged file; a session without a run.
    pub fn sampler(&self, kind: SamplerKind) -> Result<(Sampler, SamplerRecord), RunError> {
        let (run_dir, checkpoint) = (self.run_dir()?, self.checkpoint()?);
        let file = run_dir.sampler_file(kind);
        let space = self.vae().latent_space()?;
        if !file.exists() {
            let fitted: Vec<&str> = SamplerKind::ALL
                .into_iter()
                .filter(|&kind| run_dir.sampler_file(kind).exists())
                .map(SamplerKind::name)
                .collect();
            let fitted = match fitted.is_empty() {
                true => "none was fitted yet".to_owned(),
                false => format!("fitted are {}", fitted.join(", ")),
            };
            let problem = format!(
                "no sampler {kind} in this run ({fitted}); `vae fit-sampler RUN --kind {kind}` fits one"
            );
            return Err(RunError::run(run_dir.path(), problem));
        }
        let (_, record) = SamplerRecord::read(&file)?;
        if record.weights != checkpoint.weights_digest()? {
            let problem = format!(
                "it was fitted to the latents of the checkpoint {}, not of {}, whose latents differ; \
                 `vae fit-sampler RUN --kind {kind}` with the same --checkpoint fits it anew",
                record.checkpoint,
                checkpoint.name()
            );
            return Err(RunError::run(file, problem));
        }
        Ok(Sampler::load(&file, &space, self.vae().device())?)
    }
}

#[cfg(test)]
mod tests {
    use vae_model::Covariance;

    use super::*;

    fn found(config: SamplerConfig, log_prob: Option<f64>, is_bound: bool) -> FoundSampler {
        FoundSampler {
            config,
            record: SamplerRecord {
                weights: String::new(),
                checkpoint: String::new(),
                log_prob,
                is_bound,
                prior_log_prob: Some(-5.0),
                n_train: 1,
                n_validation: 1,
                seed: 0,
            },
        }
    }

    #[test]
    fn the_best_has_the_highest_exact_likelihood_above_the_priors() {
        let gaussian = || SamplerConfig::Gaussian {
            covariance: Covariance::Full,
        };
        let flow = || SamplerConfig::Flow {
            layers: 4,
            hidden: 8,
        };
        let two_stage = || SamplerConfig::TwoStage {
            latent_dims: 2,
            hidden: 8,
        };
        let best = |usable: Vec<FoundSampler>| {
            let found = FoundSamplers {
                usable,
                others: vec![],
            };
            found.best().map(|found| found.config.kind())
        };
        let low = || found(gaussian(), Some(-4.0), false);
        let high = || found(flow(), Some(-3.0), false);
        assert_eq!(best(vec![low(), high()]), Some(SamplerKind::Flow));
        assert_eq!(best(vec![high(), low()]), Some(SamplerKind::Flow));
        // A bound is not compared, and neither is what has none.
        let bound = found(two_stage(), Some(-1.0), true);
        assert_eq!(
            best(vec![low(), bound.clone()]),
            Some(SamplerKind::Gaussian)
        );
        assert_eq!(best(vec![bound]), None);
        assert_eq!(best(vec![found(gaussian(), Some(-5.5), false)]), None);
    }
}
