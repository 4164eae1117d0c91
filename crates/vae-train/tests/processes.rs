//! Several processes train what one trains, up to rounding. Threads stand for the processes.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tch::{Device, Kind, Tensor};
use vae_data::{Dataset, Splits};
use vae_model::{Generator, ItemKind, ItemSpec, Vae};
use vae_run::PlayerConfig;
use vae_torch::{Group, among};
use vae_train::{RunConfig, Stop, Trainer};

/// Items of a kind without any meaning, the same in every call.
fn items(spec: &ItemSpec, n: i64, seed: u64) -> Tensor {
    let mut generator = Generator::cpu(seed);
    let [channels, height, width] = spec.map().sides();
    let size = [n, channels, height, width];
    // Smooth, so that no density is extreme.
    let coarse = generator.normal([n, channels, height, 1], Device::Cpu);
    let values = coarse + generator.normal(size, Device::Cpu) * 0.3;
    match spec.kind {
        ItemKind::Image => (values.sigmoid() * 255.0).to_kind(Kind::Uint8),
        ItemKind::Sound { .. } => (values.tanh() * 8000.0).to_kind(Kind::Int16),
        ItemKind::Tokens { vocabulary, .. } => {
            let options = (Kind::Int64, Device::Cpu);
            generator.randint(vocabulary, size, options)
        }
        _ => values,
    }
}

/// Eight items for training and five for validation, with conditions if the config has one.
fn splits(config: &RunConfig) -> Splits {
    let item = common::small(&common::item(config), &config.model.network);
    let of = |n: i64, seed| {
        let labels = (0..n).map(|i| i % 3).collect::<Vec<i64>>();
        let labels = Some(Tensor::from_slice(&labels));
        let dataset = Dataset::of_items(item.clone(), items(&item, n, seed), labels);
        let condition = common::data_spec(config, item.clone()).condition;
        dataset.expect("a data set").with_condition(&condition)
    };
    Splits::new(of(8, 1), Some(of(5, 2)), of(2, 3))
}

/// Plain gradient descent on all players, whose steps are as long as the gradient is: a moment would make a step of what is
/// rounding alone.
fn config_of(config: RunConfig) -> RunConfig {
    let item = common::item(&config);
    let mut config = common::for_small(config, &item);
    let training = &mut config.training;
    // Batches of seven and of one, of which a process has nothing.
    (training.batch_size, training.epochs) = (7, 1);
    training.evaluation_batch_size = 3;
    training.clip.norm = Some(1.0);
    training.clip.skip_above = None;
    config.schedule =
        toml::from_str::<RunConfig>("dataset.idx.folder = 'x'\nschedule = 'constant'")
            .expect("a schedule")
            .schedule;
    config.optimizer = toml::from_str("sgd.learning_rate = 0.05").expect("an optimizer");
    config.players = BTreeMap::new();
    for name in config.objective.player_names() {
        let player = "optimizer.sgd.learning_rate = 0.05\nclip.norm = 1.0";
        let player: PlayerConfig = toml::from_str(player).expect("a player");
        config.players.insert(name.to_owned(), player);
    }
    config
}

/// What a run ends with: numbers by name.
type Numbers = BTreeMap<String, Vec<f64>>;

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.detach().to_kind(Kind::Double).view(-1)).expect("numbers")
}

/// The weights before and after a run of four steps, and the numbers that it logs.
fn trained(config: &RunConfig, group: Option<Arc<Group>>) -> [Numbers; 3] {
    let splits = splits(config);
    let vae = Vae::new(&config.model, splits.train.spec(), Device::Cpu, 1).expect("a model");
    vae.start_from(&splits.train.first(8).expect("items"))
        .expect("started");
    let weights = || {
        let named = vae.named_variables().into_iter();
        named.map(|(name, value)| (name, numbers(&value))).collect()
    };
    let before = weights();
    let mut trainer = Trainer::new(&vae, &splits, config).expect("a trainer");
    if let Some(group) = group {
        trainer.train_among(group).expect("all are here");
    }
    let outcome = trainer.fit(&AtomicBool::new(false));
    let ended = outcome.ended.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(ended, Stop::Finished);
    let progress = outcome.progress;
    let mut logged = Numbers::new();
    for record in [progress.last_train, progress.last_validation] {
        let record = record.expect("a record");
        let means = record.means;
        let fixed = [
            ("loss", Some(means.loss)),
            ("elbo", means.elbo),
            ("reconstruction", means.reconstruction),
            ("kl", means.kl),
            ("mse", record.mse),
            ("gradient norm", record.gradient_norm),
        ];
        let named = record
            .named
            .iter()
            .map(|(name, &value)| (&**name, Some(value)));
        for (name, value) in fixed.into_iter().chain(named) {
            let numbers = value.into_iter().collect();
            logged.insert(format!("{} {name}", record.split), numbers);
        }
    }
    let used = progress.latent_use.expect("a measure");
    logged.insert("center variance".to_owned(), used.center_variance);
    logged.insert("kl of dimensions".to_owned(), used.kl.unwrap_or_default());
    [before, weights(), logged]
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

/// Fails if another run's weights did not move as these did, or if its logged numbers differ.
///
/// Batch norm of few values and kinks of activations make much of a small difference in single variables, even if the same
/// sums are added up in another order, and a code near the border of two may be the other one; all together move alike.
fn compare(name: &str, alone: &[Numbers; 3], among: &[Numbers; 3]) {
    let [before, after, logged] = alone;
    assert_eq!(*before, among[0], "{name}: they begin alike");
    let (mut all_moved, mut all_apart) = (vec![], vec![]);
    for (variable, after) in after {
        let (before, other) = (&before[variable], &among[1][variable]);
        let moved = norm(after.iter().zip(before).map(|(a, b)| a - b));
        let apart = norm(after.iter().zip(other).map(|(a, b)| a - b));
        assert!(
            apart <= 0.05 * moved + 1e-6,
            "{name}: {variable} moved by {moved:e} and is {apart:e} apart"
        );
        all_moved.push(moved);
        all_apart.push(apart);
    }
    let (moved, apart) = (norm(all_moved.into_iter()), norm(all_apart.into_iter()));
    assert!(
        apart <= 2e-3 * moved,
        "{name}: the weights moved by {moved:e} and are {apart:e} apart"
    );
    assert!(logged.keys().eq(among[2].keys()), "{name}");
    for (what, wanted) in logged {
        let found = &among[2][what];
        let apart = norm(wanted.iter().zip(found).map(|(a, b)| a - b));
        let size = norm(wanted.iter().copied());
        // Which of two near codes an item has is rounding's to say.
        let bound = if what.contains("code") { 0.05 } else { 5e-3 };
        assert!(
            wanted.len() == found.len() && apart <= bound * size + 1e-3,
            "{name}: {what} is {wanted:?} of one and {found:?} of several"
        );
    }
}

#[test]
fn two_processes_train_what_one_trains_whatever_the_model() {
    let mut configs = common::configs("configs/models");
    let others = [
        "names",
        "melodies",
        "verses",
        "autoencoderkl-small",
        "spoken-digits-waveform",
    ];
    configs.extend(common::configs("configs").into_iter().filter(|(path, _)| {
        let name = path.file_stem().expect("a name");
        others.iter().any(|other| name == *other)
    }));
    assert!(configs.len() >= 55 + others.len() - 1);
    for (path, config) in configs {
        let name = path.file_stem().expect("a name").to_string_lossy();
        let config = config_of(config);
        let alone = trained(&config, None);
        let found = among(2, |group| trained(&config, Some(group)));
        for rank in &found {
            compare(&name, &alone, rank);
        }
        assert_eq!(
            found[0], found[1],
            "{name}: the processes have the same, bit for bit"
        );
    }
}
