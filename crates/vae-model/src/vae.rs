//! The variational autoencoder: its parts put together.

use std::path::Path;

use tch::{Device, Kind, Tensor, nn};

use crate::network::Sockets;
use crate::posterior::PosteriorFamily;
use crate::watch::watch;
use crate::weights::{self, Header};
use crate::{
    ClosedKl, ImageShape, Latents, Likelihood, Mode, ModelConfig, ModelError, Network, Posterior,
    Prior,
};

/// A variational autoencoder. See the [crate's documentation](crate) for an example.
///
/// [`Self::draw`] and [`Self::draw_with_noise`] are told their [`Mode`]; every other method evaluates.
#[derive(Debug)]
pub struct Vae {
    config: ModelConfig,
    image: ImageShape,
    variables: nn::VarStore,
    network: Box<dyn Network>,
    posterior: Box<dyn PosteriorFamily>,
    prior: Box<dyn Prior>,
    likelihood: Box<dyn Likelihood>,
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
}

impl Draws {
    /// log w = log p(x|z) + log p(z) − log q(z|x) in nats, `[K, B]`: the importance weights of log p(x).
    /// None of a deterministic posterior.
    pub fn log_weights(&self) -> Option<Tensor> {
        let log_qz_x = self.log_qz_x.as_ref()?;
        Some(&self.log_px_z + &self.log_pz - log_qz_x)
    }
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
    pub fn elbo(&self) -> Option<Tensor> {
        self.kl.as_ref().map(|kl| -(&self.reconstruction + kl))
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
        config.check()?;
        if [image.channels, image.height, image.width]
            .iter()
            .any(|&n| n < 1)
        {
            return Err(ModelError::config(
                "image shape",
                format!("found {image}, every side must be at least 1"),
            ));
        }
        // Drawn on the CPU, then moved: the same seed gives the same weights on every device.
        let mut variables = nn::VarStore::new(Device::Cpu);
        let sockets = Sockets {
            image,
            latent_dims: config.latent_dims,
            n_posterior_params: config.posterior.n_params(config.latent_dims),
            n_likelihood_maps: config.likelihood.n_maps(image.channels),
            initialization: config.initialization,
            decoder_spectral_norm: config.decoder_spectral_norm,
        };
        let root = variables.root();
        let network = config.network.build(&root, sockets);
        let likelihood = config.likelihood.build(&(&root / "likelihood"), image);
        let (latent_dims, initialization) = (config.latent_dims, config.initialization);
        let posterior = config
            .posterior
            .build(&(&root / "posterior"), latent_dims, initialization);
        let prior = config
            .prior
            .build(&(&root / "prior"), latent_dims, image, initialization);
        variables.set_device(device);
        Ok(Self {
            config: config.clone(),
            image,
            variables,
            network,
            posterior,
            prior,
            likelihood,
        })
    }

    /// A trained model from a weights file, or from the folder of a checkpoint that holds
    /// `weights.safetensors`. The file knows its model, no config is needed.
    ///
    /// # Errors
    /// No such file, a damaged one, or one that another program wrote.
    pub fn load(path: impl AsRef<Path>, device: Device) -> Result<Self, ModelError> {
        let path = weights::file_in(path.as_ref());
        let (header, tensors) = weights::load(&path)?;
        let vae = Self::new(&header.model, header.image, device)?;
        weights::assign(&path, &tensors, &vae.variables)?;
        Ok(vae)
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
        };
        weights::save(path.as_ref(), &header, &self.named_variables())
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
        self.prior
            .sample(n, self.device(), &self.encoder(Mode::Evaluate))
    }

    /// `n` new mean images in `[0, 1]`, decoded from the prior, `[n, C, H, W]`.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn sample(&self, n: i64) -> Result<Tensor, ModelError> {
        self.decode(&self.sample_latents(n))
    }

    /// log p(z) in nats, `[N]`, for latents `[N, Z]`.
    ///
    /// # Errors
    /// Latents of another shape.
    pub fn prior_log_prob(&self, latents: &Tensor) -> Result<Tensor, ModelError> {
        let latents = self.checked_latents(latents)?;
        Ok(self.prior.log_prob(&latents, &self.encoder(Mode::Evaluate)))
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
        let found = noise.size();
        if found.len() != 3 || found[1..] != [targets.size()[0], self.config.latent_dims] {
            return Err(ModelError::Latents {
                found,
                latent_dims: self.config.latent_dims,
            });
        }
        Ok(self.draws(&targets, noise, mode))
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
        if self.config.posterior.has_density() || self.prior.is_base() {
            return None;
        }
        let codes = draws.latents.detach().flatten(0, 1);
        let log_pz = self.prior.log_prob(&codes, &self.encoder(Mode::Evaluate));
        Some(-log_pz.mean(Kind::Float))
    }

    fn posterior(&self, targets: &Tensor, mode: Mode) -> Box<dyn Posterior> {
        // Under autocast the network computes in half precision; densities need f32.
        let params = self.network.encode(targets, mode).to_kind(Kind::Float); // [B, P]
        watch("posterior parameters", &params);
        self.posterior.distribution(&params)
    }

    /// For priors that are made of posteriors.
    fn encoder(&self, mode: Mode) -> impl Fn(&Tensor) -> Box<dyn Posterior> {
        move |images| self.posterior(&self.likelihood.scale(images), mode)
    }

    /// Likelihood parameters in f32, `[N, …, H, W]`, for latents `[N, Z]`.
    fn decoded(&self, latents: &Tensor, mode: Mode) -> Tensor {
        self.network.decode(latents, mode).to_kind(Kind::Float)
    }

    fn draws(&self, targets: &Tensor, noise: &Tensor, mode: Mode) -> Draws {
        let posterior = self.posterior(targets, mode);
        let shape = &noise.size()[..2]; // K, B
        let Latents {
            latents, // [K, B, Z]
            log_prob: log_qz_x,
        } = posterior.draw(noise);
        watch("posterior latents", &latents);
        let flat = latents.flatten(0, 1); // [K·B, Z]
        let log_pz = self.prior.log_prob(&flat, &self.encoder(mode));
        watch("prior log_prob", &log_pz);
        let log_pz = log_pz.unflatten(0, shape); // [K, B]
        let params = self.decoded(&flat, mode).unflatten(0, shape); // [K, B, …, H, W]
        let log_px_z = self.likelihood.log_prob(&params, targets, mode); // [K, B]
        watch("likelihood log_prob", &log_px_z);

        let closed = posterior.kl().filter(|_| self.prior.is_base());
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
            log_px_z,
            log_pz,
            log_qz_x,
            kl_per_dimension,
            terms,
        }
    }

    /// Checks latents `[N, Z]` and brings them to the model's device.
    fn checked_latents(&self, latents: &Tensor) -> Result<Tensor, ModelError> {
        let size = latents.size();
        if size.len() != 2 || size[1] != self.config.latent_dims {
            return Err(ModelError::Latents {
                found: size,
                latent_dims: self.config.latent_dims,
            });
        }
        Ok(latents.to_device(self.device()).to_kind(Kind::Float))
    }

    /// Checks images and scales them for the likelihood, on the model's device.
    fn scaled(&self, images: &Tensor) -> Result<Tensor, ModelError> {
        self.check_images(images)?;
        Ok(self.likelihood.scale(&images.to_device(self.device())))
    }

    fn check_images(&self, images: &Tensor) -> Result<(), ModelError> {
        let ImageShape {
            channels,
            height,
            width,
        } = self.image;
        let size = images.size();
        let fits = size.len() == 4 && size[1..] == [channels, height, width];
        if !fits || images.kind() != Kind::Uint8 {
            return Err(ModelError::Images {
                found: format!("{:?} {size:?}", images.kind()),
                wanted: self.image,
            });
        }
        Ok(())
    }
}
