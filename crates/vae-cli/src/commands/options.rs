//! `vae options`: the options of a config.

mod page;

use anyhow::Result;
use vae_run::options::{self, Kind, Setting, shown};

use super::table;
use crate::Done;
use crate::output::{self, out};
use crate::run_config::{ConfigError, nearest};

/// List the keys of a config, or explain one
///
/// The same text as docs/config.md, which is generated from it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae options
  vae options training
  vae options model.likelihood
  vae options learning_rate
  vae options --schema > schema.json    (for `#:schema schema.json` in the first line of a config)")]
pub(crate) struct Args {
    /// A key as in optimizer.adam, or the last part of one
    #[arg(value_name = "KEY")]
    key: Option<String>,

    /// Print a JSON schema of config files, by which editors complete and check them
    #[arg(long, conflicts_with_all = ["key", "markdown"])]
    schema: bool,

    /// Print the page docs/config.md
    #[arg(long, conflicts_with = "key")]
    markdown: bool,
}

pub(crate) fn run(args: &Args) -> Result<Done> {
    let all = options::settings();
    if args.schema {
        output::print(format_args!("{}", schema()?));
        return Ok(Done::Fully);
    }
    if args.markdown {
        output::print(format_args!("{}", page::page(all)));
        return Ok(Done::Fully);
    }
    let Some(key) = &args.key else {
        list(all.children().iter().flat_map(keys));
        out!(
            "\n`vae options KEY` explains a key, `vae describe CONFIG` prints the values of a config."
        );
        return Ok(Done::Fully);
    };
    let key = key.trim_matches(['[', ']']);
    match &matches(all, key)[..] {
        [] => return Err(unknown(all, key).into()),
        [setting] => explain(setting),
        several => list(several.iter().copied()),
    }
    Ok(Done::Fully)
}

/// The JSON schema as a file.
fn schema() -> Result<String> {
    Ok(serde_json::to_string_pretty(&options::schema())? + "\n")
}

/// The setting with this key, or all settings whose key ends with it.
fn matches<'s>(all: &'s Setting, key: &str) -> Vec<&'s Setting> {
    if let Some(setting) = all.find(key) {
        return vec![setting];
    }
    let end = format!(".{key}");
    let mut found: Vec<&Setting> = all.all().filter(|s| s.key.ends_with(&end)).collect();
    // A value among alternatives has the key of the whole setting.
    found.dedup_by_key(|setting| &setting.key);
    found
}

fn unknown(all: &Setting, key: &str) -> ConfigError {
    let last = key.rsplit('.').next().unwrap_or_default();
    let names: Vec<&str> = all.all().map(Setting::name).collect();
    let meant = nearest(last, &names).map_or(String::new(), |name| {
        format!("; did you mean `vae options {name}`?")
    });
    ConfigError::new(format!(
        "unknown key `{key}`{meant} (`vae options` lists all of them)"
    ))
}

/// A setting and all below it, except alternatives that are only names.
fn keys(setting: &Setting) -> impl Iterator<Item = &Setting> {
    let mut before = None;
    setting.all().filter(move |setting| {
        // A value among alternatives has the key of the whole setting.
        let is_new = before.replace(&setting.key) != Some(&setting.key);
        is_key(setting) && is_new
    })
}

fn is_key(setting: &Setting) -> bool {
    !matches!(setting.kind, Kind::Name)
}

/// One line for each setting.
fn list<'s>(settings: impl Iterator<Item = &'s Setting>) {
    let rows = settings.map(|setting| {
        let key = match setting.kind {
            Kind::Table(_) => format!("[{}]", setting.key),
            _ => setting.key.clone(),
        };
        vec![key, value(setting), plain(first_sentence(&setting.meaning))]
    });
    table::print(3, &["key", "default", "meaning"], rows.collect());
}

/// The default, or a note that there is none.
fn value(setting: &Setting) -> String {
    match (&setting.kind, &setting.default) {
        (Kind::Table(_), _) => String::new(),
        (_, Some(default)) => shown(default),
        (_, None) if setting.is_required => "needed".to_owned(),
        (_, None) => table::UNKNOWN.to_owned(),
    }
}

fn explain(setting: &Setting) {
    let has_keys = matches!(setting.kind, Kind::Table(_));
    match has_keys {
        true => out!("[{}]", setting.key),
        false => out!("{}", setting.key),
    }
    for text in texts(setting) {
        out!("\n{}", plain(text));
    }
    match &setting.kind {
        Kind::Value(kind) => out!("\nValue: {}", plain(kind)),
        Kind::Name => {}
        Kind::OneOf(alternatives) => {
            out!("\nOne of:");
            let rows = alternatives.iter().map(|alternative| {
                let meaning = plain(first_sentence(&alternative.meaning));
                vec![format!("  {}", written(setting, alternative)), meaning]
            });
            table::print(2, &["", ""], rows.collect());
        }
        Kind::Table(children) => {
            out!();
            list(children.iter());
        }
    }
    if let Some(default) = &setting.default {
        out!("\nDefault: {}", shown(default));
    }
    if setting.is_required {
        out!("\nIt is required.");
    }
    if options::may_change_on_resume(&setting.key) {
        out!("\nIt may be changed when a run is resumed.");
    }
    if matches!(setting.kind, Kind::Table(_) | Kind::Name) {
        out!("\nIn a config:\n\n{}", setting.toml().trim_end());
    }
}

/// The description of a setting: that of its type; if the type has none, or several alternatives share it, that of the key.
fn texts(setting: &Setting) -> impl Iterator<Item = &str> {
    let shows_meaning = setting.details.is_empty() || options::is_one_of(setting.parent());
    let meaning = shows_meaning.then_some(setting.meaning.as_str());
    let texts = meaning.into_iter().chain([setting.details.as_str()]);
    texts.filter(|text| !text.is_empty())
}

/// An alternative as written in a config.
fn written(setting: &Setting, alternative: &Setting) -> String {
    match &alternative.kind {
        Kind::Value(kind) => format!("{} = {kind}", setting.name()),
        Kind::Table(_) => format!("[{}]", alternative.key),
        Kind::Name | Kind::OneOf(_) => format!("{} = \"{}\"", setting.name(), alternative.name()),
    }
}

/// The first sentence of a text in Markdown.
fn first_sentence(text: &str) -> &str {
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let mut ends = paragraph.match_indices(". ").map(|(at, _)| at + 1);
    // Not a point in an abbreviation or in parentheses.
    let end = ends.find(|&end| {
        let sentence = &paragraph[..end];
        sentence.matches('(').count() == sentence.matches(')').count()
            && !["al.", "eq.", "App."]
                .iter()
                .any(|word| sentence.ends_with(word))
    });
    end.map_or(paragraph, |end| &paragraph[..end])
}

/// Markdown as plain text.
fn plain(text: &str) -> String {
    text.replace(['`', '\\'], "").replace(['<', '>'], "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_ends_at_its_point() {
        let text = "The ELBO (Kingma et al. 2014, eq. 3. Here). It goes with all.\n\nMore.";
        assert_eq!(
            first_sentence(text),
            "The ELBO (Kingma et al. 2014, eq. 3. Here)."
        );
        assert_eq!(first_sentence("One"), "One");
    }

    /// A file of the workspace.
    fn written_down(path: &str) -> String {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        std::fs::read_to_string(root.join(path)).unwrap_or_default()
    }

    #[test]
    fn the_page_and_the_schema_are_what_the_types_say() {
        let all = options::settings();
        for (path, wanted) in [
            ("docs/config.md", page::page(all)),
            ("configs/schema.json", schema().unwrap()),
        ] {
            // Not assert_eq, which would print both.
            assert!(
                written_down(path) == wanted,
                "{path} is out of date; `cargo xtask options` regenerates it"
            );
        }
    }

    #[test]
    fn every_link_of_the_page_has_its_heading() {
        let page = page::page(options::settings());
        let slug = |heading: &str| -> String {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = |c: &char| c.is_alphanumeric() || "-_ ".contains(*c);
            heading
                .chars()
                .filter(kept)
                .collect::<String>()
                .replace(' ', "-")
        };
        let headings: Vec<String> = page
            .lines()
            .filter(|line| line.starts_with('#'))
            .map(slug)
            .collect();
        let links: Vec<&str> = page
            .split("](#")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
            .collect();
        assert!(links.len() > 50, "{}", links.len());
        for link in links {
            assert!(headings.iter().any(|heading| heading == link), "{link}");
        }
        let mut unique = headings.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), headings.len(), "two headings of one name");
    }

    #[test]
    fn a_key_is_found_by_its_last_parts_and_a_wrong_one_names_the_nearest() {
        let all = options::settings();
        let keys = |key| -> Vec<&str> {
            let found = matches(all, key);
            found.iter().map(|setting| setting.key.as_str()).collect()
        };
        assert_eq!(keys("training.epochs"), ["training.epochs"]);
        assert_eq!(keys("epochs"), ["training.epochs"]);
        assert!(keys("learning_rate").contains(&"optimizer.sgd.learning_rate"));
        assert!(keys("epocs").is_empty());
        let message = unknown(all, "training.epocs").to_string();
        assert!(
            message.contains("did you mean `vae options epochs`"),
            "{message}"
        );
    }
}
