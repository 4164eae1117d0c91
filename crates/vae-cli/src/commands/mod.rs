//! The subcommands, one file each, and what several of them share.

pub(crate) mod bench;
pub(crate) mod compare;
pub(crate) mod completions;
pub(crate) mod data;
pub(crate) mod describe;
pub(crate) mod doctor;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod manifold;
pub(crate) mod reconstruct;
pub(crate) mod runs;
pub(crate) mod sample;
mod shape;
mod table;
pub(crate) mod train;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::ValueEnum;
use image::DynamicImage;
use serde_json::json;
use vae_model::{Vae, WEIGHTS_FILE};
use vae_train::{Checkpoint, CheckpointState, OpenCheckpoint, RunDir, picture};

use crate::device::DeviceChoice;

/// What every command on a run takes.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// The folder of a run
    #[arg(value_name = "RUN")]
    run: PathBuf,

    /// Which of its checkpoints
    #[arg(long, value_enum, default_value_t = Which::Best)]
    checkpoint: Which,

    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Which {
    /// That of the best held-out number, by checkpoints.metric of its config
    Best,
    /// The newest
    Last,
}

/// A trained model and where it comes from.
pub(crate) struct OpenRun {
    pub(crate) run_dir: RunDir,
    pub(crate) vae: Vae,
    pub(crate) state: CheckpointState,
}

impl RunArgs {
    /// The model alone: of a run, of the folder of a checkpoint, or of a weights file.
    pub(crate) fn open_model(&self) -> Result<Vae> {
        if self.run.is_file() || self.run.join(WEIGHTS_FILE).is_file() {
            return Ok(Vae::load(&self.run, self.device.select()?)?);
        }
        Ok(self.open()?.vae)
    }

    pub(crate) fn open(&self) -> Result<OpenRun> {
        let run_dir = RunDir::open(&self.run)?;
        let device = self.device.select()?;
        let checkpoint = match self.checkpoint {
            Which::Best => Checkpoint::Best,
            Which::Last => Checkpoint::Last,
        };
        let OpenCheckpoint { folder, state } = checkpoint.open(&run_dir)?;
        let vae = Vae::load(&folder, device)?;
        Ok(OpenRun {
            run_dir,
            vae,
            state,
        })
    }
}

/// Where a picture goes, and how that is said.
#[derive(Debug, clap::Args)]
pub(crate) struct OutArgs {
    /// The PNG file to write
    #[arg(long, short, value_name = "FILE")]
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
        println!(
            "{}",
            json!({ "picture": path, "width": width, "height": height })
        );
    } else {
        println!("{}", path.display());
    }
}
