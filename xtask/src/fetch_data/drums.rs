//! `cargo xtask fetch-data drums`: single hits of drums from Sonic Pi's samples, each at nine speeds.

use std::fmt::Write;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use symphonia::core::audio::SampleBuffer;
use symphonia::core::errors::Error;
use symphonia::core::io::MediaSourceStream;

use super::recordings::{self, Origin};
use crate::workspace::Workspace;

/// The data set's name.
pub(super) const NAME: &str = "drums";

/// The package of the distribution with the samples, and the folder in it.
const PACKAGE: &str = "sonic-pi-samples";
const FOLDER: &str = "usr/share/sonic-pi/samples";

/// The classes, and the beginnings or whole names of their samples.
const CLASSES: [(&str, &[&str]); 6] = [
    (
        "cymbal",
        &[
            "drum_cymbal_",
            "drum_splash_",
            "elec_cymbal",
            "elec_triangle",
        ],
    ),
    (
        "kick",
        &[
            "bd_",
            "drum_heavy_kick",
            "drum_bass_",
            "elec_hollow_kick",
            "elec_soft_kick",
        ],
    ),
    (
        "perc",
        &[
            "drum_cowbell",
            "elec_b",
            "elec_p",
            "elec_t",
            "elec_wood",
            "elec_flip",
            "perc_bell",
            "perc_snap",
            "glitch_perc",
        ],
    ),
    (
        "snare",
        &[
            "sn_",
            "drum_snare_",
            "elec_snare",
            "elec_hi_snare",
            "elec_lo_snare",
            "elec_mid_snare",
            "elec_filt_snare",
        ],
    ),
    ("tabla", &["tabla_"]),
    ("tom", &["drum_tom_", "elec_fuzz_tom"]),
];

/// Each sample is played faster and slower by so many semitones, as a tape is.
const SEMITONES: std::ops::RangeInclusive<i32> = -4..=4;

/// Seconds that are kept of a sample.
const SECONDS: u32 = 2;

/// Whether all recordings are there.
pub(super) fn is_complete(folder: &Path) -> bool {
    recordings::is_whole(folder)
}

/// Put the recordings into `datasets/drums`, a folder for each class, with a table and a list that keeps all speeds of a
/// sample in one split.
///
/// # Errors
/// The package cannot be had, and `from` is not given; the file system refuses.
pub(super) fn fetch(workspace: &Workspace, from: Option<&Path>) -> Result<()> {
    let folder = workspace.datasets().join(NAME);
    if from.is_none() && is_complete(&folder) {
        eprintln!("{NAME}: {} is complete", workspace.shown(&folder));
        return Ok(());
    }
    let unpacked = tempfile::tempdir()?;
    let (samples, source) = match from {
        Some(from) => (from.to_owned(), from.display().to_string()),
        None => samples(unpacked.path())?,
    };
    let n_recordings = write(&samples, &folder)?;
    let origin = Origin {
        description: "single hits of drums at nine speeds".to_owned(),
        license: "CC0 1.0".to_owned(),
        source,
        n_recordings,
    };
    eprintln!(
        "{NAME}: {} ({}; {})",
        origin.description, origin.license, origin.source
    );
    recordings::finish(&folder, &origin)?;
    eprintln!(
        "{NAME}: {} holds its {n_recordings} recordings",
        workspace.shown(&folder)
    );
    Ok(())
}

/// The folder of the samples: where the package is installed, or what the package holds.
fn samples(unpacked: &Path) -> Result<(PathBuf, String)> {
    let installed = Path::new("/").join(FOLDER);
    let source = format!("Debian's package {PACKAGE}, https://sonic-pi.net");
    if installed.is_dir() {
        return Ok((installed, source));
    }
    let help = format!(
        "install {PACKAGE} (apt install {PACKAGE}), or give the folder etc/samples of Sonic Pi with --from FOLDER"
    );
    let run = |program: &str, arguments: &[&str]| -> Result<()> {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(unpacked)
            .output();
        let output = output.with_context(|| format!("{program} does not start: {help}"))?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        ensure!(
            output.status.success(),
            "{program} {}: {said}: {help}",
            arguments.join(" ")
        );
        Ok(())
    };
    run("apt-get", &["download", PACKAGE])?;
    let package = fs::read_dir(unpacked)?.filter_map(|entry| Some(entry.ok()?.path()));
    let package = package
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "deb"));
    let Some(package) = package else {
        bail!("apt-get brought no package: {help}")
    };
    run("dpkg-deb", &["-x", &package.display().to_string(), "."])?;
    Ok((unpacked.join(FOLDER), source))
}

/// Writes the recordings of a folder of samples, and returns their number.
fn write(samples: &Path, folder: &Path) -> Result<usize> {
    let mut names: Vec<String> = fs::read_dir(samples)
        .with_context(|| format!("cannot read {}", samples.display()))?
        .filter_map(|entry| {
            entry
                .ok()?
                .file_name()
                .to_str()?
                .strip_suffix(".flac")
                .map(str::to_owned)
        })
        .collect();
    names.sort();
    let of_classes = names
        .iter()
        .filter_map(|name| Some((name, class_of(name)?)));
    let of_classes: Vec<(&String, &str)> = of_classes.collect();
    ensure!(
        !of_classes.is_empty(),
        "{}: holds no drums in .flac files",
        samples.display()
    );
    recordings::begin(folder)?;
    let (mut table, mut list, mut n) = ("file,semitones\n".to_owned(), String::new(), 0);
    let mut n_of_class = std::collections::BTreeMap::new();
    for (name, class) in of_classes {
        let position = n_of_class.entry(class).or_insert(0_usize);
        // Of each class the fifth sample, and then every eighth, is for testing, and the one after it for validation.
        let part = match *position % 8 {
            4 => 2,
            5 => 1,
            _ => 0,
        };
        *position += 1;
        fs::create_dir_all(folder.join(class))?;
        let path = samples.join(format!("{name}.flac"));
        let (sound, rate) = mono(&path).with_context(|| path.display().to_string())?;
        for semitones in SEMITONES {
            let played = (f64::from(rate) * 2_f64.powf(f64::from(semitones) / 12.0)).round() as u32;
            let file = format!("{class}/{name}{semitones:+}.wav");
            let n_kept = sound.len().min((SECONDS * played) as usize);
            fs::write(
                folder.join(&file),
                recordings::wav(&sound[..n_kept], played),
            )?;
            writeln!(table, "{file},{semitones}")?;
            writeln!(list, "{file} {part}")?;
            n += 1;
        }
    }
    fs::write(folder.join("labels.csv"), table)?;
    fs::write(folder.join("list_eval_partition.txt"), list)?;
    Ok(n)
}

fn class_of(name: &str) -> Option<&'static str> {
    let is_in = |names: &[&str]| names.iter().any(|known| name.starts_with(known));
    CLASSES
        .iter()
        .find(|(_, names)| is_in(names))
        .map(|(class, _)| *class)
}

/// The mean of the channels of a FLAC file, and its rate.
fn mono(path: &Path) -> Result<(Vec<f32>, u32)> {
    let source = MediaSourceStream::new(Box::new(Cursor::new(fs::read(path)?)), Default::default());
    let probed = symphonia::default::get_probe().format(
        &Default::default(),
        source,
        &Default::default(),
        &Default::default(),
    )?;
    let mut format = probed.format;
    let params = format
        .default_track()
        .context("holds no sound")?
        .codec_params
        .clone();
    let mut decoder = symphonia::default::get_codecs().make(&params, &Default::default())?;
    let (mut sound, mut rate) = (Vec::new(), 0);
    loop {
        let packet = match format.next_packet() {
            Ok(packet) => packet,
            Err(Error::IoError(_)) => break,
            Err(error) => return Err(error.into()),
        };
        let buffer = decoder.decode(&packet)?;
        let spec = *buffer.spec();
        rate = spec.rate;
        let n_channels = spec.channels.count();
        let mut samples = SampleBuffer::<f32>::new(buffer.capacity() as u64, spec);
        samples.copy_interleaved_ref(buffer);
        let moments = samples.samples().chunks_exact(n_channels);
        sound.extend(moments.map(|moment| moment.iter().sum::<f32>() / n_channels as f32));
    }
    ensure!(!sound.is_empty(), "has no samples");
    Ok((sound, rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_has_the_class_of_its_name() {
        for (name, class) in [
            ("bd_808", Some("kick")),
            ("drum_bass_hard", Some("kick")),
            ("elec_blip", Some("perc")),
            ("elec_hi_snare", Some("snare")),
            ("drum_tom_lo_soft", Some("tom")),
            ("elec_triangle", Some("cymbal")),
            ("loop_amen", None),
            ("bass_dnb_f", None),
        ] {
            assert_eq!(class_of(name), class, "{name}");
        }
    }
}
