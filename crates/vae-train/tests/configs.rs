//! Every config in `configs/` builds and overfits 8 images, except one that demonstrates why it cannot.

mod common;

use std::path::Path;
use std::sync::Mutex;
use std::thread;

use common::{data_spec, for_small, item, small};
use tch::{Device, Kind, Tensor, no_grad};
use vae_model::{ImageShape, ItemKind, ItemSpec, LikelihoodConfig, Mode, Vae};
use vae_train::{Learner, RunConfig};

/// Eight different images: white discs at different positions on black.
fn discs(shape: ImageShape) -> Tensor {
    let ImageShape {
        channels,
        height,
        width,
    } = shape;
    let bytes: Vec<u8> = (0..8 * channels * height * width)
        .map(|i| {
            let image = i / (channels * height * width);
            let (y, x) = (i / width % height, i % width);
            let (center_y, center_x) = (
                height / 4 + image / 4 * (height / 2),
                width / 6 + image % 4 * (width / 5),
            );
            let distance = (y - center_y) * (y - center_y) + (x - center_x) * (x - center_x);
            if distance < 20 { 255 } else { 0 }
        })
        .collect();
    Tensor::from_slice(&bytes).view([8, channels, height, width])
}

/// Eight different items: [`discs`], texts, or series that are waves of eight frequencies, with a phase shift from row to row.
fn eight(item: &ItemSpec) -> Tensor {
    if item.is_tokens() {
        let length = item.map().width;
        let tokens: Vec<i64> = (0..8 * length)
            .map(|i| match (i / length, i % length) {
                (text, place) if place < 5 + text => {
                    1 + (text * 11 + place * place * (text + 2)) % 29
                }
                _ => 0,
            })
            .collect();
        return Tensor::from_slice(&tokens).view([8, 1, 1, length]);
    }
    if item.is_image() {
        return discs(item.map());
    }
    let [channels, height, width] = item.map().sides();
    let rows = channels * height;
    let values: Vec<f32> = (0..8 * rows * width)
        .map(|i| {
            let (wave, row, step) = (i / width / rows, i / width % rows, i % width);
            let turns = (1 + wave) as f32 * step as f32 / width as f32;
            (std::f32::consts::TAU * turns - 0.5 * row as f32).sin()
        })
        .collect();
    let items = Tensor::from_slice(&values).view([8, channels, height, width]);
    match item.kind {
        ItemKind::Sound { .. } => (items * 16_000.0).to_kind(Kind::Int16),
        _ => items,
    }
}

/// Whether only a discriminator ties the model's images to the data.
fn only_plays(config: &RunConfig) -> bool {
    !config.model.posterior.has_encoder() || config.objective.reconstruction_weight == 0.0
}

/// Whether the header of the config says that its pictures turn black, because every target is nearly 0.
fn turns_black(config: &RunConfig) -> bool {
    match &config.model.likelihood {
        LikelihoodConfig::ScaledBernoulli(scale) => scale.white < 0.01,
        _ => false,
    }
}

/// The mean squared error of items, of texts the share of wrong tokens.
fn error(found: &Tensor, targets: &Tensor) -> f64 {
    match targets.kind() {
        Kind::Int64 => mean_square(&found.ne_tensor(targets).to_kind(Kind::Float)),
        _ => mean_square(&(found - targets)),
    }
}

fn mean_square(errors: &Tensor) -> f64 {
    errors.square().mean(Kind::Double).double_value(&[])
}

#[test]
fn numbers_that_no_run_has_are_refused_by_name() {
    for (setting, key) in [
        ("objective.regularizer.kl.free_bits = 1e308", "free_bits"),
        ("objective.regularizer.kl.beta = inf", "kl.beta"),
        ("objective.regularizer.mmd.scales = [1e-320]", "mmd.scales"),
        (
            "objective.estimator.miwae = { bounds = 100000, samples = 100000 }",
            "bounds × samples",
        ),
        ("objective.regularizer.factor.gamma = -1.0", "factor.gamma"),
        ("objective.regularizer.factor.hidden = [0]", "factor.hidden"),
        (
            "players.discriminator.every = 2",
            "players.discriminator: the objective has no players",
        ),
        (
            "objective.regularizer.factor = {}\nplayers.critic.every = 2",
            "players.critic: the objective has discriminator",
        ),
        (
            "objective.regularizer.factor = {}\nplayers.discriminator.every = 0",
            "players.discriminator.every",
        ),
        (
            "objective.regularizer.factor = {}\nplayers.discriminator.schedule.plateau = {}",
            "players.discriminator.schedule",
        ),
        (
            "objective.regularizer.factor = {}\nplayers.discriminator.optimizer.adam.beta1 = 1.0",
            "players.discriminator.optimizer.adam.beta1",
        ),
        (
            "objective.regularizer.factor = {}\nplayers.discriminator.clip.norm = 0.0",
            "players.discriminator.clip.norm",
        ),
        (
            "objective.regularizer.factor = {}\nmodel.posterior = 'von_mises_fisher'\n\
             model.prior = 'hyperspherical_uniform'",
            "its permuted latents would leave the sphere",
        ),
        (
            "objective.regularizer.factor = {}\nmodel.posterior = 'deterministic'",
            "objective.regularizer.factor: the posterior deterministic has no density",
        ),
        (
            "objective.regularizer.factor = {}\nobjective.estimator.iwae = {}",
            "objective.estimator.iwae",
        ),
        ("model.latent_dims = 0", "model.latent_dims"),
        (
            "model.latent_dims = 9223372036854775807",
            "model.latent_dims",
        ),
        ("model.network.mlp.hidden = [-1]", "mlp.hidden"),
        ("model.network.residual.blocks = 1048576", "residual.blocks"),
        ("model.posterior.iaf.flows = 9007199254740992", "iaf.flows"),
        ("model.posterior.planar.flows = 257", "planar.flows"),
        ("model.likelihood.gaussian.sigma = 1e-320", "gaussian.sigma"),
        ("model.likelihood.laplace.scale = 1e308", "laplace.scale"),
        (
            "model.prior.gaussian_mixture.initial_spread = 1e308",
            "initial_spread",
        ),
        ("optimizer.adam.learning_rate = 1e308", "learning_rate"),
        ("training.clip.value = 1e308", "training.clip.value"),
        (
            "training.batch_size = 9223372036854775807",
            "training.batch_size",
        ),
        ("training.epochs = 9223372036854775807", "training.epochs"),
        ("pictures.n_samples = 4294967296", "pictures.n_samples"),
        (
            "pictures.n_samples = 9223372036854775807",
            "pictures.n_samples",
        ),
        (
            "pictures.manifold_size = 4294967296",
            "pictures.manifold_size",
        ),
        (
            "dataset.image_folder.workers = 9223372036854775807",
            "image_folder.workers",
        ),
    ] {
        let source = match setting.starts_with("dataset") {
            true => "dataset.image_folder.path = 'photos'",
            false => "dataset.idx.folder = 'digits'",
        };
        let config: RunConfig = toml::from_str(&format!("{source}\n{setting}")).expect(setting);
        let message = config.check().expect_err(setting).to_string();
        assert!(message.contains(key), "{setting}: {message}");
    }
}

#[test]
fn the_numbers_of_every_config_have_names_of_their_own() {
    let configs = common::configs("configs");
    for (path, config) in configs.into_iter().chain(common::configs("configs/models")) {
        let terms = config.terms();
        let mut names: Vec<&str> = terms.iter().map(|term| &*term.name).collect();
        names.extend(["epoch", "step", "split"]); // Keys of a record that are not metrics.
        let n_names = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), n_names, "{}", path.display());
    }
}

#[test]
fn every_config_builds_and_overfits_8_images() {
    let examples = common::configs("configs");
    assert!(examples.len() >= 10, "configs/ holds the examples");
    let models = common::configs("configs/models");
    assert!(models.len() >= 28, "configs/models/ holds the models");
    let all = Mutex::new(examples.into_iter().chain(models));
    let next = || all.lock().ok()?.next();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((path, config)) = next() {
                    builds_and_overfits(&path, config);
                }
            });
        }
    });
}

fn builds_and_overfits(path: &Path, config: RunConfig) {
    let name = path.file_stem().expect("a name").display();
    let whole = item(&config);
    let spec = data_spec(&config, whole.clone());
    let vae = Vae::new(&config.model, spec, Device::Cpu, 1).expect("a model");
    if config.training.start_from.is_some() {
        vae.freeze(&config.training.frozen).expect("its parts");
        return; // It goes on from weights that are not here.
    }
    let two = eight(&whole).narrow(0, 0, 2);
    let unknown = vae.unknown(2);
    let two = (&two, unknown.as_ref());
    let terms = no_grad(|| vae.draw(two, 1, Mode::Evaluate, &mut vae.generator(1)))
        .expect("draws")
        .terms;
    let value = terms.elbo().unwrap_or(terms.reconstruction);
    let value = value.sum(Kind::Double).double_value(&[]);
    assert!(value.is_finite(), "{name}: {value}");

    let images = eight(&small(&whole, &config.model.network));
    let targets = match whole.kind {
        ItemKind::Image => images.to_kind(Kind::Float) / 255.0,
        _ => images.to_kind(Kind::Float),
    };
    // The error of the mean image, which a model gives that ignores its latents.
    let baseline = match whole.is_tokens() {
        true => error(&targets.mode(0, true).0, &targets),
        false => error(&targets.mean_dim(0, true, Kind::Float), &targets),
    };
    let config = for_small(config, &whole);
    let spec = data_spec(&config, small(&whole, &config.model.network));
    let vae = Vae::new(&config.model, spec, Device::Cpu, 1).expect("a model");
    vae.start_from(&images).expect("started");
    let unknown = vae.unknown(8);
    let images = (&images, unknown.as_ref());
    let mut learner = Learner::new(&vae, &config, 8).expect("a learner");
    if only_plays(&config) {
        for step in 0..40 {
            let output = learner.step(images, step, step).expect("a step");
            let loss = output.loss.double_value(&[]);
            assert!(loss.is_finite(), "{name}: step {step}, {loss}");
            for (term, value) in output.named.iter() {
                let value = value.mean(Kind::Double).double_value(&[]);
                assert!(
                    value.is_finite(),
                    "{name}: step {step}, {} {value}",
                    term.name
                );
            }
        }
        return;
    }
    if let LikelihoodConfig::Spectral(_) = config.model.likelihood {
        // Its distance leaves phases open, so that samples may differ.
        let distance = || {
            let draws = no_grad(|| vae.draw(images, 1, Mode::Evaluate, &mut vae.generator(1)));
            draws
                .expect("draws")
                .terms
                .reconstruction
                .mean(Kind::Double)
                .double_value(&[])
        };
        let untrained = distance();
        let is_near = (0..1500).any(|step| {
            learner.step(images, step, step).expect("a step");
            step % 10 == 9 && distance() < 0.3 * untrained
        });
        assert!(
            is_near,
            "{name}: distance {:.1}, untrained {untrained:.1}",
            distance()
        );
        return;
    }
    let mut mse = f64::INFINITY;
    if turns_black(&config) {
        let mut brightest = f64::INFINITY;
        for step in 0..400 {
            learner.step(images, step, step).expect("a step");
            if step % 10 == 9 {
                let images = no_grad(|| vae.reconstruct(images)).expect("images");
                brightest = images.max().double_value(&[]);
                if brightest < 0.05 {
                    break;
                }
            }
        }
        assert!(brightest < 0.05, "{name}: {brightest} is not black");
        return;
    }
    for step in 0..1500 {
        learner
            .step(images, step, step)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        if step % 10 == 9 {
            let images = no_grad(|| vae.reconstruct(images)).expect("images");
            mse = error(&images, &targets);
            if mse < 0.3 * baseline {
                break;
            }
        }
    }
    assert!(
        mse < 0.3 * baseline,
        "{name}: mean squared error {mse:.5}, the mean image alone has {baseline:.5}"
    );
}
