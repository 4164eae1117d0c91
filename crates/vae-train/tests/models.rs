//! Every model in `configs/models/` trains on real digits, survives being saved, and draws images.

mod common;

use std::path::Path;
use std::time::Instant;

use tch::{Device, Kind, Tensor, no_grad};
use vae_data::config::IdxConfig;
use vae_data::loader::Batches;
use vae_data::{Dataset, DatasetConfig, HoldOut, Splits};
use vae_model::{Conditioned, ItemSpec, Mode, Vae, WEIGHTS_FILE};
use vae_train::{Learner, RunConfig, evaluate};

/// The first 256 training and 64 test digits of MNIST; `data/mnist/make.py` wrote them.
fn digits(config: &RunConfig) -> Splits {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/mnist");
    let dataset = DatasetConfig {
        validation: Some(HoldOut::Count(0)),
        binarization: config.dataset.binarization,
        idx: Some(IdxConfig { folder }),
        ..Default::default()
    };
    let splits = dataset.load().expect("the fixture");
    assert_eq!((splits.train.len(), splits.test.len()), (256, 64));
    if config.dataset.arrays.is_some() {
        let item = common::item(config);
        let [train, test] = [&splits.train, &splits.test].map(|digits| series(digits, &item));
        return Splits::new(train, None, test);
    }
    let splits = match common::shape(config).channels {
        1 => splits,
        n_channels => Splits::new(
            photos(&splits.train, n_channels),
            None,
            photos(&splits.test, n_channels),
        ),
    };
    config
        .conditioned(splits)
        .expect("a condition of these images")
}

/// The digits as photos of 32×32 pixels: with a black margin of two pixels and equal channels.
fn photos(digits: &Dataset, n_channels: i64) -> Dataset {
    let images = digits.first(digits.len()).expect("images");
    let padded = images.constant_pad_nd([2_i64; 4].as_slice());
    let colored = padded.repeat([1, n_channels, 1, 1]);
    Dataset::new(colored, None).expect("a data set")
}

/// Series made of the first pixels of the digits.
fn series(digits: &Dataset, item: &ItemSpec) -> Dataset {
    let images = digits.first(digits.len()).expect("images");
    let [channels, height, width] = item.map().sides();
    let n_values = channels * height * width;
    let values = images.flatten(1, -1).narrow(1, 200, n_values) / 255.0;
    let values = values
        .to_kind(Kind::Float)
        .view([-1, channels, height, width]);
    Dataset::of_items(item.clone(), values, None).expect("a data set")
}

/// Makes ten steps with at most 32 images each. Every logged value must be finite.
fn ten_steps(name: &str, vae: &Vae, config: &RunConfig, train: &Dataset) {
    let mut learner = Learner::new(vae, config, train.len()).expect("a learner");
    let batch_size = config.training.batch_size.min(32);
    let epochs = (0..)
        .flat_map(|epoch| Batches::shuffled(train, batch_size, Device::Cpu, config.seed, epoch));
    for (step, images) in (0..10).zip(epochs) {
        let images = images.expect("images");
        let output = learner
            .step((&images.items, images.condition.as_ref()), step, step)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let loss = output.loss.double_value(&[]);
        let gradient_norm = output.gradient_norm.double_value(&[]);
        let is_updated = step % config.training.model_every == 0;
        assert!(
            loss.is_finite() && gradient_norm.is_finite() && (gradient_norm > 0.0) == is_updated,
            "{name}: step {step}, loss {loss}, gradient norm {gradient_norm}"
        );
        let terms = output.terms;
        for term in [terms.elbo(), Some(terms.reconstruction)].iter().flatten() {
            assert!(all_finite(term), "{name}: step {step}, {term:?}");
        }
    }
}

/// The elbo, if it is defined, and the reconstruction term of each image.
fn terms(vae: &Vae, images: Conditioned, noise: &Tensor) -> Vec<Tensor> {
    let draws = no_grad(|| vae.draw_with_noise(images, noise, Mode::Evaluate)).expect("draws");
    let elbo = draws.terms.elbo();
    elbo.into_iter()
        .chain([draws.terms.reconstruction])
        .collect()
}

fn all_finite(tensor: &Tensor) -> bool {
    tensor.isfinite().all().int64_value(&[]) == 1
}

#[test]
fn every_model_trains_saves_loads_samples_and_evaluates() {
    let models = common::configs("configs/models");
    assert!(models.len() >= 28, "configs/models/ holds the models");
    let folder = tempfile::tempdir().expect("a folder");
    for (path, config) in models {
        let name = path.file_stem().expect("a name").to_string_lossy();
        let begun = Instant::now();
        let Splits { train, test, .. } = digits(&config);
        let shape = train.shape();
        let vae = Vae::new(&config.model, train.spec(), Device::Cpu, 1).expect("a model");
        vae.start_from(&train.first(train.len()).expect("images"))
            .expect("started");
        ten_steps(&name, &vae, &config, &train);

        vae.save(folder.path().join(WEIGHTS_FILE)).expect("saved");
        let loaded = Vae::load(folder.path(), Device::Cpu).expect("loaded");
        let batch = test.batch(&(0..16).collect::<Vec<_>>()).expect("images");
        let images = Conditioned::from((&batch.items, batch.condition.as_ref()));
        let mut generator = vae.generator(1);
        let noise = generator.normal([2, 16, config.model.n_latents()], Device::Cpu);
        let (ours, theirs) = (terms(&vae, images, &noise), terms(&loaded, images, &noise));
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert!(all_finite(ours), "{name}: {ours:?}");
            assert_eq!(ours, theirs, "{name}");
        }

        let samples = no_grad(|| loaded.sample(5, &mut generator)).expect("samples");
        let wanted = [5, shape.channels, shape.height, shape.width];
        assert_eq!(samples.size(), wanted, "{name}");
        let (least, most) = (samples.min(), samples.max());
        let (least, most) = (least.double_value(&[]), most.double_value(&[]));
        let is_image = loaded.item().is_image();
        assert!(
            all_finite(&samples) && (!is_image || least >= 0.0 && most <= 1.0),
            "{name}: from {least} to {most}"
        );

        let evaluation = evaluate(&loaded, &config, &test, train.len(), 10).expect("an evaluation");
        let means = evaluation.means;
        let mut numbers = vec![means.loss];
        numbers.extend([means.reconstruction, evaluation.mse].iter().flatten());
        numbers.extend(means.elbo.iter().chain(&means.kl));
        numbers.extend(evaluation.latent_use.ranking());
        assert!(numbers.iter().all(|x| x.is_finite()), "{name}: {numbers:?}");
        assert_eq!(
            means.elbo.is_some(),
            config.model.posterior.has_density(),
            "{name}"
        );
        println!("{name}: {means}, {:.1} s", begun.elapsed().as_secs_f64());
    }
}
