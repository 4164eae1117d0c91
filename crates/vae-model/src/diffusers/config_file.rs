//! `config.json` of diffusers' autoencoders.

use serde::{Deserialize, Serialize};

use crate::network::AutoencoderTinyConfig;
/// The classes of diffusers that are read.
pub(super) const KL: &str = "AutoencoderKL";
pub(super) const TINY: &str = "AutoencoderTiny";
pub(super) const VQ: &str = "VQModel";

pub(super) const DOWN_BLOCK: &str = "DownEncoderBlock2D";
pub(super) const UP_BLOCK: &str = "UpDecoderBlock2D";
/// diffusers' `config.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ConfigFile {
    #[serde(rename = "_class_name")]
    pub(super) class_name: String,
    #[serde(default = "silu")]
    pub(super) act_fn: String,
    pub(super) block_out_channels: Vec<i64>,
    #[serde(default)]
    pub(super) down_block_types: Vec<String>,
    #[serde(default)]
    pub(super) up_block_types: Vec<String>,
    #[serde(default = "three")]
    pub(super) in_channels: i64,
    #[serde(default = "three")]
    pub(super) out_channels: i64,
    #[serde(default = "four")]
    pub(super) latent_channels: i64,
    #[serde(default = "one")]
    pub(super) layers_per_block: usize,
    #[serde(default = "groups")]
    pub(super) norm_num_groups: i64,
    #[serde(default)]
    pub(super) sample_size: Option<SampleSize>,
    #[serde(default = "scaling_factor")]
    pub(super) scaling_factor: f64,
    #[serde(default)]
    pub(super) shift_factor: Option<f64>,
    #[serde(default = "yes")]
    pub(super) mid_block_add_attention: bool,
    #[serde(default = "yes")]
    pub(super) use_quant_conv: bool,
    #[serde(default = "yes")]
    pub(super) use_post_quant_conv: bool,
    /// Of a `VQModel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) num_vq_embeddings: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) vq_embed_dim: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) norm_type: Option<String>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum SampleSize {
    Side(i64),
    Sides([i64; 2]),
}

// The defaults of diffusers' constructor.
pub(super) fn silu() -> String {
    "silu".to_owned()
}

fn three() -> i64 {
    3
}

fn four() -> i64 {
    4
}

fn one() -> usize {
    1
}

pub(super) fn groups() -> i64 {
    32
}

fn scaling_factor() -> f64 {
    0.18215
}

fn yes() -> bool {
    true
}

/// `config.json` of an `AutoencoderTiny`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TinyConfigFile {
    #[serde(rename = "_class_name")]
    pub(super) class_name: String,
    #[serde(default = "relu")]
    pub(super) act_fn: String,
    #[serde(default = "three")]
    pub(super) in_channels: i64,
    #[serde(default = "three")]
    pub(super) out_channels: i64,
    pub(super) encoder_block_out_channels: Vec<i64>,
    pub(super) decoder_block_out_channels: Vec<i64>,
    #[serde(default = "four")]
    pub(super) latent_channels: i64,
    pub(super) num_encoder_blocks: Vec<usize>,
    pub(super) num_decoder_blocks: Vec<usize>,
    #[serde(default = "two")]
    pub(super) upsampling_scaling_factor: i64,
    #[serde(default = "factor_one")]
    pub(super) scaling_factor: f64,
    #[serde(default)]
    pub(super) shift_factor: f64,
}

pub(super) fn relu() -> String {
    "relu".to_owned()
}

fn two() -> i64 {
    2
}

fn factor_one() -> f64 {
    1.0
}

impl TinyConfigFile {
    pub(super) fn network(&self) -> Result<AutoencoderTinyConfig, String> {
        if self.act_fn != relu() {
            return Err(format!(
                "act_fn is {:?}, and \"relu\" can be read",
                self.act_fn
            ));
        }
        if self.in_channels != self.out_channels {
            return Err(
                "in_channels and out_channels differ, and equal numbers can be read".to_owned(),
            );
        }
        if self.upsampling_scaling_factor != 2 {
            let found = self.upsampling_scaling_factor;
            return Err(format!(
                "upsampling_scaling_factor is {found}, and 2 can be read"
            ));
        }
        let mut widths = self.encoder_block_out_channels.clone();
        widths.extend(&self.decoder_block_out_channels);
        widths.dedup();
        let [channels] = widths[..] else {
            return Err(
                "the blocks differ in their channels, and equal ones can be read".to_owned(),
            );
        };
        Ok(AutoencoderTinyConfig {
            channels,
            encoder_blocks: self.num_encoder_blocks.clone(),
            decoder_blocks: self.num_decoder_blocks.clone(),
        })
    }
}

impl ConfigFile {
    /// What is different from the network here.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.act_fn != silu() {
            return Err(format!(
                "act_fn is {:?}, and \"silu\" can be read",
                self.act_fn
            ));
        }
        for (types, wanted) in [
            (&self.down_block_types, DOWN_BLOCK),
            (&self.up_block_types, UP_BLOCK),
        ] {
            if let Some(other) = types.iter().find(|&found| found != wanted) {
                return Err(format!("a block is {other:?}, and {wanted:?} can be read"));
            }
        }
        let norm = self.norm_type.as_deref().unwrap_or("group");
        if norm != "group" {
            return Err(format!("norm_type is {norm:?}, and \"group\" can be read"));
        }
        let code_dims = self.vq_embed_dim.unwrap_or(self.latent_channels);
        if code_dims != self.latent_channels {
            return Err(format!(
                "vq_embed_dim is {code_dims} and latent_channels {}, and equal numbers can be read",
                self.latent_channels
            ));
        }
        if self.in_channels != self.out_channels {
            return Err(format!(
                "in_channels is {} and out_channels {}, and equal numbers can be read",
                self.in_channels, self.out_channels
            ));
        }
        Ok(())
    }
}
