//! Evaluation of variational autoencoders: each result comes with the protocol that it depends on.
//!
//! A [`Report`] has a [`Section`] for each [`Topic`], and a section has [`Measure`]s. The functions behind them can be
//! used on their own: estimates of log p(x), distances between sets of images, scores of latents.
//!
//! ```
//! use tch::{Device, Kind, Tensor};
//! use vae_data::Dataset;
//! use vae_eval::{LikelihoodOptions, measure_likelihood};
//! use vae_model::{ImageShape, ModelConfig, Vae};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let shape = ImageShape { channels: 1, height: 28, width: 28 };
//! let vae = Vae::new(&ModelConfig::default(), shape, Device::Cpu, 1)?;
//! let images = Tensor::zeros([4, 1, 28, 28], (Kind::Uint8, Device::Cpu));
//! let held_out = Dataset::new(images, None)?;
//!
//! let options = LikelihoodOptions { n_samples: 20, ..Default::default() };
//! let found = measure_likelihood(&vae, &held_out, &options, /* seed */ 0, &mut |_, _, _| ())?;
//! for measure in &found.measures {
//!     println!("{}: {measure} ({})", measure.label, measure.how());
//! }
//! assert!(found.measure("nll").is_some());
//! # Ok(())
//! # }
//! ```

mod aggregate;
mod annealed;
mod clustering;
mod disentanglement;
mod error;
pub mod features;
mod figures;
mod html;
pub mod image_quality;
mod images_used;
mod importance;
mod latents;
mod likelihood;
mod measure;
mod number;
mod pictures;
mod probabilistic_pca;
mod probe;
mod protocol;
mod published;
mod report;
mod sound;
mod subject;
mod verdict;

pub use aggregate::{AggregateDensities, aggregate_densities};
pub use annealed::{AnnealedBounds, AnnealedSampling, annealed_bounds};
pub use clustering::{clustering_accuracy, normalized_mutual_information};
pub use disentanglement::{
    Dci, DisentanglementOptions, Encode, LabeledLatents, MutualInformation, VoteCounts,
    beta_vae_score, dci, dci_completeness, dci_disentanglement, factor_vae_score,
    measure_disentanglement, modularity, mutual_information_gap,
    separated_attribute_predictability,
};
pub use error::EvalError;
pub use figures::{Figures, Picture, figures};
pub use html::{Block, PAGE_FILE, render, render_comparison, write_page};
pub use images_used::{ImagesUsed, Pixels, SplitUsed, TrainedOn};
pub use importance::{ImageBounds, dataset_bounds, image_bounds};
pub use latents::{LatentMoments, LatentOptions, latent_moments, measure_latents};
pub use likelihood::{LikelihoodOptions, measure_likelihood, measure_likelihood_among};
pub use measure::{Better, Bound, Measure, differing_fields};
pub use pictures::{PictureOptions, measure_pictures};
pub use probabilistic_pca::exact_log_prob;
pub use probe::{LinearProbe, nearest_neighbor_classes};
pub use protocol::{
    AnnealedProtocol, Extractor, FeatureProtocol, ImageSet, ProbeClassifier, Protocol,
    ScoreProtocol, SetPixels, Statistic,
};
pub use published::{
    Comparison, Estimator, Field, Published, PublishedFeatures, comparisons, neighbours, published,
};
pub use report::{Findings, Progress, REPORT_FILE, Report, Section, Subject, Topic};
pub use sound::{SoundOptions, measure_sound};
pub use verdict::{Estimate, Verdict, paired, verdicts};
