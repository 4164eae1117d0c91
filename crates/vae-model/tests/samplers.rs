//! Samplers against densities that are known, and in files.

use std::f64::consts::{PI, TAU};
use std::fs;

use tch::{Device, Kind, Tensor};
use vae_model::{
    AttributeSpec, AttributeValues, AutoregressiveConfig, CodeSpace, ConditionSpec, Covariance,
    Generator, LatentSet, LatentSpace, Sampler, SamplerConfig, SamplerKind, SamplerRecord, Support,
};

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

fn space(latent_dims: i64, classes: &[&str], attributes: &[&str]) -> LatentSpace {
    LatentSpace {
        latent_dims,
        shape: None,
        support: Support::Euclidean,
        codes: None,
        condition: ConditionSpec {
            classes: classes.iter().map(|&name| name.to_owned()).collect(),
            attributes: attributes
                .iter()
                .map(|&name| AttributeSpec {
                    name: name.to_owned(),
                    values: AttributeValues::YesNo,
                })
                .collect(),
        },
    }
}

fn set(latents: Tensor, condition: Option<Tensor>) -> LatentSet {
    LatentSet { latents, condition }
}

fn fitted(config: &SamplerConfig, space: &LatentSpace, train: &LatentSet) -> Sampler {
    let sampler = Sampler::new(config, space, Device::Cpu, 1).expect("a sampler");
    assert!(sampler.start(train, 1, &mut |_| true).expect("fitted"));
    sampler
}

fn log_prob(sampler: &Sampler, set: &LatentSet) -> Tensor {
    let found = sampler
        .log_prob(set, &mut Generator::cpu(1))
        .expect("numbers");
    found.expect("a density").to_kind(Kind::Double)
}

fn mean(values: &Tensor) -> f64 {
    values.mean(Kind::Double).double_value(&[])
}

fn variable(sampler: &Sampler, name: &str) -> Tensor {
    let named = sampler.named_variables().into_iter();
    let found = named
        .filter(|(found, _)| found == name)
        .map(|(_, value)| value);
    found.last().expect(name).to_kind(Kind::Double)
}

/// Mean and covariance, 1/N Σ.
fn moments(latents: &Tensor) -> (Tensor, Tensor) {
    let latents = latents.to_kind(Kind::Double);
    let mean = latents.mean_dim(0, false, Kind::Double);
    let centered = &latents - &mean;
    let n = latents.size()[0] as f64;
    (mean, centered.transpose(0, 1).matmul(&centered) / n)
}

fn assert_near(found: &Tensor, wanted: &Tensor, tolerance: f64) {
    let difference = (found - wanted).abs().max().double_value(&[]);
    assert!(difference < tolerance, "{found:?} {wanted:?}");
}

/// Correlated latents: (x, y, z) with y = 2x + ½ε.
fn correlated(n: i64, seed: u64) -> Tensor {
    let noise = Generator::cpu(seed).normal([n, 3], Device::Cpu);
    let [x, e, z] = [0, 1, 2].map(|i| noise.select(1, i));
    let y = &x * 2.0 + e * 0.5 + 3.0;
    Tensor::stack(&[x, y, z * 0.1 - 1.0], 1)
}

const GAUSSIAN: SamplerConfig = SamplerConfig::Gaussian {
    covariance: Covariance::Full,
};

#[test]
fn the_gaussian_has_the_mean_and_covariance_of_the_latents() {
    let latents = correlated(500, 1);
    let (wanted_mean, wanted_covariance) = moments(&latents);
    let sampler = fitted(
        &GAUSSIAN,
        &space(3, &[], &[]),
        &set(latents.shallow_clone(), None),
    );
    assert_near(&variable(&sampler, "mean").get(0), &wanted_mean, 1e-6);
    let factor = variable(&sampler, "factor").get(0);
    let covariance = factor.matmul(&factor.transpose(0, 1));
    assert_near(&covariance, &wanted_covariance, 2e-5);
    // The mean log-likelihood of the latents themselves: −½·(Z·ln 2πe + ln det Σ).
    let (_, log_det) = Tensor::linalg_slogdet(&wanted_covariance);
    let wanted = -0.5 * (3.0 * (TAU * 1_f64.exp()).ln() + log_det.double_value(&[]));
    let found = mean(&log_prob(&sampler, &set(latents, None)));
    assert!((found - wanted).abs() < 1e-3, "{found} {wanted}");
    // What it draws has these moments, too.
    let drawn = sampler
        .sample(40_000, None, 1.0, &mut Generator::cpu(2))
        .expect("latents");
    let (mean, covariance) = moments(&drawn);
    assert_near(&mean, &wanted_mean, 0.05);
    assert_near(&covariance, &wanted_covariance, 0.15);
    let still = sampler
        .sample(2, None, 0.0, &mut Generator::cpu(2))
        .expect("latents");
    assert_near(&still.get(1).to_kind(Kind::Double), &wanted_mean, 1e-6);
}

#[test]
fn a_diagonal_covariance_loses_what_the_correlation_tells() {
    let latents = set(correlated(20_000, 1), None);
    let of = |covariance| {
        let config = SamplerConfig::Gaussian { covariance };
        mean(&log_prob(
            &fitted(&config, &space(3, &[], &[]), &latents),
            &latents,
        ))
    };
    // ρ² = 4/4.25; the mutual information of the two is −½·ln(1 − ρ²).
    let wanted = -0.5 * (0.25_f64 / 4.25).ln();
    let found = of(Covariance::Full) - of(Covariance::Diagonal);
    assert!((found - wanted).abs() < 0.02, "{found} {wanted}");
}

#[test]
fn a_class_has_the_gaussian_of_its_own_latents_and_an_unknown_class_the_mixture() {
    let n = 300;
    let latents = correlated(3 * n, 1);
    let class = Tensor::arange(3 * n, (Kind::Int64, Device::Cpu)).remainder(3);
    // The classes 0 and 1 apart, in shares of ⅓ and ⅔.
    let class = class.clamp_max(1);
    let shift = class.to_kind(Kind::Float).unsqueeze(1) * 4.0;
    let latents = latents + shift;
    let condition = class.one_hot(2).to_kind(Kind::Float);
    let train = set(latents.shallow_clone(), Some(condition));
    let sampler = fitted(&GAUSSIAN, &space(3, &["a", "b"], &[]), &train);
    let density = |row: [f32; 2]| {
        let condition = Tensor::from_slice(&row).repeat([3 * n, 1]);
        log_prob(&sampler, &set(latents.shallow_clone(), Some(condition)))
    };
    let (a, b) = (density([1.0, 0.0]), density([0.0, 1.0]));
    for (k, found) in [(0, &a), (1, &b)] {
        let of_class = latents.index_select(0, &class.eq(k).nonzero().squeeze_dim(1));
        let alone = fitted(&GAUSSIAN, &space(3, &[], &[]), &set(of_class, None));
        let wanted = log_prob(&alone, &set(latents.shallow_clone(), None));
        let difference = ((found - &wanted) / (wanted.abs() + 1.0)).abs().max();
        assert!(difference.double_value(&[]) < 1e-3, "{k}");
    }
    let unknown = density([f32::NAN, f32::NAN]).exp();
    assert_near(&unknown, &(a.exp() / 3.0 + b.exp() * (2.0 / 3.0)), 1e-5);
}

#[test]
fn a_gaussian_follows_an_attribute() {
    // z = 2·a + 0.1·ε for a = ±1.
    let n = 4000;
    let mut generator = Generator::cpu(4);
    let a = generator.uniform([0.0, 1.0], [n, 1], Device::Cpu).gt(0.5);
    let a = a.to_kind(Kind::Float) * 2.0 - 1.0;
    let z = &a * 2.0 + generator.normal([n, 1], Device::Cpu) * 0.1;
    let sampler = fitted(&GAUSSIAN, &space(1, &[], &["a"]), &set(z, Some(a)));
    for (value, wanted) in [(1.0, 2.0), (-1.0, -2.0)] {
        let condition = Tensor::full([2000, 1], value, CPU);
        let drawn = sampler
            .sample(2000, Some(&condition), 1.0, &mut generator)
            .expect("latents");
        assert!((mean(&drawn) - wanted).abs() < 0.02);
        let std = drawn.std(true).double_value(&[]);
        assert!((std - 0.1).abs() < 0.01, "{std}");
    }
    let unknown = Tensor::full([2000, 1], f64::NAN, CPU);
    let drawn = sampler
        .sample(2000, Some(&unknown), 1.0, &mut generator)
        .expect("latents");
    let std = drawn.std(true).double_value(&[]);
    assert!((std - 4.01_f64.sqrt()).abs() < 0.15, "{std}");
}

/// ½·N((3, 0), diag(1, ¼)) + ¼·N((−3, 2), [[1, 0.8], [0.8, 1]]) + ¼·N((−3, −3), 0.09·I), with its log-density.
fn three_gaussians(n: i64, seed: u64) -> (Tensor, Tensor) {
    let mut generator = Generator::cpu(seed);
    let factors = [
        [[1.0, 0.0], [0.0, 0.5]],
        [[1.0, 0.0], [0.8, 0.6]],
        [[0.3, 0.0], [0.0, 0.3_f64]],
    ];
    let means = [[3.0, 0.0], [-3.0, 2.0], [-3.0, -3.0_f64]];
    let weights = [0.5, 0.25, 0.25_f64];
    let k = generator.multinomial(&Tensor::from_slice(&weights), n);
    let factors = Tensor::from_slice(&factors.concat().concat()).view([3, 2, 2]);
    let means = Tensor::from_slice(&means.concat()).view([3, 2]);
    let noise = generator
        .normal([n, 2, 1], Device::Cpu)
        .to_kind(Kind::Double);
    let latents =
        factors.index_select(0, &k).matmul(&noise).squeeze_dim(-1) + means.index_select(0, &k);
    let difference = (latents.unsqueeze(1) - &means).unsqueeze(-1); // [n, 3, 2, 1]
    let white = factors.linalg_solve_triangular(&difference, false, true, false);
    let squares = white
        .square()
        .sum_dim_intlist([-1_i64, -2].as_slice(), false, Kind::Double);
    let log_det = factors
        .diagonal(0, 1, 2)
        .log()
        .sum_dim_intlist(-1, false, Kind::Double);
    let log_weights = Tensor::from_slice(&weights).log();
    let joint = squares * -0.5 - (2.0 * PI).ln() - log_det + log_weights;
    (latents.to_kind(Kind::Float), joint.logsumexp(1, false))
}

#[test]
fn em_recovers_the_density_of_a_known_mixture() {
    let (train, _) = three_gaussians(8000, 1);
    let (held_out, truth) = three_gaussians(8000, 2);
    let (train, held_out) = (set(train, None), set(held_out, None));
    let regret = |components, covariance| {
        let config = SamplerConfig::Gmm {
            components,
            covariance,
        };
        let sampler = fitted(&config, &space(2, &[], &[]), &train);
        mean(&truth) - mean(&log_prob(&sampler, &held_out))
    };
    // 17 parameters cost 17/(2·8,000) nats.
    let found = regret(3, Covariance::Full);
    assert!((-0.003..0.006).contains(&found), "{found}");
    // Two components cannot, and neither can three diagonal ones.
    assert!(regret(2, Covariance::Full) > 0.1);
    assert!(regret(3, Covariance::Diagonal) > 0.05);
    assert!(regret(20, Covariance::Diagonal) < 0.05);
}

#[test]
fn a_mixture_with_classes_draws_of_the_class() {
    let (latents, _) = three_gaussians(6000, 3);
    let right = latents.select(1, 0).gt(0.0).to_kind(Kind::Int64);
    let condition = right.one_hot(2).to_kind(Kind::Float);
    let config = SamplerConfig::Gmm {
        components: 3,
        covariance: Covariance::Full,
    };
    let space = space(2, &["left", "right"], &[]);
    let sampler = fitted(&config, &space, &set(latents, Some(condition)));
    let of = |row: [f32; 2]| {
        let condition = Tensor::from_slice(&row).repeat([1000, 1]);
        let drawn = sampler.sample(1000, Some(&condition), 1.0, &mut Generator::cpu(5));
        mean(
            &drawn
                .expect("latents")
                .select(1, 0)
                .gt(0.0)
                .to_kind(Kind::Double),
        )
    };
    assert!(of([0.0, 1.0]) > 0.98 && of([1.0, 0.0]) < 0.02);
    assert!((of([f32::NAN, f32::NAN]) - 0.5).abs() < 0.08);
}

#[test]
fn equal_points_and_empty_classes_leave_finite_densities() {
    let condition = Tensor::from_slice2(&[[1_f32, 0.0, 0.0]]).repeat([30, 1]);
    let train = set(Tensor::ones([30, 2], CPU), Some(condition));
    let space = space(2, &["a", "b", "c"], &[]);
    for config in [
        GAUSSIAN,
        SamplerConfig::Gmm {
            components: 5,
            covariance: Covariance::Full,
        },
        SamplerConfig::Gmm {
            components: 5,
            covariance: Covariance::Diagonal,
        },
    ] {
        let sampler = fitted(&config, &space, &train);
        for class in [[1_f32, 0.0, 0.0], [0.0, 1.0, 0.0], [f32::NAN; 3]] {
            let condition = Tensor::from_slice(&class).unsqueeze(0);
            let one = set(Tensor::ones([1, 2], CPU), Some(condition.shallow_clone()));
            assert!(log_prob(&sampler, &one).double_value(&[0]).is_finite());
            let drawn = sampler.sample(1, Some(&condition), 1.0, &mut Generator::cpu(1));
            assert_near(&drawn.expect("a latent"), &Tensor::ones([1, 2], CPU), 1e-3);
        }
    }
}

fn record() -> SamplerRecord {
    SamplerRecord {
        weights: "0123".to_owned(),
        checkpoint: "epoch-0002-step-00000010".to_owned(),
        log_prob: Some(-1.5),
        is_bound: false,
        prior_log_prob: Some(-2.5),
        n_train: 100,
        n_validation: 10,
        seed: 3,
    }
}

/// Every kind with a small size, and latents that it takes.
fn all() -> Vec<(SamplerConfig, LatentSpace, LatentSet)> {
    let latents = || correlated(60, 1);
    let condition = || {
        let class = Tensor::arange(60, (Kind::Int64, Device::Cpu)).remainder(2);
        let condition = class.one_hot(2).to_kind(Kind::Float);
        let _ = condition.get(5).fill_(f64::NAN);
        condition
    };
    let with = |config| {
        let space = space(3, &["a", "b"], &[]);
        (config, space, set(latents(), Some(condition())))
    };
    let mut all: Vec<_> = [
        GAUSSIAN,
        SamplerConfig::Gmm {
            components: 2,
            covariance: Covariance::Diagonal,
        },
        SamplerConfig::Flow {
            layers: 2,
            hidden: 8,
        },
        SamplerConfig::TwoStage {
            latent_dims: 2,
            hidden: 8,
        },
        SamplerConfig::Knn {
            neighbors: 3,
            points: 40,
        },
    ]
    .into_iter()
    .map(with)
    .collect();
    let config = || {
        SamplerConfig::Autoregressive(AutoregressiveConfig {
            layers: 1,
            width: 32,
        })
    };
    let of_codes = LatentSpace {
        support: Support::Codes,
        codes: Some(CodeSpace {
            slots_of_books: vec![1, 3],
            n_codes: 5,
        }),
        ..space(6, &["a", "b"], &[])
    };
    let codes = Generator::cpu(1).randint(5, [60, 4], (Kind::Int64, Device::Cpu));
    all.push((config(), of_codes, set(codes, Some(condition()))));
    let of_map = LatentSpace {
        shape: Some([3, 1, 1]),
        ..space(3, &[], &[])
    };
    all.push((config(), of_map, set(latents(), None)));
    all
}

#[test]
fn files_give_back_what_was_fitted() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sampler.safetensors");
    for (config, space, train) in all() {
        let sampler = fitted(&config, &space, &train);
        sampler.save(&file, &record()).expect("written");
        assert_eq!(
            SamplerRecord::read(&file).expect("a header"),
            (config.clone(), record())
        );
        let (loaded, found) = Sampler::load(&file, &space, Device::Cpu).expect("read");
        assert_eq!((found, loaded.config()), (record(), &config));
        let density = |sampler: &Sampler| sampler.log_prob(&train, &mut Generator::cpu(3));
        assert_eq!(
            density(&loaded).expect("numbers"),
            density(&sampler).expect("numbers")
        );
        assert_eq!(
            density(&sampler).expect("numbers").is_some(),
            config.kind() != SamplerKind::Knn
        );
        let draw = |sampler: &Sampler, seed, temperature| {
            let condition = train.condition.as_ref().map(|known| known.narrow(0, 0, 10));
            let mut generator = Generator::cpu(seed);
            sampler
                .sample(10, condition.as_ref(), temperature, &mut generator)
                .expect("latents")
        };
        let drawn = draw(&sampler, 7, 0.8);
        assert_eq!(draw(&loaded, 7, 0.8), drawn, "{config:?}");
        assert_ne!(draw(&loaded, 8, 0.8), drawn, "{config:?}");

        // Other latents, a damaged file, NaN, sizes that nothing could hold.
        let other = LatentSpace {
            latent_dims: space.latent_dims + 1,
            ..space.clone()
        };
        let error = Sampler::load(&file, &other, Device::Cpu).expect_err("other latents");
        assert!(error.to_string().contains("fits it anew"), "{error}");
        let bytes = fs::read(&file).expect("a file");
        fs::write(&file, &bytes[..bytes.len() - 4]).expect("written");
        assert!(Sampler::load(&file, &space, Device::Cpu).is_err());
        let mut damaged = bytes.clone();
        let n = damaged.len();
        damaged[n - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        fs::write(&file, &damaged).expect("written");
        let error = Sampler::load(&file, &space, Device::Cpu).expect_err("NaN");
        assert!(error.to_string().contains("NaN or infinite"), "{error}");
    }
    let huge = SamplerConfig::Gmm {
        components: 1 << 40,
        covariance: Covariance::Full,
    };
    let error = Sampler::new(&huge, &space(3, &[], &[]), Device::Cpu, 1).expect_err("too large");
    assert!(error.to_string().contains("at most"), "{error}");
}

#[test]
fn latents_without_a_distribution_of_a_kind_are_refused_with_what_fits() {
    let sphere = LatentSpace {
        support: Support::Sphere,
        ..space(3, &[], &[])
    };
    let codes = LatentSpace {
        support: Support::Codes,
        codes: Some(CodeSpace {
            slots_of_books: vec![2],
            n_codes: 1 << 20,
        }),
        ..space(4, &[], &[])
    };
    for (kind, space, wanted) in [
        (SamplerKind::Gmm, &sphere, "on a sphere"),
        (SamplerKind::Flow, &codes, "autoregressive or knn would fit"),
        (SamplerKind::Autoregressive, &codes, "knn would fit"),
        (
            SamplerKind::Autoregressive,
            &space(3, &[], &[]),
            "flow or gmm would fit",
        ),
        (SamplerKind::Flow, &space(1, &[], &[]), "gmm would fit"),
    ] {
        let error = kind.check(space).expect_err(wanted).to_string();
        assert!(
            error.contains(wanted) && error.contains(kind.name()),
            "{error}"
        );
    }
    for space in [&sphere, &codes] {
        SamplerKind::Knn.check(space).expect("it fits");
    }
    assert_eq!("two-stage".parse(), Ok(SamplerKind::TwoStage));
    assert!("twostage".parse::<SamplerKind>().is_err());
}
