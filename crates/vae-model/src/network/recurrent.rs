//! `network.recurrent`: LSTMs, for sequences of tokens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use vae_torch::Generator;

use super::layers::{Layer, NextActivation};
use super::sequence::{
    DecoderSteps, Embedding, LONGEST, SequentialDecoder, TokenShape, as_maps, check_layers,
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
/// of z. With `conductor` it is hierarchical (MusicVAE, Roberts et al. 2018, <https://arxiv.org/abs/1803.05428>): an LSTM above
/// gives a vector for each part of the item, and within a part the decoder begins anew from that vector, which it sees at each step
/// in place of z.
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
    /// An LSTM above the decoder, which conducts it from part to part. By default there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conductor: Option<ConductorConfig>,
}

/// The upper level of a hierarchical decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConductorConfig {
    /// Tokens of a part, such as the steps of a bar. The last part may be shorter. Default 16.
    #[schemars(range(min = 1, max = LONGEST))]
    pub steps: i64,
    /// Width of the conductor's state, and of the vector that it gives the decoder for each part. Default 128.
    #[schemars(range(min = 1, max = LARGEST_SIZE))]
    pub hidden: i64,
}

impl Default for ConductorConfig {
    fn default() -> Self {
        Self {
            steps: 16,
            hidden: 128,
        }
    }
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
            conductor: None,
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
        if let Some(ConductorConfig { steps, hidden }) = &self.conductor {
            check_sizes(&key("conductor.hidden"), &[*hidden])?;
            if !(1..=LONGEST).contains(steps) {
                let problem = format!("found {steps}, expected a number from 1 to {LONGEST}");
                return Err(ModelError::config(key("conductor.steps"), problem));
            }
        }
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
        let conductor = self.conductor.as_ref().map(|config| {
            let path = &path / "conductor";
            let n_state = 2 * config.hidden;
            Conductor {
                state: init.linear(&path / "state", n_latents, n_state, NextActivation::Linear),
                lstm: Lstm::build(&(&path / "lstm"), n_latents, config.hidden, 1),
                steps: config.steps,
            }
        });
        // What the decoder is told at each step: z, or the conductor's vector.
        let n_told = self
            .conductor
            .as_ref()
            .map_or(n_latents, |config| config.hidden);
        let decoder = Decoder {
            embedding: Embedding::build(&path, tokens.vocabulary, self.embedding, 1.0),
            conductor,
            state: init.linear(&path / "state", n_told, n_state, NextActivation::Linear),
            lstm: Lstm::build(&(&path / "lstm"), self.embedding + n_told, hidden, layers),
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
        // Without dropout both modes compute the same, but cuDNN has gradients in training mode alone.
        let (has_biases, dropout, trains) = (true, 0.0, true);
        let (bidirectional, batch_first) = (false, true);
        let (outputs, hidden, cell) = inputs.lstm(
            state,
            &self.params,
            has_biases,
            self.n_layers,
            dropout,
            trains,
            bidirectional,
            batch_first,
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

/// The hidden and cell state `[layers, N, H]` of LSTMs, which a linear map gives of values `[N, …]`.
fn first_state(layer: &Layer<nn::Linear>, values: &Tensor, n_layers: i64) -> [Tensor; 2] {
    let state = layer.forward(values).tanh(); // [N, 2·layers·H]
    let state = state.unflatten(1, [2, n_layers, -1]); // [N, 2, layers, H]
    [0, 1].map(|i| state.select(1, i).transpose(0, 1).contiguous())
}

/// The upper level of a hierarchical decoder: what it tells the decoder of each part.
#[derive(Debug)]
struct Conductor {
    /// From the latents to its first state.
    state: Layer<nn::Linear>,
    lstm: Lstm,
    /// Tokens of a part.
    steps: i64,
}

impl Conductor {
    fn start(&self, latents: &Tensor) -> [Tensor; 2] {
        first_state(&self.state, latents, 1)
    }

    /// The vectors `[N, U, H]` of the next parts, and the state after them, for latents `[N, Z]`.
    fn next(&self, latents: &Tensor, n_parts: i64, state: &[Tensor; 2]) -> (Tensor, [Tensor; 2]) {
        let inputs = latents.unsqueeze(1).expand([-1, n_parts, -1], false);
        self.lstm.apply(&inputs.to_kind(state[0].kind()), state)
    }
}

#[derive(Debug)]
struct Decoder {
    conductor: Option<Conductor>,
    embedding: Embedding,
    /// From what it is told to hidden and cell state of all layers.
    state: Layer<nn::Linear>,
    lstm: Lstm,
    logits: Layer<nn::Linear>,
    word_dropout: f64,
    without_latents: bool,
}

impl Decoder {
    /// Latents with the features of the condition, `[N, Z + F]`.
    fn latents(&self, latents: &Tensor, features: Option<&Tensor>) -> Tensor {
        let latents = match self.without_latents {
            true => latents.zeros_like(),
            false => latents.shallow_clone(),
        };
        with_features(latents, features)
    }

    /// The first state of a decoder that is told this, `[N, …]`.
    fn start(&self, told: &Tensor) -> [Tensor; 2] {
        first_state(&self.state, told, self.lstm.n_layers)
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
        let latents = decoder.latents(latents, features); // [N, Z + F]
        let Some(conductor) = &decoder.conductor else {
            let (logits, _) = decoder.advance(&before, &latents, &decoder.start(&latents));
            return as_maps(&logits);
        };
        // Within parts the decoder begins anew, so that all parts are rows of one batch.
        let (length, steps) = (self.length, conductor.steps.min(self.length));
        let n_parts = (length + steps - 1) / steps;
        let (told, _) = conductor.next(&latents, n_parts, &conductor.start(&latents));
        let told = told.flatten(0, 1); // [N·U, H]
        let n_padded = n_parts * steps - length;
        let parts = before
            .constant_pad_nd([0, n_padded])
            .unflatten(1, [n_parts, steps])
            .flatten(0, 1); // [N·U, S]
        let (logits, _) = decoder.advance(&parts, &told, &decoder.start(&told)); // [N·U, S, V]
        let logits = logits.unflatten(0, [-1, n_parts]).flatten(1, 2); // [N, U·S, V]
        as_maps(&logits.narrow(1, 0, length))
    }

    fn steps<'a>(
        &'a self,
        latents: &Tensor,
        features: Option<&Tensor>,
    ) -> Box<dyn DecoderSteps + 'a> {
        let decoder = &self.decoder;
        let latents = decoder.latents(latents, features);
        Box::new(Steps {
            decoder,
            conducted: decoder.conductor.as_ref().map(|conductor| Conducted {
                conductor,
                state: conductor.start(&latents),
                n_left: 0,
            }),
            state: None,
            told: latents.shallow_clone(),
            latents,
        })
    }
}

/// Where a conductor is.
struct Conducted<'a> {
    conductor: &'a Conductor,
    state: [Tensor; 2],
    /// Steps of the decoder's part that are left.
    n_left: i64,
}

struct Steps<'a> {
    decoder: &'a Decoder,
    conducted: Option<Conducted<'a>>,
    latents: Tensor,
    /// What the decoder is told in this part.
    told: Tensor,
    /// `None` before the first step of a part.
    state: Option<[Tensor; 2]>,
}

impl DecoderSteps for Steps<'_> {
    fn next(&mut self, before: Option<&Tensor>) -> Tensor {
        let token = match before {
            Some(token) => token.shallow_clone(),
            None => self.decoder.embedding.beginning(&self.latents),
        };
        if let Some(conducted) = &mut self.conducted {
            if conducted.n_left == 0 {
                let conductor = conducted.conductor;
                let (told, state) = conductor.next(&self.latents, 1, &conducted.state);
                conducted.state = state;
                conducted.n_left = conductor.steps;
                self.told = told.squeeze_dim(1);
                self.state = None;
            }
            conducted.n_left -= 1;
        }
        let state = match self.state.take() {
            Some(state) => state,
            None => self.decoder.start(&self.told),
        };
        let (logits, state) = self
            .decoder
            .advance(&token.unsqueeze(1), &self.told, &state);
        self.state = Some(state);
        logits.squeeze_dim(1)
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, no_grad};

    use super::super::layers::Initialization;
    use super::*;
    use crate::{ImageShape, ItemKind};

    fn network(
        store: &nn::VarStore,
        conductor: Option<ConductorConfig>,
        length: i64,
    ) -> RecurrentNetwork {
        let config = RecurrentConfig {
            embedding: 5,
            encoder_hidden: 3,
            decoder_hidden: 6,
            decoder_layers: 2,
            conductor,
            ..RecurrentConfig::default()
        };
        let kind = ItemKind::Tokens {
            vocabulary: 7,
            end: None,
        };
        let tokens = TokenShape::of(kind).expect("tokens");
        let image = ImageShape {
            channels: 1,
            height: 1,
            width: length,
        };
        let shape = NetworkShape {
            image,
            tokens: Some(tokens),
            latent_dims: 4,
            latent_shape: None,
            is_pyramid: false,
            n_condition_features: 0,
            n_posterior_params: 8,
            n_likelihood_maps: 7,
            initialization: Initialization::default(),
            decoder_spectral_norm: false,
        };
        config.build(&store.root(), shape, tokens)
    }

    #[test]
    fn step_by_step_gives_the_parameters_of_all_steps_at_once() {
        let conductor = |steps| Some(ConductorConfig { steps, hidden: 3 });
        for (conductor, length) in [
            (None, 9),
            (conductor(1), 5),
            (conductor(4), 8),
            (conductor(4), 11), // The last part is shorter.
            (conductor(16), 9), // There is one part.
        ] {
            let store = nn::VarStore::new(1);
            let network = network(&store, conductor.clone(), length);
            let mut generator = Generator::cpu(2);
            let latents = generator.normal([3, 4], Device::Cpu);
            let tokens = generator
                .uniform([0.0, 7.0], [3, length], Device::Cpu)
                .to_kind(Kind::Int64);
            let items = tokens.unsqueeze(1).unsqueeze(1);
            let at_once = no_grad(|| network.decode_given(&latents, None, &items, None)); // [3, 7, 1, T]
            assert_eq!(at_once.size(), [3, 7, 1, length]);
            no_grad(|| {
                let mut steps = network.steps(&latents, None);
                for step in 0..length {
                    let before = (step > 0).then(|| tokens.select(1, step - 1));
                    let found = steps.next(before.as_ref());
                    let wanted = at_once.select(3, step).squeeze_dim(-1);
                    let difference = (found - wanted).abs().max().double_value(&[]);
                    assert!(
                        difference < 1e-5,
                        "{conductor:?} of {length}, step {step}: {difference}"
                    );
                }
            });
        }
    }

    #[test]
    fn a_conducted_decoder_hears_of_earlier_parts_by_the_conductor_alone() {
        let store = nn::VarStore::new(1);
        let conductor = ConductorConfig {
            steps: 4,
            hidden: 3,
        };
        let network = network(&store, Some(conductor), 8);
        let latents = Generator::cpu(1).normal([1, 4], Device::Cpu);
        let of = |tokens: [i64; 8]| {
            let items = Tensor::from_slice(&tokens).view([1, 1, 1, 8]);
            no_grad(|| network.decode_given(&latents, None, &items, None))
        };
        let [one, other] = [of([1, 2, 3, 4, 5, 6, 1, 2]), of([6, 6, 6, 4, 5, 6, 1, 2])];
        let same = |step| one.select(3, step) == other.select(3, step);
        assert!(same(0) && !same(1) && !same(3));
        // The token before is the same, and the state is new.
        assert!((4..8).all(same));
    }
}
