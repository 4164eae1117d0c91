//! The texts of each epoch.

use std::fmt::Write;
use std::fs;

use tch::{Kind, Tensor, no_grad};
use vae_base::{one_line, write_whole};
use vae_data::Splits;
use vae_run::{RunDir, RunError};
use vae_view::{picture, texts};

use crate::{Callback, Event, Fit, Flow, TrainError};

/// The number of texts on the path between two.
const N_STEPS: i64 = 7;

/// Writes samples, reconstructions and a path between two texts after every epoch into `texts/`, of a model of texts.
#[derive(Debug)]
pub struct Texts {
    run_dir: RunDir,
}

impl Texts {
    /// Writes into a run's `texts/`.
    #[must_use]
    pub fn new(run_dir: RunDir) -> Self {
        Self { run_dir }
    }

    /// The text of an epoch's file.
    fn write(run: &Fit) -> Result<String, TrainError> {
        let (vae, sizes) = (run.vae, &run.config.pictures);
        let of = |items: &Tensor| -> Result<Vec<String>, TrainError> {
            let found = texts(vae.item(), items)?.unwrap_or_default();
            Ok(found.iter().map(|text| one_line(text)).collect())
        };
        let mut page = String::new();
        let mut add = |line: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(page, "{line}");
        };
        let mut generator = picture::sample_generator(vae, run.config.seed);
        let n = sizes.n_samples as i64;
        let latents = vae.sample_latents(n, &mut generator);
        let unknown = vae.unknown(n);
        let drawn = vae.decode_sampled((&latents, unknown.as_ref()), &mut generator)?;
        add("# Drawn from the prior, each token by its probability");
        of(&drawn)?.iter().for_each(|text| add(text));
        let Splits {
            train, validation, ..
        } = run.splits;
        let shown = validation.as_ref().unwrap_or(train);
        let n = sizes.n_reconstructions.min(shown.len());
        let batch = shown.batch(&(0..n).collect::<Vec<_>>())?;
        let condition = batch.condition.as_ref();
        let centers = vae.encode((&batch.items, condition))?.center(); // [N, Z]
        let decoded = vae.decode((&centers, condition))?;
        add(
            "\n# Texts, and below each what its latents decode to, the most likely token at each step",
        );
        for (text, decoded) in of(&batch.items)?.iter().zip(of(&decoded)?) {
            add(text);
            add(&format!("    {decoded}"));
        }
        if n > 1 {
            let shares = Tensor::linspace(0, 1, N_STEPS, (Kind::Float, vae.device())).unsqueeze(1);
            let path = centers
                .narrow(0, 0, 1)
                .lerp_tensor(&centers.narrow(0, 1, 1), &shares);
            let first = condition.map(|known| known.narrow(0, 0, 1).repeat([N_STEPS, 1]));
            add("\n# The way from the first to the second");
            of(&vae.decode((&path, first.as_ref()))?)?
                .iter()
                .for_each(|text| add(text));
        }
        Ok(page)
    }
}

impl Callback for Texts {
    fn name(&self) -> &'static str {
        "texts"
    }

    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        let is_due = match event {
            Event::EpochEnd { .. } => true,
            Event::StepEnd { .. } => run.is_first_look(),
            _ => false,
        };
        if is_due && run.vae.item().text.is_some() {
            let page = no_grad(|| Self::write(run))?;
            let file = self.run_dir.text_file(run.progress.position.epochs);
            let folder = self.run_dir.texts();
            fs::create_dir_all(&folder).map_err(RunError::io(&folder))?;
            write_whole(&file, page.as_bytes()).map_err(RunError::io(&file))?;
        }
        Ok(Flow::Continue)
    }
}
