//! The variational autoencoder: its parts put together.

use std::cell::{Cell, RefCell};
use std::path::Path;

use tch::{Device, Kind, Tensor};

use crate::export::Part;
use crate::graph::{Graph, Value};
use crate::likelihood::GraphLikelihood;
use crate::network::{GraphNetwork, Sockets};
use crate::nn::{self, Outline};
use crate::posterior::PosteriorFamily;
use crate::sums;
use crate::watch::watch;
use crate::weights::{self, Header};
use crate::{
    ChannelOrder, ClosedKl, Encoder, Framing, ImageShape, Latents, Mode, ModelConfig, ModelError,
    Posterior, Preprocessing, Prior, StateDictMap, Terms,
};

/// The most numbers that a model may have, 8 GB of f32: more is a slip of the hand.
const MOST_VALUES: i64 = 1 << 31;

/// A variational autoencoder. See the [crate's documentation](crate) for an example.
///
/// [`Self::draw`] and [`Self::draw_with_noise`] are told their [`Mode`]; every other method evaluates.
#[derive(Debug)]
pub struct Vae {
    config: ModelConfig,
    image: ImageShape,
    framing: Option<Framing>,
    variables: nn::VarStore,
    network: Box<dyn GraphNetwork>,
    posterior: Box<dyn PosteriorFamily>,
    prior: Box<dyn Prior>,
    likelihood: Box<dyn GraphLikelihood>,
    fixed: Fixed,
}

/// What is known while no weight changes ([`Vae::with_fixed_weights`]).
#[derive(Debug, Default)]
struct Fixed {
    /// Calls that are in progress, one inside the other.
    n_calls: Cell<usize>,
    /// What q(z|u) of the prior's own images u is made of, `[n, P]`, once it was asked for.
    prior_params: RefCell<Option<Tensor>>,
}

/// Ends a call also where it panics.
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

/// K samples of z for each of B images, and what they say: the material of every objective.
#[derive(Debug)]
pub struct Draws {
    /// q(z|x).
    pub posterior: Box<dyn Posterior>,
    /// z `[K, B, Z]`.
    pub latents: Tensor,
    /// Parameters of p(x|z), `[K, B, …, H, W]`; [`Vae::mean_images`] makes images of them.
    pub params: Tensor,
    /// The images x as the likelihood scales them, `[B, C, H, W]`.
    pub targets: Tensor,
    /// log p(x|z) in nats, `[K, B]`.
    pub log_px_z: Tensor,
    /// log p(z) in nats, `[K, B]`.
    pub log_pz: Tensor,
    /// log q(z|x) in nats, `[K, B]`; none of a deterministic posterior.
    pub log_qz_x: Option<Tensor>,
    /// KL(q(z|x) ‖ p(z)) of each latent dimension in nats, `[B, Z]`, where it is known in closed form.
    pub kl_per_dimension: Option<Tensor>,
    /// The terms of the ELBO, as means of the K samples; the kl in closed form where there is one.
    pub terms: ElboTerms,
    /// What a part of the model says of these draws beside that, for logs: those of
    /// [`ModelConfig::terms`].
    pub named: Terms,
}

impl Draws {
    /// log w = log p(x|z) + log p(z) − log q(z|x) in nats, `[K, B]`: the importance weights of log p(x).
    /// None of a deterministic posterior.
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
    /// KL(q(z|x) ‖ p(z)), `[B]`; none of a deterministic posterior.
    pub kl: Option<Tensor>,
}

impl ElboTerms {
    /// −(reconstruction + kl), a lower bound of log p(x), `[B]`; none of a deterministic posterior.
    #[must_use]
    pub fn elbo(&self) -> Option<Tensor> {
        self.kl.as_ref().map(|kl| -(&self.reconstruction + kl))
    }
}

/// What a model is built of.
struct Parts {
    network: Box<dyn GraphNetwork>,
    posterior: Box<dyn PosteriorFamily>,
    prior: Box<dyn Prior>,
    likelihood: Box<dyn GraphLikelihood>,
}

impl Parts {
    /// Builds a checked model's parts, their variables under the store's root.
    fn build(config: &ModelConfig, image: ImageShape, variables: &nn::VarStore) -> Self {
        let sockets = Sockets {
            image,
            latent_dims: config.latent_dims,
            n_posterior_params: config.posterior.n_params(config.latent_dims),
            n_likelihood_maps: config.likelihood.n_maps(image.channels),
            initialization: config.initialization,
            decoder_spectral_norm: config.decoder_spectral_norm,
        };
        let root = variables.root();
        let (latent_dims, initialization) = (config.latent_dims, config.initialization);
        let network = config.network.build(&root, sockets);
        let likelihood = config.likelihood.build(&(&root / "likelihood"), image);
        let posterior = config
            .posterior
            .build(&(&root / "posterior"), latent_dims, initialization);
        let prior = config
            .prior
            .build(&(&root / "prior"), latent_dims, image, initialization);
        Self {
            network,
            posterior,
            prior,
            likelihood,
        }
    }
}

/// Names and shapes of the variables of a model, of which nothing is allocated.
fn outline(config: &ModelConfig, image: ImageShape) -> Result<Outline, ModelError> {
    config.check()?;
    if let Some(problem) = image.problem() {
        return Err(ModelError::config("image shape", problem));
    }
    let variables = nn::VarStore::of_outline();
    drop(Parts::build(config, image, &variables));
    let outline = variables.into_outline();
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
                    "for images of {image} it has {n} numbers{largest}; at most {MOST_VALUES} are possible"
                ),
            ))
        }
    }
}

impl Vae {
    /// A model with fresh weights, drawn from libtorch's global generator (`tch::manual_seed`).
    ///
    /// # Errors
    /// A config that no model can be built from.
    pub fn new(
        config: &ModelConfig,
        image: ImageShape,
        device: Device,
    ) -> Result<Self, ModelError> {
        outline(config, image)?;
        // Drawn on the CPU, then moved: the same seed gives the same weights on every device.
        let mut variables = nn::VarStore::new(Device::Cpu);
        let Parts {
            network,
            posterior,
            prior,
            likelihood,
        } = Parts::build(config, image, &variables);
        variables.set_device(device);
        Ok(Self {
            config: config.clone(),
            image,
            framing: None,
            variables,
            network,
            posterior,
            prior,
            likelihood,
            fixed: Fixed::default(),
        })
    }

    /// A trained model from the folder of a run (its best checkpoint), from that of a checkpoint, or
    /// from a weights file. The file knows its model, no config is needed. What it claims of the model is
    /// compared with the tensors that it holds before anything is allocated, and its contents with the
    /// SHA-256 in the file of sums beside it, where there is one.
    ///
    /// # Errors
    /// No such file, a damaged one, or one that another program wrote.
    ///
    /// ```
    /// use tch::Device;
    /// use vae_model::{ImageShape, ModelConfig, Vae};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let folder = tempfile::tempdir()?;
    /// let file = folder.path().join("weights.safetensors");
    /// let shape = ImageShape { channels: 1, height: 28, width: 28 };
    /// Vae::new(&ModelConfig::default(), shape, Device::Cpu)?.save(&file)?;
    ///
    /// let vae = Vae::load(folder.path(), Device::Cpu)?; // or `file` itself
    /// assert_eq!(vae.image_shape(), shape);
    /// # Ok(())
    /// # }
    /// ```
    pub fn load(path: impl AsRef<Path>, device: Device) -> Result<Self, ModelError> {
        let path = weights::file_in(path.as_ref());
        sums::verify_if_listed(&path)?;
        let (header, mut file) = weights::open(&path)?;
        let outline = outline(&header.model, header.image).map_err(|error| {
            ModelError::weights(&path, format!("the model that it says it is: {error}"))
        })?;
        weights::check(&path, &file.shapes(), outline.shapes(), |_| String::new())?;
        let tensors = file.read_all()?;
        let mut vae = Self::new(&header.model, header.image, device)?;
        weights::assign(&path, &tensors, &vae.variables)?;
        vae.framing = header.framing;
        Ok(vae)
    }

    /// A model with weights from PyTorch: a `state_dict` saved as safetensors, of any floating-point
    /// kind. `map` says which of its tensors are which of ours ([`Self::named_variables`]). The counters of
    /// PyTorch's batch norms (`num_batches_tracked`) are left out. The second value is what was done to the
    /// names, for people.
    ///
    /// # Errors
    /// A config that no model can be built from; a damaged file; names that are missing or left over,
    /// shapes that differ, all of them listed; NaN or infinite weights, unless the map allows them.
    pub fn import(
        config: &ModelConfig,
        image: ImageShape,
        path: impl AsRef<Path>,
        map: &StateDictMap,
        device: Device,
    ) -> Result<(Self, Vec<String>), ModelError> {
        let path = path.as_ref();
        let outline = outline(config, image)?;
        let (tensors, notes) = map.read(path, outline.shapes())?;
        let vae = Self::new(config, image, device)?;
        weights::assign(path, &tensors, &vae.variables)?;
        Ok((vae, notes))
    }

    /// Writes the weights, and what is needed to rebuild the model, to a safetensors file. It
    /// appears under its name only when it is whole.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), ModelError> {
        let header = Header {
            model: self.config.clone(),
            image: self.image,
            framing: self.framing.clone(),
        };
        weights::save(path.as_ref(), &header, &self.named_variables())
    }

    /// What is done to an image before the network sees it; saved with the weights.
    #[must_use]
    pub fn preprocessing(&self) -> Preprocessing {
        Preprocessing {
            image: self.image,
            channels: ChannelOrder::of(self.image),
            framing: self.framing.clone(),
            value_range: self.likelihood.value_range(),
        }
    }

    /// Says how the images that it is trained on are cropped and resized.
    pub fn set_framing(&mut self, framing: Framing) {
        self.framing = Some(framing);
    }

    /// The model's parts.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The shape of the images that it knows.
    #[must_use]
    pub fn image_shape(&self) -> ImageShape {
        self.image
    }

    /// Where the weights are.
    #[must_use]
    pub fn device(&self) -> Device {
        self.variables.device()
    }

    /// Everything that makes up the trained model by name, sorted: weights, and what else training
    /// leaves behind (running averages). They share memory with the model's.
    #[must_use]
    pub fn named_variables(&self) -> Vec<(String, Tensor)> {
        let mut named: Vec<_> = self.variables.variables().into_iter().collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        named
    }

    /// The weights, those of [`Self::named_variables`] that gradients change.
    #[must_use]
    pub fn trainable_variables(&self) -> Vec<(String, Tensor)> {
        let mut named = self.named_variables();
        named.retain(|(_, variable)| variable.requires_grad());
        named
    }

    /// How many numbers are trained.
    #[must_use]
    pub fn n_parameters(&self) -> usize {
        let variables = self.trainable_variables();
        variables.iter().map(|(_, weights)| weights.numel()).sum()
    }

    /// Training images that [`Self::start_from`] can make use of; 0 where no part starts from any.
    #[must_use]
    pub fn n_start_images(&self) -> usize {
        self.prior.n_start_images()
    }

    /// Lets the parts that can make use of it start from training images, bytes `[B, C, H, W]`:
    /// VampPrior's pseudo-inputs. To be called once, before the first step.
    ///
    /// # Errors
    /// Images of another shape or kind.
    pub fn start_from(&self, images: &Tensor) -> Result<(), ModelError> {
        self.check_images(images)?;
        self.prior.start_from(&images.to_device(self.device()));
        Ok(())
    }

    /// Does work in which no weight changes: VampPrior's pseudo-inputs are then encoded once, not at every
    /// call that evaluates. They are constants to gradients there.
    pub fn with_fixed_weights<T>(&self, work: impl FnOnce() -> T) -> T {
        self.fixed.n_calls.set(self.fixed.n_calls.get() + 1);
        let _call = FixedCall(&self.fixed);
        work()
    }

    /// q(z|x) for bytes `[B, C, H, W]`.
    ///
    /// # Errors
    /// Images of another shape or kind.
    pub fn encode(&self, images: &Tensor) -> Result<Box<dyn Posterior>, ModelError> {
        Ok(self.posterior(&self.scaled(images)?, Mode::Evaluate))
    }

    /// The mean images in `[0, 1]`, `[N, C, H, W]`, for latents `[N, Z]`.
    ///
    /// # Errors
    /// Latents of another shape.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor, ModelError> {
        let latents = self.checked_latents(latents)?;
        let params = self.decoded(&latents, Mode::Evaluate);
        Ok(self.likelihood.mean_image(&params).contiguous())
    }

    /// An image in `[0, 1]` drawn from p(x|z) for each of the latents `[N, Z]`, `[N, C, H, W]`: with the
    /// noise of the pixels, which [`Self::decode`] leaves out.
    ///
    /// # Errors
    /// Latents of another shape.
    pub fn decode_sampled(&self, latents: &Tensor) -> Result<Tensor, ModelError> {
        let latents = self.checked_latents(latents)?;
        let params = self.decoded(&latents, Mode::Evaluate);
        Ok(self.likelihood.sample(&params).contiguous())
    }

    /// `n` latents drawn from the prior, `[n, Z]`.
    pub fn sample_latents(&self, n: i64) -> Tensor {
        self.with_encoder(Mode::Evaluate, |encoder| {
            self.prior.sample(n, self.device(), encoder)
        })
    }

    /// `n` new mean images in `[0, 1]`, decoded from the prior, `[n, C, H, W]`.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn sample(&self, n: i64) -> Result<Tensor, ModelError> {
        self.decode(&self.sample_latents(n))
    }

    /// KL(q(z|x) ‖ p(z)) of one of this model's posteriors, where it has a closed form: where the prior is
    /// the base distribution of the posterior's space.
    #[must_use]
    pub fn closed_kl(&self, posterior: &dyn Posterior) -> Option<ClosedKl> {
        posterior.kl().filter(|_| self.prior.is_base())
    }

    /// log p(z) in nats, `[N]`, for latents `[N, Z]`.
    ///
    /// # Errors
    /// Latents of another shape.
    pub fn prior_log_prob(&self, latents: &Tensor) -> Result<Tensor, ModelError> {
        let latents = self.checked_latents(latents)?;
        Ok(self.with_encoder(Mode::Evaluate, |encoder| {
            self.prior.log_prob(&latents, encoder)
        }))
    }

    /// log p(c|z) of each component c of the prior, `[N, n_components]`, for latents `[N, Z]`: to which
    /// cluster an image belongs. None where the prior has no components.
    ///
    /// # Errors
    /// Latents of another shape.
    pub fn log_assignment(&self, latents: &Tensor) -> Result<Option<Tensor>, ModelError> {
        Ok(self.prior.log_assignment(&self.checked_latents(latents)?))
    }

    /// What the model makes of images: the mean image of the posterior's center, in `[0, 1]`.
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
    /// let vae = Vae::new(&ModelConfig::default(), shape, Device::Cpu)?;
    /// let images = Tensor::zeros([2, 1, 28, 28], (Kind::Uint8, Device::Cpu));
    /// assert_eq!(vae.reconstruct(&images)?.size(), [2, 1, 28, 28]);
    /// let floats = images.to_kind(Kind::Float);
    /// assert!(matches!(vae.reconstruct(&floats), Err(ModelError::Images { .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn reconstruct(&self, images: &Tensor) -> Result<Tensor, ModelError> {
        self.decode(&self.encode(images)?.center())
    }

    /// A one-sample estimate of the ELBO for each image in nats, `[B]`. [`Self::draw`] gives its terms.
    ///
    /// # Errors
    /// Images of another shape or kind; a model whose deterministic posterior has no ELBO.
    pub fn elbo(&self, images: &Tensor) -> Result<Tensor, ModelError> {
        let draws = self.draw(images, 1, Mode::Evaluate)?;
        draws.terms.elbo().ok_or(ModelError::NoElbo)
    }

    /// Encodes bytes `[B, C, H, W]`, draws `n_samples` latents for each and decodes them.
    ///
    /// # Errors
    /// Images of another shape or kind.
    pub fn draw(&self, images: &Tensor, n_samples: i64, mode: Mode) -> Result<Draws, ModelError> {
        let targets = self.scaled(images)?;
        let shape = [n_samples, targets.size()[0], self.config.latent_dims];
        let noise = Tensor::randn(shape, (Kind::Float, self.device()));
        Ok(self.draws(&targets, &noise, mode))
    }

    /// [`Self::draw`] with given standard normal noise ε `[K, B, Z]`.
    ///
    /// # Errors
    /// Images of another shape or kind, or noise that does not fit them.
    pub fn draw_with_noise(
        &self,
        images: &Tensor,
        noise: &Tensor,
        mode: Mode,
    ) -> Result<Draws, ModelError> {
        let targets = self.scaled(images)?;
        self.check_samples(noise, &targets)?;
        Ok(self.draws(&targets, noise, mode))
    }

    /// log p(x|z) and log p(z) in nats, `[K, B]` each, for bytes `[B, C, H, W]` and K latents for each,
    /// `[K, B, Z]`, which gradients may reach. Together they are log p(x, z), whatever the encoder.
    ///
    /// # Errors
    /// Images of another shape or kind, or latents that do not fit them.
    pub fn log_joint(
        &self,
        images: &Tensor,
        latents: &Tensor,
    ) -> Result<(Tensor, Tensor), ModelError> {
        let targets = self.scaled(images)?;
        self.check_samples(latents, &targets)?;
        let joint = self.joint(&targets, latents, Mode::Evaluate);
        Ok((joint.log_px_z, joint.log_pz))
    }

    /// The mean images of draws in `[0, 1]`, `[K, B, C, H, W]`.
    pub fn mean_images(&self, draws: &Draws) -> Tensor {
        let images = self.likelihood.mean_image(&draws.params.flatten(0, 1));
        images.unflatten(0, &draws.params.size()[..2])
    }

    /// −log p(z) of the codes, a scalar: how a learned prior gets to know the codes of a deterministic
    /// posterior, which has no kl to train it by. The codes are constants to it, so that it is fitted to
    /// them and they not to it. None where there is nothing to fit.
    pub(crate) fn code_density_loss(&self, draws: &Draws) -> Option<Tensor> {
        if !self.config.fits_prior_to_codes() {
            return None;
        }
        let codes = draws.latents.detach().flatten(0, 1);
        let log_pz = self.with_encoder(Mode::Evaluate, |encoder| {
            self.prior.log_prob(&codes, encoder)
        });
        Some(-log_pz.mean(Kind::Float))
    }

    /// The same model on the CPU, with weights that no gradient changes.
    pub(crate) fn frozen(&self) -> Result<Self, ModelError> {
        let mut frozen = Self::new(&self.config, self.image, Device::Cpu)?;
        frozen.variables.copy(&self.variables)?;
        frozen.variables.freeze();
        frozen.framing = self.framing.clone();
        Ok(frozen)
    }

    /// What [`Self::run_part`] computes, as operations: the input and the outputs.
    pub(crate) fn part_graph(
        &self,
        graph: &mut Graph,
        part: Part,
    ) -> Result<(Value, Vec<Value>), ModelError> {
        match part {
            Part::Encoder => {
                let images = graph.input(&self.image.sides());
                let [black, white] = self.likelihood.value_range();
                let mut scaled = images.clone();
                if [black, white] != [0.0, 1.0] {
                    scaled = graph.with_number(&scaled, "Mul", white - black);
                    scaled = graph.with_number(&scaled, "Add", black);
                }
                let params = self.network.encoder_graph(graph, scaled);
                let outputs = self.posterior.graph(graph, &params).ok_or_else(|| {
                    ModelError::export(format!(
                        "the posterior {} is not written for ONNX; TorchScript has it",
                        self.config.posterior.name()
                    ))
                })?;
                Ok((images, outputs))
            }
            Part::Decoder => {
                let latents = graph.input(&[self.config.latent_dims]);
                let params = self.network.decoder_graph(graph, latents.clone());
                let mean = self.likelihood.mean_graph(graph, &params).ok_or_else(|| {
                    ModelError::export(
                        "the mean image of likelihood.logistic_mixture is not written for ONNX; \
                         TorchScript has it",
                    )
                })?;
                Ok((latents, vec![mean]))
            }
        }
    }

    /// The operations of the network alone.
    pub(crate) fn network_graph(&self, part: Part) -> Graph {
        let mut graph = Graph::default();
        let _ = match part {
            Part::Encoder => {
                let images = graph.input(&self.image.sides());
                self.network.encoder_graph(&mut graph, images)
            }
            Part::Decoder => {
                let latents = graph.input(&[self.config.latent_dims]);
                self.network.decoder_graph(&mut graph, latents)
            }
        };
        graph
    }

    /// q(z|x) for images f32 `[B, C, H, W]` in `[0, 1]`.
    pub(crate) fn encode_zero_one(
        &self,
        images: &Tensor,
    ) -> Result<Box<dyn Posterior>, ModelError> {
        self.check_shape(images, Kind::Float)?;
        let [black, white] = self.likelihood.value_range();
        let targets = match [black, white] == [0.0, 1.0] {
            true => images.shallow_clone(),
            false => images * (white - black) + black,
        };
        Ok(self.posterior(&targets, Mode::Evaluate))
    }

    /// [`Self::decode`] without a transfer to the device.
    pub(crate) fn decode_in_place(&self, latents: &Tensor) -> Result<Tensor, ModelError> {
        self.check_latents(latents)?;
        let params = self.decoded(latents, Mode::Evaluate);
        Ok(self.likelihood.mean_image(&params).contiguous())
    }

    fn posterior(&self, targets: &Tensor, mode: Mode) -> Box<dyn Posterior> {
        let params = self.posterior_params(targets, mode);
        self.posterior.distribution(&params)
    }

    fn posterior_params(&self, targets: &Tensor, mode: Mode) -> Tensor {
        // Under autocast the network computes in half precision; densities need f32.
        let params = self.network.encode(targets, mode).to_kind(Kind::Float); // [B, P]
        watch("posterior parameters", &params);
        params
    }

    /// For priors that are made of posteriors.
    fn with_encoder<T>(&self, mode: Mode, work: impl FnOnce(Encoder) -> T) -> T {
        let is_fixed = mode == Mode::Evaluate && self.fixed.n_calls.get() > 0;
        work(Encoder {
            params: &|images| self.posterior_params(&self.likelihood.scale(images), mode),
            distribution: &|params| self.posterior.distribution(params),
            kept: is_fixed.then_some(&self.fixed.prior_params),
        })
    }

    /// Likelihood parameters in f32, `[N, …, H, W]`, for latents `[N, Z]`.
    fn decoded(&self, latents: &Tensor, mode: Mode) -> Tensor {
        self.network.decode(latents, mode).to_kind(Kind::Float)
    }

    fn draws(&self, targets: &Tensor, noise: &Tensor, mode: Mode) -> Draws {
        let posterior = self.posterior(targets, mode);
        let Latents {
            latents, // [K, B, Z]
            log_prob: log_qz_x,
        } = posterior.draw(noise);
        watch("posterior latents", &latents);
        let Joint {
            params,
            log_px_z,
            log_pz,
        } = self.joint(targets, &latents, mode);

        let (kl, kl_per_dimension) = match self.closed_kl(&*posterior) {
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
            log_px_z,
            log_pz,
            log_qz_x,
            kl_per_dimension,
            terms,
            named: Terms::default(),
        }
    }

    /// What p(x, z) is made of, for latents `[K, B, Z]`.
    fn joint(&self, targets: &Tensor, latents: &Tensor, mode: Mode) -> Joint {
        let shape = &latents.size()[..2]; // K, B
        let flat = latents.flatten(0, 1); // [K·B, Z]
        let log_pz = self.with_encoder(mode, |encoder| self.prior.log_prob(&flat, encoder));
        watch("prior log_prob", &log_pz);
        let log_pz = log_pz.unflatten(0, shape); // [K, B]
        let params = self.decoded(&flat, mode).unflatten(0, shape); // [K, B, …, H, W]
        let log_px_z = self.likelihood.log_prob(&params, targets, mode); // [K, B]
        watch("likelihood log_prob", &log_px_z);
        Joint {
            params,
            log_px_z,
            log_pz,
        }
    }

    /// Checks latents `[N, Z]` and brings them to the model's device.
    fn checked_latents(&self, latents: &Tensor) -> Result<Tensor, ModelError> {
        self.check_latents(latents)?;
        Ok(latents.to_device(self.device()).to_kind(Kind::Float))
    }

    fn check_latents(&self, latents: &Tensor) -> Result<(), ModelError> {
        let size = latents.size();
        if size.len() != 2 || size[1] != self.config.latent_dims {
            return Err(ModelError::Latents {
                found: size,
                latent_dims: self.config.latent_dims,
            });
        }
        Ok(())
    }

    /// Checks that there are samples `[K, B, Z]` for each of B images.
    fn check_samples(&self, samples: &Tensor, targets: &Tensor) -> Result<(), ModelError> {
        let found = samples.size();
        if found.len() == 3 && found[1..] == [targets.size()[0], self.config.latent_dims] {
            return Ok(());
        }
        Err(ModelError::Latents {
            found,
            latent_dims: self.config.latent_dims,
        })
    }

    /// Checks images and scales them for the likelihood, on the model's device.
    fn scaled(&self, images: &Tensor) -> Result<Tensor, ModelError> {
        self.check_images(images)?;
        Ok(self.likelihood.scale(&images.to_device(self.device())))
    }

    fn check_images(&self, images: &Tensor) -> Result<(), ModelError> {
        self.check_shape(images, Kind::Uint8)
    }

    fn check_shape(&self, images: &Tensor, kind: Kind) -> Result<(), ModelError> {
        let size = images.size();
        let fits = size.len() == 4 && size[1..] == self.image.sides();
        if !fits || images.kind() != kind {
            return Err(ModelError::Images {
                found: format!("{:?} {size:?}", images.kind()),
                kind: if kind == Kind::Float { "f32" } else { "u8" },
                wanted: self.image,
            });
        }
        Ok(())
    }
}
