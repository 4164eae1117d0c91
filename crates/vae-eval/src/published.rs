//! What others published, to stand beside a model's own numbers.
//!
//! A number of another protocol is no worse or better: a [`Comparison`] says in words what differs.

use serde::{Deserialize, Serialize};

use crate::number::grouped;
use crate::{ImagesUsed, Measure, Report};

/// One published number. Those known are in `published.toml`, each with its source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// As in [`ImagesUsed`]: `MNIST`, `CelebA`, `dSprites`.
    pub dataset: String,
    /// As in [`ImagesUsed`]: `gray`, `color`, `dynamic` (black and white drawn anew at every visit),
    /// `larochelle` (drawn once, by Larochelle & Murray 2011) or `static` (drawn once by others).
    pub pixels: String,
    /// As in [`Measure`]: `nll`, `fid_inception`.
    pub measure: String,
    /// The number, in the measure's unit.
    pub value: f64,
    /// Decimals that the source gives it with.
    #[serde(default = "two")]
    pub decimals: usize,
    /// What the source gives with a ±.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<f64>,
    /// What was measured: `IWAE, k = 50, one stochastic layer`.
    pub model: String,
    /// K, importance samples for each image when it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_importance_samples: Option<u64>,
    /// Latent dimensions, of all layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latent_dims: Option<u64>,
    /// Pixels on a side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_size: Option<u64>,
    /// Pixels on a side of the square that was cut out of the original image, from its middle or nearly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<u64>,
    /// Training images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained_on: Option<u64>,
    /// What else it depends on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Authors and year of the paper.
    pub paper: String,
    /// Where in the paper, as far as it is known: `Table 1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// The paper.
    pub url: String,
    /// The public page that the number was checked against, or `from memory`.
    pub verified: String,
}

impl Published {
    /// Whether no public page was found that has the number, famous as it is.
    #[must_use]
    pub fn is_from_memory(&self) -> bool {
        self.verified == "from memory"
    }
}

fn two() -> usize {
    2
}

/// A published number beside a measured one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The published number.
    pub published: Published,
    /// In what the two protocols agree, in words.
    pub same: Vec<String>,
    /// In what they do not, in words: `Larochelle's static binarization instead of dynamic`.
    pub differs: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    published: Vec<Published>,
}

/// The published numbers that this version knows.
#[must_use]
pub fn published() -> Vec<Published> {
    let file: File = toml::from_str(include_str!("../published.toml"))
        .expect("a test reads the same file, which is part of the program");
    file.published
}

/// Published values of the same data set and measure, those first whose protocol agrees in most; of
/// equal ones the nearest value.
///
/// Likelihoods of black-and-white pixels and of gray ones are of different things, and never stand
/// beside each other.
#[must_use]
pub fn neighbours(
    measure: &Measure,
    images: &ImagesUsed,
    latent_dims: Option<u64>,
    n_importance_samples: Option<u64>,
) -> Vec<Comparison> {
    let comparable = |published: &Published| {
        let is_likelihood = LIKELIHOODS.contains(&measure.name.as_str());
        published.measure == measure.name
            && published.dataset.eq_ignore_ascii_case(&images.dataset)
            && (!is_likelihood || is_binary(&published.pixels) == is_binary(&images.pixels))
    };
    let mut found: Vec<Comparison> = published()
        .into_iter()
        .filter(comparable)
        .map(|published| compare(published, images, latent_dims, n_importance_samples))
        .collect();
    found.sort_by(|a, b| {
        let by_pixels = protocol_distance(a, images).cmp(&protocol_distance(b, images));
        let by_differences = n_differences(a).cmp(&n_differences(b));
        let away = |comparison: &Comparison| (comparison.published.value - measure.value).abs();
        let by_value = away(a).total_cmp(&away(b));
        by_pixels.then(by_differences).then(by_value)
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
            section.findings.measures.iter().flat_map(|measure| {
                let k = importance_samples(&measure.protocol);
                neighbours(measure, &section.images, latent_dims, k)
            })
        })
        .collect()
}

/// Measures that are log-probabilities of pixels.
const LIKELIHOODS: [&str; 5] = ["nll", "elbo", "bits_per_dim", "reconstruction", "nll_exact"];

/// The K of a protocol in words: `importance-weighted bound, K = 500 samples`.
fn importance_samples(protocol: &str) -> Option<u64> {
    let (_, after) = protocol.split_once("K = ")?;
    let digits = after.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

fn is_binary(pixels: &str) -> bool {
    !matches!(pixels, "gray" | "color")
}

/// In how many things the protocols differ. The size of the latent space is the model's own affair.
fn n_differences(comparison: &Comparison) -> usize {
    let differs = comparison.differs.iter();
    differs.filter(|what| !what.contains(LATENT_DIMS)).count()
}

const LATENT_DIMS: &str = "latent dimensions";

/// How far a protocol is away in what matters most: the pixels, then their number and the crop.
fn protocol_distance(comparison: &Comparison, images: &ImagesUsed) -> usize {
    let published = &comparison.published;
    let drawn_once = ["static", "larochelle"];
    let pixels = match (published.pixels.as_str(), images.pixels.as_str()) {
        (theirs, ours) if theirs == ours => 0,
        (theirs, ours) if drawn_once.contains(&theirs) && drawn_once.contains(&ours) => 1,
        _ => 2,
    };
    let other_size = published
        .image_size
        .is_some_and(|size| i64::try_from(size) != Ok(images.shape[2]));
    let other_crop = published
        .crop
        .is_some_and(|crop| !same_crop(crop, images.crop.as_deref()));
    pixels + usize::from(other_size) + usize::from(other_crop)
}

fn compare(
    published: Published,
    images: &ImagesUsed,
    latent_dims: Option<u64>,
    n_importance_samples: Option<u64>,
) -> Comparison {
    let (mut same, mut differs) = (Vec::new(), Vec::new());
    let mut say = |is_same: bool, what: String, instead_of: &str| match is_same {
        true => same.push(what),
        false => differs.push(format!("{what} instead of {instead_of}")),
    };
    let (theirs, ours) = (published.pixels.as_str(), images.pixels.as_str());
    say(theirs == ours, pixels_in_words(theirs), short_pixels(ours));
    let ours = n_importance_samples.map(|ours| ours.to_string());
    match (published.n_importance_samples, ours) {
        (Some(theirs), ours) => {
            let is_same = n_importance_samples == Some(theirs);
            say(
                is_same,
                format!("K = {theirs}"),
                ours.as_deref().unwrap_or("none"),
            );
        }
        (None, Some(ours)) => say(false, "an unknown K".to_owned(), &ours),
        (None, None) => {}
    }
    if let Some(theirs) = published.image_size {
        let [_, height, width] = images.shape;
        let is_same = [height, width].map(u64::try_from) == [Ok(theirs), Ok(theirs)];
        let ours = format!("{height} × {width}");
        say(is_same, format!("{theirs} × {theirs} pixels"), &ours);
    }
    match (published.crop, images.crop.as_deref()) {
        (Some(theirs), ours) => {
            let what = format!("crop of {theirs} × {theirs} pixels");
            say(same_crop(theirs, ours), what, ours.unwrap_or("none"));
        }
        (None, Some(ours)) => say(false, "an unknown crop".to_owned(), ours),
        (None, None) => {}
    }
    if let Some(theirs) = published.trained_on {
        let ours = images.n_train_images as u64;
        let what = format!("trained on {} images", grouped(theirs));
        say(ours == theirs, what, &grouped(ours));
    }
    if let (Some(theirs), Some(ours)) = (published.latent_dims, latent_dims) {
        let what = format!("{theirs} {LATENT_DIMS}");
        say(ours == theirs, what, &ours.to_string());
    }
    let n_measured = images.n_images;
    if n_measured < images.n_available {
        let n_measured = grouped(n_measured as u64);
        differs.push(format!("all test images instead of the first {n_measured}"));
    }
    Comparison {
        published,
        same,
        differs,
    }
}

/// What the pixels of [`ImagesUsed`] are, for people.
pub(crate) fn pixels_in_words(pixels: &str) -> String {
    match pixels {
        "gray" | "color" => format!("{pixels} pixels"),
        "dynamic" | "static" => format!("{pixels} binarization"),
        "larochelle" => "Larochelle's static binarization".to_owned(),
        other => other.to_owned(),
    }
}

fn short_pixels(pixels: &str) -> &str {
    match pixels {
        "gray" => "gray pixels",
        "color" => "color pixels",
        "larochelle" => "Larochelle's",
        other => other,
    }
}

/// Whether a square of so many pixels, cut out of CelebA's aligned images, whose shorter side is 178, is
/// the one that a report names: `center, 0.8315 of the shorter side` or `rectangle 148×148 at 40, 15`.
fn same_crop(pixels: u64, ours: Option<&str>) -> bool {
    const SHORTER_SIDE: f64 = 178.0;
    let Some(ours) = ours else {
        return pixels as f64 == SHORTER_SIDE;
    };
    if let Some(rectangle) = ours.strip_prefix("rectangle ") {
        return rectangle.starts_with(&format!("{pixels}×{pixels} "));
    }
    let share: Option<f64> = ours.split_whitespace().find_map(|word| word.parse().ok());
    // Half a pixel.
    share.is_some_and(|share| (share * SHORTER_SIDE - pixels as f64).abs() <= 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mnist(pixels: &str) -> ImagesUsed {
        ImagesUsed {
            dataset: "MNIST".to_owned(),
            split: "test".to_owned(),
            n_images: 10_000,
            n_available: 10_000,
            shape: [1, 28, 28],
            pixels: pixels.to_owned(),
            trained_on_pixels: pixels.to_owned(),
            n_train_images: 60_000,
            crop: None,
        }
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
            let pixels = ["gray", "color", "dynamic", "static", "larochelle"];
            assert!(pixels.contains(&entry.pixels.as_str()), "{about}");
            let range = match (entry.measure.as_str(), entry.dataset.as_str()) {
                ("nll", "MNIST") => 77.0..110.0,
                ("bits_per_dim", _) => 1.0..6.0,
                ("fid_inception", _) => 1.0..120.0,
                ("cluster_accuracy", _) => 0.5..1.0,
                other => panic!("no range for {other:?}: {about}"),
            };
            assert!(range.contains(&entry.value), "{about}");
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
        let nll = Measure::new("nll", "negative log-likelihood", 87.0);
        let found = neighbours(&nll, &mnist("dynamic"), Some(50), Some(500));
        let first = &found[0];
        assert_eq!(first.published.pixels, "dynamic");
        assert!(first.same.contains(&"dynamic binarization".to_owned()));
        let iwae = found
            .iter()
            .find(|found| found.published.value == 84.78 && found.published.model.contains("IWAE"))
            .unwrap();
        assert!(iwae.differs.contains(&"K = 5000 instead of 500".to_owned()));
        let fixed = found
            .iter()
            .position(|c| c.published.pixels == "larochelle");
        for comparison in &found[fixed.unwrap()..] {
            let what = "Larochelle's static binarization instead of dynamic".to_owned();
            assert!(comparison.differs.contains(&what));
        }
        let found = neighbours(&nll, &mnist("static"), None, Some(5000));
        assert_eq!(found[0].published.pixels, "larochelle");
        // Densities of gray values are no probabilities of black and white.
        assert!(neighbours(&nll, &mnist("gray"), None, None).is_empty());
        let mut few = mnist("dynamic");
        few.n_images = 1000;
        let found = neighbours(&nll, &few, None, None);
        assert!(
            found[0]
                .differs
                .contains(&"all test images instead of the first 1,000".to_owned())
        );
    }

    #[test]
    fn crops_compare_by_pixels_of_the_original() {
        let ours = "center, 0.8315 of the shorter side";
        assert!(same_crop(148, Some(ours)) && !same_crop(140, Some(ours)));
        let ours = "rectangle 148×148 at 40, 15";
        assert!(same_crop(148, Some(ours)) && !same_crop(140, Some(ours)));
        assert!(same_crop(178, None));
        assert!(!same_crop(148, None));
    }

    #[test]
    fn k_is_read_from_the_protocol() {
        let protocol = "importance-weighted bound, K = 5000 samples from q(z|x)";
        assert_eq!(importance_samples(protocol), Some(5000));
        assert_eq!(importance_samples("of that bound, K = 100"), Some(100));
        assert_eq!(importance_samples("in closed form"), None);
        assert_eq!(grouped(162_770), "162,770");
        assert_eq!(grouped(100), "100");
    }
}
