//! Unchecked configs passed to the public API give an error that names the key, never a panic.

mod common;

use tch::Device;
use vae_data::{DatasetConfig, Splits};
use vae_model::{Estimator, LossContext, Mode, ModelConfig, Objective, Regularizer, Vae};
use vae_train::{Learner, RunConfig, Trainer, evaluate};

fn config(text: &str) -> RunConfig {
    let text = format!("dataset.idx.folder = 'here'\nmodel.network.mlp.hidden = [4]\n{text}");
    toml::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn model(text: &str) -> Vae {
    Vae::new(&config(text).model, common::SHAPE, Device::Cpu, 1).expect("a model")
}

fn splits() -> Splits {
    Splits::new(
        common::dataset(8),
        Some(common::dataset(4)),
        common::dataset(4),
    )
}

/// Every refusal of `compatibility.rs`, and some of its values.
#[test]
fn no_model_is_built_of_parts_that_do_not_fit() {
    for (text, key) in [
        ("model.prior = 'hyperspherical_uniform'", "model.prior"),
        (
            "model.posterior = 'von_mises_fisher'\nmodel.prior = 'standard_normal'",
            "model.prior",
        ),
        (
            "model.posterior.planar = {}\nmodel.prior.vamp = {}",
            "model.prior.vamp",
        ),
        (
            "model.prior.vamp = {}\nmodel.network.conv_batch_norm = {}",
            "model.prior.vamp",
        ),
        ("model.prior = 'conditional_gaussian'", "model.prior"),
        (
            "model.prior.vamp = {}\nmodel.condition.classes = true",
            "model.prior.vamp",
        ),
        ("model.condition = {}", "model.condition"),
        ("model.latent_dims = 0", "model.latent_dims"),
        ("model.network.mlp.hidden = [0]", "model.network.mlp.hidden"),
        (
            "model.network.conv.channels = []",
            "model.network.conv.channels",
        ),
        (
            "model.network.residual.group_size = 0",
            "model.network.residual.group_size",
        ),
        ("model.posterior.iaf.flows = 0", "model.posterior.iaf.flows"),
        (
            "model.prior.gaussian_mixture.components = 0",
            "model.prior.gaussian_mixture.components",
        ),
        (
            "model.likelihood.gaussian.sigma = 0",
            "model.likelihood.gaussian.sigma",
        ),
        // Codes.
        (
            "model.posterior.finite_scalar.levels = [3, 3]",
            "model.prior",
        ),
        ("model.prior = 'uniform_codes'", "model.prior"),
        (
            "model.posterior.finite_scalar.levels = []",
            "model.posterior.finite_scalar.levels",
        ),
        (
            "model.posterior.finite_scalar.levels = [1]",
            "model.posterior.finite_scalar.levels",
        ),
        (
            "model.latent_dims = 3\nmodel.posterior.finite_scalar.levels = [3, 3]",
            "model.posterior.finite_scalar.levels",
        ),
        (
            "model.latent_dims = 3\nmodel.posterior.finite_scalar.levels = [1024, 1024, 1024]",
            "model.posterior.finite_scalar.levels",
        ),
        // Latent maps.
        (
            "model.latent_shape = [2, 3, 3]\nmodel.network.mlp.hidden = [4]",
            "model.latent_shape",
        ),
        ("model.latent_shape = [0, 3, 3]", "model.latent_shape"),
        (
            "model.latent_shape = [2, 3, 3]\nmodel.latent_dims = 2",
            "model.latent_dims",
        ),
        (
            "model.latent_shape = [2, 3, 3]\nmodel.posterior = 'full_covariance'",
            "model.latent_shape",
        ),
        (
            "model.latent_shape = [2, 3, 3]\nmodel.posterior.finite_scalar.levels = [3, 3, 3]
             model.prior = 'uniform_codes'",
            "model.latent_shape",
        ),
        // For images of 6×5 the encoder ends in maps of 3×3.
        (
            "model.latent_shape = [2, 2, 3]\nmodel.network.conv = { channels = [4], strides = [2] }",
            "model.latent_shape",
        ),
    ] {
        let text = format!("dataset.idx.folder = 'here'\n{text}");
        let config: RunConfig = toml::from_str(&text).expect("TOML");
        let error = Vae::new(&config.model, common::SHAPE, Device::Cpu, 1).expect_err(&text);
        assert!(error.to_string().starts_with(key), "{text}: {error}");
    }
}

/// Every refusal of `objective_compatibility.rs`, and values of every other table.
#[test]
fn nothing_trains_or_evaluates_with_a_bad_config() {
    let plain = "";
    let autoencoder = "model.posterior = 'deterministic'";
    let planar = "model.posterior.planar = {}";
    let batch_norm = "model.network.conv_batch_norm.channels = [4]";
    let codes = "model.posterior.finite_scalar.levels = [3, 3]\nmodel.prior = 'uniform_codes'";
    let sphere = "model.posterior = 'von_mises_fisher'\nmodel.prior = 'hyperspherical_uniform'";
    let splits = splits();
    for (of_model, text, key) in [
        (autoencoder, "", "objective.regularizer.kl"),
        (
            autoencoder,
            "[objective.regularizer.mmd]\nkl_weight = 1.0",
            "objective.regularizer.mmd",
        ),
        (
            plain,
            "objective.regularizer = 'none'",
            "objective.regularizer.none",
        ),
        (
            plain,
            "[objective.regularizer.latent_norm]",
            "objective.regularizer.latent_norm",
        ),
        (codes, "", "objective.regularizer.kl"),
        (
            codes,
            "[objective.regularizer.factor]",
            "objective.regularizer.factor",
        ),
        (
            codes,
            "objective.regularizer = 'none'\nobjective.estimator.elbo.samples = 2",
            "objective.estimator.elbo",
        ),
        (
            codes,
            "objective.regularizer = 'none'\nobjective.estimator.iwae.samples = 1",
            "objective.estimator.iwae",
        ),
        (
            sphere,
            "[objective.regularizer.factor]",
            "objective.regularizer.factor",
        ),
        (
            autoencoder,
            "[objective.regularizer.factor]",
            "objective.regularizer.factor",
        ),
        (
            plain,
            "[objective.regularizer.factor]\nhidden = [0]",
            "objective.regularizer.factor",
        ),
        (
            plain,
            "[objective.regularizer.factor]\ngamma = -1.0",
            "objective.regularizer.factor",
        ),
        (
            plain,
            "[objective.regularizer.factor]\n[objective.estimator.iwae]\nsamples = 2",
            "objective.estimator.iwae",
        ),
        (plain, "[players.discriminator]", "players.discriminator"),
        (
            plain,
            "[objective.regularizer.factor]\n[players.discriminator.optimizer.sgd]\nlearning_rate = 0.0",
            "players.discriminator",
        ),
        (
            planar,
            "[objective.regularizer.kl]\nfree_bits = 0.1",
            "objective.regularizer.kl",
        ),
        (
            planar,
            "[objective.regularizer.beta_tc]",
            "objective.regularizer.beta_tc",
        ),
        (
            planar,
            "[objective.regularizer.pixel_mean]",
            "objective.regularizer.pixel_mean",
        ),
        (
            "model.likelihood.gaussian = {}",
            "[objective.regularizer.pixel_mean]\nprobability_clip = 0.1",
            "objective.regularizer.pixel_mean.probability_clip",
        ),
        (
            planar,
            "[objective.regularizer.dip]",
            "objective.regularizer.dip",
        ),
        (
            autoencoder,
            "objective.regularizer = 'none'\nobjective.estimator.elbo.samples = 2",
            "objective.estimator.elbo",
        ),
        (
            autoencoder,
            "objective.regularizer = 'none'\nobjective.estimator.iwae.samples = 1",
            "objective.estimator.iwae",
        ),
        (
            plain,
            "objective.regularizer.kl.beta = 2.0\nobjective.estimator.iwae.samples = 2",
            "objective.estimator.iwae",
        ),
        (
            planar,
            "objective.estimator.iwae.doubly_reparameterized = true",
            "objective.estimator.iwae",
        ),
        (
            planar,
            "[objective.estimator.piwae]",
            "objective.estimator.piwae",
        ),
        (
            batch_norm,
            "[objective.estimator.piwae]",
            "objective.estimator.piwae",
        ),
        (
            plain,
            "[objective.estimator.iwae]\n[objective.decoder_penalty.gradient_penalty]",
            "objective.decoder_penalty.gradient_penalty",
        ),
        (
            batch_norm,
            "[objective.decoder_penalty.gradient_penalty]",
            "objective.decoder_penalty.gradient_penalty",
        ),
        (
            plain,
            "[objective.regularizer.kl.beta_schedule.cyclic]\nperiod_steps = 0",
            "objective",
        ),
        (
            plain,
            "[optimizer.adam]\nlearning_rate = 0.0",
            "optimizer.adam.learning_rate",
        ),
        (
            plain,
            "[optimizer.sgd]\nnesterov = true",
            "optimizer.sgd.nesterov",
        ),
        (
            plain,
            "[schedule.step]\nevery_steps = 0",
            "schedule.step.every_steps",
        ),
        (plain, "[training]\nbatch_size = 0", "training.batch_size"),
        (
            plain,
            "[training]\nevaluation_batch_size = 0",
            "training.evaluation_batch_size",
        ),
        (
            plain,
            "[training]\nmicro_batch_size = 0",
            "training.micro_batch_size",
        ),
        (plain, "[training]\nema_decay = 1.0", "training.ema_decay"),
        (plain, "[training.clip]\nnorm = 0.0", "training.clip.norm"),
        (
            plain,
            "[checkpoints]\nevery_epochs = 0",
            "checkpoints.every_epochs",
        ),
        (
            plain,
            "[early_stopping]\npatience_epochs = 0",
            "early_stopping.patience_epochs",
        ),
        (
            plain,
            "[safety]\nlearning_rate_factor = 0.0",
            "safety.learning_rate_factor",
        ),
        (plain, "[pictures]\nn_samples = 0", "pictures.n_samples"),
    ] {
        // With the parts of the config's model, and with a model built from another config.
        for of_config in [of_model, plain] {
            let of_network = match of_config == batch_norm {
                true => batch_norm,
                false => "model.network.mlp.hidden = [4]",
            };
            let of_parts = if of_config == batch_norm {
                ""
            } else {
                of_config
            };
            let text = format!("{of_network}\n{of_parts}\ndataset.idx.folder = 'here'\n{text}");
            let config: RunConfig = toml::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
            let vae = match of_model == batch_norm {
                true => {
                    let model: ModelConfig =
                        toml::from_str("network.conv_batch_norm.channels = [4]").expect("a model");
                    Vae::new(&model, common::SHAPE, Device::Cpu, 1).expect("a model")
                }
                false => model(of_model),
            };
            let errors = [
                Trainer::new(&vae, &splits, &config).err(),
                Learner::new(&vae, &config, 8).err(),
                evaluate(&vae, &config, &splits.train, 8, 0).err(),
            ];
            // If the model was built from another config, another refusal may come first.
            let key = match of_config != of_model && key.starts_with("objective.") {
                true => "objective.",
                false => key,
            };
            for error in errors {
                let error = error
                    .unwrap_or_else(|| panic!("accepted: {text}"))
                    .to_string();
                assert!(error.starts_with(key), "{text}: {error}");
            }
        }
    }
}

#[test]
fn no_data_set_is_opened_by_a_bad_config() {
    for (text, key) in [
        (
            "train_limit = 0\nidx.folder = 'here'",
            "dataset.train_limit",
        ),
        (
            "validation = 1.0\nidx.folder = 'here'",
            "dataset.validation",
        ),
        ("", "dataset"),
        ("idx.folder = 'here'\nsprites.file = 'there'", "dataset"),
        (
            "sprites = { file = 'there', test_fraction = 0.0 }",
            "dataset.sprites.test_fraction",
        ),
        (
            "image_folder = { path = 'there', image_size = 0 }",
            "dataset.image_folder.image_size",
        ),
        (
            "image_folder = { path = 'there', workers = 0 }",
            "dataset.image_folder.workers",
        ),
    ] {
        let config: DatasetConfig = toml::from_str(text).expect(text);
        for error in [config.load().err(), config.item_spec().err()] {
            let error = error.expect(text).to_string();
            assert!(error.starts_with(key), "{text}: {error}");
        }
    }
}

/// Draws of a model that the objective was not built for give a loss or an error.
#[test]
fn no_objective_panics_on_draws_of_any_model() {
    let regularizers: Vec<Regularizer> = [
        "'none'",
        "{ kl = { free_bits = 0.5 } }",
        "{ kl = { beta_schedule = { cyclic = { period_steps = 0 } } } }",
        "{ capacity = {} }",
        "{ beta_tc = {} }",
        "{ dip = { variant = 'two' } }",
        "{ factor = {} }",
        "{ mmd = { kl_weight = 1.0 } }",
        "{ latent_norm = {} }",
        "{ pixel_mean = { probability_clip = 0.1 } }",
    ]
    .map(|text| {
        let objective: Objective = toml::from_str(&format!("regularizer = {text}")).expect(text);
        objective.regularizer
    })
    .into();
    let estimators: Vec<Estimator> = [
        "{ elbo = {} }",
        "{ iwae = { samples = 2 } }",
        "{ iwae = { samples = 2, doubly_reparameterized = true } }",
        "{ miwae = { bounds = 2, samples = 2 } }",
        "{ piwae = { bounds = 1, samples = 2 } }",
        "{ ciwae = { samples = 2 } }",
    ]
    .map(|text| {
        let objective: Objective = toml::from_str(&format!("estimator = {text}")).expect(text);
        objective.estimator
    })
    .into();
    let mut n_errors = 0;
    let posteriors = [
        "{ diagonal_gaussian = {} }",
        "'full_covariance'",
        "{ planar = {} }",
        "{ iaf = {} }",
        "'von_mises_fisher'",
        "'deterministic'",
        "{ finite_scalar = { levels = [3, 3] } }",
    ];
    for posterior in posteriors {
        let prior = match posterior {
            "'von_mises_fisher'" => "model.prior = 'hyperspherical_uniform'",
            finite if finite.contains("finite_scalar") => "model.prior = 'uniform_codes'",
            _ => "",
        };
        let vae = model(&format!("model.posterior = {posterior}\n{prior}"));
        let images = common::dataset(4).first(4).expect("images");
        let mut noise = vae.generator(1);
        let draws = vae
            .draw(&images, 2, Mode::Train, &mut noise)
            .expect("draws");
        let context = LossContext {
            vae: &vae,
            step: 1,
            n_images: 8,
        };
        for regularizer in &regularizers {
            for estimator in &estimators {
                let objective = Objective {
                    regularizer: regularizer.clone(),
                    estimator: estimator.clone(),
                    ..Objective::default()
                };
                let loss = objective.loss(&draws, context, &mut noise);
                let _ = (objective.settled_step(), objective.scheduled(5));
                match loss {
                    Ok(loss) => assert_eq!(loss.numel(), 1),
                    Err(error) => {
                        let error = error.to_string();
                        assert!(error.starts_with("objective."), "{error}");
                        assert!(
                            objective.check(vae.config()).is_err(),
                            "{objective:?}: {error}"
                        );
                        n_errors += 1;
                    }
                }
            }
        }
    }
    assert!(n_errors > 50, "{n_errors}");
}
