//! The likelihood of images by annealed importance sampling, which does not use the encoder.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad, with_grad};
use vae_data::derive_seed;
use vae_model::{Conditioned, Generator, Support, Vae};

use crate::importance::n_at_a_time;
use crate::{EvalError, Progress};

/// Annealed importance sampling (Neal 2001, <https://arxiv.org/abs/physics/9803008>; of decoders: Wu et
/// al. 2017, <https://arxiv.org/abs/1611.04273>).
///
/// A chain starts at a latent from the prior and passes through the distributions p(z)·p(x|z)^β, with β from 0 to 1 on
/// Wu et al.'s sigmoid, by one transition of Hamiltonian Monte Carlo at each. The expected weight of a chain, the product
/// of the ratios of successive densities, is p(x). The log of the chains' mean weight is therefore a lower bound in
/// expectation, like the importance-weighted one, but independent of the encoder.
///
/// The step sizes at every β are adapted by preliminary chains with separate noise to an acceptance of 0.65, and then
/// fixed, so that the weights of the final chains stay unbiased.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnealedSampling {
    /// Chains for each image.
    pub n_chains: u32,
    /// Distributions between the prior and the posterior.
    pub n_temperatures: u32,
    /// Leapfrog steps of a transition.
    pub n_leapfrog: u32,
}

impl Default for AnnealedSampling {
    fn default() -> Self {
        Self {
            n_chains: 16,
            n_temperatures: 500,
            n_leapfrog: 10,
        }
    }
}

/// Estimates from the chains of each image, f64 `[B]` on the CPU each.
#[derive(Debug)]
pub struct AnnealedBounds {
    /// ln of the mean weight in nats, a lower bound of log p(x) in expectation.
    pub bound: Tensor,
    /// The effective sample size (Σw)²/Σw² of the chains' weights.
    pub effective_sample_size: Tensor,
    /// The share of proposals that were accepted.
    pub acceptance: Tensor,
}

/// The acceptance rate that the step sizes are adapted to.
const ACCEPTANCE: f64 = 0.65;

/// The leapfrog step at β = 0, where the density is close to normal.
const FIRST_STEP: f64 = 0.3;

/// The steepness of the sigmoid schedule of β.
const STEEPNESS: f64 = 4.0;

/// The number of preliminary chains for each image.
const N_PILOTS: i64 = 4;

/// Annealed importance sampling for images, bytes `[B, C, H, W]`, in bounded memory. The noise depends only on `seed`.
///
/// # Errors
/// Latents on a sphere, which the transitions would leave; images of another shape than the model's.
pub fn annealed_bounds<'a>(
    vae: &Vae,
    images: impl Into<Conditioned<'a>>,
    sampling: AnnealedSampling,
    seed: u64,
    progress: &mut Progress<'_>,
) -> Result<AnnealedBounds, EvalError> {
    if vae.support() != Support::Euclidean {
        return Err(EvalError::Unmeasurable(
            "annealed importance sampling needs a Euclidean latent space, this model's is a sphere"
                .to_owned(),
        ));
    }
    let mut noise = vae.generator(derive_seed(seed, 0, "annealed importance sampling"));
    let n_chains = i64::from(sampling.n_chains);
    let Conditioned {
        tensor: images,
        condition,
    } = images.into();
    let n_images = images.size()[0];
    let n_at_a_time = (n_at_a_time(vae) / n_chains).clamp(1, n_images.max(1));
    let n_temperatures = sampling.n_temperatures as usize;
    let n_batches = n_images.unsigned_abs().div_ceil(n_at_a_time.unsigned_abs()) as usize;
    let mut n_done = 0;
    let mut of_batches = Vec::new();
    let mut conditions = condition
        .map(|condition| condition.split(n_at_a_time, 0))
        .into_iter()
        .flatten();
    for images in images.split(n_at_a_time, 0) {
        let condition = conditions.next();
        let mut tell = || {
            n_done += 1;
            progress(
                "annealed importance sampling",
                n_done,
                2 * n_batches * n_temperatures,
            );
        };
        let mut annealing = Annealing {
            vae,
            images,
            condition,
            sampling,
            noise: &mut noise,
        };
        let steps = annealing.adapt(&mut tell)?;
        of_batches.push(annealing.run(n_chains, &mut StepSizes::Given(&steps), &mut tell)?);
    }
    let joined = |part: fn(&AnnealedBounds) -> &Tensor| {
        Tensor::f_cat(&of_batches.iter().map(part).collect::<Vec<_>>(), 0)
    };
    Ok(AnnealedBounds {
        bound: joined(|bounds| &bounds.bound)?,
        effective_sample_size: joined(|bounds| &bounds.effective_sample_size)?,
        acceptance: joined(|bounds| &bounds.acceptance)?,
    })
}

/// β_0 = 0 … β_T = 1 on a sigmoid.
fn temperatures(n: u32) -> Vec<f64> {
    let sigmoid = |t: f64| 1.0 / (1.0 + (-STEEPNESS * (2.0 * t / f64::from(n) - 1.0)).exp());
    let (low, high) = (sigmoid(0.0), sigmoid(f64::from(n)));
    (0..=n)
        .map(|t| (sigmoid(f64::from(t)) - low) / (high - low))
        .collect()
}

/// Chains for some images.
struct Annealing<'a> {
    vae: &'a Vae,
    images: Tensor,
    condition: Option<Tensor>,
    sampling: AnnealedSampling,
    noise: &'a mut Generator,
}

/// Leapfrog steps at each β, `[B]`.
enum StepSizes<'a> {
    /// Adapted by these chains, and stored here.
    Adapted(&'a mut Vec<Tensor>),
    Given(&'a [Tensor]),
}

/// The state of the chains.
struct State {
    latents: Tensor,  // [K, B, Z]
    log_pz: Tensor,   // [K, B]
    log_px_z: Tensor, // [K, B]
    /// The gradient of log p(z) + β·log p(x|z), [K, B, Z].
    gradient: Tensor,
}

impl State {
    fn log_density(&self, beta: f64) -> Tensor {
        &self.log_pz + &self.log_px_z * beta
    }
}

impl Annealing<'_> {
    /// Finds the step sizes at each β, `[B]`, by preliminary chains.
    fn adapt(&mut self, tell: &mut impl FnMut()) -> Result<Vec<Tensor>, EvalError> {
        let mut steps = Vec::new();
        let n_pilots = N_PILOTS.min(i64::from(self.sampling.n_chains));
        self.run(n_pilots, &mut StepSizes::Adapted(&mut steps), tell)?;
        Ok(steps)
    }

    fn run(
        &mut self,
        n_chains: i64,
        step_sizes: &mut StepSizes<'_>,
        tell: &mut impl FnMut(),
    ) -> Result<AnnealedBounds, EvalError> {
        let (n_images, latent_dims) = (self.images.size()[0], self.vae.config().n_latents());
        let device = self.vae.device();
        let shape = [n_chains, n_images, latent_dims];
        let betas = temperatures(self.sampling.n_temperatures);
        let start = no_grad(|| match &self.condition {
            Some(condition) => {
                let of_chains = condition.repeat([n_chains, 1]);
                self.vae.sample_latents_of(&of_chains, self.noise)
            }
            None => Ok(self.vae.sample_latents(n_chains * n_images, self.noise)),
        })?;
        let start = start.view(shape);
        let mut state = self.at(start, 0.0)?;
        let mut log_weights = Tensor::zeros([n_chains, n_images], (Kind::Double, device));
        let mut step_size = Tensor::full([n_images], FIRST_STEP, (Kind::Float, device));
        let mut accepted_sum = Tensor::zeros([n_images], (Kind::Double, device));
        for (t, pair) in betas.windows(2).enumerate() {
            let (before, beta) = (pair[0], pair[1]);
            log_weights += state.log_px_z.to_kind(Kind::Double) * (beta - before);
            if let StepSizes::Given(steps) = step_sizes {
                step_size = steps[t].shallow_clone();
            }
            let accepted = self.transition(&mut state, beta, &step_size)?; // [K, B]
            let share = accepted
                .to_kind(Kind::Float)
                .mean_dim(0, false, Kind::Float); // [B]
            accepted_sum += share.to_kind(Kind::Double);
            if let StepSizes::Adapted(steps) = step_sizes {
                let next = &step_size * ((share - ACCEPTANCE) * 0.1).exp();
                steps.push(std::mem::replace(&mut step_size, next));
            }
            tell();
        }
        let log_sum = log_weights.logsumexp(0, false);
        let log_square_sum = (&log_weights * 2.0).logsumexp(0, false);
        let on_cpu = |tensor: Tensor| tensor.to_device(Device::Cpu);
        Ok(AnnealedBounds {
            bound: on_cpu(&log_sum - (n_chains as f64).ln()),
            effective_sample_size: on_cpu((log_sum * 2.0 - log_square_sum).exp()),
            acceptance: on_cpu(accepted_sum / f64::from(self.sampling.n_temperatures)),
        })
    }

    /// One transition of Hamiltonian Monte Carlo that leaves p(z)·p(x|z)^β invariant. Returns which chains moved, `[K, B]`.
    fn transition(
        &mut self,
        state: &mut State,
        beta: f64,
        step_size: &Tensor,
    ) -> Result<Tensor, EvalError> {
        let step = step_size.view([1, -1, 1]);
        let momentum = self.noise.normal_like(&state.latents);
        // The gradient in the state is that of the previous β.
        *state = self.at(state.latents.shallow_clone(), beta)?;
        let kinetic =
            |momentum: &Tensor| momentum.square().sum_dim_intlist(-1, false, Kind::Float) * 0.5;
        let energy = kinetic(&momentum) - state.log_density(beta);
        let mut moved = momentum + &state.gradient * &step * 0.5;
        let mut end: Option<State> = None;
        for i in 0..self.sampling.n_leapfrog {
            let from = end.as_ref().map_or(&state.latents, |end| &end.latents);
            let next = self.at(from + &moved * &step, beta)?;
            let last = i + 1 == self.sampling.n_leapfrog;
            moved += &next.gradient * &step * if last { 0.5 } else { 1.0 };
            end = Some(next);
        }
        let Some(end) = end else {
            return Ok(energy.zeros_like().gt(0.0)); // No leapfrog step: nobody moves.
        };
        let end_energy = kinetic(&moved) - end.log_density(beta);
        // An energy that is no number is never accepted.
        let chance = self.noise.uniform_like(&energy);
        let accepted = chance.log().lt_tensor(&(energy - end_energy));
        let wide = accepted.unsqueeze(-1);
        *state = State {
            latents: end.latents.where_self(&wide, &state.latents),
            log_pz: end.log_pz.where_self(&accepted, &state.log_pz),
            log_px_z: end.log_px_z.where_self(&accepted, &state.log_px_z),
            gradient: end.gradient.where_self(&wide, &state.gradient),
        };
        Ok(accepted)
    }

    fn at(&self, latents: Tensor, beta: f64) -> Result<State, EvalError> {
        with_grad(|| {
            let latents = latents.detach().set_requires_grad(true);
            let images = (&self.images, self.condition.as_ref());
            let (log_px_z, log_pz) = self.vae.log_joint(images, &latents)?;
            let density = (&log_pz + &log_px_z * beta).sum(Kind::Float);
            let mut gradients = Tensor::f_run_backward(&[density], &[&latents], false, false)?;
            let gradient = gradients.swap_remove(0);
            Ok(State {
                latents: latents.detach(),
                log_pz: log_pz.detach(),
                log_px_z: log_px_z.detach(),
                gradient,
            })
        })
    }
}
