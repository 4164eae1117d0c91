//! Players: networks that an objective trains beside the model, each by a loss of its own.

use tch::nn::Module;
use tch::{Device, Tensor};

use crate::nn;

/// A network that an objective trains beside the model, such as a discriminator. It is no part of the model:
/// a weights file does not hold it, and nothing but training needs it.
#[derive(Debug)]
pub struct PlayerNetwork {
    name: &'static str,
    variables: nn::VarStore,
    network: Box<dyn Module>,
}

impl PlayerNetwork {
    /// A network with fresh weights that follow from the seed; `build` makes it of variables under the path.
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

    /// Its variables by name, sorted; they share memory with the network's.
    #[must_use]
    pub fn named_variables(&self) -> Vec<(String, Tensor)> {
        let mut named: Vec<_> = self.variables.variables().into_iter().collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        named
    }

    /// What it says of inputs in its own loss: gradients reach its weights, not the model that made the inputs.
    pub fn learn(&self, inputs: &Tensor) -> Tensor {
        self.network.forward(&inputs.detach())
    }

    /// What it says of inputs in the model's loss: gradients reach the inputs, not its weights.
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

/// The losses of all players in a step, scalars.
#[derive(Debug)]
pub struct Losses {
    /// The model's.
    pub model: Tensor,
    /// Of each player beside it; none where this batch has nothing for it to learn from.
    pub players: Vec<Option<Tensor>>,
    /// What the objective logs of its parts, without their weights.
    pub terms: crate::Terms,
}
