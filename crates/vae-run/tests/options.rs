//! Compares the list of options with the configs and with the types that parse them.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};
use vae_run::RunConfig;
use vae_run::options::{Kind, Setting, schema, settings};

/// Whether a value has the type of a schema.
fn has_type(value: &Value, name: &Value) -> bool {
    match name.as_str().expect("a type") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        other => panic!("type {other}"),
    }
}

/// Whether a value is valid by a JSON schema (draft 7). Only the keywords of our schema are supported.
fn is_valid(root: &Value, schema: &Value, value: &Value) -> bool {
    let valid = |schema: &Value| is_valid(root, schema, value);
    let choices = |argument: &Value| argument.as_array().expect("schemas").clone();
    let number = |argument: &Value| argument.as_f64().expect("a number");
    let n_items = |argument: &Value| number(argument) as usize;
    let words = schema.as_object().expect("a schema");
    words.iter().all(|(word, argument)| match word.as_str() {
        "$ref" => {
            assert_eq!(words.len(), 1, "draft 7 knows nothing beside a $ref");
            let pointer = argument.as_str().and_then(|text| text.strip_prefix('#'));
            valid(root.pointer(pointer.expect("local")).expect("a definition"))
        }
        "allOf" => choices(argument).iter().all(valid),
        "anyOf" => choices(argument).iter().any(valid),
        "oneOf" => {
            choices(argument)
                .iter()
                .filter(|choice| valid(choice))
                .count()
                == 1
        }
        "type" => match argument {
            Value::Array(types) => types.iter().any(|name| has_type(value, name)),
            name => has_type(value, name),
        },
        "not" => !is_valid(root, argument, value),
        "multipleOf" => value.as_f64().is_none_or(|x| x % number(argument) == 0.0),
        "const" => value == argument,
        "enum" => choices(argument).contains(value),
        "minimum" => value.as_f64().is_none_or(|x| x >= number(argument)),
        "maximum" => value.as_f64().is_none_or(|x| x <= number(argument)),
        "exclusiveMinimum" => value.as_f64().is_none_or(|x| x > number(argument)),
        "exclusiveMaximum" => value.as_f64().is_none_or(|x| x < number(argument)),
        "minItems" => value
            .as_array()
            .is_none_or(|items| items.len() >= n_items(argument)),
        "maxItems" => value
            .as_array()
            .is_none_or(|items| items.len() <= n_items(argument)),
        "items" => {
            let mut items = value.as_array().into_iter().flatten();
            items.all(|item| is_valid(root, argument, item))
        }
        "properties" => {
            let mut entries = value.as_object().into_iter().flatten();
            entries.all(|(key, value)| {
                let schema = argument.get(key);
                schema.is_none_or(|schema| is_valid(root, schema, value))
            })
        }
        "required" => {
            let has = |key: &Value| value.get(key.as_str().expect("a key")).is_some();
            !value.is_object() || choices(argument).iter().all(has)
        }
        "additionalProperties" => {
            let known = |key: &String| schema["properties"].get(key).is_some();
            let mut others = value.as_object().into_iter().flatten();
            others.all(|(key, value)| match argument {
                Value::Bool(false) => known(key),
                argument => known(key) || is_valid(root, argument, value),
            })
        }
        "$schema" | "title" | "description" | "default" | "examples" | "definitions"
        | "x-resume" => true,
        other => panic!("unknown word {other}"),
    })
}

/// The reason why a config is refused when it is parsed or checked.
fn refusal(config: &Value) -> Option<String> {
    let text = toml::to_string(config).expect("TOML");
    match toml::from_str::<RunConfig>(&text) {
        Ok(config) => config.check().err().map(|error| error.to_string()),
        Err(error) => Some(error.message().to_owned()),
    }
}

fn read(text: &str) -> Value {
    toml::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

const DATASET: &str = "[dataset.idx]\nfolder = 'here'\n";

#[test]
fn every_config_is_valid_by_the_schema_that_it_names() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let schema = schema();
    let mut n_configs = 0;
    for folder in ["configs", "configs/models"] {
        for entry in fs::read_dir(root.join(folder)).expect(folder) {
            let path = entry.expect("an entry").path();
            if path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let text = fs::read_to_string(&path).expect("text");
            let name = path.display();
            let named = text
                .lines()
                .next()
                .and_then(|line| line.strip_prefix("#:schema "));
            let named = named.unwrap_or_else(|| panic!("{name}: no schema in the first line"));
            assert!(root.join(folder).join(named).is_file(), "{name}: {named}");
            assert!(is_valid(&schema, &schema, &read(&text)), "{name}");
            n_configs += 1;
        }
    }
    assert!(n_configs >= 45, "{n_configs}");
}

#[test]
fn the_schema_refuses_mistakes_and_knows_every_form() {
    let schema = schema();
    for (text, is_right) in [
        ("[training]\nepocs = 3", false),
        ("[trainings]\nepochs = 3", false),
        ("[optimizer.adm]", false),
        ("[optimizer.adam]\n[optimizer.sgd]", false),
        ("optimizer = 'adam'", false),
        ("schedule = 'cosine'", false),
        ("schedule = 'constan'", false),
        ("model.likelihood = 'bernouli'", false),
        ("model.likelihood.gaussian.sigma = 'leaned'", false),
        ("model.likelihood.gaussian.sigma = -1", false),
        ("model.network.mlp.hidden = 400", false),
        ("training.epochs = '3'", false),
        ("training.epochs = 3.5", false),
        ("training.epochs = 0", false),
        ("training.ema_decay = 1.0", false),
        ("tensorboard = 'yes'", false),
        ("schedule = 'constant'", true),
        ("[schedule.constant]", true),
        ("[schedule.cosine]", true),
        ("[schedule.cosine]\nwarm_up_steps = 5", true),
        ("model.likelihood = 'bernoulli'", true),
        ("[model.likelihood.bernoulli]", true),
        ("model.likelihood.gaussian.sigma = 'learned'", true),
        ("model.likelihood.gaussian.sigma = 1", true),
        ("training.ema_decay = 0", true),
        ("model.latent_shape = [4, 7, 7]", true),
        ("model.latent_shape = [4, 7, 7, 9]", false),
    ] {
        let config = read(&format!("{text}\n{DATASET}"));
        let refusal = refusal(&config);
        assert_eq!(refusal.is_none(), is_right, "{text}: {refusal:?}");
        assert_eq!(is_valid(&schema, &schema, &config), is_right, "{text}");
    }
    let without_source = json!({});
    assert!(!is_valid(&schema, &schema, &without_source) && refusal(&without_source).is_some());
}

/// The required keys of a table, with their examples.
fn needed(setting: &Setting) -> Map<String, Value> {
    let needed = setting.children().iter().filter(|child| child.is_required);
    needed
        .map(|child| {
            let value = child.example.clone().unwrap_or_else(|| match child.name() {
                "dataset" => json!({"idx": {"folder": "here"}}),
                name => panic!("{name} has no example"),
            });
            (child.name().to_owned(), value)
        })
        .collect()
}

/// A config with this value for the key at the path `rest` within a setting, and with the other required keys.
fn config_with(setting: &Setting, rest: &[&str], value: &Value) -> Value {
    let Some((name, rest)) = rest.split_first() else {
        return value.clone();
    };
    let mut children = setting.children().iter();
    let child = children.find(|child| child.name() == *name).expect("a key");
    let mut table = match setting.kind {
        Kind::Table(_) => needed(setting),
        _ => Map::new(),
    };
    if setting.key == "dataset" && !matches!(child.kind, Kind::Table(_)) {
        table.insert("idx".to_owned(), json!({"folder": "here"}));
    }
    table.insert((*name).to_owned(), config_with(child, rest, value));
    Value::Object(table)
}

/// Parts of the messages about several keys that do not fit each other. A schema validates each key alone.
const OF_SEVERAL_KEYS: [&str; 18] = [
    "expected one for each",
    "the encoder's in reverse",
    "does not divide",
    "more than black",
    "bounds × samples",
    "numbers for each image when",
    "looks at validation images",
    "would fit",
    "a positive momentum",
    "no source of images",
    "has no players beside the model",
    "they make more than",
    "do not divide into codes",
    "but latent_shape has",
    "model.latent_dims: found",
    "it is empty; set classes = true",
    "has a Gaussian for each condition",
    "expected a multiple of heads",
];

/// Values at and around every limit.
fn probes() -> Vec<Value> {
    let mut probes: Vec<Value> = Vec::new();
    for limit in [
        0,
        1,
        2,
        100,
        256,
        1000,
        1024,
        4096,
        10_000,
        65_536,
        100_000,
        1 << 20,
        1 << 24,
    ] {
        probes.extend([json!(limit - 1), json!(limit), json!(limit + 1)]);
    }
    for limit in [1_000_000_000_i64, 1_000_000_000_000] {
        probes.extend([json!(limit), json!(limit + 1)]);
    }
    for limit in [0.0, 1e-12, 1e-6, 0.5, 1.0, 1e6, 1e12] {
        probes.extend([
            json!(limit * 0.99 - 1e-13),
            json!(limit),
            json!(limit * 1.01),
        ]);
    }
    for items in [
        json!([]),
        json!([0]),
        json!([1]),
        json!([8, 16]),
        json!([2, 4, 4]),
        json!([1, 1, 4097]),
        json!([1024]),
        json!([1025, 2]),
        json!([0.5]),
        json!([1e13]),
    ] {
        probes.push(items);
    }
    probes.extend([
        json!(vec![1; 100]),
        json!(vec![1; 101]),
        json!(vec![1; 256]),
        json!(vec![1; 257]),
    ]);
    probes.extend([json!([1 << 20]), json!([(1 << 20) + 1]), json!(["word"])]);
    probes.extend([
        json!(-1.5),
        json!("word"),
        json!("learned"),
        json!(true),
        json!({"a": 1}),
    ]);
    probes
}

#[test]
fn the_schema_refuses_what_the_checks_refuse() {
    let (schema, all, probes) = (schema(), settings(), probes());
    let mut disagreements = Vec::new();
    let mut n_settings = 0;
    for setting in all.all().filter(|setting| !setting.key.is_empty()) {
        let path: Vec<&str> = setting.key.split('.').collect();
        let values = match setting.kind {
            Kind::Value(_) | Kind::OneOf(_) => probes.clone(),
            Kind::Table(_) => vec![Value::Object(needed(setting)), json!({"unknown_key": 1})],
            Kind::Name => continue,
        };
        n_settings += 1;
        for value in values {
            let config = config_with(all, &path, &value);
            let refusal = refusal(&config);
            let is_valid = is_valid(&schema, &schema, &config);
            let of_several = |refusal: &String| {
                let mut words = OF_SEVERAL_KEYS.iter();
                words.any(|words| refusal.contains(words))
            };
            if is_valid != refusal.is_none()
                && !(is_valid && refusal.as_ref().is_some_and(of_several))
            {
                let value = value.to_string().chars().take(40).collect::<String>();
                disagreements.push(format!("{} = {value}: {refusal:?}", setting.key));
            }
        }
    }
    assert!(disagreements.is_empty(), "{}", disagreements.join("\n"));
    assert!(n_settings > 150, "{n_settings}");
}

#[test]
fn every_example_is_a_config() {
    let schema = schema();
    for setting in settings().all() {
        if setting.key.is_empty() || !matches!(setting.kind, Kind::Table(_) | Kind::Name) {
            continue;
        }
        let rest = match setting.key.as_str() {
            "dataset" => continue,
            key if key.starts_with("dataset.image_folder.") => {
                "[dataset.image_folder]\npath = 'photos'\n"
            }
            key if key.starts_with("dataset.audio_folder.align") => "path = 'recordings'\n",
            key if key.starts_with("dataset.audio_folder.") => {
                "[dataset.audio_folder]\npath = 'recordings'\n"
            }
            key if key.starts_with("dataset.text.") => {
                match setting.toml().starts_with("[dataset.text]\n") {
                    true => "path = 'verses.txt'\n",
                    false => "[dataset.text]\npath = 'verses.txt'\n",
                }
            }
            key if key.starts_with("dataset.melodies.") => {
                match setting.toml().starts_with("[dataset.melodies]\n") {
                    true => "path = 'tunes'\n",
                    false => "[dataset.melodies]\npath = 'tunes'\n",
                }
            }
            "dataset.arrays.train" => "",
            "dataset.arrays.test" => "[dataset.arrays]\ntrain = 'train.npy'\n",
            key if key.starts_with("dataset.arrays.") => "train = 'train.npy'\n",
            // The config also has the table of the data source.
            key if key.starts_with("dataset.binarization") => DATASET,
            key if key.starts_with("dataset.") => "",
            _ => DATASET,
        };
        let text = format!("{}{rest}", setting.toml());
        let config = read(&text);
        assert!(is_valid(&schema, &schema, &config), "{text}");
        toml::from_str::<RunConfig>(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
}

#[test]
fn every_option_says_what_it_means() {
    for setting in settings().all() {
        assert!(!setting.meaning.is_empty(), "{}", setting.key);
        for text in [&setting.meaning, &setting.details] {
            for left_over in ["[`", "Default ", "```", "# Errors"] {
                assert!(!text.contains(left_over), "{}: {text}", setting.key);
            }
        }
    }
}

#[test]
fn what_may_change_on_resume_is_what_leaves_the_steps_alone() {
    let may_change: Vec<&str> = settings()
        .all()
        .filter(|setting| setting.may_change)
        .map(|setting| setting.key.as_str())
        .collect();
    assert_eq!(
        may_change,
        [
            "dataset.idx.folder",
            "dataset.image_folder.path",
            "dataset.image_folder.pack",
            "dataset.image_folder.workers",
            "dataset.sprites.file",
            "dataset.arrays.train.file",
            "dataset.arrays.test.file",
            "dataset.audio_folder.path",
            "dataset.audio_folder.pack",
            "dataset.audio_folder.workers",
            "dataset.text.path",
            "dataset.text.test",
            "dataset.melodies.path",
            "training.epochs",
            "training.recompute",
            "training.log_every",
            "training.start_from",
            "pictures",
            "tensorboard",
            "samplers",
            "checkpoints",
            "early_stopping",
            "safety",
        ]
    );
}
