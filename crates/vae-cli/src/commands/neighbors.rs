//! `vae neighbors`: the nearest images in latent space.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde_json::json;
use tch::{Kind, Tensor, no_grad};
use vae_data::{Split, one_line};
use vae_view::labeled::Labeled;
use vae_view::ticks::decimal;
use vae_view::{as_decoded, picture, tiles};

use super::{LookArgs, RunArgs, picture_name, subject, table, warn_of_bad};
use crate::Done;
use crate::arrays::LABEL_COLUMN;
use crate::output::{self, out};
use crate::progress::ImageCount;

/// Find the images nearest to one in latent space
///
/// Distances are Euclidean, between the centers of q(z|x). The picture shows the image itself first, then its neighbors in order of
/// distance. The image's own file is left out where it is among those searched; copies of it under other names are not.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae neighbors runs/mnist datasets/mnist/t10k-images-idx3-ubyte.gz#7 --out near.png
  vae neighbors runs/celeba me.jpg --count 12 --out near.png
  vae neighbors runs/celeba me.jpg --among photos/ more.zip --json
  vae neighbors runs/verses \"The LORD is my shepherd.\" --count 5")]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,

    /// The image: a file, or FILE#7 of an idx file; of texts the text itself
    #[arg(value_name = "FILE")]
    image: PathBuf,

    /// How many neighbors
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,

    /// The images to search: files, folders, zips, idx files [default: the run's training images]
    #[arg(long, value_name = "INPUT", num_args = 1..)]
    among: Vec<PathBuf>,

    /// A picture of the image and its neighbors: .png, .jpg, .webp, .gif or .apng
    #[arg(long, short, value_name = "FILE.png", value_parser = picture_name())]
    out: Option<PathBuf>,

    #[command(flatten)]
    look: LookArgs,

    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// The most images in a row of a picture with names.
const MOST_IN_A_ROW: usize = 13;

/// An item's name in a caption: with the folder it is in, which may be its class, but without those above.
pub(super) fn short(name: &str) -> String {
    let folder_and_file = match name.rmatch_indices('/').nth(1) {
        Some((end, _)) => &name[end + 1..],
        None => name,
    };
    one_line(folder_and_file)
}

/// A file's name without its folders.
fn file_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

struct Neighbor {
    distance: f64,
    name: String,
    label: Option<i64>,
    class: Option<String>,
    image: Tensor,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let run = args.run.open()?;
    let vae = run.vae();
    ensure!(
        args.out.is_none() || vae.item().has_picture(),
        "--out: these items are texts, which have no picture; without it they are printed"
    );
    let query_inputs = run.inputs(&[args.image], Split::Test, None)?;
    let query = query_inputs.read(1)?;
    let condition = run.condition_of(&query_inputs, &query);
    let query_images = (&query.items, condition.as_ref());
    let query_center = no_grad(|| vae.encode(query_images))?.center(); // [1, Z]
    let itself = query.items.get(0);
    let inputs = run.inputs(&args.among, Split::Train, None)?;
    let mut count = ImageCount::new(Some(inputs.n_images()));
    // Nearest first; of equal ones the first.
    let (most, mut nearest) = (args.count as usize, Vec::<Neighbor>::new());
    let mut batches = inputs.batches(inputs.batch_size());
    for batch in &mut batches {
        let batch = batch?;
        let condition = run.condition_of(&inputs, &batch);
        let distances = no_grad(|| -> Result<_> {
            let images = (&batch.items, condition.as_ref());
            let offsets = vae.encode(images)?.center() - &query_center;
            let squares = offsets.to_kind(Kind::Double).square();
            Ok(squares.sum_dim_intlist(-1, false, Kind::Double).sqrt()) // [B]
        })?;
        for (i, distance) in Vec::<f64>::try_from(distances)?.into_iter().enumerate() {
            let place = nearest.partition_point(|near| near.distance.total_cmp(&distance).is_le());
            let image = batch.items.get(i as i64);
            let is_itself =
                || file_name(&batch.names[i]) == file_name(&query.names[0]) && image == itself;
            if place < most && !is_itself() {
                let near = Neighbor {
                    distance,
                    name: batch.names[i].clone(),
                    label: batch.labels[i],
                    class: batch.labels[i].map(|label| inputs.class_name(label)),
                    image: image.copy(),
                };
                nearest.insert(place, near);
                nearest.truncate(most);
            }
        }
        count.add(batch.names.len());
    }
    count.finish();
    warn_of_bad(batches.bad());
    if let Some(path) = &args.out {
        let mut images = vec![query.items.get(0)];
        images.extend(nearest.iter().map(|near| near.image.shallow_clone()));
        let item = run.vae().item();
        let images = tiles(item, &as_decoded(item, &Tensor::stack(&images, 0)))?;
        let n_images = images.size()[0] as usize;
        let mut captions = vec![short(&query.names[0]) + "\nthe image itself"];
        captions.extend(nearest.iter().map(|near| {
            let class = near.class.as_ref().map(|class| format!(", {class}"));
            let distance = decimal(near.distance, 3);
            format!(
                "{}\n{distance}{}",
                short(&near.name),
                class.unwrap_or_default()
            )
        }));
        let labeled = Labeled {
            title: format!("Nearest images in the latent space of {}", subject(&run)),
            subtitle:
                "by the Euclidean distance between posterior centers, which is given below each"
                    .to_owned(),
            captions,
            ..Labeled::default()
        };
        // More than a screen is wide would be shown too small.
        let columns = match args.look.plain {
            true => n_images,
            false => n_images.min(MOST_IN_A_ROW),
        };
        picture::save(&args.look.draw(&labeled, &images, columns)?, path)?;
    }
    if args.json {
        let neighbors: Vec<_> = nearest
            .iter()
            .map(|near| {
                json!({
                    "file": near.name,
                    "distance": near.distance,
                    LABEL_COLUMN: near.label,
                    "class": near.class,
                })
            })
            .collect();
        out!(
            "{}",
            json!({ "file": query.names[0], "picture": args.out, "neighbors": neighbors })
        );
        return Ok(Done::Fully);
    }
    let has_labels = inputs.has_labels();
    let what = if vae.item().text.is_some() {
        "text"
    } else {
        "file"
    };
    let mut header = vec![what, "distance"];
    header.extend(has_labels.then_some("class"));
    let rows = nearest.into_iter().map(|near| {
        let mut row = vec![one_line(&near.name), format!("{:.4}", near.distance)];
        if has_labels {
            row.push(near.class.unwrap_or(table::UNKNOWN.to_owned()));
        }
        row
    });
    table::print(1, &header, rows.collect());
    if let Some(path) = &args.out {
        output::print_path(path);
    }
    Ok(Done::Fully)
}
