//! `network.recurrent`: LSTMs, for sequences of tokens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use vae_torch::Generator;

use super::layers::{Layer, NextActivation};
use super::sequence::{
    DecoderSteps, Embedding, SequentialDecoder, TokenShape, as_maps, check_layers,
    check_word_dropout, greedy, to_logits, to_posterior, with_features,
};
use super::{LARGEST_DEPTH, LARGEST_SIZE, Network, NetworkShape, check_sizes};
use crate::nn::{self, Init, Module};
use crate::watch::watch;
use crate::{Mode, ModelError};

/// For tokens (Bowman et al. 2016, <https://arxiv.org/abs/1511.06349>).
///
/// Encoder: an LSTM in each direction; the posterior's parameters are a linear map of their last states. What follows an
/// item's end is not read. Decoder: an LSTM that sees the token before and z at each step, and whose first state is a map
/// of z.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RecurrentConfig {
    /// Width of the vectors that stand for tokens. Default 64.
    #[schemars(range(min = 1, max = LARGEST_SIZE))]
    pub embedding: i64,
    /// Width of the encoder's state in each direction. Default 128.
    #[schemars(range(min = 1, max = LARGEST_SIZE))]
    pub encoder_hidden: i64,
    /// Width of the decoder's state. Default 256.
    #[schemars(range(min = 1, max = LARGEST_SIZE))]
    pub decoder_hidden: i64,
    /// Number of the decoder's LSTMs, one above the other. Default 1.
    #[schemars(range(min = 1, max = LARGEST_DEPTH))]
    pub decoder_layers: usize,
    /// Probability with which, in training, the decoder does not see a token before. Default 0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub word_dropout: f64,
    /// The decoder gets 0 in place of z: the plain language model, to compare with. Its bound is
    /// −reconstruction, and the kl falls to 0. Default false.
    pub without_latents: bool,
}

impl Default for RecurrentConfig {
    fn default() -> Self {
        Self {
            embedding: 64,
            encoder_hidden: 128,
            decoder_hidden: 256,
            decoder_layers: 1,
            word_dropout: 0.0,
            without_latents: false,
        }
    }
}

impl RecurrentConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        let key = |name: &str| format!("model.network.recurrent.{name}");
        check_sizes(&key("embedding"), &[self.embedding])?;
        check_sizes(&key("encoder_hidden"), &[self.encoder_hidden])?;
        check_sizes(&key("decoder_hidden"), &[self.decoder_hidden])?;
        check_layers(&key("decoder_layers"), self.decoder_layers)?;
        check_word_dropout(&key("word_dropout"), self.word_dropout)
    }

    pub(super) fn build(
        &self,
        root: &nn::Path,
        shape: NetworkShape,
        tokens: TokenShape,
    ) -> RecurrentNetwork {
        let init = shape.initialization;
        let path = root / "encoder";
        let embedding = Embedding::build(&path, tokens.vocabulary, self.embedding, 1.0);
        let lstm =
            |name: &str| Lstm::build(&(&path / name), self.embedding, self.encoder_hidden, 1);
        let encoder = Encoder {
            embedding,
            directions: [lstm("forward"), lstm("backward")],
            posterior: to_posterior(&path, shape, 2 * self.encoder_hidden),
            tokens,
        };
        let path = root / "decoder";
        let n_latents = shape.latent_dims + shape.n_condition_features;
        let (hidden, layers) = (self.decoder_hidden, self.decoder_layers as i64);
        let n_state = 2 * layers * hidden;
        let decoder = Decoder {
            embedding: Embedding::build(&path, tokens.vocabulary, self.embedding, 1.0),
            state: init.linear(&path / "state", n_latents, n_state, NextActivation::Linear),
            lstm: Lstm::build(
                &(&path / "lstm"),
                self.embedding + n_latents,
                hidden,
                layers,
            ),
            logits: to_logits(&path, init, hidden, tokens.vocabulary),
            word_dropout: self.word_dropout,
            without_latents: self.without_latents,
        };
        RecurrentNetwork {
            encoder,
            decoder,
            length: shape.image.width,
        }
    }
}

/// LSTMs, one above the other.
#[derive(Debug)]
struct Lstm {
    name: String,
    /// Of each layer: input and state weights, `[4·H, …]`, then their biases; the gates in PyTorch's order.
    params: Vec<Tensor>,
    n_layers: i64,
}

impl Lstm {
    fn build(path: &nn::Path, n_in: i64, hidden: i64, n_layers: i64) -> Self {
        let bound = 1.0 / (hidden as f64).sqrt();
        let uniform = Init::Uniform {
            lo: -bound,
            up: bound,
        };
        let mut params = Vec::new();
        for layer in 0..n_layers {
            let path = path / layer;
            let n_in = if layer == 0 { n_in } else { hidden };
            let [input, state] = ["input", "state"].map(|name| &path / name);
            params.push(input.var("weight", &[4 * hidden, n_in], uniform));
            params.push(state.var("weight", &[4 * hidden, hidden], uniform));
            params.push(input.var("bias", &[4 * hidden], uniform));
            params.push(state.var("bias", &[4 * hidden], uniform));
        }
        Self {
            name: path.components().collect::<Vec<_>>().join("."),
            params,
            n_layers,
        }
    }

    /// Inputs `[N, T, I]` and the states before, `[layers, N, H]` each → outputs `[N, T, H]` and the states after.
    fn apply(&self, inputs: &Tensor, state: &[Tensor; 2]) -> (Tensor, [Tensor; 2]) {
        let (outputs, hidden, cell) = inputs.lstm(
            state,
            &self.params,
            true,
            self.n_layers,
            0.0,
            false,
            false,
            true,
        );
        watch(&self.name, &outputs);
        (outputs, [hidden, cell])
    }
}

/// `[N, T, E]` with each item's own tokens in reverse order; padding stays where it is. `lengths` is i64 `[N, 1]`.
fn reversed(values: &Tensor, lengths: &Tensor) -> Tensor {
    let (length, width) = (values.size()[1], values.size()[2]);
    let places = Tensor::arange(length, (Kind::Int64, values.device())).unsqueeze(0); // [1, T]
    let from_end = lengths - 1 - &places; // [N, T]
    let places = places.where_self(&from_end.lt(0), &from_end);
    values.gather(
        1,
        &places.unsqueeze(-1).expand([-1, -1, width], false),
        false,
    )
}

#[derive(Debug)]
struct Encoder {
    embedding: Embedding,
    directions: [Lstm; 2],
    posterior: Layer<nn::Linear>,
    tokens: TokenShape,
}

impl Encoder {
    fn apply(&self, items: &Tensor, features: Option<&Tensor>) -> Tensor {
        let tokens = items.flatten(1, -1); // [B, T]
        let mask = self.tokens.mask(&tokens).to_kind(Kind::Int64);
        let lengths = mask.sum_dim_intlist(-1, true, Kind::Int64); // [B, 1]
        let embedded = self.embedding.apply(&tokens); // [B, T, E]
        let [forward, backward] = &self.directions;
        let ways = [
            (forward, embedded.shallow_clone()),
            (backward, reversed(&embedded, &lengths)),
        ];
        let last = ways.map(|(lstm, inputs)| {
            let hidden = lstm.params[1].size()[1];
            // Made from the input: sizes would be constants of a trace.
            let zeros = inputs.select(1, 0).narrow(1, 0, 1).zeros_like();
            let zeros = zeros.repeat([1, hidden]).unsqueeze(0); // [1, B, H]
            let (outputs, _) = lstm.apply(&inputs, &[zeros.shallow_clone(), zeros]);
            let place = (&lengths - 1).unsqueeze(-1).expand([-1, -1, hidden], false);
            outputs.gather(1, &place, false).squeeze_dim(1) // [B, H]
        });
        let last = with_features(Tensor::cat(&last, -1), features);
        self.posterior.forward(&last)
    }
}

#[derive(Debug)]
struct Decoder {
    embedding: Embedding,
    /// From the latents to hidden and cell state of all layers.
    state: Layer<nn::Linear>,
    lstm: Lstm,
    logits: Layer<nn::Linear>,
    word_dropout: f64,
    without_latents: bool,
}

impl Decoder {
    /// What the decoder is told at each step, `[N, Z + F]`, and its first state.
    fn start(&self, latents: &Tensor, features: Option<&Tensor>) -> (Tensor, [Tensor; 2]) {
        let latents = match self.without_latents {
            true => latents.zeros_like(),
            false => latents.shallow_clone(),
        };
        let latents = with_features(latents, features);
        let state = self.state.forward(&latents).tanh(); // [N, 2·layers·H]
        let state = state.unflatten(1, [2, self.lstm.n_layers, -1]); // [N, 2, layers, H]
        let state = [0, 1].map(|i| state.select(1, i).transpose(0, 1).contiguous());
        (latents, state)
    }

    /// The logits `[N, T, V]` after tokens `[N, T]`, and the state after them.
    fn advance(
        &self,
        tokens: &Tensor,
        latents: &Tensor,
        state: &[Tensor; 2],
    ) -> (Tensor, [Tensor; 2]) {
        let embedded = self.embedding.apply(tokens); // [N, T, E]
        let latents = latents
            .unsqueeze(1)
            .expand([-1, tokens.size()[1], -1], false);
        let inputs = Tensor::cat(&[embedded, latents.to_kind(state[0].kind())], -1);
        let (outputs, state) = self.lstm.apply(&inputs, state);
        (self.logits.forward(&outputs), state)
    }
}

#[derive(Debug)]
pub(crate) struct RecurrentNetwork {
    encoder: Encoder,
    decoder: Decoder,
    /// T.
    length: i64,
}

impl Network for RecurrentNetwork {
    fn encode(&self, items: &Tensor, features: Option<&Tensor>, _: Mode) -> Tensor {
        self.encoder.apply(items, features)
    }

    fn decode(&self, latents: &Tensor, features: Option<&Tensor>, _: Mode) -> Tensor {
        greedy(self, latents, features, self.length)
    }

    fn sequential(&self) -> Option<&dyn SequentialDecoder> {
        Some(self)
    }
}

impl SequentialDecoder for RecurrentNetwork {
    fn decode_given(
        &self,
        latents: &Tensor,
        features: Option<&Tensor>,
        items: &Tensor,
        training: Option<&mut Generator>,
    ) -> Tensor {
        let decoder = &self.decoder;
        let tokens = items.flatten(1, -1); // [N, T]
        let before = decoder
            .embedding
            .shifted(&tokens, decoder.word_dropout, training);
        let (latents, state) = decoder.start(latents, features);
        let (logits, _) = decoder.advance(&before, &latents, &state);
        as_maps(&logits)
    }

    fn steps<'a>(
        &'a self,
        latents: &Tensor,
        features: Option<&Tensor>,
    ) -> Box<dyn DecoderSteps + 'a> {
        let (latents, state) = self.decoder.start(latents, features);
        Box::new(Steps {
            decoder: &self.decoder,
            latents,
            state,
        })
    }
}

struct Steps<'a> {
    decoder: &'a Decoder,
    latents: Tensor,
    state: [Tensor; 2],
}

impl DecoderSteps for Steps<'_> {
    fn next(&mut self, before: Option<&Tensor>) -> Tensor {
        let token = match before {
            Some(token) => token.shallow_clone(),
            None => self.decoder.embedding.beginning(&self.latents),
        };
        let (logits, state) = self
            .decoder
            .advance(&token.unsqueeze(1), &self.latents, &self.state);
        self.state = state;
        logits.squeeze_dim(1)
    }
}
