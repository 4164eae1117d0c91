//! A hierarchy of latent maps.

use std::io::Cursor;

use tch::{CModule, Device, Kind, Tensor, no_grad};
use vae_model::{
    DataSpec, Generator, ImageShape, LossContext, Mode, ModelConfig, ModelError, Objective, Part,
    Vae,
};

const SHAPE: ImageShape = ImageShape {
    channels: 1,
    height: 6,
    width: 6,
};

/// Groups from the top: 2·1·1, twice 1·3·3, 1·6·6.
fn config(extra: &str) -> ModelConfig {
    let text = format!(
        "{extra}\n[network.top_down]\nsizes = [1, 3, 6]\nwidths = [8, 6, 4]\nblocks = [1, 2, 1]\n\
         latents = [2, 1, 1]\nencoder_blocks = [0, 1, 1]\n"
    );
    toml::from_str(&text).expect("a model")
}

fn fresh(config: &ModelConfig, data: impl Into<DataSpec>) -> Vae {
    Vae::new(config, data, Device::Cpu, 1).expect("a model")
}

/// With the weights that are zero in a fresh model drawn, too.
fn drawn(config: &ModelConfig, data: impl Into<DataSpec>) -> Vae {
    let vae = fresh(config, data);
    let mut generator = Generator::cpu(5);
    for (name, mut variable) in vae.named_variables() {
        if name.starts_with("decoder.") || name.starts_with("posterior.") {
            let values = generator.normal(variable.size(), Device::Cpu) * 0.3;
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

fn noise(k: i64, b: i64, z: i64) -> Tensor {
    Generator::cpu(3).normal([k, b, z], Device::Cpu)
}

const Z: i64 = 2 + 9 + 9 + 36;

#[test]
fn a_fresh_model_has_nearly_no_kl_and_gradients_that_are_finite() {
    let vae = fresh(&config(""), SHAPE);
    let groups = vae.config().latent_groups();
    let names: Vec<&str> = groups.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["z4", "z3", "z2", "z1"]);
    assert_eq!(groups[1].1, 2..11);
    assert_eq!(vae.config().n_latents(), Z);
    let draws = vae
        .draw(&images(4), 2, Mode::Train, &mut vae.generator(1))
        .expect("draws");
    assert!(largest(draws.terms.kl.as_ref().expect("a kl")) < 0.02 * Z as f64);
    // p(z) is N(0, I).
    let noise = noise(1, 4, Z).squeeze_dim(0);
    let of_normal = (noise.square() + std::f64::consts::TAU.ln()) * -0.5;
    let of_normal = of_normal.sum_dim_intlist(1, false, Kind::Float);
    let log_pz = vae.prior_log_prob(&noise).expect("log p(z)");
    assert!(largest(&(log_pz - of_normal)) < 1e-4);
    let loss = Objective::default()
        .loss(
            &draws,
            LossContext {
                vae: &vae,
                step: 0,
                n_images: 4,
            },
            &mut vae.generator(2),
        )
        .expect("a loss");
    loss.backward();
    for (name, variable) in vae.trainable_variables() {
        let gradient = variable.grad();
        assert!(gradient.defined(), "{name} is used");
        assert!(largest(&gradient).is_finite(), "{name}");
    }
}

#[test]
fn one_way_down_gives_what_the_parts_give_one_by_one() {
    let vae = drawn(&config(""), SHAPE);
    let noise = noise(3, 4, Z);
    let draws = no_grad(|| vae.draw_with_noise(&images(4), &noise, Mode::Evaluate)).expect("draws");
    let latents = &draws.latents;
    let (log_px_z, log_pz) = no_grad(|| vae.log_joint(&images(4), latents)).expect("log p(x, z)");
    assert!(largest(&(&draws.log_px_z - log_px_z)) < 1e-3);
    assert!(largest(&(&draws.log_pz - log_pz)) < 1e-3);
    let posterior = no_grad(|| vae.encode(&images(4))).expect("a posterior");
    let drawn = no_grad(|| posterior.draw(&noise));
    assert!(largest(&(&drawn.latents - latents)) < 1e-4);
    let log_q = draws.log_qz_x.as_ref().expect("a density");
    assert!(largest(&(drawn.log_prob.expect("one") - log_q)) < 1e-3);
    let at_latents = no_grad(|| posterior.log_prob(latents)).expect("at any latents");
    assert!(largest(&(at_latents - log_q)) < 2e-3);
    // [N, 1, Z] with [B, Z], and [B, Z].
    let first = latents.narrow(1, 0, 1);
    let pairs = no_grad(|| posterior.log_prob(&first)).expect("pairs");
    assert_eq!(pairs.size(), [3, 4]);
    assert!(largest(&(pairs.select(1, 0) - log_q.select(1, 0))) < 2e-3);
    let single = no_grad(|| posterior.log_prob(&latents.get(2))).expect("one each");
    assert!(largest(&(single - log_q.get(2))) < 2e-3);
    // Zero noise gives the center.
    let zeros = Tensor::zeros([1, 4, Z], (Kind::Float, Device::Cpu));
    let center = no_grad(|| posterior.draw(&zeros)).latents.squeeze_dim(0);
    assert!(largest(&(no_grad(|| posterior.center()) - center)) < 1e-5);
    // An image's draws do not depend on the others of its batch.
    let alone = no_grad(|| vae.draw_with_noise(&images(1), &noise.narrow(1, 0, 1), Mode::Evaluate));
    let alone = alone.expect("draws").latents;
    assert!(largest(&(alone - latents.narrow(1, 0, 1))) < 1e-4);
}

#[test]
fn the_kl_of_groups_and_resolutions_sums_to_the_kl_and_that_is_the_mean_ratio_of_the_densities() {
    let vae = drawn(&config(""), SHAPE);
    let n_samples = 4000;
    let draws = no_grad(|| vae.draw(&images(2), n_samples, Mode::Evaluate, &mut vae.generator(1)));
    let draws = draws.expect("draws");
    let kl = draws.terms.kl.as_ref().expect("a kl");
    let of = |names: &[&str]| -> Tensor {
        let terms = names.iter().map(|name| draws.named.get(name).expect(name));
        let terms: Vec<Tensor> = terms.map(Tensor::shallow_clone).collect();
        Tensor::stack(&terms, 0).sum_dim_intlist(0, false, Kind::Float)
    };
    assert!(largest(&(of(&["kl_4", "kl_3", "kl_2", "kl_1"]) - kl)) < 1e-3);
    assert!(largest(&(of(&["kl_at_1", "kl_at_3", "kl_at_6"]) - kl)) < 1e-3);
    assert!(largest(&(of(&["kl_at_3"]) - of(&["kl_3", "kl_2"]))) < 1e-4);
    let declared: Vec<String> = vae
        .config()
        .terms()
        .iter()
        .map(|t| t.name.to_string())
        .collect();
    let named: Vec<String> = draws
        .named
        .iter()
        .map(|(t, _)| t.name.to_string())
        .collect();
    assert_eq!(declared, named);
    let log_ratio = draws.log_qz_x.as_ref().expect("a density") - &draws.log_pz; // [K, B]
    let error = log_ratio.std_dim([0_i64].as_slice(), true, false) / (n_samples as f64).sqrt();
    let sampled = log_ratio.mean_dim(0, false, Kind::Double);
    assert!(
        largest(&((kl - sampled) / &error)) < 5.0,
        "{kl:?} {log_ratio:?}"
    );
    assert!(
        kl.min().double_value(&[]) > 10.0 * largest(&error),
        "there is something to find"
    );
}

#[test]
fn importance_weights_of_the_true_model_are_all_its_likelihood() {
    // Where p(x|z) does not depend on z and q(z|x) = p(z), each weight is p(x).
    let vae = fresh(&config(""), SHAPE);
    for (name, mut variable) in vae.named_variables() {
        if name.contains("projection") || name.starts_with("posterior.") {
            let _ = no_grad(|| variable.zero_());
        }
    }
    let draws = no_grad(|| vae.draw(&images(2), 50, Mode::Evaluate, &mut vae.generator(1)));
    let weights = draws.expect("draws").log_weights().expect("a density");
    let spread = weights.std_dim([0_i64].as_slice(), true, false);
    assert!(largest(&spread) < 1e-3, "{spread:?}");
}

#[test]
fn groups_below_are_drawn_anew_and_those_above_are_kept() {
    let vae = drawn(&config(""), SHAPE);
    let latents = no_grad(|| vae.sample_latents(500, &mut vae.generator(1)));
    let redrawn = |n_kept: usize, seed: u64| {
        let drawn = no_grad(|| vae.redraw_below(&latents, n_kept, &mut vae.generator(seed)));
        drawn.expect("latents").expect("groups")
    };
    for (n_kept, end) in [(0, 0), (1, 2), (3, 20), (4, 56)] {
        let drawn = redrawn(n_kept, 2);
        let difference = (&drawn - &latents).abs().amax(0, false); // [Z]
        assert_eq!(
            difference
                .narrow(0, 0, end)
                .sum(Kind::Float)
                .double_value(&[]),
            0.0
        );
        if end < Z {
            assert!(difference.narrow(0, end, Z - end).min().double_value(&[]) > 0.5);
        }
    }
    // Redrawn latents are from the prior as well: the mean log p(z) is the same.
    let mean = |latents: &Tensor| {
        let log_pz = no_grad(|| vae.prior_log_prob(latents)).expect("log p(z)");
        log_pz.mean(Kind::Double).double_value(&[])
    };
    let error = 5.0 * f64::sqrt(2.0 * 56.0 / 2.0 / 500.0);
    assert!((mean(&latents) - mean(&redrawn(1, 3))).abs() < error);
    let flat: ModelConfig = toml::from_str("network.mlp.hidden = [3]").expect("a model");
    let flat = fresh(&flat, SHAPE);
    let latents = flat.sample_latents(2, &mut flat.generator(1));
    assert!(
        flat.redraw_below(&latents, 0, &mut flat.generator(1))
            .expect("latents")
            .is_none()
    );
}

#[test]
fn exports_compute_what_the_model_does() {
    let vae = drawn(&config(""), SHAPE);
    for n in [1, 3] {
        let floats = images(n).to_kind(Kind::Float) / 255.0;
        let traced = |part: Part| {
            let bytes = vae.to_torchscript(part).expect("TorchScript");
            CModule::load_data(&mut Cursor::new(bytes)).expect("a module")
        };
        let center = no_grad(|| vae.encode(&images(n)).expect("a posterior").center());
        let encoded = traced(Part::Encoder)
            .forward_ts(&[floats])
            .expect("latents");
        assert!(largest(&(encoded.get(0) - &center)) < 1e-4, "{n}");
        let decoded = traced(Part::Decoder)
            .forward_ts(&[&center])
            .expect("images");
        let wanted = no_grad(|| vae.decode(&center)).expect("images");
        assert!(largest(&(decoded - wanted)) < 1e-5, "{n}");
    }
    for part in Part::ALL {
        assert!(vae.to_onnx(part).expect("ONNX").len() > 1000);
    }
    let summary = vae.summary();
    let decoder = summary
        .iter()
        .find(|part| part.name == "decoder")
        .expect("a decoder");
    assert!(
        decoder
            .layers
            .iter()
            .any(|layer| layer.name == "decoder.1.block.0.prior.1")
    );
    let n_parameters: usize = summary.iter().map(|part| part.n_parameters).sum();
    assert_eq!(n_parameters, vae.n_parameters());
}

fn refusal(text: &str) -> String {
    let config: ModelConfig = toml::from_str(text).expect(text);
    let refused = config
        .check()
        .map(|()| Vae::new(&config, SHAPE, Device::Cpu, 1).map(|_| ()));
    match refused {
        Err(error) | Ok(Err(error)) => error.to_string(),
        Ok(Ok(())) => panic!("{text} is no model"),
    }
}

#[test]
fn what_does_not_fit_is_refused_with_what_would() {
    let fits = "sizes = [1, 3, 6]\nwidths = [8, 6, 4]\nblocks = [1, 2, 1]\nlatents = [2, 1, 1]\n\
                encoder_blocks = [0, 1, 1]\n";
    let with = |from: &str, to: &str, before: &str| {
        assert!(fits.contains(from), "{from}");
        refusal(&format!(
            "{before}\n[network.top_down]\n{}",
            fits.replace(from, to)
        ))
    };
    for (from, to, before, wanted) in [
        ("[1, 3, 6]", "[1, 2, 6]", "", "half of it, 3, or 1"),
        ("[1, 3, 6]", "[1, 4, 8]", "", "the items are 1×6×6"),
        ("[8, 6, 4]", "[8, 6]", "", "widths"),
        ("[8, 6, 4]", "[8, 5, 4]", "", "squeeze"),
        ("[1, 2, 1]", "[1, 0, 1]", "", "has no blocks"),
        ("[2, 1, 1]", "[0, 0, 0]", "", "at least one"),
        ("[2, 1, 1]", "[2, -1, 1]", "", "latents"),
        ("[2, 1, 1]", "[2, 1, 1]", "latent_dims = 3", "56 together"),
        (
            "[2, 1, 1]",
            "[2, 1, 1]",
            "latent_shape = [1, 7, 8]",
            "latent_shape",
        ),
        ("[2, 1, 1]", "[2, 1, 1]", "topology.ladder = {}", "topology"),
        (
            "[2, 1, 1]",
            "[2, 1, 1]",
            "decoder_spectral_norm = true",
            "spectral",
        ),
        (
            "[2, 1, 1]",
            "[2, 1, 1]",
            "posterior = 'deterministic'",
            "diagonal_gaussian would fit",
        ),
        (
            "[2, 1, 1]",
            "[2, 1, 1]",
            "prior.real_nvp = {}",
            "standard_normal would fit",
        ),
    ] {
        let problem = with(from, to, before);
        assert!(problem.contains(wanted), "{to} {before}: {problem}");
    }
    let model = config("");
    for (text, wanted) in [
        ("estimator.piwae = {}", "iwae"),
        (
            "estimator.iwae.doubly_reparameterized = true",
            "without doubly_reparameterized",
        ),
        ("decoder_penalty.gradient_penalty = {}", "l2"),
        ("regularizer.beta_tc = {}", "of a hierarchy"),
        ("regularizer.kl.free_bits = 0.1", "free_bits"),
    ] {
        let objective: Objective = toml::from_str(text).expect(text);
        let problem = objective.check(&model).expect_err(text).to_string();
        assert!(problem.contains(wanted), "{text}: {problem}");
    }
    let other: ImageShape = ImageShape { width: 7, ..SHAPE };
    let refused = Vae::new(&model, other, Device::Cpu, 1).expect_err("not a square");
    assert!(matches!(refused, ModelError::Config { .. }), "{refused}");
    assert!(refused.to_string().contains("squares"), "{refused}");
}

/// A hierarchy of two latents and one pixel that is linear: z2 ~ N(0, 1), z1 ~ N(a·z2, s²), x ~ N(c·z2 + b·z1, σ²).
/// Its exact posterior is Gaussian.
struct LinearGaussian {
    a: f64,
    s: f64,
    b: f64,
    c: f64,
    sigma: f64,
}

impl LinearGaussian {
    /// Precision matrix of (z2, z1) given x.
    fn precision(&self) -> [[f64; 2]; 2] {
        let Self { a, s, b, c, sigma } = *self;
        let (of_z1, of_x) = (1.0 / (s * s), 1.0 / (sigma * sigma));
        let between = -a * of_z1 + b * c * of_x;
        [
            [1.0 + a * a * of_z1 + c * c * of_x, between],
            [between, of_z1 + b * b * of_x],
        ]
    }

    /// Mean of (z2, z1) given x, divided by x, and the covariance.
    fn posterior(&self) -> ([f64; 2], [[f64; 2]; 2]) {
        let [[p, q], [_, r]] = self.precision();
        let det = p * r - q * q;
        let covariance = [[r / det, -q / det], [-q / det, p / det]];
        let [of_z2, of_z1] = [self.c, self.b].map(|slope| slope / (self.sigma * self.sigma));
        let mean = covariance.map(|row| row[0] * of_z2 + row[1] * of_z1);
        (mean, covariance)
    }

    /// The model with weights set by hand. SiLU is the identity for large values, so that the state and the inside of
    /// branches are offset by 30; channel 0 of the state is z2, channel 1 is z1.
    fn model(&self) -> Vae {
        const FAR: f64 = 30.0;
        let Self { a, s, b, c, sigma } = *self;
        let text = format!(
            "likelihood.gaussian = {{ sigma = {sigma}, mean = 'linear' }}\n[network.top_down]\nsizes = [1]\nwidths = [2]\n\
             blocks = [2]\nlatents = [1]\nencoder_blocks = [0]\nsqueeze = 1\n"
        );
        let pixel = ImageShape {
            channels: 1,
            height: 1,
            width: 1,
        };
        let config = toml::from_str(&text).expect("a model");
        let vae = fresh(&config, pixel);
        let set = |name: &str, values: &[f64]| {
            let variables = vae.named_variables();
            let found = variables.iter().find(|(found, _)| found == name);
            let mut variable = found.unwrap_or_else(|| panic!("{name}")).1.shallow_clone();
            let values = Tensor::from_slice(values).to_kind(Kind::Float);
            no_grad(|| variable.copy_(&values.view(variable.size().as_slice())));
        };
        for (name, mut variable) in vae.named_variables() {
            let _ = no_grad(|| variable.zero_());
            assert!(!name.is_empty());
        }
        // Evidence: y for channel 0 of the first group and for channel 1 of the second, of maps (30 + x, 0).
        let center = |weights: &[f64]| -> Vec<f64> {
            let kernel = |&w: &f64| (0..9).map(move |i| if i == 4 { w } else { 0.0 });
            weights.iter().flat_map(kernel).collect()
        };
        set("encoder.0.conv.weight", &center(&[1.0, 0.0]));
        set("encoder.0.conv.bias", &[FAR, 0.0]);
        set(
            "encoder.0.evidence.weight",
            &[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        );
        let away = -FAR;
        set("encoder.0.evidence.bias", &[away, 0.0, 0.0, away]);
        set("decoder.start", &[FAR, FAR]);
        let identity = [1.0, 0.0, 0.0, 1.0];
        let (mean, covariance) = self.posterior();
        // q(z2|x): channel 0 inside is 30 + y.
        let (block, of_q) = ("decoder.0.block.0", "posterior.0.block.0");
        set(&format!("{of_q}.0.bias"), &[FAR, FAR]);
        set(&format!("{of_q}.1.weight"), &identity);
        set(&format!("{of_q}.2.weight"), &[mean[0], 0.0, 0.0, 0.0]);
        let log_ratio = covariance[0][0].ln();
        set(&format!("{of_q}.2.bias"), &[-FAR * mean[0], log_ratio]);
        set(&format!("{block}.projection.weight"), &[1.0, 0.0]);
        // p(z1|z2): channel 0 inside is 30 + z2.
        let (block, of_q) = ("decoder.0.block.1", "posterior.0.block.1");
        set(&format!("{block}.prior.0.weight"), &identity);
        set(&format!("{block}.prior.1.weight"), &identity);
        let zeros = [0.0; 6];
        set(
            &format!("{block}.prior.2.weight"),
            &[&[a, 0.0][..], &zeros].concat(),
        );
        set(
            &format!("{block}.prior.2.bias"),
            &[-FAR * a, 2.0 * s.ln(), 0.0, 0.0],
        );
        // q(z1|z2, x) = N(slope_y·y + slope_z2·z2, variance): channels inside 30 + z2 and 30 + y.
        let [_, [between, of_z1]] = self.precision();
        let variance = 1.0 / of_z1;
        let slope_y = b / (sigma * sigma) * variance;
        let slope_z2 = -between * variance;
        let shift = [(slope_z2 - a) / s, slope_y / s];
        set(&format!("{of_q}.0.weight"), &[1.0, 0.0, 0.0, 0.0]);
        set(&format!("{of_q}.0.bias"), &[0.0, FAR]);
        set(&format!("{of_q}.1.weight"), &identity);
        set(&format!("{of_q}.2.weight"), &[shift[0], shift[1], 0.0, 0.0]);
        let log_ratio = (variance / (s * s)).ln();
        let bias = [-FAR * (shift[0] + shift[1]), log_ratio];
        set(&format!("{of_q}.2.bias"), &bias);
        set(&format!("{block}.projection.weight"), &[0.0, 1.0]);
        set("decoder.likelihood.weight", &center(&[c, b]));
        set("decoder.likelihood.bias", &[-FAR * (b + c)]);
        vae
    }
}

#[test]
fn of_a_linear_gaussian_hierarchy_kl_weights_and_posterior_are_those_in_closed_form() {
    let hierarchy = LinearGaussian {
        a: 0.8,
        s: 0.6,
        b: 0.5,
        c: -0.3,
        sigma: 0.4,
    };
    let LinearGaussian { a, s, b, c, sigma } = hierarchy;
    let vae = hierarchy.model();
    let bytes = [0_u8, 90, 255];
    let images = Tensor::from_slice(&bytes).view([3, 1, 1, 1]);
    let n = 20_000;
    let draws = no_grad(|| vae.draw(&images, n, Mode::Evaluate, &mut vae.generator(1)));
    let draws = draws.expect("draws");
    let weights = draws.log_weights().expect("densities"); // [K, B]
    let kl = draws.terms.kl.as_ref().expect("a kl");
    let (mean, covariance) = hierarchy.posterior();
    let center = no_grad(|| vae.encode(&images))
        .expect("a posterior")
        .center();
    for (i, byte) in bytes.into_iter().enumerate() {
        let (i, y) = (i as i64, f64::from(byte) / 127.5 - 1.0);
        for (dim, slope) in mean.into_iter().enumerate() {
            let found = center.double_value(&[i, dim as i64]);
            assert!((found - slope * y).abs() < 1e-4, "{found} {}", slope * y);
        }
        // With the exact posterior each weight is p(x) = N(0, σ² + b²·s² + (a·b + c)²).
        let variance = sigma * sigma + b * b * s * s + (a * b + c) * (a * b + c);
        let wanted = -0.5 * (y * y / variance + (std::f64::consts::TAU * variance).ln());
        let of_image = weights.select(1, i);
        assert!(largest(&(of_image - wanted)) < 2e-4, "{wanted}");
        // KL(N(m, S) ‖ N(0, P)) with P of the prior: ½·(tr P⁻¹S + mᵀP⁻¹m − 2 + ln |P|/|S|).
        let inverse = [
            [1.0 + a * a / (s * s), -a / (s * s)],
            [-a / (s * s), 1.0 / (s * s)],
        ];
        let (mut trace, mut square) = (0.0, 0.0);
        for j in 0..2 {
            for k in 0..2 {
                trace += inverse[j][k] * covariance[k][j];
                square += mean[j] * y * inverse[j][k] * mean[k] * y;
            }
        }
        let det = covariance[0][0] * covariance[1][1] - covariance[0][1] * covariance[1][0];
        let wanted = 0.5 * (trace + square - 2.0 + (s * s / det).ln());
        let found = kl.double_value(&[i]);
        assert!((found - wanted).abs() < 0.02 * wanted, "{found} {wanted}");
    }
    // The kl of the upper latent has no sample in it.
    let of_top = draws.named.get("kl_2").expect("a group");
    let y: f64 = -1.0;
    let wanted = 0.5 * ((mean[0] * y).powi(2) + covariance[0][0] - covariance[0][0].ln() - 1.0);
    assert!((of_top.double_value(&[0]) - wanted).abs() < 1e-4);
}

#[test]
fn free_bits_and_the_warm_up_count_each_group_by_itself() {
    let vae = drawn(&config(""), SHAPE);
    let draws = vae
        .draw(&images(4), 1, Mode::Train, &mut vae.generator(1))
        .expect("draws");
    let mean = |tensor: &Tensor| tensor.mean(Kind::Double).double_value(&[]);
    let groups = ["kl_4", "kl_3", "kl_2", "kl_1"];
    let kl = groups.map(|name| mean(draws.named.get(name).expect(name)));
    let reconstruction = mean(&draws.terms.reconstruction);
    let penalty = |text: &str, step: u64| {
        let objective: Objective = toml::from_str(text).expect(text);
        objective.check(vae.config()).expect(text);
        let context = LossContext {
            vae: &vae,
            step,
            n_images: 4,
        };
        let mut generator = vae.generator(2);
        let (loss, terms) = objective
            .loss_and_terms(&draws, context, &mut generator)
            .expect("a loss");
        let free = terms.get("free_bits_kl").map(mean);
        (loss.double_value(&[]) - reconstruction, free)
    };
    let close = |found: f64, wanted: f64| {
        assert!(
            (found - wanted).abs() < 1e-3 * wanted.abs().max(1.0),
            "{found} {wanted}"
        );
    };
    // Between the smallest and the largest.
    let mut sorted = kl;
    sorted.sort_by(f64::total_cmp);
    let free = (sorted[1] + sorted[2]) / 2.0;
    let (found, logged) = penalty(&format!("regularizer.kl.free_bits_per_group = {free}"), 0);
    let wanted: f64 = kl.iter().map(|&kl| kl.max(free)).sum();
    close(found, wanted);
    close(logged.expect("a term"), wanted);
    // Of 400 steps each of four groups takes 100; after 250 two are done and the third is half-way.
    let by_group = |first: &str| {
        format!(
            "regularizer.kl = {{ beta = 2.0, beta_schedule.by_group = {{ steps = 400, first = '{first}' }} }}"
        )
    };
    close(
        penalty(&by_group("top"), 250).0,
        2.0 * (kl[0] + kl[1] + 0.5 * kl[2]),
    );
    close(
        penalty(&by_group("lowest"), 250).0,
        2.0 * (kl[3] + kl[2] + 0.5 * kl[1]),
    );
    close(penalty(&by_group("lowest"), 0).0, 0.0);
    close(
        penalty(&by_group("lowest"), 400).0,
        2.0 * kl.iter().sum::<f64>(),
    );
    // In a flat model there are no groups.
    let flat: ModelConfig = toml::from_str("network.mlp.hidden = [3]").expect("a model");
    for text in [&by_group("top"), "regularizer.kl.free_bits_per_group = 1.0"] {
        let objective: Objective = toml::from_str(text).expect(text);
        let problem = objective.check(&flat).expect_err("one group").to_string();
        assert!(problem.contains("network.top_down would fit"), "{problem}");
    }
    let both: Objective =
        toml::from_str("regularizer.kl = { free_bits = 0.1, free_bits_per_group = 1.0 }")
            .expect("an objective");
    assert!(both.check(vae.config()).is_err());
}
