//! The quality of reconstructions and samples.

use std::path::PathBuf;

use tch::{Device, Kind, Tensor, no_grad};
use vae_data::loader::Batches;
use vae_data::{Dataset, KnownDataset, derive_seed};
use vae_model::{Conditioned, LatentSource, Vae};

use crate::features::{
    FeatureExtractor, KernelDistance, MnistClassifier, Moments, PixelPca, PrecisionRecall,
    TorchScript, frechet_distance, kernel_distance_of_subsets, precision_recall,
};
use crate::image_quality::{
    mean_squared_error, multiscale_structural_similarity, n_scales, peak_signal_to_noise_ratio,
    scale_weights, structural_similarity,
};
use crate::{
    EvalError, Extractor, FeatureProtocol, Findings, ImageSet, Measure, Progress, Protocol,
    SetPixels, Statistic,
};

/// How reconstructions and samples are measured.
#[derive(Clone, Debug, PartialEq)]
pub struct PictureOptions {
    /// The number of images to sample from the model. By default as many as there are held-out images, at most 10,000.
    pub n_samples: Option<usize>,
    /// Images at a time; the results do not depend on it. If pixels are drawn it is always 100.
    pub batch_size: usize,
    /// TorchScript files, each a feature extractor ([`TorchScript`]).
    pub feature_files: Vec<PathBuf>,
    /// The file written by `cargo xtask classifier` ([`MnistClassifier`]).
    pub classifier: PathBuf,
    /// The data set: the digit classifier is only used for MNIST.
    pub dataset: KnownDataset,
}

impl Default for PictureOptions {
    fn default() -> Self {
        Self {
            n_samples: None,
            batch_size: N_DRAWN,
            feature_files: Vec::new(),
            classifier: PathBuf::from("datasets/mnist/classifier.safetensors"),
            dataset: KnownDataset::Unknown,
        }
    }
}

/// The number of images whose pixels are drawn together, with a seed of their own.
const N_DRAWN: usize = 100;

const MAX_SAMPLES: usize = 10_000;

/// k of precision and recall.
const N_NEIGHBORS: usize = 3;

/// Measures reconstructions of held-out images by pixels, and samples by features: Fréchet and kernel distance to the
/// held-out images, and precision and recall, for each extractor. `train` gives the distance of a perfect model, `source` the
/// latents of samples.
///
/// Reconstructions and samples are mean images. If the data set is binarized at random, the pixels for features are drawn, so
/// that both sides are black and white.
///
/// # Errors
/// Images of another shape than the model's; an invalid feature file; a model whose images have NaN or infinite values.
pub fn measure_pictures(
    vae: &Vae,
    test: &Dataset,
    train: Option<&Dataset>,
    source: LatentSource,
    options: &PictureOptions,
    seed: u64,
    progress: &mut Progress,
) -> Result<Findings, EvalError> {
    vae.with_fixed_weights(|| findings(vae, test, train, source, options, seed, progress))
}

fn findings(
    vae: &Vae,
    test: &Dataset,
    train: Option<&Dataset>,
    source: LatentSource,
    options: &PictureOptions,
    seed: u64,
    progress: &mut Progress,
) -> Result<Findings, EvalError> {
    let mut findings = Findings::default();
    let painter = Painter {
        vae,
        seed,
        draws: test.binarization().is_some(),
    };
    let batch_size = match painter.draws {
        true => N_DRAWN,
        false => options.batch_size.max(1),
    };
    let extractors = extractors(vae, test, options, batch_size, &mut findings)?;
    let n_real = test.len();

    let mut real = FeatureSets::new(&extractors);
    let mut reconstructed = FeatureSets::new(&extractors);
    let mut errors = PixelErrors::default();
    no_grad(|| -> Result<(), EvalError> {
        let mut n_done = 0;
        for (i, batch) in Batches::sequential(test, batch_size, vae.device()).enumerate() {
            let batch = batch?;
            let condition = batch.condition.as_ref();
            let images = batch.items.to_kind(Kind::Float) / 255.0;
            real.add(&images)?;
            n_done += images.size()[0] as usize;
            progress("reconstructions", n_done, n_real);
            if !vae.has_encoder() {
                continue;
            }
            let latents = vae.encode((&batch.items, condition))?.center();
            let means = finite(vae.decode((&latents, condition))?)?;
            errors.add(&images, &means)?;
            match painter.draws {
                true => {
                    let latents = (&latents, condition).into();
                    reconstructed.add(&painter.paint(latents, i, "reconstructions")?)?
                }
                false => reconstructed.add(&means)?,
            }
        }
        Ok(())
    })?;
    if vae.has_encoder() {
        errors.measures(test, painter.draws, &mut findings);
    } else {
        let reason = "the model has no encoder and so no reconstructions";
        leave_out("mse", reason, &mut findings);
    }

    let n_samples = options.n_samples.unwrap_or(n_real.min(MAX_SAMPLES));
    let mut samples = FeatureSets::new(&extractors);
    let mut recognized = Recognized {
        extractors: &extractors,
        n_classes: vae.condition().classes.len() as i64,
        n_asked: 0,
        n_right: 0,
        by: None,
    };
    no_grad(|| -> Result<(), EvalError> {
        let mut generator = vae.generator(derive_seed(seed, 0, "latents of samples"));
        // New images for the conditions of the held-out images, in their order.
        let condition = test.condition().map(|condition| {
            let rows = Tensor::arange(n_samples as i64, (Kind::Int64, Device::Cpu));
            condition.index_select(0, &rows.remainder(n_real as i64))
        });
        let n = n_samples as i64;
        let latents = vae.latents_from(source, n, condition.as_ref(), &mut generator)?;
        let mut conditions = condition
            .map(|condition| condition.split(batch_size as i64, 0))
            .into_iter()
            .flatten();
        let mut n_done = 0;
        for (i, latents) in latents.split(batch_size as i64, 0).iter().enumerate() {
            let condition = conditions.next();
            let of_batch = (latents, condition.as_ref()).into();
            let images = painter.paint(of_batch, i, "samples")?;
            samples.add(&images)?;
            if let Some(condition) = &condition {
                recognized.add(&images, condition)?;
            }
            n_done += latents.size()[0] as usize;
            progress("samples", n_done, n_samples);
        }
        Ok(())
    })?;

    recognized.measure(source, painter.pixels(), &mut findings);

    let n_train = train.map_or(0, |train| train.len().min(n_real));
    let mut training = FeatureSets::new(&extractors);
    if let Some(train) = train {
        let first = train.truncated(n_train);
        let mut n_done = 0;
        for images in Batches::sequential(&first, batch_size, vae.device()) {
            let images = images?.items.to_kind(Kind::Float) / 255.0;
            no_grad(|| training.add(&images))?;
            n_done += images.size()[0] as usize;
            progress("training images", n_done, n_train);
        }
    }

    for (i, extractor) in extractors.iter().enumerate() {
        progress("distances", i, extractors.len());
        let sets = Sets {
            extractor: extractor.as_ref(),
            real: real.set(i)?,
            reconstructed: match vae.has_encoder() {
                true => Some(reconstructed.set(i)?),
                false => None,
            },
            samples: samples.set(i)?,
            training: train.map(|_| training.set(i)).transpose()?,
            pixels: painter.pixels(),
            source,
        };
        sets.measures(seed, &mut findings)?;
    }
    progress("distances", extractors.len(), extractors.len());
    Ok(findings)
}

/// The share of new images that a classifier assigns to the requested class.
struct Recognized<'a> {
    extractors: &'a [Box<dyn FeatureExtractor>],
    /// The columns of the model's condition.
    n_classes: i64,
    n_asked: i64,
    n_right: i64,
    /// The classifier, once it was found.
    by: Option<Extractor>,
}

impl Recognized<'_> {
    /// Adds images of these conditions; images of an unknown class are left out.
    fn add(&mut self, images: &Tensor, condition: &Tensor) -> Result<(), EvalError> {
        if self.n_classes == 0 {
            return Ok(());
        }
        for extractor in self.extractors {
            let Some(found) = extractor.classes(images)? else {
                continue;
            };
            let of_class = condition.narrow(1, 0, self.n_classes);
            let is_known = of_class.isfinite().all_dim(1, false);
            let is_right = found.eq_tensor(&of_class.argmax(1, false)) * &is_known;
            self.n_asked += i64::try_from(is_known.sum(Kind::Int64))?;
            self.n_right += i64::try_from(is_right.sum(Kind::Int64))?;
            self.by = Some(extractor.about());
            return Ok(());
        }
        Ok(())
    }

    fn measure(self, source: LatentSource, pixels: SetPixels, findings: &mut Findings) {
        let (Some(classifier), 1..) = (self.by, self.n_asked) else {
            return;
        };
        let (share, n) = (self.n_right as f64 / self.n_asked as f64, self.n_asked);
        findings.measures.push(
            Measure::new(
                "condition_accuracy",
                "samples recognized as the class asked for",
                share,
            )
            .error((share * (1.0 - share) / n as f64).sqrt())
            .higher_is_better()
            .protocol(Protocol::Recognized {
                classifier,
                n_samples: n as usize,
                pixels,
                sampler: source.kind(),
            }),
        );
    }
}

/// Generates the model's images for features.
struct Painter<'a> {
    vae: &'a Vae,
    seed: u64,
    /// Whether pixels are drawn or means.
    draws: bool,
}

impl Painter<'_> {
    /// Images f32 `[B, C, H, W]` in `[0, 1]` of the latents of batch `i`.
    fn paint(&self, latents: Conditioned, i: usize, purpose: &str) -> Result<Tensor, EvalError> {
        if !self.draws {
            return finite(self.vae.decode(latents)?);
        }
        let purpose = format!("pixels of {purpose}");
        let seed = derive_seed(self.seed, i as u64, &purpose);
        let mut generator = self.vae.generator(seed);
        finite(self.vae.decode_sampled(latents, &mut generator)?)
    }

    /// The kind of its pixels, for a protocol.
    fn pixels(&self) -> SetPixels {
        match self.draws {
            true => SetPixels::Drawn,
            false => SetPixels::Means,
        }
    }
}

fn finite(images: Tensor) -> Result<Tensor, EvalError> {
    if i64::try_from(images.isfinite().all())? == 1 {
        return Ok(images);
    }
    Err(EvalError::Unmeasurable(
        "the model's images have NaN or infinite pixels; did its training diverge?".to_owned(),
    ))
}

/// The extractors for images of this shape.
fn extractors(
    vae: &Vae,
    test: &Dataset,
    options: &PictureOptions,
    batch_size: usize,
    findings: &mut Findings,
) -> Result<Vec<Box<dyn FeatureExtractor>>, EvalError> {
    let mut extractors: Vec<Box<dyn FeatureExtractor>> = Vec::new();
    let path = &options.classifier;
    match options.dataset {
        KnownDataset::Mnist if path.exists() => {
            let classifier = MnistClassifier::load(path, vae.device())?;
            match classifier.facts().trained_on {
                KnownDataset::Mnist => extractors.push(Box::new(classifier)),
                other => {
                    let path = path.display();
                    let reason =
                        format!("{path} was trained on {other}, and these images are MNIST");
                    leave_out("fid_mnist_classifier", reason, findings);
                }
            }
        }
        KnownDataset::Mnist => {
            let reason = format!(
                "there is no {}; `cargo xtask classifier` makes it in a minute or two",
                path.display()
            );
            leave_out("fid_mnist_classifier", reason, findings);
        }
        // Its features are of digits. For other images of the same size its results would be meaningless.
        other if test.shape().to_string() == "1×28×28" => {
            let found = match other {
                KnownDataset::Unknown => "not known to be MNIST".to_owned(),
                other => other.to_string(),
            };
            let reason =
                format!("its features are of MNIST's digits, and these images are {found}");
            leave_out("fid_mnist_classifier", reason, findings);
        }
        _ => {}
    }
    match PixelPca::fit(test, batch_size) {
        Ok(pca) => extractors.push(Box::new(pca)),
        Err(EvalError::Unmeasurable(reason)) => leave_out("fid_pixel_pca", reason, findings),
        Err(error) => return Err(error),
    }
    if options.feature_files.is_empty() {
        let reason = "features of Inception need its weights: docs/features.md says how to make \
                      inception.ts for `--features`";
        leave_out("fid_inception", reason, findings);
    }
    for path in &options.feature_files {
        let file = TorchScript::load(path, vae.device())?;
        let name = file.name();
        let is_taken = ["mnist_classifier", "pixel_pca"].contains(&name)
            || extractors.iter().any(|other| other.name() == name);
        if is_taken {
            return Err(EvalError::File {
                path: path.clone(),
                problem: format!("would be named {name}, like another extractor; rename it"),
            });
        }
        extractors.push(Box::new(file));
    }
    Ok(extractors)
}

/// Features of the same images, of each extractor.
struct FeatureSets<'a> {
    extractors: &'a [Box<dyn FeatureExtractor>],
    /// Of each extractor, batch by batch.
    features: Vec<Vec<Tensor>>,
}

impl<'a> FeatureSets<'a> {
    fn new(extractors: &'a [Box<dyn FeatureExtractor>]) -> Self {
        Self {
            extractors,
            features: extractors.iter().map(|_| Vec::new()).collect(),
        }
    }

    fn add(&mut self, images: &Tensor) -> Result<(), EvalError> {
        for (extractor, features) in self.extractors.iter().zip(&mut self.features) {
            features.push(extractor.features(images)?);
        }
        Ok(())
    }

    /// Those of extractor `i`, f64 `[N, D]`.
    fn set(&self, i: usize) -> Result<Tensor, EvalError> {
        Ok(Tensor::f_cat(&self.features[i], 0)?)
    }
}

/// Of each image, how its reconstruction differs.
#[derive(Default)]
struct PixelErrors {
    mse: Vec<f64>,
    psnr: Vec<f64>,
    /// Empty where images are too small for its window, as the next.
    ssim: Vec<f64>,
    ms_ssim: Vec<f64>,
}

impl PixelErrors {
    fn add(&mut self, images: &Tensor, means: &Tensor) -> Result<(), EvalError> {
        let numbers = |tensor: Tensor| Vec::<f64>::try_from(tensor.to_device(Device::Cpu));
        let psnr = peak_signal_to_noise_ratio(images, means)?;
        self.mse
            .extend(numbers(mean_squared_error(images, means)?)?);
        self.psnr.extend(numbers(psnr)?);
        let (_, _, height, width) = images.size4()?;
        if n_scales(height, width) > 0 {
            let ms_ssim = multiscale_structural_similarity(images, means)?;
            let ssim = structural_similarity(images, means)?;
            self.ssim.extend(numbers(ssim)?);
            self.ms_ssim.extend(numbers(ms_ssim)?);
        }
        Ok(())
    }

    fn measures(self, test: &Dataset, draws: bool, findings: &mut Findings) {
        let black_and_white = draws;
        let mean = |name: &str, label: &str, values: &[f64]| {
            let (value, error) = mean_and_error(values);
            let measure = Measure::new(name, label, value);
            match error {
                Some(error) => measure.error(error),
                None => measure,
            }
        };
        let mse = mean("mse", "mean squared error of reconstructions", &self.mse);
        let mse = mse.protocol(Protocol::PixelError { black_and_white });
        findings.measures.push(mse.lower_is_better());
        let n_exact = self.psnr.iter().filter(|psnr| psnr.is_infinite()).count();
        if n_exact == 0 {
            let label = "peak signal-to-noise ratio of reconstructions";
            let psnr = mean("psnr", label, &self.psnr).unit("dB");
            let protocol = Protocol::SignalToNoise { black_and_white };
            findings
                .measures
                .push(psnr.higher_is_better().protocol(protocol));
        } else {
            let reason = format!("it is infinite for {n_exact} images, reconstructed exactly");
            leave_out("psnr", reason, findings);
        }
        let shape = test.shape();
        let n_scales = n_scales(shape.height, shape.width);
        if n_scales == 0 {
            for name in ["ssim", "ms_ssim"] {
                let reason = format!("images of {shape} are smaller than the window of 11×11");
                leave_out(name, reason, findings);
            }
            return;
        }
        let protocol = |scale_weights: Vec<f64>| Protocol::StructuralSimilarity {
            black_and_white,
            window: 11,
            sigma: 1.5,
            scale_weights,
        };
        let ssim = mean(
            "ssim",
            "structural similarity of reconstructions",
            &self.ssim,
        );
        let label = "multi-scale structural similarity of reconstructions";
        let ms_ssim = mean("ms_ssim", label, &self.ms_ssim);
        let ssim = ssim.higher_is_better().protocol(protocol(vec![1.0]));
        let weights = scale_weights(n_scales).to_vec();
        let ms_ssim = ms_ssim.higher_is_better().protocol(protocol(weights));
        findings.measures.extend([ssim, ms_ssim]);
    }
}

/// Mean and its standard error, which a single value has not.
fn mean_and_error(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let error = (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt());
    (mean, error)
}

fn leave_out(name: &str, reason: impl Into<String>, findings: &mut Findings) {
    let _ = findings.not_measured.insert(name.to_owned(), reason.into());
}

/// Features of one extractor, f64 `[N, D]` each.
struct Sets<'a> {
    extractor: &'a dyn FeatureExtractor,
    real: Tensor,
    /// `None` of a model without an encoder.
    reconstructed: Option<Tensor>,
    samples: Tensor,
    training: Option<Tensor>,
    /// What reconstructions and samples are.
    pixels: SetPixels,
    /// Where the latents of samples come from.
    source: LatentSource<'a>,
}

impl Sets<'_> {
    fn measures(&self, seed: u64, findings: &mut Findings) -> Result<(), EvalError> {
        let extractor = self.extractor.name();
        let reconstructions = self.reconstructed.as_ref();
        let of_generated = [
            ("fid", ImageSet::Samples, Some(&self.samples)),
            ("rfid", ImageSet::Reconstructions, reconstructions),
        ];
        for (kind, what, images) in of_generated {
            let Some(images) = images else { continue };
            let name = format!("{kind}_{extractor}");
            let found = self.frechet(&name, what, images);
            put(&name, found.map(Measure::lower_is_better), findings)?;
        }
        if let (Some(images), true) = (reconstructions, self.is_perceptual()) {
            let name = format!("perceptual_{extractor}");
            let label = format!("perceptual distance of reconstructions ({extractor})");
            let cosine = Tensor::f_cosine_similarity(&self.real, images, 1, 1e-12)?;
            let distances = Vec::<f64>::try_from((cosine * -1.0 + 1.0).to_device(Device::Cpu))?;
            let (mean, error) = mean_and_error(&distances);
            let mut measure = Measure::new(&name, &label, mean).lower_is_better();
            measure.error = error;
            let what = ImageSet::Reconstructions;
            findings.measures.push(measure.protocol(self.protocol(
                Statistic::Cosine,
                what,
                images,
            )));
        }
        if let Some(images) = &self.training {
            let name = format!("fid_{extractor}_of_training_images");
            let found = self.frechet(&name, ImageSet::TrainingImages, images);
            put(&name, found, findings)?;
        }

        let of_samples = |statistic| self.protocol(statistic, ImageSet::Samples, &self.samples);
        let name = format!("kid_{extractor}");
        let label = format!("kernel distance of samples ({extractor})");
        let found = kernel_distance_of_subsets(&self.real, &self.samples, seed).map(|found| {
            let KernelDistance {
                mean,
                deviation,
                subset_size,
                n_subsets,
            } = found;
            Measure::new(&name, &label, mean)
                .error(deviation)
                .lower_is_better()
                .protocol(of_samples(Statistic::Kernel {
                    n_subsets,
                    subset_size,
                }))
        });
        put(&name, found, findings)?;

        let found = precision_recall(&self.real, &self.samples, N_NEIGHBORS);
        let protocol = of_samples(Statistic::Neighbors { k: N_NEIGHBORS });
        match found {
            Ok(PrecisionRecall { precision, recall }) => {
                for (what, value) in [("precision", precision), ("recall", recall)] {
                    let name = format!("{what}_{extractor}");
                    let label = format!("{what} of samples ({extractor})");
                    let measure = Measure::new(&name, &label, value).higher_is_better();
                    findings.measures.push(measure.protocol(protocol.clone()));
                }
            }
            Err(EvalError::Unmeasurable(reason)) => {
                leave_out(&format!("precision_{extractor}"), &reason, findings);
                leave_out(&format!("recall_{extractor}"), &reason, findings);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether the features are those of a trained network, and images are compared as they are.
    fn is_perceptual(&self) -> bool {
        let is_trained = !matches!(self.extractor.about(), Extractor::PixelPca { .. });
        is_trained && self.pixels == SetPixels::Means
    }

    /// What was compared, and by which features.
    fn protocol(&self, statistic: Statistic, set: ImageSet, images: &Tensor) -> Protocol {
        Protocol::Features(FeatureProtocol {
            statistic,
            images: set,
            n_images: images.size()[0] as usize,
            pixels: match set {
                ImageSet::TrainingImages => SetPixels::Given,
                ImageSet::Samples | ImageSet::Reconstructions => self.pixels,
            },
            n_real: self.real.size()[0] as usize,
            extractor: self.extractor.about(),
            n_features: self.real.size()[1] as usize,
            sampler: match set {
                ImageSet::Samples => self.source.kind(),
                ImageSet::TrainingImages | ImageSet::Reconstructions => None,
            },
        })
    }

    /// The Fréchet distance of images to the real ones.
    fn frechet(&self, name: &str, set: ImageSet, images: &Tensor) -> Result<Measure, EvalError> {
        let distance = frechet_distance(&Moments::of(&self.real)?, &Moments::of(images)?)?;
        let what = match set {
            ImageSet::Samples => "samples",
            ImageSet::Reconstructions => "reconstructions",
            ImageSet::TrainingImages => "training images",
        };
        let label = format!("Fréchet distance of {what} ({})", self.extractor.name());
        let protocol = self.protocol(Statistic::Frechet, set, images);
        Ok(Measure::new(name, &label, distance).protocol(protocol))
    }
}

/// Adds what was measured, or the reason why it could not be.
fn put(
    name: &str,
    found: Result<Measure, EvalError>,
    findings: &mut Findings,
) -> Result<(), EvalError> {
    match found {
        Ok(measure) => findings.measures.push(measure),
        Err(EvalError::Unmeasurable(reason)) => leave_out(name, reason, findings),
        Err(error) => return Err(error),
    }
    Ok(())
}
