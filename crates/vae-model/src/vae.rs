//! The variational autoencoder: its parts put together.

use std::path::Path;

use tch::{Device, Kind, Tensor, nn};

use crate::network::Sockets;
use crate::watch::watch;
use crate::weights::{self, Header};
use crate::{DiagonalGaussian, ImageShape, Likelihood, Mode, ModelConfig, ModelError, Network};

/// A variational autoencoder. See the [crate's documentation](crate) for an example.
///
/// [`Self::draw`] and [`Self::draw_with_noise`] are told their [`Mode`]; every other method evaluates.
#[derive(Debug)]
pub struct Vae {
    config: ModelConfig,
    image: ImageShape,
    variables: nn::VarStore,
    network: Box<dyn Network>,
    likelihood: Box<dyn Likelihood>,
}

/// K samples of z for each of B images, and what they say: the material of every objective.
#[derive(Debug)]
pub struct Draws {
    /// q(z|x).
    pub posterior: DiagonalGaussian,
    /// z `[K, B, Z]`.
    pub latents: Tensor,
    /// Parameters of p(x|z), `[K, B, L·C, H, W]`; [`Vae::mean_images`] makes images of them.
    pub params: Tensor,
    /// log p(x|z) in nats, `[K, B]`.
    pub log_px_z: Tensor,
    /// KL(q(z|x) ‖ p(z)) of each latent dimension in nats, in closed form, `[B, Z]`.
    pub kl_per_dimension: Tensor,
    /// Their sums: the terms of the ELBO, the reconstruction as the mean of the K samples.
    pub terms: ElboTerms,
}

/// The two terms of the ELBO for each image, in nats.
#[derive(Debug)]
pub struct ElboTerms {
    /// −E_q\[log p(x|z)\], `[B]`.
    pub reconstruction: Tensor,
    /// KL(q(z|x) ‖ p(z)), `[B]`.
    pub kl: Tensor,
}

impl ElboTerms {
    /// −(reconstruction + kl), a lower bound of log p(x), `[B]`.
    pub fn elbo(&self) -> Tensor {
        -(&self.reconstruction + &self.kl)
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
            n_likelihood_params: config.likelihood.n_params(),
            initialization: config.initialization,
        };
        let root = variables.root();
        let network = config.network.build(&root, sockets);
        let likelihood = config.likelihood.build(&(&root / "likelihood"), image);
        variables.set_device(device);
        Ok(Self {
            config: config.clone(),
            image,
            variables,
            network,
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

    /// q(z|x) for bytes `[B, C, H, W]`.
    ///
    /// # Errors
    /// Images of another shape or kind.
    pub fn encode(&self, images: &Tensor) -> Result<DiagonalGaussian, ModelError> {
        Ok(self.posterior(&self.scaled(images)?, Mode::Evaluate))
    }

    /// The mean images in `[0, 1]`, `[N, C, H, W]`, for latents `[N, Z]`.
    ///
    /// # Errors
    /// Latents of another shape.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor, ModelError> {
        let size = latents.size();
        if size.len() != 2 || size[1] != self.config.latent_dims {
            return Err(ModelError::Latents {
                found: size,
                latent_dims: self.config.latent_dims,
            });
        }
        let latents = latents.to_device(self.device()).to_kind(Kind::Float);
        let params = self.decoded(&latents, Mode::Evaluate);
        Ok(self.likelihood.mean_image(&params).contiguous())
    }

    /// `n` new mean images in `[0, 1]`, decoded from the prior, `[n, C, H, W]`.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn sample(&self, n: i64) -> Result<Tensor, ModelError> {
        let prior = self.config.prior;
        self.decode(&prior.sample(n, self.config.latent_dims, self.device()))
    }

    /// What the model makes of images: the mean image of the posterior's mean, in `[0, 1]`.
    ///
    /// # Errors
    /// Images of another shape or kind.
    pub fn reconstruct(&self, images: &Tensor) -> Result<Tensor, ModelError> {
        self.decode(self.encode(images)?.mean())
    }

    /// A one-sample estimate of the ELBO's terms for each image, in nats.
    ///
    /// # Errors
    /// Images of another shape or kind.
    pub fn elbo(&self, images: &Tensor) -> Result<ElboTerms, ModelError> {
        Ok(self.draw(images, 1, Mode::Evaluate)?.terms)
    }

    /// Encodes bytes `[B, C, H, W]`, draws `n_samples` latents for each and decodes them.
    ///
    /// # Errors
    /// Images of another shape or kind.
    pub fn draw(&self, images: &Tensor, n_samples: i64, mode: Mode) -> Result<Draws, ModelError> {
        let targets = self.scaled(images)?;
        let posterior = self.posterior(&targets, mode);
        let noise = posterior.noise(n_samples);
        Ok(self.draws(&targets, posterior, &noise, mode))
    }

    /// [`Self::draw`] with given noise ε `[K, B, Z]`.
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
        let posterior = self.posterior(&targets, mode);
        Ok(self.draws(&targets, posterior, noise, mode))
    }

    /// The mean images of draws in `[0, 1]`, `[K, B, C, H, W]`.
    pub fn mean_images(&self, draws: &Draws) -> Tensor {
        let images = self.likelihood.mean_image(&draws.params.flatten(0, 1));
        images.unflatten(0, &draws.params.size()[..2])
    }

    fn posterior(&self, targets: &Tensor, mode: Mode) -> DiagonalGaussian {
        // Under autocast the network computes in half precision; densities need f32.
        let params = self.network.encode(targets, mode).to_kind(Kind::Float); // [B, P]
        let posterior = self.config.posterior.distribution(&params);
        watch("posterior mean", posterior.mean());
        watch("posterior log_var", &posterior.log_var());
        posterior
    }

    /// Likelihood parameters in f32, `[N, L·C, H, W]`, for latents `[N, Z]`.
    fn decoded(&self, latents: &Tensor, mode: Mode) -> Tensor {
        self.network.decode(latents, mode).to_kind(Kind::Float)
    }

    fn draws(
        &self,
        targets: &Tensor,
        posterior: DiagonalGaussian,
        noise: &Tensor,
        mode: Mode,
    ) -> Draws {
        let latents = posterior.latents(noise); // [K, B, Z]
        watch("posterior latents", &latents);
        let params = self.decoded(&latents.flatten(0, 1), mode); // [K·B, L·C, H, W]
        let params = params.unflatten(0, &noise.size()[..2]); // [K, B, L·C, H, W]
        let log_px_z = self.likelihood.log_prob(&params, targets, mode); // [K, B]
        watch("likelihood log_prob", &log_px_z);
        let kl_per_dimension = self.config.prior.kl_per_dimension(&posterior); // [B, Z]
        let terms = ElboTerms {
            reconstruction: -log_px_z.mean_dim(0, false, Kind::Float),
            kl: kl_per_dimension.sum_dim_intlist(-1, false, Kind::Float),
        };
        Draws {
            posterior,
            latents,
            params,
            log_px_z,
            kl_per_dimension,
            terms,
        }
    }

    /// Checks images and scales them for the likelihood, on the model's device.
    fn scaled(&self, images: &Tensor) -> Result<Tensor, ModelError> {
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
        let images = images.to_device(self.device());
        Ok(self.likelihood.scale(&images))
    }
}
