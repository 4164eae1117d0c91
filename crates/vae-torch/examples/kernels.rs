//! Times kernels of our own against libtorch's, in turns: of convolutions forward, gradient of the input, gradient of the
//! weight; of log-probabilities forward and gradient.
//!
//! ```text
//! export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=4294967296 MALLOC_TOP_PAD_=268435456    # as `vae` sets them
//! OMP_NUM_THREADS=2 cargo run --release -p vae-torch --example kernels
//! ```

use std::time::Instant;

use tch::{Device, Kind, TchError, Tensor};
use vae_torch::{
    CpuKernels, Generator, bernoulli_log_prob, convolution, convolution_transpose, normal_log_prob,
    own_kernels, use_cpu_kernels,
};

struct Shape {
    batch: i64,
    /// Channels and side of the larger maps.
    maps: [i64; 2],
    /// Channels and side of the smaller ones.
    places: [i64; 2],
    kernel: i64,
}

const ROUNDS: usize = 7;
const KERNELS: [CpuKernels; 2] = [CpuKernels::Libtorch, CpuKernels::Own];

fn main() {
    println!("kernels: {}", own_kernels().unwrap_or("none"));
    println!("threads: {}", tch::get_num_threads());
    println!(
        "                                                   ms: libtorch's, ours (libtorch's / ours)"
    );
    let shape = |batch, maps, places, kernel| Shape {
        batch,
        maps,
        places,
        kernel,
    };
    for shape in [
        shape(128, [64, 14], [64, 14], 3),
        shape(64, [16, 64], [16, 64], 3),
        shape(64, [32, 32], [32, 32], 3),
        shape(64, [64, 16], [64, 16], 3),
        shape(64, [128, 8], [128, 8], 3),
        shape(64, [256, 4], [256, 4], 3),
        shape(128, [32, 28], [64, 14], 3),
        shape(64, [16, 64], [32, 32], 3),
        shape(64, [32, 64], [32, 32], 3),
        shape(64, [32, 32], [64, 16], 3),
        shape(64, [64, 16], [128, 8], 3),
        shape(64, [128, 8], [256, 4], 3),
        shape(64, [256, 4], [512, 2], 3),
        shape(64, [64, 32], [128, 16], 4),
        shape(128, [32, 28], [1, 28], 3),
        shape(64, [32, 64], [3, 64], 3),
        shape(128, [1, 28], [32, 28], 3),
        shape(64, [3, 64], [32, 32], 3),
    ] {
        for transposed in [false, true] {
            measure(&shape, transposed);
        }
    }
    for size in [
        [1, 128, 1, 28, 28],
        [250, 16, 1, 28, 28],
        [1, 64, 3, 64, 64],
    ] {
        measure_bernoulli(size);
    }
    for [n, components, dims] in [[128, 500, 40], [5000, 500, 40], [128, 10, 20]] {
        measure_normal(n, components, dims);
    }
}

fn measure_bernoulli(size: [i64; 5]) {
    let mut generator = Generator::cpu(0);
    let logits = generator.uniform([-3.0, 3.0], size, Device::Cpu);
    let logits = logits.set_requires_grad(true);
    let targets = generator.uniform([0.0, 1.0], &size[1..], Device::Cpu);
    let [k, n, channels, height, width] = size;
    measure_log_prob(
        &format!("Bernoulli log p of {k}×{n} {channels}×{height}×{width}"),
        &[&logits],
        &|| bernoulli_log_prob(&logits, &targets),
    );
}

fn measure_normal(n: i64, components: i64, dims: i64) {
    let mut generator = Generator::cpu(0);
    let mut random = |size: &[i64]| {
        let values = generator.uniform([-2.0, 2.0], size, Device::Cpu);
        values.set_requires_grad(true)
    };
    let points = random(&[n, 1, dims]);
    let (mean, log_var) = (random(&[components, dims]), random(&[components, dims]));
    measure_log_prob(
        &format!("log p of {n} points, {components} Gaussians, {dims} dims"),
        &[&points, &mean, &log_var],
        &|| normal_log_prob(&points, &mean, &log_var),
    );
}

fn measure_log_prob(
    name: &str,
    leaves: &[&Tensor],
    log_prob: &dyn Fn() -> Result<Tensor, TchError>,
) {
    let mut best = [[f64::INFINITY; 2]; 2];
    for _ in 0..ROUNDS {
        for (kernels, best) in KERNELS.into_iter().zip(&mut best) {
            use_cpu_kernels(kernels);
            let start = Instant::now();
            let log_prob = log_prob().unwrap_or_else(|error| panic!("{error}"));
            best[0] = best[0].min(start.elapsed().as_secs_f64());
            let loss = log_prob.sum(Kind::Float);
            let start = Instant::now();
            let _ = Tensor::run_backward(&[loss], leaves, false, false);
            best[1] = best[1].min(start.elapsed().as_secs_f64());
        }
    }
    print_row(name, &best);
}

fn measure(shape: &Shape, transposed: bool) {
    let mut generator = Generator::cpu(0);
    let mut random = |size: &[i64]| generator.uniform([0.0, 1.0], size, Device::Cpu);
    let (from, to) = match transposed {
        false => (shape.maps, shape.places),
        true => (shape.places, shape.maps),
    };
    let mut maps = |[channels, side]: [i64; 2]| {
        random(&[shape.batch, side, side, channels]).permute([0, 3, 1, 2])
    };
    let (input, gradient) = (maps(from).set_requires_grad(true), maps(to));
    let weight = random(&[shape.places[0], shape.maps[0], shape.kernel, shape.kernel]);
    let weight = weight.set_requires_grad(true);
    let bias = random(&[to[0]]);
    let stride = shape.maps[1] / shape.places[1];
    let padding = [1; 2];
    let more = shape.maps[1] - ((shape.places[1] - 1) * stride - 2 + shape.kernel);
    let mut best = [[f64::INFINITY; 3]; 2];
    for _ in 0..ROUNDS {
        for (kernels, best) in KERNELS.into_iter().zip(&mut best) {
            use_cpu_kernels(kernels);
            let start = Instant::now();
            let output = match transposed {
                false => convolution(&input, &weight, Some(&bias), stride, padding),
                true => {
                    let bias = Some(&bias);
                    convolution_transpose(&input, &weight, bias, stride, padding, [more; 2])
                }
            };
            let output = output.unwrap_or_else(|error| panic!("{error}"));
            best[0] = best[0].min(start.elapsed().as_secs_f64());
            for (leaf, best) in [&input, &weight].into_iter().zip(&mut best[1..]) {
                let loss = (&output * &gradient).sum(Kind::Float);
                // The gradient of the product is `gradient` itself.
                let start = Instant::now();
                let _ = Tensor::run_backward(&[loss], &[leaf], true, false);
                *best = best.min(start.elapsed().as_secs_f64());
            }
        }
    }
    let name = format!(
        "{}×{}×{}² {} {}×{}², {}×{}",
        shape.batch,
        from[0],
        from[1],
        if transposed { "up to" } else { "to" },
        to[0],
        to[1],
        shape.kernel,
        shape.kernel
    );
    print_row(&name, &best);
}

fn print_row<const N: usize>(name: &str, [libtorch, ours]: &[[f64; N]; 2]) {
    let times = libtorch.iter().zip(ours).map(|(libtorch, ours)| {
        let ratio = libtorch / ours;
        format!("{:6.2} {:6.2} ({ratio:4.2})", libtorch * 1e3, ours * 1e3)
    });
    println!("{name:<40} {}", times.collect::<Vec<_>>().join("   "));
}
