//! Arrays of items in .npy files, for other programs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::builder::{PathBufValueParser, TypedValueParser};
use tch::{Device, Kind, Tensor};
use vae_base::{NpyHeader, write_whole};
use vae_model::ItemSpec;
use vae_view::format::{self, Content};

use super::sounds::is_track;
use super::texts;

/// Whether a file name is that of an array.
pub(super) fn is_array(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("npy"))
}

/// Parses the name of a picture or a text.
pub(super) fn picture_or_text_name() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| match texts::is_text(&path) {
        true => Ok(path),
        false => format::check_name(&path, Content::Picture).map(|_| path),
    })
}

/// Parses the name of a picture, an array, a text, a WAV or MIDI file or a folder, before anything is computed for it.
pub(super) fn picture_or_array_name() -> impl TypedValueParser<Value = PathBuf> {
    name_of_items(Content::Picture)
}

/// The same, where a picture may also move.
pub(super) fn steps_or_array_name() -> impl TypedValueParser<Value = PathBuf> {
    name_of_items(Content::Steps)
}

fn name_of_items(content: Content) -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(move |path| {
        match is_array(&path) || is_track(&path) || texts::is_text(&path) {
            true => Ok(path),
            false => format::check_name(&path, content).map(|_| path),
        }
    })
}

/// Writes items `[N, C, H, W]` as float32 in their own shape (`[N, D]`, `[N, C, T]` or `[N, C, H, W]`); images are
/// in `[0, 1]`. The file appears under its name only when it is whole.
pub(super) fn save(item: &ItemSpec, items: &Tensor, path: &Path) -> Result<()> {
    /// The length of the header: a multiple of 64 with room for any shape.
    const N_HEADER: usize = 128;
    let n = items.size()[0];
    let header = NpyHeader {
        descr: "<f4".to_owned(),
        fortran_order: false,
        shape: item
            .batch_shape(n)
            .into_iter()
            .map(|side| side as usize)
            .collect(),
    };
    let values = items.to_device(Device::Cpu).to_kind(Kind::Float);
    let values = Vec::<f32>::try_from(values.contiguous().view(-1))?;
    let mut bytes = header.to_bytes(N_HEADER);
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    write_whole(path, &bytes).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use vae_model::ItemKind;

    use super::*;

    #[test]
    fn items_have_their_own_shape_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.npy");
        let item = ItemSpec::new(ItemKind::Array, vec![2, 3]);
        let items = Tensor::arange(12, (Kind::Float, Device::Cpu)).view([2, 2, 1, 3]);
        save(&item, &items, &path).expect("written");
        let bytes = std::fs::read(&path).expect("read");
        let header = NpyHeader::read(&mut &bytes[..]).expect("a header");
        assert_eq!(header.shape, [2, 2, 3]);
        assert_eq!(bytes.len(), 128 + 12 * 4);
        assert_eq!(bytes[128 + 44..], 11_f32.to_le_bytes());
        assert!(is_array(Path::new("x.NPY")) && !is_array(Path::new("x.png")));
    }
}
