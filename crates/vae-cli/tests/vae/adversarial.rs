//! A generator without an encoder, from training to every command; a VAE with a discriminator.

use std::fs;

use crate::common::{Workplace, metrics, stderr};

const GAN: &str = "[dataset.idx]
folder = 'data'
[model]
latent_dims = 3
posterior = 'none'
[model.network.mlp]
hidden = [16]
[objective]
regularizer = 'none'
[objective.adversarial]
discriminator.mlp.hidden = [8]
penalty.r1 = {}
[training]
epochs = 2
batch_size = 16
ema_decay = 0.9
";

const VAE: &str = "[dataset.idx]
folder = 'data'
[model.network.mlp]
hidden = [16]
[objective.perceptual]
[objective.adversarial]
adaptive_weight = true
start = 3
discriminator.conv = { channels = [4], patch = true }
[training]
epochs = 2
batch_size = 16
";

fn workplace() -> Workplace {
    let workplace = Workplace::new();
    fs::write(workplace.path("gan.toml"), GAN).expect("written");
    fs::write(workplace.path("vae.toml"), VAE).expect("written");
    workplace
}

fn succeeds(workplace: &Workplace, args: &[&str]) -> String {
    let output = workplace.vae(args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_generator_does_what_needs_no_encoder_and_says_what_does() {
    let workplace = workplace();
    succeeds(&workplace, &["train", "gan.toml", "--out", "gan"]);
    for args in [
        &["sample", "gan"][..],
        &["interpolate", "gan", "prior:0", "prior:1"],
        &["traverse", "gan"],
        &["arithmetic", "gan", "prior:0 - prior:1 + prior:2"],
    ] {
        succeeds(&workplace, &[args, &["--out", "p.png"]].concat());
    }
    for record in metrics(&workplace.path("gan")) {
        for name in ["reconstruction", "kl", "elbo", "mse", "active_units"] {
            assert!(record.get(name).is_none(), "{name}: {record}");
        }
        for name in [
            "loss",
            "adversarial_loss",
            "discriminator_real",
            "discriminator_generated",
            "discriminator_accuracy",
            "generated_diversity",
        ] {
            assert!(record[name].is_f64(), "{name}: {record}");
        }
        let is_train = record["split"] == "train";
        for name in ["discriminator_penalty", "discriminator_gradient_norm"] {
            assert_eq!(record[name].is_f64(), is_train, "{name}: {record}");
        }
    }
    for format in ["onnx", "torchscript"] {
        let args = ["export", "gan", "--format", format, "--out", format];
        let written = succeeds(&workplace, &args);
        assert!(
            written.contains("decoder") && !written.contains("encoder."),
            "{written}"
        );
    }
    let described = succeeds(&workplace, &["describe", "gan"]);
    assert!(described.contains("decoder.0"), "{described}");
    assert!(!described.contains("encoder.0"), "{described}");
    let report = succeeds(&workplace, &["eval", "gan", "--json"]);
    assert!(
        report.contains("fid_pixel_pca") && !report.contains("rfid"),
        "{report}"
    );
    for args in [
        &["encode", "gan", "--out", "z.csv"][..],
        &["reconstruct", "gan", "--out", "p.png"],
        &["score", "gan", "--out", "s.csv"],
        &["interpolate", "gan", "test:0", "test:1", "--out", "p.png"],
    ] {
        let said = workplace.error(args, 1);
        assert!(said.contains("without an encoder"), "{args:?}: {said}");
    }
    let search = ["--invert", "--invert-steps", "5"];
    for args in [
        &["encode", "gan", "--out", "z.csv"][..],
        &["reconstruct", "gan", "--count", "4", "--out", "p.png"],
    ] {
        succeeds(&workplace, &[args, &search].concat());
    }
    let said = workplace.error(&["attribute", "gan", "learn", "class=1"], 1);
    assert!(said.contains("--judge"), "{said}");
    let said = workplace.error(&["eval", "gan", "--only", "latents"], 1);
    assert!(said.contains("without an encoder"), "{said}");
}

#[test]
fn a_generators_directions_are_learned_from_samples_that_another_run_judges() {
    let workplace = workplace();
    succeeds(&workplace, &["train", "gan.toml", "--out", "gan"]);
    succeeds(&workplace, &["train", "vae.toml", "--out", "vae"]);
    let learn = ["attribute", "gan", "learn", "--all", "--limit", "50"];
    let said = succeeds(
        &workplace,
        &[&learn[..], &["--judge", "vae", "--json"]].concat(),
    );
    assert!(said.contains("attributes"), "{said}");
    let said = workplace.error(&[&learn[..], &["--judge", "gan"]].concat(), 1);
    assert!(said.contains("no encoder either"), "{said}");
}

#[test]
fn a_vae_with_a_discriminator_is_a_vae_in_every_command_and_resumes() {
    let workplace = workplace();
    succeeds(&workplace, &["train", "vae.toml", "--out", "whole"]);
    let half = ["train", "vae.toml", "--out", "half", "--epochs", "1"];
    succeeds(&workplace, &half);
    succeeds(&workplace, &["train", "--resume", "half", "--epochs", "2"]);
    let of = |run: &str| metrics(&workplace.path(run));
    assert_eq!(of("half"), of("whole"));
    let last = of("whole").pop().expect("records");
    assert!(last["adversarial_weight"].is_f64(), "{last}");
    assert!(last["perceptual_reconstruction"].is_f64(), "{last}");
    succeeds(&workplace, &["reconstruct", "whole", "--out", "p.png"]);
    succeeds(&workplace, &["encode", "whole", "--out", "z.csv"]);
    succeeds(&workplace, &["eval", "whole", "--samples", "3"]);
}
