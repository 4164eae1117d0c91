//! The information in the latents.

use tch::{Kind, Tensor, no_grad};
use vae_data::loader::Batches;
use vae_data::{Dataset, derive_seed};
use vae_model::{ClosedKl, LatentScaling, MmdConfig, ModelError, Vae};
use vae_run::LatentUse;
use vae_view::ViewError;
use vae_view::latent::{Codes, Labels, Learner, Method, encode};

use crate::aggregate::{AggregateDensities, aggregate_densities};
use crate::likelihood::nats;
use crate::probe::{LinearProbe, accuracy, balanced_accuracy, nearest_neighbor_classes};
use crate::{
    EvalError, Findings, Measure, ProbeClassifier, Progress, Protocol, clustering_accuracy,
    normalized_mutual_information,
};

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatentOptions {
    /// The number of training images for fitting the probes, from the start.
    pub n_probe_images: usize,
    /// k of the k-nearest-neighbor probe.
    pub n_neighbors: i64,
}

impl Default for LatentOptions {
    fn default() -> Self {
        Self {
            n_probe_images: 10_000,
            n_neighbors: 5,
        }
    }
}

/// Measures how many latent dimensions are in use, the information of latents about their image, the difference between
/// aggregate posterior and prior, how well classes and attributes can be predicted from latents, and the clusters of a
/// mixture prior. The model is in [`vae_model::Mode::Evaluate`]. All draws depend only on `seed`.
///
/// # Errors
/// Images of another shape than the model's.
pub fn measure_latents(
    vae: &Vae,
    test: &Dataset,
    train: &Dataset,
    options: &LatentOptions,
    seed: u64,
    progress: &mut Progress<'_>,
) -> Result<Findings, EvalError> {
    vae.with_fixed_weights(|| findings(vae, test, train, options, seed, progress))
}

fn findings(
    vae: &Vae,
    test: &Dataset,
    train: &Dataset,
    options: &LatentOptions,
    seed: u64,
    progress: &mut Progress<'_>,
) -> Result<Findings, EvalError> {
    let mut findings = Findings::default();
    let codes = encode(vae, test, seed, |n_done| {
        progress("latents", n_done, test.len());
    })?;
    usage(vae, test, &codes, &mut findings)?;
    scale(vae, &codes.drawn, &mut findings)?;
    match aggregate_densities(vae, test, &codes.drawn, progress)? {
        Some(densities) => {
            information(vae, &densities, test.len(), &mut findings);
        }
        None => {
            for name in ["mutual_information", "aggregate_kl", "total_correlation"] {
                let reason = "log q(z|x) of this posterior has no closed form at any z";
                findings
                    .not_measured
                    .insert(name.to_owned(), reason.to_owned());
            }
        }
    }
    let discrepancy = discrepancy(vae, test.condition(), &codes.drawn, seed)?;
    findings.measures.push(discrepancy);
    clusters(vae, test, &codes.centers, &mut findings)?;
    probes(
        vae,
        test,
        train,
        &codes.centers,
        options,
        &mut findings,
        progress,
    )?;
    Ok(findings)
}

fn usage(
    vae: &Vae,
    test: &Dataset,
    codes: &Codes,
    findings: &mut Findings,
) -> Result<(), EvalError> {
    let center_variance = codes.centers.f_var_dim([0_i64].as_slice(), false, false)?;
    let latent_use = LatentUse {
        kl: kl_per_dimension(vae, test)?,
        center_variance: Vec::<f64>::try_from(center_variance)?,
        n_images: test.len() as u64,
    };
    let latent_dims = vae.config().n_latents();
    if latent_use.is_known() {
        let active = latent_use.active_units() as f64;
        findings.measures.push(
            Measure::new("active_units", "latent dimensions in use", active)
                .unit(&format!("of {latent_dims}"))
                .protocol(Protocol::ActiveUnits {
                    n_images: test.len(),
                    threshold: LatentUse::ACTIVE_VARIANCE,
                }),
        );
    } else {
        let reason = format!(
            "a variance over {} images is too uncertain, at least {} are needed",
            test.len(),
            LatentUse::LEAST_IMAGES
        );
        findings
            .not_measured
            .insert("active_units".to_owned(), reason);
    }
    if let Some(kl) = latent_use.kl {
        findings.lists.insert("kl_per_dimension".to_owned(), kl);
    }
    findings
        .lists
        .insert("center_variance".to_owned(), latent_use.center_variance);
    Ok(())
}

/// Of a model whose latents are a map: mean and standard deviation of each channel, and the shift and factor by which latent
/// diffusion would scale them to a mean of 0 and a variance of 1.
fn scale(vae: &Vae, drawn: &Tensor, findings: &mut Findings) -> Result<(), EvalError> {
    let Some(LatentMoments {
        means,
        deviations,
        scaling,
    }) = latent_moments(vae, drawn)?
    else {
        return Ok(());
    };
    let mut put = |name: &str, values| _ = findings.lists.insert(name.to_owned(), values);
    put("channel_mean", means);
    put("channel_deviation", deviations);
    let protocol = Protocol::LatentScale {
        n_images: drawn.size()[0] as usize,
    };
    let LatentScaling { factor, shift } = scaling;
    let mut measures = [
        Measure::new(
            "implied_scaling_factor",
            "scaling factor, 1 / deviation",
            factor,
        ),
        Measure::new("implied_shift_factor", "shift factor, the mean", shift),
    ]
    .map(|measure| measure.protocol(protocol.clone()));
    if let Some(known) = vae.latent_scaling() {
        let deviation = known.factor / factor;
        let verdict = match (deviation - 1.0).abs() > MOST_OFF {
            true => {
                "they disagree: these images differ from those it was made for, or the factor is wrong"
            }
            false => "they agree",
        };
        measures[0].note = format!(
            "its files say {}, which scales these latents to a deviation of {deviation:.3}: {verdict}",
            known.factor
        );
        let remains = (shift - known.shift) * known.factor;
        measures[1].note = format!(
            "its files say {}, which leaves a mean of {remains:.3} after scaling",
            known.shift
        );
    }
    findings.measures.extend(measures);
    Ok(())
}

/// The difference of a scaled deviation from 1 that is worth a word.
const MOST_OFF: f64 = 0.1;

/// Moments of latents that are a map.
#[derive(Clone, Debug, PartialEq)]
pub struct LatentMoments {
    /// The mean of each channel.
    pub means: Vec<f64>,
    /// The standard deviation of each channel.
    pub deviations: Vec<f64>,
    /// What scales all values together to a mean of 0 and a variance of 1, as Rombach et al. 2022 do
    /// (<https://arxiv.org/abs/2112.10752>, appendix G).
    pub scaling: LatentScaling,
}

/// The moments of latents `[N, Z]`; `None` if the model's latents are not one map.
///
/// # Errors
/// Latents of another shape than the model's.
pub fn latent_moments(vae: &Vae, latents: &Tensor) -> Result<Option<LatentMoments>, EvalError> {
    let Some([channels, height, width]) = vae.config().latent_shape else {
        return Ok(None);
    };
    if vae.config().n_latents() != channels * height * width {
        return Ok(None);
    }
    let maps = latents.to_kind(Kind::Double);
    let maps = maps.f_view([-1, channels, height * width])?;
    let numbers = |tensor: Tensor| Vec::<f64>::try_from(tensor);
    let shift = maps.mean(Kind::Double).double_value(&[]);
    Ok(Some(LatentMoments {
        means: numbers(maps.mean_dim([0_i64, 2].as_slice(), false, Kind::Double))?,
        deviations: numbers(maps.std_dim([0_i64, 2].as_slice(), false, false))?,
        scaling: LatentScaling {
            factor: 1.0 / maps.std(false).double_value(&[]),
            shift,
        },
    }))
}

/// The mean kl of each dimension, if it has a closed form.
fn kl_per_dimension(vae: &Vae, test: &Dataset) -> Result<Option<Vec<f64>>, EvalError> {
    let mut sum: Option<Tensor> = None;
    for batch in Batches::sequential(test, 500, vae.device()) {
        let batch = batch?;
        let condition = batch.condition.as_ref();
        let closed = no_grad(|| {
            let posterior = vae.encode((&batch.items, condition))?;
            vae.closed_kl(&*posterior, condition)
        })?;
        let Some(ClosedKl::PerDimension(kl)) = closed else {
            return Ok(None);
        };
        let kl = kl.sum_dim_intlist(0, false, Kind::Double);
        sum = Some(match sum {
            Some(sum) => sum + kl,
            None => kl,
        });
    }
    let mean = sum.map(|sum| Vec::<f64>::try_from(sum / test.len() as f64));
    Ok(mean.transpose()?)
}

/// The decomposition of the kl (Hoffman & Johnson 2016; Chen et al. 2018, <https://arxiv.org/abs/1802.04942>, eq. 2).
///
/// N images cannot show more than ln N nats of information between an image and its latents. If the model has more, the sum
/// log q(z) is dominated by the image itself, and the result is the kl minus ln N, which depends on N and not on the model.
/// The estimate without the image that z was drawn for errs in the other direction, so that the two bound each other's error
/// ([`AggregateDensities`]).
fn information(vae: &Vae, densities: &AggregateDensities, n: usize, findings: &mut Findings) {
    let AggregateDensities {
        log_qz_x,
        log_qz,
        log_qz_of_others,
        log_pz,
        log_qz_factorized,
        log_qz_factorized_of_others,
    } = densities;
    let how = || Protocol::AggregatePosterior { n_images: n };
    let mean = |values: Tensor| values.mean(Kind::Double).double_value(&[]);
    let gap = mean(log_qz - log_qz_of_others);
    let ceiling = (n as f64).ln();
    let known = nats(
        "mutual_information",
        "mutual information I(x; z)",
        &(log_qz_x - log_qz),
    )
    .protocol(how());
    findings
        .measures
        .push(match is_known_within(gap, known.value) {
            true => known,
            false => known.at_least().note(format!(
                "{n} images can show at most ln N = {ceiling:.2} nats"
            )),
        });
    let mut put = |measure: Measure, gap: f64| {
        if is_known_within(gap, measure.value) {
            let measure = measure.lower_is_better().protocol(how());
            findings.measures.push(match gap >= 0.01 {
                true => measure.note(format!(
                    "up to {gap:.2} off because of the number of images"
                )),
                false => measure,
            });
            return;
        }
        let reason = format!(
            "saturated: {n} images can show at most ln N = {ceiling:.2} nats of the information that an image and its \
             latents have in common, and here there is more. What came out, {:.1} nats, is a number of N \
             and not of the model, which may have 0",
            measure.value
        );
        findings.not_measured.insert(measure.name, reason);
    };
    put(
        nats(
            "aggregate_kl",
            "aggregate posterior against prior, KL(q(z) ‖ p(z))",
            &(log_qz - log_pz),
        ),
        gap,
    );
    if let (Some(factorized), Some(of_others)) = (log_qz_factorized, log_qz_factorized_of_others) {
        let gap_of_each = mean(factorized - of_others);
        put(
            nats(
                "total_correlation",
                "total correlation KL(q(z) ‖ Π q(z_j))",
                &(log_qz - factorized),
            ),
            // Their errors have opposite signs.
            gap.max(gap_of_each),
        );
        if vae.has_standard_normal_prior() {
            put(
                nats(
                    "dimension_wise_kl",
                    "dimension-wise kl Σ KL(q(z_j) ‖ p(z_j))",
                    &(factorized - log_pz),
                ),
                gap_of_each,
            );
        }
    }
}

/// Whether two estimates with errors of opposite sign, `gap` nats apart, are close enough to report the value: within half a
/// nat or a tenth of it.
fn is_known_within(gap: f64, value: f64) -> bool {
    gap <= (0.1 * value.abs()).max(0.5) // False for NaN, the gap of a single image.
}

/// MMD² between latents drawn from the aggregate posterior and from the prior.
fn discrepancy(
    vae: &Vae,
    condition: Option<&Tensor>,
    drawn: &Tensor,
    seed: u64,
) -> Result<Measure, EvalError> {
    const N_REFERENCES: i64 = 10;
    // All pairs and dimensions have to fit into memory at once.
    let most = (60_000_000 / vae.config().n_latents() as u64).isqrt();
    let n = (drawn.size()[0]).min(most.min(2000) as i64);
    // As many images as there are latents.
    let condition = condition.map(|condition| condition.narrow(0, 0, n));
    let kernel = MmdConfig::default();
    let mut generator = vae.generator(derive_seed(seed, 0, "aggregate discrepancy"));
    no_grad(|| {
        let mut prior = || -> Result<Tensor, ModelError> {
            let latents = match &condition {
                Some(condition) => vae.sample_latents_of(condition, &mut generator)?,
                None => vae.sample_latents(n, &mut generator),
            };
            Ok(latents.to_kind(Kind::Float))
        };
        let drawn = drawn
            .narrow(0, 0, n)
            .to_kind(Kind::Float)
            .to_device(vae.device());
        let value = kernel
            .squared_discrepancy(&drawn, &prior()?)
            .double_value(&[]);
        let mut squares = 0.0;
        for _ in 0..N_REFERENCES {
            let value = kernel.squared_discrepancy(&prior()?, &prior()?);
            squares += value.double_value(&[]).powi(2);
        }
        let deviation = (squares / N_REFERENCES as f64).sqrt();
        Ok(Measure::new(
            "aggregate_mmd",
            "aggregate posterior against prior, MMD²",
            value,
        )
        .error(deviation)
        .lower_is_better()
        .protocol(Protocol::Discrepancy {
            n_latents: n,
            scales: kernel.scales.clone(),
        }))
    })
}

/// How well argmax p(c|z) at each posterior's center clusters the images, if the prior has components c.
fn clusters(
    vae: &Vae,
    test: &Dataset,
    centers: &Tensor,
    findings: &mut Findings,
) -> Result<(), EvalError> {
    let log_assignment = no_grad(|| vae.log_assignment(&centers.to_kind(Kind::Float)))?;
    let (Some(labels), Some(log_assignment)) = (test.labels(), log_assignment) else {
        return Ok(());
    };
    let found = Vec::<i64>::try_from(log_assignment.argmax(1, false))?;
    let labels = Vec::<i64>::try_from(labels.to_kind(Kind::Int64))?;
    let mut used = found.clone();
    used.sort_unstable();
    used.dedup();
    let in_use = format!(
        "{} of {} components in use",
        used.len(),
        log_assignment.size()[1]
    );
    let information = normalized_mutual_information(&found, &labels);
    findings.measures.extend([
        Measure::new(
            "cluster_accuracy",
            "cluster accuracy",
            clustering_accuracy(&found, &labels),
        )
        .higher_is_better()
        .protocol(Protocol::Clusters { matched: true })
        .note(in_use),
        Measure::new(
            "cluster_nmi",
            "cluster normalized mutual information",
            information,
        )
        .higher_is_better()
        .protocol(Protocol::Clusters { matched: false }),
    ]);
    Ok(())
}

/// How well classes and attributes can be predicted from the centers, by classifiers fitted on training images.
fn probes(
    vae: &Vae,
    test: &Dataset,
    train: &Dataset,
    centers: &Tensor,
    options: &LatentOptions,
    findings: &mut Findings,
    progress: &mut Progress<'_>,
) -> Result<(), EvalError> {
    let attributes = binary_attributes(train, test);
    if (test.labels().is_none() || train.labels().is_none()) && attributes.is_empty() {
        let reason = "these images have neither labels nor attributes";
        for name in ["linear_probe_accuracy", "knn_probe_accuracy"] {
            findings
                .not_measured
                .insert(name.to_owned(), reason.to_owned());
        }
        return Ok(());
    }
    let n_train = train.len().min(options.n_probe_images);
    let train = train.truncated(n_train);
    let learned = encode(vae, &train, 0, |n_done| {
        progress("latents for the probes", n_done, n_train);
    })?;
    let probes = Probes {
        train: learned.centers,
        test: centers.shallow_clone(),
        n_neighbors: options.n_neighbors,
    };
    if let (Some(train_labels), Some(labels)) = (train.labels(), test.labels()) {
        findings
            .measures
            .extend(probes.labels(train_labels, labels)?);
    }
    if !attributes.is_empty() {
        probes.attributes(attributes, findings, progress)?;
    }
    Ok(())
}

struct Probes {
    train: Tensor, // [N, Z]
    test: Tensor,  // [M, Z]
    n_neighbors: i64,
}

impl Probes {
    fn protocol(&self, classifier: ProbeClassifier, n_components: Option<usize>) -> Protocol {
        Protocol::Probe {
            classifier,
            n_train_images: self.train.size()[0] as usize,
            n_components,
            n_attributes: None,
            balanced: false,
        }
    }

    fn of_attributes(
        &self,
        classifier: ProbeClassifier,
        n_components: Option<usize>,
        n_attributes: usize,
        balanced: bool,
    ) -> Protocol {
        Protocol::Probe {
            classifier,
            n_train_images: self.train.size()[0] as usize,
            n_components,
            n_attributes: Some(n_attributes),
            balanced,
        }
    }

    fn labels(&self, train: &Tensor, test: &Tensor) -> Result<[Measure; 2], EvalError> {
        let n_classes = train
            .max()
            .int64_value(&[])
            .max(test.max().int64_value(&[]))
            + 1;
        let probe = LinearProbe::fit(&self.train, train, n_classes)?;
        let linear = probe.classify(&self.test)?;
        let nearest = nearest_neighbor_classes(&self.train, train, &self.test, self.n_neighbors)?;
        let of = |name: &str, label: &str, found: &Tensor| {
            let share = accuracy(found, test);
            let n = test.numel() as f64;
            Measure::new(name, label, share)
                .error((share * (1.0 - share) / n).sqrt())
                .higher_is_better()
        };
        let neighbors = ProbeClassifier::NearestNeighbors {
            k: self.n_neighbors,
        };
        Ok([
            of("linear_probe_accuracy", "linear probe, accuracy", &linear).protocol(
                self.protocol(ProbeClassifier::Softmax { l2: 1.0 }, probe.n_components()),
            ),
            of(
                "knn_probe_accuracy",
                "k-nearest-neighbor probe, accuracy",
                &nearest,
            )
            .protocol(self.protocol(neighbors, None)),
        ])
    }

    /// Means over attributes; the results of each attribute are lists.
    fn attributes(
        &self,
        attributes: Vec<Labels>,
        findings: &mut Findings,
        progress: &mut Progress<'_>,
    ) -> Result<(), EvalError> {
        let learner = match Learner::new(&self.train, &self.test) {
            Err(ViewError::NoDirection) => {
                let reason = "all training images have the same latent";
                findings
                    .not_measured
                    .insert("linear_probe_attributes".to_owned(), reason.to_owned());
                return Ok(());
            }
            learner => learner?,
        };
        let n_train = self.train.size()[0] as usize;
        let n_attributes = attributes.len();
        let mut of_all: Vec<[f64; 5]> = Vec::new();
        for (i, mut labels) in attributes.into_iter().enumerate() {
            labels.train.truncate(n_train);
            progress("probes of attributes", i + 1, n_attributes);
            let linear = match learner.learn(&labels, Method::Linear, &[]) {
                Ok(direction) => direction.accuracy,
                // All or none of the training images have it.
                Err(ViewError::Attribute { .. }) => None,
                Err(error) => return Err(error.into()),
            };
            let Some(linear) = linear else { continue };
            let (train, train_rows) = known(&labels.train);
            let (test, test_rows) = known(&labels.held_out);
            let nearest = nearest_neighbor_classes(
                &self.train.index_select(0, &train_rows),
                &train,
                &self.test.index_select(0, &test_rows),
                self.n_neighbors,
            )?;
            let numbers = [
                linear.accuracy,
                linear.balanced,
                accuracy(&nearest, &test),
                balanced_accuracy(&nearest, &test, 2),
                linear.baseline,
            ];
            findings
                .lists
                .insert(format!("attribute_probe.{}", labels.name), numbers.to_vec());
            of_all.push(numbers);
        }
        let n = of_all.len();
        if n == 0 {
            let reason = "no attribute has images with and without it in both splits";
            findings
                .not_measured
                .insert("linear_probe_attributes".to_owned(), reason.to_owned());
            return Ok(());
        }
        let mean = |i: usize| of_all.iter().map(|numbers| numbers[i]).sum::<f64>() / n as f64;
        let linear = ProbeClassifier::Logistic;
        let nearest = ProbeClassifier::NearestNeighbors {
            k: self.n_neighbors,
        };
        let commoner = format!("always the more frequent answer: {:.4}", mean(4));
        let of = |i: usize, name: &str, label: &str, classifier, balanced| {
            let seen = match classifier {
                ProbeClassifier::Logistic => learner.n_components(),
                _ => None,
            };
            Measure::new(name, label, mean(i))
                .higher_is_better()
                .protocol(self.of_attributes(classifier, seen, n, balanced))
        };
        findings.measures.extend([
            of(
                0,
                "linear_probe_attributes",
                "linear probe of attributes, accuracy",
                linear,
                false,
            )
            .note(&commoner),
            of(
                1,
                "linear_probe_attributes_balanced",
                "linear probe of attributes, balanced accuracy",
                linear,
                true,
            ),
            of(
                2,
                "knn_probe_attributes",
                "k-nearest-neighbor probe of attributes, accuracy",
                nearest,
                false,
            )
            .note(&commoner),
            of(
                3,
                "knn_probe_attributes_balanced",
                "k-nearest-neighbor probe of attributes, balanced accuracy",
                nearest,
                true,
            ),
        ]);
        Ok(())
    }
}

/// The names of the yes-or-no attributes.
fn binary_attributes(train: &Dataset, test: &Dataset) -> Vec<Labels> {
    let answers = |dataset: &Dataset, name: &str| -> Option<Vec<Option<bool>>> {
        let values: Vec<Option<f32>> = dataset.attributes()?.column(name)?.collect();
        let binary = values
            .iter()
            .flatten()
            .all(|v| [-1.0, 0.0, 1.0].contains(v));
        binary.then(|| values.into_iter().map(|v| v.map(|v| v > 0.0)).collect())
    };
    let names = test.attributes().map(|known| known.names().to_vec());
    names
        .unwrap_or_default()
        .into_iter()
        .filter_map(|name| {
            Some(Labels {
                train: answers(train, &name)?,
                held_out: answers(test, &name)?,
                name,
            })
        })
        .collect()
}

/// The known answers as classes 0 and 1, and the images that they belong to.
fn known(answers: &[Option<bool>]) -> (Tensor, Tensor) {
    let (rows, classes): (Vec<i64>, Vec<i64>) = (0_i64..)
        .zip(answers)
        .filter_map(|(row, answer)| answer.map(|yes| (row, i64::from(yes))))
        .unzip();
    (Tensor::from_slice(&classes), Tensor::from_slice(&rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(values: &[f64]) -> Tensor {
        Tensor::from_slice(values).view([-1, 1])
    }

    /// The answer of each latent, after one that is not known.
    fn answers(latents: &[f64], answer: impl Fn(f64) -> bool) -> Vec<Option<bool>> {
        let known = latents[1..].iter().map(|&latent| Some(answer(latent)));
        std::iter::once(None).chain(known).collect()
    }

    /// Training latents 0 (whose answers are not known), −4, −3.8, … −2.2, 2.2, 2.4, … 4, and 3.5.
    fn train_latents() -> Vec<f64> {
        let sides = (0..10).flat_map(|i| [-4.0, 2.2].map(|first| first + 0.2 * f64::from(i)));
        std::iter::once(0.0).chain(sides).chain([3.5]).collect()
    }

    const TEST_LATENTS: [f64; 8] = [0.0, -3.0, -2.0, -2.2, 2.0, 2.5, 3.0, 3.5];

    fn probes() -> Probes {
        Probes {
            train: column(&train_latents()),
            test: column(&TEST_LATENTS),
            n_neighbors: 1,
        }
    }

    fn labels(name: &str, train: impl Fn(f64) -> bool, held_out: impl Fn(f64) -> bool) -> Labels {
        Labels {
            name: name.to_owned(),
            train: answers(&train_latents(), train),
            held_out: answers(&TEST_LATENTS, held_out),
        }
    }

    fn found(probes: &Probes, attributes: Vec<Labels>) -> Findings {
        let mut findings = Findings::default();
        probes
            .attributes(attributes, &mut findings, &mut |_, _, _| ())
            .expect("findings");
        findings
    }

    #[test]
    fn probes_of_attributes_are_means_over_those_that_can_be_probed() {
        // Yes on the right of 0, but not at 3.5; and of the test images at −2.2 as well, which nobody can guess.
        let mut hard = labels(
            "hard",
            |latent| latent > 0.0 && latent != 3.5,
            |latent| (latent > 0.0 && latent != 3.5) || latent == -2.2,
        );
        // Answers of training images beyond those that the probes are fitted to.
        hard.train.extend([Some(false); 3]);
        let findings = found(
            &probes(),
            vec![
                hard,
                labels("easy", |latent| latent > 0.0, |latent| latent > 0.0),
                labels("of all", |_| true, |latent| latent > 0.0),
                labels("of no test image", |latent| latent > 0.0, |_| false),
            ],
        );
        // The line is wrong at −2.2 and 3.5, the nearest neighbor at −2.2. Training images are 11 no and 10 yes of the
        // first, 10 no and 11 yes of the second; test images 3 and 4 of both.
        let of_hard = [
            5.0 / 7.0,
            (2.0 / 3.0 + 3.0 / 4.0) / 2.0,
            6.0 / 7.0,
            7.0 / 8.0,
            3.0 / 7.0,
        ];
        let of_easy = [1.0, 1.0, 1.0, 1.0, 4.0 / 7.0];
        let names: Vec<&str> = findings.lists.keys().map(String::as_str).collect();
        assert_eq!(names, ["attribute_probe.easy", "attribute_probe.hard"]);
        for (name, wanted) in [("easy", of_easy), ("hard", of_hard)] {
            let numbers = &findings.lists[&format!("attribute_probe.{name}")];
            for (found, wanted) in numbers.iter().zip(wanted) {
                assert!((found - wanted).abs() < 1e-12, "{name}: {numbers:?}");
            }
            assert_eq!(numbers.len(), wanted.len());
        }
        let names = [
            "linear_probe_attributes",
            "linear_probe_attributes_balanced",
            "knn_probe_attributes",
            "knn_probe_attributes_balanced",
        ];
        assert_eq!(findings.measures.len(), names.len());
        for (i, (measure, name)) in findings.measures.iter().zip(names).enumerate() {
            assert_eq!(measure.name, name);
            let wanted = (of_easy[i] + of_hard[i]) / 2.0;
            assert!((measure.value - wanted).abs() < 1e-12, "{measure:?}");
            let classifier = match i {
                0 | 1 => ProbeClassifier::Logistic,
                _ => ProbeClassifier::NearestNeighbors { k: 1 },
            };
            let protocol = Protocol::Probe {
                classifier,
                n_train_images: 22,
                n_components: None,
                n_attributes: Some(2),
                balanced: i % 2 == 1,
            };
            assert_eq!(measure.protocol, Some(protocol), "{name}");
            let note = ["always the more frequent answer: 0.5000", ""][i % 2];
            assert_eq!(measure.note, note, "{name}");
        }
        assert!(findings.not_measured.is_empty());
    }

    #[test]
    fn attributes_that_cannot_be_probed_have_a_reason() {
        let reason = |findings: &Findings| {
            assert!(findings.measures.is_empty() && findings.lists.is_empty());
            assert_eq!(findings.not_measured.len(), 1);
            findings.not_measured["linear_probe_attributes"].clone()
        };
        let of_all = || labels("of all", |_| true, |latent| latent > 0.0);
        assert_eq!(
            reason(&found(&probes(), vec![of_all()])),
            "no attribute has images with and without it in both splits"
        );
        let probes = Probes {
            train: column(&[1.5; 22]),
            ..probes()
        };
        assert_eq!(
            reason(&found(&probes, vec![of_all()])),
            "all training images have the same latent"
        );
    }

    #[test]
    fn known_answers_are_those_of_their_own_rows() {
        let (classes, rows) = known(&[None, Some(true), None, Some(false)]);
        assert_eq!(classes, Tensor::from_slice(&[1_i64, 0]));
        assert_eq!(rows, Tensor::from_slice(&[1_i64, 3]));
    }
}
