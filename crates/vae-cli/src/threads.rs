//! How many CPU threads a training computes with, where nobody said so.

use std::time::{Duration, Instant};

use anyhow::Result;
use tch::{Device, Kind, Tensor};
use vae_model::{ItemKind, Vae};
use vae_run::RunConfig;
use vae_train::Learner;

use crate::output::say;

/// The cores that other processes keep busy, above which a trial is worth its time.
const BUSY: f64 = 0.3;

/// How long the cores are watched.
const WATCHED: Duration = Duration::from_millis(300);

/// How long the steps of a trial may take for each number of threads.
const TRIAL: Duration = Duration::from_millis(400);

/// A larger number of threads has to be faster by this factor.
const GAIN: f64 = 1.05;

/// Sets the number of threads for a new run by a short trial, if other work is on the machine: libtorch's threads wait for the
/// slowest of them, so that with a core that is taken, several are slower than one. On a machine that is idle, on a GPU, or if
/// `OMP_NUM_THREADS` is set, nothing changes. This comes before the data is loaded, so that everything is computed with as many
/// threads as with `--threads`.
pub(crate) fn choose(config: &RunConfig, device: Device) {
    let most = tch::get_num_threads();
    let is_set = std::env::var_os("OMP_NUM_THREADS").is_some_and(|value| !value.is_empty());
    if device != Device::Cpu || most < 2 || is_set {
        return;
    }
    let Some(busy) = busy_cores().filter(|&busy| busy > BUSY) else {
        return;
    };
    let times: Vec<(i32, Duration)> = candidates(most)
        .into_iter()
        .map_while(|threads| {
            set(threads);
            Some((threads, step_time(config).ok()?))
        })
        .collect();
    let threads = fastest(&times).unwrap_or(most);
    set(threads);
    if times.is_empty() {
        return;
    }
    let times: Vec<String> = times
        .iter()
        .map(|(threads, time)| format!("{threads}: {:.0} ms", 1000.0 * time.as_secs_f64()))
        .collect();
    say!(
        "threads: {threads}, because other work keeps {busy:.1} cores busy and a step then takes, by threads, {}; \
         --threads decides otherwise",
        times.join(", ")
    );
}

/// Computes with as many threads from now on.
pub(crate) fn set(threads: i32) {
    tch::set_num_threads(threads);
}

/// 1, 2, 4, … and the most.
fn candidates(most: i32) -> Vec<i32> {
    let mut candidates: Vec<i32> = (0..).map(|i| 1 << i).take_while(|&n| n < most).collect();
    candidates.push(most);
    candidates
}

/// The smallest number of threads that is not clearly slower than another.
fn fastest(times: &[(i32, Duration)]) -> Option<i32> {
    let best = times.iter().map(|(_, time)| *time).min()?;
    let is_near = |time: &Duration| time.as_secs_f64() <= GAIN * best.as_secs_f64();
    let near = times.iter().filter(|(_, time)| is_near(time));
    near.map(|(threads, _)| *threads).min()
}

/// The time of a training step of such a run, of a model and items that are thrown away.
fn step_time(config: &RunConfig) -> Result<Duration> {
    let item = config.dataset.item_spec()?;
    let mut config = config.clone();
    config.model.condition = None; // Its columns are known only from the data.
    let vae = Vae::new(&config.model, item.clone(), Device::Cpu, 0)?;
    let n = config.training.batch_size as i64;
    let kind = match item.kind {
        ItemKind::Image => Kind::Uint8,
        ItemKind::Sound { .. } => Kind::Int16,
        ItemKind::Tokens { .. } => Kind::Int64,
        _ => Kind::Float,
    };
    let [channels, height, width] = vae.image_shape().sides();
    let items = Tensor::zeros([n, channels, height, width], (kind, Device::Cpu));
    let mut learner = Learner::new(&vae, &config, config.training.batch_size)?;
    let start = Instant::now();
    learner.step(&items, 0, 0)?;
    // The first step allocates; where it takes long, that is little of it.
    if start.elapsed() > 4 * TRIAL {
        return Ok(start.elapsed());
    }
    let start = Instant::now();
    let mut n_steps = 0;
    while n_steps < 10 && (n_steps == 0 || start.elapsed() < TRIAL) {
        n_steps += 1;
        learner.step(&items, n_steps.into(), 0)?;
    }
    Ok(start.elapsed() / n_steps)
}

/// The cores that processes keep busy while this one sleeps; none where the system does not say.
fn busy_cores() -> Option<f64> {
    let before = Ticks::now()?;
    std::thread::sleep(WATCHED);
    Some(Ticks::now()?.busy_since(&before))
}

/// The time that all cores together spent, in ticks.
#[derive(Debug, PartialEq)]
struct Ticks {
    busy: f64,
    all: f64,
    n_cores: usize,
}

impl Ticks {
    fn now() -> Option<Self> {
        Self::read(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    /// Of Linux' `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal.
    fn read(stat: &str) -> Option<Self> {
        let whole = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let numbers = whole.split_whitespace().take(8);
        let numbers: Vec<f64> = numbers.map(|n| n.parse().ok()).collect::<Option<_>>()?;
        let all: f64 = numbers.iter().sum();
        let idle = numbers.get(3)? + numbers.get(4)?;
        let is_core = |line: &&str| {
            let name = line.strip_prefix("cpu");
            name.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        Some(Self {
            busy: all - idle,
            all,
            n_cores: stat.lines().filter(is_core).count(),
        })
    }

    fn busy_since(&self, before: &Self) -> f64 {
        let all = self.all - before.all;
        match all > 0.0 {
            true => (self.busy - before.busy) / all * self.n_cores as f64,
            false => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fewest_threads_that_are_as_fast_are_chosen() {
        let ms = |times: &[(i32, u64)]| -> Vec<(i32, Duration)> {
            let time = |&(threads, ms)| (threads, Duration::from_millis(ms));
            times.iter().map(time).collect()
        };
        assert_eq!(fastest(&ms(&[(1, 40), (2, 160)])), Some(1));
        assert_eq!(fastest(&ms(&[(1, 100), (2, 60), (4, 58)])), Some(2));
        assert_eq!(fastest(&ms(&[(1, 100), (2, 60), (4, 40)])), Some(4));
        assert_eq!(fastest(&[]), None);
        assert_eq!(candidates(1), [1]);
        assert_eq!(candidates(6), [1, 2, 4, 6]);
    }

    #[test]
    fn busy_cores_are_counted_from_the_systems_ticks() {
        let stat = |user: u32, idle: u32| {
            format!("cpu  {user} 0 10 {idle} 5 0 0 0 7 0\ncpu0 1 2\ncpu1 1 2\nintr 5\ncpufreq 1\n")
        };
        let before = Ticks::read(&stat(100, 1000)).expect("ticks");
        let after = Ticks::read(&stat(130, 1070)).expect("ticks");
        assert_eq!(before.n_cores, 2);
        // 30 of 100 ticks, of two cores.
        assert!((after.busy_since(&before) - 0.6).abs() < 1e-9);
        assert_eq!(before.busy_since(&before), 0.0);
        assert_eq!(Ticks::read("nothing"), None);
    }
}
