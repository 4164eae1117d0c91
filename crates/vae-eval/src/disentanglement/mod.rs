//! Disentanglement: whether single latent dimensions correspond to single factors of the images, if these are known.
//!
//! Every score is a function of plain numbers (latents and factors of images) or of an encoder of grid positions, which
//! [`measure_disentanglement`] provides for a model and its images. Definitions and sample sizes are those of
//! disentanglement_lib (Locatello et al. 2019, <https://arxiv.org/abs/1811.12359>), so that results are comparable with the
//! literature.

mod beta_vae;
mod boosting;
mod chance;
mod dci;
mod factor_vae;
mod mig;
mod modularity;
mod mutual_information;
mod sap;

use tch::{Device, Kind, no_grad};
use vae_data::{FactorGrid, FactorSpace};
use vae_model::Vae;

use crate::{EvalError, Findings, Measure, Progress, Protocol, ScoreProtocol};
use chance::Chance;

pub use beta_vae::beta_vae_score;
pub use dci::{Dci, dci, dci_completeness, dci_disentanglement};
pub use factor_vae::factor_vae_score;
pub use mig::mutual_information_gap;
pub use modularity::modularity;
pub use mutual_information::MutualInformation;
pub use sap::separated_attribute_predictability;

/// Returns the latents of the images at these positions of a grid, `[n][Z]`.
pub type Encode<'a> = dyn FnMut(&[usize]) -> Result<Vec<Vec<f64>>, EvalError> + 'a;

/// The latents of N images and the values of their factors.
#[derive(Clone, Debug, PartialEq)]
pub struct LabeledLatents {
    latents: Vec<Vec<f64>>,
    factors: Vec<Vec<usize>>,
}

impl LabeledLatents {
    /// `latents` are `[Z][N]`, `factors` `[F][N]`.
    ///
    /// # Errors
    /// No image, columns of different lengths, or NaN or infinite latents.
    pub fn new(latents: Vec<Vec<f64>>, factors: Vec<Vec<usize>>) -> Result<Self, EvalError> {
        let wrong = |problem: String| Err(EvalError::Unmeasurable(problem));
        let n = latents.first().map_or(0, Vec::len);
        let lengths = latents.iter().map(Vec::len);
        let mut lengths = lengths.chain(factors.iter().map(Vec::len));
        if n == 0 {
            return wrong("found no latents, expected those of at least one image".to_owned());
        }
        if let Some(other) = lengths.find(|&length| length != n) {
            return wrong(format!(
                "latents or factors of {other} images, expected {n}"
            ));
        }
        if latents.iter().flatten().any(|latent| !latent.is_finite()) {
            return wrong("found NaN or infinite latents; did the training diverge?".to_owned());
        }
        Ok(Self { latents, factors })
    }

    /// `[Z][N]`.
    #[must_use]
    pub fn latents(&self) -> &[Vec<f64>] {
        &self.latents
    }

    /// `[F][N]`.
    #[must_use]
    pub fn factors(&self) -> &[Vec<usize>] {
        &self.factors
    }
}

/// The number of votes, or points, of a score that fixes a factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteCounts {
    /// Votes for fitting.
    pub train: usize,
    /// Votes for testing.
    pub test: usize,
    /// The number of images, or pairs of images, of each vote.
    pub batch: usize,
}

/// The number of votes whose images are encoded together.
const VOTES_AT_A_TIME: usize = 16;

/// The sample sizes of disentanglement scores. The defaults are disentanglement_lib's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DisentanglementOptions {
    /// Images for fitting MIG, modularity, SAP and DCI, and for variances. Default 10,000.
    pub n_train: usize,
    /// Images for the accuracies of SAP and DCI. Default 5,000.
    pub n_test: usize,
    /// Bins of a latent dimension for MIG and modularity. Default 20.
    pub n_bins: usize,
    /// Votes of the FactorVAE and β-VAE scores. Default 10,000, 5,000 and 64, which use most of dSprites' images.
    pub votes: VoteCounts,
    /// Images that are encoded at once; the results do not depend on it. Default 256.
    pub batch_size: usize,
}

impl Default for DisentanglementOptions {
    fn default() -> Self {
        Self {
            n_train: 10_000,
            n_test: 5_000,
            n_bins: 20,
            votes: VoteCounts {
                train: 10_000,
                test: 5_000,
                batch: 64,
            },
            batch_size: 256,
        }
    }
}

impl DisentanglementOptions {
    /// A tenth of the votes, for a quick estimate.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            votes: VoteCounts {
                train: 1_000,
                test: 500,
                batch: 64,
            },
            ..Self::default()
        }
    }

    fn check(&self) -> Result<(), EvalError> {
        let Self {
            n_train,
            n_test,
            n_bins,
            votes,
            batch_size,
        } = *self;
        for (name, found, least) in [
            ("n_train", n_train, 2),
            ("n_test", n_test, 1),
            ("n_bins", n_bins, 2),
            ("votes.train", votes.train, 1),
            ("votes.test", votes.test, 1),
            ("votes.batch", votes.batch, 2),
            ("batch_size", batch_size, 1),
        ] {
            if found < least {
                return Err(EvalError::Unmeasurable(format!(
                    "disentanglement: {name} = {found}, expected at least {least}"
                )));
            }
        }
        Ok(())
    }
}

/// The factors that have more than one value.
fn varying(space: &FactorSpace) -> Vec<usize> {
    let sizes = space.sizes().iter().enumerate();
    sizes
        .filter(|(_, size)| **size > 1)
        .map(|(factor, _)| factor)
        .collect()
}

/// All scores of the centers of a model's posteriors. Images are drawn from the whole grid, which includes training images.
/// Factors with one value are left out. All draws depend only on `seed`.
///
/// The lists are `mutual_information`, in nats of each latent dimension and factor, row by row, with
/// `mutual_information_shape` (Z, F), and of the same shape `dci_importances` and `sap_accuracies`.
///
/// # Errors
/// Invalid options; images of another shape than the model's; NaN or infinite latents; a file that can no longer be read.
pub fn measure_disentanglement(
    vae: &Vae,
    grid: &FactorGrid,
    options: &DisentanglementOptions,
    seed: u64,
    progress: &mut Progress,
) -> Result<Findings, EvalError> {
    options.check()?;
    let space = grid.space();
    let factors = varying(space);
    if factors.is_empty() {
        return Err(EvalError::Unmeasurable(
            "disentanglement: no factor has more than one value".to_owned(),
        ));
    }
    let mut encoder = GridEncoder::new(vae, grid, options.batch_size);
    let DisentanglementOptions {
        n_train,
        n_test,
        n_bins,
        votes,
        ..
    } = *options;

    let mut chance = Chance::new(seed, "disentanglement");
    let mut drawn =
        |n: usize| -> Vec<usize> { (0..n).map(|_| chance.below(space.n_positions())).collect() };
    let (train, test) = (drawn(n_train), drawn(n_test));
    let mut labeled = |positions: &[usize], n_before: usize| {
        let rows = encoder.encode(positions, &mut |n| {
            progress("latents", n_before + n, n_train + n_test);
        })?;
        let factors = factors.iter().map(|&factor| {
            let classes = positions
                .iter()
                .map(|&position| space.classes(position)[factor]);
            classes.collect()
        });
        LabeledLatents::new(columns(&rows), factors.collect())
    };
    let (train, test) = (labeled(&train, 0)?, labeled(&test, n_train)?);

    let information = MutualInformation::new(&train, n_bins);
    let (sap, sap_accuracies) = separated_attribute_predictability(&train, &test);
    let dci = dci(&train, &test, |n| progress("DCI", n, factors.len()));
    let mut n_done = 0;
    let n_votes = votes.train + votes.test;
    let total = n_train + n_votes * votes.batch;
    let factor_vae = factor_vae_score(
        &mut |positions| {
            n_done += positions.len();
            progress("FactorVAE score", n_done, total);
            encoder.encode(positions, &mut |_| ())
        },
        space,
        n_train,
        votes,
        seed,
    )?;
    let mut n_done = 0;
    let total = 2 * n_votes * votes.batch;
    let beta_vae = beta_vae_score(
        &mut |positions| {
            n_done += positions.len();
            progress("β-VAE score", n_done, total);
            encoder.encode(positions, &mut |_| ())
        },
        space,
        votes,
        seed,
    )?;

    let names: Vec<String> = factors
        .iter()
        .map(|&factor| space.names()[factor].clone())
        .collect();
    let of = |score: ScoreProtocol| Protocol::Disentanglement {
        score,
        factors: names.clone(),
    };
    let of_bins = || {
        of(ScoreProtocol::Bins {
            n_images: n_train,
            n_bins,
        })
    };
    let of_trees = |n_test: Option<usize>| {
        of(ScoreProtocol::BoostedTrees {
            n_rounds: boosting::N_ROUNDS,
            depth: boosting::DEPTH,
            n_train,
            n_test,
        })
    };
    let all = [
        Measure::new(
            "mig",
            "mutual information gap",
            mutual_information_gap(&information),
        )
        .protocol(of_bins()),
        Measure::new("sap", "separated attribute predictability", sap).protocol(of(
            ScoreProtocol::SupportVectors {
                c: sap::C,
                n_train,
                n_test,
            },
        )),
        Measure::new(
            "dci_disentanglement",
            "DCI disentanglement",
            dci.disentanglement,
        )
        .protocol(of_trees(None)),
        Measure::new("dci_completeness", "DCI completeness", dci.completeness)
            .protocol(of_trees(None)),
        Measure::new(
            "dci_informativeness",
            "DCI informativeness",
            dci.informativeness,
        )
        .protocol(of_trees(Some(n_test))),
        Measure::new("factor_vae_score", "FactorVAE score", factor_vae).protocol(of(
            ScoreProtocol::LeastVaryingVote {
                n_images: n_train,
                least_deviation: factor_vae::LEAST_DEVIATION,
                n_train: votes.train,
                n_test: votes.test,
                batch: votes.batch,
            },
        )),
        Measure::new("beta_vae_score", "β-VAE score", beta_vae).protocol(of(
            ScoreProtocol::Differences {
                n_train: votes.train,
                n_test: votes.test,
                batch: votes.batch,
            },
        )),
        Measure::new("modularity", "modularity", modularity(&information)).protocol(of_bins()),
    ];
    let mut findings = Findings::default();
    for measure in all {
        if measure.value.is_finite() {
            findings.measures.push(measure.higher_is_better());
        } else {
            let reason = format!(
                "needs more factors or images; there are {}",
                names.join(", ")
            );
            findings.not_measured.insert(measure.name, reason);
        }
    }
    let shape = vec![train.latents().len() as f64, factors.len() as f64];
    for (name, list) in [
        ("mutual_information", information.of_latents.concat()),
        ("mutual_information_shape", shape),
        ("dci_importances", dci.importances.concat()),
        ("sap_accuracies", sap_accuracies.concat()),
    ] {
        findings.lists.insert(name.to_owned(), list);
    }
    Ok(findings)
}

/// Transposes `[N][Z]` to `[Z][N]`.
fn columns(rows: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let n_columns = rows.first().map_or(0, Vec::len);
    (0..n_columns)
        .map(|column| rows.iter().map(|row| row[column]).collect())
        .collect()
}

/// A model's posterior centers of the images of a grid, each encoded only once.
struct GridEncoder<'a> {
    vae: &'a Vae,
    grid: &'a FactorGrid,
    batch_size: usize,
    n_dims: usize,
    /// The center of each position, `[N, Z]`, if it is known.
    centers: Vec<f32>,
    is_known: Vec<bool>,
}

impl<'a> GridEncoder<'a> {
    fn new(vae: &'a Vae, grid: &'a FactorGrid, batch_size: usize) -> Self {
        let n_dims = vae.config().n_latents() as usize;
        let n = grid.space().n_positions();
        Self {
            vae,
            grid,
            batch_size,
            n_dims,
            centers: vec![0.0; n * n_dims],
            is_known: vec![false; n],
        }
    }

    /// `done` is called with the number of images that were newly encoded.
    fn encode(
        &mut self,
        positions: &[usize],
        done: &mut dyn FnMut(usize),
    ) -> Result<Vec<Vec<f64>>, EvalError> {
        let mut missing = Vec::new();
        for &position in positions {
            if !std::mem::replace(&mut self.is_known[position], true) {
                missing.push(position);
            }
        }
        for (i, batch) in missing.chunks(self.batch_size).enumerate() {
            let images = self.grid.images(batch)?.to_device(self.vae.device());
            let unknown = self.vae.unknown(images.size()[0]);
            let centers = no_grad(|| self.vae.encode((&images, unknown.as_ref())))?.center();
            let centers = centers.to_device(Device::Cpu).to_kind(Kind::Float);
            let centers = Vec::<f32>::try_from(centers.contiguous().view(-1))?;
            for (&position, center) in batch.iter().zip(centers.chunks_exact(self.n_dims)) {
                self.centers[position * self.n_dims..][..self.n_dims].copy_from_slice(center);
            }
            done(i * self.batch_size + batch.len());
        }
        let row = |&position: &usize| {
            let center = &self.centers[position * self.n_dims..][..self.n_dims];
            center.iter().map(|&number| f64::from(number)).collect()
        };
        Ok(positions.iter().map(row).collect())
    }
}
