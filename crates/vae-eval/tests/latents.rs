//! Metrics of latents, compared with closed forms and laws.

mod common;

use common::{config, digits, trained};
use tch::{Device, Kind, Tensor, no_grad};
use vae_data::{Dataset, DatasetConfig};
use vae_eval::{Bound, LatentOptions, Protocol, aggregate_densities, measure_latents};
use vae_model::{ImageShape, Mode, Vae};
use vae_view::latent::encode;

fn quiet() -> impl FnMut(&str, usize, usize) {
    |_, _, _| ()
}

fn named(vae: &Vae, name: &str) -> Tensor {
    let variables = vae.named_variables();
    let found = variables.into_iter().find(|(known, _)| known == name);
    found.unwrap_or_else(|| panic!("no {name}")).1
}

/// A model with 2 latents. In the first dimension the encoder gives N(mean, variance) for a black image and N(−mean,
/// variance) for a white one; in the second it gives the prior.
fn two_clouds(mean: f64, variance: f64) -> (Vae, Dataset) {
    let config = config("[model]\nlatent_dims = 2\nnetwork = {mlp = {hidden = []}}");
    let vae = Vae::new(&config.model, common::MNIST, Device::Cpu, 1).expect("a model");
    no_grad(|| {
        // Outputs: mean 0, mean 1, log-variance 0, log-variance 1; every pixel has the same weight.
        let _ = named(&vae, "encoder.0.weight").zero_();
        let _ = named(&vae, "encoder.0.weight")
            .get(0)
            .fill_(-2.0 * mean / 784.0);
        let bias = Tensor::from_slice(&[mean as f32, 0.0, variance.ln() as f32, 0.0]);
        named(&vae, "encoder.0.bias").copy_(&bias);
    });
    let images = Tensor::zeros([400, 1, 28, 28], (Kind::Uint8, Device::Cpu));
    let _ = images.narrow(0, 200, 200).fill_(255);
    let labels = Tensor::arange(400, (Kind::Int64, Device::Cpu)).divide_scalar_mode(200, "floor");
    (vae, Dataset::new(images, Some(labels)).expect("a data set"))
}

#[test]
fn two_clouds_far_apart_hold_one_bit() {
    let (vae, dataset) = two_clouds(6.0, 0.25);
    let options = LatentOptions::default();
    let findings =
        measure_latents(&vae, &dataset, &dataset, &options, 1, &mut quiet()).expect("findings");
    let of = |name: &str| {
        findings
            .measure(name)
            .unwrap_or_else(|| panic!("no {name}"))
            .value
    };
    // The latents identify one of two equally frequent images: ln 2 nats, up to an overlap of e^-288.
    assert!((of("mutual_information") - 2.0_f64.ln()).abs() < 1e-4);
    // The dimensions are independent: each marginal is a mixture of two Gaussians.
    assert!(of("total_correlation").abs() < 1e-4);
    // KL(q(z|x) ‖ p) = ½(36 + ¼ − 1 − ln ¼), and I(x;z) + KL(q(z) ‖ p) is its sampled value.
    let kl = 0.5 * (36.0 + 0.25 - 1.0 + 4.0_f64.ln());
    let sampled = of("mutual_information") + of("aggregate_kl");
    let error = findings
        .measure("aggregate_kl")
        .and_then(|m| m.error)
        .expect("an error");
    assert!(
        (sampled - kl).abs() < 4.0 * error + 1e-3,
        "{sampled} {kl} {error}"
    );
    assert!((of("dimension_wise_kl") + of("total_correlation") - of("aggregate_kl")).abs() < 1e-6);
    let per_dimension = &findings.lists["kl_per_dimension"];
    assert!((per_dimension[0] - kl).abs() < 1e-3 && per_dimension[1].abs() < 1e-6);
    assert_eq!(of("active_units"), 1.0);
    assert!((findings.lists["center_variance"][0] - 36.0).abs() < 1e-3);
    assert_eq!(of("linear_probe_accuracy"), 1.0);
    assert_eq!(of("knn_probe_accuracy"), 1.0);
    assert!(of("aggregate_mmd") > 0.1);
}

#[test]
fn equal_dimensions_have_the_total_correlation_of_their_information() {
    let (vae, dataset) = two_clouds(6.0, 0.25);
    no_grad(|| {
        // The second dimension equals the first.
        let weight = named(&vae, "encoder.0.weight");
        weight.get(1).copy_(&weight.get(0));
        let quarter = 0.25_f32.ln();
        named(&vae, "encoder.0.bias").copy_(&Tensor::from_slice(&[6.0, 6.0, quarter, quarter]));
    });
    let options = LatentOptions::default();
    let findings =
        measure_latents(&vae, &dataset, &dataset, &options, 1, &mut quiet()).expect("findings");
    let of = |name: &str| findings.measure(name).expect(name).value;
    // Both dimensions have the same bit: log ½ for the pair, and log ½ for each.
    assert!((of("total_correlation") - 2_f64.ln()).abs() < 1e-4);
    assert!((of("mutual_information") - 2_f64.ln()).abs() < 1e-4);
    // Each marginal is a mixture, with KL(q(z_j) ‖ p) = KL(q(z|x) ‖ p) − ln 2 for any sample.
    let kl = findings.lists["kl_per_dimension"].iter().sum::<f64>();
    let error = findings.measure("dimension_wise_kl").and_then(|m| m.error);
    let wanted = kl - 2.0 * 2_f64.ln();
    let found = of("dimension_wise_kl");
    assert!(
        (found - wanted).abs() < 4.0 * error.expect("an error"),
        "{found} {wanted}"
    );
    let deviations = findings.lists["center_variance"].clone();
    assert!(
        deviations
            .iter()
            .all(|variance| (variance - 36.0).abs() < 1e-3)
    );
}

#[test]
fn accuracies_have_binomial_errors() {
    let splits = digits(None);
    let config = config("[model]\nlatent_dims = 3\nnetwork = {mlp = {hidden = [20]}}");
    let vae = trained(&config, &splits, 20);
    let options = LatentOptions::default();
    let findings = measure_latents(&vae, &splits.test, &splits.train, &options, 1, &mut quiet())
        .expect("findings");
    for name in ["linear_probe_accuracy", "knn_probe_accuracy"] {
        let measure = findings.measure(name).expect(name);
        let share = measure.value;
        assert!((0.05..0.95).contains(&share), "{name}: {share}");
        let wanted = (share * (1.0 - share) / 64.0).sqrt();
        assert!(
            (measure.error.expect("an error") - wanted).abs() < 1e-9,
            "{name}"
        );
    }
}

#[test]
fn an_encoder_that_gives_the_prior_has_no_information() {
    let (vae, dataset) = two_clouds(0.0, 1.0);
    let options = LatentOptions::default();
    let findings =
        measure_latents(&vae, &dataset, &dataset, &options, 1, &mut quiet()).expect("findings");
    let of = |name: &str| {
        findings
            .measure(name)
            .unwrap_or_else(|| panic!("no {name}"))
    };
    for name in [
        "mutual_information",
        "total_correlation",
        "aggregate_kl",
        "active_units",
    ] {
        assert!(of(name).value.abs() < 1e-5, "{name}: {}", of(name).value);
    }
    // Only by chance: no more than two samples of the prior differ.
    let mmd = of("aggregate_mmd");
    assert!(mmd.value.abs() < 4.0 * mmd.error.expect("an error"));
    assert_eq!(of("linear_probe_accuracy").value, 0.5);
}

/// A model whose aggregate posterior is the prior and whose information is known: pixels x ~ N(0, 1), rounded
/// to bytes, and q(z_j|x) = N(a·x_j, 1 − a²), so that I(x; z) = −Z/2 · ln(1 − a²), and q(z) = N(0, I).
fn linear_gaussian(information: f64, latent_dims: i64, n_images: i64) -> (Vae, Dataset) {
    let config = config(&format!(
        "[model]\nlatent_dims = {latent_dims}\nnetwork = {{mlp = {{hidden = []}}}}"
    ));
    let shape = ImageShape {
        channels: 1,
        height: 1,
        width: latent_dims,
    };
    let vae = Vae::new(&config.model, shape, Device::Cpu, 1).expect("a model");
    let log_variance = -2.0 * information / latent_dims as f64;
    let a = (1.0 - log_variance.exp()).sqrt();
    const BYTES_OF_SIGMA: f64 = 40.0;
    no_grad(|| {
        let identity = Tensor::eye(latent_dims, (Kind::Float, Device::Cpu));
        let means = identity * (255.0 * a / BYTES_OF_SIGMA);
        let weight = Tensor::cat(&[&means, &means.zeros_like()], 0);
        named(&vae, "encoder.0.weight").copy_(&weight);
        let mean = Tensor::full(
            [latent_dims],
            -127.5 * a / BYTES_OF_SIGMA,
            (Kind::Float, Device::Cpu),
        );
        let log_variance = mean.full_like(log_variance);
        named(&vae, "encoder.0.bias").copy_(&Tensor::cat(&[&mean, &log_variance], 0));
    });
    let x = vae
        .generator(3)
        .normal([n_images, 1, 1, latent_dims], Device::Cpu);
    let bytes = (x * BYTES_OF_SIGMA + 127.5).round().clamp(0.0, 255.0);
    let images = bytes.to_kind(Kind::Uint8);
    (vae, Dataset::new(images, None).expect("a data set"))
}

/// Information below ln N is measured correctly. Above it, a note is given instead of a value that would depend on N.
#[test]
fn information_beyond_ln_n_is_no_distance_from_the_prior() {
    const N: i64 = 300; // ln N = 5.7
    let found = |information: f64, latent_dims: i64| {
        let (vae, dataset) = linear_gaussian(information, latent_dims, N);
        let options = LatentOptions::default();
        measure_latents(&vae, &dataset, &dataset, &options, 1, &mut quiet()).expect("findings")
    };
    let below = found(2.0, 4);
    let known = |name: &str| below.measure(name).unwrap_or_else(|| panic!("no {name}"));
    let information = known("mutual_information");
    assert!((information.value - 2.0).abs() < 0.25, "{information:?}");
    assert_eq!(information.bound, None);
    for name in ["aggregate_kl", "total_correlation", "dimension_wise_kl"] {
        assert!(known(name).value.abs() < 0.25, "{:?}", known(name));
    }

    // At 300 nats the estimate would be 300 − ln 300 = 294, but the true value is 0.
    let above = found(300.0, 64);
    let information = above.measure("mutual_information").expect("a bound");
    assert_eq!(information.bound, Some(Bound::AtLeast));
    assert!((information.value - (N as f64).ln()).abs() < 1e-3);
    assert!(
        information.to_string().starts_with("≥ 5.7"),
        "{information}"
    );
    for name in ["aggregate_kl", "total_correlation"] {
        assert!(above.measure(name).is_none(), "{name}");
        let why = &above.not_measured[name];
        assert!(why.starts_with("saturated: 300 images"), "{why}");
        assert!(why.contains("ln N = 5.70"), "{why}");
    }
    let why = &above.not_measured["aggregate_kl"];
    let (_, number) = why.split_once("What came out, ").expect("the number");
    let number = number.split_once(" nats").expect("the unit").0;
    let number: f64 = number.parse().expect("a number");
    assert!((284.0..304.0).contains(&number), "{why}");

    // Near the limit a note states the possible error, up to the point where no value is given.
    let near = found(3.2, 4);
    let kl = near.measure("aggregate_kl").expect("still known");
    assert!(kl.value < 0.5 && kl.note.contains("up to"), "{kl:?}");
    let beyond = found(7.0, 4);
    assert!(beyond.measure("aggregate_kl").is_none());
}

#[test]
fn a_single_image_has_no_dimension_in_use_and_none_out_of_use() {
    let found = |n: i64| {
        let (vae, dataset) = linear_gaussian(3.0, 4, n);
        let options = LatentOptions::default();
        measure_latents(&vae, &dataset, &dataset, &options, 1, &mut quiet()).expect("findings")
    };
    for n in [1, 9] {
        let few = found(n);
        assert!(few.measure("active_units").is_none());
        let why = &few.not_measured["active_units"];
        assert!(why.contains(&format!("over {n} images")), "{why}");
        assert!(why.contains("at least 10"), "{why}");
    }
    let ten = found(10);
    let active = ten.measure("active_units").expect("a number");
    assert_eq!(active.value, 4.0);
    let protocol = Protocol::ActiveUnits {
        n_images: 10,
        threshold: 0.01,
    };
    assert_eq!(active.protocol, Some(protocol));
}

#[test]
fn what_cannot_be_measured_of_latents_has_a_reason() {
    let splits = digits(None);
    let points = config(
        "[model]\nlatent_dims = 3\nposterior = 'deterministic'\nnetwork = {mlp = {hidden = [20]}}\n\
         [objective]\nregularizer = 'none'\n[checkpoints]\nmetric = 'mse'",
    );
    let vae = Vae::new(&points.model, common::MNIST, Device::Cpu, 1).expect("a model");
    let without_labels = splits.test.first(20).expect("images");
    let without_labels = Dataset::new(without_labels, None).expect("a data set");
    let options = LatentOptions::default();
    let measured = |test: &Dataset, train: &Dataset| {
        measure_latents(&vae, test, train, &options, 1, &mut quiet()).expect("findings")
    };
    let found = measured(&without_labels, &without_labels);
    let wanted = [
        ("aggregate_kl", "no closed form"),
        ("knn_probe_accuracy", "neither labels nor attributes"),
        ("linear_probe_accuracy", "neither labels nor attributes"),
        ("mutual_information", "no closed form"),
        ("total_correlation", "no closed form"),
    ];
    let names: Vec<&str> = found.not_measured.keys().map(String::as_str).collect();
    assert_eq!(names, wanted.map(|(name, _)| name));
    for (name, reason) in wanted {
        assert!(found.not_measured[name].contains(reason), "{name}");
        assert!(found.measure(name).is_none(), "{name}");
    }
    // Labels of one of the splits are not enough.
    for found in [
        measured(&without_labels, &splits.train.truncated(20)),
        measured(&splits.test.truncated(20), &without_labels),
    ] {
        assert!(found.not_measured.contains_key("linear_probe_accuracy"));
    }
}

/// Four black and four white photos in each split; one test photo has no row in the table.
#[test]
fn attributes_of_a_table_are_predicted_from_latents() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut partition, mut table) = (String::new(), "image,White,Known,Age\n".to_owned());
    for i in 0..16 {
        let (is_test, is_white) = (i / 8, i % 2);
        let photo = image::GrayImage::from_pixel(28, 28, image::Luma([255 * is_white]));
        let name = format!("{i:02}.png");
        photo.save(folder.path().join(&name)).expect("written");
        partition += &format!("{name} {}\n", 2 * is_test);
        if i < 15 {
            let white = ["-1", "1"][usize::from(is_white)];
            table += &format!("{name},{white},1,{}\n", 20 + i);
        }
    }
    for (name, text) in [
        ("list_eval_partition.txt", &partition),
        ("list_attr_celeba.csv", &table),
    ] {
        std::fs::write(folder.path().join(name), text).expect("written");
    }
    let dataset: DatasetConfig = toml::from_str(&format!(
        "validation = 0\n[image_folder]\npath = '{}'\nimage_size = 28\ngrayscale = true\npack = false",
        folder.path().display()
    ))
    .expect("a config");
    let splits = dataset.load().expect("a data set");
    assert_eq!((splits.train.len(), splits.test.len()), (8, 8));
    let (vae, _) = two_clouds(6.0, 0.25);
    let options = LatentOptions {
        n_neighbors: 3,
        ..LatentOptions::default()
    };
    let found = measure_latents(&vae, &splits.test, &splits.train, &options, 1, &mut quiet())
        .expect("findings");
    for kind in ["linear", "knn"] {
        for balanced in ["", "_balanced"] {
            let name = format!("{kind}_probe_attributes{balanced}");
            let measure = found.measure(&name).expect("a number");
            assert_eq!(measure.value, 1.0, "{name}");
            let Some(Protocol::Probe { n_attributes, .. }) = measure.protocol else {
                panic!("{name}: {:?}", measure.protocol);
            };
            // All have the second attribute, and the third is a number.
            assert_eq!(n_attributes, Some(1), "{name}");
        }
        assert!(
            !found
                .not_measured
                .contains_key(&format!("{kind}_probe_accuracy"))
        );
    }
    // As frequent as the other answer in training: yes is guessed, of 4 black and 3 white photos.
    let numbers = &found.lists["attribute_probe.White"];
    assert_eq!(numbers[..4], [1.0; 4]);
    assert!((numbers[4] - 3.0 / 7.0).abs() < 1e-12, "{numbers:?}");
    let probes = found.lists.keys().filter(|name| name.starts_with("attr"));
    assert_eq!(probes.count(), 1);
}

/// Compares q(z) with a sum written out here, for a posterior with dependent dimensions.
#[test]
fn the_aggregate_posterior_is_the_mean_of_all_posteriors() {
    let splits = digits(None);
    let config = config(
        "[model]\nlatent_dims = 3\nposterior = 'full_covariance'\nnetwork = {mlp = {hidden = [20]}}",
    );
    let vae = trained(&config, &splits, 30);
    let codes = encode(&vae, &splits.test, 2, |_| ()).expect("codes");
    let densities = aggregate_densities(&vae, &splits.test, &codes.drawn, &mut quiet())
        .expect("computed")
        .expect("a closed form");
    let images = splits.test.first(64).expect("images");
    let posterior = vae.encode(&images).expect("a posterior");
    let latents = codes.drawn.to_kind(Kind::Float).unsqueeze(1); // [64, 1, 3]
    let pairs = posterior
        .log_prob(&latents)
        .expect("a density")
        .to_kind(Kind::Double);
    let close = |a: &Tensor, b: &Tensor| {
        let difference = (a - b).abs().max().double_value(&[]);
        assert!(difference < 1e-4, "{difference}");
    };
    close(&densities.log_qz_x, &pairs.diagonal(0, 0, 1));
    close(
        &densities.log_qz,
        &(pairs.exp().mean_dim(1, false, Kind::Double)).log(),
    );
    assert!(densities.log_qz_factorized.is_none());
    let others = pairs.masked_fill(
        &Tensor::eye(64, (Kind::Bool, Device::Cpu)),
        f64::NEG_INFINITY,
    );
    let others = others.exp().sum_dim_intlist(1, false, Kind::Double) / 63.0;
    close(&densities.log_qz_of_others, &others.log());
}

/// The values of an image do not depend on the rest of its batch, and measuring changes no variable.
#[test]
fn batch_norm_is_evaluated_with_its_running_averages() {
    let splits = digits(None);
    let config = config(
        "[model]\nlatent_dims = 3\nnetwork = {conv_batch_norm = {channels = [4, 8]}}\n\
         prior = {gaussian_mixture = {components = 4}}",
    );
    let vae = trained(&config, &splits, 4);
    let before: Vec<_> = vae
        .named_variables()
        .iter()
        .map(|(_, v)| v.copy())
        .collect();
    let options = LatentOptions::default();
    let all = measure_latents(&vae, &splits.test, &splits.train, &options, 0, &mut quiet())
        .expect("findings");
    assert!(all.measure("cluster_accuracy").is_some());
    for (before, (name, after)) in before.iter().zip(vae.named_variables()) {
        assert_eq!(before, &after, "{name} has changed");
    }
    let codes = encode(&vae, &splits.test, 0, |_| ()).expect("codes");
    let three = splits.test.first(3).expect("images");
    let center = vae.encode(&three).expect("a posterior").center();
    let difference = center.to_kind(Kind::Double) - codes.centers.narrow(0, 0, 3);
    assert!(difference.abs().max().double_value(&[]) < 1e-5);
    // Training mode gives other values, so the test can distinguish the modes.
    let noise = Tensor::zeros([1, 3, 3], (Kind::Float, Device::Cpu));
    let training = vae
        .draw_with_noise(&three, &noise, Mode::Train)
        .expect("draws");
    let difference = training.posterior.center() - center;
    assert!(difference.abs().max().double_value(&[]) > 1e-3);
}
