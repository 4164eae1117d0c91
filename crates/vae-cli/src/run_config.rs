//! Reading a config file and `--set`, with errors that name the line and the likely meaning.

use std::path::{Path, PathBuf};

use anyhow::Result;
use toml::{Table, Value};
use vae_data::DatasetConfig;
use vae_run::options::{Kind, Setting, is_one_of, settings};
use vae_run::{RunConfig, RunDir, read_config};

/// An invalid request: exit code 2.
#[derive(Debug)]
pub(crate) struct ConfigError(String);

impl ConfigError {
    pub(crate) fn new(message: String) -> Self {
        Self(message)
    }
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// The config in a file, changed by `key=value` settings, not yet checked.
pub(crate) fn load(path: &Path, settings: &[String]) -> Result<RunConfig> {
    let text = read_config(path)
        .map_err(|error| ConfigError(format!("{}: {error}{}", path.display(), meant_file(path))))?;
    // The file alone first, so that its errors have a line.
    let config = toml::from_str(&text).map_err(|error| in_file(path, &text, &error))?;
    let table: Table = toml::from_str(&text).map_err(|error| in_file(path, &text, &error))?;
    let mut config = set(config, table, settings)?.resolved();
    config.dataset.folders = data_folders(path);
    let folders = config.dataset.folders.clone();
    for file in config.files_mut() {
        vae_data::config::locate(file, &folders);
    }
    Ok(config)
}

/// A data set changed by `key=value` settings, of which only those of its own table are possible.
pub(crate) fn with_settings(dataset: DatasetConfig, settings: &[String]) -> Result<DatasetConfig> {
    for setting in settings {
        if !setting.trim_start().starts_with("dataset.") {
            let problem = format!(
                "--set {setting}: the model is trained; what can be set here are keys of dataset"
            );
            return Err(ConfigError(problem).into());
        }
    }
    let folders = dataset.folders.clone();
    let mut table = Table::new();
    table.insert("dataset".to_owned(), Value::try_from(&dataset)?);
    let config: RunConfig = table.clone().try_into()?;
    let mut dataset = set(config, table, settings)?.dataset;
    dataset.folders = folders;
    Ok(dataset)
}

/// Where the data of a config file may be: its folder and the one above; of a run wherever the run was started.
fn data_folders(file: &Path) -> Vec<PathBuf> {
    let whole = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let folders = whole.ancestors().skip(1).take(2).map(Path::to_owned);
    match whole.parent().map(RunDir::open) {
        Some(Ok(run)) if run.config_file() == whole => run.data_folders(),
        _ => folders.collect(),
    }
}

/// The settings applied to a config and its text.
fn set(mut config: RunConfig, mut table: Table, settings: &[String]) -> Result<RunConfig> {
    for setting in settings {
        // One at a time, so that an error belongs to the setting that it names.
        let (key, text) = parse(setting)?;
        let with = |value: Value| -> Result<(Table, RunConfig)> {
            let mut changed = table.clone();
            apply(&mut changed, setting, key, value)?;
            let config = changed.clone().try_into();
            let config = config.map_err(|error: toml::de::Error| {
                let said = match table_meant(error.message(), Some((key, text))) {
                    Some(table) => {
                        format!("found a bare name; --set {table}={{}} takes its defaults")
                    }
                    None => helpful(error.message(), Some((key, text))),
                };
                ConfigError(format!("--set {setting}: {said}"))
            })?;
            Ok((changed, config))
        };
        // A shell replaces ~ only at the beginning of a word.
        let at_home = match text.strip_prefix("~/").map(Path::new) {
            Some(below) => std::env::home_dir().map(|home| home.join(below)),
            None => None,
        };
        let as_string = || match &at_home {
            Some(path) => Value::String(path.to_string_lossy().into_owned()),
            None => Value::String(text.to_owned()),
        };
        (table, config) = match toml_value(text) {
            // The key may take a string that looks like a number, a date or a truth value, such as a folder named 2024.
            Some(value) if !value.is_str() => {
                with(value).or_else(|error| with(as_string()).map_err(|_| error))?
            }
            value => with(value.unwrap_or_else(as_string))?,
        };
    }
    Ok(config)
}

/// The dotted key of a setting, and its value as written.
fn parse(setting: &str) -> Result<(&str, &str)> {
    let (key, text) = setting
        .split_once('=')
        .ok_or_else(|| ConfigError(format!("--set {setting}: expected key=value")))?;
    Ok((key.trim(), text.trim()))
}

/// A value parsed as TOML; none if it is not TOML.
fn toml_value(text: &str) -> Option<Value> {
    let mut parsed = format!("value = {text}").parse::<Table>().ok()?;
    parsed.remove("value").filter(|_| parsed.is_empty())
}

/// Runs [`RunConfig::check`], with errors about the config in `path`.
pub(crate) fn check(path: &Path, config: &RunConfig) -> Result<()> {
    config
        .check()
        .map_err(|error| ConfigError(format!("{}: {error}", path.display())).into())
}

/// What may have been meant by the name of a config that cannot be read: a run, or the most similar name in its folder.
fn meant_file(path: &Path) -> String {
    if path.join("config.toml").is_file() {
        let run = path.display();
        return format!("; a run goes on with vae train --resume {run}");
    }
    if path.exists() {
        return String::new();
    }
    let folder = vae_base::files::parent(path);
    let tomls = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let files = entries.map(|entry| entry.path());
        files
            .filter(|file| file.extension().is_some_and(|ending| ending == "toml"))
            .collect()
    };
    let mut files = tomls(folder);
    files.extend(tomls(Path::new("configs")));
    let stem = |file: &Path| {
        file.file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let stems: Vec<String> = files.iter().map(|file| stem(file)).collect();
    let known: Vec<&str> = stems.iter().map(String::as_str).collect();
    let nearest = nearest(&stem(path), &known);
    match nearest.and_then(|name| files.iter().find(|file| stem(file) == name)) {
        Some(file) => format!("; did you mean {}?", file.display()),
        None => String::new(),
    }
}

fn in_file(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let line = error
        .span()
        .and_then(|span| text.get(..span.start))
        .map(|before| format!(":{}", before.matches('\n').count() + 1))
        .unwrap_or_default();
    // The `key = value` that the error points to.
    let entry = error.span().and_then(|span| {
        let before = text.get(..span.start)?.lines().next_back()?;
        let key = before.trim().trim_end_matches('=').trim_end();
        Some((key, text.get(span)?))
    });
    ConfigError(format!(
        "{}{line}: {}",
        path.display(),
        helpful(error.message(), entry)
    ))
}

/// The known name that is most similar to a misspelled one, if any is similar.
pub(crate) fn nearest<'k>(found: &str, known: &[&'k str]) -> Option<&'k str> {
    let likeness = |name: &str| strsim::jaro_winkler(found, name);
    let nearest = known
        .iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    nearest.copied().filter(|nearest| likeness(nearest) > 0.7)
}

/// Extends serde's messages: for an unknown key by the nearest known one or by the tables that have such a key, for a name in
/// place of a table by how to write it. `entry` is the key and value.
fn helpful(message: &str, entry: Option<(&str, &str)>) -> String {
    let message = &in_plain_words(message.trim_end());
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    if let Some(table) = table_meant(message, entry) {
        return format!("found a bare name, expected a table: [{table}] (it may be empty)");
    }
    let Some((found, known)) = quoted.split_first() else {
        return message.to_owned();
    };
    if !message.starts_with("unknown field") && !message.starts_with("unknown variant") {
        return message.to_owned();
    }
    let is_key = message.starts_with("unknown field");
    let tables = match is_key {
        true => tables_with(found),
        false => Vec::new(),
    };
    let meant = match (nearest(found, known), &tables[..]) {
        (Some(name), _) => format!("; did you mean `{name}`?"),
        (None, []) => String::new(),
        (None, tables) => format!("; it is a key of {}", tables.join(", ")),
    };
    let what = if is_key { "key" } else { "value" };
    format!(
        "unknown {what} `{found}`{meant} (known here: {})",
        known.join(", ")
    )
}

/// A message of serde without names of Rust's types.
fn in_plain_words(message: &str) -> String {
    const UNSIGNED: [&str; 5] = ["u8", "u16", "u32", "u64", "usize"];
    const SIGNED: [&str; 5] = ["i8", "i16", "i32", "i64", "isize"];
    match message.rsplit_once(", expected ") {
        Some((found, kind)) if UNSIGNED.contains(&kind) => {
            format!("{found}, expected a whole number from 0 on")
        }
        Some((found, kind)) if SIGNED.contains(&kind) => {
            format!("{found}, expected a whole number")
        }
        Some((found, "f32" | "f64")) => format!("{found}, expected a number"),
        Some((found, "a boolean" | "bool")) => format!("{found}, expected true or false"),
        _ => message.to_owned(),
    }
}

/// The table that a bare name stands for, if that is what serde complains about.
fn table_meant(message: &str, entry: Option<(&str, &str)>) -> Option<&'static str> {
    if !message.starts_with("invalid type: unit variant, expected newtype variant") {
        return None;
    }
    let table = entry.and_then(|(key, value)| table_of(key, value.trim_matches(['"', '\''])));
    Some(table.unwrap_or("optimizer.adam"))
}

/// The keys of settings that an option may mean that `train` does not have, as in `--batch-size`.
pub(crate) fn keys_meant(option: &str) -> Vec<&'static str> {
    let name = option.trim_start_matches('-').replace('-', "_");
    let name = match name.as_str() {
        "lr" => "learning_rate",
        "bs" | "batch" => "batch_size",
        "latent_dim" | "z_dim" | "latents" | "dims" => "latent_dims",
        "wd" => "weight_decay",
        "size" => "image_size",
        "clip" => "norm",
        other => other,
    };
    let of_players = |setting: &&Setting| setting.key.starts_with("players.");
    let named = settings().all().filter(|setting| setting.name() == name);
    let mut keys: Vec<&str> = named
        .filter(|setting| !of_players(setting))
        .map(|setting| setting.key.as_str())
        .collect();
    keys.truncate(3);
    keys
}

/// The table of the alternative `value` of a key, or of a key whose last part is `key`.
fn table_of(key: &str, value: &str) -> Option<&'static str> {
    let end = format!(".{key}");
    let is_meant = |setting: &&Setting| setting.key == key || setting.key.ends_with(&end);
    let settings = settings().all().filter(is_meant);
    let mut tables = settings.flat_map(Setting::children).filter(|alternative| {
        alternative.name() == value && matches!(alternative.kind, Kind::Table(_))
    });
    tables.next().map(|table| table.key.as_str())
}

/// The tables that have a key of this name.
fn tables_with(name: &str) -> Vec<String> {
    let tables = settings().all().filter(|setting| {
        let Kind::Table(keys) = &setting.kind else {
            return false;
        };
        keys.iter().any(|key| key.name() == name)
    });
    tables
        .map(|table| match table.key.as_str() {
            "" => "the top level".to_owned(),
            key => format!("[{key}]"),
        })
        .collect()
}

/// Sets the dotted key of a setting.
fn apply(table: &mut Table, setting: &str, key: &str, value: Value) -> Result<()> {
    let (parents, last) = match key.rsplit_once('.') {
        Some((parents, last)) => (parents.split('.').collect(), last),
        None => (Vec::new(), key),
    };
    let mut current = table;
    let mut path = String::new();
    for part in parents {
        keep_one(current, &path, part);
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(part);
        let entry = current
            .entry(part.to_owned())
            .or_insert_with(|| Value::Table(Table::new()));
        // A bare name, as in `likelihood = "bernoulli"`, is replaced by a table of another choice.
        if entry.is_str() && is_one_of(&path) {
            *entry = Value::Table(Table::new());
        }
        let Value::Table(inner) = entry else {
            return Err(ConfigError(format!("--set {setting}: `{path}` is not a table")).into());
        };
        current = inner;
    }
    keep_one(current, &path, last);
    current.insert(last.to_owned(), value);
    Ok(())
}

/// Makes room for `key` in a table that holds one of several alternatives.
fn keep_one(table: &mut Table, path: &str, key: &str) {
    if is_one_of(path) {
        table.retain(|other, _| other == key);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const MINIMAL: &str = "[dataset.idx]\nfolder = \"somewhere\"\n";

    fn load_text(text: &str, settings: &[&str]) -> Result<RunConfig> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("experiment.toml");
        fs::write(&path, text).unwrap();
        let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
        load(&path, &settings)
    }

    fn message(text: &str, settings: &[&str]) -> String {
        load_text(text, settings).unwrap_err().to_string()
    }

    #[test]
    fn a_typo_names_file_line_and_the_nearest_key() {
        let text = format!("{MINIMAL}\n[training]\nepocs = 3\n");
        let message = message(&text, &[]);
        assert!(message.contains("experiment.toml:5:"), "{message}");
        assert!(
            message.contains("unknown key `epocs`; did you mean `epochs`?"),
            "{message}"
        );
    }

    #[test]
    fn a_typo_in_a_variant_names_the_nearest() {
        let text = format!("{MINIMAL}[optimizer.adm]\nlearning_rate = 1e-3\n");
        let message = message(&text, &[]);
        assert!(
            message.contains("unknown value `adm`; did you mean `adam`?"),
            "{message}"
        );
    }

    #[test]
    fn a_key_in_the_wrong_table_names_the_right_ones() {
        let said = message(&format!("{MINIMAL}latent_dims = 3\n"), &[]);
        assert!(
            said.contains("unknown key `latent_dims`; it is a key of [model] (known here: folder)"),
            "{said}"
        );
        let said = message(&format!("{MINIMAL}[model]\nseed = 3\n"), &[]);
        assert!(said.contains("it is a key of the top level"), "{said}");
    }

    #[test]
    fn a_name_in_the_place_of_a_table_is_told_how_to_be_written() {
        let said = message(&format!("schedule = 'cosine'\n{MINIMAL}"), &[]);
        assert!(
            said.contains(
                "experiment.toml:1: found a bare name, expected a table: [schedule.cosine]"
            ),
            "{said}"
        );
        let said = message(MINIMAL, &["objective.regularizer.kl.beta_schedule=warm_up"]);
        assert!(
            said.contains("--set objective.regularizer.kl.beta_schedule.warm_up={}"),
            "{said}"
        );
        let said = message(MINIMAL, &["optimizer=adamw"]);
        assert!(
            said.contains("--set optimizer.adamw={} takes its defaults"),
            "{said}"
        );
    }

    #[test]
    fn a_config_that_is_not_there_is_guessed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("mnist.toml"), MINIMAL).unwrap();
        let said = |name: &str| {
            let error = load(&folder.path().join(name), &[]).unwrap_err();
            error.to_string()
        };
        assert!(
            said("mnits.toml").contains("did you mean"),
            "{}",
            said("mnits.toml")
        );
        assert!(said("mnits.toml").ends_with("mnist.toml?"));
        assert!(!said("something-else.toml").contains("did you mean"));
        fs::create_dir(folder.path().join("run")).unwrap();
        fs::write(folder.path().join("run/config.toml"), MINIMAL).unwrap();
        assert!(
            said("run").contains("vae train --resume"),
            "{}",
            said("run")
        );
    }

    #[test]
    fn the_home_folder_is_found_in_a_setting() {
        let Some(home) = std::env::home_dir() else {
            return; // Nothing to find.
        };
        let config = load_text(MINIMAL, &["dataset.idx.folder=~/digits"]).unwrap();
        assert_eq!(config.dataset.idx.unwrap().folder, home.join("digits"));
        let config = load_text(MINIMAL, &["dataset.idx.folder='~/digits'"]).unwrap();
        assert_eq!(config.dataset.idx.unwrap().folder, Path::new("~/digits"));
    }

    #[test]
    fn an_option_of_other_programs_names_its_setting() {
        assert_eq!(keys_meant("--batch-size"), ["training.batch_size"]);
        assert_eq!(keys_meant("--lr")[0], "optimizer.adam.learning_rate");
        assert_eq!(keys_meant("--latent-dim"), ["model.latent_dims"]);
        assert_eq!(keys_meant("--beta")[0], "objective.regularizer.kl.beta");
        assert!(keys_meant("--nothing-of-the-kind").is_empty());
    }

    #[test]
    fn setting_an_alternative_replaces_another_wherever_there_are_some() {
        let text =
            format!("{MINIMAL}[objective.regularizer.kl.beta_schedule.cyclic]\nramp = 0.1\n");
        let setting = "objective.regularizer.kl.beta_schedule.warm_up.steps=9";
        let config = load_text(&text, &[setting]).unwrap();
        let vae_model::Regularizer::Kl(kl) = config.objective.regularizer else {
            panic!("{:?}", config.objective);
        };
        let vae_model::BetaSchedule::WarmUp(warm_up) = kl.beta_schedule else {
            panic!("{:?}", kl.beta_schedule);
        };
        assert_eq!(warm_up.steps, 9);
    }

    #[test]
    fn settings_change_the_file() {
        let config = load_text(
            MINIMAL,
            &[
                "training.epochs=3",
                "model.latent_dims = 7",
                "dataset.idx.folder=else/where",
            ],
        )
        .unwrap();
        assert_eq!(config.training.epochs, 3);
        assert_eq!(config.model.n_latents(), 7);
        let folder = config.dataset.idx.unwrap().folder;
        assert_eq!(folder, Path::new("else/where"));
    }

    #[test]
    fn setting_a_key_of_another_variant_replaces_the_variant() {
        let text = format!("{MINIMAL}[optimizer.adam]\nlearning_rate = 0.5\n");
        for setting in [
            "optimizer.rmsprop.alpha=0.9",
            "optimizer.rmsprop={alpha=0.9}",
        ] {
            let config = load_text(&text, &[setting]).unwrap();
            let vae_run::OptimizerConfig::Rmsprop(rmsprop) = config.optimizer else {
                panic!("{:?}", config.optimizer);
            };
            assert_eq!(rmsprop.alpha, 0.9);
        }
    }

    #[test]
    fn setting_a_key_of_another_choice_replaces_a_bare_name() {
        let text = format!("{MINIMAL}[model]\nlikelihood = \"bernoulli\"\n");
        let config = load_text(&text, &["model.likelihood.gaussian.sigma=0.5"]).unwrap();
        let vae_model::LikelihoodConfig::Gaussian(gaussian) = config.model.likelihood else {
            panic!("{:?}", config.model.likelihood);
        };
        assert_eq!(gaussian.sigma, vae_model::ScaleConfig::Fixed(0.5));
    }

    #[test]
    fn a_value_is_what_its_key_wants() {
        // The names of folders that TOML would read as a number, a truth value, a date, a table.
        for folder in [
            "2024",
            "true",
            "inf",
            "1e3",
            "0x1f",
            "2024-05-01",
            "[a]",
            "'quoted'",
            "\"2024\"",
        ] {
            let setting = format!("dataset.idx.folder={folder}");
            let config = load_text(MINIMAL, &[&setting]).unwrap();
            let found = config.dataset.idx.unwrap().folder;
            assert_eq!(
                found,
                Path::new(folder.trim_matches(['"', '\''])),
                "{folder}"
            );
        }
        let said = message(MINIMAL, &["training.epochs=1e3"]);
        assert!(
            said.contains("training.epochs=1e3: invalid type: floating point"),
            "{said}"
        );
        let said = message(MINIMAL, &["training.epochs=many"]);
        let wanted = "invalid type: string \"many\", expected a whole number from 0 on";
        assert!(said.contains(wanted), "{said}");
        let said = message(MINIMAL, &["optimizer.adam.learning_rate=fast"]);
        assert!(said.contains("expected a number"), "{said}");
        let said = message(MINIMAL, &["tensorboard=maybe"]);
        assert!(said.contains("expected true or false"), "{said}");
        // A line end must not introduce a second key.
        let config = load_text(MINIMAL, &["dataset.idx.folder=1\nvalue2 = 2"]).unwrap();
        let folder = config.dataset.idx.unwrap().folder;
        assert_eq!(folder, Path::new("1\nvalue2 = 2"));
    }

    #[test]
    fn a_bad_setting_is_named() {
        let message = message(MINIMAL, &["training.epochs=3", "training.batch=3"]);
        assert!(
            message.starts_with("--set training.batch=3: unknown key `batch`"),
            "{message}"
        );
    }
}
