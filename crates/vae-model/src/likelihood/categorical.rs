//! `likelihood = "categorical"`: a token of a vocabulary at each step.

use tch::{Kind, Tensor};
use vae_torch::Generator;

use super::{GraphLikelihood, Likelihood};
use crate::network::TokenShape;
use crate::{Direction, Mode, Term, Terms};

/// The number of tokens of an item, its end among them.
pub(super) const TOKENS: Term = Term::new("tokens", "per item", Direction::Neither);

/// The share of an item's tokens that are the most likely ones given the tokens before.
pub(super) const TOKEN_ACCURACY: Term =
    Term::new("token_accuracy", Term::NO_UNIT, Direction::Higher);

/// log p(x|z) = Σ_t log p(x_t | x_<t, z) over an item's tokens up to and including its end. What follows the end
/// contributes exactly nothing.
#[derive(Debug)]
pub(super) struct Categorical {
    pub(super) tokens: TokenShape,
}

impl Categorical {
    /// log p of each token, `[K, B, T]`, and whether it belongs to its item, `[B, T]`, for logits `[K, B, V, 1, T]` and
    /// tokens `[B, 1, 1, T]`.
    fn by_token(&self, params: &Tensor, targets: &Tensor) -> (Tensor, Tensor) {
        let logits = params.squeeze_dim(3).transpose(2, 3); // [K, B, T, V], the decoder's own order
        let tokens = targets.flatten(1, -1); // [B, T]
        let index = tokens.unsqueeze(0).unsqueeze(-1); // [1, B, T, 1]
        let index = index.expand([logits.size()[0], -1, -1, -1], false);
        let log_prob = logits
            .log_softmax(-1, Kind::Float)
            .gather(-1, &index, false);
        (log_prob.squeeze_dim(-1), self.tokens.mask(&tokens))
    }
}

impl Likelihood for Categorical {
    fn scale(&self, items: &Tensor) -> Tensor {
        items.shallow_clone()
    }

    fn log_prob(&self, params: &Tensor, targets: &Tensor, _: Mode) -> Tensor {
        let (log_prob, mask) = self.by_token(params, targets);
        log_prob
            .masked_fill(&mask.logical_not(), 0.0)
            .sum_dim_intlist(-1, false, Kind::Float)
    }

    fn value_log_prob(&self, params: &Tensor, targets: &Tensor) -> Option<Tensor> {
        let (log_prob, mask) = self.by_token(params, targets);
        let log_prob = log_prob.masked_fill(&mask.logical_not(), f64::NAN);
        Some(log_prob.unsqueeze(2).unsqueeze(2)) // [K, B, 1, 1, T]
    }

    /// The most likely tokens i64 `[N, 1, 1, T]`; after an end all are ends.
    fn mean_image(&self, params: &Tensor) -> Tensor {
        let tokens = params.argmax(1, true); // [N, 1, 1, T]
        match self.tokens.end {
            Some(end) => tokens.masked_fill(&self.tokens.mask(&tokens).logical_not(), end),
            None => tokens,
        }
    }

    fn sample(&self, params: &Tensor, generator: &mut Generator) -> Tensor {
        let (n, length) = (params.size()[0], params.size()[3]);
        let weights = params
            .squeeze_dim(2)
            .transpose(1, 2)
            .softmax(-1, Kind::Float); // [N, T, V]
        let tokens = generator.multinomial(&weights.flatten(0, 1), 1); // [N·T, 1]
        let tokens = tokens.view([n, 1, 1, length]);
        match self.tokens.end {
            Some(end) => tokens.masked_fill(&self.tokens.mask(&tokens).logical_not(), end),
            None => tokens,
        }
    }

    fn named(&self, params: &Tensor, targets: &Tensor) -> Terms {
        let tokens = targets.flatten(1, -1); // [B, T]
        let mask = self.tokens.mask(&tokens).to_kind(Kind::Float);
        let n = mask.sum_dim_intlist(-1, false, Kind::Float); // [B]
        let best = params.squeeze_dim(3).argmax(2, false); // [K, B, T]
        let hits = best.eq_tensor(&tokens.unsqueeze(0)).to_kind(Kind::Float) * mask;
        let hits = hits
            .mean_dim(0, false, Kind::Float)
            .sum_dim_intlist(-1, false, Kind::Float);
        let mut terms = Terms::default();
        terms.push(TOKENS, &n);
        terms.push(TOKEN_ACCURACY, &(hits / &n));
        terms
    }
}

impl GraphLikelihood for Categorical {}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    /// Three tokens, of which 0 is the end.
    fn likelihood() -> Categorical {
        Categorical {
            tokens: TokenShape {
                vocabulary: 3,
                end: Some(0),
            },
        }
    }

    /// Log-probabilities as parameters `[1, 2, 3, 1, 3]` of two items with three steps.
    fn params() -> Tensor {
        let of_step = [
            [0.5_f32, 0.25, 0.25],
            [0.125, 0.125, 0.75],
            [0.25, 0.5, 0.25],
        ];
        let logs: Vec<f32> = of_step.concat().into_iter().map(f32::ln).collect();
        let params = Tensor::from_slice(&logs).view([1, 3, 3]).transpose(1, 2);
        params.repeat([2, 1, 1]).view([1, 2, 3, 1, 3])
    }

    #[test]
    fn log_prob_is_the_sum_up_to_the_end() {
        // The first item ends at its second step, the second one has no end.
        let targets = Tensor::from_slice(&[2_i64, 0, 1, 1, 2, 1]).view([2, 1, 1, 3]);
        let log_prob = likelihood().log_prob(&params(), &targets, Mode::Train);
        let wanted = [(0.25_f64 * 0.125).ln(), (0.25_f64 * 0.75 * 0.5).ln()];
        for (i, wanted) in wanted.into_iter().enumerate() {
            let found = log_prob.double_value(&[0, i as i64]);
            assert!((found - wanted).abs() < 1e-6, "{found} {wanted}");
        }
        let by_value = likelihood()
            .value_log_prob(&params(), &targets)
            .expect("known");
        assert_eq!(by_value.size(), [1, 2, 1, 1, 3]);
        assert!(by_value.double_value(&[0, 0, 0, 0, 2]).is_nan());
        let named = likelihood().named(&params(), &targets);
        let of = |name: &str| Vec::<f64>::try_from(named.get(name).expect("there")).expect("flat");
        assert_eq!(of("tokens"), [2.0, 3.0]);
        // The most likely tokens are 0, 2, 1.
        assert!((of("token_accuracy")[0] - 0.0).abs() < 1e-6);
        assert!((of("token_accuracy")[1] - 2.0 / 3.0).abs() < 1e-6);
    }

    #[test]
    fn padding_has_no_influence_and_takes_no_gradient() {
        let with = |padding: i64| {
            let targets = Tensor::from_slice(&[2_i64, 0, padding]).view([1, 1, 1, 3]);
            let params = params().narrow(1, 0, 1).copy().set_requires_grad(true);
            let log_prob = likelihood().log_prob(&params, &targets, Mode::Train);
            log_prob.sum(Kind::Float).backward();
            let gradient = params.grad().select(-1, 2).abs().max().double_value(&[]);
            (log_prob.double_value(&[0, 0]), gradient)
        };
        assert_eq!(with(0), with(2));
        assert_eq!(with(1).1, 0.0);
    }

    #[test]
    fn draws_are_as_likely_as_log_prob_says() {
        const N: i64 = 100_000;
        let likelihood = likelihood();
        let one = params().select(0, 0).narrow(0, 0, 1); // [1, 3, 1, 3]
        let drawn = likelihood.sample(&one.expand([N, -1, -1, -1], false), &mut Generator::cpu(1));
        assert_eq!(drawn.size(), [N, 1, 1, 3]);
        let item = Tensor::from_slice(&[2_i64, 0, 0]).view([1, 1, 1, 3]);
        let found = drawn.eq_tensor(&item).flatten(1, -1).all_dim(-1, false);
        let found = found
            .to_kind(Kind::Double)
            .mean(Kind::Double)
            .double_value(&[]);
        let wanted = 0.25 * 0.125;
        assert!((found - wanted).abs() < 6.0 * (wanted / N as f64).sqrt());
        let best = likelihood.mean_image(&one);
        assert_eq!(
            best,
            Tensor::zeros([1, 1, 1, 3], (Kind::Int64, Device::Cpu))
        );
    }
}
