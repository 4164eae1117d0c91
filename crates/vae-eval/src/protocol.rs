//! How results were measured, as fields that are formatted as text only for display.

use std::fmt;

use serde::{Deserialize, Serialize};
use vae_data::KnownDataset;
use vae_model::SamplerKind;

/// How a result was measured, besides the images. Two results are comparable if their protocols and their
/// [`ImagesUsed`](crate::ImagesUsed) are equal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Protocol {
    /// A mean over samples from q(z|x).
    PosteriorSamples {
        /// K, the number of samples for each image.
        n_samples: u32,
    },
    /// A closed form of q(z|x) and p(z).
    ClosedForm,
    /// The importance-weighted bound of log p(x) (Burda et al. 2016).
    ImportanceWeighted {
        /// K, the number of samples from q(z|x) for each image.
        n_samples: u32,
        /// The number of images, from the start of the section's, if not all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        n_images: Option<usize>,
    },
    /// The closed form of log p(x) of probabilistic PCA.
    ProbabilisticPca,
    /// (Σw)²/Σw² of an image's importance weights.
    EffectiveSampleSize {
        /// K, the number of weights of each image.
        n_samples: u32,
    },
    /// Annealed importance sampling.
    Annealed(AnnealedProtocol),
    /// The annealed estimate of log p(x) minus the importance-weighted one on the same images.
    AnnealedGain {
        /// The annealed estimate.
        annealed: AnnealedProtocol,
        /// K of the importance-weighted estimate.
        n_samples: u32,
    },
    /// Mean squared error between the mean image at the posterior's center and the image, pixels in [0, 1].
    PixelError {
        /// Whether the images are black and white.
        black_and_white: bool,
    },
    /// Peak signal-to-noise ratio of the same, the mean over images.
    SignalToNoise {
        /// Whether the images are black and white.
        black_and_white: bool,
    },
    /// Structural similarity of the same.
    StructuralSimilarity {
        /// Whether the images are black and white.
        black_and_white: bool,
        /// Side of the Gaussian window in pixels.
        window: u32,
        /// Its σ in pixels.
        sigma: f64,
        /// The weights of the scales; a single 1 if there is one scale.
        scale_weights: Vec<f64>,
    },
    /// A comparison of two sets of images by features.
    Features(FeatureProtocol),
    /// The log-spectral distance of reconstructed sound, from the posterior's center.
    LogSpectral {
        /// Mel bands of the spectrograms.
        bands: usize,
        /// Their frames.
        frames: usize,
        /// Principal components of training sound in place of the model; none for the model.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        n_components: Option<i64>,
        /// The training sounds that they are computed from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        n_train_images: Option<usize>,
    },
    /// The share of sounds whose class a softmax regression of averaged spectrograms finds.
    SoundClass {
        /// Which sounds.
        of: String,
        /// Bands that it sees, averages.
        bands: i64,
        /// Frames that it sees, averages.
        frames: i64,
        /// The training sounds that it is fitted on.
        n_train_images: usize,
    },
    /// The share of tokens that are the most likely ones at the posterior's center.
    TokenAccuracy {
        /// Whether the decoder sees the true tokens before each one, or those that it gave itself.
        teacher_forced: bool,
    },
    /// New images of given classes, and the share that a classifier assigns to those classes.
    Recognized {
        /// The classifier.
        classifier: Extractor,
        /// The number of new images.
        n_samples: usize,
        /// Whether pixels are drawn or means.
        pixels: SetPixels,
        /// The sampler that their latents are drawn from; none for the prior.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sampler: Option<SamplerKind>,
    },
    /// The number of dimensions in which the posterior's center varies.
    ActiveUnits {
        /// The number of images that the variance is over.
        n_images: usize,
        /// The variance above which a dimension counts.
        threshold: f64,
    },
    /// q(z) = 1/N Σ q(z|x) over N images, at one z drawn for each image.
    AggregatePosterior {
        /// N.
        n_images: usize,
    },
    /// Moments of all values of latent maps, one z drawn from q(z|x) for each image.
    LatentScale {
        /// The number of images.
        n_images: usize,
    },
    /// MMD² between latents of images and of the prior, unbiased, by inverse multiquadratic kernels.
    Discrepancy {
        /// The number of latents on either side.
        n_latents: i64,
        /// The kernels have the widths 2·Z·s.
        scales: Vec<f64>,
    },
    /// The components of a mixture prior as clusters, compared with labels: argmax p(c|z) at the posterior's center.
    Clusters {
        /// Whether clusters are matched to labels, each to one.
        matched: bool,
    },
    /// A classifier on posterior centers.
    Probe {
        /// The classifier.
        classifier: ProbeClassifier,
        /// The number of training images that it is fitted on, from the start.
        n_train_images: usize,
        /// The number of principal components of the centers that it sees, where it sees not the centers themselves.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        n_components: Option<usize>,
        /// The number of yes-or-no attributes in the mean; none for a label with classes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        n_attributes: Option<usize>,
        /// Whether the balanced accuracy is reported.
        #[serde(default)]
        balanced: bool,
    },
    /// A disentanglement score.
    Disentanglement {
        /// How it is computed.
        score: ScoreProtocol,
        /// The factors from whose combinations images are drawn.
        factors: Vec<String>,
    },
}

/// The settings of annealed importance sampling.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnnealedProtocol {
    /// The number of images, from the start of the section's.
    pub n_images: usize,
    /// Chains for each image.
    pub n_chains: u32,
    /// The number of distributions between prior and posterior, on a sigmoid schedule.
    pub n_temperatures: u32,
    /// Leapfrog steps of a Hamiltonian transition.
    pub n_leapfrog: u32,
}

/// The two sets of images and the features that are compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureProtocol {
    /// The statistic of the two sets.
    pub statistic: Statistic,
    /// The compared set.
    pub images: ImageSet,
    /// The number of its images.
    pub n_images: usize,
    /// The kind of its pixels.
    pub pixels: SetPixels,
    /// The number of the section's images that it is compared with.
    pub n_real: usize,
    /// The features.
    pub extractor: Extractor,
    /// D.
    pub n_features: usize,
    /// The sampler that the latents of samples are drawn from; none for the prior.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampler: Option<SamplerKind>,
}

/// A statistic of two sets of features.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Statistic {
    /// Fréchet distance of Gaussians (Heusel et al. 2017).
    Frechet,
    /// MMD² with the kernel (xᵀy/D + 1)³, unbiased, the mean of subsets (Bińkowski et al. 2018).
    Kernel {
        /// The number of pairs of subsets.
        n_subsets: usize,
        /// The number of images in each subset.
        subset_size: usize,
    },
    /// 1 − cos of the features of an image and its reconstruction, the mean over images.
    Cosine,
    /// Precision and recall (Kynkäänniemi et al. 2019).
    Neighbors {
        /// The nearest neighbor whose distance is the radius.
        k: usize,
    },
}

/// A set of images that is compared with the held-out images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageSet {
    /// Samples from the model.
    Samples,
    /// Samples for the classes of the held-out images.
    Reconstructions,
    /// The first training images, the distance of a perfect model.
    TrainingImages,
}

/// The kind of a set's pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SetPixels {
    /// Means of p(x|z).
    Means,
    /// Drawn from p(x|z), since the held-out images are black and white.
    Drawn,
    /// Unchanged images of the data set.
    Given,
}

/// The source of features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Extractor {
    /// The penultimate layer of a small digit classifier.
    MnistClassifier {
        /// The data set that it was trained on.
        trained_on: KnownDataset,
        /// Its accuracy on the test images of that data set.
        test_accuracy: f64,
        /// The seed of its initial weights and of the order of the images.
        seed: u64,
        /// The SHA-256 of its weights.
        sha256: String,
    },
    /// Principal components of held-out images' pixels, not whitened.
    PixelPca {
        /// The number of components, from the first.
        n_components: usize,
        /// The side in pixels of the squares that are averaged.
        pooled: i64,
        /// The number of images that they are computed from.
        n_images: usize,
    },
    /// Mean and standard deviation over frames of mel bands in dB.
    SpectrogramStatistics {
        /// The number of bands, averages of the spectrogram's.
        bands: i64,
    },
    /// A network given by the user. Its training data is unknown.
    TorchScript {
        /// The name of its file.
        file: String,
        /// The SHA-256 of the file.
        sha256: String,
    },
}

/// A classifier of latents.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeClassifier {
    /// Softmax regression with an L2 penalty on standardized dimensions.
    Softmax {
        /// The weight of the penalty.
        l2: f64,
    },
    /// Logistic regression of each attribute.
    Logistic,
    /// The k nearest neighbors, Euclidean.
    NearestNeighbors {
        /// k.
        k: i64,
    },
}

/// How a disentanglement score is computed from the centers of q(z|x).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ScoreProtocol {
    /// Mutual information in bins of equal width.
    Bins {
        /// The number of images.
        n_images: usize,
        /// The number of bins of a dimension.
        n_bins: usize,
    },
    /// Linear support vector machines on single dimensions.
    SupportVectors {
        /// The penalty C.
        c: f64,
        /// The number of images they are fitted on.
        n_train: usize,
        /// The number of images they are tested on.
        n_test: usize,
    },
    /// The importances of dimensions to gradient-boosted trees.
    BoostedTrees {
        /// The number of trees of a class.
        n_rounds: usize,
        /// Their depth.
        depth: usize,
        /// The number of images they are fitted on.
        n_train: usize,
        /// The number of images of the accuracy; none for the importances.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        n_test: Option<usize>,
    },
    /// A majority vote by the least varying dimension.
    LeastVaryingVote {
        /// The number of images by whose variance a dimension is normalized.
        n_images: usize,
        /// Dimensions with a smaller standard deviation are left out.
        least_deviation: f64,
        /// The number of votes for fitting.
        n_train: usize,
        /// The number of votes for testing.
        n_test: usize,
        /// The number of images of a vote.
        batch: usize,
    },
    /// Multinomial logistic regression on mean absolute differences.
    Differences {
        /// The number of means for fitting.
        n_train: usize,
        /// The number of means for testing.
        n_test: usize,
        /// The number of pairs of images in a mean.
        batch: usize,
    },
}

impl Protocol {
    /// The meaning of the ± of a measure.
    pub(crate) fn error(&self) -> &'static str {
        match self {
            Self::Features(FeatureProtocol {
                statistic: Statistic::Kernel { .. },
                ..
            }) => "± is the subsets' standard deviation",
            Self::Discrepancy { .. } => "± is the difference between two samples of the prior",
            Self::AnnealedGain { .. } => "± over the images' differences",
            _ => "± over the images",
        }
    }
}

/// The protocol as text, as in a table.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PosteriorSamples { n_samples } => {
                write!(f, "mean of {n_samples} samples from q(z|x) for each image")
            }
            Self::ClosedForm => f.write_str("in closed form"),
            Self::ImportanceWeighted {
                n_samples,
                n_images,
            } => {
                if let Some(n_images) = n_images {
                    write!(f, "first {n_images} images; ")?;
                }
                write!(
                    f,
                    "importance-weighted bound, K = {n_samples} samples from q(z|x)"
                )
            }
            Self::ProbabilisticPca => {
                f.write_str("the model is probabilistic PCA, which has a closed form of log p(x)")
            }
            Self::EffectiveSampleSize { n_samples } => write!(
                f,
                "(Σw)²/Σw² of an image's {n_samples} importance weights, mean"
            ),
            Self::Annealed(annealed) => annealed.fmt(f),
            Self::AnnealedGain { n_samples, .. } => write!(
                f,
                "both are lower bounds in expectation: the higher one is tighter; K = {n_samples}"
            ),
            Self::PixelError { black_and_white } => reconstructions(f, *black_and_white),
            Self::SignalToNoise { black_and_white } => {
                reconstructions(f, *black_and_white)?;
                f.write_str("; mean of the images' ratios")
            }
            Self::StructuralSimilarity {
                black_and_white,
                window,
                sigma,
                scale_weights,
            } => {
                reconstructions(f, *black_and_white)?;
                write!(
                    f,
                    "; {window}×{window} Gaussian window of σ = {sigma}, K = 0.01 and 0.03"
                )?;
                if scale_weights.len() > 1 {
                    let weights = scale_weights.iter().map(|weight| format!("{weight:.4}"));
                    let weights: Vec<_> = weights.collect();
                    let n = weights.len();
                    write!(f, "; {n} scales of weight {}", weights.join(", "))?;
                }
                Ok(())
            }
            Self::Features(features) => features.fmt(f),
            Self::Recognized {
                classifier,
                n_samples,
                pixels,
                sampler,
            } => {
                let from = from(*sampler);
                let pixels = match pixels {
                    SetPixels::Drawn => "pixels drawn",
                    SetPixels::Means | SetPixels::Given => "mean images",
                };
                write!(
                    f,
                    "{n_samples} samples{from} of the held-out images' classes, {pixels}, by {classifier}"
                )
            }
            Self::LogSpectral {
                bands,
                frames,
                n_components,
                n_train_images,
            } => {
                match (n_components, n_train_images) {
                    (Some(n), Some(n_train)) => {
                        write!(f, "{n} principal components of {n_train} training sounds")?;
                    }
                    _ => f.write_str("sound of the posterior's center")?,
                }
                write!(
                    f,
                    " against the held-out sound: root mean square over the {bands} mel bands in dB, mean over \
                     {frames} frames"
                )
            }
            Self::SoundClass {
                of,
                bands,
                frames,
                n_train_images,
            } => write!(
                f,
                "{of}, by softmax regression of spectrograms averaged to {bands}×{frames}, fitted on \
                 {n_train_images} training sounds"
            ),
            Self::TokenAccuracy { teacher_forced } => write!(
                f,
                "the most likely tokens of the posterior's center against the held-out ones, up to their end; the decoder sees \
                 {}",
                match teacher_forced {
                    true => "the true tokens before each one (teacher forcing)",
                    false => "its own tokens (free running)",
                }
            ),
            Self::ActiveUnits {
                n_images,
                threshold,
            } => write!(
                f,
                "variance over {n_images} images of the posterior's center above {threshold}"
            ),
            Self::AggregatePosterior { n_images } => write!(
                f,
                "q(z) = 1/N Σ q(z|x) over the N = {n_images} images, ln N = {:.2}; one z drawn for each",
                (*n_images as f64).ln()
            ),
            Self::LatentScale { n_images } => {
                write!(
                    f,
                    "all values of the latents of {n_images} images, one z drawn for each"
                )
            }
            Self::Discrepancy { n_latents, scales } => {
                let scales: Vec<_> = scales.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "unbiased, {n_latents} latents of each, sum of inverse multiquadratic kernels of width \
                     2·Z·s, s = {}",
                    scales.join(", ")
                )
            }
            Self::Clusters { matched } => {
                f.write_str("argmax p(c|z) at the posterior's center")?;
                match matched {
                    true => f.write_str("; best matching of clusters to labels"),
                    false => Ok(()),
                }
            }
            Self::Probe {
                classifier,
                n_train_images,
                n_components,
                n_attributes,
                balanced,
            } => {
                classifier.fmt(f)?;
                if let Some(n) = n_attributes {
                    write!(f, ", of each attribute, mean of {n}")?;
                }
                match n_components {
                    Some(n) => write!(f, ", on {n} principal components of posterior centers")?,
                    None => write!(f, ", on posterior centers")?,
                }
                write!(f, ", fitted on the first {n_train_images} training images")?;
                match balanced {
                    true => f.write_str("; balanced accuracy, chance is 0.5"),
                    false => Ok(()),
                }
            }
            Self::Disentanglement { score, factors } => write!(
                f,
                "{score}; centers of q(z|x), images drawn from all combinations of {}",
                factors.join(", ")
            ),
        }
    }
}

fn reconstructions(f: &mut fmt::Formatter<'_>, black_and_white: bool) -> fmt::Result {
    let images = match black_and_white {
        true => "the black-and-white held-out images",
        false => "the held-out images",
    };
    write!(
        f,
        "mean image of the posterior's center against {images}, in [0, 1]"
    )
}

impl fmt::Display for AnnealedProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            n_images,
            n_chains,
            n_temperatures,
            n_leapfrog,
        } = self;
        write!(
            f,
            "first {n_images} images; {n_chains} chains from the prior, {n_temperatures} temperatures on a \
             sigmoid, Hamiltonian transitions of {n_leapfrog} leapfrog steps"
        )
    }
}

/// ` of the sampler gmm`; nothing for the prior.
fn from(sampler: Option<SamplerKind>) -> String {
    sampler.map_or(String::new(), |kind| format!(" of the sampler {kind}"))
}

impl fmt::Display for FeatureProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            statistic,
            images,
            n_images,
            pixels,
            n_real,
            extractor,
            n_features,
            sampler,
        } = self;
        match images {
            ImageSet::TrainingImages => write!(f, "the first {n_images} training images")?,
            ImageSet::Samples => write!(f, "{n_images} samples{}", from(*sampler))?,
            ImageSet::Reconstructions => write!(f, "{n_images} reconstructions")?,
        }
        f.write_str(match pixels {
            SetPixels::Means => ", mean images of p(x|z),",
            SetPixels::Drawn => {
                ", with pixels drawn from p(x|z), as the held-out images are black and white,"
            }
            SetPixels::Given => "",
        })?;
        match statistic {
            Statistic::Cosine => f.write_str(" each against its held-out image")?,
            _ => write!(f, " against {n_real} held-out images")?,
        }
        if *images == ImageSet::TrainingImages {
            f.write_str(": the result of a perfect model")?;
        }
        write!(f, "; {extractor}, D = {n_features}")?;
        match statistic {
            Statistic::Frechet => {
                let n = n_images.min(n_real);
                match n > n_features {
                    true => Ok(()),
                    false => write!(
                        f,
                        "; n = {n} is no more than D: a covariance is singular, and the distance depends on n"
                    ),
                }
            }
            Statistic::Kernel {
                n_subsets,
                subset_size,
            } => write!(
                f,
                "; unbiased, kernel (xᵀy/D + 1)³, mean of {n_subsets} subsets of {subset_size} images"
            ),
            Statistic::Neighbors { k } => write!(f, "; k = {k} nearest neighbors"),
            Statistic::Cosine => f.write_str("; 1 − cos of each pair's features, the mean"),
        }
    }
}

impl fmt::Display for Extractor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |sha256: &str| sha256.get(..8).unwrap_or_default().to_owned();
        match self {
            Self::MnistClassifier {
                trained_on,
                test_accuracy,
                seed,
                sha256,
            } => write!(
                f,
                "penultimate layer of a small classifier of {trained_on} (test accuracy {:.2} %, seed {seed}, \
                 SHA-256 {}…)",
                100.0 * test_accuracy,
                short(sha256)
            ),
            Self::SpectrogramStatistics { bands } => write!(
                f,
                "mean and standard deviation over time of {bands} mel bands in dB"
            ),
            Self::PixelPca {
                n_components,
                pooled,
                n_images,
            } => {
                let pixels = match pooled {
                    1 => "pixels".to_owned(),
                    n => format!("means of {n}×{n} pixels"),
                };
                write!(
                    f,
                    "first {n_components} principal components of the {pixels} in [0, 1] of {n_images} \
                     held-out images, not whitened"
                )
            }
            Self::TorchScript { file, sha256 } => {
                write!(f, "features of {file} (SHA-256 {}…)", short(sha256))
            }
        }
    }
}

impl fmt::Display for ProbeClassifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Softmax { l2 } => write!(
                f,
                "softmax regression with an L2 penalty of {l2} on standardized dimensions"
            ),
            Self::Logistic => f.write_str("logistic regression"),
            Self::NearestNeighbors { k } => write!(f, "k = {k}, Euclidean"),
        }
    }
}

impl fmt::Display for ScoreProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bins { n_images, n_bins } => {
                write!(f, "{n_images} images, {n_bins} bins of equal width")
            }
            Self::SupportVectors { c, n_train, n_test } => write!(
                f,
                "linear support vector machines on single dimensions, C = {c}, fitted on {n_train} images, \
                 tested on {n_test}"
            ),
            Self::BoostedTrees {
                n_rounds,
                depth,
                n_train,
                n_test,
            } => {
                if let Some(n_test) = n_test {
                    write!(f, "accuracy on {n_test} other images; ")?;
                }
                write!(
                    f,
                    "gradient-boosted trees, {n_rounds} rounds of depth {depth}, fitted on {n_train} images"
                )
            }
            Self::LeastVaryingVote {
                n_images,
                least_deviation,
                n_train,
                n_test,
                batch,
            } => write!(
                f,
                "majority vote of the least varying dimension, relative to its variance over {n_images} \
                 images, those of a standard deviation below {least_deviation} left out, fitted on \
                 {n_train}, tested on {n_test}, each of {batch} images"
            ),
            Self::Differences {
                n_train,
                n_test,
                batch,
            } => write!(
                f,
                "multinomial logistic regression on mean absolute differences, fitted on {n_train}, tested \
                 on {n_test}, each of {batch} pairs of images"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_protocol_survives_the_file_and_has_words() {
        let all = [
            Protocol::ClosedForm,
            Protocol::ImportanceWeighted {
                n_samples: 5000,
                n_images: None,
            },
            Protocol::AnnealedGain {
                annealed: AnnealedProtocol {
                    n_images: 3,
                    n_chains: 16,
                    n_temperatures: 500,
                    n_leapfrog: 10,
                },
                n_samples: 7,
            },
            Protocol::StructuralSimilarity {
                black_and_white: true,
                window: 11,
                sigma: 1.5,
                scale_weights: vec![0.25, 0.75],
            },
            Protocol::Features(FeatureProtocol {
                statistic: Statistic::Kernel {
                    n_subsets: 100,
                    subset_size: 1000,
                },
                images: ImageSet::Samples,
                n_images: 10,
                pixels: SetPixels::Drawn,
                n_real: 20,
                extractor: Extractor::PixelPca {
                    n_components: 64,
                    pooled: 2,
                    n_images: 20,
                },
                n_features: 64,
                sampler: Some(SamplerKind::TwoStage),
            }),
            Protocol::Probe {
                classifier: ProbeClassifier::NearestNeighbors { k: 5 },
                n_train_images: 100,
                n_components: Some(256),
                n_attributes: Some(40),
                balanced: true,
            },
            Protocol::Disentanglement {
                score: ScoreProtocol::Bins {
                    n_images: 10,
                    n_bins: 20,
                },
                factors: vec!["shape".to_owned()],
            },
        ];
        for protocol in all {
            let text = serde_json::to_string(&protocol).unwrap();
            assert_eq!(serde_json::from_str::<Protocol>(&text).unwrap(), protocol);
            assert!(protocol.to_string().len() > 10, "{text}");
        }
    }
}
