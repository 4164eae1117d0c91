//! Attributes of a generator's own samples, as a probe on the latents of another model sees them: a generator has no
//! latents of images whose attributes are known.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use tch::{Kind, Tensor, no_grad};
use vae_data::{Dataset, derive_seed};
use vae_model::Vae;
use vae_run::Session;
use vae_view::latent::{Labels, SoftmaxRegression};

use super::{labels, place};

/// Latents of samples, `[N, Z]`, and which samples have each attribute.
pub(super) struct Judged {
    pub(super) train: Tensor,
    pub(super) held_out: Tensor,
    pub(super) labels: Vec<Labels>,
}

/// The number of samples that directions are learned from, and of those that they are measured on.
const N_TRAIN: u32 = 10_000;
const N_HELD_OUT: u32 = 2_000;

/// The attributes that the judge knows: those of its images.
pub(super) fn names(judge: &Session) -> Result<Vec<String>> {
    labels::names(&judge.splits()?.train)
}

/// Draws samples of `session`'s model, and labels them by linear classifiers of the judge's latents, fitted to its training
/// images.
pub(super) fn judged(
    session: &Session,
    judge: &Session,
    names: &[String],
    limit: Option<u32>,
) -> Result<Judged> {
    let (vae, of_judge) = (session.vae(), judge.vae());
    ensure!(
        of_judge.has_encoder(),
        "--judge: the model has no encoder either; a VAE trained on the same images would fit"
    );
    ensure!(
        of_judge.item() == vae.item(),
        "--judge: it encodes items of {}, and this model makes {}",
        of_judge.item(),
        vae.item()
    );
    ensure!(
        vae.item().is_image(),
        "--judge: only images can be judged, and these items are {}",
        vae.item()
    );
    let train = judge.splits()?.train;
    let known: Vec<Vec<Option<bool>>> = names
        .iter()
        .map(|name| {
            labels::yes_or_no(
                &train,
                &labels::canonical(name),
                "the judge's dataset.image_folder.attributes",
            )
        })
        .collect::<Result<_>>()
        .context("--judge")?;
    let centers = place::encode(judge, &train, "the judge's images", 0)?.centers;
    let n_train = limit.unwrap_or(N_TRAIN);
    let mut judged = Judged {
        train: samples(vae, n_train, "samples to learn from"),
        held_out: samples(vae, N_HELD_OUT, "samples to measure on"),
        labels: Vec::new(),
    };
    let encoded = |latents: &Tensor| -> Result<Tensor> {
        let made = Dataset::new(decoded(vae, latents)?, None)?;
        Ok(place::encode(judge, &made, "samples", 0)?.centers)
    };
    let (of_train, of_held_out) = (encoded(&judged.train)?, encoded(&judged.held_out)?);
    for (name, known) in names.iter().zip(known) {
        let rows = (0_i64..).zip(&known);
        let (rows, yes): (Vec<i64>, Vec<i64>) = rows
            .filter_map(|(row, known)| known.map(|yes| (row, i64::from(yes))))
            .unzip();
        if !yes.contains(&1) || !yes.contains(&0) {
            bail!("--judge: {name} is true of all or of none of the judge's training images");
        }
        let inputs = centers.index_select(0, &Tensor::from_slice(&rows));
        let probe = SoftmaxRegression::fit(&inputs, &Tensor::from_slice(&yes), 2)?;
        let said = |centers: &Tensor| -> Result<Vec<Option<bool>>> {
            let classes = Vec::<i64>::try_from(probe.classify(centers)?)?;
            Ok(classes.into_iter().map(|class| Some(class == 1)).collect())
        };
        judged.labels.push(Labels {
            name: labels::canonical(name),
            train: said(&of_train)?,
            held_out: said(&of_held_out)?,
        });
    }
    Ok(judged)
}

/// Latents of the prior, f64 `[N, Z]` on the CPU.
fn samples(vae: &Vae, n: u32, purpose: &str) -> Tensor {
    let mut generator = vae.generator(derive_seed(0, 0, purpose));
    let latents = no_grad(|| vae.sample_latents(i64::from(n), &mut generator));
    latents.to_device(tch::Device::Cpu).to_kind(Kind::Double)
}

/// The images of latents as bytes.
fn decoded(vae: &Vae, latents: &Tensor) -> Result<Tensor> {
    const AT_A_TIME: i64 = 500;
    let mut images = Vec::new();
    for part in latents.split(AT_A_TIME, 0) {
        let unknown = vae.unknown(part.size()[0]);
        let made = no_grad(|| vae.decode((&part, unknown.as_ref())))?;
        let bytes = (made * 255.0)
            .round()
            .clamp(0.0, 255.0)
            .to_kind(Kind::Uint8);
        images.push(bytes.to_device(tch::Device::Cpu));
    }
    Ok(Tensor::cat(&images, 0))
}

/// Opens the judge's run.
pub(super) fn open(path: &Path, session: &Session) -> Result<Session> {
    Session::open(path, session.vae().device()).context("--judge")
}
