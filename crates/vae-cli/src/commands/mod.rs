//! The subcommands, one file each, and what they share.

pub(crate) mod arithmetic;
pub(crate) mod attribute;
pub(crate) mod bench;
pub(crate) mod codes;
pub(crate) mod compare;
pub(crate) mod completions;
pub(crate) mod data;
pub(crate) mod decode;
pub(crate) mod describe;
pub(crate) mod doctor;
pub(crate) mod encode;
pub(crate) mod eval;
pub(crate) mod explore;
pub(crate) mod export;
pub(crate) mod fit_sampler;
pub(crate) mod import;
pub(crate) mod interpolate;
mod invert;
mod items_file;
mod judge;
mod labels;
pub(crate) mod launch;
pub(crate) mod levels;
pub(crate) mod manifold;
pub(crate) mod neighbors;
pub(crate) mod options;
mod place;
pub(crate) mod plot;
pub(crate) mod reconstruct;
pub(crate) mod runs;
pub(crate) mod sample;
mod sampler;
pub(crate) mod score;
mod shape;
mod side_by_side;
mod sounds;
mod table;
mod texts;
pub(crate) mod train;
pub(crate) mod traverse;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use clap::builder::{PathBufValueParser, TypedValueParser};
use image::DynamicImage;
use serde_json::json;
use tch::{Device, Kind, Tensor};
use tracing::warn;
use vae_base::memory;
use vae_data::{BadFile, InputBatch, Inputs, Split, one_line};
use vae_model::Vae;
use vae_run::{Checkpoint, Session};
use vae_view::format::{self, Content, Format};
use vae_view::labeled::{self, Labeled};
use vae_view::{animation, picture};

use crate::arrays::{Field, LABEL_COLUMN, Values};
use crate::device::DeviceChoice;
use crate::output::{self, out};
use crate::processes::Placement;
use crate::run_config;

/// The arguments of every command on a run.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// The folder of a run, or of one of its checkpoints
    #[arg(value_name = "RUN")]
    run: PathBuf,

    /// Which checkpoint of the run [default: best]
    #[arg(long, value_enum, global = true)]
    checkpoint: Option<Which>,

    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", global = true)]
    device: DeviceChoice,

    /// For a model with a condition: the condition, such as 7 or Smiling=1,Male=0 [default: what is known of each image]
    #[arg(long, value_name = "CONDITION", global = true)]
    condition: Option<String>,

    /// Compute images in tiles of this many rows: less memory for large images, more time, the same numbers
    #[arg(long, value_name = "ROWS", global = true, value_parser = clap::value_parser!(i64).range(1..=1_000_000))]
    tile: Option<i64>,

    #[command(flatten)]
    data: DataArgs,
}

/// Another place or reading of a run's data set.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DataArgs {
    /// Where the run's data set is, or another one to be read in the same way [default: the path in the run's config]
    #[arg(long, value_name = "PATH", global = true)]
    data: Option<PathBuf>,

    /// Change how the data set is read, as in `--set dataset.test_limit=100` (any number of times)
    #[arg(long = "set", value_name = "KEY=VALUE", global = true)]
    settings: Vec<String>,
}

impl DataArgs {
    /// Whether another data set than the run's was named.
    pub(crate) fn is_other(&self) -> bool {
        self.data.is_some()
    }

    /// Changes a session's data set as asked.
    pub(crate) fn change(&self, session: &mut Session) -> Result<()> {
        let dataset = match &self.data {
            Some(path) => session.dataset_at(path).context("--data")?,
            None if self.settings.is_empty() => return Ok(()),
            None => session.dataset().context("--set")?,
        };
        session.set_dataset(run_config::with_settings(dataset, &self.settings)?);
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Which {
    /// The one with the best validation metric, by checkpoints.metric of its config
    Best,
    /// The newest
    Last,
}

impl From<Which> for Checkpoint {
    fn from(which: Which) -> Self {
        match which {
            Which::Best => Self::Best,
            Which::Last => Self::Last,
        }
    }
}

impl RunArgs {
    /// The model alone.
    pub(crate) fn open_model(&self) -> Result<Vae> {
        ensure!(
            self.condition.is_none(),
            "--condition: this command writes the model itself; its users pass the condition later"
        );
        Ok(self.open()?.into_vae())
    }

    pub(crate) fn open(&self) -> Result<Session> {
        let local_rank = Placement::of_environment()?.map_or(0, |placement| placement.local_rank);
        let device = self.device.select_for(local_rank)?;
        let mut session = match self.checkpoint {
            None => Session::open(&self.run, device)?,
            Some(which) => {
                Session::open_checkpoint(&self.run, which.into(), device).context("--checkpoint")?
            }
        };
        let condition = self.condition.as_deref();
        session.set_condition(condition).context("--condition")?;
        session.set_strip_rows(self.tile).context("--tile")?;
        if self.tile.is_some() {
            memory::return_freed_blocks();
        }
        self.data.change(&mut session)?;
        Ok(session)
    }
}

/// The images of a command.
#[derive(Debug, clap::Args)]
pub(crate) struct InputArgs {
    /// Images: files (JPEG, PNG, WebP, BMP), folders or zips of them, idx files (FILE#7 or FILE#100..200 for some of its images) or
    /// folders of those; test:7, validation:7, train:7 or test:100..200 for items of the run [default: its test images]
    #[arg(value_name = "INPUT")]
    inputs: Vec<PathBuf>,

    /// A table of attributes to join by file name: CelebA's list, a CSV or a TSV file [default: the run's own, for images in its folder or
    /// zip]
    #[arg(long, value_name = "FILE")]
    attributes: Option<PathBuf>,
}

impl InputArgs {
    /// Opens the images, prepared like the run's training images.
    pub(crate) fn open(&self, session: &Session) -> Result<Inputs> {
        let attributes = self.attributes.as_deref();
        Ok(session.inputs(&self.inputs, Split::Test, attributes)?)
    }

    /// Says which items were taken where none were named.
    pub(crate) fn default_name(&self) -> &'static str {
        match self.inputs.is_empty() {
            true => " (the run's test items)",
            false => "",
        }
    }
}

/// The fields for what is known of each image, to follow `fields` in a table.
pub(crate) fn known_fields(inputs: &Inputs, fields: &[Field]) -> Vec<Field> {
    let mut known = Vec::new();
    if inputs.has_labels() {
        known.push(Field::integer(LABEL_COLUMN));
    }
    let names = inputs.attribute_names();
    if !names.is_empty() {
        known.push(Field::named(
            "attributes",
            names,
            &[fields, &known].concat(),
        ));
    }
    known
}

/// The values of [`known_fields`].
pub(crate) fn known_values(inputs: &Inputs, batch: InputBatch) -> Vec<Values> {
    let mut known = Vec::new();
    if inputs.has_labels() {
        known.push(Values::Integers(batch.labels));
    }
    if !inputs.attribute_names().is_empty() {
        known.push(Values::Reals(batch.attributes));
    }
    known
}

/// Warns about files that were left out.
pub(crate) fn warn_of_bad(bad: &[BadFile]) {
    const N_LISTED: usize = 10;
    for file in bad.iter().take(N_LISTED) {
        warn!("{}: left out: {}", file.name, file.reason);
    }
    if bad.len() > N_LISTED {
        warn!("{} more files were left out", bad.len() - N_LISTED);
    }
}

/// Parses the name of a picture, before anything is computed for it.
fn picture_name() -> impl TypedValueParser<Value = PathBuf> {
    name_of(Content::Picture)
}

/// Parses the name of a file for such content, before anything is computed for it.
fn name_of(content: Content) -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(move |path| format::check_name(&path, content).map(|_| path))
}

/// The destination of a picture, and how it is reported.
#[derive(Debug, clap::Args)]
pub(crate) struct OutArgs {
    /// The picture to write: .png, .jpg, .webp, .gif or .apng
    #[arg(long, short, value_name = "FILE.png", value_parser = picture_name())]
    out: PathBuf,

    /// Print JSON instead of the file's name
    #[arg(long)]
    json: bool,
}

impl OutArgs {
    /// Writes the picture and prints its name.
    pub(crate) fn save(&self, picture: &DynamicImage) -> Result<()> {
        picture::save(picture, &self.out)?;
        print_file(&self.out, self.json, picture);
        Ok(())
    }
}

/// How a grid of pictures looks.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct LookArgs {
    /// The bare grid of the images in their own size, without title, names and numbers
    #[arg(long)]
    plain: bool,
}

/// Milliseconds of a frame where no other duration is given.
const FRAME: u64 = 120;

impl LookArgs {
    /// A grid of tiles `[N, C, H, W]` in rows of `columns`.
    pub(crate) fn draw(
        self,
        labeled: &Labeled,
        tiles: &Tensor,
        columns: usize,
    ) -> Result<DynamicImage> {
        let gap = labeled.gap.unwrap_or(2);
        Ok(match self.plain {
            true => picture::grid(tiles, columns, gap)?,
            false => labeled.draw(tiles, columns)?,
        })
    }

    /// The columns of the grid, one after another.
    pub(crate) fn frames(
        self,
        labeled: &Labeled,
        tiles: &Tensor,
        columns: usize,
    ) -> Result<Vec<DynamicImage>> {
        if !self.plain {
            return Ok(labeled.frames(tiles, columns)?);
        }
        let n = tiles.size()[0];
        let columns = columns as i64;
        let frame = |i: i64| {
            let rows = Tensor::arange(n / columns, (Kind::Int64, Device::Cpu)) * columns + i;
            Ok(picture::grid(&tiles.index_select(0, &rows), 1, 2)?)
        };
        (0..columns).map(frame).collect()
    }

    /// Writes the grid or, in a format of frames, its columns there and back. Returns the picture that the file shows first.
    pub(crate) fn save(
        self,
        labeled: &Labeled,
        tiles: &Tensor,
        columns: usize,
        path: &Path,
    ) -> Result<DynamicImage> {
        if !Format::of(path, Content::Steps)?.moves() {
            let picture = self.draw(labeled, tiles, columns)?;
            picture::save(&picture, path)?;
            return Ok(picture);
        }
        let frames = labeled::there_and_back(self.frames(labeled, tiles, columns)?);
        animation::save(&frames, Duration::from_millis(FRAME), path)?;
        frames.into_iter().next().context("there are no frames")
    }
}

/// The name of a run, for titles.
pub(crate) fn subject(run: &Session) -> String {
    let path = run.run_dir().map(|run_dir| run_dir.path().to_owned());
    let Ok(path) = path else {
        return "the model".to_owned();
    };
    let whole = path.canonicalize().unwrap_or(path);
    let name = whole.file_name().unwrap_or(whole.as_os_str());
    one_line(&name.to_string_lossy())
}

fn print_file(path: &Path, as_json: bool, picture: &DynamicImage) {
    if as_json {
        let (width, height) = (picture.width(), picture.height());
        out!(
            "{}",
            json!({ "picture": path, "width": width, "height": height })
        );
    } else {
        output::print_path(path);
    }
}
