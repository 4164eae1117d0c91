//! The pictures of each epoch.

use tch::no_grad;
use vae_data::Splits;
use vae_model::{LatentSource, Vae};

use vae_run::RunDir;
use vae_view::picture;

use crate::{Callback, Event, Fit, Flow, TrainError};

/// Draws the latent space, samples and reconstructions after every epoch into `pictures/`, and as those of epoch 0 early in a
/// long first epoch (`pictures.first_step`). For a model with at most two latent
/// dimensions (on a sphere, three) the latent space is drawn as a plane (a map), else as traversals of the most used dimensions.
#[derive(Debug)]
pub struct Pictures {
    run_dir: RunDir,
}

impl Pictures {
    /// Draws into a run's `pictures/`.
    #[must_use]
    pub fn new(run_dir: RunDir) -> Self {
        Self { run_dir }
    }

    /// The names of an epoch's pictures, for [`RunDir::picture_file`]; none of texts.
    #[must_use]
    pub fn names(vae: &Vae) -> Vec<&'static str> {
        if !vae.item().has_picture() {
            return Vec::new();
        }
        let latents = match picture::has_whole_manifold(vae) {
            true => "manifold",
            false => "traversals",
        };
        let mut names = vec![latents, "samples"];
        if vae.has_encoder() {
            names.push("reconstructions");
        }
        names
    }

    fn draw(&self, run: &Fit, usage: &[f64]) -> Result<(), TrainError> {
        let sizes = &run.config.pictures;
        // Not test images: people choose models by pictures, too.
        let Splits {
            train, validation, ..
        } = run.splits;
        let shown = validation.as_ref().unwrap_or(train);
        let images = |n: usize| shown.batch(&(0..n.min(shown.len())).collect::<Vec<_>>());
        for name in Self::names(run.vae) {
            let picture = match name {
                "manifold" => {
                    let condition = images(1)?.condition;
                    picture::manifold(run.vae, sizes.manifold_size, usage, condition.as_ref())
                }
                "traversals" => {
                    let batch = images(1)?;
                    let condition = batch.condition.as_ref();
                    let origin = match run.vae.has_encoder() {
                        true => run.vae.encode((&batch.items, condition))?.center(),
                        false => {
                            let mut generator = run.vae.generator(run.config.seed);
                            run.vae.sample_latents(1, &mut generator)
                        }
                    };
                    let origin = origin.get(0);
                    let mut dims = picture::by_use(run.vae.config().n_latents() as usize, usage);
                    dims.truncate(sizes.n_traversals);
                    picture::traversals(run.vae, (&origin, condition), &dims, 11, 3.0)
                }
                "samples" => {
                    let (n, seed) = (sizes.n_samples, run.config.seed);
                    picture::samples(run.vae, LatentSource::PRIOR, n, seed)
                }
                _ => {
                    let batch = images(sizes.n_reconstructions)?;
                    picture::reconstructions(run.vae, (&batch.items, batch.condition.as_ref()))
                }
            };
            let file = self
                .run_dir
                .picture_file(run.progress.position.epochs, name);
            picture::save(&picture?, &file)?;
        }
        Ok(())
    }
}

impl Callback for Pictures {
    fn name(&self) -> &'static str {
        "pictures"
    }

    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        match event {
            Event::EpochEnd { latent_use, .. } => {
                no_grad(|| self.draw(run, latent_use.ranking()))?;
            }
            Event::StepEnd { .. } if run.is_first_look() => no_grad(|| self.draw(run, &[]))?,
            _ => {}
        }
        Ok(Flow::Continue)
    }
}
