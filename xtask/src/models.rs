//! `cargo xtask models`: the table of published models, docs/models.md, from configs/models/*.toml.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use toml::{Table, Value};

use crate::workspace::Workspace;

const FOLDER: &str = "configs/models";
const PAGE: &str = "docs/models.md";

/// The line by which editors find the schema of a config.
const SCHEMA: &str = "#:schema ";

const INTRO: &str = "\
# Published models

Every model here is a config, a choice of parts; there is no class for any of them. Empty cells are the
defaults: posterior `diagonal_gaussian`, prior `standard_normal`, likelihood `bernoulli`, regularizer `kl`
with weight 1, estimator `elbo` with one sample. Behind a part is what its config sets. The last row
is a combination that no paper has.

`vae train configs/models/NAME.toml` trains one, `vae describe` prints it with every default filled in.
[config.md](config.md) explains every part and its options; parts that do not fit each other are refused when
the config is read. This page is written by `cargo xtask models`.

";

/// Write the page, or with `check` only compare it with the existing one.
///
/// # Errors
/// A config without its comment block, or that is not TOML; with `check`, a page that differs.
pub(crate) fn models(workspace: &Workspace, check: bool) -> Result<()> {
    let page = page(&workspace.root().join(FOLDER))?;
    let path = workspace.root().join(PAGE);
    if !check {
        return fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()));
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    ensure!(
        found == page,
        "{PAGE} is out of date; `cargo xtask models` regenerates it"
    );
    Ok(())
}

/// A config, as the table shows it.
#[derive(Debug)]
struct Model {
    /// Name of the file, without `.toml`.
    file: String,
    name: String,
    paper: Option<Paper>,
    reproduces: String,
    config: Table,
}

#[derive(Debug, PartialEq)]
struct Paper {
    /// `Higgins et al. 2017`.
    citation: String,
    title: String,
    url: String,
}

/// The whole page, the oldest paper first.
fn page(folder: &Path) -> Result<String> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut models = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let file = path.file_stem().unwrap_or_default().to_string_lossy();
            let model = Model::parse(&file, &text)
                .with_context(|| format!("{} is no config of a model", path.display()))?;
            models.push(model);
        }
    }
    models.sort_by(|a, b| (a.year(), &a.file).cmp(&(b.year(), &b.file)));

    let mut page = INTRO.to_owned();
    page += "| model | posterior | prior | likelihood | regularizer | estimator | paper |\n";
    page += "| --- | --- | --- | --- | --- | --- | --- |\n";
    for model in &models {
        writeln!(page, "{}", model.row())?;
    }
    page += "\n## What each reproduces\n\n";
    for model in &models {
        writeln!(page, "- **{}**: {}", model.name, model.reproduces)?;
    }
    Ok(page)
}

impl Model {
    /// `text` begins with the lines `# Model:`, `# Paper:` and `# Reproduces:`; the last may go on in
    /// lines that are indented. A blank line ends them. A line `#:schema`, for editors, may come first.
    fn parse(file: &str, text: &str) -> Result<Self> {
        let mut lines = text.lines().skip_while(|line| line.starts_with(SCHEMA));
        let mut line = |key: &str| -> Result<String> {
            let line = lines.next().unwrap_or_default();
            match line.strip_prefix(&format!("# {key}: ")) {
                Some(value) => Ok(value.to_owned()),
                None => bail!("found {line:?}, expected a line `# {key}: …`"),
            }
        };
        let name = line("Model")?;
        let paper = Paper::parse(&line("Paper")?)?;
        let mut reproduces = line("Reproduces")?;
        for line in lines.take_while(|line| !line.is_empty()) {
            let Some(more) = line.strip_prefix("#   ") else {
                bail!("found {line:?}, expected `#   …` or the blank line behind `# Reproduces:`");
            };
            reproduces = format!("{reproduces} {more}");
        }
        Ok(Self {
            file: file.to_owned(),
            name,
            paper,
            reproduces,
            config: toml::from_str(text)?,
        })
    }

    /// Of the paper; models without one come last.
    fn year(&self) -> u32 {
        let year = self.paper.as_ref().and_then(|paper| {
            let (_, year) = paper.citation.rsplit_once(' ')?;
            year.parse().ok()
        });
        year.unwrap_or(u32::MAX)
    }

    fn objective(&self, key: &str) -> Option<&Table> {
        let objective = self.config.get("objective").and_then(Value::as_table)?;
        objective.get(key).and_then(Value::as_table)
    }

    fn row(&self) -> String {
        let part = |table: &str, key: &str| {
            let table = self.config.get(table).and_then(Value::as_table)?;
            table.get(key).map(shown)
        };
        let regularizers = [
            part("objective", "regularizer"),
            part("objective", "decoder_penalty").map(|part| format!("decoder_penalty {part}")),
            part("model", "decoder_spectral_norm").map(|_| "`decoder_spectral_norm`".to_owned()),
            self.objective("adversarial").map(adversarial),
            self.objective("perceptual")
                .map(|_| "`perceptual`".to_owned()),
        ];
        let regularizers: Vec<_> = regularizers.into_iter().flatten().collect();
        let paper = match &self.paper {
            Some(paper) => format!("{}, [{}]({})", paper.citation, paper.title, paper.url),
            None => "none".to_owned(),
        };
        let cells = [
            format!("[{}](../{FOLDER}/{}.toml)", self.name, self.file),
            part("model", "posterior").unwrap_or_default(),
            part("model", "prior").unwrap_or_default(),
            part("model", "likelihood").unwrap_or_default(),
            regularizers.join(", "),
            part("objective", "estimator").unwrap_or_default(),
            paper,
        ];
        format!("| {} |", cells.join(" | "))
    }
}

impl Paper {
    /// `Authors year, title, https://…`, or `none`.
    fn parse(text: &str) -> Result<Option<Self>> {
        if text == "none" {
            return Ok(None);
        }
        let parts = text
            .split_once(", ")
            .and_then(|(citation, rest)| Some((citation, rest.rsplit_once(", ")?)));
        match parts {
            Some((citation, (title, url))) if url.starts_with("https://") => Ok(Some(Self {
                citation: citation.to_owned(),
                title: title.to_owned(),
                url: url.to_owned(),
            })),
            _ => bail!(
                "found the paper {text:?}, expected `Authors year, title, https://…` or `none`"
            ),
        }
    }
}

/// The discriminator's game in short: its loss, what it judges, its layers and its penalty.
fn adversarial(table: &Table) -> String {
    let mut settings = Vec::new();
    for key in ["loss", "judges", "discriminator", "penalty"] {
        match table.get(key) {
            Some(Value::String(name)) => settings.push(name.clone()),
            Some(Value::Table(alternative)) => settings.extend(alternative.keys().cloned()),
            _ => {}
        }
    }
    format!("`adversarial` ({})", settings.join(", "))
}

/// A part as the config has it: a name, or a table with one, and behind it what it sets.
fn shown(part: &Value) -> String {
    match part {
        Value::Table(table) => {
            let parts = table.iter().map(|(name, options)| {
                let mut settings = Vec::new();
                flatten("", options, &mut settings);
                match settings.is_empty() {
                    true => format!("`{name}`"),
                    false => format!("`{name}` ({})", settings.join(", ")),
                }
            });
            parts.collect::<Vec<_>>().join(", ")
        }
        Value::String(name) => format!("`{name}`"),
        other => other.to_string(),
    }
}

/// `beta = 4.0`, `beta_schedule.warm_up.steps = 1000`, ….
fn flatten(path: &str, value: &Value, settings: &mut Vec<String>) {
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                let path = match path {
                    "" => key.clone(),
                    _ => format!("{path}.{key}"),
                };
                flatten(&path, value, settings);
            }
        }
        Value::String(text) => settings.push(format!("{path} = {text}")),
        other => settings.push(format!("{path} = {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "\
# Model: β-VAE
# Paper: Higgins et al. 2017, beta-VAE: Learning, https://a.example/?id=1
# Reproduces: the objective,
#   on digits.

";

    #[test]
    fn the_page_is_what_the_configs_say() {
        models(&Workspace::find().unwrap(), true).unwrap();
    }

    #[test]
    fn a_row_shows_the_parts_that_a_config_sets() {
        let text = format!(
            "{HEAD}model.posterior = 'deterministic'\nmodel.prior.vamp = {{}}\n\
             objective.regularizer.kl = {{ beta = 4.0, beta_schedule.warm_up.steps = 9 }}\n\
             objective.decoder_penalty.l2.weight = 0.5\nmodel.decoder_spectral_norm = true\n"
        );
        let model = Model::parse("beta-vae", &format!("#:schema ../schema.json\n{text}")).unwrap();
        assert_eq!(model.reproduces, "the objective, on digits.");
        assert_eq!(model.year(), 2017);
        assert_eq!(
            model.row(),
            "| [β-VAE](../configs/models/beta-vae.toml) | `deterministic` | `vamp` |  | \
             `kl` (beta = 4.0, beta_schedule.warm_up.steps = 9), \
             decoder_penalty `l2` (weight = 0.5), `decoder_spectral_norm` |  | \
             Higgins et al. 2017, [beta-VAE: Learning](https://a.example/?id=1) |"
        );
    }

    #[test]
    fn a_config_without_its_comment_is_refused_with_what_is_missing() {
        let refusal = |text: &str| format!("{:#}", Model::parse("x", text).unwrap_err());
        assert!(refusal("seed = 1\n").contains("`# Model: …`"));
        assert!(refusal(&HEAD.replace(", https", " https")).contains("Authors year"));
        assert!(refusal(&HEAD.replace("#   on", "# on")).contains("# on digits"));
        assert!(Paper::parse("none").unwrap().is_none());
    }
}
