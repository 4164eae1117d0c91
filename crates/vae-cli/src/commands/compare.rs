//! `vae compare`: runs side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use indicatif::HumanCount;
use serde_json::json;
use toml::{Table, Value};
use tracing::warn;
use vae_base::dotted;
use vae_base::{one_line, write_whole};
use vae_eval::{
    Better, Block, Estimate, EvalError, ImagesUsed, Measure, Picture, Report, Section, Topic,
    differing_fields, render_comparison, verdicts,
};
use vae_model::{Direction, Term};
use vae_run::{Metric, Overview, Record, RunDir, read_config};
use vae_view::format::Content;
use vae_view::{Plot, curves, picture};

use super::side_by_side::{Measured, SideBySide, measured};
use super::table::Listing;
use super::{name_of, picture_name, table};
use crate::Done;
use crate::device::DeviceChoice;
use crate::output::{self, out, say};

/// Compare runs: metrics, results of `vae eval`, the config keys in which they differ, and pictures side by side
///
/// Says which run is better: ◂ marks the best value, ≈ one whose difference from it is within the noise (less than twice its standard
/// error), and of the others it says by how much they are worse. For this the models are opened, and measured on the same validation
/// images with the same noise (not with --quick): the difference image by image is known much better than both means. Its error is
/// that of the images; a run with another seed differs as well.
///
/// Metrics are measured on validation images, in nats per image, at the best epoch and at the last one. The best epoch is chosen by
/// --metric or, without it, by checkpoints.metric of each run's config. Named terms of an objective have columns of their own, with
/// an arrow in the direction that is better. Metrics are comparable only between runs on the same images with the same likelihood.
/// Results of `vae eval` that were measured by different protocols are marked.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae compare runs/mnist runs/mnist-2 --out elbo.png
  vae compare runs/beta-1 runs/beta-4 --html compared.html
  vae compare runs/beta-1 runs/beta-4 --pictures side-by-side.png")]
pub(crate) struct Args {
    /// The folders of two or more runs
    #[arg(value_name = "RUN", required = true, num_args = 2..)]
    runs: Vec<PathBuf>,

    /// A plot to write (.png, .svg, …): the validation metric of the runs by epoch
    #[arg(long, short, value_name = "FILE.png", value_parser = name_of(Content::Plot))]
    out: Option<PathBuf>,

    /// A picture to write: reconstructions of the same validation images, and samples of the same noise
    #[arg(long, value_name = "FILE.png", value_parser = picture_name(), conflicts_with = "quick")]
    pictures: Option<PathBuf>,

    /// A page to write with everything: one file, which loads nothing from elsewhere
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,

    /// Only what the runs' files say: no model is opened
    #[arg(long)]
    quick: bool,

    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,

    /// The validation metric of the picture and of the best epochs, by its name in metrics.jsonl
    /// [default: checkpoints.metric of the runs; in the picture elbo where they differ]
    #[arg(long, value_name = "NAME")]
    metric: Option<String>,

    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

/// One run of several.
struct Compared {
    name: String,
    run_dir: RunDir,
    overview: Overview,
    /// The declarations of the numbers in its records.
    terms: Vec<Term>,
    /// The metric by which its best epoch is chosen.
    metric: Metric,
    /// The config's values by their dotted keys.
    settings: BTreeMap<String, Value>,
    /// The results of `vae eval`, if it was evaluated.
    report: Option<Report>,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let runs = args
        .runs
        .iter()
        .map(|path| open(path, args.metric.as_deref()))
        .collect::<Result<Vec<_>>>()?;
    if let Some(name) = &args.metric
        && runs.iter().all(|run| run.overview.best.is_none())
    {
        bail!("--metric {name}: no run has logged it on validation images");
    }
    let differences = differences(&runs);
    let decides =
        |key: &&String| key.starts_with("dataset.") || key.starts_with("model.likelihood");
    if let Some(key) = differences.iter().find(decides) {
        say!("note: the runs differ in {key}; their metrics may not be comparable");
    }
    let plot = match args.out.is_some() || args.html.is_some() {
        true => {
            let records = runs
                .iter()
                .map(|run| Ok((run.name.clone(), run.run_dir.records()?)))
                .collect::<Result<Vec<_>>>()?;
            let terms = all_terms(&runs);
            Some(curves::comparison(&records, &shared_metric(&runs), &terms)?)
        }
        false => None,
    };
    if let (Some(out), Some(plot)) = (&args.out, &plot) {
        plot.save(out)?;
    }
    let measured = match args.quick {
        true => None,
        false => side_by_side(&args)?,
    };
    let picture = measured.as_ref().and_then(|found| found.picture.as_ref());
    if let Some(path) = &args.pictures {
        let picture = picture.context("--pictures: the models cannot be shown side by side")?;
        picture::save(
            &picture.labeled.draw(&picture.tiles, picture.columns)?,
            path,
        )?;
    }
    let mut tables = vec![metrics(&runs)];
    tables.extend(measured.as_ref().map(|found| found.table.clone()));
    tables.extend(evaluations(&runs));
    tables.extend(config_table(&runs, &differences));
    if let Some(path) = &args.html {
        write_page(path, &runs, &tables, plot.as_ref(), picture)?;
    }
    if args.json {
        print_json(&runs, &differences, measured.as_ref(), &args)?;
        return Ok(Done::Fully);
    }
    for (i, found) in tables.iter().enumerate() {
        if i > 0 {
            out!();
        }
        let header: Vec<&str> = found.header.iter().map(String::as_str).collect();
        table::print(1, &header, found.rows.clone());
        found
            .notes
            .iter()
            .for_each(|note| out!("{}", one_line(note)));
    }
    if differences.is_empty() {
        out!("\nThe configs are the same.");
    }
    if let Some(picture) = picture {
        picture.print_in_terminal()?;
    }
    for path in [&args.out, &args.pictures, &args.html]
        .into_iter()
        .flatten()
    {
        out!();
        output::print_path(path);
    }
    Ok(Done::Fully)
}

/// The models side by side; none, with a note, if they cannot be opened or their images differ.
fn side_by_side(args: &Args) -> Result<Option<Measured>> {
    let device = args.device.select()?;
    match measured(&args.runs, device) {
        Ok(found) => Ok(Some(found)),
        Err(error) => {
            say!(
                "note: the models are not measured side by side: {}",
                output::whole(&error)
            );
            Ok(None)
        }
    }
}

fn write_page(
    path: &Path,
    runs: &[Compared],
    tables: &[Listing],
    plot: Option<&Plot>,
    picture: Option<&SideBySide>,
) -> Result<()> {
    let mut blocks: Vec<Block> = tables
        .iter()
        .map(|found| Block::Table {
            title: found.title.clone(),
            header: found.header.clone(),
            rows: found.rows.clone(),
            notes: found.notes.clone(),
        })
        .collect();
    if let Some(plot) = plot {
        blocks.push(Block::Plot {
            title: "Learning curves".to_owned(),
            svg: plot.svg()?,
        });
    }
    if let Some(SideBySide {
        labeled,
        tiles,
        columns,
    }) = picture
    {
        let drawn = labeled.draw(tiles, *columns)?;
        blocks.push(Block::Picture(Picture::new(
            "The same images",
            format!("{}; {}.", labeled.title, labeled.subtitle),
            "Originals, reconstructions and samples, a row for each run".to_owned(),
            &drawn,
        )?));
    }
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let about = format!("{} runs, on validation images", runs.len());
    let page = render_comparison(&names.join(" and "), &about, &blocks);
    write_whole(path, page.as_bytes()).with_context(|| path.display().to_string())
}

/// The metric that all runs share, or elbo if they differ in it.
fn shared_metric(runs: &[Compared]) -> Metric {
    let mut metrics = runs.iter().map(|run| &run.metric);
    match metrics.next() {
        Some(first) if metrics.all(|metric| metric == first) => first.clone(),
        _ => Metric::Elbo,
    }
}

fn all_terms(runs: &[Compared]) -> Vec<Term> {
    runs.iter().flat_map(|run| run.terms.clone()).collect()
}

fn open(path: &Path, metric: Option<&str>) -> Result<Compared> {
    let run_dir = RunDir::open(path)?;
    let mut overview = Overview::read(&run_dir)?;
    let terms = run_dir.terms()?;
    let metric = match metric {
        None => run_dir.config()?.checkpoint_metric(),
        Some(name) => {
            let metric = Metric::from(name);
            let records = run_dir.records()?;
            overview.best = metric.ranking(&terms).best(&records).cloned();
            metric
        }
    };
    let file = run_dir.config_file();
    let text = read_config(&file).with_context(|| file.display().to_string())?;
    let config: Table = text.parse().with_context(|| file.display().to_string())?;
    let entries = |value: &Value| Some(value.as_table()?.clone().into_iter().collect());
    let settings = dotted(&Value::Table(config), &entries);
    let report = match Report::read(path) {
        Err(error @ EvalError::File { .. }) => {
            warn!("{error}");
            None
        }
        report => report?,
    };
    Ok(Compared {
        terms,
        metric,
        report,
        name: path.display().to_string(),
        run_dir,
        overview,
        settings,
    })
}

/// The keys whose values differ between the runs.
fn differences(runs: &[Compared]) -> Vec<String> {
    let keys: BTreeSet<&String> = runs.iter().flat_map(|run| run.settings.keys()).collect();
    let differs = |key: &&&String| {
        let mut values = runs.iter().map(|run| run.settings.get(**key));
        let first = values.next();
        values.any(|value| Some(value) != first)
    };
    keys.iter()
        .filter(differs)
        .map(|key| (*key).clone())
        .collect()
}

fn print_json(
    runs: &[Compared],
    differences: &[String],
    measured: Option<&Measured>,
    args: &Args,
) -> Result<()> {
    let mut metrics = Vec::new();
    for run in runs {
        let mut entry = serde_json::to_value(&run.overview)?;
        entry["run"] = json!(run.name);
        entry["evaluation"] = json!(run.report);
        metrics.push(entry);
    }
    let values = |key: &String| runs.iter().map(|run| run.settings.get(key)).collect();
    let differences: BTreeMap<&String, Vec<Option<&Value>>> =
        differences.iter().map(|key| (key, values(key))).collect();
    let all = json!({
        "runs": metrics,
        "differences": differences,
        "validation": measured.map(|found| &found.json),
        "picture": args.out,
        "pictures": args.pictures,
        "html": args.html,
    });
    out!("{}", serde_json::to_string_pretty(&all)?);
    Ok(())
}

fn metrics(runs: &[Compared]) -> Listing {
    let shown: Vec<Record> = runs
        .iter()
        .flat_map(|run| [&run.overview.best, &run.overview.last_validation])
        .flatten()
        .cloned()
        .collect();
    let named = Record::named_terms(&shown, &all_terms(runs));
    let titles: Vec<String> = named.iter().map(column_title).collect();
    let mut header = vec!["run", "elbo", "reconstruction", "kl"];
    header.extend(titles.iter().map(String::as_str));
    header.extend(["epoch", "state", "time", "parameters"]);
    let mut rows = Vec::new();
    for run in runs {
        let overview = &run.overview;
        let parameters = overview.n_parameters.map(|n| HumanCount(n as u64));
        let time = table::duration(overview.seconds);
        let parameters = parameters.map_or(table::UNKNOWN.to_owned(), |n| n.to_string());
        let last = &overview.last_validation;
        let of_run = [overview.state.name(), &time, &parameters];
        let is_last = |best: &Record| last.as_ref().is_some_and(|last| last.epoch == best.epoch);
        let lines = match &overview.best {
            Some(best) if is_last(best) => vec![("best and last", last, of_run)],
            _ => vec![
                ("best", &overview.best, ["", "", ""]),
                ("last", last, of_run),
            ],
        };
        for (which, record, rest) in lines {
            let means = record.as_ref().map(|record| record.means);
            let epoch = record.as_ref().map(|record| record.epoch);
            let mut row = vec![
                format!("{}, {which}", run.name),
                table::nats(means.and_then(|means| means.elbo)),
                table::nats(means.and_then(|means| means.reconstruction)),
                table::nats(means.and_then(|means| means.kl)),
            ];
            row.extend(named.iter().map(|term| {
                let value = record.as_ref().and_then(|r| r.named.get(&*term.name));
                value.map_or(table::UNKNOWN.to_owned(), |value| format!("{value:.4}"))
            }));
            row.push(epoch.map_or(table::UNKNOWN.to_owned(), |epoch| {
                format!("{epoch}/{}", overview.planned_epochs)
            }));
            row.extend(rest.map(str::to_owned));
            rows.push(row);
        }
    }
    Listing {
        title: "Metrics on validation images".to_owned(),
        header: header.into_iter().map(str::to_owned).collect(),
        rows,
        notes: Vec::new(),
    }
}

/// The name, and an arrow in the better direction.
fn column_title(term: &Term) -> String {
    let arrow = match term.better {
        Direction::Higher => " ↑",
        Direction::Lower => " ↓",
        Direction::Neither => "",
    };
    format!("{}{arrow}", term.name)
}

/// The results of `vae eval`, one in each row; none if no run was evaluated.
fn evaluations(runs: &[Compared]) -> Option<Listing> {
    let evaluated: Vec<&Compared> = runs.iter().filter(|run| run.report.is_some()).collect();
    let reports: Vec<&Report> = evaluated
        .iter()
        .filter_map(|run| run.report.as_ref())
        .collect();
    if reports.is_empty() {
        return None;
    }
    let names = evaluated.iter().map(|run| run.name.clone());
    let mut rows = Vec::new();
    let mut protocols = Protocols::default();
    for topic in Topic::ALL {
        rows.extend(evaluation_rows(&reports, topic, &mut protocols));
    }
    let mut notes = Vec::new();
    if !protocols.differences.is_empty() {
        notes.push(format!("{MARK} measured by different protocols:"));
    }
    for (difference, labels) in &protocols.differences {
        notes.push(format!("  {difference} ({})", labels.join(", ")));
    }
    Some(Listing {
        title: "Results of vae eval, on test images".to_owned(),
        header: std::iter::once("evaluation".to_owned())
            .chain(names)
            .collect(),
        rows,
        notes,
    })
}

/// Marks results that are not comparable.
const MARK: char = '*';

/// The differences between protocols, each with the measures that it concerns.
#[derive(Default)]
struct Protocols {
    /// `protocol.n_samples: 100, 5000` with the labels of those measures.
    differences: BTreeMap<String, Vec<String>>,
}

impl Protocols {
    /// Whether the results of a measure have the same protocol. If not, the differences are recorded.
    fn compare(&mut self, label: &str, numbers: &[(&Measure, &ImagesUsed)]) -> bool {
        let fields = differing_fields(numbers);
        for (field, values) in &fields {
            let values: Vec<String> = values.iter().map(in_words).collect();
            let difference = format!("{field}: {}", values.join(", "));
            let labels = self.differences.entry(difference).or_default();
            labels.push(label.to_owned());
        }
        fields.is_empty()
    }
}

/// A field's value as text.
fn in_words(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => table::UNKNOWN.to_owned(),
        value => value.to_string(),
    }
}

/// The images of a topic, then all measures that any of the reports has.
fn evaluation_rows(
    reports: &[&Report],
    topic: Topic,
    protocols: &mut Protocols,
) -> Vec<Vec<String>> {
    let sections: Vec<Option<&Section>> = reports
        .iter()
        .map(|report| report.sections.get(&topic))
        .collect();
    let mut names: Vec<&str> = Vec::new();
    for measure in sections
        .iter()
        .flatten()
        .flat_map(|section| &section.findings.measures)
    {
        if !names.contains(&measure.name.as_str()) {
            names.push(&measure.name);
        }
    }
    if names.is_empty() {
        return Vec::new();
    }
    let cells = |title: String, of: &dyn Fn(&Section) -> Option<String>| {
        let known = |section: &Option<&Section>| section.and_then(of);
        let unknown = || table::UNKNOWN.to_owned();
        let values = sections
            .iter()
            .map(|section| known(section).unwrap_or_else(unknown));
        std::iter::once(title)
            .chain(values)
            .collect::<Vec<String>>()
    };
    let images = |section: &Section| {
        let images = &section.images;
        let (n, pixels) = (images.n_images, &images.pixels);
        Some(format!("{} {} {n}, {pixels}", images.dataset, images.split))
    };
    let mut rows = vec![cells(topic.title().to_owned(), &images)];
    for name in names {
        let known: Vec<_> = sections
            .iter()
            .flatten()
            .filter_map(|section| Some((section.findings.measure(name)?, &section.images)))
            .collect();
        let label = known
            .first()
            .map_or(name, |(measure, _)| measure.label.as_str());
        let is_comparable = protocols.compare(label, &known);
        let better = known.first().and_then(|(measure, _)| measure.better);
        let arrow = match better {
            Some(Better::Higher) => " ↑",
            Some(Better::Lower) => " ↓",
            None => "",
        };
        let title = match is_comparable {
            true => format!("  {label}{arrow}"),
            false => format!("  {label}{arrow} {MARK}"),
        };
        let value = |section: &Section| section.findings.measure(name).map(ToString::to_string);
        let mut row = cells(title, &value);
        if let Some(better) = better.filter(|_| is_comparable) {
            let estimates: Vec<Option<Estimate>> = sections
                .iter()
                .map(|section| {
                    let measure = section.as_ref()?.findings.measure(name)?;
                    Some(Estimate {
                        value: measure.value,
                        error: measure.error,
                    })
                })
                .collect();
            for (cell, verdict) in row[1..].iter_mut().zip(verdicts(&estimates, better)) {
                if let Some(verdict) = verdict {
                    *cell += &format!("  {verdict}");
                }
            }
        }
        rows.push(row);
    }
    rows
}

/// The config keys that differ; none if no key does.
fn config_table(runs: &[Compared], differences: &[String]) -> Option<Listing> {
    let names = runs.iter().map(|run| run.name.clone());
    let rows = differences.iter().map(|key| {
        let values = runs.iter().map(|run| match run.settings.get(key) {
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => table::UNKNOWN.to_owned(),
        });
        std::iter::once(key.clone()).chain(values).collect()
    });
    (!differences.is_empty()).then(|| Listing {
        title: "Hyperparameters that differ".to_owned(),
        header: std::iter::once("config".to_owned()).chain(names).collect(),
        rows: rows.collect(),
        notes: Vec::new(),
    })
}
