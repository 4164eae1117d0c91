//! Models with custom parts are built, trained, saved, loaded and resumed like any other.

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use common::{SHAPE, dataset};
use tch::nn::{Linear, Module};
use tch::{Device, Kind, Tensor};
use vae_data::Splits;
use vae_model::nn::{self, Init};
use vae_model::{
    ClosedKl, Generator, Latents, Likelihood, Mode, Network, PartContext, Posterior,
    PosteriorFamily, Prior, PriorContext, Support, Vae, VaeBuilder,
};
use vae_train::{Checkpoint, Checkpoints, RunConfig, RunDir, Trainer, evaluate};

/// p(z) = Π_j of logistic densities with learned scales.
#[derive(Debug)]
struct Logistic {
    log_scale: Tensor,
}

impl Prior for Logistic {
    fn log_prob(&self, latents: &Tensor, _: PriorContext) -> Tensor {
        let scaled = latents * (-&self.log_scale).exp();
        let log_prob = scaled.log_sigmoid() + (-scaled).log_sigmoid() - &self.log_scale;
        log_prob.sum_dim_intlist(-1, false, Kind::Float)
    }

    fn sample(&self, n: i64, device: Device, _: PriorContext, generator: &mut Generator) -> Tensor {
        let shape = [n, self.log_scale.size()[0]];
        generator
            .uniform([1e-4, 1.0 - 1e-4], shape, device)
            .logit(None)
            * self.log_scale.exp()
    }
}

/// One layer as encoder and one as decoder.
#[derive(Debug)]
struct Affine {
    encoder: Linear,
    decoder: Linear,
    maps: [i64; 3],
}

impl Affine {
    fn new(path: &nn::Path, context: &PartContext) -> Self {
        let image = context.item.map();
        let maps = [context.n_likelihood_maps, image.height, image.width];
        let (weight, bias) = (Init::Uniform { lo: -0.2, up: 0.2 }, Init::Const(0.0));
        let encoder = path / "encoder";
        let n_params = context.n_posterior_params;
        Self {
            encoder: nn::linear(&encoder, image.n_values(), n_params, weight, bias),
            decoder: nn::linear(
                &(path / "decoder"),
                context.n_latents,
                maps.iter().product(),
                weight,
                bias,
            ),
            maps,
        }
    }
}

impl Network for Affine {
    fn encode(&self, images: &Tensor, _: Option<&Tensor>, _: Mode) -> Tensor {
        self.encoder.forward(&images.flatten(1, -1))
    }

    fn decode(&self, latents: &Tensor, _: Option<&Tensor>, _: Mode) -> Tensor {
        self.decoder
            .forward(latents)
            .unflatten(1, self.maps.as_slice())
    }
}

/// N(mean, σ²·I) with one learned σ for all images: the encoder gives the mean alone.
#[derive(Debug)]
struct SharedScale {
    log_std: Tensor,
}

impl PosteriorFamily for SharedScale {
    fn distribution(&self, params: &Tensor) -> Box<dyn Posterior> {
        Box::new(SharedGaussian {
            mean: params.shallow_clone(),
            log_std: self.log_std.shallow_clone(),
        })
    }
}

#[derive(Debug)]
struct SharedGaussian {
    mean: Tensor,
    log_std: Tensor,
}

impl Posterior for SharedGaussian {
    fn center(&self) -> Tensor {
        self.mean.shallow_clone()
    }

    fn draw(&self, noise: &Tensor) -> Latents {
        let latents = &self.mean + self.log_std.exp() * noise;
        let log_prob = self.log_prob(&latents);
        Latents { latents, log_prob }
    }

    fn log_prob(&self, latents: &Tensor) -> Option<Tensor> {
        let noise = (latents - &self.mean) * (-&self.log_std).exp();
        let log_prob = (noise.square() + std::f64::consts::TAU.ln()) * -0.5 - &self.log_std;
        Some(log_prob.sum_dim_intlist(-1, false, Kind::Float))
    }

    fn kl(&self) -> Option<ClosedKl> {
        let log_var = &self.log_std * 2.0;
        let kl = (self.mean.square() + log_var.exp() - log_var - 1.0) * 0.5;
        Some(ClosedKl::PerDimension(kl))
    }

    fn detach(&self) -> Box<dyn Posterior> {
        Box::new(Self {
            mean: self.mean.detach(),
            log_std: self.log_std.detach(),
        })
    }
}

/// x = mean + Cauchy noise of a learned scale.
#[derive(Debug)]
struct Cauchy {
    log_scale: Tensor,
}

impl Likelihood for Cauchy {
    fn scale(&self, images: &Tensor) -> Tensor {
        images.to_kind(Kind::Float) / 255.0
    }

    fn log_prob(&self, params: &Tensor, targets: &Tensor, _: Mode) -> Tensor {
        let errors = (params - targets) * (-&self.log_scale).exp();
        let log_prob = -(errors.square().log1p() + std::f64::consts::PI.ln()) - &self.log_scale;
        log_prob.sum_dim_intlist([2_i64, 3, 4].as_slice(), false, Kind::Float)
    }

    fn mean_image(&self, params: &Tensor) -> Tensor {
        params.clamp(0.0, 1.0)
    }

    fn sample(&self, params: &Tensor, generator: &mut Generator) -> Tensor {
        let uniform = generator.uniform_like(params);
        let noise = ((uniform - 0.5) * std::f64::consts::PI).tan();
        (params + noise * self.log_scale.exp()).clamp(0.0, 1.0)
    }
}

fn prior_and_network() -> VaeBuilder {
    Vae::builder()
        .prior("logistic", |path, context| Logistic {
            log_scale: path.zeros("log_scale", &[context.n_latents]),
        })
        .network("affine", Affine::new)
}

fn all() -> VaeBuilder {
    prior_and_network()
        .posterior("shared_scale", 3, |path, _| SharedScale {
            log_std: path.zeros("log_std", &[1]),
        })
        .likelihood("cauchy", 1, |path, _| Cauchy {
            log_scale: path.var("log_scale", &[1], Init::Const(-1.0)),
        })
}

fn config(extra: &str) -> RunConfig {
    let text = format!(
        "seed = 3\ndataset.idx.folder = 'unused'\nmodel.latent_dims = 3\n{extra}\n\
         [training]\nepochs = 2\nbatch_size = 8\nema_decay = 0.9\n"
    );
    toml::from_str(&text).expect("a config")
}

fn splits() -> Splits {
    Splits::new(dataset(22), Some(dataset(7)), dataset(5))
}

fn variables(vae: &Vae) -> BTreeMap<String, Tensor> {
    vae.named_variables()
        .into_iter()
        .map(|(name, variable)| (name, variable.detach().copy()))
        .collect()
}

/// Trains as a new process would, and returns the averaged weights.
fn train(run_dir: &RunDir, builder: &VaeBuilder, config: &RunConfig, resume: bool) {
    let splits = splits();
    let checkpoint = resume.then(|| Checkpoint::Last.open(run_dir).expect("a checkpoint"));
    let vae = match &checkpoint {
        Some(checkpoint) => builder.load(&checkpoint.folder, Device::Cpu),
        None => builder.build(&config.model, SHAPE, Device::Cpu, 5),
    };
    let vae = vae.expect("a model");
    let mut trainer = Trainer::new(&vae, &splits, config).expect("a trainer");
    trainer.save_to(run_dir.clone());
    trainer.add(Checkpoints::new(&config.checkpoints));
    if let Some(checkpoint) = checkpoint {
        trainer.resume(checkpoint).expect("resumed");
    }
    let outcome = trainer.fit(&AtomicBool::new(false));
    outcome.ended.expect("no error");
}

#[test]
fn gradients_reach_every_variable_and_resume_at_epoch_1_equals_2_straight() {
    for builder in [prior_and_network(), all()] {
        let config = config("");
        let folder = tempfile::tempdir().expect("a folder");
        let run = |name: &str, epochs: &[u64]| {
            let mut config = config.clone();
            config.training.epochs = epochs[0];
            let run_dir = RunDir::create(&folder.path().join(name), &config).expect("a run");
            for (i, &n) in epochs.iter().enumerate() {
                config.training.epochs = n;
                train(&run_dir, &builder, &config, i > 0);
            }
            let last = Checkpoint::Last.open(&run_dir).expect("a checkpoint");
            let vae = builder.load(&last.folder, Device::Cpu).expect("a model");
            let raw = last.raw_weights().expect("tensors").expect("raw weights");
            (variables(&vae), raw, last.optimizer().expect("moments"))
        };
        let straight = run("straight", &[2]);
        assert_eq!(run("in two", &[1, 2]), straight);

        let fresh = builder
            .build(&config.model, SHAPE, Device::Cpu, 5)
            .expect("a model");
        for (name, before) in variables(&fresh) {
            assert_ne!(straight.0[&name], before, "{name}");
        }
    }
}

#[test]
fn a_file_with_own_parts_is_loaded_by_a_builder_with_parts_of_these_names_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("weights.safetensors");
    let vae = prior_and_network().build(&config("").model, SHAPE, Device::Cpu, 1);
    let vae = vae.expect("a model");
    vae.save(&file).expect("saved");
    let refused = Vae::load(&file, Device::Cpu).expect_err("it lacks the parts");
    let refused = refused.to_string();
    assert!(
        refused.contains("own parts: network = affine, prior = logistic")
            && refused.contains("Vae::builder"),
        "{refused}"
    );
    let refused = all()
        .load(&file, Device::Cpu)
        .expect_err("other parts")
        .to_string();
    assert!(
        refused.contains("own parts are network = affine, prior = logistic, those of the builder")
            && refused.contains("posterior = shared_scale"),
        "{refused}"
    );
    let loaded = prior_and_network()
        .load(&file, Device::Cpu)
        .expect("a model");
    assert_eq!(variables(&loaded), variables(&vae));
    assert_eq!(loaded.own_parts(), vae.own_parts());
    // A model without custom parts, loaded by a builder with some.
    let plain = Vae::new(&config("").model, SHAPE, Device::Cpu, 1).expect("a model");
    plain.save(&file).expect("saved");
    let refused = all()
        .load(&file, Device::Cpu)
        .expect_err("no own parts")
        .to_string();
    assert!(refused.contains("own parts are none"), "{refused}");
}

#[test]
fn what_a_model_says_of_itself_is_what_its_own_parts_say() {
    // The config's settings for replaced parts are not used.
    let config = config("model.likelihood.discretized_logistic = {}");
    let plain = Vae::new(&config.model, SHAPE, Device::Cpu, 1).expect("a model");
    let vae = all()
        .build(&config.model, SHAPE, Device::Cpu, 1)
        .expect("a model");
    assert!(plain.has_standard_normal_prior() && !vae.has_standard_normal_prior());
    assert!(plain.bits_per_dim(-1.0).is_some() && vae.bits_per_dim(-1.0).is_none());
    assert_eq!(vae.support(), Support::Euclidean);
    assert!(vae.has_density());

    // The kl has no closed form for this prior, so it is estimated from the samples.
    let images = dataset(4).batch(&[0, 1, 2, 3]).expect("a batch").items;
    let draws = vae
        .draw(&images, 2, Mode::Evaluate, &mut vae.generator(1))
        .expect("draws");
    assert!(draws.kl_per_dimension.is_none());
    let sampled =
        (draws.log_qz_x.expect("a density") - draws.log_pz).mean_dim(0, false, Kind::Float);
    assert_eq!(draws.terms.kl.expect("a kl"), sampled);
    // With a standard normal prior it has one.
    let builder = Vae::builder().posterior("shared_scale", 3, |path, _| SharedScale {
        log_std: path.zeros("log_std", &[1]),
    });
    let of_config = builder
        .build(&config.model, SHAPE, Device::Cpu, 1)
        .expect("a model");
    let draws = of_config.draw(&images, 1, Mode::Evaluate, &mut of_config.generator(1));
    let draws = draws.expect("draws");
    let half_squares = draws.posterior.center().square() * 0.5;
    let kl = draws.kl_per_dimension.expect("a closed form");
    assert!((kl - half_squares).abs().max().double_value(&[]) < 1e-6);

    let parts: BTreeMap<_, _> = vae
        .summary()
        .into_iter()
        .map(|part| (part.name, part.n_parameters))
        .collect();
    let n_pixels = 30;
    assert_eq!(parts["encoder"], (n_pixels + 1) * 3);
    assert_eq!(parts["decoder"], (3 + 1) * n_pixels);
    assert_eq!(
        (parts["prior"], parts["posterior"], parts["likelihood"]),
        (3, 1, 1)
    );

    for part in vae_model::Part::ALL {
        let refused = vae
            .to_onnx(part)
            .expect_err("own parts are not in ONNX")
            .to_string();
        assert!(
            refused.contains("network affine has no ONNX export"),
            "{refused}"
        );
        assert!(vae.to_torchscript(part).is_ok());
    }
}

#[test]
fn objectives_that_do_not_fit_own_parts_are_refused() {
    let vae = |builder: &VaeBuilder| builder.build(&config("").model, SHAPE, Device::Cpu, 1);
    let all = vae(&all()).expect("a model");
    let data = dataset(8);
    for (objective, wanted) in [
        (
            "objective.regularizer.kl.free_bits = 0.1",
            "the prior logistic",
        ),
        (
            "objective.regularizer.beta_tc = {}",
            "posterior is shared_scale",
        ),
        (
            "objective.regularizer.dip = {}",
            "mean and covariance in closed form",
        ),
    ] {
        // The objective fits the parts named in the config.
        let config = config(objective);
        config.check().expect("a good config");
        let refused = evaluate(&all, &config, &data, 8, 0)
            .expect_err(objective)
            .to_string();
        assert!(refused.contains(wanted), "{refused}");
        assert!(Trainer::new(&all, &splits(), &config).is_err());
    }
    // log q(z|x) has a closed form.
    let dreg = config("objective.estimator.iwae = { samples = 2, doubly_reparameterized = true }");
    evaluate(&all, &dreg, &data, 8, 0).expect("it fits");
}

/// A prior that declares or returns what does not fit: another support, or tensors of wrong shapes.
#[derive(Debug)]
struct Wrong {
    n: i64,
}

impl Prior for Wrong {
    fn support(&self) -> Option<Support> {
        (self.n == 0).then_some(Support::Sphere)
    }

    fn log_prob(&self, latents: &Tensor, _: PriorContext) -> Tensor {
        let [n, last] = [latents.size()[0], self.n];
        Tensor::zeros([n, last], (Kind::Float, latents.device()))
    }

    fn sample(&self, n: i64, device: Device, _: PriorContext, _: &mut Generator) -> Tensor {
        Tensor::zeros([n, self.n], (Kind::Float, device))
    }
}

#[test]
fn parts_that_do_not_keep_to_their_shapes_are_refused_by_name() {
    let refusal = |builder: VaeBuilder| {
        let built = builder.build(&config("").model, SHAPE, Device::Cpu, 1);
        built.expect_err("a wrong shape").to_string()
    };
    let refused = refusal(Vae::builder().prior("wrong", |_, _| Wrong { n: 4 }));
    assert!(
        refused.contains("own prior wrong: log_prob gave Float [2, 4], expected f32 [2]"),
        "{refused}"
    );
    // An encoder with one output too many.
    let refused = refusal(Vae::builder().network("wide", |path, context| {
        let mut network = Affine::new(path, context);
        network.encoder = nn::linear(
            &(path / "encoder" / "wide"),
            context.item.map().n_values(),
            context.n_posterior_params + 1,
            Init::Const(0.0),
            Init::Const(0.0),
        );
        network
    }));
    assert!(
        refused.contains("own network wide: encode gave Float [2, 7]"),
        "{refused}"
    );
    let refused = refusal(Vae::builder().network("elsewhere", |path, context| {
        Affine::new(&(path / "mine"), context)
    }));
    assert!(
        refused.contains("own network elsewhere: its variable mine.decoder.bias"),
        "{refused}"
    );
    let refused = refusal(all().posterior("none", 0, |path, _| SharedScale {
        log_std: path.zeros("log_std", &[1]),
    }));
    assert!(
        refused.contains("own posterior none: takes 0 numbers"),
        "{refused}"
    );
}

#[test]
fn a_prior_of_codes_is_refused_for_an_own_posterior_without_codes() {
    let builder = Vae::builder().posterior("shared_scale", 4, |path, _| SharedScale {
        log_std: path.zeros("log_std", &[1]),
    });
    let model =
        config("model.posterior.finite_scalar.levels = [3]\nmodel.prior = 'uniform_codes'").model;
    let built = builder.build(&model, SHAPE, Device::Cpu, 1);
    let refused = built.expect_err("no codes").to_string();
    assert!(
        refused.contains("own posterior shared_scale: the model's latents are codes"),
        "{refused}"
    );
}
