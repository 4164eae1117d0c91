//! Densities and sums that several parts share.

use tch::{Kind, Tensor};

/// ln 2π.
pub(crate) const LN_2PI: f64 = 1.837_877_066_409_345_5;

/// ln N(x; mean, e^log_var) elementwise, in nats; the three broadcast.
pub(crate) fn normal_log_prob(x: &Tensor, mean: &Tensor, log_var: &Tensor) -> Tensor {
    ((x - mean).square() * (-log_var).exp() + log_var + LN_2PI) * -0.5
}

/// ln N(z; 0, I) in nats: `[…, Z]` → `[…]`.
pub(crate) fn standard_normal_log_prob(latents: &Tensor) -> Tensor {
    (latents.square() + LN_2PI).sum_dim_intlist(-1, false, Kind::Float) * -0.5
}

/// KL(N(mean, e^log_var) ‖ N(0, 1)) elementwise, in nats.
pub(crate) fn gaussian_kl(mean: &Tensor, log_var: &Tensor) -> Tensor {
    (mean.square() + log_var.exp() - log_var - 1.0) * 0.5
}

/// ln mean exp over the first dimension: `[K, …]` → `[…]`.
pub(crate) fn log_mean_exp(values: &Tensor) -> Tensor {
    values.logsumexp(0, false) - (values.size()[0] as f64).ln()
}
