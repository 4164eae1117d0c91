//! Disentanglement scores, compared with disentanglement_lib's formulas (values written by
//! `tests/golden/disentanglement.py`), and for latents whose scores are known.

use tch::{Device, Kind, Tensor};
use vae_data::{Dataset, FactorGrid, FactorSpace};
use vae_eval::{
    DisentanglementOptions, EvalError, LabeledLatents, MutualInformation, VoteCounts,
    beta_vae_score, dci, dci_completeness, dci_disentanglement, factor_vae_score,
    measure_disentanglement, modularity, mutual_information_gap,
    separated_attribute_predictability,
};
use vae_model::{ImageShape, ModelConfig, Vae};

#[derive(serde::Deserialize)]
struct Lists {
    latents: Vec<Vec<f64>>,
    factors: Vec<Vec<usize>>,
}

impl Lists {
    fn labeled(&self) -> LabeledLatents {
        LabeledLatents::new(self.latents.clone(), self.factors.clone()).expect("latents")
    }
}

#[derive(serde::Deserialize)]
struct Case {
    name: String,
    train: Lists,
    test: Lists,
    mutual_information: Vec<Vec<f64>>,
    mig: f64,
    modularity: f64,
    sap_accuracies: Vec<Vec<f64>>,
    sap: f64,
    importances: Vec<Vec<f64>>,
    disentanglement: f64,
    completeness: f64,
    informativeness: f64,
}

fn golden() -> Vec<Case> {
    serde_json::from_str(include_str!("golden/disentanglement.json")).expect("the golden file")
}

fn assert_near(found: f64, wanted: f64, tolerance: f64, what: &str) {
    let difference = (found - wanted).abs();
    assert!(
        difference <= tolerance,
        "{what}: {found}, expected {wanted}"
    );
}

fn assert_all_near(found: &[Vec<f64>], wanted: &[Vec<f64>], tolerance: f64, what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (found, wanted) in found.concat().into_iter().zip(wanted.concat()) {
        assert_near(found, wanted, tolerance, what);
    }
}

#[test]
fn numpy_has_the_same_information_gap_and_modularity() {
    for case in golden() {
        let information = MutualInformation::new(&case.train.labeled(), 20);
        let found = &information.of_latents;
        assert_all_near(found, &case.mutual_information, 1e-10, &case.name);
        let gap = mutual_information_gap(&information);
        assert_near(gap, case.mig, 1e-10, &case.name);
        assert_near(modularity(&information), case.modularity, 1e-10, &case.name);
    }
}

#[test]
fn scikit_learn_has_the_same_support_vector_machines() {
    for case in golden() {
        let (train, test) = (case.train.labeled(), case.test.labeled());
        let (sap, accuracies) = separated_attribute_predictability(&train, &test);
        assert_all_near(&accuracies, &case.sap_accuracies, 1e-10, &case.name);
        assert_near(sap, case.sap, 1e-10, &case.name);
    }
}

/// With fewer values than bins both programs try the same splits, many of which are equally good. scikit-learn's
/// `random_state` decides between them, and its own importances differ by up to 0.012 between two values of it.
const TIES: f64 = 0.025;

#[test]
fn scikit_learn_has_the_same_trees_but_for_ties() {
    for case in golden() {
        let found = dci(&case.train.labeled(), &case.test.labeled(), |_| ());
        assert_all_near(&found.importances, &case.importances, TIES, &case.name);
        assert_near(
            found.informativeness,
            case.informativeness,
            TIES,
            &case.name,
        );
        assert_near(
            dci_disentanglement(&case.importances),
            case.disentanglement,
            1e-8,
            &case.name,
        );
        assert_near(
            dci_completeness(&case.importances),
            case.completeness,
            1e-8,
            &case.name,
        );
    }
}

/// Three factors with two, five and four values, and a constant one.
fn space() -> FactorSpace {
    FactorSpace::new([("color", 1), ("a", 2), ("b", 5), ("c", 4)])
}

/// The three factors that vary, each scaled to −1 to 1.
fn values(position: usize) -> [f64; 3] {
    let space = space();
    let (classes, sizes) = (space.classes(position), space.sizes());
    [1, 2, 3].map(|i| 2.0 * classes[i] as f64 / (sizes[i] as f64 - 1.0) - 1.0)
}

/// Pseudorandom numbers from −1 to 1.
fn noise(i: usize) -> f64 {
    let bits = vae_data::derive_seed(i as u64, 0, "test noise");
    bits as f64 / u64::MAX as f64 * 2.0 - 1.0
}

/// Every combination `n_times`; the latents are a function of the factors and of the image's number.
fn grid(n_times: usize, latents: impl Fn([f64; 3], usize) -> Vec<f64>) -> LabeledLatents {
    let n = space().n_positions();
    let rows: Vec<Vec<f64>> = (0..n * n_times)
        .map(|i| latents(values(i % n), i))
        .collect();
    let columns = (0..rows[0].len()).map(|dim| rows.iter().map(|row| row[dim]).collect());
    let factors = [1, 2, 3].map(|factor| {
        let classes = (0..n * n_times).map(|i| space().classes(i % n)[factor]);
        classes.collect()
    });
    LabeledLatents::new(columns.collect(), factors.to_vec()).expect("latents")
}

fn perfect(values: [f64; 3]) -> Vec<f64> {
    let [a, b, c] = values;
    vec![c, -a, 3.0 * b + 1.0]
}

/// A rotation after which no factor is along an axis.
fn rotated(values: [f64; 3]) -> Vec<f64> {
    let [a, b, c] = values;
    vec![
        (2.0 * a - b + 2.0 * c) / 3.0,
        (2.0 * a + 2.0 * b - c) / 3.0,
        (-a + 2.0 * b + 2.0 * c) / 3.0,
    ]
}

fn gap(codes: &LabeledLatents) -> f64 {
    mutual_information_gap(&MutualInformation::new(codes, 20))
}

fn modular(codes: &LabeledLatents) -> f64 {
    modularity(&MutualInformation::new(codes, 20))
}

fn sap(train: &LabeledLatents, test: &LabeledLatents) -> f64 {
    separated_attribute_predictability(train, test).0
}

#[test]
fn a_factor_for_each_dimension_is_perfect() {
    let codes = grid(1, |values, _| perfect(values));
    assert_near(gap(&codes), 1.0, 1e-12, "gap");
    assert_near(modular(&codes), 1.0, 1e-12, "modularity");
    let found = dci(&codes, &codes, |_| ());
    assert_near(found.disentanglement, 1.0, 1e-6, "disentanglement");
    assert_near(found.completeness, 1.0, 1e-6, "completeness");
    assert_eq!(found.informativeness, 1.0);
    // The dimension that varies least is the one of the fixed factor.
    let mut encode =
        |positions: &[usize]| Ok(positions.iter().map(|&i| perfect(values(i))).collect());
    let found = factor_vae_score(&mut encode, &space(), 1000, VOTES, 1).expect("a score");
    assert_eq!(found, 1.0);
    let found = beta_vae_score(&mut encode, &space(), VOTES, 1).expect("a score");
    assert_eq!(found, 1.0);
}

const VOTES: VoteCounts = VoteCounts {
    train: 300,
    test: 200,
    batch: 64,
};

#[test]
fn a_binary_factor_is_predicted_by_its_own_dimension_and_guessed_by_others() {
    // Its own dimension predicts it always, the others half of the time.
    let codes = grid(1, |values, _| perfect(values));
    let one = LabeledLatents::new(codes.latents().to_vec(), codes.factors()[..1].to_vec());
    let one = one.expect("latents");
    let (sap, accuracies) = separated_attribute_predictability(&one, &one);
    assert_eq!(accuracies, [[0.5], [1.0], [0.5]]);
    assert_eq!(sap, 0.5);
}

#[test]
fn a_rotation_of_perfect_latents_is_not_disentangled() {
    let codes = grid(1, |values, _| rotated(values));
    assert!(gap(&codes) < 0.2, "{}", gap(&codes));
    assert!(modular(&codes) < 0.6, "{}", modular(&codes));
    assert!(sap(&codes, &codes) < 0.2, "{}", sap(&codes, &codes));
    let found = dci(&codes, &codes, |_| ());
    assert!(found.disentanglement < 0.4, "{}", found.disentanglement);
    assert!(found.completeness < 0.4, "{}", found.completeness);
    // No information is lost, though.
    assert!(found.informativeness > 0.95, "{}", found.informativeness);
}

#[test]
fn a_factor_twice_leaves_no_gap() {
    let codes = grid(1, |values, _| [perfect(values), perfect(values)].concat());
    assert_eq!(gap(&codes), 0.0);
    assert_eq!(sap(&codes, &codes), 0.0);
    assert_near(modular(&codes), 1.0, 1e-12, "modularity");
}

#[test]
fn all_factors_in_one_dimension_is_complete_but_not_disentangled() {
    // 40 combinations with 40 different values.
    let one = |[a, b, c]: [f64; 3], _| vec![20.0 * a + 4.0 * b + c, 0.0];
    let codes = grid(1, one);
    let found = dci(&codes, &codes, |_| ());
    assert!(found.completeness > 0.99, "{}", found.completeness);
    assert_near(found.disentanglement, 0.0, 1e-6, "disentanglement");
    assert!(modular(&codes) < 0.5, "{}", modular(&codes));
}

#[test]
fn noise_tells_nothing() {
    let of = |offset: usize| {
        grid(100, move |_, i| {
            (0..4).map(|dim| noise(offset + 4 * i + dim)).collect()
        })
    };
    let (train, test) = (of(0), of(1 << 20));
    assert!(gap(&train) < 0.01, "{}", gap(&train));
    assert!(sap(&train, &test) < 0.05, "{}", sap(&train, &test));
    let found = dci(&train, &test, |_| ());
    assert!(found.disentanglement < 0.05, "{}", found.disentanglement);
    assert!(found.completeness < 0.1, "{}", found.completeness);
    // The mean of the accuracies 1/2, 1/5 and 1/4.
    assert_near(found.informativeness, 0.95 / 3.0, 0.05, "informativeness");
    // One of three factors is guessed.
    let mut i = 0;
    let mut encode = |positions: &[usize]| {
        let row = |_| {
            i += 1;
            (0..4).map(|dim| noise(4 * i + dim)).collect()
        };
        Ok(positions.iter().map(row).collect::<Vec<Vec<f64>>>())
    };
    let votes = VoteCounts {
        train: 1000,
        test: 1000,
        batch: 16,
    };
    for found in [
        factor_vae_score(&mut encode, &space(), 1000, votes, 1).expect("a score"),
        beta_vae_score(&mut encode, &space(), votes, 1).expect("a score"),
    ] {
        // The standard deviation is 0.015, and a majority of training votes is slightly better than chance.
        assert_near(found, 1.0 / 3.0, 0.06, "chance");
    }
}

#[test]
fn constant_dimensions_have_no_vote_and_no_modularity() {
    let mut encode = |positions: &[usize]| Ok(vec![vec![0.5, -1.0]; positions.len()]);
    let found = factor_vae_score(&mut encode, &space(), 100, VOTES, 1).expect("a score");
    assert_eq!(found, 0.0);
    let codes = grid(1, |_, _| vec![0.5, -1.0]);
    assert_eq!(modular(&codes), 0.0);
    assert_eq!(gap(&codes), 0.0);
    let found = dci(&codes, &codes, |_| ());
    assert_eq!((found.disentanglement, found.completeness), (0.0, 0.0));
    // A constant dimension gets no votes if others vary.
    let mut encode = |positions: &[usize]| {
        let row = |&i: &usize| [vec![0.25], perfect(values(i))].concat();
        Ok(positions.iter().map(row).collect())
    };
    let found = factor_vae_score(&mut encode, &space(), 1000, VOTES, 1).expect("a score");
    assert_eq!(found, 1.0);
}

/// An encoder whose latents are the factors with noise and a shift, each dimension multiplied by its scale.
fn encoder(scales: [f64; 3], noise_scale: f64, shift: f64) -> impl FnMut(&[usize]) -> Encoded {
    let mut i = 0;
    move |positions: &[usize]| {
        let row = |&position: &usize| {
            i += 1;
            let dims = values(position).into_iter().zip(scales).enumerate();
            dims.map(|(dim, (value, scale))| {
                scale * (value + noise_scale * noise(4 * i + dim) + shift)
            })
            .collect()
        };
        Ok(positions.iter().map(row).collect())
    }
}

type Encoded = Result<Vec<Vec<f64>>, EvalError>;

#[test]
fn the_factor_vae_score_compares_variances_in_units_of_each_dimensions_own() {
    // If a factor is fixed, its dimension varies by the noise only, a hundredth of its variance. In the first dimension
    // that is still more than the whole variance of the third.
    let mut encode = encoder([10.0, 1.0, 0.3], 0.1, 0.0);
    let found = factor_vae_score(&mut encode, &space(), 1000, VOTES, 1).expect("a score");
    assert_eq!(found, 1.0);
}

#[test]
fn a_dimension_below_a_deviation_of_a_twentieth_has_no_vote() {
    // The first factor has the values ±1, so its dimension's standard deviation is the scale.
    let score = |scale: f64| {
        let mut encode = encoder([scale, 1.0, 1.0], 0.1, 0.0);
        factor_vae_score(&mut encode, &space(), 1000, VOTES, 1).expect("a score")
    };
    assert_eq!(score(0.06), 1.0);
    // Without its dimension that factor can only be guessed from the others.
    let without = score(0.04);
    assert!((0.5..0.85).contains(&without), "{without}");
}

#[test]
fn the_beta_vae_score_is_of_differences_and_their_size() {
    // A sum of two latents would be dominated by the shift, and signed differences would average to zero.
    let mut encode = encoder([1.0, 1.0, 1.0], 0.1, 20.0);
    let found = beta_vae_score(&mut encode, &space(), VOTES, 1).expect("a score");
    assert!(found > 0.98, "{found}");
    // In latents of pure noise pairs share nothing: the score is a guess among three.
    let mut encode = encoder([0.0, 0.0, 0.0], 1.0, 0.0);
    let found = beta_vae_score(&mut encode, &space(), VOTES, 1).expect("a score");
    assert!(found < 0.5, "{found}");
}

#[test]
fn votes_for_fitting_and_for_testing_are_as_many_as_requested() {
    let votes = VoteCounts {
        train: 3,
        test: 5,
        batch: 2,
    };
    let mut asked: Vec<usize> = Vec::new();
    let mut encode = |positions: &[usize]| {
        asked.push(positions.len());
        Ok(positions.iter().map(|&i| perfect(values(i))).collect())
    };
    let _ = beta_vae_score(&mut encode, &space(), votes, 1).expect("a score");
    let _ = factor_vae_score(&mut encode, &space(), 7, votes, 1).expect("a score");
    // 2 pairs for each point; and 7 images for the variances, then 2 for each vote.
    assert_eq!(asked, [3 * 2 * 2, 5 * 2 * 2, 7, 3 * 2, 5 * 2]);
}

#[test]
fn one_dimension_alone_is_measured_too() {
    let codes = grid(1, |[_, b, _], _| vec![b]);
    // One of three factors is known exactly.
    assert_near(gap(&codes), 1.0 / 3.0, 1e-12, "gap");
    assert_near(modular(&codes), 1.0, 1e-12, "modularity");
    let found = dci(&codes, &codes, |_| ());
    assert_near(found.completeness, 1.0, 1e-12, "completeness");
}

#[test]
fn nan_and_infinite_values_are_refused() {
    let refusal = |latents, factors| {
        let error = LabeledLatents::new(latents, factors).expect_err("an error");
        error.to_string()
    };
    let diverged = refusal(vec![vec![1.0, f64::NAN]], vec![vec![0, 1]]);
    assert!(diverged.contains("did the training diverge?"), "{diverged}");
    let lengths = refusal(vec![vec![1.0, 2.0]], vec![vec![0]]);
    assert_eq!(lengths, "latents or factors of 1 images, expected 2");
    assert!(refusal(Vec::new(), Vec::new()).contains("found no latents"));
}

/// Images whose left, middle and right thirds have the brightness of the three factors.
fn images() -> FactorGrid {
    let bytes: Vec<u8> = (0..space().n_positions())
        .flat_map(|i| values(i).map(|value| (127.0 + 100.0 * value) as u8))
        .flat_map(|brightness| [brightness; 4])
        .collect();
    let images = Tensor::from_slice(&bytes).view([space().n_positions() as i64, 1, 3, 4]);
    FactorGrid::new(space(), Dataset::new(images, None).expect("images")).expect("a grid")
}

/// A model with random weights of images `[1, 3, 4]`.
fn small_vae() -> Vae {
    let config: ModelConfig = serde_json::from_value(serde_json::json!({
        "latent_dims": 4,
        "network": { "mlp": { "hidden": [16] } },
    }))
    .expect("a config");
    let shape = ImageShape {
        channels: 1,
        height: 3,
        width: 4,
    };
    Vae::new(&config, shape, Device::Cpu, 1).expect("a model")
}

/// A score that compares factors needs two of them, and the others are measured.
#[test]
fn a_single_factor_has_no_modularity_and_the_reason_is_given() {
    let space = FactorSpace::new([("color", 1), ("b", 5)]);
    let images = Tensor::arange(5, (Kind::Uint8, Device::Cpu)) * 50;
    let images = images
        .view([5, 1, 1, 1])
        .repeat([1, 1, 3, 4])
        .to_kind(Kind::Uint8);
    let images = Dataset::new(images, None).expect("images");
    let grid = FactorGrid::new(space, images).expect("a grid");
    let options = DisentanglementOptions {
        n_train: 50,
        n_test: 20,
        votes: VoteCounts {
            train: 4,
            test: 4,
            batch: 4,
        },
        ..DisentanglementOptions::default()
    };
    let found = measure_disentanglement(&small_vae(), &grid, &options, 1, &mut |_, _, _| {});
    let found = found.expect("findings");
    assert_eq!(found.measures.len(), 7);
    assert!(found.measure("modularity").is_none());
    assert_eq!(found.not_measured.len(), 1);
    assert_eq!(
        found.not_measured["modularity"],
        "needs more factors or images; there are b"
    );
}

#[test]
fn a_model_is_measured_and_the_same_seed_gives_the_same_numbers() {
    let vae = small_vae();
    let options = DisentanglementOptions {
        n_train: 300,
        n_test: 100,
        votes: VoteCounts {
            train: 40,
            test: 30,
            batch: 16,
        },
        ..DisentanglementOptions::default()
    };
    let grid = images();
    let mut stages: Vec<String> = Vec::new();
    let mut measured = |options: &DisentanglementOptions, seed: u64| {
        let mut progress = |stage: &str, done: usize, of: usize| {
            assert!(done <= of, "{stage}: {done} of {of}");
            if stages.last().is_none_or(|last| last != stage) {
                stages.push(stage.to_owned());
            }
        };
        measure_disentanglement(&vae, &grid, options, seed, &mut progress)
    };
    let found = measured(&options, 1).expect("findings");
    let names: Vec<&str> = found
        .measures
        .iter()
        .map(|measure| &measure.name[..])
        .collect();
    assert_eq!(
        names,
        [
            "mig",
            "sap",
            "dci_disentanglement",
            "dci_completeness",
            "dci_informativeness",
            "factor_vae_score",
            "beta_vae_score",
            "modularity"
        ]
    );
    for measure in &found.measures {
        assert!((0.0..=1.0).contains(&measure.value), "{measure:?}");
        assert!(
            measure.how().ends_with("all combinations of a, b, c"),
            "{measure:?}"
        );
    }
    // Random weights encode different combinations differently, and the trees are trained on all of them.
    let informativeness = found.measure("dci_informativeness").expect("a score").value;
    assert!(informativeness > 0.8, "{informativeness}");
    assert_eq!(found.lists["mutual_information_shape"], [4.0, 3.0]);
    for list in ["mutual_information", "dci_importances", "sap_accuracies"] {
        assert_eq!(found.lists[list].len(), 12, "{list}");
    }
    assert!(found.not_measured.is_empty());

    let of_seven = DisentanglementOptions {
        batch_size: 7,
        ..options
    };
    let again = measured(&of_seven, 1).expect("findings");
    for (a, b) in found.measures.iter().zip(&again.measures) {
        // Another batch size may round the last digit differently.
        assert_near(a.value, b.value, 1e-3, &a.name);
    }
    assert_eq!(measured(&options, 1).expect("findings"), found);
    assert_ne!(measured(&options, 2).expect("findings").lists, found.lists);
    let none = DisentanglementOptions {
        n_bins: 1,
        ..options
    };
    let error = measured(&none, 1).expect_err("an error");
    assert!(matches!(error, EvalError::Unmeasurable(_)));
    assert_eq!(
        error.to_string(),
        "disentanglement: n_bins = 1, expected at least 2"
    );
    assert_eq!(
        stages[..4],
        ["latents", "DCI", "FactorVAE score", "β-VAE score"]
    );
}
