//! The options of a config as data: keys, meanings, defaults and ranges, from the types that read them.
//!
//! [`RunConfig`] and all types in it derive `JsonSchema`: doc comments become the descriptions, `Default` the
//! defaults, `#[schemars(range(…))]` the ranges. The reference of all options, the schema for editors, and the list
//! of options that may differ on resume are all generated from here.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::RunConfig;

/// The attribute of options whose value may differ when a run is resumed, and of all options below them:
/// `#[schemars(extend("x-resume" = true))]`.
const MAY_CHANGE: &str = "x-resume";

/// Stands for any name, in tables whose keys are chosen by the user or name a part: `players.NAME`.
pub const ANY_NAME: &str = "NAME";

/// One key of a config, or one of the alternatives for its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The dotted key, as in `optimizer.adam.learning_rate`; empty for the whole config.
    pub key: String,
    /// Its meaning, in Markdown; paragraphs are separated by blank lines.
    pub meaning: String,
    /// What the documentation of its type adds to the meaning, in Markdown; often empty.
    pub details: String,
    /// The values that it takes.
    pub kind: Kind,
    /// The value if the key is left out; none if the key is required, or if leaving it out is not the same as a value.
    pub default: Option<Value>,
    /// An example value of a required key.
    pub example: Option<Value>,
    /// Whether a config without the key is refused.
    pub is_required: bool,
    /// Whether a run can be resumed with another value, of it or of what is below it.
    pub may_change: bool,
}

/// The values that a key takes.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A table of keys.
    Table(Vec<Setting>),
    /// Exactly one of several. Each is a bare name (`key = "name"`), a table (`[key.name]`) or a value.
    OneOf(Vec<Setting>),
    /// The bare name of an alternative.
    Name,
    /// A value: its type and range, as in `number ≥ 0`.
    Value(String),
}

impl Setting {
    /// The part of the key after the last dot.
    #[must_use]
    pub fn name(&self) -> &str {
        self.key.rsplit('.').next().unwrap_or_default()
    }

    /// The key of the table that contains it; empty at the top level.
    #[must_use]
    pub fn parent(&self) -> &str {
        self.key.rsplit_once('.').map_or("", |(parent, _)| parent)
    }

    /// The keys of a table, or the alternatives of a value.
    #[must_use]
    pub fn children(&self) -> &[Setting] {
        match &self.kind {
            Kind::Table(children) | Kind::OneOf(children) => children,
            Kind::Name | Kind::Value(_) => &[],
        }
    }

    /// The setting itself and all below it, in the order of the page.
    pub fn all(&self) -> impl Iterator<Item = &Setting> {
        let mut open = vec![self];
        std::iter::from_fn(move || {
            let next = open.pop()?;
            open.extend(next.children().iter().rev());
            Some(next)
        })
    }

    /// The setting as written in a config file: a table with the default of every key that has one, or the line of a
    /// value.
    #[must_use]
    pub fn toml(&self) -> String {
        let (table, name, value) = match &self.kind {
            Kind::Table(keys) => {
                let lines = keys.iter().filter_map(|key| {
                    let value = key.default.as_ref().or(key.example.as_ref())?;
                    let is_table = value.is_object();
                    (!is_table).then(|| format!("{} = {}\n", key.name(), shown(value)))
                });
                return format!("[{}]\n{}", self.key, lines.collect::<String>());
            }
            Kind::Name => {
                let (key, name) = self.key.rsplit_once('.').unwrap_or_default();
                let (table, key) = key.rsplit_once('.').unwrap_or(("", key));
                (table, key, format!("\"{name}\""))
            }
            Kind::OneOf(_) | Kind::Value(_) => {
                let value = self.default.as_ref().or(self.example.as_ref());
                (
                    self.parent(),
                    self.name(),
                    value.map_or("…".to_owned(), shown),
                )
            }
        };
        match table {
            "" => format!("{name} = {value}\n"),
            table => format!("[{table}]\n{name} = {value}\n"),
        }
    }

    /// The setting of a dotted key.
    #[must_use]
    pub fn find(&self, key: &str) -> Option<&Setting> {
        let n_names = key.split('.').filter(|name| !name.is_empty()).count();
        self.path(key).get(n_names).copied()
    }

    /// The settings along a dotted key, from the longest that exists to the shortest.
    fn path(&self, key: &str) -> Vec<&Setting> {
        let mut path = vec![self];
        let mut current = self;
        for name in key.split('.') {
            let mut children = current.children().iter();
            match children.find(|child| [name, ANY_NAME].contains(&child.name())) {
                Some(child) => current = child,
                None => break,
            }
            path.push(current);
        }
        path
    }
}

/// All options of a config, the keys of each table in the order of their declaration.
#[must_use]
pub fn settings() -> &'static Setting {
    static SETTINGS: LazyLock<Setting> = LazyLock::new(|| {
        let schema = described();
        Reader { schema: &schema }.setting("", &schema)
    });
    &SETTINGS
}

/// Whether a run can be resumed with another value of this key.
#[must_use]
pub fn may_change_on_resume(key: &str) -> bool {
    settings()
        .path(key)
        .iter()
        .any(|setting| setting.may_change)
}

/// Whether this key takes exactly one of several alternatives, so that setting one replaces another.
#[must_use]
pub fn is_one_of(key: &str) -> bool {
    settings()
        .find(key)
        .is_some_and(|setting| matches!(setting.kind, Kind::OneOf(_)))
}

/// The JSON schema (draft 7) of a config file, for editors. Descriptions end with the default.
#[must_use]
pub fn schema() -> Value {
    let types = described();
    let mut schema = types.clone();
    Reader { schema: &types }.for_editors(&mut schema);
    schema["title"] = json!("A config of `vae train`");
    schema
}

/// A default in TOML: `1e-8`, `"learned"`, `[1, 2]`. A table with one entry is given as its name.
#[must_use]
pub fn shown(value: &Value) -> String {
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(x) if x != 0.0 && number.is_f64() && !(1e-3..1e7).contains(&x.abs()) => {
                format!("{x:e}")
            }
            _ => number.to_string(),
        },
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(shown).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(entries) => entries.keys().next().cloned().unwrap_or_default(),
        other => other.to_string(),
    }
}

/// The schema generated from the types, in the form that TOML and readers need.
fn described() -> Value {
    let generator = SchemaSettings::draft07().into_generator();
    let mut schema = generator.into_root_schema_for::<RunConfig>().to_value();
    tidy(&mut schema);
    schema
}

/// Adapts the schema: TOML has no null, and descriptions are for users of configs, not of the crates.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(entries) => {
            entries.remove("format");
            if let Some(Value::Array(types)) = entries.get_mut("type") {
                types.retain(|kind| kind != "null");
                if let [kind] = &types[..] {
                    let kind = kind.clone();
                    entries.insert("type".to_owned(), kind);
                }
            }
            if let Some(Value::Array(choices)) = entries.get_mut("anyOf") {
                choices.retain(|choice| choice.get("type").is_none_or(|kind| kind != "null"));
                if let [choice] = &choices[..] {
                    let choice = choice.clone();
                    entries.remove("anyOf");
                    entries.insert("allOf".to_owned(), json!([choice]));
                }
            }
            if entries.get("default").is_some_and(Value::is_null) {
                entries.remove("default");
            }
            if let Some(Value::String(text)) = entries.get_mut("description") {
                *text = for_users(text);
            }
            entries.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// A doc comment without what is for readers of the crate or known from the type: programs, links to items, remarks
/// on the place in a config, and the sentence about the default. Each paragraph becomes a line.
fn for_users(doc: &str) -> String {
    let mut paragraphs = vec![String::new()];
    let mut in_program = false;
    for line in doc.lines() {
        if line.starts_with("```") {
            in_program = !in_program;
        } else if in_program {
        } else if line.is_empty() {
            paragraphs.push(String::new());
        } else if let Some(paragraph) = paragraphs.last_mut() {
            let is_item = line.starts_with("- ");
            let gap = if is_item { "\n" } else { " " };
            if !paragraph.is_empty() {
                paragraph.push_str(gap);
            }
            paragraph.push_str(line.trim());
        }
    }
    paragraphs.retain(|paragraph| !paragraph.is_empty());
    let text = paragraphs
        .iter()
        .map(|paragraph| without_default(&without_place(&without_links(paragraph))))
        .collect::<Vec<_>>()
        .join("\n\n");
    text.trim().to_owned()
}

/// Replaces `` [`Item`] `` and `` [`Item`](path) `` by `` `Item` `` and removes them in parentheses.
fn without_links(text: &str) -> String {
    let mut written = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once("[`") {
        let Some((item, after)) = link.split_once("`]") else {
            break;
        };
        let target = after
            .starts_with('(')
            .then(|| after.split_once(')'))
            .flatten();
        let after = target.map_or(after, |(_, after)| after);
        match (before.strip_suffix(" ("), after.strip_prefix(')')) {
            (Some(before), Some(after)) => {
                written.push_str(before);
                rest = after;
            }
            _ => {
                written.push_str(before);
                written.push_str(&format!("`{item}`"));
                rest = after;
            }
        }
    }
    written + rest
}

/// A paragraph without its ``(`[table]` in a config file)``.
fn without_place(text: &str) -> String {
    let mut rest = text;
    let mut written = String::new();
    while let Some((before, remark)) = rest.split_once(" (`") {
        let Some((remark, after)) = remark.split_once(')') else {
            break;
        };
        written.push_str(before);
        let is_place = remark.contains("in a config") || remark.starts_with('[');
        if !is_place {
            written.push_str(&format!(" (`{remark})"));
        }
        rest = after;
    }
    written + rest
}

/// A paragraph without its sentence `Default ….`.
fn without_default(text: &str) -> String {
    let start = match text.starts_with("Default ") {
        true => Some(0),
        false => text.find(". Default ").map(|at| at + 2),
    };
    let Some(start) = start else {
        return text.to_owned();
    };
    // A number may contain a point.
    let end = text[start..]
        .find(". ")
        .map_or(text.len(), |length| start + length + 2);
    format!("{}{}", &text[..start], &text[end..])
        .trim()
        .to_owned()
}

/// Reads settings from the schema, whose definitions it looks up.
struct Reader<'s> {
    schema: &'s Value,
}

impl<'s> Reader<'s> {
    /// The target of a schema's reference; the schema itself if it is not a reference.
    fn resolved<'v>(&self, schema: &'v Value) -> &'v Value
    where
        's: 'v,
    {
        let reference = schema
            .get("$ref")
            .or_else(|| schema.get("allOf")?.get(0)?.get("$ref"));
        let target = reference
            .and_then(Value::as_str)
            .and_then(|reference| self.schema.pointer(reference.strip_prefix('#')?));
        target.unwrap_or(schema)
    }

    /// Adds the default to descriptions, which editors show. A name among tables may also be written as an empty table,
    /// which serde reads as the name.
    fn for_editors(&self, schema: &mut Value) {
        match schema {
            Value::Object(_) => {
                let is_table = self.resolved(schema).get("properties").is_some();
                let Value::Object(entries) = schema else {
                    return;
                };
                if is_table {
                    // The keys of the table have their own defaults.
                    entries.remove("default");
                }
                let default = entries.get("default").map(shown);
                if let (Some(default), Some(Value::String(text))) =
                    (default, entries.get_mut("description"))
                {
                    text.push_str(&format!("\n\nDefault: `{default}`"));
                }
                if let Some(Value::Array(choices)) = entries.get_mut("oneOf") {
                    allow_empty_tables(choices);
                }
                entries
                    .values_mut()
                    .for_each(|value| self.for_editors(value));
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.for_editors(item)),
            _ => {}
        }
    }

    /// The setting of a key with this schema.
    fn setting(&self, key: &str, schema: &'s Value) -> Setting {
        let target = self.resolved(schema);
        let text = |schema: &Value| {
            let text = schema.get("description").and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        let (own, of_type) = (text(schema), text(target));
        let kind = self.kind(key, target);
        let default = schema.get("default").cloned();
        Setting {
            key: key.to_owned(),
            details: match own.is_empty() || own == of_type {
                true => String::new(),
                false => of_type.clone(),
            },
            meaning: if own.is_empty() { of_type } else { own },
            // The defaults of a table are those of its keys.
            default: default.filter(|_| !matches!(kind, Kind::Table(_))),
            kind,
            example: schema.pointer("/examples/0").cloned(),
            is_required: false,
            may_change: schema.get(MAY_CHANGE) == Some(&Value::Bool(true)),
        }
    }

    fn kind(&self, key: &str, schema: &'s Value) -> Kind {
        if let Some(Value::Object(properties)) = schema.get("properties") {
            return Kind::Table(self.keys(key, schema, properties));
        }
        if let Some(values) = schema
            .get("additionalProperties")
            .filter(|values| values.is_object())
        {
            return Kind::Table(vec![self.setting(&below(key, ANY_NAME), values)]);
        }
        let choices = ["oneOf", "anyOf"]
            .iter()
            .find_map(|word| schema.get(word)?.as_array());
        let Some(choices) = choices else {
            return Kind::Value(value_type(schema));
        };
        let mut alternatives: Vec<Setting> = choices
            .iter()
            .flat_map(|choice| self.alternatives(key, choice))
            .collect();
        if alternatives
            .iter()
            .all(|alternative| alternative.key == key)
        {
            let types: Vec<String> = choices.iter().map(value_type).collect();
            return Kind::Value(types.join(", or "));
        }
        sort(&mut alternatives, &declared(key));
        Kind::OneOf(alternatives)
    }

    /// The keys of a table.
    fn keys(&self, key: &str, schema: &Value, properties: &'s Map<String, Value>) -> Vec<Setting> {
        let required = schema.get("required").and_then(Value::as_array);
        let mut settings: Vec<Setting> = properties
            .iter()
            .map(|(name, schema)| Setting {
                is_required: required.is_some_and(|required| required.iter().any(|r| r == name)),
                ..self.setting(&below(key, name), schema)
            })
            .collect();
        sort(&mut settings, &declared(key));
        settings
    }

    /// The alternatives of one variant of an enum, or of several variants without descriptions.
    fn alternatives(&self, key: &str, choice: &'s Value) -> Vec<Setting> {
        let named = |name: &Value| Setting {
            key: below(key, name.as_str().unwrap_or_default()),
            kind: Kind::Name,
            ..self.setting(key, choice)
        };
        if let Some(name) = choice.get("const") {
            return vec![named(name)];
        }
        if let Some(Value::Array(names)) = choice.get("enum") {
            return names.iter().map(named).collect();
        }
        let Some(Value::Object(properties)) = choice.get("properties") else {
            return vec![self.setting(key, choice)];
        };
        let meaning = choice.get("description").and_then(Value::as_str);
        properties
            .iter()
            .map(|(name, schema)| {
                let inner = self.setting(&below(key, name), schema);
                match meaning {
                    Some(meaning) => Setting {
                        meaning: meaning.to_owned(),
                        details: inner.meaning,
                        ..inner
                    },
                    None => inner,
                }
            })
            .collect()
    }
}

/// Adds the form `[key.name]` of each bare name, where other alternatives are tables.
fn allow_empty_tables(choices: &mut Vec<Value>) {
    let is_table = |choice: &Value| choice.get("properties").is_some();
    if !choices.iter().any(is_table) {
        return;
    }
    let tables: Vec<Value> = choices
        .iter()
        .filter_map(|choice| {
            let name = choice.get("const")?.as_str()?;
            let empty = json!({"type": "object", "additionalProperties": false});
            Some(json!({
                "type": "object",
                "description": choice.get("description"),
                "properties": { name: empty },
                "required": [name],
                "additionalProperties": false,
            }))
        })
        .collect();
    choices.extend(tables);
}

fn below(key: &str, name: &str) -> String {
    match key {
        "" => name.to_owned(),
        key => format!("{key}.{name}"),
    }
}

fn sort(settings: &mut [Setting], names: &[String]) {
    settings.sort_by_key(|setting| names.iter().position(|name| name == setting.name()));
}

/// The keys below a key in the order of their declaration, which a schema does not keep. They are taken from serde's
/// error message about an unknown key.
fn declared(key: &str) -> Vec<String> {
    const UNKNOWN: &str = "?";
    let mut document = json!({ UNKNOWN: 0 });
    for name in key.rsplit('.').filter(|name| !name.is_empty()) {
        document = json!({ name: document });
    }
    let message = match RunConfig::deserialize(document) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    };
    let quoted = message.split('`').skip(1).step_by(2);
    quoted
        .filter(|&name| name != UNKNOWN)
        .map(str::to_owned)
        .collect()
}

/// `integer ≥ 1`, `list of numbers from 0 to 1`.
fn value_type(schema: &Value) -> String {
    let plural = |schema: &Value| match schema.get("type").and_then(Value::as_str) {
        Some("integer") => "integers",
        Some("number") => "numbers",
        Some("string") => "strings",
        _ => "values",
    };
    match schema.get("type").and_then(Value::as_str) {
        Some("array") => {
            let items = schema.get("items").unwrap_or(&Value::Null);
            let bounds = (schema.get("minItems"), schema.get("maxItems"));
            let (n, least) = match bounds {
                (Some(least), Some(most)) if least == most => (format!("{most} "), ""),
                (Some(least), _) if *least != json!(0) => (String::new(), ", not empty"),
                _ => (String::new(), ""),
            };
            format!("list of {n}{}{}{least}", plural(items), range(items))
        }
        Some("boolean") => "`true` or `false`".to_owned(),
        Some(kind) => format!("{kind}{}", range(schema)),
        None => "value".to_owned(),
    }
}

/// ` ≥ 0`, ` from 0 to 1`, ` > 0 and < 1`; empty without bounds. Bounds that only catch typing errors are left out.
fn range(schema: &Value) -> String {
    const SLIP: f64 = 1e5;
    let bound = |name: &str| schema.get(name).filter(|bound| bound.as_f64() < Some(SLIP));
    let number = |bound: &Value| match bound.as_f64() {
        Some(x) if x == x.trunc() && x.abs() < SLIP => format!("{x}"),
        _ => shown(bound),
    };
    let bounds = [
        bound("minimum").map(|x| (true, number(x))),
        bound("maximum").map(|x| (false, number(x))),
    ];
    if let [Some((_, least)), Some((_, most))] = &bounds {
        return format!(" from {least} to {most}");
    }
    let signs = [
        ("minimum", "≥"),
        ("exclusiveMinimum", ">"),
        ("maximum", "≤"),
        ("exclusiveMaximum", "<"),
    ];
    let bounds: Vec<String> = signs
        .iter()
        .filter_map(|(name, sign)| Some(format!("{sign} {}", number(bound(name)?))))
        .collect();
    match bounds.is_empty() {
        true => String::new(),
        false => format!(" {}", bounds.join(" and ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_in_the_order_of_their_declaration() {
        let names = |key: &str| -> Vec<&str> {
            let setting = settings().find(key).unwrap();
            setting.children().iter().map(Setting::name).collect()
        };
        let adam = [
            "learning_rate",
            "beta1",
            "beta2",
            "epsilon",
            "weight_decay",
            "decay_all",
        ];
        assert_eq!(names("optimizer.adam"), adam);
        assert_eq!(names("optimizer"), ["adam", "adamw", "rmsprop", "sgd"]);
        assert_eq!(names("model.network.mlp"), ["hidden"]);
        assert_eq!(names("")[..2], ["seed", "dataset"]);
        // A table that takes any name.
        assert_eq!(names("players"), [ANY_NAME]);
        assert_eq!(names("players.discriminator")[0], "optimizer");
        assert!(
            is_one_of("players.discriminator.optimizer") && !is_one_of("players.discriminator")
        );
        assert!(settings().find("players.discriminator.wrong").is_none());
        assert!(settings().find("optimizer.adam.beta1.more").is_none());
    }

    #[test]
    fn a_doc_comment_is_written_for_users() {
        let doc = "A sum (`[a.b]` in a config file) of\ntwo, see [`Sum`](x) ([`crate::Y`]).\nDefault 1.5.\n\n\
                   ```\nlet x = 1;\n```\n\nThen (`kl`).\n- one\n- two";
        assert_eq!(
            for_users(doc),
            "A sum of two, see `Sum`.\n\nThen (`kl`).\n- one\n- two"
        );
        assert_eq!(for_users("Share. Default 0.5. More."), "Share. More.");
    }

    #[test]
    fn values_are_shown_as_toml_has_them() {
        let shown = |value: Value| super::shown(&value);
        assert_eq!(shown(json!(1e-8)), "1e-8");
        assert_eq!(shown(json!(0.001)), "0.001");
        assert_eq!(shown(json!([1, 0.5])), "[1, 0.5]");
        assert_eq!(shown(json!("learned")), "\"learned\"");
        assert_eq!(shown(json!({"adam": {"beta1": 0.9}})), "adam");
    }

    #[test]
    fn an_option_may_change_on_resume_with_all_below_it() {
        assert!(may_change_on_resume("pictures.n_samples"));
        assert!(may_change_on_resume("training.epochs"));
        assert!(!may_change_on_resume("training.batch_size"));
        // A key that merely begins like one that may change.
        assert!(!may_change_on_resume("training.epochs_of_something"));
    }

    /// Doc comments name defaults for readers of the crates.
    #[test]
    fn defaults_in_doc_comments_are_the_defaults() {
        let generator = SchemaSettings::draft07().into_generator();
        let schema = generator.into_root_schema_for::<RunConfig>().to_value();
        let mut n_found = 0;
        for (of, definition) in schema["definitions"].as_object().unwrap() {
            let properties = definition.get("properties").and_then(Value::as_object);
            for (name, property) in properties.into_iter().flatten() {
                let text = property["description"].as_str().unwrap_or_default();
                let text = text.replace('\n', " ");
                let Some((_, said)) = text.split_once("Default ") else {
                    continue;
                };
                let said = said
                    .trim_end_matches('.')
                    .trim_matches('`')
                    .replace(',', "");
                let default = &property["default"];
                let is_same = match default {
                    Value::Array(_) => said == shown(default).replace(',', "").replace(".0", ""),
                    Value::Number(number) => said.parse() == Ok(number.as_f64().unwrap()),
                    _ => said == shown(default),
                };
                assert!(is_same, "{of}.{name}: {said}, but it is {}", shown(default));
                n_found += 1;
            }
        }
        assert!(n_found > 80, "{n_found}");
    }
}
