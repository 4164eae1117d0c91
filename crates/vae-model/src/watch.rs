//! The finite check: finds the layer whose output first has NaN or infinite values.

use std::cell::{Cell, RefCell};

use tch::Tensor;

thread_local! {
    static WATCHING: Cell<bool> = const { Cell::new(false) };
    static FIRST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `f` with the finite check on: every layer of this thread's networks, the posterior and the likelihood check
/// their outputs. Returns the result of `f` and the name of the first output with a NaN or infinite value: the path of
/// a layer's variables (`encoder.conv.2`), or a description (`posterior log_var`, `likelihood log_prob`).
///
/// Each check waits for the device. Without the check a layer reads only one thread-local bool.
///
/// ```
/// use tch::{Device, Kind, Tensor};
/// use vae_model::{ImageShape, Mode, ModelConfig, Vae, first_non_finite};
///
/// # fn main() -> Result<(), vae_model::ModelError> {
/// let shape = ImageShape { channels: 1, height: 28, width: 28 };
/// let vae = Vae::new(&ModelConfig::default(), shape, Device::Cpu, 1)?;
/// let images = Tensor::zeros([4, 1, 28, 28], (Kind::Uint8, Device::Cpu));
/// let mut generator = vae.generator(2);
/// let (draws, culprit) =
///     first_non_finite(|| vae.draw(&images, 1, Mode::Train, &mut generator));
/// draws?;
/// assert_eq!(culprit, None);
/// # Ok(())
/// # }
/// ```
pub fn first_non_finite<T>(f: impl FnOnce() -> T) -> (T, Option<String>) {
    let outer = Outer {
        watching: WATCHING.replace(true),
        first: FIRST.take(),
    };
    let value = f();
    let found = FIRST.with_borrow(Clone::clone);
    drop(outer);
    (value, found)
}

/// The state of an outer check. It is restored even if `f` panics.
struct Outer {
    watching: bool,
    first: Option<String>,
}

impl Drop for Outer {
    fn drop(&mut self) {
        let found = FIRST.take();
        FIRST.set(self.first.take().or(found));
        WATCHING.set(self.watching);
    }
}

/// Whether the finite check is on.
pub(crate) fn is_watching() -> bool {
    WATCHING.get()
}

/// Checks an output, if the finite check is on.
pub(crate) fn watch(name: &str, output: &Tensor) {
    if is_watching() {
        FIRST.with_borrow_mut(|first| {
            if first.is_none() && output.isfinite().all().int64_value(&[]) == 0 {
                *first = Some(name.to_owned());
            }
        });
    }
}
