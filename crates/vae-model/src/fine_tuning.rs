//! Fine-tuning: training goes on from the weights of another model, of some parts or of all.

use std::collections::BTreeMap;
use std::path::Path;

use tch::{Device, Tensor};

use crate::{DecoderPenalty, DiffusersFiles, ModelError, Objective, Vae, weights};

impl Vae {
    /// Takes the weights of a model with the same parts: of a weights file, the folder of a run or checkpoint, or an
    /// autoencoder of latent diffusion ([`DiffusersFiles`]). Images may have another size if no variable depends on it.
    ///
    /// # Errors
    /// Nothing of these is at `path`, or it is damaged; missing or unexpected names and differing shapes, all of which
    /// are listed.
    pub fn take_weights(&mut self, path: &Path) -> Result<(), ModelError> {
        let of_diffusers = match path.is_dir() || path.extension().is_some() {
            true => DiffusersFiles::find(path)?,
            false => None,
        };
        let shape = self.image_shape();
        let other = match of_diffusers {
            Some(files) => files.load([shape.height, shape.width], Device::Cpu)?,
            None => Vae::load(path, Device::Cpu)?,
        };
        let tensors: BTreeMap<String, Tensor> = other.named_variables().into_iter().collect();
        let shapes = |variables: Vec<(String, Tensor)>| -> BTreeMap<String, Vec<i64>> {
            let shape = |(name, variable): (String, Tensor)| (name, variable.size());
            variables.into_iter().map(shape).collect()
        };
        let found = shapes(other.named_variables());
        let wanted = shapes(self.named_variables());
        weights::check(path, &found, &wanted, |_| String::new())?;
        self.assign(path, &tensors)?;
        self.set_latent_scaling(other.latent_scaling());
        Ok(())
    }

    /// Excludes variables from training, by the beginnings of their names: `encoder`, `decoder.3`.
    ///
    /// # Errors
    /// No variable has such a name; none is left; a network with batch norm, whose averages every step changes.
    pub fn freeze(&self, parts: &[String]) -> Result<(), ModelError> {
        const KEY: &str = "training.frozen";
        if parts.is_empty() {
            return Ok(());
        }
        if let Some(name) = self.config().network.batch_norm() {
            let problem = format!(
                "{name} has batch norm, whose averages change although no weight does; a network without it would fit"
            );
            return Err(ModelError::config(KEY, problem));
        }
        let named = self.named_variables();
        for part in parts {
            let is_of = |name: &str| {
                let rest = name.strip_prefix(part.as_str());
                !part.is_empty()
                    && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            let mut of_part = named.iter().filter(|(name, _)| is_of(name)).peekable();
            if of_part.peek().is_none() {
                let mut known: Vec<&str> = named
                    .iter()
                    .filter_map(|(name, _)| name.split('.').next())
                    .collect();
                known.dedup();
                let problem = format!(
                    "found {part:?}, but no variable's name begins so; there are {}",
                    known.join(", ")
                );
                return Err(ModelError::config(KEY, problem));
            }
            for (_, variable) in of_part {
                let _ = variable.set_requires_grad(false);
            }
        }
        match self.trainable_variables().is_empty() {
            true => Err(ModelError::config(KEY, "leaves nothing to be trained")),
            false => Ok(()),
        }
    }

    /// Sets whether training computes the network's blocks again in the backward pass instead of keeping their maps (Chen
    /// et al. 2016, <https://arxiv.org/abs/1604.06174>): the same gradients with less memory, and about a third more time.
    ///
    /// # Errors
    /// A network without such blocks, or with spectral norm, whose estimate every pass changes; an objective that needs
    /// gradients with respect to latents on the way.
    pub fn recompute(&self, recomputes: bool, objective: &Objective) -> Result<(), ModelError> {
        let has_blocks = self.set_recomputation(recomputes);
        if !recomputes {
            return Ok(());
        }
        let refused = |problem: &str| Err(ModelError::config("training.recompute", problem));
        if !has_blocks {
            return refused("only network.autoencoder_kl has blocks that can be computed again");
        }
        if self.config().decoder_spectral_norm {
            return refused("model.decoder_spectral_norm estimates norms in every pass");
        }
        if objective.estimator.takes_gradients_apart()
            || matches!(
                objective.decoder_penalty,
                DecoderPenalty::GradientPenalty(_)
            )
        {
            return refused(
                "the objective takes gradients with respect to latents; an estimator without doubly_reparameterized other \
                 than piwae, without the gradient penalty of the decoder, would fit",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tch::{Kind, no_grad};

    use super::*;
    use crate::{ImageShape, Mode, ModelConfig};

    fn model(network: &str, seed: u64) -> Vae {
        let config: ModelConfig = toml::from_str(&format!("latent_dims = 3\n{network}")).unwrap();
        let shape = ImageShape {
            channels: 1,
            height: 8,
            width: 8,
        };
        Vae::new(&config, shape, Device::Cpu, seed).unwrap()
    }

    const MLP: &str = "network.mlp.hidden = [7]";

    #[test]
    fn weights_are_taken_of_a_model_with_the_same_parts() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("other.safetensors");
        let other = model(MLP, 1);
        other.save(&file).unwrap();
        let mut vae = model(MLP, 2);
        vae.take_weights(&file).unwrap();
        for ((name, a), (_, b)) in vae.named_variables().iter().zip(other.named_variables()) {
            assert_eq!(a, &b, "{name}");
        }
        let mut larger = model("network.mlp.hidden = [8]", 2);
        let said = larger.take_weights(&file).unwrap_err().to_string();
        assert!(said.contains("expected"), "{said}");
    }

    #[test]
    fn a_frozen_part_is_not_trained() {
        let vae = model(MLP, 1);
        vae.freeze(&["encoder".to_owned()]).unwrap();
        let trained = vae.trainable_variables();
        assert!(trained.iter().all(|(name, _)| name.starts_with("decoder")));
        assert!(!trained.is_empty());
        let said = |parts: &[&str]| {
            let parts: Vec<String> = parts.iter().map(|&part| part.to_owned()).collect();
            model(MLP, 1).freeze(&parts).unwrap_err().to_string()
        };
        assert!(said(&["enc"]).contains("there are decoder, encoder"));
        assert!(said(&["encoder", "decoder"]).contains("leaves nothing"));
        let of_batch_norm = model("network.conv_batch_norm.channels = [4, 4]", 1);
        let refused = of_batch_norm.freeze(&["encoder".to_owned()]).unwrap_err();
        assert!(refused.to_string().contains("has batch norm"));
    }

    #[test]
    fn what_is_computed_again_has_the_same_gradients() {
        let config: ModelConfig = toml::from_str(
            "latent_shape = [4, 4, 4]\nlikelihood.gaussian.sigma = 1.0\n[network.autoencoder_kl]\n\
             channels = [8, 16, 16]\nblocks = 1\ngroups = 4",
        )
        .unwrap();
        let shape = ImageShape {
            channels: 3,
            height: 16,
            width: 16,
        };
        let vae = Vae::new(&config, shape, Device::Cpu, 1).unwrap();
        let mut noise = vae.generator(2);
        for (_, mut variable) in vae.trainable_variables() {
            let noise = noise.normal(&variable.size()[..], Device::Cpu) * 0.1;
            no_grad(|| variable += noise); // Blocks end in zeros at first.
        }
        let images = noise.randint(256, [2, 3, 16, 16], (Kind::Uint8, Device::Cpu));
        let objective = Objective::default();
        let gradients = |recomputes: bool| {
            vae.recompute(recomputes, &objective).unwrap();
            let mut noise = vae.generator(3);
            let draws = vae.draw(&images, 1, Mode::Train, &mut noise).unwrap();
            draws.terms.elbo().unwrap().sum(Kind::Float).backward();
            let of = |(name, variable): (String, Tensor)| {
                let gradient = variable.grad().copy();
                let _ = variable.grad().zero_();
                (name, gradient)
            };
            vae.trainable_variables()
                .into_iter()
                .map(of)
                .collect::<Vec<_>>()
        };
        for ((name, kept), (_, again)) in gradients(false).iter().zip(gradients(true)) {
            assert!(kept.abs().max().double_value(&[]) > 0.0, "{name}");
            assert_eq!(kept, &again, "{name}");
        }
        let refused = model(MLP, 1).recompute(true, &objective).unwrap_err();
        assert!(refused.to_string().contains("network.autoencoder_kl"));
        let dreg = Objective {
            estimator: toml::from_str("iwae.doubly_reparameterized = true").unwrap(),
            ..Objective::default()
        };
        let refused = vae.recompute(true, &dreg).unwrap_err();
        assert!(refused.to_string().contains("training.recompute"));
    }
}
