//! Units of an array's values: standardized in the model, the data's own unit outside.

use tch::{Device, Kind, Tensor};
use vae_base::{ItemSpec, Standardization};

use crate::graph::{Graph, Op, Value};

/// How the values of items are standardized, and whether values may be missing. Images are left as they are, because
/// the likelihood scales them.
#[derive(Debug)]
pub(crate) struct Units {
    statistics: Option<Statistics>,
    has_missing: bool,
}

/// Each has a shape that broadcasts with items `[B, C, H, W]`. Made when the model is built: a tensor made from numbers
/// during a trace would be uninitialized memory in it.
#[derive(Debug)]
struct Statistics {
    mean: Tensor,
    std: Tensor,
    log_std: Tensor,
    /// The log of the product of the standard deviations of all values of an item.
    log_volume: f64,
}

impl Units {
    /// The statistics of a checked spec, on a device.
    pub(crate) fn new(item: &ItemSpec, device: Device) -> Self {
        let statistics = item.standardization.as_ref().map(|standardization| {
            let Standardization { mean, std } = standardization;
            let shape = item.statistics_shape();
            let tensor = |values: Vec<f64>| {
                let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
                Tensor::from_slice(&values).view(shape).to_device(device)
            };
            let log_std: Vec<f64> = std.iter().map(|std| std.ln()).collect();
            let n_values_each = item.map().n_values() / shape.iter().product::<i64>();
            Statistics {
                mean: tensor(mean.clone()),
                std: tensor(std.clone()),
                log_volume: log_std.iter().sum::<f64>() * n_values_each as f64,
                log_std: tensor(log_std),
            }
        });
        Self {
            statistics,
            has_missing: item.has_missing,
        }
    }

    /// (x − mean) / standard deviation for f32 `[B, C, H, W]` in the data's unit. Missing values stay NaN.
    pub(crate) fn standardized(&self, items: Tensor) -> Tensor {
        match &self.statistics {
            Some(Statistics { mean, std, .. }) => (items - mean) / std,
            None => items,
        }
    }

    /// Standardized values `[…, C, H, W]`, converted to the data's own unit.
    pub(crate) fn restored(&self, values: Tensor) -> Tensor {
        match &self.statistics {
            Some(Statistics { mean, std, .. }) => values * std + mean,
            None => values,
        }
    }

    /// The encoder's input for standardized items: 0, the mean, in place of missing values (Mattei & Frellsen 2019,
    /// <https://arxiv.org/abs/1812.02633>).
    pub(crate) fn without_missing(&self, targets: &Tensor) -> Tensor {
        match self.has_missing {
            true => targets.masked_fill(&targets.isnan(), 0.0),
            false => targets.shallow_clone(),
        }
    }

    /// Converts a log-density of standardized values in nats, `[K, B]`, to the data's own unit: subtracts the log of
    /// the standard deviation of each value that is observed in the targets `[B, C, H, W]`.
    pub(crate) fn density(&self, log_prob: Tensor, targets: &Tensor) -> Tensor {
        match (&self.statistics, self.has_missing) {
            (None, _) => log_prob,
            (Some(statistics), false) => log_prob - statistics.log_volume,
            (Some(Statistics { log_std, .. }), true) => {
                let observed = targets.isnan().logical_not().to_kind(Kind::Float);
                let log_volume = (observed * log_std).sum_dim_intlist(
                    [1_i64, 2, 3].as_slice(),
                    false,
                    Kind::Float,
                ); // [B]
                log_prob - log_volume
            }
        }
    }

    /// [`Self::density`] for the log-densities of single values, `[…, C, H, W]`.
    pub(crate) fn value_density(&self, log_prob: Tensor) -> Tensor {
        match &self.statistics {
            Some(Statistics { log_std, .. }) => log_prob - log_std,
            None => log_prob,
        }
    }

    /// [`Self::standardized`] and [`Self::without_missing`] as operations.
    pub(crate) fn standardized_graph(&self, graph: &mut Graph, items: &Value) -> Value {
        let mut value = items.clone();
        if let Some(Statistics { mean, std, .. }) = &self.statistics {
            let mean = graph.constant(mean.shallow_clone());
            value = graph.elementwise("Sub", &[&value, &mean]);
            let std = graph.constant(std.shallow_clone());
            value = graph.elementwise("Div", &[&value, &std]);
        }
        if self.has_missing {
            let is_missing = graph.push("", Op::Elementwise("IsNaN"), &[&value]);
            let zero = graph.number(0.0);
            value = graph.elementwise("Where", &[&is_missing, &zero, &value]);
        }
        value
    }

    /// [`Self::restored`] as operations.
    pub(crate) fn restored_graph(&self, graph: &mut Graph, values: Value) -> Value {
        match &self.statistics {
            Some(Statistics { mean, std, .. }) => {
                let std = graph.constant(std.shallow_clone());
                let value = graph.elementwise("Mul", &[&values, &std]);
                let mean = graph.constant(mean.shallow_clone());
                graph.elementwise("Add", &[&value, &mean])
            }
            None => values,
        }
    }
}

#[cfg(test)]
mod tests {
    use vae_base::ItemKind;

    use super::*;

    fn units(has_missing: bool) -> Units {
        let item = ItemSpec {
            standardization: Some(Standardization {
                mean: vec![1.0, -2.0],
                std: vec![2.0, 0.5],
            }),
            has_missing,
            ..ItemSpec::new(ItemKind::Array, vec![2, 3])
        };
        Units::new(&item, Device::Cpu)
    }

    #[test]
    fn values_come_back_in_their_own_unit() {
        let items = Tensor::from_slice(&[3_f32, 1.0, -1.0, -2.0, -1.5, 0.0]).view([1, 2, 1, 3]);
        let standardized = units(false).standardized(items.shallow_clone());
        let wanted = Tensor::from_slice(&[1_f32, 0.0, -1.0, 0.0, 1.0, 4.0]).view([1, 2, 1, 3]);
        assert_eq!(standardized, wanted);
        assert_eq!(units(false).restored(standardized), items);
    }

    #[test]
    fn a_density_is_that_of_the_data_in_their_unit() {
        // ln(2³·½³) = 0, as each channel has three values.
        let targets = Tensor::zeros([1, 2, 1, 3], (Kind::Float, Device::Cpu));
        let log_prob = || Tensor::zeros([1, 1], (Kind::Float, Device::Cpu));
        let all = units(false).density(log_prob(), &targets);
        assert!(all.double_value(&[0, 0]).abs() < 1e-6);
        // Without one value of the first channel and two of the second: 2·ln 2 − ln 2.
        let nan = f32::NAN;
        let targets = Tensor::from_slice(&[0.0, nan, 0.0, nan, 0.0, nan]).view([1, 2, 1, 3]);
        let some = units(true).density(log_prob(), &targets);
        assert!((some.double_value(&[0, 0]) + 2_f64.ln()).abs() < 1e-6);
        let seen = units(true).without_missing(&targets);
        assert_eq!(
            seen,
            Tensor::zeros([1, 2, 1, 3], (Kind::Float, Device::Cpu))
        );
    }
}
