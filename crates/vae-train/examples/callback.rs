//! A callback of one's own: `cargo run --release -p vae-train --example callback`.
//!
//! Trains a small model on random bars and stops when the held-out elbo has passed a goal.

use std::sync::atomic::AtomicBool;

use tch::{Device, Tensor};
use vae_data::{Dataset, Splits};
use vae_model::{ImageShape, Vae};
use vae_train::{Callback, Event, Fit, Flow, RunConfig, TrainError, Trainer};

/// Stops when the held-out elbo has passed so many nats per image.
struct Goal(f64);

impl Callback for Goal {
    fn name(&self) -> &'static str {
        "goal"
    }

    fn on_event(&mut self, _: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        let Event::EpochEnd {
            validation: Some(record),
            ..
        } = event
        else {
            return Ok(Flow::Continue);
        };
        let elbo = record.means.elbo.unwrap_or(f64::NEG_INFINITY);
        println!("epoch {}: {elbo:.1} nats", record.epoch);
        Ok(if elbo > self.0 {
            Flow::Stop
        } else {
            Flow::Continue
        })
    }
}

/// Images of 8×8 pixels, each with one white column.
fn bars(n: i64) -> Result<Dataset, vae_data::DataError> {
    let bytes: Vec<u8> = (0..n * 64)
        .map(|i| if i % 8 == (i / 64) % 8 { 255 } else { 0 })
        .collect();
    Dataset::new(Tensor::from_slice(&bytes).view([n, 1, 8, 8]), None)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Like a file in configs/; the data set named in it is not opened here.
    let config: RunConfig = toml::from_str(
        "dataset.idx.folder = 'unused'\n\
         model.network.mlp.hidden = [64]\n\
         training = { epochs = 200, batch_size = 32 }",
    )?;
    let splits = Splits::new(bars(512)?, Some(bars(64)?), bars(64)?);
    let shape = ImageShape {
        channels: 1,
        height: 8,
        width: 8,
    };
    let vae = Vae::new(&config.model, shape, Device::Cpu, 1)?;
    let mut trainer = Trainer::new(&vae, &splits, &config)?;
    trainer.add(Goal(-10.0));
    let outcome = trainer.fit(&AtomicBool::new(false));
    println!(
        "{:?} after {} epochs",
        outcome.ended?, outcome.progress.position.epochs
    );
    Ok(())
}
