//! Files of every format against the WAV file they were made of, and damaged ones (recordings/make.sh).

use std::fs;

use vae_sound::{Alignment, ClipSpec, Decoded, decode};

fn file(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/recordings/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn decoded(name: &str) -> Decoded {
    decode(&file(name), 60.0).unwrap_or_else(|problem| panic!("{name} {problem}"))
}

/// The power of the signal over that of the difference, in dB.
fn signal_to_noise(found: &[f32], wanted: &[f32]) -> f64 {
    let power =
        |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>();
    let noise = power(&mut found.iter().zip(wanted).map(|(a, b)| a - b));
    10.0 * (power(&mut wanted.iter().copied()) / noise.max(1e-30)).log10()
}

#[test]
fn flac_ogg_and_mp3_sound_as_the_wav_they_came_from() {
    let wanted = decoded("sweep.wav");
    assert_eq!(
        (wanted.rate, wanted.channels.len(), wanted.channels[0].len()),
        (22_050, 2, 11_025)
    );
    assert_eq!(decoded("sweep.flac"), wanted);
    for (name, least) in [("sweep.ogg", 15.0), ("sweep.mp3", 15.0)] {
        let found = decoded(name);
        assert_eq!((found.rate, found.channels.len()), (22_050, 2), "{name}");
        let difference = found.channels[0].len().abs_diff(11_025);
        assert!(
            difference <= 1200,
            "{name}: {} samples",
            found.channels[0].len()
        );
        for (found, wanted) in found.channels.iter().zip(&wanted.channels) {
            let n = found.len().min(wanted.len());
            let ratio = signal_to_noise(&found[..n], &wanted[..n]);
            assert!(ratio > least, "{name}: {ratio} dB");
        }
    }
}

#[test]
fn other_kinds_of_samples_are_read() {
    for (name, rate, n) in [
        ("float.wav", 8000, 4000),
        ("bits24.wav", 16_000, 8000),
        ("adpcm.wav", 8000, 4000),
    ] {
        let found = decoded(name);
        assert_eq!((found.rate, found.channels.len()), (rate, 1), "{name}");
        assert!(
            found.channels[0].len().abs_diff(n) < 500,
            "{name}: {}",
            found.channels[0].len()
        );
        let loudest = found.channels[0]
            .iter()
            .fold(0.0_f32, |loudest, x| loudest.max(x.abs()));
        assert!((0.2..0.9).contains(&loudest), "{name}: {loudest}");
    }
}

/// The most memory that this process has had, in bytes; `None` where the system does not say.
fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib << 10)
}

#[test]
fn five_hundred_damaged_files_are_skipped_or_heard_without_a_panic_or_much_memory() {
    let clips = ClipSpec {
        rate: 8000,
        n_samples: 4000,
        n_channels: 1,
        alignment: Alignment::Onset,
        silence: 40.0,
        normalize: true,
        max_seconds: 60.0,
    };
    let before = peak_memory();
    // xorshift64 (Marsaglia 2003): the same damages every time.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n as u64) as usize
    };
    let names = [
        "sweep.wav",
        "sweep.flac",
        "sweep.ogg",
        "sweep.mp3",
        "adpcm.wav",
        "float.wav",
        "bits24.wav",
    ];
    let (mut n_good, mut n_bad) = (0, 0);
    for i in 0..500 {
        let name = names[i % names.len()];
        let mut bytes = file(name);
        match (i / names.len()) % 5 {
            // Cut off.
            0 => bytes.truncate(random(bytes.len())),
            // A header of large numbers.
            1 => {
                let start = random(64);
                bytes[start..start + 4].fill(0xff);
            }
            // Bytes of noise anywhere.
            2 => {
                let n = bytes.len();
                (0..40).for_each(|_| bytes[random(n)] = random(256) as u8);
            }
            // Noise in the header.
            3 => (0..4).for_each(|_| bytes[random(96)] = random(256) as u8),
            // A part is missing.
            _ => {
                let start = random(bytes.len() - 200);
                bytes.drain(start..start + 150);
            }
        }
        match clips.clip(&bytes) {
            Ok(clip) => {
                assert_eq!(clip.len(), 4000);
                n_good += 1;
            }
            Err(reason) => {
                assert!(
                    !reason.is_empty() && !reason.contains("panicked"),
                    "{name} {i}: {reason}"
                );
                n_bad += 1;
            }
        }
    }
    assert!(n_good > 50 && n_bad > 50, "{n_good} good, {n_bad} bad");
    if let (Some(before), Some(after)) = (before, peak_memory()) {
        assert!(
            after - before < 200 << 20,
            "{} MiB more",
            (after - before) >> 20
        );
    }
}
