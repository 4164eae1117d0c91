//! Autoencoders of latent diffusion: read, used and written back.

use std::fs;
use std::path::Path;

use crate::common::{stderr, succeeds_in as succeeds, vae_in};
use image::RgbImage;
use serde_json::Value;
use tch::{Device, Tensor, no_grad};
use vae_model::{ImageShape, LatentScaling, ModelConfig, Vae};

/// A small autoencoder in `folder/vae`, as diffusers writes it.
fn write_autoencoder(folder: &Path) -> Vae {
    let config: ModelConfig = toml::from_str(
        "latent_shape = [4, 8, 8]\nlikelihood.gaussian.sigma = 1.0\n[network.autoencoder_kl]\n\
         channels = [8, 16, 16]\nblocks = 1\ngroups = 4",
    )
    .expect("a config");
    let shape = ImageShape {
        channels: 3,
        height: 32,
        width: 32,
    };
    let vae = Vae::new(&config, shape, Device::Cpu, 5).expect("a model");
    let mut noise = vae.generator(6);
    no_grad(|| {
        for (_, mut variable) in vae.named_variables() {
            let size = variable.size();
            let _ = variable.g_add_(&(noise.normal(&size[..], Device::Cpu) * 0.1));
        }
    });
    let scaling = LatentScaling {
        factor: 0.3,
        shift: 0.05,
    };
    vae.save_diffusers(&folder.join("vae"), Some(scaling))
        .expect("written");
    vae
}

#[test]
fn an_autoencoder_is_described_imported_used_and_written_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    write_autoencoder(here);
    let described = succeeds(here, &["describe", "vae"]);
    assert!(
        described.contains("[model.network.autoencoder_kl]"),
        "{described}"
    );
    assert!(
        described.contains("encoder.middle.attention.query"),
        "{described}"
    );
    succeeds(
        here,
        &[
            "import",
            "vae",
            "--image-size",
            "40x24",
            "--out",
            "tokenizer",
        ],
    );
    let photo = RgbImage::from_fn(90, 70, |x, y| image::Rgb([x as u8 * 2, y as u8 * 3, 99]));
    photo.save(here.join("photo.png")).expect("saved");

    succeeds(
        here,
        &["reconstruct", "tokenizer", "photo.png", "--out", "pair.png"],
    );
    succeeds(
        here,
        &["sample", "tokenizer", "--count", "2", "--out", "drawn.png"],
    );
    succeeds(
        here,
        &["encode", "tokenizer", "photo.png", "--out", "latents.npy"],
    );
    succeeds(
        here,
        &["decode", "tokenizer", "latents.npy", "--out", "decoded.png"],
    );
    let decoded = image::open(here.join("decoded.png")).expect("a picture");
    assert!(decoded.width() >= 24 && decoded.height() >= 40);
    succeeds(
        here,
        &[
            "interpolate",
            "tokenizer",
            "photo.png",
            "prior:1",
            "--out",
            "way.png",
        ],
    );
    succeeds(
        here,
        &["export", "tokenizer", "--format", "onnx", "--out", "onnx"],
    );
    succeeds(
        here,
        &[
            "export",
            "tokenizer",
            "--format",
            "diffusers",
            "--out",
            "back",
        ],
    );
    let file = "diffusion_pytorch_model.safetensors";
    let [before, after] = ["vae", "back"].map(|folder| fs::read(here.join(folder).join(file)));
    assert_eq!(before.expect("read"), after.expect("read"));
    let config = fs::read_to_string(here.join("back/config.json")).expect("read");
    let config: Value = serde_json::from_str(&config).expect("JSON");
    assert_eq!(
        config["scaling_factor"], 0.3,
        "as the file it came from says"
    );
    assert_eq!(config["shift_factor"], 0.05);
}

#[test]
fn an_autoencoder_is_judged_on_pictures_of_ones_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    write_autoencoder(here);
    let import = ["import", "vae", "--image-size", "32", "--out", "tokenizer"];
    succeeds(here, &import);
    let output = vae_in(here, &["eval", "tokenizer"]);
    assert!(stderr(&output).contains("--data"), "{}", stderr(&output));
    fs::create_dir(here.join("photos")).expect("created");
    for i in 0..60_u32 {
        let photo = RgbImage::from_fn(40, 40, |x, y| {
            image::Rgb([x * i, y * i, x + y].map(|value| (value % 256) as u8))
        });
        let path = here.join(format!("photos/{i}.png"));
        photo.save(path).expect("saved");
    }
    let eval = ["eval", "tokenizer", "--data", "photos", "--json"];
    let report: Value = serde_json::from_str(&succeeds(here, &eval)).expect("JSON");
    let sections = &report["sections"];
    assert!(sections.get("likelihood").is_none(), "it has no likelihood");
    assert!(sections["pictures"]["images"].get("trained_on").is_none());
    let measures = |section: &str| {
        let measures = sections[section]["measures"].as_array().expect("a list");
        let pair = |measure: &Value| (measure["name"].to_string(), measure.clone());
        measures
            .iter()
            .map(pair)
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    assert!(measures("pictures").contains_key("\"psnr\""));
    let factor = &measures("latents")["\"implied_scaling_factor\""];
    let note = factor["note"].as_str().expect("a note");
    assert!(
        note.starts_with("its files say 0.3, which scales"),
        "{note}"
    );
    let deviations = &sections["latents"]["lists"]["channel_deviation"];
    assert_eq!(deviations.as_array().expect("a list").len(), 4);
    for file in ["tokenizer/eval.json", "tokenizer/report.html"] {
        assert!(here.join(file).is_file(), "{file}");
    }

    let export = ["export", "tokenizer", "--format", "diffusers", "--out"];
    let export = [&export[..], &["back", "--rescale", "--data", "photos"]].concat();
    succeeds(here, &export);
    let config = fs::read_to_string(here.join("back/config.json")).expect("read");
    let config: Value = serde_json::from_str(&config).expect("JSON");
    let (written, measured) = (&config["scaling_factor"], &factor["value"]);
    // One is of training pictures, the other of test pictures, all much alike.
    let ratio = written.as_f64().expect("a number") / measured.as_f64().expect("a number");
    assert!((0.7..1.4).contains(&ratio), "{written}, {measured}");
}

#[test]
fn tiles_have_the_pixels_of_the_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    write_autoencoder(here);
    let import = [
        "import",
        "vae",
        "--image-size",
        "64x48",
        "--out",
        "tokenizer",
    ];
    succeeds(here, &import);
    let photo = RgbImage::from_fn(48, 64, |x, y| image::Rgb([x as u8 * 5, y as u8 * 3, 99]));
    photo.save(here.join("photo.png")).expect("saved");
    let reconstruct = ["reconstruct", "tokenizer", "photo.png", "--out"];
    succeeds(here, &[&reconstruct[..], &["whole.npy"]].concat());
    succeeds(
        here,
        &[&reconstruct[..], &["tiles.npy", "--tile", "7"]].concat(),
    );
    let [whole, tiles] = ["whole.npy", "tiles.npy"].map(|name| {
        let array = Tensor::read_npy(here.join(name)).expect("an array");
        assert_eq!(array.size(), [1, 3, 64, 48]);
        array
    });
    let difference = (&whole - &tiles).abs().max().double_value(&[]);
    assert!(difference < 1e-5, "{difference}");
    // Gradients do not pass tiles.
    let search = ["x.npy", "--tile", "7", "--invert"];
    let output = vae_in(here, &[&reconstruct[..], &search].concat());
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[test]
fn mistakes_are_said_in_a_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    write_autoencoder(here);
    let fails = |args: &[&str]| {
        let output = vae_in(here, args);
        assert!(!output.status.success());
        let said = stderr(&output);
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
        said
    };
    let said = fails(&["import", "vae", "--image-size", "30", "--out", "x"]);
    assert!(said.contains("multiples of 4"), "{said}");
    fs::create_dir(here.join("other")).expect("created");
    let said = fails(&["import", "other", "--out", "x"]);
    assert!(
        said.contains("--config names the config of another model"),
        "{said}"
    );
    fs::write(
        here.join("vae/diffusion_pytorch_model.safetensors"),
        b"nothing",
    )
    .expect("written");
    let said = fails(&["import", "vae", "--out", "x"]);
    assert!(
        said.contains("diffusion_pytorch_model.safetensors"),
        "{said}"
    );
    assert!(!here.join("x").exists(), "nothing is left");
}

#[test]
fn a_decoder_is_fine_tuned_and_the_encoder_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    write_autoencoder(here);
    fs::create_dir(here.join("photos")).expect("created");
    for i in 0..12_u8 {
        let image = RgbImage::from_fn(32, 32, |x, y| {
            image::Rgb([x as u8 * 7, y as u8 * 7, i * 20])
        });
        image
            .save(here.join(format!("photos/{i:02}.png")))
            .expect("saved");
    }
    let config = "[dataset.image_folder]\npath = 'photos'\nimage_size = 32\n[model]\nlatent_shape = [4, 8, 8]\n\
                  likelihood.laplace.scale = 1.0\n[model.network.autoencoder_kl]\nchannels = [8, 16, 16]\nblocks = 1\n\
                  groups = 4\n[objective.regularizer.kl]\nbeta = 0.0\n[training]\nbatch_size = 4\nema_decay = 0.9\n\
                  start_from = 'vae'\nfrozen = ['encoder']\n";
    fs::write(here.join("tune.toml"), config).expect("written");
    let train = ["train", "tune.toml", "--device", "cpu", "--epochs"];
    succeeds(here, &[&train[..], &["2", "--out", "whole"]].concat());
    succeeds(here, &[&train[..], &["1", "--out", "parts"]].concat());
    fs::rename(here.join("vae"), here.join("gone")).expect("moved");
    succeeds(
        here,
        &[
            "train", "--resume", "parts", "--device", "cpu", "--epochs", "2",
        ],
    );
    let weights = |run: &str, name: &str| {
        let out = format!("{run}-{name}");
        succeeds(
            here,
            &[
                "export",
                run,
                "--checkpoint",
                "last",
                "--format",
                "diffusers",
                "--out",
                &out,
            ],
        );
        fs::read(here.join(out).join("diffusion_pytorch_model.safetensors")).expect("read")
    };
    assert_eq!(
        weights("whole", "a"),
        weights("parts", "b"),
        "resumed exactly, without the start"
    );
    let tensors = |file: &Path| {
        let bytes = fs::read(file).expect("read");
        let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("tensors");
        let all = tensors.tensors().into_iter();
        all.map(|(name, view)| (name, view.data().to_vec()))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let file = "diffusion_pytorch_model.safetensors";
    let before = tensors(&here.join("gone").join(file));
    let after = tensors(&here.join("whole-a").join(file));
    for (name, values) in &before {
        let is_frozen =
            name.starts_with("encoder") || name == "quant_conv.weight" || name == "quant_conv.bias";
        assert_eq!(after[name] == *values, is_frozen, "{name}");
    }
}
