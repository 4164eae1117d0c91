//! How the next token of a sequence is chosen from its probabilities.

use tch::{Kind, Tensor};
use vae_torch::Generator;

use crate::ModelError;

/// How tokens are drawn from their probabilities.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawing {
    /// Logits are divided by it: below 1 likely tokens become more likely, at 0 the most likely one is always taken. Default 1.
    pub temperature: f64,
    /// Only the most likely tokens that together have this probability are drawn (nucleus sampling, Holtzman et al. 2020,
    /// <https://arxiv.org/abs/1904.09751>); with 1 all are. Default 1.
    pub top_p: f64,
}

impl Default for Drawing {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
        }
    }
}

impl Drawing {
    /// The most likely token at each step.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_p: 1.0,
    };

    pub(crate) fn check(self) -> Result<(), ModelError> {
        let Self { temperature, top_p } = self;
        let (key, found, wanted) = match (temperature.is_finite() && temperature >= 0.0, top_p) {
            (false, _) => ("temperature", temperature, "a number from 0"),
            (true, top_p) if top_p > 0.0 && top_p <= 1.0 => return Ok(()),
            (true, top_p) => ("top-p", top_p, "a probability above 0, at most 1"),
        };
        Err(ModelError::config(
            key,
            format!("found {found}, expected {wanted}"),
        ))
    }

    /// A token i64 `[N]` for each row of logits `[N, V]`.
    pub(crate) fn choose(self, logits: &Tensor, generator: &mut Generator) -> Tensor {
        if self.temperature == 0.0 {
            return logits.argmax(-1, false);
        }
        let mut weights = (logits / self.temperature).softmax(-1, Kind::Float);
        if self.top_p < 1.0 {
            let (sorted, places) = weights.sort(-1, true);
            // The probability of all more likely tokens; the first one is always kept.
            let before = sorted.cumsum(-1, Kind::Float) - &sorted;
            let kept = sorted.masked_fill(&before.ge(self.top_p), 0.0);
            weights = weights.zeros_like().scatter(-1, &places, &kept);
        }
        generator.multinomial(&weights, 1).squeeze_dim(-1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: i64 = 40_000;

    /// The shares of tokens that have the probabilities 0.5, 0.3 and 0.2.
    fn shares(drawing: Drawing) -> [f64; 3] {
        let logits = Tensor::from_slice(&[0.3_f32, 0.5, 0.2]).log();
        let tokens = drawing.choose(&logits.expand([N, -1], false), &mut Generator::cpu(3));
        [1, 0, 2].map(|token| {
            let is_it = tokens.eq(token).to_kind(Kind::Double);
            is_it.mean(Kind::Double).double_value(&[])
        })
    }

    #[test]
    fn tokens_come_as_often_as_their_probability_says() {
        let drawing = |temperature, top_p| Drawing { temperature, top_p };
        let half = [0.25, 0.09, 0.04].map(|p| p / 0.38); // Squares of the probabilities.
        for (drawing, wanted) in [
            (Drawing::default(), [0.5, 0.3, 0.2]),
            (drawing(0.5, 1.0), half),
            (drawing(1.0, 0.7), [0.625, 0.375, 0.0]),
            (drawing(1.0, 0.5), [1.0, 0.0, 0.0]),
            (drawing(1.0, 0.01), [1.0, 0.0, 0.0]),
            (Drawing::GREEDY, [1.0, 0.0, 0.0]),
        ] {
            for (found, wanted) in shares(drawing).into_iter().zip(wanted) {
                // Six standard errors at most.
                assert!(
                    (found - wanted).abs() < 0.015,
                    "{drawing:?}: {found} {wanted}"
                );
            }
        }
    }

    #[test]
    fn impossible_values_are_refused() {
        let check = |temperature, top_p| Drawing { temperature, top_p }.check().is_ok();
        assert!(check(0.0, 1.0) && check(2.0, 0.1));
        assert!(!check(-1.0, 1.0) && !check(f64::NAN, 1.0));
        assert!(!check(1.0, 0.0) && !check(1.0, 1.1) && !check(1.0, f64::NAN));
    }
}
