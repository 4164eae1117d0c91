//! Whether the model is being trained.

/// What a pass through the model is for. Batch norm and learned noise scales differ between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A training step: statistics come from the batch, and their running averages take it in.
    Train,
    /// Everything else: statistics are the stored averages, no variable changes, and no image's result
    /// depends on the other images of its batch.
    Evaluate,
}
