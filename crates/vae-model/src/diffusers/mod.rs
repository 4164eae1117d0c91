//! The autoencoders of latent diffusion in the files that diffusers and the original code write.

mod config_file;
mod names;
mod taesd;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::Deserialize;
use tch::{Device, Tensor};
use vae_base::read_small_text;

use crate::network::AutoencoderKlConfig;
use crate::preprocessing::LatentScaling;
use crate::tensor_file::OpenTensorFile;
use crate::{
    CodebookConfig, GaussianConfig, ImageShape, LikelihoodConfig, ModelConfig, ModelError,
    NetworkConfig, PosteriorConfig, PriorConfig, ScaleConfig, Vae, VectorQuantizedConfig, weights,
};
use config_file::{ConfigFile, KL, SampleSize, TINY, TinyConfigFile, VQ, groups};
use names::{OUR_CODES, names, prefix, tiny_names};
use taesd::Taesd;

/// The names of diffusers' files.
const CONFIG_FILE: &str = "config.json";
const WEIGHTS: &str = "diffusion_pytorch_model";

/// Bytes of the largest config or list of shards.
const LARGEST_JSON: u64 = 1 << 24;

/// An autoencoder of latent diffusion in files: a folder of diffusers, a safetensors file with its tensors under
/// diffusers' names or the original ones, also within a larger checkpoint, or the two original files of a TAESD.
#[derive(Debug)]
pub struct DiffusersFiles {
    /// The files of weights, each with the variables here by the names of its tensors.
    files: Vec<(PathBuf, Rc<BTreeMap<String, String>>)>,
    network: NetworkConfig,
    posterior: PosteriorConfig,
    n_channels: i64,
    latent_channels: i64,
    sample_size: Option<[i64; 2]>,
    scaling: Option<LatentScaling>,
}
/// The list of shards, `….safetensors.index.json`.
#[derive(Deserialize)]
struct Shards {
    weight_map: BTreeMap<String, String>,
}

impl DiffusersFiles {
    /// Looks at a folder or file. `None` if it is neither a folder with diffusers' `config.json` nor a safetensors file
    /// with such an autoencoder, nor has TAESD's two files.
    ///
    /// # Errors
    /// It is one, of another kind than `AutoencoderKL`; a file is missing or damaged, or only there as a pickle.
    pub fn find(path: &Path) -> Result<Option<Self>, ModelError> {
        let config = path.join(CONFIG_FILE);
        if !path.is_dir() {
            return match Self::of_files(path, vec![path.to_owned()], None)? {
                Some(files) => Ok(Some(files)),
                None => Ok(Taesd::find(path)?.map(Self::taesd)),
            };
        }
        let text = match read_small_text(&config, LARGEST_JSON) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Taesd::find(path)?.map(Self::taesd));
            }
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
        let names = Rc::new(names);
        let named = files.into_iter().map(|file| (file, Rc::clone(&names)));
        Ok(Some(Self {
            files: named.collect(),
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
        let names = Rc::new(names);
        let files = weights_in(path)?.into_iter();
        Ok(Self {
            files: files.map(|file| (file, Rc::clone(&names))).collect(),
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

    /// The two original files of a TAESD.
    fn taesd(taesd: Taesd) -> Self {
        let [of_encoder, of_decoder] = taesd.names().map(Rc::new);
        Self {
            files: vec![(taesd.encoder, of_encoder), (taesd.decoder, of_decoder)],
            network: NetworkConfig::AutoencoderTiny(taesd.network),
            posterior: PosteriorConfig::Deterministic,
            n_channels: taesd.n_channels,
            latent_channels: taesd.latent_channels,
            sample_size: None,
            // Its latents are scaled already.
            scaling: Some(LatentScaling {
                factor: 1.0,
                shift: 0.0,
            }),
        }
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
        for (file, names) in &self.files {
            let mut open = OpenTensorFile::open(file)?;
            for (theirs, tensor) in open.read(|name| names.contains_key(name))? {
                let ours = &names[&theirs];
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
        let (path, _) = &self.files[0];
        let found: BTreeMap<String, Vec<i64>> = tensors
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.size()))
            .collect();
        let theirs: BTreeMap<&str, &str> = self
            .files
            .iter()
            .flat_map(|(_, names)| names.iter())
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

#[cfg(test)]
mod tests {
    use tch::{Kind, no_grad};

    use std::fs;

    use super::names::{ours, theirs};
    use super::*;
    use crate::network::AutoencoderTinyConfig;
    use crate::{Generator, write_tensors};

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
    fn the_two_original_files_of_a_taesd_are_read() {
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
        let NetworkConfig::AutoencoderTiny(network) = &config.network else {
            panic!("another network");
        };
        let folder = tempfile::tempdir().unwrap();
        let variables: BTreeMap<String, Tensor> = vae.named_variables().into_iter().collect();
        for (side, shift) in [("encoder", 0), ("decoder", 1)] {
            let mut tensors = Vec::new();
            for (theirs, ours) in tiny_names(network) {
                let Some(place) = theirs.strip_prefix(&format!("{side}.layers.")) else {
                    continue;
                };
                let (number, rest) = place.split_once('.').unwrap_or((place, ""));
                let number = number.parse::<usize>().unwrap() + shift;
                let point = if rest.is_empty() { "" } else { "." };
                for part in ["weight", "bias"] {
                    // The convolutions that change the size have no bias.
                    if let Some(variable) = variables.get(&format!("{ours}.{part}")) {
                        let name = format!("{number}{point}{rest}.{part}");
                        tensors.push((name, variable.shallow_clone()));
                    }
                }
            }
            let file = folder.path().join(format!("taesd_{side}.safetensors"));
            write_tensors(&file, &tensors, &[]).unwrap();
        }
        let encoder = folder.path().join("taesd_encoder.safetensors");
        for path in [folder.path(), &encoder] {
            let files = DiffusersFiles::find(path).unwrap().expect("found");
            let read = files.load([16, 24], Device::Cpu).unwrap();
            assert_eq!(read.config().network, config.network);
            same(&vae, &read);
        }
        fs::copy(&encoder, folder.path().join("other_encoder.safetensors")).unwrap();
        let decoder = folder.path().join("taesd_decoder.safetensors");
        fs::copy(&decoder, folder.path().join("other_decoder.safetensors")).unwrap();
        let said = DiffusersFiles::find(folder.path()).unwrap_err().to_string();
        assert!(
            said.contains("other_encoder.safetensors, taesd_encoder"),
            "{said}"
        );
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
