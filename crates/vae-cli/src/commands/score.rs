//! `vae score`: how unlikely each item, and each of its values, is under the model.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tch::{Device, Tensor, no_grad};
use vae_data::derive_seed;
use vae_eval::image_bounds;
use vae_model::{Conditioned, Generator, Mode, Vae};
use vae_view::labeled::Labeled;
use vae_view::ticks::decimal;
use vae_view::{as_decoded, picture, tiles};

use super::encode::numbers;
use super::items_file;
use super::neighbors::short;
use super::{InputArgs, LookArgs, RunArgs, picture_name, subject, warn_of_bad};
use crate::Done;
use crate::arrays::{FILE_COLUMN, Field, Format, TableWriter, Values};
use crate::output::{self, out, say};
use crate::progress::ImageCount;

/// Score items by how unlikely they are under the model, to a .csv, .parquet, .npy or .safetensors file
///
/// The score is in nats; a higher one means an item less like those of training. It is −elbo with one latent drawn for each item,
/// with its two terms beside it (reconstruction, kl), or with --samples K the importance-weighted bound of −log p(x), which is
/// tighter. A model with a deterministic posterior has no elbo: its score is the reconstruction term. --values writes the score of
/// each value of an item: −log p(x|z) at the center of q(z|x), NaN if the value is missing.
///
/// Of texts there is also the number of tokens, the end among them, and the perplexity: e to the nats per token, of each text and of
/// all. It is an upper bound, with --samples K a tight one. An INPUT that is no file is a text itself.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae score runs/mnist --out scores.csv --picture worst.png      held-out images, and the oddest of them
  vae score runs/mnist photo.png --out score.csv --samples 500
  vae score runs/celeba photos/ --out scores.parquet --picture worst.png --count 100
  vae score runs/series new.npy --out scores.csv --values by-value.npy
  vae score runs/verses --out scores.csv --samples 100")]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,

    #[command(flatten)]
    inputs: InputArgs,

    /// The file to write; its ending selects the format: .csv, .parquet, .npy (only the scores) or .safetensors
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,

    /// K, the number of importance samples for each image, instead of the elbo
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    samples: Option<u32>,

    /// Also an array [N, …] of float32: the score of each single value
    #[arg(long, value_name = "FILE.npy")]
    values: Option<PathBuf>,

    /// Also a picture of the least likely items, in that order
    #[arg(long, value_name = "FILE.png", value_parser = picture_name())]
    picture: Option<PathBuf>,

    #[command(flatten)]
    look: LookArgs,

    /// How many of them
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,

    /// The same seed gives the same scores of the same images
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Print JSON instead of the files' names
    #[arg(long)]
    json: bool,
}

/// The scores of each image of a batch, `[B]` each.
struct Scores {
    score: Vec<f32>,
    /// If the score is the elbo, its terms: reconstruction and kl.
    terms: Vec<(&'static str, Vec<f32>)>,
}

fn scores(
    vae: &Vae,
    images: Conditioned,
    samples: Option<u32>,
    noise: &mut Generator,
) -> Result<Scores> {
    if let Some(n_samples) = samples {
        let bounds = image_bounds(vae, images, n_samples, noise)?;
        return Ok(Scores {
            score: numbers(&-bounds.bound)?,
            terms: Vec::new(),
        });
    }
    let terms = no_grad(|| vae.draw(images, 1, Mode::Evaluate, noise))?.terms;
    let reconstruction = numbers(&terms.reconstruction)?;
    Ok(match (terms.elbo(), &terms.kl) {
        (Some(elbo), Some(kl)) => Scores {
            score: numbers(&-elbo)?,
            terms: vec![("reconstruction", reconstruction), ("kl", numbers(kl)?)],
        },
        _ => Scores {
            score: reconstruction,
            terms: Vec::new(),
        },
    })
}

/// The images with the highest scores so far.
struct Worst {
    most: usize,
    /// Highest first; of equal ones the first.
    kept: Vec<(f32, String, Tensor)>,
}

impl Worst {
    fn add(&mut self, score: f32, name: &str, image: impl FnOnce() -> Tensor) {
        let place = self
            .kept
            .partition_point(|(kept, ..)| kept.total_cmp(&score).is_ge());
        if place < self.most {
            self.kept.insert(place, (score, name.to_owned(), image()));
            self.kept.truncate(self.most);
        }
    }
}

/// Scores of single values, kept until they are written.
struct ByValue {
    path: PathBuf,
    parts: Vec<Tensor>,
    n_values: usize,
}

impl ByValue {
    /// 4 GiB of f32.
    const MOST_VALUES: usize = 1 << 30;

    fn add(&mut self, vae: &Vae, items: Conditioned) -> Result<()> {
        let path = self.path.display();
        let scores = no_grad(|| vae.value_scores(items))?;
        let scores = scores.with_context(|| {
            format!(
                "{path}: this model's likelihood does not score values by themselves; gaussian, laplace and \
                 student_t of arrays do"
            )
        })?;
        self.n_values += scores.numel();
        ensure!(
            self.n_values <= Self::MOST_VALUES,
            "{path}: more than {} values; score fewer items at a time",
            Self::MOST_VALUES
        );
        self.parts.push(scores.to_device(Device::Cpu));
        Ok(())
    }

    fn write(&self, vae: &Vae) -> Result<()> {
        items_file::save(vae.item(), &Tensor::cat(&self.parts, 0), &self.path)
    }
}

pub(crate) fn run(args: Args) -> Result<Done> {
    Format::of(&args.out)?;
    for path in [Some(&args.out), args.values.as_ref()]
        .into_iter()
        .flatten()
    {
        output::check_folder(path)?;
    }
    let mut by_value = args.values.clone().map(|path| ByValue {
        path,
        parts: Vec::new(),
        n_values: 0,
    });
    if let Some(ByValue { path, .. }) = &by_value {
        ensure!(
            items_file::is_array(path),
            "{}: ends in another way than .npy; --values is an array for NumPy",
            path.display()
        );
    }
    let run = args.run.open()?;
    run.vae().check_encoder()?;
    ensure!(
        args.picture.is_none() || run.vae().item().has_picture(),
        "--picture: these items are texts, which have no picture; the file of scores has them all"
    );
    let inputs = args.inputs.open(&run)?;
    let has_names = inputs.has_class_names();
    let mut noise = run.vae().generator(derive_seed(args.seed, 0, "scores"));
    let mut writer: Option<TableWriter> = None;
    let mut worst = Worst {
        most: args.picture.as_ref().map_or(0, |_| args.count as usize),
        kept: Vec::new(),
    };
    let mut n_tokens = 0.0;
    let (mut sum, mut count) = (0.0, ImageCount::new(Some(inputs.n_images())));
    let mut batches = inputs.batches(inputs.batch_size());
    for batch in &mut batches {
        let mut batch = batch?;
        let condition = run.condition_of(&inputs, &batch);
        let images = Conditioned::from((&batch.items, condition.as_ref()));
        if let Some(by_value) = &mut by_value {
            by_value.add(run.vae(), images)?;
        }
        let mut scores = scores(run.vae(), images, args.samples, &mut noise)?;
        if let Some(of_items) = run.vae().n_tokens(&batch.items) {
            let of_items = numbers(&of_items)?;
            n_tokens += of_items.iter().copied().map(f64::from).sum::<f64>();
            let pairs = scores.score.iter().zip(&of_items);
            let perplexity = pairs.map(|(score, n)| (score / n).exp()).collect();
            scores.terms.push(("tokens", of_items));
            scores.terms.push(("perplexity", perplexity));
        }
        let writer = match &mut writer {
            Some(writer) => writer,
            none => {
                let mut fields = vec![Field::text(FILE_COLUMN), Field::real("score")];
                fields.extend(scores.terms.iter().map(|(name, _)| Field::real(name)));
                if has_names {
                    fields.push(Field::text("class"));
                }
                fields.extend(super::known_fields(&inputs, &fields));
                none.insert(TableWriter::create(&args.out, fields)?)
            }
        };
        for (i, (&score, name)) in scores.score.iter().zip(&batch.names).enumerate() {
            sum += f64::from(score);
            worst.add(score, name, || batch.items.get(i as i64).copy());
        }
        let names = std::mem::take(&mut batch.names);
        count.add(names.len());
        let mut values = vec![Values::Text(names), Values::Reals(scores.score)];
        values.extend(
            scores
                .terms
                .into_iter()
                .map(|(_, term)| Values::Reals(term)),
        );
        if has_names {
            let name = |label: &Option<i64>| label.map(|label| inputs.class_name(label));
            let names = batch.labels.iter().map(name);
            values.push(Values::Text(names.map(Option::unwrap_or_default).collect()));
        }
        values.extend(super::known_values(&inputs, batch));
        writer.write(values)?;
    }
    let n_images = match writer {
        Some(writer) => writer.finish()?,
        None => 0, // No image is an error of the batches.
    };
    if let Some(by_value) = &by_value {
        by_value.write(run.vae())?;
    }
    if let Some(path) = &args.picture {
        let images: Vec<&Tensor> = worst.kept.iter().map(|(.., image)| image).collect();
        let item = run.vae().item();
        let images = tiles(item, &as_decoded(item, &Tensor::stack(&images, 0)))?;
        let columns = (worst.kept.len() as f64).sqrt().ceil() as usize;
        let caption = |(score, name, _): &(f32, String, Tensor)| {
            format!("{}\n{}", decimal(f64::from(*score), 1), short(name))
        };
        let labeled = Labeled {
            title: format!("Least likely to {}", subject(&run)),
            subtitle: match args.samples {
                Some(n) => {
                    format!("−log p(x) in nats by {n} importance samples, the highest first")
                }
                None if run.vae().has_density() => "−elbo in nats, the highest first".to_owned(),
                None => "reconstruction in nats, the highest first".to_owned(),
            },
            captions: worst.kept.iter().map(caption).collect(),
            ..Labeled::default()
        };
        picture::save(&args.look.draw(&labeled, &images, columns)?, path)?;
    }
    let images_per_s = count.finish();
    warn_of_bad(batches.bad());
    let mean = sum / n_images.max(1) as f64;
    let perplexity = (n_tokens > 0.0).then(|| (sum / n_tokens).exp());
    if args.json {
        let least_likely: Vec<_> = worst
            .kept
            .iter()
            .map(|(score, file, _)| json!({ "file": file, "score": score }))
            .collect();
        out!(
            "{}",
            json!({
                "scores": args.out,
                "n_images": n_images,
                "mean_score": mean,
                "perplexity": perplexity,
                "n_samples": args.samples,
                "n_bad_files": batches.bad().len(),
                "images_per_s": images_per_s,
                "values": args.values,
                "picture": args.picture,
                "least_likely": least_likely,
            })
        );
    } else {
        match perplexity {
            Some(perplexity) => say!(
                "mean score {mean:.2} nats, {:.1} tokens, perplexity {perplexity:.2} per token",
                n_tokens / n_images.max(1) as f64
            ),
            None => say!("mean score {mean:.2} nats{}", args.inputs.default_name()),
        }
        output::print_path(&args.out);
        for path in [&args.values, &args.picture].into_iter().flatten() {
            output::print_path(path);
        }
    }
    Ok(Done::Fully)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_are_kept_in_order() {
        let mut worst = Worst {
            most: 3,
            kept: Vec::new(),
        };
        for (i, score) in [2.0, 5.0, 1.0, 5.0, f32::INFINITY, 3.0]
            .into_iter()
            .enumerate()
        {
            worst.add(score, &i.to_string(), || Tensor::from(score));
        }
        let names: Vec<_> = worst
            .kept
            .iter()
            .map(|(_, name, _)| name.as_str())
            .collect();
        assert_eq!(names, ["4", "1", "3"]);
    }
}
