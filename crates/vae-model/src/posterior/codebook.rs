//! Codebooks: the vectors that stand for codes, and how they are learned.

use tch::{Device, Kind, Tensor, no_grad};

use super::quantized::{COMMITMENT, Quantized};
use super::vector_quantized::{CodeDistance, CodeGradient, CodebookConfig, VectorQuantizedConfig};
use super::{GraphFamily, Posterior, PosteriorFamily};
use crate::graph::{Graph, Op, Value};
use crate::{Quantizer, Support, nn};

/// The codebooks of all heads and steps. Shapes: H heads, R steps of residual quantization, K codes, d latents of a
/// code, P places of an item, N = B·P vectors of each head in a batch.
#[derive(Debug)]
pub(super) struct Codebooks {
    config: VectorQuantizedConfig,
    /// d.
    code_dims: i64,
    /// `[H, R, K, d]`.
    vectors: Tensor,
    averages: Option<Averages>,
    /// How often training used each code in this epoch, `[H, R, K]`.
    uses: Tensor,
    /// 1 for codes that the next step replaces, `[H, R, K]`.
    unused: Tensor,
}

/// The running averages of an EMA codebook.
#[derive(Debug)]
struct Averages {
    decay: f64,
    /// N, vectors of a step that are nearest to each code, `[H, R, K]`.
    counts: Tensor,
    /// m, their sum, `[H, R, K, d]`.
    sums: Tensor,
}

/// Rounds of k-means at the start of training.
const N_START_ROUNDS: usize = 10;

/// Vectors for each code at the start of training, and the largest number of items that are encoded for them.
const N_START_VECTORS: i64 = 20;
const MOST_START_ITEMS: i64 = 10_000;

/// Keeps directions of vectors of length 0 finite.
const SMALLEST_LENGTH: f64 = 1e-6;

impl Codebooks {
    /// `code_dims` is d.
    pub(super) fn build(path: &nn::Path, config: &VectorQuantizedConfig, code_dims: i64) -> Self {
        let counted = [config.heads, config.depth, config.codes];
        let shape = [config.heads, config.depth, config.codes, code_dims];
        let (vectors, averages) = match &config.codebook {
            CodebookConfig::Gradient => {
                let normal = nn::Init::Randn {
                    mean: 0.0,
                    stdev: 1.0,
                };
                (path.var("codebooks", &shape, normal), None)
            }
            CodebookConfig::Ema(ema) => {
                let vectors = path.normal_no_train("codebooks", &shape);
                let sums = path.zeros_no_train("codebook_sums", &shape);
                if !path.is_outline() {
                    no_grad(|| sums.shallow_clone().copy_(&vectors));
                }
                let averages = Averages {
                    decay: ema.decay,
                    counts: path.ones_no_train("codebook_counts", &counted),
                    sums,
                };
                (vectors, Some(averages))
            }
        };
        Self {
            config: config.clone(),
            code_dims,
            vectors,
            averages,
            uses: path.zeros_no_train("code_uses", &counted),
            unused: path.zeros_no_train("unused_codes", &counted),
        }
    }

    /// Latents `[B, Z]` as vectors `[H, N, d]`, of length 1 if angles count.
    fn vectors(&self, latents: &Tensor) -> Tensor {
        let vectors = latents
            .unflatten(1, [self.config.heads, self.code_dims, -1]) // [B, H, d, P]
            .permute([1, 0, 3, 2]) // [H, B, P, d]
            .flatten(1, 2);
        self.directed(vectors)
    }

    /// P, for latents `[…, Z]`. Shapes are computed by it, not by the number of items, which a trace would fix.
    fn n_places(&self, latent_dims: i64) -> i64 {
        latent_dims / (self.config.heads * self.code_dims)
    }

    /// The inverse of [`Self::vectors`], `[B, Z]`.
    fn latents_of(&self, vectors: &Tensor, n_places: i64) -> Tensor {
        vectors
            .unflatten(1, [-1, n_places]) // [H, B, P, d]
            .permute([1, 0, 3, 2]) // [B, H, d, P]
            .flatten(1, -1)
    }

    /// Vectors `[…, d]` at length 1 if angles count.
    fn directed(&self, vectors: Tensor) -> Tensor {
        match self.config.distance {
            CodeDistance::Euclidean => vectors,
            CodeDistance::Cosine => unit(&vectors),
        }
    }

    /// The vectors of the codes of step `r`, `[H, K, d]`.
    fn book(&self, r: i64) -> Tensor {
        self.directed(self.vectors.select(1, r))
    }

    /// The codes of a batch's vectors, i64 `[R, H, N]`, and the vectors that they stand for, `[H, N, d]` of each step.
    fn nearest_vectors(&self, vectors: &Tensor) -> (Tensor, Vec<Tensor>) {
        let mut rest = vectors.detach();
        let mut codes = Vec::new();
        let mut found = Vec::new();
        for r in 0..self.config.depth {
            let book = self.book(r);
            let nearest = nearest(&rest, &book); // [H, N]
            let of_codes = rows_of(&book, &nearest); // [H, N, d]
            rest = &rest - of_codes.detach();
            codes.push(nearest);
            found.push(of_codes);
        }
        (Tensor::stack(&codes, 0), found)
    }

    /// Replaces the encoder's output `[B, Z]` by codes.
    fn quantized(&self, params: &Tensor) -> Quantized {
        let n_places = self.n_places(params.size()[1]);
        let vectors = self.vectors(params); // [H, N, d]
        let (codes, found) = self.nearest_vectors(&vectors);
        // Of each item, summed over heads, places and latents.
        let of_items = |squares: Tensor| {
            squares
                .unflatten(1, [-1, n_places]) // [H, B, P, d]
                .sum_dim_intlist([0_i64, 2, 3].as_slice(), false, Kind::Float)
        };
        let mut rest = vectors.shallow_clone();
        let mut commitment = params.select(1, 0).zeros_like(); // [B]
        let mut of_codebook = commitment.shallow_clone();
        for of_codes in &found {
            let fixed = of_codes.detach();
            commitment = &commitment + of_items((&rest - &fixed).square());
            if self.averages.is_none() {
                of_codebook = &of_codebook + of_items((rest.detach() - of_codes).square());
            }
            rest = &rest - fixed;
        }
        // The decoder does not train the codebook, as in the paper.
        let sum = found
            .iter()
            .map(Tensor::detach)
            .reduce(|sum, of_codes| sum + of_codes)
            .unwrap_or_else(|| vectors.zeros_like());
        let passed = match self.config.gradient {
            CodeGradient::StraightThrough => (sum - &vectors).detach() + &vectors,
            CodeGradient::Rotation => rotated(&vectors, &sum),
        };
        Quantized {
            latents: self.latents_of(&passed, n_places),
            codes: self.slots(&codes, n_places),
            penalty: Some(&commitment * self.config.commitment + of_codebook),
            named: vec![(COMMITMENT, commitment)],
        }
    }

    /// Codes `[R, H, N]` in the order of slots, `[B, H·R·P]`.
    fn slots(&self, codes: &Tensor, n_places: i64) -> Tensor {
        codes
            .unflatten(2, [-1, n_places]) // [R, H, B, P]
            .permute([2, 1, 0, 3]) // [B, H, R, P]
            .flatten(1, -1)
    }

    /// The inverse of [`Self::slots`].
    fn of_slots(&self, codes: &Tensor) -> Tensor {
        codes
            .unflatten(1, [self.config.heads, self.config.depth, -1]) // [B, H, R, P]
            .permute([2, 1, 0, 3])
            .flatten(2, 3)
    }

    /// After a training step whose vectors `[H, N, d]` got these codes, in slots: counts them, and moves an EMA
    /// codebook.
    fn update(&self, vectors: &Tensor, slots: &Tensor) {
        no_grad(|| {
            let codes = self.of_slots(slots); // [R, H, N]
            let mut rest = vectors.shallow_clone();
            for r in 0..self.config.depth {
                let nearest = codes.get(r); // [H, N]
                let of_codes = rows_of(&self.book(r), &nearest);
                let (counts, sums) = self.gathered(&rest, &nearest);
                rest = &rest - of_codes;
                let _ = self.uses.select(1, r).g_add_(&counts);
                if let Some(averages) = &self.averages {
                    let kept = averages
                        .counts
                        .select(1, r)
                        .lerp_(&counts, 1.0 - averages.decay);
                    let sum = averages
                        .sums
                        .select(1, r)
                        .lerp_(&sums, 1.0 - averages.decay);
                    // Where nothing was near, both averages shrank alike, and the code stays.
                    let has_moved = counts.gt(0.0).unsqueeze(-1);
                    let means = self.directed(&sum / kept.unsqueeze(-1));
                    let mut book = self.vectors.select(1, r);
                    book.copy_(&means.where_self(&has_moved, &book));
                }
            }
        });
    }

    /// How many of the vectors `[H, N, d]` have each of their codes `[H, N]`, `[H, K]`, and the sums of those,
    /// `[H, K, d]`.
    fn gathered(&self, vectors: &Tensor, codes: &Tensor) -> (Tensor, Tensor) {
        let [heads, _, n_codes, dims] = self.shape();
        let options = (Kind::Float, vectors.device());
        let ones = Tensor::ones(codes.size(), options);
        let counts = Tensor::zeros([heads, n_codes], options).scatter_add_(1, codes, &ones);
        let rows = codes.unsqueeze(-1).expand(vectors.size(), false);
        let sums = Tensor::zeros([heads, n_codes, dims], options).scatter_add_(1, &rows, vectors);
        (counts, sums)
    }

    fn shape(&self) -> [i64; 4] {
        [
            self.config.heads,
            self.config.depth,
            self.config.codes,
            self.code_dims,
        ]
    }

    /// Marks the codes that no step of the epoch used. The next step replaces them.
    fn mark_unused(&self) {
        no_grad(|| {
            if self.config.revive {
                self.unused.shallow_clone().copy_(&self.uses.eq(0.0));
            }
            let _ = self.uses.shallow_clone().zero_();
        });
    }

    /// Replaces the marked codes by vectors of this batch `[H, N, d]`, of a later step by what is left of them. Items
    /// come in random order, so rows at equal distances are a random choice.
    fn revive(&self, vectors: &Tensor) {
        if !self.config.revive || self.unused.count_nonzero(None).int64_value(&[]) == 0 {
            return;
        }
        no_grad(|| {
            let [heads, depth, n_codes, _] = self.shape();
            let mut rest = vectors.shallow_clone();
            for r in 0..depth {
                let mut book = self.vectors.select(1, r); // [H, K, d]
                for head in 0..heads {
                    let unused = self.unused.select(1, r).get(head).nonzero().squeeze_dim(1);
                    let n_unused = unused.size()[0];
                    if n_unused == 0 {
                        continue;
                    }
                    let rows = spread_rows(&rest.get(head), n_unused);
                    let _ = book.get(head).index_copy_(0, &unused, &rows);
                    if let Some(averages) = &self.averages {
                        // As if each had its share of a batch.
                        let share = vectors.size()[1] as f64 / n_codes as f64;
                        let mut counts = averages.counts.select(1, r).get(head);
                        let _ = counts.index_fill_(0, &unused, share);
                        let mut sums = averages.sums.select(1, r).get(head);
                        let _ = sums.index_copy_(0, &unused, &(rows * share));
                    }
                }
                if r + 1 < depth {
                    book = self.book(r);
                    rest = &rest - rows_of(&book, &nearest(&rest, &book));
                }
            }
            let _ = self.unused.shallow_clone().zero_();
        });
    }

    /// k-means of vectors `[H, N, d]`. A code that ends without a vector becomes the one that is farthest from its code.
    fn start_from_vectors(&self, vectors: &Tensor) {
        no_grad(|| {
            let [heads, depth, n_codes, _] = self.shape();
            let n_vectors = vectors.size()[1];
            let mut rest = vectors.shallow_clone();
            for r in 0..depth {
                let mut book = self.vectors.select(1, r);
                for head in 0..heads {
                    book.get(head).copy_(&spread_rows(&rest.get(head), n_codes));
                }
                for _ in 0..N_START_ROUNDS {
                    let codes = nearest(&rest, &self.book(r));
                    let (counts, sums) = self.gathered(&rest, &codes);
                    let means = self.directed(sums / counts.clamp_min(1.0).unsqueeze(-1));
                    let distances = (&rest - rows_of(&self.book(r), &codes))
                        .square()
                        .sum_dim_intlist(-1, false, Kind::Float); // [H, N]
                    book.copy_(&means);
                    for head in 0..heads {
                        let empty = counts.get(head).eq(0.0).nonzero().squeeze_dim(1);
                        let n_empty = empty.size()[0].min(n_vectors);
                        let (_, farthest) = distances.get(head).topk(n_empty, -1, true, true);
                        let rows = rest.get(head).index_select(0, &farthest);
                        let _ = book
                            .get(head)
                            .index_copy_(0, &empty.narrow(0, 0, n_empty), &rows);
                    }
                }
                let codes = nearest(&rest, &self.book(r));
                if let Some(averages) = &self.averages {
                    let (counts, _) = self.gathered(&rest, &codes);
                    // Of a step whose vectors are one for each code.
                    let shares = (counts * (n_codes as f64 / n_vectors as f64)).clamp_min(1e-3);
                    averages.counts.select(1, r).copy_(&shares);
                    let sums = self.book(r) * shares.unsqueeze(-1);
                    averages.sums.select(1, r).copy_(&sums);
                }
                rest = &rest - rows_of(&self.book(r), &codes);
            }
        });
    }
}

impl PosteriorFamily for Codebooks {
    fn distribution(&self, params: &Tensor) -> Box<dyn Posterior> {
        Box::new(self.quantized(params))
    }

    fn distribution_in_training(&self, params: &Tensor) -> Box<dyn Posterior> {
        let vectors = self.vectors(params).detach();
        self.revive(&vectors);
        let quantized = self.quantized(params);
        self.update(&vectors, &quantized.codes);
        Box::new(quantized)
    }

    fn end_epoch(&self) {
        self.mark_unused();
    }

    fn n_start_items(&self, latent_dims: i64) -> usize {
        let n_places = self.n_places(latent_dims);
        let wanted = (self.config.codes * N_START_VECTORS).div_euclid(n_places.max(1)) + 1;
        wanted.clamp(1, MOST_START_ITEMS).unsigned_abs() as usize
    }

    fn start_from(&self, params: &Tensor) {
        self.start_from_vectors(&self.vectors(params).detach());
    }

    fn support(&self) -> Support {
        Support::Codes
    }

    fn quantizer(&self) -> Option<&dyn Quantizer> {
        Some(self)
    }
}

impl GraphFamily for Codebooks {
    fn graph(&self, graph: &mut Graph, params: &Value) -> Option<Vec<Value>> {
        let n_places = self.n_places(params.shape[0]);
        let [heads, depth, _, dims] = self.shape();
        let maps = graph.push("", Op::Maps([heads * dims, n_places, 1]), &[params]);
        let of_heads: Vec<Value> = (0..heads)
            .map(|head| {
                let mut rest = graph.narrow(&maps, head * dims, dims);
                if self.config.distance == CodeDistance::Cosine {
                    rest = directed_graph(graph, &rest);
                }
                let mut sum: Option<Value> = None;
                for r in 0..depth {
                    let book = self.book(r).get(head).detach(); // [K, d]
                    let found = nearest_graph(graph, &rest, &book);
                    rest = graph.elementwise("Sub", &[&rest, &found]);
                    sum = Some(match &sum {
                        Some(sum) => graph.elementwise("Add", &[sum, &found]),
                        None => found,
                    });
                }
                sum.unwrap_or(rest)
            })
            .collect();
        let of_heads: Vec<&Value> = of_heads.iter().collect();
        let joined = graph.push("", Op::Concat, &of_heads);
        Some(vec![graph.push("", Op::Flatten, &[&joined])])
    }
}

/// The codes `[d, P, 1]` nearest to maps of that shape: those of the largest 2·z·e − |e|².
fn nearest_graph(graph: &mut Graph, maps: &Value, book: &Tensor) -> Value {
    let [n_codes, dims] = [book.size()[0], book.size()[1]];
    let lengths = book.square().sum_dim_intlist(1, false, Kind::Float);
    let scores = Op::Conv {
        weight: (book * 2.0).view([n_codes, dims, 1, 1]),
        bias: Some(-lengths),
        stride: 1,
        padding: [0, 0],
    };
    // Each has constants of its own, whose names follow from this one.
    let name = format!("posterior.codebook.{}", graph.n_values());
    let scores = graph.push(&name, scores, &[maps]);
    let rows = book.shallow_clone();
    graph.push("", Op::RowsOfLargest { rows }, &[&scores])
}

/// Maps `[d, P, 1]` with vectors of length 1.
fn directed_graph(graph: &mut Graph, maps: &Value) -> Value {
    let squares = graph.elementwise("Mul", &[maps, maps]);
    let ones = Tensor::ones([1, maps.shape[0], 1, 1], (Kind::Float, Device::Cpu));
    let sum = Op::Conv {
        weight: ones,
        bias: None,
        stride: 1,
        padding: [0, 0],
    };
    let name = format!("posterior.lengths.{}", graph.n_values());
    let sum = graph.push(&name, sum, &[&squares]);
    let length = graph.elementwise("Sqrt", &[&sum]);
    let length = graph.clamp(&length, SMALLEST_LENGTH, f64::from(f32::MAX));
    graph.elementwise("Div", &[maps, &length])
}

impl Quantizer for Codebooks {
    fn n_codes(&self) -> i64 {
        self.config.codes
    }

    fn n_books(&self) -> i64 {
        self.config.heads * self.config.depth
    }

    fn n_slots(&self, latent_dims: i64) -> i64 {
        latent_dims / self.code_dims * self.config.depth
    }

    /// With several steps the nearest code of each step for what is left of the steps before it, which need not be the
    /// nearest sum.
    fn codes(&self, latents: &Tensor) -> Tensor {
        no_grad(|| {
            let (codes, _) = self.nearest_vectors(&self.vectors(latents));
            self.slots(&codes, self.n_places(latents.size()[1]))
        })
    }

    fn latents(&self, codes: &Tensor) -> Tensor {
        no_grad(|| {
            let n_places = codes.size()[1] / self.n_books();
            let of_steps = self.of_slots(codes); // [R, H, N]
            let vectors = (0..self.config.depth).map(|r| rows_of(&self.book(r), &of_steps.get(r)));
            let sum = vectors.reduce(|sum, of_step| sum + of_step);
            self.latents_of(&sum.unwrap_or_else(|| self.vectors.zeros_like()), n_places)
        })
    }
}

/// The code nearest to each vector, i64 `[H, N]`, for vectors `[H, N, d]` and codes `[H, K, d]`. Distances are computed
/// in f32, in autocast too.
fn nearest(vectors: &Tensor, book: &Tensor) -> Tensor {
    no_grad(|| Tensor::cdist(vectors, book, 2.0, None).argmin(-1, false))
}

/// Rows `[H, N, d]` of `[H, K, d]`, by their numbers `[H, N]`.
fn rows_of(book: &Tensor, codes: &Tensor) -> Tensor {
    // −1 keeps a size: a trace must serve every batch size.
    let rows = codes.unsqueeze(-1).expand([-1, -1, book.size()[2]], false);
    book.gather(1, &rows, false)
}

/// `n` rows of `[N, d]` at equal distances; of fewer, some come several times.
fn spread_rows(rows: &Tensor, n: i64) -> Tensor {
    let n_rows = rows.size()[0];
    let numbers = Tensor::arange(n, (Kind::Int64, rows.device()));
    let numbers = match n <= n_rows {
        true => (numbers * n_rows).divide_scalar_mode(n, "floor"),
        false => numbers.remainder(n_rows),
    };
    rows.index_select(0, &numbers)
}

/// Vectors `[…, d]` at length 1.
fn unit(vectors: &Tensor) -> Tensor {
    vectors / length(vectors).clamp_min(SMALLEST_LENGTH)
}

/// `[…, 1]`.
fn length(vectors: &Tensor) -> Tensor {
    vectors.norm_scalaropt_dim(2.0, [-1_i64].as_slice(), true)
}

/// The codes' vectors q `[…, d]` as a rotation and rescaling of the encoder's output e, both constants to gradients:
/// λ·R·e with λ = |q|/|e|, R = I − 2·r·rᵀ + 2·q̂·êᵀ and r the direction of ê + q̂ (Fifty et al. 2024, §4.2).
fn rotated(vectors: &Tensor, found: &Tensor) -> Tensor {
    let sum = |of: Tensor| of.sum_dim_intlist(-1, true, Kind::Float);
    let (e_hat, q_hat, scale) = no_grad(|| {
        let scale = length(found) / length(vectors).clamp_min(SMALLEST_LENGTH);
        (unit(vectors).detach(), unit(found).detach(), scale.detach())
    });
    let r = no_grad(|| unit(&(&e_hat + &q_hat)));
    let turned = vectors - (&r * sum(&r * vectors)) * 2.0 + (&q_hat * sum(&e_hat * vectors)) * 2.0;
    let turned = turned * scale;
    // Where both are opposite or one is 0 there is no such rotation; the value is exact in any case.
    (found - &turned).detach() + turned
}

#[cfg(test)]
mod tests {
    use vae_torch::Generator;

    use super::*;
    use crate::CodebookEmaConfig;

    fn config(codes: i64) -> VectorQuantizedConfig {
        VectorQuantizedConfig {
            codes,
            ..Default::default()
        }
    }

    /// With `vectors` `[H, R, K, d]`.
    fn codebooks(config: &VectorQuantizedConfig, vectors: &Tensor) -> (nn::VarStore, Codebooks) {
        let store = nn::VarStore::new(1);
        let dims = vectors.size()[3];
        let codebooks = Codebooks::build(&store.root(), config, dims);
        no_grad(|| {
            codebooks.vectors.shallow_clone().copy_(vectors);
            if let Some(averages) = &codebooks.averages {
                averages.sums.shallow_clone().copy_(vectors);
            }
        });
        (store, codebooks)
    }

    fn normals(shape: &[i64], seed: u64) -> Tensor {
        Generator::cpu(seed).normal(shape, Device::Cpu)
    }

    fn penalty_of(quantized: &Quantized) -> Tensor {
        let penalty = quantized.penalty.as_ref();
        penalty.expect("a commitment").shallow_clone()
    }

    fn largest(of: &Tensor) -> f64 {
        of.abs().max().double_value(&[])
    }

    #[test]
    fn vectors_on_the_codebook_are_their_codes_and_cost_nothing() {
        for (heads, cosine) in [(1, false), (2, false), (2, true)] {
            let config = VectorQuantizedConfig {
                heads,
                distance: match cosine {
                    true => CodeDistance::Cosine,
                    false => CodeDistance::Euclidean,
                },
                ..config(7)
            };
            let (_store, books) = codebooks(&config, &normals(&[heads, 1, 7, 3], 1));
            // Four places.
            let codes = Generator::cpu(2).randint(7, [5, heads * 4], (Kind::Int64, Device::Cpu));
            let latents = books.latents(&codes);
            assert_eq!(latents.size(), [5, heads * 3 * 4]);
            let quantized = books.quantized(&latents);
            assert_eq!(quantized.codes, codes);
            assert!(largest(&(&quantized.latents - &latents)) < 1e-6);
            assert!(largest(&penalty_of(&quantized)) < 1e-9);
            assert_eq!(books.codes(&latents), codes);
        }
    }

    #[test]
    fn slots_are_places_of_a_head_then_those_of_the_next() {
        let config = VectorQuantizedConfig {
            heads: 2,
            ..config(3)
        };
        // Codes 0, 1, 2 stand for themselves in the first head, for 10, 11, 12 in the second.
        let vectors = Tensor::from_slice(&[0_f32, 1.0, 2.0, 10.0, 11.0, 12.0]).view([2, 1, 3, 1]);
        let (_store, books) = codebooks(&config, &vectors);
        // Channels [2, 1, 2].
        let latents = Tensor::from_slice(&[1.9_f32, 0.2, 10.0, 99.0]).view([1, 4]);
        let quantized = books.quantized(&latents);
        let codes = Vec::<i64>::try_from(quantized.codes.get(0)).expect("codes");
        assert_eq!(codes, [2, 0, 0, 2]);
        let found = Vec::<f32>::try_from(quantized.latents.get(0)).expect("latents");
        assert_eq!(found, [2.0, 0.0, 10.0, 12.0]);
    }

    #[test]
    fn the_commitment_moves_the_encoder_and_the_codebook_loss_the_codes() {
        let vectors = Tensor::from_slice(&[0_f32, 0.0, 5.0, 5.0]).view([1, 1, 2, 2]);
        let latents = Tensor::from_slice(&[1_f32, -2.0, 5.5, 4.0]).view([2, 2]);
        let difference = [[1.0, -2.0], [0.5, -1.0]];
        for codebook in [CodebookConfig::default(), CodebookConfig::Gradient] {
            let by_gradient = codebook == CodebookConfig::Gradient;
            let config = VectorQuantizedConfig {
                commitment: 0.3,
                codebook,
                ..config(2)
            };
            let (_store, books) = codebooks(&config, &vectors);
            let latents = latents.copy().set_requires_grad(true);
            let quantized = books.quantized(&latents);
            let weight = if by_gradient { 1.3 } else { 0.3 };
            for (i, wanted) in [5.0, 1.25].into_iter().enumerate() {
                let found = penalty_of(&quantized).double_value(&[i as i64]);
                assert!((found - weight * wanted).abs() < 1e-6, "{found}");
            }
            penalty_of(&quantized).sum(Kind::Float).backward();
            let of_codes = books.vectors.grad();
            assert_eq!(of_codes.defined(), by_gradient);
            for (i, of_item) in difference.iter().enumerate() {
                for (j, z_less_e) in of_item.iter().enumerate() {
                    let at = [i as i64, j as i64];
                    let found = latents.grad().double_value(&at);
                    assert!((found - 0.3 * 2.0 * z_less_e).abs() < 1e-6, "{found}");
                    if by_gradient {
                        let found = of_codes.double_value(&[0, 0, at[0], at[1]]);
                        assert!((found + 2.0 * z_less_e).abs() < 1e-6, "{found}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_gradient_goes_straight_through_or_is_turned() {
        // From (2, 0) to the code (0, 6): turned by 90° and three times as long.
        let vectors = Tensor::from_slice(&[0_f32, 6.0, 90.0, 90.0]).view([1, 1, 2, 2]);
        for (gradient, wanted) in [
            (CodeGradient::StraightThrough, [1.0, 10.0]),
            // R maps (x, y) to (−y, x), so Rᵀ maps the gradient (1, 10) to (10, −1).
            (CodeGradient::Rotation, [30.0, -3.0]),
        ] {
            let config = VectorQuantizedConfig {
                gradient,
                ..config(2)
            };
            let (_store, books) = codebooks(&config, &vectors);
            let latents = Tensor::from_slice(&[2_f32, 0.0])
                .view([1, 2])
                .set_requires_grad(true);
            let passed = books.quantized(&latents).latents;
            assert!(largest(&(&passed - Tensor::from_slice(&[0_f32, 6.0]))) < 1e-6);
            (passed * Tensor::from_slice(&[1_f32, 10.0]))
                .sum(Kind::Float)
                .backward();
            for (j, wanted) in wanted.into_iter().enumerate() {
                let found = latents.grad().double_value(&[0, j as i64]);
                assert!((found - wanted).abs() < 1e-5, "{gradient:?} {found}");
            }
        }
    }

    #[test]
    fn every_residual_step_leaves_less_and_the_sum_is_decoded() {
        let config = VectorQuantizedConfig {
            depth: 3,
            ..config(4)
        };
        let latents = normals(&[200, 6], 3); // Three places.
        let (_store, books) = codebooks(&config, &normals(&[1, 3, 4, 2], 1));
        let vectors = books.vectors(&latents);
        books.start_from_vectors(&vectors);
        let (codes, found) = books.nearest_vectors(&vectors);
        let mut rest = vectors.shallow_clone();
        let mut before = f64::INFINITY;
        for of_step in &found {
            rest = &rest - of_step;
            let error = rest.square().mean(Kind::Double).double_value(&[]);
            assert!(error < 0.8 * before, "{error} {before}");
            before = error;
        }
        let quantized = books.quantized(&latents);
        assert_eq!(quantized.codes.size(), [200, 9]);
        assert_eq!(quantized.codes, books.slots(&codes, 3));
        assert!(largest(&(books.latents(&quantized.codes) - &quantized.latents)) < 1e-5);
        // The commitment of every step: |z − e₁|² + |z − e₁ − e₂|² + …
        let mut rest = vectors;
        let mut wanted = Tensor::zeros([200], (Kind::Float, Device::Cpu));
        for of_step in &found {
            rest = &rest - of_step;
            let squares = rest.square().view([200, -1]);
            wanted += squares.sum_dim_intlist(1, false, Kind::Float);
        }
        assert!(largest(&(penalty_of(&quantized) - wanted * 0.25)) < 1e-4);
    }

    /// Three clusters of different sizes.
    fn clusters() -> Tensor {
        let centers = Tensor::from_slice(&[0_f32, 0.0, 8.0, 0.0, 0.0, 8.0]).view([3, 2]);
        let of = Tensor::arange(300, (Kind::Int64, Device::Cpu))
            .remainder(5)
            .clamp_max(2);
        centers.index_select(0, &of) + normals(&[300, 2], 4)
    }

    /// A round of k-means by hand.
    fn lloyd(points: &Tensor, centers: &Tensor) -> Tensor {
        let nearest = Tensor::cdist(points, centers, 2.0, None).argmin(1, false);
        let means: Vec<Tensor> = (0..centers.size()[0])
            .map(|k| {
                let members = points.index_select(0, &nearest.eq(k).nonzero().squeeze_dim(1));
                members.mean_dim([0_i64].as_slice(), false, Kind::Float)
            })
            .collect();
        Tensor::stack(&means, 0)
    }

    #[test]
    fn an_ema_codebook_of_a_fixed_encoder_is_that_of_k_means() {
        let points = clusters();
        let start = Tensor::from_slice(&[1_f32, 1.0, 2.0, 1.0, 1.0, 2.0]).view([3, 2]);
        // Without memory a step is a round of k-means.
        for (decay, n_steps) in [(0.0, 20), (0.9, 400)] {
            let config = VectorQuantizedConfig {
                codebook: CodebookConfig::Ema(CodebookEmaConfig { decay }),
                ..config(3)
            };
            let (_store, books) = codebooks(&config, &start.view([1, 1, 3, 2]));
            let vectors = books.vectors(&points);
            let mut wanted = start.copy();
            for _ in 0..n_steps {
                wanted = lloyd(&points, &wanted);
                let codes = books.quantized(&points).codes;
                books.update(&vectors, &codes);
                if decay == 0.0 {
                    assert!(largest(&(books.vectors.view([3, 2]) - &wanted)) < 1e-4);
                }
            }
            assert!(largest(&(books.vectors.view([3, 2]) - &wanted)) < 1e-3);
        }
    }

    #[test]
    fn it_starts_at_the_centers_of_clusters() {
        let points = clusters();
        let (_store, books) = codebooks(&config(3), &normals(&[1, 1, 3, 2], 5));
        books.start_from(&points);
        let found = books.vectors.view([3, 2]);
        assert!(largest(&(lloyd(&points, &found) - &found)) < 1e-4);
        let error = books.quantized(&points).named[0].1.mean(Kind::Double);
        assert!(
            error.double_value(&[]) < 2.5,
            "two squared normals: {error:?}"
        );
        // Fewer vectors than codes: those that there are.
        let (_store, books) = codebooks(&config(9), &normals(&[1, 1, 9, 2], 5));
        let few = points.narrow(0, 0, 4);
        books.start_from(&few);
        assert!(largest(&penalty_of(&books.quantized(&few))) < 1e-9);
    }

    #[test]
    fn a_code_that_an_epoch_did_not_use_is_replaced_with_its_averages() {
        let vectors = Tensor::from_slice(&[0_f32, 0.0, 1.0, 1.0, 500.0, 500.0]).view([1, 1, 3, 2]);
        let (_store, books) = codebooks(&config(3), &vectors);
        let points = Tensor::from_slice(&[0_f32, 0.1, 1.0, 1.1, 1.0, 0.9, 0.0, -0.1]).view([4, 2]);
        let step = || {
            let vectors = books.vectors(&points);
            books.revive(&vectors);
            let codes = books.quantized(&points).codes;
            books.update(&vectors, &codes);
        };
        let third = || books.vectors.view([3, 2]).get(2);
        step();
        step();
        assert_eq!(third().double_value(&[0]), 500.0);
        books.end_epoch();
        assert_eq!(third().double_value(&[0]), 500.0);
        let others = books.vectors.view([3, 2]).narrow(0, 0, 2).copy();
        books.revive(&books.vectors(&points));
        assert!(largest(&(third() - points.get(0))) < 1e-6);
        assert_eq!(books.vectors.view([3, 2]).narrow(0, 0, 2), others);
        let averages = books.averages.as_ref().expect("averages");
        let mean = averages.sums.view([3, 2]).get(2) / averages.counts.view(3).get(2);
        assert!(largest(&(mean - third())) < 1e-6);
        // Used in this epoch, it stays.
        step();
        books.end_epoch();
        assert_eq!(books.unused.sum(Kind::Float).double_value(&[]), 0.0);
    }
}
