//! Convolutions, norms and log-probabilities by kernels of our own, beside libtorch's.

use tch::{Device, Kind, Tensor};
use vae_torch::{
    CpuKernels, bernoulli_log_prob, convolution, convolution_transpose, group_norm_silu,
    normal_log_prob, own_kernels, use_cpu_kernels,
};

const F32: (Kind, Device) = (Kind::Float, Device::Cpu);

/// Output and gradients, by our kernels or by libtorch's.
fn gradients(
    forward: impl Fn(&Tensor, &Tensor, &Tensor) -> Tensor,
    [input, weight, bias]: [&Tensor; 3],
) -> [Tensor; 4] {
    let leaves = [input, weight, bias].map(|tensor| tensor.copy().set_requires_grad(true));
    let [input, weight, bias] = &leaves;
    let output = forward(input, weight, bias);
    let direction = Tensor::linspace(-1, 1, output.numel() as i64, F32).cos() * 3.0 + 0.5;
    (&output * direction.view_as(&output))
        .sum(Kind::Float)
        .backward();
    let [of_input, of_weight, of_bias] = leaves.map(|leaf| leaf.grad());
    [output.detach(), of_input, of_weight, of_bias]
}

fn noise(seed: i64, size: &[i64]) -> Tensor {
    let n = size.iter().product::<i64>();
    let values = Tensor::arange(n, F32) * 12.9898 + seed as f64;
    ((values.sin() * 43758.547).frac() - 0.5).view(size)
}

/// Largest difference, as a share of the largest value.
fn difference(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    let largest = (found - expected).abs().max().double_value(&[]);
    largest / expected.abs().max().double_value(&[]).max(1e-12)
}

fn every_shape_gives_what_libtorch_gives() {
    let mut n_own = 0;
    for (case, &(n, channels, outputs, size, kernel, stride, padding)) in [
        // 3×3 by tiles: even and odd sizes, several blocks, one not full.
        (2, 16, 16, [6, 8], [3, 3], 1, [1, 1]),
        (3, 32, 64, [7, 5], [3, 3], 1, [1, 1]),
        (1, 48, 80, [2, 2], [3, 3], 1, [1, 1]),
        (2, 144, 144, [4, 4], [3, 3], 1, [1, 1]),
        (5, 64, 144, [3, 9], [3, 3], 1, [1, 1]),
        (70, 16, 32, [14, 14], [3, 3], 1, [1, 1]),
        // Strides.
        (3, 64, 32, [8, 8], [3, 3], 2, [1, 1]),
        (2, 96, 176, [7, 9], [3, 3], 2, [1, 1]),
        (2, 64, 48, [9, 7], [4, 4], 2, [2, 2]),
        (2, 64, 16, [8, 6], [4, 4], 2, [1, 1]),
        (2, 272, 320, [4, 4], [3, 3], 2, [1, 1]),
        (2, 256, 176, [7, 9], [3, 3], 2, [1, 1]),
        (2, 256, 144, [9, 7], [4, 4], 2, [2, 2]),
        (2, 256, 128, [8, 6], [4, 4], 2, [1, 1]),
        (2, 256, 32, [11, 10], [5, 3], 3, [2, 1]),
        (2, 256, 16, [9, 9], [1, 1], 2, [0, 0]),
        (3, 256, 128, [5, 5], [3, 3], 2, [0, 0]),
        (2, 32, 64, [11, 10], [5, 3], 3, [2, 1]),
        (2, 80, 16, [9, 9], [1, 1], 2, [0, 0]),
        (4, 64, 128, [5, 5], [3, 3], 2, [0, 0]),
        // Few outputs, few inputs, numbers that are no multiples of 16.
        (3, 32, 3, [8, 9], [3, 3], 1, [1, 1]),
        (3, 32, 1, [9, 8], [3, 3], 1, [1, 1]),
        (3, 3, 32, [8, 8], [3, 3], 2, [1, 1]),
        (2, 20, 24, [8, 8], [3, 3], 2, [1, 1]),
        (2, 17, 32, [8, 8], [3, 3], 1, [1, 1]),
    ]
    .iter()
    .enumerate()
    {
        let seed = case as i64;
        let maps = noise(seed, &[n, channels, size[0], size[1]]);
        let weight = noise(seed + 100, &[outputs, channels, kernel[0], kernel[1]]);
        let bias = noise(seed + 200, &[outputs]);
        let inputs = [&maps, &weight, &bias];
        let expected = gradients(
            |maps, weight, bias| maps.conv2d(weight, Some(bias), [stride; 2], padding, [1; 2], 1),
            inputs,
        );
        let found = gradients(
            |maps, weight, bias| {
                convolution(maps, weight, Some(bias), stride, padding).expect("shapes fit")
            },
            inputs,
        );
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let difference = difference(found, expected);
            assert!(difference < 2e-5, "case {case}, result {i}: {difference}");
        }
        n_own += usize::from(found != expected);

        // Transposed, back to maps of the same size.
        let places = noise(seed + 300, &expected[0].size());
        let bias = noise(seed + 400, &[channels]);
        let more = [0, 1].map(|side| {
            let places = expected[0].size()[side + 2];
            size[side] - ((places - 1) * stride - 2 * padding[side] + kernel[side])
        });
        let inputs = [&places, &weight, &bias];
        let expected = gradients(
            |maps, weight, bias| {
                maps.conv_transpose2d(weight, Some(bias), [stride; 2], padding, more, 1, [1; 2])
            },
            inputs,
        );
        let found = gradients(
            |maps, weight, bias| {
                convolution_transpose(maps, weight, Some(bias), stride, padding, more)
                    .expect("shapes fit")
            },
            inputs,
        );
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let difference = difference(found, expected);
            assert!(
                difference < 2e-5,
                "case {case} transposed, result {i}: {difference}"
            );
        }
    }
    assert!(n_own >= 10, "{n_own} by kernels of our own");
}

fn gradients_of_gradients_are_libtorch_s() {
    let (maps, weight) = (noise(1, &[2, 16, 4, 4]), noise(2, &[16, 16, 3, 3]));
    let second = |forward: &dyn Fn(&Tensor, &Tensor) -> Tensor| {
        let (maps, weight) = (
            maps.copy().set_requires_grad(true),
            weight.copy().set_requires_grad(true),
        );
        let output = forward(&maps, &weight).square().sum(Kind::Float);
        let gradient = Tensor::run_backward(&[output], &[&maps], true, true).remove(0);
        gradient.square().sum(Kind::Float).backward();
        weight.grad()
    };
    let expected =
        second(&|maps, weight| maps.conv2d(weight, None::<&Tensor>, [1; 2], [1; 2], [1; 2], 1));
    let found =
        second(&|maps, weight| convolution(maps, weight, None, 1, [1, 1]).expect("shapes fit"));
    assert!(difference(&found, &expected) < 2e-5);
}

fn shapes_that_do_not_fit_are_refused() {
    let (maps, weight) = (noise(1, &[2, 16, 4, 4]), noise(2, &[16, 32, 3, 3]));
    assert!(convolution(&maps, &weight, None, 1, [1, 1]).is_err());
    assert!(convolution(&maps, &weight.view([-1]), None, 1, [1, 1]).is_err());
    let bias = noise(3, &[3]);
    let weight = noise(2, &[16, 16, 3, 3]);
    assert!(convolution(&maps, &weight, Some(&bias), 1, [1, 1]).is_err());
}

fn a_result_does_not_depend_on_the_order_of_work() {
    let (maps, weight) = (noise(1, &[40, 32, 14, 14]), noise(2, &[32, 32, 3, 3]));
    let bias = noise(3, &[32]);
    let compute = || {
        gradients(
            |maps, weight, bias| {
                convolution(maps, weight, Some(bias), 1, [1, 1]).expect("shapes fit")
            },
            [&maps, &weight, &bias],
        )
    };
    let first = compute();
    for _ in 0..3 {
        assert_eq!(compute(), first);
    }
}

/// Output and gradients, in f64 by libtorch or as they come.
fn norm_gradients(
    [maps, weight, bias]: [&Tensor; 3],
    kind: Kind,
    forward: impl Fn(&Tensor, &Tensor, &Tensor) -> Tensor,
) -> [Tensor; 4] {
    let leaf = |tensor: &Tensor| tensor.to_kind(kind).copy().set_requires_grad(true);
    let leaves = [maps, weight, bias].map(leaf);
    let output = forward(&leaves[0], &leaves[1], &leaves[2]);
    let direction = Tensor::linspace(-3, 2, output.numel() as i64, F32).sin() + 0.2;
    let direction = direction.to_kind(kind).view_as(&output);
    (&output * direction).sum(kind).backward();
    let [a, b, c] = leaves.map(|leaf| leaf.grad());
    [output.detach(), a, b, c]
}

fn it_is_group_norm_and_silu() {
    for (n, channels, groups, height, width, mean) in [
        (3, 16, 4, 5, 7, 0.0),
        (2, 48, 3, 8, 8, 30.0), // A mean far from 0 must not cost precision.
        (8, 32, 32, 16, 16, -2.0),
        (2, 64, 8, 1, 1, 0.0),
        (5, 128, 1, 9, 3, 1.0),
        (2, 20, 5, 4, 4, 0.0), // Not a multiple of 16: libtorch's.
    ] {
        let values = Tensor::arange(n * channels * height * width, F32);
        let maps = (values * 12.9898).sin() * 1.7 + mean;
        let maps = maps
            .view([n, height, width, channels])
            .permute([0, 3, 1, 2]);
        let weight = Tensor::linspace(0.5, 1.5, channels, F32);
        let bias = Tensor::linspace(-1, 1, channels, F32);
        let inputs = [&maps, &weight, &bias];
        let expected = norm_gradients(inputs, Kind::Double, |maps, weight, bias| {
            maps.group_norm(groups, Some(weight), Some(bias), 1e-5, true)
                .silu()
        });
        let found = norm_gradients(inputs, Kind::Float, |maps, weight, bias| {
            group_norm_silu(maps, groups, weight, bias, 1e-5).expect("shapes fit")
        });
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let difference = (found - expected).abs().max().double_value(&[]);
            let largest = expected.abs().max().double_value(&[]);
            // Of one pixel in a group the gradient of the input is 0 but for rounding.
            assert!(
                difference < 3e-6 * largest.max(1.0) * (1.0 + mean.abs()),
                "{channels} channels, result {i}: {difference} of {largest}"
            );
        }
    }
}

fn norm_gradients_of_gradients_are_libtorch_s() {
    let second = |forward: &dyn Fn(&Tensor) -> Tensor| {
        let maps = Tensor::linspace(-2, 3, 2 * 16 * 9, F32).sin();
        let maps = maps.view([2, 16, 3, 3]).set_requires_grad(true);
        let output = forward(&maps).square().sum(Kind::Float);
        let gradient = Tensor::run_backward(&[output], &[&maps], true, true).remove(0);
        gradient.square().sum(Kind::Float).backward();
        maps.grad()
    };
    let (weight, bias) = (
        Tensor::linspace(0.5, 2.0, 16, F32),
        Tensor::zeros([16], F32),
    );
    let expected = second(&|maps| {
        maps.group_norm(2, Some(&weight), Some(&bias), 1e-5, true)
            .silu()
    });
    let found = second(&|maps| group_norm_silu(maps, 2, &weight, &bias, 1e-5).expect("shapes fit"));
    let largest = (found - &expected).abs().max() / expected.abs().max();
    assert!(largest.double_value(&[]) < 1e-4);
}

fn norms_of_shapes_that_do_not_fit_are_refused() {
    let (maps, ones) = (Tensor::ones([2, 16, 3, 3], F32), Tensor::ones([16], F32));
    assert!(group_norm_silu(&maps, 3, &ones, &ones, 1e-5).is_err());
    assert!(group_norm_silu(&maps, 4, &Tensor::ones([8], F32), &ones, 1e-5).is_err());
}

/// log p `[K, B]` of targets `[B, C, H, W]`, by what libtorch has, in f64.
fn exact_bernoulli(logits: &Tensor, targets: &Tensor) -> Tensor {
    let (logits, targets) = (logits.to_kind(Kind::Double), targets.to_kind(Kind::Double));
    let log_prob = &targets * &logits - logits.logaddexp(&logits.zeros_like());
    log_prob.sum_dim_intlist([2_i64, 3, 4].as_slice(), false, Kind::Double)
}

fn it_is_the_bernoulli_log_probability() {
    for (case, &(k, n, channels, height, width, innermost)) in [
        (1, 3, 1, 28, 28, false), // A whole number of vectors.
        (5, 2, 1, 3, 5, false),   // Less than one.
        (7, 4, 3, 9, 11, false),  // Some and a part.
        (2, 4, 3, 9, 11, true),
        (300, 16, 1, 28, 28, false),
        (1, 2, 3, 64, 64, true),
    ]
    .iter()
    .enumerate()
    {
        let size = [k, n, channels, height, width];
        // Also far from 0, where the probability is 0 or 1 in f32.
        let logits = noise(case as i64, &size) * 12.0;
        let logits = &logits + &logits.sin() * logits.abs().gt(5.9) * 180.0;
        let logits = if innermost {
            let moved = logits.permute([0, 1, 3, 4, 2]).contiguous();
            moved.permute([0, 1, 4, 2, 3])
        } else {
            logits
        };
        // Gray, black and white.
        let targets = (noise(case as i64 + 50, &size[1..]) * 2.0 + 0.5).clamp(0.0, 1.0);
        let direction = noise(case as i64 + 70, &[k, n]) + 0.2;
        let gradient = |logits: &Tensor, log_prob: &dyn Fn(&Tensor) -> Tensor| {
            let logits = logits.detach().set_requires_grad(true);
            let found = log_prob(&logits);
            (&found * &direction).sum(Kind::Double).backward();
            (found.detach(), logits.grad())
        };
        let (expected, of_logits) = gradient(&logits, &|logits| exact_bernoulli(logits, &targets));
        let (found, of_ours) = gradient(&logits, &|logits| {
            bernoulli_log_prob(logits, &targets).expect("shapes fit")
        });
        assert_eq!(found.size(), [k, n]);
        assert!(
            difference(&found.to_kind(Kind::Double), &expected) < 1e-6,
            "case {case}"
        );
        let off = (of_ours - of_logits).abs().max().double_value(&[]);
        assert!(off < 3e-7, "case {case}: {off}");
    }
    let (logits, targets) = (noise(1, &[2, 3, 1, 4, 5]), noise(2, &[3, 1, 4, 5]) + 0.5);
    let broken = logits.where_self(&logits.lt(0.4), &Tensor::from(f32::NAN));
    let log_prob = bernoulli_log_prob(&broken, &targets).expect("shapes fit");
    let is_broken = broken.isnan().flatten(2, 4).any_dim(2, false);
    assert!(bool::try_from(is_broken.any()).expect("a boolean"));
    assert_eq!(log_prob.isnan(), is_broken);
    // Targets of one item for all, and ones with a gradient, are libtorch's.
    let one = targets.narrow(0, 0, 1);
    let found = bernoulli_log_prob(&logits, &one).expect("shapes that broadcast");
    let expected = exact_bernoulli(&logits, &one.expand([3, 1, 4, 5], false));
    assert!(difference(&found.to_kind(Kind::Double), &expected) < 1e-6);
    let moving = targets.copy().set_requires_grad(true);
    let found = bernoulli_log_prob(&logits, &moving).expect("shapes fit");
    found.sum(Kind::Float).backward();
    assert!(
        difference(
            &moving.grad(),
            &logits.sum_dim_intlist(0_i64, false, Kind::Float)
        ) < 1e-6
    );
}

fn bernoulli_gradients_of_gradients_are_libtorch_s() {
    let targets = noise(2, &[3, 2, 4, 5]) + 0.5;
    let second = |log_prob: &dyn Fn(&Tensor) -> Tensor| {
        let logits = (noise(1, &[2, 3, 2, 4, 5]) * 4.0).set_requires_grad(true);
        let found = log_prob(&logits).square().sum(Kind::Double);
        let gradient = Tensor::run_backward(&[found], &[&logits], true, true).remove(0);
        gradient.square().sum(Kind::Double).backward();
        logits.grad()
    };
    let expected = second(&|logits| exact_bernoulli(logits, &targets));
    let found = second(&|logits| bernoulli_log_prob(logits, &targets).expect("shapes fit"));
    assert!(difference(&found, &expected) < 1e-5);
}

/// ln N(z; mean, e^log_var), summed over the last dimension, term by term in f64.
fn exact_normal(points: &Tensor, mean: &Tensor, log_var: &Tensor) -> Tensor {
    let [points, mean, log_var] = [points, mean, log_var].map(|part| part.to_kind(Kind::Double));
    let terms = (points - mean).square() / log_var.exp() + log_var + std::f64::consts::TAU.ln();
    terms.sum_dim_intlist(-1_i64, false, Kind::Double) * -0.5
}

/// The densities of points under Gaussians, and the gradients of their sum along a direction by points, means and log-variances.
fn normal_gradients(
    inputs: [&Tensor; 3],
    direction: &Tensor,
    log_prob: &dyn Fn(&Tensor, &Tensor, &Tensor) -> Tensor,
) -> [Tensor; 4] {
    let [points, mean, log_var] =
        inputs.map(|input| input.to_kind(Kind::Double).set_requires_grad(true));
    let [z, m, v] = [&points, &mean, &log_var].map(|input| input.to_kind(Kind::Float));
    let found = log_prob(&z, &m, &v);
    (&found * direction).sum(Kind::Double).backward();
    let [z, m, v] = [points, mean, log_var].map(|input| input.grad());
    [found.detach().to_kind(Kind::Double), z, m, v]
}

fn it_is_the_normal_log_probability() {
    for (case, &(n, components, dims)) in [
        (1, 1, 1),
        (5, 3, 2),
        (4, 7, 16),
        (6, 5, 40), // Neither rows nor components nor dimensions fill a block.
        (130, 500, 40),
        (3, 2, 129),
    ]
    .iter()
    .enumerate()
    {
        let case = case as i64;
        let points = noise(case, &[n, 1, dims]) * 4.0;
        let mean = noise(case + 20, &[components, dims]) * 4.0;
        // Deviations from 1/150 to 150.
        let log_var = noise(case + 40, &[components, dims]) * 20.0;
        let direction = noise(case + 60, &[n, components]) + 0.2;
        let inputs = [&points, &mean, &log_var];
        let expected = normal_gradients(inputs, &direction, &exact_normal);
        let found = normal_gradients(inputs, &direction, &|z, mean, log_var| {
            normal_log_prob(z, mean, log_var).expect("shapes fit")
        });
        assert_eq!(found[0].size(), [n, components]);
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let off = difference(found, expected);
            assert!(off < 2e-6, "case {case}, result {i}: {off}");
        }
    }
    // One density in closed form: ln N(1; 0, 4) = -1/8 - ln(2·√(2π)).
    let one = |value: f64| Tensor::from(value as f32).view([1, 1]);
    let found = normal_log_prob(&one(1.0).unsqueeze(0), &one(0.0), &one(4.0_f64.ln()));
    let found = found.expect("shapes fit").double_value(&[0, 0]);
    assert!((found + 0.125 + (8.0 * std::f64::consts::PI).ln() / 2.0).abs() < 1e-6);
    // A point that is no number is none under every Gaussian, and no other is touched.
    let points = noise(1, &[3, 1, 5]);
    let broken = points.copy();
    let _ = broken.get(1).fill_(f64::NAN);
    let (mean, log_var) = (noise(2, &[4, 5]), noise(3, &[4, 5]));
    let found = normal_log_prob(&broken, &mean, &log_var).expect("shapes fit");
    assert!(bool::try_from(found.get(1).isnan().all()).expect("a boolean"));
    assert!(bool::try_from(found.get(0).isfinite().all()).expect("a boolean"));
    // Other shapes broadcast, and views of any strides are taken.
    let found = normal_log_prob(&points.squeeze_dim(1), &mean.get(0), &log_var.get(0));
    let expected = exact_normal(&points.squeeze_dim(1), &mean.get(0), &log_var.get(0));
    let found = found.expect("shapes that broadcast").to_kind(Kind::Double);
    assert!(difference(&found, &expected) < 1e-6);
    let (mean, points) = (
        noise(2, &[5, 4]).tr(),
        noise(4, &[5, 1, 3]).permute([2, 1, 0]),
    );
    let found = normal_log_prob(&points, &mean, &log_var).expect("shapes fit");
    let expected = exact_normal(&points, &mean, &log_var);
    assert!(difference(&found.to_kind(Kind::Double), &expected) < 1e-6);
}

fn normal_gradients_of_gradients_are_libtorch_s() {
    let (points, log_var) = (noise(1, &[3, 1, 4]), noise(3, &[2, 4]));
    let second = |log_prob: &dyn Fn(&Tensor) -> Tensor| {
        let mean = noise(2, &[2, 4]).set_requires_grad(true);
        let found = log_prob(&mean).square().sum(Kind::Double);
        let gradient = Tensor::run_backward(&[found], &[&mean], true, true).remove(0);
        gradient.square().sum(Kind::Double).backward();
        mean.grad()
    };
    let expected = second(&|mean| exact_normal(&points, mean, &log_var));
    let found = second(&|mean| normal_log_prob(&points, mean, &log_var).expect("shapes fit"));
    assert!(difference(&found, &expected) < 1e-5);
}

fn log_probabilities_of_shapes_that_do_not_fit_are_refused() {
    let logits = noise(1, &[2, 3, 1, 4, 5]);
    assert!(bernoulli_log_prob(&logits, &noise(2, &[4, 1, 4, 5])).is_err());
    assert!(bernoulli_log_prob(&logits, &noise(2, &[3, 1, 5, 4])).is_err());
    assert!(bernoulli_log_prob(&logits.view([-1]), &noise(2, &[3])).is_err());
    let (points, rows) = (noise(1, &[3, 1, 4]), noise(2, &[2, 4]));
    assert!(normal_log_prob(&points, &noise(2, &[2, 5]), &noise(2, &[2, 5])).is_err());
    assert!(normal_log_prob(&points, &rows, &noise(2, &[3, 4])).is_err());
}

/// One test, because the choice is that of the whole program.
#[test]
fn all_kernels_give_what_libtorch_gives() {
    for kernels in [CpuKernels::Own, CpuKernels::OwnAvx2] {
        let is_there = use_cpu_kernels(kernels);
        assert_eq!(own_kernels().is_some(), is_there);
        shapes_that_do_not_fit_are_refused();
        norms_of_shapes_that_do_not_fit_are_refused();
        log_probabilities_of_shapes_that_do_not_fit_are_refused();
        if is_there {
            every_shape_gives_what_libtorch_gives();
            gradients_of_gradients_are_libtorch_s();
            a_result_does_not_depend_on_the_order_of_work();
            it_is_group_norm_and_silu();
            norm_gradients_of_gradients_are_libtorch_s();
            it_is_the_bernoulli_log_probability();
            bernoulli_gradients_of_gradients_are_libtorch_s();
            it_is_the_normal_log_probability();
            normal_gradients_of_gradients_are_libtorch_s();
        }
    }
    assert!(use_cpu_kernels(CpuKernels::Libtorch));
    assert!(own_kernels().is_none());
    shapes_that_do_not_fit_are_refused();
}
