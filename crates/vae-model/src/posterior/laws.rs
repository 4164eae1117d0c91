//! Laws that hold for every posterior, and helpers of the posteriors' tests.

use tch::{Device, Kind, Tensor, no_grad};

use super::*;
use crate::ElboTerms;
use crate::math::{ln_sphere_area, standard_normal_log_prob, unit};

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

/// Standard normal numbers that are always the same (splitmix64) and independent of what other tests draw.
pub(super) fn normals(shape: &[i64], seed: u64) -> Tensor {
    let n: i64 = shape.iter().product();
    let uniform = |i: u64| {
        let mut x = (seed << 32 | i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        ((x >> 11) as f64 + 0.5) / 2_f64.powi(53)
    };
    let uniforms: Vec<f64> = (1..=n as u64).map(uniform).collect();
    let normals = Tensor::from_slice(&uniforms).special_ndtri();
    normals.to_kind(Kind::Float).view(shape)
}

/// ∂ outputs/∂ inputs `[n_out, n_in]`, by autograd.
pub(super) fn jacobian(outputs: &Tensor, inputs: &Tensor) -> Tensor {
    let outputs = outputs.flatten(0, -1);
    let row = |i| {
        let of_one = outputs.get(i);
        Tensor::run_backward(&[of_one], &[inputs], true, false)
            .remove(0)
            .flatten(0, -1)
    };
    Tensor::stack(&(0..outputs.size()[0]).map(row).collect::<Vec<_>>(), 0)
}

/// A family with fixed weights.
pub(super) struct Family {
    pub(super) config: PosteriorConfig,
    pub(super) latent_dims: i64,
    pub(super) variables: nn::VarStore,
    pub(super) family: Box<dyn GraphFamily>,
}

impl Family {
    pub(super) fn new(config: PosteriorConfig, latent_dims: i64) -> Self {
        config.check(latent_dims).expect("a good config");
        let variables = nn::VarStore::new(1);
        let root = variables.root();
        let family = config.build(&root, latent_dims, None, Initialization::default());
        let mut named: Vec<_> = variables.variables().into_iter().collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        for (i, (_, mut variable)) in named.into_iter().enumerate() {
            let size = variable.size();
            let scale = 1.0 / (size[size.len() - 1] as f64).sqrt();
            no_grad(|| variable.copy_(&(normals(&size, 100 + i as u64) * scale)));
        }
        Self {
            config,
            latent_dims,
            variables,
            family,
        }
    }

    /// Parameters as from an encoder, `[n, P]`.
    pub(super) fn params(&self, n: i64) -> Tensor {
        normals(&[n, self.config.n_params(self.latent_dims)], 1) * 0.8
    }

    fn noise(&self, n_samples: i64, n_images: i64) -> Tensor {
        normals(&[n_samples, n_images, self.latent_dims], 2)
    }

    fn says(&self) -> String {
        format!("{:?} of {} dimensions", self.config, self.latent_dims)
    }

    /// Log-density of the space's base distribution.
    fn log_base(&self, latents: &Tensor) -> Tensor {
        match self.config.support() {
            Support::Euclidean | Support::Codes => standard_normal_log_prob(latents),
            Support::Sphere => {
                latents.select(-1, 0).zeros_like() - ln_sphere_area(self.latent_dims)
            }
        }
    }
}

fn families() -> Vec<Family> {
    let iaf = |hidden| {
        PosteriorConfig::Iaf(IafConfig {
            flows: 3,
            hidden,
            context: 5,
        })
    };
    let tutorial = DiagonalGaussianConfig {
        noise_scale: NoiseScale::Variance,
    };
    [
        (PosteriorConfig::default(), 3),
        (PosteriorConfig::DiagonalGaussian(tutorial), 2),
        (PosteriorConfig::FullCovariance, 1),
        (PosteriorConfig::FullCovariance, 4),
        (PosteriorConfig::Planar(PlanarConfig::default()), 1),
        (PosteriorConfig::Planar(PlanarConfig::default()), 3),
        (iaf(7), 1),
        (iaf(12), 4),
        (iaf(2), 4), // narrower than the latents
        (PosteriorConfig::VonMisesFisher, 2),
        (PosteriorConfig::VonMisesFisher, 3),
        (PosteriorConfig::VonMisesFisher, 7),
        (PosteriorConfig::Deterministic, 2),
    ]
    .map(|(config, latent_dims)| Family::new(config, latent_dims))
    .into()
}

fn largest(difference: Tensor) -> f64 {
    difference.abs().max().double_value(&[])
}

#[test]
fn what_a_config_promises_is_there() {
    for family in families() {
        let (config, says) = (&family.config, family.says());
        let params = family.params(3);
        let q = family.family.distribution(&params);
        let draws = q.draw(&family.noise(5, 3));
        assert_eq!(draws.latents.size(), [5, 3, family.latent_dims], "{says}");
        assert_eq!(q.center().size(), [3, family.latent_dims], "{says}");
        assert_eq!(draws.log_prob.is_some(), config.has_density(), "{says}");
        let log_prob = q.log_prob(&draws.latents);
        assert_eq!(log_prob.is_some(), config.has_log_prob(), "{says}");
        assert_eq!(q.covariance().is_some(), config.has_covariance(), "{says}");
        assert_eq!(q.log_var().is_some(), config.has_covariance(), "{says}");
        if config.support() == Support::Sphere {
            for z in [&draws.latents, &q.center()] {
                let length = z.square().sum_dim_intlist(-1, false, Kind::Float);
                assert!(largest(length - 1.0) < 1e-6, "{says}");
            }
        }
        let written = serde_json::to_string(config).expect("json");
        assert!(
            written.contains(&format!("\"{}\"", config.name())),
            "{written}"
        );
    }
}

#[test]
fn the_density_of_a_draw_is_the_density_at_its_latents() {
    for family in families() {
        let params = family.params(3);
        let q = family.family.distribution(&params);
        let draws = q.draw(&family.noise(5, 3));
        let Some(log_prob) = q.log_prob(&draws.latents) else {
            continue;
        };
        let by_noise = draws.log_prob.expect("a density");
        assert!(largest(&by_noise - &log_prob) < 1e-4, "{}", family.says());
        // The latents of the first image under the posteriors of all images, as in a mixture of posteriors.
        let of_first = draws.latents.narrow(1, 0, 1); // [5, 1, Z]
        let under_all = q.log_prob(&of_first).expect("a density");
        assert_eq!(under_all.size(), [5, 3]);
        assert!(largest(under_all.select(1, 0) - by_noise.select(1, 0)) < 1e-4);
        let second = family.family.distribution(&params.narrow(0, 1, 1));
        let alone = second.log_prob(&of_first).expect("a density");
        assert!(largest(under_all.select(1, 1) - alone.select(1, 0)) < 1e-4);
        // Latents [B, Z], as of a single sample.
        let single = q.log_prob(&draws.latents.get(2)).expect("a density");
        assert!(
            largest(single - log_prob.get(2)) < 1e-5,
            "{}",
            family.says()
        );
    }
}

#[test]
fn kl_is_the_mean_of_log_q_over_p() {
    let n = 40_000;
    for family in families() {
        let q = family.family.distribution(&family.params(2));
        let Some(kl) = q.kl() else { continue };
        let kl = match kl {
            ClosedKl::PerDimension(kl) => kl.sum_dim_intlist(-1, false, Kind::Float),
            ClosedKl::Total(kl) => kl,
        };
        let draws = q.draw(&family.noise(n, 2));
        let ratios = draws.log_prob.expect("a density") - family.log_base(&draws.latents);
        let error = ratios.std_dim(0, true, false) / (n as f64).sqrt();
        let excess = (ratios.mean_dim(0, false, Kind::Double) - kl).abs() / error;
        assert!(largest(excess) < 5.0, "{}", family.says());
    }
}

#[test]
fn covariances_are_those_of_the_draws() {
    let n = 40_000;
    for family in families() {
        let q = family.family.distribution(&family.params(2));
        let Some(covariance) = q.covariance() else {
            continue;
        };
        let diagonal = covariance.diagonal(0, -2, -1);
        let log_var = q.log_var().expect("it comes with the covariance");
        assert!(largest(diagonal.log() - log_var) < 1e-5);
        let offset = q.draw(&family.noise(n, 2)).latents - q.center();
        let products = offset.unsqueeze(-1) * offset.unsqueeze(-2); // [K, B, Z, Z]
        let error = products.std_dim(0, true, false) / (n as f64).sqrt();
        let excess = (products.mean_dim(0, false, Kind::Float) - covariance) / error;
        assert!(largest(excess) < 5.0, "{}", family.says());
    }
}

/// A sum that depends on all outputs of a posterior, in f64.
fn sum_of_everything(family: &Family, params: &Tensor) -> Tensor {
    let q = family.family.distribution(params);
    let noise = family.noise(4, params.size()[0]);
    let draws = q.draw(&noise);
    let total = |t: &Tensor| t.sum(Kind::Double);
    let elsewhere = match family.config.support() {
        Support::Euclidean | Support::Codes => &noise * 0.7,
        Support::Sphere => unit(&noise, 1e-9),
    };
    let mut sum = total(&(draws.latents * (noise + 0.5))) + total(&q.center());
    if let Some(log_prob) = draws.log_prob {
        sum += total(&log_prob);
    }
    if let Some(log_prob) = q.log_prob(&elsewhere) {
        sum += total(&log_prob) * 0.3;
    }
    if let Some(covariance) = q.covariance() {
        sum += total(&covariance.sin());
    }
    match q.kl() {
        Some(ClosedKl::PerDimension(kl) | ClosedKl::Total(kl)) => sum + total(&kl),
        None => sum,
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    for family in families() {
        let params = family.params(3).set_requires_grad(true);
        let mut inputs = vec![params.shallow_clone()];
        inputs.extend(family.variables.trainable_variables());
        let sum = sum_of_everything(&family, &params);
        let gradients = Tensor::run_backward(&[sum], &inputs, false, false);
        let starts: Vec<Tensor> = inputs.iter().map(|input| input.detach().copy()).collect();
        for seed in 3..6 {
            let directions: Vec<Tensor> = inputs.iter().map(|t| normals(&t.size(), seed)).collect();
            let at = |step: f64| {
                no_grad(|| {
                    for ((input, start), direction) in inputs.iter().zip(&starts).zip(&directions) {
                        input.shallow_clone().copy_(&(start + direction * step));
                    }
                    sum_of_everything(&family, &params).double_value(&[])
                })
            };
            // Of fourth order, so that the step is large enough for f32.
            let h = 4e-3;
            let difference = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
            let slope: f64 = gradients
                .iter()
                .zip(&directions)
                .map(|(gradient, direction)| {
                    (gradient * direction).sum(Kind::Double).double_value(&[])
                })
                .sum();
            let size: f64 = gradients
                .iter()
                .map(|gradient| gradient.square().sum(Kind::Double).double_value(&[]))
                .sum();
            assert!(
                (difference - slope).abs() < 2e-3 * (1.0 + size.sqrt()),
                "{}: {difference} by differences, {slope} by autograd",
                family.says()
            );
        }
    }
}

#[test]
fn images_do_not_see_each_other() {
    for family in families() {
        let (params, noise) = (family.params(3), family.noise(2, 3));
        let together = family.family.distribution(&params);
        let draws = together.draw(&noise);
        for image in 0..3 {
            let alone = family.family.distribution(&params.narrow(0, image, 1));
            let drawn = alone.draw(&noise.narrow(1, image, 1));
            let difference = drawn.latents - draws.latents.narrow(1, image, 1);
            assert!(largest(difference) < 1e-5, "{}", family.says());
            let difference = alone.center() - together.center().narrow(0, image, 1);
            assert!(largest(difference) < 1e-5, "{}", family.says());
            if let (Some(of_one), Some(of_all)) = (drawn.log_prob, &draws.log_prob) {
                let difference = of_one - of_all.narrow(1, image, 1);
                assert!(largest(difference) < 1e-4, "{}", family.says());
            }
        }
    }
}

#[test]
fn what_is_detached_is_the_same_and_leaves_only_the_path_through_z() {
    for family in families() {
        let params = family.params(3).set_requires_grad(true);
        let q = family.family.distribution(&params);
        let noise = family.noise(2, 3);
        let (draws, constant) = (q.draw(&noise), q.detach());
        let same = constant.draw(&noise);
        assert!(!same.latents.requires_grad(), "{}", family.says());
        assert!(!constant.center().requires_grad(), "{}", family.says());
        assert_eq!(largest(&same.latents - &draws.latents), 0.0);
        if let Some(log_prob) = same.log_prob {
            assert!(!log_prob.requires_grad(), "{}", family.says());
            assert_eq!(largest(log_prob - draws.log_prob.expect("as before")), 0.0);
        }
        if let Some(ClosedKl::PerDimension(kl) | ClosedKl::Total(kl)) = constant.kl() {
            assert!(!kl.requires_grad(), "{}", family.says());
        }
        let at = draws.latents.detach().set_requires_grad(true);
        if let Some(log_prob) = constant.log_prob(&at) {
            assert_eq!(
                largest(&log_prob - q.log_prob(&at).expect("as before")),
                0.0
            );
            log_prob.sum(Kind::Float).backward();
            assert!(largest(at.grad()) > 0.0);
            assert!(!params.grad().defined(), "{}", family.says());
        }
    }
}

#[test]
fn an_encoder_that_says_nonsense_still_has_finite_terms() {
    for family in families() {
        for scale in [0.0, 1e-20, 300.0, -1e4] {
            let params = (family.params(4) * scale).set_requires_grad(true);
            let q = family.family.distribution(&params);
            let draws = q.draw(&family.noise(3, 4));
            let mut terms = vec![draws.latents.sum(Kind::Float), q.center().sum(Kind::Float)];
            // From the noise, whatever the scale: the draws may be in regions of tiny density.
            terms.extend(draws.log_prob.map(|log_prob| log_prob.sum(Kind::Float)));
            if let Some(ClosedKl::PerDimension(kl) | ClosedKl::Total(kl)) = q.kl() {
                terms.push(kl.sum(Kind::Float));
            }
            let sum: Tensor = terms.into_iter().sum();
            let says = format!("{} at {scale}", family.says());
            assert!(sum.double_value(&[]).is_finite(), "{says}");
            sum.backward();
            let gradient = params.grad();
            assert_eq!(gradient.isfinite().all().int64_value(&[]), 1, "{says}");
        }
    }
}

fn flows(latent_dims: i64) -> [Family; 2] {
    let iaf = PosteriorConfig::Iaf(IafConfig::default());
    let planar = PosteriorConfig::Planar(PlanarConfig { flows: 3 });
    [iaf, planar].map(|config| Family::new(config, latent_dims))
}

#[test]
fn a_flow_in_one_dimension_keeps_every_quantile() {
    // The map is increasing, so that q integrated up to z(ε) is Φ(ε): the trapezoid rule on a grid of ε.
    for family in flows(1) {
        let q = family.family.distribution(&family.params(1));
        let noise = Tensor::linspace(-6.0, 6.0, 4001, CPU);
        let draws = q.draw(&noise.view([-1, 1, 1]));
        let z = draws.latents.flatten(0, -1).to_kind(Kind::Double);
        let density = draws.log_prob.expect("a density").flatten(0, -1).exp();
        let step = z.diff(1, -1, None::<&Tensor>, None::<&Tensor>);
        assert!(step.min().double_value(&[]) > 0.0, "{}", family.says());
        let mean = (density.narrow(0, 0, 4000) + density.narrow(0, 1, 4000)) * 0.5;
        let mass = (mean * step).cumsum(0, Kind::Double);
        let error = mass
            - noise
                .narrow(0, 1, 4000)
                .to_kind(Kind::Double)
                .special_ndtr();
        assert!(largest(error) < 1e-4, "{}", family.says());
    }
}

#[test]
fn the_density_of_a_flow_integrates_to_1_over_the_plane() {
    // A grid of noise becomes quadrilaterals in the plane of z: their areas times the density at their
    // corners.
    for family in flows(2) {
        let q = family.family.distribution(&family.params(1));
        let n = 401;
        let axis = Tensor::linspace(-5.5, 5.5, n, CPU);
        let rows = axis.unsqueeze(1).expand([n, n], false);
        let grid = Tensor::stack(&[&rows, &rows.transpose(0, 1)], -1); // [n, n, 2]
        let draws = q.draw(&grid.view([-1, 1, 2]));
        let z = draws.latents.view([n, n, 2]).to_kind(Kind::Double);
        let density = draws.log_prob.expect("a density").exp().view([n, n]);
        let corner = |t: &Tensor, i, j| t.narrow(0, i, n - 1).narrow(1, j, n - 1);
        let diagonal = corner(&z, 1, 1) - corner(&z, 0, 0);
        let other = corner(&z, 0, 1) - corner(&z, 1, 0);
        let x = |t: &Tensor| t.select(-1, 0);
        let y = |t: &Tensor| t.select(-1, 1);
        // Half the cross product of the diagonals; of one sign, for the map does not fold.
        let area = (x(&diagonal) * y(&other) - y(&diagonal) * x(&other)) * 0.5;
        assert!(area.min().double_value(&[]) > 0.0, "{}", family.says());
        let corners = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(i, j)| corner(&density, i, j));
        let mean = corners.into_iter().sum::<Tensor>() * 0.25;
        let mass = (mean * area).sum(Kind::Double).double_value(&[]);
        assert!((mass - 1.0).abs() < 2e-3, "{}: {mass}", family.says());
    }
}

#[test]
fn log_determinants_are_those_of_the_jacobian() {
    for latent_dims in [1, 2, 5] {
        for family in flows(latent_dims) {
            let params = family.params(1);
            let q = family.family.distribution(&params);
            for seed in 7..12 {
                let noise = normals(&[1, 1, latent_dims], seed).set_requires_grad(true);
                let draws = q.draw(&noise);
                let determinant = jacobian(&draws.latents, &noise).to_kind(Kind::Double).det();
                let log_prob = standard_normal_log_prob(&noise) - determinant.log();
                let error = log_prob - draws.log_prob.expect("a density");
                assert!(largest(error) < 1e-5, "{}", family.says());
            }
        }
    }
}

#[test]
fn configs_that_nothing_can_be_built_from_are_refused() {
    let refusal = |config: PosteriorConfig, latent_dims| {
        let error = config.check(latent_dims).expect_err("a refusal");
        error.to_string()
    };
    let of_sphere = refusal(PosteriorConfig::VonMisesFisher, 1);
    assert!(of_sphere.contains("found latent_dims = 1"), "{of_sphere}");
    let no_flow = PosteriorConfig::Planar(PlanarConfig { flows: 0 });
    assert!(refusal(no_flow, 2).starts_with("model.posterior.planar.flows: found 0"));
    let no_width = PosteriorConfig::Iaf(IafConfig {
        hidden: 0,
        ..Default::default()
    });
    assert!(refusal(no_width, 2).starts_with("model.posterior.iaf.hidden: found 0"));
    let too_large = refusal(PosteriorConfig::FullCovariance, 1 << 20);
    assert!(too_large.contains("at most 2097152"), "{too_large}");
    PosteriorConfig::FullCovariance
        .check(1000)
        .expect("half a million numbers");
}

#[test]
fn every_posterior_makes_a_model_whose_terms_add_up_and_whose_variables_all_learn() {
    let image = crate::ImageShape {
        channels: 1,
        height: 4,
        width: 3,
    };
    let images = (normals(&[2, 1, 4, 3], 21) * 60.0 + 128.0).to_kind(Kind::Uint8);
    for family in families() {
        let prior = match family.config.support() {
            Support::Euclidean => crate::PriorConfig::StandardNormal,
            Support::Codes => crate::PriorConfig::UniformCodes,
            Support::Sphere => crate::PriorConfig::HypersphericalUniform,
        };
        let config = crate::ModelConfig {
            latent_dims: Some(family.latent_dims),
            posterior: family.config.clone(),
            prior,
            network: crate::NetworkConfig::Mlp(crate::MlpConfig { hidden: vec![8] }),
            ..Default::default()
        };
        let vae = crate::Vae::new(&config, image, Device::Cpu, 1).expect("a model");
        let samples = vae.sample(3, &mut vae.generator(1));
        assert_eq!(samples.expect("samples").size(), [3, 1, 4, 3]);
        let noise = family.noise(30_000, 2);
        let draws = vae
            .draw_with_noise(&images, &noise, crate::Mode::Train)
            .expect("draws");
        let ElboTerms { reconstruction, kl } = &draws.terms;
        let mut loss = reconstruction.sum(Kind::Float);
        if let (Some(kl), Some(log_qz_x)) = (kl, &draws.log_qz_x) {
            // The kl, closed or not, is the mean of log q/p as the estimators take it.
            let ratios = log_qz_x - &draws.log_pz;
            let error = ratios.std_dim(0, true, false) / 30_000_f64.sqrt() + 1e-6;
            let excess = (ratios.mean_dim(0, false, Kind::Float) - kl) / error;
            assert!(largest(excess) < 5.0, "{}", family.says());
            loss += kl.sum(Kind::Float);
        }
        loss.backward();
        for (name, variable) in vae.trainable_variables() {
            let gradient = variable.grad();
            let says = format!("{name} of {}", family.says());
            assert!(gradient.defined(), "{says}");
            assert!(gradient.isfinite().all().int64_value(&[]) == 1, "{says}");
            // A single latent dimension has none before it.
            let is_masked = family.latent_dims == 1 && name.ends_with("latents.weight");
            assert_eq!(largest(gradient) > 0.0, !is_masked, "{says}");
        }
    }
}

#[test]
fn configs_are_written_by_name_with_defaults_for_what_is_left_out() {
    let read = |toml: &str| toml::from_str::<crate::ModelConfig>(toml).map(|model| model.posterior);
    let iaf = IafConfig {
        flows: 3,
        hidden: 64,
        context: 64,
    };
    let cases = [
        (
            "posterior = \"full_covariance\"",
            PosteriorConfig::FullCovariance,
        ),
        (
            "[posterior.planar]",
            PosteriorConfig::Planar(PlanarConfig { flows: 4 }),
        ),
        ("[posterior.iaf]\nflows = 3", PosteriorConfig::Iaf(iaf)),
        (
            "posterior = \"von_mises_fisher\"",
            PosteriorConfig::VonMisesFisher,
        ),
    ];
    for (toml, wanted) in cases {
        assert_eq!(read(toml).expect(toml), wanted);
    }
    let error = read("[posterior.iaf]\nwidth = 3").expect_err("an unknown key");
    assert!(error.to_string().contains("width"), "{error}");
}

#[test]
fn posteriors_on_the_sphere_and_priors_elsewhere_refuse_each_other() {
    let check = |posterior, prior| {
        let config = crate::ModelConfig {
            latent_dims: Some(3),
            posterior,
            prior,
            ..Default::default()
        };
        config.check().map_err(|error| error.to_string())
    };
    let sphere = || crate::PriorConfig::HypersphericalUniform;
    let plane = || crate::PriorConfig::StandardNormal;
    assert_eq!(check(PosteriorConfig::VonMisesFisher, sphere()), Ok(()));
    let error = check(PosteriorConfig::VonMisesFisher, plane()).expect_err("a refusal");
    assert!(error.contains("hyperspherical_uniform"), "{error}");
    let error = check(PosteriorConfig::FullCovariance, sphere()).expect_err("a refusal");
    assert!(error.contains("standard_normal"), "{error}");
}
