//! `vae decode`: items from latents.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use image::ImageFormat;
use serde_json::json;
use tch::{Device, Kind, Tensor, no_grad};
use tracing::warn;
use vae_run::Session;
use vae_view::format::{Content, check_name};
use vae_view::{picture, tiles};

use super::sounds::{self, Out, is_track};
use super::{RunArgs, items_file, texts};
use crate::Done;
use crate::arrays::{CODE, Latents, LatentsReader, MEAN};
use crate::output::{self, out};
use crate::progress::ImageCount;

/// The number of latents that are decoded at once.
const N_AT_A_TIME: usize = 250;

/// The most items in one picture or array.
const N_IN_PICTURE: usize = 10_000;

/// Decode latents of a .parquet, .csv, .npy or .safetensors file: a PNG for each, one grid of all, or an array
///
/// Reads the files of `vae encode`, or another table: the columns mean_0, mean_1, … or, if there are none, all numeric columns (an
/// .npy or .safetensors array [N, Z]), as many as the model has latent dimensions. Images are named after the column `file` if
/// there is one, else after their row; if two have the same name, or a file cannot have it, the row number is added.
///
/// With --codes the file has codes instead, as `vae encode --codes` writes them: the columns code_0, code_1, … or integers [N, n].
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae decode runs/mnist latents.parquet --out images/       a PNG for each row
  vae decode runs/mnist latents.npy --out grid.png          all in one picture
  vae decode runs/mnist latents.csv --out row.png --columns 20
  vae decode runs/vq-vae codes.npy --codes --out grid.png
  vae decode runs/series latents.npy --out decoded.npy     the items themselves, for NumPy")]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,

    /// The file of latents
    #[arg(value_name = "LATENTS")]
    latents: PathBuf,

    /// A folder for a PNG of each latent (of a model of sound also a WAV file, of melodies also a MIDI file), new or empty; or, ending in .png, one picture of
    /// all (at most 10,000); or, ending in .npy, an array of the items; or, ending in .wav (of melodies also .mid), all sounds one
    /// after another; of texts a text, ending in .txt
    #[arg(
        long,
        short,
        value_name = "DIR|FILE.png|FILE.npy|FILE.wav|FILE.mid|FILE.txt"
    )]
    out: PathBuf,

    /// The file has codes instead of latents, for models whose latents are codes
    #[arg(long)]
    codes: bool,

    /// Images in a row of the picture [default: as many as there are rows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    columns: Option<u32>,

    /// Print JSON instead of the name of the folder or picture
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let ending = args.out.extension().unwrap_or_default();
    let is_picture = ImageFormat::from_extension(ending).is_some()
        || ["svg", "mp4"]
            .iter()
            .any(|other| ending.eq_ignore_ascii_case(other));
    if is_picture {
        check_name(&args.out, Content::Picture)?;
    }
    ensure!(
        is_picture || args.columns.is_none(),
        "--columns is for one picture of all: {} is none",
        args.out.display()
    );
    let run = args.run.open()?;
    let has_texts = texts::check_name(run.vae(), Some(&args.out))?;
    let mut latents = match args.codes {
        true => {
            let (_, n_slots) = super::codes::quantizer(&run)?;
            LatentsReader::open(&args.latents, CODE, n_slots as usize)?
        }
        false => {
            let latent_dims = run.vae().config().n_latents() as usize;
            LatentsReader::open(&args.latents, MEAN, latent_dims)?
        }
    };
    let mut count = ImageCount::new(latents.n_rows());
    let is_track = Out::of(run.vae().item(), &args.out)? == Out::Track;
    let n_images = match is_picture || is_track || has_texts || items_file::is_array(&args.out) {
        true => one_file(&args, &run, &mut latents, &mut count)?,
        false => one_file_each(&args, &run, &mut latents, &mut count)?,
    };
    let images_per_s = count.finish();
    if args.json {
        let out = &args.out;
        out!(
            "{}",
            json!({ "out": out, "n_images": n_images, "images_per_s": images_per_s })
        );
    } else {
        output::print_path(&args.out);
    }
    Ok(Done::Fully)
}

/// Mean items [n, C, H, W] on the CPU, images in [0, 1].
fn decoded(args: &Args, run: &Session, latents: &Latents) -> Result<Tensor> {
    let values = Tensor::from_slice(&latents.values).view([latents.n_rows as i64, -1]);
    let values = match args.codes {
        true => {
            // Codes are integers that f32 holds exactly.
            let path = args.latents.display();
            let codes = values.to_kind(Kind::Int64);
            ensure!(
                codes.to_kind(Kind::Float) == values,
                "{path}: found numbers with a fraction, expected codes"
            );
            run.vae()
                .latents_of_codes(&codes)
                .with_context(|| path.to_string())?
        }
        false => values,
    };
    let condition = run.condition_alone();
    let condition = condition.map(|row| row.repeat([latents.n_rows as i64, 1]));
    let values = (&values, condition.as_ref());
    Ok(no_grad(|| run.vae().decode(values))?.to_device(Device::Cpu))
}

/// One picture, or one array.
fn one_file(
    args: &Args,
    run: &Session,
    latents: &mut LatentsReader,
    count: &mut ImageCount,
) -> Result<usize> {
    let (mut images, mut n_images) = (Vec::new(), 0);
    while let Some(rows) = latents.read(N_AT_A_TIME)? {
        n_images += rows.n_rows;
        ensure!(
            n_images <= N_IN_PICTURE && latents.n_rows().is_none_or(|n| n <= N_IN_PICTURE),
            "{}: more than {N_IN_PICTURE} latents, too many for one file; give a folder",
            args.latents.display()
        );
        images.push(decoded(args, run, &rows)?);
        count.add(rows.n_rows);
    }
    ensure!(n_images > 0, "{}: holds no latents", args.latents.display());
    let columns = match args.columns {
        Some(columns) => columns as usize,
        None => (n_images as f64).sqrt().ceil() as usize,
    };
    let items = Tensor::cat(&images, 0);
    if let Some(found) = texts::of(run.vae(), &items)? {
        texts::write(&found, &args.out)?;
        return Ok(n_images);
    }
    match items_file::is_array(&args.out) {
        true => items_file::save(run.vae().item(), &items, &args.out)?,
        false if is_track(&args.out) => sounds::save_track(run.vae().item(), &items, &args.out)?,
        false => {
            let tiles = tiles(run.vae().item(), &items)?;
            picture::save(&picture::grid(&tiles, columns, 2)?, &args.out)?;
        }
    }
    Ok(n_images)
}

fn one_file_each(
    args: &Args,
    run: &Session,
    latents: &mut LatentsReader,
    count: &mut ImageCount,
) -> Result<usize> {
    let out = args.out.as_path();
    let is_taken = || format!("{}: already exists; give a new folder", out.display());
    match fs::read_dir(out) {
        Ok(mut entries) => ensure!(entries.next().is_none(), is_taken()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(_) => bail!(is_taken()),
    }
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".images-");
    // Temporary folders are private by default; the final one gets the ordinary mode under the umask.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
    let partial = builder
        .tempdir_in(parent)
        .with_context(|| out.display().to_string())?;
    let (mut n_images, mut renamed) = (0, Vec::new());
    while let Some(rows) = latents.read(N_AT_A_TIME)? {
        let items = decoded(args, run, &rows)?;
        let item = run.vae().item();
        let images = tiles(item, &items)?;
        for i in 0..rows.n_rows {
            let row = n_images + i;
            let image = picture::grid(&images.narrow(0, i as i64, 1), 1, 0)?;
            let png = picture::png(&image, out)?;
            let asked = rows.names.as_ref().map(|names| names[i].as_str());
            let name = write_new(partial.path(), asked, row, &png)
                .with_context(|| out.display().to_string())?;
            if item.has_sound() {
                let stem = name.with_extension("").display().to_string();
                let one = items.narrow(0, i as i64, 1);
                sounds::save_each(item, &one, &[(stem, vec![0])], partial.path())?;
            }
            if let Some(asked) = asked
                && safe_name(asked).as_ref() != Some(&name)
            {
                renamed.push((row, asked.to_owned(), name));
            }
        }
        n_images += rows.n_rows;
        count.add(rows.n_rows);
    }
    ensure!(n_images > 0, "{}: holds no latents", args.latents.display());
    let common = common_folder(partial.path()).with_context(|| out.display().to_string())?;
    fs::rename(&common, out).with_context(|| out.display().to_string())?;
    if common == partial.path() {
        let _ = partial.keep(); // Under its new name.
    }
    warn_of_renamed(&renamed);
    Ok(n_images)
}

/// The innermost folder below `folder` that has everything in it: latents of `datasets/mnist/t10k-images-idx3-ubyte#7` need no
/// such folders.
fn common_folder(folder: &Path) -> io::Result<PathBuf> {
    let mut common = folder.to_owned();
    loop {
        let mut entries = fs::read_dir(&common)?;
        match (entries.next().transpose()?, entries.next()) {
            (Some(only), None) if only.file_type()?.is_dir() => common = only.path(),
            _ => return Ok(common),
        }
    }
}

/// Writes the image of a row below `folder` under an unused name, and returns it: the requested one if the file system accepts it,
/// else one with the row number.
fn write_new(folder: &Path, asked: Option<&str>, row: usize, png: &[u8]) -> io::Result<PathBuf> {
    let asked = asked.and_then(safe_name);
    let beside = asked.as_ref().map(|name| {
        let stem = name.file_stem().unwrap_or_default().to_string_lossy();
        name.with_file_name(format!("{stem}-{row}.png"))
    });
    let numbered = std::iter::once(format!("{row:08}.png"))
        .chain((2..).map(|i| format!("{row:08}-{i}.png")))
        .map(PathBuf::from);
    for name in asked.into_iter().chain(beside).chain(numbered) {
        let path = folder.join(&name);
        let created = path
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| File::create_new(&path));
        match created {
            Ok(mut file) => return file.write_all(png).map(|()| name),
            Err(error) if is_of_the_name(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::AlreadyExists.into()) // There are more numbers than files.
}

/// Whether another name may work: this one is taken (also by a folder, or in other letter case), too long, or refused by the file
/// system.
fn is_of_the_name(error: &io::Error) -> bool {
    // EILSEQ, from file systems that require UTF-8 or forbid control characters, has no error kind.
    matches!(
        error.kind(),
        ErrorKind::AlreadyExists
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::InvalidFilename
            | ErrorKind::InvalidInput
    ) || error.raw_os_error() == Some(libc::EILSEQ)
}

/// Warns about images that could not be named after their latents.
fn warn_of_renamed(renamed: &[(usize, String, PathBuf)]) {
    const N_LISTED: usize = 10;
    for (row, asked, name) in renamed.iter().take(N_LISTED) {
        let asked = match asked.char_indices().nth(60) {
            Some((end, _)) => format!("{}…", &asked[..end]),
            None => asked.clone(),
        };
        let name = name.display();
        warn!("row {row}: the name {asked} is taken or not possible; its image is {name}");
    }
    if renamed.len() > N_LISTED {
        let n = renamed.len() - N_LISTED;
        warn!("{n} more images have another name than their latents");
    }
}

/// The path of an image below the folder: that of its file with the ending .png, without parts that would lead out of the folder.
/// None if nothing remains.
fn safe_name(file: &str) -> Option<PathBuf> {
    let parts = Path::new(file)
        .components()
        .filter_map(|component| match component {
            Component::Normal(part) => part.to_str(),
            _ => None,
        });
    let path: PathBuf = parts.collect();
    let name = path.file_name()?.to_str()?;
    match name.to_ascii_lowercase().ends_with(".png") {
        true => Some(path),
        false => Some(path.with_file_name(format!("{name}.png"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_the_folder_and_end_in_png() {
        for (file, wanted) in [
            ("a.png", Some("a.png")),
            ("b/c.jpg", Some("b/c.jpg.png")),
            ("../../etc/passwd", Some("etc/passwd.png")),
            ("/data/x.PNG", Some("data/x.PNG")),
            (
                "data/t10k-images-idx3-ubyte.gz#7",
                Some("data/t10k-images-idx3-ubyte.gz#7.png"),
            ),
            ("..", None),
            ("", None),
        ] {
            assert_eq!(safe_name(file), wanted.map(PathBuf::from), "{file}");
        }
    }

    #[test]
    fn folders_that_all_names_have_in_common_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a/b/c/1.png", "a/b/2.png"] {
            write_new(folder.path(), Some(name), 0, b"").unwrap();
        }
        let common = common_folder(folder.path()).unwrap();
        assert_eq!(common, folder.path().join("a/b"));
        write_new(folder.path(), Some("3.png"), 0, b"").unwrap();
        assert_eq!(common_folder(folder.path()).unwrap(), folder.path());
    }

    #[test]
    fn every_row_gets_a_file_whatever_the_names() {
        let folder = tempfile::tempdir().unwrap();
        let long = "x".repeat(300);
        let rows = [
            (Some("a"), "a.png"),
            (Some("a"), "a-1.png"),
            (Some("a.png"), "a-2.png"),
            (Some("a.png/b"), "00000003.png"),
            (Some("b.png/c"), "b.png/c.png"),
            (Some("b.png"), "b-5.png"),
            (Some(&long), "00000006.png"),
            (Some("nul\0"), "00000007.png"),
            (Some("00000009"), "00000009.png"),
            (Some(".."), "00000009-2.png"),
            (None, "00000010.png"),
        ];
        for (row, (asked, wanted)) in rows.into_iter().enumerate() {
            let name = write_new(folder.path(), asked, row, &[row as u8]).unwrap();
            assert_eq!(name, Path::new(wanted), "row {row}");
        }
        for (row, (_, wanted)) in rows.into_iter().enumerate() {
            assert_eq!(fs::read(folder.path().join(wanted)).unwrap(), [row as u8]);
        }
    }
}
