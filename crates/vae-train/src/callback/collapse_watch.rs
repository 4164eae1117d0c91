//! Detection of posterior collapse.

use serde_json::{Value, json};
use tracing::warn;
use vae_model::{BetaSchedule, BetaWarmUpConfig, NetworkConfig, Regularizer};
use vae_run::{LatentUse, RunConfig};

use crate::{Callback, Event, Fit, Flow, TrainError};

/// Warns after an epoch if posterior collapse has occurred: the posterior of a latent dimension equals the prior for every image,
/// and the decoder ignores it. The warning is repeated, without the advice, only if the number of dimensions in use changes.
#[derive(Debug, Default)]
pub struct CollapseWatch {
    told: Option<u64>,
}

/// The warning for this many dimensions in use, with advice; none if there are too few images to tell.
fn report(latent_use: &LatentUse, config: &RunConfig) -> Option<(String, String)> {
    if config.model.posterior.has_codes() {
        return None; // What counts is the codes in use, whatever the scale of their latents.
    }
    if config.model.network.is_without_latents() {
        return None; // A language model, which is to do without them.
    }
    let active_units = latent_use.active_units();
    let n = latent_use.center_variance.len() as u64;
    if !latent_use.is_known() || 2 * active_units > n || active_units == n {
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
    let finding = format!(
        "posterior collapse: {active_units} of {n} latent dimensions are in use, by {} images ({what}: \
         {}{more})",
        latent_use.n_images,
        shown.join(", ")
    );
    Some((finding, advice(config, active_units)))
}

fn advice(config: &RunConfig, active_units: u64) -> String {
    let remedies = remedies(config);
    let names: Vec<&str> = remedies.iter().map(|(words, _)| words.as_str()).collect();
    let list = match names.as_slice() {
        [] => None,
        [one] => Some((*one).to_owned()),
        [some @ .., last] => Some(format!("{} or {last}", some.join(", "))),
    };
    if active_units == 0 {
        let mut advice =
            "The decoder ignores the latents: every sample will look the same. Try ".to_owned();
        if let Some(list) = list {
            advice += &format!("{list}, ");
        }
        return advice + "a lower learning rate, or a decoder that explains less by itself";
    }
    let mut advice =
        "The others carry no information about the image, which is harmless if the data need no more"
            .to_owned();
    if let Some(list) = list {
        advice += &format!(". To have more of them in use, try {list}");
    }
    let mut fewer = config.clone();
    fewer.model.latent_dims = i64::try_from(active_units).ok();
    if fewer.check().is_ok() {
        advice += "; fewer model.latent_dims would be enough";
    }
    advice
}

/// Changes of the config that may bring latent dimensions into use: settings of its own regularizer that are valid together with
/// its other parts. Each is a text that names the key, and the config with that change.
fn remedies(config: &RunConfig) -> Vec<(String, RunConfig)> {
    let regularizer = &config.objective.regularizer;
    let mut candidates: Vec<(&str, String, Regularizer)> = Vec::new();
    let mut add = |what: &'static str, key: &str, changed: Regularizer| {
        let key = format!("objective.regularizer.{key}");
        candidates.push((what, key, changed));
    };
    match regularizer {
        Regularizer::Kl(kl) => {
            let mut longer = kl.clone();
            match &mut longer.beta_schedule {
                BetaSchedule::WarmUp(warm_up) => {
                    warm_up.steps = warm_up.steps.saturating_mul(2);
                    let key = "kl.beta_schedule.warm_up.steps";
                    add("more", key, Regularizer::Kl(longer));
                }
                BetaSchedule::Constant => {
                    longer.beta_schedule = BetaSchedule::WarmUp(BetaWarmUpConfig::default());
                    let key = "kl.beta_schedule";
                    add("a warm-up of the kl by", key, Regularizer::Kl(longer));
                }
                _ => {}
            }
            let mut free = kl.clone();
            free.free_bits = if kl.free_bits > 0.0 {
                2.0 * kl.free_bits
            } else {
                0.1
            };
            add(
                "free bits by a higher",
                "kl.free_bits",
                Regularizer::Kl(free),
            );
            let mut lower = kl.clone();
            lower.beta /= 2.0;
            if kl.beta > 0.0 {
                add("a lower", "kl.beta", Regularizer::Kl(lower));
            }
        }
        Regularizer::Capacity(capacity) => {
            let mut higher = capacity.clone();
            higher.final_capacity = 2.0 * capacity.final_capacity + 1.0;
            let changed = Regularizer::Capacity(higher);
            add("a higher", "capacity.final_capacity", changed);
        }
        Regularizer::BetaTc(beta_tc) if beta_tc.beta > 0.0 => {
            let mut lower = beta_tc.clone();
            lower.beta /= 2.0;
            add("a lower", "beta_tc.beta", Regularizer::BetaTc(lower));
        }
        Regularizer::Mmd(mmd) if mmd.kl_weight > 0.0 => {
            let mut lower = mmd.clone();
            lower.kl_weight /= 2.0;
            add("a lower", "mmd.kl_weight", Regularizer::Mmd(lower));
        }
        Regularizer::LatentNorm(norm) if norm.weight > 0.0 => {
            let mut lower = norm.clone();
            lower.weight /= 2.0;
            add(
                "a lower",
                "latent_norm.weight",
                Regularizer::LatentNorm(lower),
            );
        }
        Regularizer::PixelMean(pixel_mean) if pixel_mean.kl_weight > 0.0 => {
            let mut lower = pixel_mean.clone();
            lower.kl_weight /= 2.0;
            add(
                "a lower",
                "pixel_mean.kl_weight",
                Regularizer::PixelMean(lower),
            );
        }
        _ => {}
    }
    let mut remedies: Vec<(String, RunConfig)> = candidates
        .into_iter()
        .filter_map(|(what, key, regularizer)| {
            let mut config = config.clone();
            config.objective.regularizer = regularizer;
            config.check().ok()?;
            Some((format!("{what} {key}"), config))
        })
        .collect();
    remedies.extend(fewer_words(config));
    remedies
}

/// More hidden words, of a decoder of texts that sees most of those before.
fn fewer_words(config: &RunConfig) -> Option<(String, RunConfig)> {
    const MOST: f64 = 0.5;
    let mut hidden = config.clone();
    let (name, word_dropout) = match &mut hidden.model.network {
        NetworkConfig::Recurrent(network) => ("recurrent", &mut network.word_dropout),
        NetworkConfig::Transformer(network) => ("transformer", &mut network.word_dropout),
        _ => return None,
    };
    if *word_dropout >= MOST {
        return None;
    }
    *word_dropout = MOST;
    Some((
        format!("more hidden tokens by model.network.{name}.word_dropout"),
        hidden,
    ))
}

impl Callback for CollapseWatch {
    fn name(&self) -> &'static str {
        "collapse_watch"
    }

    fn on_event(&mut self, run: &mut Fit, event: &Event) -> Result<Flow, TrainError> {
        if let Event::EpochEnd { latent_use, .. } = event
            && let active_units = latent_use.active_units()
            && self.told != Some(active_units)
            && let Some((finding, advice)) = report(latent_use, run.config)
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
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::{Path, PathBuf};

    use toml::{Table, Value};

    use super::*;

    fn config(text: &str) -> RunConfig {
        let text = format!("[dataset.idx]\nfolder = 'x'\n{text}");
        let config: RunConfig = toml::from_str(&text).expect("a config");
        config.check().expect("a config that is accepted");
        config
    }

    #[test]
    fn none_or_few_in_use_is_said_most_in_use_is_not() {
        let with = |kl: &[f64], center_variance: &[f64]| LatentUse {
            kl: (!kl.is_empty()).then(|| kl.to_vec()),
            center_variance: center_variance.to_vec(),
            n_images: 100,
        };
        let report = |latent_use: &LatentUse| report(latent_use, &config(""));
        assert_eq!(report(&with(&[1.0, 2.0], &[0.5, 0.9])), None);
        assert_eq!(report(&with(&[1.0, 2.0, 0.0], &[0.5, 0.9, 0.0])), None);
        let half = with(&[0.0, 2.0], &[0.001, 0.9]);
        let (partial, advice) = report(&half).expect("a report");
        assert!(
            partial.contains("1 of 2") && partial.contains("2.000, 0.000"),
            "{partial}"
        );
        assert!(partial.contains("by 100 images"), "{partial}");
        assert!(advice.contains("harmless"), "{advice}");
        let none = with(&[], &[0.001, 0.0]);
        let (finding, advice) = report(&none).expect("a report");
        assert!(finding.contains("variance of each over the images: 0.001, 0.000"));
        assert!(advice.contains("ignores the latents"), "{advice}");
    }

    #[test]
    fn few_images_have_no_word_of_collapse() {
        // With one image every variance is 0.
        for (n_images, is_said) in [(0, false), (1, false), (9, false), (10, true)] {
            let latent_use = LatentUse {
                kl: Some(vec![0.0, 0.0]),
                center_variance: vec![0.0, 0.0],
                n_images,
            };
            let said = report(&latent_use, &config(""));
            assert_eq!(said.is_some(), is_said, "{n_images} images");
        }
    }

    fn configs() -> Vec<(PathBuf, RunConfig)> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        let files = [root.clone(), root.join("models")];
        let files = files.iter().flat_map(|folder| {
            let entries = fs::read_dir(folder).expect("a folder of configs");
            entries.map(|entry| entry.expect("an entry").path())
        });
        let configs: Vec<_> = files
            .filter(|path| path.extension().is_some_and(|end| end == "toml"))
            .map(|path| {
                let text = fs::read_to_string(&path).expect("text");
                (path, toml::from_str(&text).expect("a config"))
            })
            .collect();
        assert!(configs.len() > 40);
        configs
    }

    /// Every value of a config by its dotted key, including tables.
    fn values(config: &RunConfig) -> BTreeMap<String, Value> {
        fn flatten(table: Table, prefix: &str, values: &mut BTreeMap<String, Value>) {
            for (key, value) in table {
                let key = format!("{prefix}{key}");
                if let Value::Table(inner) = &value {
                    flatten(inner.clone(), &format!("{key}."), values);
                }
                values.insert(key, value);
            }
        }
        let mut values = BTreeMap::new();
        let table = Table::try_from(config).expect("TOML");
        flatten(table, "", &mut values);
        values
    }

    /// The keys that occur in a text.
    fn keys(text: &str) -> Vec<&str> {
        let words = text.split([' ', ',', ';']);
        words
            .map(|word| word.trim_end_matches('.'))
            .filter(|word| word.contains('.'))
            .collect()
    }

    #[test]
    fn advice_holds_for_the_very_config() {
        for (path, config) in configs() {
            let name = path.display();
            let own = values(&config);
            let remedies = remedies(&config);
            for (words, config) in &remedies {
                config.check().unwrap_or_else(|e| panic!("{name}: {e}"));
                let key = keys(words);
                let [key] = key.as_slice() else {
                    panic!("{name}: {words}");
                };
                let changed = values(config);
                assert_ne!(own.get(*key), changed.get(*key), "{name}: {key}");
                // Nothing else changes.
                for (other, value) in &changed {
                    let is_about = other.starts_with(key) || key.starts_with(other.as_str());
                    assert!(is_about || own.get(other) == Some(value), "{name}: {other}");
                }
            }
            for active_units in [0, 1] {
                let advice = advice(&config, active_units);
                for key in keys(&advice) {
                    let is_remedy = remedies.iter().any(|(words, _)| words.ends_with(key));
                    assert!(is_remedy || key == "model.latent_dims", "{name}: {advice}");
                }
            }
        }
    }

    #[test]
    fn settings_that_the_check_refuses_are_not_named() {
        let advice = |text: &str| advice(&config(text), 0);
        let plain = advice("");
        for key in ["kl.beta_schedule", "kl.free_bits", "kl.beta"] {
            assert!(keys(&plain).iter().any(|k| k.ends_with(key)), "{plain}");
        }
        // Importance weights need a plain kl.
        let weighted = advice("[objective.estimator.iwae]\nsamples = 5");
        assert!(keys(&weighted).is_empty(), "{weighted}");
        // A flow's kl is not known per dimension.
        let flow = advice("[model.posterior.iaf]");
        assert!(
            !flow.contains("free_bits") && flow.contains("kl.beta"),
            "{flow}"
        );
        // Another regularizer has other settings.
        let capacity = advice("[objective.regularizer.capacity]");
        assert_eq!(
            keys(&capacity),
            ["objective.regularizer.capacity.final_capacity"]
        );
        let autoencoder = advice(
            "[model]\nposterior = 'deterministic'\n[objective]\nregularizer = 'none'\n\
             [checkpoints]\nmetric = 'mse'",
        );
        assert!(keys(&autoencoder).is_empty(), "{autoencoder}");
    }
}
