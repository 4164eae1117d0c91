//! Precision and recall: whether samples look real, and whether they cover all real images.

use tch::{Kind, Tensor};

use super::{check_pair, on_cpu};
use crate::EvalError;

/// Improved precision and recall.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrecisionRecall {
    /// The share of generated images that lie among the real ones: whether they look real.
    pub precision: f64,
    /// The share of real images that lie among the generated ones: whether every kind is generated.
    pub recall: f64,
}

/// The number of rows of distances in memory at once.
const N_AT_A_TIME: i64 = 500;

/// Improved precision and recall (Kynkäänniemi et al. 2019, <https://arxiv.org/abs/1904.06991>, eq. 1 and 2) of features
/// `[N, D]`. An image counts as covered by a set if its distance to some point of the set is at most the distance of that
/// point to its own `k`-th nearest neighbor in the set. The paper uses `k` = 3.
///
/// # Errors
/// Features of different D; sets of at most `k` images.
pub fn precision_recall(
    real: &Tensor,
    generated: &Tensor,
    k: usize,
) -> Result<PrecisionRecall, EvalError> {
    check_pair(real, generated)?;
    let smaller = real.size()[0].min(generated.size()[0]);
    if smaller <= k as i64 || k == 0 {
        return Err(EvalError::Unmeasurable(format!(
            "{smaller} images have no {k} nearest neighbors each"
        )));
    }
    let (real, generated) = (on_cpu(real), on_cpu(generated));
    // Distances are computed as differences of squares, which are more precise for small values.
    let center = real.mean_dim(0, true, Kind::Double);
    let (real, generated) = (real - &center, generated - center);
    Ok(PrecisionRecall {
        precision: share_among(&generated, &real, k)?,
        recall: share_among(&real, &generated, k)?,
    })
}

/// The share of points that lie in the ball of some point of the set, whose radius is the distance to its `k`-th neighbor.
fn share_among(points: &Tensor, set: &Tensor, k: usize) -> Result<f64, EvalError> {
    // The nearest point of the set is the point itself, at distance 0.
    let radii = blocks(set)
        .map(|block| {
            let (radii, _) = squared_distances(&block, set).kthvalue(k as i64 + 1, 1, false);
            radii
        })
        .collect::<Vec<_>>();
    let radii = Tensor::f_cat(&radii, 0)?; // [n_set]
    let mut n_among = 0;
    for block in blocks(points) {
        let inside = squared_distances(&block, set).le_tensor(&radii); // [B, n_set]
        n_among += i64::try_from(inside.any_dim(1, false).sum(Kind::Int64))?;
    }
    Ok(n_among as f64 / points.size()[0] as f64)
}

fn blocks(points: &Tensor) -> impl Iterator<Item = Tensor> {
    points.split(N_AT_A_TIME, 0).into_iter()
}

/// Distances between `[N, D]` and `[M, D]`, `[N, M]`.
fn squared_distances(a: &Tensor, b: &Tensor) -> Tensor {
    let squares = |x: &Tensor| x.square().sum_dim_intlist(1, true, Kind::Double);
    let products = a.matmul(&b.transpose(0, 1));
    (squares(a) + squares(b).transpose(0, 1) - products * 2.0).clamp_min(0.0)
}
