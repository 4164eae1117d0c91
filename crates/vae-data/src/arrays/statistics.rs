//! Mean, standard deviation and range of arrays, per channel (for vectors per value).

use tch::Tensor;
use vae_base::{ItemKind, ItemSpec, Standardization};

use crate::Dataset;
use crate::dataset::Images;

/// Numbers converted at a time.
const CHUNK_NUMBERS: usize = 1 << 20;

/// Statistics over all items of the numbers of one channel, or of one value of vectors. If no number is observed,
/// mean and standard deviation are 0 and the range is empty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValueStatistics {
    /// Number of values, including missing ones.
    pub n: u64,
    /// Number of missing values (NaN).
    pub n_missing: u64,
    /// Mean of the observed values.
    pub mean: f64,
    /// Standard deviation of the observed values, with n (not n − 1) in the denominator.
    pub std: f64,
    /// The smallest observed value; infinity if there is none.
    pub min: f32,
    /// The largest observed value; −infinity if there is none.
    pub max: f32,
}

impl ValueStatistics {
    const NONE: ValueStatistics = ValueStatistics {
        n: 0,
        n_missing: 0,
        mean: 0.0,
        std: 0.0,
        min: f32::INFINITY,
        max: f32::NEG_INFINITY,
    };

    /// Whether all observed values are equal, so that the standard deviation cannot be divided by.
    pub(super) fn is_constant(&self) -> bool {
        // A model divides in f32.
        self.min >= self.max || self.std < f64::from(f32::MIN_POSITIVE)
    }
}

/// Statistics of a data set of arrays, one per element of [`ItemSpec::statistics_shape`]; `None` for items of another
/// kind.
#[must_use]
pub fn array_statistics(dataset: &Dataset) -> Option<Vec<ValueStatistics>> {
    match (dataset.item().kind, dataset.images()) {
        (ItemKind::Array, Images::Memory(items)) => Some(statistics(items, dataset.item())),
        _ => None,
    }
}

/// Statistics of arrays f32 `[N, C, H, W]`, one per element of [`ItemSpec::statistics_shape`]. Summed sequentially in
/// f64, so that they are the same on every machine.
pub(crate) fn statistics(items: &Tensor, item: &ItemSpec) -> Vec<ValueStatistics> {
    let n_statistics = item.statistics_shape().iter().product::<i64>() as usize;
    let n_values = item.map().n_values() as usize;
    let n_each = n_values / n_statistics;
    let mut all = vec![ValueStatistics::NONE; n_statistics];
    for_each_item(items, n_values, |values| {
        for (values, s) in values.chunks_exact(n_each).zip(&mut all) {
            s.n += values.len() as u64;
            for &value in values {
                if value.is_nan() {
                    s.n_missing += 1;
                    continue;
                }
                s.mean += f64::from(value);
                (s.min, s.max) = (s.min.min(value), s.max.max(value));
            }
        }
    });
    let n_observed = |s: &ValueStatistics| (s.n - s.n_missing).max(1) as f64;
    for s in &mut all {
        s.mean /= n_observed(s);
    }
    // Two passes: a sum of plain squares would lose small deviations from a large mean.
    for_each_item(items, n_values, |values| {
        for (values, s) in values.chunks_exact(n_each).zip(&mut all) {
            let observed = values.iter().filter(|value| !value.is_nan());
            s.std += observed
                .map(|&value| (f64::from(value) - s.mean).powi(2))
                .sum::<f64>();
        }
    });
    for s in &mut all {
        s.std = (s.std / n_observed(s)).sqrt();
    }
    all
}

fn for_each_item(items: &Tensor, n_values: usize, mut each: impl FnMut(&[f32])) {
    let (n, n_chunk) = (items.size()[0], (CHUNK_NUMBERS / n_values).max(1) as i64);
    let mut buffer = Vec::new();
    for start in (0..n).step_by(n_chunk as usize) {
        let chunk = items.narrow(0, start, n_chunk.min(n - start)).contiguous();
        buffer.resize(chunk.numel(), 0.0);
        chunk.copy_data(&mut buffer, chunk.numel());
        buffer.chunks_exact(n_values).for_each(&mut each);
    }
}

/// Mean and standard deviation for standardization. The standard deviation is 1 if all observed values are equal or
/// none is observed.
pub(crate) fn standardization(statistics: &[ValueStatistics]) -> Standardization {
    Standardization {
        mean: statistics.iter().map(|s| s.mean).collect(),
        std: statistics
            .iter()
            .map(|s| if s.is_constant() { 1.0 } else { s.std })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use vae_base::ItemKind;

    use super::*;

    #[test]
    fn statistics_are_those_of_the_observed_numbers() {
        let item = ItemSpec::new(ItemKind::Array, vec![3]);
        let nan = f32::NAN;
        let items = Tensor::from_slice(&[1.0_f32, 5.0, nan, 3.0, 5.0, nan, nan, 5.0, nan]);
        let found = statistics(&items.view([3, 1, 1, 3]), &item);
        // 1 and 3: mean 2, standard deviation 1.
        let first = ValueStatistics {
            n: 3,
            n_missing: 1,
            mean: 2.0,
            std: 1.0,
            min: 1.0,
            max: 3.0,
        };
        assert_eq!(found[0], first);
        assert_eq!((found[1].mean, found[1].std), (5.0, 0.0));
        assert_eq!((found[2].n_missing, found[2].mean), (3, 0.0));
        let used = standardization(&found);
        assert_eq!(used.mean, [2.0, 5.0, 0.0]);
        assert_eq!(used.std, [1.0; 3]);
    }

    #[test]
    fn a_channel_has_one_mean_and_keeps_small_deviations() {
        let item = ItemSpec::new(ItemKind::Array, vec![2, 2]);
        // Two channels of two steps: 0 and 4 around 2; 1e6 and 1e6 + 1.
        let items = Tensor::from_slice(&[0.0_f32, 4.0, 1e6, 1e6 + 1.0]);
        let found = statistics(&items.view([1, 2, 1, 2]), &item);
        assert_eq!((found[0].mean, found[0].std), (2.0, 2.0));
        assert_eq!((found[1].mean, found[1].std), (1e6 + 0.5, 0.5));
    }

    #[test]
    fn a_constant_that_f64_sums_inexactly_is_constant() {
        let item = ItemSpec::new(ItemKind::Array, vec![1]);
        let items = Tensor::from_slice(&[0.1_f32; 7]).view([7, 1, 1, 1]);
        assert_eq!(standardization(&statistics(&items, &item)).std, [1.0]);
    }
}
