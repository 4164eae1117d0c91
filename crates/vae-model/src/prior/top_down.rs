//! The prior of `network.top_down`: each group of latents given the decoder's state above it.

use tch::{Device, Kind, Tensor};
use vae_torch::Generator;

use super::{Prior, PriorContext};
use crate::Mode;
use crate::network::ops::Eager;
use crate::network::{Group, Reach, TopDownPath};
use crate::posterior::PriorMaps;

/// Latents that are drawn at once: the maps of more would need much memory.
const AT_A_TIME: i64 = 500;

/// p(z) = Π p(z_i|h_i), where h_i is the decoder's state above group i.
#[derive(Debug)]
pub(crate) struct TopDownPrior {
    pub(crate) path: TopDownPath,
}

impl TopDownPrior {
    /// Goes down. `choose` gives the latents of each group. `batch` `[N, …]` says how many there are.
    fn run(
        &self,
        batch: &Tensor,
        context: PriorContext,
        mut choose: impl FnMut(usize, &PriorMaps) -> Tensor,
    ) {
        let mut each = |ops: &mut Eager, i: usize, group: &Group, _: &Tensor, prior: &Tensor| {
            choose(i, &PriorMaps::new(ops, group, prior))
        };
        let features = context.features.map(Tensor::shallow_clone);
        let ops = &mut Eager::new(Mode::Evaluate);
        self.path
            .run(ops, batch, features, Reach::Latents, &mut each);
    }

    /// New latents `[N, Z]` with the first `n_kept` groups of `latents` `[N, Z]`.
    fn redrawn(
        &self,
        latents: &Tensor,
        n_kept: usize,
        context: PriorContext,
        generator: &mut Generator,
    ) -> Tensor {
        let given = self.path.split(latents);
        let mut groups = Vec::new();
        self.run(latents, context, |i, prior| {
            let latents = match i < n_kept {
                true => given[i].shallow_clone(),
                false => {
                    let noise = generator.normal_like(&prior.mean.contiguous());
                    prior.at(&(noise * context.temperature))
                }
            };
            groups.push(latents.flatten(1, -1));
            latents
        });
        Tensor::cat(&groups, 1)
    }
}

impl Prior for TopDownPrior {
    fn log_prob(&self, latents: &Tensor, context: PriorContext) -> Tensor {
        let given = self.path.split(latents);
        let mut sum = Tensor::zeros([1], (Kind::Float, latents.device()));
        self.run(latents, context, |i, prior| {
            let latents = &given[i];
            sum = &sum + prior.log_prob(&prior.standardized(latents));
            latents.shallow_clone()
        });
        sum
    }

    fn sample(
        &self,
        n: i64,
        device: Device,
        context: PriorContext,
        generator: &mut Generator,
    ) -> Tensor {
        let n_latents: i64 = self.path.group_sizes().iter().sum();
        let parts = (0..n).step_by(AT_A_TIME as usize).map(|start| {
            let n = AT_A_TIME.min(n - start);
            let nothing = Tensor::zeros([n, n_latents], (Kind::Float, device));
            let features = context.features.map(|all| all.narrow(0, start, n));
            let context = PriorContext {
                features: features.as_ref(),
                ..context
            };
            self.redrawn(&nothing, 0, context, generator)
        });
        let parts: Vec<Tensor> = parts.collect();
        match parts.is_empty() {
            true => Tensor::zeros([0, n_latents], (Kind::Float, device)),
            false => Tensor::cat(&parts, 0),
        }
    }

    fn has_temperature(&self) -> bool {
        true
    }

    fn redraw_below(
        &self,
        latents: &Tensor,
        n_kept: usize,
        context: PriorContext,
        generator: &mut Generator,
    ) -> Option<Tensor> {
        Some(self.redrawn(latents, n_kept, context, generator))
    }
}

#[cfg(test)]
mod tests {
    use tch::no_grad;

    use super::*;
    use crate::network::NetworkShape;
    use crate::prior::tests::{
        NO_CONTEXT, assert_integrates_to_1, assert_samples_fit_log_prob,
        assert_temperature_scales_noise,
    };
    use crate::{ImageShape, Initialization, TopDownConfig, nn};

    /// The prior of a hierarchy for a pixel, with weights drawn.
    fn prior(n_groups: usize) -> (nn::VarStore, TopDownPrior) {
        let config = TopDownConfig {
            sizes: vec![1],
            widths: vec![4],
            blocks: vec![n_groups],
            latents: vec![1],
            encoder_blocks: vec![0],
            squeeze: 2,
        };
        let shape = NetworkShape {
            image: ImageShape {
                channels: 1,
                height: 1,
                width: 1,
            },
            tokens: None,
            latent_dims: n_groups as i64,
            latent_shape: None,
            is_pyramid: false,
            n_condition_features: 0,
            n_posterior_params: config.n_posterior_params(0),
            n_likelihood_maps: 1,
            initialization: Initialization::default(),
            decoder_spectral_norm: false,
        };
        let variables = nn::VarStore::new(1);
        let path = config
            .build(&variables.root(), shape)
            .path()
            .shallow_clone();
        let mut named: Vec<_> = variables.variables().into_iter().collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        let mut generator = Generator::cpu(2);
        for (_, mut variable) in named {
            let values = generator.normal(variable.size(), Device::Cpu) * 0.6;
            no_grad(|| variable.copy_(&values));
        }
        (variables, TopDownPrior { path })
    }

    #[test]
    fn it_is_a_density_and_draws_from_it() {
        no_grad(|| {
            let (_variables, plane) = prior(2);
            assert_integrates_to_1(&plane);
            assert_samples_fit_log_prob(&plane, 2);
            let (_variables, three) = prior(3);
            assert_samples_fit_log_prob(&three, 3);
            assert_temperature_scales_noise(&three, 1);
            // Not the standard normal.
            let latents = Generator::cpu(1).normal([50, 2], Device::Cpu);
            let of_normal = crate::math::standard_normal_log_prob(&latents);
            let difference = plane.log_prob(&latents, NO_CONTEXT) - of_normal;
            assert!(difference.abs().max().double_value(&[]) > 0.1);
        });
    }
}
