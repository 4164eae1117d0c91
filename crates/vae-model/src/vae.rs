//! The variational autoencoder, built from its parts.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;

use tch::{Device, Kind, Tensor, no_grad};
use vae_base::{ConditionSpec, DataSpec, ItemKind, ItemSpec};
use vae_torch::Generator;

use crate::condition::{self, ConditionConfig};
use crate::config::{level_kl, resolution_kl};
use crate::graph::{Graph, Value};
use crate::network::TokenShape;
use crate::nn::{self, Outline};
use crate::part::Part;
use crate::parts::{
    LikelihoodPart, ModelView, NetworkPart, OwnParts, Parts, PosteriorPart, Traits, VaeBuilder,
    listed,
};
use crate::posterior::PosteriorTraits;
use crate::preprocessing::LatentScaling;
use crate::prior::PriorTraits;
use crate::share::{Share, Shared};
use crate::strips;
use crate::sums;
use crate::units::Units;
use crate::watch::watch;
use crate::weights::{self, Header};
use crate::{
    ChannelOrder, ClosedKl, Conditioned, Drawing, Framing, ImageShape, Latents, Mode, ModelConfig,
    ModelError, Posterior, Preprocessing, Prior, PriorContext, Quantizer, SequentialDecoder,
    StateDictMap, Support, Terms, TopDownDraws,
};

/// The largest number of values in a model, 8 GB of f32. More is surely a mistake.
const MOST_VALUES: i64 = 1 << 31;

/// The parts of a network that only an encoder has.
const OF_ENCODER: &[&str] = &["encoder", "condition"];

/// The seed of weights that are overwritten later.
const OVERWRITTEN: u64 = 0;

/// Pixels that a network sees at once in evaluation: 256 images of 64×64, 16 of 256×256.
const N_PIXELS_AT_A_TIME: i64 = 1 << 20;

/// Training items that are encoded together before the first step.
const N_START_AT_A_TIME: i64 = 256;

/// A variational autoencoder. See the [crate's documentation](crate) for an example.
///
/// [`Self::draw`] and [`Self::draw_with_noise`] have a [`Mode`] argument; all other methods evaluate.
///
/// Random numbers come from the [`Generator`] that is passed ([`Self::generator`] makes one), never from libtorch's
/// global one. Models share nothing else: models on several threads do not affect each other's numbers. Use one model
/// in one thread at a time ([`Send`], not [`Sync`]).
#[derive(Debug)]
pub struct Vae {
    config: ModelConfig,
    data: DataSpec,
    framing: Option<Framing>,
    /// Whether NaN and infinite weights were imported on purpose.
    allow_non_finite: bool,
    latent_scaling: Option<LatentScaling>,
    /// The rows of a strip, where evaluation computes in strips.
    strip_rows: Option<i64>,
    variables: nn::VarStore,
    network: NetworkPart,
    posterior: PosteriorPart,
    prior: Box<dyn Prior>,
    likelihood: LikelihoodPart,
    /// The custom parts.
    own: OwnParts,
    traits: Traits,
    /// Factors on the columns of the condition, `[D]`.
    condition_scales: Tensor,
    /// The unit of an array's values.
    units: Units,
    fixed: Fixed,
}

/// Values that are cached while no weight changes ([`Vae::with_fixed_weights`]).
#[derive(Debug, Default)]
struct Fixed {
    /// Number of nested calls in progress.
    n_calls: Cell<usize>,
    /// The parameters of q(z|u) of the prior's pseudo-inputs u, `[n, P]`, once computed.
    prior_params: RefCell<Option<Tensor>>,
}

/// Ends a call, even if it panics.
struct FixedCall<'a>(&'a Fixed);

impl Drop for FixedCall<'_> {
    fn drop(&mut self) {
        let Fixed {
            n_calls,
            prior_params,
        } = self.0;
        n_calls.set(n_calls.get() - 1);
        if n_calls.get() == 0 {
            prior_params.take();
        }
    }
}

/// K samples of z for each of B images, and the terms computed from them: the input of every objective.
///
/// Of several processes ([`Vae::draw_share`]) each has `params`, `targets` and `own_latents` of its own images alone, and
/// everything else of the whole batch.
#[derive(Debug)]
pub struct Draws {
    /// q(z|x).
    pub posterior: Box<dyn Posterior>,
    /// z `[K, B, Z]`.
    pub latents: Tensor,
    /// Parameters of p(x|z), `[K, B, …, H, W]`; [`Vae::mean_images`] converts them to images.
    pub params: Tensor,
    /// The items x as the likelihood scales them, `[B, C, H, W]`: arrays are standardized, with NaN for missing values.
    pub targets: Tensor,
    /// The condition of each image as the model got it, f32 `[B, D]`, NaN where unknown; `None` for a model without a
    /// condition.
    pub condition: Option<Tensor>,
    /// log p(x|z) in nats, `[K, B]`.
    pub log_px_z: Tensor,
    /// log p(z) in nats, `[K, B]`.
    pub log_pz: Tensor,
    /// log q(z|x) in nats, `[K, B]`; `None` for a deterministic posterior.
    pub log_qz_x: Option<Tensor>,
    /// KL(q(z|x) ‖ p(z)) of each latent dimension in nats, `[B, Z]`, if it has a closed form. In a ladder it is given
    /// the level above, averaged over the K samples.
    pub kl_per_dimension: Option<Tensor>,
    /// The number of latents of each group, from the top down ([`ModelConfig::latent_groups`]); one group in a flat model.
    pub group_sizes: Vec<i64>,
    /// The terms of the ELBO, averaged over the K samples; the kl in closed form if there is one.
    pub terms: ElboTerms,
    /// What the posterior adds to the loss of each item, `[B]` in nats: the commitment of codes.
    pub penalty: Option<Tensor>,
    /// Whether they were made in training.
    pub mode: Mode,
    /// Further values of these draws for logs: those of [`ModelConfig::terms`].
    pub named: Terms,
    /// The latents that `params` were decoded from; those of this process's images if there are several processes.
    pub own_latents: Tensor,
    /// This process's share of the batch, if there are several.
    pub share: Option<Share>,
}

impl Draws {
    /// log w = log p(x|z) + log p(z) − log q(z|x) in nats, `[K, B]`: the importance weights of log p(x). `None` for a
    /// deterministic posterior.
    #[must_use]
    pub fn log_weights(&self) -> Option<Tensor> {
        let log_qz_x = self.log_qz_x.as_ref()?;
        Some(&self.log_px_z + &self.log_pz - log_qz_x)
    }
}

/// As in [`Draws`].
struct Joint {
    params: Tensor,
    log_px_z: Tensor,
    log_pz: Tensor,
}

/// The two terms of the ELBO for each image, in nats.
#[derive(Debug)]
pub struct ElboTerms {
    /// −E_q\[log p(x|z)\], `[B]`.
    pub reconstruction: Tensor,
    /// KL(q(z|x) ‖ p(z)), `[B]`; `None` for a deterministic posterior.
    pub kl: Option<Tensor>,
}

impl ElboTerms {
    /// −(reconstruction + kl), a lower bound of log p(x), `[B]`; `None` for a deterministic posterior.
    #[must_use]
    pub fn elbo(&self) -> Option<Tensor> {
        self.kl.as_ref().map(|kl| -(&self.reconstruction + kl))
    }
}

/// The paths under which such a model has no variables.
fn left_out(config: &ModelConfig, own: &OwnParts) -> &'static [&'static str] {
    match own.has_encoder(config) {
        true => &[],
        false => OF_ENCODER,
    }
}

/// Names and shapes of a model's variables, without allocating them.
fn outline(config: &ModelConfig, data: &DataSpec, own: &OwnParts) -> Result<Outline, ModelError> {
    config.check()?;
    condition::check_spec(config.condition.as_ref(), &data.condition)?;
    if let Some(problem) = data.item.problem() {
        return Err(ModelError::config("shape of an item", problem));
    }
    own.check_sizes(config)?;
    let view = own.view(config, None);
    view.check()?;
    view.check_item(&data.item)?;
    let variables = nn::VarStore::of_outline().without(left_out(config, own));
    drop(Parts::build(config, data, own, &variables));
    let outline = variables.into_outline();
    own.check_names(&outline)?;
    match outline.n_values() {
        Some(n) if n <= MOST_VALUES => Ok(outline),
        n => {
            let n = n.map_or_else(|| "more than 2^63".to_owned(), |n| n.to_string());
            let largest = outline.largest().map_or_else(String::new, |(name, shape)| {
                format!(", {name} {shape:?} most of them")
            });
            Err(ModelError::config(
                "model",
                format!(
                    "for items of {} it has {n} values{largest}; expected at most {MOST_VALUES}",
                    data.item
                ),
            ))
        }
    }
}

impl VaeBuilder {
    /// [`Vae::new`] with these custom parts instead of the config's. A small batch is run through the model, to refuse
    /// a custom part whose outputs have wrong shapes.
    ///
    /// # Errors
    /// As for [`Vae::new`]; custom parts that do not fit the others, by their declarations or by the shapes of their
    /// outputs.
    pub fn build(
        &self,
        config: &ModelConfig,
        data: impl Into<DataSpec>,
        device: Device,
        seed: u64,
    ) -> Result<Vae, ModelError> {
        Vae::build(config, data.into(), &self.own, device, seed)
    }

    /// [`Vae::load`] for a model with custom parts of these names.
    ///
    /// # Errors
    /// As for [`Vae::load`]; a model with parts of other names.
    pub fn load(&self, path: impl AsRef<Path>, device: Device) -> Result<Vae, ModelError> {
        let path = weights::file_in(path.as_ref());
        sums::verify_if_listed(&path)?;
        let (header, mut file) = weights::open(&path)?;
        let names = self.own.names();
        if header.own_parts != names {
            let found = listed(&header.own_parts);
            let problem = match names.is_empty() {
                true => format!(
                    "the model has own parts: {found}; Vae::builder with parts of these names loads it"
                ),
                false => format!(
                    "the model's own parts are {found}, those of the builder {}",
                    listed(&names)
                ),
            };
            return Err(ModelError::weights(&path, problem));
        }
        let data = DataSpec {
            item: header.data_item(&path)?,
            condition: header.condition,
        };
        let outline = outline(&header.model, &data, &self.own)
            .map_err(|error| ModelError::weights(&path, format!("its model config: {error}")))?;
        weights::check(&path, &file.shapes(), outline.shapes(), |_| String::new())?;
        let tensors = file.read_all()?;
        let non_finite = weights::non_finite(&tensors)?;
        if !non_finite.is_empty() && !header.allow_non_finite {
            let problem = format!("NaN or infinite weights: {}", non_finite.join(", "));
            return Err(ModelError::weights(&path, problem));
        }
        let mut vae = self.build(&header.model, data, device, OVERWRITTEN)?;
        weights::assign(&path, &tensors, &vae.variables)?;
        vae.framing = header.framing;
        vae.allow_non_finite = header.allow_non_finite;
        vae.latent_scaling = header.latent_scaling;
        Ok(vae)
    }
}

impl Vae {
    /// A model with fresh weights, for images of an [`ImageShape`] or, with a condition, for data of a [`DataSpec`].
    /// The same seed gives the same weights on every device.
    ///
    /// # Errors
    /// A config that the model cannot be built from; a condition that differs from the config's.
    pub fn new(
        config: &ModelConfig,
        data: impl Into<DataSpec>,
        device: Device,
        seed: u64,
    ) -> Result<Self, ModelError> {
        Self::builder().build(config, data, device, seed)
    }

    /// For models with custom parts.
    #[must_use]
    pub fn builder() -> VaeBuilder {
        VaeBuilder::default()
    }

    fn build(
        config: &ModelConfig,
        data: DataSpec,
        own: &OwnParts,
        device: Device,
        seed: u64,
    ) -> Result<Self, ModelError> {
        let outline = outline(config, &data, own)?;
        // Drawn on the CPU, then moved.
        let mut variables = nn::VarStore::new(seed).without(left_out(config, own));
        let Parts {
            network,
            posterior,
            prior,
            likelihood,
        } = Parts::build(config, &data, own, &variables);
        variables.set_device(device);
        let mut vae = Self {
            config: config.clone(),
            own: own.clone(),
            traits: Traits::of(config),
            condition_scales: condition::scales(&data.condition).to_device(device),
            units: Units::new(&data.item, device),
            data,
            framing: None,
            allow_non_finite: false,
            latent_scaling: None,
            strip_rows: None,
            variables,
            network,
            posterior,
            prior,
            likelihood,
            fixed: Fixed::default(),
        };
        if !own.is_empty() {
            vae.check_variables(&outline)?;
            vae.traits = no_grad(|| vae.probe())?;
            vae.view().check()?;
        }
        Ok(vae)
    }

    /// A trained model from the folder of a run (its best checkpoint), from the folder of a checkpoint, or from a
    /// weights file. The file contains the model's config. Before anything is allocated, its config is compared with
    /// its tensors, and its contents with the SHA-256 sum in the file of sums beside it, if there is one.
    ///
    /// # Errors
    /// The file does not exist, is damaged, or was written by another program; NaN or infinite weights, unless they
    /// were imported on purpose ([`StateDictMap::allow_non_finite`](crate::StateDictMap)); a model with custom parts,
    /// which [`VaeBuilder::load`] loads.
    ///
    /// ```
    /// use tch::Device;
    /// use vae_model::{ImageShape, ModelConfig, Vae};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let folder = tempfile::tempdir()?;
    /// let file = folder.path().join("weights.safetensors");
    /// let shape = ImageShape { channels: 1, height: 28, width: 28 };
    /// Vae::new(&ModelConfig::default(), shape, Device::Cpu, 1)?.save(&file)?;
    ///
    /// let vae = Vae::load(folder.path(), Device::Cpu)?; // or `file` itself
    /// assert_eq!(vae.image_shape(), shape);
    /// # Ok(())
    /// # }
    /// ```
    pub fn load(path: impl AsRef<Path>, device: Device) -> Result<Self, ModelError> {
        Self::builder().load(path, device)
    }

    /// A model with weights from PyTorch: a `state_dict` saved as safetensors, of any floating-point kind. `map` maps
    /// its tensors to the variables here ([`Self::named_variables`]). The counters of PyTorch's batch norms
    /// (`num_batches_tracked`) are left out. The second value has notes for the user on what was done to the names.
    ///
    /// # Errors
    /// A config that the model cannot be built from; a damaged file; missing or unexpected names and differing shapes,
    /// all of which are listed; NaN or infinite weights, unless the map allows them.
    pub fn import(
        config: &ModelConfig,
        data: impl Into<DataSpec>,
        path: impl AsRef<Path>,
        map: &StateDictMap,
        device: Device,
    ) -> Result<(Self, Vec<String>), ModelError> {
        let (path, data) = (path.as_ref(), data.into());
        let outline = outline(config, &data, &OwnParts::default())?;
        let (tensors, notes) = map.read(path, outline.shapes())?;
        let mut vae = Self::new(config, data, device, OVERWRITTEN)?;
        weights::assign(path, &tensors, &vae.variables)?;
        vae.allow_non_finite = map.allow_non_finite;
        Ok((vae, notes))
    }

    /// Writes the weights, and what is needed to rebuild the model, to a safetensors file. The file appears under its
    /// name only when it is complete.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), ModelError> {
        let is_image = self.data.item.is_image();
        let header = Header {
            model: self.config.clone(),
            image: is_image.then(|| self.data.item.map()),
            item: (!is_image).then(|| self.data.item.clone()),
            condition: self.data.condition.clone(),
            framing: self.framing.clone(),
            own_parts: self.own.names(),
            allow_non_finite: self.allow_non_finite,
            latent_scaling: self.latent_scaling,
        };
        weights::save(path.as_ref(), &header, &self.named_variables())
    }

    /// How an image becomes the values that the network sees; saved with the weights.
    #[must_use]
    pub fn preprocessing(&self) -> Preprocessing {
        Preprocessing {
            image: self.data.item.map(),
            channels: ChannelOrder::of(self.data.item.map()),
            framing: self.framing.clone(),
            value_range: self.likelihood.value_range(),
            item: (!self.data.item.is_image()).then(|| self.data.item.clone()),
            condition: self.data.condition.clone(),
        }
    }

    /// What latent diffusion multiplies the latents by, if the model is from a file that says it.
    #[must_use]
    pub fn latent_scaling(&self) -> Option<LatentScaling> {
        self.latent_scaling
    }

    /// Sets what latent diffusion multiplies the latents by; saved with the weights.
    pub fn set_latent_scaling(&mut self, scaling: Option<LatentScaling>) {
        self.latent_scaling = scaling;
    }

    /// From now on the networks compute in strips of this many rows, except in training: a large image then needs a
    /// fraction of the memory and up to twice the time, and its numbers are the same up to rounding, since nothing is cut at
    /// the strips' edges. Gradients do not pass through. `None` is the whole image at once, as at first.
    ///
    /// # Errors
    /// A network that is no sequence of known operations on maps.
    pub fn set_strip_rows(&mut self, n_rows: Option<i64>) -> Result<(), ModelError> {
        let parts = [Part::Encoder, Part::Decoder].into_iter();
        let parts = parts.skip(usize::from(!self.has_encoder()));
        let mut graphs = parts.map(|part| self.network_graph(part));
        let is_possible =
            graphs.all(|graph| graph.is_some_and(|graph| strips::are_possible(&graph)));
        if n_rows.is_some() && !is_possible {
            let name = self.config.network.name().to_owned();
            let problem = "this network cannot compute in strips of rows";
            return Err(ModelError::config(format!("model.network.{name}"), problem));
        }
        self.strip_rows = n_rows;
        Ok(())
    }

    pub(crate) fn is_in_strips(&self) -> bool {
        self.strip_rows.is_some()
    }

    /// Whether the network computes blocks again in the backward pass from now on; returns whether it has any.
    pub(crate) fn set_recomputation(&self, recomputes: bool) -> bool {
        self.network.recompute(recomputes)
    }

    /// The network's output for items or latents: in training at once; else few large images at a time, whose maps would not
    /// fit into memory together, or in strips.
    fn network_output(
        &self,
        part: Part,
        input: &Tensor,
        features: Option<&Tensor>,
        mode: Mode,
    ) -> Tensor {
        let apply = |input: &Tensor, features: Option<&Tensor>| match part {
            Part::Encoder => self.network.encode(input, features, mode),
            Part::Decoder => self.network.decode(input, features, mode),
        };
        if mode == Mode::Train {
            return apply(input, features);
        }
        let in_strips = self.strip_rows.and_then(|n_rows| {
            let inputs: Vec<&Tensor> = features.into_iter().chain([input]).collect();
            strips::compute(&self.network_graph(part)?, &inputs, n_rows)
        });
        if let Some(output) = in_strips {
            return output;
        }
        let ImageShape { height, width, .. } = self.image_shape();
        let n = (N_PIXELS_AT_A_TIME / (height * width).max(1)).max(1);
        if input.size()[0] <= n {
            return apply(input, features);
        }
        let features = features.map(|features| features.split(n, 0));
        let some = |i: usize| features.as_ref().map(|features| &features[i]);
        let inputs = input.split(n, 0);
        let outputs = inputs.iter().enumerate();
        let outputs: Vec<Tensor> = outputs.map(|(i, input)| apply(input, some(i))).collect();
        Tensor::cat(&outputs, 0)
    }

    /// Takes the values of all variables from tensors of their names and shapes.
    pub(crate) fn assign(
        &mut self,
        path: &Path,
        tensors: &BTreeMap<String, Tensor>,
    ) -> Result<(), ModelError> {
        weights::assign(path, tensors, &self.variables)
    }

    /// Sets how the training images are cropped and resized.
    pub fn set_framing(&mut self, framing: Framing) {
        self.framing = Some(framing);
    }

    /// The model's config. What it contains for parts in [`Self::own_parts`] is not used.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The names of the custom parts by their role: `network`, `posterior`, `prior` or `likelihood`.
    #[must_use]
    pub fn own_parts(&self) -> BTreeMap<String, String> {
        self.own.names()
    }

    /// The space that its latents lie in.
    #[must_use]
    pub fn support(&self) -> Support {
        self.traits.posterior.support
    }

    /// Whether it has an encoder. Without one it is a generator: it decodes latents of the prior, and
    /// [`Self::encode`] is an error.
    #[must_use]
    pub fn has_encoder(&self) -> bool {
        self.own.has_encoder(&self.config)
    }

    /// Whether q(z|x) has a density: without a density there is neither kl nor elbo.
    #[must_use]
    pub fn has_density(&self) -> bool {
        self.traits.posterior.has_density
    }

    /// Whether p(z) = N(0, I).
    #[must_use]
    pub fn has_standard_normal_prior(&self) -> bool {
        self.traits.prior.is_standard_normal
    }

    /// As [`LikelihoodConfig::bits_per_dim`](crate::LikelihoodConfig::bits_per_dim); `None` for a custom likelihood.
    #[must_use]
    pub fn bits_per_dim(&self, elbo: f64) -> Option<f64> {
        let likelihood = self.view().likelihood?;
        likelihood.bits_per_dim(elbo, self.image_shape())
    }

    /// The view of the model that the checks use.
    pub(crate) fn view(&self) -> ModelView<'_> {
        self.own.view(&self.config, Some(self.traits))
    }

    /// Kind and shape of its items.
    #[must_use]
    pub fn item(&self) -> &ItemSpec {
        &self.data.item
    }

    /// The shape of its items in tensors: of images as they are, of other items as maps ([`ItemSpec::map`]).
    #[must_use]
    pub fn image_shape(&self) -> ImageShape {
        self.data.item.map()
    }

    /// The numbers that the decoder gives for each value of an item: of tokens, one for each of the vocabulary; 1 for other
    /// items.
    #[must_use]
    pub fn n_params_per_value(&self) -> i64 {
        match self.data.item.kind {
            ItemKind::Tokens { vocabulary, .. } => vocabulary,
            _ => 1,
        }
    }

    /// The number of tokens of each item `[B, 1, 1, T]`, the first end among them, i64 `[B]`; `None` for items other than
    /// tokens.
    pub fn n_tokens(&self, items: &Tensor) -> Option<Tensor> {
        let shape = TokenShape::of(self.data.item.kind)?;
        let mask = shape.mask(&items.flatten(1, -1));
        Some(mask.sum_dim_intlist(-1, false, Kind::Int64))
    }

    /// The columns of the condition; empty for a model without a condition.
    #[must_use]
    pub fn condition(&self) -> &ConditionSpec {
        &self.data.condition
    }

    /// The device of the weights.
    #[must_use]
    pub fn device(&self) -> Device {
        self.variables.device()
    }

    /// A generator of noise on the model's device. Everything drawn from it follows from the seed.
    ///
    /// # Panics
    /// If libtorch has no generator for the model's device.
    #[must_use]
    pub fn generator(&self, seed: u64) -> Generator {
        Generator::new(seed, self.device()).expect("the model is on a device that computes")
    }

    /// Everything that makes up the trained model by name, sorted: weights, and other results of training (running
    /// averages). They share memory with the model.
    #[must_use]
    pub fn named_variables(&self) -> Vec<(String, Tensor)> {
        let mut named: Vec<_> = self.variables.variables().into_iter().collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        named
    }

    /// The weights: those of [`Self::named_variables`] that are trained.
    #[must_use]
    pub fn trainable_variables(&self) -> Vec<(String, Tensor)> {
        let mut named = self.named_variables();
        named.retain(|(_, variable)| variable.requires_grad());
        named
    }

    /// Number of trained values.
    #[must_use]
    pub fn n_parameters(&self) -> usize {
        let variables = self.trainable_variables();
        variables.iter().map(|(_, weights)| weights.numel()).sum()
    }

    /// Number of training items that [`Self::start_from`] uses; 0 if no part needs any.
    #[must_use]
    pub fn n_start_images(&self) -> usize {
        let of_posterior = self.posterior.n_start_items(self.config.n_latents());
        self.prior.n_start_images().max(of_posterior)
    }

    /// Initializes VampPrior's pseudo-inputs and codebooks from training items `[B, C, H, W]`. To be called once, before
    /// the first step.
    ///
    /// # Errors
    /// Items of another shape or kind.
    pub fn start_from(&self, items: &Tensor) -> Result<(), ModelError> {
        self.check_images(items)?;
        let n_latents = self.config.n_latents();
        if self.posterior.n_start_items(n_latents) > 0 {
            let params = items.split(N_START_AT_A_TIME, 0).into_iter().map(|part| {
                let unknown = self.unknown(part.size()[0]);
                let (targets, features) = self.scaled((&part, unknown.as_ref()).into())?;
                Ok(no_grad(|| {
                    self.posterior_params(&targets, features.as_ref(), Mode::Evaluate)
                }))
            });
            let params = params.collect::<Result<Vec<Tensor>, ModelError>>()?;
            self.posterior.start_from(&Tensor::cat(&params, 0));
        }
        if self.prior.n_start_images() > 0 {
            self.prior.start_from(&items.to_device(self.device()));
        }
        Ok(())
    }

    /// To be called after the last training step of an epoch: codes that no item of it used are replaced in the next
    /// step.
    pub fn end_epoch(&self) {
        self.posterior.end_epoch();
    }

    /// Runs `work` during which no weight changes, so that VampPrior's pseudo-inputs are encoded once, not in every
    /// evaluation. They are then detached.
    pub fn with_fixed_weights<T>(&self, work: impl FnOnce() -> T) -> T {
        self.fixed.n_calls.set(self.fixed.n_calls.get() + 1);
        let _call = FixedCall(&self.fixed);
        work()
    }

    /// q(z|x) for items `[B, C, H, W]` (bytes of images, f32 of arrays), with their condition in a model that has one
    /// ([`Conditioned`]).
    ///
    /// # Errors
    /// A model without an encoder; items of another shape or kind, or a condition that does not fit the model.
    pub fn encode<'a>(
        &self,
        images: impl Into<Conditioned<'a>>,
    ) -> Result<Box<dyn Posterior>, ModelError> {
        self.check_encoder()?;
        let (targets, features) = self.scaled(images.into())?;
        Ok(self.posterior(&targets, features.as_ref()))
    }

    /// The mean items, `[N, C, H, W]` (images in `[0, 1]`, arrays in their own unit), for latents `[N, Z]`, with their
    /// condition in a model that has one ([`Conditioned`]). Of tokens the most likely one at each step, i64.
    ///
    /// # Errors
    /// Latents of another shape, or a condition that does not fit the model.
    pub fn decode<'a>(&self, latents: impl Into<Conditioned<'a>>) -> Result<Tensor, ModelError> {
        let latents = latents.into();
        if self.network.sequential().is_some() {
            // The same without the parameters of all steps. Nothing is drawn.
            return self.decode_drawn(latents, Drawing::GREEDY, &mut self.generator(OVERWRITTEN));
        }
        let (latents, features) = self.checked_latents(latents)?;
        let params = self.decoded(&latents, features.as_ref(), Mode::Evaluate);
        Ok(self.mean_items(&params).contiguous())
    }

    /// An item drawn from p(x|z) for each of the latents `[N, Z]`, `[N, C, H, W]`: includes the noise of the values,
    /// unlike [`Self::decode`].
    ///
    /// # Errors
    /// Latents of another shape.
    pub fn decode_sampled<'a>(
        &self,
        latents: impl Into<Conditioned<'a>>,
        generator: &mut Generator,
    ) -> Result<Tensor, ModelError> {
        self.decode_drawn(latents, Drawing::default(), generator)
    }

    /// [`Self::decode_sampled`], for sequences of tokens with another [`Drawing`] of each token than by its probability.
    ///
    /// # Errors
    /// Latents of another shape; a drawing that is impossible, or that is not of tokens.
    pub fn decode_drawn<'a>(
        &self,
        latents: impl Into<Conditioned<'a>>,
        drawing: Drawing,
        generator: &mut Generator,
    ) -> Result<Tensor, ModelError> {
        drawing.check()?;
        let (latents, features) = self.checked_latents(latents.into())?;
        if let Some(decoder) = self.network.sequential() {
            let items = self.drawn(decoder, &latents, features.as_ref(), drawing, generator);
            return Ok(self.units.restored(items).contiguous());
        }
        if drawing != Drawing::default() {
            let problem =
                "these items are no sequences of tokens, and are drawn from p(x|z) as it is";
            return Err(ModelError::config(
                "temperature and top-p of tokens",
                problem,
            ));
        }
        let params = self.decoded(&latents, features.as_ref(), Mode::Evaluate);
        let sampled = self.likelihood.sample(&params, generator);
        Ok(self.units.restored(sampled).contiguous())
    }

    /// Items drawn value by value, `[N, 1, 1, T]`, for latents `[N, Z]`.
    fn drawn(
        &self,
        decoder: &dyn SequentialDecoder,
        latents: &Tensor,
        features: Option<&Tensor>,
        drawing: Drawing,
        generator: &mut Generator,
    ) -> Tensor {
        let length = self.image_shape().width;
        let end = match self.data.item.kind {
            ItemKind::Tokens { end, .. } => end,
            _ => None,
        };
        let mut steps = decoder.steps(latents, features);
        let mut values: Vec<Tensor> = Vec::new();
        let mut has_ended: Option<Tensor> = None;
        for _ in 0..length {
            let params = steps.next(values.last()).to_kind(Kind::Float); // [N, L]
            let mut value = match self.data.item.is_tokens() {
                true => drawing.choose(&params, generator),
                false => {
                    let params = params.unsqueeze(-1).unsqueeze(-1); // [N, L, 1, 1]
                    self.likelihood.sample(&params, generator).flatten(0, -1)
                }
            };
            if let Some(end) = end {
                if let Some(has_ended) = &has_ended {
                    value = value.masked_fill(has_ended, end);
                }
                let ends = value.eq(end);
                // The rest is ends, too.
                if bool::try_from(ends.all()).unwrap_or(false) {
                    let rest = length - values.len() as i64;
                    values.resize_with(values.len() + rest as usize, || value.shallow_clone());
                    break;
                }
                has_ended = Some(ends);
            }
            values.push(value);
        }
        Tensor::stack(&values, -1).unsqueeze(1).unsqueeze(1)
    }

    /// Whether latents are drawn group by group, each given those above it ([`Self::redraw_below`]).
    #[must_use]
    pub fn draws_by_group(&self) -> bool {
        self.config.group_sizes().is_some()
    }

    /// Latents `[N, Z]` with the same first `n_kept` groups, counted from the top ([`ModelConfig::latent_groups`]), and the
    /// groups below drawn anew from the prior given those. `None` for a model that does not draw by group.
    ///
    /// # Errors
    /// Latents of another shape, or a condition that does not fit the model.
    pub fn redraw_below<'a>(
        &self,
        latents: impl Into<Conditioned<'a>>,
        n_kept: usize,
        generator: &mut Generator,
    ) -> Result<Option<Tensor>, ModelError> {
        let (latents, features) = self.checked_latents(latents.into())?;
        Ok(
            self.with_context(features.as_ref(), Mode::Evaluate, |context| {
                self.prior
                    .redraw_below(&latents, n_kept, context, generator)
            }),
        )
    }

    /// The codes of its latents; `None` if latents are not codes.
    #[must_use]
    pub fn quantizer(&self) -> Option<&dyn Quantizer> {
        self.posterior.quantizer()
    }

    /// The codes i64 `[N, n]` of latents `[N, Z]`; `None` if latents are not codes.
    ///
    /// # Errors
    /// Latents of another shape.
    pub fn codes(&self, latents: &Tensor) -> Result<Option<Tensor>, ModelError> {
        let latents = self.latents_here(latents)?;
        Ok(self.quantizer().map(|quantizer| quantizer.codes(&latents)))
    }

    /// The latents `[N, Z]` that codes i64 `[N, n]` stand for.
    ///
    /// # Errors
    /// A model whose latents are not codes; another number of codes for each item, or codes that there are not.
    pub fn latents_of_codes(&self, codes: &Tensor) -> Result<Tensor, ModelError> {
        let Some(quantizer) = self.quantizer() else {
            return Err(ModelError::NoCodes);
        };
        let (n_slots, n_codes) = (
            quantizer.n_slots(self.config.n_latents()),
            quantizer.n_codes(),
        );
        let size = codes.size();
        let fits = size.len() == 2 && size[1] == n_slots && codes.kind() == Kind::Int64;
        let range = match fits && codes.numel() > 0 {
            true => [codes.min().int64_value(&[]), codes.max().int64_value(&[])],
            false => [0, 0],
        };
        if !fits || range[0] < 0 || range[1] >= n_codes {
            return Err(ModelError::Codes {
                found: match fits {
                    true => format!("codes from {} to {}", range[0], range[1]),
                    false => format!("{:?} {size:?}", codes.kind()),
                },
                n_slots,
                n_codes,
            });
        }
        Ok(quantizer.latents(&codes.to_device(self.device())))
    }

    /// Latents of codes near to latents `[N, Z]`; the unchanged latents if they are not codes.
    ///
    /// # Errors
    /// Latents of another shape.
    pub fn nearest_codes(&self, latents: &Tensor) -> Result<Tensor, ModelError> {
        let here = self.latents_here(latents)?;
        Ok(match self.quantizer() {
            Some(quantizer) => quantizer.nearest(&here),
            None => latents.shallow_clone(),
        })
    }

    /// `n` latents drawn from the prior, `[n, Z]`; in a model with a condition, for items with unknown condition.
    pub fn sample_latents(&self, n: i64, generator: &mut Generator) -> Tensor {
        let unknown = self.unknown(n);
        self.latents_of(n, unknown.as_ref(), generator)
    }

    /// A latent drawn from the prior for each of n conditions `[n, D]`, `[n, Z]`.
    ///
    /// # Errors
    /// A condition that does not fit the model.
    pub fn sample_latents_of(
        &self,
        condition: &Tensor,
        generator: &mut Generator,
    ) -> Result<Tensor, ModelError> {
        let n = condition.size().first().copied().unwrap_or(0);
        self.check_condition(Some(condition), n)?;
        Ok(self.latents_of(n, Some(condition), generator))
    }

    /// `n` latents drawn from the prior, for a checked condition.
    pub(crate) fn latents_of(
        &self,
        n: i64,
        condition: Option<&Tensor>,
        generator: &mut Generator,
    ) -> Tensor {
        self.latents_at(n, condition, 1.0, generator)
    }

    /// Likewise, with the prior's noise scaled by the temperature.
    pub(crate) fn latents_at(
        &self,
        n: i64,
        condition: Option<&Tensor>,
        temperature: f64,
        generator: &mut Generator,
    ) -> Tensor {
        let features = condition.map(|condition| self.features(condition));
        self.with_context(features.as_ref(), Mode::Evaluate, |context| {
            let context = PriorContext {
                temperature,
                ..context
            };
            self.prior.sample(n, self.device(), context, generator)
        })
    }

    /// Whether the prior's draws are made of Gaussian noise, so that a temperature means something
    /// ([`PriorContext::temperature`]).
    #[must_use]
    pub fn prior_has_temperature(&self) -> bool {
        self.prior.has_temperature()
    }

    /// The condition of `n` items with every column unknown, `[n, D]`; `None` for a model without a condition.
    #[must_use]
    pub fn unknown(&self, n: i64) -> Option<Tensor> {
        let n_columns = self.data.condition.n_columns() as i64;
        let options = (Kind::Float, self.device());
        (n_columns > 0).then(|| Tensor::full([n, n_columns], f64::NAN, options))
    }

    /// `n` new mean images in `[0, 1]`, decoded from the prior, `[n, C, H, W]`.
    ///
    /// # Errors
    /// libtorch refuses.
    ///
    /// ```
    /// use tch::Device;
    /// use vae_model::{ImageShape, ModelConfig, ModelError, Vae};
    ///
    /// # fn main() -> Result<(), ModelError> {
    /// let shape = ImageShape { channels: 1, height: 28, width: 28 };
    /// let vae = Vae::new(&ModelConfig::default(), shape, Device::Cpu, 1)?;
    /// let mut generator = vae.generator(7);
    /// let images = vae.sample(3, &mut generator)?;
    /// assert_ne!(vae.sample(3, &mut generator)?, images); // Continues where it ended.
    /// assert_eq!(vae.sample(3, &mut vae.generator(7))?, images);
    /// # Ok(())
    /// # }
    /// ```
    pub fn sample(&self, n: i64, generator: &mut Generator) -> Result<Tensor, ModelError> {
        let latents = self.sample_latents(n, generator);
        self.decode((&latents, self.unknown(n).as_ref()))
    }

    /// KL(q(z|x) ‖ p(z)) of one of this model's posteriors, if it has a closed form: the prior is the base distribution
    /// of the posterior's space, or both are Gaussians. `condition` `[B, D]` is that of the posterior's items.
    ///
    /// # Errors
    /// A condition that does not fit the model.
    pub fn closed_kl(
        &self,
        posterior: &dyn Posterior,
        condition: Option<&Tensor>,
    ) -> Result<Option<ClosedKl>, ModelError> {
        self.check_condition(condition, posterior.center().size()[0])?;
        let features = condition.map(|condition| self.features(condition));
        Ok(self.kl_to_prior(posterior, features.as_ref(), Mode::Evaluate))
    }

    /// log p(z) in nats, `[N]`, for latents `[N, Z]`, with their condition in a model that has one.
    ///
    /// # Errors
    /// Latents of another shape, or a condition that does not fit the model.
    pub fn prior_log_prob<'a>(
        &self,
        latents: impl Into<Conditioned<'a>>,
    ) -> Result<Tensor, ModelError> {
        let (latents, features) = self.checked_latents(latents.into())?;
        Ok(
            self.with_context(features.as_ref(), Mode::Evaluate, |context| {
                self.prior.log_prob(&latents, context)
            }),
        )
    }

    /// log p(c|z) of each component c of the prior, `[N, n_components]`, for latents `[N, Z]`: the clusters of the
    /// images. `None` if the prior has no components.
    ///
    /// # Errors
    /// Latents of another shape.
    pub fn log_assignment(&self, latents: &Tensor) -> Result<Option<Tensor>, ModelError> {
        Ok(self.prior.log_assignment(&self.latents_here(latents)?))
    }

    /// The reconstructions of images: the mean image for the posterior's center, in `[0, 1]`.
    ///
    /// # Errors
    /// Images of another shape or kind.
    ///
    /// ```
    /// use tch::{Device, Kind, Tensor};
    /// use vae_model::{ImageShape, ModelConfig, ModelError, Vae};
    ///
    /// # fn main() -> Result<(), ModelError> {
    /// let shape = ImageShape { channels: 1, height: 28, width: 28 };
    /// let vae = Vae::new(&ModelConfig::default(), shape, Device::Cpu, 1)?;
    /// let images = Tensor::zeros([2, 1, 28, 28], (Kind::Uint8, Device::Cpu));
    /// assert_eq!(vae.reconstruct(&images)?.size(), [2, 1, 28, 28]);
    /// let floats = images.to_kind(Kind::Float);
    /// assert!(matches!(vae.reconstruct(&floats), Err(ModelError::Images { .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn reconstruct<'a>(
        &self,
        images: impl Into<Conditioned<'a>>,
    ) -> Result<Tensor, ModelError> {
        let images = images.into();
        self.decode((&self.encode(images)?.center(), images.condition))
    }

    /// A one-sample estimate of the ELBO for each image in nats, `[B]`. [`Self::draw`] gives its terms.
    ///
    /// # Errors
    /// Images of another shape or kind; a model whose deterministic posterior has no ELBO.
    pub fn elbo<'a>(
        &self,
        images: impl Into<Conditioned<'a>>,
        generator: &mut Generator,
    ) -> Result<Tensor, ModelError> {
        let draws = self.draw(images, 1, Mode::Evaluate, generator)?;
        draws.terms.elbo().ok_or(ModelError::NoElbo)
    }

    /// Encodes items `[B, C, H, W]`, draws `n_samples` latents for each and decodes them. In training, a model with a
    /// condition does not get that of some images (`condition.dropout`).
    ///
    /// # Errors
    /// Items of another shape or kind, or a condition that does not fit the model.
    pub fn draw<'a>(
        &self,
        images: impl Into<Conditioned<'a>>,
        n_samples: i64,
        mode: Mode,
        generator: &mut Generator,
    ) -> Result<Draws, ModelError> {
        self.draw_share(images, None, n_samples, mode, generator)
    }

    /// [`Self::draw`] as one of several processes, which all call it with the items of their shares of a batch and with
    /// generators in the same state: the noise of each item is that of a single process with the whole batch. The processes'
    /// weights have to be equal.
    ///
    /// # Errors
    /// As for [`Self::draw`]; another number of items than the share's; another process is gone.
    pub fn draw_share<'a>(
        &self,
        items: impl Into<Conditioned<'a>>,
        share: Option<&Share>,
        n_samples: i64,
        mode: Mode,
        generator: &mut Generator,
    ) -> Result<Draws, ModelError> {
        let Conditioned { tensor, condition } = items.into();
        let share = share.cloned();
        let n = tensor.size().first().copied().unwrap_or(0);
        if let Some(share) = &share
            && share.n_computed() != n
        {
            let problem = format!("{n} items, expected {}", share.n_computed());
            return Err(ModelError::config("share of the batch", problem));
        }
        self.check_condition(condition, n)?;
        let condition = condition.map(|own| share.gathered(&own.to_device(self.device()), 0));
        let dropped = self.dropped(condition.as_ref(), mode, generator);
        let condition = dropped.or(condition);
        let own_condition = condition.as_ref().map(|whole| share.own(whole, 0));
        let (targets, _) = self.scaled((tensor, own_condition.as_ref()).into())?;
        let n_rows = share.n_rows_of(n);
        let shape = [n_samples, n_rows, self.config.n_latents()];
        let noise = generator.normal(shape, self.device());
        let training = (mode == Mode::Train).then_some(generator);
        let draws = self.draws(&targets, condition.as_ref(), share, &noise, mode, training);
        if let Some(share) = &draws.share {
            share.check()?;
        }
        Ok(draws)
    }

    /// [`Self::draw`] with given standard normal noise ε `[K, B, Z]`, and without word dropout.
    ///
    /// # Errors
    /// Images of another shape or kind, or noise that does not fit them.
    pub fn draw_with_noise<'a>(
        &self,
        images: impl Into<Conditioned<'a>>,
        noise: &Tensor,
        mode: Mode,
    ) -> Result<Draws, ModelError> {
        let images = images.into();
        let (targets, _) = self.scaled(images)?;
        self.check_samples(noise, &targets)?;
        Ok(self.draws(&targets, images.condition, None, noise, mode, None))
    }

    /// log p(x|z) and log p(z) in nats, `[K, B]` each, for bytes `[B, C, H, W]` and K latents for each, `[K, B, Z]`,
    /// which may require gradients. Their sum is log p(x, z), which does not depend on the encoder.
    ///
    /// # Errors
    /// Images of another shape or kind, or latents that do not fit them.
    pub fn log_joint<'a>(
        &self,
        images: impl Into<Conditioned<'a>>,
        latents: &Tensor,
    ) -> Result<(Tensor, Tensor), ModelError> {
        let (targets, features) = self.scaled(images.into())?;
        self.check_samples(latents, &targets)?;
        let joint = self.joint(&targets, features.as_ref(), latents, Mode::Evaluate, None);
        Ok((joint.log_px_z, joint.log_pz))
    }

    /// The differences between the mean items of draws and the items `[B, C, H, W]`, `[K, B, C, H, W]`: for images in
    /// `[0, 1]`, for arrays in standard deviations, NaN for missing values. `None` for tokens, which have no differences.
    pub fn errors(&self, draws: &Draws, items: &Tensor) -> Option<Tensor> {
        match self.data.item.kind {
            ItemKind::Tokens { .. } => None,
            ItemKind::Image => Some(self.mean_images(draws) - items.to_kind(Kind::Float) / 255.0),
            _ => {
                let mean = self.likelihood.mean_image(&draws.params.flatten(0, 1));
                Some(mean.unflatten(0, &draws.params.size()[..2]) - &draws.targets)
            }
        }
    }

    /// −log p(x|z) of each value of items at the center of q(z|x), in nats, `[B, C, H, W]`: large for unusual values,
    /// NaN for missing ones. `None` for a likelihood whose values depend on each other.
    ///
    /// # Errors
    /// Items of another shape or kind, or a condition that does not fit the model.
    pub fn value_scores<'a>(
        &self,
        items: impl Into<Conditioned<'a>>,
    ) -> Result<Option<Tensor>, ModelError> {
        self.check_encoder()?;
        let (targets, features) = self.scaled(items.into())?;
        let posterior = self.posterior(&targets, features.as_ref());
        let (center, features) = (posterior.center(), features.as_ref());
        let params = self.decoded_given(&center, features, &targets, Mode::Evaluate, None);
        let log_prob = self
            .likelihood
            .value_log_prob(&params.unsqueeze(0), &targets);
        Ok(log_prob.map(|log_prob| -self.units.value_density(log_prob.squeeze_dim(0))))
    }

    /// The most likely token at each step of items `[B, 1, 1, T]`, i64 `[B, T]`, at the center of q(z|x), given the item's own
    /// tokens before it (teacher forcing). `None` for items other than tokens.
    ///
    /// # Errors
    /// Items of another shape or kind, or a condition that does not fit the model.
    pub fn teacher_forced_tokens<'a>(
        &self,
        items: impl Into<Conditioned<'a>>,
    ) -> Result<Option<Tensor>, ModelError> {
        self.check_encoder()?;
        if !self.data.item.is_tokens() {
            return Ok(None);
        }
        let (targets, features) = self.scaled(items.into())?;
        let posterior = self.posterior(&targets, features.as_ref());
        let (center, features) = (posterior.center(), features.as_ref());
        let params = self.decoded_given(&center, features, &targets, Mode::Evaluate, None); // [B, V, 1, T]
        Ok(Some(params.argmax(1, false).flatten(1, -1)))
    }

    /// The mean items of draws, `[K, B, C, H, W]`: images in `[0, 1]`, arrays in their own unit.
    pub fn mean_images(&self, draws: &Draws) -> Tensor {
        let images = self.mean_items(&draws.params.flatten(0, 1));
        images.unflatten(0, &draws.params.size()[..2])
    }

    /// −log p(z) of the codes, a scalar: trains a learned prior on the codes of a deterministic posterior, which has no
    /// kl. The codes are detached: only the prior is trained. `None` if there is nothing to fit.
    pub(crate) fn code_density_loss(&self, draws: &Draws) -> Option<Tensor> {
        if !self.traits.prior.is_learned || self.has_density() {
            return None;
        }
        let codes = draws.latents.detach().flatten(0, 1);
        let n_samples = draws.latents.size()[0];
        let features = draws.condition.as_ref();
        let features = features.map(|condition| self.features(condition).repeat([n_samples, 1]));
        let log_pz = self.with_context(features.as_ref(), Mode::Evaluate, |context| {
            self.prior.log_prob(&codes, context)
        });
        Some(-log_pz.mean(Kind::Float))
    }

    /// The same model on the CPU, with weights that do not require gradients.
    pub(crate) fn frozen(&self) -> Result<Self, ModelError> {
        let data = self.data.clone();
        let mut frozen = Self::build(&self.config, data, &self.own, Device::Cpu, OVERWRITTEN)?;
        frozen.variables.copy(&self.variables)?;
        frozen.variables.freeze();
        frozen.framing = self.framing.clone();
        Ok(frozen)
    }

    /// The operations of [`Self::run_part`]: inputs and outputs.
    pub(crate) fn part_graph(
        &self,
        graph: &mut Graph,
        part: Part,
    ) -> Result<(Vec<Value>, Vec<Value>), ModelError> {
        match part {
            Part::Encoder => {
                self.check_encoder()?;
                let images = graph.input(&self.data.item.map().sides());
                let condition = self.condition_input(graph);
                let [black, white] = self.likelihood.value_range();
                let mut scaled = self.units.standardized_graph(graph, &images);
                if [black, white] != [0.0, 1.0] {
                    scaled = graph.with_number(&scaled, "Mul", white - black);
                    scaled = graph.with_number(&scaled, "Add", black);
                }
                let features = condition.as_ref().map(|condition| {
                    condition::features_graph(graph, condition, &self.data.condition)
                });
                let params = self
                    .network
                    .encoder_graph(graph, scaled, features)
                    .ok_or_else(|| self.not_in_onnx("network"))?;
                let outputs = self.posterior.graph(graph, &params).ok_or_else(|| {
                    ModelError::export(format!(
                        "the posterior {} has no ONNX export; TorchScript supports it",
                        self.view().posterior.name
                    ))
                })?;
                Ok((
                    [Some(images), condition].into_iter().flatten().collect(),
                    outputs,
                ))
            }
            Part::Decoder => {
                let latents = graph.input(&[self.config.n_latents()]);
                let condition = self.condition_input(graph);
                let features = condition.as_ref().map(|condition| {
                    condition::features_graph(graph, condition, &self.data.condition)
                });
                let params = self
                    .network
                    .decoder_graph(graph, latents.clone(), features)
                    .ok_or_else(|| self.not_in_onnx("network"))?;
                let mean = self.likelihood.mean_graph(graph, &params).ok_or_else(|| {
                    ModelError::export(format!(
                        "the mean image of the likelihood {} has no ONNX export; TorchScript \
                         supports it",
                        self.view().likelihood_name
                    ))
                })?;
                Ok((
                    [Some(latents), condition].into_iter().flatten().collect(),
                    vec![self.units.restored_graph(graph, mean)],
                ))
            }
        }
    }

    /// Refuses a custom part that makes two variables of the same name, because the outline has only one of them.
    fn check_variables(&self, outline: &Outline) -> Result<(), ModelError> {
        let variables = self.variables.variables();
        match variables
            .keys()
            .find(|name| !outline.shapes().contains_key(*name))
        {
            Some(name) => Err(ModelError::config(
                format!("own parts: {}", listed(&self.own_parts())),
                format!(
                    "one of them does not always make the variable {name}, or makes two of that name"
                ),
            )),
            None => Ok(()),
        }
    }

    /// Runs two items through the parts and checks the shapes of all outputs. Returns the properties that the checks
    /// use, such as whether the posterior has a density.
    fn probe(&self) -> Result<Traits, ModelError> {
        const N: i64 = 2;
        let own = self.own_parts();
        let needs_codes = self.posterior.support() == Support::Codes
            || self.prior.support() == Some(Support::Codes) && !own.contains_key("prior");
        if needs_codes && self.posterior.quantizer().is_none() {
            let name = own.get("posterior").map_or("", String::as_str);
            return Err(ModelError::config(
                format!("own posterior {name}"),
                "the model's latents are codes, and its quantizer() is none",
            ));
        }
        // An error names the part, which must be a custom one: the built-in parts have the right shapes.
        let fits = |part: &str, what: &str, found: &Tensor, wanted: &[i64]| {
            if found.size() == wanted && found.is_floating_point() {
                return Ok(());
            }
            let name = own.get(part).map_or("", String::as_str);
            Err(ModelError::config(
                format!("own {part} {name}"),
                format!(
                    "{what} gave {:?} {:?}, expected f32 {wanted:?}",
                    found.kind(),
                    found.size()
                ),
            ))
        };
        let context = self.own.context(&self.config, &self.data);
        let (n_latents, device) = (context.n_latents, self.device());
        let image = self.data.item.map();
        let maps = [N, image.channels, image.height, image.width];
        let items = Tensor::zeros(maps, (kind_of(self.data.item.kind), device));
        let condition = self.unknown(N);
        let (targets, features) = self.scaled((&items, condition.as_ref()).into())?;
        fits("likelihood", "scale", &targets, &maps)?;
        let features = features.as_ref();
        let params = self.posterior_params(&targets, features, Mode::Evaluate);
        fits(
            "network",
            "encode",
            &params,
            &[N, context.n_posterior_params],
        )?;
        let posterior = self.posterior.distribution(&params);
        fits("posterior", "center", &posterior.center(), &[N, n_latents])?;
        let noise = Tensor::zeros([1, N, n_latents], (Kind::Float, device));
        let Latents { latents, log_prob } = posterior.draw(&noise);
        fits("posterior", "draw", &latents, &[1, N, n_latents])?;
        if let Some(log_prob) = &log_prob {
            fits("posterior", "log_prob of draw", log_prob, &[1, N])?;
        }
        match posterior.kl() {
            Some(ClosedKl::PerDimension(kl)) => fits("posterior", "kl", &kl, &[N, n_latents])?,
            Some(ClosedKl::Total(kl)) => fits("posterior", "kl", &kl, &[N])?,
            None => {}
        }
        let at_latents = posterior.log_prob(&latents);
        if let Some(log_prob) = &at_latents {
            fits("posterior", "log_prob", log_prob, &[1, N])?;
        }
        let flat = latents.squeeze_dim(0); // [N, Z]
        let params = self.decoded_given(&flat, features, &targets, Mode::Evaluate, None);
        let n_maps = context.n_likelihood_maps;
        fits(
            "network",
            "decode",
            &params,
            &[N, n_maps, image.height, image.width],
        )?;
        let log_px_z = self
            .likelihood
            .log_prob(&params.unsqueeze(0), &targets, Mode::Evaluate);
        fits("likelihood", "log_prob", &log_px_z, &[1, N])?;
        fits(
            "likelihood",
            "mean_image",
            &self.likelihood.mean_image(&params),
            &maps,
        )?;
        let (log_pz, sampled) = self.with_context(features, Mode::Evaluate, |context| {
            let log_pz = self.prior.log_prob(&flat, context);
            let mut generator = self.generator(OVERWRITTEN);
            (
                log_pz,
                self.prior.sample(N, device, context, &mut generator),
            )
        });
        fits("prior", "log_prob", &log_pz, &[N])?;
        fits("prior", "sample", &sampled, &[N, n_latents])?;
        let known = Traits::of(&self.config);
        let posterior = match own.contains_key("posterior") {
            false => known.posterior,
            true => PosteriorTraits {
                support: self.posterior.support(),
                has_density: log_prob.is_some(),
                has_log_prob: at_latents.is_some(),
                has_covariance: posterior.covariance().is_some(),
                is_per_latent: context.n_posterior_params % n_latents == 0,
                is_diagonal_gaussian: posterior.as_diagonal_gaussian().is_some(),
            },
        };
        let prior = match own.contains_key("prior") {
            false => known.prior,
            true => PriorTraits {
                support: self.prior.support(),
                is_standard_normal: self.prior.is_base()
                    && self.prior.support() == Some(Support::Euclidean),
                is_learned: self
                    .trainable_variables()
                    .iter()
                    .any(|(name, _)| name.starts_with("prior.")),
            },
        };
        Ok(Traits { posterior, prior })
    }

    fn not_in_onnx(&self, part: &str) -> ModelError {
        let own = self.own_parts().remove(part);
        ModelError::export(format!(
            "the {part} {} has no ONNX export; TorchScript supports it",
            own.unwrap_or_else(|| self.config.network.name().to_owned())
        ))
    }

    /// The operations of the network alone; `None` for a custom network, which has no graph.
    pub(crate) fn network_graph(&self, part: Part) -> Option<Graph> {
        let mut graph = Graph::default();
        let n_features = condition::n_features(&self.data.condition);
        let features = (n_features > 0).then(|| graph.input(&[n_features]));
        match part {
            Part::Encoder => {
                let images = graph.input(&self.data.item.map().sides());
                self.network.encoder_graph(&mut graph, images, features)?;
            }
            Part::Decoder => {
                let latents = graph.input(&[self.config.n_latents()]);
                self.network.decoder_graph(&mut graph, latents, features)?;
            }
        }
        Some(graph)
    }

    /// The input of the condition; `None` for a model without a condition.
    fn condition_input(&self, graph: &mut Graph) -> Option<Value> {
        let n_columns = self.data.condition.n_columns() as i64;
        (n_columns > 0).then(|| graph.input(&[n_columns]))
    }

    /// q(z|x) for items f32 `[B, C, H, W]`, in the format of exported encoders: images in `[0, 1]`, arrays in their own
    /// unit; tokens are i64.
    pub(crate) fn encode_floats(
        &self,
        images: Conditioned,
    ) -> Result<Box<dyn Posterior>, ModelError> {
        let Conditioned {
            tensor: images,
            condition,
        } = images;
        self.check_encoder()?;
        let kind = match self.data.item.is_tokens() {
            true => Kind::Int64,
            false => Kind::Float,
        };
        self.check_shape(images, kind)?;
        self.check_condition(condition, images.size()[0])?;
        let [black, white] = self.likelihood.value_range();
        let targets = match [black, white] == [0.0, 1.0] {
            true => images.shallow_clone(),
            false => images * (white - black) + black,
        };
        let targets = self.units.standardized(targets);
        let features = condition.map(|condition| self.features(condition));
        Ok(self.posterior(&targets, features.as_ref()))
    }

    /// [`Self::decode`] without a transfer to the device.
    pub(crate) fn decode_in_place(&self, latents: Conditioned) -> Result<Tensor, ModelError> {
        self.check_latents(latents.tensor)?;
        self.check_condition(latents.condition, latents.tensor.size()[0])?;
        let features = latents.condition.map(|condition| self.features(condition));
        let params = self.decoded(latents.tensor, features.as_ref(), Mode::Evaluate);
        Ok(self.mean_items(&params).contiguous())
    }

    /// q(z|x) for scaled items, in evaluation.
    fn posterior(&self, targets: &Tensor, features: Option<&Tensor>) -> Box<dyn Posterior> {
        let params = self.posterior_params(targets, features, Mode::Evaluate);
        self.posterior.distribution(&params)
    }

    fn posterior_params(&self, targets: &Tensor, features: Option<&Tensor>, mode: Mode) -> Tensor {
        if !self.has_encoder() {
            let size = [targets.size()[0], self.config.n_latents()];
            return Tensor::zeros(size, (Kind::Float, self.device()));
        }
        // Under autocast the network computes in half precision; densities need f32.
        let items = self.units.without_missing(targets);
        let params = self.network_output(Part::Encoder, &items, features, mode);
        let params = params.to_kind(Kind::Float); // [B, P]
        watch("posterior parameters", &params);
        params
    }

    /// Calls `work` with the context of the prior, for latents with these features.
    fn with_context<T>(
        &self,
        features: Option<&Tensor>,
        mode: Mode,
        work: impl FnOnce(PriorContext) -> T,
    ) -> T {
        let is_fixed = mode == Mode::Evaluate && self.fixed.n_calls.get() > 0;
        work(PriorContext {
            features,
            // Priors with pseudo-inputs are refused for models with a condition.
            params: &|images| self.posterior_params(&self.likelihood.scale(images), None, mode),
            distribution: &|params| self.posterior.distribution(params),
            quantizer: self.posterior.quantizer(),
            temperature: 1.0,
            kept: is_fixed.then_some(&self.fixed.prior_params),
        })
    }

    fn kl_to_prior(
        &self,
        posterior: &dyn Posterior,
        features: Option<&Tensor>,
        mode: Mode,
    ) -> Option<ClosedKl> {
        self.with_context(features, mode, |context| self.prior.kl(posterior, context))
    }

    /// The mean items of likelihood parameters, `[N, C, H, W]`.
    fn mean_items(&self, params: &Tensor) -> Tensor {
        self.units.restored(self.likelihood.mean_image(params))
    }

    /// Scaled items `[B, C, H, W]` as discriminators see them: images from −1 to 1, arrays standardized.
    pub(crate) fn judged(&self, targets: &Tensor) -> Tensor {
        if !self.data.item.is_image() {
            return self.units.without_missing(targets);
        }
        let [black, white] = self.likelihood.value_range();
        (targets - black) * (2.0 / (white - black)) - 1.0
    }

    /// The mean items of likelihood parameters as discriminators see them ([`Self::judged`]).
    pub(crate) fn judged_mean(&self, params: &Tensor) -> Tensor {
        let mean = self.likelihood.mean_image(params);
        match self.data.item.is_image() {
            true => mean * 2.0 - 1.0,
            false => mean,
        }
    }

    /// The weight of the decoder's last layer; `None` for a custom network that does not say which it is.
    pub(crate) fn output_weight(&self) -> Option<Tensor> {
        self.network.output_weight()
    }

    /// Likelihood parameters in f32, `[N, …, H, W]`, for latents `[N, Z]`.
    pub(crate) fn decoded(
        &self,
        latents: &Tensor,
        features: Option<&Tensor>,
        mode: Mode,
    ) -> Tensor {
        self.network_output(Part::Decoder, latents, features, mode)
            .to_kind(Kind::Float)
    }

    /// The likelihood parameters `[N, …, H, W]` of latents `[N, Z]` for scaled items `[B, C, H, W]`, N a multiple of B: a
    /// sequential decoder's depend on the items.
    fn decoded_given(
        &self,
        latents: &Tensor,
        features: Option<&Tensor>,
        targets: &Tensor,
        mode: Mode,
        training: Option<&mut Generator>,
    ) -> Tensor {
        let Some(decoder) = self.network.sequential() else {
            return self.decoded(latents, features, mode);
        };
        let n_samples = latents.size()[0] / targets.size()[0].max(1);
        let items = targets.repeat([n_samples, 1, 1, 1]);
        let params = decoder.decode_given(latents, features, &items, training);
        params.to_kind(Kind::Float)
    }

    /// The number of the networks' inputs for a condition; 0 for a model without a condition.
    pub(crate) fn n_condition_features(&self) -> i64 {
        condition::n_features(&self.data.condition)
    }

    /// The networks' input for a condition `[N, D]`, on the model's device.
    pub(crate) fn features(&self, condition: &Tensor) -> Tensor {
        condition::features(&condition.to_device(self.device()), &self.condition_scales)
    }

    /// A training batch's condition with some rows made unknown; `None` if no row changes.
    fn dropped(
        &self,
        condition: Option<&Tensor>,
        mode: Mode,
        generator: &mut Generator,
    ) -> Option<Tensor> {
        let ConditionConfig { dropout, .. } = self.config.condition.as_ref()?;
        let condition = condition.filter(|_| mode == Mode::Train && *dropout > 0.0)?;
        let condition = condition.to_device(self.device());
        let n = condition.size().first().copied()?;
        let is_dropped = generator
            .uniform([0.0, 1.0], [n, 1], self.device())
            .lt(*dropout);
        Some(condition.masked_fill(&is_dropped, f64::NAN))
    }

    /// `targets` are those of this process's share, the condition and the noise of the whole batch.
    fn draws(
        &self,
        targets: &Tensor,
        condition: Option<&Tensor>,
        share: Option<Share>,
        noise: &Tensor,
        mode: Mode,
        training: Option<&mut Generator>,
    ) -> Draws {
        let features = condition.map(|condition| self.features(condition));
        let own_features = features.as_ref().map(|features| share.own(features, 0));
        let (features, own_features) = (features.as_ref(), own_features.as_ref());
        let own_params = share.scope(|| self.posterior_params(targets, own_features, mode));
        let posterior_params = share.gathered(&own_params, 0);
        let distribution = |params: &Tensor| match mode {
            Mode::Train => self.posterior.distribution_in_training(params),
            Mode::Evaluate => self.posterior.distribution(params),
        };
        let posterior = distribution(&posterior_params);
        // In a deep hierarchy latents and items are made on one walk through the decoder, which is of each process's own.
        let walks = self.config.network.top_down().is_some();
        let down = match share.is_some() && walks {
            true => {
                let own = distribution(&own_params);
                share.scope(|| own.draw_down(&share.own(noise, 1)))
            }
            false => posterior.draw_down(noise),
        };
        let (latents, own_latents, log_qz_x, joint, by_level) = match down {
            Some(TopDownDraws {
                latents, // [K, B, Z]
                log_qz_x,
                log_pz,
                kl,
                params,
            }) => {
                watch("prior log_prob", &log_pz);
                let params = params.to_kind(Kind::Float);
                let params = params.unflatten(0, &latents.size()[..2]); // [K, B, L, H, W]
                let joint = Joint {
                    log_pz: share.gathered(&log_pz, 1),
                    log_px_z: self.log_likelihood(&params, targets, &share, mode),
                    params,
                };
                let kl = kl.iter().map(|kl| share.gathered(kl, 0)).collect();
                let log_qz_x = share.gathered(&log_qz_x, 1);
                (
                    share.gathered(&latents, 1),
                    latents,
                    Some(log_qz_x),
                    joint,
                    Some(kl),
                )
            }
            None => {
                let Latents { latents, log_prob } = posterior.draw(noise);
                watch("posterior latents", &latents);
                let own_latents = share.scattered(&latents, 1);
                let log_pz = self.latents_log_prob(&latents, features, mode);
                let params = share.scope(|| {
                    self.decoded_samples(&own_latents, own_features, targets, mode, training)
                });
                let joint = Joint {
                    log_px_z: self.log_likelihood(&params, targets, &share, mode),
                    log_pz,
                    params,
                };
                let by_level = self.with_context(features, mode, |context| {
                    self.prior.kl_by_level(&*posterior, &latents, context)
                });
                (latents, own_latents, log_prob, joint, by_level)
            }
        };
        let Joint {
            params,
            log_px_z,
            log_pz,
        } = joint;

        let (penalty, mut named) = posterior.penalty().unzip();
        let mut named: Terms = named.take().unwrap_or_default();
        let of_items = no_grad(|| self.likelihood.named(&params, targets));
        named.extend(match &share {
            Some(share) => share.gathered_terms(&of_items),
            None => of_items,
        });
        let closed = match by_level {
            Some(levels) => {
                self.name_kl(&levels, &mut named);
                Some(ClosedKl::PerDimension(Tensor::cat(&levels, -1)))
            }
            None => self.kl_to_prior(&*posterior, features, mode),
        };
        let (kl, kl_per_dimension) = match closed {
            Some(ClosedKl::PerDimension(kl)) => {
                (Some(kl.sum_dim_intlist(-1, false, Kind::Float)), Some(kl))
            }
            Some(ClosedKl::Total(kl)) => (Some(kl), None),
            None => {
                let sampled = log_qz_x
                    .as_ref()
                    .map(|log_qz_x| (log_qz_x - &log_pz).mean_dim(0, false, Kind::Float));
                (sampled, None)
            }
        };
        let terms = ElboTerms {
            reconstruction: -log_px_z.mean_dim(0, false, Kind::Float),
            kl,
        };
        Draws {
            posterior,
            latents,
            params,
            targets: targets.shallow_clone(),
            condition: condition.map(Tensor::shallow_clone),
            log_px_z,
            log_pz,
            log_qz_x,
            kl_per_dimension,
            group_sizes: self
                .config
                .group_sizes()
                .unwrap_or_else(|| vec![self.config.n_latents()]),
            terms,
            penalty,
            mode,
            named,
            own_latents,
            share,
        }
    }

    /// Logs the kl of groups of latents, `[B, Z_i]` each from the top down: of each group, and of each resolution.
    fn name_kl(&self, levels: &[Tensor], named: &mut Terms) {
        let of_group = |kl: &Tensor| kl.sum_dim_intlist(-1, false, Kind::Float); // [B]
        let of_group: Vec<Tensor> = levels.iter().map(of_group).collect();
        for (i, kl) in of_group.iter().enumerate() {
            named.push(level_kl(levels.len() - i), kl);
        }
        let Some(hierarchy) = self.config.network.top_down() else {
            return;
        };
        let groups = hierarchy.groups();
        for size in self.config.resolutions() {
            let of_size = groups.iter().zip(&of_group);
            let of_size = of_size.filter(|(group, _)| group.size == size);
            if let Some(kl) = of_size
                .map(|(_, kl)| kl.shallow_clone())
                .reduce(|a, b| a + b)
            {
                named.push(resolution_kl(size), &kl);
            }
        }
    }

    /// The factors of p(x, z), for latents `[K, B, Z]`. A sequential decoder's noise in training is from the generator.
    fn joint(
        &self,
        targets: &Tensor,
        features: Option<&Tensor>,
        latents: &Tensor,
        mode: Mode,
        training: Option<&mut Generator>,
    ) -> Joint {
        let log_pz = self.latents_log_prob(latents, features, mode);
        let params = self.decoded_samples(latents, features, targets, mode, training);
        Joint {
            log_px_z: self.log_likelihood(&params, targets, &None, mode),
            log_pz,
            params,
        }
    }

    /// log p(z) of latents `[K, B, Z]`, `[K, B]`.
    fn latents_log_prob(&self, latents: &Tensor, features: Option<&Tensor>, mode: Mode) -> Tensor {
        let shape = &latents.size()[..2]; // K, B
        let features = features.map(|features| features.repeat([shape[0], 1])); // [K·B, F]
        let log_pz = self.with_context(features.as_ref(), mode, |context| {
            self.prior.log_prob(&latents.flatten(0, 1), context)
        });
        watch("prior log_prob", &log_pz);
        log_pz.unflatten(0, shape)
    }

    /// The likelihood's parameters of latents `[K, B, Z]`, `[K, B, …, H, W]`.
    fn decoded_samples(
        &self,
        latents: &Tensor,
        features: Option<&Tensor>,
        targets: &Tensor,
        mode: Mode,
        training: Option<&mut Generator>,
    ) -> Tensor {
        let shape = &latents.size()[..2]; // K, B
        let features = features.map(|features| features.repeat([shape[0], 1])); // [K·B, F]
        let flat = latents.flatten(0, 1); // [K·B, Z]
        let params = self.decoded_given(&flat, features.as_ref(), targets, mode, training);
        params.unflatten(0, shape)
    }

    /// log p(x|z) `[K, B]` of the whole batch, for likelihood parameters `[K, B, …, H, W]` of this process's items.
    fn log_likelihood(
        &self,
        params: &Tensor,
        targets: &Tensor,
        share: &Option<Share>,
        mode: Mode,
    ) -> Tensor {
        let log_px_z = share.scope(|| self.likelihood.log_prob(params, targets, mode)); // [K, B]
        let log_px_z = self.units.density(log_px_z, targets);
        watch("likelihood log_prob", &log_px_z);
        share.gathered(&log_px_z, 1)
    }

    /// Checks latents `[N, Z]` and brings them to the model's device, with the features of their condition.
    fn checked_latents(
        &self,
        latents: Conditioned,
    ) -> Result<(Tensor, Option<Tensor>), ModelError> {
        let here = self.latents_here(latents.tensor)?;
        self.check_condition(latents.condition, here.size()[0])?;
        let features = latents.condition.map(|condition| self.features(condition));
        Ok((here, features))
    }

    /// Checks latents `[N, Z]` and brings them to the model's device.
    fn latents_here(&self, latents: &Tensor) -> Result<Tensor, ModelError> {
        self.check_latents(latents)?;
        Ok(latents.to_device(self.device()).to_kind(Kind::Float))
    }

    /// Refuses what needs an encoder of a model without one.
    ///
    /// # Errors
    /// [`ModelError::NoEncoder`].
    pub fn check_encoder(&self) -> Result<(), ModelError> {
        match self.has_encoder() {
            true => Ok(()),
            false => Err(ModelError::NoEncoder),
        }
    }

    /// Checks that the condition of `n` items or latents has the model's columns.
    pub(crate) fn check_condition(
        &self,
        condition: Option<&Tensor>,
        n: i64,
    ) -> Result<(), ModelError> {
        let n_columns = self.data.condition.n_columns() as i64;
        let found = condition.map(|condition| (condition.size(), condition.kind()));
        let fits = match &found {
            None => n_columns == 0,
            Some((size, kind)) => n_columns > 0 && *size == [n, n_columns] && *kind == Kind::Float,
        };
        match fits {
            true => Ok(()),
            false => Err(ModelError::Condition {
                found: found.map_or_else(
                    || "none".to_owned(),
                    |(size, kind)| format!("{kind:?} {size:?}"),
                ),
                wanted: match n_columns {
                    0 => "this model has none".to_owned(),
                    _ => format!("expected f32 [{n}, {n_columns}], NaN where unknown"),
                },
            }),
        }
    }

    fn check_latents(&self, latents: &Tensor) -> Result<(), ModelError> {
        let size = latents.size();
        if size.len() != 2 || size[1] != self.config.n_latents() {
            return Err(ModelError::Latents {
                found: size,
                latent_dims: self.config.n_latents(),
            });
        }
        Ok(())
    }

    /// Checks that there are samples `[K, B, Z]` for each of B images.
    fn check_samples(&self, samples: &Tensor, targets: &Tensor) -> Result<(), ModelError> {
        let found = samples.size();
        if found.len() == 3 && found[1..] == [targets.size()[0], self.config.n_latents()] {
            return Ok(());
        }
        Err(ModelError::Latents {
            found,
            latent_dims: self.config.n_latents(),
        })
    }

    /// Checks images and scales them for the likelihood, on the model's device, with the features of their
    /// condition.
    fn scaled(&self, images: Conditioned) -> Result<(Tensor, Option<Tensor>), ModelError> {
        let Conditioned { tensor, condition } = images;
        self.check_images(tensor)?;
        self.check_condition(condition, tensor.size()[0])?;
        let features = condition.map(|condition| self.features(condition));
        Ok((
            self.units
                .standardized(self.likelihood.scale(&tensor.to_device(self.device()))),
            features,
        ))
    }

    pub(crate) fn check_images(&self, images: &Tensor) -> Result<(), ModelError> {
        self.check_shape(images, kind_of(self.data.item.kind))
    }

    fn check_shape(&self, images: &Tensor, kind: Kind) -> Result<(), ModelError> {
        let size = images.size();
        let fits = size.len() == 4 && size[1..] == self.data.item.map().sides();
        if !fits || images.kind() != kind {
            return Err(ModelError::Images {
                found: format!("{:?} {size:?}", images.kind()),
                kind: name_of(kind),
                wanted: self.data.item.map(),
            });
        }
        Ok(())
    }
}

/// The kind of tensors of items.
fn kind_of(items: ItemKind) -> Kind {
    match items {
        ItemKind::Image => Kind::Uint8,
        ItemKind::Sound { .. } => Kind::Int16,
        ItemKind::Tokens { .. } => Kind::Int64,
        _ => Kind::Float,
    }
}

/// A kind of tensors of items, as Rust names it.
fn name_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Uint8 => "u8",
        Kind::Int16 => "i16",
        Kind::Int64 => "i64",
        _ => "f32",
    }
}
