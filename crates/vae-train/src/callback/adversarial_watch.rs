//! Detection of adversarial games that one player has won.

use serde_json::{Value, json};
use tracing::warn;
use vae_model::{Augmentation, DiscriminatorPenalty};
use vae_run::{Record, RunConfig};

use crate::{Callback, Event, Fit, Flow, TrainError};

/// Warns after an epoch if one player of an adversarial game has won, if all generated items look alike, or if the discriminator
/// knows the training images by heart. A warning is repeated only after the state has changed in between.
#[derive(Debug, Default)]
pub struct AdversarialWatch {
    told: Option<String>,
}

/// Above this share of items that it tells right, a discriminator has won; nothing it says helps the model then.
const WON: f64 = 0.98;
/// Below this share it has learned nothing.
const LOST: f64 = 0.52;
/// Below this share of the real items' diversity, modes have collapsed.
const COLLAPSED: f64 = 0.3;
/// A larger difference between its accuracy on training and on validation images is memory.
const BY_HEART: f64 = 0.15;

/// A short name of the state, and the warning with advice; none of a healthy game.
fn report(
    train: &Record,
    validation: Option<&Record>,
    config: &RunConfig,
) -> Option<(&'static str, String)> {
    let adversarial = config.objective.adversarial.as_ref()?;
    let of = |record: &Record, name: &str| record.named.get(name).copied();
    let accuracy = of(train, "discriminator_accuracy")?;
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    if let Some(diversity) = of(train, "generated_diversity")
        && diversity < COLLAPSED
    {
        let finding = format!(
            "modes have collapsed: two generated items differ by {} of the mean squared distance of two real ones. Try a \
             lower learning rate of both players, {}, or larger batches; samples.png of earlier epochs show when it began",
            percent(diversity),
            penalty_advice(&adversarial.penalty),
        );
        return Some(("collapsed", finding));
    }
    let on_validation = validation.and_then(|record| of(record, "discriminator_accuracy"));
    if let Some(on_validation) = on_validation
        && accuracy - on_validation > BY_HEART
    {
        let augmentation = match adversarial.augmentation.is_empty() {
            true => {
                "objective.adversarial.augmentation = [\"color\", \"translation\", \"cutout\"], "
            }
            false if !adversarial.augmentation.contains(&Augmentation::Cutout) => {
                "more kinds of objective.adversarial.augmentation, "
            }
            false => "",
        };
        let finding = format!(
            "the discriminator knows training images by heart: it tells {} of them right, with generated ones, and {} of \
             validation images. Try {augmentation}a smaller discriminator or more images",
            percent(accuracy),
            percent(on_validation),
        );
        return Some(("by heart", finding));
    }
    if accuracy > WON {
        let finding = format!(
            "the discriminator has won: it tells {} of all items right, so that the model learns little from it. Try a lower \
             learning rate of players.discriminator, {}, or a smaller discriminator",
            percent(accuracy),
            penalty_advice(&adversarial.penalty),
        );
        return Some(("won", finding));
    }
    if accuracy < LOST {
        let finding = format!(
            "the discriminator cannot tell generated items from real ones ({} right). If the samples are not that good, it \
             has lost: try a higher learning rate of players.discriminator, more of its channels, or a lower \
             objective.adversarial.weight",
            percent(accuracy),
        );
        return Some(("lost", finding));
    }
    None
}

fn penalty_advice(penalty: &DiscriminatorPenalty) -> &'static str {
    match penalty {
        DiscriminatorPenalty::None => "objective.adversarial.penalty.r1",
        DiscriminatorPenalty::GradientPenalty(_) => {
            "a larger objective.adversarial.penalty.gradient_penalty.weight"
        }
        _ => "a larger objective.adversarial.penalty.r1.gamma",
    }
}

impl Callback for AdversarialWatch {
    fn name(&self) -> &'static str {
        "adversarial_watch"
    }

    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        if let Event::EpochEnd {
            train, validation, ..
        } = event
        {
            let found = report(train, *validation, run.config);
            let (state, finding) = found.unzip();
            if let (Some(state), Some(finding)) = (state, finding)
                && self.told.as_deref() != Some(state)
            {
                warn!("{finding}. docs/adversarial.md shows healthy logs");
            }
            self.told = state.map(str::to_owned);
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
    use vae_run::{Means, Position};

    use super::*;

    fn config(text: &str) -> RunConfig {
        let text = format!(
            "dataset.idx.folder = 'x'\nmodel.posterior = 'none'\nobjective.regularizer = 'none'\n\
             [objective.adversarial]\n{text}"
        );
        let config: RunConfig = toml::from_str(&text).expect("a config");
        config.check().expect("a config that is accepted");
        config
    }

    fn record(accuracy: f64, diversity: f64) -> Record {
        let means = Means {
            elbo: None,
            reconstruction: None,
            kl: None,
            loss: 1.0,
        };
        let position = Position {
            epochs: 1,
            steps: 1,
        };
        let mut record = Record::new(position, Record::TRAIN, means);
        for (name, value) in [
            ("discriminator_accuracy", accuracy),
            ("generated_diversity", diversity),
        ] {
            record.named.insert(name.to_owned(), value);
        }
        record
    }

    #[test]
    fn each_state_has_its_warning_and_a_healthy_game_has_none() {
        let plain = config("");
        let state = |train: [f64; 2], validation: f64| {
            let [accuracy, diversity] = train;
            let validation = record(validation, diversity);
            report(&record(accuracy, diversity), Some(&validation), &plain).map(|(state, _)| state)
        };
        assert_eq!(state([0.8, 0.9], 0.8), None);
        assert_eq!(state([0.99, 0.9], 0.98), Some("won"));
        assert_eq!(state([0.5, 0.9], 0.5), Some("lost"));
        assert_eq!(state([0.9, 0.9], 0.6), Some("by heart"));
        assert_eq!(state([0.9, 0.1], 0.9), Some("collapsed"));
        let none = config("start = 9");
        let mut before = record(0.5, 1.0);
        before.named.clear();
        assert_eq!(report(&before, None, &none), None);
    }

    #[test]
    fn advice_is_of_what_the_config_does_not_have_yet() {
        let said = |text: &str, accuracy: f64, validation: f64| {
            let found = report(
                &record(accuracy, 1.0),
                Some(&record(validation, 1.0)),
                &config(text),
            );
            found.expect("a warning").1
        };
        assert!(said("", 0.99, 0.99).contains("adversarial.penalty.r1,"));
        let r1 = "penalty.r1 = {}\ndiscriminator.conv.normalization = 'none'";
        assert!(said(r1, 0.99, 0.99).contains("penalty.r1.gamma"));
        assert!(said("", 0.9, 0.5).contains("augmentation = ["));
        let all = "augmentation = ['color', 'translation', 'cutout']";
        assert!(!said(all, 0.9, 0.5).contains("augmentation"));
    }
}
