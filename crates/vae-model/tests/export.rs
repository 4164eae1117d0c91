//! Models for other programs, and weights from other programs.

use std::collections::BTreeMap;
use std::io::Cursor;

use tch::{CModule, Device, Kind, Tensor, no_grad};
use vae_model::{
    ChannelOrder, Crop, Framing, ImageShape, ModelConfig, Part, Resize, StateDictMap, Vae,
    WEIGHTS_FILE, write_tensors,
};

const SHAPE: ImageShape = ImageShape {
    channels: 3,
    height: 13,
    width: 10,
};

const NETWORKS: [&str; 5] = [
    "network.mlp.hidden = [20]",
    "network.conv = { channels = [4, 6], strides = [1, 2], hidden = 8, \
     decoder_channels = [5], decoder_strides = [2] }",
    "network.conv_batch_norm.channels = [4, 6]",
    "network.residual = { channels = [8, 12], group_size = 4 }",
    "network.dcgan.channels = [4, 6]",
];

fn config(parts: &str) -> ModelConfig {
    toml::from_str(&format!("latent_dims = 3\n{parts}")).expect("a model")
}

fn model(parts: &str) -> Vae {
    Vae::new(&config(parts), SHAPE, Device::Cpu, 1).expect("a model")
}

fn inputs(part: Part) -> Tensor {
    let options = (Kind::Float, Device::Cpu);
    match part {
        Part::Encoder => {
            let n = 5 * SHAPE.n_values();
            let values = Tensor::arange(n, options).sin() * 0.5 + 0.5;
            values.view([5, SHAPE.channels, SHAPE.height, SHAPE.width])
        }
        Part::Decoder => Tensor::arange(7 * 3, options).cos().view([7, 3]),
    }
}

#[test]
fn torchscript_computes_the_same_at_another_batch_size() {
    let others = [
        "likelihood.logistic_mixture.components = 2",
        "likelihood.gaussian = {}",
        "posterior = 'deterministic'",
        "posterior.iaf = {}",
        "decoder_spectral_norm = true",
    ];
    let small = NETWORKS[0];
    let parts = NETWORKS.iter().map(|network| (*network).to_owned());
    for parts in parts.chain(others.map(|other| format!("{other}\n{small}"))) {
        let vae = model(&parts);
        for part in Part::ALL {
            let file = vae.to_torchscript(part).expect("TorchScript");
            let module = CModule::load_data(&mut Cursor::new(file)).expect("a module");
            let input = inputs(part);
            let found = no_grad(|| module.forward_ts(&[&input])).expect("an output");
            let wanted = no_grad(|| vae.run_part(part, &input)).expect("outputs");
            let wanted = match part {
                Part::Encoder => Tensor::stack(&wanted, 0),
                Part::Decoder => wanted[0].shallow_clone(),
            };
            assert_eq!(found.size(), wanted.size(), "{parts}");
            let error = (found - wanted).abs().max().double_value(&[]);
            assert!(error < 1e-5, "{parts}: {error}");
        }
    }
}

#[test]
fn exported_parts_are_encode_and_decode() {
    for likelihood in ["", "likelihood.gaussian = {}"] {
        let vae = model(&format!("{likelihood}\n{}", NETWORKS[0]));
        let size = [4, SHAPE.channels, SHAPE.height, SHAPE.width];
        let bytes = Tensor::arange(4 * SHAPE.n_values(), (Kind::Int64, Device::Cpu)).remainder(256);
        let bytes = bytes.to_kind(Kind::Uint8).view(size);
        let center = vae.encode(&bytes).expect("a posterior").center();
        let images = bytes.to_kind(Kind::Float) / 255.0;
        let outputs = vae.run_part(Part::Encoder, &images).expect("outputs");
        assert_eq!(outputs.len(), 2);
        assert!((&outputs[0] - &center).abs().max().double_value(&[]) < 1e-5);
        let decoded = vae.decode(&center).expect("images");
        let outputs = vae.run_part(Part::Decoder, &center).expect("images");
        assert!((&outputs[0] - decoded).abs().max().double_value(&[]) == 0.0);
        assert!(vae.run_part(Part::Encoder, &bytes).is_err());
    }
}

#[test]
fn onnx_refuses_what_it_has_not() {
    for (parts, part, what) in [
        (
            "posterior = 'full_covariance'",
            Part::Encoder,
            "full_covariance",
        ),
        (
            "likelihood.logistic_mixture = {}",
            Part::Decoder,
            "logistic_mixture",
        ),
    ] {
        let error = model(parts).to_onnx(part).expect_err(parts).to_string();
        assert!(
            error.contains(what) && error.contains("TorchScript"),
            "{error}"
        );
    }
    for network in NETWORKS {
        for part in Part::ALL {
            assert!(model(network).to_onnx(part).is_ok(), "{network}");
        }
    }
}

#[test]
fn the_layers_have_all_parameters_and_the_outputs_that_are_computed() {
    for network in NETWORKS {
        for parts in [
            "",
            "decoder_spectral_norm = true",
            "posterior.iaf = {}",
            "prior.real_nvp = {}",
        ] {
            let vae = model(&format!("{parts}\n{network}"));
            let summary = vae.summary();
            let sum: usize = summary.iter().map(|part| part.n_parameters).sum();
            assert_eq!(sum, vae.n_parameters(), "{parts} {network}");
            let saved: usize = vae.named_variables().iter().map(|v| 4 * v.1.numel()).sum();
            assert_eq!(
                summary.iter().map(|part| part.n_bytes).sum::<usize>(),
                saved
            );
            let last = summary[3]
                .layers
                .last()
                .and_then(|layer| layer.output.clone());
            let numel: i64 = last.expect("a layer").iter().product();
            assert_eq!(numel, SHAPE.n_values(), "{network}");
        }
    }
    // By hand: 3·13·10·20 + 20·6 weights.
    assert_eq!(model(NETWORKS[0]).summary()[0].multiply_adds, 7_920);
}

#[test]
fn preprocessing_is_saved_with_the_weights_and_found_in_a_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = folder.path().join("checkpoints/best");
    std::fs::create_dir_all(&checkpoint).expect("created");
    let mut vae = model("likelihood.gaussian = {}");
    let framing = Framing {
        crop: Some(Crop::Center { fraction: 0.8 }),
        resize: Some(Resize::BilinearAntialiased),
        binarized: false,
    };
    vae.set_framing(framing.clone());
    vae.save(checkpoint.join(WEIGHTS_FILE)).expect("saved");
    for path in [folder.path(), &checkpoint, &checkpoint.join(WEIGHTS_FILE)] {
        let loaded = Vae::load(path, Device::Cpu)
            .expect("a model")
            .preprocessing();
        assert_eq!(loaded.framing.as_ref(), Some(&framing));
        assert_eq!(loaded.channels, Some(ChannelOrder::Rgb));
        assert_eq!(loaded.value_range, [-1.0, 1.0]);
        assert_eq!(loaded.image, SHAPE);
    }
}

#[test]
fn weights_of_pytorch_come_in_by_their_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("state.safetensors");
    let parts = NETWORKS[0];
    let vae = model(parts);
    let theirs = |name: &str| format!("model.{}", name.replace("encoder.0", "fc1"));
    let state: Vec<_> = vae
        .named_variables()
        .into_iter()
        .map(|(n, t)| (theirs(&n), t))
        .collect();
    write_tensors(&file, &state, &[]).expect("written");
    let mut names: BTreeMap<String, String> = vae
        .named_variables()
        .into_iter()
        .map(|(name, _)| (theirs(&name), name))
        .collect();
    let import = |names: &BTreeMap<String, String>| {
        let map = StateDictMap {
            names: names.clone(),
            ..Default::default()
        };
        Vae::import(&config(parts), SHAPE, &file, &map, Device::Cpu)
    };
    let (imported, notes) = import(&names).expect("a model");
    assert!(notes.is_empty(), "{notes:?}");
    for ((name, a), (_, b)) in vae.named_variables().iter().zip(imported.named_variables()) {
        assert!(a.equal(&b), "{name}");
    }

    // A wrong name is reported as both missing and unexpected.
    names.remove("model.fc1.bias");
    let error = import(&names).expect_err("a name is missing").to_string();
    assert!(error.contains("encoder.0.bias [20] is missing"), "{error}");
    assert!(
        error.contains("model.fc1.bias [20] is unexpected"),
        "{error}"
    );
    names.insert("model.fc1.bias".to_owned(), "encoder.0.weight".to_owned());
    let error = import(&names).expect_err("twice").to_string();
    assert!(
        error.contains("two tensors are mapped to encoder.0.weight"),
        "{error}"
    );
    let other = config("network.mlp.hidden = [21]");
    let error = Vae::import(&other, SHAPE, &file, &StateDictMap::default(), Device::Cpu);
    assert!(error.is_err());
}
