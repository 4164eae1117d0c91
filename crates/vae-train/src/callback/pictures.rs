//! The pictures of each epoch.

use tch::no_grad;

use crate::{Callback, Event, Fit, Flow, RunDir, TrainError, picture};

/// Draws the latent plane, samples and reconstructions after every epoch, into `pictures/`.
#[derive(Debug)]
pub struct Pictures {
    run_dir: RunDir,
}

impl Pictures {
    /// Into a run's `pictures/`.
    #[must_use]
    pub fn new(run_dir: RunDir) -> Self {
        Self { run_dir }
    }
}

impl Callback for Pictures {
    fn name(&self) -> &'static str {
        "pictures"
    }

    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        if let Event::EpochEnd {
            kl_per_dimension, ..
        } = event
        {
            let sizes = &run.config.pictures;
            let images = run.splits.test.first(sizes.n_reconstructions)?;
            let path = |name| self.run_dir.picture_file(run.position.epochs, name);
            no_grad(|| {
                let manifold = picture::manifold(run.vae, sizes.manifold_size, kl_per_dimension)?;
                picture::save(&manifold, &path("manifold"))?;
                let samples = picture::samples(run.vae, sizes.n_samples, run.config.seed)?;
                picture::save(&samples, &path("samples"))?;
                let reconstructions = picture::reconstructions(run.vae, &images)?;
                picture::save(&reconstructions, &path("reconstructions"))
            })?;
        }
        Ok(Flow::Continue)
    }
}
