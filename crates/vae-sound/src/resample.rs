//! Another number of samples a second.

use rubato::{FftFixedIn, Resampler};

/// The fewest samples in a step of the resampler.
const CHUNK: u32 = 1024;

/// A signal at `to` samples a second that had `from`: band-limited, with no delay. Its length is ⌈n·to/from⌉.
///
/// # Errors
/// A rate that the resampler refuses.
pub fn resample(samples: &[f32], from: u32, to: u32) -> Result<Vec<f32>, String> {
    if from == to || samples.is_empty() {
        return Ok(samples.to_vec());
    }
    let failed = |error: &dyn std::fmt::Display| {
        format!("cannot be resampled from {from} to {to} Hz: {error}")
    };
    // An even multiple of the shortest step: of an odd one the delay would be half a sample more.
    let step = from / greatest_common_divisor(from, to);
    let chunk = (step * 2 * CHUNK.div_ceil(2 * step)) as usize;
    let mut resampler = FftFixedIn::<f32>::new(from as usize, to as usize, chunk, 1, 1)
        .map_err(|error| failed(&error))?;
    let n = (samples.len() as u64 * u64::from(to)).div_ceil(u64::from(from)) as usize;
    let delay = resampler.output_delay();
    let mut output = Vec::with_capacity(n + delay + chunk);
    let mut rest = samples;
    while output.len() < n + delay {
        let n_next = resampler.input_frames_next().min(rest.len());
        let (next, left) = rest.split_at(n_next);
        rest = left;
        let part = match next.len() == resampler.input_frames_next() {
            true => resampler.process(&[next], None),
            // Pads with silence, and after the end gives what is still in it.
            false if next.is_empty() => resampler.process_partial::<&[f32]>(None, None),
            false => resampler.process_partial(Some(&[next]), None),
        };
        let part = part.map_err(|error| failed(&error))?;
        output.extend(part.into_iter().next().unwrap_or_default());
    }
    output.drain(..delay);
    output.truncate(n);
    Ok(output)
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    match b {
        0 => a,
        b => greatest_common_divisor(b, a % b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sine(frequency: f64, rate: u32, n: usize) -> Vec<f32> {
        let step = std::f64::consts::TAU * frequency / f64::from(rate);
        (0..n).map(|i| (step * i as f64).sin() as f32).collect()
    }

    #[test]
    fn a_resampled_sine_is_the_sine_at_the_other_rate() {
        for (from, to) in [
            (44_100, 16_000),
            (8_000, 16_000),
            (48_000, 44_100),
            (22_050, 8_000),
        ] {
            let found = resample(&sine(1000.0, from, from as usize), from, to).unwrap();
            assert_eq!(found.len(), to as usize, "{from} to {to}");
            let wanted = sine(1000.0, to, to as usize);
            // At its ends the signal jumps to silence.
            let inner = 500..to as usize - 500;
            let errors = inner.map(|i| (found[i] - wanted[i]).abs());
            let error = errors.fold(0.0, f32::max);
            assert!(error < 2e-3, "{from} to {to}: {error}");
        }
    }

    #[test]
    fn what_the_lower_rate_cannot_have_is_gone() {
        let found = resample(&sine(6000.0, 16_000, 16_000), 16_000, 8_000).unwrap();
        let loudest = found[500..7500]
            .iter()
            .fold(0.0_f32, |loudest, x| loudest.max(x.abs()));
        assert!(loudest < 2e-3, "{loudest}");
    }

    #[test]
    fn a_single_sample_is_enough() {
        assert_eq!(resample(&[0.5], 44_100, 8_000).unwrap().len(), 1);
        assert_eq!(resample(&[0.5, 0.1], 8_000, 8_000).unwrap(), [0.5, 0.1]);
        assert!(resample(&[], 8_000, 16_000).unwrap().is_empty());
    }
}
