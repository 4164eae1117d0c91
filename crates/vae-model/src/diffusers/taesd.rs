//! TAESD's original files, one of the encoder and one of the decoder: layers named by their places in a sequence.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::names::tiny_names;
use crate::ModelError;
use crate::network::AutoencoderTinyConfig;
use crate::tensor_file::OpenTensorFile;

/// The two files of a TAESD.
pub(super) struct Taesd {
    pub(super) encoder: PathBuf,
    pub(super) decoder: PathBuf,
    pub(super) network: AutoencoderTinyConfig,
    pub(super) n_channels: i64,
    pub(super) latent_channels: i64,
}

type Shapes = BTreeMap<String, Vec<i64>>;

/// Places in front of the decoder's first convolution: the bound of the latents, which diffusers does not count.
const N_BEFORE: usize = 1;

impl Taesd {
    /// The files in a folder, or the pair that a file belongs to: `…encoder….safetensors` and `…decoder….safetensors`.
    /// `None` if they are nothing of the kind.
    pub(super) fn find(path: &Path) -> Result<Option<Self>, ModelError> {
        let pairs = match path.is_dir() {
            true => pairs_in(path)?,
            false => pair_of(path).into_iter().collect(),
        };
        let mut found = Vec::new();
        for (encoder, decoder) in pairs {
            found.extend(Self::of(encoder, decoder)?);
        }
        if found.len() > 1 {
            let names = found.iter().map(|taesd| {
                let name = taesd.encoder.file_name().unwrap_or_default();
                name.to_string_lossy().into_owned()
            });
            let names: Vec<String> = names.collect();
            let problem = format!(
                "holds several tiny autoencoders; name one of {}",
                names.join(", ")
            );
            return Err(ModelError::weights(path, problem));
        }
        Ok(found.pop())
    }

    fn of(encoder: PathBuf, decoder: PathBuf) -> Result<Option<Self>, ModelError> {
        let shapes = |file: &Path| Ok::<_, ModelError>(OpenTensorFile::open(file)?.shapes());
        let (of_encoder, of_decoder) = (shapes(&encoder)?, shapes(&decoder)?);
        let Some((places, [n_channels, width, _])) = layers(&of_encoder, 0) else {
            return Ok(None);
        };
        let Some((up, [latent_channels, _, _])) = layers(&of_decoder, N_BEFORE) else {
            return Ok(None);
        };
        // A convolution begins each stage of the encoder, and the last one leads to the latents; in the decoder the first
        // one comes from the latents, and one ends each stage.
        let encoder_blocks: Vec<usize> = places[..places.len() - 1].to_vec();
        let decoder_blocks: Vec<usize> = up[..up.len() - 1].to_vec();
        let network = AutoencoderTinyConfig {
            channels: width,
            encoder_blocks,
            decoder_blocks,
        };
        Ok(network.check().is_ok().then_some(Self {
            encoder,
            decoder,
            network,
            n_channels,
            latent_channels,
        }))
    }

    /// The variables here by the names of the encoder's and of the decoder's tensors.
    pub(super) fn names(&self) -> [BTreeMap<String, String>; 2] {
        let of = |side: &str, n_before: usize| {
            let start = format!("{side}.layers.");
            let name = |(theirs, ours): (String, String)| {
                let place = theirs.strip_prefix(&start)?;
                let (number, rest) = match place.split_once('.') {
                    Some((number, rest)) => (number, format!(".{rest}")),
                    None => (place, String::new()),
                };
                let number = number.parse::<usize>().ok()? + n_before;
                Some((format!("{number}{rest}"), ours))
            };
            let layers = tiny_names(&self.network).into_iter().filter_map(name);
            let parts = |(theirs, ours): (String, String)| {
                ["weight", "bias"]
                    .map(|part| (format!("{theirs}.{part}"), format!("{ours}.{part}")))
            };
            layers.flat_map(parts).collect()
        };
        [of("encoder", 0), of("decoder", N_BEFORE)]
    }
}

/// The number of blocks after each convolution, and the channels of the first convolution's input and output and of the last
/// one's output; `None` if these are no such layers.
fn layers(shapes: &Shapes, first: usize) -> Option<(Vec<usize>, [i64; 3])> {
    let places: Option<BTreeSet<usize>> = shapes
        .keys()
        .map(|name| name.split('.').next()?.parse().ok())
        .collect();
    let mut blocks = Vec::new();
    let mut convolutions = Vec::new();
    for place in places? {
        if let Some(shape) = shapes.get(&format!("{place}.weight")) {
            convolutions.push(shape);
            blocks.push(0);
        } else if shapes.contains_key(&format!("{place}.conv.4.weight")) {
            *blocks.last_mut()? += 1;
        } else {
            return None;
        }
    }
    let is_first = shapes.contains_key(&format!("{first}.weight"));
    let is_whole = convolutions.len() > 1 && convolutions.iter().all(|shape| shape.len() == 4);
    let (begin, end) = (convolutions.first()?, convolutions.last()?);
    (is_first && is_whole).then(|| (blocks, [begin[1], begin[0], end[0]]))
}

/// The decoder's file beside an encoder's, or the reverse.
fn pair_of(file: &Path) -> Option<(PathBuf, PathBuf)> {
    let name = file.file_name()?.to_str()?;
    if !name.ends_with(".safetensors") {
        return None;
    }
    let with = |from: &str, to: &str| file.with_file_name(name.replacen(from, to, 1));
    let (encoder, decoder) = match (name.contains("encoder"), name.contains("decoder")) {
        (true, false) => (file.to_owned(), with("encoder", "decoder")),
        (false, true) => (with("decoder", "encoder"), file.to_owned()),
        _ => return None,
    };
    (encoder.is_file() && decoder.is_file()).then_some((encoder, decoder))
}

fn pairs_in(folder: &Path) -> Result<BTreeSet<(PathBuf, PathBuf)>, ModelError> {
    let entries = fs::read_dir(folder).map_err(ModelError::io(folder))?;
    let files: Result<Vec<PathBuf>, _> = entries.map(|entry| Ok(entry?.path())).collect();
    let files = files.map_err(ModelError::io(folder))?;
    Ok(files.iter().filter_map(|file| pair_of(file)).collect())
}
