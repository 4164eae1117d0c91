//! The page of a run that was evaluated: reads its `eval.json`, draws its figures, writes its
//! `report.html`.
//!
//! ```sh
//! cargo run --release -p vae-eval --example report -- runs/mnist
//! ```

use std::error::Error;
use std::path::Path;

use tch::Device;
use vae_eval::{PAGE_FILE, Report, comparisons, figures, render, write_page};
use vae_model::Vae;
use vae_train::{OpenCheckpoint, RunDir};

fn main() -> Result<(), Box<dyn Error>> {
    let run = std::env::args().nth(1).ok_or("usage: report RUN")?;
    let run = Path::new(&run);
    let run_dir = RunDir::open(run)?;
    let report = Report::read(run)?.ok_or("no eval.json: `vae eval` writes it")?;
    let folder = run_dir.checkpoints().join(&report.subject.checkpoint);
    let found = OpenCheckpoint::at(&folder)?;
    let (_, checkpoint) = found.ok_or("the checkpoint that was measured is gone")?;
    let vae = Vae::load(&checkpoint.folder, Device::Cpu)?;
    let test = run_dir.config()?.dataset.load()?.test;
    let figures = figures(&vae, &run_dir, &test, 0)?;
    let published = comparisons(&report);
    write_page(run, &render(&report, &figures, &published))?;
    println!("{}", run.join(PAGE_FILE).display());
    Ok(())
}
