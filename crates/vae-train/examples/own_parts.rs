//! Parts of one's own, without a line in the enums of configs: `cargo run --release -p vae-train --example own_parts`.
//!
//! A prior with heavy tails and a small network, trained on random bars, saved, loaded and drawn from.

use std::f64::consts::PI;
use std::sync::atomic::AtomicBool;

use tch::nn::{Linear, Module};
use tch::{Device, Kind, Tensor};
use vae_data::{Dataset, Splits};
use vae_model::nn::{self, Init};
use vae_model::{
    Generator, ImageShape, Mode, Network, PartContext, Prior, PriorContext, Vae, VaeBuilder,
};
use vae_train::{RunConfig, Trainer};

/// p(z) = Π_j t_ν(z_j/s_j)/s_j, Student's t distribution with ν degrees of freedom and learned scales s.
#[derive(Debug)]
struct StudentT {
    degrees_of_freedom: f64,
    /// ln s, `[Z]`.
    log_scale: Tensor,
}

impl Prior for StudentT {
    fn log_prob(&self, latents: &Tensor, _: PriorContext) -> Tensor {
        let nu = self.degrees_of_freedom;
        let lgamma = |x: f64| Tensor::from(x).lgamma().double_value(&[]);
        let constant = lgamma((nu + 1.0) / 2.0) - lgamma(nu / 2.0) - 0.5 * (nu * PI).ln();
        let scaled = latents * (-&self.log_scale).exp();
        let log_prob = (scaled.square() / nu).log1p() * (-(nu + 1.0) / 2.0) + constant;
        (log_prob - &self.log_scale).sum_dim_intlist(-1, false, Kind::Float)
    }

    fn sample(&self, n: i64, device: Device, _: PriorContext, generator: &mut Generator) -> Tensor {
        // A normal over the root of a χ²/ν, which is a gamma.
        let shape = [n, self.log_scale.size()[0]];
        let half = Tensor::full(shape, self.degrees_of_freedom / 2.0, (Kind::Float, device));
        let chi_square = generator.standard_gamma(&half) * 2.0;
        let normal = generator.normal(shape, device);
        normal / (chi_square / self.degrees_of_freedom).sqrt() * self.log_scale.exp()
    }
}

/// One hidden layer of tanh on each side.
#[derive(Debug)]
struct Tanh {
    encoder: [Linear; 2],
    decoder: [Linear; 2],
    /// L, H and W of the decoder's output.
    maps: [i64; 3],
}

impl Tanh {
    fn new(path: &nn::Path, context: &PartContext, hidden: i64) -> Self {
        let image = context.item.map();
        let maps = [context.n_likelihood_maps, image.height, image.width];
        let linear = |path: &nn::Path, n_in: i64, n_out: i64| {
            let bound = (n_in as f64).powf(-0.5);
            let weight = Init::Uniform {
                lo: -bound,
                up: bound,
            };
            nn::linear(path, n_in, n_out, weight, Init::Const(0.0))
        };
        let two = |path: &nn::Path, sizes: [i64; 3]| {
            [0, 1].map(|i| linear(&(path / i), sizes[i], sizes[i + 1]))
        };
        let n_pixels = image.n_values();
        Self {
            encoder: two(
                &(path / "encoder"),
                [n_pixels, hidden, context.n_posterior_params],
            ),
            decoder: two(
                &(path / "decoder"),
                [context.n_latents, hidden, maps.iter().product()],
            ),
            maps,
        }
    }
}

impl Network for Tanh {
    fn encode(&self, images: &Tensor, _: Option<&Tensor>, _: Mode) -> Tensor {
        let [first, second] = &self.encoder;
        second.forward(&first.forward(&images.flatten(1, -1)).tanh()) // [B, P]
    }

    fn decode(&self, latents: &Tensor, _: Option<&Tensor>, _: Mode) -> Tensor {
        let [first, second] = &self.decoder;
        let values = second.forward(&first.forward(latents).tanh());
        values.unflatten(1, self.maps.as_slice()) // [N, L, H, W]
    }
}

fn parts() -> VaeBuilder {
    Vae::builder()
        .prior("student_t", |path, context| StudentT {
            degrees_of_freedom: 5.0,
            log_scale: path.zeros("log_scale", &[context.n_latents]),
        })
        .network("tanh", |path, context| Tanh::new(path, context, 32))
}

/// Images of 8×8 pixels, each with one white column.
fn bars(n: i64) -> Result<Dataset, vae_data::DataError> {
    let bytes: Vec<u8> = (0..n * 64)
        .map(|i| if i % 8 == (i / 64) % 8 { 255 } else { 0 })
        .collect();
    Dataset::new(Tensor::from_slice(&bytes).view([n, 1, 8, 8]), None)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The posterior and the likelihood are those of the config; the data set named in it is not opened here.
    let config: RunConfig = toml::from_str(
        "dataset.idx.folder = 'unused'\n\
         model.posterior = 'full_covariance'\n\
         training = { epochs = 20, batch_size = 32 }",
    )?;
    let splits = Splits::new(bars(512)?, Some(bars(64)?), bars(64)?);
    let shape = ImageShape {
        channels: 1,
        height: 8,
        width: 8,
    };
    let vae = parts().build(&config.model, shape, Device::Cpu, 1)?;
    let trainer = Trainer::new(&vae, &splits, &config)?;
    let outcome = trainer.fit(&AtomicBool::new(false));
    outcome.ended?;
    let elbo = outcome
        .progress
        .last_validation
        .and_then(|record| record.means.elbo);
    println!("elbo {:.1} nats", elbo.unwrap_or(f64::NAN));

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("weights.safetensors");
    vae.save(&file)?;
    if let Err(error) = Vae::load(&file, Device::Cpu) {
        println!("without the parts: {error}");
    }
    let loaded = parts().load(&file, Device::Cpu)?;
    let images = loaded.sample(4, &mut loaded.generator(2))?;
    println!("{:?} images {:?}", loaded.own_parts(), images.size());
    Ok(())
}
