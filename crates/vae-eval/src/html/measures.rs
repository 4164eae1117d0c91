//! The sections of results.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::lists;
use super::text::{Escaped, count, words};
use crate::images_used::crop_in_words;
use crate::measure::value_and_error;
use crate::number::with_decimals;
use crate::published::{Comparison, Field};
use crate::{Better, ImagesUsed, Measure, Section, Topic};

/// The title and description of a topic for the reader of the page.
pub(super) fn heading(topic: Topic) -> (&'static str, &'static str, &'static str) {
    match topic {
        Topic::Likelihood => (
            "likelihood",
            "Likelihood",
            "The likelihood of held-out images.",
        ),
        Topic::Pictures => (
            "pictures",
            "Pictures",
            "The quality of reconstructions and samples.",
        ),
        Topic::Sound => (
            "sound",
            "Sound",
            "Reconstructions and samples of held-out sound, by their spectrograms.",
        ),
        Topic::Latents => ("latents", "Latents", "The information in the latents."),
        Topic::Disentanglement => (
            "disentanglement",
            "Disentanglement",
            "Whether single latent dimensions correspond to single factors of the images.",
        ),
    }
}

pub(super) fn section(
    page: &mut impl Write,
    topic: Topic,
    section: &Section,
    published: &[Comparison],
) -> fmt::Result {
    let (id, name, about) = heading(topic);
    writeln!(
        page,
        "<section id=\"{id}\">\n<h2>{name}</h2>\n<p class=\"about\">{about}</p>"
    )?;
    images(page, section)?;
    let findings = &section.findings;
    if !findings.measures.is_empty() {
        table(page, &findings.measures)?;
    }
    not_measured(page, &findings.not_measured)?;
    lists::lists(page, &findings.lists)?;
    for measure in &findings.measures {
        comparison(page, measure, published)?;
    }
    page.write_str("</section>\n")
}

/// The images that were measured, and what else all results of the section share.
fn images(page: &mut impl Write, section: &Section) -> fmt::Result {
    let ImagesUsed {
        dataset,
        fingerprint: _,
        split,
        n_images,
        n_available,
        shape: [channels, height, width],
        items,
        pixels,
        crop,
        trained_on,
    } = &section.images;
    let measured = match n_images == n_available {
        true => format!("all {}", count(*n_images)),
        false => format!("first {} of {}", count(*n_images), count(*n_available)),
    };
    let size = format!(
        "{height} × {width}, {channels} channel{}",
        if *channels == 1 { "" } else { "s" }
    );
    let noun = if items.is_some() { "items" } else { "images" };
    let trained = match trained_on {
        Some(trained_on) => {
            let mut trained = format!("{} {noun}", count(trained_on.n_images));
            let trained_dataset = trained_on.dataset.to_string();
            if trained_dataset != dataset.to_string() {
                trained = format!("{trained} of {trained_dataset}");
            }
            if trained_on.pixels != *pixels && items.is_none() {
                trained = format!("{trained}, {}", trained_on.pixels.in_words());
            }
            trained
        }
        None => "unknown".to_owned(),
    };
    page.write_str("<dl class=\"images\">\n")?;
    let mut entry = |term: &str, text: &str| {
        writeln!(page, "<div><dt>{term}</dt><dd>{}</dd></div>", Escaped(text))
    };
    entry(noun, &format!("{dataset}, {split}"))?;
    entry("measured", &measured)?;
    match items {
        Some(items) => entry("what they are", items)?,
        None => {
            entry("pixels", pixels.in_words())?;
            entry("size", &size)?;
        }
    }
    if let Some(crop) = crop {
        entry("crop", &crop_in_words(crop))?;
    }
    entry("trained on", &trained)?;
    entry("seed", &section.seed.to_string())?;
    entry("took", &duration(section.seconds))?;
    page.write_str("</dl>\n")
}

fn duration(seconds: f64) -> String {
    match seconds {
        ..10.0 => format!("{seconds:.1} s"),
        ..120.0 => format!("{seconds:.0} s"),
        ..7200.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

fn table(page: &mut impl Write, measures: &[Measure]) -> fmt::Result {
    page.write_str(
        "<table class=\"measures\">\n<thead><tr><th scope=\"col\">measure</th>\
         <th scope=\"col\" class=\"value\">value</th><th scope=\"col\">unit</th>\
         <th scope=\"col\">protocol</th></tr></thead>\n<tbody>\n",
    )?;
    for measure in measures {
        let (value, error) = value_and_error(measure);
        write!(page, "<tr><th scope=\"row\">{}", Escaped(&measure.label))?;
        if words(&measure.name) != measure.label.to_lowercase() {
            write!(page, "<code>{}</code>", Escaped(&measure.name))?;
        }
        write!(page, "</th><td class=\"value\"><b>{value}</b>")?;
        if let Some(error) = error {
            write!(page, " <span class=\"error\">± {error}</span>")?;
        }
        write!(page, " {}</td>", arrow(measure.better))?;
        write!(
            page,
            "<td class=\"unit\">{}</td><td class=\"protocol\">{}",
            Escaped(&measure.unit),
            Escaped(measure.how()),
        )?;
        if !measure.note.is_empty() {
            write!(page, " <i>({})</i>", Escaped(&measure.note))?;
        }
        page.write_str("</td></tr>\n")?;
    }
    page.write_str("</tbody>\n</table>\n")
}

/// An arrow in the direction that is better.
pub(super) fn arrow(better: Option<Better>) -> &'static str {
    match better {
        Some(Better::Lower) => "<abbr class=\"way\" title=\"lower is better\">↓</abbr>",
        Some(Better::Higher) => "<abbr class=\"way\" title=\"higher is better\">↑</abbr>",
        None => "<span class=\"way\"></span>",
    }
}

fn not_measured(page: &mut impl Write, reasons: &BTreeMap<String, String>) -> fmt::Result {
    if reasons.is_empty() {
        return Ok(());
    }
    page.write_str("<dl class=\"missing\">\n<dt class=\"head\">Not measured</dt>\n")?;
    for (name, reason) in reasons {
        writeln!(
            page,
            "<div><dt><code>{}</code></dt><dd>{}</dd></div>",
            Escaped(name),
            Escaped(reason)
        )?;
    }
    page.write_str("</dl>\n")
}

/// The number of published values that are not folded.
const N_SHOWN: usize = 8;

/// Published values of a measure beside the model's own.
fn comparison(page: &mut impl Write, measure: &Measure, published: &[Comparison]) -> fmt::Result {
    let of_measure: Vec<&Comparison> = published
        .iter()
        .filter(|comparison| comparison.published.measure == measure.name)
        .collect();
    if of_measure.is_empty() {
        return Ok(());
    }
    let (own, _) = value_and_error(measure);
    writeln!(
        page,
        "<div class=\"published\"><h3>Published values of the {}</h3>\n\
         <p>This model: <b>{own}</b> {} {}. Those of the same data set, nearest protocol first, then nearest value. \
         A value of another protocol is neither better nor worse.</p>",
        Escaped(&measure.label),
        Escaped(&measure.unit),
        arrow(measure.better),
    )?;
    let (shown, rest) = of_measure.split_at(of_measure.len().min(N_SHOWN));
    published_table(page, shown)?;
    if !rest.is_empty() {
        writeln!(page, "<details><summary>{} more</summary>", rest.len())?;
        published_table(page, rest)?;
        page.write_str("</details>\n")?;
    }
    page.write_str("</div>\n")
}

fn published_table(page: &mut impl Write, comparisons: &[&Comparison]) -> fmt::Result {
    page.write_str(
        "<table>\n<thead><tr><th scope=\"col\" class=\"value\">value</th>\
         <th scope=\"col\">model</th><th scope=\"col\">what differs</th>\
         <th scope=\"col\">source</th></tr></thead>\n<tbody>\n",
    )?;
    for comparison in comparisons {
        let published = &comparison.published;
        let decimals = published.decimals;
        let value = with_decimals(published.value, decimals);
        write!(page, "<tr><td class=\"value\"><b>{value}</b>")?;
        if let Some(error) = published.error {
            let error = with_decimals(error, decimals);
            write!(page, " <span class=\"error\">± {error}</span>")?;
        }
        write!(page, "</td><td>{}", Escaped(&published.model))?;
        if let Some(note) = &published.note {
            write!(page, "<small>{}</small>", Escaped(note))?;
        }
        page.write_str("</td><td class=\"differs\">")?;
        let (same, differs) = (list(comparison.same()), list(comparison.differs()));
        match differs.is_empty() {
            true => page.write_str("no known difference")?,
            false => write!(page, "{}", Escaped(differs))?,
        }
        if !same.is_empty() {
            write!(page, "<small>same: {}</small>", Escaped(same))?;
        }
        write!(
            page,
            "</td><td><a href=\"{}\">{}</a>",
            Escaped(&published.url),
            Escaped(&published.paper)
        )?;
        let table = published.table.as_deref().map(|table| format!("{table}; "));
        let seen = match published.is_from_memory() {
            true => "",
            false => "seen in ",
        };
        writeln!(
            page,
            "<small>{}{seen}{}</small></td></tr>",
            Escaped(table.unwrap_or_default()),
            Escaped(&published.verified)
        )?;
    }
    page.write_str("</tbody>\n</table>\n")
}

/// Fields as text.
fn list<'a>(fields: impl Iterator<Item = &'a Field>) -> String {
    let words: Vec<String> = fields.map(ToString::to_string).collect();
    words.join("; ")
}

/// The headline results, at most six, in the order of a report.
pub(super) fn headlines<'a>(sections: &BTreeMap<Topic, &'a Section>) -> Vec<&'a Measure> {
    type Wanted = (Topic, &'static [fn(&str) -> bool]);
    // The first of each row that exists.
    let rows: [Wanted; 8] = [
        (
            Topic::Likelihood,
            &[|name| name == "nll", |name| name == "elbo"],
        ),
        (Topic::Likelihood, &[|name| name == "bits_per_dim"]),
        (Topic::Pictures, &[|name| name.starts_with("fid")]),
        (
            Topic::Pictures,
            &[|name| name == "ssim", |name| name == "mse"],
        ),
        (Topic::Latents, &[|name| name == "active_units"]),
        (
            Topic::Latents,
            &[
                |name| name.contains("probe") && name.contains("accuracy"),
                |name| name.contains("probe") || name.contains("knn"),
            ],
        ),
        (Topic::Latents, &[|name| name == "cluster_accuracy"]),
        (
            Topic::Disentanglement,
            &[
                |name| name == "mig",
                |name| name.starts_with("factor"),
                |name| name.starts_with("dci"),
            ],
        ),
    ];
    let found = rows.iter().filter_map(|(topic, ways)| {
        let measures = &sections.get(topic)?.findings.measures;
        ways.iter()
            .find_map(|is_it| measures.iter().find(|measure| is_it(&measure.name)))
    });
    let mut found: Vec<&Measure> = found.take(6).collect();
    if found.is_empty() {
        let all = sections
            .values()
            .flat_map(|section| &section.findings.measures);
        found.extend(all.take(3));
    }
    found
}

/// The short name of a headline.
pub(super) fn short_label(measure: &Measure) -> String {
    match measure.name.as_str() {
        "nll" | "elbo" | "mse" | "ssim" | "mig" => measure.name.to_uppercase(),
        // Short enough for one line, like the others.
        "active_units" | "linear_probe_accuracy" | "cluster_accuracy" => words(&measure.name),
        name if name.starts_with("fid") => words(&name.replacen("fid", "FID", 1)),
        _ => measure.label.clone(),
    }
}
