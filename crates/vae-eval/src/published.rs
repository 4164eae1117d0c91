//! Published results, for comparison with a model's own.
//!
//! Results of different protocols are not comparable: a [`Comparison`] lists the fields in which they differ.

use std::fmt;

use serde::{Deserialize, Serialize};
use vae_data::KnownDataset;
use vae_model::Crop;

use crate::images_used::crop_in_words;
use crate::number::grouped;
use crate::{Extractor, ImagesUsed, Measure, Pixels, Protocol, Report, SplitUsed};

/// A published result. All known ones are in `published.toml`, each with its source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// The data set.
    pub dataset: KnownDataset,
    /// The split that was measured. Default `test`.
    #[serde(default)]
    pub split: SplitUsed,
    /// The number of images; by default all of the data set's usual test split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_images: Option<usize>,
    /// The kind of their pixels.
    pub pixels: Pixels,
    /// The name of the measure, as in [`Measure`]: `nll`, `fid_inception`.
    pub measure: String,
    /// The value, in the measure's unit.
    pub value: f64,
    /// The number of decimals in the source.
    #[serde(default = "two")]
    pub decimals: usize,
    /// The ± in the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<f64>,
    /// The model: `IWAE, k = 50, one stochastic layer`.
    pub model: String,
    /// How a likelihood was estimated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimator: Option<Estimator>,
    /// K, the number of importance samples for each image in the evaluation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_importance_samples: Option<u64>,
    /// The features by which images were compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<PublishedFeatures>,
    /// The number of images sampled from the model for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_generated: Option<u64>,
    /// The number of latent dimensions of all layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latent_dims: Option<u64>,
    /// Height and width in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_size: Option<u64>,
    /// The crop of the original image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<Crop>,
    /// The number of training images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained_on: Option<u64>,
    /// Other conditions of the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Authors and year of the paper.
    pub paper: String,
    /// The place in the paper, if it is known: `Table 1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// The paper.
    pub url: String,
    /// The public page that the value was checked against, or `from memory`.
    pub verified: String,
}

/// How log p(x) was estimated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Estimator {
    /// The elbo.
    Elbo,
    /// The importance-weighted bound of K samples.
    ImportanceWeighted,
    /// Annealed importance sampling.
    Annealed,
}

impl fmt::Display for Estimator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Elbo => "the elbo",
            Self::ImportanceWeighted => "the importance-weighted bound",
            Self::Annealed => "annealed importance sampling",
        })
    }
}

/// The features of published distances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PublishedFeatures {
    /// The last pooling layer of Inception v3, as trained on ImageNet by its authors.
    InceptionV3,
}

impl Published {
    /// Whether no public page with the value was found.
    #[must_use]
    pub fn is_from_memory(&self) -> bool {
        self.verified == "from memory"
    }
}

fn two() -> usize {
    2
}

/// A published result beside a measured one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The published result.
    pub published: Published,
    /// The fields of both protocols.
    pub fields: Vec<Field>,
}

impl Comparison {
    /// The fields in which the two protocols agree.
    pub fn same(&self) -> impl Iterator<Item = &Field> {
        self.fields.iter().filter(|field| field.agrees())
    }

    /// The fields in which they differ, or may differ.
    pub fn differs(&self) -> impl Iterator<Item = &Field> {
        self.fields.iter().filter(|field| !field.agrees())
    }
}

/// A field of the published protocol and of ours; none if the source does not state it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "field", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Field {
    /// The kind of pixels.
    Pixels {
        /// In the published protocol.
        theirs: Pixels,
        /// In ours.
        ours: Pixels,
    },
    /// The split and the number of images.
    Images {
        /// In the published protocol.
        theirs: (SplitUsed, Option<usize>),
        /// In ours.
        ours: (SplitUsed, usize),
    },
    /// How a likelihood was estimated.
    Estimator {
        /// In the published protocol.
        theirs: Option<Estimator>,
        /// In ours.
        ours: Option<Estimator>,
    },
    /// K of the importance-weighted bound.
    ImportanceSamples {
        /// In the published protocol.
        theirs: Option<u64>,
        /// In ours.
        ours: Option<u64>,
    },
    /// The features. Those of a user's file never count as the published ones.
    Features {
        /// In the published protocol.
        theirs: Option<PublishedFeatures>,
        /// In ours.
        ours: Option<Extractor>,
    },
    /// The number of images sampled from the model.
    GeneratedImages {
        /// In the published protocol.
        theirs: Option<u64>,
        /// In ours.
        ours: Option<u64>,
    },
    /// Height and width.
    Size {
        /// In the published protocol.
        theirs: [i64; 2],
        /// In ours.
        ours: [i64; 2],
    },
    /// The crop of the original image.
    Crop {
        /// In the published protocol.
        theirs: Option<Crop>,
        /// In ours.
        ours: Option<Crop>,
    },
    /// The number of training images.
    TrainingImages {
        /// In the published protocol.
        theirs: u64,
        /// In ours.
        ours: u64,
    },
    /// The data set and pixels that the model was trained on, if they differ from those it was measured on.
    TrainedOn {
        /// In the published protocol.
        theirs: (KnownDataset, Pixels),
        /// In ours.
        ours: (String, Pixels),
    },
    /// The number of latent dimensions: a property of the model, which does not count as a difference of protocols.
    LatentDims {
        /// Of the published model.
        theirs: u64,
        /// Of ours.
        ours: u64,
    },
}

impl Field {
    /// Whether both are known and equal.
    #[must_use]
    pub fn agrees(&self) -> bool {
        match self {
            Self::Pixels { theirs, ours } => theirs == ours,
            Self::Images { theirs, ours } => theirs.0 == ours.0 && theirs.1 == Some(ours.1),
            Self::Estimator { theirs, ours } => theirs.is_some() && theirs == ours,
            Self::ImportanceSamples { theirs, ours } | Self::GeneratedImages { theirs, ours } => {
                theirs.is_some() && theirs == ours
            }
            Self::Features { .. } | Self::TrainedOn { .. } => false,
            Self::Size { theirs, ours } => theirs == ours,
            Self::Crop { theirs, ours } => theirs.is_some() && theirs == ours,
            Self::TrainingImages { theirs, ours } | Self::LatentDims { theirs, ours } => {
                theirs == ours
            }
        }
    }

    /// Both sides as text.
    fn in_words(&self) -> (String, String) {
        fn or<T: fmt::Display>(value: Option<T>, unknown: &str) -> String {
            value.map_or(unknown.to_owned(), |value| value.to_string())
        }
        match self {
            Self::Pixels { theirs, ours } => (theirs.in_words().to_owned(), short(*ours)),
            Self::Images { theirs, ours } => {
                let n_theirs = theirs.1.map_or(String::new(), |n| grouped(n as u64) + " ");
                let images = |split: SplitUsed| match split {
                    SplitUsed::All => "images of all splits".to_owned(),
                    split => format!("{split} images"),
                };
                (
                    format!("{n_theirs}{}", images(theirs.0)),
                    match theirs.0 == ours.0 {
                        true => grouped(ours.1 as u64),
                        false => format!("{} {}", grouped(ours.1 as u64), images(ours.0)),
                    },
                )
            }
            Self::Estimator { theirs, ours } => {
                (or(*theirs, "an unknown estimator"), or(*ours, "none"))
            }
            Self::ImportanceSamples { theirs, ours } => (
                theirs.map_or("an unknown K".to_owned(), |k| format!("K = {k}")),
                or(*ours, "none"),
            ),
            Self::Features { theirs, ours } => (
                match theirs {
                    Some(PublishedFeatures::InceptionV3) => "the features of Inception v3",
                    None => "unknown features",
                }
                .to_owned(),
                ours.as_ref().map_or("none".to_owned(), ToString::to_string),
            ),
            Self::GeneratedImages { theirs, ours } => (
                match theirs {
                    Some(n) => format!("{} samples", grouped(*n)),
                    None => "an unknown number of samples".to_owned(),
                },
                or(ours.map(grouped), "none"),
            ),
            Self::Size { theirs, ours } => {
                let size = |[height, width]: [i64; 2]| format!("{height} × {width}");
                (format!("{} pixels", size(*theirs)), size(*ours))
            }
            Self::Crop { theirs, ours } => (
                match theirs {
                    Some(crop) => format!("crop: {}", crop_in_words(crop)),
                    None => "an unknown crop".to_owned(),
                },
                ours.as_ref().map_or("none".to_owned(), crop_in_words),
            ),
            Self::TrainingImages { theirs, ours } => {
                let theirs = grouped(*theirs);
                (format!("trained on {theirs} images"), grouped(*ours))
            }
            Self::TrainedOn { theirs, ours } => (
                format!("trained on {}, {}", theirs.0, theirs.1),
                format!("{}, {}", ours.0, ours.1),
            ),
            Self::LatentDims { theirs, ours } => {
                (format!("{theirs} latent dimensions"), ours.to_string())
            }
        }
    }
}

/// `K = 5000`, or `K = 5000 instead of 500`.
impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (theirs, ours) = self.in_words();
        f.write_str(&theirs)?;
        match self.agrees() {
            true => Ok(()),
            false => write!(f, " instead of {ours}"),
        }
    }
}

fn short(pixels: Pixels) -> String {
    match pixels {
        Pixels::Gray | Pixels::Color => pixels.in_words().to_owned(),
        other => other.to_string(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    published: Vec<Published>,
}

/// All published results that this version knows.
#[must_use]
pub fn published() -> Vec<Published> {
    let file: File = toml::from_str(include_str!("../published.toml"))
        .expect("a test reads the same file, which is part of the program");
    file.published
}

/// Published results of the same data set and measure, those with the most similar protocol first, and of equally similar
/// ones that with the nearest value.
///
/// Likelihoods of black-and-white and of gray pixels measure different things, and are never compared. An unknown data set
/// has no published results.
#[must_use]
pub fn neighbours(
    measure: &Measure,
    images: &ImagesUsed,
    latent_dims: Option<u64>,
) -> Vec<Comparison> {
    let comparable = |published: &Published| {
        let is_likelihood = LIKELIHOODS.contains(&measure.name.as_str());
        published.measure == measure.name
            && published.dataset == images.dataset.name
            && published.dataset != KnownDataset::Unknown
            && (!is_likelihood || published.pixels.are_binary() == images.pixels.are_binary())
    };
    let mut found: Vec<Comparison> = published()
        .into_iter()
        .filter(comparable)
        .filter_map(|published| compare(published, measure, images, latent_dims))
        .collect();
    found.sort_by(|a, b| {
        let by_images = distance(a).cmp(&distance(b));
        let by_differences = n_differences(a).cmp(&n_differences(b));
        let away = |comparison: &Comparison| (comparison.published.value - measure.value).abs();
        let by_value = away(a).total_cmp(&away(b));
        by_images.then(by_differences).then(by_value)
    });
    found
}

/// [`neighbours`] of every measure of a report.
#[must_use]
pub fn comparisons(report: &Report) -> Vec<Comparison> {
    let latent_dims = u64::try_from(report.subject.latent_dims).ok();
    let sections = report.sections.values();
    sections
        .flat_map(|section| {
            // Papers measure samples of the prior.
            let measures = section.findings.measures.iter().filter(|measure| {
                !matches!(&measure.protocol, Some(Protocol::Features(features)) if features.sampler.is_some())
            });
            measures.flat_map(|measure| neighbours(measure, &section.images, latent_dims))
        })
        .collect()
}

/// Measures that are log-probabilities of pixels.
const LIKELIHOODS: [&str; 5] = ["nll", "elbo", "bits_per_dim", "reconstruction", "nll_exact"];

/// The number of differences between the protocols. The size of the latent space is a property of the model.
fn n_differences(comparison: &Comparison) -> usize {
    let differs = comparison.differs();
    differs
        .filter(|field| !matches!(field, Field::LatentDims { .. }))
        .count()
}

/// The distance between protocols in what matters most: the pixels, then the image size and the crop.
fn distance(comparison: &Comparison) -> usize {
    let drawn_once = [Pixels::Static, Pixels::Larochelle];
    let of = |field: &Field| match field {
        Field::Pixels { theirs, ours } if theirs == ours => 0,
        Field::Pixels { theirs, ours }
            if drawn_once.contains(theirs) && drawn_once.contains(ours) =>
        {
            1
        }
        Field::Pixels { .. } => 2,
        Field::Size { .. }
        | Field::Crop {
            theirs: Some(_), ..
        } => usize::from(!field.agrees()),
        _ => 0,
    };
    comparison.fields.iter().map(of).sum()
}

fn compare(
    published: Published,
    measure: &Measure,
    images: &ImagesUsed,
    latent_dims: Option<u64>,
) -> Option<Comparison> {
    let mut fields = vec![Field::Pixels {
        theirs: published.pixels,
        ours: images.pixels,
    }];
    let (estimator, samples) = match &measure.protocol {
        Some(Protocol::ImportanceWeighted { n_samples, .. }) => (
            Some(Estimator::ImportanceWeighted),
            Some(u64::from(*n_samples)),
        ),
        Some(Protocol::PosteriorSamples { .. }) => (Some(Estimator::Elbo), None),
        Some(Protocol::Annealed(_)) => (Some(Estimator::Annealed), None),
        _ => (None, None),
    };
    if estimator.is_some() || published.estimator.is_some() {
        let theirs = published.estimator;
        fields.push(match theirs.is_some() && theirs == estimator {
            // For two importance-weighted bounds, K is the remaining difference.
            true if samples.is_some() => Field::ImportanceSamples {
                theirs: published.n_importance_samples,
                ours: samples,
            },
            _ => Field::Estimator {
                theirs,
                ours: estimator,
            },
        });
    }
    let features = match &measure.protocol {
        Some(Protocol::Features(features)) => Some(features),
        _ => None,
    };
    if features.is_some() || published.features.is_some() {
        fields.push(Field::Features {
            theirs: published.features,
            ours: features.map(|features| features.extractor.clone()),
        });
        fields.push(Field::GeneratedImages {
            theirs: published.n_generated,
            ours: features.map(|features| features.n_images as u64),
        });
    }
    let [_, height, width] = images.shape;
    if let Some(side) = published
        .image_size
        .and_then(|side| i64::try_from(side).ok())
    {
        fields.push(Field::Size {
            theirs: [side, side],
            ours: [height, width],
        });
    }
    if published.crop.is_some() || images.crop.is_some() {
        fields.push(Field::Crop {
            theirs: published.crop,
            ours: images.crop,
        });
    }
    let usual = match published.split {
        SplitUsed::Test => published.dataset.n_test_images(),
        SplitUsed::Validation | SplitUsed::All => None,
    };
    fields.push(Field::Images {
        theirs: (published.split, published.n_images.or(usual)),
        ours: (images.split, images.n_images),
    });
    let trained_on = images.trained_on.as_ref()?;
    if let Some(theirs) = published.trained_on {
        fields.push(Field::TrainingImages {
            theirs,
            ours: trained_on.n_images as u64,
        });
    }
    if trained_on.dataset.name != published.dataset || trained_on.pixels != images.pixels {
        fields.push(Field::TrainedOn {
            theirs: (published.dataset, published.pixels),
            ours: (trained_on.dataset.to_string(), trained_on.pixels),
        });
    }
    if let (Some(theirs), Some(ours)) = (published.latent_dims, latent_dims) {
        fields.push(Field::LatentDims { theirs, ours });
    }
    Some(Comparison { published, fields })
}

#[cfg(test)]
mod tests {
    use vae_data::{DatasetIdentity, RecognizedBy};

    use super::*;
    use crate::TrainedOn;

    fn images(name: KnownDataset, pixels: Pixels) -> ImagesUsed {
        let dataset = DatasetIdentity {
            name,
            recognized_by: Some(RecognizedBy::Name),
            source: "folder".to_owned(),
        };
        ImagesUsed {
            dataset: dataset.clone(),
            fingerprint: 1,
            split: SplitUsed::Test,
            n_images: 10_000,
            n_available: 10_000,
            shape: [1, 28, 28],
            items: None,
            pixels,
            crop: None,
            trained_on: Some(TrainedOn {
                dataset,
                n_images: 60_000,
                pixels,
            }),
        }
    }

    fn mnist(pixels: Pixels) -> ImagesUsed {
        images(KnownDataset::Mnist, pixels)
    }

    fn nll(n_samples: u32) -> Measure {
        Measure::new("nll", "negative log-likelihood", 87.0).protocol(
            Protocol::ImportanceWeighted {
                n_samples,
                n_images: None,
            },
        )
    }

    fn words<'a>(fields: impl Iterator<Item = &'a Field>) -> Vec<String> {
        fields.map(ToString::to_string).collect()
    }

    #[test]
    fn every_entry_has_a_source_and_a_plausible_value() {
        let all = published();
        assert!(all.len() >= 20, "{}", all.len());
        for entry in &all {
            let about = format!("{entry:?}");
            assert!(entry.url.starts_with("https://"), "{about}");
            assert!(!entry.verified.trim().is_empty(), "{about}");
            assert!(!entry.paper.trim().is_empty(), "{about}");
            let range = match (entry.measure.as_str(), entry.dataset) {
                ("nll", KnownDataset::Mnist) => 77.0..110.0,
                ("bits_per_dim", _) => 1.0..6.0,
                ("fid_inception", _) => 1.0..120.0,
                ("cluster_accuracy", _) => 0.5..1.0,
                other => panic!("no range for {other:?}: {about}"),
            };
            assert!(range.contains(&entry.value), "{about}");
            let weighted = entry.estimator == Some(Estimator::ImportanceWeighted);
            assert_eq!(weighted, entry.n_importance_samples.is_some(), "{about}");
            let by_features = entry.measure.starts_with("fid");
            assert_eq!(by_features, entry.features.is_some(), "{about}");
        }
        assert!(all.iter().filter(|entry| entry.is_from_memory()).count() <= 3);
        for (i, a) in all.iter().enumerate() {
            let same = |b: &&Published| {
                (&b.paper, &b.model, &b.measure, &b.dataset, &b.pixels)
                    == (&a.paper, &a.model, &a.measure, &a.dataset, &a.pixels)
            };
            assert!(!all[i + 1..].iter().any(|b| same(&b)), "twice: {a:?}");
        }
    }

    #[test]
    fn the_same_protocol_comes_first_and_the_others_say_what_differs() {
        let found = neighbours(&nll(500), &mnist(Pixels::Dynamic), Some(50));
        let first = &found[0];
        assert_eq!(first.published.pixels, Pixels::Dynamic);
        assert!(words(first.same()).contains(&"dynamic binarization".to_owned()));
        let iwae = found
            .iter()
            .find(|found| found.published.value == 84.78 && found.published.model.contains("IWAE"))
            .unwrap();
        assert_eq!(words(iwae.differs()), ["K = 5000 instead of 500"]);
        let fixed = found
            .iter()
            .position(|c| c.published.pixels == Pixels::Larochelle);
        for comparison in &found[fixed.unwrap()..] {
            let what = "Larochelle's static binarization instead of dynamic".to_owned();
            assert!(words(comparison.differs()).contains(&what));
        }
        let found = neighbours(&nll(5000), &mnist(Pixels::Static), None);
        assert_eq!(found[0].published.pixels, Pixels::Larochelle);
        // Densities of gray values are not probabilities of black and white.
        assert!(neighbours(&nll(500), &mnist(Pixels::Gray), None).is_empty());
    }

    /// Any change of a protocol that agrees in every field is named.
    #[test]
    fn a_changed_field_is_never_the_same_protocol() {
        let theirs = |images: &ImagesUsed, measure: &Measure| {
            let found = neighbours(measure, images, Some(50));
            let mut burda = found
                .into_iter()
                .filter(|c| c.published.model == "IWAE, k = 50, one stochastic layer")
                .filter(|c| c.published.pixels == Pixels::Dynamic);
            words(burda.next().expect("Burda et al.").differs())
        };
        let ours = mnist(Pixels::Dynamic);
        assert_eq!(theirs(&ours, &nll(5000)), Vec::<String>::new());
        assert_eq!(theirs(&ours, &nll(4999)), ["K = 5000 instead of 4999"]);
        let closed = Measure::new("nll", "NLL", 87.0).protocol(Protocol::ProbabilisticPca);
        assert_eq!(
            theirs(&ours, &closed),
            ["the importance-weighted bound instead of none"]
        );
        let changed = |change: &dyn Fn(&mut ImagesUsed)| {
            let mut images = ours.clone();
            change(&mut images);
            theirs(&images, &nll(5000))
        };
        let trained_on = |change: &dyn Fn(&mut TrainedOn)| {
            changed(&|images| images.trained_on.iter_mut().for_each(change))
        };
        assert_eq!(
            changed(&|images| images.split = SplitUsed::Validation),
            ["10,000 test images instead of 10,000 validation images"]
        );
        assert_eq!(
            changed(&|images| images.n_images = 1000),
            ["10,000 test images instead of 1,000"]
        );
        assert_eq!(
            changed(&|images| {
                images.pixels = Pixels::Static;
                let trained_on = images.trained_on.as_mut().unwrap();
                trained_on.pixels = Pixels::Static;
            }),
            ["dynamic binarization instead of static"]
        );
        assert_eq!(
            trained_on(&|images| images.pixels = Pixels::Gray),
            ["trained on MNIST, dynamic instead of MNIST, gray"]
        );
        assert_eq!(
            trained_on(&|images| images.dataset.name = KnownDataset::Kmnist),
            ["trained on MNIST, dynamic instead of KMNIST, dynamic"]
        );
        assert_eq!(
            changed(&|images| images.crop = Some(Crop::Center { fraction: 0.5 })),
            ["an unknown crop instead of center, 0.5 of the shorter side"]
        );
    }

    #[test]
    fn crops_are_the_same_where_every_number_is() {
        let nvae = |crop: Option<Crop>| {
            let mut faces = images(KnownDataset::CelebA, Pixels::Color);
            faces.shape = [3, 64, 64];
            faces.crop = crop;
            let bits = Measure {
                name: "bits_per_dim".to_owned(),
                ..nll(1000)
            };
            let found = neighbours(&bits, &faces, None);
            let nvae = found.iter().find(|c| c.published.model == "NVAE").unwrap();
            let crops = |field: &&Field| matches!(field, Field::Crop { .. });
            nvae.fields.iter().find(crops).unwrap().agrees()
        };
        let rectangle = |top, left, side| {
            Some(Crop::Rectangle {
                top,
                left,
                height: side,
                width: side,
            })
        };
        assert!(nvae(rectangle(40, 15, 148)));
        assert!(!nvae(rectangle(35, 15, 148)) && !nvae(rectangle(40, 15, 140)));
        // About as large, but centered.
        assert!(!nvae(Some(Crop::Center { fraction: 0.8315 })) && !nvae(None));
    }

    #[test]
    fn other_data_sets_of_the_same_shape_have_no_published_digits() {
        for name in [
            KnownDataset::FashionMnist,
            KnownDataset::Kmnist,
            KnownDataset::Unknown,
        ] {
            let images = images(name, Pixels::Dynamic);
            assert!(neighbours(&nll(5000), &images, None).is_empty(), "{name}");
        }
    }

    #[test]
    fn features_of_a_file_are_never_known_to_be_the_published_ones() {
        let fid = Measure::new("fid_inception", "FID", 10.0).protocol(Protocol::Features(
            crate::FeatureProtocol {
                statistic: crate::Statistic::Frechet,
                images: crate::ImageSet::Samples,
                n_images: 10_000,
                pixels: crate::SetPixels::Means,
                n_real: 10_000,
                extractor: Extractor::TorchScript {
                    file: "inception.ts".to_owned(),
                    sha256: "0123456789".to_owned(),
                },
                n_features: 2048,
                sampler: None,
            },
        ));
        let found = neighbours(&fid, &mnist(Pixels::Gray), None);
        let differs = words(found[0].differs());
        let features =
            "the features of Inception v3 instead of features of inception.ts (SHA-256 01234567…)";
        assert!(differs.contains(&features.to_owned()), "{differs:?}");
        let samples = "an unknown number of samples instead of 10,000";
        assert!(differs.contains(&samples.to_owned()), "{differs:?}");
    }
}
