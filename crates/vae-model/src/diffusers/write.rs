//! A model written as a folder of diffusers.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Serialize;
use tch::Tensor;
use vae_base::write_whole;

use super::config_file::{
    ConfigFile, DOWN_BLOCK, KL, SampleSize, TINY, TinyConfigFile, UP_BLOCK, VQ, relu, silu,
};
use super::names::{OUR_CODES, theirs, tiny_names};
use super::{CONFIG_FILE, WEIGHTS};
use crate::network::AutoencoderTinyConfig;
use crate::preprocessing::LatentScaling;
use crate::{
    CodeDistance, MeanActivation, ModelError, NetworkConfig, PosteriorConfig, PriorConfig, Vae,
    write_tensors,
};

impl Vae {
    /// Writes the model as a folder that diffusers' `AutoencoderKL.from_pretrained` reads. `scaling` is the factor of
    /// the latents; without one that of the file that the model was read from, or 1.
    ///
    /// # Errors
    /// Another network than `autoencoder_kl`, or a model of which diffusers has no counterpart; the folder has files;
    /// the file system refuses.
    pub fn save_diffusers(
        &self,
        folder: &Path,
        scaling: Option<LatentScaling>,
    ) -> Result<(), ModelError> {
        let refuse = |key: &str, problem: &str| Err(ModelError::config(key, problem));
        let config = self.config();
        let network = match &config.network {
            NetworkConfig::AutoencoderKl(network) => network,
            NetworkConfig::AutoencoderTiny(network) => {
                return self.save_tiny(network, folder, scaling);
            }
            _ => {
                return refuse(
                    "model.network",
                    "diffusers has counterparts of autoencoder_kl and autoencoder_tiny; onnx or torchscript would fit",
                );
            }
        };
        let mean = config.likelihood.of_real_values().map(|(_, mean)| mean);
        if mean != Some(MeanActivation::Linear) {
            let problem =
                "diffusers' decoder ends at a linear mean, as that of gaussian or laplace";
            return refuse("model.likelihood", problem);
        }
        let codes = match (&config.posterior, &config.prior) {
            (PosteriorConfig::DiagonalGaussian(_), PriorConfig::StandardNormal) => None,
            (PosteriorConfig::VectorQuantized(codes), PriorConfig::UniformCodes)
                if codes.heads == 1
                    && codes.depth == 1
                    && codes.distance == CodeDistance::default() =>
            {
                Some(codes.codes)
            }
            _ => {
                return refuse(
                    "model.posterior",
                    "diffusers has a diagonal Gaussian with a standard normal prior, and one codebook of Euclidean \
                     distances with uniform_codes",
                );
            }
        };
        if config.condition.is_some() || config.decoder_spectral_norm {
            return refuse(
                "model",
                "diffusers' autoencoder has no condition and no spectral norm",
            );
        }
        let Some([latent_channels, ..]) = config.latent_shape else {
            return refuse("model.latent_shape", "diffusers' latents are a map");
        };
        let image = self.image_shape();
        let n_stages = network.channels.len();
        let scaling = scaling.or(self.latent_scaling()).unwrap_or(LatentScaling {
            factor: 1.0,
            shift: 0.0,
        });
        let file = ConfigFile {
            class_name: if codes.is_some() { VQ } else { KL }.to_owned(),
            act_fn: silu(),
            block_out_channels: network.channels.clone(),
            down_block_types: vec![DOWN_BLOCK.to_owned(); n_stages],
            up_block_types: vec![UP_BLOCK.to_owned(); n_stages],
            in_channels: image.channels,
            out_channels: image.channels,
            latent_channels,
            layers_per_block: network.blocks,
            norm_num_groups: network.groups,
            sample_size: Some(SampleSize::Side(image.height.max(image.width))),
            scaling_factor: scaling.factor,
            shift_factor: (scaling.shift != 0.0).then_some(scaling.shift),
            mid_block_add_attention: network.attention,
            use_quant_conv: network.quant_conv,
            use_post_quant_conv: network.post_quant_conv,
            num_vq_embeddings: codes,
            vq_embed_dim: codes.map(|_| latent_channels),
            norm_type: codes.map(|_| "group".to_owned()),
        };
        let mut tensors = Vec::new();
        // A learned scale is the likelihood's alone, and how often codes were used is the training's.
        let mut named = self.named_variables();
        named.retain(|(name, _)| {
            let is_code = name == OUR_CODES;
            is_code
                || !["likelihood.", "posterior."]
                    .iter()
                    .any(|part| name.starts_with(part))
        });
        for (ours, tensor) in named {
            let Some(theirs) = theirs(&ours) else {
                let problem = format!("{ours} has no counterpart in diffusers");
                return refuse("model", &problem);
            };
            // Its attention is of fully connected layers.
            let tensor = match &*ours {
                OUR_CODES => tensor.flatten(0, 2),
                name if name.contains(".attention.") && tensor.dim() == 4 => tensor.flatten(1, 3),
                _ => tensor,
            };
            tensors.push((theirs, tensor));
        }
        write_folder(folder, &file, &tensors)
    }

    /// [`Self::save_diffusers`] as an `AutoencoderTiny`.
    fn save_tiny(
        &self,
        network: &AutoencoderTinyConfig,
        folder: &Path,
        scaling: Option<LatentScaling>,
    ) -> Result<(), ModelError> {
        let refuse = |key: &str, problem: &str| Err(ModelError::config(key, problem));
        let config = self.config();
        let mean = config.likelihood.of_real_values().map(|(_, mean)| mean);
        if mean != Some(MeanActivation::Linear)
            || !matches!(config.posterior, PosteriorConfig::Deterministic)
        {
            let problem = "diffusers' AutoencoderTiny has a linear mean, as that of gaussian, and a deterministic encoder";
            return refuse("model", problem);
        }
        let Some([latent_channels, ..]) = config.latent_shape else {
            return refuse("model.latent_shape", "diffusers' latents are a map");
        };
        if config.condition.is_some() || config.decoder_spectral_norm {
            return refuse(
                "model",
                "diffusers' autoencoder has no condition and no spectral norm",
            );
        }
        let scaling = scaling.or(self.latent_scaling());
        let n_stages = network.encoder_blocks.len();
        let file = TinyConfigFile {
            class_name: TINY.to_owned(),
            act_fn: relu(),
            in_channels: self.image_shape().channels,
            out_channels: self.image_shape().channels,
            encoder_block_out_channels: vec![network.channels; n_stages],
            decoder_block_out_channels: vec![network.channels; n_stages],
            latent_channels,
            num_encoder_blocks: network.encoder_blocks.clone(),
            num_decoder_blocks: network.decoder_blocks.clone(),
            upsampling_scaling_factor: 2,
            scaling_factor: scaling.map_or(1.0, |scaling| scaling.factor),
            shift_factor: scaling.map_or(0.0, |scaling| scaling.shift),
        };
        let theirs: BTreeMap<String, String> = tiny_names(network)
            .into_iter()
            .map(|(theirs, ours)| (ours, theirs))
            .collect();
        let tensors = self
            .named_variables()
            .into_iter()
            .filter_map(|(name, tensor)| {
                let (layer, what) = name.rsplit_once('.')?;
                // A learned scale is the likelihood's alone.
                Some((format!("{}.{what}", theirs.get(layer)?), tensor))
            });
        write_folder(folder, &file, &tensors.collect::<Vec<_>>())
    }
}

/// Writes weights and config; the config last, without which the folder is none.
fn write_folder(
    folder: &Path,
    config: &impl Serialize,
    tensors: &[(String, Tensor)],
) -> Result<(), ModelError> {
    fs::create_dir_all(folder).map_err(ModelError::io(folder))?;
    let json = serde_json::to_vec_pretty(config)
        .map_err(|error| ModelError::weights(folder, error.to_string()))?;
    let weights = folder.join(format!("{WEIGHTS}.safetensors"));
    write_tensors(&weights, tensors, &[("format", "pt")])?;
    let config = folder.join(CONFIG_FILE);
    write_whole(&config, &json).map_err(ModelError::io(&config))
}
