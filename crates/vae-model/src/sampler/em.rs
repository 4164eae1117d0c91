//! Expectation maximization of mixtures of Gaussians (Dempster, Laird & Rubin 1977), begun by k-means++ (Arthur &
//! Vassilvitskii 2007).

use tch::{Device, Kind, Tensor};
use vae_base::derive_seed;
use vae_torch::Generator;

use super::components::{BLOCK, LN_ZERO, Parameters, Sizes};
use super::{Covariance, FitProgress};
use crate::ModelError;

/// Where components begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// One component for each class, or for everything: no iterations follow.
    Classes,
    /// Centers of k-means.
    Spread,
}

/// What is added to each variance, as a share of that of all values: a component of a few points keeps a volume.
const FLOOR: f64 = 1e-6;

/// The same for dimensions without any variance, as a share of the mean variance.
const LEAST_FLOOR: f64 = 1e-8;

/// Iterations end when the mean log-likelihood grows by less, in nats.
const TOLERANCE: f64 = 5e-4;

const MOST_ITERATIONS: usize = 100;

/// Iterations of k-means, and the most points that it sees.
const LLOYD_ITERATIONS: usize = 10;
const MOST_CENTERED: i64 = 10_000;

/// Pseudo-counts of each class in each component.
const CLASS_COUNT: f64 = 1e-2;

/// A mixture of values f64 `[N, V]` and classes i64 `[N]`, −1 where unknown. `None` if it was stopped.
pub(super) fn fit(
    values: &Tensor,
    classes: &Tensor,
    sizes: Sizes,
    start: Start,
    seed: u64,
    progress: &mut FitProgress,
) -> Result<Option<Parameters>, ModelError> {
    let data = Data::new(values, classes, sizes);
    match start {
        Start::Classes => {
            let shares = data.shares_of_classes();
            Ok(Some(data.maximized(&shares, 0.0)?))
        }
        Start::Spread => {
            let mut generator = Generator::cpu(derive_seed(seed, 0, "k-means"));
            let labels = data.labels(&mut generator)?;
            let shares = labels.one_hot(sizes.components).to_kind(Kind::Double);
            let mut found = data.maximized(&shares, CLASS_COUNT)?;
            let mut before = f64::NEG_INFINITY;
            for i in 0..MOST_ITERATIONS {
                let joint = found.log_joint(values, &data.dims, classes);
                let total = joint.logsumexp(1, true); // [N, 1]
                let mean = f64::try_from(total.mean(Kind::Double))?;
                if !progress(i as f64 / MOST_ITERATIONS as f64) {
                    return Ok(None);
                }
                found = data.maximized(&(joint - total).exp(), CLASS_COUNT)?;
                if mean - before < TOLERANCE {
                    break;
                }
                before = mean;
            }
            Ok(Some(found))
        }
    }
}

struct Data<'a> {
    classes: &'a Tensor,
    sizes: Sizes,
    /// 0 … V − 1.
    dims: Tensor,
    mean: Tensor,
    /// The values less their mean.
    centered: Tensor,
    variance: Tensor,
    floor: Tensor,
}

impl<'a> Data<'a> {
    fn new(values: &Tensor, classes: &'a Tensor, sizes: Sizes) -> Self {
        let mean = values.mean_dim(0, false, Kind::Double);
        let centered = values - &mean;
        let variance = centered.square().mean_dim(0, false, Kind::Double);
        let floor = &variance * FLOOR + variance.mean(Kind::Double) * LEAST_FLOOR + 1e-12;
        Self {
            classes,
            sizes,
            dims: Tensor::arange(sizes.dims(), (Kind::Int64, Device::Cpu)),
            mean,
            centered,
            variance,
            floor,
        }
    }

    /// Every point belongs to the component of its class, `[N, K]`; one of unknown class to each in the share that the
    /// class has among the known.
    fn shares_of_classes(&self) -> Tensor {
        let (n, k) = (self.classes.size()[0], self.sizes.components);
        if k == 1 {
            return Tensor::ones([n, 1], (Kind::Double, Device::Cpu));
        }
        let is_known = self.classes.ge(0).unsqueeze(1);
        let one_hot = self.classes.clamp_min(0).one_hot(k).to_kind(Kind::Double) * &is_known;
        let counts = one_hot.sum_dim_intlist(0, true, Kind::Double);
        let shares = &counts / counts.sum(Kind::Double).clamp_min(1.0);
        one_hot.where_self(&is_known, &shares)
    }

    /// The parameters of the maximum likelihood given which share of each point belongs to which component, `[N, K]`.
    fn maximized(&self, shares: &Tensor, class_count: f64) -> Result<Parameters, ModelError> {
        let counts = shares.sum_dim_intlist(0, false, Kind::Double); // [K]
        let is_empty = counts.lt(1.0);
        let safe = counts.clamp_min(1.0).unsqueeze(1);
        let offset = shares.transpose(0, 1).matmul(&self.centered) / &safe; // [K, V]
        let offset = offset.masked_fill(&is_empty.unsqueeze(1), 0.0);
        let log_weights = (&counts / counts.sum(Kind::Double)).log();
        Ok(Parameters {
            log_weights: log_weights.masked_fill(&is_empty, LN_ZERO),
            mean: &offset + &self.mean,
            factor: self.factors(shares, &safe, &offset, &is_empty)?,
            log_classes: self.log_classes(shares, class_count),
        })
    }

    /// L or the standard deviations of every component, those of all points where a component has none. The moments are
    /// around the mean of all points, in f64: what cancels is far below the floor.
    fn factors(
        &self,
        shares: &Tensor,
        counts: &Tensor,
        offset: &Tensor,
        is_empty: &Tensor,
    ) -> Result<Tensor, ModelError> {
        if self.sizes.covariance == Covariance::Diagonal {
            let squares = shares.transpose(0, 1).matmul(&self.centered.square()) / counts;
            let variance = (squares - offset.square()).clamp_min(0.0);
            let variance = self.variance.where_self(&is_empty.unsqueeze(1), &variance);
            return Ok((variance + &self.floor).sqrt());
        }
        let v = self.sizes.dims();
        let size = [self.sizes.components, v * v];
        let mut products = Tensor::zeros(size, (Kind::Double, Device::Cpu));
        let step = (BLOCK / (v * v)).max(1);
        let blocks = self.centered.split(step, 0).into_iter();
        for (points, shares) in blocks.zip(shares.split(step, 0)) {
            let outer = points.unsqueeze(2) * points.unsqueeze(1); // [n, V, V]
            products += shares.transpose(0, 1).matmul(&outer.flatten(1, 2));
        }
        let moments = (products / counts).unflatten(1, [v, v]);
        let covariance = moments - offset.unsqueeze(2) * offset.unsqueeze(1); // [K, V, V]
        let is_empty = is_empty.unsqueeze(1).unsqueeze(2);
        let covariance = self.variance.diag(0).where_self(&is_empty, &covariance);
        Ok((covariance + self.floor.diag(0)).f_linalg_cholesky(false)?)
    }

    /// ln θ, `[K, Y]`.
    fn log_classes(&self, shares: &Tensor, class_count: f64) -> Tensor {
        let (k, n_classes) = (self.sizes.components, self.sizes.classes);
        if n_classes == 0 {
            return Tensor::zeros([k, 0], (Kind::Double, Device::Cpu));
        }
        let is_known = self.classes.ge(0).unsqueeze(1);
        let one_hot = self
            .classes
            .clamp_min(0)
            .one_hot(n_classes)
            .to_kind(Kind::Double);
        let counts = shares.transpose(0, 1).matmul(&(one_hot * is_known)) + class_count; // [K, Y]
        let total = counts.sum_dim_intlist(1, true, Kind::Double);
        let is_empty = total.le(0.0);
        let uniform = Tensor::full([1, 1], 1.0 / n_classes as f64, (Kind::Double, Device::Cpu));
        let shares = uniform.where_self(&is_empty, &(counts / total.clamp_min(1e-300)));
        shares.log().clamp_min(LN_ZERO)
    }

    /// The nearest of the centers of k-means for each point, i64 `[N]`, in units of each dimension's standard deviation.
    fn labels(&self, generator: &mut Generator) -> Result<Tensor, ModelError> {
        let std = (&self.variance + &self.floor).sqrt();
        let scaled = &self.centered / std;
        let n = scaled.size()[0];
        let seen = match n > MOST_CENTERED {
            true => {
                let ones = Tensor::ones([n], (Kind::Float, Device::Cpu));
                // With replacement: a few points twice do no harm.
                scaled.index_select(0, &generator.multinomial(&ones, MOST_CENTERED))
            }
            false => scaled.shallow_clone(),
        };
        let mut centers = seeds(&seen, self.sizes.components, generator)?;
        for _ in 0..LLOYD_ITERATIONS {
            let one_hot = nearest(&seen, &centers).one_hot(self.sizes.components);
            let one_hot = one_hot.to_kind(Kind::Double);
            let counts = one_hot.sum_dim_intlist(0, false, Kind::Double).unsqueeze(1);
            let means = one_hot.transpose(0, 1).matmul(&seen) / counts.clamp_min(1.0);
            centers = means.where_self(&counts.gt(0.0), &centers);
        }
        Ok(nearest(&scaled, &centers))
    }
}

/// The centers of k-means++: each is a point drawn in proportion to its squared distance from the nearest center so far.
fn seeds(points: &Tensor, n: i64, generator: &mut Generator) -> Result<Tensor, ModelError> {
    let n_points = points.size()[0];
    let first = generator.randint(n_points, [1], (Kind::Int64, Device::Cpu));
    let mut centers = vec![points.index_select(0, &first)];
    let square = |center: &Tensor| {
        let squares = (points - center).square();
        squares.sum_dim_intlist(1, false, Kind::Double)
    };
    let mut distances = square(&centers[0]);
    while (centers.len() as i64) < n {
        let total = f64::try_from(distances.sum(Kind::Double))?;
        let weights = match total > 0.0 {
            true => &distances / total,
            // Fewer different points than components.
            false => distances.ones_like(),
        };
        let next = generator.multinomial(&weights, 1);
        let center = points.index_select(0, &next);
        distances = distances.minimum(&square(&center));
        centers.push(center);
    }
    Ok(Tensor::cat(&centers, 0))
}

/// The number of the nearest center of each point.
fn nearest(points: &Tensor, centers: &Tensor) -> Tensor {
    let blocks = points.split(((1 << 22) / centers.size()[0]).max(1), 0);
    let of_block = |block: &Tensor| Tensor::cdist(block, centers, 2.0, None).argmin(1, false);
    Tensor::cat(&blocks.iter().map(of_block).collect::<Vec<_>>(), 0)
}
