//! The best checkpoint, early stopping and the plateau schedule depend on the validation images only.

mod common;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use common::{SHAPE, dataset};
use tch::Device;
use vae_data::{Dataset, Splits, derive_seed};
use vae_model::{MlpConfig, NetworkConfig, Vae};
use vae_train::{
    Checkpoint, Checkpoints, EarlyStopping, MetricsLog, Outcome, Record, RunConfig, RunDir, Trainer,
};

fn config(extra: &str) -> RunConfig {
    let text = format!(
        "{extra}\n[training]\nepochs = 5\nbatch_size = 8\n[optimizer.adam]\nlearning_rate = 0.03\n"
    );
    let mut config: RunConfig = toml::from_str(&text).expect("a config");
    config.model.latent_dims = Some(2);
    config.model.network = NetworkConfig::Mlp(MlpConfig { hidden: vec![6] });
    config
}

/// Trains a run in a new folder and returns its results.
fn train(folder: &Path, config: &RunConfig, splits: &Splits) -> (RunDir, Outcome) {
    config.check().expect("a config that makes sense");
    let seed = derive_seed(config.seed, 0, "initial weights");
    let vae = Vae::new(&config.model, SHAPE, Device::Cpu, seed).expect("a model");
    let run_dir = RunDir::create(folder, config).expect("a run");
    let mut trainer = Trainer::new(&vae, splits, config).expect("a trainer");
    trainer.save_to(run_dir.clone());
    trainer.add(MetricsLog::new(&run_dir));
    if let Some(early_stopping) = &config.early_stopping {
        trainer.add(EarlyStopping::new(early_stopping));
    }
    trainer.add(Checkpoints::new(&config.checkpoints));
    let outcome = trainer.fit(&AtomicBool::new(false));
    outcome.ended.as_ref().expect("no error");
    (run_dir, outcome)
}

/// Inverted images, on which a model trained on [`dataset`] becomes worse.
fn inverted(n: i64) -> Dataset {
    let images = dataset(n).first(n as usize).expect("images");
    Dataset::new(255 - images, None).expect("a data set")
}

const IDX: &str = "[dataset.idx]\nfolder = 'unused'";

#[test]
fn test_images_change_nothing_and_validation_images_choose() {
    let folder = tempfile::tempdir().expect("a folder");
    // A single evaluation on the wrong images would change early stopping and the plateau schedule.
    let config = config(&format!(
        "{IDX}\n[early_stopping]\npatience_epochs = 3\n[schedule.plateau]\npatience = 0"
    ));
    let run = |name: &str, validation, test| {
        let splits = Splits::new(dataset(22), Some(validation), test);
        let (run_dir, outcome) = train(&folder.path().join(name), &config, &splits);
        let mut records = run_dir.records().expect("records");
        for record in &mut records {
            // Measured times.
            (record.images_per_s, record.seconds, record.waited) = (0.0, 0.0, None);
        }
        let best = Checkpoint::Best.open(&run_dir).expect("a checkpoint");
        let best_epoch = best.state.position.epochs;
        assert_eq!(outcome.progress.best.expect("a best").epoch, best_epoch);
        (records, best_epoch, outcome.progress.position.epochs)
    };
    let (records, best, n_epochs) = run("one", dataset(7), dataset(5));
    assert_eq!(
        run("two", dataset(7), inverted(9)),
        (records, best, n_epochs)
    );
    // The more the model learns, the better it is on similar images, and the worse on inverted ones.
    assert_eq!((best, n_epochs), (5, 5));
    let (records, best, n_epochs) = run("three", inverted(7), dataset(5));
    assert_eq!((best, n_epochs), (1, 4));
    let of_split = |split| {
        records
            .iter()
            .filter(|record| record.split == split)
            .count()
    };
    assert_eq!(
        [of_split(Record::TRAIN), of_split(Record::VALIDATION)],
        [4, 4]
    );
    assert_eq!(of_split("test"), 0);
}

#[test]
fn without_validation_images_the_last_epoch_is_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config("[dataset]\nvalidation = 0\nidx = { folder = 'unused' }");
    let splits = Splits::new(dataset(22), None, dataset(5));
    let (run_dir, outcome) = train(&folder.path().join("run"), &config, &splits);
    let best = Checkpoint::Best.open(&run_dir).expect("a checkpoint");
    assert_eq!(best.state.position.epochs, 5);
    assert!(outcome.progress.best.is_none() && outcome.progress.last_validation.is_none());
    assert!(best.state.latent_use.is_some());
    let records = run_dir.records().expect("records");
    assert!(records.iter().all(|record| record.split == Record::TRAIN));

    for extra in ["[early_stopping]", "[schedule.plateau]"] {
        let text = format!("[dataset]\nvalidation = 0\nidx = {{ folder = 'unused' }}\n{extra}\n");
        let config: RunConfig = toml::from_str(&text).expect("a config");
        let message = config.check().unwrap_err().to_string();
        let key = extra.trim_matches(['[', ']']);
        assert_eq!(
            message,
            format!(
                "{key}: looks at validation images, and dataset.validation = 0 keeps none back"
            )
        );
    }
}

#[test]
fn the_validation_loss_is_that_of_the_schedules_end() {
    let folder = tempfile::tempdir().expect("a folder");
    // In five epochs of three steps β rises to 0.15 only, so training has nearly no kl.
    let warm_up = "[objective.regularizer.kl]\nbeta = 2.0\nbeta_schedule.warm_up.steps = 200";
    let config = config(&format!("{IDX}\n{warm_up}"));
    let splits = Splits::new(dataset(22), Some(dataset(7)), dataset(5));
    let (run_dir, _) = train(&folder.path().join("run"), &config, &splits);
    for record in run_dir.records().expect("records") {
        let means = record.means;
        let kl = means.kl.expect("a kl");
        let beta = match record.split.as_str() {
            Record::VALIDATION => 2.0,
            _ => continue,
        };
        let wanted = means.reconstruction.expect("one") + beta * kl;
        assert!((means.loss - wanted).abs() < 1e-5 * wanted, "{means:?}");
    }
}

#[test]
fn a_schedule_has_settled_at_its_settled_step() {
    for (schedule, step) in [
        ("beta_schedule = 'constant'", 0),
        ("beta_schedule.warm_up.steps = 30", 30),
        (
            "beta_schedule.cyclic = { period_steps = 40, ramp = 0.5 }",
            39,
        ),
    ] {
        let config = config(&format!(
            "{IDX}\n[objective.regularizer.kl]\nbeta = 4.0\n{schedule}"
        ));
        assert_eq!(config.objective.settled_step(), step);
        assert_eq!(config.objective.scheduled(step), [("beta", 4.0)]);
    }
    let capacity = "[objective.regularizer.capacity]\nfinal_capacity = 7.0\nover_steps = 50";
    let config = config(&format!("{IDX}\n{capacity}"));
    let settled = config.objective.settled_step();
    assert_eq!(config.objective.scheduled(settled), [("capacity", 7.0)]);
    assert_eq!(config.objective.scheduled(settled + 1), [("capacity", 7.0)]);
    assert_ne!(config.objective.scheduled(settled - 1), [("capacity", 7.0)]);
}
