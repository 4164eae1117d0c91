//! The sounds of each epoch.

use std::fs;

use tch::no_grad;
use vae_data::Splits;
use vae_model::LatentSource;
use vae_run::{RunDir, RunError};
use vae_view::sound::{Sound, sounds};
use vae_view::{as_decoded, picture};

use crate::{Callback, Event, Fit, Flow, TrainError};

/// Writes samples, and pairs of a recording and its reconstruction, after every epoch into `sounds/`: of each a WAV file in
/// which they follow one another. Models of anything but sound and melodies have none.
#[derive(Debug)]
pub struct Sounds {
    run_dir: RunDir,
}

/// The most sounds in a file.
const MOST: usize = 12;

impl Sounds {
    /// The names of an epoch's sounds, for [`RunDir::sound_file`].
    pub const NAMES: [&'static str; 2] = ["reconstructions", "samples"];

    /// Writes into a run's `sounds/`.
    #[must_use]
    pub fn new(run_dir: RunDir) -> Self {
        Self { run_dir }
    }

    fn write(&self, run: &Fit) -> Result<(), TrainError> {
        let (vae, sizes) = (run.vae, &run.config.pictures);
        let folder = self.run_dir.sounds();
        fs::create_dir_all(&folder).map_err(RunError::io(&folder))?;
        let save = |name: &str, all: &[Sound]| -> Result<(), TrainError> {
            let file = self.run_dir.sound_file(run.progress.position.epochs, name);
            if let Some(joined) = Sound::joined(all) {
                joined.save(&file)?;
            }
            Ok(())
        };
        let n = sizes.n_samples.min(MOST);
        let mut generator = picture::sample_generator(vae, run.config.seed);
        let condition = vae
            .condition()
            .examples()
            .into_iter()
            .next()
            .map(|(_, row)| {
                tch::Tensor::from_slice(&row)
                    .unsqueeze(0)
                    .repeat([n as i64, 1])
            });
        let latents = vae.latents_from(
            LatentSource::PRIOR,
            n as i64,
            condition.as_ref(),
            &mut generator,
        )?;
        let items = picture::decoded(vae, (&latents, condition.as_ref()), picture::Pixels::Mean)?;
        save("samples", &sounds(vae.item(), &items)?)?;
        if vae.has_encoder() {
            // Not test items: people choose models by what they hear, too.
            let Splits {
                train, validation, ..
            } = run.splits;
            let shown = validation.as_ref().unwrap_or(train);
            let n = sizes.n_reconstructions.min(MOST / 2).min(shown.len());
            let batch = shown.batch(&(0..n).collect::<Vec<_>>())?;
            let items = picture::reconstructed(vae, (&batch.items, batch.condition.as_ref()))?;
            let originals = sounds(vae.item(), &as_decoded(vae.item(), &batch.items))?;
            let pairs = originals.into_iter().zip(sounds(vae.item(), &items)?);
            save(
                "reconstructions",
                &pairs.flat_map(|(a, b)| [a, b]).collect::<Vec<_>>(),
            )?;
        }
        Ok(())
    }
}

impl Callback for Sounds {
    fn name(&self) -> &'static str {
        "sounds"
    }

    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        let is_due = match event {
            Event::EpochEnd { .. } => true,
            Event::StepEnd { .. } => run.is_first_look(),
            _ => false,
        };
        if is_due && run.vae.item().has_sound() {
            no_grad(|| self.write(run))?;
        }
        Ok(Flow::Continue)
    }
}
