//! `gaussian` and `gmm`: mixtures of Gaussians over latents together with their condition.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};
use vae_base::ConditionSpec;
use vae_torch::Generator;

use super::components::{Parameters, Sizes};
use super::em::{self, Start};
use super::{Covariance, Distribution, FitProgress, LatentSet};
use crate::{ModelError, nn};

/// p(a, z, y) = Σ_k π_k · N([a, z]; μ_k, Σ_k) · θ_k(y), with the attributes a and the class y of the condition, either
/// of which a model may lack. The density of latents is p(z|a, y), and what is unknown of a and y is integrated out,
/// which for a Gaussian means to leave its rows and columns out.
///
/// `gaussian` is the special case of one component for each class, θ_k(y) = \[k = y\]: a Gaussian of each class.
#[derive(Debug)]
pub(super) struct Mixture {
    sizes: Sizes,
    /// How the components come to their places.
    start: Start,
    /// ln π, `[K]`.
    log_weights: Tensor,
    /// μ, `[K, V]`, of the attributes, then of the latents.
    mean: Tensor,
    /// L with Σ = L·Lᵀ, `[K, V, V]`; of diagonal covariances the standard deviations `[K, V]`.
    factor: Tensor,
    /// ln θ, `[K, Y]`; none of a model without classes.
    log_classes: Option<Tensor>,
}

/// The condition of latents, taken apart.
struct Known {
    /// Attributes f64 `[N, A]`, NaN where unknown.
    attributes: Tensor,
    /// Classes i64 `[N]`, −1 where unknown.
    classes: Tensor,
}

impl Known {
    fn new(condition: Option<&Tensor>, n: i64, sizes: Sizes) -> Self {
        let Some(condition) = condition else {
            return Self {
                attributes: Tensor::zeros([n, 0], (Kind::Double, Device::Cpu)),
                classes: Tensor::full([n], -1, (Kind::Int64, Device::Cpu)),
            };
        };
        let condition = condition.to_device(Device::Cpu).to_kind(Kind::Double);
        let classes = match sizes.classes {
            0 => Tensor::full([n], -1, (Kind::Int64, Device::Cpu)),
            _ => {
                let one_hot = condition.narrow(1, 0, sizes.classes);
                let is_unknown = one_hot.select(1, 0).isnan();
                one_hot
                    .nan_to_num(0.0, None, None)
                    .argmax(1, false)
                    .masked_fill(&is_unknown, -1)
            }
        };
        Self {
            attributes: condition.narrow(1, sizes.classes, sizes.attributes),
            classes,
        }
    }

    /// The rows of each set of known attributes: their columns, and the numbers of the rows.
    fn groups(&self) -> Result<Vec<(Vec<i64>, Tensor)>, ModelError> {
        let n_attributes = self.attributes.size()[1];
        if n_attributes == 0 {
            let n = self.classes.size()[0];
            return Ok(vec![(
                Vec::new(),
                Tensor::arange(n, (Kind::Int64, Device::Cpu)),
            )]);
        }
        let known = self.attributes.isfinite().to_kind(Kind::Int64);
        let known = Vec::<i64>::try_from(known.contiguous().flatten(0, -1))?;
        let mut groups: BTreeMap<&[i64], Vec<i64>> = BTreeMap::new();
        for (row, known) in (0..).zip(known.chunks(n_attributes as usize)) {
            groups.entry(known).or_default().push(row);
        }
        let columns = |known: &[i64]| -> Vec<i64> {
            let columns = (0..).zip(known).filter(|(_, known)| **known == 1);
            columns.map(|(column, _)| column).collect()
        };
        let groups = groups.into_iter();
        Ok(groups
            .map(|(known, rows)| (columns(known), Tensor::from_slice(&rows)))
            .collect())
    }
}

impl Mixture {
    pub(super) fn build(path: &nn::Path, sizes: Sizes, start: Start) -> Self {
        let (k, v) = (sizes.components, sizes.dims());
        let factor = match sizes.covariance {
            Covariance::Full => vec![k, v, v],
            Covariance::Diagonal => vec![k, v],
        };
        let has_classes = sizes.classes > 0;
        Self {
            sizes,
            start,
            log_weights: path.zeros_no_train("log_weights", &[k]),
            mean: path.zeros_no_train("mean", &[k, v]),
            factor: path.zeros_no_train("factor", &factor),
            log_classes: has_classes
                .then(|| path.zeros_no_train("log_classes", &[k, sizes.classes])),
        }
    }

    /// The number of classes and of attributes of a condition.
    pub(super) fn columns(condition: &ConditionSpec) -> [i64; 2] {
        [condition.classes.len(), condition.attributes.len()].map(|n| n as i64)
    }

    /// The parameters as f64 on the CPU.
    fn parameters(&self) -> Parameters {
        let double = |tensor: &Tensor| tensor.to_device(Device::Cpu).to_kind(Kind::Double);
        Parameters {
            log_weights: double(&self.log_weights),
            mean: double(&self.mean),
            factor: double(&self.factor),
            log_classes: match &self.log_classes {
                Some(log_classes) => double(log_classes),
                None => Tensor::zeros([self.sizes.components, 0], (Kind::Double, Device::Cpu)),
            },
        }
    }

    fn set(&self, found: &Parameters) {
        let copy = |variable: &Tensor, value: &Tensor| {
            variable.shallow_clone().copy_(value);
        };
        copy(&self.log_weights, &found.log_weights);
        copy(&self.mean, &found.mean);
        copy(&self.factor, &found.factor);
        if let Some(log_classes) = &self.log_classes {
            copy(log_classes, &found.log_classes);
        }
    }

    fn dims(&self, known: &[i64]) -> Tensor {
        let latents = self.sizes.attributes..self.sizes.dims();
        let dims: Vec<i64> = known.iter().copied().chain(latents).collect();
        Tensor::from_slice(&dims)
    }
}

impl Distribution for Mixture {
    fn log_prob(
        &self,
        latents: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<Option<Tensor>, ModelError> {
        let n = latents.size()[0];
        let latents_f64 = latents.to_device(Device::Cpu).to_kind(Kind::Double);
        let known = Known::new(condition, n, self.sizes);
        let parameters = self.parameters();
        let mut log_prob = Tensor::zeros([n], (Kind::Double, Device::Cpu));
        for (columns, rows) in known.groups()? {
            let of_rows = |tensor: &Tensor| tensor.index_select(0, &rows);
            let columns_tensor = Tensor::from_slice(&columns);
            let attributes = of_rows(&known.attributes).index_select(1, &columns_tensor);
            let classes = of_rows(&known.classes);
            let values = Tensor::cat(&[&attributes, &of_rows(&latents_f64)], 1);
            let joint = parameters.log_joint(&values, &self.dims(&columns), &classes);
            let marginal = parameters.log_joint(&attributes, &columns_tensor, &classes);
            let found = joint.logsumexp(1, false) - marginal.logsumexp(1, false);
            let _ = log_prob.index_copy_(0, &rows, &found);
        }
        Ok(Some(
            log_prob.to_kind(Kind::Float).to_device(latents.device()),
        ))
    }

    fn sample(
        &self,
        n: i64,
        condition: Option<&Tensor>,
        temperature: f64,
        generator: &mut Generator,
    ) -> Result<Tensor, ModelError> {
        let known = Known::new(condition, n, self.sizes);
        let parameters = self.parameters();
        // Drawn for all rows in one go, so that rows of different conditions have the same noise.
        let uniform = generator.uniform([0.0, 1.0], [n, 1], Device::Cpu);
        let noise = generator.normal([n, self.sizes.latents], Device::Cpu) * temperature;
        let noise = noise.to_kind(Kind::Double);
        let mut latents = Tensor::zeros([n, self.sizes.latents], (Kind::Double, Device::Cpu));
        for (columns, rows) in known.groups()? {
            let of_rows = |tensor: &Tensor| tensor.index_select(0, &rows);
            let columns_tensor = Tensor::from_slice(&columns);
            let attributes = of_rows(&known.attributes).index_select(1, &columns_tensor);
            let classes = of_rows(&known.classes);
            let marginal = parameters.log_joint(&attributes, &columns_tensor, &classes);
            let shares = marginal.softmax(1, Kind::Double).cumsum(1, Kind::Double);
            let shares = shares.expand([rows.numel() as i64, -1], false);
            let last = self.sizes.components - 1;
            let component = shares
                .le_tensor(&of_rows(&uniform))
                .sum_dim_intlist(1, false, Kind::Int64)
                .clamp_max(last);
            let component = Vec::<i64>::try_from(component)?;
            let dims = self.dims(&columns);
            let factors = parameters.marginal_factor(&dims);
            let means = parameters.mean.index_select(1, &dims);
            let n_known = columns.len() as i64;
            let mut by_component: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
            for (row, k) in (0..).zip(component) {
                by_component.entry(k).or_default().push(row);
            }
            for (k, places) in by_component {
                let places = Tensor::from_slice(&places);
                let (factor, mean) = (factors.get(k), means.get(k));
                let of_latents = factor.narrow(0, n_known, self.sizes.latents);
                let own = of_latents.narrow(1, n_known, self.sizes.latents);
                let rows = rows.index_select(0, &places);
                let mut found = noise.index_select(0, &rows).matmul(&own.transpose(0, 1))
                    + mean.narrow(0, n_known, self.sizes.latents);
                if n_known > 0 {
                    // Σ_za·Σ_aa⁻¹·(a − μ_a) = L_za·L_aa⁻¹·(a − μ_a).
                    let difference =
                        attributes.index_select(0, &places) - mean.narrow(0, 0, n_known);
                    let of_known = factor.narrow(0, 0, n_known).narrow(1, 0, n_known);
                    let white = of_known.linalg_solve_triangular(
                        &difference.transpose(0, 1),
                        false,
                        true,
                        false,
                    );
                    let across = of_latents.narrow(1, 0, n_known);
                    found += across.matmul(&white).transpose(0, 1);
                }
                let _ = latents.index_copy_(0, &rows, &found);
            }
        }
        Ok(latents.to_kind(Kind::Float))
    }

    fn start(
        &self,
        train: &LatentSet,
        seed: u64,
        progress: &mut FitProgress,
    ) -> Result<bool, ModelError> {
        let latents = train.latents.to_device(Device::Cpu).to_kind(Kind::Double);
        let known = Known::new(train.condition.as_ref(), train.len(), self.sizes);
        let values = Tensor::cat(&[&imputed(&known.attributes), &latents], 1);
        let found = em::fit(
            &values,
            &known.classes,
            self.sizes,
            self.start,
            seed,
            progress,
        )?;
        let Some(found) = found else { return Ok(false) };
        self.set(&found);
        Ok(true)
    }
}

/// Attributes with the mean of the known values in place of unknown ones. Only the fit needs it: densities and samples
/// integrate unknown attributes out.
fn imputed(attributes: &Tensor) -> Tensor {
    let is_unknown = attributes.isnan();
    let mean = attributes
        .nanmean([0_i64].as_slice(), true, Kind::Double)
        .nan_to_num(0.0, None, None);
    attributes.where_self(&is_unknown.logical_not(), &mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f64s(tensor: &Tensor) -> Vec<f64> {
        Vec::<f64>::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).expect("numbers")
    }

    /// Two components over an attribute and two latents, with two classes.
    fn mixture() -> (nn::VarStore, Mixture) {
        let variables = nn::VarStore::new(1);
        let sizes = Sizes {
            components: 2,
            classes: 2,
            attributes: 1,
            latents: 2,
            covariance: Covariance::Full,
        };
        let mixture = Mixture::build(&variables.root(), sizes, Start::Spread);
        let factor: [f64; 18] = [
            1.0, 0.0, 0.0, 0.5, 0.8, 0.0, -0.3, 0.2, 0.6, // of the first
            0.7, 0.0, 0.0, -0.4, 0.5, 0.0, 0.1, 0.3, 0.9,
        ];
        let shares = [0.9_f64, 0.1, 0.3, 0.7].map(f64::ln);
        mixture.set(&Parameters {
            log_weights: Tensor::from_slice(&[0.25_f64.ln(), 0.75_f64.ln()]),
            mean: Tensor::from_slice(&[0.5_f64, 1.0, 0.0, -0.5, -1.0, 0.5]).view([2, 3]),
            factor: Tensor::from_slice(&factor).view([2, 3, 3]),
            log_classes: Tensor::from_slice(&shares).view([2, 2]),
        });
        (variables, mixture)
    }

    /// ln N(x; m, S) of two dimensions by the formula.
    fn normal2([x, y]: [f64; 2], [mx, my]: [f64; 2], [a, b, d]: [f64; 3]) -> f64 {
        let (dx, dy, det) = (x - mx, y - my, a * d - b * b);
        let square = (d * dx * dx - 2.0 * b * dx * dy + a * dy * dy) / det;
        (-0.5 * square).exp() / (std::f64::consts::TAU * det.sqrt())
    }

    #[test]
    fn the_density_given_a_condition_is_the_joint_one_over_the_marginal_one() {
        let (_variables, mixture) = mixture();
        let z = [0.3_f64, -0.2];
        let latents = Tensor::from_slice(&z.map(|z| z as f32)).view([1, 2]);
        let density = |condition: [f32; 3]| {
            let condition = Tensor::from_slice(&condition).view([1, 3]);
            let found = mixture.log_prob(&latents, Some(&condition));
            found
                .expect("numbers")
                .expect("a density")
                .double_value(&[0])
        };
        // Σ = L·Lᵀ by hand: [aa; za, zz] for the two latents.
        let (first, second) = ([0.89, 0.01, 0.49], [0.41, 0.11, 0.91]);
        let n = [
            normal2(z, [1.0, 0.0], first),
            normal2(z, [-1.0, 0.5], second),
        ];
        let nan = f32::NAN;
        let unknown = density([nan, nan, nan]).exp();
        assert!(
            (unknown - (0.25 * n[0] + 0.75 * n[1])).abs() < 1e-6,
            "{unknown}"
        );
        let of_class_1 = density([0.0, 1.0, nan]).exp();
        let (w0, w1) = (0.25 * 0.1, 0.75 * 0.7);
        assert!((of_class_1 - (w0 * n[0] + w1 * n[1]) / (w0 + w1)).abs() < 1e-6);

        // Given the attribute a = 1: weights π_k·N(a), means m + L_za/L_aa·(a − m_a), covariance of the lower block.
        let given = |std: f64, mean: f64| (-0.5 * ((1.0 - mean) / std).powi(2)).exp() / std;
        let (w0, w1) = (0.25 * given(1.0, 0.5), 0.75 * given(0.7, -0.5));
        let (u0, u1) = (0.5, 1.5 / 0.7);
        let n = [
            normal2(z, [1.0 + 0.5 * u0, -0.3 * u0], [0.64, 0.16, 0.4]),
            normal2(z, [-1.0 - 0.4 * u1, 0.5 + 0.1 * u1], [0.25, 0.15, 0.9]),
        ];
        let wanted = (w0 * n[0] + w1 * n[1]) / (w0 + w1);
        let found = density([nan, nan, 1.0]).exp();
        assert!((found - wanted).abs() < 1e-6, "{found} {wanted}");
    }

    #[test]
    fn samples_have_the_moments_of_their_condition() {
        let (_variables, mixture) = mixture();
        let n = 40_000;
        // Class 0 and a = −0.5, at which the second component is centered.
        let condition = Tensor::from_slice(&[1_f32, 0.0, -0.5]).repeat([n, 1]);
        let mut generator = Generator::cpu(3);
        let found = mixture
            .sample(n, Some(&condition), 1.0, &mut generator)
            .expect("latents");
        let given = |std: f64, mean: f64| (-0.5 * ((-0.5 - mean) / std).powi(2)).exp() / std;
        let (w0, w1) = (0.25 * 0.9 * given(1.0, 0.5), 0.75 * 0.3 * given(0.7, -0.5));
        let share = w0 / (w0 + w1);
        let wanted = [
            share * (1.0 - 0.5) - (1.0 - share),
            share * 0.3 + (1.0 - share) * 0.5,
        ];
        let mean = f64s(&found.mean_dim(0, false, Kind::Double));
        for (mean, wanted) in mean.iter().zip(wanted) {
            assert!((mean - wanted).abs() < 0.03, "{mean} {wanted}");
        }
        // Without noise: the two conditional means alone.
        let still = mixture.sample(50, Some(&condition.narrow(0, 0, 50)), 0.0, &mut generator);
        let still = f64s(&still.expect("latents").select(1, 0));
        assert!(
            still
                .iter()
                .all(|x| (x - 0.5).abs() < 1e-6 || (x + 1.0).abs() < 1e-6)
        );
        assert!(still.iter().any(|x| *x > 0.0) && still.iter().any(|x| *x < 0.0));
    }

    #[test]
    fn unknown_attributes_are_replaced_by_the_mean_for_the_fit_alone() {
        let nan = f64::NAN;
        let attributes = Tensor::from_slice2(&[[1.0, nan], [3.0, nan], [nan, nan]]);
        let wanted = Tensor::from_slice2(&[[1.0, 0.0], [3.0, 0.0], [2.0, 0.0]]);
        assert_eq!(imputed(&attributes), wanted);
    }
}
