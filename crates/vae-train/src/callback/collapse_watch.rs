//! Noticing that latent dimensions carry nothing.

use serde_json::{Value, json};
use tracing::warn;

use crate::{Callback, Event, Fit, Flow, LatentUse, TrainError};

/// Says in words, after an epoch, when posterior collapse has set in: the posterior of a latent
/// dimension is the prior whatever the image, and the decoder ignores it. Says it again, without the
/// advice, only when the number of dimensions in use has changed.
#[derive(Debug, Default)]
pub struct CollapseWatch {
    told: Option<u64>,
}

/// What is to be said of so many dimensions in use, and what to try.
fn report(latent_use: &LatentUse) -> Option<(String, &'static str)> {
    let active_units = latent_use.active_units();
    let n = latent_use.center_variance.len() as u64;
    if 2 * active_units > n || active_units == n {
        return None;
    }
    let what = match latent_use.kl {
        Some(_) => "kl of each, nats",
        None => "variance of each over the images",
    };
    let mut values = latent_use.ranking().to_vec();
    values.sort_by(|a, b| b.total_cmp(a));
    let shown: Vec<String> = values.iter().take(8).map(|x| format!("{x:.3}")).collect();
    let more = if values.len() > shown.len() {
        ", …"
    } else {
        ""
    };
    let advice = if active_units == 0 {
        "The decoder ignores the latents: every sample will look the same. Try a warm-up of the kl \
         (objective.regularizer.kl.beta_schedule), free bits (objective.regularizer.kl.free_bits), a lower \
         objective.regularizer.kl.beta, a lower learning rate, or a decoder that explains less by itself"
    } else {
        "The others say nothing of the image, which is harmless where the data need no more. To have \
         more of them in use, try a warm-up of the kl (objective.regularizer.kl.beta_schedule), free bits \
         (objective.regularizer.kl.free_bits) or a lower objective.regularizer.kl.beta; otherwise fewer \
         model.latent_dims do the same"
    };
    let finding = format!(
        "posterior collapse: {active_units} of {n} latent dimensions are in use ({what}: {}{more})",
        shown.join(", ")
    );
    Some((finding, advice))
}

impl Callback for CollapseWatch {
    fn name(&self) -> &'static str {
        "collapse_watch"
    }

    fn on_event(&mut self, _: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        if let Event::EpochEnd { latent_use, .. } = event
            && let active_units = latent_use.active_units()
            && self.told != Some(active_units)
            && let Some((finding, advice)) = report(latent_use)
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
        let with = |kl: &[f64], center_variance: &[f64]| LatentUse {
            kl: (!kl.is_empty()).then(|| kl.to_vec()),
            center_variance: center_variance.to_vec(),
        };
        assert_eq!(report(&with(&[1.0, 2.0], &[0.5, 0.9])), None);
        assert_eq!(report(&with(&[1.0, 2.0, 0.0], &[0.5, 0.9, 0.0])), None);
        let half = with(&[0.0, 2.0], &[0.001, 0.9]);
        let (partial, advice) = report(&half).expect("a report");
        assert!(
            partial.contains("1 of 2") && partial.contains("2.000, 0.000"),
            "{partial}"
        );
        assert!(advice.contains("harmless"), "{advice}");
        let none = with(&[], &[0.001, 0.0]);
        let (finding, advice) = report(&none).expect("a report");
        assert!(finding.contains("variance of each over the images: 0.001, 0.000"));
        assert!(advice.contains("ignores the latents"), "{advice}");
    }
}
