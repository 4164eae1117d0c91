//! All measures of pictures, with small models.

use std::path::{Path, PathBuf};

use tch::{CModule, Device, Kind, Tensor, no_grad};
use vae_data::{Binarization, Dataset, KnownDataset};
use vae_eval::features::MnistClassifier;
use vae_eval::{Better, EvalError, Findings, PictureOptions, measure_pictures};
use vae_model::{
    ConvBatchNormConfig, ImageShape, LatentSource, MlpConfig, ModelConfig, NetworkConfig, Vae,
};

const DIGITS: ImageShape = ImageShape {
    channels: 1,
    height: 28,
    width: 28,
};

fn vae(network: NetworkConfig, shape: ImageShape) -> Vae {
    let config = ModelConfig {
        latent_dims: Some(3),
        network,
        ..ModelConfig::default()
    };
    let vae = Vae::new(&config, shape, Device::Cpu, 1).expect("a model");
    // Weights from a formula, including batch norm's running averages.
    for (i, (name, mut variable)) in vae.named_variables().into_iter().enumerate() {
        let n = variable.numel();
        let values: Vec<f32> = (0..n)
            .map(|j| (i as f64 + 0.7 * j as f64).sin() as f32)
            .collect();
        let positive = name.ends_with("running_var");
        let center = if positive { 1.5 } else { 0.0 };
        let values = Tensor::from_slice(&values).view_(variable.size()) * 0.3 + center;
        no_grad(|| variable.copy_(&values));
    }
    vae
}

fn mlp() -> NetworkConfig {
    NetworkConfig::Mlp(MlpConfig { hidden: vec![20] })
}

/// Smooth, different images; another `phase` gives other images.
fn dataset(n: i64, shape: ImageShape, phase: f64) -> Dataset {
    let index = |n: i64| Tensor::arange(n, (Kind::Double, Device::Cpu));
    let (y, x) = (
        index(shape.height).view([shape.height, 1]),
        index(shape.width).view([1, shape.width]),
    );
    let k = index(n * shape.channels).view([n, shape.channels, 1, 1]) + phase;
    let waves = (x * 0.3 + &k * 1.1).sin() * (y * 0.2 - (&k * 0.7).sin() * 4.0).cos();
    let images = ((waves + 1.0) * 127.0).to_kind(Kind::Uint8);
    Dataset::new(images, None).expect("images")
}

fn options(batch_size: usize) -> PictureOptions {
    PictureOptions {
        batch_size,
        classifier: PathBuf::from("no/classifier.safetensors"),
        dataset: KnownDataset::Mnist,
        ..PictureOptions::default()
    }
}

fn measured(vae: &Vae, test: &Dataset, options: &PictureOptions, seed: u64) -> Findings {
    let train = dataset(50, DIGITS, 0.5);
    let train = (test.shape() == train.shape()).then_some(&train);
    measure_pictures(
        vae,
        test,
        train,
        LatentSource::PRIOR,
        options,
        seed,
        &mut |_, _, _| {},
    )
    .expect("measures")
}

fn value(findings: &Findings, name: &str) -> f64 {
    let measure = findings.measure(name);
    measure.unwrap_or_else(|| panic!("no {name}")).value
}

fn protocol(findings: &Findings, name: &str) -> String {
    let measure = findings.measure(name);
    measure.unwrap_or_else(|| panic!("no {name}")).how()
}

/// Means over pixels of x·(1 − x), which is 0 for black and white pixels, [N, 3].
fn grayness(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    let mut closure = |inputs: &[Tensor]| {
        let images = &inputs[0];
        let gray: Tensor = images * (1.0 - images);
        vec![gray.mean_dim([2, 3].as_slice(), false, Kind::Float)]
    };
    let example = Tensor::ones([2, 3, 28, 28], (Kind::Float, Device::Cpu));
    CModule::create_by_tracing("Gray", "forward", &[example], &mut closure)
        .and_then(|module| module.save(&path))
        .expect("a module");
    path
}

#[test]
fn numbers_follow_from_the_seed_and_not_from_the_batches() {
    let network = NetworkConfig::ConvBatchNorm(ConvBatchNormConfig {
        channels: vec![4, 6],
    });
    let (vae, test) = (vae(network, DIGITS), dataset(90, DIGITS, 0.0));
    let found = measured(&vae, &test, &options(90), 1);
    let names: Vec<_> = found.measures.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "mse",
            "psnr",
            "ssim",
            "ms_ssim",
            "fid_pixel_pca",
            "rfid_pixel_pca",
            "fid_pixel_pca_of_training_images",
            "kid_pixel_pca",
            "precision_pixel_pca",
            "recall_pixel_pca",
        ]
    );
    assert_eq!(found, measured(&vae, &test, &options(90), 1));
    for batch_size in [1, 7, 64] {
        let other = measured(&vae, &test, &options(batch_size), 1);
        for (one, other) in found.measures.iter().zip(&other.measures) {
            let error = (one.value - other.value).abs();
            let what = format!("{}: {} and {}", one.name, one.value, other.value);
            assert!(error <= 1e-4 * one.value.abs() + 1e-6, "{what}");
            assert_eq!(one.protocol, other.protocol);
        }
    }
    // Another seed gives other samples and the same reconstructions.
    let other = measured(&vae, &test, &options(90), 2);
    for (name, is_same) in [
        ("mse", true),
        ("ms_ssim", true),
        ("rfid_pixel_pca", true),
        ("fid_pixel_pca", false),
    ] {
        let same = value(&found, name) == value(&other, name);
        assert_eq!(same, is_same, "{name}");
    }
}

#[test]
fn errors_of_pixels_are_those_of_mean_images() {
    let (vae, test) = (vae(mlp(), DIGITS), dataset(20, DIGITS, 0.0));
    let found = measured(&vae, &test, &options(6), 1);
    let bytes = test.first(20).unwrap();
    let difference = vae.reconstruct(&bytes).unwrap() - bytes.to_kind(Kind::Float) / 255.0;
    let of_images = difference
        .square()
        .mean_dim([1, 2, 3].as_slice(), false, Kind::Double);
    let mse = found.measure("mse").unwrap();
    let wanted = f64::try_from(of_images.mean(Kind::Double)).unwrap();
    assert!((mse.value - wanted).abs() < 1e-7, "{} {wanted}", mse.value);
    let wanted = f64::try_from(of_images.std(true)).unwrap() / 20_f64.sqrt();
    assert!((mse.error.unwrap() - wanted).abs() < 1e-7);
    let wanted = f64::try_from((of_images.log10() * -10.0).mean(Kind::Double)).unwrap();
    let psnr = found.measure("psnr").unwrap();
    assert!(
        (psnr.value - wanted).abs() < 1e-5,
        "{} {wanted}",
        psnr.value
    );
    assert_eq!(
        (psnr.unit.as_str(), psnr.better),
        ("dB", Some(Better::Higher))
    );
    assert!(protocol(&found, "ms_ssim").contains("2 scales of weight 0.1356, 0.8644"));
    assert!(protocol(&found, "ssim").contains("11×11 Gaussian window"));
}

#[test]
fn exact_reconstructions_have_no_signal_to_noise_ratio_and_the_reason_is_given() {
    // A decoder whose pixels are all exactly 0: black images have no error, white ones 1.
    let vae = vae(mlp(), DIGITS);
    for (name, mut variable) in vae.named_variables() {
        if name.starts_with("decoder.") {
            let is_last_bias = variable.size() == [784];
            let _ = no_grad(|| variable.fill_(if is_last_bias { -1000.0 } else { 0.0 }));
        }
    }
    let images = Tensor::zeros([5, 1, 28, 28], (Kind::Uint8, Device::Cpu));
    let _ = images.narrow(0, 0, 2).fill_(255);
    let found = measured(&vae, &Dataset::new(images, None).unwrap(), &options(2), 1);
    assert!(found.measure("psnr").is_none());
    assert_eq!(
        found.not_measured["psnr"],
        "it is infinite for 3 images, reconstructed exactly"
    );
    let mse = found.measure("mse").unwrap();
    assert!((mse.value - 0.4).abs() < 1e-12, "{mse:?}");
    // The variance of 2 ones and 3 zeros is 0.3 with n − 1, that of their mean a fifth of it.
    assert!((mse.error.unwrap() - 0.06_f64.sqrt()).abs() < 1e-12);
    // SSIM of a constant image against itself is 1; of 1 against 0 it is C1 / (1 + C1).
    let wanted = 0.6 + 0.4 * 1e-4 / (1.0 + 1e-4);
    assert!((value(&found, "ssim") - wanted).abs() < 1e-6);
}

#[test]
fn protocols_say_what_was_compared() {
    let (vae, test) = (vae(mlp(), DIGITS), dataset(90, DIGITS, 0.0));
    let options = PictureOptions {
        n_samples: Some(80),
        ..options(64)
    };
    let found = measured(&vae, &test, &options, 1);
    let fid = protocol(&found, "fid_pixel_pca");
    assert!(
        fid.starts_with("80 samples, mean images of p(x|z), against 90 held-out images; ")
            && fid.ends_with("D = 64"),
        "{fid}"
    );
    let baseline = protocol(&found, "fid_pixel_pca_of_training_images");
    assert!(
        baseline.contains("the first 50 training images"),
        "{baseline}"
    );
    assert!(baseline.contains("n = 50 is no more than D"), "{baseline}");
    let kid = found.measure("kid_pixel_pca").unwrap();
    assert!(kid.how().contains("100 subsets of 40 images") && kid.error.is_some());
    assert!(protocol(&found, "recall_pixel_pca").contains("k = 3 nearest"));
    let left_out = &found.not_measured;
    assert!(left_out["fid_mnist_classifier"].contains("no/classifier.safetensors"));
    assert!(left_out["fid_mnist_classifier"].contains("`cargo xtask classifier`"));
    assert!(left_out["fid_inception"].contains("docs/features.md"));
    assert_eq!(left_out.len(), 2);
}

#[test]
fn training_images_that_are_the_held_out_ones_are_at_no_distance() {
    let (vae, test) = (vae(mlp(), DIGITS), dataset(90, DIGITS, 0.0));
    let progress: &mut dyn FnMut(&str, usize, usize) = &mut |_, _, _| {};
    let found = measure_pictures(
        &vae,
        &test,
        Some(&test),
        LatentSource::PRIOR,
        &options(64),
        1,
        progress,
    )
    .unwrap();
    let name = "fid_pixel_pca_of_training_images";
    assert!(value(&found, name).abs() < 1e-9 && value(&found, "fid_pixel_pca") > 0.1);
    assert_eq!(found.measure(name).unwrap().better, None);
    let found = measure_pictures(
        &vae,
        &test,
        None,
        LatentSource::PRIOR,
        &options(64),
        1,
        progress,
    )
    .unwrap();
    assert!(found.measure(name).is_none());
}

#[test]
fn black_and_white_images_are_compared_with_drawn_pixels() {
    let folder = tempfile::tempdir().unwrap();
    let options = PictureOptions {
        feature_files: vec![grayness(folder.path(), "Gray.ts")],
        ..options(30)
    };
    let vae = vae(mlp(), DIGITS);
    let gray = dataset(150, DIGITS, 0.0);
    let found = measured(&vae, &gray, &options, 1);
    assert!(value(&found, "fid_gray") > 1e-4 && value(&found, "rfid_gray") > 1e-4);
    assert!(protocol(&found, "fid_gray").contains("Gray.ts (SHA-256 "));
    assert!(!found.not_measured.contains_key("fid_inception"));

    let binary = gray.with_binarization(Some(Binarization::Dynamic));
    let found = measured(&vae, &binary, &options, 1);
    assert_eq!(
        (value(&found, "fid_gray"), value(&found, "rfid_gray")),
        (0.0, 0.0)
    );
    assert!(protocol(&found, "fid_gray").contains("pixels drawn from p(x|z)"));
    assert!(protocol(&found, "mse").contains("mean image"));
    let one_by_one = PictureOptions {
        batch_size: 1,
        ..options
    };
    assert_eq!(found, measured(&vae, &binary, &one_by_one, 1));
}

/// The classifier would also give values for other data sets with MNIST's shape.
#[test]
fn images_that_are_not_mnist_have_no_distance_by_features_of_digits() {
    let folder = tempfile::tempdir().unwrap();
    let digits = dataset(200, DIGITS, 0.0);
    let labels = Tensor::arange(200, (Kind::Int64, Device::Cpu)).remainder(10);
    let digits = Dataset::new(digits.first(200).unwrap(), Some(labels)).unwrap();
    let write = |trained_on: KnownDataset| {
        let path = folder.path().join(format!("{trained_on}.safetensors"));
        let mut progress = |_: &str, _: usize, _: usize| {};
        let (train, device) = (&digits, Device::Cpu);
        MnistClassifier::train(train, train, trained_on, 0, device, &mut progress)
            .and_then(|classifier| classifier.save(&path))
            .unwrap();
        path
    };
    let of_mnist = write(KnownDataset::Mnist);
    let (vae, test) = (vae(mlp(), DIGITS), dataset(20, DIGITS, 0.0));
    let found = |dataset: KnownDataset, classifier: &Path| {
        let options = PictureOptions {
            classifier: classifier.to_owned(),
            dataset,
            ..options(20)
        };
        measured(&vae, &test, &options, 1)
    };
    let mnist = found(KnownDataset::Mnist, &of_mnist);
    assert!(mnist.measure("fid_mnist_classifier").is_some());
    assert!(protocol(&mnist, "fid_mnist_classifier").contains("small classifier of MNIST"));
    for (dataset, wanted) in [
        (KnownDataset::FashionMnist, "these images are Fashion-MNIST"),
        (KnownDataset::Kmnist, "these images are KMNIST"),
        (
            KnownDataset::Unknown,
            "these images are not known to be MNIST",
        ),
    ] {
        let found = found(dataset, &of_mnist);
        let names = found.measures.iter().map(|measure| &measure.name);
        assert!(!names.into_iter().any(|name| name.contains("classifier")));
        let why = &found.not_measured["fid_mnist_classifier"];
        assert!(why.ends_with(wanted), "{why}");
    }
    // A classifier of something else is not used for digits either.
    let found = found(KnownDataset::Mnist, &write(KnownDataset::FashionMnist));
    let why = &found.not_measured["fid_mnist_classifier"];
    assert!(why.contains("was trained on Fashion-MNIST"), "{why}");
}

#[test]
fn color_images_have_no_classifier_of_digits() {
    let shape = ImageShape {
        channels: 3,
        height: 9,
        width: 12,
    };
    let options = PictureOptions {
        dataset: KnownDataset::CelebA,
        ..options(5)
    };
    let found = measured(&vae(mlp(), shape), &dataset(12, shape, 0.0), &options, 1);
    assert!(!found.not_measured.contains_key("fid_mnist_classifier"));
    for name in ["ssim", "ms_ssim"] {
        assert!(found.measure(name).is_none());
        assert!(found.not_measured[name].contains("3×9×12"), "{name}");
    }
    assert!(found.measure("fid_pixel_pca").is_some());
}

#[test]
fn a_single_image_leaves_reasons() {
    let found = measured(
        &vae(mlp(), DIGITS),
        &dataset(1, DIGITS, 0.0),
        &options(5),
        1,
    );
    assert_eq!(found.measure("mse").unwrap().error, None);
    assert!(found.not_measured["fid_pixel_pca"].contains("at least 2"));
    let found = measured(
        &vae(mlp(), DIGITS),
        &dataset(3, DIGITS, 0.0),
        &options(5),
        1,
    );
    assert!(found.measure("fid_pixel_pca").is_some());
    for name in ["kid_pixel_pca", "precision_pixel_pca", "recall_pixel_pca"] {
        assert!(found.not_measured.contains_key(name), "{name}");
    }
}

#[test]
fn what_cannot_be_measured_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (vae, test) = (vae(mlp(), DIGITS), dataset(9, DIGITS, 0.0));
    let refused = |options: &PictureOptions| {
        measure_pictures(
            &vae,
            &test,
            None,
            LatentSource::PRIOR,
            options,
            1,
            &mut |_, _, _| {},
        )
        .unwrap_err()
        .to_string()
    };
    let one = grayness(folder.path(), "gray.ts");
    let twice = PictureOptions {
        feature_files: vec![one.clone(), one],
        ..options(9)
    };
    assert!(refused(&twice).contains("would be named gray"));
    let built_in = PictureOptions {
        feature_files: vec![grayness(folder.path(), "pixel_pca.ts")],
        ..options(9)
    };
    assert!(refused(&built_in).contains("would be named pixel_pca"));

    let (_, mut weights) = vae.named_variables().remove(0);
    let _ = no_grad(|| weights.fill_(f64::NAN));
    assert!(refused(&options(9)).contains("NaN or infinite pixels"));

    let smaller = dataset(
        9,
        ImageShape {
            height: 14,
            ..DIGITS
        },
        0.0,
    );
    let error = measure_pictures(
        &vae,
        &smaller,
        None,
        LatentSource::PRIOR,
        &options(9),
        1,
        &mut |_, _, _| {},
    );
    assert!(matches!(error, Err(EvalError::Model(_))));
}
