//! Features of any images with a table of attributes or classes: the activations of a classifier trained on them.

use std::path::Path;

use tch::nn::{Module, ModuleT, OptimizerConfig};
use tch::{CModule, Device, Kind, Reduction, Tensor, nn, no_grad};
use vae_base::{AttributeValues, ConditionSpec, files};
use vae_data::loader::Batches;
use vae_data::{Attributes, Dataset, Splits, derive_seed};
use vae_model::{Generator, torchscript_file};
use vae_run::RunError;

use super::kaiming_bound;
use crate::probe::balanced_accuracy;
use crate::{EvalError, Progress};

/// Channels of its convolutions.
const CHANNELS: [i64; 4] = [32, 64, 128, 256];

/// The last map is averaged to this many places in each direction, so that images of any size give as many features.
const PLACES: i64 = 4;

/// The width of the layer that gives the features.
const N_FEATURES: i64 = 256;

const BATCH_SIZE: usize = 64;
const LEARNING_RATE: f64 = 1e-3;

/// A convolutional classifier of images `[N, C, H, W]` by all attributes and classes that a data set has at once.
/// `cargo xtask classifier --data CONFIG` trains one, and `vae eval --features` takes its file.
///
/// Four 3×3 convolutions of stride 2, each with batch norm and ReLU, the last map averaged to 4×4 places, a layer of 256
/// ReLUs, whose values are the features, and an output for each attribute and class.
#[derive(Debug)]
pub struct AttributeClassifier {
    variables: nn::VarStore,
    convolutions: Vec<(nn::Conv2D, nn::BatchNorm)>,
    penultimate: nn::Linear,
    last: nn::Linear,
    targets: ConditionSpec,
    n_channels: i64,
}

/// How well a classifier recognizes one attribute, or the class, of images that it has not seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Recognition {
    /// The name of the attribute, or `class`.
    pub name: String,
    /// The share of right answers.
    pub accuracy: f64,
    /// The mean of the shares of right answers over the values; 0.5 is chance for yes and no.
    pub balanced_accuracy: f64,
}

impl AttributeClassifier {
    /// Trains one on the training images for `n_epochs` passes. The pass with the lowest loss of the validation images is
    /// kept; without validation images the last one. On a CPU a seed gives the same weights with the same number of
    /// threads.
    ///
    /// # Errors
    /// Items that are not images, or without a known attribute or class.
    pub fn train(
        splits: Splits,
        n_epochs: u64,
        seed: u64,
        device: Device,
        progress: &mut Progress,
    ) -> Result<(Self, Vec<Recognition>), EvalError> {
        let targets = targets(&splits.train)?;
        let splits = splits.with_condition(&targets);
        let n_channels = splits.train.shape().channels;
        let mut classifier = Self::fresh(
            targets,
            n_channels,
            derive_seed(seed, 0, "classifier's weights"),
            device,
        );
        let mut optimizer = nn::Adam::default().build(&classifier.variables, LEARNING_RATE)?;
        let n_steps = n_epochs as usize * splits.train.len().div_ceil(BATCH_SIZE);
        let mut n_done = 0;
        let mut best: Option<(f64, Vec<(String, Tensor)>)> = None;
        for epoch in 0..n_epochs {
            for batch in Batches::shuffled(&splits.train, BATCH_SIZE, device, seed, epoch) {
                let batch = batch?;
                // Down to 0 in half a period of a cosine.
                let share = n_done as f64 / n_steps as f64;
                optimizer
                    .set_lr(LEARNING_RATE * 0.5 * (1.0 + (std::f64::consts::PI * share).cos()));
                let logits = classifier.logits(&scaled(&batch.items), true);
                optimizer.backward_step(&classifier.loss(&logits, batch.condition.as_ref()));
                n_done += 1;
                progress("training the classifier", n_done, n_steps);
            }
            if let Some(validation) = &splits.validation {
                let (logits, known) = classifier.answers(validation, device)?;
                let loss = classifier.loss(&logits, Some(&known)).double_value(&[]);
                if best.as_ref().is_none_or(|(lowest, _)| loss < *lowest) {
                    let copies = classifier.named_variables();
                    let copies = copies.into_iter().map(|(name, value)| (name, value.copy()));
                    best = Some((loss, copies.collect()));
                }
            }
        }
        if let Some((_, kept)) = best {
            for ((_, mut variable), (_, value)) in
                classifier.named_variables().into_iter().zip(kept)
            {
                no_grad(|| variable.f_copy_(&value))?;
            }
        }
        classifier.variables.freeze();
        let recognized = classifier.recognition(&splits.test, device)?;
        Ok((classifier, recognized))
    }

    /// With fresh weights, uniform in ±√(6/fan_in) (He et al. 2015, <https://arxiv.org/abs/1502.01852>).
    fn fresh(targets: ConditionSpec, n_channels: i64, seed: u64, device: Device) -> Self {
        let variables = nn::VarStore::new(device);
        let root = variables.root();
        let halved = nn::ConvConfig {
            stride: 2,
            padding: 1,
            bias: false,
            ws_init: nn::Init::Const(0.0),
            ..nn::ConvConfig::default()
        };
        let norm = nn::BatchNormConfig {
            ws_init: nn::Init::Const(1.0),
            ..nn::BatchNormConfig::default()
        };
        let linear = nn::LinearConfig {
            ws_init: nn::Init::Const(0.0),
            bs_init: Some(nn::Init::Const(0.0)),
            bias: true,
        };
        let mut n_in = n_channels;
        let mut convolutions = Vec::new();
        for (i, n_out) in CHANNELS.into_iter().enumerate() {
            convolutions.push((
                nn::conv2d(&root / "conv" / i, n_in, n_out, 3, halved),
                nn::batch_norm2d(&root / "norm" / i, n_out, norm),
            ));
            n_in = n_out;
        }
        let n_flat = n_in * PLACES * PLACES;
        let n_targets = targets.n_columns() as i64;
        let penultimate = nn::linear(&root / "penultimate", n_flat, N_FEATURES, linear);
        let last = nn::linear(&root / "last", N_FEATURES, n_targets, linear);
        let mut generator = Generator::cpu(seed);
        let convolved = convolutions.iter().map(|(convolution, _)| &convolution.ws);
        for weight in convolved.chain([&penultimate.ws, &last.ws]) {
            let bound = kaiming_bound(weight.size()[1..].iter().product());
            let drawn = generator.uniform([-bound, bound], weight.size(), Device::Cpu);
            no_grad(|| weight.shallow_clone().copy_(&drawn));
        }
        Self {
            variables,
            convolutions,
            penultimate,
            last,
            targets,
            n_channels,
        }
    }

    /// Of images `[N, C, H, W]` in `[0, 1]`: `[N, 256]`.
    fn features(&self, images: &Tensor, train: bool) -> Tensor {
        let mut maps = images.shallow_clone();
        for (convolution, norm) in &self.convolutions {
            maps = norm.forward_t(&convolution.forward(&maps), train).relu();
        }
        let places = maps.adaptive_avg_pool2d([PLACES; 2]);
        self.penultimate.forward(&places.flatten(1, -1)).relu()
    }

    /// `[N, D]`, for each column of the targets.
    fn logits(&self, images: &Tensor, train: bool) -> Tensor {
        self.last.forward(&self.features(images, train))
    }

    /// The cross entropy of the class and of each yes or no, half the squared error of each standardized number; the mean
    /// over the known values. NaN marks an unknown one.
    fn loss(&self, logits: &Tensor, known: Option<&Tensor>) -> Tensor {
        let known = known.expect("the data set has the targets as its condition");
        let is_known = known.isnan().logical_not();
        // NaN times a gradient of 0 would be NaN.
        let known = known.nan_to_num(0.0, None, None);
        let mut sum = Tensor::zeros([], (Kind::Float, logits.device()));
        let mut n_known = Tensor::zeros([], (Kind::Float, logits.device()));
        let mut add = |losses: &Tensor, mask: &Tensor| {
            sum = &sum + (losses * mask.to_kind(Kind::Float)).sum(Kind::Float);
            n_known = &n_known + mask.sum(Kind::Float);
        };
        let n_classes = self.targets.classes.len() as i64;
        if n_classes > 0 {
            let classes = known.narrow(1, 0, n_classes);
            let mask = is_known.select(1, 0);
            let log_p = logits.narrow(1, 0, n_classes).log_softmax(1, Kind::Float);
            add(
                &-(log_p * classes).sum_dim_intlist(1, false, Kind::Float),
                &mask,
            );
        }
        for (i, attribute) in self.targets.attributes.iter().enumerate() {
            let column = n_classes + i as i64;
            let (logits, values) = (logits.select(1, column), known.select(1, column));
            let mask = is_known.select(1, column);
            let losses = match attribute.values {
                AttributeValues::YesNo => {
                    let yes = values.gt(0.0).to_kind(Kind::Float);
                    let weight = None::<&Tensor>;
                    logits.binary_cross_entropy_with_logits(&yes, weight, weight, Reduction::None)
                }
                AttributeValues::Number { .. } => (logits - values).square() * 0.5,
            };
            add(&losses, &mask);
        }
        sum / n_known.clamp_min(1.0)
    }

    /// Logits and targets of all images, `[N, D]` each, on the CPU.
    fn answers(&self, dataset: &Dataset, device: Device) -> Result<(Tensor, Tensor), EvalError> {
        let (mut logits, mut known) = (Vec::new(), Vec::new());
        for batch in Batches::sequential(dataset, BATCH_SIZE, device) {
            let batch = batch?;
            let answers = no_grad(|| self.logits(&scaled(&batch.items), false));
            logits.push(answers.to_device(Device::Cpu));
            let condition = batch.condition.expect("the data set has the targets");
            known.push(condition.to_device(Device::Cpu));
        }
        Ok((Tensor::f_cat(&logits, 0)?, Tensor::f_cat(&known, 0)?))
    }

    /// How well it recognizes the class and each yes-or-no attribute of these images.
    fn recognition(
        &self,
        dataset: &Dataset,
        device: Device,
    ) -> Result<Vec<Recognition>, EvalError> {
        if dataset.is_empty() {
            return Ok(Vec::new());
        }
        let (logits, known) = self.answers(dataset, device)?;
        let n_classes = self.targets.classes.len() as i64;
        let mut found = Vec::new();
        let mut judge = |name: &str, guesses: &Tensor, wanted: &Tensor, mask: &Tensor, n| {
            let rows = mask.nonzero().squeeze_dim(1);
            if rows.numel() == 0 {
                return;
            }
            let (guesses, wanted) = (
                guesses.index_select(0, &rows),
                wanted.index_select(0, &rows),
            );
            found.push(Recognition {
                name: name.to_owned(),
                accuracy: crate::probe::accuracy(&guesses, &wanted),
                balanced_accuracy: balanced_accuracy(&guesses, &wanted, n),
            });
        };
        if n_classes > 0 {
            let classes = known.narrow(1, 0, n_classes);
            let mask = classes.select(1, 0).isnan().logical_not();
            let guesses = logits.narrow(1, 0, n_classes).argmax(1, false);
            judge(
                "class",
                &guesses,
                &classes.argmax(1, false),
                &mask,
                n_classes,
            );
        }
        for (i, attribute) in self.targets.attributes.iter().enumerate() {
            if attribute.values != AttributeValues::YesNo {
                continue;
            }
            let column = n_classes + i as i64;
            let values = known.select(1, column);
            let yes = |values: &Tensor| values.gt(0.0).to_kind(Kind::Int64);
            let mask = values.isnan().logical_not();
            judge(
                &attribute.name,
                &yes(&logits.select(1, column)),
                &yes(&values),
                &mask,
                2,
            );
        }
        Ok(found)
    }

    fn named_variables(&self) -> Vec<(String, Tensor)> {
        let mut named: Vec<_> = self.variables.variables().into_iter().collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        named
    }

    /// Writes it as TorchScript: images f32 `[N, 3, H, W]` in `[0, 1]` (of gray ones the mean of the channels is taken)
    /// to features `[N, 256]`. The file appears under its name only when it is whole.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn save(&self, path: impl AsRef<Path>, size: [i64; 2]) -> Result<(), EvalError> {
        let path = path.as_ref();
        let example = Tensor::full([2, 3, size[0], size[1]], 0.5, (Kind::Float, Device::Cpu));
        let example = example.to_device(self.variables.device());
        let mut features = |inputs: &[Tensor]| {
            let images = match self.n_channels {
                1 => inputs[0].mean_dim(1, true, Kind::Float),
                _ => inputs[0].shallow_clone(),
            };
            vec![self.features(&images, false)]
        };
        let module = no_grad(|| {
            CModule::create_by_tracing("features", "forward", &[example], &mut features)
        })?;
        let weights = self.named_variables();
        let bytes = torchscript_file(&module, "features", weights.iter().map(|(_, value)| value))?;
        files::write_whole(path, &bytes).map_err(RunError::io(path))?;
        Ok(())
    }
}

fn scaled(images: &Tensor) -> Tensor {
    images.to_kind(Kind::Float) / 255.0
}

/// The classes of the images, if they have any, and all attributes with a known value.
fn targets(train: &Dataset) -> Result<ConditionSpec, EvalError> {
    if train.is_empty() || !train.item().is_image() {
        return Err(EvalError::Unmeasurable(format!(
            "a classifier learns from images, found {} items of {}",
            train.len(),
            train.item()
        )));
    }
    let names = train.attributes().map_or(&[][..], Attributes::names);
    let is_known = |name: &&String| {
        let column = train.attributes().and_then(|known| known.column(name));
        column.is_some_and(|mut values| values.any(|value| value.is_some()))
    };
    let names: Vec<String> = names.iter().filter(is_known).cloned().collect();
    let targets = train.condition_spec(train.labels().is_some(), &names)?;
    if targets.is_empty() {
        return Err(EvalError::Unmeasurable(
            "a classifier needs a table of attributes (dataset.image_folder.attributes) or classes, and these images \
             have neither"
                .to_owned(),
        ));
    }
    Ok(targets)
}
