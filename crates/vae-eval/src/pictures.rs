//! How good reconstructions and samples look, in numbers.

use std::path::PathBuf;

use tch::{Device, Kind, Tensor, no_grad};
use vae_data::loader::Batches;
use vae_data::{Dataset, derive_seed};
use vae_model::Vae;

use crate::features::{
    FeatureExtractor, KernelDistance, MnistClassifier, Moments, PixelPca, PrecisionRecall,
    TorchScript, frechet_distance, kernel_distance_of_subsets, precision_recall,
};
use crate::image_quality::{
    mean_squared_error, multiscale_structural_similarity, n_scales, peak_signal_to_noise_ratio,
    scale_weights, structural_similarity,
};
use crate::{EvalError, Findings, Measure, Progress};

/// How pictures are measured.
#[derive(Clone, Debug, PartialEq)]
pub struct PictureOptions {
    /// Images to draw from the model. By default as many as there are held-out ones, at most 10,000.
    pub n_samples: Option<usize>,
    /// Images at a time. The numbers do not depend on it. Where pixels are drawn it is 100.
    pub batch_size: usize,
    /// TorchScript files, each an extractor of features ([`TorchScript`]).
    pub feature_files: Vec<PathBuf>,
    /// What `cargo xtask classifier` writes ([`MnistClassifier`]).
    pub classifier: PathBuf,
}

impl Default for PictureOptions {
    fn default() -> Self {
        Self {
            n_samples: None,
            batch_size: N_DRAWN,
            feature_files: Vec::new(),
            classifier: PathBuf::from("datasets/mnist/classifier.safetensors"),
        }
    }
}

/// Images whose pixels are drawn at a time, by a seed of their own.
const N_DRAWN: usize = 100;

const MAX_SAMPLES: usize = 10_000;

/// Neighbors of precision and recall.
const N_NEIGHBORS: usize = 3;

/// Measures reconstructions of held-out images, by pixels, and samples, by features: Fréchet and kernel
/// distance to the held-out images, precision and recall, for each extractor. `train` gives the distance
/// that a perfect model would have.
///
/// Reconstructions and samples are mean images. Where the data set is made black and white by chance, the
/// pixels that features are made of are drawn, so that both sides are black and white.
///
/// # Errors
/// Images of another shape than the model's; a file of features that is none; a model whose images are no
/// numbers.
pub fn measure_pictures(
    vae: &Vae,
    test: &Dataset,
    train: Option<&Dataset>,
    options: &PictureOptions,
    seed: u64,
    progress: &mut Progress,
) -> Result<Findings, EvalError> {
    vae.with_fixed_weights(|| findings(vae, test, train, options, seed, progress))
}

fn findings(
    vae: &Vae,
    test: &Dataset,
    train: Option<&Dataset>,
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
        for (i, images) in Batches::sequential(test, batch_size, vae.device()).enumerate() {
            let images = images?;
            let latents = vae.encode(&images)?.center();
            let images = images.to_kind(Kind::Float) / 255.0;
            let means = finite(vae.decode(&latents)?)?;
            errors.add(&images, &means)?;
            real.add(&images)?;
            match painter.draws {
                true => reconstructed.add(&painter.paint(&latents, i, "reconstructions")?)?,
                false => reconstructed.add(&means)?,
            }
            n_done += images.size()[0] as usize;
            progress("reconstructions", n_done, n_real);
        }
        Ok(())
    })?;
    errors.measures(test, painter.draws, &mut findings);

    let n_samples = options.n_samples.unwrap_or(n_real.min(MAX_SAMPLES));
    let mut samples = FeatureSets::new(&extractors);
    no_grad(|| -> Result<(), EvalError> {
        tch::manual_seed(derive_seed(seed, 0, "latents of samples") as i64);
        let latents = vae.sample_latents(n_samples as i64);
        let mut n_done = 0;
        for (i, latents) in latents.split(batch_size as i64, 0).iter().enumerate() {
            samples.add(&painter.paint(latents, i, "samples")?)?;
            n_done += latents.size()[0] as usize;
            progress("samples", n_done, n_samples);
        }
        Ok(())
    })?;

    let n_train = train.map_or(0, |train| train.len().min(n_real));
    let mut training = FeatureSets::new(&extractors);
    if let Some(train) = train {
        let first = train.subset(&(0..n_train).collect::<Vec<_>>());
        let mut n_done = 0;
        for images in Batches::sequential(&first, batch_size, vae.device()) {
            let images = images?.to_kind(Kind::Float) / 255.0;
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
            reconstructed: reconstructed.set(i)?,
            samples: samples.set(i)?,
            training: train.map(|_| training.set(i)).transpose()?,
            images: painter.images(),
        };
        sets.measures(seed, &mut findings)?;
    }
    progress("distances", extractors.len(), extractors.len());
    Ok(findings)
}

/// Makes the model's images that features are made of.
struct Painter<'a> {
    vae: &'a Vae,
    seed: u64,
    /// Whether pixels are drawn, or means of them.
    draws: bool,
}

impl Painter<'_> {
    /// Images f32 `[B, C, H, W]` in `[0, 1]` of the latents of batch `i`.
    fn paint(&self, latents: &Tensor, i: usize, purpose: &str) -> Result<Tensor, EvalError> {
        if !self.draws {
            return finite(self.vae.decode(latents)?);
        }
        let purpose = format!("pixels of {purpose}");
        tch::manual_seed(derive_seed(self.seed, i as u64, &purpose) as i64);
        finite(self.vae.decode_sampled(latents)?)
    }

    /// What it makes, for a protocol.
    fn images(&self) -> &'static str {
        match self.draws {
            true => "with pixels drawn from p(x|z), as the held-out images are black and white",
            false => "mean images of p(x|z)",
        }
    }
}

fn finite(images: Tensor) -> Result<Tensor, EvalError> {
    if i64::try_from(images.isfinite().all())? == 1 {
        return Ok(images);
    }
    Err(EvalError::Unmeasurable(
        "the model's images have pixels that are infinite or no numbers; did its training diverge?"
            .to_owned(),
    ))
}

/// Those that know images of this shape.
fn extractors(
    vae: &Vae,
    test: &Dataset,
    options: &PictureOptions,
    batch_size: usize,
    findings: &mut Findings,
) -> Result<Vec<Box<dyn FeatureExtractor>>, EvalError> {
    let mut extractors: Vec<Box<dyn FeatureExtractor>> = Vec::new();
    let path = &options.classifier;
    // Of other images than these a classifier of digits is not usual either.
    if test.shape().to_string() == "1×28×28" {
        if path.exists() {
            extractors.push(Box::new(MnistClassifier::load(path, vae.device())?));
        } else {
            let reason = format!(
                "there is no {}; `cargo xtask classifier` makes it in a minute or two",
                path.display()
            );
            leave_out("fid_mnist_classifier", reason, findings);
        }
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
                problem: format!("would be called {name}, as another extractor is; rename it"),
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
        let images = match draws {
            true => "the black-and-white held-out images",
            false => "the held-out images",
        };
        let protocol = format!("mean image of the posterior's center against {images}, in [0, 1]");
        let mean = |name: &str, label: &str, values: &[f64]| {
            let (value, error) = mean_and_error(values);
            let measure = Measure::new(name, label, value).protocol(protocol.clone());
            match error {
                Some(error) => measure.error(error),
                None => measure,
            }
        };
        let mse = mean("mse", "mean squared error of reconstructions", &self.mse);
        findings.measures.push(mse.lower_is_better());
        let n_exact = self.psnr.iter().filter(|psnr| psnr.is_infinite()).count();
        if n_exact == 0 {
            let label = "peak signal-to-noise ratio of reconstructions";
            let psnr = mean("psnr", label, &self.psnr).unit("dB");
            let protocol = format!("{}; mean of the images' ratios", psnr.protocol);
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
                let reason = format!("images of {shape} have no room for its window of 11×11");
                leave_out(name, reason, findings);
            }
            return;
        }
        let window = "11×11 Gaussian window of σ = 1.5, K = 0.01 and 0.03";
        let ssim = mean(
            "ssim",
            "structural similarity of reconstructions",
            &self.ssim,
        );
        let weights = scale_weights(n_scales);
        let weights: Vec<_> = weights
            .iter()
            .map(|weight| format!("{weight:.4}"))
            .collect();
        let scales = match n_scales {
            1 => "1 scale".to_owned(),
            n => format!("{n} scales"),
        };
        let label = "multi-scale structural similarity of reconstructions";
        let ms_ssim = mean("ms_ssim", label, &self.ms_ssim);
        let of_one = format!("{protocol}; {window}");
        let of_all = format!("{of_one}; {scales} of weight {}", weights.join(", "));
        let ssim = ssim.higher_is_better().protocol(of_one);
        let ms_ssim = ms_ssim.higher_is_better().protocol(of_all);
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
    reconstructed: Tensor,
    samples: Tensor,
    training: Option<Tensor>,
    /// What reconstructions and samples are.
    images: &'static str,
}

impl Sets<'_> {
    fn measures(&self, seed: u64, findings: &mut Findings) -> Result<(), EvalError> {
        let extractor = self.extractor.name();
        let of_generated = [
            ("fid", "samples", &self.samples),
            ("rfid", "reconstructions", &self.reconstructed),
        ];
        for (kind, what, images) in of_generated {
            let name = format!("{kind}_{extractor}");
            let protocol = self.protocol(what, images);
            let found = self.frechet(&name, what, images, &protocol);
            put(&name, found.map(Measure::lower_is_better), findings)?;
        }
        if let Some(images) = &self.training {
            let name = format!("fid_{extractor}_of_training_images");
            let protocol = format!(
                "the first {} training images against {}: what a perfect model would have",
                images.size()[0],
                self.real_images()
            );
            let found = self.frechet(&name, "training images", images, &protocol);
            put(&name, found, findings)?;
        }

        let protocol = self.protocol("samples", &self.samples);
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
                .protocol(format!(
                    "{protocol}; unbiased, kernel (xᵀy/D + 1)³, mean of {n_subsets} subsets of \
                     {subset_size} images; the error is the subsets' standard deviation"
                ))
        });
        put(&name, found, findings)?;

        let found = precision_recall(&self.real, &self.samples, N_NEIGHBORS);
        let protocol = format!("{protocol}; k = {N_NEIGHBORS} nearest neighbors");
        match found {
            Ok(PrecisionRecall { precision, recall }) => {
                for (what, value) in [("precision", precision), ("recall", recall)] {
                    let name = format!("{what}_{extractor}");
                    let label = format!("{what} of samples ({extractor})");
                    let measure = Measure::new(&name, &label, value).higher_is_better();
                    findings.measures.push(measure.protocol(&protocol));
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

    /// What was compared, and by which features.
    fn protocol(&self, what: &str, generated: &Tensor) -> String {
        format!(
            "{} {what}, {}, against {}",
            generated.size()[0],
            self.images,
            self.real_images()
        )
    }

    fn real_images(&self) -> String {
        format!(
            "{} held-out images; {}, D = {}",
            self.real.size()[0],
            self.extractor.description(),
            self.real.size()[1]
        )
    }

    /// The Fréchet distance of images to the real ones, with a warning where there are no more of
    /// either than features.
    fn frechet(
        &self,
        name: &str,
        what: &str,
        images: &Tensor,
        protocol: &str,
    ) -> Result<Measure, EvalError> {
        let distance = frechet_distance(&Moments::of(&self.real)?, &Moments::of(images)?)?;
        let label = format!("Fréchet distance of {what} ({})", self.extractor.name());
        let measure = Measure::new(name, &label, distance);
        let n = self.real.size()[0].min(images.size()[0]);
        Ok(match n > self.real.size()[1] {
            true => measure.protocol(protocol),
            false => measure.protocol(format!(
                "{protocol}; n = {n} is no more than D: a covariance is singular, and the distance \
                 depends on n"
            )),
        })
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
