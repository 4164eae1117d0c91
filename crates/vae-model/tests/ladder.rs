//! Latents in levels.

use std::io::Cursor;

use tch::{CModule, Device, Kind, Tensor, no_grad};
use vae_model::{
    Direction, Generator, ImageShape, LossContext, Mode, ModelConfig, Objective, Part, Term, Vae,
};

const SHAPE: ImageShape = ImageShape {
    channels: 1,
    height: 6,
    width: 5,
};

fn config(extra: &str) -> ModelConfig {
    let text = format!(
        "{extra}\n[network.mlp]\nhidden = [9]\n[topology.ladder]\nlevels = [2, 3]\nhidden = 6\n"
    );
    toml::from_str(&text).expect("a model")
}

/// Sets the weights between the levels, which are zero in an untrained ladder.
fn model(extra: &str) -> Vae {
    let vae = Vae::new(&config(extra), SHAPE, Device::Cpu, 1).expect("a model");
    let mut generator = Generator::cpu(5);
    for (name, mut variable) in vae.named_variables() {
        if name.starts_with("prior.level_") {
            let values = generator.normal(variable.size(), Device::Cpu) * 0.5;
            no_grad(|| variable.copy_(&values));
        }
    }
    vae
}

fn images(n: i64) -> Tensor {
    let values = Tensor::arange(n * SHAPE.n_values(), (Kind::Int64, Device::Cpu));
    let values = (&values * &values).remainder(251).to_kind(Kind::Uint8);
    values.view([n, SHAPE.channels, SHAPE.height, SHAPE.width])
}

fn largest(tensor: &Tensor) -> f64 {
    tensor.abs().max().double_value(&[])
}

#[test]
fn the_kl_of_the_levels_sums_to_the_kl_and_that_is_the_mean_ratio_of_the_densities() {
    let vae = model("");
    let n_samples = 20_000;
    let draws = no_grad(|| vae.draw(&images(2), n_samples, Mode::Evaluate, &mut vae.generator(1)));
    let draws = draws.expect("draws");
    let of = |name: &str| draws.named.get(name).expect("a level").shallow_clone();
    let (top, below) = (of("kl_2"), of("kl_1"));
    let kl = draws.terms.kl.as_ref().expect("a kl");
    assert_eq!(kl.size(), [2]);
    assert!(largest(&(kl - (&top + &below))) < 1e-4);
    // The top level is a Gaussian against the standard normal, independent of the lower levels.
    let per_dimension = draws
        .kl_per_dimension
        .as_ref()
        .expect("given the level above");
    assert_eq!(per_dimension.size(), [2, 5]);
    let of_top = per_dimension
        .narrow(1, 0, 2)
        .sum_dim_intlist(1, false, Kind::Float);
    assert!(largest(&(&of_top - top)) < 1e-5);
    let log_ratio = draws.log_qz_x.as_ref().expect("a density") - &draws.log_pz; // [K, B]
    let error = log_ratio.std_dim([0_i64].as_slice(), true, false) / (n_samples as f64).sqrt();
    let sampled = log_ratio.mean_dim(0, false, Kind::Double);
    assert!(
        ((&sampled - kl).abs() - &error * 5.0)
            .max()
            .double_value(&[])
            < 0.0
    );
    // The mean of the log-weights is the elbo; the log of their mean is a tighter bound.
    let log_weights = draws.log_weights().expect("a density");
    let elbo = draws.terms.elbo().expect("an elbo");
    let error = log_weights.std_dim([0_i64].as_slice(), true, false) / (n_samples as f64).sqrt();
    let mean = log_weights.mean_dim(0, false, Kind::Float);
    assert!(
        ((mean - &elbo).abs() - error * 5.0 - 1e-3)
            .max()
            .double_value(&[])
            < 0.0
    );
    let bound = log_weights.logsumexp(0, false) - (n_samples as f64).ln();
    assert!((bound - elbo).min().double_value(&[]) > 0.0);
    assert!(
        vae.closed_kl(&*draws.posterior, None)
            .expect("asked")
            .is_none()
    );
}

#[test]
fn what_it_logs_and_its_groups_are_declared() {
    let config = config("");
    assert_eq!(config.n_latents(), 5);
    assert_eq!(
        config.latent_groups(),
        [("z2".to_owned(), 0..2), ("z1".to_owned(), 2..5)]
    );
    let flat = ModelConfig::default();
    assert_eq!(flat.latent_groups(), [("z".to_owned(), 0..2)]);
    assert!(flat.terms().is_empty());
    let names: Vec<String> = config
        .terms()
        .iter()
        .map(|term| term.name.to_string())
        .collect();
    assert_eq!(names, ["kl_2", "kl_1"]);
    assert!(
        config
            .terms()
            .iter()
            .all(|term| { (&*term.unit, term.better) == (Term::NATS, Direction::Lower) })
    );
    // A resolved config can be read again.
    let resolved = config.clone().resolved();
    assert_eq!(resolved, config);
    // A flat model's config does not mention levels, so that weights files stay the same.
    let json = serde_json::to_string(&flat).expect("JSON");
    assert!(!json.contains("topology"), "{json}");
}

#[test]
fn gradients_reach_both_ways_by_every_estimator() {
    for objective in [
        "",
        "regularizer.kl.beta_schedule.warm_up.steps = 10",
        "estimator.iwae = { samples = 3 }",
        "estimator.iwae = { samples = 3, doubly_reparameterized = true }",
        "estimator.ciwae = { samples = 3 }",
        "regularizer.mmd = {}",
    ] {
        let vae = model("");
        let objective: Objective = toml::from_str(objective).expect("an objective");
        objective.check(vae.config()).expect("it fits");
        let mut generator = vae.generator(1);
        let draws = vae.draw(
            &images(4),
            objective.n_samples(),
            Mode::Train,
            &mut generator,
        );
        let context = LossContext {
            vae: &vae,
            step: 5,
            n_images: 4,
        };
        let loss = objective.loss(&draws.expect("draws"), context, &mut generator);
        loss.expect("a loss").backward();
        for (name, variable) in vae.trainable_variables() {
            let gradient = variable.grad();
            assert!(
                gradient.defined() && largest(&gradient) > 0.0,
                "{name}: {objective:?}"
            );
        }
    }
}

#[test]
fn doubly_reparameterized_gradients_have_the_mean_of_the_plain_ones() {
    let gradient = |objective: &str, seed: u64| {
        let vae = model("");
        let objective: Objective = toml::from_str(objective).expect("an objective");
        let mut generator = vae.generator(seed);
        let images = images(1).expand([400, -1, -1, -1], false);
        let draws = vae
            .draw(&images, 4, Mode::Train, &mut generator)
            .expect("draws");
        let context = LossContext {
            vae: &vae,
            step: 0,
            n_images: 400,
        };
        let loss = objective
            .loss(&draws, context, &mut generator)
            .expect("a loss");
        loss.backward();
        let variables = vae.trainable_variables();
        let of_path = variables
            .iter()
            .filter(|(name, _)| name.starts_with("prior."));
        let gradients: Vec<Tensor> = of_path.map(|(_, v)| v.grad().flatten(0, -1)).collect();
        Tensor::cat(&gradients, 0).to_kind(Kind::Double)
    };
    let seeds = 20;
    let of = |objective: &str| {
        let all: Vec<Tensor> = (0..seeds).map(|seed| gradient(objective, seed)).collect();
        let all = Tensor::stack(&all, 0);
        let error = all.std_dim([0_i64].as_slice(), true, false) / (seeds as f64).sqrt();
        (all.mean_dim(0, false, Kind::Double), error)
    };
    let (plain, error) = of("estimator.iwae = { samples = 4 }");
    let (doubly, other_error) =
        of("estimator.iwae = { samples = 4, doubly_reparameterized = true }");
    let bound = (error.square() + other_error.square()).sqrt() * 6.0;
    let excess = (&plain - &doubly).abs() - &bound;
    assert!(excess.max().double_value(&[]) < 1e-6, "{plain} {doubly}");
    // The gradient is significantly different from 0, so that the comparison means something.
    let signal = plain.norm().double_value(&[]) / error.norm().double_value(&[]);
    assert!(signal > 3.0, "there is something to compare: {signal}");
}

#[test]
fn exports_give_the_center() {
    let vae = model("");
    let center = vae.encode(&images(3)).expect("a posterior").center();
    let floats = images(3).to_kind(Kind::Float) / 255.0;
    let outputs = vae.run_part(Part::Encoder, &floats).expect("outputs");
    assert_eq!(
        outputs.len(),
        1,
        "no log-variances: they depend on the level above"
    );
    assert!(largest(&(&outputs[0] - &center)) < 1e-5);
    let file = vae.to_torchscript(Part::Encoder).expect("TorchScript");
    let module = CModule::load_data(&mut Cursor::new(file)).expect("a module");
    let found = no_grad(|| module.forward_ts(&[&floats])).expect("an output");
    assert!(largest(&(found.squeeze_dim(0) - center)) < 1e-5);
    for part in Part::ALL {
        vae.to_onnx(part).expect("ONNX");
    }
}

#[test]
fn a_saved_one_is_the_same_and_so_is_its_frozen_copy() {
    let vae = model("");
    let folder = tempfile::tempdir().expect("a folder");
    vae.save(folder.path().join("weights.safetensors"))
        .expect("saved");
    let loaded = Vae::load(folder.path(), Device::Cpu).expect("a model");
    let noise = Tensor::ones([1, 3, 5], (Kind::Float, Device::Cpu));
    let draw = |vae: &Vae| {
        let draws = vae
            .draw_with_noise(&images(3), &noise, Mode::Evaluate)
            .expect("draws");
        (draws.latents, draws.log_qz_x, draws.log_pz)
    };
    assert_eq!(draw(&loaded), draw(&vae));
    let sample = |vae: &Vae| vae.sample(2, &mut vae.generator(3)).expect("images");
    assert_eq!(sample(&loaded), sample(&vae));
}

#[test]
fn what_makes_no_ladder_is_refused() {
    let refusal = |text: &str| {
        let config: ModelConfig = toml::from_str(text).expect("it can be read");
        config.check().expect_err(text).to_string()
    };
    for (text, key, fits) in [
        (
            "topology.ladder.levels = [4]",
            "topology.ladder.levels",
            "at least 2",
        ),
        (
            "topology.ladder.levels = [4, 0]",
            "topology.ladder.levels",
            "from 1",
        ),
        (
            "topology.ladder.hidden = 0",
            "topology.ladder.hidden",
            "from 1",
        ),
        (
            "latent_dims = 7\ntopology.ladder.levels = [2, 3]",
            "latent_dims",
            "have 5 together",
        ),
        (
            "latent_shape = [1, 7, 7]\ntopology.ladder = {}",
            "topology.ladder",
            "latent_shape",
        ),
        (
            "posterior = 'full_covariance'\ntopology.ladder = {}",
            "topology.ladder",
            "diagonal_gaussian",
        ),
        (
            "posterior.diagonal_gaussian.noise_scale = 'variance'\ntopology.ladder = {}",
            "noise_scale",
            "standard_deviation",
        ),
        (
            "prior.vamp = {}\ntopology.ladder = {}",
            "topology.ladder",
            "standard_normal",
        ),
        (
            "prior.real_nvp = {}\ntopology.ladder = {}",
            "topology.ladder",
            "standard_normal",
        ),
    ] {
        let refused = refusal(text);
        assert!(
            refused.starts_with(&format!("model.{key}")) || refused.contains(key),
            "{refused}"
        );
        assert!(refused.contains(fits), "{refused}");
    }
    for objective in [
        "estimator.piwae = {}",
        "regularizer.kl.free_bits = 0.1",
        "regularizer.beta_tc = {}",
        "regularizer.dip = {}",
    ] {
        let parsed: Objective = toml::from_str(objective).expect("an objective");
        assert!(parsed.check(&config("")).is_err(), "{objective}");
    }
    // The top level may depend on the condition.
    config("prior = 'conditional_gaussian'\ncondition.classes = true")
        .check()
        .expect("it fits");
}
