//! Models of several runs on the same images: values image by image, reconstructions and samples.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use image::imageops::FilterType;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor, no_grad};
use vae_base::derive_seed;
use vae_eval::{Better, Estimate, Verdict, paired};
use vae_model::{LatentSource, Mode};
use vae_run::Session;
use vae_view::labeled::Labeled;
use vae_view::picture::{self, Pixels};
use vae_view::ticks::decimal;
use vae_view::{as_decoded, tiles};

use super::table::{self, Listing};
use crate::output::out;

/// The images on which the models are measured.
const N_MEASURED: usize = 500;

/// The images of the picture, and the samples.
const N_SHOWN: i64 = 10;

/// What the models make of the same images.
pub(super) struct Measured {
    pub(super) table: Listing,
    pub(super) json: Value,
    /// None of tokens.
    pub(super) picture: Option<SideBySide>,
}

/// A grid with a row for each run.
pub(super) struct SideBySide {
    pub(super) labeled: Labeled,
    pub(super) tiles: Tensor,
    pub(super) columns: usize,
}

/// Values of each image by a model.
struct Values {
    elbo: Option<Vec<f64>>,
    error: Option<Vec<f64>>,
    /// Originals, reconstructions and samples as pictures.
    shown: Option<[Option<Tensor>; 3]>,
}

/// Opens the best checkpoints of the runs, and measures them on the first validation images, or training images of runs without.
pub(super) fn measured(paths: &[PathBuf], device: Device) -> Result<Measured> {
    let mut images: Option<Tensor> = None;
    let (mut names, mut all, mut split) = (Vec::new(), Vec::new(), "validation");
    for path in paths {
        let run = Session::open(path, device)?;
        let splits = run.splits()?;
        let dataset = match &splits.validation {
            Some(validation) => validation.truncated(N_MEASURED),
            None => {
                split = "training";
                splits.train.truncated(N_MEASURED)
            }
        };
        let rows: Vec<usize> = (0..dataset.len()).collect();
        let batch = dataset.batch(&rows)?;
        match &images {
            None => images = Some(batch.items.shallow_clone()),
            Some(first) => {
                let is_same = first.size() == batch.items.size() && first.f_equal(&batch.items)?;
                ensure!(is_same, "{} has other {split} images", path.display());
            }
        }
        all.push(values(&run, &batch.items, batch.condition.as_ref())?);
        names.push(path.display().to_string());
    }
    let n_images = images.as_ref().map_or(0, |images| images.size()[0]);
    ensure!(n_images > 1, "there are too few images");
    let lists = [
        ("elbo ↑, nats per image", Better::Higher, 2, "elbo"),
        (
            "squared error of the reconstruction ↓",
            Better::Lower,
            5,
            "mse",
        ),
    ];
    let (mut rows, mut found) = (Vec::new(), json!({ "n_images": n_images, "split": split }));
    for (title, better, decimals, key) in lists {
        let of_key: Vec<Option<Vec<f64>>> = all
            .iter()
            .map(|values| match key {
                "elbo" => values.elbo.clone(),
                _ => values.error.clone(),
            })
            .collect();
        if of_key.iter().filter(|values| values.is_some()).count() < 2 {
            continue;
        }
        let verdicts = paired(&of_key, better);
        let cells = verdicts.iter().map(|found| cell(*found, decimals));
        rows.push(std::iter::once(title.to_owned()).chain(cells).collect());
        found[key] = verdicts.iter().map(|found| in_json(*found)).collect();
    }
    if rows.is_empty() {
        bail!("the models have no number in common");
    }
    let header = std::iter::once(format!("{n_images} {split} images")).chain(names.clone());
    let table = Listing {
        title: format!("On the same {n_images} {split} images"),
        header: header.collect(),
        rows,
        notes: vec![
            "± is one standard error over the images; ≈ best: the difference, image by image, is within the noise"
                .to_owned(),
        ],
    };
    Ok(Measured {
        table,
        json: found,
        picture: picture_of(&names, all, split)?,
    })
}

fn cell(found: Option<(Estimate, Verdict)>, decimals: usize) -> String {
    let Some((Estimate { value, error }, verdict)) = found else {
        return table::UNKNOWN.to_owned();
    };
    let error = error.map_or(String::new(), |error| {
        format!(" ± {}", decimal(error, decimals))
    });
    format!("{}{error}  {verdict}", decimal(value, decimals))
}

fn in_json(found: Option<(Estimate, Verdict)>) -> Value {
    let Some((Estimate { value, error }, verdict)) = found else {
        return Value::Null;
    };
    let (verdict, by, by_error) = match verdict {
        Verdict::Best => ("best", None, None),
        Verdict::AsGood => ("within the noise", None, None),
        Verdict::Worse { by, error } => ("worse", Some(by), error),
    };
    json!({ "value": value, "error": error, "verdict": verdict, "worse_by": by, "worse_by_error": by_error })
}

fn values(run: &Session, images: &Tensor, condition: Option<&Tensor>) -> Result<Values> {
    const N_AT_A_TIME: i64 = 100;
    let vae = run.vae();
    let numbers = |parts: &[Tensor]| -> Result<Vec<f64>> {
        Ok(Vec::<f64>::try_from(
            Tensor::cat(parts, 0)
                .to_kind(Kind::Double)
                .to_device(Device::Cpu),
        )?)
    };
    // The same noise for every model with as many dimensions.
    let mut noise = vae.generator(derive_seed(0, 0, "comparison"));
    let (mut elbos, mut errors) = (Vec::new(), Vec::new());
    let n = images.size()[0];
    for start in (0..n).step_by(N_AT_A_TIME as usize) {
        if !vae.has_encoder() {
            break;
        }
        let length = N_AT_A_TIME.min(n - start);
        let items = images.narrow(0, start, length).to_device(vae.device());
        let known = condition.map(|known| known.narrow(0, start, length).to_device(vae.device()));
        no_grad(|| -> Result<()> {
            let terms = vae
                .draw((&items, known.as_ref()), 1, Mode::Evaluate, &mut noise)?
                .terms;
            elbos.extend(terms.elbo());
            if !vae.item().is_tokens() {
                let again = vae
                    .reconstruct((&items, known.as_ref()))?
                    .to_device(Device::Cpu);
                let offsets = as_decoded(vae.item(), &items) - again;
                let squares = offsets.square().flatten(1, -1);
                errors.push(squares.mean_dim([1_i64].as_slice(), false, Kind::Double));
            }
            Ok(())
        })?;
    }
    let some = |parts: Vec<Tensor>| match parts.is_empty() {
        true => Ok(None),
        false => numbers(&parts).map(Some),
    };
    let shown = match vae.item().is_tokens() {
        true => None,
        false => Some(no_grad(|| shown(run, images, condition))?),
    };
    Ok(Values {
        elbo: some(elbos)?,
        error: some(errors)?,
        shown,
    })
}

fn shown(
    run: &Session,
    images: &Tensor,
    condition: Option<&Tensor>,
) -> Result<[Option<Tensor>; 3]> {
    let vae = run.vae();
    let n = N_SHOWN.min(images.size()[0]);
    let first = images.narrow(0, 0, n);
    let known = condition.map(|known| known.narrow(0, 0, n));
    let originals = tiles(vae.item(), &as_decoded(vae.item(), &first))?;
    let again = match vae.has_encoder() {
        true => {
            let again = picture::reconstructed(vae, (&first, known.as_ref()))?;
            Some(tiles(vae.item(), &again)?)
        }
        false => None,
    };
    let mut generator = picture::sample_generator(vae, 0);
    let latents = vae.latents_from(LatentSource::PRIOR, n, known.as_ref(), &mut generator)?;
    let samples = picture::decoded_tiles(vae, (&latents, known.as_ref()), Pixels::Mean)?;
    Ok([Some(originals), again, Some(samples)])
}

fn picture_of(names: &[String], all: Vec<Values>, split: &str) -> Result<Option<SideBySide>> {
    let Some(shown) = all
        .into_iter()
        .map(|values| values.shown)
        .collect::<Option<Vec<_>>>()
    else {
        return Ok(None);
    };
    let short = |path: &String| path.rsplit('/').next().unwrap_or(path).to_owned();
    let (mut rows, mut labels) = (Vec::new(), vec!["originals".to_owned()]);
    rows.extend(shown.first().and_then(|[originals, ..]| originals.as_ref()));
    for (i, what) in [(1, "reconstruction"), (2, "samples")] {
        for (name, of_run) in names.iter().zip(&shown) {
            if let Some(tiles) = &of_run[i] {
                rows.push(tiles);
                labels.push(format!("{}\n{what}", short(name)));
            }
        }
    }
    let columns = rows.first().map_or(0, |row| row.size()[0]) as usize;
    Ok(Some(SideBySide {
        labeled: Labeled {
            title: "Runs side by side".to_owned(),
            subtitle: format!(
                "the first {split} images, and samples of the prior with the same noise"
            ),
            rows: labels,
            ..Labeled::default()
        },
        tiles: Tensor::f_cat(&rows, 0)?,
        columns,
    }))
}

impl SideBySide {
    /// Draws the rows with half blocks, two pixels a letter, on a terminal with colors.
    pub(super) fn print_in_terminal(&self) -> Result<()> {
        let is_wanted = |name: &str| std::env::var_os(name).is_none_or(|value| value.is_empty());
        let knows_colors = std::env::var("TERM").is_ok_and(|kind| kind.contains("256color"));
        if !std::io::stdout().is_terminal() || !is_wanted("NO_COLOR") || !knows_colors {
            return Ok(());
        }
        let width = terminal_size::terminal_size().map_or(80, |(width, _)| u32::from(width.0));
        let n_rows = self.tiles.size()[0] as usize / self.columns.max(1);
        for row in 0..n_rows {
            let label = self
                .labeled
                .rows
                .get(row)
                .map(|label| label.replace('\n', ", "));
            out!("{}", label.unwrap_or_default());
            let start = (row * self.columns) as i64;
            let tiles = self.tiles.narrow(0, start, self.columns as i64);
            // Fewer images where a row of all would be too small to see.
            let columns = (width / 16).clamp(1, self.columns as u32);
            let grid = picture::grid(&tiles.narrow(0, 0, columns.into()), columns as usize, 1)?;
            let shown = width.min(grid.width());
            let height = (grid.height() * shown / grid.width().max(1)).max(2);
            let small = grid
                .resize_exact(shown, height, FilterType::Triangle)
                .to_rgb8();
            for line in half_blocks(&small) {
                out!("{line}");
            }
        }
        Ok(())
    }
}

/// Lines of half blocks, the upper pixel in the letter's color and the lower one in that of its ground.
fn half_blocks(picture: &image::RgbImage) -> Vec<String> {
    let (width, height) = picture.dimensions();
    let line = |y: u32| {
        let mut line = String::new();
        for x in 0..width {
            let upper = color_code(picture.get_pixel(x, y).0);
            let lower = match y + 1 < height {
                true => color_code(picture.get_pixel(x, y + 1).0),
                false => color_code([255; 3]),
            };
            line += &format!("\x1b[38;5;{upper};48;5;{lower}m▀");
        }
        line + "\x1b[0m"
    };
    (0..height).step_by(2).map(line).collect()
}

/// The nearest of the 256 colors that terminals have: a cube of 6 × 6 × 6, and 24 shades of gray.
fn color_code([red, green, blue]: [u8; 3]) -> u8 {
    let spread = red.max(green).max(blue) - red.min(green).min(blue);
    if spread < 12 {
        return match red {
            ..4 => 16,
            247.. => 231,
            gray => 232 + ((u16::from(gray) - 4) * 24 / 243).min(23) as u8,
        };
    }
    let level = |value: u8| ((u16::from(value) * 5 + 127) / 255) as u8;
    16 + 36 * level(red) + 6 * level(green) + level(blue)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_pixels_are_one_letter() {
        let mut picture = image::RgbImage::new(2, 3);
        picture.put_pixel(0, 0, image::Rgb([255, 0, 0]));
        picture.put_pixel(1, 1, image::Rgb([255, 255, 255]));
        let lines = half_blocks(&picture);
        assert_eq!(lines.len(), 2);
        let wanted = "\x1b[38;5;196;48;5;16m▀\x1b[38;5;16;48;5;231m▀\x1b[0m";
        assert_eq!(lines[0], wanted);
        assert_eq!(color_code([128, 128, 128]), 244);
        assert_eq!(color_code([0, 0, 255]), 21);
    }
}
