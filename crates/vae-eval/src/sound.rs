//! The quality of reconstructed and sampled sound.

use tch::{Device, Kind, Tensor, no_grad};
use vae_data::loader::Batches;
use vae_data::{Dataset, derive_seed};
use vae_model::{ItemKind, ItemSpec, LatentSource, Spectrogram, Vae};
use vae_sound::LogMel;
use vae_view::as_decoded;

use crate::features::{Moments, frechet_distance};
use crate::probe::accuracy;
use crate::{
    EvalError, Extractor, FeatureProtocol, Findings, ImageSet, LinearProbe, Measure, Progress,
    Protocol, SetPixels, Statistic,
};

/// How sound is measured.
#[derive(Clone, Debug, PartialEq)]
pub struct SoundOptions {
    /// The number of sounds to sample from the model. By default as many as there are held-out ones, at most 10,000.
    pub n_samples: Option<usize>,
    /// Sounds at a time; the results do not depend on it.
    pub batch_size: usize,
}

impl Default for SoundOptions {
    fn default() -> Self {
        Self {
            n_samples: None,
            batch_size: 100,
        }
    }
}

const MAX_SAMPLES: usize = 10_000;

/// The most training sounds for principal components and the classifier.
const MOST_TRAINING: usize = 10_000;

/// Bands of the features of the Fréchet distance: of each the mean and the standard deviation over frames.
const N_BANDS: i64 = 16;

/// Bands and frames that the classifier sees, averages of the spectrogram's.
const SEEN: [i64; 2] = [16, 12];

/// Log-mel spectrograms in dB of items: those of a model of spectrograms as they are.
#[derive(Debug)]
struct Spectra {
    item: ItemSpec,
    /// The transform of samples, with its bands and frames.
    of_samples: Option<(LogMel, [usize; 2])>,
}

impl Spectra {
    /// # Errors
    /// Items that are no sound.
    fn of(item: &ItemSpec) -> Result<Self, EvalError> {
        const N_BANDS: usize = 64;
        let of_samples = match (item.kind, item.spectrogram) {
            (_, Some(_)) => None,
            (ItemKind::Sound { rate }, None) => {
                // About 30 ms, so that no band lies between two frequencies.
                let window = (rate / 32).next_power_of_two().clamp(64, 1 << 14);
                let transform = Spectrogram {
                    rate,
                    window,
                    hop: window / 4,
                    low: 0.0,
                    high: f64::from(rate) / 2.0,
                    floor: -50.0,
                };
                let n_frames = (item.map().width as usize / transform.hop as usize).max(1);
                Some((LogMel::new(transform, N_BANDS), [N_BANDS, n_frames]))
            }
            _ => {
                return Err(EvalError::Unmeasurable(
                    "these items are no sound".to_owned(),
                ));
            }
        };
        Ok(Self {
            item: item.clone(),
            of_samples,
        })
    }

    /// `[N, C, bands, frames]` of decoded items `[N, C, H, W]`, not below the floor.
    fn maps(&self, items: &Tensor) -> Result<Tensor, EvalError> {
        let items = items
            .to_device(Device::Cpu)
            .to_kind(Kind::Float)
            .contiguous();
        if items.isfinite().logical_not().any().int64_value(&[]) != 0 {
            return Err(EvalError::Unmeasurable(
                "the model's sound has NaN or infinite values".to_owned(),
            ));
        }
        let Some((log_mel, [bands, frames])) = &self.of_samples else {
            let floor = self
                .item
                .spectrogram
                .map_or(f64::NEG_INFINITY, |spec| spec.floor);
            return Ok(items.clamp_min(floor));
        };
        let (n, channels, _, n_samples) = items.size4()?;
        let values = Vec::<f32>::try_from(items.view(-1))?;
        let each = values.chunks_exact((n_samples as usize).max(1));
        let maps: Vec<f32> = each
            .flat_map(|samples| log_mel.spectrogram(samples, *frames))
            .collect();
        Ok(Tensor::from_slice(&maps).view([n, channels, *bands as i64, *frames as i64]))
    }

    /// The maps of a data set.
    fn of_dataset(&self, dataset: &Dataset, batch_size: usize) -> Result<Tensor, EvalError> {
        let batches = Batches::sequential(dataset, batch_size, Device::Cpu);
        let maps = batches.map(|batch| self.maps(&as_decoded(&self.item, &batch?.items)));
        Ok(Tensor::cat(&maps.collect::<Result<Vec<_>, _>>()?, 0))
    }
}

/// The log-spectral distance in dB of each pair of maps `[N, C, bands, frames]`: the root of the mean squared difference
/// over the bands of a frame, averaged over channels and frames. `[N]`
fn log_spectral_distances(a: &Tensor, b: &Tensor) -> Tensor {
    let square = (a - b).to_kind(Kind::Double).square();
    let of_frames = square
        .mean_dim([2_i64].as_slice(), false, Kind::Double)
        .sqrt(); // [N, C, frames]
    of_frames.mean_dim([1_i64, 2].as_slice(), false, Kind::Double)
}

/// Maps `[N, …]` restored from their first `n` principal components, those of `train` `[M, …]`.
fn pca_restored(train: &Tensor, maps: &Tensor, n: i64) -> Result<Tensor, EvalError> {
    let rows = |maps: &Tensor| maps.flatten(1, -1).to_kind(Kind::Double);
    let train = rows(train);
    let mean = train.f_mean_dim(0, true, Kind::Double)?;
    let centered = train - &mean; // [M, D]
    let (n_rows, n_values) = centered.size2()?;
    // Of the smaller of XXᵀ and XᵀX.
    let axes = match n_rows < n_values {
        true => {
            let (values, vectors) = centered
                .matmul(&centered.transpose(0, 1))
                .f_linalg_eigh("L")?;
            let scale = values.clamp_min(1e-12).rsqrt();
            centered.transpose(0, 1).matmul(&(vectors * scale)) // [D, M]
        }
        false => {
            centered
                .transpose(0, 1)
                .matmul(&centered)
                .f_linalg_eigh("L")?
                .1
        }
    };
    let n_axes = axes.size()[1];
    let n = n.min(n_axes);
    let axes = axes.narrow(1, n_axes - n, n); // Eigenvalues ascend.
    let restored = (rows(maps) - &mean)
        .matmul(&axes)
        .matmul(&axes.transpose(0, 1))
        + mean;
    Ok(restored.view_as(maps).to_kind(Kind::Float))
}

/// Mean and standard deviation over frames of [`N_BANDS`] bands, `[N, 2·C·N_BANDS]`.
fn statistics(maps: &Tensor) -> Tensor {
    let bands = maps.adaptive_avg_pool2d([N_BANDS, maps.size()[3]]);
    let mean = bands.mean_dim([3_i64].as_slice(), false, Kind::Float);
    let deviation = bands.std_dim([3_i64].as_slice(), false, false);
    Tensor::cat(&[mean, deviation], 1)
        .flatten(1, -1)
        .to_kind(Kind::Double)
}

/// What the classifier sees of maps, `[N, C·16·12]`.
fn seen(maps: &Tensor) -> Tensor {
    maps.adaptive_avg_pool2d(SEEN).flatten(1, -1)
}

/// Measures reconstructions of held-out sound by the log-spectral distance, beside that of as many principal components
/// of the training sound as the model has latents; by a classifier, if classes are known; and reconstructions and samples
/// by the Fréchet distance of statistics of their spectrograms.
///
/// # Errors
/// Items that are no sound, or of another shape than the model's; NaN or infinite values.
pub fn measure_sound(
    vae: &Vae,
    test: &Dataset,
    train: &Dataset,
    source: LatentSource,
    options: &SoundOptions,
    seed: u64,
    progress: &mut Progress,
) -> Result<Findings, EvalError> {
    vae.with_fixed_weights(|| {
        no_grad(|| findings(vae, test, train, source, options, seed, progress))
    })
}

fn findings(
    vae: &Vae,
    test: &Dataset,
    train: &Dataset,
    source: LatentSource,
    options: &SoundOptions,
    seed: u64,
    progress: &mut Progress,
) -> Result<Findings, EvalError> {
    let mut findings = Findings::default();
    let spectra = Spectra::of(vae.item())?;
    let batch_size = options.batch_size.max(1);
    let n = test.len();
    progress("held-out sound", 0, n);
    let real = spectra.of_dataset(test, batch_size)?;
    let training = train.truncated(MOST_TRAINING);
    let training_maps = spectra.of_dataset(&training, batch_size)?;
    let frame_size = [real.size()[2], real.size()[3]].map(|side| side as usize);
    let mut reconstructed = None;
    if vae.has_encoder() {
        let mut parts = Vec::new();
        let mut n_done = 0;
        for batch in Batches::sequential(test, batch_size, vae.device()) {
            let batch = batch?;
            parts.push(spectra.maps(&vae.reconstruct((&batch.items, batch.condition.as_ref()))?)?);
            n_done += batch.rows.len();
            progress("reconstructions", n_done, n);
        }
        let maps = Tensor::cat(&parts, 0);
        let distance = |name: &str, label: &str, maps: &Tensor, pca: Option<i64>| {
            let distances = log_spectral_distances(maps, &real);
            let mean = distances.mean(Kind::Double).double_value(&[]);
            let deviation = distances.std(n > 1).double_value(&[]);
            Measure::new(name, label, mean)
                .error(deviation / (n as f64).sqrt())
                .unit("dB")
                .lower_is_better()
                .protocol(Protocol::LogSpectral {
                    bands: frame_size[0],
                    frames: frame_size[1],
                    n_components: pca,
                    n_train_images: pca.map(|_| training.len()),
                })
        };
        findings.measures.push(distance(
            "log_spectral_distance",
            "log-spectral distance of reconstructions",
            &maps,
            None,
        ));
        progress("principal components", 0, 1);
        let n_latents = vae.config().n_latents();
        let restored = pca_restored(&training_maps, &real, n_latents)?;
        findings.measures.push(distance(
            "log_spectral_distance_pca",
            "the same of principal components",
            &restored,
            Some(n_latents),
        ));
        classified(&training, &training_maps, test, &real, &maps, &mut findings)?;
        reconstructed = Some(maps);
    } else {
        let reason = "the model has no encoder and so no reconstructions";
        findings
            .not_measured
            .insert("log_spectral_distance".to_owned(), reason.to_owned());
    }

    let n_samples = options.n_samples.unwrap_or(n.min(MAX_SAMPLES));
    let mut generator = vae.generator(derive_seed(seed, 0, "latents of samples"));
    // New sounds for the conditions of the held-out ones, in their order.
    let condition = test.condition().map(|condition| {
        let rows = Tensor::arange(n_samples as i64, (Kind::Int64, Device::Cpu));
        condition.index_select(0, &rows.remainder(n as i64))
    });
    let latents = vae.latents_from(source, n_samples as i64, condition.as_ref(), &mut generator)?;
    let conditions = condition.map(|condition| condition.split(batch_size as i64, 0));
    let mut conditions = conditions.into_iter().flatten();
    let mut parts = Vec::new();
    for latents in latents.split(batch_size as i64, 0) {
        parts.push(spectra.maps(&vae.decode((&latents, conditions.next().as_ref()))?)?);
        progress(
            "samples",
            (parts.len() * batch_size).min(n_samples),
            n_samples,
        );
    }
    let sampled = Tensor::cat(&parts, 0);
    let first = training_maps.narrow(0, 0, (training.len().min(n)) as i64);
    let sets = [
        (
            "samples",
            Some(&sampled),
            ImageSet::Samples,
            SetPixels::Means,
        ),
        (
            "reconstructions",
            reconstructed.as_ref(),
            ImageSet::Reconstructions,
            SetPixels::Means,
        ),
        (
            "training sound",
            Some(&first),
            ImageSet::TrainingImages,
            SetPixels::Given,
        ),
    ];
    let moments = |maps: &Tensor| Moments::of(&statistics(maps));
    for (what, maps, images, pixels) in sets {
        let Some(maps) = maps else { continue };
        let name = format!("frechet_sound_{}", what.split(' ').next().unwrap_or(what));
        let value = match (moments(maps), moments(&real)) {
            (Ok(found), Ok(wanted)) => frechet_distance(&found, &wanted)?,
            (Err(EvalError::Unmeasurable(why)), _) | (_, Err(EvalError::Unmeasurable(why))) => {
                findings.not_measured.insert(name, why);
                continue;
            }
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        let measure = Measure::new(&name, &format!("Fréchet distance of {what}"), value);
        findings.measures.push(
            measure
                .unit("dB²")
                .lower_is_better()
                .protocol(Protocol::Features(FeatureProtocol {
                    statistic: Statistic::Frechet,
                    images,
                    n_images: maps.size()[0] as usize,
                    pixels,
                    n_real: n,
                    extractor: Extractor::SpectrogramStatistics { bands: N_BANDS },
                    n_features: statistics(&real).size()[1] as usize,
                    sampler: match images {
                        ImageSet::Samples => source.kind(),
                        _ => None,
                    },
                })),
        );
    }
    Ok(findings)
}

/// A classifier of the training sound, on held-out sound and on what the model makes of it.
fn classified(
    train: &Dataset,
    train_maps: &Tensor,
    test: &Dataset,
    real: &Tensor,
    reconstructed: &Tensor,
    findings: &mut Findings,
) -> Result<(), EvalError> {
    let (Some(classes), Some(wanted)) = (train.labels(), test.labels()) else {
        return Ok(());
    };
    let known = |labels: &Tensor| labels.ge(0).nonzero().squeeze_dim(1);
    let (of_train, of_test) = (known(classes), known(wanted));
    let n_classes = classes.max().int64_value(&[]) + 1;
    if n_classes < 2 || of_test.numel() == 0 || of_train.numel() < 2 {
        return Ok(());
    }
    let (classes, wanted) = (
        classes.index_select(0, &of_train),
        wanted.index_select(0, &of_test),
    );
    let probe = LinearProbe::fit(
        &seen(&train_maps.index_select(0, &of_train)),
        &classes,
        n_classes,
    )?;
    for (name, label, maps, of) in [
        (
            "class_accuracy_sound",
            "held-out sound recognized",
            real,
            "the held-out sound",
        ),
        (
            "class_accuracy_reconstructions",
            "reconstructions recognized",
            reconstructed,
            "its reconstructions",
        ),
    ] {
        let found = probe.classify(&seen(&maps.index_select(0, &of_test)))?;
        let (share, n) = (accuracy(&found, &wanted), of_test.numel());
        findings.measures.push(
            Measure::new(name, label, share)
                .error((share * (1.0 - share) / n as f64).sqrt())
                .higher_is_better()
                .protocol(Protocol::SoundClass {
                    of: of.to_owned(),
                    bands: SEEN[0],
                    frames: SEEN[1],
                    n_train_images: of_train.numel(),
                }),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distance_is_the_root_mean_square_of_a_frame() {
        // One channel, two bands, two frames: √((3² + 4²)/2) in the first frame, 0 in the second.
        let a = Tensor::from_slice(&[3_f32, 0.0, 4.0, 0.0]).view([1, 1, 2, 2]);
        let distance = log_spectral_distances(&a, &Tensor::zeros_like(&a));
        assert!((distance.double_value(&[0]) - 12.5_f64.sqrt() / 2.0).abs() < 1e-6);
        let of_lists = vae_sound::log_spectral_distance(&[3.0, 0.0, 4.0, 0.0], &[0.0; 4], 2);
        assert!((distance.double_value(&[0]) - of_lists).abs() < 1e-6);
    }

    #[test]
    fn principal_components_restore_what_lies_in_their_plane() {
        // Rows a·u + b·v + mean, with few rows and with many.
        for n in [4_i64, 40] {
            let a = Tensor::arange(n, (Kind::Float, Device::Cpu)).unsqueeze(1);
            let u = Tensor::from_slice(&[1_f32, 2.0, -1.0, 0.5, 0.0, 1.0]);
            let v = Tensor::from_slice(&[0_f32, 1.0, 1.0, -1.0, 2.0, 0.0]);
            let rows = &a * &u + a.sin() * &v + 3.0;
            let rows = rows.view([n, 1, 2, 3]);
            let both = pca_restored(&rows, &rows, 2).unwrap();
            assert!((&both - &rows).abs().max().double_value(&[]) < 1e-3);
            let one = pca_restored(&rows, &rows, 1).unwrap();
            assert!((&one - &rows).abs().max().double_value(&[]) > 0.1);
        }
    }

    #[test]
    fn statistics_are_means_and_deviations_of_bands() {
        let maps = Tensor::arange(32 * 4, (Kind::Float, Device::Cpu)).view([1, 1, 32, 4]);
        let found = statistics(&maps);
        assert_eq!(found.size(), [1, 32]);
        // The first two bands are 0 … 3 and 4 … 7: frames 2, 3, 4, 5 with a deviation of √1.25.
        assert!((found.double_value(&[0, 0]) - 3.5).abs() < 1e-6);
        assert!((found.double_value(&[0, 16]) - 1.25_f64.sqrt()).abs() < 1e-6);
    }
}
