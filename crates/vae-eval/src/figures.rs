//! The figures of a report: learning curves and pictures.

use std::io::Cursor;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{DynamicImage, ImageEncoder};
use serde_json::Value;
use tch::{Device, Kind, Tensor, no_grad};
use vae_base::dotted;
use vae_data::Dataset;
use vae_model::{LatentSource, Support, Term, Vae};
use vae_run::{Record, RunConfig, RunDir};
use vae_view::latent::plot::{Scatter, percent};
use vae_view::latent::{Pca, encode};
use vae_view::{as_decoded, picture, tiles};

use crate::EvalError;
use crate::number::grouped;

/// The figures that [`crate::render`] shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// The run's metrics, for its learning curves.
    pub records: Vec<Record>,
    /// Its metrics within epochs.
    pub steps: Vec<Record>,
    /// The declarations of the numbers in the records.
    pub terms: Vec<Term>,
    /// The pictures in the order of a report.
    pub pictures: Vec<Picture>,
    /// The images that they are of, in a line; for the caller of [`figures`] to say.
    pub pictures_of: String,
    /// How the run was made: data, device, time, versions, each with its name.
    pub origin: Vec<(String, String)>,
    /// The values of its config by their dotted keys.
    pub settings: Vec<(String, String)>,
}

/// A picture of a report.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// A title of two or three words.
    pub title: String,
    /// A caption: how it was made and how to read it.
    pub caption: String,
    /// The alternative text.
    pub alt: String,
    /// The PNG file.
    pub png: Vec<u8>,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
}

impl Picture {
    /// Encodes a picture.
    ///
    /// # Errors
    /// The encoder refuses.
    pub fn new(
        title: &str,
        caption: String,
        alt: String,
        picture: &DynamicImage,
    ) -> Result<Self, EvalError> {
        let mut png = Cursor::new(Vec::new());
        // A report is written once and kept for long, so compression may be slow.
        PngEncoder::new_with_quality(&mut png, CompressionType::Best, FilterType::Adaptive)
            .write_image(
                picture.as_bytes(),
                picture.width(),
                picture.height(),
                picture.color().into(),
            )
            .map_err(|error| EvalError::Unmeasurable(format!("picture of {title}: {error}")))?;
        Ok(Self {
            title: title.to_owned(),
            caption,
            alt,
            png: png.into_inner(),
            width: picture.width(),
            height: picture.height(),
        })
    }
}

/// The number of images that are encoded for the scatter plot and for finding the most used dimensions.
const N_ENCODED: usize = 2000;

/// The number of large images in a row of reconstructions.
const MOST_IN_A_ROW: usize = 8;

/// The number of images in a row of traversals.
const N_STEPS: usize = 11;

/// The learning curves of a run, if the model is of one, and pictures of the model: reconstructions of the first images of `test`, samples, the latent
/// plane or traversals of the most used dimensions, and a scatter plot of the latents; of a model without an encoder only what
/// the decoder makes. Their sizes follow the config
/// (`[pictures]`) up to limits. All draws depend only on `seed`.
///
/// # Errors
/// Images of another shape than the model's; the run's files cannot be read.
pub fn figures(
    vae: &Vae,
    source: LatentSource,
    run_dir: Option<&RunDir>,
    test: &Dataset,
    seed: u64,
) -> Result<Figures, EvalError> {
    let config = run_dir.map(RunDir::config).transpose()?;
    let sizes = config
        .as_ref()
        .map(|config| config.pictures.clone())
        .unwrap_or_default();
    // Fewer large images, so that the file stays small enough for mail.
    let (most_pairs, most_samples, most_rows) = match is_small(vae) {
        true => (32, 64, 10),
        false => (16, 36, 8),
    };
    let encoded = test.truncated(N_ENCODED);
    let centers = match vae.has_encoder() {
        true => Some(encode(vae, &encoded, seed, |_| ())?.centers),
        false => None,
    };
    let pictures = no_grad(|| -> Result<Vec<Picture>, EvalError> {
        let mut pictures = Vec::new();
        if !vae.item().has_picture() {
            let centers = centers.iter();
            for centers in centers {
                pictures.extend(latents(vae, &encoded, centers)?);
            }
            return Ok(pictures);
        }
        if vae.has_encoder() {
            let n = sizes.n_reconstructions.min(most_pairs);
            pictures.push(reconstructions(vae, test, n)?);
        }
        let n = sizes.n_samples.min(most_samples);
        pictures.push(samples(vae, source, n, seed)?);
        match (&centers, picture::has_whole_manifold(vae)) {
            (_, true) => pictures.push(manifold(vae, test, sizes.manifold_size.min(20))?),
            (Some(centers), false) => {
                let n_rows = sizes.n_traversals.min(most_rows);
                pictures.push(traversals(vae, test, centers, n_rows)?);
            }
            (None, false) => {}
        }
        if let Some(centers) = &centers {
            pictures.extend(latents(vae, &encoded, centers)?);
        }
        Ok(pictures)
    })?;
    let (Some(run_dir), Some(config)) = (run_dir, config) else {
        return Ok(Figures {
            pictures,
            ..Figures::default()
        });
    };
    Ok(Figures {
        records: run_dir.records()?,
        steps: run_dir.step_records()?,
        terms: run_dir.terms()?,
        pictures,
        origin: origin(run_dir)?,
        settings: settings(&config),
        ..Figures::default()
    })
}

/// Data, device, time and versions of a run. Of one that has not ended yet, only what its config says.
fn origin(run_dir: &RunDir) -> Result<Vec<(String, String)>, EvalError> {
    let config = run_dir.config()?;
    let mut origin = Vec::new();
    let mut add = |name: &str, value: String| origin.push((name.to_owned(), value));
    if let Ok(identity) = config.dataset.identity() {
        add("data", identity.to_string());
    }
    let Some(summary) = run_dir.summary()? else {
        return Ok(origin);
    };
    let count = |n: usize| grouped(n as u64);
    add("training images", count(summary.n_train_images));
    add("validation images", count(summary.n_validation_images));
    add("test images", count(summary.n_test_images));
    add("training time", duration(summary.seconds));
    let threads = match summary.threads {
        1 => "1 thread".to_owned(),
        n => format!("{n} threads"),
    };
    add("device", format!("{}, {threads}", summary.device));
    if let Some(version) = summary.version {
        add("trained by", format!("vae {version}"));
    }
    if let Some(commit) = summary.git_commit {
        add("git commit", commit);
    }
    if let Some(bytes) = summary.peak_resident_bytes {
        add(
            "peak memory",
            format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30)),
        );
    }
    add("state", summary.state);
    Ok(origin)
}

/// `1 h 02 min 03 s`.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    let (hours, minutes, rest) = (whole / 3600, whole / 60 % 60, whole % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest} s"),
        (0, _) => format!("{minutes} min {rest:02} s"),
        _ => format!("{hours} h {minutes:02} min {rest:02} s"),
    }
}

/// The values of a config by their dotted keys.
fn settings(config: &RunConfig) -> Vec<(String, String)> {
    let config = serde_json::to_value(config).unwrap_or_default();
    let entries = |value: &Value| Some(value.as_object()?.clone().into_iter().collect());
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    dotted(&config, &entries)
        .into_iter()
        .map(|(key, value)| (key, text(value)))
        .collect()
}

/// Whether the model's images are small enough for many on a page.
fn is_small(vae: &Vae) -> bool {
    vae.image_shape().n_values() <= 64 * 64
}

fn reconstructions(vae: &Vae, test: &Dataset, n: usize) -> Result<Picture, EvalError> {
    let first: Vec<usize> = (0..n.min(test.len())).collect();
    let batch = test.batch(&first)?;
    let (images, condition) = (&batch.items, batch.condition.as_ref());
    let n = images.size()[0];
    let picture = match is_small(vae) {
        true => picture::reconstructions(vae, (images, condition))?,
        // Rows of half as many images, each above its reconstruction, so that faces are recognizable on a phone's screen.
        false => {
            let n = (n as usize).min(MOST_IN_A_ROW);
            let mut rows = Vec::new();
            let conditions = condition.map(|condition| condition.split(n as i64, 0));
            let mut conditions = conditions.into_iter().flatten();
            for originals in images.split(n as i64, 0) {
                let condition = conditions.next();
                let made = vae.reconstruct((&originals, condition.as_ref()))?;
                let missing = n as i64 - originals.size()[0];
                let shown = tiles(vae.item(), &as_decoded(vae.item(), &originals))?;
                for images in [shown, tiles(vae.item(), &made)?] {
                    let [_, channels, height, width] = <[i64; 4]>::from(images.size4()?);
                    let blank = [missing, channels, height, width];
                    rows.push(images);
                    rows.push(Tensor::ones(blank, (Kind::Float, Device::Cpu)));
                }
            }
            picture::grid(&Tensor::f_cat(&rows, 0)?, n, 2)?
        }
    };
    Picture::new(
        "Reconstructions",
        format!(
            "The first {n} held-out images, and below each the mean of p(x|z) at its posterior's center."
        ),
        format!("Grid of {n} held-out images with their reconstructions"),
        &picture,
    )
}

fn samples(vae: &Vae, source: LatentSource, n: usize, seed: u64) -> Result<Picture, EvalError> {
    let picture = picture::samples(vae, source, n, seed)?;
    let from = match source.kind() {
        None => "the prior".to_owned(),
        Some(kind) => format!("the sampler {kind}"),
    };
    Picture::new(
        "Samples",
        format!("Means of p(x|z) at {n} latents drawn from {from}, seed {seed}; not selected."),
        format!("Grid of {n} images sampled from the model"),
        &picture,
    )
}

fn manifold(vae: &Vae, test: &Dataset, size: usize) -> Result<Picture, EvalError> {
    let picture = picture::manifold(vae, size, &[], first_condition(test).as_ref())?;
    let how = match (vae.support(), vae.config().n_latents()) {
        (Support::Sphere, _) => {
            "The latent sphere as a map: longitude to the right, latitude upward."
        }
        (Support::Codes, _) => "Codes near the plane of the two most used latents.",
        (Support::Euclidean, 1) => "The latent line at the prior's quantiles from 0.05 to 0.95.",
        (Support::Euclidean, _) => {
            "The latent plane at the prior's quantiles from 0.05 to 0.95: z0 grows to the right, z1 upward."
        }
    };
    Picture::new(
        "Latent plane",
        how.to_owned(),
        "Decoded images on a grid of latents".to_owned(),
        &picture,
    )
}

/// The condition of the first image, `[1, D]`.
fn first_condition(test: &Dataset) -> Option<Tensor> {
    test.condition().map(|condition| condition.narrow(0, 0, 1))
}

fn traversals(
    vae: &Vae,
    test: &Dataset,
    centers: &Tensor,
    n_rows: usize,
) -> Result<Picture, EvalError> {
    let variance = centers.var_dim([0_i64].as_slice(), false, false); // [Z]
    let usage = Vec::<f64>::try_from(variance)?;
    let mut dims = picture::by_use(usage.len(), &usage);
    dims.truncate(n_rows.max(1));
    let (origin, condition) = (centers.get(0), first_condition(test));
    let origin = (&origin, condition.as_ref());
    let picture = picture::traversals(vae, origin, &dims, N_STEPS, 3.0)?;
    let names: Vec<String> = dims.iter().map(|dim| format!("z{dim}")).collect();
    let reach = match vae.support() {
        Support::Sphere => "from −0.9 to 0.9, the others moved with it",
        Support::Codes => "through its levels",
        Support::Euclidean => {
            "from −3 to 3 standard deviations of the prior, the others where the image is"
        }
    };
    Picture::new(
        "Traversals",
        format!(
            "Traversals from the first held-out image. Each row changes one latent dimension {reach}; from the top \
             those whose posterior centers vary most: {}.",
            names.join(", ")
        ),
        format!(
            "Rows of decoded images, one for each of {} dimensions",
            names.len()
        ),
        &picture,
    )
}

/// A scatter plot of the latents; none with a single latent dimension.
fn latents(vae: &Vae, images: &Dataset, centers: &Tensor) -> Result<Option<Picture>, EvalError> {
    let latent_dims = vae.config().n_latents();
    let (plane, axes, how) = match latent_dims {
        ..=1 => return Ok(None),
        2 => {
            let axes = ["z0".to_owned(), "z1".to_owned()];
            (
                centers.shallow_clone(),
                axes,
                "on the latent plane".to_owned(),
            )
        }
        _ => {
            let pca = Pca::fit(centers, 2)?;
            let axis = |i: usize| {
                let share = percent(pca.explained[i]);
                format!("component {}, {share} of the variance", i + 1)
            };
            let how = format!("of {latent_dims} dimensions, on their two principal components");
            (pca.project(centers), [axis(0), axis(1)], how)
        }
    };
    let column = |i| Vec::<f64>::try_from(plane.select(1, i).contiguous());
    let (x, y) = (column(0)?, column(1)?);
    let classes = Classes::of(images, [&x, &y])?;
    let points: Vec<(f64, f64)> = x.into_iter().zip(y).collect();
    let n_points = points.len();
    let scatter = Scatter {
        title: "Posterior centers",
        subtitle: &format!("{n_points} held-out images, {how}"),
        axes,
        points: &points,
        class_of: &classes.of,
        classes: &classes.names,
    };
    let picture = scatter.draw()?.image()?;
    let colored = match &classes.by {
        Some(by) => format!(" Colored by {by}."),
        None => String::new(),
    };
    Picture::new(
        "Latents",
        format!("Posterior centers of {n_points} held-out images {how}.{colored}"),
        "Scatter plot of posterior centers".to_owned(),
        &picture,
    )
    .map(Some)
}

/// How the points of a scatter plot are colored.
struct Classes {
    /// The name of the coloring, if there is one.
    by: Option<String>,
    names: Vec<String>,
    /// The index of each image's name.
    of: Vec<usize>,
}

impl Classes {
    /// The images' labels, or else the yes-or-no attribute that is best separated on the plane.
    fn of(images: &Dataset, plane: [&[f64]; 2]) -> Result<Self, EvalError> {
        if let Some(labels) = images.labels() {
            let labels = Vec::<i64>::try_from(labels.to_kind(Kind::Int64).to_device(Device::Cpu))?;
            let mut known = labels.clone();
            known.sort_unstable();
            known.dedup();
            let position = |label: &i64| known.partition_point(|other| other < label);
            return Ok(Self {
                by: Some("label".to_owned()),
                of: labels.iter().map(position).collect(),
                names: known
                    .iter()
                    .map(|&class| images.class_name(class))
                    .collect(),
            });
        }
        let best = best_attribute(images, plane);
        Ok(match best {
            Some((name, is)) => Self {
                by: Some(format!(
                    "{name}, the attribute that is best separated on these axes"
                )),
                names: vec![format!("not {name}"), name],
                of: is.into_iter().map(usize::from).collect(),
            },
            None => Self {
                by: None,
                names: vec!["images".to_owned()],
                of: vec![0; images.len()],
            },
        })
    }
}

/// The yes-or-no attribute, known for every image and true of at least one in twenty, whose two groups are best separated on
/// the plane, by the share of the axes' variance that it explains.
fn best_attribute(images: &Dataset, plane: [&[f64]; 2]) -> Option<(String, Vec<bool>)> {
    let attributes = images.attributes()?;
    let mut best: Option<(f64, String, Vec<bool>)> = None;
    for name in attributes.names() {
        let values: Option<Vec<f32>> = attributes.column(name)?.collect();
        let Some(values) =
            values.filter(|values| values.iter().all(|v| [-1.0, 0.0, 1.0].contains(v)))
        else {
            continue;
        };
        let is: Vec<bool> = values.iter().map(|&value| value > 0.0).collect();
        let share = is.iter().filter(|&&is| is).count() as f64 / is.len() as f64;
        if !(0.05..=0.95).contains(&share) {
            continue;
        }
        let told = plane.iter().map(|axis| explained(axis, &is)).sum::<f64>();
        if best.as_ref().is_none_or(|(most, ..)| told > *most) {
            best = Some((told, name.clone(), is));
        }
    }
    best.map(|(_, name, is)| (name, is))
}

/// The share of the variance of the values between two groups, neither of them empty.
fn explained(values: &[f64], is: &[bool]) -> f64 {
    let mean = |wanted: Option<bool>| {
        let chosen = values.iter().zip(is);
        let chosen = chosen.filter(|(_, is)| wanted.is_none_or(|wanted| **is == wanted));
        let (sum, n) = chosen.fold((0.0, 0.0), |(sum, n), (value, _)| (sum + value, n + 1.0));
        (sum / n, n)
    };
    let ((all, n), (yes, n_yes), (no, n_no)) = (mean(None), mean(Some(true)), mean(Some(false)));
    let between = (n_yes * (yes - all).powi(2) + n_no * (no - all).powi(2)) / n;
    let whole = values
        .iter()
        .map(|value| (value - all).powi(2))
        .sum::<f64>()
        / n;
    between / whole.max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_groups_explain_what_lies_between_them() {
        let is = [true, true, false, false];
        assert_eq!(explained(&[1.0, 1.0, -1.0, -1.0], &is), 1.0);
        assert_eq!(explained(&[1.0, -1.0, 1.0, -1.0], &is), 0.0);
        // Means 2 and 0 around 1, so 1 between them, of (1.5² + 0.5² + 0.5² + 1.5²)/4 = 1.25.
        assert!((explained(&[2.5, 1.5, 0.5, -0.5], &is) - 1.0 / 1.25).abs() < 1e-12);
    }
}
