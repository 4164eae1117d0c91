//! Estimates of log p(x), compared with the exact likelihood of probabilistic PCA, and with each other.

mod common;

use std::f64::consts::PI;

use common::{MNIST, config, digits, trained};
use tch::{Device, Kind, Tensor, no_grad};
use vae_data::Dataset;
use vae_eval::{
    AnnealedSampling, ImageBounds, LikelihoodOptions, Protocol, annealed_bounds, dataset_bounds,
    exact_log_prob, image_bounds, measure_likelihood,
};
use vae_model::{ImageShape, ItemSpec, MelodySpec, ModelConfig, Vae};

const LINEAR: &str = "
    [model]
    latent_dims = 5
    likelihood = {gaussian = {}}
    network = {mlp = {hidden = []}}
    [optimizer.adam]
    learning_rate = 5e-3
    [training]
    batch_size = 256
";

fn linear(latent_dims: i64, sigma: &str) -> ModelConfig {
    toml::from_str(&format!(
        "latent_dims = {latent_dims}\nlikelihood = {{gaussian = {{sigma = {sigma}}}}}\n\
         network = {{mlp = {{hidden = []}}}}"
    ))
    .expect("a model")
}

#[test]
fn the_exact_likelihood_is_the_normal_density_of_its_covariance() {
    let image = ImageShape {
        channels: 1,
        height: 3,
        width: 2,
    };
    let vae = Vae::new(&linear(2, "0.3"), image, Device::Cpu, 1).expect("a model");
    let bytes: Vec<u8> = (0..12).map(|i| (i * 37 % 256) as u8).collect();
    let images = Tensor::from_slice(&bytes).view([2, 1, 3, 2]);
    let found = exact_log_prob(&vae, &images)
        .expect("computed")
        .expect("known");

    // ln N(x; b, W·Wᵀ + σ²·I) with the inverse and determinant of the whole matrix.
    let variables: std::collections::BTreeMap<_, _> = vae.named_variables().into_iter().collect();
    let of = |name: &str| variables[name].detach().to_kind(Kind::Double);
    let (w, b) = (of("decoder.0.weight"), of("decoder.0.bias"));
    let covariance =
        w.matmul(&w.transpose(0, 1)) + Tensor::eye(6, (Kind::Double, Device::Cpu)) * 0.09;
    let x = images.view([2, 6]).to_kind(Kind::Double) / 127.5 - 1.0;
    let residual = x - b;
    let distance = (residual.matmul(&covariance.inverse()) * &residual).sum_dim_intlist(
        1,
        false,
        Kind::Double,
    );
    let log_det = covariance.det().log();
    let wanted = (distance + log_det + 6.0 * (2.0 * PI).ln()) * -0.5;
    assert!((found - wanted).abs().max().double_value(&[]) < 1e-9);

    let deep: ModelConfig = toml::from_str("network = {mlp = {hidden = [3]}}").expect("a model");
    let deep = Vae::new(&deep, image, Device::Cpu, 1).expect("a model");
    assert!(exact_log_prob(&deep, &images).expect("computed").is_none());
}

#[test]
fn a_learned_variance_below_a_bytes_rounding_counts_as_that() {
    let image = ImageShape {
        channels: 1,
        height: 3,
        width: 2,
    };
    let images = Tensor::full([2, 1, 3, 2], 128, (Kind::Uint8, Device::Cpu));
    let exact = |sigma: &str, variance: Option<f64>| {
        let vae = Vae::new(&linear(2, sigma), image, Device::Cpu, 1).expect("a model");
        for (name, mut variable) in vae.named_variables() {
            no_grad(|| match &name[..] {
                "decoder.0.weight" => drop(variable.fill_(0.02)),
                "decoder.0.bias" => drop(variable.fill_(0.0)),
                "likelihood.variance" => drop(variable.fill_(variance.expect("a variance"))),
                _ => {}
            });
        }
        let found = exact_log_prob(&vae, &images)
            .expect("computed")
            .expect("known");
        found.double_value(&[0])
    };
    // Uniform within a step of 2/255, variance step²/12, as in the evaluation of the model.
    let rounding = format!("{:?}", 2.0 / 255.0 / 12_f64.sqrt());
    let least = exact(&rounding, None);
    assert!((exact("'learned'", Some(1e-9)) - least).abs() < 1e-6);
    assert!((exact("'learned'", Some(0.09)) - exact("0.3", None)).abs() < 1e-6);
}

#[test]
fn sampling_errors_are_those_of_a_mean_of_weights() {
    // No error for K equal weights; √(1/4 − 1/16) = √3/4 for 16 weights with an effective number of 4.
    let of = |sizes: &[f64]| ImageBounds {
        bound: Tensor::from_slice(sizes),
        reconstruction: Tensor::from_slice(sizes),
        kl: Tensor::from_slice(sizes),
        effective_sample_size: Tensor::from_slice(sizes),
    };
    let errors = of(&[16.0, 4.0, 16.5]).sampling_error(16);
    let errors = Vec::<f64>::try_from(errors).expect("numbers");
    for (found, wanted) in errors.iter().zip([0.0, 3_f64.sqrt() / 4.0, 0.0]) {
        assert!((found - wanted).abs() < 1e-12, "{found} vs {wanted}");
    }
}

/// Both estimators are unbiased for p(x) and report their errors, which are compared with the exact value.
#[test]
fn importance_and_annealed_sampling_agree_with_probabilistic_pca() {
    let splits = digits(None);
    let config = config(LINEAR);
    let vae = trained(&config, &splits, 3000);
    let images = splits.test.first(16).expect("images");
    let exact = exact_log_prob(&vae, &images)
        .expect("computed")
        .expect("known");

    const K: u32 = 5000;
    let importance = image_bounds(&vae, &images, K, &mut vae.generator(5)).expect("bounds");
    assert_agree(
        "importance",
        &importance.bound,
        &exact,
        &importance.effective_sample_size,
        K,
    );

    let sampling = AnnealedSampling {
        n_chains: 32,
        n_temperatures: 400,
        n_leapfrog: 5,
    };
    let annealed = annealed_bounds(&vae, &images, sampling, 1, &mut |_, _, _| ()).expect("bounds");
    assert_agree(
        "annealed",
        &annealed.bound,
        &exact,
        &annealed.effective_sample_size,
        64,
    );

    // The elbo is lower by the divergence of the posterior from the true one.
    let elbo = -(&importance.reconstruction + &importance.kl);
    let gap = (&exact - elbo).mean(Kind::Double).double_value(&[]);
    assert!(gap > 0.0, "{gap}");
}

/// The mean over images is correct within four standard errors, which are small enough for a meaningful test.
fn assert_agree(name: &str, bound: &Tensor, exact: &Tensor, size: &Tensor, n_samples: u32) {
    let n = bound.numel() as f64;
    let lost = size.reciprocal() - 1.0 / f64::from(n_samples);
    let variances = lost.clamp_min(0.0); // of each image's bound
    let error = variances.sum(Kind::Double).sqrt().double_value(&[]) / n;
    // By its variance, the ln of an estimated mean is lower by half that variance on average.
    let bias = variances.mean(Kind::Double).double_value(&[]) / 2.0;
    let difference = (bound - exact).mean(Kind::Double).double_value(&[]);
    println!(
        "{name}: {difference:.4} ± {error:.4}, bias −{bias:.4}, size {:.1}",
        size.mean(Kind::Double).double_value(&[])
    );
    assert!(error < 0.15, "{name}: an error of {error} says nothing");
    // 784 pixels in f32 add up to 1e-3 nats.
    let allowed = 4.0 * error + bias + 2e-3;
    assert!(
        difference.abs() < allowed,
        "{name}: {difference} > {allowed}"
    );
}

#[test]
fn measures_say_what_the_bounds_are() {
    let splits = digits(None);
    let vae = trained(&config(LINEAR), &splits, 50);
    let options = LikelihoodOptions {
        n_samples: 30,
        annealed: Some((
            3,
            AnnealedSampling {
                n_chains: 2,
                n_temperatures: 5,
                n_leapfrog: 2,
            },
        )),
    };
    let measure = || measure_likelihood(&vae, &splits.test, &options, 4, &mut |_, _, _| ());
    let findings = measure().expect("findings");
    assert_eq!(
        findings,
        measure().expect("findings"),
        "the same seed, other numbers"
    );
    let of = |name: &str| {
        findings
            .measure(name)
            .unwrap_or_else(|| panic!("no {name}"))
            .value
    };
    assert!((of("elbo") + of("reconstruction") + of("kl")).abs() < 1e-9);
    assert!(of("nll") <= -of("elbo"));
    assert!(of("nll_exact") <= of("nll") + 0.5);
    assert!((1.0..=30.0).contains(&of("effective_sample_size")));
    assert!(findings.measure("bits_per_dim").is_none());
    assert!(of("nll_annealed") > of("nll_exact") - 1.0);
    let gain = of("nll_of_annealed_images") - of("nll_annealed");
    assert!((of("annealed_gain") - gain).abs() < 1e-9 && gain.abs() > 1e-3);
    let bounds =
        dataset_bounds(&vae, &splits.test, 30, 4, None, &mut |_, _, _| ()).expect("bounds");
    let mean = -bounds.bound.mean(Kind::Double).double_value(&[]);
    assert!((of("nll") - mean).abs() < 1e-9);
    let nll = findings.measure("nll").expect("nll");
    let weighted = Protocol::ImportanceWeighted {
        n_samples: 30,
        n_images: None,
    };
    assert_eq!(nll.protocol, Some(weighted));
    assert_eq!(
        nll.how(),
        "importance-weighted bound, K = 30 samples from q(z|x); ± over the images"
    );
    // With three images only, and the same K.
    let on_those = findings.measure("nll_of_annealed_images").expect("a bound");
    let weighted = Protocol::ImportanceWeighted {
        n_samples: 30,
        n_images: Some(3),
    };
    assert_eq!(on_those.protocol, Some(weighted));
    let deviation = bounds.bound.std(true).double_value(&[]) / 8.0;
    assert!((nll.error.expect("an error") - deviation).abs() < 1e-9);
    // For a mean over 64 images: the root of the sum of their variances, divided by 64.
    let errors = bounds.sampling_error(30);
    let error = errors.square().sum(Kind::Double).sqrt().double_value(&[]) / 64.0;
    let note = &nll.note;
    assert!(note.ends_with(&format!("± {error:.3}")), "{note}, {error}");
}

#[test]
fn bits_per_dimension_are_of_the_bound_that_they_are_said_to_be_of() {
    let splits = digits(None);
    let config = config(
        "[model]\nnetwork = {mlp = {hidden = [20]}}\nlikelihood = {discretized_logistic = {}}",
    );
    let vae = trained(&config, &splits, 3);
    let options = LikelihoodOptions {
        n_samples: 20,
        annealed: None,
    };
    let findings =
        measure_likelihood(&vae, &splits.test, &options, 4, &mut |_, _, _| ()).expect("findings");
    let of = |name: &str| findings.measure(name).expect(name).value;
    let wanted = of("nll") / (784.0 * 2_f64.ln());
    assert!((of("bits_per_dim") - wanted).abs() < 1e-9);
    assert!(
        of("nll") < -of("elbo") - 0.1,
        "another number would be another"
    );
}

#[test]
fn one_importance_sample_is_the_elbo_and_samples_are_streamed() {
    let splits = digits(None);
    let config =
        config("[model]\nnetwork = {mlp = {hidden = [20]}}\nprior = {gaussian_mixture = {}}");
    let vae = trained(&config, &splits, 5);
    let images = splits.test.first(7).expect("images");
    let one = image_bounds(&vae, &images, 1, &mut vae.generator(1)).expect("bounds");
    // The kl is sampled, not in closed form, so a single log-weight is the elbo.
    let elbo = -(&one.reconstruction + &one.kl);
    assert!((&one.bound - elbo).abs().max().double_value(&[]) < 1e-3);
    assert!(
        (&one.effective_sample_size - 1.0)
            .abs()
            .max()
            .double_value(&[])
            < 1e-9
    );
    assert_eq!(one.sampling_error(1).max().double_value(&[]), 0.0);
    // More samples than fit into one batch: the weights of the pieces are combined.
    let many = image_bounds(&vae, &images, 2000, &mut vae.generator(2)).expect("bounds");
    let smallest = many.effective_sample_size.min().double_value(&[]);
    assert!((1.0..=2000.0).contains(&smallest));
    assert!(
        (many.bound - one.bound)
            .mean(Kind::Double)
            .double_value(&[])
            > 0.0
    );
    assert_eq!(vae.image_shape(), MNIST);
}

/// Two latents of an image of so many values fit at once: five samples are drawn in parts of 2, 2 and 1.
#[test]
fn parts_of_the_samples_weigh_by_their_number() {
    const N_VALUES: i64 = 2000 * 28 * 28;
    let image = ImageShape {
        channels: 1,
        height: 28,
        width: N_VALUES / 28,
    };
    let model: ModelConfig =
        toml::from_str("latent_dims = 1\nnetwork = {mlp = {hidden = []}}").expect("a model");
    let vae = Vae::new(&model, image, Device::Cpu, 1).expect("a model");
    // q(z|x) = N(0.5, 0.25) and p(x|z) = ½ of every image and latent.
    for (name, mut variable) in vae.named_variables() {
        no_grad(|| match &name[..] {
            "encoder.0.bias" => variable.copy_(&Tensor::from_slice(&[0.5, 0.25_f32.ln()])),
            _ => drop(variable.zero_()),
        });
    }
    let images = Tensor::zeros([1, 1, 28, N_VALUES / 28], (Kind::Uint8, Device::Cpu));
    let found = image_bounds(&vae, &images, 5, &mut vae.generator(1)).expect("bounds");
    let reconstruction = N_VALUES as f64 * 2_f64.ln();
    let share = found.reconstruction.double_value(&[0]) / reconstruction;
    assert!((share - 1.0).abs() < 1e-5, "{share}");
    let kl = 0.5 * (0.25 + 0.25 - 1.0 + 4_f64.ln());
    assert!((found.kl.double_value(&[0]) - kl).abs() < 1e-6);
}

#[test]
fn a_sphere_has_no_annealing_and_a_deterministic_posterior_no_likelihood() {
    let splits = digits(None);
    let sphere = config(
        "[model]\nlatent_dims = 3\nposterior = 'von_mises_fisher'\nprior = 'hyperspherical_uniform'\n\
         network = {mlp = {hidden = [20]}}",
    );
    let vae = trained(&sphere, &splits, 2);
    let images = splits.test.first(2).expect("images");
    let error = annealed_bounds(
        &vae,
        &images,
        AnnealedSampling::default(),
        0,
        &mut |_, _, _| (),
    )
    .expect_err("refused")
    .to_string();
    assert!(error.contains("sphere"), "{error}");

    let points = config(
        "[model]\nposterior = 'deterministic'\nnetwork = {mlp = {hidden = [20]}}\n\
         [objective]\nregularizer = 'none'\n[checkpoints]\nmetric = 'mse'",
    );
    let vae = trained(&points, &splits, 2);
    let options = LikelihoodOptions::default();
    let findings =
        measure_likelihood(&vae, &splits.test, &options, 0, &mut |_, _, _| ()).expect("findings");
    assert!(findings.measures.is_empty() && findings.not_measured.contains_key("nll"));
}

/// A decoder that always gives the same token is right as often as that token occurs.
#[test]
fn the_accuracy_of_a_model_by_hand_is_the_share_of_its_token() {
    let spec = MelodySpec {
        bars: 1,
        steps_per_bar: 4,
        meter: [4, 4],
    };
    let rows = [[40_i64, 0, 0, 40], [0, 0, 0, 0], [1, 0, 40, 41]];
    let items = Tensor::from_slice(&rows.concat()).view([3, 1, 1, 4]);
    let item = ItemSpec::of_melodies(spec);
    let dataset = Dataset::of_items(item.clone(), items, None).unwrap();
    let text =
        "latent_dims = 2\nlikelihood = 'categorical'\nnetwork.recurrent = { decoder_hidden = 3 }";
    let config: ModelConfig = toml::from_str(text).unwrap();
    for (token, of_tokens, of_notes, whole) in
        [(0, 7.0, 0.0, 1.0), (40, 3.0, 3.0, 0.0), (5, 0.0, 0.0, 0.0)]
    {
        let vae = Vae::new(&config, item.clone(), Device::Cpu, 1).unwrap();
        for (name, mut variable) in vae.trainable_variables() {
            no_grad(|| {
                let _ = variable.zero_();
                if name == "decoder.logits.bias" {
                    let _ = variable.narrow(0, token, 1).fill_(3.0);
                }
            });
        }
        let options = LikelihoodOptions {
            n_samples: 2,
            annealed: None,
        };
        let findings = measure_likelihood(&vae, &dataset, &options, 1, &mut |_, _, _| {}).unwrap();
        let of = |name: &str| {
            let measure = findings
                .measures
                .iter()
                .find(|measure| measure.name == name);
            measure.expect(name).value
        };
        for how in ["teacher_forced", "free_running"] {
            let found = of(&format!("token_accuracy_{how}"));
            assert!(
                (found - of_tokens / 12.0).abs() < 1e-12,
                "{token} {how}: {found}"
            );
            let found = of(&format!("note_accuracy_{how}"));
            assert!(
                (found - of_notes / 4.0).abs() < 1e-12,
                "{token} {how}: {found}"
            );
        }
        assert!((of("whole_items_free_running") - whole / 3.0).abs() < 1e-12);
    }
}
