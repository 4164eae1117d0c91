//! `vae bench`: throughput on random pixels, of training and of what is done with a model.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use serde_json::json;
use tch::{Device, Kind, Tensor, no_grad};
use vae_base::memory;
use vae_data::derive_seed;
use vae_eval::image_bounds;
use vae_model::{Generator, ImageShape, Share, Vae};
use vae_run::RunConfig;
use vae_train::{Learner, device_name};

use super::shape::Shape;
use crate::Done;
use crate::device::DeviceChoice;
use crate::output::out;
use crate::processes::{self, Placement, Processes, launcher};
use crate::run_config::{self, ConfigError};

/// Measure throughput on random pixels, without a data set
///
/// Prints one line of JSON for each repetition. Throughput does not depend on the pixels.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A config file; its data set is not opened
    config: PathBuf,

    /// Change a value, as in `--set training.batch_size=256`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,

    /// What is done with a batch, instead of a step of training
    #[arg(long, value_name = "WORK")]
    work: Option<Work>,

    /// Image shape, C×H×W
    #[arg(long, default_value = "1x28x28")]
    shape: Shape,

    /// Timed steps in a repetition
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,

    /// Repetitions
    #[arg(long, default_value_t = 3)]
    reps: u32,

    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,

    /// Share each batch between N processes of this machine; the lines then say which part of the time they wait for each other
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    processes: Option<u32>,
}

/// What is done with a model that is no longer trained.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Work {
    /// Posteriors of images
    Encode,
    /// Images of latents drawn from the prior
    Decode,
    /// Importance-weighted bounds, as `vae eval` has them, from 1000 samples for each image
    Likelihood,
}

const WARM_UP_STEPS: u32 = 8;
const N_BATCHES: u32 = 8;
/// Of `Work::Likelihood`, for each image.
const N_SAMPLES: u32 = 1000;

pub(crate) fn run(args: &Args, threads: Option<i32>) -> Result<Done> {
    if let Some(work) = args.work {
        return measure_work(args, work);
    }
    let together = processes::Args::local(args.processes);
    let placement = Placement::of_environment()?;
    if placement.is_none() && args.processes.is_some_and(|n| n > 1) {
        return launcher::run(&together);
    }
    launcher::end_with_launcher();
    let config = run_config::load(&args.config, &args.settings)?;
    run_config::check(&args.config, &config)?;
    let local_rank = placement
        .as_ref()
        .map_or(0, |placement| placement.local_rank);
    let device = args.device.select_for(local_rank)?;
    if let (Some(placement), None) = (&placement, threads) {
        processes::choose_threads(placement);
    }
    let processes = placement.map(|placement| {
        processes::check(placement.size, &config)?;
        Processes::connect(placement, &together)
    });
    let processes = processes.transpose()?;
    let vae = model(args, &config, device)?;
    let batch_size = config.training.batch_size;
    let n_images = batch_size * N_BATCHES as usize;
    let mut learner = Learner::new(&vae, &config, n_images)?;
    let join = |processes: &Processes| processes.join(device);
    let group = processes.as_ref().map(join).transpose()?;
    if let Some(group) = &group {
        learner.train_among(Arc::clone(group))?;
    }
    let portion = Share::portion(group.as_ref());
    let n_own = {
        let part = config.training.micro_batch_size.unwrap_or(batch_size);
        portion.computed_in_parts(batch_size, part).len() as i64
    };
    let batches = batches(&config, vae.image_shape(), n_own);

    let mut step = 0;
    let mut run_steps = |n_steps: u32| -> Result<f64> {
        let mut total = Tensor::zeros([], (Kind::Float, device));
        for i in 0..n_steps {
            let images = batches[(i % N_BATCHES) as usize].to_device(device);
            let output = learner.step_share((&images).into(), batch_size as i64, step, step)?;
            total += output.loss;
            step += 1;
        }
        Ok(f64::try_from(total)? / f64::from(n_steps)) // Waits for the device.
    };
    run_steps(WARM_UP_STEPS)?;
    for _ in 0..args.reps {
        let waited = group.as_ref().map(|group| group.time_spent());
        let start = Instant::now();
        let loss = run_steps(args.steps)?;
        let seconds = start.elapsed().as_secs_f64();
        let waited = group.as_ref().zip(waited);
        let waited = waited.map(|(group, before)| (group.time_spent() - before).as_secs_f64());
        let n_images = args.steps as usize * batch_size;
        if portion.rank > 0 {
            continue;
        }
        out!(
            "{}",
            json!({
                "images_per_s": n_images as f64 / seconds,
                "loss": loss,
                "batch": batch_size,
                "device": device_name(device),
                "threads": tch::get_num_threads(),
                "processes": portion.size,
                "share_waited": waited.map(|waited| waited / seconds),
                "peak_resident_bytes": memory::peak_resident_bytes(),
            })
        );
    }
    Ok(Done::Fully)
}

fn model(args: &Args, config: &RunConfig, device: Device) -> Result<Vae> {
    let Shape(shape) = args.shape;
    let seed = derive_seed(config.seed, 0, "initial weights");
    Ok(Vae::new(&config.model, shape, device, seed)?)
}

fn batches(config: &RunConfig, shape: ImageShape, n_images: i64) -> Vec<Tensor> {
    let mut generator = Generator::cpu(derive_seed(config.seed, 0, "images"));
    let size = [n_images, shape.channels, shape.height, shape.width];
    let batch = |_| generator.randint(256, size, (Kind::Uint8, Device::Cpu));
    (0..N_BATCHES).map(batch).collect()
}

fn measure_work(args: &Args, work: Work) -> Result<Done> {
    if args.processes.is_some_and(|n| n > 1) {
        let problem = "--processes: they share the batches of training; leave it out, or --work";
        return Err(ConfigError::new(problem.to_owned()).into());
    }
    let config = run_config::load(&args.config, &args.settings)?;
    run_config::check(&args.config, &config)?;
    let device = args.device.select_for(0)?;
    let vae = model(args, &config, device)?;
    let batch_size = config.training.batch_size;
    let batches = batches(&config, vae.image_shape(), batch_size as i64);
    let mut generator = vae.generator(derive_seed(config.seed, 0, "draws"));
    let mut step = |i: u32| -> Result<Tensor> {
        let images = batches[(i % N_BATCHES) as usize].to_device(device);
        Ok(match work {
            Work::Encode => vae.encode(&images)?.center(),
            Work::Decode => {
                let latents = vae.sample_latents(batch_size as i64, &mut generator);
                vae.decode(&latents)?
            }
            Work::Likelihood => image_bounds(&vae, &images, N_SAMPLES, &mut generator)?.bound,
        })
    };
    let mut run_steps = |n_steps: u32| -> Result<()> {
        let mut total = Tensor::zeros([], (Kind::Double, device));
        for i in 0..n_steps {
            let output = no_grad(|| vae.with_fixed_weights(|| step(i)))?;
            total += output.flatten(0, -1).get(0);
        }
        f64::try_from(total)?; // Waits for the device.
        Ok(())
    };
    run_steps(args.steps.min(WARM_UP_STEPS))?;
    for _ in 0..args.reps {
        let start = Instant::now();
        run_steps(args.steps)?;
        let n_images = args.steps as usize * batch_size;
        out!(
            "{}",
            json!({
                "images_per_s": n_images as f64 / start.elapsed().as_secs_f64(),
                "batch": batch_size,
                "device": device_name(device),
                "threads": tch::get_num_threads(),
                "peak_resident_bytes": memory::peak_resident_bytes(),
            })
        );
    }
    Ok(Done::Fully)
}
