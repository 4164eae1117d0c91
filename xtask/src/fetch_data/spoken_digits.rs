//! `cargo xtask fetch-data spoken-digits`: the digits from zero to nine, spoken.
//!
//! `--from FOLDER` takes the recordings of the Free Spoken Digit Dataset (Jackson et al.), named DIGIT_SPEAKER_NUMBER.wav.
//! Without it the digits are synthesized by espeak-ng, in every combination of a voice, a pitch and a speed: "sprites of
//! sound", of which every factor is known.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use indicatif::ProgressBar;

use super::recordings::{self, Origin};
use crate::workspace::Workspace;

/// The data set's name.
pub(super) const NAME: &str = "spoken-digits";

const WORDS: [&str; 10] = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
];

/// Accents and variants of espeak-ng, and whether the voice is a woman's.
const VOICES: [(&str, bool); 12] = [
    ("en-us+m1", false),
    ("en-us+m3", false),
    ("en-us+m7", false),
    ("en-us+f1", true),
    ("en-us+f2", true),
    ("en-us+f4", true),
    ("en-gb+m2", false),
    ("en-gb+m4", false),
    ("en-gb+f3", true),
    ("en-gb+f5", true),
    ("en-gb-scotland+m3", false),
    ("en-gb-scotland+f2", true),
];

/// espeak-ng's unit: 50 is the voice's own.
const PITCHES: [u32; 5] = [20, 35, 50, 65, 80];

/// Words a minute.
const SPEEDS: [u32; 5] = [120, 140, 160, 180, 200];

const HEADER: &str = "file,digit,voice,female,pitch,speed\n";

/// The table of the recordings.
const TABLE: &str = "labels.csv";

/// Whether all recordings are there.
pub(super) fn is_complete(folder: &Path) -> bool {
    recordings::is_whole(folder)
}

/// Put the recordings into `datasets/spoken-digits`.
///
/// # Errors
/// espeak-ng is missing; the files at `from` are not those of the Free Spoken Digit Dataset; the file system refuses.
pub(super) fn fetch(workspace: &Workspace, from: Option<&Path>) -> Result<()> {
    let folder = workspace.datasets().join(NAME);
    let origin = match from {
        Some(from) => take(from, &folder)?,
        None if is_complete(&folder) => {
            eprintln!("{NAME}: {} is complete", workspace.shown(&folder));
            return Ok(());
        }
        None => synthesize(&folder)?,
    };
    eprintln!(
        "{NAME}: {} ({}; {})",
        origin.description, origin.license, origin.source
    );
    recordings::finish(&folder, &origin)?;
    eprintln!(
        "{NAME}: {} holds its {} recordings",
        workspace.shown(&folder),
        origin.n_recordings
    );
    Ok(())
}

fn synthesize(folder: &Path) -> Result<Origin> {
    let version = Command::new("espeak-ng").arg("--version").output();
    let version = version.context(
        "espeak-ng, which speaks the digits, does not start: install it (apt install espeak-ng), or give the recordings \
         of the Free Spoken Digit Dataset with --from FOLDER",
    )?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    recordings::begin(folder)?;
    let n = WORDS.len() * VOICES.len() * PITCHES.len() * SPEEDS.len();
    let bar = ProgressBar::new(n as u64);
    let mut table = HEADER.to_owned();
    for (digit, word) in WORDS.iter().enumerate() {
        for (voice, (name, is_female)) in VOICES.iter().enumerate() {
            for pitch in PITCHES {
                for speed in SPEEDS {
                    let file = format!("{digit}-{}-{pitch}-{speed}.wav", name.replace('+', "-"));
                    let status = Command::new("espeak-ng")
                        .args([
                            "-v",
                            name,
                            "-p",
                            &pitch.to_string(),
                            "-s",
                            &speed.to_string(),
                            "-w",
                        ])
                        .arg(folder.join(&file))
                        .arg(word)
                        .stderr(Stdio::null())
                        .status()
                        .context("espeak-ng does not start")?;
                    ensure!(status.success(), "espeak-ng -v {name} ended with {status}");
                    let female = u8::from(*is_female);
                    writeln!(table, "{file},{digit},{voice},{female},{pitch},{speed}")?;
                    bar.inc(1);
                }
            }
        }
    }
    bar.finish_and_clear();
    write(folder, TABLE, &table)?;
    Ok(Origin {
        description: format!(
            "digits spoken by {} synthetic voices at {} pitches and {} speeds",
            VOICES.len(),
            PITCHES.len(),
            SPEEDS.len()
        ),
        license: "the program's is GPL-3.0-or-later; what it says is yours".to_owned(),
        source: format!("computed here by {version}")
            .split("  Data at")
            .next()
            .unwrap_or_default()
            .to_owned(),
        n_recordings: n,
    })
}

/// Copies the recordings of the Free Spoken Digit Dataset, with its official division: the first five of each digit and
/// speaker are for testing.
fn take(from: &Path, folder: &Path) -> Result<Origin> {
    let mut found = BTreeSet::new();
    let entries = fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some((digit, speaker, number)) = parts(&name) {
            found.insert((digit, speaker, number, name));
        }
    }
    if found.is_empty() {
        bail!(
            "{}: holds no recording named DIGIT_SPEAKER_NUMBER.wav, as 7_jackson_3.wav (give the folder `recordings` of \
             the Free Spoken Digit Dataset)",
            from.display()
        );
    }
    let speakers: BTreeSet<&String> = found.iter().map(|(_, speaker, _, _)| speaker).collect();
    let speakers: Vec<&String> = speakers.into_iter().collect();
    recordings::begin(folder)?;
    let (mut table, mut list) = ("file,digit,voice\n".to_owned(), String::new());
    for (digit, speaker, number, name) in &found {
        let (source, target) = (from.join(name), folder.join(name));
        fs::copy(&source, &target).with_context(|| format!("cannot copy {}", source.display()))?;
        let voice = speakers.binary_search(&speaker).unwrap_or_default();
        writeln!(table, "{name},{digit},{voice}")?;
        writeln!(list, "{name} {}", if *number < 5 { 2 } else { 0 })?;
    }
    write(folder, TABLE, &table)?;
    write(folder, "list_eval_partition.txt", &list)?;
    Ok(Origin {
        description: format!("the Free Spoken Digit Dataset, {} speakers", speakers.len()),
        license: "CC BY-SA 4.0".to_owned(),
        source: "https://github.com/Jakobovski/free-spoken-digit-dataset".to_owned(),
        n_recordings: found.len(),
    })
}

/// Digit, speaker and number of a file name.
fn parts(name: &str) -> Option<(u8, String, u32)> {
    let mut parts = name.strip_suffix(".wav")?.split('_');
    let digit = parts.next()?.parse().ok().filter(|digit| *digit < 10)?;
    let speaker = parts.next()?.to_owned();
    let number = parts.next()?.parse().ok()?;
    parts.next().is_none().then_some((digit, speaker, number))
}

fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_free_spoken_digits_are_read() {
        assert_eq!(
            parts("7_jackson_32.wav"),
            Some((7, "jackson".to_owned(), 32))
        );
        for other in [
            "17_jackson_3.wav",
            "7_jackson.wav",
            "7_jackson_3.txt",
            "readme.wav",
        ] {
            assert_eq!(parts(other), None, "{other}");
        }
    }

    #[test]
    fn recordings_are_taken_with_their_official_division() {
        let from = tempfile::tempdir().unwrap();
        for name in ["3_theo_0.wav", "3_theo_7.wav", "0_anna_4.wav", "notes.txt"] {
            fs::write(from.path().join(name), "sound").unwrap();
        }
        let to = tempfile::tempdir().unwrap();
        let folder = to.path().join(NAME);
        let origin = take(from.path(), &folder).unwrap();
        assert_eq!(origin.n_recordings, 3);
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!(
            read(TABLE),
            "file,digit,voice\n0_anna_4.wav,0,0\n3_theo_0.wav,3,1\n3_theo_7.wav,3,1\n"
        );
        assert_eq!(
            read("list_eval_partition.txt"),
            "0_anna_4.wav 2\n3_theo_0.wav 2\n3_theo_7.wav 0\n"
        );
        assert!(!is_complete(&folder));
        recordings::finish(&folder, &origin).unwrap();
        assert!(is_complete(&folder));
    }
}
