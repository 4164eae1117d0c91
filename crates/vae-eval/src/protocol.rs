//! How a number was come by: fields, of which words are made only where they are shown.

use std::fmt;

use serde::{Deserialize, Serialize};
use vae_data::KnownDataset;

/// How a number was measured, beside the images that it is of. Two numbers compare where their protocols and
/// their [`ImagesUsed`](crate::ImagesUsed) are equal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Protocol {
    /// The mean of samples from q(z|x).
    PosteriorSamples {
        /// K, samples for each image.
        n_samples: u32,
    },
    /// A closed form of q(z|x) and p(z).
    ClosedForm,
    /// The importance-weighted bound of log p(x) (Burda et al. 2016).
    ImportanceWeighted {
        /// K, samples from q(z|x) for each image.
        n_samples: u32,
        /// Of the section's images only the first so many.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        n_images: Option<usize>,
    },
    /// The closed form of log p(x) that probabilistic PCA has.
    ProbabilisticPca,
    /// (Σw)²/Σw² of an image's importance weights.
    EffectiveSampleSize {
        /// K, weights of each image.
        n_samples: u32,
    },
    /// Annealed importance sampling.
    Annealed(AnnealedProtocol),
    /// The annealed estimate of log p(x) minus the importance-weighted one, of the same images.
    AnnealedGain {
        /// The one.
        annealed: AnnealedProtocol,
        /// K of the other.
        n_samples: u32,
    },
    /// The mean image of the posterior's center against the image, by pixels in [0, 1].
    PixelError {
        /// The images are black and white.
        black_and_white: bool,
    },
    /// The same in the mean of each image's ratio.
    SignalToNoise {
        /// The images are black and white.
        black_and_white: bool,
    },
    /// The same by structural similarity.
    StructuralSimilarity {
        /// The images are black and white.
        black_and_white: bool,
        /// Pixels on a side of the Gaussian window.
        window: u32,
        /// Its σ in pixels.
        sigma: f64,
        /// Weights of the scales; of one scale a single 1.
        scale_weights: Vec<f64>,
    },
    /// Sets of images by their features.
    Features(FeatureProtocol),
    /// New images of given classes, and whether a classifier takes them for those.
    Recognized {
        /// Which.
        classifier: Extractor,
        /// New images.
        n_samples: usize,
        /// Whether pixels are drawn, or means of them.
        pixels: SetPixels,
    },
    /// Counts the dimensions whose posterior center varies.
    ActiveUnits {
        /// Images that the variance is over.
        n_images: usize,
        /// The variance above which a dimension counts.
        threshold: f64,
    },
    /// q(z) = 1/N Σ q(z|x) over N images, at one z drawn for each.
    AggregatePosterior {
        /// N.
        n_images: usize,
    },
    /// MMD² between latents of images and of the prior, unbiased, by inverse multiquadratic kernels.
    Discrepancy {
        /// Latents on either side.
        n_latents: i64,
        /// Kernels have the widths 2·Z·s.
        scales: Vec<f64>,
    },
    /// Components of a mixture prior against labels: argmax p(c|z) at the posterior's center.
    Clusters {
        /// Each cluster stands for a label: the best matching.
        matched: bool,
    },
    /// A classifier of posterior centers.
    Probe {
        /// Which.
        classifier: ProbeClassifier,
        /// It learns from the first so many training images.
        n_train_images: usize,
        /// Of how many yes-or-no attributes it is the mean; none of a label of classes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        n_attributes: Option<usize>,
        /// The mean of the shares found of those with the attribute and those without.
        #[serde(default)]
        balanced: bool,
    },
    /// A score of disentanglement.
    Disentanglement {
        /// How.
        score: ScoreProtocol,
        /// The factors whose combinations images are drawn from.
        factors: Vec<String>,
    },
}

/// How annealed importance sampling was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnnealedProtocol {
    /// Of the section's images the first so many.
    pub n_images: usize,
    /// For each image.
    pub n_chains: u32,
    /// Distributions between prior and posterior, on a sigmoid.
    pub n_temperatures: u32,
    /// Leapfrog steps of a Hamiltonian transition.
    pub n_leapfrog: u32,
}

/// Which sets of images were compared, by which features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureProtocol {
    /// What is computed of the two sets.
    pub statistic: Statistic,
    /// The one set.
    pub images: ImageSet,
    /// How many of them.
    pub n_images: usize,
    /// What their pixels are.
    pub pixels: SetPixels,
    /// Images of the section that they are compared with.
    pub n_real: usize,
    /// What features are made by.
    pub extractor: Extractor,
    /// D.
    pub n_features: usize,
}

/// A statistic of two sets of features.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Statistic {
    /// Fréchet distance of Gaussians (Heusel et al. 2017).
    Frechet,
    /// MMD² with the kernel (xᵀy/D + 1)³, unbiased, the mean of subsets (Bińkowski et al. 2018).
    Kernel {
        /// Pairs of subsets.
        n_subsets: usize,
        /// Images in each.
        subset_size: usize,
    },
    /// Precision and recall (Kynkäänniemi et al. 2019).
    Neighbors {
        /// Which nearest neighbor is the radius.
        k: usize,
    },
}

/// A set of images that is compared with held-out ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageSet {
    /// Drawn from the model.
    Samples,
    /// Of the held-out images.
    Reconstructions,
    /// The first training images.
    TrainingImages,
}

/// What the pixels of a set are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SetPixels {
    /// Means of p(x|z).
    Means,
    /// Drawn from p(x|z), as the held-out images are black and white.
    Drawn,
    /// As the data set has them.
    Given,
}

/// What features are made by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Extractor {
    /// The penultimate layer of a small classifier of digits.
    MnistClassifier {
        /// The data set that it was trained on.
        trained_on: KnownDataset,
        /// The share of its test images that it knows.
        test_accuracy: f64,
        /// Of its initial weights and the order of the images.
        seed: u64,
        /// Of its weights.
        sha256: String,
    },
    /// Principal components of held-out images' pixels, not whitened.
    PixelPca {
        /// The first so many.
        n_components: usize,
        /// A number is the mean of a square of so many pixels on a side.
        pooled: i64,
        /// Images that they were found by.
        n_images: usize,
    },
    /// A network that the user gave. What it was trained on is not known.
    TorchScript {
        /// Its file's name.
        file: String,
        /// Of the file.
        sha256: String,
    },
}

/// A classifier of latents.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeClassifier {
    /// Softmax regression with an L2 penalty on standardized dimensions.
    Softmax {
        /// Its weight.
        l2: f64,
    },
    /// Logistic regression of each attribute.
    Logistic,
    /// The k nearest neighbors, Euclidean.
    NearestNeighbors {
        /// How many.
        k: i64,
    },
}

/// How a score of disentanglement is computed, of the centers of q(z|x).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ScoreProtocol {
    /// Mutual information in bins of equal width.
    Bins {
        /// Images.
        n_images: usize,
        /// Bins of a dimension.
        n_bins: usize,
    },
    /// Linear support vector machines on single dimensions.
    SupportVectors {
        /// The penalty C.
        c: f64,
        /// Images that they learn from.
        n_train: usize,
        /// Images that they are tested on.
        n_test: usize,
    },
    /// The importances of dimensions to gradient-boosted trees.
    BoostedTrees {
        /// Trees of a class.
        n_rounds: usize,
        /// Their depth.
        depth: usize,
        /// Images that they learn from.
        n_train: usize,
        /// Images that their accuracy is of; none of the importances.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        n_test: Option<usize>,
    },
    /// A majority vote of the least varying dimension.
    LeastVaryingVote {
        /// Images that a dimension's variance is taken relative to.
        n_images: usize,
        /// Dimensions of a smaller standard deviation are left out.
        least_deviation: f64,
        /// Votes learned from.
        n_train: usize,
        /// Votes tested on.
        n_test: usize,
        /// Images of a vote.
        batch: usize,
    },
    /// Multinomial logistic regression on mean absolute differences.
    Differences {
        /// Means learned from.
        n_train: usize,
        /// Means tested on.
        n_test: usize,
        /// Pairs of images of a mean.
        batch: usize,
    },
}

impl Protocol {
    /// What the ± of a measure is.
    pub(crate) fn error(&self) -> &'static str {
        match self {
            Self::Features(FeatureProtocol {
                statistic: Statistic::Kernel { .. },
                ..
            }) => "± is the subsets' standard deviation",
            Self::Discrepancy { .. } => "± is what two samples of the prior differ by",
            Self::AnnealedGain { .. } => "± over the images of their differences",
            _ => "± over the images",
        }
    }
}

/// In words, as a table has them.
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
                f.write_str("the model is probabilistic PCA: a closed form of log p(x)")
            }
            Self::EffectiveSampleSize { n_samples } => write!(
                f,
                "(Σw)²/Σw² of an image's {n_samples} importance weights, mean"
            ),
            Self::Annealed(annealed) => annealed.fmt(f),
            Self::AnnealedGain { n_samples, .. } => write!(
                f,
                "both are below the truth in expectation: the higher one is nearer; K = {n_samples}"
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
            } => {
                let pixels = match pixels {
                    SetPixels::Drawn => "pixels drawn",
                    SetPixels::Means | SetPixels::Given => "mean images",
                };
                write!(
                    f,
                    "{n_samples} samples of the held-out images' classes, {pixels}, by {classifier}"
                )
            }
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
                n_attributes,
                balanced,
            } => {
                classifier.fmt(f)?;
                if let Some(n) = n_attributes {
                    write!(f, ", of each attribute, mean of {n}")?;
                }
                write!(
                    f,
                    ", on posterior centers, learned from the first {n_train_images} training images"
                )?;
                match balanced {
                    true => f.write_str(
                        "; mean of the shares found of those with it and those without; chance is 0.5",
                    ),
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
        } = self;
        match images {
            ImageSet::TrainingImages => write!(f, "the first {n_images} training images")?,
            ImageSet::Samples => write!(f, "{n_images} samples")?,
            ImageSet::Reconstructions => write!(f, "{n_images} reconstructions")?,
        }
        f.write_str(match pixels {
            SetPixels::Means => ", mean images of p(x|z),",
            SetPixels::Drawn => {
                ", with pixels drawn from p(x|z), as the held-out images are black and white,"
            }
            SetPixels::Given => "",
        })?;
        write!(f, " against {n_real} held-out images")?;
        if *images == ImageSet::TrainingImages {
            f.write_str(": what a perfect model would have")?;
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
                "linear support vector machines on single dimensions, C = {c}, learned from {n_train} images, \
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
                    "gradient-boosted trees, {n_rounds} rounds of depth {depth}, learned from {n_train} images"
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
                 images, those of a standard deviation below {least_deviation} left out, learned from \
                 {n_train}, tested on {n_test}, each of {batch} images"
            ),
            Self::Differences {
                n_train,
                n_test,
                batch,
            } => write!(
                f,
                "multinomial logistic regression on mean absolute differences, learned from {n_train}, tested \
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
            }),
            Protocol::Probe {
                classifier: ProbeClassifier::NearestNeighbors { k: 5 },
                n_train_images: 100,
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
