//! Models with the class or attributes of an item as their condition.

use std::io::Cursor;

use tch::{CModule, Device, Kind, Tensor, no_grad};
use vae_model::{
    AttributeSpec, AttributeValues, ClosedKl, ConditionSpec, Conditioned, DataSpec, ImageShape,
    Mode, ModelConfig, ModelError, Part, Vae,
};

const SHAPE: ImageShape = ImageShape {
    channels: 2,
    height: 9,
    width: 7,
};

const NETWORKS: [&str; 5] = [
    "network.mlp.hidden = [20]",
    "network.conv = { channels = [4, 6], strides = [1, 2], hidden = 8, \
     decoder_channels = [5], decoder_strides = [2] }",
    "network.conv_batch_norm.channels = [4, 6]",
    "network.residual = { channels = [8, 12], group_size = 4 }",
    "network.dcgan.channels = [4, 6]",
];

/// A condition with three classes and one attribute.
fn data() -> DataSpec {
    DataSpec {
        item: SHAPE.into(),
        condition: ConditionSpec {
            classes: ["a", "b", "c"].map(str::to_owned).to_vec(),
            attributes: vec![AttributeSpec {
                name: "Smiling".to_owned(),
                values: AttributeValues::YesNo,
            }],
        },
    }
}

fn model(parts: &str) -> Vae {
    let condition = "condition = { classes = true, attributes = ['Smiling'] }";
    let text = format!("latent_dims = 3\n{condition}\n{parts}");
    let config: ModelConfig = toml::from_str(&text).expect("a model");
    Vae::new(&config, data(), Device::Cpu, 1).expect("a model")
}

fn images(n: i64) -> Tensor {
    let values = Tensor::arange(n * SHAPE.n_values(), (Kind::Int64, Device::Cpu));
    let values = (&values * &values).remainder(251).to_kind(Kind::Uint8);
    values.view([n, SHAPE.channels, SHAPE.height, SHAPE.width])
}

fn rows(conditions: &[&str]) -> Tensor {
    let spec = data().condition;
    let rows = conditions
        .iter()
        .map(|text| spec.parse(text).expect("a condition"));
    let rows: Vec<Vec<f32>> = rows.collect();
    Tensor::from_slice(&rows.concat()).view([conditions.len() as i64, -1])
}

fn largest(tensor: &Tensor) -> f64 {
    tensor.abs().max().double_value(&[])
}

#[test]
fn encoder_and_decoder_know_the_condition_each_image_its_own() {
    for network in NETWORKS {
        let vae = model(network);
        let (images, latents) = (
            images(1).repeat([4, 1, 1, 1]),
            Tensor::zeros([4, 3], (Kind::Float, Device::Cpu)),
        );
        let condition = rows(&["a,Smiling=1", "b,Smiling=1", "a,Smiling=0", ""]);
        no_grad(|| {
            let centers = vae.encode((&images, &condition)).expect("q").center();
            let decoded = vae.decode((&latents, &condition)).expect("images");
            for (i, j) in [(0, 1), (0, 2), (0, 3), (2, 3)] {
                for of in [&centers, &decoded] {
                    assert!(
                        largest(&(of.get(i) - of.get(j))) > 1e-6,
                        "{network}: {i} {j}"
                    );
                }
            }
            // An item has the same result alone and in a batch.
            let one = rows(&["b,Smiling=1"]);
            let alone = vae
                .decode((&latents.narrow(0, 0, 1), &one))
                .expect("an image");
            assert!(largest(&(alone.get(0) - decoded.get(1))) < 1e-6);
            let alone = vae
                .encode((&images.narrow(0, 0, 1), &one))
                .expect("q")
                .center();
            assert!(largest(&(alone.get(0) - centers.get(1))) < 1e-5);
            // K samples of each image have that image's condition.
            let noise = Tensor::zeros([2, 4, 3], (Kind::Float, Device::Cpu));
            let draws = vae
                .draw_with_noise((&images, &condition), &noise, Mode::Evaluate)
                .expect("draws");
            let means = vae.mean_images(&draws); // [2, 4, C, H, W]
            let again = vae.reconstruct((&images, &condition)).expect("images");
            for k in 0..2 {
                assert!(largest(&(means.get(k) - &again)) < 1e-5, "{network}");
            }
        });
    }
}

#[test]
fn a_condition_that_is_not_the_models_is_refused() {
    let vae = model(NETWORKS[0]);
    let images = images(2);
    let condition = rows(&["a", "b"]);
    let message = |images: Conditioned| vae.encode(images).expect_err("refused").to_string();
    assert_eq!(
        message((&images).into()),
        "condition: found none; expected f32 [2, 4], NaN where unknown"
    );
    for wrong in [
        condition.narrow(0, 0, 1),
        condition.narrow(1, 0, 3),
        condition.to_kind(Kind::Double),
    ] {
        assert!(message((&images, &wrong).into()).contains("expected f32 [2, 4]"));
    }
    let text = "latent_dims = 3\nnetwork.mlp.hidden = [20]";
    let config: ModelConfig = toml::from_str(text).expect("a model");
    let plain = Vae::new(&config, SHAPE, Device::Cpu, 1).expect("a model");
    let error = plain.encode((&images, &condition)).expect_err("refused");
    assert!(matches!(error, ModelError::Condition { .. }), "{error}");
    // A model of a config, and data with another condition.
    let error = Vae::new(vae.config(), SHAPE, Device::Cpu, 1).expect_err("refused");
    assert!(
        error
            .to_string()
            .contains("found none, expected classes = true"),
        "{error}"
    );
    assert!(Vae::new(&config, data(), Device::Cpu, 1).is_err());
}

#[test]
fn parts_that_cannot_take_a_condition_are_refused() {
    let check = |text: &str| {
        let config: ModelConfig = toml::from_str(text).expect("a model");
        config.check().map_err(|error| error.to_string())
    };
    for (text, message) in [
        ("condition = {}", "model.condition: it is empty"),
        ("condition.classes = false", "model.condition: it is empty"),
        (
            "condition.attributes = ['A', 'B', 'A']",
            "A is listed twice",
        ),
        (
            "condition = { classes = true, dropout = 1.0 }",
            "model.condition.dropout: found 1",
        ),
        (
            "condition = { classes = true, dropout = nan }",
            "model.condition.dropout: found NaN",
        ),
        (
            "prior = 'conditional_gaussian'",
            "has a Gaussian for each condition",
        ),
        (
            "prior.vamp = {}\ncondition.classes = true",
            "needs that of each",
        ),
    ] {
        let found = check(text).expect_err(text);
        assert!(found.contains(message), "{text}: {found}");
    }
    assert!(check("prior = 'conditional_gaussian'\ncondition.classes = true").is_ok());
}

#[test]
fn weights_know_their_condition() {
    let vae = model("network.mlp.hidden = [20]\nprior = 'conditional_gaussian'");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("weights.safetensors");
    vae.save(&file).expect("saved");
    let loaded = Vae::load(&file, Device::Cpu).expect("loaded");
    assert_eq!(loaded.condition(), &data().condition);
    assert_eq!(loaded.preprocessing().condition, data().condition);
    let (latents, condition) = (
        Tensor::ones([2, 3], (Kind::Float, Device::Cpu)),
        rows(&["c", ""]),
    );
    let decoded = |vae: &Vae| no_grad(|| vae.decode((&latents, &condition)).expect("images"));
    assert_eq!(decoded(&loaded), decoded(&vae));
}

#[test]
fn dropout_hides_the_condition_of_its_share_of_the_images_in_training_alone() {
    let n = 2000;
    let (images, condition) = (images(n), rows(&["b,Smiling=0"]).repeat([n, 1]));
    let share = |vae: &Vae, mode: Mode| {
        let given = (&images, &condition);
        let draws = no_grad(|| {
            vae.draw(given, 1, mode, &mut vae.generator(3))
                .expect("draws")
        });
        let unknown = draws.condition.expect("a condition").isnan();
        let whole = unknown.all_dim(1, false);
        assert_eq!(
            whole,
            unknown.any_dim(1, false),
            "all that is known, or nothing"
        );
        whole
            .to_kind(Kind::Double)
            .mean(Kind::Double)
            .double_value(&[])
    };
    let vae = model("network.mlp.hidden = [4]");
    assert_eq!(share(&vae, Mode::Evaluate), 0.0);
    // The default, 0.1, within five standard errors.
    let found = share(&vae, Mode::Train);
    assert!(
        (found - 0.1).abs() < 5.0 * (0.09 / n as f64).sqrt(),
        "{found}"
    );
}

#[test]
fn the_kl_to_a_conditional_prior_is_that_of_its_samples() {
    let vae = model("network.mlp.hidden = []\nprior = 'conditional_gaussian'");
    // Weights that make the prior differ from the standard normal.
    for (name, mut variable) in vae.named_variables() {
        if name.starts_with("prior.") {
            let values = Tensor::arange(variable.numel() as i64, (Kind::Float, Device::Cpu));
            no_grad(|| {
                variable.copy_(&((values * 1.7).sin() * 0.8).view(variable.size().as_slice()))
            });
        }
    }
    let (images, condition) = (images(3), rows(&["a,Smiling=1", "c", ""]));
    let given = (&images, &condition);
    let mut generator = vae.generator(5);
    no_grad(|| {
        let draws = vae
            .draw(given, 20_000, Mode::Evaluate, &mut generator)
            .expect("draws");
        let log_ratio = draws.log_qz_x.expect("a density") - &draws.log_pz; // [K, B]
        let sampled = log_ratio.mean_dim(0, false, Kind::Double);
        let error = log_ratio.std_dim([0_i64].as_slice(), true, false) / 20_000_f64.sqrt();
        let kl = draws.terms.kl.expect("a kl");
        let excess = (&sampled - &kl).abs() - error * 5.0;
        assert!(excess.max().double_value(&[]) < 0.0, "{sampled:?} {kl:?}");
        let posterior = vae.encode(given).expect("q");
        let closed = vae
            .closed_kl(&*posterior, Some(&condition))
            .expect("a condition");
        let Some(ClosedKl::PerDimension(closed)) = closed else {
            panic!("it is known in closed form");
        };
        let closed = closed.sum_dim_intlist(-1, false, Kind::Float);
        assert!(largest(&(closed - &kl)) < 1e-4);
        // Different conditions have different priors.
        let latents = Tensor::zeros([3, 3], (Kind::Float, Device::Cpu));
        let log_prob = vae
            .prior_log_prob((&latents, &condition))
            .expect("a density");
        assert!(largest(&(log_prob.get(0) - log_prob.get(1))) > 1e-3);
        let drawn = vae
            .sample_latents_of(&rows(&["a,Smiling=1"]).repeat([20_000, 1]), &mut generator)
            .expect("latents");
        let mean = drawn.mean_dim(0, false, Kind::Double);
        let one = vae.prior_log_prob((&drawn, &rows(&["a,Smiling=1"]).repeat([20_000, 1])));
        // −E log p is the entropy: for a Gaussian ½·Σ(ln σ² + ln 2πe), which the spread of its samples gives, too.
        let entropy = -one.expect("a density").mean(Kind::Double).double_value(&[]);
        let variances = drawn.var_dim([0_i64].as_slice(), true, false).log();
        let wanted = 0.5
            * (variances.sum(Kind::Double).double_value(&[])
                + 3.0 * (std::f64::consts::TAU.ln() + 1.0));
        assert!(
            (entropy - wanted).abs() < 0.05,
            "{entropy} {wanted} {mean:?}"
        );
    });
}

#[test]
fn exports_have_a_second_input() {
    let condition = rows(&["a,Smiling=1", "", "c", "b,Smiling=0", "Smiling=1"]);
    for network in NETWORKS {
        let vae = model(network);
        for part in Part::ALL {
            let options = (Kind::Float, Device::Cpu);
            let input = match part {
                Part::Encoder => Tensor::arange(5 * SHAPE.n_values(), options).sin() * 0.5 + 0.5,
                Part::Decoder => Tensor::arange(5 * 3, options).cos(),
            };
            let input = match part {
                Part::Encoder => input.view([5, SHAPE.channels, SHAPE.height, SHAPE.width]),
                Part::Decoder => input.view([5, 3]),
            };
            let file = vae.to_torchscript(part).expect("TorchScript");
            let module = CModule::load_data(&mut Cursor::new(file)).expect("loaded");
            let found = no_grad(|| module.forward_ts(&[&input, &condition])).expect("computed");
            let wanted = no_grad(|| vae.run_part(part, (&input, &condition))).expect("computed");
            let wanted = match part {
                Part::Encoder => Tensor::stack(&wanted, 0),
                Part::Decoder => wanted[0].shallow_clone(),
            };
            let difference = largest(&(found - wanted));
            assert!(
                difference < 1e-5,
                "{network}: {part:?} differs by {difference}"
            );
            let onnx = vae.to_onnx(part).expect("ONNX");
            let has = |name: &[u8]| onnx.windows(name.len()).any(|window| window == name);
            assert!(has(b"condition") && has(b"IsNaN"), "{network}");
        }
    }
}
