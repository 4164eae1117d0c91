//! Noticing that latent dimensions carry nothing.

use serde_json::{Value, json};
use tracing::warn;

use crate::{Callback, Event, Fit, Flow, TrainError};

/// Says in words, after an epoch, when posterior collapse has set in: the posterior of a latent
/// dimension is the prior whatever the image, and the decoder ignores it. Says it again, without the
/// advice, only when the number of dimensions in use has changed.
#[derive(Debug, Default)]
pub struct CollapseWatch {
    told: Option<u64>,
}

/// What is to be said of so many dimensions in use, and what to try.
fn report(active_units: u64, kl_per_dimension: &[f64]) -> Option<(String, &'static str)> {
    let n = kl_per_dimension.len() as u64;
    if 2 * active_units > n || active_units == n {
        return None;
    }
    let mut kl = kl_per_dimension.to_vec();
    kl.sort_by(|a, b| b.total_cmp(a));
    let shown: Vec<String> = kl.iter().take(8).map(|kl| format!("{kl:.3}")).collect();
    let more = if kl.len() > shown.len() { ", …" } else { "" };
    let advice = if active_units == 0 {
        "The decoder ignores the latents: every sample will look the same. Try a warm-up of the kl \
         (objective.elbo.beta_schedule), free bits (objective.elbo.free_bits), a lower \
         objective.elbo.beta, a lower learning rate, or a decoder that explains less by itself"
    } else {
        "The others say nothing of the image, which is harmless where the data need no more. To have \
         more of them in use, try a warm-up of the kl (objective.elbo.beta_schedule), free bits \
         (objective.elbo.free_bits) or a lower objective.elbo.beta; otherwise fewer \
         model.latent_dims do the same"
    };
    let finding = format!(
        "posterior collapse: {active_units} of {n} latent dimensions are in use (kl of each, nats: \
         {}{more})",
        shown.join(", ")
    );
    Some((finding, advice))
}

impl Callback for CollapseWatch {
    fn name(&self) -> &'static str {
        "collapse_watch"
    }

    fn on_event(&mut self, _: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        if let Event::EpochEnd {
            test,
            kl_per_dimension,
            ..
        } = event
            && let Some(active_units) = test.active_units
            && self.told != Some(active_units)
            && let Some((finding, advice)) = report(active_units, kl_per_dimension)
        {
            match self.told {
                None => warn!("{finding}. {advice}"),
                Some(_) => warn!("{finding}"),
            }
            self.told = Some(active_units);
        }
        Ok(Flow::Continue)
    }

    fn state(&self) -> Value {
        json!(self.told)
    }

    fn restore(&mut self, state: &Value) -> Result<(), TrainError> {
        self.told = super::parse_state(self.name(), state)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_or_few_in_use_is_said_most_in_use_is_not() {
        assert_eq!(report(2, &[1.0, 2.0]), None);
        assert_eq!(report(2, &[1.0, 2.0, 0.0]), None);
        let (partial, advice) = report(1, &[0.0, 2.0]).expect("a report");
        assert!(
            partial.contains("1 of 2") && partial.contains("2.000, 0.000"),
            "{partial}"
        );
        assert!(advice.contains("harmless"), "{advice}");
        let (_, advice) = report(0, &[0.001, 0.0]).expect("a report");
        assert!(advice.contains("ignores the latents"), "{advice}");
    }
}
