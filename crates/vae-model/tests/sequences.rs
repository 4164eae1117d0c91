//! Models of sequences of tokens: what they compute is a distribution over sequences.

use tch::{Device, Kind, Tensor, no_grad};
use vae_model::{
    Drawing, ItemKind, ItemSpec, Mode, ModelConfig, ModelError, Part, TextSpec, TextUnit, Vae,
};

const NETWORKS: [&str; 5] = [
    "network.recurrent = { embedding = 5, encoder_hidden = 6, decoder_hidden = 7 }",
    "network.recurrent = { embedding = 4, encoder_hidden = 3, decoder_hidden = 5, decoder_layers = 2 }",
    "network.transformer = { width = 8, heads = 2, feed_forward = 12 }",
    CONDUCTED,
    "network.recurrent = { decoder_hidden = 5, decoder_layers = 2, conductor = { steps = 1, hidden = 3 } }",
];

/// Parts of two tokens, of which the last one may be shorter.
const CONDUCTED: &str = "network.recurrent = { embedding = 4, decoder_hidden = 6, conductor = { steps = 2, hidden = 3 } }";

/// Sequences of at most T tokens, of which 0 is the end.
fn item(vocabulary: i64, length: i64) -> ItemSpec {
    let end = Some(0);
    ItemSpec::new(ItemKind::Tokens { vocabulary, end }, vec![length])
}

fn config(text: &str) -> ModelConfig {
    let text = format!("latent_dims = 1\nlikelihood = 'categorical'\n{text}");
    toml::from_str(&text).expect("a config")
}

/// A model whose decoder has larger weights than a fresh one, so that everything has an influence.
fn model(text: &str, item: ItemSpec) -> Vae {
    let vae = Vae::new(&config(text), item, Device::Cpu, 3).expect("a model");
    for (name, mut variable) in vae.trainable_variables() {
        if name.starts_with("decoder.") {
            no_grad(|| variable.copy_(&(&variable * 2.0)));
        }
    }
    vae
}

fn tokens(rows: &[&[i64]]) -> Tensor {
    let flat: Vec<i64> = rows.concat();
    Tensor::from_slice(&flat).view([rows.len() as i64, 1, 1, -1])
}

/// Every sequence of three tokens of three, each followed by ends only.
fn all_items() -> Tensor {
    let mut rows = Vec::new();
    for i in 0..27_i64 {
        let row = [i / 9, i / 3 % 3, i % 3];
        let first_end = row.iter().position(|&token| token == 0).unwrap_or(3);
        if row[first_end..].iter().all(|&token| token == 0) {
            rows.extend(row);
        }
    }
    Tensor::from_slice(&rows).view([-1, 1, 1, 3])
}

fn largest(tensor: &Tensor) -> f64 {
    tensor.abs().max().double_value(&[])
}

/// log p(x|z) of items at one latent.
fn log_px(vae: &Vae, items: &Tensor, latent: f64) -> Tensor {
    let latents = Tensor::full([1, items.size()[0], 1], latent, (Kind::Float, Device::Cpu));
    let (log_px, _) = no_grad(|| vae.log_joint(items, &latents)).expect("known");
    log_px.squeeze_dim(0)
}

#[test]
fn a_model_by_hand_has_the_likelihood_of_its_numbers() {
    let probabilities = [0.5_f64, 0.3, 0.2];
    for network in NETWORKS {
        let vae = Vae::new(&config(network), item(3, 4), Device::Cpu, 1).expect("a model");
        for (name, mut variable) in vae.trainable_variables() {
            let logs = Tensor::from_slice(&probabilities.map(f64::ln)).to_kind(Kind::Float);
            no_grad(|| match name.as_str() {
                "decoder.logits.bias" => variable.copy_(&logs),
                _ => {
                    let _ = variable.zero_();
                }
            });
        }
        let items = tokens(&[&[1, 2, 0, 0], &[0, 0, 0, 0], &[2, 2, 1, 1]]);
        let wanted = [0.3_f64 * 0.2 * 0.5, 0.5, 0.2 * 0.2 * 0.3 * 0.3].map(f64::ln);
        // q(z|x) is the prior, so that the elbo is log p(x).
        let draws = vae
            .draw(&items, 3, Mode::Evaluate, &mut vae.generator(1))
            .expect("draws");
        let elbo = draws.terms.elbo().expect("an elbo");
        let weights = draws.log_weights().expect("weights");
        for (i, wanted) in wanted.into_iter().enumerate() {
            assert!(
                (elbo.double_value(&[i as i64]) - wanted).abs() < 1e-5,
                "{network}"
            );
            assert!(
                (weights.double_value(&[2, i as i64]) - wanted).abs() < 1e-5,
                "{network}"
            );
        }
        let values = vae.value_scores(&items).expect("known").expect("by token");
        assert!((values.double_value(&[0, 0, 0, 1]) + 0.2_f64.ln()).abs() < 1e-5);
        assert!(values.double_value(&[0, 0, 0, 3]).is_nan());
        let tokens = draws.named.get("tokens").expect("logged");
        assert_eq!(Vec::<f64>::try_from(tokens).expect("flat"), [3.0, 1.0, 4.0]);
    }
}

#[test]
fn the_probabilities_of_all_sequences_add_up_to_1() {
    for network in NETWORKS {
        let vae = model(network, item(3, 3));
        let items = all_items();
        assert_eq!(items.size()[0], 1 + 2 + 4 + 8);
        for latent in [-1.5, 0.0, 2.0] {
            let sum = log_px(&vae, &items, latent).exp().sum(Kind::Double);
            assert!((sum.double_value(&[]) - 1.0).abs() < 1e-5, "{network}");
        }
        let difference = log_px(&vae, &items, -1.5) - log_px(&vae, &items, 2.0);
        assert!(largest(&difference) > 0.01, "{network}: z has an influence");
    }
}

#[test]
fn drawn_sequences_are_as_frequent_as_their_probability_says() {
    const N: i64 = 20_000;
    for network in NETWORKS {
        let vae = model(network, item(3, 3));
        let latents = Tensor::full([N, 1], 0.7, (Kind::Float, Device::Cpu));
        let drawn = no_grad(|| vae.decode_sampled(&latents, &mut vae.generator(4)));
        let drawn = drawn.expect("drawn"); // [N, 1, 1, 3]
        assert_eq!(drawn.kind(), Kind::Int64);
        let items = all_items();
        let probabilities = log_px(&vae, &items, 0.7).exp();
        for i in 0..items.size()[0] {
            let is_it = drawn
                .eq_tensor(&items.get(i))
                .flatten(1, -1)
                .all_dim(-1, false);
            let found = is_it
                .to_kind(Kind::Double)
                .mean(Kind::Double)
                .double_value(&[]);
            let wanted = probabilities.double_value(&[i]);
            let error = (wanted * (1.0 - wanted) / N as f64).sqrt();
            assert!(
                (found - wanted).abs() < 5.0 * error + 1e-4,
                "{network}: {found} {wanted}"
            );
        }
    }
}

#[test]
fn what_follows_the_end_says_nothing_and_what_precedes_it_does() {
    for network in NETWORKS {
        let vae = model(network, item(4, 6));
        let score = |row: &[i64]| {
            let items = tokens(&[row, &[1, 1, 1, 1, 1, 1]]);
            let mean = no_grad(|| vae.encode(&items)).expect("encoded").center();
            let log_px = log_px(&vae, &items, 0.3);
            (mean.double_value(&[0, 0]), log_px.double_value(&[0]))
        };
        let (mean, log_px) = score(&[2, 3, 0, 0, 0, 0]);
        let (other_mean, other_log_px) = score(&[2, 3, 0, 1, 3, 2]);
        assert!((mean - other_mean).abs() < 1e-6, "{network}");
        assert!((log_px - other_log_px).abs() < 1e-6, "{network}");
        let (changed_mean, changed_log_px) = score(&[3, 2, 0, 0, 0, 0]);
        assert!(
            (mean - changed_mean).abs() > 1e-4,
            "{network}: order matters"
        );
        assert!((log_px - changed_log_px).abs() > 1e-4, "{network}");
    }
}

#[test]
fn a_longer_grid_changes_nothing() {
    for network in [NETWORKS[0], NETWORKS[1], CONDUCTED] {
        let [short, long] = [4, 9].map(|length| model(network, item(4, length)));
        let rows = [
            tokens(&[&[2, 3, 1, 0]]),
            tokens(&[&[2, 3, 1, 0, 0, 0, 0, 0, 0]]),
        ];
        let found = [(&short, &rows[0]), (&long, &rows[1])].map(|(vae, items)| {
            let draws = vae
                .draw(items, 1, Mode::Evaluate, &mut vae.generator(2))
                .expect("draws");
            draws.terms.elbo().expect("an elbo").double_value(&[0])
        });
        assert!((found[0] - found[1]).abs() < 1e-5, "{network}: {found:?}");
    }
}

#[test]
fn the_importance_weighted_bound_tends_to_log_p() {
    for network in NETWORKS {
        let vae = model(network, item(3, 3));
        let items = tokens(&[&[1, 2, 0], &[2, 0, 0]]);
        // ∫ p(x|z) p(z) dz on a fine grid.
        let (n, step) = (1601, 0.01);
        let grid = (Tensor::arange(n, (Kind::Float, Device::Cpu)) - 800) * step;
        let latents = grid.view([n, 1, 1]).expand([-1, 2, -1], false);
        let (log_px, log_pz) = no_grad(|| vae.log_joint(&items, &latents)).expect("known");
        let exact = (log_px + log_pz).to_kind(Kind::Double).logsumexp(0, false) + f64::ln(step);
        let k = 20_000;
        let draws = no_grad(|| vae.draw(&items, k, Mode::Evaluate, &mut vae.generator(5)));
        let weights = draws.expect("draws").log_weights().expect("weights");
        let weights = weights.to_kind(Kind::Double);
        let log_sum = weights.logsumexp(0, false);
        let bound = &log_sum - (k as f64).ln();
        // The standard error of the mean weight relative to the mean, √(Σw²/(Σw)² − 1/K).
        let squares = ((&weights * 2.0).logsumexp(0, false) - log_sum * 2.0).exp();
        let errors = (squares - 1.0 / k as f64).clamp_min(0.0).sqrt();
        assert!(
            largest(&errors) < 0.05,
            "{network}: too few samples to tell"
        );
        let distances = (bound - exact) / errors;
        assert!(
            largest(&distances) < 4.0,
            "{network}: {distances:?} standard errors"
        );
    }
}

#[test]
fn word_dropout_is_for_training_and_follows_from_the_generator() {
    let dropout = "network.recurrent = { embedding = 5, decoder_hidden = 7, word_dropout = 0.5 }";
    let transformer = "network.transformer = { width = 8, heads = 2, word_dropout = 0.5 }";
    for network in [dropout, transformer] {
        let vae = model(network, item(5, 8));
        let items = tokens(&[&[1, 2, 3, 4, 1, 2, 3, 0][..]; 4]);
        let loss = |mode, seed| {
            let draws = vae
                .draw(&items, 1, mode, &mut vae.generator(seed))
                .expect("draws");
            draws.log_px_z.sum(Kind::Double).double_value(&[])
        };
        assert_eq!(loss(Mode::Train, 1), loss(Mode::Train, 1));
        let noise = Tensor::zeros([1, 4, 1], (Kind::Float, Device::Cpu));
        let of = |mode| {
            let draws = vae.draw_with_noise(&items, &noise, mode).expect("draws");
            draws.log_px_z
        };
        assert_eq!(of(Mode::Train), of(Mode::Evaluate));
        // With the same noise of z, the two modes differ by the hidden words.
        assert!((loss(Mode::Train, 1) - loss(Mode::Evaluate, 1)).abs() > 1e-3);
    }
}

#[test]
fn a_language_model_ignores_the_latents_and_the_rest_is_the_same() {
    for network in [
        "recurrent = { ",
        "transformer = { ",
        "recurrent = { conductor = { steps = 2 }, ",
    ] {
        let text = |without: bool| format!("network.{network}without_latents = {without} }}");
        let [with, without] = [false, true].map(|without| model(&text(without), item(3, 3)));
        assert_eq!(with.n_parameters(), without.n_parameters());
        let items = all_items();
        let of = |vae: &Vae, latent| log_px(vae, &items, latent);
        assert_eq!(of(&without, -1.0), of(&without, 2.0));
        assert!(largest(&(of(&without, 1.0) - of(&with, 0.0))) < 1e-6);
    }
}

/// The gradient of the likelihood reaches everything that a conducted decoder has.
#[test]
fn gradients_flow_through_the_conductor() {
    let vae = model(CONDUCTED, item(4, 5));
    let items = tokens(&[&[1, 2, 3, 1, 2], &[3, 3, 1, 2, 1]]);
    let draws = vae
        .draw(&items, 1, Mode::Train, &mut vae.generator(1))
        .expect("draws");
    draws.log_px_z.sum(Kind::Float).backward();
    for (name, variable) in vae.trainable_variables() {
        let gradient = variable.grad();
        assert!(gradient.defined(), "{name}");
        assert!(largest(&gradient) > 0.0, "{name}: no gradient");
    }
    // By a finite difference, of the conductor's weights.
    let latents = Tensor::from_slice(&[0.3_f32, -0.8]).view([1, 2, 1]);
    let log_px = || {
        let (log_px, _) = vae.log_joint(&items, &latents).expect("known");
        log_px.sum(Kind::Double)
    };
    for name in [
        "decoder.conductor.lstm.0.state.weight",
        "decoder.conductor.state.weight",
    ] {
        let variables = vae.trainable_variables();
        let (_, variable) = variables
            .iter()
            .find(|(found, _)| found == name)
            .expect("there");
        let mut variable = variable.shallow_clone();
        variable.zero_grad();
        log_px().backward();
        let gradient = variable.grad().double_value(&[1, 0]);
        let step = 1e-2;
        let at = |by: f64, variable: &mut Tensor| {
            no_grad(|| {
                let mut one = variable.narrow(0, 1, 1).narrow(1, 0, 1);
                let _ = one.g_add_scalar_(by);
                log_px().double_value(&[])
            })
        };
        let above = at(step, &mut variable);
        let below = at(-2.0 * step, &mut variable);
        at(step, &mut variable);
        let difference = (above - below) / (2.0 * step);
        assert!(
            (difference - gradient).abs() < 2e-3 + 0.02 * gradient.abs(),
            "{name}: {difference} {gradient}"
        );
    }
}

#[test]
fn decoding_takes_the_most_likely_token_at_each_step() {
    for network in NETWORKS {
        let vae = model(network, item(6, 7));
        let latents = vae.sample_latents(5, &mut vae.generator(1));
        let decoded = no_grad(|| vae.decode(&latents)).expect("decoded");
        // From the parameters of all steps at once, as exports do.
        let at_once = no_grad(|| vae.run_part(Part::Decoder, &latents)).expect("decoded");
        assert_eq!(decoded, at_once[0], "{network}");
        // Given itself, each token is the most likely one (the draws have their own latents).
        let values = decoded.size();
        assert_eq!(values, [5, 1, 1, 7]);
        let scored = |items: &Tensor| {
            let (log_px, _) =
                no_grad(|| vae.log_joint(items, &latents.unsqueeze(0))).expect("known");
            log_px.squeeze_dim(0)
        };
        let best = scored(&decoded);
        for seed in 3..6 {
            let mut generator = vae.generator(seed);
            let drawing = Drawing {
                temperature: 1.0,
                top_p: 1e-6,
            };
            let drawn = no_grad(|| vae.decode_drawn(&latents, drawing, &mut generator));
            assert!(largest(&(scored(&drawn.expect("drawn")) - &best)) < 1e-5);
        }
    }
}

#[test]
fn a_condition_reaches_encoder_and_decoder() {
    use vae_model::{ConditionSpec, DataSpec};
    let condition = ConditionSpec {
        classes: vec!["0".to_owned(), "1".to_owned()],
        attributes: Vec::new(),
    };
    for network in NETWORKS {
        let text = format!("{network}\ncondition.classes = true");
        let data = DataSpec {
            item: item(4, 5),
            condition: condition.clone(),
        };
        let vae = Vae::new(&config(&text), data, Device::Cpu, 1).expect("a model");
        let items = tokens(&[&[1, 2, 3, 0, 0][..]; 2]);
        let rows = Tensor::from_slice(&[1.0_f32, 0.0, 0.0, 1.0]).view([2, 2]);
        let center = no_grad(|| vae.encode((&items, Some(&rows))))
            .expect("encoded")
            .center();
        assert!((center.double_value(&[0, 0]) - center.double_value(&[1, 0])).abs() > 1e-6);
        let latents = Tensor::zeros([1, 2, 1], (Kind::Float, Device::Cpu));
        let (log_px, _) =
            no_grad(|| vae.log_joint((&items, Some(&rows)), &latents)).expect("known");
        assert!((log_px.double_value(&[0, 0]) - log_px.double_value(&[0, 1])).abs() > 1e-6);
    }
}

#[test]
fn weights_are_saved_with_their_vocabulary_and_traced() {
    let text = TextSpec {
        unit: TextUnit::Character,
        tokens: ["", "a", "é", "\"\n"].map(str::to_owned).to_vec(),
        merges: Vec::new(),
    };
    let item = ItemSpec {
        text: Some(text),
        ..item(4, 5)
    };
    let folder = tempfile::tempdir().expect("a folder");
    for network in NETWORKS {
        let vae = model(network, item.clone());
        let file = folder.path().join("weights.safetensors");
        vae.save(&file).expect("saved");
        let loaded = Vae::load(&file, Device::Cpu).expect("loaded");
        assert_eq!(loaded.item(), &item);
        let items = tokens(&[&[1, 3, 2, 0, 0], &[2, 2, 2, 2, 2], &[1, 0, 0, 0, 0]]);
        assert_eq!(log_px(&vae, &items, 0.5), log_px(&loaded, &items, 0.5));
        let path = folder.path().join("part.pt");
        for (part, input) in [
            (Part::Encoder, items.shallow_clone()),
            (Part::Decoder, vae.sample_latents(3, &mut vae.generator(1))),
        ] {
            let traced = vae.to_torchscript(part).expect("a trace");
            std::fs::write(&path, traced).expect("written");
            let module = tch::CModule::load(&path).expect("loaded");
            let found = module.forward_ts(&[&input]).expect("run");
            let wanted = no_grad(|| vae.run_part(part, &input)).expect("run");
            let wanted = match part {
                Part::Encoder => Tensor::stack(&wanted, 0),
                Part::Decoder => wanted[0].shallow_clone(),
            };
            assert!(
                largest(&(found - wanted).to_kind(Kind::Float)) < 1e-5,
                "{network}"
            );
        }
        let problem = vae.to_onnx(Part::Decoder).expect_err("refused").to_string();
        assert!(
            problem.contains("has no ONNX export; TorchScript supports it"),
            "{problem}"
        );
    }
}

#[test]
fn parts_that_are_not_for_tokens_are_refused_and_the_other_way_round() {
    let image = ItemSpec::new(ItemKind::Image, vec![1, 8, 8]);
    let array = ItemSpec::new(ItemKind::Array, vec![3]);
    let sequence = item(3, 4);
    let build = |text: &str, item: &ItemSpec| {
        let config: ModelConfig = toml::from_str(text).expect("a config");
        let error = Vae::new(&config, item.clone(), Device::Cpu, 1).expect_err("refused");
        assert!(matches!(error, ModelError::Config { .. }), "{error}");
        error.to_string()
    };
    let categorical = "likelihood = 'categorical'";
    for (text, item, wanted) in [
        (
            "network.recurrent = {}",
            &sequence,
            "\"categorical\" would fit",
        ),
        (categorical, &sequence, "recurrent or transformer would fit"),
        ("network.transformer = {}", &image, "conv would fit"),
        (categorical, &image, "bernoulli would fit"),
        ("network.recurrent = {}", &array, "conv1d or mlp would fit"),
        (
            "likelihood = 'categorical'\nnetwork.mlp = {}",
            &array,
            "gaussian would fit",
        ),
        (
            "likelihood = 'categorical'\nnetwork.recurrent = {}\nprior.vamp = {}",
            &sequence,
            "gaussian_mixture or real_nvp would fit",
        ),
        (
            "likelihood = 'categorical'\nnetwork.recurrent = {}\nlatent_shape = [1, 2, 2]",
            &sequence,
            "the network recurrent has no feature maps",
        ),
        (
            "likelihood = 'categorical'\nnetwork.recurrent.word_dropout = 1.5",
            &sequence,
            "model.network.recurrent.word_dropout: found 1.5",
        ),
        (
            "likelihood = 'categorical'\nnetwork.recurrent.conductor = { steps = 0 }",
            &sequence,
            "model.network.recurrent.conductor.steps: found 0",
        ),
        (
            "likelihood = 'categorical'\nnetwork.transformer = { width = 10, heads = 4 }",
            &sequence,
            "expected a multiple of heads = 4",
        ),
    ] {
        let problem = build(text, item);
        assert!(problem.contains(wanted), "{text}: {problem}");
    }
    let vae = model(NETWORKS[0], item(3, 4));
    let objective = toml::from_str("adversarial = {}").expect("an objective");
    let problem = vae
        .check_objective(&objective)
        .expect_err("refused")
        .to_string();
    assert!(
        problem.contains("those of the network recurrent are tokens"),
        "{problem}"
    );
}
