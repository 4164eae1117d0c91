//! The posterior of `topology.ladder`: every level weighs what the encoder says of it against what the level above
//! says (Sønderby et al. 2016, <https://arxiv.org/abs/1602.02282>).

use tch::{Kind, Tensor};

use super::diagonal_gaussian::{DiagonalGaussian, bounded, bounded_graph};
use super::{GraphFamily, Latents, Posterior, PosteriorFamily};
use crate::graph::{Graph, Op, Value};
use crate::math::{LN_2PI, diagonal_normal_log_prob, gaussian_kl};
use crate::topology::TopDown;

#[derive(Debug)]
pub(crate) struct LadderFamily {
    pub(crate) top_down: TopDown,
}

impl PosteriorFamily for LadderFamily {
    fn distribution(&self, params: &Tensor) -> Box<dyn Posterior> {
        Box::new(Ladder::new(params, self.top_down.shallow_clone()))
    }
}

impl GraphFamily for LadderFamily {
    fn graph(&self, graph: &mut Graph, params: &Value) -> Option<Vec<Value>> {
        let n_latents = params.shape[0] / 2;
        let mut start = 0;
        let mut centers: Vec<Value> = Vec::new();
        for (i, &n) in self.top_down.levels.iter().enumerate() {
            let mean = graph.narrow(params, start, n);
            let center = match centers.last() {
                None => mean,
                Some(above) => {
                    let declared = graph.narrow(params, n_latents + start, n);
                    let log_var = bounded_graph(graph, &declared);
                    let [mean_p, log_var_p] = self.top_down.below_graph(graph, i, above);
                    let difference = graph.elementwise("Sub", &[&log_var_p, &log_var]);
                    let share = graph.elementwise("Sigmoid", &[&difference]);
                    let step = graph.elementwise("Sub", &[&mean, &mean_p]);
                    let step = graph.elementwise("Mul", &[&share, &step]);
                    graph.elementwise("Add", &[&mean_p, &step])
                }
            };
            centers.push(center);
            start += n;
        }
        let centers: Vec<&Value> = centers.iter().collect();
        Some(vec![graph.push("", Op::Concat, &centers)])
    }
}

/// q(z|x) = q(z_L|x)·Π q(z_i|x, z_{i+1}), a diagonal Gaussian at each level given the one above it.
#[derive(Debug)]
pub struct Ladder {
    /// The encoder's means and log-variances, `[B, Z_i]` each, from the top level down.
    estimates: Vec<[Tensor; 2]>,
    top_down: TopDown,
}

impl Ladder {
    /// `params` `[B, 2·Z]`: means of all levels, then their declared log-variances.
    fn new(params: &Tensor, top_down: TopDown) -> Self {
        let n_latents = params.size()[1] / 2;
        let means = top_down.split(&params.narrow(1, 0, n_latents));
        let log_vars = top_down.split(&bounded(&params.narrow(1, n_latents, n_latents)));
        let estimates = means.into_iter().zip(log_vars);
        Self {
            estimates: estimates.map(|(mean, log_var)| [mean, log_var]).collect(),
            top_down,
        }
    }

    /// q(z_L|x), the top level's.
    #[must_use]
    pub fn top(&self) -> DiagonalGaussian {
        let [mean, log_var] = &self.estimates[0];
        DiagonalGaussian::of(mean, log_var)
    }

    /// KL(q(z_i|x, z_{i+1}) ‖ p(z_i|z_{i+1})) of each latent of the levels below the top, from there down, in
    /// nats, `[B, Z_i]`: in closed form given z_{i+1}, of which drawn latents `[K, B, Z]` say the mean.
    #[must_use]
    pub fn kl_below(&self, latents: &Tensor) -> Vec<Tensor> {
        let latents = self.top_down.split(latents);
        let pairs = latents.iter().enumerate();
        pairs
            .take(latents.len() - 1)
            .map(|(i, above)| {
                let [mean_p, log_var_p] = self.top_down.below(i + 1, above);
                let (mean, log_var) = self.weighed(i + 1, &mean_p, &log_var_p);
                // KL(N(m, s²) ‖ N(μ, σ²)) = KL(N((m − μ)/σ, s²/σ²) ‖ N(0, 1)).
                let standardized = (mean - mean_p) * (&log_var_p * -0.5).exp();
                gaussian_kl(&standardized, &(log_var - log_var_p)).mean_dim(0, false, Kind::Float)
            })
            .collect()
    }

    /// The encoder's estimate of level `i` and p(z_i|z_{i+1}), weighed by their precisions: with
    /// s = σ_p²/(σ̂² + σ_p²) the variance is s·σ̂² and the mean μ_p + s·(μ̂ − μ_p). Mean and log-variance.
    fn weighed(&self, i: usize, mean_p: &Tensor, log_var_p: &Tensor) -> (Tensor, Tensor) {
        let [mean, log_var] = &self.estimates[i];
        let difference = log_var_p - log_var;
        let weighed = mean_p + difference.sigmoid() * (mean - mean_p);
        (weighed, log_var + difference.log_sigmoid())
    }

    /// Mean and log-variance of q(z_i|x, z_{i+1}), of the top level those of q(z_L|x).
    fn level(&self, i: usize, above: Option<&Tensor>) -> (Tensor, Tensor) {
        match above {
            Some(above) => {
                let [mean_p, log_var_p] = self.top_down.below(i, above);
                self.weighed(i, &mean_p, &log_var_p)
            }
            None => {
                let [mean, log_var] = &self.estimates[i];
                (mean.shallow_clone(), log_var.shallow_clone())
            }
        }
    }
}

impl Posterior for Ladder {
    /// Every level's mean given the center of the one above it.
    fn center(&self) -> Tensor {
        let mut levels: Vec<Tensor> = Vec::new();
        for i in 0..self.estimates.len() {
            let (mean, _) = self.level(i, levels.last());
            levels.push(mean);
        }
        Tensor::cat(&levels, -1)
    }

    fn draw(&self, noise: &Tensor) -> Latents {
        let noise = self.top_down.split(noise);
        let mut levels: Vec<Tensor> = Vec::new();
        let shape = &noise[0].size()[..2]; // K, B
        let mut log_prob = Tensor::zeros(shape, (Kind::Float, noise[0].device()));
        for (i, noise) in noise.iter().enumerate() {
            let (mean, log_var) = self.level(i, levels.last());
            levels.push(mean + (&log_var * 0.5).exp() * noise);
            // By the noise: exact, and cheaper than by the latents.
            let of_level = (noise.square() + log_var + LN_2PI) * -0.5;
            log_prob += of_level.sum_dim_intlist(-1, false, Kind::Float);
        }
        Latents {
            latents: Tensor::cat(&levels, -1),
            log_prob: Some(log_prob),
        }
    }

    fn log_prob(&self, latents: &Tensor) -> Option<Tensor> {
        let latents = self.top_down.split(latents);
        let levels = latents.iter().enumerate().map(|(i, of_level)| {
            let above = i.checked_sub(1).map(|above| &latents[above]);
            let (mean, log_var) = self.level(i, above);
            diagonal_normal_log_prob(of_level, &mean, &log_var)
        });
        levels.reduce(|sum, log_prob| sum + log_prob)
    }

    fn detach(&self) -> Box<dyn Posterior> {
        let estimates = self.estimates.iter();
        Box::new(Self {
            estimates: estimates
                .map(|estimate| [estimate[0].detach(), estimate[1].detach()])
                .collect(),
            top_down: self.top_down.detach(),
        })
    }

    fn as_ladder(&self) -> Option<&Ladder> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, no_grad};

    use super::*;
    use crate::posterior::laws::{jacobian, normals};
    use crate::{ClosedKl, Initialization, LadderConfig, nn};

    /// The networks of a ladder with weights from a formula, or, where `constant` is given, with means and
    /// log-variances of the lower levels that are this bias, whatever is above.
    fn top_down(levels: &[i64], constant: Option<&[f32]>) -> (nn::VarStore, TopDown) {
        let config = LadderConfig {
            levels: levels.to_vec(),
            hidden: 7,
        };
        let variables = nn::VarStore::new(1);
        let top_down = TopDown::build(&variables.root(), &config, Initialization::default());
        let mut named: Vec<_> = variables.variables().into_iter().collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        for (i, (name, mut variable)) in named.into_iter().enumerate() {
            let values = match constant {
                Some(bias) if name.ends_with("output.bias") => Tensor::from_slice(bias),
                Some(_) => variable.zeros_like(),
                None => normals(&variable.size(), 50 + i as u64) * 0.7,
            };
            no_grad(|| variable.copy_(&values));
        }
        (variables, top_down)
    }

    fn params(n: i64, n_latents: i64) -> Tensor {
        normals(&[n, 2 * n_latents], 1) * 0.8
    }

    fn largest(tensor: &Tensor) -> f64 {
        tensor.abs().max().double_value(&[])
    }

    #[test]
    fn estimates_are_weighed_by_their_precisions() {
        // p(z1|z2) = N(−1, ¼) whatever z2; the encoder says N(2, ½) of z1 and N(3, 1) of z2. The precisions are 4
        // and 2: q(z1|x, z2) has the precision 6 and the mean (2·2 − 1·4)/6 = 0.
        let ln = |x: f32| x.ln();
        let (_variables, top_down) = top_down(&[1, 1], Some(&[-1.0, ln(0.25)]));
        let params = Tensor::from_slice(&[3_f32, 2.0, 0.0, ln(0.5)]).view([1, 4]);
        let ladder = Ladder::new(&params, top_down);
        let center = ladder.center();
        assert!((center.double_value(&[0, 0]) - 3.0).abs() < 1e-6);
        assert!(center.double_value(&[0, 1]).abs() < 1e-6);
        let noise = Tensor::from_slice(&[-2_f32, 0.5]).view([1, 1, 2]);
        let drawn = ladder.draw(&noise);
        let z = |i: i64| drawn.latents.double_value(&[0, 0, i]);
        assert!((z(0) - 1.0).abs() < 1e-6);
        assert!((z(1) - 0.5 / 6_f64.sqrt()).abs() < 1e-6);
        // −½·(4 + ln 2π) − ½·(¼ + ln(1/6) + ln 2π).
        let wanted = -0.5 * (4.25 - 6_f64.ln() + 2.0 * LN_2PI);
        let log_prob = drawn.log_prob.expect("a density").double_value(&[0, 0]);
        assert!((log_prob - wanted).abs() < 1e-5, "{log_prob} {wanted}");
        // KL(N(0, 1/6) ‖ N(−1, 1/4)) = ½·(1·4 + 4/6 − ln(4/6) − 1).
        let kl = ladder.kl_below(&drawn.latents).remove(0);
        let wanted = 0.5 * (4.0 + 4.0 / 6.0 - (4.0 / 6.0_f64).ln() - 1.0);
        assert_eq!(kl.size(), [1, 1]);
        assert!((kl.double_value(&[0, 0]) - wanted).abs() < 1e-5);
    }

    #[test]
    fn with_a_constant_path_it_is_a_flat_gaussian_and_so_is_its_kl() {
        // p(z1|z2) = N(0, 1): q(z1|x) is N(μ̂/(1 + σ̂²), σ̂²/(1 + σ̂²)), of all latents independent.
        let (_variables, top_down) = top_down(&[2, 3], Some(&[0.0; 6]));
        let params = params(4, 5);
        let ladder = Ladder::new(&params, top_down);
        let lower_mean = params.narrow(1, 2, 3);
        let variance = params.narrow(1, 7, 3).exp();
        let weighed: Tensor = &variance / (&variance + 1.0);
        let mean = Tensor::cat(
            &[&params.narrow(1, 0, 2), &(lower_mean * (1.0 - &weighed))],
            1,
        );
        let log_var = Tensor::cat(&[&params.narrow(1, 5, 2), &weighed.log()], 1);
        let flat = DiagonalGaussian::of(&mean, &log_var);
        assert!(largest(&(ladder.center() - flat.center())) < 1e-6);
        let noise = normals(&[3, 4, 5], 2);
        let (found, wanted) = (ladder.draw(&noise), flat.draw(&noise));
        assert!(largest(&(&found.latents - wanted.latents)) < 1e-5);
        let (found_log, wanted_log) = (found.log_prob.expect("one"), wanted.log_prob.expect("one"));
        assert!(largest(&(found_log - wanted_log)) < 1e-5);
        let mut levels = vec![ladder.top().kl_to_standard_normal()];
        levels.extend(ladder.kl_below(&found.latents));
        let kl = Tensor::cat(&levels, 1);
        let Some(ClosedKl::PerDimension(wanted)) = flat.kl() else {
            panic!("a closed form");
        };
        assert!(largest(&(kl - wanted)) < 1e-5);
    }

    #[test]
    fn log_prob_is_that_of_the_noise_less_the_change_of_volume() {
        for levels in [&[1, 2][..], &[2, 1, 2]] {
            let n: i64 = levels.iter().sum();
            let (_variables, top_down) = top_down(levels, None);
            let ladder = Ladder::new(&params(1, n), top_down);
            let noise = normals(&[1, 1, n], 3).set_requires_grad(true);
            let Latents { latents, log_prob } = ladder.draw(&noise);
            let log_prob = log_prob.expect("a density").double_value(&[0, 0]);
            let jacobian = jacobian(&latents, &noise);
            let volume = jacobian.det().abs().log().double_value(&[]);
            let of_noise = crate::math::standard_normal_log_prob(&noise).double_value(&[0, 0]);
            assert!((log_prob - (of_noise - volume)).abs() < 1e-4);
            // A level depends on those above it, not on those below.
            let first = levels[0];
            let upper = jacobian.narrow(0, 0, first).narrow(1, first, n - first);
            assert_eq!(largest(&upper), 0.0);
            let lower = jacobian.narrow(0, first, n - first).narrow(1, 0, first);
            assert!(largest(&lower) > 1e-3);
            let at_latents = ladder
                .log_prob(&latents)
                .expect("one")
                .double_value(&[0, 0]);
            assert!((log_prob - at_latents).abs() < 1e-4);
            // Any latents with every posterior: [N, 1, Z] with [B, Z].
            let many = Ladder::new(&params(3, n), ladder.top_down.shallow_clone());
            let pairs = many.log_prob(&normals(&[4, 1, n], 5)).expect("one");
            assert_eq!(pairs.size(), [4, 3]);
        }
    }

    #[test]
    fn kl_below_is_the_mean_of_the_densities_ratio() {
        let (_variables, top_down) = top_down(&[1, 2], None);
        let path = top_down.shallow_clone();
        let ladder = Ladder::new(&params(1, 3), top_down);
        let n = 40_000;
        let noise = crate::Generator::cpu(1).normal([n, 1, 3], Device::Cpu);
        let latents = no_grad(|| ladder.draw(&noise)).latents;
        let found = no_grad(|| ladder.kl_below(&latents)).remove(0);
        let levels = path.split(&latents);
        let log_ratio = no_grad(|| {
            let [mean_p, log_var_p] = path.below(1, &levels[0]);
            let log_p = diagonal_normal_log_prob(&levels[1], &mean_p, &log_var_p);
            let top = ladder.top().log_prob(&levels[0]).expect("a Gaussian");
            ladder.log_prob(&latents).expect("one") - top - log_p
        });
        let error = log_ratio.std(true).double_value(&[]) / (n as f64).sqrt();
        let sampled = log_ratio.mean(Kind::Double).double_value(&[]);
        let found = found.sum(Kind::Double).double_value(&[]);
        assert!(
            (found - sampled).abs() < 5.0 * error,
            "{found} {sampled} ± {error}"
        );
        assert!(found > 20.0 * error, "there is something to find: {found}");
    }

    /// What the operations of a graph give for an input `[N, …]`.
    fn evaluated(graph: &Graph, input: &Value, values: &Tensor, output: &Value) -> Tensor {
        let mut known = std::collections::BTreeMap::from([(input.id, values.shallow_clone())]);
        for (value, constant) in &graph.constants {
            known.insert(value.id, constant.shallow_clone());
        }
        for node in &graph.nodes {
            let of = |i: usize| &known[&node.inputs[i].id];
            let result = match &node.op {
                Op::Linear { weight, bias } => of(0).linear(weight, bias.as_ref()),
                Op::Activation(crate::graph::Activation::Relu) => of(0).relu(),
                Op::Narrow { start, length } => of(0).narrow(1, *start, *length),
                Op::Concat => {
                    let all: Vec<&Tensor> = node.inputs.iter().map(|v| &known[&v.id]).collect();
                    Tensor::cat(&all, 1)
                }
                Op::Elementwise("Sub") => of(0) - of(1),
                Op::Elementwise("Add") => of(0) + of(1),
                Op::Elementwise("Mul") => of(0) * of(1),
                Op::Elementwise("Div") => of(0) / of(1),
                Op::Elementwise("Pow") => of(0).pow(of(1)),
                Op::Elementwise("Sigmoid") => of(0).sigmoid(),
                Op::Elementwise("Clip") => of(0).clamp_tensor(Some(of(1)), Some(of(2))),
                op => panic!("{op:?}"),
            };
            known.insert(node.output.id, result);
        }
        known.remove(&output.id).expect("an output")
    }

    #[test]
    fn its_graph_computes_the_center() {
        for levels in [&[2, 1][..], &[1, 3, 2]] {
            let n: i64 = levels.iter().sum();
            let (_variables, top_down) = top_down(levels, None);
            let params = params(4, n) * 3.0;
            let family = LadderFamily { top_down };
            let center = family.distribution(&params).center();
            let mut graph = Graph::default();
            let input = graph.input(&[2 * n]);
            let output = family
                .graph(&mut graph, &input)
                .expect("operations")
                .remove(0);
            assert_eq!(output.shape, [n]);
            let found = evaluated(&graph, &input, &params, &output);
            assert!(largest(&(found - &center)) < 1e-5);
            assert!(largest(&center) > 0.1);
        }
    }

    #[test]
    fn a_detached_one_is_a_constant_but_for_the_latents() {
        let (variables, top_down) = top_down(&[1, 2], None);
        let params = params(2, 3).set_requires_grad(true);
        let detached = Ladder::new(&params, top_down).detach();
        let latents = normals(&[1, 2, 3], 4).set_requires_grad(true);
        detached
            .log_prob(&latents)
            .expect("one")
            .sum(Kind::Float)
            .backward();
        assert!(largest(&latents.grad()) > 0.0);
        assert!(!params.grad().defined());
        assert!(
            variables
                .variables()
                .values()
                .all(|variable| !variable.grad().defined())
        );
    }
}
