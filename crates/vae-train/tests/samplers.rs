//! Samplers that a gradient trains, against densities that are known.

use tch::{Device, Kind, Tensor};
use vae_model::{Generator, ImageShape, LatentSet, ModelConfig, SamplerConfig, SamplerKind, Vae};
use vae_train::{FittedSampler, SamplerOptions, fit_sampler, prior_log_prob};

fn vae(config: &str) -> Vae {
    let config: ModelConfig = toml::from_str(config).expect("a config");
    let shape = ImageShape {
        channels: 1,
        height: 4,
        width: 4,
    };
    Vae::new(&config, shape, Device::Cpu, 1).expect("a model")
}

const PLANE: &str = "latent_dims = 2\nnetwork.mlp.hidden = [4]";

/// z_1 ~ N(0, 1), z_2 = z_1² + ½ε. Its entropy is that of the two normal numbers less ln 2.
fn banana(n: i64, seed: u64) -> LatentSet {
    let noise = Generator::cpu(seed).normal([n, 2], Device::Cpu);
    let (x, e) = (noise.select(1, 0), noise.select(1, 1));
    LatentSet {
        latents: Tensor::stack(&[&x, &(x.square() + e * 0.5)], 1),
        condition: None,
    }
}

/// ½·ln 2πe, of a normal number.
fn normal_entropy() -> f64 {
    0.5 * (std::f64::consts::TAU * 1_f64.exp()).ln()
}

/// Fits for at most so many epochs in so many sizes.
fn fit(
    vae: &Vae,
    kind: SamplerKind,
    sets: [&LatentSet; 2],
    [epochs, sizes]: [usize; 2],
) -> FittedSampler {
    let options = SamplerOptions {
        epochs: epochs as u64,
        sizes,
        seed: 1,
    };
    let mut last = 0.0;
    let fitted = fit_sampler(vae, kind, sets[0], sets[1], &options, &mut |progress| {
        assert!((0.0..=1.0).contains(&progress.share) && progress.share >= last);
        last = progress.share;
        true
    });
    fitted.expect("fitted").expect("not stopped")
}

#[test]
fn the_flow_reaches_the_entropy_of_a_density_that_no_gaussian_has() {
    let vae = vae(PLANE);
    let (train, validation) = (banana(20_000, 1), banana(10_000, 2));
    let entropy = 2.0 * normal_entropy() - 2_f64.ln();
    let flow = fit(&vae, SamplerKind::Flow, [&train, &validation], [8, 1]);
    let found = flow.log_prob.expect("a density");
    assert!((found + entropy).abs() < 0.06, "{found} {}", -entropy);
    // Uncorrelated, with variances 1 and 2 + ¼.
    let gaussian = fit(&vae, SamplerKind::Gaussian, [&train, &validation], [1, 1]);
    let wanted = 2.0 * normal_entropy() + 0.5 * 2.25_f64.ln();
    let found = gaussian.log_prob.expect("a density");
    assert!((found + wanted).abs() < 0.05, "{found} {}", -wanted);
    assert!(matches!(
        gaussian.sampler.config(),
        SamplerConfig::Gaussian { .. }
    ));
    // What it draws lies on the parabola.
    let drawn = flow
        .sampler
        .sample(5000, None, 1.0, &mut Generator::cpu(3))
        .expect("latents");
    let residual = drawn.select(1, 1) - drawn.select(1, 0).square();
    let std = residual.std(true).double_value(&[]);
    assert!((std - 0.5).abs() < 0.1, "{std}");
    // −E[ln N(z; 0, I)] = ln 2π + ½·(1 + E[z_2²]), E[z_2²] = 3 + ¼.
    let prior = prior_log_prob(&vae, &validation).expect("numbers");
    let wanted = std::f64::consts::TAU.ln() + 0.5 * (1.0 + 3.25);
    assert!((prior + wanted).abs() < 0.1, "{prior} {}", -wanted);
}

#[test]
fn the_mixture_grows_while_validation_latents_gain() {
    let vae = vae(PLANE);
    let gmm = fit(
        &vae,
        SamplerKind::Gmm,
        [&banana(4000, 1), &banana(4000, 2)],
        [1, 5],
    );
    let found = gmm.log_prob.expect("a density");
    let entropy = 2.0 * normal_entropy() - 2_f64.ln();
    assert!((found + entropy).abs() < 0.05, "{found} {}", -entropy);
    let best = gmm.tried.iter().filter_map(|(_, log_prob)| *log_prob);
    assert_eq!(best.fold(f64::NEG_INFINITY, f64::max), found);
    assert!(gmm.tried.len() >= 4, "{:?}", gmm.tried);
}

#[test]
fn the_bound_of_two_stages_is_below_the_entropy_and_close_to_it() {
    // A line with a little noise: what a VAE of one latent describes.
    let vae = vae(PLANE);
    let line = |n, seed| {
        let noise = Generator::cpu(seed).normal([n, 2], Device::Cpu);
        let (x, e) = (noise.select(1, 0), noise.select(1, 1));
        LatentSet {
            latents: Tensor::stack(&[&x + &e * 0.1, x * 2.0 - e * 0.2], 1),
            condition: None,
        }
    };
    let (train, validation) = (line(20_000, 1), line(4000, 2));
    let fitted = fit(&vae, SamplerKind::TwoStage, [&train, &validation], [6, 1]);
    // det of [[1.01, 1.98], [1.98, 4.04]] = 0.16.
    let entropy = 2.0 * normal_entropy() + 0.5 * 0.16_f64.ln();
    let found = fitted.log_prob.expect("a bound");
    assert!(
        found < -entropy + 0.03 && found > -entropy - 0.25,
        "{found} {}",
        -entropy
    );
    let drawn = fitted
        .sampler
        .sample(20_000, None, 1.0, &mut Generator::cpu(3))
        .expect("latents");
    let ratio = (drawn.select(1, 1) - drawn.select(1, 0) * 2.0)
        .std(true)
        .double_value(&[]);
    assert!((ratio - 0.4).abs() < 0.1, "{ratio}");
    let std = drawn.select(1, 1).std(true).double_value(&[]);
    assert!((std - 4.04_f64.sqrt()).abs() < 0.2, "{std}");
}

/// Codes of a Markov chain over 4 states at 4 places: it stays with probability 0.7, else goes on to one of the others.
fn chain(vae: &Vae, n: i64, seed: u64) -> LatentSet {
    let mut generator = Generator::cpu(seed);
    let mut state = generator.randint(4, [n], (Kind::Int64, Device::Cpu));
    let mut states = vec![state.shallow_clone()];
    for _ in 1..4 {
        let moves = generator.uniform([0.0, 1.0], [n], Device::Cpu).gt(0.7);
        let step = generator.randint(3, [n], (Kind::Int64, Device::Cpu)) + 1;
        state = (&state + step * moves.to_kind(Kind::Int64)).remainder(4);
        states.push(state.shallow_clone());
    }
    let codes = Tensor::stack(&states, 1);
    let latents = vae.latents_of_codes(&codes).expect("latents");
    assert_eq!(vae.codes(&latents).expect("codes"), Some(codes));
    LatentSet {
        latents,
        condition: None,
    }
}

#[test]
fn the_transformer_learns_a_markov_chain_of_codes() {
    let vae = vae(
        "latent_dims = 8\nprior = 'uniform_codes'\nnetwork.mlp.hidden = [4]\nposterior.finite_scalar.levels = [2, 2]",
    );
    let (train, validation) = (chain(&vae, 8000, 1), chain(&vae, 8000, 2));
    let fitted = fit(
        &vae,
        SamplerKind::Autoregressive,
        [&train, &validation],
        [8, 1],
    );
    let step = -(0.7 * 0.7_f64.ln() + 0.3 * 0.1_f64.ln());
    let entropy = 4_f64.ln() + 3.0 * step;
    let found = fitted.log_prob.expect("probabilities");
    assert!((found + entropy).abs() < 0.03, "{found} {}", -entropy);
    let prior = prior_log_prob(&vae, &validation).expect("numbers");
    assert!((prior + 4.0 * 4_f64.ln()).abs() < 1e-3, "{prior}");
    let drawn = fitted
        .sampler
        .sample(4000, None, 1.0, &mut Generator::cpu(3))
        .expect("codes");
    let (from, to) = (drawn.narrow(1, 0, 3), drawn.narrow(1, 1, 3));
    let stays = from
        .eq_tensor(&to)
        .to_kind(Kind::Double)
        .mean(Kind::Double)
        .double_value(&[]);
    assert!((stays - 0.7).abs() < 0.03, "{stays}");
    // At temperature 0.5 the shares are squared: 0.49 against three times 0.01.
    let drawn = fitted
        .sampler
        .sample(4000, None, 0.5, &mut Generator::cpu(3))
        .expect("codes");
    let (from, to) = (drawn.narrow(1, 0, 3), drawn.narrow(1, 1, 3));
    let stays = from
        .eq_tensor(&to)
        .to_kind(Kind::Double)
        .mean(Kind::Double)
        .double_value(&[]);
    assert!((stays - 0.49 / 0.52).abs() < 0.03, "{stays}");
}

#[test]
fn a_stopped_fit_gives_nothing() {
    let vae = vae(PLANE);
    let set = banana(100, 1);
    let options = SamplerOptions::default();
    for kind in [SamplerKind::Gmm, SamplerKind::Flow, SamplerKind::TwoStage] {
        let fitted = fit_sampler(&vae, kind, &set, &set, &options, &mut |_| false);
        assert!(fitted.expect("no error").is_none(), "{kind}");
    }
}
