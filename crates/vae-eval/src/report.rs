//! `eval.json`: the results of an evaluation, with how they were measured.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};
use vae_data::read_small_text;
use vae_model::write_whole;
use vae_run::RunError;

use crate::measure::Measure;
use crate::{EvalError, ImagesUsed};

/// The file's name in a run's folder.
pub const REPORT_FILE: &str = "eval.json";

/// All results of one checkpoint of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The model.
    pub subject: Subject,
    /// The sections by topic; topics that were not measured are missing.
    pub sections: BTreeMap<Topic, Section>,
}

/// The model that was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// The folder of the run, as given by the user.
    pub run: String,
    /// The name of the checkpoint's folder; empty for weights that belong to no run.
    pub checkpoint: String,
    /// Complete epochs of training.
    pub epoch: u64,
    /// Optimizer steps.
    pub step: u64,
    /// SHA-256 of the weights file. Sections of different weights are never combined.
    pub weights_sha256: String,
    /// Whether the weights are exponential moving averages (`training.ema_decay`).
    pub averaged_weights: bool,
    /// The parts in one line: network, posterior, prior, likelihood, objective.
    pub model: String,
    /// Z.
    pub latent_dims: i64,
    /// The number of trainable parameters.
    pub n_parameters: usize,
}

/// The topic of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// The likelihood of held-out images.
    Likelihood,
    /// The quality of reconstructions and samples.
    Pictures,
    /// The quality of reconstructed and sampled sound.
    Sound,
    /// The information in the latents.
    Latents,
    /// Whether single latent dimensions correspond to single factors of the images.
    Disentanglement,
}

impl Topic {
    /// All topics, in the order of a report.
    pub const ALL: [Topic; 5] = [
        Topic::Likelihood,
        Topic::Pictures,
        Topic::Sound,
        Topic::Latents,
        Topic::Disentanglement,
    ];

    /// The name for display.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Likelihood => "Likelihood",
            Self::Pictures => "Pictures",
            Self::Sound => "Sound",
            Self::Latents => "Latents",
            Self::Disentanglement => "Disentanglement",
        }
    }
}

/// Results of one topic, measured together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// The images that were measured.
    pub images: ImagesUsed,
    /// The results.
    #[serde(flatten)]
    pub findings: Findings,
    /// The seed of all draws.
    pub seed: u64,
    /// Wall time in seconds.
    pub seconds: f64,
}

impl Section {
    /// A section of findings. A measure or list with values that are not finite, which JSON cannot represent, is listed
    /// among those that were not measured.
    #[must_use]
    pub fn new(images: ImagesUsed, mut findings: Findings, seed: u64, seconds: f64) -> Self {
        let not_measured = &mut findings.not_measured;
        findings.measures.retain(|measure| {
            let is_finite = measure.value.is_finite() && measure.error.is_none_or(f64::is_finite);
            if !is_finite {
                not_measured.insert(measure.name.clone(), format!("is {}", measure.value));
            }
            is_finite
        });
        findings.lists.retain(|name, list| {
            let odd = list.iter().find(|value| !value.is_finite());
            if let Some(odd) = odd {
                not_measured.insert(name.clone(), format!("has {odd} among its numbers"));
            }
            odd.is_none()
        });
        Self {
            images,
            findings,
            seed,
            seconds,
        }
    }
}

/// The result of measuring a topic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// The results, in the order of a table.
    pub measures: Vec<Measure>,
    /// Common measures that could not be measured, by name, each with the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub not_measured: BTreeMap<String, String>,
    /// Lists that belong to the results, by name, such as `kl_per_dimension`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lists: BTreeMap<String, Vec<f64>>,
}

impl Findings {
    /// The measure with this name.
    #[must_use]
    pub fn measure(&self, name: &str) -> Option<&Measure> {
        self.measures.iter().find(|measure| measure.name == name)
    }
}

/// Called with the progress of a measurement: the current task, the number done, the total.
pub type Progress<'a> = dyn FnMut(&str, usize, usize) + 'a;

/// Bytes of the largest `eval.json`.
const LARGEST_REPORT: u64 = 1 << 26;

impl Report {
    /// A run's report; none if it was not evaluated yet.
    ///
    /// # Errors
    /// The file cannot be read, or is not a report of this version.
    pub fn read(run: &Path) -> Result<Option<Self>, EvalError> {
        let path = run.join(REPORT_FILE);
        let text = match read_small_text(&path, LARGEST_REPORT) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => text.map_err(RunError::io(&path))?,
        };
        let report = serde_json::from_str(&text).map_err(|error| EvalError::File {
            path,
            problem: format!("is not a report of this version ({error}); `vae eval` rewrites it"),
        })?;
        Ok(Some(report))
    }

    /// Writes it to the run's folder. It appears under its name only when it is whole.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn write(&self, run: &Path) -> Result<(), EvalError> {
        let path = run.join(REPORT_FILE);
        let mut text = serde_json::to_string_pretty(self).expect("a report is JSON");
        text.push('\n');
        Ok(write_whole(&path, text.as_bytes()).map_err(RunError::io(&path))?)
    }

    /// This report, completed by sections of an earlier one if that is of the same weights.
    #[must_use]
    pub fn with_sections_of(mut self, earlier: Report) -> Self {
        if earlier.subject.weights_sha256 == self.subject.weights_sha256 {
            for (topic, section) in earlier.sections {
                self.sections.entry(topic).or_insert(section);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use vae_data::DatasetIdentity;

    use super::*;
    use crate::Protocol;
    use crate::{Pixels, SplitUsed, TrainedOn};

    fn images() -> ImagesUsed {
        let digits = DatasetIdentity {
            source: "digits".to_owned(),
            ..DatasetIdentity::default()
        };
        ImagesUsed {
            dataset: digits.clone(),
            fingerprint: 1,
            split: SplitUsed::Test,
            n_images: 3,
            n_available: 10,
            shape: [1, 28, 28],
            items: None,
            pixels: Pixels::Dynamic,
            crop: None,
            trained_on: Some(TrainedOn {
                dataset: digits,
                n_images: 60,
                pixels: Pixels::Gray,
            }),
        }
    }

    #[test]
    fn items_that_are_no_images_are_called_what_they_are() {
        let texts = ImagesUsed {
            items: Some("texts of at most 33 tokens".to_owned()),
            ..images()
        };
        let said = texts.to_string();
        assert!(
            said.ends_with("10 test texts of at most 33 tokens"),
            "{said}"
        );
        assert_eq!(texts.identifying(), images().identifying());
    }

    #[test]
    fn what_is_no_number_is_said_and_the_rest_survives_the_file() {
        let findings = Findings {
            measures: vec![
                Measure::new("psnr", "PSNR", f64::INFINITY),
                Measure::new("nll", "NLL", 90.5)
                    .error(0.25)
                    .unit("nats per image")
                    .lower_is_better()
                    .protocol(Protocol::ImportanceWeighted {
                        n_samples: 7,
                        n_images: None,
                    })
                    .note("by chance"),
            ],
            not_measured: BTreeMap::new(),
            lists: BTreeMap::from([
                ("kl".to_owned(), vec![0.5, 1.0]),
                ("odd".to_owned(), vec![f64::NAN]),
            ]),
        };
        let section = Section::new(images(), findings, 1, 2.0);
        let names: Vec<_> = section.findings.measures.iter().map(|m| &m.name).collect();
        assert_eq!(names, ["nll"]);
        assert_eq!(section.findings.not_measured["psnr"], "is inf");
        assert_eq!(
            section.findings.not_measured["odd"],
            "has NaN among its numbers"
        );
        let line = section.findings.measures[0].to_string();
        assert_eq!(line, "90.50 ± 0.25 nats per image");
        let line = section.images.to_string();
        assert_eq!(
            line,
            "digits, first 3 of 10 test images of 1×28×28, dynamic (trained on gray)"
        );

        let folder = tempfile::tempdir().expect("a folder");
        let subject = |weights: &str| Subject {
            run: "runs/x".to_owned(),
            checkpoint: "epoch-0001".to_owned(),
            epoch: 1,
            step: 10,
            weights_sha256: weights.to_owned(),
            averaged_weights: false,
            model: "mlp".to_owned(),
            latent_dims: 2,
            n_parameters: 5,
        };
        let report = Report {
            subject: subject("a"),
            sections: BTreeMap::from([(Topic::Likelihood, section)]),
        };
        assert_eq!(Report::read(folder.path()).expect("none yet"), None);
        report.write(folder.path()).expect("written");
        let read = Report::read(folder.path())
            .expect("read")
            .expect("a report");
        assert_eq!(read, report);

        // Sections of the same weights are kept, others are not.
        let bare = |weights| Report {
            subject: subject(weights),
            sections: BTreeMap::new(),
        };
        assert_eq!(bare("a").with_sections_of(report.clone()).sections.len(), 1);
        assert_eq!(bare("b").with_sections_of(report).sections.len(), 0);
    }
}
