//! The posterior of `network.top_down`: each group of latents is drawn on the decoder's way down, relative to what the
//! prior says there (Vahdat & Kautz 2020, <https://arxiv.org/abs/2007.03898>, §3.2).

use tch::{Kind, Tensor};

use super::diagonal_gaussian::{bounded, bounded_graph};
use super::{GraphFamily, Latents, Posterior, PosteriorFamily};
use crate::Mode;
use crate::graph::{Graph, Op, Value};
use crate::math::{LN_2PI, gaussian_kl};
use crate::network::ops::{Eager, Ops, channels_last};
use crate::network::{Group, Reach, TopDownPath};
use crate::watch::watch;

/// Latents that were drawn on the decoder's way down, with everything that is known at its end.
#[derive(Debug)]
pub struct TopDownDraws {
    /// z `[K, B, Z]`.
    pub latents: Tensor,
    /// log q(z|x) in nats, `[K, B]`.
    pub log_qz_x: Tensor,
    /// log p(z) in nats, `[K, B]`.
    pub log_pz: Tensor,
    /// The kl of each group from the top down, in nats, `[B, Z_i]` for each of its latents: in closed form given the
    /// groups above, and averaged over the K samples of those.
    pub kl: Vec<Tensor>,
    /// Parameters of p(x|z), `[K·B, L, H, W]`; under autocast maybe in half precision.
    pub params: Tensor,
}

/// p(z_i|h) = N(mean, e^log_var), f32 `[N, c, s, s]` each.
#[derive(Debug)]
pub(crate) struct PriorMaps {
    pub(crate) mean: Tensor,
    pub(crate) log_var: Tensor,
}

impl PriorMaps {
    /// Of the output of the prior's branch.
    pub(crate) fn new(ops: &mut Eager, group: &Group, params: &Tensor) -> Self {
        let [mean, log_var] = group.of_prior(ops, params);
        // Under autocast the layers compute in half precision; densities need f32.
        Self {
            mean: mean.to_kind(Kind::Float),
            log_var: bounded(&log_var.to_kind(Kind::Float)),
        }
    }

    /// μ + σ·u.
    pub(crate) fn at(&self, standardized: &Tensor) -> Tensor {
        &self.mean + (&self.log_var * 0.5).exp() * standardized
    }

    /// (z − μ)/σ.
    pub(crate) fn standardized(&self, latents: &Tensor) -> Tensor {
        (latents - &self.mean) * (&self.log_var * -0.5).exp()
    }

    /// log p(z_i|h) in nats, `[N]`, at μ + σ·u.
    pub(crate) fn log_prob(&self, standardized: &Tensor) -> Tensor {
        sum((standardized.square() + &self.log_var + LN_2PI) * -0.5)
    }
}

/// The sum of each item's values, `[N]`.
fn sum(values: Tensor) -> Tensor {
    values.flatten(1, -1).sum_dim_intlist(1, false, Kind::Float)
}

#[derive(Debug)]
pub(crate) struct TopDownFamily {
    pub(crate) path: TopDownPath,
}

impl PosteriorFamily for TopDownFamily {
    fn distribution(&self, params: &Tensor) -> Box<dyn Posterior> {
        Box::new(TopDown::new(params, self.path.shallow_clone()))
    }
}

impl GraphFamily for TopDownFamily {
    fn graph(&self, graph: &mut Graph, params: &Value) -> Option<Vec<Value>> {
        let mut start = 0;
        let mut evidence = Vec::new();
        for shape in self.path.evidence_shapes() {
            let n = shape.iter().product();
            evidence.push((n > 0).then(|| {
                let flat = graph.narrow(params, start, n);
                Ops::maps(graph, flat, shape)
            }));
            start += n;
        }
        let n_features = self.path.n_features();
        let features = (n_features > 0).then(|| graph.narrow(params, start, n_features));
        let mut centers = Vec::new();
        let mut choose =
            |graph: &mut Graph, _: usize, group: &Group, state: &Value, prior: &Value| {
                let [mean, log_var] = group.of_prior(graph, prior);
                let (stage, first, n) = group.evidence();
                let [shift, _] = group.of_posterior(graph, state, |graph, entered| match evidence
                    .get(stage)
                    .and_then(Option::as_ref)
                {
                    Some(maps) => {
                        let maps = graph.narrow(maps, first, n);
                        Ops::sum(graph, entered, maps)
                    }
                    None => entered,
                });
                let log_var = bounded_graph(graph, &log_var);
                let half = graph.with_number(&log_var, "Mul", 0.5);
                let std = graph.elementwise("Exp", &[&half]);
                let shift = graph.elementwise("Mul", &[&std, &shift]);
                let center = graph.elementwise("Add", &[&mean, &shift]);
                centers.push(Ops::flatten(graph, center.clone()));
                center
            };
        self.path
            .run(graph, params, features, Reach::Latents, &mut choose);
        let centers: Vec<&Value> = centers.iter().collect();
        Some(vec![graph.push("", Op::Concat, &centers)])
    }
}

/// q(z|x) = Π q(z_i|h_i, x), where h_i is the decoder's state above group i.
#[derive(Debug)]
pub(crate) struct TopDown {
    /// For each stage, `[B, channels, size, size]`; `None` for one without latents.
    evidence: Vec<Option<Tensor>>,
    /// Of the condition, `[B, F]`.
    features: Option<Tensor>,
    /// The encoder's output, which says how many items there are.
    params: Tensor,
    path: TopDownPath,
}

/// What is known of group i on the way down: N(μ, σ²) and N(μ + σ·shift, σ²·e^log_ratio), f32 `[N, c, s, s]`.
struct Pair {
    prior: PriorMaps,
    shift: Tensor,
    log_ratio: Tensor,
}

impl Pair {
    /// log q(z_i|h, x) in nats, `[N]`, for the noise of a sample, (u − shift)/e^(log_ratio/2).
    fn log_prob(&self, noise: &Tensor) -> Tensor {
        let log_var = &self.log_ratio + &self.prior.log_var;
        sum((noise.square() + log_var + LN_2PI) * -0.5)
    }
}

impl TopDown {
    /// `params` `[B, P]`: the encoder's maps for each stage, then the features of the condition.
    fn new(params: &Tensor, path: TopDownPath) -> Self {
        let mut start = 0;
        let mut evidence = Vec::new();
        for [channels, height, width] in path.evidence_shapes() {
            let n = channels * height * width;
            evidence.push((n > 0).then(|| {
                let maps = params.narrow(1, start, n);
                let maps = maps.view([-1, channels, height, width]);
                channels_last(&maps) // As the maps to which they are added.
            }));
            start += n;
        }
        let n_features = path.n_features();
        Self {
            evidence,
            features: (n_features > 0).then(|| params.narrow(1, start, n_features)),
            params: params.shallow_clone(),
            path,
        }
    }

    /// Goes down with K states for each image. `choose` gives the standardized latents (z − μ)/σ of each group.
    fn run(
        &self,
        n_samples: i64,
        reach: Reach,
        mut choose: impl FnMut(usize, &Pair) -> Tensor,
    ) -> Option<Tensor> {
        let repeated = |tensor: &Tensor| match n_samples {
            1 => tensor.shallow_clone(),
            _ => tensor.repeat([n_samples, 1]),
        };
        let batch = repeated(&self.params.narrow(1, 0, 1));
        let features = self.features.as_ref().map(repeated);
        let mut each =
            |ops: &mut Eager, i: usize, group: &Group, state: &Tensor, prior: &Tensor| {
                let (stage, first, n) = group.evidence();
                let seen = self.evidence[stage].as_ref();
                let seen = seen.map(|maps| maps.narrow(1, first, n));
                let [shift, log_ratio] =
                    group.of_posterior(ops, state, |_, entered| match (seen, n_samples) {
                        (None, _) => entered,
                        (Some(seen), 1) => entered + seen,
                        (Some(seen), _) => {
                            (entered.unflatten(0, [n_samples, -1]) + seen).flatten(0, 1)
                        }
                    });
                let pair = Pair {
                    prior: PriorMaps::new(ops, group, prior),
                    shift: shift.to_kind(Kind::Float),
                    log_ratio: bounded(&log_ratio.to_kind(Kind::Float)),
                };
                pair.prior.at(&choose(i, &pair))
            };
        // The layers are the same in training.
        let ops = &mut Eager::new(Mode::Evaluate);
        self.path.run(ops, &batch, features, reach, &mut each)
    }
}

impl Posterior for TopDown {
    /// Every group's mean given the centers of those above it.
    fn center(&self) -> Tensor {
        let mut groups = Vec::new();
        self.run(1, Reach::Latents, |_, pair| {
            groups.push(pair.prior.at(&pair.shift).flatten(1, -1));
            pair.shift.shallow_clone()
        });
        Tensor::cat(&groups, 1)
    }

    fn draw(&self, noise: &Tensor) -> Latents {
        let noise_of = self.path.split(&noise.flatten(0, 1));
        let mut groups = Vec::new();
        let mut log_prob = None;
        self.run(noise.size()[0], Reach::Latents, |i, pair| {
            let noise = &noise_of[i];
            let standardized = &pair.shift + (&pair.log_ratio * 0.5).exp() * noise;
            groups.push(pair.prior.at(&standardized).flatten(1, -1));
            add(&mut log_prob, pair.log_prob(noise));
            standardized
        });
        let shape = &noise.size()[..2]; // K, B
        Latents {
            latents: Tensor::cat(&groups, 1).unflatten(0, shape),
            log_prob: log_prob.map(|log_prob| log_prob.unflatten(0, shape)),
        }
    }

    fn draw_down(&self, noise: &Tensor) -> Option<TopDownDraws> {
        let shape = &noise.size()[..2]; // K, B
        let noise_of = self.path.split(&noise.flatten(0, 1));
        let (mut groups, mut kl) = (Vec::new(), Vec::new());
        let (mut log_q, mut log_p) = (None, None);
        let params = self.run(shape[0], Reach::Likelihood, |i, pair| {
            let noise = &noise_of[i];
            let standardized = &pair.shift + (&pair.log_ratio * 0.5).exp() * noise;
            groups.push(pair.prior.at(&standardized).flatten(1, -1));
            // By the noise: exact, and cheaper than by the latents.
            add(&mut log_q, pair.log_prob(noise));
            add(&mut log_p, pair.prior.log_prob(&standardized));
            let of_group = gaussian_kl(&pair.shift, &pair.log_ratio).flatten(1, -1);
            let of_samples = of_group.unflatten(0, shape); // [K, B, Z_i]
            kl.push(of_samples.mean_dim(0, false, Kind::Float));
            standardized
        })?;
        let latents = Tensor::cat(&groups, 1).unflatten(0, shape);
        watch("posterior latents", &latents);
        Some(TopDownDraws {
            latents,
            log_qz_x: log_q?.unflatten(0, shape),
            log_pz: log_p?.unflatten(0, shape),
            kl,
            params,
        })
    }

    fn log_prob(&self, latents: &Tensor) -> Option<Tensor> {
        let n_images = self.params.size()[0];
        let [.., rows, n_latents] = latents.size()[..] else {
            return None;
        };
        // [K, 1, Z] stands for [K, B, Z], and [B, Z] for [1, B, Z].
        let latents = match rows == n_images {
            true => latents.shallow_clone(),
            false => {
                let mut shape = latents.size();
                let last = shape.len() - 2;
                shape[last] = n_images;
                latents.expand(shape, false)
            }
        };
        let shape = latents.size();
        let shape = &shape[..shape.len() - 1];
        let flat = latents.reshape([-1, n_latents]);
        let given = self.path.split(&flat);
        let mut log_prob = None;
        self.run(flat.size()[0] / n_images, Reach::Latents, |i, pair| {
            let standardized = pair.prior.standardized(&given[i]);
            let noise = (&standardized - &pair.shift) * (&pair.log_ratio * -0.5).exp();
            add(&mut log_prob, pair.log_prob(&noise));
            standardized
        });
        log_prob.map(|log_prob| log_prob.view(shape))
    }

    fn detach(&self) -> Box<dyn Posterior> {
        Box::new(Self {
            evidence: self
                .evidence
                .iter()
                .map(|maps| maps.as_ref().map(Tensor::detach))
                .collect(),
            features: self.features.as_ref().map(Tensor::detach),
            params: self.params.detach(),
            path: self.path.detach(),
        })
    }
}

/// Adds to a sum that may be empty.
fn add(sum: &mut Option<Tensor>, part: Tensor) {
    *sum = Some(match sum.take() {
        Some(sum) => sum + part,
        None => part,
    });
}
