//! `report.html`: a report as a self-contained page without network access or scripts.

mod charts;
mod comparison;
mod figures;
mod lists;
mod measures;
mod text;

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::path::Path;

use vae_model::write_whole;
use vae_run::RunError;

use crate::measure::value_and_error;
use crate::number::number;
use crate::published::Comparison;
use crate::{EvalError, Figures, Report, Section, Subject, Topic};
pub use comparison::{Block, render_comparison};
use text::{Escaped, count};

/// The file's name in a run's folder.
pub const PAGE_FILE: &str = "report.html";

/// The page: the model, the headline results, a section for each topic, learning curves and pictures. `published` results are
/// shown beside the measures that they are compared with ([`crate::comparisons`]).
#[must_use]
pub fn render(report: &Report, figures: &Figures, published: &[Comparison]) -> String {
    let mut page = String::new();
    write_parts(&mut page, report, figures, published).expect("a String takes any text");
    page
}

/// Writes a page to a run's folder. It appears under its name only when it is whole.
///
/// # Errors
/// The file system refuses.
pub fn write_page(run: &Path, page: &str) -> Result<(), EvalError> {
    let path = run.join(PAGE_FILE);
    Ok(write_whole(&path, page.as_bytes()).map_err(RunError::io(&path))?)
}

fn write_parts(
    page: &mut impl Write,
    report: &Report,
    figures: &Figures,
    published: &[Comparison],
) -> fmt::Result {
    head(page, &report.subject)?;
    let sections: BTreeMap<Topic, &Section> = report
        .sections
        .iter()
        .map(|(topic, section)| (*topic, section))
        .collect();
    headlines(page, &sections)?;
    contents(page, &sections, figures)?;
    page.write_str("</header>\n<main>\n")?;
    charts::learning_curves(page, figures, report.subject.epoch)?;
    for topic in Topic::ALL {
        if let Some(section) = sections.get(&topic) {
            measures::section(page, topic, section, published)?;
        }
    }
    figures::pictures(page, figures)?;
    origin(page, figures)?;
    page.write_str(
        "</main>\n<footer>Written by <code>vae eval</code>; the same numbers are in \
         <code>eval.json</code>. ± is one standard error; ↑ higher is better, ↓ lower is better.\
         </footer>\n</body>\n</html>\n",
    )
}

/// The beginning of a page. The content security policy forbids the page to load or run anything.
fn begin(page: &mut impl Write, title: &str) -> fmt::Result {
    writeln!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; \
         style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>",
        title = Escaped(title),
        style = include_str!("style.css"),
    )
}

/// Everything before the results.
fn head(page: &mut impl Write, subject: &Subject) -> fmt::Result {
    let Subject {
        run,
        checkpoint,
        epoch,
        step,
        weights_sha256,
        averaged_weights,
        latent_dims,
        model,
        n_parameters,
    } = subject;
    let name = Path::new(run)
        .file_name()
        .map_or(run.into(), |name| name.to_string_lossy());
    let hash: String = weights_sha256.chars().take(12).collect();
    let averaged = if *averaged_weights { ", averaged" } else { "" };
    let trained = match checkpoint.is_empty() {
        true => "elsewhere".to_owned(),
        false => format!(
            "{} epochs, {} steps",
            number(*epoch as f64),
            number(*step as f64)
        ),
    };
    let checkpoint = match checkpoint.is_empty() {
        true => "weights that belong to no run",
        false => checkpoint,
    };
    begin(page, &format!("{name}: how good it is"))?;
    writeln!(
        page,
        "<header>\n\
         <p class=\"kicker\">Evaluation</p>\n<h1>{name}</h1>\n<p class=\"model\">{model}</p>\n\
         <dl class=\"subject\">\n\
         <div><dt>run</dt><dd>{run}</dd></div>\n\
         <div><dt>checkpoint</dt><dd>{checkpoint}</dd></div>\n\
         <div><dt>trained</dt><dd>{trained}</dd></div>\n\
         <div><dt>latent dimensions</dt><dd>{latent_dims}</dd></div>\n\
         <div><dt>parameters</dt><dd>{parameters}</dd></div>\n\
         <div><dt>weights</dt><dd><code title=\"SHA-256 {sha256}\">{hash}</code>{averaged}</dd></div>\n\
         </dl>",
        name = Escaped(&name),
        model = Escaped(model),
        run = Escaped(run),
        checkpoint = Escaped(checkpoint),
        parameters = count(*n_parameters),
        sha256 = Escaped(weights_sha256),
        hash = Escaped(hash),
    )
}

fn headlines(page: &mut impl Write, sections: &BTreeMap<Topic, &Section>) -> fmt::Result {
    let found = measures::headlines(sections);
    if found.is_empty() {
        return Ok(());
    }
    page.write_str("<ul class=\"headlines\">\n")?;
    for measure in found {
        let (value, error) = value_and_error(measure);
        let error = error.map(|error| format!("± {error} "));
        writeln!(
            page,
            "<li><span class=\"name\">{} {}</span><span class=\"number\">{value}</span>\
             <span class=\"unit\">{}{}</span></li>",
            Escaped(measures::short_label(measure)),
            measures::arrow(measure.better),
            error.unwrap_or_default(),
            Escaped(&measure.unit),
        )?;
    }
    page.write_str("</ul>\n")
}

fn contents(
    page: &mut impl Write,
    sections: &BTreeMap<Topic, &Section>,
    figures: &Figures,
) -> fmt::Result {
    page.write_str("<nav aria-label=\"contents\">\n")?;
    if charts::has_curves(figures) {
        page.write_str("<a href=\"#curves\">Learning curves</a>\n")?;
    }
    for topic in sections.keys() {
        let (id, name, _) = measures::heading(*topic);
        writeln!(page, "<a href=\"#{id}\">{name}</a>")?;
    }
    if !figures.pictures.is_empty() {
        page.write_str("<a href=\"#figures\">Figures</a>\n")?;
    }
    if !figures.origin.is_empty() {
        page.write_str("<a href=\"#origin\">How it was made</a>\n")?;
    }
    page.write_str("</nav>\n")
}

/// Data, device, time and hyperparameters of the run.
fn origin(page: &mut impl Write, figures: &Figures) -> fmt::Result {
    if figures.origin.is_empty() && figures.settings.is_empty() {
        return Ok(());
    }
    page.write_str("<section id=\"origin\">\n<h2>How it was made</h2>\n<dl class=\"subject\">\n")?;
    for (name, value) in &figures.origin {
        writeln!(
            page,
            "<div><dt>{}</dt><dd>{}</dd></div>",
            Escaped(name),
            Escaped(value)
        )?;
    }
    page.write_str("</dl>\n")?;
    if !figures.settings.is_empty() {
        writeln!(
            page,
            "<details open><summary>Hyperparameters</summary>\n<table class=\"settings\"><tbody>"
        )?;
        for (key, value) in &figures.settings {
            writeln!(
                page,
                "<tr><th scope=\"row\"><code>{}</code></th><td>{}</td></tr>",
                Escaped(key),
                Escaped(value)
            )?;
        }
        page.write_str("</tbody></table></details>\n")?;
    }
    page.write_str("</section>\n")
}
