//! The page of a report: complete, safe, and without references to other files.

use std::collections::BTreeMap;

use vae_data::{DatasetIdentity, KnownDataset, RecognizedBy};
use vae_eval::{
    Figures, Findings, ImagesUsed, Measure, Picture, Pixels, Protocol, Report, ScoreProtocol,
    Section, SplitUsed, Subject, Topic, TrainedOn, comparisons, render,
};
use vae_model::{Crop, Direction, Term};
use vae_run::{Means, Position, Record};

/// A hostile text that a path, a label or a reason could contain.
const HOSTILE: &str = "<script>alert('x')</script> & \"quotes\" </style> <img src=http://x>";

fn report() -> Report {
    let images = ImagesUsed {
        dataset: DatasetIdentity {
            name: KnownDataset::Mnist,
            recognized_by: Some(RecognizedBy::Digest),
            source: "mnist".to_owned(),
        },
        fingerprint: 1,
        split: SplitUsed::Test,
        n_images: 1000,
        n_available: 10_000,
        shape: [1, 28, 28],
        items: None,
        pixels: Pixels::Dynamic,
        crop: Some(Crop::Center { fraction: 0.5 }),
        trained_on: Some(TrainedOn {
            dataset: DatasetIdentity {
                source: HOSTILE.to_owned(),
                ..DatasetIdentity::default()
            },
            n_images: 60_000,
            pixels: Pixels::Gray,
        }),
    };
    let nll = Measure::new("nll", "negative log-likelihood", 92.51)
        .error(0.24)
        .unit("nats per image")
        .lower_is_better()
        .protocol(Protocol::ImportanceWeighted {
            n_samples: 500,
            n_images: None,
        });
    let odd = Measure::new(HOSTILE, HOSTILE, f64::NAN)
        .error(f64::INFINITY)
        .unit(HOSTILE)
        .at_least()
        .protocol(Protocol::Disentanglement {
            score: ScoreProtocol::Bins {
                n_images: 3,
                n_bins: 2,
            },
            factors: vec![HOSTILE.to_owned()],
        });
    let section = |measures: Vec<Measure>| Section {
        images: images.clone(),
        findings: Findings {
            measures,
            not_measured: [(HOSTILE.to_owned(), HOSTILE.to_owned())].into(),
            lists: [
                ("kl_per_dimension".to_owned(), vec![1.5, 0.0, 2.5]),
                (HOSTILE.to_owned(), vec![-1.0, f64::NAN]),
                ("empty".to_owned(), Vec::new()),
            ]
            .into(),
        },
        seed: 7,
        seconds: 12.3,
    };
    let named = |name: &str| Measure::new(name, &format!("the {name}"), 0.5).higher_is_better();
    Report {
        subject: Subject {
            run: format!("runs/{HOSTILE}"),
            checkpoint: "best".to_owned(),
            epoch: 2,
            step: 100,
            weights_sha256: "0123456789abcdef".repeat(4),
            averaged_weights: true,
            latent_dims: 50,
            model: HOSTILE.to_owned(),
            n_parameters: 1_234_567,
        },
        sections: BTreeMap::from([
            (Topic::Likelihood, section(vec![nll, odd])),
            (Topic::Pictures, section(vec![named("fid_inception")])),
            (
                Topic::Latents,
                section(vec![named("linear_probe_accuracy")]),
            ),
            (Topic::Disentanglement, section(vec![named("mig")])),
        ]),
    }
}

fn figures() -> Figures {
    let record = |epoch: u64, split: &str| {
        let position = Position {
            epochs: epoch,
            steps: 50 * epoch,
        };
        let means = Means {
            elbo: Some(-100.0 + epoch as f64),
            reconstruction: Some(80.0),
            kl: Some(20.0),
            loss: 100.0,
        };
        let mut record = Record::new(position, split, means);
        for name in ["total_correlation", HOSTILE] {
            record.named.insert(name.to_owned(), epoch as f64);
        }
        record
    };
    Figures {
        records: (1..=3)
            .flat_map(|epoch| [record(epoch, "train"), record(epoch, "validation")])
            .collect(),
        terms: vec![Term::new("total_correlation", HOSTILE, Direction::Lower)],
        pictures: vec![Picture {
            title: HOSTILE.to_owned(),
            caption: HOSTILE.to_owned(),
            alt: HOSTILE.to_owned(),
            png: b"not really".to_vec(),
            width: 10,
            height: 10,
        }],
        pictures_of: HOSTILE.to_owned(),
        steps: Vec::new(),
        origin: vec![("data".to_owned(), HOSTILE.to_owned())],
        settings: vec![(HOSTILE.to_owned(), HOSTILE.to_owned())],
    }
}

/// Every tag of a page, without its angle brackets; the text of `<style>` aside.
fn tags(page: &str) -> Vec<&str> {
    let mut tags = Vec::new();
    let mut rest = page;
    while let Some(start) = rest.find('<') {
        let end = start + rest[start..].find('>').expect("a tag ends");
        let tag = &rest[start + 1..end];
        tags.push(tag);
        rest = &rest[end + 1..];
        if tag == "style" {
            rest = &rest[rest.find("</style>").expect("styles end")..];
        }
    }
    tags
}

#[test]
fn tags_are_closed_in_the_order_in_which_they_were_opened() {
    const VOID: [&str; 5] = ["meta", "img", "br", "input", "!DOCTYPE"];
    let page = page();
    let mut open = Vec::new();
    for tag in tags(&page) {
        let name = tag.split([' ', '\n', '/']).find(|part| !part.is_empty());
        let name = name.expect("a tag has a name");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}>");
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
    }
    assert_eq!(open, Vec::<&str>::new());
}

fn page() -> String {
    let report = report();
    render(&report, &figures(), &comparisons(&report))
}

#[test]
fn nothing_is_loaded_and_nothing_runs() {
    let page = page();
    assert!(!page.contains("<script"));
    assert!(!page.contains("@import") && !page.contains("@font-face"));
    for tag in tags(&page) {
        let loads = ["src=\"http", "href=\"http", "url("]
            .iter()
            .any(|way| tag.contains(way));
        assert!(tag.starts_with("a ") || !loads, "<{tag}>");
        assert!(!tag.starts_with("link"), "<{tag}>");
        if let Some((_, source)) = tag.split_once("src=\"") {
            assert!(source.starts_with("data:image/png;base64,"), "<{tag}>");
        }
        // An even number of quotes: a text that breaks out of its attribute would add one.
        assert!(tag.matches('"').count().is_multiple_of(2), "<{tag}>");
    }
}

#[test]
fn all_that_was_measured_is_there() {
    let page = page();
    let hostile = "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;";
    for text in [
        "92.51",
        "± 0.24",
        "nats per image",
        "K = 500",
        "the fid_inception",
        "the linear_probe_accuracy",
        "the mig",
        "not a number",
        "± inf",
        "first 1,000 of 10,000",
        "60,000 images of &lt;script&gt;alert",
        "center, 0.5 of the shorter side",
        "≥ not a number",
        "1,234,567",
        "0123456789ab",
        "averaged",
        "kl per dimension",
        "Not measured",
        "Learning curves",
        "total correlation, &lt;script",
        // Published results with the differences of their protocols.
        "86.76",
        "K = 5000 instead of 500",
        "https://arxiv.org/abs/1509.00519",
        hostile,
    ] {
        assert!(page.contains(text), "{text} is not on the page");
    }
    // elbo, reconstruction, kl and two terms of the objective, each on both splits.
    assert_eq!(page.matches("<polyline").count(), 10);
    assert!(page.matches("<rect").count() >= 4);
}

#[test]
fn a_report_of_nothing_is_a_page() {
    let report = Report {
        sections: BTreeMap::new(),
        ..report()
    };
    let page = render(&report, &Figures::default(), &[]);
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
}
