//! The posterior of `topology = "pyramid"`: two maps of codes, the lower one given the upper one (Razavi et al. 2019,
//! <https://arxiv.org/abs/1906.00446>).

use tch::{Kind, Tensor};

use super::{GraphFamily, Latents, Posterior, PosteriorConfig, PosteriorFamily};
use crate::graph::{Graph, Op, Value};
use crate::network::layers::{Conv, ConvSizes, Layer, NextActivation};
use crate::network::upper_map;
use crate::{Initialization, Quantizer, Support, Terms, nn};

#[derive(Debug)]
pub(crate) struct PyramidFamily {
    levels: Levels,
    /// From the upper codes, as large as the lower map, and the encoder's lower map to what the lower codes stand for.
    join: Layer<Conv>,
}

/// The families of both maps.
#[derive(Debug)]
struct Levels {
    upper: Box<dyn GraphFamily>,
    lower: Box<dyn GraphFamily>,
    /// `[C, h, w]` of the lower map.
    shape: [i64; 3],
}

impl PyramidFamily {
    /// For a checked config, with the variables of the maps under `path / "upper"` and `path / "lower"`.
    pub(crate) fn build(
        path: &nn::Path,
        config: &PosteriorConfig,
        shape: [i64; 3],
        initialization: Initialization,
    ) -> Self {
        let family = |name: &str, shape: [i64; 3]| {
            let n_latents = shape.iter().product();
            config.build(&(path / name), n_latents, Some(shape[0]), initialization)
        };
        let next = NextActivation::Output { n_params: 1 };
        let sizes = ConvSizes::three(2 * shape[0], shape[0], 1);
        Self {
            levels: Levels {
                upper: family("upper", upper_map(shape)),
                lower: family("lower", shape),
                shape,
            },
            join: initialization.conv(path / "join", sizes, next),
        }
    }

    /// What the lower codes stand for, `[B, Z_1]`, given the upper ones `[B, Z_2]`.
    fn lower_params(&self, upper: &Tensor, lower: &Tensor) -> Tensor {
        let [channels, height, width] = self.levels.shape;
        let [_, rows, columns] = upper_map(self.levels.shape);
        let upper = upper
            .view([-1, channels, rows, columns])
            .upsample_nearest2d([height, width], None, None);
        let lower = lower.view([-1, channels, height, width]);
        let joined = Tensor::cat(&[upper, lower], 1).apply(&self.join); // [B, C, h, w]
        // Under autocast the layer computes in half precision; codes need f32.
        joined.to_kind(Kind::Float).flatten(1, -1)
    }

    fn pair(
        &self,
        params: &Tensor,
        distribution: impl Fn(&dyn GraphFamily, &Tensor) -> Box<dyn Posterior>,
    ) -> Box<dyn Posterior> {
        let [upper, lower] = self.levels.split(params);
        let upper = distribution(&*self.levels.upper, &upper);
        let lower = self.lower_params(&upper.center(), &lower);
        let lower = distribution(&*self.levels.lower, &lower);
        Box::new(Pyramid { upper, lower })
    }
}

impl Levels {
    /// Latents `[…, Z]` of both maps.
    fn split(&self, latents: &Tensor) -> [Tensor; 2] {
        let n_upper: i64 = upper_map(self.shape).iter().product();
        let n_lower: i64 = self.shape.iter().product();
        [
            latents.narrow(-1, 0, n_upper),
            latents.narrow(-1, n_upper, n_lower),
        ]
    }

    /// The codes of the upper and the lower map. Families without codes are refused for a pyramid.
    fn quantizers(&self) -> [&dyn Quantizer; 2] {
        [&self.upper, &self.lower].map(|family| family.quantizer().expect("a posterior of codes"))
    }

    /// Number of codes of both maps.
    fn n_slots_of_maps(&self) -> [i64; 2] {
        let [upper, lower] = self.quantizers();
        let n_upper = upper_map(self.shape).iter().product();
        [
            upper.n_slots(n_upper),
            lower.n_slots(self.shape.iter().product()),
        ]
    }
}

impl PosteriorFamily for PyramidFamily {
    fn distribution(&self, params: &Tensor) -> Box<dyn Posterior> {
        self.pair(params, |family, params| family.distribution(params))
    }

    fn distribution_in_training(&self, params: &Tensor) -> Box<dyn Posterior> {
        self.pair(params, |family, params| {
            family.distribution_in_training(params)
        })
    }

    fn end_epoch(&self) {
        self.levels.upper.end_epoch();
        self.levels.lower.end_epoch();
    }

    fn n_start_items(&self, _: i64) -> usize {
        let upper: i64 = upper_map(self.levels.shape).iter().product();
        let lower: i64 = self.levels.shape.iter().product();
        let n_upper = self.levels.upper.n_start_items(upper);
        n_upper.max(self.levels.lower.n_start_items(lower))
    }

    fn start_from(&self, params: &Tensor) {
        let [upper, lower] = self.levels.split(params);
        self.levels.upper.start_from(&upper);
        let upper = self.levels.upper.distribution(&upper).center();
        let lower = self.lower_params(&upper, &lower);
        self.levels.lower.start_from(&lower.detach());
    }

    fn support(&self) -> Support {
        Support::Codes
    }

    fn quantizer(&self) -> Option<&dyn Quantizer> {
        Some(&self.levels)
    }
}

impl GraphFamily for PyramidFamily {
    fn graph(&self, graph: &mut Graph, params: &Value) -> Option<Vec<Value>> {
        let [channels, height, width] = self.levels.shape;
        let [_, rows, columns] = upper_map(self.levels.shape);
        let n_upper = channels * rows * columns;
        let n_lower = channels * height * width;
        let upper = graph.narrow(params, 0, n_upper);
        let upper = self.levels.upper.graph(graph, &upper)?.remove(0);
        let map = graph.push("", Op::Maps([channels, rows, columns]), &[&upper]);
        let map = graph.push("", Op::Upsample([height, width]), &[&map]);
        let lower = graph.narrow(params, n_upper, n_lower);
        let lower = graph.push("", Op::Maps([channels, height, width]), &[&lower]);
        let joined = graph.push("", Op::Concat, &[&map, &lower]);
        let joined = graph.apply_layer(&self.join, &joined);
        let joined = graph.push("", Op::Flatten, &[&joined]);
        let lower = self.levels.lower.graph(graph, &joined)?.remove(0);
        Some(vec![graph.push("", Op::Concat, &[&upper, &lower])])
    }
}

/// The slots of the upper map, then those of the lower one. Both have books of the same number of codes.
impl Quantizer for Levels {
    fn n_codes(&self) -> i64 {
        self.quantizers()[0].n_codes()
    }

    fn slots_of_books(&self, _: i64) -> Vec<i64> {
        let maps = self.quantizers().into_iter().zip(self.n_slots_of_maps());
        let books = maps.map(|(map, n_slots)| {
            let n_books = map.n_books();
            vec![n_slots / n_books; n_books.unsigned_abs() as usize]
        });
        books.flatten().collect()
    }

    fn n_books(&self) -> i64 {
        self.quantizers().iter().map(|map| map.n_books()).sum()
    }

    fn n_slots(&self, _: i64) -> i64 {
        self.n_slots_of_maps().iter().sum()
    }

    fn codes(&self, latents: &Tensor) -> Tensor {
        let [upper, lower] = self.quantizers();
        let [of_upper, of_lower] = self.split(latents);
        Tensor::cat(&[upper.codes(&of_upper), lower.codes(&of_lower)], 1)
    }

    fn latents(&self, codes: &Tensor) -> Tensor {
        let [upper, lower] = self.quantizers();
        let [n_upper, n_lower] = self.n_slots_of_maps();
        let of_upper = upper.latents(&codes.narrow(1, 0, n_upper));
        let of_lower = lower.latents(&codes.narrow(1, n_upper, n_lower));
        Tensor::cat(&[of_upper, of_lower], 1)
    }
}

/// The codes of both maps of each item.
#[derive(Debug)]
struct Pyramid {
    upper: Box<dyn Posterior>,
    lower: Box<dyn Posterior>,
}

impl Posterior for Pyramid {
    fn center(&self) -> Tensor {
        Tensor::cat(&[self.upper.center(), self.lower.center()], 1)
    }

    fn draw(&self, noise: &Tensor) -> Latents {
        Latents {
            latents: self.center().unsqueeze(0).expand(noise.size(), false),
            log_prob: None,
        }
    }

    fn log_prob(&self, _: &Tensor) -> Option<Tensor> {
        None
    }

    fn codes(&self) -> Option<Tensor> {
        let codes = [self.upper.codes()?, self.lower.codes()?];
        Some(Tensor::cat(&codes, 1))
    }

    fn penalty(&self) -> Option<(Tensor, Terms)> {
        let (upper, of_upper) = self.upper.penalty()?;
        let (lower, of_lower) = self.lower.penalty()?;
        let mut terms = Terms::default();
        for (term, value) in of_upper.iter() {
            let of_lower = of_lower.get(&term.name)?;
            terms.push(term.clone(), &(value + of_lower));
        }
        Some((upper + lower, terms))
    }

    fn detach(&self) -> Box<dyn Posterior> {
        Box::new(Self {
            upper: self.upper.detach(),
            lower: self.lower.detach(),
        })
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;
    use vae_torch::Generator;

    use super::*;

    fn pyramid(posterior: &str) -> (nn::VarStore, PyramidFamily) {
        let config: std::collections::BTreeMap<String, PosteriorConfig> =
            toml::from_str(&format!("posterior = {posterior}")).expect("a posterior");
        let variables = nn::VarStore::new(1);
        let family = PyramidFamily::build(
            &variables.root(),
            &config["posterior"],
            [2, 3, 4],
            Initialization::default(),
        );
        (variables, family)
    }

    #[test]
    fn its_codes_are_those_of_the_upper_map_and_of_the_lower_given_them() {
        for posterior in [
            "{ vector_quantized = { codes = 5, depth = 2 } }",
            "{ finite_scalar = { levels = [3, 4] } }",
            "{ lookup_free = {} }",
        ] {
            let (_variables, family) = pyramid(posterior);
            // 2·2·2 + 2·3·4 latents.
            let params = Generator::cpu(2).normal([6, 32], Device::Cpu) * 2.0;
            let posterior = family.distribution(&params);
            let codes = posterior.codes().expect("codes");
            let quantizer = family.quantizer().expect("codes");
            assert_eq!(quantizer.n_slots(32), codes.size()[1]);
            let slots: i64 = quantizer.slots_of_books(32).iter().sum();
            assert_eq!(slots, codes.size()[1]);
            let of_codes = quantizer.latents(&codes);
            assert!(of_codes.allclose(&posterior.center(), 1e-5, 1e-6, false));
            assert_eq!(posterior.center().size(), [6, 32]);
            // The upper codes decide about the lower ones, not the other way round.
            let changed = Tensor::cat(&[-params.narrow(1, 0, 8), params.narrow(1, 8, 24)], 1);
            let codes_then = family.distribution(&changed).codes().expect("codes");
            let n_upper = family.levels.n_slots_of_maps()[0];
            let rest = codes.size()[1] - n_upper;
            let differ = |start: i64, n: i64| {
                let pair = [&codes_then, &codes].map(|codes| codes.narrow(1, start, n));
                pair[0] != pair[1]
            };
            assert!(differ(0, n_upper) && differ(n_upper, rest));
            let changed = Tensor::cat(&[params.narrow(1, 0, 8), -params.narrow(1, 8, 24)], 1);
            let codes_then = family.distribution(&changed).codes().expect("codes");
            assert_eq!(
                codes_then.narrow(1, 0, n_upper),
                codes.narrow(1, 0, n_upper)
            );
        }
    }

    #[test]
    fn gradients_reach_both_maps_and_the_penalty_is_their_sum() {
        let (variables, family) = pyramid("{ vector_quantized = { codes = 5 } }");
        let params = Generator::cpu(2).normal([3, 32], Device::Cpu);
        let params = params.set_requires_grad(true);
        family.start_from(&params);
        let posterior = family.distribution_in_training(&params);
        // Only the lower latents: the upper ones are reached through them.
        let lower = posterior.center().narrow(1, 8, 24);
        (lower.square().sum(Kind::Float)).backward();
        let gradient = params.grad().abs();
        for (start, n) in [(0, 8), (8, 24)] {
            assert!(gradient.narrow(1, start, n).max().double_value(&[]) > 0.0);
        }
        let weight = &variables.variables()["join.weight"];
        assert!(weight.grad().defined());
        let (penalty, terms) = posterior.penalty().expect("a commitment");
        let commitment = terms.get("commitment_loss").expect("a term");
        assert!((penalty - commitment * 0.25).abs().max().double_value(&[]) < 1e-5);
    }
}
