//! Laws of estimators, regularizers and priors: the order of bounds, parts whose sum is the whole, and which variables
//! have gradients.

mod common;
#[path = "common/gradients.rs"]
mod gradients;

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor, no_grad};
use vae_model::{
    Draws, ImageShape, LossContext, MmdConfig, Mode, ModelConfig, Objective, Regularizer, Vae,
};

const SHAPE: ImageShape = ImageShape {
    channels: 1,
    height: 3,
    width: 4,
};

const N_IMAGES: i64 = 5;

fn model(toml: &str) -> ModelConfig {
    let base = "latent_dims = 3\nnetwork.mlp.hidden = [6]\n";
    toml::from_str(&format!("{base}{toml}")).expect("a model")
}

fn objective(toml: &str) -> Objective {
    toml::from_str(toml).expect("an objective")
}

/// A model with weights from a formula.
fn fixed(config: &ModelConfig) -> Vae {
    let vae = Vae::new(config, SHAPE, Device::Cpu, 1).expect("a model");
    common::fill(&vae);
    vae
}

fn noise(k: i64, phase: f64) -> Tensor {
    common::wave((k * N_IMAGES * 3) as usize, phase, 1.3).view([k, N_IMAGES, 3])
}

fn draws(vae: &Vae, noise: &Tensor) -> Draws {
    let images = common::images(N_IMAGES, SHAPE);
    vae.draw_with_noise(&images, noise, Mode::Train)
        .expect("draws")
}

fn context(vae: &Vae) -> LossContext<'_> {
    LossContext {
        vae,
        step: 3,
        n_images: 20,
    }
}

/// The loss's own random numbers (latents of the prior, the probe of a Jacobian) are the same each time.
fn loss(vae: &Vae, objective: &Objective, noise: &Tensor) -> Tensor {
    objective
        .loss(&draws(vae, noise), context(vae), &mut vae.generator(3))
        .expect("a loss")
}

fn value(vae: &Vae, objective_toml: &str, noise: &Tensor) -> f64 {
    loss(vae, &objective(objective_toml), noise).double_value(&[])
}

/// The gradient of a loss with respect to every variable, by name.
fn gradients(vae: &Vae, objective: &Objective, noise: &Tensor) -> BTreeMap<String, Tensor> {
    for (_, variable) in vae.trainable_variables() {
        let mut gradient = variable.grad();
        if gradient.defined() {
            let _ = gradient.zero_();
        }
    }
    loss(vae, objective, noise).backward();
    vae.trainable_variables()
        .into_iter()
        .map(|(name, variable)| {
            let gradient = variable.grad();
            let gradient = match gradient.defined() {
                true => gradient.copy(),
                false => variable.zeros_like(),
            };
            (name, gradient)
        })
        .collect()
}

fn max_difference(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

fn assert_close(what: &str, found: f64, wanted: f64) {
    let scale = wanted.abs().max(1.0);
    assert!(
        (found - wanted).abs() < 2e-5 * scale,
        "{what}: {found} vs {wanted}"
    );
}

/// Whether the gradients of variables with this prefix are equal up to rounding.
fn assert_same(
    what: &str,
    a: &BTreeMap<String, Tensor>,
    b: &BTreeMap<String, Tensor>,
    parts: &[&str],
) {
    let mut n = 0;
    for (name, gradient) in a {
        if parts.iter().any(|part| name.starts_with(part)) {
            n += 1;
            let scale = gradient.abs().max().double_value(&[]).max(1.0);
            let difference = max_difference(gradient, &b[name]);
            assert!(difference < 1e-4 * scale, "{what}, {name}: {difference}");
        }
    }
    assert!(n > 0, "{what}: no variables of {parts:?}");
}

const MODELS: [&str; 8] = [
    "",
    "posterior = \"full_covariance\"",
    "posterior = \"von_mises_fisher\"\nprior = \"hyperspherical_uniform\"",
    "posterior.planar.flows = 2",
    "posterior.iaf = { flows = 2, hidden = 5, context = 4 }",
    "prior.gaussian_mixture.components = 3",
    "prior.vamp.pseudo_inputs = 4",
    "prior.real_nvp = { layers = 3, hidden = 5 }",
];

#[test]
fn one_sample_of_iwae_is_its_log_weight_which_is_the_sampled_elbo() {
    for toml in MODELS {
        let vae = fixed(&model(toml));
        let noise = noise(1, 0.2);
        let draws = draws(&vae, &noise);
        let log_weight = &draws.log_px_z + &draws.log_pz - draws.log_qz_x.as_ref().expect("q");
        let wanted = -log_weight.mean(Kind::Double).double_value(&[]);
        assert_close(
            toml,
            value(&vae, "estimator.iwae.samples = 1", &noise),
            wanted,
        );
        if draws.posterior.kl().is_none() || toml.contains("prior.") {
            // Without a closed form the kl is sampled, so that the elbo is the log-weight itself.
            assert_close(toml, value(&vae, "", &noise), wanted);
        }
    }
}

#[test]
fn more_samples_in_one_bound_make_it_tighter() {
    // Jensen's inequality holds for any weights, not only on average, so the test does not depend on chance.
    for toml in MODELS {
        let vae = fixed(&model(toml));
        for phase in [0.1, 0.9, 2.3] {
            let noise = noise(12, phase);
            let miwae = |bounds: u32| {
                let samples = 12 / bounds;
                let toml =
                    format!("estimator.miwae = {{ bounds = {bounds}, samples = {samples} }}");
                value(&vae, &toml, &noise)
            };
            let losses: Vec<f64> = [12, 6, 3, 1].map(miwae).to_vec();
            assert!(losses.windows(2).all(|w| w[1] < w[0]), "{losses:?}");
            let iwae = value(&vae, "estimator.iwae.samples = 12", &noise);
            assert_close("one bound", iwae, losses[3]);
            let ciwae = |beta: f64| {
                let toml = format!("estimator.ciwae = {{ samples = 12, beta = {beta} }}");
                value(&vae, &toml, &noise)
            };
            assert_close("β = 0", ciwae(0.0), iwae);
            assert_close("β = 1", ciwae(1.0), losses[0]);
            assert_close("β = 0.3", ciwae(0.3), 0.3 * losses[0] + 0.7 * iwae);
        }
    }
}

#[test]
fn piwae_trains_the_encoder_by_miwae_and_the_rest_by_iwae() {
    for toml in ["", "prior.gaussian_mixture.components = 3"] {
        let vae = fixed(&model(toml));
        let noise = noise(6, 0.4);
        let of = |toml: &str| gradients(&vae, &objective(toml), &noise);
        let piwae = of("estimator.piwae = { bounds = 3, samples = 2 }");
        let miwae = of("estimator.miwae = { bounds = 3, samples = 2 }");
        let iwae = of("estimator.iwae.samples = 6");
        assert_same("encoder", &piwae, &miwae, &["encoder."]);
        assert_same(
            "decoder",
            &piwae,
            &iwae,
            &["decoder.", "prior."][..1 + usize::from(!toml.is_empty())],
        );
        let differs = piwae
            .iter()
            .any(|(name, gradient)| max_difference(gradient, &iwae[name]) > 1e-3);
        assert!(differs, "the two bounds have different gradients");
    }
}

#[test]
fn doubly_reparameterized_gradients_are_those_of_the_same_bound() {
    for (plain, doubly) in [
        (
            "estimator.iwae.samples = 3",
            "estimator.iwae = { samples = 3, doubly_reparameterized = true }",
        ),
        (
            "estimator.miwae = { bounds = 2, samples = 3 }",
            "estimator.miwae = { bounds = 2, samples = 3, doubly_reparameterized = true }",
        ),
        (
            "estimator.piwae = { bounds = 2, samples = 3 }",
            "estimator.piwae = { bounds = 2, samples = 3, doubly_reparameterized = true }",
        ),
        (
            "estimator.ciwae = { samples = 3, beta = 0.4 }",
            "estimator.ciwae = { samples = 3, beta = 0.4, doubly_reparameterized = true }",
        ),
    ] {
        let vae = fixed(&model(""));
        let (plain, doubly) = (objective(plain), objective(doubly));
        // The decoder's gradient is the same for every noise, the encoder's only in expectation.
        let n = 400;
        let mut differences: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        let mut generator = vae.generator(7);
        for i in 0..n {
            let noise = generator.normal([plain.n_samples(), N_IMAGES, 3], Device::Cpu);
            let (a, b) = (
                gradients(&vae, &plain, &noise),
                gradients(&vae, &doubly, &noise),
            );
            if i < 5 {
                assert_same("decoder", &a, &b, &["decoder."]);
            }
            for (name, gradient) in a.iter().filter(|(name, _)| name.starts_with("encoder.")) {
                let difference = (&b[name] - gradient).sum(Kind::Double).double_value(&[]);
                differences
                    .entry(name.clone())
                    .or_default()
                    .push(difference);
            }
        }
        for (name, values) in differences {
            let mean = values.iter().sum::<f64>() / f64::from(n);
            let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
            let error = (squares / f64::from(n)).sqrt() / f64::from(n).sqrt();
            assert!(error > 0.0, "{name}: the two are different estimators");
            assert!(
                mean.abs() < 5.0 * error,
                "{name}: {mean} ± {error} ({doubly:?})"
            );
        }
    }
}

#[test]
fn with_one_sample_the_doubly_reparameterized_gradient_follows_z_alone() {
    // Roeder et al. 2017: the gradient of log w with q(z|x) detached, except through z.
    let vae = fixed(&model(""));
    let noise = noise(1, 0.7);
    let toml = "estimator.iwae = { samples = 1, doubly_reparameterized = true }";
    let found = gradients(&vae, &objective(toml), &noise);
    for (_, variable) in vae.trainable_variables() {
        let _ = variable.grad().zero_();
    }
    let draws = draws(&vae, &noise);
    let constant = draws.posterior.detach().log_prob(&draws.latents);
    let log_w = &draws.log_px_z + &draws.log_pz - constant.expect("a density");
    (-log_w.mean(Kind::Float)).backward();
    let wanted: BTreeMap<String, Tensor> = vae
        .trainable_variables()
        .into_iter()
        .map(|(name, variable)| (name, variable.grad()))
        .collect();
    assert_same("all", &found, &wanted, &["encoder.", "decoder."]);
}

#[test]
fn nested_doubly_reparameterized_gradients_are_the_mean_of_those_of_each_bound() {
    let vae = fixed(&model(""));
    let noise = noise(6, 0.7);
    let doubly = |name: &str, bounds: u32, samples: u32| {
        objective(&format!(
            "estimator.{name} = {{ bounds = {bounds}, samples = {samples}, doubly_reparameterized = true }}"
        ))
    };
    // Three bounds of two samples each, one by one.
    let iwae = objective("estimator.iwae = { samples = 2, doubly_reparameterized = true }");
    let of_bounds = [0, 2, 4].map(|first| gradients(&vae, &iwae, &noise.narrow(0, first, 2)));
    let mean: BTreeMap<String, Tensor> = of_bounds[0]
        .keys()
        .map(|name| {
            let sum = &of_bounds[0][name] + &of_bounds[1][name] + &of_bounds[2][name];
            (name.clone(), sum / 3.0)
        })
        .collect();
    let miwae = gradients(&vae, &doubly("miwae", 3, 2), &noise);
    assert_same("miwae", &miwae, &mean, &["encoder.", "decoder."]);
    let piwae = gradients(&vae, &doubly("piwae", 3, 2), &noise);
    assert_same("piwae", &piwae, &mean, &["encoder."]);
    let all = gradients(&vae, &objective("estimator.iwae.samples = 6"), &noise);
    assert_same("piwae", &piwae, &all, &["decoder."]);
    let size = |gradients: &BTreeMap<String, Tensor>| {
        let weight = &gradients["encoder.0.weight"];
        weight.norm().double_value(&[])
    };
    assert!(size(&mean) > 1e-2, "there is something to compare");
}

#[test]
fn ciwae_doubly_reparameterized_is_the_weighted_mean_of_its_two_bounds() {
    let vae = fixed(&model(""));
    let noise = noise(3, 0.7);
    let of = |toml: &str| gradients(&vae, &objective(toml), &noise);
    let ciwae = |beta: f64| {
        of(&format!(
            "estimator.ciwae = {{ samples = 3, beta = {beta:?}, doubly_reparameterized = true }}"
        ))
    };
    let iwae = of("estimator.iwae = { samples = 3, doubly_reparameterized = true }");
    assert_same("β = 0", &ciwae(0.0), &iwae, &["encoder.", "decoder."]);
    // The ELBO's part: the mean of three bounds of one sample each, with the gradient through z alone.
    let elbo = of("estimator.miwae = { bounds = 3, samples = 1, doubly_reparameterized = true }");
    assert_same("β = 1", &ciwae(1.0), &elbo, &["encoder.", "decoder."]);
    let mixed = iwae.iter().map(|(name, gradient)| {
        let mixed = gradient * 0.6 + &elbo[name] * 0.4;
        (name.clone(), mixed)
    });
    let mixed: BTreeMap<String, Tensor> = mixed.collect();
    assert_same("β = 0.4", &ciwae(0.4), &mixed, &["encoder.", "decoder."]);
}

/// Every objective whose gradient is the derivative of its value.
const DIFFERENTIABLE: [&str; 18] = [
    "",
    "regularizer.kl = { beta = 3.0, free_bits = 0.05 }",
    "regularizer.capacity = { gamma = 4.0, final_capacity = 5.0, over_steps = 10 }",
    "regularizer.beta_tc = { alpha = 0.5, beta = 4.0, gamma = 2.0 }",
    "regularizer.beta_tc = { alpha = 0.5, beta = 4.0, gamma = 2.0, sampling = \"stratified\" }",
    "regularizer.dip = { variant = \"one\", off_diagonal = 3.0, diagonal = 5.0 }",
    "regularizer.dip = { variant = \"two\", off_diagonal = 3.0, diagonal = 5.0 }",
    "regularizer.mmd = { weight = 20.0, kl_weight = 0.3 }",
    "regularizer.mmd = { weight = 20.0, kernel = \"rbf\", scales = [0.3, 1.0] }",
    "regularizer.pixel_mean.kl_weight = 0.3",
    "decoder_penalty.l2.weight = 0.2",
    "decoder_penalty.gradient_penalty.weight = 0.2",
    "estimator.elbo.samples = 4",
    "estimator.iwae.samples = 4",
    "estimator.miwae = { bounds = 2, samples = 2 }",
    "estimator.ciwae = { samples = 4, beta = 0.3 }",
    "regularizer.kl.beta_schedule.warm_up.steps = 10",
    "regularizer.kl.beta_schedule.cyclic = { period_steps = 10, ramp = 0.5 }",
];

fn assert_gradients_are_finite_differences(config: &ModelConfig, objective: &Objective) {
    objective.check(config).expect("parts that fit");
    let vae = fixed(config);
    let noise = noise(4, 0.2);
    let loss = || loss(&vae, objective, &noise);
    let what = format!("{objective:?}, {config:?}");
    gradients::assert_gradients_are_slopes(&vae, &loss, &what);
}

#[test]
fn gradients_of_objectives_are_finite_differences() {
    for toml in DIFFERENTIABLE {
        assert_gradients_are_finite_differences(&model(""), &objective(toml));
    }
}

#[test]
fn gradients_of_priors_and_posteriors_are_finite_differences() {
    for toml in MODELS.into_iter().chain([
        "posterior = \"full_covariance\"\nprior.vamp.pseudo_inputs = 4",
        "posterior = \"von_mises_fisher\"\nprior.vamp.pseudo_inputs = 4",
        "posterior.iaf = { flows = 1, hidden = 5, context = 4 }\nprior.real_nvp.hidden = 5",
    ]) {
        for objective_toml in ["", "estimator.iwae.samples = 4"] {
            assert_gradients_are_finite_differences(&model(toml), &objective(objective_toml));
        }
    }
    // An autoencoder: the prior is trained on the codes, but the codes' gradients do not depend on the prior.
    let toml = "posterior = \"deterministic\"\nprior.gaussian_mixture.components = 3";
    let vae = fixed(&model(toml));
    let with = gradients(&vae, &objective("regularizer = \"none\""), &noise(1, 0.2));
    let alone = fixed(&model("posterior = \"deterministic\""));
    let without = gradients(&alone, &objective("regularizer = \"none\""), &noise(1, 0.2));
    for (name, gradient) in &with {
        match without.get(name) {
            Some(wanted) => assert_eq!(max_difference(gradient, wanted), 0.0, "{name}"),
            None => assert!(gradient.abs().max().double_value(&[]) > 1e-3, "{name}"),
        }
    }
}

#[test]
fn the_three_parts_of_the_kl_add_up_to_it_whatever_estimates_the_aggregate() {
    let vae = fixed(&model(""));
    let noise = noise(2, 0.5);
    let draws = draws(&vae, &noise);
    let kl = draws.log_qz_x.as_ref().expect("q") - &draws.log_pz;
    let reconstruction = draws
        .terms
        .reconstruction
        .mean(Kind::Double)
        .double_value(&[]);
    let wanted = reconstruction + kl.mean(Kind::Double).double_value(&[]);
    for sampling in ["weighted", "stratified"] {
        let toml = format!("regularizer.beta_tc = {{ beta = 1.0, sampling = \"{sampling}\" }}");
        assert_close(sampling, value(&vae, &toml, &noise), wanted);
    }
}

#[test]
fn each_weight_of_beta_tc_weighs_its_own_part() {
    let vae = fixed(&model(""));
    let noise = noise(1, 0.5);
    let draws = draws(&vae, &noise);
    // log q(z_i|x_j) of each dimension, [B, B, Z], with the factor 1/(N·B).
    let pairs = draws
        .posterior
        .as_diagonal_gaussian()
        .expect("a Gaussian")
        .log_prob_per_dimension(&draws.latents.select(0, 0).unsqueeze(1))
        .to_kind(Kind::Double);
    let log_n_b = (20.0 * N_IMAGES as f64).ln();
    let joint = pairs
        .sum_dim_intlist(-1, false, Kind::Double)
        .logsumexp(1, false)
        - log_n_b;
    let marginals = (pairs.logsumexp(1, false) - log_n_b).sum_dim_intlist(-1, false, Kind::Double);
    let own = draws.log_qz_x.as_ref().expect("q").select(0, 0);
    let prior = draws.log_pz.select(0, 0);
    let mean = |values: Tensor| values.mean(Kind::Double).double_value(&[]);
    let parts = [
        mean(own - &joint),
        mean(joint - &marginals),
        mean(marginals - prior),
    ];
    let reconstruction = mean(draws.terms.reconstruction.shallow_clone());
    for (i, part) in parts.into_iter().enumerate() {
        let weights = [0, 1, 2].map(|j| if i == j { 2.5 } else { 0.0 });
        let [alpha, beta, gamma] = weights;
        let toml = format!(
            "regularizer.beta_tc = {{ alpha = {alpha:?}, beta = {beta:?}, gamma = {gamma:?} }}"
        );
        assert_close(
            &toml,
            value(&vae, &toml, &noise),
            reconstruction + 2.5 * part,
        );
    }
}

#[test]
fn mmd_and_kl_are_added_with_their_weights() {
    let vae = fixed(&model(""));
    let noise = noise(2, 0.5);
    let draws = draws(&vae, &noise);
    let mean = |values: &Tensor| values.mean(Kind::Double).double_value(&[]);
    let kernel = MmdConfig {
        scales: vec![0.3, 2.0],
        ..Default::default()
    };
    let prior_latents = vae.sample_latents(N_IMAGES, &mut vae.generator(3));
    let discrepancy = kernel.squared_discrepancy(&draws.latents.select(0, 0), &prior_latents);
    let discrepancy = discrepancy.double_value(&[]);
    assert!(discrepancy.abs() > 1e-3, "{discrepancy}");
    let of = |kl_weight: f64, weight: f64| {
        let toml = format!(
            "estimator.elbo.samples = 2\n\
             regularizer.mmd = {{ kl_weight = {kl_weight:?}, weight = {weight:?}, scales = [0.3, 2.0] }}"
        );
        value(&vae, &toml, &noise)
    };
    let reconstruction = mean(&draws.terms.reconstruction);
    let kl = mean(draws.terms.kl.as_ref().expect("a kl"));
    assert_close("mmd", of(0.0, 20.0), reconstruction + 20.0 * discrepancy);
    assert_close("kl", of(0.3, 0.0), reconstruction + 0.3 * kl);
    let both = reconstruction + 0.7 * kl + 5.0 * discrepancy;
    assert_close("both", of(0.7, 5.0), both);
}

#[test]
fn an_autoencoders_prior_is_fitted_by_minus_the_log_density_of_its_codes() {
    let toml = "posterior = \"deterministic\"\nprior.gaussian_mixture.components = 3";
    let vae = fixed(&model(toml));
    let noise = noise(1, 0.2);
    let draws = draws(&vae, &noise);
    let log_pz = vae
        .prior_log_prob(&draws.posterior.center())
        .expect("a density");
    let mean = |values: &Tensor| values.mean(Kind::Double).double_value(&[]);
    let wanted = mean(&draws.terms.reconstruction) - mean(&log_pz);
    assert_close(
        "loss",
        value(&vae, "regularizer = \"none\"", &noise),
        wanted,
    );
}

#[test]
fn pixel_mean_is_the_tutorials_formula() {
    let vae = fixed(&model(""));
    let noise = noise(1, 0.2);
    let draws = draws(&vae, &noise);
    let (mean, log_var) = (
        draws.posterior.center(),
        draws.posterior.log_var().expect("a Gaussian"),
    );
    let second = (mean.square() + log_var.exp() - &log_var - 1.0).mean(Kind::Double);
    let reconstruction = draws.terms.reconstruction.mean(Kind::Double) / 12.0;
    let wanted = (reconstruction + second * 0.3).double_value(&[]);
    let found = value(&vae, "regularizer.pixel_mean.kl_weight = 0.3", &noise);
    assert_close("pixel_mean", found, wanted);
}

/// log N(z; mean, e^log_var) in f64.
fn log_normal(z: f64, mean: f64, log_var: f64) -> f64 {
    -0.5 * ((z - mean).powi(2) / log_var.exp() + log_var + (2.0 * std::f64::consts::PI).ln())
}

#[test]
fn the_total_correlation_is_the_papers_sum() {
    let vae = fixed(&model(""));
    let noise = noise(1, 0.5);
    let draws = draws(&vae, &noise);
    let rows = |tensor: Tensor| -> Vec<Vec<f64>> {
        let tensor = tensor.to_kind(Kind::Double);
        (0..N_IMAGES)
            .map(|i| Vec::<f64>::try_from(tensor.get(i)).expect("numbers"))
            .collect()
    };
    let z = rows(draws.latents.select(0, 0));
    let mean = rows(draws.posterior.center());
    let log_var = rows(draws.posterior.log_var().expect("a Gaussian"));
    let (b, n) = (N_IMAGES as usize, 20.0_f64);
    let log_sum_exp = |values: &[f64]| {
        let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        max + values.iter().map(|x| (x - max).exp()).sum::<f64>().ln()
    };
    for sampling in ["weighted", "stratified"] {
        let weight = |i: usize, j: usize| {
            let m = (b - 1) as f64;
            if sampling == "weighted" {
                1.0 / (n * b as f64)
            } else if i == j {
                1.0 / n
            } else if j == (i + 1) % b {
                (n - m) / (n * m)
            } else {
                1.0 / m
            }
        };
        let mut total = 0.0;
        for (i, z) in z.iter().enumerate() {
            let term = |j: usize, d: usize| log_normal(z[d], mean[j][d], log_var[j][d]);
            let joint: Vec<f64> = (0..b)
                .map(|j| weight(i, j).ln() + (0..3).map(|d| term(j, d)).sum::<f64>())
                .collect();
            let marginals: f64 = (0..3)
                .map(|d| {
                    let terms: Vec<f64> = (0..b).map(|j| weight(i, j).ln() + term(j, d)).collect();
                    log_sum_exp(&terms)
                })
                .sum();
            total += (log_sum_exp(&joint) - marginals) / b as f64;
        }
        let with = |beta: f64| {
            let toml =
                format!("regularizer.beta_tc = {{ beta = {beta}, sampling = \"{sampling}\" }}");
            value(&vae, &toml, &noise)
        };
        let found = with(2.0) - with(1.0);
        assert!(
            (found - total).abs() < 1e-4,
            "{sampling}: {found} vs {total}"
        );
    }
}

#[test]
fn dip_measures_the_covariance_that_the_paper_names() {
    let vae = fixed(&model(""));
    let noise = noise(1, 0.5);
    let draws = draws(&vae, &noise);
    let mean = draws.posterior.center().to_kind(Kind::Double);
    let within = draws.posterior.log_var().expect("a Gaussian").exp();
    let within = Vec::<f64>::try_from(within.to_kind(Kind::Double).mean_dim(
        0,
        false,
        Kind::Double,
    ))
    .expect("numbers");
    let column = |d: i64| Vec::<f64>::try_from(mean.select(1, d)).expect("numbers");
    let covariance = |a: i64, b: i64| {
        let (x, y) = (column(a), column(b));
        let n = x.len() as f64;
        let (mx, my) = (x.iter().sum::<f64>() / n, y.iter().sum::<f64>() / n);
        x.iter()
            .zip(&y)
            .map(|(x, y)| (x - mx) * (y - my))
            .sum::<f64>()
            / n
    };
    let kl = value(&vae, "", &noise);
    for (variant, adds) in [("one", 0.0), ("two", 1.0)] {
        let (mut on, mut off) = (0.0, 0.0);
        for a in 0..3 {
            for b in 0..3 {
                let c = covariance(a, b);
                if a == b {
                    on += (c + adds * within[a as usize] - 1.0).powi(2);
                } else {
                    off += c * c;
                }
            }
        }
        let toml = format!(
            "regularizer.dip = {{ variant = \"{variant}\", off_diagonal = 3.0, diagonal = 5.0 }}"
        );
        assert_close(
            variant,
            value(&vae, &toml, &noise),
            kl + 3.0 * off + 5.0 * on,
        );
    }
}

#[test]
fn a_decoders_penalties_are_norms_of_its_weights_and_of_its_jacobian() {
    // A linear decoder's Jacobian is its weight.
    let config: ModelConfig =
        toml::from_str("latent_dims = 3\nnetwork.mlp.hidden = []\nposterior = \"deterministic\"")
            .expect("a model");
    let vae = fixed(&config);
    let noise = noise(1, 0.1);
    let of = |penalty: &str| {
        let toml = format!("regularizer = \"none\"\n{penalty}");
        value(&vae, &toml, &noise)
    };
    let plain = of("");
    let variables: BTreeMap<String, Tensor> = vae.named_variables().into_iter().collect();
    let square = |name: &str| variables[name].square().sum(Kind::Double).double_value(&[]);
    let l2 = square("decoder.0.weight") + square("decoder.0.bias");
    assert_close(
        "l2",
        of("decoder_penalty.l2.weight = 0.5") - plain,
        0.5 * l2,
    );
    let mut generator = vae.generator(11);
    let penalized =
        objective("regularizer = \"none\"\ndecoder_penalty.gradient_penalty.weight = 1.0");
    let n = 2000;
    let values: Vec<f64> = (0..n)
        .map(|_| {
            let loss = penalized.loss(&draws(&vae, &noise), context(&vae), &mut generator);
            loss.expect("a loss").double_value(&[]) - plain
        })
        .collect();
    let mean = values.iter().sum::<f64>() / f64::from(n);
    let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
    let error = (squares / f64::from(n)).sqrt() / f64::from(n).sqrt();
    let wanted = square("decoder.0.weight");
    assert!(
        (mean - wanted).abs() < 5.0 * error,
        "{mean} ± {error}: {wanted}"
    );
}

#[test]
fn codes_are_kept_near_the_origin_by_half_their_squared_norm() {
    let vae = fixed(&model("posterior = \"deterministic\""));
    let noise = noise(1, 0.1);
    let codes = draws(&vae, &noise).posterior.center();
    let norms = codes.square().sum_dim_intlist(-1, false, Kind::Double);
    let wanted = 0.5 * norms.mean(Kind::Double).double_value(&[]);
    let with = value(&vae, "regularizer.latent_norm.weight = 3.0", &noise);
    let without = value(&vae, "regularizer = \"none\"", &noise);
    assert_close("latent_norm", with - without, 3.0 * wanted);
}

#[test]
fn vamp_with_one_pseudo_input_is_that_images_posterior() {
    let vae = fixed(&model("prior.vamp.pseudo_inputs = 2"));
    // Values that the margin does not change; a mixture of two equal images is one posterior.
    let gray: Vec<u8> = (0..12).map(|i| 40 + 15 * i).collect();
    let image = Tensor::from_slice(&gray).view([1, 1, 3, 4]);
    assert_eq!(vae.n_start_images(), 2);
    assert_eq!(fixed(&model("")).n_start_images(), 0);
    vae.start_from(&image).expect("an image");
    let latents = common::wave(12, 0.3, 1.1).view([4, 3]);
    let posterior = vae.encode(&image).expect("a posterior");
    let wanted = posterior
        .log_prob(&latents.unsqueeze(1))
        .expect("a density");
    let found = vae.prior_log_prob(&latents).expect("a density");
    assert!(max_difference(&found, &wanted.squeeze_dim(1)) < 1e-3);
}

#[test]
fn pseudo_inputs_start_a_fiftieth_away_from_black_and_white() {
    let vae = fixed(&model("prior.vamp.pseudo_inputs = 1"));
    let image = Tensor::from_slice(&[0_u8, 255, 51].repeat(4)).view([1, 1, 3, 4]);
    vae.start_from(&image).expect("an image");
    let variables: BTreeMap<_, _> = vae.named_variables().into_iter().collect();
    let pixels = variables["prior.pseudo_inputs"].sigmoid().flatten(0, -1);
    for (i, wanted) in [0.02, 0.98, 0.2].into_iter().enumerate() {
        let found = pixels.double_value(&[i as i64]);
        assert!((found - wanted).abs() < 1e-6, "{found} vs {wanted}");
    }
}

#[test]
fn pseudo_inputs_are_encoded_once_while_no_weight_changes() {
    let vae = fixed(&model("prior.vamp.pseudo_inputs = 4"));
    let latents = common::wave(12, 0.3, 1.1).view([4, 3]);
    let density = || vae.prior_log_prob(&latents).expect("a density");
    let in_training = || draws(&vae, &noise(1, 0.2)).log_pz;
    let variables = vae.named_variables();
    let pseudo_inputs = variables
        .iter()
        .find(|(name, _)| name == "prior.pseudo_inputs");
    let pseudo_inputs = &pseudo_inputs.expect("pseudo-inputs").1;
    let before = density();
    let (kept, trained) = vae.with_fixed_weights(|| {
        let first = density();
        assert_eq!(max_difference(&first, &before), 0.0);
        let trained = in_training();
        // Misuse: weights change during the work. It shows what is encoded again and what is cached.
        no_grad(|| pseudo_inputs.shallow_clone().copy_(&(pseudo_inputs * -2.0)));
        let kept = vae.with_fixed_weights(density);
        assert!(
            max_difference(&in_training(), &trained) > 1e-3,
            "a step encodes anew"
        );
        (kept, vae.sample_latents(6, &mut vae.generator(5)))
    });
    assert_eq!(max_difference(&kept, &before), 0.0);
    assert!(
        max_difference(&density(), &before) > 1e-3,
        "kept no longer than that"
    );
    // Drawn from the same posteriors as the cached ones.
    no_grad(|| pseudo_inputs.shallow_clone().copy_(&(pseudo_inputs / -2.0)));
    let drawn = vae.sample_latents(6, &mut vae.generator(5));
    assert!(max_difference(&drawn, &trained) < 1e-5);
    // Also if the work panics.
    let panics = std::panic::AssertUnwindSafe(|| {
        vae.with_fixed_weights(|| {
            let _ = density();
            std::panic::resume_unwind(Box::new(()));
        });
    });
    assert!(std::panic::catch_unwind(panics).is_err());
    no_grad(|| pseudo_inputs.shallow_clone().copy_(&(pseudo_inputs * -2.0)));
    assert!(max_difference(&density(), &before) > 1e-3);
}

#[test]
fn every_part_has_its_name_in_a_config_and_comes_back_from_it() {
    for toml in DIFFERENTIABLE.into_iter().chain([
        "estimator.piwae = { bounds = 2, samples = 2, doubly_reparameterized = true }",
        "regularizer = \"none\"",
        "regularizer.latent_norm = {}",
    ]) {
        let objective = objective(toml);
        let written = toml::to_string(&objective).expect("TOML");
        let read: Objective = toml::from_str(&written).expect("an objective");
        assert_eq!(read, objective);
    }
    assert!(toml::from_str::<Objective>("regularizer.kl.bta = 2.0").is_err());
    assert!(matches!(
        Objective::default().regularizer,
        Regularizer::Kl(_)
    ));
}

#[test]
fn parts_that_do_not_fit_are_refused_with_the_reason_and_what_would() {
    let refused = |model_toml: &str, objective_toml: &str, key: &str, says: &[&str]| {
        let (model, objective) = (model(model_toml), objective(objective_toml));
        let message = model
            .check()
            .and_then(|()| objective.check(&model))
            .expect_err(key)
            .to_string();
        assert!(message.starts_with(&format!("{key}: ")), "{key}: {message}");
        for part in says {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert!(message.contains("would fit"), "{message}");
        assert!(
            !message.contains('\n') && !message.contains("  "),
            "{message}"
        );
    };
    let ae = "posterior = \"deterministic\"";
    let mixture = "prior.gaussian_mixture = {}";
    refused(
        ae,
        "",
        "objective.regularizer.kl",
        &["no density", "latent_norm"],
    );
    refused(
        ae,
        "regularizer.mmd.kl_weight = 0.5",
        "objective.regularizer.mmd",
        &["no density"],
    );
    let none = "regularizer = \"none\"\n";
    refused(
        ae,
        &format!("{none}estimator.elbo.samples = 2"),
        "objective.estimator.elbo",
        &["one latent"],
    );
    refused(
        ae,
        &format!("{none}estimator.iwae.samples = 1"),
        "objective.estimator.iwae",
        &["density"],
    );
    refused("", none, "objective.regularizer.none", &["shrink"]);
    refused(
        "",
        "regularizer.latent_norm = {}",
        "objective.regularizer.latent_norm",
        &["shrink"],
    );
    refused(
        &format!("{ae}\nprior.vamp = {{}}"),
        none,
        "model.prior.vamp",
        &["deterministic"],
    );
    refused(
        mixture,
        "regularizer.kl.free_bits = 0.1",
        "objective.regularizer.kl",
        &["each latent dimension", "gaussian_mixture"],
    );
    refused(
        mixture,
        "regularizer.beta_tc = {}",
        "objective.regularizer.beta_tc",
        &["independent"],
    );
    refused(
        mixture,
        "regularizer.pixel_mean = {}",
        "objective.regularizer.pixel_mean",
        &["formula"],
    );
    refused(
        "likelihood.gaussian = {}",
        "regularizer.pixel_mean.probability_clip = 1e-7",
        "objective.regularizer.pixel_mean.probability_clip",
        &["gaussian", "bernoulli or"],
    );
    for clip in ["-1e-7", "0.5", "nan"] {
        let toml = format!("regularizer.pixel_mean.probability_clip = {clip}");
        let refused = objective(&toml).check(&model("")).expect_err("refused");
        let message = refused.to_string();
        assert!(message.contains("less than 0.5"), "{message}");
    }
    refused(
        "",
        "regularizer.kl.beta = 2.0\nestimator.iwae = {}",
        "objective.estimator.iwae",
        &["regularizer kl", "beta = 1"],
    );
    refused(
        "",
        "regularizer.beta_tc = {}\nestimator.ciwae = {}",
        "objective.estimator.ciwae",
        &["beta_tc"],
    );
    refused(
        "",
        "decoder_penalty.gradient_penalty = {}\nestimator.iwae = {}",
        "objective.decoder_penalty.gradient_penalty",
        &["iwae"],
    );
    let batch_norm: ModelConfig =
        toml::from_str("prior.vamp = {}\nnetwork.conv_batch_norm = {}").expect("a model");
    let message = batch_norm.check().expect_err("refused").to_string();
    assert!(
        message.contains("batch norm") && message.contains("residual would fit"),
        "{message}"
    );
    let batch_norm: ModelConfig = toml::from_str("network.conv_batch_norm = {}").expect("a model");
    for toml in [
        "estimator.piwae = {}",
        "estimator.iwae.doubly_reparameterized = true",
    ] {
        let message = objective(toml)
            .check(&batch_norm)
            .expect_err("refused")
            .to_string();
        assert!(message.contains("image by image"), "{message}");
    }
    let message = objective("decoder_penalty.gradient_penalty = {}")
        .check(&batch_norm)
        .expect_err("refused")
        .to_string();
    assert!(
        message.starts_with("objective.decoder_penalty.gradient_penalty: ")
            && message.contains("depend on each other")
            && message.contains("residual would fit"),
        "{message}"
    );
    let l2 = objective("decoder_penalty.l2 = {}");
    l2.check(&batch_norm).expect("weights see no images");
    let one: ModelConfig = toml::from_str("latent_dims = 1\nprior.real_nvp = {}").expect("a model");
    let message = one.check().expect_err("refused").to_string();
    assert!(message.contains("latent_dims = 1"), "{message}");
}
