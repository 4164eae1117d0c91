//! `vae codes`: which codes a model uses, and where in the images.

use anyhow::{Context, Result};
use serde_json::json;
use tch::{Device, Tensor, no_grad};
use vae_model::{CodeUse, Conditioned, Quantizer, Vae};
use vae_run::Session;
use vae_view::latent::CodeChart;
use vae_view::{as_decoded, picture, tiles};

use super::{InputArgs, RunArgs, warn_of_bad};
use crate::Done;
use crate::output::{self, out};
use crate::progress::ImageCount;

/// The number of images of which the picture shows the codes.
const N_SHOWN: i64 = 8;

/// Show which codes a model uses for images, how often, and where in an image
///
/// For models whose latents are codes (vector_quantized, finite_scalar, lookup_free). Prints how many of the codes the images use,
/// the perplexity of their frequencies (the number of codes that would say as much, were all equally frequent), and the bits of an
/// image: as the codes are, and as a code that knows their frequencies would write them. The picture has the frequencies, the first
/// images, and their codes, a color for each.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae codes runs/vq-vae                                      the held-out images
  vae codes runs/vq-vae --out codes.png
  vae codes runs/vq-vae datasets/mnist/train-images-idx3-ubyte --json")]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,

    #[command(flatten)]
    inputs: InputArgs,

    /// A PNG file for the picture
    #[arg(long, short, value_name = "FILE.png", value_parser = super::picture_name())]
    out: Option<std::path::PathBuf>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The codes of a run's model, and the number of codes of an item.
pub(super) fn quantizer(run: &Session) -> Result<(&dyn Quantizer, i64)> {
    let name = run.vae().config().posterior.name();
    let quantizer = run.vae().quantizer().with_context(|| {
        format!(
            "the latents of this model are not codes: its posterior is {name}; vector_quantized, finite_scalar and \
             lookup_free have codes"
        )
    })?;
    Ok((quantizer, quantizer.n_slots(run.vae().config().n_latents())))
}

/// Codes `[N, n_slots]` by codebook, `[N, h, w]` each: where they lie in the latent map, or in a row without one.
fn code_maps(vae: &Vae, quantizer: &dyn Quantizer, codes: &Tensor) -> Vec<Tensor> {
    let config = vae.config();
    let slots_of_books = quantizer.slots_of_books(config.n_latents());
    let of_books = codes.split_with_sizes(slots_of_books.as_slice(), 1);
    let maps = of_books.into_iter().zip(&slots_of_books);
    maps.map(|(codes, &n)| {
        let fits = |&[_, height, width]: &[i64; 3]| height * width == n;
        let [_, height, width] = config
            .latent_maps()
            .into_iter()
            .find(fits)
            .unwrap_or([1, 1, n]);
        codes.view([-1, height, width])
    })
    .collect()
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let run = args.run.open()?;
    let vae = run.vae();
    let (quantizer, n_slots) = quantizer(&run)?;
    let inputs = args.inputs.open(&run)?;
    let mut code_use = CodeUse::of(vae).context("the model has codes")?;
    let mut count = ImageCount::new(Some(inputs.n_images()));
    let mut n_images = 0;
    let mut shown: Option<[Tensor; 2]> = None;
    let mut batches = inputs.batches(inputs.batch_size());
    for batch in &mut batches {
        let batch = batch?;
        let condition = run.condition_of(&inputs, &batch);
        let items = Conditioned::from((&batch.items, condition.as_ref()));
        let posterior = no_grad(|| vae.encode(items))?;
        code_use.add(&*posterior);
        if let (None, Some(codes)) = (&shown, posterior.codes()) {
            let n = N_SHOWN.min(codes.size()[0]);
            let items = batch.items.narrow(0, 0, n).to_device(Device::Cpu);
            shown = Some([items, codes.narrow(0, 0, n).to_device(Device::Cpu)]);
        }
        n_images += batch.names.len();
        count.add(batch.names.len());
    }
    count.finish();
    warn_of_bad(batches.bad());
    let (n_books, n_codes) = (quantizer.n_books(), quantizer.n_codes());
    let [in_use, perplexity] = code_use.values()?;
    let bits = n_slots as f64 * (n_codes as f64).log2();
    let entropy_bits = code_use.entropy_bits()?;
    let n_values = vae.image_shape().n_values() as f64;
    if let (Some(out), Some([items, codes])) = (&args.out, &shown) {
        let maps = code_maps(vae, quantizer, codes);
        let chart = CodeChart {
            title: "Codes in use",
            subtitle: &format!(
                "{in_use:.0} of {n_codes} codes{} by {n_images} images, perplexity {perplexity:.1}; {bits:.0} bits an \
                 image, {entropy_bits:.0} by frequency",
                if n_books > 1 { " of a codebook" } else { "" }
            ),
            counts: code_use.counts(),
            images: &tiles(vae.item(), &as_decoded(vae.item(), items))?,
            maps: &maps,
            n_codes,
        };
        picture::save(&chart.draw()?, out)?;
    }
    if args.json {
        out!(
            "{}",
            json!({
                "n_images": n_images,
                "n_bad_files": batches.bad().len(),
                "n_codes": n_codes,
                "n_codebooks": n_books,
                "codes_of_an_image": n_slots,
                "codes_in_use": in_use,
                "code_perplexity": perplexity,
                "bits_per_image": bits,
                "bits_per_dim": bits / n_values,
                "entropy_bits_per_image": entropy_bits,
                "entropy_bits_per_dim": entropy_bits / n_values,
                "counts": Vec::<Vec<i64>>::try_from(code_use.counts().to_device(Device::Cpu))?,
                "picture": args.out,
            })
        );
        return Ok(Done::Fully);
    }
    let of_book = if n_books > 1 {
        " (mean of the codebooks)"
    } else {
        ""
    };
    out!("images                {n_images}");
    out!("codes of an image     {n_slots}, each one of {n_codes}");
    out!("codes in use          {in_use:.1} of {n_codes}{of_book}");
    out!("perplexity            {perplexity:.1}{of_book}");
    out!(
        "bits of an image      {bits:.1} ({:.4} bits/dim); by frequency {entropy_bits:.1} ({:.4} bits/dim)",
        bits / n_values,
        entropy_bits / n_values
    );
    if let Some(out) = &args.out {
        output::print_path(out);
    }
    Ok(Done::Fully)
}
