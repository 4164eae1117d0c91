//! Whether a run can be resumed with another config than the one it was started with.

use std::collections::BTreeMap;

use serde_json::Value;
use vae_base::dotted;

use crate::options::may_change_on_resume;
use crate::{CheckpointState, RunConfig, RunDir, RunError};

/// Refuses a config under which the remaining steps would differ from those of an uninterrupted run. More epochs,
/// other pictures or another place of the data set are fine.
///
/// # Errors
/// [`RunError::ResumeConfig`] with the keys that differ and both values; fewer epochs than are done.
pub fn check_resume(
    run_dir: &RunDir,
    state: &CheckpointState,
    wanted: &RunConfig,
) -> Result<(), RunError> {
    let n_done = state.position.epochs;
    if wanted.training.epochs < n_done {
        return Err(RunError::run(
            run_dir.path(),
            format!(
                "has done {n_done} epochs, training.epochs = {} is fewer",
                wanted.training.epochs
            ),
        ));
    }
    check_config(run_dir, &state.config, wanted)
}

fn check_config(
    run_dir: &RunDir,
    trained_with: &RunConfig,
    wanted: &RunConfig,
) -> Result<(), RunError> {
    let differences = differences(trained_with, wanted)?;
    let harmful: Vec<String> = differences
        .into_iter()
        .filter(|(key, _)| !may_change_on_resume(key))
        .map(|(key, [before, now])| format!("{key} (was {before}, now {now})"))
        .collect();
    if harmful.is_empty() {
        return Ok(());
    }
    Err(RunError::ResumeConfig {
        path: run_dir.path().to_owned(),
        differences: harmful.join(", "),
    })
}

/// The dotted keys in which two configs differ, with both values as JSON (`nothing` if one lacks the key).
///
/// # Errors
/// A config that cannot be written as JSON.
pub fn differences(
    a: &RunConfig,
    b: &RunConfig,
) -> Result<BTreeMap<String, [String; 2]>, RunError> {
    let flat = |config: &RunConfig| -> Result<BTreeMap<String, String>, RunError> {
        let value = serde_json::to_value(config.clone().resolved())
            .map_err(|error| RunError::config("config", error.to_string()))?;
        let entries = |value: &Value| Some(value.as_object()?.clone().into_iter().collect());
        let values = dotted(&value, &entries).into_iter();
        let set = values.filter(|(_, value)| !value.is_null());
        Ok(set.map(|(key, value)| (key, value.to_string())).collect())
    };
    let (a, b) = (flat(a)?, flat(b)?);
    let nothing = || "nothing".to_owned();
    Ok(a.keys()
        .chain(b.keys())
        .filter(|&key| a.get(key) != b.get(key))
        .map(|key| {
            let of = |side: &BTreeMap<String, String>| side.get(key).cloned();
            let values = [of(&a), of(&b)].map(|value| value.unwrap_or_else(nothing));
            (key.clone(), values)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(extra: &str) -> RunConfig {
        let text = format!("{extra}\n[dataset.idx]\nfolder = 'here'\n");
        toml::from_str(&text).expect("a config")
    }

    fn refused(before: &str, now: &str) -> Option<String> {
        let folder = tempfile::tempdir().expect("a folder");
        let run_dir = RunDir::create(&folder.path().join("run"), &config("")).expect("a run");
        check_config(&run_dir, &config(before), &config(now))
            .err()
            .map(|error| error.to_string())
    }

    #[test]
    fn more_epochs_other_pictures_and_a_moved_data_set_are_fine() {
        let now = "[training]\nepochs = 99\n[pictures]\nn_samples = 4\n[checkpoints]\nkeep = 7";
        assert_eq!(refused("", now), None);
        let folder = tempfile::tempdir().expect("a folder");
        let run_dir = RunDir::create(&folder.path().join("run"), &config("")).expect("a run");
        let moved: RunConfig = toml::from_str("[dataset.idx]\nfolder = 'there'").expect("a config");
        assert!(check_config(&run_dir, &config(""), &moved).is_ok());
    }

    #[test]
    fn what_changes_the_steps_is_refused_with_both_values() {
        let message =
            refused("", "seed = 3\n[optimizer.rmsprop]\nlearning_rate = 0.25").expect("refused");
        assert!(message.contains("seed (was 0, now 3)"), "{message}");
        assert!(
            message.contains("optimizer.rmsprop.learning_rate (was nothing, now 0.25)"),
            "{message}"
        );
        assert!(message.contains("optimizer.adam.beta1"), "{message}");
        let message = refused("", "[dataset]\nbinarization = 'dynamic'").expect("refused");
        assert!(
            message.contains("dataset.binarization (was nothing, now \"dynamic\")"),
            "{message}"
        );
    }
}
