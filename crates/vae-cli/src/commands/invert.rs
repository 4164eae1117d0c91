//! `--invert`: latents by gradient descent instead of by the encoder.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::Result;
use clap::ValueEnum;
use indicatif::ProgressBar;
use serde_json::json;
use tch::{Kind, Tensor};
use vae_model::{Conditioned, InvertConfig, InvertStart, InvertTerms, Vae};

use crate::output::say;
use crate::progress::share_bar;
use crate::signals;

/// Whether and how the latents of images are searched.
#[derive(Debug, clap::Args)]
pub(super) struct InvertArgs {
    /// Search the latents of each image by gradient descent on −log p(x|z) − log p(z) instead of taking the encoder's: closer
    /// reconstructions, but slow
    #[arg(long, conflicts_with = "tile")]
    invert: bool,

    /// Steps of the search
    #[arg(long, value_name = "N", default_value_t = 300, requires = "invert", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    invert_steps: u32,

    /// Where the search starts [default: encoder]
    #[arg(long, value_enum, requires = "invert")]
    invert_start: Option<StartChoice>,

    /// Searches for each image, of which the best is kept [default: 1 from the encoder, 8 from the prior]
    #[arg(long, value_name = "N", requires = "invert", value_parser = clap::value_parser!(u32).range(1..=1000))]
    invert_restarts: Option<u32>,

    /// The weight of −log p(z); 0 gives the closest reconstruction, whatever the prior
    #[arg(long, value_name = "W", default_value_t = 1.0, requires = "invert")]
    invert_prior: f64,

    /// The same seed gives the same starts from the prior
    #[arg(long, default_value_t = 0, requires = "invert")]
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StartChoice {
    /// At the center of q(z|x); further searches start at the prior
    Encoder,
    /// At latents drawn from the prior
    Prior,
}

impl From<StartChoice> for InvertStart {
    fn from(choice: StartChoice) -> Self {
        match choice {
            StartChoice::Encoder => Self::Encoder,
            StartChoice::Prior => Self::Prior,
        }
    }
}

impl InvertArgs {
    /// The search for `n_items` in all; `None` without `--invert`. From here on Ctrl-C only stops the search.
    pub(super) fn search(&self, n_items: usize) -> Result<Option<Search>> {
        if !self.invert {
            return Ok(None);
        }
        let config = InvertConfig {
            n_steps: self.invert_steps,
            prior_weight: self.invert_prior,
            start: self.invert_start.map(Into::into),
            n_starts: self.invert_restarts,
            seed: self.seed,
            ..InvertConfig::default()
        };
        let n_steps = u64::from(config.n_steps);
        let work = format!("{n_steps} steps for {n_items} images");
        let stop = signals::stop_when_asked(" after this step")?;
        let bar = share_bar(n_items as u64 * n_steps, work.clone());
        if bar.is_hidden() {
            say!("searching latents: {work}");
        }
        Ok(Some(Search {
            bar,
            stop,
            begun: Instant::now(),
            before: Sums::default(),
            after: Sums::default(),
            n_items: 0,
            config,
        }))
    }
}

/// Sums over items, in nats.
#[derive(Default)]
struct Sums {
    reconstruction: f64,
    loss: f64,
}

impl Sums {
    fn add(&mut self, terms: &InvertTerms) {
        let sum = |values: &Tensor| values.sum(Kind::Double).double_value(&[]);
        self.reconstruction += sum(&terms.reconstruction);
        self.loss += sum(&terms.loss);
    }
}

/// The search for the latents of all images of a command.
pub(super) struct Search {
    config: InvertConfig,
    bar: ProgressBar,
    stop: Arc<AtomicBool>,
    begun: Instant,
    before: Sums,
    after: Sums,
    n_items: usize,
}

impl Search {
    /// The latents of items, `[B, Z]`; `None` if a signal asked to stop.
    pub(super) fn latents(&mut self, vae: &Vae, items: Conditioned) -> Result<Option<Tensor>> {
        let n_before = self.n_items as u64 * u64::from(self.config.n_steps);
        let on_step = |n_done: u64| {
            self.bar.set_position(n_before + n_done);
            match self.stop.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let inverted = vae.invert(items, &self.config, &mut |progress| {
            on_step(progress.n_done)
        })?;
        if self.stop.load(Ordering::Relaxed) {
            self.bar.finish_and_clear();
            return Ok(None);
        }
        self.before.add(&inverted.before);
        self.after.add(&inverted.after);
        self.n_items += inverted.latents.size()[0] as usize;
        Ok(Some(inverted.latents))
    }

    /// Says what was gained, and returns it as JSON.
    pub(super) fn finish(self) -> serde_json::Value {
        self.bar.finish_and_clear();
        let n = self.n_items.max(1) as f64;
        let [before, after] = [self.before, self.after].map(|sums| Sums {
            reconstruction: sums.reconstruction / n,
            loss: sums.loss / n,
        });
        say!(
            "{} latents found in {:.1} s: mean −log p(x|z) {:.2} → {:.2} nats, with the prior's term {:.2} → {:.2}",
            self.n_items,
            self.begun.elapsed().as_secs_f64(),
            before.reconstruction,
            after.reconstruction,
            before.loss,
            after.loss,
        );
        json!({
            "n_steps": self.config.n_steps,
            "mean_reconstruction_before": before.reconstruction,
            "mean_reconstruction_after": after.reconstruction,
            "mean_loss_before": before.loss,
            "mean_loss_after": after.loss,
        })
    }
}
