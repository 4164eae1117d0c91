//! Players: networks that an objective trains besides the model, each with its own loss.

use tch::nn::Module;
use tch::{Device, Tensor};

use crate::nn;

/// A network that an objective trains besides the model, such as a discriminator. It is not part of the model: weights
/// files do not contain it, and only training needs it.
#[derive(Debug)]
pub struct PlayerNetwork {
    name: &'static str,
    variables: nn::VarStore,
    network: Box<dyn Module>,
}

impl PlayerNetwork {
    /// A network with fresh weights that follow from the seed; `build` creates it with its variables under the path.
    pub(super) fn new<N: Module + 'static>(
        name: &'static str,
        seed: u64,
        device: Device,
        build: impl FnOnce(&nn::Path) -> N,
    ) -> Self {
        let mut variables = nn::VarStore::new(seed);
        let network = Box::new(build(&variables.root()));
        variables.set_device(device);
        Self {
            name,
            variables,
            network,
        }
    }

    /// Its name in a config, `[players.NAME]`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its variables by name, sorted. They share memory with the network.
    #[must_use]
    pub fn named_variables(&self) -> Vec<(String, Tensor)> {
        let mut named: Vec<_> = self.variables.variables().into_iter().collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        named
    }

    /// The output for its own loss: gradients reach its weights, but not the model that made the inputs.
    pub fn learn(&self, inputs: &Tensor) -> Tensor {
        self.network.forward(&inputs.detach())
    }

    /// The output for the model's loss: gradients reach the inputs, but not its weights.
    pub fn judge(&self, inputs: &Tensor) -> Tensor {
        let weights = self.variables.trainable_variables();
        let set = |requires_grad| {
            for weight in &weights {
                let _ = weight.set_requires_grad(requires_grad);
            }
        };
        set(false);
        let said = self.network.forward(inputs);
        set(true);
        said
    }
}

/// The losses of a step, scalars.
#[derive(Debug)]
pub struct Losses {
    /// The loss of the model.
    pub model: Tensor,
    /// The loss of each player; `None` if the batch does not allow one.
    pub players: Vec<Option<Tensor>>,
    /// The parts that the objective logs, without their weights.
    pub terms: crate::Terms,
}
