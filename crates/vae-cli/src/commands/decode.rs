//! `vae decode`: images of latents.

use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tch::{Device, Tensor, no_grad};
use vae_model::Vae;
use vae_train::picture;

use super::RunArgs;
use crate::Done;
use crate::arrays::{Latents, LatentsReader};
use crate::progress::ImageCount;

/// Latents decoded at a time.
const N_AT_A_TIME: usize = 250;

/// Images that one picture holds at most.
const N_IN_PICTURE: usize = 10_000;

/// Decode latents of a .parquet, .csv, .npy or .safetensors file: a PNG for each, or one grid of all
///
/// Reads what `vae encode` writes, or another table: the columns mean_0, mean_1, … or, where there are
/// none, every column of numbers (an .npy or .safetensors array [N, Z]), as many as the model has latent
/// dimensions. Images are named by the column `file` where there is one, or by their row.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae decode runs/mnist latents.parquet --out images/       a PNG for each row
  vae decode runs/mnist latents.npy --out grid.png          all in one picture
  vae decode runs/mnist latents.csv --out row.png --columns 20")]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,

    /// The file of latents
    #[arg(value_name = "LATENTS")]
    latents: PathBuf,

    /// A folder for a PNG of each latent, new or empty; or, ending in .png, one picture of all (at
    /// most 10,000)
    #[arg(long, short, value_name = "DIR|FILE.png")]
    out: PathBuf,

    /// Images in a row of the picture [default: as many as rows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    columns: Option<u32>,

    /// Print JSON instead of the name of the folder or picture
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let is_picture = args
        .out
        .extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("png"));
    ensure!(
        is_picture || args.columns.is_none(),
        "--columns is for one picture of all: {} does not end in .png",
        args.out.display()
    );
    let run = args.run.open()?;
    let latent_dims = run.vae.config().latent_dims as usize;
    let mut latents = LatentsReader::open(&args.latents, latent_dims)?;
    let mut count = ImageCount::new(latents.n_rows());
    let n_images = match is_picture {
        true => one_picture(&args, &run.vae, &mut latents, &mut count)?,
        false => one_file_each(&args, &run.vae, &mut latents, &mut count)?,
    };
    let images_per_s = count.finish();
    if args.json {
        let out = &args.out;
        println!(
            "{}",
            json!({ "out": out, "n_images": n_images, "images_per_s": images_per_s })
        );
    } else {
        println!("{}", args.out.display());
    }
    Ok(Done::Fully)
}

/// Mean images in [0, 1], [n, C, H, W] on the CPU.
fn decoded(vae: &Vae, latents: &Latents) -> Result<Tensor> {
    let values = Tensor::from_slice(&latents.values).view([latents.n_rows as i64, -1]);
    Ok(no_grad(|| vae.decode(&values))?.to_device(Device::Cpu))
}

fn one_picture(
    args: &Args,
    vae: &Vae,
    latents: &mut LatentsReader,
    count: &mut ImageCount,
) -> Result<usize> {
    let (mut images, mut n_images) = (Vec::new(), 0);
    while let Some(rows) = latents.read(N_AT_A_TIME)? {
        n_images += rows.n_rows;
        ensure!(
            n_images <= N_IN_PICTURE && latents.n_rows().is_none_or(|n| n <= N_IN_PICTURE),
            "{}: more than {N_IN_PICTURE} latents, too many for one picture; give a folder",
            args.latents.display()
        );
        images.push(decoded(vae, &rows)?);
        count.add(rows.n_rows);
    }
    ensure!(n_images > 0, "{}: holds no latents", args.latents.display());
    let columns = match args.columns {
        Some(columns) => columns as usize,
        None => (n_images as f64).sqrt().ceil() as usize,
    };
    picture::save(
        &picture::grid(&Tensor::cat(&images, 0), columns, 2)?,
        &args.out,
    )?;
    Ok(n_images)
}

fn one_file_each(
    args: &Args,
    vae: &Vae,
    latents: &mut LatentsReader,
    count: &mut ImageCount,
) -> Result<usize> {
    let out = args.out.as_path();
    let is_taken = || format!("{}: is there already; give a new folder", out.display());
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
    // Temporary folders are private by default; what stays is an ordinary one under the umask.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
    let partial = builder
        .tempdir_in(parent)
        .with_context(|| out.display().to_string())?;
    let mut n_images = 0;
    while let Some(rows) = latents.read(N_AT_A_TIME)? {
        let images = decoded(vae, &rows)?;
        for i in 0..rows.n_rows {
            let row = n_images + i;
            let name = match &rows.names {
                Some(names) => safe_name(&names[i], row),
                None => format!("{row:08}.png").into(),
            };
            let mut path = partial.path().join(&name);
            if path.exists() {
                path.set_file_name(format!("{row:08}.png")); // Two rows of one name.
            }
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            }
            let image = images.narrow(0, i as i64, 1);
            // The folder is what appears only when it is whole.
            picture::grid(&image, 1, 0)?
                .save(&path)
                .with_context(|| path.display().to_string())?;
        }
        n_images += rows.n_rows;
        count.add(rows.n_rows);
    }
    ensure!(n_images > 0, "{}: holds no latents", args.latents.display());
    fs::rename(partial.path(), out).with_context(|| out.display().to_string())?;
    let _ = partial.keep(); // Under its new name.
    Ok(n_images)
}

/// The path of an image below the folder: that of its file, without what would lead out of it, as PNG.
fn safe_name(file: &str, row: usize) -> PathBuf {
    let parts = Path::new(file)
        .components()
        .filter_map(|component| match component {
            Component::Normal(part) => part.to_str(),
            _ => None,
        });
    let path: PathBuf = parts.collect();
    match path.file_name().and_then(|name| name.to_str()) {
        None => format!("{row:08}.png").into(),
        Some(name) if name.to_ascii_lowercase().ends_with(".png") => path,
        Some(name) => path.with_file_name(format!("{name}.png")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_the_folder_and_end_in_png() {
        for (file, wanted) in [
            ("a.png", "a.png"),
            ("b/c.jpg", "b/c.jpg.png"),
            ("../../etc/passwd", "etc/passwd.png"),
            ("/data/x.PNG", "data/x.PNG"),
            (
                "data/t10k-images-idx3-ubyte.gz#7",
                "data/t10k-images-idx3-ubyte.gz#7.png",
            ),
            ("..", "00000003.png"),
            ("", "00000003.png"),
        ] {
            assert_eq!(safe_name(file, 3), PathBuf::from(wanted), "{file}");
        }
    }
}
