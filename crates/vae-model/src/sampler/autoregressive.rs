//! `autoregressive`: a causal transformer over the codes of an item or the places of its latent map.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad};
use vae_torch::Generator;

use super::{Distribution, FitProgress, LatentSet, LatentSpace, Standardized, features};
use crate::math::LN_2PI;
use crate::network::{Layer, NextActivation};
use crate::nn::{self, Init};
use crate::{Initialization, ModelError, condition};

/// The size of the transformer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoregressiveConfig {
    /// Blocks of attention and two fully connected layers.
    pub layers: i64,
    /// The numbers of a token; attention has a head for each 32 of them.
    pub width: i64,
}

/// The largest number of different codes: each has a row in two tables.
pub(super) const MOST_CODES: i64 = 1 << 16;

/// The most codes or places of an item: attention compares all pairs.
const MOST_SLOTS: i64 = 1 << 12;

/// Gaussians in the mixture of a place.
const N_COMPONENTS: i64 = 8;

/// Up to this many channels a place has a triangular map of its own.
const MOST_MIXED_CHANNELS: i64 = 32;

/// Items drawn at a time, which bounds the memory of what attention keeps.
const N_AT_A_TIME: i64 = 250;

impl AutoregressiveConfig {
    /// The least of its sizes and the number of its values, at most.
    pub(super) fn check_sizes(&self, space: &LatentSpace) -> (i64, i64) {
        let Self { layers, width } = *self;
        let (slots, values) = match (&space.codes, space.shape) {
            (Some(codes), _) => (codes.n_slots(), codes.rows().saturating_mul(2)),
            (None, Some([c, h, w])) => (h.saturating_mul(w), c.saturating_mul(c + 40)),
            (None, None) => (0, 0),
        };
        let columns = space.condition.n_columns() as i64;
        let tokens = slots
            .saturating_add(values)
            .saturating_add(2 * columns + 16);
        let of_blocks = width.saturating_mul(width).saturating_mul(13);
        let n_values = of_blocks
            .saturating_mul(layers)
            .saturating_add(tokens.saturating_mul(width));
        match slots > MOST_SLOTS {
            true => (layers.min(width), i64::MAX),
            false => (layers.min(width), n_values),
        }
    }
}

/// p(s|c) = Π_i p(s_i | s_1 … s_{i−1}, c), the slots s_i in raster order: codes, or the channels of a place in a map. Of a
/// code the transformer gives a categorical distribution, of a place a mixture of Gaussians of U·s_i with U a lower
/// triangular map with ones on its diagonal, so that channels depend on each other in each Gaussian.
///
/// The temperature T divides the logits of codes (0 takes the most probable one) and multiplies the standard deviations
/// of the Gaussians of a place.
#[derive(Debug)]
pub(super) struct Autoregressive {
    n_slots: i64,
    width: i64,
    slots: Slots,
    /// The token before the first slot, `[W]`.
    first: Tensor,
    /// `[S, W]`.
    position: Tensor,
    /// Features of the condition → `[W]`, added to every token.
    condition: Option<Layer<nn::Linear>>,
    scales: Tensor,
    blocks: Vec<Block>,
    norm: Norm,
    /// Of each book; of places a single one.
    heads: Vec<Layer<nn::Linear>>,
}

/// What a slot holds.
#[derive(Debug)]
enum Slots {
    Codes {
        n_codes: i64,
        /// `[n_books·n_codes, W]`.
        table: Tensor,
        /// The row of the table at which the book of each slot begins, i64 `[S]`.
        book: Tensor,
        slots_of_books: Vec<i64>,
    },
    Places {
        channels: i64,
        standardized: Standardized,
        input: Layer<nn::Linear>,
        /// Where the entries of U are in its C² values; none with too many channels.
        below: Option<Tensor>,
    },
}

#[derive(Debug)]
struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    fn build(path: &nn::Path, width: i64) -> Self {
        Self {
            weight: path.ones("weight", &[width]),
            bias: path.zeros("bias", &[width]),
        }
    }

    fn apply(&self, x: &Tensor) -> Tensor {
        let width = self.weight.numel() as i64;
        x.layer_norm([width], Some(&self.weight), Some(&self.bias), 1e-5, false)
    }
}

/// x + attention(norm(x)), then x + mlp(norm(x)).
#[derive(Debug)]
struct Block {
    heads: i64,
    before_attention: Norm,
    query_key_value: Layer<nn::Linear>,
    attention: Layer<nn::Linear>,
    before_mlp: Norm,
    up: Layer<nn::Linear>,
    down: Layer<nn::Linear>,
}

/// Keys and values of the slots so far, `[N, heads, s, d]` each, for each block.
type Kept = Vec<Option<(Tensor, Tensor)>>;

impl Block {
    fn build(path: &nn::Path, width: i64) -> Self {
        let init = Initialization::Kaiming;
        let layer = |name: &str, n_in, n_out, next| init.linear(path / name, n_in, n_out, next);
        let norm = |name: &str| Norm::build(&(path / "norm" / name), width);
        Self {
            heads: if width % 32 == 0 { width / 32 } else { 1 },
            before_attention: norm("attention"),
            query_key_value: layer("query_key_value", width, 3 * width, NextActivation::Linear),
            attention: layer("attention", width, width, NextActivation::Sum),
            before_mlp: norm("mlp"),
            up: layer("up", width, 4 * width, NextActivation::Relu),
            down: layer("down", 4 * width, width, NextActivation::Sum),
        }
    }

    /// Tokens `[N, S, W]`; with `kept` one more token `[N, 1, W]` after those before it.
    fn forward(&self, x: &Tensor, kept: Option<&mut Option<(Tensor, Tensor)>>) -> Tensor {
        let parts = self
            .before_attention
            .apply(x)
            .apply(&self.query_key_value)
            .chunk(3, -1);
        let split = |part: &Tensor| part.unflatten(-1, [self.heads, -1]).transpose(1, 2);
        let (query, key, value) = (split(&parts[0]), split(&parts[1]), split(&parts[2]));
        let attend = |key: &Tensor, value: &Tensor, is_causal| {
            Tensor::scaled_dot_product_attention::<Tensor>(
                &query, key, value, None, 0.0, is_causal, None, false,
            )
        };
        let attended = match kept {
            None => attend(&key, &value, true),
            Some(kept) => {
                let (key, value) = match kept.take() {
                    Some((keys, values)) => (
                        Tensor::cat(&[keys, key], 2),
                        Tensor::cat(&[values, value], 2),
                    ),
                    None => (key, value),
                };
                let attended = attend(&key, &value, false);
                *kept = Some((key, value));
                attended
            }
        };
        let attended = attended.transpose(1, 2).flatten(2, 3); // [N, S, W]
        let x = x + attended.apply(&self.attention);
        let hidden = self.before_mlp.apply(&x).apply(&self.up).gelu("none");
        x + hidden.apply(&self.down)
    }
}

/// The mixture of places: everything `[n, …]`.
struct PlaceMixture {
    logits: Tensor,
    /// `[n, M, C]`.
    mean: Tensor,
    log_std: Tensor,
    /// U, `[n, C, C]`.
    map: Option<Tensor>,
}

impl Autoregressive {
    pub(super) fn build(
        path: &nn::Path,
        config: &AutoregressiveConfig,
        space: &LatentSpace,
    ) -> Result<Self, ModelError> {
        let AutoregressiveConfig { layers, width } = *config;
        let small = Init::Randn {
            mean: 0.0,
            stdev: 0.02,
        };
        let (n_slots, slots, heads) = match (&space.codes, space.shape) {
            (Some(codes), _) => {
                let n_codes = codes.n_codes;
                let books = (0..).zip(&codes.slots_of_books);
                let book: Vec<i64> = books
                    .flat_map(|(book, &n)| (0..n).map(move |_| book * n_codes))
                    .collect();
                let slots = Slots::Codes {
                    n_codes,
                    table: (path / "table").var("weight", &[codes.rows(), width], small),
                    book: Tensor::from_slice(&book),
                    slots_of_books: codes.slots_of_books.clone(),
                };
                // Zero: at first all codes are equally probable.
                let init = Initialization::Kaiming;
                let head = |i| init.linear(path / "head" / i, width, n_codes, NextActivation::Sum);
                let n_books = codes.slots_of_books.len() as i64;
                (codes.n_slots(), slots, (0..n_books).map(head).collect())
            }
            (None, Some([channels, height, columns])) => {
                let mixed = match channels <= MOST_MIXED_CHANNELS {
                    true => channels * (channels - 1) / 2,
                    false => 0,
                };
                let n_params = N_COMPONENTS * (1 + 2 * channels) + mixed;
                let init = Initialization::Pytorch;
                let places = Slots::Places {
                    channels,
                    standardized: Standardized::build(path, space.latent_dims),
                    input: init.linear(path / "input", channels, width, NextActivation::Linear),
                    below: (mixed > 0).then(|| {
                        let below = (0..channels).flat_map(|i| (0..i).map(move |j| (i, j)));
                        let below: Vec<i64> = below.map(|(i, j)| i * channels + j).collect();
                        Tensor::from_slice(&below)
                    }),
                };
                // Random: components that are alike would stay alike.
                let head = init.linear(path / "head" / 0, width, n_params, NextActivation::Linear);
                (height * columns, places, vec![head])
            }
            (None, None) => {
                return Err(ModelError::Sampler {
                    kind: "autoregressive",
                    problem: "these latents are neither codes nor a map".to_owned(),
                });
            }
        };
        let n_features = condition::n_features(&space.condition);
        Ok(Self {
            n_slots,
            width,
            slots,
            first: (path / "first").var("weight", &[width], small),
            position: (path / "position").var("weight", &[n_slots, width], small),
            condition: (n_features > 0).then(|| {
                let init = Initialization::Pytorch;
                init.linear(
                    path / "condition",
                    n_features,
                    width,
                    NextActivation::Linear,
                )
            }),
            scales: condition::scales(&space.condition),
            blocks: (0..layers)
                .map(|i| Block::build(&(path / "block" / i), width))
                .collect(),
            norm: Norm::build(&(path / "norm"), width),
            heads,
        })
    }

    fn device(&self) -> Device {
        self.first.device()
    }

    /// The slots of latents: codes i64 `[N, S]`, or standardized channels f32 `[N, S, C]`.
    fn slots_of(&self, latents: &Tensor) -> Tensor {
        match &self.slots {
            Slots::Codes { .. } => latents.to_device(self.device()),
            Slots::Places {
                channels,
                standardized,
                ..
            } => standardized
                .scaled(latents)
                .unflatten(1, [*channels, -1])
                .transpose(1, 2),
        }
    }

    /// The tokens `[N, s, W]` of the slots from number `start` on.
    fn embedded(&self, slots: &Tensor, start: i64) -> Tensor {
        match &self.slots {
            Slots::Codes { table, book, .. } => {
                let book = book.narrow(0, start, slots.size()[1]);
                let rows = slots + book.to_device(slots.device());
                Tensor::embedding(table, &rows, -1, false, false)
            }
            Slots::Places { input, .. } => slots.apply(input),
        }
    }

    /// What is added to every token, `[N, 1, W]` or `[1, 1, W]`.
    fn of_condition(&self, condition: Option<&Tensor>) -> Tensor {
        let features = features(condition, &self.scales, self.device());
        match (&self.condition, features) {
            (Some(layer), Some(features)) => features.apply(layer).unsqueeze(1),
            _ => Tensor::zeros([1, 1, self.width], (Kind::Float, self.device())),
        }
    }

    /// The parameters of each slot's distribution given those before it, `[N, S, P]`.
    fn params(&self, slots: &Tensor, condition: Option<&Tensor>) -> Tensor {
        let n = slots.size()[0];
        let first = self.first.expand([n, 1, self.width], false);
        let before = self.embedded(&slots.narrow(1, 0, self.n_slots - 1), 0);
        let mut x =
            Tensor::cat(&[first, before], 1) + &self.position + self.of_condition(condition);
        for block in &self.blocks {
            x = block.forward(&x, None);
        }
        let hidden = self.norm.apply(&x);
        let of_books = match &self.slots {
            Slots::Codes { slots_of_books, .. } => hidden.split_with_sizes(slots_of_books, 1),
            Slots::Places { .. } => vec![hidden],
        };
        let params: Vec<Tensor> = of_books
            .iter()
            .zip(&self.heads)
            .map(|(hidden, head)| hidden.apply(head))
            .collect();
        Tensor::cat(&params, 1)
    }

    /// The same of one more slot, `[N, P]`.
    fn next(&self, token: &Tensor, i: i64, of_condition: &Tensor, kept: &mut Kept) -> Tensor {
        let mut x = token + self.position.narrow(0, i, 1) + of_condition; // [N, 1, W]
        for (block, kept) in self.blocks.iter().zip(kept) {
            x = block.forward(&x, Some(kept));
        }
        let head = match &self.slots {
            Slots::Codes { slots_of_books, .. } => book_of(slots_of_books, i),
            Slots::Places { .. } => 0,
        };
        let params = self.norm.apply(&x).apply(&self.heads[head]);
        params.squeeze_dim(1)
    }

    /// Parameters `[n, P]` of places with C channels.
    fn mixture(params: &Tensor, channels: i64, below: Option<&Tensor>) -> PlaceMixture {
        let n = params.size()[0];
        let width = N_COMPONENTS * channels;
        let part = |start, n_values| params.narrow(1, start, n_values);
        let each = |start| part(start, width).unflatten(1, [N_COMPONENTS, channels]);
        let map = below.map(|below| {
            let n_below = below.numel() as i64;
            let zeros = Tensor::zeros([n, channels * channels], (Kind::Float, params.device()));
            let entries = part(N_COMPONENTS + 2 * width, n_below);
            let entries = zeros.index_copy(1, &below.to_device(params.device()), &entries);
            let ones = Tensor::eye(channels, (Kind::Float, params.device()));
            entries.unflatten(1, [channels, channels]) + ones
        });
        PlaceMixture {
            logits: part(0, N_COMPONENTS),
            mean: each(N_COMPONENTS),
            // From e⁻⁷ to e⁷ standard deviations of the latent.
            log_std: (each(N_COMPONENTS + width) / 7.0).tanh() * 7.0,
            map,
        }
    }

    /// ln p of places `[n, C]` in standardized units, `[n]`.
    fn log_place(mixture: &PlaceMixture, places: &Tensor) -> Tensor {
        let PlaceMixture {
            logits,
            mean,
            log_std,
            map,
        } = mixture;
        let mapped = match map {
            Some(map) => map.matmul(&places.unsqueeze(-1)).squeeze_dim(-1), // det U = 1
            None => places.shallow_clone(),
        };
        let white = (mapped.unsqueeze(1) - mean) * (-log_std).exp(); // [n, M, C]
        let log_normal = (white.square() + LN_2PI) * -0.5 - log_std;
        let log_normal = log_normal.sum_dim_intlist(-1, false, Kind::Float);
        (log_normal + logits.log_softmax(1, Kind::Float)).logsumexp(1, false)
    }

    /// ln p of each slot given those before it, `[N, S]`.
    fn log_slots(&self, latents: &Tensor, condition: Option<&Tensor>) -> Tensor {
        let slots = self.slots_of(latents);
        let params = self.params(&slots, condition); // [N, S, P]
        match &self.slots {
            Slots::Codes { .. } => params
                .log_softmax(-1, Kind::Float)
                .gather(-1, &slots.unsqueeze(-1), false)
                .squeeze_dim(-1),
            Slots::Places {
                channels, below, ..
            } => {
                let mixture = Self::mixture(&params.flatten(0, 1), *channels, below.as_ref());
                let log_place = Self::log_place(&mixture, &slots.flatten(0, 1));
                log_place.unflatten(0, [-1, self.n_slots])
            }
        }
    }

    /// Slots drawn one after the other, for uniform numbers `[n, S]` and, of places, normal ones `[n, S, C]`.
    fn draw(
        &self,
        uniform: &Tensor,
        noise: Option<&Tensor>,
        condition: Option<&Tensor>,
        temperature: f64,
    ) -> Tensor {
        let n = uniform.size()[0];
        let of_condition = self.of_condition(condition);
        let mut kept: Kept = self.blocks.iter().map(|_| None).collect();
        let mut token = self.first.expand([n, 1, self.width], false);
        let mut drawn = Vec::new();
        for i in 0..self.n_slots {
            let params = self.next(&token, i, &of_condition, &mut kept);
            let uniform = uniform.narrow(1, i, 1);
            let slot = match (&self.slots, noise) {
                (
                    Slots::Places {
                        channels, below, ..
                    },
                    Some(noise),
                ) => {
                    let mixture = Self::mixture(&params, *channels, below.as_ref());
                    let component = category(&mixture.logits, &uniform); // [n]
                    let index = component.view([-1, 1, 1]).expand([-1, 1, *channels], false);
                    let of_component =
                        |values: &Tensor| values.gather(1, &index, false).squeeze_dim(1);
                    let std = of_component(&mixture.log_std).exp() * temperature;
                    let mapped = of_component(&mixture.mean) + std * noise.select(1, i); // [n, C]
                    match &mixture.map {
                        Some(map) => map
                            .linalg_solve_triangular(&mapped.unsqueeze(-1), false, true, true)
                            .squeeze_dim(-1),
                        None => mapped,
                    }
                }
                _ if temperature == 0.0 => params.argmax(-1, false),
                _ => category(&(params / temperature), &uniform),
            };
            let slot = slot.unsqueeze(1); // [n, 1] or [n, 1, C]
            token = self.embedded(&slot, i);
            drawn.push(slot);
        }
        Tensor::cat(&drawn, 1)
    }
}

/// The book of slot number `i`.
fn book_of(slots_of_books: &[i64], i: i64) -> usize {
    let ends = slots_of_books.iter().scan(0, |end, n| {
        *end += n;
        Some(*end)
    });
    ends.take_while(|&end| end <= i).count()
}

/// The categories of logits `[n, K]` at which the distribution function passes uniform numbers `[n, 1]`, i64 `[n]`.
fn category(logits: &Tensor, uniform: &Tensor) -> Tensor {
    let last = logits.size()[1] - 1;
    let shares = logits.softmax(1, Kind::Double).cumsum(1, Kind::Double);
    let n_below = shares
        .le_tensor(uniform)
        .sum_dim_intlist(1, false, Kind::Int64);
    n_below.clamp_max(last)
}

impl Distribution for Autoregressive {
    fn log_prob(
        &self,
        latents: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<Option<Tensor>, ModelError> {
        if let Slots::Codes { n_codes, .. } = &self.slots {
            let [least, most] = [latents.min(), latents.max()].map(i64::try_from);
            if least? < 0 || most? >= *n_codes {
                return Err(ModelError::Sampler {
                    kind: "autoregressive",
                    problem: format!("codes outside 0 … {}", n_codes - 1),
                });
            }
        }
        let log_slots = self.log_slots(latents, condition);
        let log_prob = log_slots.sum_dim_intlist(1, false, Kind::Float);
        Ok(Some(match &self.slots {
            Slots::Codes { .. } => log_prob,
            Slots::Places { standardized, .. } => log_prob + standardized.log_det(),
        }))
    }

    fn loss(
        &self,
        latents: &Tensor,
        condition: Option<&Tensor>,
        _: &mut Generator,
    ) -> Result<Option<Tensor>, ModelError> {
        let log_prob = self.log_prob(latents, condition)?;
        Ok(log_prob.map(|log_prob| -log_prob.mean(Kind::Float)))
    }

    fn sample(
        &self,
        n: i64,
        condition: Option<&Tensor>,
        temperature: f64,
        generator: &mut Generator,
    ) -> Result<Tensor, ModelError> {
        let device = self.device();
        // Drawn for all items in one go, so that those of different conditions have the same noise.
        let uniform = generator.uniform([0.0, 1.0], [n, self.n_slots], device);
        let noise = match &self.slots {
            Slots::Codes { .. } => None,
            Slots::Places { channels, .. } => {
                Some(generator.normal([n, self.n_slots, *channels], device))
            }
        };
        let mut drawn = Vec::new();
        let mut start = 0;
        while start < n {
            let size = N_AT_A_TIME.min(n - start);
            let part = |tensor: &Tensor| tensor.narrow(0, start, size);
            let slots = no_grad(|| {
                self.draw(
                    &part(&uniform),
                    noise.as_ref().map(part).as_ref(),
                    condition.map(part).as_ref(),
                    temperature,
                )
            });
            drawn.push(slots);
            start += size;
        }
        let drawn = Tensor::cat(&drawn, 0);
        Ok(match &self.slots {
            Slots::Codes { .. } => drawn,
            Slots::Places { standardized, .. } => {
                standardized.restored(&drawn.transpose(1, 2).flatten(1, 2))
            }
        })
    }

    fn start(&self, train: &LatentSet, _: u64, _: &mut FitProgress) -> Result<bool, ModelError> {
        if let Slots::Places { standardized, .. } = &self.slots {
            standardized.start(train);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use vae_base::ConditionSpec;

    use super::*;
    use crate::Support;
    use crate::sampler::CodeSpace;

    /// A transformer whose weights come from a formula, so that no part of it is zero.
    fn stirred(space: &LatentSpace, size: f64) -> (nn::VarStore, Autoregressive) {
        let variables = nn::VarStore::new(1);
        let config = AutoregressiveConfig {
            layers: 2,
            width: 64,
        };
        let model = Autoregressive::build(&variables.root(), &config, space).expect("a model");
        let mut named: Vec<_> = variables.trainable_variables();
        named.sort_by_key(Tensor::numel);
        for (i, variable) in named.iter_mut().enumerate() {
            let phases = Tensor::arange(variable.numel() as i64, (Kind::Float, Device::Cpu));
            let wave = (phases * 0.7 + i as f64).sin() * size;
            no_grad(|| {
                let _ = variable.g_add_(&wave.view_(variable.size()));
            });
        }
        (variables, model)
    }

    fn codes(slots_of_books: &[i64], n_codes: i64, classes: &[&str]) -> LatentSpace {
        LatentSpace {
            latent_dims: 6,
            shape: None,
            support: Support::Codes,
            codes: Some(CodeSpace {
                slots_of_books: slots_of_books.to_vec(),
                n_codes,
            }),
            condition: ConditionSpec {
                classes: classes.iter().map(|&name| name.to_owned()).collect(),
                attributes: vec![],
            },
        }
    }

    fn map(shape: [i64; 3]) -> LatentSpace {
        LatentSpace {
            latent_dims: shape.iter().product(),
            shape: Some(shape),
            support: Support::Euclidean,
            codes: None,
            condition: ConditionSpec::default(),
        }
    }

    /// All sequences of 3 codes out of 4.
    fn all() -> Tensor {
        let each = Tensor::arange(4, (Kind::Int64, Device::Cpu));
        Tensor::cartesian_prod(&[&each, &each, &each])
    }

    #[test]
    fn the_probabilities_of_all_sequences_sum_to_1_and_are_the_shares_of_draws() {
        let (_variables, model) = stirred(&codes(&[1, 2], 4, &["a", "b"]), 0.2);
        for class in [[1_f32, 0.0], [0.0, 1.0], [f32::NAN, f32::NAN]] {
            let condition = Tensor::from_slice(&class).unsqueeze(0);
            let of_all = condition.repeat([64, 1]);
            let log_prob = model.log_prob(&all(), Some(&of_all)).expect("numbers");
            let probability = log_prob.expect("known").exp().to_kind(Kind::Double);
            let total = probability.sum(Kind::Double).double_value(&[]);
            assert!((total - 1.0).abs() < 1e-5, "{total}");
            let n = 3000;
            let condition = condition.repeat([n, 1]);
            let drawn = model.sample(n, Some(&condition), 1.0, &mut Generator::cpu(2));
            let basis = Tensor::from_slice(&[16_i64, 4, 1]);
            let number = (drawn.expect("codes") * basis).sum_dim_intlist(1, false, Kind::Int64);
            let shares = number.bincount::<Tensor>(None, 64).to_kind(Kind::Double) / n as f64;
            let deviation = (&probability * (-&probability + 1.0) / n as f64).sqrt();
            let excess = (shares - &probability).abs() - deviation * 5.0;
            assert!(excess.max().double_value(&[]) < 1e-4, "{excess:?}");
        }
        // The classes differ.
        let of = |class: [f32; 2]| {
            let condition = Tensor::from_slice(&class).repeat([64, 1]);
            let found = model.log_prob(&all(), Some(&condition)).expect("numbers");
            found.expect("known")
        };
        let difference = (of([1.0, 0.0]) - of([0.0, 1.0])).abs().max();
        assert!(difference.double_value(&[]) > 0.01);
    }

    #[test]
    fn a_fresh_one_over_codes_is_uniform() {
        let variables = nn::VarStore::new(1);
        let config = AutoregressiveConfig {
            layers: 1,
            width: 32,
        };
        let model = Autoregressive::build(&variables.root(), &config, &codes(&[3], 4, &[]));
        let found = model
            .expect("a model")
            .log_prob(&all(), None)
            .expect("numbers");
        let difference = (found.expect("known") + 64_f64.ln()).abs().max();
        assert!(difference.double_value(&[]) < 1e-5);
    }

    #[test]
    fn temperature_0_takes_the_most_probable_code_each_time() {
        let (_variables, model) = stirred(&codes(&[3], 4, &[]), 0.2);
        let drawn = model
            .sample(3, None, 0.0, &mut Generator::cpu(2))
            .expect("codes");
        assert_eq!(drawn.get(0), drawn.get(2));
        let first = model.params(&drawn, None).select(1, 0).argmax(-1, false);
        assert_eq!(first, drawn.select(1, 0));
    }

    #[test]
    fn the_density_of_a_map_integrates_to_1() {
        // One channel at two places: a density on the plane.
        let (_variables, model) = stirred(&map([1, 1, 2]), 0.03);
        let (n, reach) = (400, 12.0);
        let step = 2.0 * reach / n as f64;
        let line = (Tensor::arange(n, (Kind::Float, Device::Cpu)) + 0.5) * step - reach;
        let plane = Tensor::cartesian_prod(&[&line, &line]);
        let density = no_grad(|| model.log_prob(&plane, None)).expect("numbers");
        let sum = density
            .expect("known")
            .exp()
            .sum(Kind::Double)
            .double_value(&[]);
        assert!(
            (sum * step * step - 1.0).abs() < 2e-3,
            "{}",
            sum * step * step
        );
    }

    #[test]
    fn draws_of_a_map_fit_its_density() {
        // Two channels at two places, standardized by numbers of their own. E[g] from draws, and by importance weights.
        let (_variables, model) = stirred(&map([2, 1, 2]), 0.1);
        if let Slots::Places { standardized, .. } = &model.slots {
            let mean = Tensor::from_slice(&[0.5_f32, -0.5, 0.0, 1.0]);
            let std = Tensor::from_slice(&[0.5_f32, 1.0, 0.8, 1.2]);
            no_grad(|| {
                standardized.mean.shallow_clone().copy_(&mean);
                standardized.std.shallow_clone().copy_(&std);
            });
        }
        let n = 8000;
        let mut generator = Generator::cpu(1);
        let samples = model.sample(n, None, 1.0, &mut generator).expect("latents");
        let wide = generator.normal([n, 4], Device::Cpu) * 3.0;
        let log_wide = crate::math::standard_normal_log_prob(&(&wide / 3.0)) - 4.0 * 3_f64.ln();
        let log_prob = no_grad(|| model.log_prob(&wide, None)).expect("numbers");
        let weights = (log_prob.expect("known") - log_wide).exp();
        let statistics = |latents: &Tensor| {
            let column = |i| latents.select(1, i);
            let mixed = (column(0) * 0.7 + column(2)).sin() + (column(1) - column(3)).tanh();
            Tensor::stack(&[column(0).tanh(), column(3).tanh(), mixed], 0)
        };
        let estimate = |values: Tensor| {
            let values = values.to_kind(Kind::Double);
            let error = values.std_dim([1_i64].as_slice(), true, false) / (n as f64).sqrt();
            (values.mean_dim(1, false, Kind::Double), error)
        };
        let (direct, error) = estimate(statistics(&samples));
        let (weighted, other) = estimate(statistics(&wide) * weights);
        let bound = (error.square() + other.square()).sqrt() * 5.0;
        let excess = (&direct - &weighted).abs() - bound;
        assert!(
            excess.max().double_value(&[]) < 0.0,
            "{direct:?} {weighted:?}"
        );
    }
}
