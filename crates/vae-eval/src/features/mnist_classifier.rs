//! Features of digits: the activations of a small classifier of MNIST.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::nn::{Module, OptimizerConfig};
use tch::{Device, Kind, Tensor, nn, no_grad};
use vae_data::loader::Batches;
use vae_data::{Dataset, KnownDataset, derive_seed};
use vae_model::{DigitWeights, Generator, read_tensors, write_tensors};

use super::{FeatureExtractor, kaiming_bound, on_cpu};
use crate::{EvalError, Extractor, Progress};

/// The metadata key of its file; its value is [`ClassifierFacts`] as JSON.
const KEY: &str = "mnist_classifier";

/// The number of passes over the training images, the last at a tenth of the learning rate.
const N_EPOCHS: u64 = 3;

const BATCH_SIZE: usize = 100;
const LEARNING_RATE: f64 = 1e-3;

/// The width of the penultimate layer.
const N_FEATURES: i64 = 128;

/// How a classifier was trained, as recorded in its file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierFacts {
    /// The data set that it was trained on. Files of earlier versions lack it; they were trained on MNIST.
    #[serde(default = "mnist")]
    pub trained_on: KnownDataset,
    /// The seed of the initial weights and of the order of the images.
    pub seed: u64,
    /// The accuracy on MNIST's test images.
    pub test_accuracy: f64,
    /// SHA-256 of the weights: the f32 values of all tensors, little-endian, in the order of their names.
    pub weights_sha256: String,
}

fn mnist() -> KnownDataset {
    KnownDataset::Mnist
}

/// A small convolutional classifier of digits, images `[N, 1, 28, 28]`, whose penultimate layer gives the features.
/// `cargo xtask classifier` trains one.
///
/// It has two convolutions, 5×5 with 16 channels and 3×3 with 32, each followed by a ReLU and 2×2 max pooling, a layer
/// of 128 ReLUs, and one output for each digit.
#[derive(Debug)]
pub struct MnistClassifier {
    variables: nn::VarStore,
    first: nn::Conv2D,
    second: nn::Conv2D,
    penultimate: nn::Linear,
    last: nn::Linear,
    facts: ClassifierFacts,
}

impl MnistClassifier {
    /// With zero weights, to be overwritten.
    fn new(device: Device) -> Self {
        let variables = nn::VarStore::new(device);
        let root = variables.root();
        let padded = |padding| nn::ConvConfig {
            padding,
            ws_init: nn::Init::Const(0.0),
            ..nn::ConvConfig::default()
        };
        let linear = nn::LinearConfig {
            ws_init: nn::Init::Const(0.0),
            bs_init: Some(nn::Init::Const(0.0)),
            bias: true,
        };
        let first = nn::conv2d(&root / "first", 1, 16, 5, padded(2));
        let second = nn::conv2d(&root / "second", 16, 32, 3, padded(1));
        let penultimate = nn::linear(&root / "penultimate", 32 * 7 * 7, N_FEATURES, linear);
        let last = nn::linear(&root / "last", N_FEATURES, 10, linear);
        Self {
            variables,
            first,
            second,
            penultimate,
            last,
            facts: ClassifierFacts::default(),
        }
    }

    /// With fresh weights, uniform in ±√(6/fan_in) (He et al. 2015, <https://arxiv.org/abs/1502.01852>). Biases are 0 in
    /// convolutions and uniform in ±1/√fan_in elsewhere. The same seed gives the same weights on every device.
    fn fresh(seed: u64, device: Device) -> Self {
        let classifier = Self::new(device);
        let mut generator = Generator::cpu(seed);
        let mut draw = |variable: &Tensor, bound: f64| {
            let drawn = generator.uniform([-bound, bound], variable.size(), Device::Cpu);
            no_grad(|| variable.shallow_clone().copy_(&drawn));
        };
        // The result of a seed depends on this order.
        for layer in [&classifier.first, &classifier.second] {
            let fan_in: i64 = layer.ws.size()[1..].iter().product();
            draw(&layer.ws, kaiming_bound(fan_in));
        }
        for layer in [&classifier.penultimate, &classifier.last] {
            let fan_in = layer.ws.size()[1];
            if let Some(bias) = &layer.bs {
                draw(bias, 1.0 / (fan_in as f64).sqrt());
            }
            draw(&layer.ws, kaiming_bound(fan_in));
        }
        classifier
    }

    /// Trains a classifier in three passes over MNIST's training images and measures its accuracy on the test images.
    /// `trained_on` describes these images. On a CPU a seed gives the same weights with the same number of threads.
    ///
    /// # Errors
    /// Images that are not 1×28×28, without labels, or with labels other than 0 to 9.
    pub fn train(
        train: &Dataset,
        test: &Dataset,
        trained_on: KnownDataset,
        seed: u64,
        device: Device,
        progress: &mut Progress,
    ) -> Result<Self, EvalError> {
        let (labels, test_labels) = (digits(train)?, digits(test)?);
        let mut classifier = Self::fresh(derive_seed(seed, 0, "classifier's weights"), device);
        let mut optimizer = nn::Adam::default().build(&classifier.variables, LEARNING_RATE)?;
        let n_images = N_EPOCHS as usize * train.len();
        let mut n_done = 0;
        for epoch in 0..N_EPOCHS {
            if epoch + 1 == N_EPOCHS {
                optimizer.set_lr(LEARNING_RATE / 10.0);
            }
            let order = vae_data::loader::shuffled_order(train.len(), seed, epoch);
            let labels = labels.index_select(0, &Tensor::from_slice(&order));
            let labels = labels.to_device(device).split(BATCH_SIZE as i64, 0);
            let batches = Batches::shuffled(train, BATCH_SIZE, device, seed, epoch);
            for (images, labels) in batches.zip(&labels) {
                let logits = classifier.logits(&(images?.items.to_kind(Kind::Float) / 255.0));
                optimizer.backward_step(&logits.cross_entropy_for_logits(labels));
                n_done += labels.size()[0] as usize;
                progress("training the classifier", n_done, n_images);
            }
        }
        let mut n_right = 0;
        let labels = test_labels.to_device(device).split(BATCH_SIZE as i64, 0);
        for (images, labels) in Batches::sequential(test, BATCH_SIZE, device).zip(&labels) {
            let images = images?.items.to_kind(Kind::Float) / 255.0;
            let guesses = no_grad(|| classifier.logits(&images)).argmax(1, false);
            n_right += i64::try_from(guesses.eq_tensor(labels).sum(Kind::Int64))?;
        }
        classifier.variables.freeze();
        classifier.facts = ClassifierFacts {
            trained_on,
            seed,
            test_accuracy: n_right as f64 / test.len() as f64,
            weights_sha256: sha256(&classifier.named_variables())?,
        };
        Ok(classifier)
    }

    /// Reads a file of [`Self::save`].
    ///
    /// # Errors
    /// The file does not exist, is damaged, or is not a classifier.
    pub fn load(path: impl AsRef<Path>, device: Device) -> Result<Self, EvalError> {
        let path = path.as_ref();
        let file = read_tensors(path)?;
        let problem = |problem: &str| EvalError::File {
            path: path.to_owned(),
            problem: format!("{problem}; `cargo xtask classifier` makes one"),
        };
        let facts = file.metadata.get(KEY);
        let facts = facts.ok_or_else(|| problem("is not a classifier"))?;
        let facts: ClassifierFacts = serde_json::from_str(facts)
            .map_err(|error| problem(&format!("is not a classifier of this version ({error})")))?;
        let mut classifier = Self::new(device);
        let variables = classifier.named_variables();
        let fits = variables.len() == file.tensors.len()
            && variables.iter().all(|(name, variable)| {
                let tensor = file.tensors.get(name);
                tensor.is_some_and(|tensor| tensor.size() == variable.size())
            });
        let tensors: Vec<_> = file.tensors.into_iter().collect();
        if !fits || sha256(&tensors)? != facts.weights_sha256 {
            return Err(problem(
                "is a damaged classifier: the checksum of its weights differs",
            ));
        }
        classifier.variables.freeze();
        for ((_, mut variable), (_, tensor)) in variables.into_iter().zip(tensors) {
            no_grad(|| variable.f_copy_(&tensor))?;
        }
        classifier.facts = facts;
        Ok(classifier)
    }

    /// Writes it as safetensors. The file appears under its name only when it is whole.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), EvalError> {
        let facts = serde_json::to_string(&self.facts).expect("facts are JSON");
        let variables = self.named_variables();
        Ok(write_tensors(
            path.as_ref(),
            &variables,
            &[(KEY, facts.as_str())],
        )?)
    }

    /// How it was trained.
    #[must_use]
    pub fn facts(&self) -> &ClassifierFacts {
        &self.facts
    }

    /// The weights, sorted by name.
    fn named_variables(&self) -> Vec<(String, Tensor)> {
        let mut named: Vec<_> = self.variables.variables().into_iter().collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        named
    }

    /// `[N, 1, 28, 28]` in `[0, 1]` to `[N, 10]`.
    fn logits(&self, images: &Tensor) -> Tensor {
        self.last.forward(&self.penultimate(images))
    }

    /// `[N, 1, 28, 28]` in `[0, 1]` to `[N, 128]`.
    fn penultimate(&self, images: &Tensor) -> Tensor {
        let pair = |weight: &Tensor, bias: Option<&Tensor>| {
            [
                weight.shallow_clone(),
                bias.expect("layers have biases").shallow_clone(),
            ]
        };
        let weights = DigitWeights {
            first: pair(&self.first.ws, self.first.bs.as_ref()),
            second: pair(&self.second.ws, self.second.bs.as_ref()),
            penultimate: pair(&self.penultimate.ws, self.penultimate.bs.as_ref()),
        };
        let [_, _, penultimate] = weights.features(images);
        penultimate
    }
}

impl FeatureExtractor for MnistClassifier {
    fn name(&self) -> &str {
        "mnist_classifier"
    }

    fn about(&self) -> Extractor {
        let ClassifierFacts {
            trained_on,
            seed,
            test_accuracy,
            weights_sha256,
        } = &self.facts;
        Extractor::MnistClassifier {
            trained_on: *trained_on,
            test_accuracy: *test_accuracy,
            seed: *seed,
            sha256: weights_sha256.clone(),
        }
    }

    fn features(&self, images: &Tensor) -> Result<Tensor, EvalError> {
        let size = images.size();
        if size.get(1..) != Some(&[1, 28, 28]) {
            return Err(EvalError::Unmeasurable(format!(
                "the classifier of MNIST knows images of 1×28×28, found {size:?}"
            )));
        }
        let images = images.to_device(self.variables.device());
        let features = no_grad(|| self.penultimate(&images.to_kind(Kind::Float)));
        Ok(on_cpu(&features))
    }

    fn classes(&self, images: &Tensor) -> Result<Option<Tensor>, EvalError> {
        let features = self.features(images)?.to_kind(Kind::Float);
        let features = features.to_device(self.variables.device());
        let logits = no_grad(|| features.apply(&self.last));
        Ok(Some(logits.argmax(1, false).to_device(Device::Cpu)))
    }
}

/// The labels, if these are labeled images of digits.
fn digits(dataset: &Dataset) -> Result<&Tensor, EvalError> {
    let shape = dataset.shape().to_string();
    if shape != "1×28×28" || dataset.is_empty() {
        let n = dataset.len();
        return Err(EvalError::Unmeasurable(format!(
            "the classifier of MNIST learns from images of 1×28×28, found {n} of {shape}"
        )));
    }
    let labels = dataset.labels().ok_or_else(|| {
        EvalError::Unmeasurable("a classifier needs labels, and these images have none".to_owned())
    })?;
    let (least, largest) = (i64::try_from(labels.min())?, i64::try_from(labels.max())?);
    if least < 0 || largest > 9 {
        return Err(EvalError::Unmeasurable(format!(
            "found labels from {least} to {largest}, digits have 0 to 9"
        )));
    }
    Ok(labels)
}

/// SHA-256 of the values of all tensors.
fn sha256(tensors: &[(String, Tensor)]) -> Result<String, EvalError> {
    let mut hasher = Sha256::new();
    for (_, tensor) in tensors {
        let flat = tensor.detach().to_device(Device::Cpu).flatten(0, -1);
        for number in Vec::<f32>::try_from(flat)? {
            hasher.update(number.to_le_bytes());
        }
    }
    let digest = hasher.finalize();
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 3;

    /// Black images with these labels.
    fn black(labels: &[i64]) -> Dataset {
        let shape = [labels.len() as i64, 1, 28, 28];
        let images = Tensor::zeros(shape, (Kind::Uint8, Device::Cpu));
        Dataset::new(images, Some(Tensor::from_slice(labels))).expect("a data set")
    }

    fn trained(train: &Dataset, test: &Dataset) -> MnistClassifier {
        let (name, device) = (KnownDataset::Mnist, Device::Cpu);
        MnistClassifier::train(train, test, name, SEED, device, &mut |_, _, _| ())
            .expect("a classifier")
    }

    /// Adam's step under a constant gradient is the learning rate: twice 1e-3, and a tenth of that in the last of three
    /// epochs, which are a step each. Of black images of one class the gradient of the last bias is nearly constant.
    #[test]
    fn the_last_epoch_has_a_tenth_of_the_learning_rate() {
        let images = black(&[7; 100]);
        let after = trained(&images, &images);
        let before =
            MnistClassifier::fresh(derive_seed(SEED, 0, "classifier's weights"), Device::Cpu);
        let bias = |classifier: &MnistClassifier| {
            let bias = classifier.last.bs.as_ref().expect("a bias");
            Vec::<f32>::try_from(bias.detach()).expect("numbers")
        };
        for (digit, (after, before)) in bias(&after).iter().zip(bias(&before)).enumerate() {
            let wanted = if digit == 7 { 2.1e-3 } else { -2.1e-3 };
            assert!(
                (after - before - wanted).abs() < 2e-5,
                "{digit}: {}",
                after - before
            );
        }
    }

    #[test]
    fn the_test_accuracy_is_the_share_of_images_that_are_recognized() {
        let train = black(&[7; 100]);
        let images = Tensor::zeros([1, 1, 28, 28], (Kind::Float, Device::Cpu));
        let classes = trained(&train, &train).classes(&images);
        let found = classes
            .expect("classes")
            .expect("classes")
            .int64_value(&[0]);
        // More test images than are classified at once, of which three of four are of that class.
        let labels: Vec<i64> = (0..120)
            .map(|i| if i % 4 == 0 { (found + 1) % 10 } else { found })
            .collect();
        let facts = trained(&train, &black(&labels)).facts;
        assert_eq!(facts.test_accuracy, 0.75);
    }

    /// The checksum is of the values alone: a file with the same values in other shapes, or with a tensor without values
    /// besides, has the right checksum and is refused all the same.
    #[test]
    fn a_file_with_other_tensors_is_damaged_even_if_its_checksum_is_right() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("classifier.safetensors");
        let mut classifier = MnistClassifier::fresh(SEED, Device::Cpu);
        classifier.facts.weights_sha256 = sha256(&classifier.named_variables()).expect("a sum");
        classifier.save(&path).expect("written");
        let loaded = MnistClassifier::load(&path, Device::Cpu).expect("a classifier");
        assert_eq!(loaded.facts, classifier.facts);

        let facts = serde_json::to_string(&classifier.facts).expect("JSON");
        type Tensors = Vec<(String, Tensor)>;
        let refused = |change: &dyn Fn(&mut Tensors)| {
            let mut tensors = classifier.named_variables();
            change(&mut tensors);
            assert_eq!(
                sha256(&tensors).expect("a sum"),
                classifier.facts.weights_sha256
            );
            write_tensors(&path, &tensors, &[(KEY, &facts)]).expect("written");
            let error = MnistClassifier::load(&path, Device::Cpu).expect_err("an error");
            let error = error.to_string();
            assert!(error.contains("is a damaged classifier"), "{error}");
        };
        refused(&|tensors| {
            let last = tensors.last_mut().expect("a tensor");
            assert_eq!(last.0, "second.weight");
            last.1 = last.1.view([16, 32, 3, 3]);
        });
        refused(&|tensors| {
            let nothing = Tensor::zeros([0], (Kind::Float, Device::Cpu));
            tensors.push(("third.weight".to_owned(), nothing));
        });
        refused(&|tensors| tensors.last_mut().expect("a tensor").0 = "third.weight".to_owned());
    }
}
