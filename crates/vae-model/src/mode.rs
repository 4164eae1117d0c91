//! Whether the model is being trained.

/// What a forward pass is for. Batch norm and learned noise scales differ between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A training step: statistics come from the batch and update their running averages.
    Train,
    /// Everything else: statistics are the running averages, no variable changes, and an image's result does not depend
    /// on the other images of its batch.
    Evaluate,
}
