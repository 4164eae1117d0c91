//! Training of the samplers that have a gradient.

use tch::{Tensor, no_grad};
use vae_base::derive_seed;
use vae_data::loader::shuffled_order;
use vae_model::{Generator, LatentSet, Sampler};
use vae_run::{ClipConfig, OptimizerConfig};

use super::{SamplerOptions, mean_log_prob};
use crate::{Ema, Optimizer, TrainError};

/// The number of latents in a step: small sets have small batches, so that an epoch has enough steps.
const BATCH_SIZE: i64 = 512;
const SMALL_BATCH: i64 = 128;
const SMALL_SET: i64 = 20_000;

/// The steps of an epoch, at least.
const LEAST_STEPS: usize = 50;

const EMA_DECAY: f64 = 0.995;

/// The largest norm of a gradient, which a rare latent would exceed in the first steps.
const LARGEST_NORM: f64 = 10.0;

/// Epochs without a gain of [`LEAST_GAIN`] after which the learning rate falls, by how much, and how often.
const PATIENCE: u64 = 3;
const FALL: f64 = 0.3;
const N_FALLS: u32 = 2;

/// In nats for each item.
const LEAST_GAIN: f64 = 1e-3;

/// Trains a sampler by Adam on training latents until the likelihood of the validation latents stops growing, and leaves
/// it with the averaged weights of the best epoch. Returns their mean log-likelihood or bound, or `None` if `progress`
/// returned false.
pub(super) fn train(
    sampler: &Sampler,
    [train, validation]: [&LatentSet; 2],
    options: &SamplerOptions,
    progress: &mut dyn FnMut(f64) -> bool,
) -> Result<Option<f64>, TrainError> {
    let variables = sampler.named_variables();
    let shared = || {
        let share = |(name, value): &(String, Tensor)| (name.clone(), value.shallow_clone());
        variables.iter().map(share).collect::<Vec<_>>()
    };
    let mut optimizer = Optimizer::new(&OptimizerConfig::default(), shared());
    let mut ema = Ema::new(EMA_DECAY, shared());
    let clip = ClipConfig {
        norm: Some(LARGEST_NORM),
        value: None,
        ..ClipConfig::default()
    };
    let device = variables.first().map(|(_, value)| value.device());
    let device = device.unwrap_or(tch::Device::Cpu);
    let n = train.len();
    let batch_size = match n < SMALL_SET {
        true => SMALL_BATCH.min(n),
        false => BATCH_SIZE,
    };
    let n_batches = (n / batch_size) as usize;
    let n_steps = n_batches.max(LEAST_STEPS);
    let mut generator = Generator::new(derive_seed(options.seed, 0, "sampler noise"), device)?;
    let mut best: Option<(f64, Vec<Tensor>)> = None;
    let (mut factor, mut n_falls, mut n_waited) = (1.0, 0, 0);
    let mut order = Tensor::new();
    let mut pass = 0;
    for epoch in 0..options.epochs {
        for step in 0..n_steps {
            if step % n_batches == 0 {
                order = Tensor::from_slice(&shuffled_order(n as usize, options.seed, pass));
                pass += 1;
            }
            let start = (step % n_batches) as i64 * batch_size;
            let mut batch = train.rows(&order.narrow(0, start, batch_size));
            batch.latents = batch.latents.to_device(device);
            optimizer.zero_grad();
            let loss = sampler.loss(&batch, &mut generator)?;
            let loss = loss.ok_or_else(|| TrainError::State {
                owner: "sampler",
                problem: format!("{} has no gradient", sampler.config().kind()),
            })?;
            optimizer.backward(&loss)?;
            optimizer.step(&clip)?;
            ema.update(optimizer.n_steps())?;
            let done = (epoch as f64 + (step + 1) as f64 / n_steps as f64) / options.epochs as f64;
            if !progress(done) {
                return Ok(None);
            }
        }
        ema.swap()?;
        let found = mean_log_prob(sampler, validation, options.seed)?.unwrap_or(f64::NAN);
        let before = best.as_ref().map_or(f64::NEG_INFINITY, |(found, _)| *found);
        if found > before {
            let copies = variables.iter().map(|(_, value)| value.detach().copy());
            best = Some((found, copies.collect()));
        }
        ema.swap()?;
        if !found.is_finite() {
            break;
        }
        n_waited = match found > before + LEAST_GAIN {
            true => 0,
            false => n_waited + 1,
        };
        if n_waited >= PATIENCE {
            if n_falls == N_FALLS {
                break;
            }
            (factor, n_falls, n_waited) = (factor * FALL, n_falls + 1, 0);
            optimizer.set_learning_rate_factor(factor);
        }
    }
    let Some((found, copies)) = best else {
        return Ok(Some(f64::NEG_INFINITY));
    };
    for ((_, value), copy) in variables.iter().zip(&copies) {
        no_grad(|| value.shallow_clone().f_copy_(copy))?;
    }
    Ok(Some(found))
}
