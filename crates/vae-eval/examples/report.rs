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
use vae_train::{Checkpoint, RunDir};

fn main() -> Result<(), Box<dyn Error>> {
    let run = std::env::args().nth(1).ok_or("usage: report RUN")?;
    let run = Path::new(&run);
    let run_dir = RunDir::open(run)?;
    let report = Report::read(run)?.ok_or("no eval.json: `vae eval` writes it")?;
    let checkpoint = Checkpoint::Best.open(&run_dir)?;
    if checkpoint.weights_digest()? != report.subject.weights_sha256 {
        return Err("eval.json is of other weights than the best checkpoint's".into());
    }
    let vae = Vae::load(&checkpoint.folder, Device::Cpu)?;
    let test = run_dir.config()?.dataset.load()?.test;
    let figures = figures(&vae, &run_dir, &test, 0)?;
    let published = comparisons(&report, vae.config().latent_dims as u64);
    write_page(run, &render(&report, &figures, &published))?;
    println!("{}", run.join(PAGE_FILE).display());
    Ok(())
}
