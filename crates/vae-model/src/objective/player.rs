//! Players: networks that an objective trains besides the model, each with its own loss.

use tch::{Device, Tensor};

use crate::feature_network::FeatureNetwork;
use crate::network::{Discriminator, Judgement};
use crate::{Mode, nn};

/// A network that an objective trains besides the model, such as a discriminator. It is not part of the model: weights
/// files do not contain it, and only training needs it.
#[derive(Debug)]
pub struct PlayerNetwork {
    name: &'static str,
    variables: nn::VarStore,
    network: Box<dyn Discriminator>,
}

impl PlayerNetwork {
    /// A network with fresh weights that follow from the seed; `build` creates it with its variables under the path.
    pub(super) fn new(
        name: &'static str,
        seed: u64,
        device: Device,
        build: impl FnOnce(&nn::Path) -> Box<dyn Discriminator>,
    ) -> Self {
        let mut variables = nn::VarStore::new(seed);
        let network = build(&variables.root());
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

    /// What it says for its own loss: gradients reach its weights, but not the model that made the inputs.
    pub fn learn(&self, seen: &Seen, mode: Mode) -> Judgement {
        let side = seen.side.as_ref().map(Tensor::detach);
        self.network
            .judge(&seen.items.detach(), side.as_ref(), mode)
    }

    /// As [`Self::learn`], and the gradient of each item's output with respect to the item, `[B, C, H, W]`, itself
    /// differentiable.
    pub fn learn_with_gradient(&self, seen: &Seen, mode: Mode) -> (Judgement, Tensor) {
        let items = seen.items.detach().set_requires_grad(true);
        let side = seen.side.as_ref().map(Tensor::detach);
        let said = self.network.judge(&items, side.as_ref(), mode);
        // Items are judged independently, so the gradient of the sum holds each item's own gradient.
        let sum = said.outputs.sum(said.outputs.kind());
        let gradient = Tensor::run_backward(&[sum], &[items], true, true).remove(0);
        (said, gradient)
    }

    /// What it says for the model's loss: gradients reach the inputs, but not its weights.
    pub fn judge(&self, seen: &Seen, mode: Mode) -> Judgement {
        let weights = self.variables.trainable_variables();
        let set = |requires_grad| {
            for weight in &weights {
                let _ = weight.set_requires_grad(requires_grad);
            }
        };
        set(false);
        let said = self.network.judge(&seen.items, seen.side.as_ref(), mode);
        set(true);
        said
    }
}

/// The networks of an objective besides the model.
#[derive(Debug, Default)]
pub struct Networks {
    /// Those that it trains, each with a loss of its own.
    pub players: Vec<PlayerNetwork>,
    /// A fixed one, whose features are compared.
    pub features: Option<FeatureNetwork>,
}

/// What a player sees: items `[B, C, H, W]` or latents `[B, Z]`, and what is known besides, `[B, S]`.
#[derive(Debug)]
pub struct Seen {
    /// The items.
    pub items: Tensor,
    /// What is known of each besides.
    pub side: Option<Tensor>,
}

impl From<&Tensor> for Seen {
    fn from(items: &Tensor) -> Self {
        Self {
            items: items.shallow_clone(),
            side: None,
        }
    }
}

/// The losses of a step, scalars.
#[derive(Debug)]
pub struct Losses {
    /// The loss of the model.
    pub model: Tensor,
    /// The loss of each player, in the order of the players; `None` if the step or the batch does not have one.
    pub players: Vec<Option<Tensor>>,
    /// The parts that the objective logs, without their weights.
    pub terms: crate::Terms,
}
