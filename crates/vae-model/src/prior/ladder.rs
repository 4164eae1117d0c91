//! The prior of `topology.ladder` (Sønderby et al. 2016, <https://arxiv.org/abs/1602.02282>).

use tch::{Device, Tensor};
use vae_torch::Generator;

use super::{Prior, PriorContext};
use crate::math::diagonal_normal_log_prob;
use crate::topology::TopDown;
use crate::{ClosedKl, Posterior};

/// p(z) = p(z_L)·Π p(z_i|z_{i+1}).
#[derive(Debug)]
pub(crate) struct LadderPrior {
    /// Of the top level.
    pub(crate) top: Box<dyn Prior>,
    pub(crate) top_down: TopDown,
}

impl Prior for LadderPrior {
    fn log_prob(&self, latents: &Tensor, context: PriorContext) -> Tensor {
        let levels = self.top_down.split(latents);
        let top = self.top.log_prob(&levels[0], context);
        let pairs = levels.windows(2).enumerate();
        pairs.fold(top, |sum, (i, pair)| {
            let [mean, log_var] = self.top_down.below(i + 1, &pair[0]);
            sum + diagonal_normal_log_prob(&pair[1], &mean, &log_var)
        })
    }

    fn sample(
        &self,
        n: i64,
        device: Device,
        context: PriorContext,
        generator: &mut Generator,
    ) -> Tensor {
        let mut levels = vec![self.top.sample(n, device, context, generator)];
        for i in 1..self.top_down.levels.len() {
            let [mean, log_var] = self.top_down.below(i, &levels[i - 1]);
            levels.push(
                &mean + (log_var * 0.5).exp() * generator.normal_like(&mean) * context.temperature,
            );
        }
        Tensor::cat(&levels, -1)
    }

    fn has_temperature(&self) -> bool {
        self.top.has_temperature()
    }

    fn redraw_below(
        &self,
        latents: &Tensor,
        n_kept: usize,
        context: PriorContext,
        generator: &mut Generator,
    ) -> Option<Tensor> {
        if n_kept == 0 {
            let n = latents.size()[0];
            return Some(self.sample(n, latents.device(), context, generator));
        }
        let mut levels = self.top_down.split(latents);
        for i in n_kept..levels.len() {
            let [mean, log_var] = self.top_down.below(i, &levels[i - 1]);
            levels[i] =
                &mean + (log_var * 0.5).exp() * generator.normal_like(&mean) * context.temperature;
        }
        Some(Tensor::cat(&levels, -1))
    }

    fn kl_by_level(
        &self,
        posterior: &dyn Posterior,
        latents: &Tensor,
        context: PriorContext,
    ) -> Option<Vec<Tensor>> {
        let ladder = posterior.as_ladder()?;
        let Some(ClosedKl::PerDimension(top)) = self.top.kl(&ladder.top(), context) else {
            return None;
        };
        let mut levels = vec![top];
        levels.extend(ladder.kl_below(latents));
        Some(levels)
    }
}

#[cfg(test)]
mod tests {
    use tch::no_grad;

    use super::*;
    use crate::prior::standard_normal::StandardNormal;
    use crate::prior::tests::{
        assert_integrates_to_1, assert_samples_fit_log_prob, assert_temperature_scales_noise,
    };
    use crate::{Initialization, LadderConfig, nn};

    fn prior(levels: &[i64]) -> (nn::VarStore, LadderPrior) {
        let config = LadderConfig {
            levels: levels.to_vec(),
            hidden: 5,
        };
        let variables = nn::VarStore::new(1);
        let top_down = TopDown::build(&variables.root(), &config, Initialization::default());
        let mut named: Vec<_> = variables.variables().into_iter().collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        let mut generator = Generator::cpu(2);
        for (_, mut variable) in named {
            let values = generator.normal(variable.size(), Device::Cpu) * 0.4;
            no_grad(|| variable.copy_(&values));
        }
        let top = Box::new(StandardNormal {
            latent_dims: levels[0],
        });
        (variables, LadderPrior { top, top_down })
    }

    #[test]
    fn it_is_a_density_and_draws_from_it() {
        no_grad(|| {
            let (_variables, plane) = prior(&[1, 1]);
            assert_integrates_to_1(&plane);
            assert_samples_fit_log_prob(&plane, 2);
            let (_variables, three) = prior(&[1, 1, 1]);
            assert_samples_fit_log_prob(&three, 3);
            assert_temperature_scales_noise(&three, 1);
        });
    }

    #[test]
    fn a_fresh_one_is_the_standard_normal() {
        let config = LadderConfig::default();
        let variables = nn::VarStore::new(1);
        let top_down = TopDown::build(&variables.root(), &config, Initialization::default());
        let top = Box::new(StandardNormal { latent_dims: 8 });
        let prior = LadderPrior { top, top_down };
        let latents = Generator::cpu(1).normal([3, 40], Device::Cpu) * 2.0;
        let context = crate::prior::tests::NO_CONTEXT;
        let difference =
            prior.log_prob(&latents, context) - crate::math::standard_normal_log_prob(&latents);
        assert!(difference.abs().max().double_value(&[]) < 1e-4);
    }
}
