//! Latents that are a map, and codes at its places.

use std::io::Cursor;

use tch::{CModule, Device, Kind, Tensor, no_grad};
use vae_model::{
    ConditionSpec, DataSpec, ImageShape, LossContext, Mode, ModelConfig, Objective, Part, Vae,
};

const SHAPE: ImageShape = ImageShape {
    channels: 1,
    height: 24,
    width: 20,
};

const NETWORKS: [&str; 4] = [
    "network.conv = { channels = [4, 6], strides = [2, 2], decoder_channels = [6, 5], \
     decoder_strides = [2, 2] }",
    "network.conv_batch_norm.channels = [4, 6]",
    "network.residual = { channels = [8, 12, 16], group_size = 4 }",
    "network.dcgan.channels = [4, 6]",
];

const POSTERIORS: [&str; 3] = [
    "posterior.diagonal_gaussian = {}",
    "posterior = 'deterministic'",
    "posterior.finite_scalar.levels = [5, 4, 3]\nprior = 'uniform_codes'",
];

/// Latents `[3, 6, 5]`.
fn config(parts: &str) -> ModelConfig {
    toml::from_str(&format!("latent_shape = [3, 6, 5]\n{parts}")).expect("a model")
}

fn model(parts: &str) -> Vae {
    Vae::new(&config(parts), SHAPE, Device::Cpu, 1).expect("a model")
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
fn a_place_sees_its_part_of_the_image_and_makes_it() {
    // Without norms, because they depend on the whole image.
    let vae = model(NETWORKS[0]);
    let (before, after) = (images(1), images(1));
    let _ = after.narrow(2, 0, 3).narrow(3, 0, 3).fill_(255); // The upper left corner.
    no_grad(|| {
        let centers = |images: &Tensor| vae.encode(images).expect("q").center().view([3, 6, 5]);
        let change = (centers(&after) - centers(&before)).abs().amax(0, false); // [6, 5]
        assert!(change.double_value(&[0, 0]) > 1e-6);
        assert!(largest(&change.narrow(0, 3, 3)) == 0.0 && largest(&change.narrow(1, 3, 2)) == 0.0);

        let latents = Tensor::zeros([2, 3, 6, 5], (Kind::Float, Device::Cpu));
        let _ = latents.get(1).narrow(1, 5, 1).narrow(2, 4, 1).fill_(3.0); // The lower right place.
        let made = vae.decode(&latents.view([2, 90])).expect("images");
        let change = (made.get(1) - made.get(0)).abs().get(0); // [24, 20]
        assert!(largest(&change.narrow(0, 20, 4).narrow(1, 16, 4)) > 1e-6);
        assert!(largest(&change.narrow(0, 0, 8)) == 0.0 && largest(&change.narrow(1, 0, 6)) == 0.0);
    });
}

#[test]
fn every_network_learns_with_every_posterior_and_exports() {
    for network in NETWORKS {
        for posterior in POSTERIORS {
            // Weights large enough that the codes do not all start at the middle levels.
            let parts = format!("initialization = 'kaiming'\n{posterior}\n{network}");
            let vae = model(&parts);
            let objective: Objective = match vae.config().posterior.has_density() {
                true => Objective::default(),
                false => toml::from_str("regularizer = 'none'").expect("an objective"),
            };
            objective.check(vae.config()).expect("fits");
            let context = LossContext {
                vae: &vae,
                step: 0,
                n_images: 3,
            };
            let mut generator = vae.generator(2);
            let draws = vae
                .draw(&images(3), 1, Mode::Train, &mut generator)
                .expect("draws");
            assert_eq!(draws.latents.size(), [1, 3, 90]);
            let loss = objective.loss(&draws, context, &mut generator);
            loss.expect("a loss").backward();
            for (name, variable) in vae.trainable_variables() {
                let gradient = variable.grad();
                // An untrained residual block is the identity, so its inner layers have no gradient yet.
                let is_inside = name.contains(".block.");
                let reached = is_inside || gradient.defined() && largest(&gradient) > 0.0;
                assert!(reached, "{parts}: {name}");
            }
            let codes = draws.posterior.codes();
            assert_eq!(codes.is_some(), posterior.contains("finite_scalar"));
            if let Some(codes) = codes {
                assert_eq!(codes.size(), [3, 30]);
                assert!(codes.max().int64_value(&[]) < 60 && codes.min().int64_value(&[]) >= 0);
                let again = vae.codes(&draws.posterior.center()).expect("latents");
                assert_eq!(again, Some(codes));
            }
            let samples = no_grad(|| vae.sample(2, &mut generator)).expect("images");
            assert_eq!(samples.size(), [2, 1, 24, 20]);
            for part in Part::ALL {
                let options = (Kind::Float, Device::Cpu);
                let input = match part {
                    Part::Encoder => Tensor::arange(5 * 480, options).sin() * 0.5 + 0.5,
                    Part::Decoder => Tensor::arange(5 * 90, options).cos(),
                };
                let input = match part {
                    Part::Encoder => input.view([5, 1, 24, 20]),
                    Part::Decoder => input.view([5, 90]),
                };
                let file = vae.to_torchscript(part).expect("TorchScript");
                let module = CModule::load_data(&mut Cursor::new(file)).expect("loaded");
                let found = no_grad(|| module.forward_ts(&[&input])).expect("computed");
                let wanted = no_grad(|| vae.run_part(part, &input)).expect("computed");
                let wanted = match part {
                    Part::Encoder => Tensor::stack(&wanted, 0),
                    Part::Decoder => wanted[0].shallow_clone(),
                };
                assert!(largest(&(found - wanted)) < 1e-5, "{parts}: {part:?}");
                assert!(!vae.to_onnx(part).expect("ONNX").is_empty());
            }
        }
    }
}

#[test]
fn a_map_knows_its_condition_at_every_place() {
    let condition = ConditionSpec {
        classes: ["a", "b"].map(str::to_owned).to_vec(),
        attributes: vec![],
    };
    let data = DataSpec {
        item: SHAPE.into(),
        condition: condition.clone(),
    };
    let parts = format!(
        "initialization = 'kaiming'\ncondition.classes = true\n{}",
        NETWORKS[2]
    );
    let vae = Vae::new(&config(&parts), data, Device::Cpu, 1).expect("a model");
    let rows = ["a", "b"].map(|class| condition.parse(class).expect("a class"));
    let rows = Tensor::from_slice(&rows.concat()).view([2, 2]);
    let latents = Tensor::arange(90, (Kind::Float, Device::Cpu))
        .sin()
        .repeat([2, 1]);
    let made = no_grad(|| vae.decode((&latents, &rows))).expect("images");
    let change = (made.get(0) - made.get(1)).abs().get(0);
    for corner in [(0, 0), (0, 16), (20, 0), (20, 16)] {
        let corner = change.narrow(0, corner.0, 4).narrow(1, corner.1, 4);
        assert!(largest(&corner) > 1e-7);
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused_with_those_that_would() {
    let built = |text: &str| -> String {
        let config: ModelConfig = toml::from_str(text).expect("a model");
        let built = Vae::new(&config, SHAPE, Device::Cpu, 1);
        built.expect_err(text).to_string()
    };
    let codes = |text: &str| format!("prior = 'uniform_codes'\n{text}");
    for (text, message) in [
        (format!("latent_shape = [3, 7, 5]\n{}", NETWORKS[0]), "the encoder's last maps are 6×5"),
        ("latent_shape = [3, 6, 5]\nnetwork.mlp = {}".to_owned(), "the network mlp has no feature maps"),
        (format!("latent_shape = [3, 6, 5]\nlatent_dims = 2\n{}", NETWORKS[0]), "3·6·5 = 90"),
        (format!("latent_shape = [3, 0, 5]\n{}", NETWORKS[0]), "found 0"),
        (
            format!("latent_shape = [3, 6, 5]\nposterior.iaf = {{}}\n{}", NETWORKS[0]),
            "diagonal_gaussian, deterministic or finite_scalar would fit",
        ),
        (
            format!(
                "latent_shape = [3, 6, 5]\nprior = 'uniform_codes'\nposterior.finite_scalar = {{}}\n{}",
                NETWORKS[0]
            ),
            "levels",
        ),
        (
            "latent_dims = 8\nposterior.finite_scalar = {}".to_owned(),
            "uniform_codes would fit",
        ),
        (
            "latent_dims = 8\nprior = 'uniform_codes'".to_owned(),
            "at the levels of codes",
        ),
        (
            "latent_dims = 8\nprior = 'uniform_codes'\nposterior.finite_scalar.levels = [1, 5]".to_owned(),
            "expected numbers from 2 to 1024",
        ),
        (
            "latent_dims = 8\nprior = 'uniform_codes'\nposterior.finite_scalar.levels = []".to_owned(),
            "found none, expected at least one",
        ),
        (
            "latent_dims = 9\nprior = 'uniform_codes'\nposterior.finite_scalar.levels = [4, 4]".to_owned(),
            "do not divide into codes",
        ),
        (
            "latent_dims = 12\nprior = 'uniform_codes'\nposterior.finite_scalar.levels = [1000, 1000, 1000]"
                .to_owned(),
            "more than 16777216 codes",
        ),
        ("latent_shape = [64, 1024, 1024]\nnetwork.residual.channels = [8]".to_owned(), "model.latent_shape: found 67108864 latents"),
        (codes("latent_dims = 9\nposterior.vector_quantized = { code_dims = 4 }"), "a multiple of 4 would fit"),
        (codes("latent_dims = 9\nposterior.vector_quantized = { heads = 2 }"), "a multiple of 2 would fit"),
        (codes("latent_dims = 9\nposterior.vector_quantized = { heads = 0 }"), "vector_quantized.heads: found 0"),
        (codes("latent_dims = 9\nposterior.vector_quantized = { codes = 1 }"), "expected a number from 2"),
        (codes("latent_dims = 9\nposterior.vector_quantized = { commitment = nan }"), "commitment: found NaN"),
        (codes("latent_dims = 9\nposterior.vector_quantized.codebook.ema.decay = 1.0"), "ema.decay: found 1.0"),
        (
            codes("latent_dims = 9\nposterior.vector_quantized = { depth = 2, distance = 'cosine' }"),
            "euclidean would fit",
        ),
        (
            codes(&format!("latent_shape = [3, 6, 5]\nposterior.vector_quantized = {{ heads = 2 }}\n{}", NETWORKS[0])),
            "let heads divide the channels",
        ),
        (codes("latent_dims = 22\nposterior.lookup_free = {}"), "22 latents, expected at most 20; code_dims divides"),
        (codes("latent_dims = 9\nposterior.lookup_free = { code_dims = 2 }"), "a multiple of 2 would fit"),
        (codes("latent_dims = 9\nposterior.lookup_free = { entropy = -1.0 }"), "lookup_free.entropy: found -1.0"),
        (codes("topology = 'pyramid'\nposterior.vector_quantized = {}"), "latent_shape, which is the lower one, is missing"),
        (
            format!("latent_shape = [3, 6, 5]\ntopology = 'pyramid'\n{}", NETWORKS[0]),
            "pyramid has two maps of codes, and the posterior is diagonal_gaussian",
        ),
        (
            codes(&format!(
                "latent_shape = [3, 6, 5]\nlatent_dims = 90\ntopology = 'pyramid'\nposterior.lookup_free = {{}}\n{}",
                NETWORKS[0]
            )),
            "3·6·5 = 90, and 117 with the map above it",
        ),
    ] {
        let found = built(&text);
        assert!(found.contains(message), "{text}: {found}");
    }
}
