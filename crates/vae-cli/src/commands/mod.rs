//! The subcommands, one file each, and what several of them share.

pub(crate) mod arithmetic;
pub(crate) mod attribute;
pub(crate) mod bench;
pub(crate) mod compare;
pub(crate) mod completions;
pub(crate) mod data;
pub(crate) mod decode;
pub(crate) mod describe;
pub(crate) mod doctor;
pub(crate) mod encode;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod interpolate;
mod labels;
pub(crate) mod manifold;
pub(crate) mod neighbors;
pub(crate) mod options;
mod place;
pub(crate) mod plot;
pub(crate) mod reconstruct;
pub(crate) mod runs;
pub(crate) mod sample;
pub(crate) mod score;
mod shape;
mod table;
pub(crate) mod train;
pub(crate) mod traverse;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use clap::builder::{PathBufValueParser, TypedValueParser};
use image::DynamicImage;
use serde_json::json;
use tch::Tensor;
use tracing::warn;
use vae_data::{BadFile, Dataset, DatasetConfig, InputBatch, Inputs, Split, Splits};
use vae_model::{Vae, WEIGHTS_FILE};
use vae_run::{Checkpoint, OpenCheckpoint, RunDir};
use vae_view::picture;

use crate::arrays::{Field, LABEL_COLUMN, Values};
use crate::device::DeviceChoice;
use crate::output::{self, out};

/// What every command on a run takes.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// The folder of a run, or of one of its checkpoints
    #[arg(value_name = "RUN")]
    run: PathBuf,

    /// Which of the run's checkpoints [default: best]
    #[arg(long, value_enum, global = true)]
    checkpoint: Option<Which>,

    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", global = true)]
    device: DeviceChoice,

    /// Of a model with a condition: what it is told, as in 7 or Smiling=1,Male=0 [default: what is known of
    /// each image]
    #[arg(long, value_name = "CONDITION", global = true)]
    condition: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Which {
    /// That of the best validation number, by checkpoints.metric of its config
    Best,
    /// The newest
    Last,
}

/// A trained model and where it comes from.
pub(crate) struct OpenRun {
    pub(crate) run_dir: RunDir,
    pub(crate) vae: Vae,
    pub(crate) checkpoint: OpenCheckpoint,
    /// What the model is told, whatever is known of an image.
    condition: Option<String>,
}

impl RunArgs {
    /// The model alone: of a run, of the folder of a checkpoint, or of a weights file.
    pub(crate) fn open_model(&self) -> Result<Vae> {
        ensure!(
            self.condition.is_none(),
            "--condition: this command takes the model as it is, which is told a condition later"
        );
        if self.run.is_file() || self.run.join(WEIGHTS_FILE).is_file() {
            return Ok(Vae::load(&self.run, self.device.select()?)?);
        }
        Ok(self.open()?.vae)
    }

    pub(crate) fn open(&self) -> Result<OpenRun> {
        let (run_dir, checkpoint) = match (OpenCheckpoint::at(&self.run)?, self.checkpoint) {
            (Some(found), None) => found,
            (Some(_), Some(_)) => {
                let run = self.run.display();
                bail!("{run}: is a checkpoint itself: leave --checkpoint out")
            }
            (None, which) => {
                let run_dir = RunDir::open(&self.run)?;
                let which = match which {
                    None | Some(Which::Best) => Checkpoint::Best,
                    Some(Which::Last) => Checkpoint::Last,
                };
                let checkpoint = which.open(&run_dir)?;
                (run_dir, checkpoint)
            }
        };
        let device = self.device.select()?;
        let vae = Vae::load(&checkpoint.folder, device)?;
        if let Some(condition) = &self.condition {
            let parsed = vae.condition().parse(condition);
            parsed.context("--condition")?;
        }
        Ok(OpenRun {
            run_dir,
            vae,
            checkpoint,
            condition: self.condition.clone(),
        })
    }
}

/// The images that a command is to look at.
#[derive(Debug, clap::Args)]
pub(crate) struct InputArgs {
    /// Images: files (JPEG, PNG, WebP, BMP), folders or zips of them, idx files (FILE#7 or
    /// FILE#100..200 for some of its images) or folders of those [default: the run's held-out images]
    #[arg(value_name = "INPUT")]
    inputs: Vec<PathBuf>,

    /// A table of attributes to join by file name: CelebA's list, a CSV or a TSV file [default: the
    /// run's own, for images in its folder or zip]
    #[arg(long, value_name = "FILE")]
    attributes: Option<PathBuf>,
}

impl OpenRun {
    /// The images of the run, with what the model is told of them.
    pub(crate) fn splits(&self) -> Result<Splits> {
        self.splits_of(&self.run_dir.config()?.dataset)
    }

    /// The images of a data set, with what the model is told of them.
    pub(crate) fn splits_of(&self, dataset: &DatasetConfig) -> Result<Splits> {
        let Splits {
            train,
            validation,
            test,
            report,
        } = dataset.load()?;
        Ok(Splits {
            train: self.conditioned(train),
            validation: validation.map(|dataset| self.conditioned(dataset)),
            test: self.conditioned(test),
            report,
        })
    }

    /// Images with what the model is told of them: what is known, but for what `--condition` says.
    pub(crate) fn conditioned(&self, dataset: Dataset) -> Dataset {
        let dataset = dataset.with_condition(self.vae.condition());
        match &self.condition {
            Some(_) => dataset.change_condition(|row| self.tell(row)),
            None => dataset,
        }
    }

    /// Writes what `--condition` says into what is known of an image.
    fn tell(&self, row: &mut [f32]) {
        if let Some(condition) = &self.condition {
            // Cannot fail: it was read when the run was opened.
            let _ = self.vae.condition().overwrite(row, condition);
        }
    }

    /// What the model is told of images of which nothing is known, `[1, D]`; none of a model without a
    /// condition.
    pub(crate) fn condition_alone(&self) -> Option<Tensor> {
        let spec = self.vae.condition();
        let mut row = spec.unknown();
        self.tell(&mut row);
        (!spec.is_empty()).then(|| Tensor::from_slice(&row).unsqueeze(0))
    }

    /// What the model is told of a batch's images, `[B, D]`; none of a model without a condition.
    pub(crate) fn condition_of(&self, inputs: &Inputs, batch: &InputBatch) -> Option<Tensor> {
        let mut rows = inputs.condition(batch, self.vae.condition())?;
        rows.iter_mut().for_each(|row| self.tell(row));
        Some(Tensor::from_slice(&rows.concat()).view([rows.len() as i64, -1]))
    }

    /// What `--condition` says, or else the first example of what can be said, `[1, D]`.
    pub(crate) fn condition_or_example(&self) -> Option<Tensor> {
        if self.condition.is_some() {
            return self.condition_alone();
        }
        let (_, row) = self.vae.condition().examples().into_iter().next()?;
        Some(Tensor::from_slice(&row).unsqueeze(0))
    }

    /// The images of a command, through the transform of the run.
    pub(crate) fn inputs(&self, args: &InputArgs) -> Result<Inputs> {
        self.open_inputs(&args.inputs, Split::Test, args.attributes.as_deref())
    }

    /// What a table says of each image beside the model's numbers: its name first, then these.
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

    /// The values of [`Self::known_fields`].
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

    /// The images of `paths`; without any, those of a split of the run.
    pub(crate) fn open_inputs(
        &self,
        paths: &[PathBuf],
        otherwise: Split,
        attributes: Option<&Path>,
    ) -> Result<Inputs> {
        let dataset = self.run_dir.config()?.dataset;
        let item = self.vae.item().clone();
        Ok(match paths {
            [] => Inputs::of_split(&dataset, item, otherwise, attributes)?,
            paths => Inputs::open(&dataset, item, paths, attributes)?,
        })
    }
}

/// Lists the files that were left out.
pub(crate) fn warn_of_bad(bad: &[BadFile]) {
    const N_LISTED: usize = 10;
    for file in bad.iter().take(N_LISTED) {
        warn!("{}: left out: {}", file.name, file.reason);
    }
    if bad.len() > N_LISTED {
        warn!("{} more files were left out", bad.len() - N_LISTED);
    }
}

/// The parser of a picture's name, before anything is computed for it.
fn picture_name() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| picture::check_name(&path).map(|()| path))
}

/// Where a picture goes, and how that is said.
#[derive(Debug, clap::Args)]
pub(crate) struct OutArgs {
    /// The PNG file to write
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
