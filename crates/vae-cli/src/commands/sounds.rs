//! Sounds of items in WAV files, for models of sound and melodies; those of melodies in MIDI files, too.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image::DynamicImage;
use tch::Tensor;
use vae_base::write_whole;
use vae_model::ItemSpec;
use vae_view::sound::{Sound, sounds};
use vae_view::{midi, picture};

/// What `--out` of a command is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Out {
    /// A folder for WAV files (of melodies MIDI files, too) and a picture of them.
    Folder,
    /// One WAV or MIDI file of all items, one after another.
    Track,
    /// Something else: a picture or an array.
    Other,
}

impl Out {
    /// For a model of these items a name without an ending is a folder of sounds.
    ///
    /// # Errors
    /// A WAV file of a model without sound, a MIDI file of one without melodies.
    pub(super) fn of(item: &ItemSpec, path: &Path) -> Result<Self> {
        if is_track(path) {
            ensure!(
                item.has_sound(),
                "{}: WAV files are of models of sound ([dataset.audio_folder]) or melodies ([dataset.melodies]), and this \
                 is one of {}",
                path.display(),
                item.noun(2)
            );
            ensure!(
                item.melody.is_some() || !has_ending(path, &MIDI),
                "{}: MIDI files are of models of melodies ([dataset.melodies]), and this is one of {}; a .wav file would fit",
                path.display(),
                item.noun(2)
            );
            return Ok(Self::Track);
        }
        // Such as /dev/stdout.
        let is_special = path.exists() && !path.is_dir();
        Ok(
            match item.has_sound() && path.extension().is_none() && !is_special {
                true => Self::Folder,
                false => Self::Other,
            },
        )
    }
}

const MIDI: [&str; 2] = ["mid", "midi"];

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    ending.is_some_and(|found| {
        endings
            .iter()
            .any(|known| found.eq_ignore_ascii_case(known))
    })
}

/// Whether a file name is that of sound or of notes: `.wav`, `.mid`, `.midi`.
pub(super) fn is_track(path: &Path) -> bool {
    has_ending(path, &["wav"]) || has_ending(path, &MIDI)
}

/// A file's name without its ending, and the positions of the items that follow one another in it.
pub(super) type Named = (String, Vec<i64>);

/// A file for each of `n` items, `NAME-0001` and so on.
pub(super) fn each(name: &str, n: i64) -> Vec<Named> {
    (0..n)
        .map(|i| (format!("{name}-{:04}", i + 1), vec![i]))
        .collect()
}

/// Writes decoded items into a folder, which is made where it is missing: a WAV file of each name, of melodies also a MIDI file,
/// and a picture.
pub(super) fn save_folder(
    item: &ItemSpec,
    items: &Tensor,
    named: &[Named],
    picture: &DynamicImage,
    folder: &Path,
) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut files = save_each(item, items, named, folder)?;
    let name = match item.melody {
        Some(_) => "piano-rolls.png",
        None => "spectrograms.png",
    };
    let file = folder.join(name);
    picture::save(picture, &file)?;
    files.push(file);
    Ok(files)
}

/// Writes the files of each name into a folder.
pub(super) fn save_each(
    item: &ItemSpec,
    items: &Tensor,
    named: &[Named],
    folder: &Path,
) -> Result<Vec<PathBuf>> {
    let all = sounds(item, items)?;
    let mut files = Vec::new();
    for (name, places) in named {
        let joined = Sound::joined(places.iter().filter_map(|&i| all.get(i as usize)));
        if let Some(joined) = joined {
            let file = folder.join(format!("{name}.wav"));
            joined.save(&file)?;
            files.push(file);
        }
        if item.melody.is_some() {
            let file = folder.join(format!("{name}.mid"));
            let of_these = items.index_select(0, &Tensor::from_slice(places).to(items.device()));
            save_midi(item, &of_these, &file)?;
            files.push(file);
        }
    }
    Ok(files)
}

/// Writes items one after another into one WAV or MIDI file.
pub(super) fn save_track(item: &ItemSpec, items: &Tensor, path: &Path) -> Result<()> {
    if has_ending(path, &MIDI) {
        return save_midi(item, items, path);
    }
    let joined = Sound::joined(&sounds(item, items)?)
        .with_context(|| format!("{}: there are no sounds", path.display()))?;
    Ok(joined.save(path)?)
}

fn save_midi(item: &ItemSpec, items: &Tensor, path: &Path) -> Result<()> {
    write_whole(path, &midi(item, items)?).with_context(|| path.display().to_string())
}
