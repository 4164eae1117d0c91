//! How good a variational autoencoder is, each number with the protocol that it depends on.
//!
//! A [`Report`] has a [`Section`] for each [`Topic`], and a section its [`Measure`]s.

mod clustering;
mod disentanglement;
mod error;
mod importance;
mod report;

pub use clustering::{clustering_accuracy, normalized_mutual_information};
pub use disentanglement::{
    Dci, DisentanglementOptions, Encode, LabeledLatents, MutualInformation, VoteCounts,
    beta_vae_score, dci, dci_completeness, dci_disentanglement, factor_vae_score,
    measure_disentanglement, modularity, mutual_information_gap,
    separated_attribute_predictability,
};
pub use error::EvalError;
pub use importance::{ImageBounds, ImportanceEstimate, image_bounds, importance_estimate};
pub use report::{
    Better, Findings, ImagesUsed, Measure, Progress, REPORT_FILE, Report, Section, Subject, Topic,
};
