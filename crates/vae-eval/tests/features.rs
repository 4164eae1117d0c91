//! Feature extractors: TorchScript files, pixels, the classifier of digits.

use std::fs;
use std::path::PathBuf;

use sha2::{Digest, Sha256};
use tch::{CModule, Device, Kind, Tensor};
use vae_data::{Dataset, KnownDataset};
use vae_eval::features::{
    AttributeClassifier, FeatureExtractor, MnistClassifier, Moments, PixelPca, TorchScript,
    frechet_distance,
};
use vae_eval::{EvalError, Extractor};
use vae_run::RunError;

/// Images f32 in [0, 1], no two alike.
fn images(shape: [i64; 4]) -> Tensor {
    bytes(shape).to_kind(Kind::Float) / 255.0
}

fn bytes(shape: [i64; 4]) -> Tensor {
    let n: i64 = shape.iter().product();
    let bytes: Vec<u8> = (0..n)
        .map(|i| ((i * 37 + (i * i) % 101 * 5 + i / 97) % 256) as u8)
        .collect();
    Tensor::from_slice(&bytes).view(shape)
}

/// A TorchScript file of a function of images.
fn module(folder: &tempfile::TempDir, name: &str, function: impl Fn(&Tensor) -> Tensor) -> PathBuf {
    let path = folder.path().join(name);
    let mut closure = |inputs: &[Tensor]| vec![function(&inputs[0])];
    let example = images([2, 3, 8, 8]);
    CModule::create_by_tracing("Features", "forward", &[example], &mut closure)
        .and_then(|module| module.save(&path))
        .expect("a module");
    path
}

/// Means of red, green and blue, [N, 3].
fn mean_color(images: &Tensor) -> Tensor {
    images.mean_dim([2, 3].as_slice(), false, Kind::Float)
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.flatten(0, -1)).expect("f64")
}

#[test]
fn a_torchscript_file_makes_features_and_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let flat = module(&folder, "Mean color.ts", mean_color);
    let extractor = TorchScript::load(&flat, Device::Cpu).unwrap();
    assert_eq!(extractor.name(), "mean_color");
    let sum = Sha256::digest(fs::read(&flat).unwrap());
    let digits = format!("{:02x}{:02x}{:02x}{:02x}", sum[0], sum[1], sum[2], sum[3]);
    let description = extractor.about().to_string();
    assert!(
        description.contains("Mean color.ts") && description.contains(&digits),
        "{description}"
    );

    let color = images([5, 3, 8, 8]);
    let found = extractor.features(&color).unwrap();
    assert_eq!((found.size(), found.kind()), (vec![5, 3], Kind::Double));
    let wanted = mean_color(&color).to_kind(Kind::Double);
    assert_eq!(values(&found), values(&wanted));

    // The output has the shape of an average pool's, and gray images become three equal channels.
    let pooled = module(&folder, "pooled.ts", |images| {
        images.adaptive_avg_pool2d([1, 1])
    });
    let pooled = TorchScript::load(&pooled, Device::Cpu).unwrap();
    let gray = images([4, 1, 8, 8]);
    let found = pooled.features(&gray).unwrap();
    assert_eq!(found.size(), [4, 3]);
    let found = values(&found);
    assert!(found.chunks(3).all(|of| of[0] == of[1] && of[1] == of[2]));
    assert_ne!(found[0], found[3]);
}

#[test]
fn what_is_wrong_with_a_torchscript_file_is_said_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.ts");
    let error = TorchScript::load(&missing, Device::Cpu).unwrap_err();
    assert!(
        matches!(error, EvalError::Run(RunError::Io { .. })),
        "{error}"
    );
    assert!(error.to_string().contains("missing.ts"), "{error}");
    let text = folder.path().join("text.ts");
    fs::write(&text, "no module").unwrap();
    let error = TorchScript::load(&text, Device::Cpu)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("text.ts: is not a TorchScript file") && !error.contains('\n'),
        "{error}"
    );

    type Function = fn(&Tensor) -> Tensor;
    let wrong: [(&str, Function, &str); 6] = [
        ("maps", |x| x + 1.0, "makes [2, 3, 8, 8] of 2 images"),
        ("scalar", |x| x.mean(Kind::Float), "makes [] of 2 images"),
        (
            "one",
            |x| mean_color(x).narrow(0, 0, 1),
            "makes [1, 3] of 2 images",
        ),
        ("integers", |x| mean_color(x).to_kind(Kind::Int64), "Int64"),
        (
            "nan",
            |x| mean_color(x) * f64::NAN,
            "NaN or infinite features",
        ),
        (
            "flattened",
            |x| x.repeat([1, 50, 1, 1]).flatten(1, -1),
            "makes 9600 features",
        ),
    ];
    for (name, function, wanted) in wrong {
        let path = module(&folder, &format!("{name}.ts"), function);
        let extractor = TorchScript::load(&path, Device::Cpu).unwrap();
        let error = extractor.features(&images([2, 3, 8, 8])).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(&format!("{name}.ts: ")), "{error}");
        assert!(error.contains(wanted), "{error}");
    }

    // A module that fails on these images, here because of a fixed size.
    let path = module(&folder, "fixed.ts", |x| x.reshape([-1, 192]));
    let extractor = TorchScript::load(&path, Device::Cpu).unwrap();
    let error = extractor.features(&images([1, 3, 5, 5])).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("fixed.ts: fails on images"), "{error}");
    assert!(
        error.contains("[1, 3, 5, 5]: ") && error.contains("192"),
        "{error}"
    );
    let error = extractor.features(&images([1, 2, 8, 8])).unwrap_err();
    assert!(error.to_string().contains("2 channels"), "{error}");
}

#[test]
fn components_of_all_pixels_keep_the_frechet_distance() {
    // 36 pixels have 36 components: the same points along other axes.
    let real = Dataset::new(bytes([60, 1, 6, 6]), None).unwrap();
    let other = images([90, 1, 6, 6]).narrow(0, 30, 60) * 0.8;
    let pca = PixelPca::fit(&real, 7).unwrap();
    let of_pixels = |images: &Tensor| Moments::of(&images.flatten(1, -1)).unwrap();
    let of_features = |images: &Tensor| Moments::of(&pca.features(images).unwrap()).unwrap();
    let real = images([60, 1, 6, 6]);
    let wanted = frechet_distance(&of_pixels(&real), &of_pixels(&other)).unwrap();
    let found = frechet_distance(&of_features(&real), &of_features(&other)).unwrap();
    assert!(
        wanted > 0.1 && (found - wanted).abs() < 1e-6,
        "{found}, {wanted}"
    );
    let description = pca.about().to_string();
    assert!(
        description.starts_with("first 36 principal components of the pixels"),
        "{description}"
    );
}

#[test]
fn components_of_large_images_are_those_of_means() {
    let real = Dataset::new(bytes([5, 3, 64, 64]), None).unwrap();
    let pca = PixelPca::fit(&real, 2).unwrap();
    assert!(
        pca.about()
            .to_string()
            .contains("64 principal components of the means of 4×4 pixels")
    );
    let features = pca.features(&images([5, 3, 64, 64])).unwrap();
    assert_eq!(features.size(), [5, 64]);
    // Reordering the 16 pixels within each square does not change its mean.
    let flipped = images([5, 3, 64, 64])
        .view([5, 3, 16, 4, 16, 4])
        .flip([3, 5])
        .reshape([5, 3, 64, 64]);
    let error = (pca.features(&flipped).unwrap() - features).abs().max();
    assert!(f64::try_from(error).unwrap() < 1e-5);
    let one = Dataset::new(bytes([1, 1, 6, 6]), None).unwrap();
    assert!(matches!(
        PixelPca::fit(&one, 2),
        Err(EvalError::Unmeasurable(_))
    ));
}

/// An image with a bar at the height of its label, on a varying background.
fn digits(n: i64) -> Dataset {
    let labels = Tensor::arange(n, (Kind::Int64, Device::Cpu)).remainder(10);
    let ground = bytes([n, 1, 28, 28]).divide_scalar_mode(3, "floor");
    let rows = Tensor::arange(28, (Kind::Int64, Device::Cpu)).view([1, 1, 28, 1]);
    let bar = (rows - labels.view([n, 1, 1, 1]) * 2 - 4).abs().le(1);
    let images = ground.to_kind(Kind::Uint8) + bar.to_kind(Kind::Uint8) * 150;
    Dataset::new(images, Some(labels)).expect("a data set")
}

#[test]
fn a_classifier_learns_and_is_the_same_again_from_its_seed_and_its_file() {
    let (train, test) = (digits(2000), digits(100));
    let fit = |seed| {
        let mut told = Vec::new();
        let mut progress = |_: &str, n_done: usize, n: usize| told.push((n_done, n));
        let (name, device) = (KnownDataset::Unknown, Device::Cpu);
        let classifier =
            MnistClassifier::train(&train, &test, name, seed, device, &mut progress).unwrap();
        assert_eq!(told.last(), Some(&(6000, 6000)));
        classifier
    };
    let classifier = fit(1);
    assert!(
        classifier.facts().test_accuracy > 0.95,
        "{:?}",
        classifier.facts()
    );
    assert_eq!(classifier.facts(), fit(1).facts());
    assert_ne!(
        classifier.facts().weights_sha256,
        fit(2).facts().weights_sha256
    );

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("classifier.safetensors");
    classifier.save(&path).unwrap();
    let loaded = MnistClassifier::load(&path, Device::Cpu).unwrap();
    assert_eq!(loaded.facts(), classifier.facts());
    let some = images([3, 1, 28, 28]);
    let features = loaded.features(&some).unwrap();
    assert_eq!(features.size(), [3, 128]);
    assert_eq!(
        values(&features),
        values(&classifier.features(&some).unwrap())
    );
    let about = loaded.about();
    let digest = &classifier.facts().weights_sha256;
    assert!(
        matches!(&about, Extractor::MnistClassifier { trained_on: KnownDataset::Unknown, sha256, .. }
            if sha256 == digest)
    );
    assert!(about.to_string().contains(&digest[..8]), "{about}");
    let error = loaded.features(&images([3, 3, 28, 28])).unwrap_err();
    assert!(matches!(error, EvalError::Unmeasurable(_)), "{error}");

    // The last byte is part of a weight.
    let mut damaged = fs::read(&path).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&path, damaged).unwrap();
    let error = MnistClassifier::load(&path, Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
}

#[test]
fn a_file_that_is_no_classifier_is_refused_with_what_makes_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.safetensors");
    let tensors = [("weight".to_owned(), Tensor::from(1.0_f32))];
    vae_model::write_tensors(&path, &tensors, &[]).unwrap();
    let error = MnistClassifier::load(&path, Device::Cpu).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("other.safetensors: ") && error.contains("`cargo xtask classifier`"),
        "{error}"
    );
    fs::write(&path, "text").unwrap();
    let error = MnistClassifier::load(&path, Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("other.safetensors: "), "{error}");
}

#[test]
fn a_classifier_is_of_digits_with_labels() {
    let refused = |dataset: &Dataset| {
        let mut progress = |_: &str, _: usize, _: usize| {};
        let name = KnownDataset::Unknown;
        MnistClassifier::train(dataset, dataset, name, 0, Device::Cpu, &mut progress)
            .unwrap_err()
            .to_string()
    };
    let without = Dataset::new(bytes([4, 1, 28, 28]), None).unwrap();
    assert!(refused(&without).contains("labels"));
    let color = Dataset::new(bytes([4, 3, 28, 28]), None).unwrap();
    assert!(refused(&color).contains("3×28×28"));
    let eleven = Dataset::new(
        bytes([2, 1, 28, 28]),
        Some(Tensor::from_slice(&[0_i64, 11])),
    );
    assert!(refused(&eleven.unwrap()).contains("0 to 11"));
}

/// 60 gray photos, bright or dark with a stripe, and a table in which every third row lacks a value.
fn labeled_photos(folder: &std::path::Path) -> vae_data::Splits {
    let mut table = "file,bright,level,empty\n".to_owned();
    for i in 0..60_u32 {
        let is_bright = i % 2 == 0;
        let level = if is_bright { 200 } else { 40 };
        let name = format!("{i:02}.png");
        image::GrayImage::from_fn(12, 10, |x, _| {
            image::Luma([if x == i % 12 {
                120
            } else {
                level + (i % 8) as u8
            }])
        })
        .save(folder.join(&name))
        .expect("written");
        let bright = match i % 3 {
            0 => String::new(),
            _ => u8::from(is_bright).to_string(),
        };
        table += &format!("{name},{bright},{},\n", 5 + i % 8);
    }
    fs::write(folder.join("list_attr_celeba.csv"), table).expect("written");
    let config = format!(
        "[image_folder]\npath = '{}'\nimage_size = 10\ngrayscale = true\npack = false\n\
         attributes = '{}'\n[image_folder.split]\ntest_fraction = 0.2",
        folder.display(),
        folder.join("list_attr_celeba.csv").display()
    );
    let config: vae_data::DatasetConfig = toml::from_str(&config).expect("a config");
    config.load().expect("photos")
}

#[test]
fn a_classifier_of_a_table_recognizes_its_attributes_and_gives_features() {
    let folder = tempfile::tempdir().unwrap();
    let photos = folder.path().join("photos");
    fs::create_dir(&photos).unwrap();
    let mut n_steps = (0, 0);
    let (classifier, recognized) = AttributeClassifier::train(
        labeled_photos(&photos),
        12,
        0,
        Device::Cpu,
        &mut |_, n_done, n| n_steps = (n_done, n),
    )
    .expect("a classifier");
    assert_eq!(n_steps.0, n_steps.1);
    let names: Vec<&str> = recognized.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(
        names,
        ["bright"],
        "a number has no accuracy, and an empty column is left out"
    );
    assert_eq!(
        (recognized[0].accuracy, recognized[0].balanced_accuracy),
        (1.0, 1.0)
    );

    let path = folder.path().join("attributes.ts");
    classifier.save(&path, [10, 10]).expect("written");
    let extractor = TorchScript::load(&path, Device::Cpu).expect("TorchScript");
    assert_eq!(extractor.name(), "attributes");
    let gray = images([5, 1, 10, 10]);
    let features = extractor.features(&gray).expect("features");
    assert_eq!(features.size(), [5, 256]);
    let one = extractor.features(&gray.narrow(0, 2, 1)).expect("features");
    let difference = (one - features.narrow(0, 2, 1))
        .abs()
        .max()
        .double_value(&[]);
    assert!(
        difference < 1e-5,
        "an image's features depend on the others"
    );
}

#[test]
fn a_classifier_without_attributes_or_classes_is_refused() {
    let dataset = || Dataset::new(bytes([8, 1, 6, 6]), None).expect("images");
    let splits = vae_data::Splits::new(dataset(), None, dataset());
    let error = AttributeClassifier::train(splits, 1, 0, Device::Cpu, &mut |_, _, _| ());
    let error = error.expect_err("refused").to_string();
    assert!(error.contains("dataset.image_folder.attributes"), "{error}");
}

#[test]
fn a_classifier_of_classes_recognizes_them() {
    let labels = Tensor::arange(40, (Kind::Int64, Device::Cpu)).remainder(2);
    let images = (labels.view([40, 1, 1, 1]) * 200 + 20).to_kind(Kind::Uint8);
    let images = images.expand([40, 3, 8, 8], false).contiguous();
    let dataset = || Dataset::new(images.copy(), Some(labels.copy())).expect("images");
    let splits = vae_data::Splits::new(dataset(), Some(dataset()), dataset());
    let (_, recognized) =
        AttributeClassifier::train(splits, 8, 0, Device::Cpu, &mut |_, _, _| ()).unwrap();
    assert_eq!(recognized[0].name, "class");
    assert_eq!(recognized[0].accuracy, 1.0);
}
