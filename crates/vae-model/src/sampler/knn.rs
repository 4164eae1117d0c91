//! `knn`: points between the latents of training items and their neighbors.

use tch::{Device, Kind, Tensor};
use vae_base::derive_seed;
use vae_torch::Generator;

use super::{Distribution, FitProgress, LatentSet, LatentSpace};
use crate::{ModelError, nn};

/// The fewest points to draw from, where a condition names few.
const FEWEST: i64 = 32;

/// z = z_i + T·t·(z_j − z_i): z_i any of the stored latents, z_j one of its k nearest among them, t uniform in [0, 1], T
/// the temperature (SMOTE, Chawla et al. 2002). Distances are in units of each dimension's standard deviation.
///
/// With a condition, the latents whose own condition is nearest: all of the class asked for, or at least 32.
#[derive(Debug)]
pub(super) struct Knn {
    neighbors: i64,
    /// `[N, Z]`.
    latents: Tensor,
    /// `[N, D]`; unknown values are stored as [`UNKNOWN`].
    condition: Option<Tensor>,
}

/// What stands in a file for NaN, which is refused there.
const UNKNOWN: f64 = -1e6;

impl Knn {
    pub(super) fn build(
        path: &nn::Path,
        [neighbors, points]: [i64; 2],
        space: &LatentSpace,
    ) -> Self {
        let n_columns = space.condition.n_columns() as i64;
        Self {
            neighbors,
            latents: path.zeros_no_train("latents", &[points, space.latent_dims]),
            condition: (n_columns > 0)
                .then(|| path.zeros_no_train("condition", &[points, n_columns])),
        }
    }

    /// The numbers of the latents for a condition `[D]`, i64 `[n]`.
    fn candidates(&self, wanted: Option<&Tensor>) -> Tensor {
        let n = self.latents.size()[0];
        let all = || Tensor::arange(n, (Kind::Int64, Device::Cpu));
        let (Some(wanted), Some(stored)) = (wanted, &self.condition) else {
            return all();
        };
        let stored = stored.to_device(Device::Cpu);
        let is_unknown = stored.eq(UNKNOWN);
        // A stored value that is not known is as far as the other class or the opposite attribute.
        let square = (&stored - wanted).square().masked_fill(&is_unknown, 2.0);
        let distance = square
            .nan_to_num(0.0, None, None) // What was not asked for does not matter.
            .sum_dim_intlist(1, false, Kind::Float); // [N]
        let (smallest, _) = distance.topk(FEWEST.min(n), 0, false, true);
        let bound = smallest.max() + 1e-6;
        distance.le_tensor(&bound).nonzero().squeeze_dim(1)
    }
}

impl Distribution for Knn {
    fn log_prob(&self, _: &Tensor, _: Option<&Tensor>) -> Result<Option<Tensor>, ModelError> {
        Ok(None)
    }

    fn sample(
        &self,
        n: i64,
        condition: Option<&Tensor>,
        temperature: f64,
        generator: &mut Generator,
    ) -> Result<Tensor, ModelError> {
        let latents = self.latents.to_device(Device::Cpu);
        // Drawn for all rows in one go, so that rows of different conditions have the same noise.
        let draws = generator.uniform([0.0, 1.0], [n, 3], Device::Cpu);
        let (conditions, group) = match condition {
            Some(condition) => {
                let condition = condition.to_device(Device::Cpu);
                // NaN is never equal to NaN.
                let comparable = condition.nan_to_num(UNKNOWN, None, None);
                let (rows, group, _) = comparable.unique_dim(0, true, true, false);
                let unknown = rows.eq(UNKNOWN);
                let rows = rows.masked_fill(&unknown, f64::NAN);
                let n_groups = rows.size()[0];
                let rows = (0..n_groups).map(|i| Some(rows.get(i))).collect();
                (rows, group)
            }
            None => (vec![None], Tensor::zeros([n], (Kind::Int64, Device::Cpu))),
        };
        let std = latents
            .std_dim([0_i64].as_slice(), false, true)
            .clamp_min(1e-12);
        let mut drawn = Tensor::zeros([n, latents.size()[1]], (Kind::Float, Device::Cpu));
        for (i, wanted) in (0_i64..).zip(&conditions) {
            let rows = group.eq(i).nonzero().squeeze_dim(1);
            let among = latents.index_select(0, &self.candidates(wanted.as_ref())); // [m, Z]
            let scaled = &among / &std;
            let m = among.size()[0];
            let k = self.neighbors.min(m - 1);
            let step = ((1 << 24) / m).max(1);
            for rows in rows.split(step, 0) {
                let draws = draws.index_select(0, &rows);
                let place = |column: i64, n: i64| {
                    let place = (draws.select(1, column) * n as f64).to_kind(Kind::Int64);
                    place.clamp_max(n - 1)
                };
                let first = place(0, m);
                let from = among.index_select(0, &first);
                let found = match k {
                    0 => from,
                    _ => {
                        let own = scaled.index_select(0, &first);
                        let distances = Tensor::cdist(&own, &scaled, 2.0, None).scatter_value(
                            1,
                            &first.unsqueeze(1),
                            f64::INFINITY,
                        );
                        let (_, nearest) = distances.topk(k, 1, false, true); // [n, k]
                        let which = place(1, k).unsqueeze(1);
                        let second = nearest.gather(1, &which, false).squeeze_dim(1);
                        let share = draws.narrow(1, 2, 1) * temperature;
                        let to = among.index_select(0, &second);
                        &from + (to - &from) * share
                    }
                };
                let _ = drawn.index_copy_(0, &rows, &found);
            }
        }
        Ok(drawn)
    }

    /// Keeps a part of the latents by chance, if there are more than it holds.
    fn start(&self, train: &LatentSet, seed: u64, _: &mut FitProgress) -> Result<bool, ModelError> {
        let (n, points) = (train.len(), self.latents.size()[0]);
        let kept = match n > points {
            true => {
                let mut generator = Generator::cpu(derive_seed(seed, 0, "neighbors"));
                let order = generator.uniform([0.0, 1.0], [n], Device::Cpu);
                let (_, kept) = order.topk(points, 0, true, true);
                train.rows(&kept)
            }
            false => train.range(0, n),
        };
        self.latents.shallow_clone().copy_(&kept.latents);
        if let (Some(stored), Some(condition)) = (&self.condition, &kept.condition) {
            let condition = condition.nan_to_num(UNKNOWN, None, None);
            stored.shallow_clone().copy_(&condition);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use tch::no_grad;
    use vae_base::ConditionSpec;

    use super::*;
    use crate::Support;

    fn space(classes: &[&str]) -> LatentSpace {
        LatentSpace {
            latent_dims: 2,
            shape: None,
            support: Support::Euclidean,
            codes: None,
            condition: ConditionSpec {
                classes: classes.iter().map(|&name| name.to_owned()).collect(),
                attributes: vec![],
            },
        }
    }

    fn fitted(
        variables: &nn::VarStore,
        k: i64,
        latents: &Tensor,
        condition: Option<Tensor>,
        classes: &[&str],
    ) -> Knn {
        let n = latents.size()[0];
        let knn = Knn::build(&variables.root(), [k, n], &space(classes));
        let train = LatentSet {
            latents: latents.shallow_clone(),
            condition,
        };
        assert!(no_grad(|| knn.start(&train, 1, &mut |_| true)).expect("fitted"));
        knn
    }

    #[test]
    fn points_lie_between_a_latent_and_its_nearest_neighbor() {
        let variables = nn::VarStore::new(1);
        // Two pairs, far from each other: with one neighbor every point is on one of two segments.
        let corners = [[0_f32, 0.0], [1.0, 0.0], [10.0, 5.0], [10.0, 6.0]];
        let knn = fitted(&variables, 1, &Tensor::from_slice2(&corners), None, &[]);
        let mut generator = Generator::cpu(2);
        let found = knn.sample(400, None, 1.0, &mut generator).expect("points");
        let found = Vec::<Vec<f32>>::try_from(found).expect("rows");
        let (mut low, mut high) = (0, 0);
        for point in &found {
            match point[..] {
                [x, y] if y == 0.0 && (0.0..=1.0).contains(&x) => low += 1,
                [x, y] if x == 10.0 && (5.0..=6.0).contains(&y) => high += 1,
                _ => panic!("{point:?}"),
            }
        }
        assert!(low > 150 && high > 150, "{low} {high}");
        // At temperature 0 they are the latents themselves.
        let still = knn.sample(50, None, 0.0, &mut generator).expect("points");
        for point in Vec::<Vec<f32>>::try_from(still).expect("rows") {
            assert!(
                corners.iter().any(|corner| corner[..] == point[..]),
                "{point:?}"
            );
        }
    }

    #[test]
    fn a_class_has_points_between_its_own_latents() {
        let variables = nn::VarStore::new(1);
        let n = 40;
        let which = Tensor::arange(2 * n, (Kind::Int64, Device::Cpu)).remainder(2);
        let condition = which.one_hot(2).to_kind(Kind::Float);
        // The first class at x = −1, the second at x = 1.
        let x = which.to_kind(Kind::Float) * 2.0 - 1.0;
        let y = Generator::cpu(1).normal([2 * n], Device::Cpu);
        let latents = Tensor::stack(&[x, y], 1);
        let knn = fitted(&variables, 5, &latents, Some(condition), &["a", "b"]);
        let wanted = Tensor::from_slice2(&[[0_f32, 1.0], [1.0, 0.0], [f32::NAN, f32::NAN]]);
        let wanted = wanted.repeat([60, 1]);
        let found = knn.sample(180, Some(&wanted), 1.0, &mut Generator::cpu(3));
        let found = found.expect("points").view([60, 3, 2]).select(2, 0);
        assert_eq!(
            found.select(1, 0),
            Tensor::ones([60], (Kind::Float, Device::Cpu))
        );
        assert_eq!(
            found.select(1, 1),
            -Tensor::ones([60], (Kind::Float, Device::Cpu))
        );
        let unknown = found.select(1, 2);
        assert!(unknown.min().double_value(&[]) < -0.5 && unknown.max().double_value(&[]) > 0.5);
    }
}
