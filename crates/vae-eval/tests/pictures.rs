//! Metrics of picture quality, compared with scikit-image, pytorch-msssim, SciPy and NumPy (values written by
//! `tests/golden/pictures.py`), with closed forms, and with laws.

use serde::Deserialize;
use tch::{Device, Kind, Tensor};
use vae_eval::EvalError;
use vae_eval::features::{
    Moments, PrecisionRecall, frechet_distance, kernel_distance, kernel_distance_of_subsets,
    precision_recall,
};
use vae_eval::image_quality::{
    mean_squared_error, multiscale_structural_similarity, n_scales, peak_signal_to_noise_ratio,
    scale_weights, structural_similarity,
};

#[derive(Deserialize)]
struct Golden {
    images: Vec<ImageCase>,
    features: Vec<FeatureCase>,
}

#[derive(Deserialize)]
struct ImageCase {
    name: String,
    shape: [i64; 4],
    n_scales: usize,
    mse: Vec<f64>,
    psnr: Vec<f64>,
    ssim: Vec<f64>,
    pytorch_msssim_ssim: Vec<f64>,
    ms_ssim: Vec<f64>,
}

#[derive(Deserialize)]
struct FeatureCase {
    name: String,
    n: i64,
    m: i64,
    dims: i64,
    rank: i64,
    frechet_sqrtm: f64,
    frechet: f64,
    kernel: f64,
    precision: f64,
    recall: f64,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/pictures.json")).expect("the golden file")
}

/// The script's formula: sin(phase + 0.7·i) + 0.5·sin(0.013·i²).
fn wave(shape: &[i64], phase: f64) -> Tensor {
    let n: i64 = shape.iter().product();
    let values: Vec<f64> = (0..n)
        .map(|i| i as f64)
        .map(|i| (phase + 0.7 * i).sin() + 0.5 * (0.013 * i * i).sin())
        .collect();
    Tensor::from_slice(&values).view(shape)
}

/// The script's images: smooth with some noise.
fn images(shape: [i64; 4], phase: f64) -> Tensor {
    let [n, c, h, w] = shape;
    let index = |n: i64| Tensor::arange(n, (Kind::Double, Device::Cpu));
    let (y, x) = (index(h).view([h, 1]), index(w).view([1, w]));
    let k = index(n * c).view([n, c, 1, 1]);
    let smooth = (x * 0.21 + &k * 0.4).sin() * (y * 0.17 - k * 0.3).cos();
    smooth * 0.35 + 0.5 + wave(&shape, phase) * 0.1
}

/// The pair that the script compares.
fn pair(shape: [i64; 4]) -> [Tensor; 2] {
    [
        images(shape, 0.0),
        (images(shape, 1.0) * 0.9).clamp(0.0, 1.0),
    ]
}

fn features(n: i64, dims: i64, rank: i64, phase: f64) -> Tensor {
    wave(&[n, rank], phase).matmul(&wave(&[rank, dims], 2.0)) + 0.3 * phase
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor).expect("f64 [N]")
}

fn assert_close(found: &[f64], wanted: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (found, wanted) in found.iter().zip(wanted) {
        let error = (found - wanted).abs();
        assert!(error <= tolerance, "{what}: {found}, wanted {wanted}");
    }
}

fn frechet(a: &Tensor, b: &Tensor) -> f64 {
    let moments = |features| Moments::of(features).expect("moments");
    frechet_distance(&moments(a), &moments(b)).expect("a distance")
}

#[test]
fn scikit_image_and_pytorch_msssim_agree() {
    for case in golden().images {
        let [a, b] = pair(case.shape);
        let name = |what: &str| format!("{}: {what}", case.name);
        let mse = numbers(&mean_squared_error(&a, &b).unwrap());
        assert_close(&mse, &case.mse, 1e-12, &name("mse"));
        let psnr = numbers(&peak_signal_to_noise_ratio(&a, &b).unwrap());
        assert_close(&psnr, &case.psnr, 1e-10, &name("psnr"));
        let ssim = numbers(&structural_similarity(&a, &b).unwrap());
        assert_close(&ssim, &case.ssim, 1e-10, &name("scikit-image's ssim"));
        let other = &case.pytorch_msssim_ssim;
        assert_close(&ssim, other, 1e-10, &name("pytorch-msssim's ssim"));
        let [_, _, height, width] = case.shape;
        assert_eq!(n_scales(height, width), case.n_scales, "{}", case.name);
        let ms_ssim = numbers(&multiscale_structural_similarity(&a, &b).unwrap());
        assert_close(&ms_ssim, &case.ms_ssim, 1e-10, &name("ms_ssim"));
    }
}

#[test]
fn images_in_f32_lose_no_more_than_their_own_rounding() {
    let [a, b] = pair([2, 3, 64, 64]);
    let exact = numbers(&multiscale_structural_similarity(&a, &b).unwrap());
    let (a, b) = (a.to_kind(Kind::Float), b.to_kind(Kind::Float));
    let found = numbers(&multiscale_structural_similarity(&a, &b).unwrap());
    assert_close(&found, &exact, 1e-6, "ms_ssim");
}

#[test]
fn an_image_is_like_itself_and_sides_may_change() {
    let [a, b] = pair([2, 3, 47, 50]);
    for of in [structural_similarity, multiscale_structural_similarity] {
        assert_close(&numbers(&of(&a, &a).unwrap()), &[1.0; 2], 1e-12, "itself");
        let (one, other) = (of(&a, &b).unwrap(), of(&b, &a).unwrap());
        assert_close(&numbers(&one), &numbers(&other), 1e-12, "sides");
    }
    let psnr = numbers(&peak_signal_to_noise_ratio(&a, &a).unwrap());
    assert_eq!(psnr, [f64::INFINITY; 2]);
}

#[test]
fn pixel_errors_have_their_closed_form() {
    let a = Tensor::zeros([1, 1, 12, 12], (Kind::Float, Device::Cpu));
    let b = Tensor::full([1, 1, 12, 12], 0.1_f64, (Kind::Double, Device::Cpu));
    assert_close(
        &numbers(&mean_squared_error(&a, &b).unwrap()),
        &[0.01],
        1e-15,
        "mse",
    );
    assert_close(
        &numbers(&peak_signal_to_noise_ratio(&a, &b).unwrap()),
        &[20.0],
        1e-12,
        "dB",
    );
    // Constant images differ in luminance only: C₁ / (0.1² + C₁).
    let wanted = 1e-4 / (0.01 + 1e-4);
    for of in [structural_similarity, multiscale_structural_similarity] {
        assert_close(&numbers(&of(&a, &b).unwrap()), &[wanted], 1e-12, "ssim");
    }
}

#[test]
fn as_many_scales_as_there_is_room_for() {
    let sides = [10, 11, 20, 21, 40, 41, 80, 81, 160, 161, 1000];
    let found = sides.map(|side| n_scales(side, 1000));
    assert_eq!(found, [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]);
    assert_eq!(
        scale_weights(5),
        [0.0448, 0.2856, 0.3001, 0.2363, 0.1333],
        "the paper's"
    );
    assert_close(
        &scale_weights(2),
        &[0.1356, 0.8644],
        5e-5,
        "0.0448 / 0.3304",
    );
}

#[test]
fn images_that_cannot_be_compared_are_refused() {
    let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
    let small = zeros(&[1, 1, 10, 30]);
    for of in [structural_similarity, multiscale_structural_similarity] {
        let error = of(&small, &small).unwrap_err().to_string();
        assert!(error.contains("10×30"), "{error}");
    }
    for of in [
        mean_squared_error,
        peak_signal_to_noise_ratio,
        structural_similarity,
        multiscale_structural_similarity,
    ] {
        for (other, shape) in [
            (zeros(&[2, 1, 10, 30]), "[2, 1, 10, 30]"),
            (zeros(&[10, 30]), "[10, 30]"),
        ] {
            let error = of(&small, &other).unwrap_err();
            assert!(matches!(error, EvalError::Unmeasurable(_)), "{error}");
            // In the order of the arguments.
            let wanted = format!("images [1, 1, 10, 30] and {shape} cannot be compared");
            assert!(error.to_string().contains(&wanted), "{error}");
        }
    }
}

#[test]
fn scipy_and_numpy_agree() {
    for case in golden().features {
        let a = features(case.n, case.dims, case.rank, 0.0);
        let b = features(case.m, case.dims, case.rank, 1.0);
        let found = frechet(&a, &b);
        let what = format!("{}: Fréchet distance", case.name);
        assert_close(
            &[found],
            &[case.frechet],
            1e-9 * case.frechet.max(1.0),
            &what,
        );
        // SciPy's square root of a singular matrix is exact to half of the digits only.
        let is_regular = case.rank == case.dims && case.n.min(case.m) > case.dims;
        let tolerance = if is_regular { 1e-6 } else { 2e-5 };
        assert_close(&[found], &[case.frechet_sqrtm], tolerance, &what);

        let (few_a, few_b) = (few(&a, 60), few(&b, 50));
        let found = kernel_distance(&few_a, &few_b).unwrap();
        let tolerance = 1e-10 * case.kernel.abs().max(1.0);
        assert_close(&[found], &[case.kernel], tolerance, &case.name);
        let found = precision_recall(&few_a, &few_b, 3).unwrap();
        let wanted = PrecisionRecall {
            precision: case.precision,
            recall: case.recall,
        };
        assert_eq!(found, wanted, "{}", case.name);
    }
}

/// The first `n`, or all if there are fewer.
fn few(set: &Tensor, n: i64) -> Tensor {
    set.narrow(0, 0, set.size()[0].min(n))
}

#[test]
fn gaussians_have_a_closed_form() {
    // Σ (μ₁ − μ₂)² + Σ (σ₁ − σ₂)² for independent dimensions, one of which is constant in one of the two sets.
    let gaussian = |mean: [f64; 3], deviations: [f64; 3]| {
        let covariance = Tensor::from_slice(&deviations).square().diag(0);
        Moments::new(&Tensor::from_slice(&mean), &covariance).unwrap()
    };
    let a = gaussian([1.0, 2.0, 3.0], [1.0, 2.0, 0.0]);
    let b = gaussian([1.0, 0.0, 3.5], [3.0, 2.0, 1.5]);
    let wanted = 4.0 + 0.25 + 4.0 + 2.25;
    assert_close(&[frechet_distance(&a, &b).unwrap()], &[wanted], 1e-12, "");
    assert_close(&[frechet_distance(&b, &a).unwrap()], &[wanted], 1e-12, "");
    assert_close(&[frechet_distance(&a, &a).unwrap()], &[0.0], 1e-12, "");

    // Commuting covariances that are not diagonal: both are rotated by 30°.
    let (c, s) = (0.75_f64.sqrt(), 0.5);
    let turn = Tensor::from_slice2(&[[c, -s], [s, c]]);
    let turned = |variances: [f64; 2]| {
        let covariance = turn
            .matmul(&Tensor::from_slice(&variances).diag(0))
            .matmul(&turn.transpose(0, 1));
        Moments::new(
            &Tensor::zeros([2], (Kind::Double, Device::Cpu)),
            &covariance,
        )
        .unwrap()
    };
    let (a, b) = (turned([4.0, 1.0]), turned([1.0, 9.0]));
    assert_close(
        &[frechet_distance(&a, &b).unwrap()],
        &[1.0 + 4.0],
        1e-12,
        "turned",
    );
}

#[test]
fn the_distance_of_a_set_to_itself_moved_is_the_way() {
    let set = features(40, 6, 3, 0.0);
    let moved = &set + Tensor::from_slice(&[3.0, 0.0, 0.0, 4.0, 0.0, 0.0]);
    assert_close(&[frechet(&set, &moved)], &[25.0], 1e-9, "3² + 4²");
    assert_close(&[frechet(&set, &set)], &[0.0], 1e-9, "itself");
}

#[test]
fn a_kernel_distance_has_its_closed_form_and_subsets_their_mean() {
    // D = 1, a = {0, 1}, b = {1, 2}: pairs (0·1 + 1)³ = 1, (1·2 + 1)³ = 27, and between them 1, 1, 8, 27.
    let a = Tensor::from_slice(&[0.0, 1.0]).view([2, 1]);
    let b = Tensor::from_slice(&[1.0, 2.0]).view([2, 1]);
    let wanted = 1.0 + 27.0 - 2.0 * (1.0 + 1.0 + 8.0 + 27.0) / 4.0;
    assert_close(&[kernel_distance(&a, &b).unwrap()], &[wanted], 1e-12, "");

    let (a, b) = (features(80, 4, 4, 0.0), features(50, 4, 4, 1.0));
    let found = kernel_distance_of_subsets(&a, &b, 7).unwrap();
    assert_eq!((found.subset_size, found.n_subsets), (25, 100));
    assert_eq!(found, kernel_distance_of_subsets(&a, &b, 7).unwrap());
    let other = kernel_distance_of_subsets(&a, &b, 8).unwrap();
    assert_ne!(found.mean, other.mean);
    // Unbiased: the mean over subsets is that of all images up to chance.
    let whole = kernel_distance(&a, &b).unwrap();
    let error = found.deviation / 10.0;
    assert!(error > 0.0 && (found.mean - whole).abs() < 5.0 * error);
}

#[test]
fn precision_and_recall_know_the_extremes() {
    let set = features(700, 5, 5, 0.0);
    let itself = precision_recall(&set, &set, 3).unwrap();
    assert_eq!((itself.precision, itself.recall), (1.0, 1.0));
    let far = precision_recall(&set, &(&set + 1e3), 3).unwrap();
    assert_eq!((far.precision, far.recall), (0.0, 0.0));
    // Samples from one of two clusters: all of them look real, but half of the real images are missing.
    let both = Tensor::cat(&[&set, &(&set + 1e3)], 0);
    let half = precision_recall(&both, &set, 3).unwrap();
    assert_eq!((half.precision, half.recall), (1.0, 0.5));
    let other = precision_recall(&set, &both, 3).unwrap();
    assert_eq!((other.precision, other.recall), (0.5, 1.0));
}

#[test]
fn halves_of_one_set_are_near_each_other() {
    let set = features(1200, 4, 4, 0.0);
    let rows = |first: i64| set.slice(0, first, 1200, 2);
    let found = precision_recall(&rows(0), &rows(1), 3).unwrap();
    assert!(found.precision > 0.7 && found.recall > 0.7, "{found:?}");
}

#[test]
fn sets_that_are_too_small_or_of_other_features_are_refused() {
    let set = |n, dims| features(n, dims, 2, 0.0);
    let refused = |error: EvalError| match error {
        EvalError::Unmeasurable(reason) => reason,
        other => panic!("{other}"),
    };
    assert!(refused(Moments::of(&set(1, 2)).unwrap_err()).contains("at least 2"));
    let _ = refused(kernel_distance(&set(1, 2), &set(5, 2)).unwrap_err());
    let _ = refused(kernel_distance(&set(5, 3), &set(5, 2)).unwrap_err());
    let _ = refused(kernel_distance_of_subsets(&set(3, 2), &set(9, 2), 0).unwrap_err());
    let _ = refused(precision_recall(&set(3, 2), &set(9, 2), 3).unwrap_err());
    let _ = refused(precision_recall(&set(9, 2), &set(9, 3), 3).unwrap_err());
    let (a, b) = (
        Moments::of(&set(5, 2)).unwrap(),
        Moments::of(&set(5, 3)).unwrap(),
    );
    let _ = refused(frechet_distance(&a, &b).unwrap_err());
}
