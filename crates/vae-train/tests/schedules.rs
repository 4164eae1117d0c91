//! Compares the schedules with PyTorch's schedulers (values written by `tests/golden/schedules.py`).

use std::collections::BTreeMap;

use vae_train::{
    CosineConfig, ExponentialConfig, OneCycleConfig, PlateauConfig, PlateauState, Schedule,
    StepConfig, ThresholdMode, WarmUpConfig,
};

fn golden() -> BTreeMap<String, Vec<f64>> {
    serde_json::from_str(include_str!("golden/schedules.json")).expect("the golden file")
}

fn assert_close(name: &str, found: &[f64], wanted: &[f64]) {
    assert_eq!(found.len(), wanted.len());
    for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        assert!(
            (found - wanted).abs() < 1e-9,
            "{name}, {i}: {found}, PyTorch has {wanted}"
        );
    }
}

#[test]
fn every_factor_is_pytorchs() {
    let golden = golden();
    let cosine = |warm_up_steps| {
        Schedule::Cosine(CosineConfig {
            warm_up_steps,
            final_factor: 0.1,
            ..Default::default()
        })
    };
    let step = |warm_up_steps| {
        Schedule::Step(StepConfig {
            warm_up_steps,
            every_steps: 4,
            factor: 0.3,
            ..Default::default()
        })
    };
    let exponential = |warm_up_steps| {
        Schedule::Exponential(ExponentialConfig {
            warm_up_steps,
            final_factor: 0.02,
            ..Default::default()
        })
    };
    let cases = [
        (
            "warm_up",
            Schedule::WarmUp(WarmUpConfig {
                warm_up_steps: 5,
                ..Default::default()
            }),
        ),
        ("cosine", cosine(0)),
        ("warm_up_cosine", cosine(5)),
        ("step", step(0)),
        ("warm_up_step", step(5)),
        ("exponential", exponential(0)),
        ("warm_up_exponential", exponential(5)),
        ("one_cycle", Schedule::OneCycle(OneCycleConfig::default())),
    ];
    for (name, schedule) in cases {
        let wanted = &golden[name];
        let n_steps = wanted.len() as u64;
        let found: Vec<f64> = (0..n_steps)
            .map(|step| schedule.factor(step, n_steps))
            .collect();
        assert_close(name, &found, wanted);
    }
}

#[test]
fn plateaus_are_pytorchs_and_resume_from_json() {
    let golden = golden();
    let relative = PlateauConfig {
        factor: 0.3,
        patience: 2,
        threshold: 1e-3,
        ..Default::default()
    };
    let absolute = PlateauConfig {
        threshold_mode: ThresholdMode::Absolute,
        cooldown: 2,
        min_factor: 0.01,
        ..relative.clone()
    };
    for (name, config) in [
        ("plateau_relative", relative),
        ("plateau_absolute", absolute),
    ] {
        let mut state = PlateauState::default();
        let found: Vec<f64> = golden["losses"]
            .iter()
            .map(|&loss| {
                let json = serde_json::to_string(&state).expect("JSON");
                state = serde_json::from_str(&json).expect("the same state");
                state.observe(&config, loss)
            })
            .collect();
        assert_close(name, &found, &golden[name]);
        assert!(found[0] == 1.0 && *found.last().expect("some") < 0.1);
    }
}

#[test]
fn config_files_say_it_like_this() {
    #[derive(serde::Deserialize)]
    struct File {
        schedule: Schedule,
    }
    let read = |text: &str| toml::from_str::<File>(text).map(|file| file.schedule);
    assert_eq!(read("schedule = 'constant'"), Ok(Schedule::Constant));
    assert_eq!(
        read("[schedule.cosine]"),
        Ok(Schedule::Cosine(CosineConfig::default()))
    );
    let plateau = "[schedule.plateau]\nthreshold_mode = 'absolute'\nthreshold = 0.1";
    let Ok(Schedule::Plateau(config)) = read(plateau) else {
        panic!("a plateau")
    };
    assert_eq!(config.threshold_mode, ThresholdMode::Absolute);
    assert!(read("[schedule.one_cycle]\nwarm_up_steps = 3").is_err());
}
