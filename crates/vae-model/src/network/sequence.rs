//! Networks of sequences of tokens: what they share, and decoders that go from token to token.

use std::fmt::Debug;

use tch::{Kind, Tensor};
use vae_torch::Generator;

use super::layers::{Initialization, Layer, NextActivation};
use super::{LARGEST_DEPTH, NetworkShape};
use crate::nn::{self, Init};
use crate::{ItemKind, ModelError, share};

/// A decoder whose parameters of each value of an item depend on the values before it.
pub trait SequentialDecoder: Debug {
    /// Likelihood parameters of given items (teacher forcing): latents `[N, Z]` and items `[N, 1, 1, T]` → L maps
    /// `[N, L, 1, T]`. Those at place t depend on the latents and on the values before t alone. In training the generator
    /// is passed, for noise on the values that the decoder sees.
    fn decode_given(
        &self,
        latents: &Tensor,
        features: Option<&Tensor>,
        items: &Tensor,
        training: Option<&mut Generator>,
    ) -> Tensor;

    /// The decoder at its first step, for latents `[N, Z]`.
    fn steps<'a>(
        &'a self,
        latents: &Tensor,
        features: Option<&Tensor>,
    ) -> Box<dyn DecoderSteps + 'a>;
}

/// A [`SequentialDecoder`] on its way through new items.
pub trait DecoderSteps {
    /// The likelihood parameters of the next value, `[N, L]`, after the value `[N]` that was chosen for the step before;
    /// `None` at the first step.
    fn next(&mut self, before: Option<&Tensor>) -> Tensor;
}

/// The vocabulary of items that are sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenShape {
    pub(crate) vocabulary: i64,
    /// The token at the end of an item; `None` if each item has all T tokens.
    pub(crate) end: Option<i64>,
}

impl TokenShape {
    /// `None` for items other than tokens.
    pub(crate) fn of(kind: ItemKind) -> Option<Self> {
        match kind {
            ItemKind::Tokens { vocabulary, end } => Some(Self { vocabulary, end }),
            _ => None,
        }
    }

    /// Whether each token belongs to its item: those up to the first end, with it. i64 `[…, T]` → bool `[…, T]`.
    pub(crate) fn mask(self, tokens: &Tensor) -> Tensor {
        match self.end {
            None => tokens.ones_like().to_kind(Kind::Bool),
            Some(end) => {
                let is_end = tokens.eq(end).to_kind(Kind::Int64);
                // No end before it.
                (is_end.cumsum(-1, Kind::Int64) - is_end).eq(0)
            }
        }
    }
}

/// The most steps of an item for which a network makes parameters.
pub(super) const LONGEST: i64 = 1 << 16;

/// Tokens as vectors. There are two tokens that no item has: the beginning, which the decoder sees before the first
/// token, and the unknown one, in place of those that word dropout hides.
#[derive(Debug)]
pub(super) struct Embedding {
    weight: Tensor,
    vocabulary: i64,
}

impl Embedding {
    pub(super) fn build(path: &nn::Path, vocabulary: i64, width: i64, stdev: f64) -> Self {
        let normal = Init::Randn { mean: 0.0, stdev };
        Self {
            weight: path.var("embedding", &[vocabulary + 2, width], normal),
            vocabulary,
        }
    }

    /// i64 `[…]` → `[…, E]`.
    pub(super) fn apply(&self, tokens: &Tensor) -> Tensor {
        Tensor::embedding(&self.weight, tokens, -1, false, false)
    }

    /// The beginning, i64 `[N]`, for each row of a tensor `[N, …]`. (A number of rows would be a constant of a trace.)
    pub(super) fn beginning(&self, rows: &Tensor) -> Tensor {
        let zeros = rows.select(1, 0).zeros_like().to_kind(Kind::Int64);
        zeros + self.vocabulary
    }

    /// What the decoder sees at each step: the token before it. i64 `[N, T]` → `[N, T]`. In training each is hidden with
    /// this probability (word dropout, Bowman et al. 2016, <https://arxiv.org/abs/1511.06349>, §3.1), so that the decoder
    /// has to ask the latents.
    pub(super) fn shifted(
        &self,
        tokens: &Tensor,
        word_dropout: f64,
        training: Option<&mut Generator>,
    ) -> Tensor {
        let (n, length) = (tokens.size()[0], tokens.size()[1]);
        let mut before = tokens.narrow(1, 0, length - 1); // [N, T − 1]
        if let Some(generator) = training.filter(|_| word_dropout > 0.0) {
            let draw = |n| generator.uniform([0.0, 1.0], [n, length - 1], tokens.device());
            let draws = share::drawn_for(n, draw);
            before = before.masked_fill(&draws.lt(word_dropout), self.vocabulary + 1);
        }
        let beginning = self.beginning(tokens).unsqueeze(1);
        Tensor::cat(&[&beginning, &before], 1)
    }
}

/// From an encoder's features to the posterior's parameters.
pub(super) fn to_posterior(path: &nn::Path, shape: NetworkShape, n_in: i64) -> Layer<nn::Linear> {
    let next = NextActivation::Output {
        n_params: (shape.n_posterior_params / shape.latent_dims).max(1),
    };
    let n_in = n_in + shape.n_condition_features;
    shape
        .initialization
        .linear(path / "posterior", n_in, shape.n_posterior_params, next)
}

/// Features `[N, …]` with those of the condition behind them.
pub(super) fn with_features(values: Tensor, features: Option<&Tensor>) -> Tensor {
    match features {
        Some(features) => Tensor::cat(&[&values, &features.to_kind(values.kind())], -1),
        None => values,
    }
}

/// A linear map to all tokens of the vocabulary.
pub(super) fn to_logits(
    path: &nn::Path,
    initialization: Initialization,
    n_in: i64,
    vocabulary: i64,
) -> Layer<nn::Linear> {
    initialization.linear(path / "logits", n_in, vocabulary, NextActivation::Linear)
}

/// Logits `[N, T, V]` as maps `[N, V, 1, T]`.
pub(super) fn as_maps(logits: &Tensor) -> Tensor {
    logits.transpose(1, 2).unsqueeze(2)
}

/// The parameters of items of which each token is the most likely one after those before it, `[N, L, 1, T]`.
pub(super) fn greedy(
    decoder: &dyn SequentialDecoder,
    latents: &Tensor,
    features: Option<&Tensor>,
    length: i64,
) -> Tensor {
    let mut steps = decoder.steps(latents, features);
    let mut before: Option<Tensor> = None;
    let params: Vec<Tensor> = (0..length)
        .map(|_| {
            let params = steps.next(before.as_ref()); // [N, L]
            before = Some(params.argmax(-1, false));
            params
        })
        .collect();
    Tensor::stack(&params, -1).unsqueeze(2)
}

/// Refuses a probability of word dropout outside `[0, 1]`.
pub(super) fn check_word_dropout(key: &str, found: f64) -> Result<(), ModelError> {
    match (0.0..=1.0).contains(&found) {
        true => Ok(()),
        false => Err(ModelError::config(
            key,
            format!("found {found}, expected a probability from 0 to 1"),
        )),
    }
}

/// Refuses a number of layers below 1 or above [`LARGEST_DEPTH`].
pub(super) fn check_layers(key: &str, n: usize) -> Result<(), ModelError> {
    match (1..=LARGEST_DEPTH).contains(&n) {
        true => Ok(()),
        false => Err(ModelError::config(
            key,
            format!("found {n}, expected a number from 1 to {LARGEST_DEPTH}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn a_token_belongs_to_its_item_up_to_the_first_end() {
        let tokens = Tensor::from_slice(&[3_i64, 0, 0, 2, 2, 2, 0, 1, 2]).view([3, 3]);
        let shape = |end| TokenShape { vocabulary: 4, end };
        let mask = |end| Vec::<bool>::try_from(shape(end).mask(&tokens).view(-1)).expect("flat");
        let wanted = [true, true, false, true, true, true, true, false, false];
        assert_eq!(mask(Some(0)), wanted);
        assert_eq!(mask(None), [true; 9]);
    }

    #[test]
    fn word_dropout_hides_its_share_and_never_the_beginning() {
        let store = nn::VarStore::new(1);
        let embedding = Embedding::build(&store.root(), 5, 3, 1.0);
        let tokens = Tensor::full([200, 51], 4, (Kind::Int64, Device::Cpu));
        let plain = embedding.shifted(&tokens, 0.4, None);
        assert_eq!(
            i64::try_from(plain.eq(6).sum(Kind::Int64)).expect("a number"),
            0
        );
        let hidden = embedding.shifted(&tokens, 0.4, Some(&mut Generator::cpu(1)));
        assert_eq!(hidden.select(1, 0), embedding.beginning(&tokens));
        let share = hidden
            .narrow(1, 1, 50)
            .eq(6)
            .to_kind(Kind::Double)
            .mean(Kind::Double);
        // Five standard errors of 10,000 draws.
        assert!((share.double_value(&[]) - 0.4).abs() < 0.025);
    }
}
