//! Probabilistic PCA: the VAE with a linear decoder and Gaussian pixels, whose likelihood has a closed form.

use std::collections::BTreeMap;
use std::f64::consts::PI;

use tch::{Device, Kind, Tensor, no_grad};
use vae_model::{
    GaussianConfig, LikelihoodConfig, MeanActivation, NetworkConfig, PriorConfig, ScaleConfig, Vae,
};

use crate::EvalError;

/// log p(x) in nats, f64 `[B]` on the CPU, for bytes `[B, C, H, W]`, if the model is probabilistic PCA: with z ~ N(0, I)
/// and x|z ~ N(W·z + b, σ²·I), x is N(b, W·Wᵀ + σ²·I) (Tipping & Bishop 1999,
/// <https://doi.org/10.1111/1467-9868.00196>). None for other models: the network must be `mlp` without hidden layers,
/// the prior standard normal, and the likelihood Gaussian with a linear mean.
///
/// # Errors
/// libtorch refuses.
pub fn exact_log_prob(vae: &Vae, images: &Tensor) -> Result<Option<Tensor>, EvalError> {
    let config = vae.config();
    // With a condition it is one normal distribution per condition. A user's own parts may be anything.
    if config.condition.is_some() || !vae.item().is_image() || !vae.own_parts().is_empty() {
        return Ok(None);
    }
    let (NetworkConfig::Mlp(network), PriorConfig::StandardNormal) =
        (&config.network, &config.prior)
    else {
        return Ok(None);
    };
    let LikelihoodConfig::Gaussian(GaussianConfig {
        sigma,
        mean: MeanActivation::Linear,
    }) = &config.likelihood
    else {
        return Ok(None);
    };
    if !network.hidden.is_empty() || config.decoder_spectral_norm {
        return Ok(None);
    }
    let variables: BTreeMap<_, _> = vae.named_variables().into_iter().collect();
    let of = |name: &str| {
        let variable = variables.get(name)?;
        Some(variable.to_device(Device::Cpu).to_kind(Kind::Double))
    };
    let variance = match sigma {
        ScaleConfig::Fixed(sigma) => Some(sigma * sigma),
        // The σ of evaluation is not below the rounding of a byte.
        ScaleConfig::Learned | ScaleConfig::LearnedPerChannel => of("likelihood.variance")
            .map(|value| value.double_value(&[]).max(GaussianConfig::LEAST_VARIANCE)),
    };
    let (Some(loadings), Some(bias), Some(variance)) =
        (of("decoder.0.weight"), of("decoder.0.bias"), variance)
    else {
        return Ok(None);
    };
    no_grad(|| {
        let latent_dims = config.n_latents();
        let pixels = images.to_device(Device::Cpu).to_kind(Kind::Double) / 127.5 - 1.0;
        let residual = pixels.flatten(1, -1) - bias; // [B, D]
        let n_values = residual.size()[1] as f64;
        // By Woodbury's identity all matrices are of size Z: M = σ²·I + Wᵀ·W.
        let gram = loadings.transpose(0, 1).matmul(&loadings);
        let small = gram + Tensor::eye(latent_dims, (Kind::Double, Device::Cpu)) * variance;
        let factor = small.f_linalg_cholesky(false)?; // L·Lᵀ = M
        let log_det = factor.diagonal(0, 0, 1).log().sum(Kind::Double) * 2.0
            + (n_values - latent_dims as f64) * variance.ln();
        let projected = residual.matmul(&loadings).transpose(0, 1); // [Z, B]
        let explained = factor
            .f_linalg_solve_triangular(&projected, false, true, false)?
            .square()
            .sum_dim_intlist(0, false, Kind::Double);
        let squares = residual.square().sum_dim_intlist(1, false, Kind::Double);
        let distance = (squares - explained) / variance;
        Ok(Some(
            (distance + log_det + n_values * (2.0 * PI).ln()) * -0.5,
        ))
    })
}
