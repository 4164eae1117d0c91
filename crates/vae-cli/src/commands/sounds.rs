//! Sounds of items in WAV files, for models of sound.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image::DynamicImage;
use tch::Tensor;
use vae_model::ItemSpec;
use vae_view::picture;
use vae_view::sound::{Sound, sounds};

/// The picture in a folder of sounds.
const PICTURE: &str = "spectrograms.png";

/// What `--out` of a command is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Out {
    /// A folder for WAV files and a picture of their spectrograms.
    Folder,
    /// One WAV file of all sounds, one after another.
    Wav,
    /// Something else: a picture or an array.
    Other,
}

impl Out {
    /// For a model of these items a name without an ending is a folder of sounds.
    ///
    /// # Errors
    /// A WAV file of a model that is not of sound.
    pub(super) fn of(item: &ItemSpec, path: &Path) -> Result<Self> {
        let has_sound = item.rate().is_some();
        if is_wav(path) {
            ensure!(
                has_sound,
                "{}: WAV files are of models of sound ([dataset.audio_folder]), and this is one of other items",
                path.display()
            );
            return Ok(Self::Wav);
        }
        // Such as /dev/stdout.
        let is_special = path.exists() && !path.is_dir();
        Ok(
            match has_sound && path.extension().is_none() && !is_special {
                true => Self::Folder,
                false => Self::Other,
            },
        )
    }
}

/// Whether a file name is that of sound.
pub(super) fn is_wav(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("wav"))
}

/// Writes sounds into a folder, which is made where it is missing: a file for each, and their picture.
pub(super) fn save_folder(
    named: &[(String, &Sound)],
    picture: &DynamicImage,
    folder: &Path,
) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut files = Vec::new();
    for (name, sound) in named {
        let file = folder.join(format!("{name}.wav"));
        sound.save(&file)?;
        files.push(file);
    }
    let file = folder.join(PICTURE);
    picture::save(picture, &file)?;
    files.push(file);
    Ok(files)
}

/// Writes sounds one after another into a WAV file.
pub(super) fn save_one<'a>(all: impl IntoIterator<Item = &'a Sound>, path: &Path) -> Result<()> {
    let joined =
        Sound::joined(all).with_context(|| format!("{}: there are no sounds", path.display()))?;
    Ok(joined.save(path)?)
}

/// Writes decoded items as sound to a folder, with a picture of their spectrograms, or to one WAV file.
pub(super) fn save(
    item: &ItemSpec,
    items: &Tensor,
    name: &str,
    picture: impl FnOnce() -> Result<DynamicImage>,
    path: &Path,
) -> Result<Vec<PathBuf>> {
    let all = sounds(item, items)?;
    if is_wav(path) {
        save_one(&all, path)?;
        return Ok(vec![path.to_owned()]);
    }
    let named = all.iter().enumerate();
    let named: Vec<(String, &Sound)> = named
        .map(|(i, sound)| (format!("{name}-{:04}", i + 1), sound))
        .collect();
    save_folder(&named, &picture()?, path)
}
