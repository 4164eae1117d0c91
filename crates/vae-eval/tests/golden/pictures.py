"""Quality of pictures by other programs: SSIM, MS-SSIM, Fréchet and kernel distance, precision and recall.

    python crates/vae-eval/tests/golden/pictures.py > crates/vae-eval/tests/golden/pictures.json

Made with scikit-image 0.26.0, pytorch-msssim 1.0.0, PyTorch 2.11.0, SciPy 1.17.1 and NumPy 2.4.6.
Images and features are formulas that the test has too, so that they need not be in the file.
"""

import json

import numpy
import pytorch_msssim
from pytorch_msssim.ssim import _ssim
import torch
from scipy.linalg import sqrtm
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

WEIGHTS = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333]


def wave(shape, phase):
    """sin(phase + 0.7·i) + 0.5·sin(0.013·i²), i the index in row-major order."""
    i = numpy.arange(numpy.prod(shape), dtype=numpy.float64)
    return (numpy.sin(phase + 0.7 * i) + 0.5 * numpy.sin(0.013 * i * i)).reshape(shape)


def images(shape, phase):
    """Smooth ones with some noise, in [0, 1]."""
    n, c, h, w = shape
    y, x = numpy.arange(h)[:, None], numpy.arange(w)[None, :]
    k = numpy.arange(n * c).reshape(n, c, 1, 1)
    smooth = numpy.sin(0.21 * x + 0.4 * k) * numpy.cos(0.17 * y - 0.3 * k)
    return 0.5 + 0.35 * smooth + 0.1 * wave(shape, phase)


def window(channels):
    """pytorch-msssim's, in f64: its own is f32, which costs digits from the seventh on."""
    weights = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    return (weights / weights.sum()).repeat([channels, 1, 1, 1])


def multiscale(a, b, n_scales):
    """pytorch-msssim at fewer scales than its five, with its own terms of a scale."""
    weights = numpy.array(WEIGHTS[:n_scales])
    weights = weights / weights.sum()
    win = window(a.shape[1])
    product = 1.0
    for scale in range(n_scales):
        if scale > 0:
            a, b = torch.nn.functional.avg_pool2d(a, 2), torch.nn.functional.avg_pool2d(b, 2)
        similarity, contrast = _ssim(a, b, 1.0, win, size_average=False)
        term = similarity if scale + 1 == n_scales else contrast
        product = product * torch.relu(term) ** weights[scale]
    return product.mean(1)


def image_case(name, shape, n_scales):
    a, b = images(shape, 0.0), numpy.clip(images(shape, 1.0) * 0.9, 0.0, 1.0)
    pairs = list(zip(a, b))
    tensors = [torch.from_numpy(array) for array in (a, b)]
    options = {"data_range": 1.0, "size_average": False, "win": window(shape[1])}
    if n_scales == 5:
        ms_ssim = pytorch_msssim.ms_ssim(*tensors, **options)
    else:
        ms_ssim = multiscale(*tensors, n_scales)
    return {
        "name": name,
        "shape": shape,
        "n_scales": n_scales,
        "mse": [mean_squared_error(x, y) for x, y in pairs],
        "psnr": [peak_signal_noise_ratio(x, y, data_range=1.0) for x, y in pairs],
        "ssim": [
            structural_similarity(
                x,
                y,
                channel_axis=0,
                data_range=1.0,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
            for x, y in pairs
        ],
        "pytorch_msssim_ssim": pytorch_msssim.ssim(*tensors, **options).tolist(),
        "ms_ssim": ms_ssim.tolist(),
    }


def features(n, dims, rank, phase):
    """Of that rank: waves of few numbers, mixed."""
    return wave((n, rank), phase) @ wave((rank, dims), 2.0) + 0.3 * phase


def frechet(a, b):
    """As pytorch-fid has it."""
    (mean_a, mean_b), (cov_a, cov_b) = (
        [x.mean(0) for x in (a, b)],
        [numpy.atleast_2d(numpy.cov(x, rowvar=False)) for x in (a, b)],
    )
    root = sqrtm(cov_a @ cov_b)
    return float(
        ((mean_a - mean_b) ** 2).sum()
        + numpy.trace(cov_a)
        + numpy.trace(cov_b)
        - 2 * numpy.trace(root).real
    )


def frechet_by_singular_values(a, b):
    """Without the root of a matrix: Tr (Σ₁Σ₂)^½ is the nuclear norm of A·Bᵀ, exact for any rank."""
    centered = [(x - x.mean(0)) / numpy.sqrt(len(x) - 1) for x in (a, b)]
    norm = numpy.linalg.svd(centered[0] @ centered[1].T, compute_uv=False).sum()
    traces = sum((x**2).sum() for x in centered)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + traces - 2 * norm)


def kernel(a, b):
    """The unbiased squared maximum mean discrepancy, pair by pair."""
    k = lambda x, y: (x @ y / len(x) + 1) ** 3
    within = lambda s: numpy.mean(
        [k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j]
    )
    between = numpy.mean([k(x, y) for x in a for y in b])
    return float(within(a) + within(b) - 2 * between)


def share_among(points, reference, k):
    distance = lambda x, y: numpy.sqrt(((x - y) ** 2).sum())
    radii = [
        sorted(distance(x, y) for j, y in enumerate(reference) if j != i)[k - 1]
        for i, x in enumerate(reference)
    ]
    return float(
        numpy.mean(
            [any(distance(p, x) <= r for x, r in zip(reference, radii)) for p in points]
        )
    )


def feature_case(name, n, m, dims, rank):
    a, b = features(n, dims, rank, 0.0), features(m, dims, rank, 1.0)
    few_a, few_b = a[:60], b[:50]
    return {
        "name": name,
        "n": n,
        "m": m,
        "dims": dims,
        "rank": rank,
        "frechet_sqrtm": frechet(a, b),
        "frechet": frechet_by_singular_values(a, b),
        "kernel": kernel(few_a, few_b),
        "precision": share_among(few_b, few_a, 3),
        "recall": share_among(few_a, few_b, 3),
    }


print(
    json.dumps(
        {
            "images": [
                image_case("digits", [3, 1, 28, 28], 2),
                image_case("faces", [2, 3, 64, 64], 3),
                image_case("one scale, not square", [2, 3, 12, 17], 1),
                image_case("five scales", [1, 1, 176, 192], 5),
            ],
            "features": [
                feature_case("few", 200, 150, 3, 3),
                feature_case("many", 300, 400, 64, 64),
                feature_case("rank-deficient", 200, 150, 20, 6),
                feature_case("fewer images than features", 30, 25, 48, 48),
                feature_case("one feature", 100, 100, 1, 1),
            ],
        }
    )
)
