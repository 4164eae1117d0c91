//! Models of arrays: units, missing values, densities, exports.

use std::f64::consts::PI;
use std::io::Cursor;

use tch::{CModule, Device, Kind, Tensor, no_grad};
use vae_model::{ItemKind, ItemSpec, Mode, ModelConfig, ModelError, Part, Standardization, Vae};

fn config(parts: &str) -> ModelConfig {
    toml::from_str(&format!("latent_dims = 2\n{parts}")).expect("a model")
}

/// Series of two channels and twelve steps, whose units differ.
fn series(has_missing: bool) -> ItemSpec {
    ItemSpec {
        standardization: Some(Standardization {
            mean: vec![100.0, -3.0],
            std: vec![20.0, 0.5],
        }),
        has_missing,
        ..ItemSpec::new(ItemKind::Array, vec![2, 12])
    }
}

fn model(item: ItemSpec, parts: &str) -> Vae {
    Vae::new(&config(parts), item, Device::Cpu, 1).expect("a model")
}

const CONV: &str =
    "network.conv1d = { channels = [4, 6], strides = [2, 2], kernel = 3, hidden = 8 }";
const LIKELIHOODS: [&str; 3] = ["gaussian", "laplace", "student_t"];

/// Values in the data's own unit, `[n, 2, 1, 12]`.
fn items(n: i64) -> Tensor {
    let values = Tensor::arange(n * 24, (Kind::Float, Device::Cpu)).sin();
    let mean = Tensor::from_slice(&[100_f32, -3.0]).view([2, 1, 1]);
    let std = Tensor::from_slice(&[20_f32, 0.5]).view([2, 1, 1]);
    values.view([n, 2, 1, 12]) * std + mean
}

fn largest(difference: &Tensor) -> f64 {
    difference.abs().max().double_value(&[])
}

#[test]
fn a_model_in_another_unit_gives_the_same_items_and_the_density_of_its_unit() {
    for likelihood in LIKELIHOODS {
        let parts = format!("likelihood.{likelihood} = {{}}\n{CONV}");
        let vae = model(series(false), &parts);
        let raw = ItemSpec::new(ItemKind::Array, vec![2, 12]);
        let standardized = model(raw, &parts); // The same weights, from the same seed.
        let x = items(3);
        let mean = Tensor::from_slice(&[100_f32, -3.0]).view([2, 1, 1]);
        let std = Tensor::from_slice(&[20_f32, 0.5]).view([2, 1, 1]);
        let y = (&x - &mean) / &std;
        let noise = Tensor::zeros([1, 3, 2], (Kind::Float, Device::Cpu));
        let in_unit = vae
            .draw_with_noise(&x, &noise, Mode::Evaluate)
            .expect("draws");
        let plain = standardized
            .draw_with_noise(&y, &noise, Mode::Evaluate)
            .expect("draws");
        // p(x) = p(y) / (20·½)^12.
        let difference = &plain.log_px_z - &in_unit.log_px_z - 12.0 * 10_f64.ln();
        assert!(largest(&difference) < 1e-3, "{likelihood}");
        let means = vae.mean_images(&in_unit);
        let wanted = standardized.mean_images(&plain) * &std + &mean;
        assert!(largest(&(means - wanted)) < 1e-4);
        // Errors are in standard deviations.
        let errors = vae.errors(&in_unit, &x).expect("numbers");
        let wanted = standardized.mean_images(&plain) - &y;
        assert!(largest(&(errors - wanted)) < 1e-5);
        let drawn = vae.decode_sampled(&in_unit.latents.get(0), &mut vae.generator(1));
        let first = drawn.expect("items").select(1, 0).mean(Kind::Float);
        assert!((first.double_value(&[]) - 100.0).abs() < 60.0);
    }
}

#[test]
fn scores_of_values_add_up_to_the_reconstruction_at_the_center() {
    for likelihood in LIKELIHOODS {
        let parts = format!("likelihood.{likelihood} = {{}}\n{CONV}");
        for has_missing in [false, true] {
            let vae = model(series(has_missing), &parts);
            let x = items(3);
            if has_missing {
                let _ = x.get(1).select(0, 1).select(1, 4).fill_(f64::NAN);
            }
            let scores = vae.value_scores(&x).expect("scores").expect("known");
            assert_eq!(scores.size(), [3, 2, 1, 12]);
            assert_eq!(
                scores.isnan().sum(Kind::Int64).int64_value(&[]),
                i64::from(has_missing)
            );
            let center = vae.encode(&x).expect("a posterior").center();
            let (log_px_z, _) = vae.log_joint(&x, &center.unsqueeze(0)).expect("densities");
            let sums = scores.nan_to_num(0.0, None, None).sum(Kind::Float);
            let wanted = -log_px_z.sum(Kind::Float);
            let difference = (sums - wanted).abs().double_value(&[]);
            assert!(
                difference < 1e-2,
                "{likelihood} {has_missing}: {difference}"
            );
        }
    }
}

#[test]
fn gaussian_density_is_the_closed_form_in_the_datas_unit() {
    // σ = ½ of a standard deviation: N(mean, 10²) in the first channel, N(mean, ¼²) in the second.
    let parts = format!("likelihood.gaussian.sigma = 0.5\n{CONV}");
    let vae = model(series(false), &parts);
    let x = items(2);
    let center = vae.encode(&x).expect("a posterior").center();
    let (log_px_z, _) = vae.log_joint(&x, &center.unsqueeze(0)).expect("densities");
    let mean = vae.decode(&center).expect("items");
    let sigma = Tensor::from_slice(&[10_f32, 0.25]).view([2, 1, 1]);
    let squares = ((x - mean) / &sigma).square() * -0.5;
    let wanted = squares - (sigma * (2.0 * PI).sqrt()).log();
    let wanted = wanted.sum_dim_intlist([1_i64, 2, 3].as_slice(), false, Kind::Float);
    assert!(largest(&(log_px_z.get(0) - wanted)) < 1e-3);
}

#[test]
fn a_missing_value_changes_nothing_whatever_it_would_have_been() {
    let vae = model(
        series(true),
        CONV.replace("network", "likelihood.laplace = {}\nnetwork")
            .as_str(),
    );
    let missing = items(2);
    let _ = missing.select(3, 5).fill_(f64::NAN);
    let at_the_mean = items(2);
    let mean = Tensor::from_slice(&[100_f32, -3.0]).view([1, 2, 1]);
    at_the_mean
        .select(3, 5)
        .copy_(&mean.expand([2, 2, 1], false));
    let center = |items: &Tensor| vae.encode(items).expect("a posterior").center();
    assert!(largest(&(center(&missing) - center(&at_the_mean))) < 1e-6);
    let draws = vae
        .draw(&missing, 1, Mode::Train, &mut vae.generator(1))
        .expect("draws");
    assert!(
        draws
            .terms
            .elbo()
            .expect("an elbo")
            .isfinite()
            .all()
            .int64_value(&[])
            == 1
    );
    draws.terms.reconstruction.sum(Kind::Float).backward();
    for (name, variable) in vae.trainable_variables() {
        let gradient = variable.grad();
        if gradient.defined() {
            assert!(gradient.isfinite().all().int64_value(&[]) == 1, "{name}");
        }
    }
}

#[test]
fn a_weights_file_knows_its_items() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("weights.safetensors");
    let vae = model(
        series(true),
        &format!("likelihood.student_t = {{}}\n{CONV}"),
    );
    vae.save(&file).expect("saved");
    let loaded = Vae::load(&file, Device::Cpu).expect("a model");
    assert_eq!(loaded.item(), &series(true));
    let x = items(2);
    let (a, b) = (vae.reconstruct(&x), loaded.reconstruct(&x));
    assert_eq!(a.expect("items"), b.expect("items"));
    let bytes = Tensor::zeros([2, 2, 1, 12], (Kind::Uint8, Device::Cpu));
    assert!(matches!(vae.encode(&bytes), Err(ModelError::Images { .. })));
}

#[test]
fn exports_take_and_give_items_in_their_own_unit() {
    for (has_missing, network) in [
        (false, CONV),
        (true, CONV),
        (false, "network.mlp.hidden = [9]"),
    ] {
        let parts = format!("likelihood.gaussian = {{}}\n{network}");
        let vae = model(series(has_missing), &parts);
        let x = items(4);
        if has_missing {
            let _ = x.get(2).select(0, 0).select(1, 3).fill_(f64::NAN);
        }
        let center = vae.encode(&x).expect("a posterior").center();
        let decoded = vae.decode(&center).expect("items");
        let run = |part: Part, input: &Tensor| {
            let file = vae.to_torchscript(part).expect("TorchScript");
            let module = CModule::load_data(&mut Cursor::new(file)).expect("a module");
            assert!(vae.to_onnx(part).is_ok());
            no_grad(|| module.forward_ts(&[input])).expect("an output")
        };
        let encoded = run(Part::Encoder, &x); // [2, B, Z]: mean and log-variance
        assert!(largest(&(encoded.get(0) - &center)) < 1e-5, "{parts}");
        let items = run(Part::Decoder, &center);
        assert!(largest(&(items - decoded)) < 1e-4, "{parts}");
    }
}

#[test]
fn what_does_not_go_with_arrays_is_refused_with_what_would() {
    let vector = || ItemSpec::new(ItemKind::Array, vec![8]);
    let map = || ItemSpec::new(ItemKind::Array, vec![2, 8, 8]);
    let image = || ItemSpec::new(ItemKind::Image, vec![1, 8, 8]);
    let mlp = "network.mlp = {}";
    for (item, parts, wanted) in [
        (vector(), mlp.to_owned(), "gaussian, laplace or student_t"),
        (
            vector(),
            format!("likelihood.gaussian.mean = 'tanh'\n{mlp}"),
            "linear would fit",
        ),
        (
            vector(),
            "likelihood.gaussian = {}".to_owned(),
            "conv1d or mlp would fit",
        ),
        (
            vector(),
            format!("likelihood.gaussian = {{}}\nprior.vamp = {{}}\n{mlp}"),
            "gaussian_mixture or real_nvp would fit",
        ),
        (
            map(),
            format!("likelihood.gaussian = {{}}\n{CONV}"),
            "conv or residual would fit",
        ),
        (image(), CONV.to_owned(), "these are images"),
        (
            image(),
            "likelihood.laplace.scale = 'learned_per_channel'".to_owned(),
            "\"learned\" would fit",
        ),
        (
            ItemSpec::new(ItemKind::Sound { rate: 8000 }, vec![1, 64]),
            format!("likelihood.gaussian = {{}}\n{mlp}"),
            "does not support samples of sound",
        ),
    ] {
        let error = Vae::new(&config(&parts), item, Device::Cpu, 1)
            .expect_err(&parts)
            .to_string();
        assert!(error.contains(wanted), "{parts}: {error}");
    }
    // Maps of real values work with the networks for images.
    for parts in [
        "likelihood.gaussian = {}",
        "likelihood.student_t.scale = 'learned_per_channel'",
    ] {
        let vae = model(map(), parts);
        let items = Tensor::arange(256, (Kind::Float, Device::Cpu))
            .sin()
            .view([2, 2, 8, 8]);
        assert_eq!(vae.reconstruct(&items).expect("items").size(), [2, 2, 8, 8]);
    }
}
