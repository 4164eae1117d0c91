//! Attribute directions.
//!
//! Everything is computed in whitened latents x: with the covariance Σ = R·Rᵀ of the training latents,
//! z − mean = R·x. There, dimensions that the model does not use have no weight, however small their values are. The
//! unit normal u of an attribute's classifier is a filter: it suppresses whatever correlates with the attribute by
//! chance. The direction in z is the pattern R·u = Σ·w, where w is the normal in z: how images with a higher score
//! differ (Haufe et al. 2014, <https://doi.org/10.1016/j.neuroimage.2013.10.067>). A step along w itself hardly
//! changes an image, since w points where latents vary least. If two normals are orthogonal in x, a step along the
//! direction of one leaves the score of the other unchanged.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::pca::{WIDE, principal_axes};
use super::regression::LogisticRegression;
use crate::ViewError;

/// The method by which a direction is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// From the mean of the images without the attribute to the mean of those with it. Its classifier is Fisher's
    /// discriminant.
    Mean,
    /// The normal of a logistic regression in which both classes have the same weight.
    Linear,
}

impl Method {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Linear => "linear",
        }
    }
}

/// Which images have an attribute; none if that is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    /// The attribute.
    pub name: String,
    /// For each training image.
    pub train: Vec<Option<bool>>,
    /// For each held-out image.
    pub held_out: Vec<Option<bool>>,
}

/// A direction, and how it was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Direction {
    /// The attribute.
    pub name: String,
    /// How it was found.
    pub method: Method,
    /// The attributes whose scores a step leaves unchanged.
    pub orthogonal_to: Vec<String>,
    /// The change of a latent in a step of 1, `[Z]`.
    #[serde(skip)]
    pub step: Vec<f64>,
    /// The number of training images for which the attribute is known.
    pub n_train_images: usize,
    /// How well it classifies held-out images; none if one of the classes has no held-out image.
    pub accuracy: Option<Accuracy>,
}

/// How well the position along a direction predicts an attribute of held-out images, by a threshold that a logistic
/// regression finds on the training images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// The number of held-out images for which the attribute is known.
    pub n_images: usize,
    /// The share of them that is classified correctly.
    pub accuracy: f64,
    /// The share that would be correct if all were predicted to be of the class that is more frequent in training.
    pub baseline: f64,
    /// The balanced accuracy: the mean of both classes' accuracies, by a threshold with the same weight on both classes.
    /// Chance is ½.
    pub balanced: f64,
}

impl Accuracy {
    /// Whether guessing would do as well: the balanced accuracy is not above ½ by two standard errors of a guess.
    #[must_use]
    pub fn is_chance(&self) -> bool {
        let n = self.n_images as f64;
        let (frequent, rare) = (n * self.baseline, n * (1.0 - self.baseline));
        // Of each class ½·½/n is the variance, and a quarter of both counts.
        let variance = (0.25 / frequent + 0.25 / rare) / 4.0;
        self.balanced - 0.5 <= 2.0 * variance.sqrt()
    }
}

/// Learns directions from the latents of a training split and a held-out split.
#[derive(Debug)]
pub struct Learner {
    root: Tensor,     // R, [Z, D]
    train: Tensor,    // [N, D], whitened
    held_out: Tensor, // likewise, by the training latents' mean and covariance
}

/// Variances below this share of the largest count as zero.
const NO_VARIANCE: f64 = 1e-9;

impl Learner {
    /// From latents `[N, Z]` of training images and of held-out images.
    ///
    /// # Errors
    /// Training latents that are all equal; libtorch refuses.
    pub fn new(train: &Tensor, held_out: &Tensor) -> Result<Self, ViewError> {
        let train = train.to_kind(Kind::Double);
        let mean = train.f_mean_dim(0, false, Kind::Double)?;
        let centered = &train - &mean;
        let (vectors, variances) = principal_axes(&centered, i64::MAX)?;
        let variances = Vec::<f64>::try_from(variances)?; // Largest first.
        let largest = variances.first().copied().unwrap_or(0.0);
        let used: Vec<f64> = variances
            .into_iter()
            .filter(|&variance| variance > NO_VARIANCE * largest)
            .collect();
        if used.is_empty() {
            return Err(ViewError::NoDirection);
        }
        let deviations = Tensor::from_slice(&used).sqrt(); // [D]
        let vectors = vectors.narrow(1, 0, used.len() as i64); // [Z, D]
        let whitened = |centered: Tensor| centered.matmul(&vectors) / &deviations;
        Ok(Self {
            train: whitened(centered),
            held_out: whitened(held_out.to_kind(Kind::Double) - &mean),
            root: &vectors * &deviations,
        })
    }

    /// The number of principal components of the latents that directions are sought in, if these are [`WIDE`]: those that the
    /// training latents have, and of more than 1,024 latents 256.
    #[must_use]
    pub fn n_components(&self) -> Option<usize> {
        let is_wide = self.root.size()[0] > WIDE;
        is_wide.then(|| self.root.size()[1] as usize)
    }

    /// The direction of an attribute, orthogonal (in whitened latents) to those of other attributes by the same method.
    ///
    /// # Errors
    /// An attribute that all or none of the training images have; one whose direction is a combination of the others'.
    pub fn learn(
        &self,
        labels: &Labels,
        method: Method,
        orthogonal_to: &[&Labels],
    ) -> Result<Direction, ViewError> {
        let train = Known::of(&self.train, &labels.train)?;
        if let Some(missing) = train.missing_class() {
            let problem = format!(
                "{missing} of the {} training images of which it is known; a direction is between those \
                 with and those without",
                train.n_images()
            );
            return Err(ViewError::attribute(&labels.name, problem));
        }
        let mut normal = train.normal(method)?;
        let mut basis: Vec<Tensor> = Vec::new();
        for other in orthogonal_to {
            let known = Known::of(&self.train, &other.train)?;
            if let Some(missing) = known.missing_class() {
                let problem = format!("{missing} of the training images; it has no direction");
                return Err(ViewError::attribute(&other.name, problem));
            }
            let rest = without(&known.normal(method)?, &basis);
            // A second attribute with the same direction adds nothing.
            basis.extend(unit(&rest));
        }
        normal = without(&normal, &basis);
        let Some(normal) = unit(&normal) else {
            let names: Vec<&str> = orthogonal_to.iter().map(|o| o.name.as_str()).collect();
            let problem = format!(
                "nothing of its direction is left beside {}",
                names.join(", ")
            );
            return Err(ViewError::attribute(&labels.name, problem));
        };
        let direction = self.root.mv(&normal); // [Z]
        let direction = &direction / length(&direction);
        // The variance along it is directionᵀ·R·Rᵀ·direction.
        let deviation = length(&self.root.transpose(0, 1).mv(&direction));
        Ok(Direction {
            name: labels.name.clone(),
            method,
            orthogonal_to: orthogonal_to.iter().map(|o| o.name.clone()).collect(),
            step: Vec::<f64>::try_from(direction * deviation)?,
            n_train_images: train.n_images(),
            accuracy: train.accuracy(&Known::of(&self.held_out, &labels.held_out)?, &normal)?,
        })
    }
}

/// The latents for which an attribute is known.
struct Known {
    latents: Tensor, // [N, D]
    yes: Tensor,     // [N], 1 or 0
}

impl Known {
    fn of(latents: &Tensor, labels: &[Option<bool>]) -> Result<Self, ViewError> {
        let rows: Vec<i64> = (0_i64..)
            .zip(labels)
            .filter_map(|(row, label)| label.map(|_| row))
            .collect();
        let yes: Vec<f64> = labels.iter().flatten().map(|&yes| f64::from(yes)).collect();
        Ok(Self {
            latents: latents.f_index_select(0, &Tensor::from_slice(&rows))?,
            yes: Tensor::from_slice(&yes),
        })
    }

    fn n_images(&self) -> usize {
        self.yes.numel()
    }

    /// How many images have the attribute.
    fn n_yes(&self) -> f64 {
        self.yes.sum(Kind::Double).double_value(&[])
    }

    /// Why a class has no image, for a message; none if both classes have images.
    fn missing_class(&self) -> Option<&'static str> {
        match self.n_yes() {
            0.0 => Some("none"),
            n if n == self.n_images() as f64 => Some("it is true of all"),
            _ => None,
        }
    }

    /// The weights of the images, by which each class has half of the total.
    fn balanced_counts(&self) -> Tensor {
        let (n, n_yes) = (self.n_images() as f64, self.n_yes());
        let (yes, no) = (0.5 * n / n_yes, 0.5 * n / (n - n_yes));
        &self.yes * yes + (1.0 - &self.yes) * no
    }

    /// The normal `[D]`, of any length.
    fn normal(&self, method: Method) -> Result<Tensor, ViewError> {
        match method {
            Method::Linear => {
                let classifier =
                    LogisticRegression::fit(&self.latents, &self.yes, &self.balanced_counts())?;
                Ok(classifier.normal)
            }
            Method::Mean => {
                let (n, n_yes) = (self.n_images() as f64, self.n_yes());
                let shares = &self.yes / n_yes - (1.0 - &self.yes) / (n - n_yes);
                Ok(self.latents.transpose(0, 1).mv(&shares))
            }
        }
    }

    fn accuracy(&self, held_out: &Known, normal: &Tensor) -> Result<Option<Accuracy>, ViewError> {
        if held_out.n_images() == 0 || held_out.missing_class().is_some() {
            return Ok(None);
        }
        let places = |known: &Known| known.latents.mv(normal).unsqueeze(1); // [N, 1]
        let right = |counts: &Tensor| -> Result<Tensor, ViewError> {
            let threshold = LogisticRegression::fit(&places(self), &self.yes, counts)?;
            let said = threshold.predicts_yes(&places(held_out));
            Ok(said.eq_tensor(&held_out.yes.gt(0.5)).to_kind(Kind::Double))
        };
        let (n, n_yes) = (held_out.n_images() as f64, held_out.n_yes());
        let commoner = if self.n_yes() * 2.0 >= self.n_images() as f64 {
            n_yes
        } else {
            n - n_yes
        };
        let right_balanced = right(&self.balanced_counts())?;
        let of_class = |class: &Tensor, n: f64| {
            (&right_balanced * class)
                .sum(Kind::Double)
                .double_value(&[])
                / n
        };
        Ok(Some(Accuracy {
            n_images: held_out.n_images(),
            accuracy: right(&self.yes.ones_like())?
                .mean(Kind::Double)
                .double_value(&[]),
            baseline: commoner / n,
            balanced: 0.5
                * (of_class(&held_out.yes, n_yes) + of_class(&(1.0 - &held_out.yes), n - n_yes)),
        }))
    }
}

/// The part of a vector that is orthogonal to an orthonormal basis (Gram–Schmidt).
fn without(vector: &Tensor, basis: &[Tensor]) -> Tensor {
    let length = length(vector).max(f64::MIN_POSITIVE);
    basis
        .iter()
        .fold(vector / length, |rest, axis| &rest - axis * rest.dot(axis))
}

/// The vector scaled to length 1; none if it is too short to have a direction.
fn unit(vector: &Tensor) -> Option<Tensor> {
    let length = length(vector);
    (length > 1e-6).then(|| vector / length)
}

fn length(vector: &Tensor) -> f64 {
    vector.square().sum(Kind::Double).double_value(&[]).sqrt()
}

#[cfg(test)]
mod tests {
    use tch::Device;
    use vae_model::Generator;

    use super::*;

    const N: i64 = 4000;

    #[test]
    fn what_a_coin_would_reach_is_chance() {
        let accuracy = |n_images, balanced, baseline| Accuracy {
            n_images,
            accuracy: baseline,
            baseline,
            balanced,
        };
        // Of 100 images of each class the standard error is √(¼/100 + ¼/100)/2 = 0.0354.
        assert!(accuracy(200, 0.57, 0.5).is_chance());
        assert!(!accuracy(200, 0.572, 0.5).is_chance());
        // Of 10 and 190 it is √(¼/10 + ¼/190)/2 = 0.0811.
        assert!(accuracy(200, 0.66, 0.95).is_chance());
        assert!(!accuracy(200, 0.664, 0.95).is_chance());
        assert!(
            accuracy(200, 0.9, 1.0).is_chance(),
            "without images of one class nothing is known"
        );
    }

    /// Two two-dimensional Gaussian classes with the same covariance L·Lᵀ and means ±mu. The noise is antithetic, so that
    /// the class means are exact.
    fn classes(mu: [f64; 2], l: [[f64; 2]; 2]) -> (Tensor, Vec<Option<bool>>) {
        let half = Generator::cpu(7).normal([N / 2, 2], Device::Cpu);
        let half = half.to_kind(Kind::Double);
        let noise = Tensor::cat(&[&half, &-&half], 0).matmul(&Tensor::from_slice2(&l).tr());
        let mu = Tensor::from_slice(&mu);
        let latents = Tensor::cat(&[&noise + &mu, &noise - &mu], 0);
        let labels = (0..2 * N).map(|i| Some(i < N)).collect();
        (latents, labels)
    }

    fn labels(name: &str, values: &[Option<bool>]) -> Labels {
        Labels {
            name: name.to_owned(),
            train: values.to_vec(),
            held_out: values.to_vec(),
        }
    }

    fn cosine(a: &Tensor, b: &Tensor) -> f64 {
        a.dot(b).double_value(&[]) / (length(a) * length(b))
    }

    #[test]
    fn both_methods_find_what_is_known_of_gaussian_classes() {
        let l = [[1.0, 0.0], [1.5, 0.5]];
        let mu = [0.5, 0.5];
        let (latents, known) = classes(mu, l);
        let learner = Learner::new(&latents, &latents).expect("latents");
        let labels = labels("A", &known);
        // The mean difference is 2·mu.
        let mean = learner
            .learn(&labels, Method::Mean, &[])
            .expect("a direction");
        let step = Tensor::from_slice(&mean.step);
        assert!(cosine(&step, &Tensor::from_slice(&mu)) > 1.0 - 1e-9);
        // The best classifier's normal in z is Σ⁻¹mu, Σ = L·Lᵀ = [[1, 1.5], [1.5, 2.5]] with determinant
        // 0.25: (2.5·0.5 − 1.5·0.5, −1.5·0.5 + 0.5)/0.25 ∝ (2, −1). The direction is the covariance of all
        // latents times it, Σ + mu·muᵀ: again along mu.
        for method in [Method::Mean, Method::Linear] {
            let found = learner.learn(&labels, method, &[]).expect("a direction");
            let step = Tensor::from_slice(&found.step);
            assert!(cosine(&step, &Tensor::from_slice(&mu)) > 0.98, "{step}");
            let covariance = learner.root.matmul(&learner.root.tr()); // [2, 2]
            let normal = Tensor::f_linalg_solve(&covariance, &step, true).expect("a normal");
            assert!(
                cosine(&normal, &Tensor::from_slice(&[2.0, -1.0])) > 0.98,
                "{normal}"
            );
            // Its accuracy for each class is Φ(√(muᵀΣ⁻¹mu)) = Φ(√0.5) = 0.7602.
            let found = found.accuracy.expect("held-out images");
            assert!((found.accuracy - 0.7602).abs() < 0.02, "{found:?}");
            assert!((found.balanced - 0.7602).abs() < 0.02, "{found:?}");
            assert!((found.baseline - 0.5).abs() < 1e-9, "{found:?}");
            assert_eq!(found.n_images, 2 * N as usize);
        }
    }

    #[test]
    fn a_step_is_one_standard_deviation_of_the_latents_along_it() {
        let (latents, known) = classes([1.0, 0.0], [[2.0, 0.0], [0.0, 0.5]]);
        let learner = Learner::new(&latents, &latents).expect("latents");
        let found = learner
            .learn(&labels("A", &known), Method::Mean, &[])
            .expect("a direction");
        // Along the first axis the variance is 4 within the classes plus 1 between them.
        let wanted = latents.select(1, 0).std(false).double_value(&[]);
        assert!((found.step[0] - wanted).abs() < 1e-6 && (wanted - 5_f64.sqrt()).abs() < 0.1);
        assert!(found.step[1].abs() < 1e-6);

        // An unused dimension and a copy of another one do no harm.
        let columns = [
            latents.select(1, 0),
            latents.select(1, 1),
            latents.select(1, 1),
        ];
        let unused = latents.select(1, 0).zeros_like();
        let wider = Tensor::stack(&[&columns[0], &columns[1], &columns[2], &unused], 1);
        let learner = Learner::new(&wider, &wider).expect("latents");
        for method in [Method::Mean, Method::Linear] {
            let found = learner
                .learn(&labels("A", &known), method, &[])
                .expect("a direction");
            assert!((found.step[0] - wanted).abs() < 0.02, "{found:?}");
            assert!(found.step[3].abs() < 1e-9, "{found:?}");
        }
        assert!(Learner::new(&wider.zeros_like(), &wider).is_err());
    }

    #[test]
    fn an_orthogonal_direction_leaves_the_other_attribute_alone() {
        let (latents, known) = classes([1.0, 0.8], [[1.0, 0.0], [0.6, 0.9]]);
        let by_second: Vec<Option<bool>> = Vec::<f64>::try_from(latents.select(1, 1))
            .expect("numbers")
            .into_iter()
            .map(|value| (value.abs() > 0.1).then_some(value > 0.0))
            .collect();
        let learner = Learner::new(&latents, &latents).expect("latents");
        let (a, b) = (labels("A", &known), labels("B", &by_second));
        for method in [Method::Mean, Method::Linear] {
            let other = learner.learn(&b, method, &[]).expect("a direction");
            let found = learner.learn(&a, method, &[&b, &b]).expect("a direction");
            // The other's normal in z is Σ⁻¹ times its direction.
            let covariance = learner.root.matmul(&learner.root.tr());
            let step = Tensor::from_slice(&other.step);
            let normal = Tensor::f_linalg_solve(&covariance, &step, true).expect("a normal");
            let cos = cosine(&Tensor::from_slice(&found.step), &normal);
            assert!(cos.abs() < 1e-6, "{method:?}, {cos}");
            assert_eq!(found.orthogonal_to, ["B", "B"]);
            let error = learner.learn(&a, method, &[&a]).unwrap_err().to_string();
            assert_eq!(
                error,
                "attribute A: nothing of its direction is left beside A"
            );
        }
    }

    #[test]
    fn an_attribute_of_all_or_none_is_refused_and_unknown_ones_are_left_out() {
        let (latents, mut known) = classes([1.0, 0.0], [[1.0, 0.0], [0.0, 1.0]]);
        let learner = Learner::new(&latents, &latents).expect("latents");
        let all = labels("A", &vec![Some(true); known.len()]);
        let error = learner
            .learn(&all, Method::Mean, &[])
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("attribute A: it is true of all of the 8000"),
            "{error}"
        );
        let none = labels("A", &vec![None; known.len()]);
        let error = learner
            .learn(&none, Method::Linear, &[])
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("attribute A: none of the 0 training images"),
            "{error}"
        );
        known[0] = None;
        let found = learner
            .learn(&labels("A", &known), Method::Mean, &[])
            .expect("a direction");
        assert_eq!(found.n_train_images, known.len() - 1);
    }
}
