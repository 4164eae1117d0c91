//! The reference of all options in Markdown, docs/config.md.

use std::fmt::Write;

use vae_run::options::{self, Kind, Setting, shown};

use super::{first_sentence, texts, written};

const INTRO: &str = "\
# Options

Every key that a config of `vae train` may have. A config is a TOML file; only `[dataset]` is required,
and what is left out has its default. `vae describe CONFIG` prints a config with every default filled in,
and `vae options KEY` a part of this page. `vae train CONFIG --set KEY=VALUE` changes a value for one run,
as in `--set optimizer.adam.learning_rate=1e-4`.

Where a key is **one of** several alternatives, an alternative without options of its own is written as a
name (`prior = \"standard_normal\"`), and one with options as a table (`[model.prior.vamp]`), which may be
empty. Not every alternative goes with every other; a config with parts that do not fit is refused with
what would fit. The examples under the alternatives show their defaults.

A run is resumed only with the config that it was started with, except for the keys marked **R**: these do
not change its steps, or only how many there are.

Editors with a TOML language server (the extension Even Better TOML, or taplo) complete and check a config
whose first line is `#:schema` and the path of [configs/schema.json](../configs/schema.json), as in the
configs here. `vae options --schema` prints that file.

This page is written by `cargo xtask options` from the types that read a config.
";

/// The whole page.
pub(super) fn page(all: &Setting) -> String {
    let mut page = INTRO.to_owned();
    let [values, sections] = [false, true].map(|with_section| {
        let children = all.children().iter();
        children
            .filter(|child| has_section(child) == with_section)
            .collect::<Vec<_>>()
    });
    page += "\n| section | |\n| --- | --- |\n";
    let mut row = |link: &str, meaning: &str| {
        let _ = writeln!(page, "| {link} | {} |", cell(meaning));
    };
    row("[top level](#top-level)", "Seed and event files.");
    for section in &sections {
        row(&link(section), first_sentence(&section.meaning));
    }
    page += "\n## Top level\n\n";
    page += "Before the first `[section]` of the file.\n\n";
    keys(&mut page, &values);
    for setting in sections {
        section(&mut page, setting);
    }
    page
}

fn has_section(setting: &Setting) -> bool {
    matches!(setting.kind, Kind::Table(_) | Kind::OneOf(_))
}

/// A heading, and what is to be said of a table or of a key with alternatives.
fn section(page: &mut String, setting: &Setting) {
    let depth = (setting.key.matches('.').count() + 2).min(6);
    let _ = writeln!(page, "\n{} {}\n", "#".repeat(depth), title(setting));
    for text in texts(setting) {
        let _ = writeln!(page, "{text}\n");
    }
    if setting.may_change {
        page.push_str("**R**, with all keys in it.\n\n");
    }
    match &setting.kind {
        Kind::OneOf(alternatives) => one_of(page, setting, alternatives),
        Kind::Table(children) if children.is_empty() => {}
        _ => keys(page, &setting.children().iter().collect::<Vec<_>>()),
    }
    if is_alternative(setting) {
        let _ = writeln!(page, "\n```toml\n{}```", setting.toml());
    }
    for child in setting.children() {
        if has_section(child) {
            section(page, child);
        }
    }
}

/// Whether it is written by choosing it: an alternative with options, or a source of images.
fn is_alternative(setting: &Setting) -> bool {
    matches!(setting.kind, Kind::Table(_))
        && (setting.parent().starts_with("dataset") || options::is_one_of(setting.parent()))
}

fn one_of(page: &mut String, setting: &Setting, alternatives: &[Setting]) {
    if let Some(default) = &setting.default {
        let _ = writeln!(page, "One of these, by default `{}`:\n", bare(default));
    }
    let table = match setting.parent() {
        "" => String::new(),
        table => format!(" in `[{table}]`"),
    };
    let _ = writeln!(page, "| written{table} | meaning |\n| --- | --- |");
    for alternative in alternatives {
        let written = match alternative.kind {
            Kind::Table(_) => link(alternative),
            Kind::Value(ref kind) => {
                let value = alternative.example.as_ref().map_or("…".to_owned(), shown);
                format!("`{} = {value}`, a {kind}", setting.name())
            }
            _ => format!("`{}`", written(setting, alternative)),
        };
        let _ = writeln!(page, "| {written} | {} |", cell(&alternative.meaning));
    }
}

/// The keys of a table.
fn keys(page: &mut String, settings: &[&Setting]) {
    page.push_str("| key | value | default | meaning |\n| --- | --- | --- | --- |\n");
    for setting in settings {
        let value = match &setting.kind {
            Kind::Value(kind) => kind.clone(),
            Kind::OneOf(_) => format!("[one of](#{})", anchor(setting)),
            _ => format!("[table](#{})", anchor(setting)),
        };
        let default = match &setting.default {
            Some(default) => format!("`{}`", shown(default)),
            None if setting.is_required => "**needed**".to_owned(),
            None => "".to_owned(),
        };
        let mark = match setting.may_change {
            true => " **R**",
            false => "",
        };
        let _ = writeln!(
            page,
            "| `{}`{mark} | {value} | {default} | {} |",
            setting.name(),
            cell(&setting.meaning)
        );
    }
}

/// A default that is a name, without quotes.
fn bare(default: &serde_json::Value) -> String {
    shown(default).trim_matches('"').to_owned()
}

fn title(setting: &Setting) -> String {
    match setting.kind {
        Kind::Table(_) => format!("`[{}]`", setting.key),
        _ => format!("`{}`", setting.key),
    }
}

fn link(setting: &Setting) -> String {
    format!("[{}](#{})", title(setting), anchor(setting))
}

/// Of a heading, as GitHub makes it: in lower case, without punctuation.
fn anchor(setting: &Setting) -> String {
    setting.key.replace('.', "").to_lowercase()
}

/// In one line, and without the mark that ends a cell.
fn cell(text: &str) -> String {
    text.replace("\n\n", "<br>")
        .replace('\n', "<br>")
        .replace('|', "\\|")
}
