//! The autoencoders of latent diffusion in the files that diffusers and the original code write.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};
use vae_base::{read_small_text, write_whole};

use crate::network::{AutoencoderKlConfig, AutoencoderTinyConfig};
use crate::preprocessing::LatentScaling;
use crate::tensor_file::OpenTensorFile;
use crate::{
    CodeDistance, CodebookConfig, GaussianConfig, ImageShape, LikelihoodConfig, MeanActivation,
    ModelConfig, ModelError, NetworkConfig, PosteriorConfig, PriorConfig, ScaleConfig, Vae,
    VectorQuantizedConfig, weights, write_tensors,
};

/// The names of diffusers' files.
const CONFIG_FILE: &str = "config.json";
const WEIGHTS: &str = "diffusion_pytorch_model";

/// Bytes of the largest config or list of shards.
const LARGEST_JSON: u64 = 1 << 24;

/// An autoencoder of latent diffusion in files: a folder of diffusers, or a safetensors file with its tensors under
/// diffusers' names or the original ones, also within a larger checkpoint.
#[derive(Debug)]
pub struct DiffusersFiles {
    /// The weights, one file or several.
    files: Vec<PathBuf>,
    /// The variables here by the names of the files' tensors.
    names: BTreeMap<String, String>,
    network: NetworkConfig,
    posterior: PosteriorConfig,
    n_channels: i64,
    latent_channels: i64,
    sample_size: Option<[i64; 2]>,
    scaling: Option<LatentScaling>,
}

/// diffusers' `config.json`.
#[derive(Debug, Serialize, Deserialize)]
struct ConfigFile {
    #[serde(rename = "_class_name")]
    class_name: String,
    #[serde(default = "silu")]
    act_fn: String,
    block_out_channels: Vec<i64>,
    #[serde(default)]
    down_block_types: Vec<String>,
    #[serde(default)]
    up_block_types: Vec<String>,
    #[serde(default = "three")]
    in_channels: i64,
    #[serde(default = "three")]
    out_channels: i64,
    #[serde(default = "four")]
    latent_channels: i64,
    #[serde(default = "one")]
    layers_per_block: usize,
    #[serde(default = "groups")]
    norm_num_groups: i64,
    #[serde(default)]
    sample_size: Option<SampleSize>,
    #[serde(default = "scaling_factor")]
    scaling_factor: f64,
    #[serde(default)]
    shift_factor: Option<f64>,
    #[serde(default = "yes")]
    mid_block_add_attention: bool,
    #[serde(default = "yes")]
    use_quant_conv: bool,
    #[serde(default = "yes")]
    use_post_quant_conv: bool,
    /// Of a `VQModel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    num_vq_embeddings: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vq_embed_dim: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    norm_type: Option<String>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum SampleSize {
    Side(i64),
    Sides([i64; 2]),
}

// The defaults of diffusers' constructor.
fn silu() -> String {
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

fn groups() -> i64 {
    32
}

fn scaling_factor() -> f64 {
    0.18215
}

fn yes() -> bool {
    true
}

/// The list of shards, `….safetensors.index.json`.
#[derive(Deserialize)]
struct Shards {
    weight_map: BTreeMap<String, String>,
}

/// The classes of diffusers that are read.
const KL: &str = "AutoencoderKL";
const TINY: &str = "AutoencoderTiny";
const VQ: &str = "VQModel";

/// The codebook of a `VQModel`, and here.
const THEIR_CODES: &str = "quantize.embedding.weight";
const OUR_CODES: &str = "posterior.codebooks";

const DOWN_BLOCK: &str = "DownEncoderBlock2D";
const UP_BLOCK: &str = "UpDecoderBlock2D";

impl DiffusersFiles {
    /// Looks at a folder or file. `None` if it is neither a folder with diffusers' `config.json` nor a safetensors file
    /// with such an autoencoder.
    ///
    /// # Errors
    /// It is one, of another kind than `AutoencoderKL`; a file is missing or damaged, or only there as a pickle.
    pub fn find(path: &Path) -> Result<Option<Self>, ModelError> {
        let config = path.join(CONFIG_FILE);
        if !path.is_dir() {
            return Self::of_files(path, vec![path.to_owned()], None);
        }
        let text = match read_small_text(&config, LARGEST_JSON) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(ModelError::io(&config))?,
        };
        let value: serde_json::Value = serde_json::from_str(&text)
            .map_err(|error| ModelError::weights(&config, error.to_string()))?;
        let Some(class) = value.get("_class_name").and_then(|class| class.as_str()) else {
            return Ok(None);
        };
        if class == TINY {
            return Self::tiny(path, &config, value).map(Some);
        }
        if ![KL, VQ].contains(&class) {
            let problem =
                format!("_class_name is {class:?}, and {KL:?}, {VQ:?} and {TINY:?} can be read");
            return Err(ModelError::weights(&config, problem));
        }
        let read: ConfigFile = serde_json::from_value(value)
            .map_err(|error| ModelError::weights(&config, error.to_string()))?;
        read.check()
            .map_err(|problem| ModelError::weights(&config, problem))?;
        Self::of_files(path, weights_in(path)?, Some(read))
    }

    /// `path` is what errors name.
    fn of_files(
        path: &Path,
        files: Vec<PathBuf>,
        config: Option<ConfigFile>,
    ) -> Result<Option<Self>, ModelError> {
        let mut shapes = BTreeMap::new();
        for file in &files {
            shapes.extend(OpenTensorFile::open(file)?.shapes());
        }
        let Some(prefix) = prefix(&shapes) else {
            return match config {
                Some(_) => Err(ModelError::weights(
                    path,
                    "its weights have no tensor encoder.conv_in.weight",
                )),
                None => Ok(None),
            };
        };
        let named = names(&shapes, &prefix);
        let names = named.map_err(|problem| ModelError::weights(path, problem))?;
        let of_ours: BTreeMap<&str, &[i64]> = names
            .iter()
            .map(|(theirs, ours)| (ours.as_str(), shapes[theirs].as_slice()))
            .collect();
        let found = Found::in_shapes(&of_ours);
        let found = found.map_err(|problem| ModelError::weights(path, problem))?;
        let (groups, sample_size, scaling) = match &config {
            Some(config) => {
                let differs = found.differs_from(config);
                if let Some(problem) = differs {
                    return Err(ModelError::weights(path, problem));
                }
                let scaling = LatentScaling {
                    factor: config.scaling_factor,
                    shift: config.shift_factor.unwrap_or(0.0),
                };
                let size = config.sample_size.map(|size| match size {
                    SampleSize::Side(side) => [side; 2],
                    SampleSize::Sides(sides) => sides,
                });
                (config.norm_num_groups, size, Some(scaling))
            }
            None => (groups(), None, None),
        };
        Ok(Some(Self {
            files,
            names,
            network: NetworkConfig::AutoencoderKl(AutoencoderKlConfig {
                groups,
                ..found.network
            }),
            posterior: match found.n_codes {
                Some(codes) => PosteriorConfig::VectorQuantized(VectorQuantizedConfig {
                    codes,
                    codebook: CodebookConfig::Gradient,
                    ..VectorQuantizedConfig::default()
                }),
                None => PosteriorConfig::default(),
            },
            n_channels: found.n_channels,
            latent_channels: found.latent_channels,
            sample_size,
            scaling,
        }))
    }

    /// An `AutoencoderTiny`.
    fn tiny(path: &Path, config: &Path, value: serde_json::Value) -> Result<Self, ModelError> {
        let read: TinyConfigFile = serde_json::from_value(value)
            .map_err(|error| ModelError::weights(config, error.to_string()))?;
        let network = read
            .network()
            .map_err(|problem| ModelError::weights(config, problem))?;
        let names = tiny_names(&network)
            .into_iter()
            .flat_map(|(theirs, ours)| {
                ["weight", "bias"]
                    .map(|what| (format!("{theirs}.{what}"), format!("{ours}.{what}")))
            })
            .collect();
        Ok(Self {
            files: weights_in(path)?,
            names,
            network: NetworkConfig::AutoencoderTiny(network),
            posterior: PosteriorConfig::Deterministic,
            n_channels: read.in_channels,
            latent_channels: read.latent_channels,
            sample_size: None,
            scaling: Some(LatentScaling {
                factor: read.scaling_factor,
                shift: read.shift_factor,
            }),
        })
    }

    /// The size of images (H, W) in diffusers' config; any other multiple of the encoder's factor works too.
    #[must_use]
    pub fn sample_size(&self) -> Option<[i64; 2]> {
        self.sample_size
    }

    /// The factor of the latents in diffusers' config.
    #[must_use]
    pub fn scaling(&self) -> Option<LatentScaling> {
        self.scaling
    }

    /// The model for images of H×W pixels.
    #[must_use]
    pub fn model(&self, [height, width]: [i64; 2]) -> (ModelConfig, ImageShape) {
        let last = self.network.last_map([height, width]);
        let [rows, columns] = last.unwrap_or([1, 1]); // Both networks have maps.
        let config = ModelConfig {
            latent_shape: Some([self.latent_channels, rows, columns]),
            prior: match self.posterior {
                PosteriorConfig::VectorQuantized(_) => PriorConfig::UniformCodes,
                _ => PriorConfig::default(),
            },
            posterior: self.posterior.clone(),
            likelihood: LikelihoodConfig::Gaussian(GaussianConfig {
                sigma: ScaleConfig::Fixed(1.0),
                ..GaussianConfig::default()
            }),
            network: self.network.clone(),
            ..ModelConfig::default()
        };
        let image = ImageShape {
            channels: self.n_channels,
            height,
            width,
        };
        (config, image)
    }

    /// Reads the model, for images of H×W pixels.
    ///
    /// # Errors
    /// Sides that are no multiples of the encoder's factor; missing or unexpected tensors and differing shapes; NaN or
    /// infinite weights.
    pub fn load(&self, size: [i64; 2], device: Device) -> Result<Vae, ModelError> {
        let (config, image) = self.model(size);
        let mut vae = Vae::new(&config, image, device, 0)?;
        let wanted: BTreeMap<String, Vec<i64>> = vae
            .named_variables()
            .into_iter()
            .map(|(name, variable)| (name, variable.size()))
            .collect();
        let mut tensors = BTreeMap::new();
        for file in &self.files {
            let mut open = OpenTensorFile::open(file)?;
            for (theirs, tensor) in open.read(|name| self.names.contains_key(name))? {
                let ours = &self.names[&theirs];
                tensors.insert(ours.clone(), in_shape(&tensor, wanted.get(ours)));
            }
        }
        // How often codes were used is nothing that a file says.
        let counted = vae.named_variables().into_iter();
        let counted = counted
            .filter(|(name, variable)| name.starts_with("posterior.") && !variable.requires_grad());
        for (name, variable) in counted {
            tensors.entry(name).or_insert(variable);
        }
        let path = &self.files[0];
        let found: BTreeMap<String, Vec<i64>> = tensors
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.size()))
            .collect();
        let theirs: BTreeMap<&str, &str> = self
            .names
            .iter()
            .map(|(theirs, ours)| (ours.as_str(), theirs.as_str()))
            .collect();
        let source = |ours: &str| match theirs.get(ours) {
            Some(theirs) => format!(" (from {theirs})"),
            None => String::new(),
        };
        weights::check(path, &found, &wanted, source)?;
        let non_finite = weights::non_finite(&tensors)?;
        if !non_finite.is_empty() {
            let problem = format!("NaN or infinite weights: {}", non_finite.join(", "));
            return Err(ModelError::weights(path, problem));
        }
        vae.assign(path, &tensors)?;
        vae.set_latent_scaling(self.scaling);
        Ok(vae)
    }
}

/// `config.json` of an `AutoencoderTiny`.
#[derive(Debug, Serialize, Deserialize)]
struct TinyConfigFile {
    #[serde(rename = "_class_name")]
    class_name: String,
    #[serde(default = "relu")]
    act_fn: String,
    #[serde(default = "three")]
    in_channels: i64,
    #[serde(default = "three")]
    out_channels: i64,
    encoder_block_out_channels: Vec<i64>,
    decoder_block_out_channels: Vec<i64>,
    #[serde(default = "four")]
    latent_channels: i64,
    num_encoder_blocks: Vec<usize>,
    num_decoder_blocks: Vec<usize>,
    #[serde(default = "two")]
    upsampling_scaling_factor: i64,
    #[serde(default = "factor_one")]
    scaling_factor: f64,
    #[serde(default)]
    shift_factor: f64,
}

fn relu() -> String {
    "relu".to_owned()
}

fn two() -> i64 {
    2
}

fn factor_one() -> f64 {
    1.0
}

impl TinyConfigFile {
    fn network(&self) -> Result<AutoencoderTinyConfig, String> {
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

/// diffusers' names of the layers of an `AutoencoderTiny`, places in a sequence, with those here.
fn tiny_names(config: &AutoencoderTinyConfig) -> Vec<(String, String)> {
    let mut named = Vec::new();
    let block = |named: &mut Vec<_>, side: &str, place: usize, i: usize, j: usize| {
        for k in 0..3 {
            named.push((
                // Activations lie between the convolutions.
                format!("{side}.layers.{place}.conv.{}", 2 * k),
                format!("{side}.{i}.block.{j}.conv.{k}"),
            ));
        }
    };
    let mut place = 0;
    for (i, &n) in config.encoder_blocks.iter().enumerate() {
        named.push((
            format!("encoder.layers.{place}"),
            format!("encoder.{i}.conv"),
        ));
        place += 1;
        for j in 0..n {
            block(&mut named, "encoder", place, i, j);
            place += 1;
        }
    }
    named.push((
        format!("encoder.layers.{place}"),
        "encoder.posterior".to_owned(),
    ));
    named.push(("decoder.layers.0".to_owned(), "decoder.hidden".to_owned()));
    place = 2; // After the activation.
    for (i, &n) in config.decoder_blocks.iter().enumerate() {
        for j in 0..n {
            block(&mut named, "decoder", place, i, j);
            place += 1;
        }
        let ours = match i + 1 == config.decoder_blocks.len() {
            true => "decoder.likelihood".to_owned(),
            false => {
                place += 1; // The upsampling.
                format!("decoder.{i}.conv")
            }
        };
        named.push((format!("decoder.layers.{place}"), ours));
        place += 1;
    }
    named
}

impl ConfigFile {
    /// What is different from the network here.
    fn check(&self) -> Result<(), String> {
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

/// The weights in a folder of diffusers.
fn weights_in(folder: &Path) -> Result<Vec<PathBuf>, ModelError> {
    for variant in ["", ".fp16", ".bf16"] {
        let file = folder.join(format!("{WEIGHTS}{variant}.safetensors"));
        if file.is_file() {
            return Ok(vec![file]);
        }
        let name = match variant {
            "" => format!("{WEIGHTS}.safetensors.index.json"),
            variant => format!("{WEIGHTS}.safetensors.index{variant}.json"),
        };
        let index = folder.join(name);
        if index.is_file() {
            let text = read_small_text(&index, LARGEST_JSON).map_err(ModelError::io(&index))?;
            let shards: Shards = serde_json::from_str(&text)
                .map_err(|error| ModelError::weights(&index, error.to_string()))?;
            let names: BTreeSet<String> = shards.weight_map.into_values().collect();
            let outside = |name: &&String| Path::new(name).components().count() != 1;
            if let Some(name) = names.iter().find(outside) {
                let problem = format!("a shard is {name:?}, expected a name in the same folder");
                return Err(ModelError::weights(&index, problem));
            }
            return Ok(names.into_iter().map(|name| folder.join(name)).collect());
        }
    }
    let pickle = folder.join(format!("{WEIGHTS}.bin"));
    if pickle.is_file() {
        // Its own error has the command that converts it.
        OpenTensorFile::open(&pickle)?;
    }
    Err(ModelError::weights(
        folder,
        format!("holds no {WEIGHTS}.safetensors"),
    ))
}

/// What precedes the names of an autoencoder's tensors in a file; `None` if there is no autoencoder.
fn prefix(shapes: &BTreeMap<String, Vec<i64>>) -> Option<String> {
    const FIRST: &str = "encoder.conv_in.weight";
    let with = |part: &str| {
        let start = part.strip_suffix(FIRST)?;
        let stages = [
            "encoder.down_blocks.0.resnets.0.conv1.weight",
            "encoder.down.0.block.0.conv1.weight",
        ];
        let is_one = stages
            .iter()
            .any(|stage| shapes.contains_key(&format!("{start}{stage}")));
        is_one.then(|| start.to_owned())
    };
    shapes.keys().find_map(|name| with(name))
}

/// The variables here by the names of the autoencoder's tensors.
fn names(
    shapes: &BTreeMap<String, Vec<i64>>,
    prefix: &str,
) -> Result<BTreeMap<String, String>, String> {
    let own: Vec<(&str, &String)> = shapes
        .keys()
        .filter_map(|name| Some((name.strip_prefix(prefix)?, name)))
        .filter(|(name, _)| {
            let first = name.split('.').next().unwrap_or_default();
            ["encoder", "decoder", "quant_conv", "post_quant_conv"].contains(&first)
                || *name == THEIR_CODES
        })
        .collect();
    let stage = |name: &&str| {
        let mut parts = name.split('.').skip(1);
        let is_stage = ["down_blocks", "down"].contains(&parts.next()?);
        parts.next()?.parse::<usize>().ok().filter(|_| is_stage)
    };
    let n_stages = own
        .iter()
        .filter_map(|(name, _)| stage(name))
        .max()
        .map_or(0, |last| last + 1);
    own.into_iter()
        .map(|(name, whole)| match ours(name, n_stages) {
            Some(ours) => Ok((whole.clone(), ours)),
            None => Err(format!(
                "{whole} belongs to no part of the usual autoencoder (attention within stages and other blocks cannot \
                 be read)"
            )),
        })
        .collect()
}

/// The variable here for a tensor by its name in diffusers or in the original code.
fn ours(theirs: &str, n_stages: usize) -> Option<String> {
    if theirs == THEIR_CODES {
        return Some(OUR_CODES.to_owned());
    }
    let parts: Vec<&str> = theirs.split('.').collect();
    let (&what, path) = parts.split_last()?;
    let reversed = |i: &str| {
        Some(
            n_stages
                .checked_sub(1)?
                .checked_sub(i.parse().ok()?)?
                .to_string(),
        )
    };
    let name = match path {
        ["quant_conv"] => "encoder.quant".to_owned(),
        ["post_quant_conv"] => "decoder.quant".to_owned(),
        ["encoder", "conv_in"] => "encoder.conv".to_owned(),
        ["decoder", "conv_in"] => "decoder.hidden".to_owned(),
        ["encoder", "conv_out"] => "encoder.posterior".to_owned(),
        ["decoder", "conv_out"] => "decoder.likelihood".to_owned(),
        [side, "conv_norm_out" | "norm_out"] => format!("{side}.norm"),
        [side, "mid_block", "resnets", i, layer] => {
            format!("{side}.middle.block.{i}.{}", of_block(layer)?)
        }
        [side, "mid", block @ ("block_1" | "block_2"), layer] => {
            let i = if *block == "block_1" { 0 } else { 1 };
            format!("{side}.middle.block.{i}.{}", of_block(layer)?)
        }
        [side, "mid_block", "attentions", "0", part @ ..] | [side, "mid", "attn_1", part @ ..] => {
            let part = match part {
                ["group_norm" | "norm"] => "norm",
                ["to_q" | "query" | "q"] => "query",
                ["to_k" | "key" | "k"] => "key",
                ["to_v" | "value" | "v"] => "value",
                ["to_out", "0"] | ["proj_attn" | "proj_out"] => "out",
                _ => return None,
            };
            format!("{side}.middle.attention.{part}")
        }
        [side, "down_blocks" | "up_blocks", i, "resnets", j, layer]
        | [side @ "encoder", "down", i, "block", j, layer] => {
            format!("{side}.{i}.block.{j}.{}", of_block(layer)?)
        }
        // The original code counts the decoder's stages from the image inwards.
        [side @ "decoder", "up", i, "block", j, layer] => {
            format!("{side}.{}.block.{j}.{}", reversed(i)?, of_block(layer)?)
        }
        [side, "down_blocks", i, "downsamplers", "0", "conv"]
        | [side, "down", i, "downsample", "conv"] => format!("{side}.{i}.down"),
        [side, "up_blocks", i, "upsamplers", "0", "conv"] => format!("{side}.{i}.up"),
        [side, "up", i, "upsample", "conv"] => format!("{side}.{}.up", reversed(i)?),
        _ => return None,
    };
    Some(format!("{name}.{what}"))
}

fn of_block(layer: &str) -> Option<&'static str> {
    Some(match layer {
        "norm1" => "norm.0",
        "conv1" => "conv.0",
        "norm2" => "norm.1",
        "conv2" => "conv.1",
        "conv_shortcut" | "nin_shortcut" => "shortcut",
        _ => return None,
    })
}

/// diffusers' name of a variable here.
fn theirs(ours: &str) -> Option<String> {
    if ours == OUR_CODES {
        return Some(THEIR_CODES.to_owned());
    }
    let parts: Vec<&str> = ours.split('.').collect();
    let (&what, path) = parts.split_last()?;
    let of_block = |layer: &[&str]| {
        Some(match layer {
            ["norm", "0"] => "norm1",
            ["conv", "0"] => "conv1",
            ["norm", "1"] => "norm2",
            ["conv", "1"] => "conv2",
            ["shortcut"] => "conv_shortcut",
            _ => return None,
        })
    };
    let name = match path {
        ["encoder", "quant"] => "quant_conv".to_owned(),
        ["decoder", "quant"] => "post_quant_conv".to_owned(),
        ["encoder", "conv"] => "encoder.conv_in".to_owned(),
        ["decoder", "hidden"] => "decoder.conv_in".to_owned(),
        ["encoder", "posterior"] => "encoder.conv_out".to_owned(),
        ["decoder", "likelihood"] => "decoder.conv_out".to_owned(),
        [side, "norm"] => format!("{side}.conv_norm_out"),
        [side, "middle", "block", i, layer @ ..] => {
            format!("{side}.mid_block.resnets.{i}.{}", of_block(layer)?)
        }
        [side, "middle", "attention", part] => {
            let part = match *part {
                "norm" => "group_norm",
                "query" => "to_q",
                "key" => "to_k",
                "value" => "to_v",
                "out" => "to_out.0",
                _ => return None,
            };
            format!("{side}.mid_block.attentions.0.{part}")
        }
        [side, i, "block", j, layer @ ..] => {
            let stages = if *side == "encoder" {
                "down_blocks"
            } else {
                "up_blocks"
            };
            format!("{side}.{stages}.{i}.resnets.{j}.{}", of_block(layer)?)
        }
        [side, i, "down"] => format!("{side}.down_blocks.{i}.downsamplers.0.conv"),
        [side, i, "up"] => format!("{side}.up_blocks.{i}.upsamplers.0.conv"),
        _ => return None,
    };
    Some(format!("{name}.{what}"))
}

/// A fully connected layer `[C, C]` as the 1×1 convolution that it is here, and the reverse.
fn in_shape(tensor: &Tensor, wanted: Option<&Vec<i64>>) -> Tensor {
    let same = |a: &[i64], b: &[i64]| {
        let sides = |shape: &[i64]| {
            shape
                .iter()
                .copied()
                .filter(|&n| n != 1)
                .collect::<Vec<_>>()
        };
        a.iter().product::<i64>() == b.iter().product::<i64>() && sides(a) == sides(b)
    };
    match wanted {
        Some(wanted) if same(&tensor.size(), wanted) => tensor.view(wanted.as_slice()),
        _ => tensor.shallow_clone(),
    }
}

/// What the shapes of the tensors say of the network.
struct Found {
    network: AutoencoderKlConfig,
    /// Of a `VQModel`.
    n_codes: Option<i64>,
    n_channels: i64,
    latent_channels: i64,
}

impl Found {
    fn in_shapes(shapes: &BTreeMap<&str, &[i64]>) -> Result<Self, String> {
        let side = |name: &str, dim: usize| {
            let shape = shapes.get(name);
            shape
                .and_then(|shape| shape.get(dim).copied())
                .ok_or_else(|| format!("there is no tensor for {name}"))
        };
        let mut channels = Vec::new();
        while let Some(shape) =
            shapes.get(format!("encoder.{}.block.0.conv.0.weight", channels.len()).as_str())
        {
            channels.push(shape.first().copied().unwrap_or(0));
        }
        let mut blocks = 0;
        while shapes.contains_key(format!("encoder.0.block.{blocks}.conv.0.weight").as_str()) {
            blocks += 1;
        }
        Ok(Self {
            network: AutoencoderKlConfig {
                channels,
                blocks,
                attention: shapes.contains_key("encoder.middle.attention.query.weight"),
                quant_conv: shapes.contains_key("encoder.quant.weight"),
                post_quant_conv: shapes.contains_key("decoder.quant.weight"),
                ..AutoencoderKlConfig::default()
            },
            n_codes: side(OUR_CODES, 0).ok(),
            n_channels: side("encoder.conv.weight", 1)?,
            latent_channels: side("decoder.hidden.weight", 1)?,
        })
    }

    /// What the config says differently.
    fn differs_from(&self, config: &ConfigFile) -> Option<String> {
        let AutoencoderKlConfig {
            channels,
            blocks,
            attention,
            quant_conv,
            post_quant_conv,
            ..
        } = &self.network;
        let pairs = [
            (
                "block_out_channels",
                format!("{:?}", config.block_out_channels),
                format!("{channels:?}"),
            ),
            (
                "layers_per_block",
                config.layers_per_block.to_string(),
                blocks.to_string(),
            ),
            (
                "mid_block_add_attention",
                config.mid_block_add_attention.to_string(),
                attention.to_string(),
            ),
            (
                "num_vq_embeddings",
                format!("{:?}", config.num_vq_embeddings),
                format!("{:?}", self.n_codes),
            ),
            (
                "use_quant_conv",
                config.use_quant_conv.to_string(),
                quant_conv.to_string(),
            ),
            (
                "use_post_quant_conv",
                config.use_post_quant_conv.to_string(),
                post_quant_conv.to_string(),
            ),
            (
                "in_channels",
                config.in_channels.to_string(),
                self.n_channels.to_string(),
            ),
            (
                "latent_channels",
                config.latent_channels.to_string(),
                self.latent_channels.to_string(),
            ),
        ];
        let differs = pairs.into_iter().find(|(_, said, found)| said != found);
        differs.map(|(key, said, found)| {
            format!("{key} is {said} in {CONFIG_FILE}, and {found} by the shapes of the weights")
        })
    }
}

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

#[cfg(test)]
mod tests {
    use tch::{Kind, no_grad};

    use super::*;
    use crate::Generator;

    fn small() -> Vae {
        let config: ModelConfig = toml::from_str(
            "latent_shape = [4, 4, 6]\nlikelihood.gaussian.sigma = 1.0\n[network.autoencoder_kl]\n\
             channels = [8, 16, 16]\nblocks = 1\ngroups = 4",
        )
        .unwrap();
        let image = ImageShape {
            channels: 3,
            height: 16,
            width: 24,
        };
        let vae = Vae::new(&config, image, Device::Cpu, 5).unwrap();
        let mut noise = Generator::cpu(6);
        no_grad(|| {
            for (_, mut variable) in vae.named_variables() {
                let size = variable.size();
                variable += noise.normal(&size[..], Device::Cpu) * 0.1;
            }
        });
        vae
    }

    fn outputs(vae: &Vae) -> [Tensor; 2] {
        let mut noise = Generator::cpu(7);
        let images = noise.randint(256, [2, 3, 16, 24], (Kind::Uint8, Device::Cpu));
        let latents = noise.normal([2, 96], Device::Cpu);
        no_grad(|| {
            let center = vae.encode(&images).unwrap().center();
            [center, vae.decode(&latents).unwrap()]
        })
    }

    fn same(a: &Vae, b: &Vae) {
        for (a, b) in outputs(a).iter().zip(&outputs(b)) {
            assert_eq!(a, b);
        }
    }

    #[test]
    fn every_variable_has_a_name_in_diffusers_and_back() {
        for (ours_name, _) in small().named_variables() {
            let theirs = theirs(&ours_name).unwrap();
            assert_eq!(ours(&theirs, 3).unwrap(), ours_name, "{theirs}");
        }
    }

    #[test]
    fn a_folder_that_was_written_is_read_at_any_size() {
        let folder = tempfile::tempdir().unwrap();
        let vae = small();
        let scaling = LatentScaling {
            factor: 0.7,
            shift: 0.1,
        };
        vae.save_diffusers(folder.path(), Some(scaling)).unwrap();
        let found = DiffusersFiles::find(folder.path()).unwrap().unwrap();
        assert_eq!(found.scaling(), Some(scaling));
        let read = found.load([16, 24], Device::Cpu).unwrap();
        assert_eq!(read.latent_scaling(), Some(scaling));
        same(&vae, &read);
        let larger = found.load([32, 8], Device::Cpu).unwrap();
        assert_eq!(larger.config().latent_shape, Some([4, 8, 2]));
        let said = found.load([18, 24], Device::Cpu).unwrap_err().to_string();
        assert!(said.contains("multiples of 4"), "{said}");
    }

    /// The names of the original code.
    fn original(ours: &str) -> String {
        let theirs = theirs(ours).unwrap();
        let theirs = theirs
            .replace("mid_block.resnets.0", "mid.block_1")
            .replace("mid_block.resnets.1", "mid.block_2")
            .replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm")
            .replace("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out")
            .replace("mid_block.attentions.0.to_", "mid.attn_1.")
            .replace("conv_norm_out", "norm_out")
            .replace("conv_shortcut", "nin_shortcut")
            .replace("down_blocks", "down")
            .replace("resnets", "block")
            .replace("downsamplers.0", "downsample")
            .replace("upsamplers.0", "upsample");
        let mut parts: Vec<String> = theirs.split('.').map(str::to_owned).collect();
        if let Some(i) = parts.iter().position(|part| part == "up_blocks") {
            parts[i] = "up".to_owned();
            let stage: usize = parts[i + 1].parse().unwrap();
            parts[i + 1] = (2 - stage).to_string();
        }
        parts.join(".")
    }

    #[test]
    fn the_original_names_are_read_within_a_larger_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sd.safetensors");
        // Groups of 32 are what such a file does not tell.
        let config: ModelConfig = toml::from_str(
            "latent_shape = [4, 4, 6]\nlikelihood.gaussian.sigma = 1.0\n[network.autoencoder_kl]\n\
             channels = [32, 32, 64]\nblocks = 1",
        )
        .unwrap();
        let image = ImageShape {
            channels: 3,
            height: 16,
            width: 24,
        };
        let vae = Vae::new(&config, image, Device::Cpu, 5).unwrap();
        let named = vae.named_variables().into_iter();
        let mut tensors: Vec<(String, Tensor)> = named
            .map(|(name, tensor)| (format!("first_stage_model.{}", original(&name)), tensor))
            .collect();
        let other = Tensor::zeros([3], (Kind::Float, Device::Cpu));
        for name in [
            "model.diffusion_model.out.weight",
            "first_stage_model.loss.logvar",
        ] {
            tensors.push((name.to_owned(), other.shallow_clone()));
        }
        write_tensors(&file, &tensors, &[]).unwrap();
        let found = DiffusersFiles::find(&file).unwrap().unwrap();
        same(&vae, &found.load([16, 24], Device::Cpu).unwrap());
        tensors.push((
            "first_stage_model.encoder.down.1.attn.0.q.weight".to_owned(),
            other,
        ));
        write_tensors(&file, &tensors, &[]).unwrap();
        let said = DiffusersFiles::find(&file).unwrap_err().to_string();
        assert!(
            said.contains("encoder.down.1.attn.0.q.weight belongs to no part"),
            "{said}"
        );
    }

    #[test]
    fn old_names_of_attention_and_shards_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let vae = small();
        vae.save_diffusers(folder.path(), None).unwrap();
        let file = folder.path().join(format!("{WEIGHTS}.safetensors"));
        let tensors = OpenTensorFile::open(&file).unwrap().read_all().unwrap();
        fs::remove_file(&file).unwrap();
        let mut shards = [Vec::new(), Vec::new()];
        let mut map = serde_json::Map::new();
        for (i, (name, tensor)) in tensors.into_iter().enumerate() {
            let name = name
                .replace("to_out.0", "proj_attn")
                .replace("to_q", "query")
                .replace("to_k", "key")
                .replace("to_v", "value");
            map.insert(name.clone(), format!("part-{}.safetensors", i % 2).into());
            shards[i % 2].push((name, tensor));
        }
        for (i, shard) in shards.iter().enumerate() {
            let part = folder.path().join(format!("part-{i}.safetensors"));
            write_tensors(&part, shard, &[]).unwrap();
        }
        let index = folder
            .path()
            .join(format!("{WEIGHTS}.safetensors.index.json"));
        let json = serde_json::json!({ "metadata": {}, "weight_map": map });
        fs::write(&index, json.to_string()).unwrap();
        let found = DiffusersFiles::find(folder.path()).unwrap().unwrap();
        same(&vae, &found.load([16, 24], Device::Cpu).unwrap());
        let outside = serde_json::json!({ "weight_map": { "a": "../b.safetensors" } });
        fs::write(&index, outside.to_string()).unwrap();
        let said = DiffusersFiles::find(folder.path()).unwrap_err().to_string();
        assert!(
            said.contains("expected a name in the same folder"),
            "{said}"
        );
    }

    #[test]
    fn what_is_no_such_autoencoder_is_said() {
        let folder = tempfile::tempdir().unwrap();
        assert!(DiffusersFiles::find(folder.path()).unwrap().is_none());
        let config = folder.path().join(CONFIG_FILE);
        let with = |change: &str, value: serde_json::Value| {
            small().save_diffusers(folder.path(), None).unwrap();
            let text = fs::read_to_string(&config).unwrap();
            let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
            json[change] = value;
            fs::write(&config, json.to_string()).unwrap();
            DiffusersFiles::find(folder.path()).unwrap_err().to_string()
        };
        let said = with("_class_name", "AsymmetricAutoencoderKL".into());
        assert!(said.contains("_class_name is \"Asymmetric"), "{said}");
        let said = with(
            "up_block_types",
            serde_json::json!(["AttnUpDecoderBlock2D"]),
        );
        assert!(
            said.contains("a block is \"AttnUpDecoderBlock2D\""),
            "{said}"
        );
        let said = with("layers_per_block", 3.into());
        assert!(
            said.contains("layers_per_block is 3 in config.json, and 1"),
            "{said}"
        );
        let said = with("act_fn", "relu".into());
        assert!(said.contains("act_fn is \"relu\""), "{said}");
        fs::remove_file(folder.path().join(format!("{WEIGHTS}.safetensors"))).unwrap();
        small()
            .save_diffusers(&folder.path().join("other"), None)
            .unwrap();
        let text = fs::read_to_string(folder.path().join("other").join(CONFIG_FILE)).unwrap();
        fs::write(&config, text).unwrap();
        let said = DiffusersFiles::find(folder.path()).unwrap_err().to_string();
        assert!(
            said.contains("holds no diffusion_pytorch_model.safetensors"),
            "{said}"
        );
        fs::write(
            folder.path().join(format!("{WEIGHTS}.bin")),
            b"PK\x03\x04...",
        )
        .unwrap();
        let said = DiffusersFiles::find(folder.path()).unwrap_err().to_string();
        assert!(said.contains("torch.load"), "{said}");
    }

    #[test]
    fn a_tiny_autoencoder_is_written_and_read() {
        let config: ModelConfig = toml::from_str(
            "latent_shape = [4, 4, 6]\nposterior = 'deterministic'\nlikelihood.gaussian.sigma = 1.0\n\
             [network.autoencoder_tiny]\nchannels = 6\nencoder_blocks = [1, 2, 1]\ndecoder_blocks = [2, 1, 1]",
        )
        .unwrap();
        let image = ImageShape {
            channels: 3,
            height: 16,
            width: 24,
        };
        let vae = Vae::new(&config, image, Device::Cpu, 5).unwrap();
        let folder = tempfile::tempdir().unwrap();
        vae.save_diffusers(folder.path(), None).unwrap();
        let found = DiffusersFiles::find(folder.path()).unwrap().unwrap();
        same(&vae, &found.load([16, 24], Device::Cpu).unwrap());
    }

    #[test]
    fn a_model_of_codes_is_written_and_read() {
        let config: ModelConfig = toml::from_str(
            "latent_shape = [3, 4, 6]\nprior = 'uniform_codes'\nposterior.vector_quantized.codes = 20\n\
             likelihood.gaussian.sigma = 1.0\n[network.autoencoder_kl]\nchannels = [8, 16, 16]\nblocks = 1\ngroups = 4",
        )
        .unwrap();
        let image = ImageShape {
            channels: 3,
            height: 16,
            width: 24,
        };
        let vae = Vae::new(&config, image, Device::Cpu, 5).unwrap();
        let folder = tempfile::tempdir().unwrap();
        vae.save_diffusers(folder.path(), None).unwrap();
        let found = DiffusersFiles::find(folder.path()).unwrap().unwrap();
        let read = found.load([16, 24], Device::Cpu).unwrap();
        let mut noise = Generator::cpu(7);
        let images = noise.randint(256, [2, 3, 16, 24], (Kind::Uint8, Device::Cpu));
        let codes = |vae: &Vae| no_grad(|| vae.reconstruct(&images).unwrap());
        assert_eq!(codes(&vae), codes(&read));
    }

    /// The names of `AutoencoderTiny`'s tensors by default, as diffusers has them.
    #[test]
    fn the_names_of_a_tiny_autoencoder_are_those_of_diffusers() {
        let named = tiny_names(&AutoencoderTinyConfig::default());
        let of = |theirs: &str| {
            let found = named.iter().find(|(name, _)| name == theirs);
            found.map(|(_, ours)| ours.as_str())
        };
        assert_eq!(of("encoder.layers.2"), Some("encoder.1.conv"));
        assert_eq!(of("encoder.layers.10"), Some("encoder.3.conv"));
        assert_eq!(of("encoder.layers.14"), Some("encoder.posterior"));
        assert_eq!(of("decoder.layers.6"), Some("decoder.0.conv"));
        assert_eq!(
            of("decoder.layers.17.conv.4"),
            Some("decoder.3.block.0.conv.2")
        );
        assert_eq!(of("decoder.layers.18"), Some("decoder.likelihood"));
    }

    #[test]
    fn other_models_are_not_written() {
        let config = ModelConfig::default();
        let image = ImageShape {
            channels: 1,
            height: 8,
            width: 8,
        };
        let vae = Vae::new(&config, image, Device::Cpu, 1).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let said = vae
            .save_diffusers(folder.path(), None)
            .unwrap_err()
            .to_string();
        assert!(
            said.contains("autoencoder_kl and autoencoder_tiny"),
            "{said}"
        );
    }
}
