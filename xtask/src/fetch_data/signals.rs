//! `cargo xtask fetch-data signals`: series of three sensors, with known anomalies among the test series, computed
//! here.
//!
//! The numbers are ours. Three sensors watch a machine for 128 steps: its vibration (two harmonics), the
//! pressure that follows it with a delay, and the load that drifts slowly. Their units differ by factors of ten and
//! more. Every tenth test series has an anomaly.

use std::f64::consts::TAU;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::download::partial_path;
use crate::workspace::Workspace;

/// The data set's name.
pub(super) const NAME: &str = "signals";

/// Its files: series f32 `[N, 3, 128]`, and i64 `[N]`, which anomaly a test series has.
const FILES: [&str; 3] = ["train.npy", "test.npy", "test-labels.npy"];

const N_TRAIN: usize = 10_000;
const N_TEST: usize = 2_000;
const N_CHANNELS: usize = 3;
const N_STEPS: usize = 128;

/// What a test series has, by its label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Anomaly {
    /// 0: it is as the training series are.
    None,
    /// 1: the vibration jumps for three steps.
    Spike,
    /// 2: the pressure follows another vibration.
    Uncoupled,
    /// 3: the pressure's sensor keeps its value from some step on.
    Stuck,
}

impl Anomaly {
    /// Of the test series at this position.
    fn of(position: usize) -> Self {
        match position % 30 {
            9 => Self::Spike,
            19 => Self::Uncoupled,
            29 => Self::Stuck,
            _ => Self::None,
        }
    }
}

/// SplitMix64 (Steele et al. 2014): a small generator whose numbers never change.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[low, high)`.
    fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Standard normal, by Box and Muller.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform(0.0, 1.0)).ln()).sqrt();
        radius * self.uniform(0.0, TAU).cos()
    }
}

/// How fast and strong a machine vibrates.
struct Vibration {
    frequency: f64,
    phase: f64,
    amplitude: f64,
}

impl Vibration {
    fn draw(random: &mut Random) -> Self {
        Self {
            frequency: random.uniform(2.0, 5.0),
            phase: random.uniform(0.0, TAU),
            amplitude: random.uniform(0.5, 1.5),
        }
    }

    fn angle(&self, time: f64) -> f64 {
        TAU * self.frequency * time + self.phase
    }
}

/// One series, channel after channel.
fn series(random: &mut Random, anomaly: Anomaly) -> Vec<f32> {
    let vibration = Vibration::draw(random);
    let drift = random.uniform(-15.0, 15.0);
    let followed = match anomaly {
        Anomaly::Uncoupled => &Vibration::draw(random),
        _ => &vibration,
    };
    let from = random.uniform(20.0, 80.0) as usize;
    let mut values = vec![0.0; N_CHANNELS * N_STEPS];
    for step in 0..N_STEPS {
        let time = step as f64 / N_STEPS as f64;
        let angle = vibration.angle(time);
        let mut first = vibration.amplitude * (angle.sin() + 0.3 * (2.0 * angle).sin());
        if anomaly == Anomaly::Spike && (from..from + 3).contains(&step) {
            first += 1.5;
        }
        let delayed = followed.angle(time) - 0.9;
        let pressure = 10.0 + 4.0 * followed.amplitude * delayed.sin();
        let load = 200.0 + 30.0 * vibration.amplitude + drift * (time - 0.5);
        values[step] = (first + 0.05 * random.normal()) as f32;
        values[N_STEPS + step] = (pressure + 0.2 * random.normal()) as f32;
        values[2 * N_STEPS + step] = (load + random.normal()) as f32;
    }
    if anomaly == Anomaly::Stuck {
        let pressure = &mut values[N_STEPS..2 * N_STEPS];
        let stuck = pressure[from];
        pressure[from..].fill(stuck);
    }
    values
}

/// An array of numbers of four or eight bytes as the contents of an .npy file.
fn npy(descr: &str, shape: &str, values: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec(); // 128 bytes of header in all.
    bytes.extend(dict.bytes());
    bytes.resize(127, b' ');
    bytes.push(b'\n');
    bytes.extend(values.flatten());
    bytes
}

/// The contents of [`FILES`]. The same at every call.
fn contents() -> [Vec<u8>; 3] {
    let mut random = Random(1);
    let mut split = |n: usize, anomaly: fn(usize) -> Anomaly| {
        let rows: Vec<f32> = (0..n)
            .flat_map(|i| series(&mut random, anomaly(i)))
            .collect();
        let shape = format!("{n}, {N_CHANNELS}, {N_STEPS}");
        npy("<f4", &shape, rows.iter().map(|v| v.to_le_bytes().to_vec()))
    };
    let train = split(N_TRAIN, |_| Anomaly::None);
    let test = split(N_TEST, Anomaly::of);
    let labels = (0..N_TEST).map(|i| (Anomaly::of(i) as i64).to_le_bytes().to_vec());
    [train, test, npy("<i8", &format!("{N_TEST},"), labels)]
}

/// Whether all files are there.
pub(super) fn is_complete(folder: &Path) -> bool {
    FILES.iter().all(|file| folder.join(file).is_file())
}

/// Put the series into `datasets/signals`.
///
/// # Errors
/// The file system refuses; `from` is given, but there is nothing to take.
pub(super) fn fetch(workspace: &Workspace, from: Option<&Path>) -> Result<()> {
    ensure!(
        from.is_none(),
        "{NAME}: these series are computed here, so that --from has nothing to take"
    );
    eprintln!(
        "{NAME}: {N_TRAIN} training and {N_TEST} test series of {N_CHANNELS} sensors and {N_STEPS} steps, every tenth \
         test series with an anomaly (computed here)"
    );
    let folder = workspace.datasets().join(NAME);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for (name, content) in FILES.iter().zip(contents()) {
        let path = folder.join(name);
        if fs::read(&path).is_ok_and(|found| found == content) {
            continue;
        }
        let partial = partial_path(&path);
        fs::write(&partial, content)
            .and_then(|()| fs::rename(&partial, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let n = FILES.len();
    eprintln!("{NAME}: {} holds its {n} files", workspace.shown(&folder));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_arrays_of_their_shapes() {
        let [train, test, labels] = contents();
        assert_eq!(train.len(), 128 + N_TRAIN * N_CHANNELS * N_STEPS * 4);
        assert_eq!(test.len(), 128 + N_TEST * N_CHANNELS * N_STEPS * 4);
        assert_eq!(labels.len(), 128 + N_TEST * 8);
        assert!(train.starts_with(b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'"));
        let n_anomalies = labels[128..]
            .chunks_exact(8)
            .filter(|label| label.iter().any(|&byte| byte != 0))
            .count();
        // Positions 9, 19 and 29 of each 30; the last 20 have two.
        assert_eq!(n_anomalies, 3 * (N_TEST / 30) + 2);
    }

    #[test]
    fn anomalies_are_what_they_are_called() {
        let of = |anomaly| series(&mut Random(7), anomaly);
        let normal = of(Anomaly::None);
        let stuck = of(Anomaly::Stuck);
        let last = &stuck[N_STEPS..2 * N_STEPS][100..];
        assert!(last.iter().all(|value| *value == last[0]));
        // The other sensors are as they were.
        assert_eq!(stuck[..N_STEPS], normal[..N_STEPS]);
        let spike = of(Anomaly::Spike);
        let jumps = spike.iter().zip(&normal).filter(|(a, b)| a != b).count();
        assert_eq!(jumps, 3);
    }
}
