//! `network.transformer`: attention, for sequences of tokens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};
use vae_torch::Generator;

use super::layers::{Initialization, Layer, NextActivation};
use super::sequence::{
    DecoderSteps, Embedding, LONGEST, SequentialDecoder, TokenShape, as_maps, check_layers,
    check_word_dropout, greedy, to_logits, to_posterior, with_features,
};
use super::{LARGEST_DEPTH, LARGEST_SIZE, Network, NetworkShape, check_sizes};
use crate::graph::EPSILON;
use crate::nn::{self, Init, Module};
use crate::{Mode, ModelError};

/// For tokens (Vaswani et al. 2017, <https://arxiv.org/abs/1706.03762>, with the norms before attention).
///
/// Encoder: attention over all tokens of an item, their mean, a linear map to the posterior's parameters. What follows an
/// item's end is not attended to. Decoder: causal attention over the tokens before; a map of z is added to the vector of
/// each of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TransformerConfig {
    /// Width of the vectors, a multiple of `heads`. Default 128.
    #[schemars(range(min = 1, max = LARGEST_SIZE))]
    pub width: i64,
    /// Number of attention heads. Default 4.
    #[schemars(range(min = 1, max = LARGEST_SIZE))]
    pub heads: i64,
    /// Width of the layer between the two of a feed-forward block. Default 512.
    #[schemars(range(min = 1, max = LARGEST_SIZE))]
    pub feed_forward: i64,
    /// Number of the encoder's blocks. Default 2.
    #[schemars(range(min = 1, max = LARGEST_DEPTH))]
    pub encoder_layers: usize,
    /// Number of the decoder's blocks. Default 2.
    #[schemars(range(min = 1, max = LARGEST_DEPTH))]
    pub decoder_layers: usize,
    /// Probability with which, in training, the decoder does not see a token before. Default 0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub word_dropout: f64,
    /// The decoder gets 0 in place of z: the plain language model, to compare with. Its bound is
    /// −reconstruction, and the kl falls to 0. Default false.
    pub without_latents: bool,
}

impl Default for TransformerConfig {
    fn default() -> Self {
        Self {
            width: 128,
            heads: 4,
            feed_forward: 512,
            encoder_layers: 2,
            decoder_layers: 2,
            word_dropout: 0.0,
            without_latents: false,
        }
    }
}

/// The standard deviation of initial embeddings (GPT-2's).
const EMBEDDING_SCALE: f64 = 0.02;

impl TransformerConfig {
    pub(super) fn check(&self) -> Result<(), ModelError> {
        let key = |name: &str| format!("model.network.transformer.{name}");
        check_sizes(&key("width"), &[self.width])?;
        check_sizes(&key("heads"), &[self.heads])?;
        check_sizes(&key("feed_forward"), &[self.feed_forward])?;
        check_layers(&key("encoder_layers"), self.encoder_layers)?;
        check_layers(&key("decoder_layers"), self.decoder_layers)?;
        check_word_dropout(&key("word_dropout"), self.word_dropout)?;
        if self.width % self.heads != 0 {
            let (width, heads) = (self.width, self.heads);
            return Err(ModelError::config(
                key("width"),
                format!("found {width}, expected a multiple of heads = {heads}"),
            ));
        }
        Ok(())
    }

    pub(super) fn build(
        &self,
        root: &nn::Path,
        shape: NetworkShape,
        tokens: TokenShape,
    ) -> TransformerNetwork {
        let init = shape.initialization;
        let length = shape.image.width;
        let path = root / "encoder";
        let encoder = Encoder {
            stack: Stack::build(&path, init, self, self.encoder_layers, tokens, length),
            posterior: to_posterior(&path, shape, self.width),
            tokens,
        };
        let path = root / "decoder";
        let n_latents = shape.latent_dims + shape.n_condition_features;
        let decoder = Decoder {
            stack: Stack::build(&path, init, self, self.decoder_layers, tokens, length),
            latents: init.linear(
                &path / "latents",
                n_latents,
                self.width,
                NextActivation::Linear,
            ),
            logits: to_logits(&path, init, self.width, tokens.vocabulary),
            word_dropout: self.word_dropout,
            without_latents: self.without_latents,
        };
        TransformerNetwork {
            encoder,
            decoder,
            length,
        }
    }
}

/// A norm of each vector.
#[derive(Debug)]
struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    fn build(path: &nn::Path, width: i64) -> Self {
        Self {
            weight: path.ones("weight", &[width]),
            bias: path.zeros("bias", &[width]),
        }
    }

    fn apply(&self, values: &Tensor) -> Tensor {
        let width = self.weight.size();
        values.layer_norm(width, Some(&self.weight), Some(&self.bias), EPSILON, false)
    }
}

/// Attention and a feed-forward network, each added to its input.
#[derive(Debug)]
struct Block {
    norms: [LayerNorm; 2],
    /// To queries, keys and values.
    attention: Layer<nn::Linear>,
    joined: Layer<nn::Linear>,
    feed_forward: [Layer<nn::Linear>; 2],
    heads: i64,
}

/// What each token attends to.
#[derive(Clone, Copy)]
enum Sight<'a> {
    /// The tokens before it and itself.
    Causal,
    /// The tokens of its item, bool `[N, T]`.
    Item(&'a Tensor),
}

impl Block {
    fn build(
        path: &nn::Path,
        init: Initialization,
        config: &TransformerConfig,
        n_blocks: usize,
    ) -> Self {
        let (width, between) = (config.width, config.feed_forward);
        let branch = NextActivation::Branch { n: 2 * n_blocks };
        let linear = |name: &str, n_in, n_out, next| init.linear(path / name, n_in, n_out, next);
        Self {
            norms: [0, 1].map(|i| LayerNorm::build(&(path / "norm" / i), width)),
            attention: linear("attention", width, 3 * width, NextActivation::Linear),
            joined: linear("joined", width, width, branch),
            feed_forward: [
                linear("inner", width, between, NextActivation::Relu),
                linear("outer", between, width, branch),
            ],
            heads: config.heads,
        }
    }

    /// `[N, T, W]` → `[N, T, W]`.
    fn apply(&self, values: Tensor, sight: Sight) -> Tensor {
        let (width, kind) = (values.size()[2], values.kind());
        let normed = self.norms[0].apply(&values);
        let all = self.attention.forward(&normed); // [N, T, 3·W]
        let part = |i: i64| {
            let part = all.narrow(-1, i * width, width);
            part.unflatten(-1, [self.heads, -1]).transpose(1, 2) // [N, heads, T, W / heads]
        };
        let (mask, is_causal) = match sight {
            Sight::Causal => (None, true),
            Sight::Item(mask) => (Some(mask.unsqueeze(1).unsqueeze(1)), false), // [N, 1, 1, T]
        };
        let attended = Tensor::scaled_dot_product_attention(
            &part(0),
            &part(1),
            &part(2),
            mask,
            0.0,
            is_causal,
            None,
            false,
        );
        let attended = attended.transpose(1, 2).flatten(2, 3); // [N, T, W]
        let values = values + self.joined.forward(&attended).to_kind(kind);
        let [inner, outer] = &self.feed_forward;
        let normed = self.norms[1].apply(&values);
        let between = inner.forward(&normed).gelu("none");
        values + outer.forward(&between).to_kind(kind)
    }
}

/// Embeddings of tokens and of their places, blocks, and a last norm.
#[derive(Debug)]
struct Stack {
    embedding: Embedding,
    places: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

impl Stack {
    fn build(
        path: &nn::Path,
        init: Initialization,
        config: &TransformerConfig,
        n_blocks: usize,
        tokens: TokenShape,
        length: i64,
    ) -> Self {
        let width = config.width;
        let places = Init::Randn {
            mean: 0.0,
            stdev: EMBEDDING_SCALE,
        };
        let length = length.min(LONGEST);
        let block = |i: usize| Block::build(&(path / "block" / i), init, config, n_blocks);
        Self {
            embedding: Embedding::build(path, tokens.vocabulary, width, EMBEDDING_SCALE),
            places: path.var("places", &[length, width], places),
            blocks: (0..n_blocks).map(block).collect(),
            norm: LayerNorm::build(&(path / "norm"), width),
        }
    }

    /// Tokens `[N, T]` → `[N, T, W]`; `added` `[N, W]` is added to each.
    fn apply(&self, tokens: &Tensor, added: Option<&Tensor>, sight: Sight) -> Tensor {
        let length = tokens.size()[1];
        let mut values = self.embedding.apply(tokens) + self.places.narrow(0, 0, length);
        if let Some(added) = added {
            values += added.unsqueeze(1);
        }
        for block in &self.blocks {
            values = block.apply(values, sight);
        }
        self.norm.apply(&values)
    }
}

#[derive(Debug)]
struct Encoder {
    stack: Stack,
    posterior: Layer<nn::Linear>,
    tokens: TokenShape,
}

impl Encoder {
    fn apply(&self, items: &Tensor, features: Option<&Tensor>) -> Tensor {
        let tokens = items.flatten(1, -1); // [B, T]
        let mask = self.tokens.mask(&tokens);
        let values = self.stack.apply(&tokens, None, Sight::Item(&mask)); // [B, T, W]
        let shares = mask.to_kind(values.kind()).unsqueeze(-1); // [B, T, 1]
        let sum = (&values * &shares).sum_dim_intlist(1, false, values.kind());
        let mean = sum / shares.sum_dim_intlist(1, false, values.kind()); // [B, W]
        self.posterior.forward(&with_features(mean, features))
    }
}

#[derive(Debug)]
struct Decoder {
    stack: Stack,
    latents: Layer<nn::Linear>,
    logits: Layer<nn::Linear>,
    word_dropout: f64,
    without_latents: bool,
}

impl Decoder {
    /// What is added to the vector of each token, `[N, W]`.
    fn start(&self, latents: &Tensor, features: Option<&Tensor>) -> Tensor {
        let latents = match self.without_latents {
            true => latents.zeros_like(),
            false => latents.shallow_clone(),
        };
        self.latents.forward(&with_features(latents, features))
    }
}

#[derive(Debug)]
pub(crate) struct TransformerNetwork {
    encoder: Encoder,
    decoder: Decoder,
    /// T.
    length: i64,
}

impl Network for TransformerNetwork {
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

impl SequentialDecoder for TransformerNetwork {
    fn decode_given(
        &self,
        latents: &Tensor,
        features: Option<&Tensor>,
        items: &Tensor,
        training: Option<&mut Generator>,
    ) -> Tensor {
        let decoder = &self.decoder;
        let tokens = items.flatten(1, -1); // [N, T]
        let embedding = &decoder.stack.embedding;
        let before = embedding.shifted(&tokens, decoder.word_dropout, training);
        let added = decoder.start(latents, features);
        let values = decoder.stack.apply(&before, Some(&added), Sight::Causal);
        as_maps(&decoder.logits.forward(&values))
    }

    fn steps<'a>(
        &'a self,
        latents: &Tensor,
        features: Option<&Tensor>,
    ) -> Box<dyn DecoderSteps + 'a> {
        let embedding = &self.decoder.stack.embedding;
        Box::new(Steps {
            decoder: &self.decoder,
            added: self.decoder.start(latents, features),
            seen: embedding.beginning(latents).unsqueeze(1),
        })
    }
}

/// Each step computes all of the tokens before again.
struct Steps<'a> {
    decoder: &'a Decoder,
    added: Tensor,
    /// The beginning and the tokens so far, i64 `[N, t]`.
    seen: Tensor,
}

impl DecoderSteps for Steps<'_> {
    fn next(&mut self, before: Option<&Tensor>) -> Tensor {
        if let Some(token) = before {
            self.seen = Tensor::cat(&[&self.seen, &token.unsqueeze(1)], 1);
        }
        let Decoder { stack, logits, .. } = self.decoder;
        let values = stack.apply(&self.seen, Some(&self.added), Sight::Causal);
        let last = values.select(1, self.seen.size()[1] - 1); // [N, W]
        logits.forward(&last).to_kind(Kind::Float)
    }
}
