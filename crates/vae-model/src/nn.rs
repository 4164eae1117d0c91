//! Where the variables of a model are kept: tch's stores and paths, extended by an outline, which records the names and
//! shapes of all variables without allocating them.
//!
//! A custom part ([`Vae::builder`](crate::Vae::builder)) creates its variables under the [`Path`] that it gets. All
//! variables of a path are trained, saved and counted with the rest of the model.
//!
//! ```
//! use tch::Tensor;
//! use vae_model::nn::{self, Init};
//!
//! /// x ↦ s·(W·x + b), where s is saved but not trained.
//! #[derive(Debug)]
//! struct Scaled {
//!     linear: tch::nn::Linear,
//!     scale: Tensor,
//! }
//!
//! impl Scaled {
//!     fn new(path: &nn::Path, n_in: i64, n_out: i64) -> Self {
//!         let weight = Init::Uniform { lo: -0.1, up: 0.1 };
//!         Self {
//!             linear: nn::linear(&(path / "linear"), n_in, n_out, weight, Init::Const(0.0)),
//!             scale: path.ones_no_train("scale", &[1]),
//!         }
//!     }
//! }
//! ```

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut, Div};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use tch::nn::{Linear, Module, ModuleT};
use tch::{Device, Kind, Tensor};
use vae_torch::Generator;

/// The variables of a model by name.
#[derive(Debug)]
pub(crate) struct VarStore {
    inner: tch::nn::VarStore,
    fresh: Fresh,
    /// First components of the paths under which no variable is made.
    left_out: &'static [&'static str],
}

/// How variables are created.
#[derive(Debug)]
enum Fresh {
    /// With initial values from this generator.
    Drawn(Mutex<Generator>),
    /// As a record of their names and shapes only.
    Outlined(Mutex<Outline>),
}

/// The initial values of a variable.
#[derive(Clone, Copy, Debug)]
pub enum Init {
    /// One value everywhere.
    Const(f64),
    /// Normal.
    Randn {
        /// The mean.
        mean: f64,
        /// The standard deviation.
        stdev: f64,
    },
    /// Uniform from `lo` to `up`.
    Uniform {
        /// The lower end.
        lo: f64,
        /// The upper end.
        up: f64,
    },
}

impl Init {
    /// The same values times a factor.
    pub(crate) fn scaled(self, factor: f64) -> Self {
        match self {
            Self::Const(value) => Self::Const(value * factor),
            Self::Randn { mean, stdev } => Self::Randn {
                mean: mean * factor,
                stdev: stdev * factor,
            },
            Self::Uniform { lo, up } => Self::Uniform {
                lo: lo * factor,
                up: up * factor,
            },
        }
    }

    fn draw(self, shape: &[i64], generator: &mut Generator) -> Tensor {
        match self {
            Self::Const(value) => Tensor::full(shape, value, (Kind::Float, Device::Cpu)),
            Self::Randn { mean, stdev } => generator.normal(shape, Device::Cpu) * stdev + mean,
            Self::Uniform { lo, up } => generator.uniform([lo, up], shape, Device::Cpu),
        }
    }
}

/// Names and shapes of all variables of a model.
#[derive(Debug, Default)]
pub(crate) struct Outline(BTreeMap<String, Vec<i64>>);

impl Outline {
    /// Shapes by name.
    pub(crate) fn shapes(&self) -> &BTreeMap<String, Vec<i64>> {
        &self.0
    }

    /// Adds a variable that was made elsewhere.
    pub(crate) fn insert(&mut self, name: String, shape: Vec<i64>) {
        self.0.insert(name, shape);
    }

    /// The number of values in all variables; `None` if it exceeds an i64.
    pub(crate) fn n_values(&self) -> Option<i64> {
        self.0
            .values()
            .map(|shape| n_values(shape))
            .try_fold(0_i64, |sum, n| sum.checked_add(n?))
    }

    /// The variable with the most values.
    pub(crate) fn largest(&self) -> Option<(&str, &[i64])> {
        let size = |shape: &[i64]| n_values(shape).unwrap_or(i64::MAX);
        let largest = self.0.iter().max_by_key(|(_, shape)| size(shape));
        largest.map(|(name, shape)| (name.as_str(), shape.as_slice()))
    }
}

fn n_values(shape: &[i64]) -> Option<i64> {
    shape.iter().try_fold(1_i64, |n, &side| n.checked_mul(side))
}

impl VarStore {
    /// A store on the CPU. All initial values follow from the seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            inner: tch::nn::VarStore::new(Device::Cpu),
            fresh: Fresh::Drawn(Mutex::new(Generator::cpu(seed))),
            left_out: &[],
        }
    }

    /// A store that only records the shapes of variables. The tensors it returns have these shapes, but all their
    /// values share one zero in memory, so that models too large for any memory cost nothing.
    pub(crate) fn of_outline() -> Self {
        Self {
            inner: tch::nn::VarStore::new(Device::Cpu),
            fresh: Fresh::Outlined(Mutex::default()),
            left_out: &[],
        }
    }

    /// The same store, which makes no variable under these paths of its root: for a part of a network that the model
    /// does not have. The tensors there have their shapes, but no values and no memory.
    pub(crate) fn without(self, left_out: &'static [&'static str]) -> Self {
        Self { left_out, ..self }
    }

    pub(crate) fn root(&self) -> Path<'_> {
        Path {
            inner: self.inner.root(),
            fresh: &self.fresh,
            left_out: self.left_out,
        }
    }

    /// The recorded shapes; empty for a store of real variables.
    pub(crate) fn into_outline(self) -> Outline {
        match self.fresh {
            Fresh::Outlined(outline) => {
                outline.into_inner().unwrap_or_else(PoisonError::into_inner)
            }
            Fresh::Drawn(_) => Outline::default(),
        }
    }

    pub(crate) fn copy(&mut self, other: &Self) -> Result<(), tch::TchError> {
        self.inner.copy(&other.inner)
    }
}

impl Deref for VarStore {
    type Target = tch::nn::VarStore;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl DerefMut for VarStore {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.inner
    }
}

/// A node in the tree of a model's variables.
#[derive(Clone, Debug)]
pub struct Path<'a> {
    inner: tch::nn::Path<'a>,
    fresh: &'a Fresh,
    left_out: &'static [&'static str],
}

impl Path<'_> {
    /// Whether only names and shapes are recorded, so that work on the initial weights can be skipped. Variables then
    /// have their shape, but all their values share one zero in memory.
    pub fn is_outline(&self) -> bool {
        matches!(self.fresh, Fresh::Outlined(_)) || self.is_left_out()
    }

    fn is_left_out(&self) -> bool {
        let first = self.components().next();
        first.is_some_and(|first| self.left_out.contains(&first))
    }

    pub(crate) fn components(&self) -> impl Iterator<Item = &str> {
        self.inner.components()
    }

    /// A trained variable, f32.
    pub fn var(&self, name: &str, shape: &[i64], init: Init) -> Tensor {
        self.outlined(name, shape)
            .unwrap_or_else(|| self.inner.add(name, self.drawn(shape, init), true))
    }

    /// A trained variable, initially 0.
    pub fn zeros(&self, name: &str, shape: &[i64]) -> Tensor {
        self.var(name, shape, Init::Const(0.0))
    }

    /// A trained variable, initially 1.
    pub fn ones(&self, name: &str, shape: &[i64]) -> Tensor {
        self.var(name, shape, Init::Const(1.0))
    }

    /// A variable that is not trained, initially 0.
    pub fn zeros_no_train(&self, name: &str, shape: &[i64]) -> Tensor {
        self.outlined(name, shape)
            .unwrap_or_else(|| self.inner.zeros_no_train(name, shape))
    }

    /// A variable that is not trained, initially standard normal.
    pub fn normal_no_train(&self, name: &str, shape: &[i64]) -> Tensor {
        let normal = Init::Randn {
            mean: 0.0,
            stdev: 1.0,
        };
        self.outlined(name, shape)
            .unwrap_or_else(|| self.inner.add(name, self.drawn(shape, normal), false))
    }

    /// A variable that is not trained, initially 1.
    pub fn ones_no_train(&self, name: &str, shape: &[i64]) -> Tensor {
        self.outlined(name, shape)
            .unwrap_or_else(|| self.inner.ones_no_train(name, shape))
    }

    /// A tensor that is not a variable. `make` is called unless only names and shapes are recorded.
    pub fn constant(&self, shape: &[i64], make: impl FnOnce() -> Tensor) -> Tensor {
        match self.is_outline() {
            true => hollow(shape),
            false => make(),
        }
    }

    fn outlined(&self, name: &str, shape: &[i64]) -> Option<Tensor> {
        if self.is_left_out() {
            return Some(hollow(shape));
        }
        let Fresh::Outlined(outline) = self.fresh else {
            return None;
        };
        let path = self.inner.path(name);
        lock(outline).0.insert(path, shape.to_vec());
        Some(hollow(shape))
    }

    fn drawn(&self, shape: &[i64], init: Init) -> Tensor {
        match self.fresh {
            Fresh::Drawn(generator) => init.draw(shape, &mut lock(generator)),
            Fresh::Outlined(_) => hollow(shape),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A tensor of this shape with one value in memory. If the shape has more values than an i64 counts, the result has
/// only its number of dimensions.
fn hollow(shape: &[i64]) -> Tensor {
    let zero = Tensor::zeros([], (Kind::Float, Device::Cpu));
    let expanded = match n_values(shape) {
        Some(_) => zero.f_expand(shape, false),
        None => zero.f_expand(vec![1; shape.len()], false),
    };
    expanded.unwrap_or(zero)
}

impl<'a, T: ToString> Div<T> for Path<'a> {
    type Output = Path<'a>;

    fn div(self, name: T) -> Self::Output {
        Path {
            inner: self.inner / name,
            fresh: self.fresh,
            left_out: self.left_out,
        }
    }
}

impl<'a, T: ToString> Div<T> for &Path<'a> {
    type Output = Path<'a>;

    fn div(self, name: T) -> Self::Output {
        Path {
            inner: &self.inner / name,
            fresh: self.fresh,
            left_out: self.left_out,
        }
    }
}

/// A fully connected layer, `[in] → [out]`.
pub fn linear(path: &Path, n_in: i64, n_out: i64, weight: Init, bias: Init) -> Linear {
    // The order of the two draws determines which weights follow from a seed.
    let bias = path.var("bias", &[n_out], bias);
    Linear {
        ws: path.var("weight", &[n_out, n_in], weight),
        bs: Some(bias),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outline_counts_what_no_memory_holds() {
        let store = VarStore::of_outline();
        let path = &store.root() / "encoder" / 0;
        let weight = path.var("weight", &[1 << 20, 1 << 30], Init::Const(0.0));
        assert_eq!(weight.size(), [1 << 20, 1 << 30]);
        let _ = path.zeros_no_train("mean", &[7]);
        let outline = store.into_outline();
        assert_eq!(outline.n_values(), Some((1 << 50) + 7));
        assert_eq!(
            outline.largest(),
            Some(("encoder.0.weight", [1 << 20, 1 << 30].as_slice()))
        );
    }

    #[test]
    fn a_part_that_is_left_out_has_no_variables() {
        let store = VarStore::new(1).without(&["encoder"]);
        let weight = (&store.root() / "encoder" / 0).ones("weight", &[1 << 30, 8]);
        assert_eq!(weight.size(), [1 << 30, 8]);
        let _ = (&store.root() / "decoder").ones("weight", &[2]);
        let variables = store.variables();
        assert_eq!(variables.keys().collect::<Vec<_>>(), ["decoder.weight"]);
    }

    #[test]
    fn an_outline_of_more_than_can_be_counted_has_no_count() {
        let store = VarStore::of_outline();
        let weight = store
            .root()
            .var("weight", &[1 << 40, 1 << 40], Init::Const(0.0));
        assert_eq!(weight.size(), [1, 1]);
        assert_eq!(store.into_outline().n_values(), None);
    }
}
