//! The readers of users' files as functions of a file's bytes, for the test of mutants and for the fuzz targets. Any
//! value or error is fine, but no panic.

use std::cell::OnceCell;
use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use tch::{Device, Kind, Tensor};
use tempfile::TempDir;
use vae_data::image_folder::{ImageFolder, ImageFolderConfig};
use vae_data::melodies::to_midi;
use vae_data::{Dataset, DatasetConfig, ImageShape, Inputs, MelodySpec, Splits, idx};
use vae_model::{
    AutoregressiveConfig, ConditionSpec, Covariance, Generator, LatentSet, LatentSpace,
    ModelConfig, Sampler, SamplerConfig, SamplerRecord, Support, Vae, WEIGHTS_FILE, read_tensors,
    verify_sums, write_sums,
};
use vae_run::{Checkpoint, RunConfig, RunDir};
use vae_train::{Checkpoints, Trainer};

// Included from the binary, which uses more of it.
#[allow(dead_code, unused_imports)]
#[path = "../../src/arrays/mod.rs"]
mod arrays;

use arrays::{CODE, Field, LatentsReader, MEAN, TableWriter, Values};

/// A format with its reader.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// Reads a file with these bytes as the commands do. Returns whether it was accepted.
    pub(crate) read: fn(&[u8]) -> bool,
    /// Valid files to start from.
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
}

pub(crate) const TARGETS: [Target; 14] = [
    Target {
        name: "idx",
        read: read_idx,
        seeds: idx_seeds,
    },
    Target {
        name: "zip",
        read: read_zip,
        seeds: zip_seeds,
    },
    Target {
        name: "image",
        read: read_image,
        seeds: image_seeds,
    },
    Target {
        name: "weights",
        read: read_weights,
        seeds: weights_seeds,
    },
    Target {
        name: "sampler",
        read: read_sampler,
        seeds: sampler_seeds,
    },
    Target {
        name: "checkpoint",
        read: read_checkpoint,
        seeds: checkpoint_seeds,
    },
    Target {
        name: "config",
        read: read_config,
        seeds: config_seeds,
    },
    Target {
        name: "latents",
        read: read_latents,
        seeds: latents_seeds,
    },
    Target {
        name: "arrays",
        read: read_arrays,
        seeds: arrays_seeds,
    },
    Target {
        name: "text",
        read: read_text,
        seeds: text_seeds,
    },
    Target {
        name: "sound",
        read: read_sound,
        seeds: sound_seeds,
    },
    Target {
        name: "melody",
        read: read_melody,
        seeds: melody_seeds,
    },
    Target {
        name: "partition",
        read: read_partition,
        seeds: partition_seeds,
    },
    Target {
        name: "attributes",
        read: read_attributes,
        seeds: attributes_seeds,
    },
];

/// A list in CelebA's format: 0 is training, 1 validation, 2 test.
const PARTITION: &str = "000000.png 0\n000001.png 0\n000002.png 1\n000003.png 2\n";

/// The side of all images here.
const SIDE: u32 = 4;

/// The files that a thread reads, created once.
struct Workplace {
    folder: TempDir,
    run: OnceCell<Run>,
}

struct Run {
    run_dir: RunDir,
    config: RunConfig,
    vae: Vae,
    splits: Splits,
}

thread_local! {
    static WORKPLACE: Workplace = Workplace {
        folder: tempfile::tempdir().expect("a folder"),
        run: OnceCell::new(),
    };
}

impl Workplace {
    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).expect("written");
        path
    }

    /// A folder with four images and a partition list.
    fn photos(&self) -> PathBuf {
        let folder = self.folder.path().join("photos");
        if !folder.is_dir() {
            fs::create_dir(&folder).expect("created");
            for i in 0..4 {
                let file = folder.join(format!("00000{i}.png"));
                fs::write(file, png(i)).expect("written");
            }
            fs::write(folder.join("list_eval_partition.txt"), PARTITION).expect("written");
        }
        folder
    }

    /// A run of one epoch, whose checkpoint is damaged by the tests.
    fn run(&self) -> &Run {
        self.run.get_or_init(|| {
            let config: RunConfig = toml::from_str(
                "seed = 3\n[dataset.idx]\nfolder = 'unused'\n[model]\nlatent_dims = 2\n\
                 network.mlp.hidden = [3]\n[training]\nepochs = 1\nbatch_size = 4\nema_decay = 0.9\n",
            )
            .expect("a config");
            let images = |n: i64| {
                let side = i64::from(SIDE);
                let numbers = Tensor::arange(n * side * side, (Kind::Int64, Device::Cpu));
                let images = numbers.remainder(251).to_kind(Kind::Uint8);
                Dataset::new(images.view([n, 1, side, side]), None).expect("images")
            };
            let splits = Splits::new(images(8), Some(images(4)), images(4));
            let vae = Vae::new(&config.model, shape(), Device::Cpu, 1).expect("a model");
            let run_dir = RunDir::create(&self.folder.path().join("run"), &config).expect("a run");
            let mut trainer = Trainer::new(&vae, &splits, &config).expect("a trainer");
            trainer.save_to(run_dir.clone());
            trainer.add(Checkpoints::new(&config.checkpoints));
            let outcome = trainer.fit(&AtomicBool::new(false));
            outcome.ended.expect("trained");
            Run {
                run_dir,
                config,
                vae,
                splits,
            }
        })
    }
}

fn shape() -> vae_model::ImageShape {
    vae_model::ImageShape {
        channels: 1,
        height: i64::from(SIDE),
        width: i64::from(SIDE),
    }
}

fn png(i: u8) -> Vec<u8> {
    let pixels: Vec<u8> = (0..SIDE * SIDE * 3)
        .map(|x| (x as u8).wrapping_mul(i + 3))
        .collect();
    let image = image::RgbImage::from_raw(SIDE, SIDE, pixels).expect("an image");
    let mut file = Cursor::new(Vec::new());
    image
        .write_to(&mut file, image::ImageFormat::Png)
        .expect("encoded");
    file.into_inner()
}

// MNIST's format.

pub(crate) fn read_idx(bytes: &[u8]) -> bool {
    WORKPLACE.with(|workplace| {
        let path = workplace.put("idx-ubyte", bytes);
        let are_images = idx::read_images(&path).is_ok();
        let are_labels = idx::read_labels(&path).is_ok();
        let have_size = idx::read_size(&path).is_ok();
        (are_images && have_size) || are_labels
    })
}

fn idx_seeds() -> Vec<Vec<u8>> {
    let header = |numbers: &[u32]| -> Vec<u8> {
        numbers
            .iter()
            .flat_map(|number| number.to_be_bytes())
            .collect()
    };
    let images = [header(&[0x803, 3, SIDE, SIDE]), (0..48).collect()].concat();
    let labels = [header(&[0x801, 5]), vec![0, 1, 2, 9, 4]].concat();
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).expect("written");
        encoder.finish().expect("finished")
    };
    vec![gzip(&images), gzip(&labels), images, labels]
}

// Photos.

/// A data set of the images in a folder or zip.
fn photos_config(path: &Path) -> ImageFolderConfig {
    let mut config: ImageFolderConfig =
        toml::from_str("path = 'x'\nimage_size = 4\npack = false\nworkers = 1").expect("a config");
    config.path = path.to_owned();
    config
}

fn dataset_of(folder: ImageFolderConfig) -> DatasetConfig {
    let mut config: DatasetConfig = toml::from_str("").expect("a config");
    config.image_folder = Some(folder);
    config
}

fn read_inputs(path: PathBuf) -> bool {
    let config = dataset_of(photos_config(&path));
    let shape = ImageShape {
        channels: 3,
        height: i64::from(SIDE),
        width: i64::from(SIDE),
    };
    Inputs::open(&config, shape, &[path], None)
        .and_then(|inputs| inputs.read(8))
        .is_ok_and(|batch| !batch.names.is_empty())
}

pub(crate) fn read_zip(bytes: &[u8]) -> bool {
    WORKPLACE.with(|workplace| {
        let path = workplace.put("photos.zip", bytes);
        let is_open = ImageFolder::open(&photos_config(&path)).is_ok();
        read_inputs(path) && is_open
    })
}

fn zip_seeds() -> Vec<Vec<u8>> {
    use zip::CompressionMethod::{Deflated, Stored};
    let zip = |names: &[&str], method| {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default()
            .compression_method(method)
            .last_modified_time(zip::DateTime::default());
        for (i, name) in (0..).zip(names) {
            writer.start_file(*name, options).expect("started");
            writer.write_all(&png(i)).expect("written");
        }
        writer.finish().expect("finished").into_inner()
    };
    vec![
        zip(&["a.png", "b/c.png"], Stored),
        zip(&["a.png", "b/c.png", "d.txt"], Deflated),
    ]
}

pub(crate) fn read_image(bytes: &[u8]) -> bool {
    let ending = match bytes {
        [0x89, ..] => "png",
        [b'R', ..] => "webp",
        [b'B', ..] => "bmp",
        _ => "jpg",
    };
    WORKPLACE.with(|workplace| read_inputs(workplace.put(&format!("photo.{ending}"), bytes)))
}

fn image_seeds() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vae-data/tests/photos");
    let photos = [
        "cmyk.jpg",
        "exif-rotated.jpg",
        "progressive-gray.jpg",
        "upright.png",
    ];
    let mut seeds = photos
        .map(|name| fs::read(folder.join(name)).expect("a photo"))
        .to_vec();
    seeds.push(png(0));
    seeds
}

// Weights.

pub(crate) fn read_weights(bytes: &[u8]) -> bool {
    WORKPLACE.with(|workplace| {
        let path = workplace.put(WEIGHTS_FILE, bytes);
        let loaded = Vae::load(&path, Device::Cpu).is_ok();
        read_tensors(&path).is_ok() && loaded
    })
}

fn weights_seeds() -> Vec<Vec<u8>> {
    [
        "latent_dims = 2\nnetwork.mlp.hidden = [3]",
        "latent_dims = 2\nnetwork.conv = { channels = [2, 3], strides = [1, 2], hidden = 3, \
         decoder_channels = [2], decoder_strides = [2] }\nlikelihood.gaussian.sigma = 'learned'",
        "latent_dims = 2\nnetwork.residual = { channels = [8], blocks = 1, group_size = 8 }\n\
         prior.real_nvp = { layers = 2, hidden = 3 }\ndecoder_spectral_norm = true",
        "latent_dims = 2\nnetwork.conv_batch_norm.channels = [2]\n\
         posterior.iaf = { flows = 2, hidden = 3, context = 2 }\n\
         prior.gaussian_mixture.components = 2",
        "latent_dims = 2\nnetwork.mlp.hidden = [3]\nprior.vamp.pseudo_inputs = 2\n\
         likelihood.logistic_mixture.components = 2",
    ]
    .map(|text| {
        let config: ModelConfig = toml::from_str(text).expect(text);
        let vae = Vae::new(&config, shape(), Device::Cpu, 1).expect(text);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(WEIGHTS_FILE);
        vae.save(&path).expect("saved");
        fs::read(&path).expect("read")
    })
    .to_vec()
}

// Samplers.

fn latent_space() -> LatentSpace {
    LatentSpace {
        latent_dims: 4,
        shape: Some([2, 1, 2]),
        support: Support::Euclidean,
        codes: None,
        condition: ConditionSpec {
            classes: vec!["a".to_owned(), "b".to_owned()],
            attributes: vec![],
        },
    }
}

pub(crate) fn read_sampler(bytes: &[u8]) -> bool {
    WORKPLACE.with(|workplace| {
        let path = workplace.put("sampler.safetensors", bytes);
        let is_described = SamplerRecord::read(&path).is_ok();
        let Ok((sampler, _)) = Sampler::load(&path, &latent_space(), Device::Cpu) else {
            return false;
        };
        // Finite numbers of any size: what is drawn may be NaN, and nothing panics.
        let condition = Tensor::from_slice2(&[[1_f32, 0.0], [f32::NAN, f32::NAN]]);
        let mut generator = Generator::cpu(1);
        let drawn = sampler.sample(2, Some(&condition), 0.5, &mut generator);
        let set = LatentSet {
            latents: Tensor::ones([2, 4], (Kind::Float, Device::Cpu)),
            condition: Some(condition),
        };
        is_described && drawn.is_ok() && sampler.log_prob(&set, &mut generator).is_ok()
    })
}

fn sampler_seeds() -> Vec<Vec<u8>> {
    let gmm = |covariance| SamplerConfig::Gmm {
        components: 2,
        covariance,
    };
    [
        gmm(Covariance::Full),
        gmm(Covariance::Diagonal),
        SamplerConfig::Flow {
            layers: 1,
            hidden: 3,
        },
        SamplerConfig::TwoStage {
            latent_dims: 2,
            hidden: 3,
        },
        SamplerConfig::Knn {
            neighbors: 2,
            points: 6,
        },
        SamplerConfig::Autoregressive(AutoregressiveConfig {
            layers: 1,
            width: 8,
        }),
    ]
    .map(|config| {
        let sampler = Sampler::new(&config, &latent_space(), Device::Cpu, 1).expect("a sampler");
        let class = Tensor::arange(8, (Kind::Int64, Device::Cpu)).remainder(2);
        let train = LatentSet {
            latents: Generator::cpu(1).normal([8, 4], Device::Cpu),
            condition: Some(class.one_hot(2).to_kind(Kind::Float)),
        };
        assert!(sampler.start(&train, 1, &mut |_| true).expect("fitted"));
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sampler.safetensors");
        let record = SamplerRecord {
            weights: "0".repeat(64),
            checkpoint: "epoch-0001".to_owned(),
            log_prob: Some(-1.0),
            is_bound: false,
            prior_log_prob: None,
            n_train: 8,
            n_validation: 1,
            seed: 0,
        };
        sampler.save(&path, &record).expect("saved");
        fs::read(&path).expect("read")
    })
    .to_vec()
}

// Checkpoints: the state, the checksums or a file of tensors, distinguished by their first bytes.

pub(crate) fn read_checkpoint(bytes: &[u8]) -> bool {
    WORKPLACE.with(|workplace| {
        let run = workplace.run();
        let folder = run.run_dir.checkpoints().join("last");
        let is_state = bytes.trim_ascii_start().first() == Some(&b'{');
        let is_tensors = bytes.get(8) == Some(&b'{');
        let name = match (is_state, is_tensors) {
            (true, _) => "state.json",
            (_, true) => "optimizer.safetensors",
            _ => "SHA256SUMS",
        };
        let file = folder.join(name);
        let before = [name, "SHA256SUMS"].map(|name| fs::read(folder.join(name)).expect("read"));
        fs::write(&file, bytes).expect("written");
        let mut is_taken = true;
        if name == "SHA256SUMS" {
            is_taken = verify_sums(&folder, &[WEIGHTS_FILE]).is_ok();
        } else {
            let names = ["weights", "raw-weights", "optimizer"].map(|n| format!("{n}.safetensors"));
            let names: Vec<&str> = names
                .iter()
                .map(String::as_str)
                .chain(["state.json"])
                .collect();
            write_sums(&folder, &names).expect("written");
        }
        is_taken &= Checkpoint::Last.open(&run.run_dir).is_ok_and(|checkpoint| {
            let _ = checkpoint.state.config.check();
            let _ = vae_run::check_resume(&run.run_dir, &checkpoint.state, &run.config);
            let loaded = Vae::load(&checkpoint.folder, Device::Cpu).is_ok();
            let mut trainer = Trainer::new(&run.vae, &run.splits, &run.config).expect("a trainer");
            trainer.add(Checkpoints::new(&run.config.checkpoints));
            trainer.resume(checkpoint).is_ok() && loaded
        });
        let _ = Checkpoint::Best.open(&run.run_dir);
        for (name, bytes) in [name, "SHA256SUMS"].into_iter().zip(before) {
            fs::write(folder.join(name), bytes).expect("written");
        }
        is_taken
    })
}

fn checkpoint_seeds() -> Vec<Vec<u8>> {
    WORKPLACE.with(|workplace| {
        let folder = workplace.run().run_dir.checkpoints().join("last");
        [
            "state.json",
            "optimizer.safetensors",
            "SHA256SUMS",
            "state.json",
        ]
        .map(|name| fs::read(folder.join(name)).expect("read"))
        .to_vec()
    })
}

// Configs.

pub(crate) fn read_config(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let Ok(config) = toml::from_str::<RunConfig>(text) else {
        return false;
    };
    if config.check().is_err() {
        return false;
    }
    // An accepted config can be written and read again without changes.
    let written = toml::to_string(&config).expect("TOML");
    let again: RunConfig = toml::from_str(&written).expect("the config that was written");
    assert!(again == config, "{written}");
    true
}

fn config_seeds() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let mut files: Vec<PathBuf> = [root.clone(), root.join("models")]
        .iter()
        .flat_map(|folder| fs::read_dir(folder).expect("configs"))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "toml"))
        .collect();
    files.sort();
    // Without comments, so that the changes hit values.
    let read = |path: &PathBuf| {
        let config: RunConfig =
            toml::from_str(&fs::read_to_string(path).expect("read")).expect("a config");
        toml::to_string(&config).expect("TOML").into_bytes()
    };
    files.iter().map(read).collect()
}

// Arrays as items.

pub(crate) fn read_arrays(bytes: &[u8]) -> bool {
    WORKPLACE.with(|workplace| {
        let path = workplace.put("arrays", bytes);
        let mut config: DatasetConfig =
            toml::from_str("arrays = { train = 'x', missing = 'ignore' }").expect("a config");
        if let Some(arrays) = &mut config.arrays {
            arrays.train.file.clone_from(&path);
        }
        let Ok(splits) = config.load() else {
            return false;
        };
        Inputs::open(&config, splits.train.item().clone(), &[path], None)
            .and_then(|inputs| inputs.read(1000))
            .is_ok()
    })
}

/// As a file of lines and as a table, in each kind of tokens.
pub(crate) fn read_text(bytes: &[u8]) -> bool {
    WORKPLACE.with(|workplace| {
        let mut is_read = false;
        for (name, columns) in [("a.txt", ""), ("a.csv", "column = 'name', labels = 'kind',")] {
            let path = workplace.put(name, bytes);
            for tokens in ["'character'", "{ word = { min_count = 1 } }"] {
                for invalid in ["refuse", "skip"] {
                    let text = format!(
                        "text = {{ path = '{}', {columns} tokens = {tokens}, invalid = '{invalid}', max_length = 9 }}",
                        path.display()
                    );
                    let config: DatasetConfig = toml::from_str(&text).expect("a config");
                    let Ok(splits) = config.load() else {
                        continue;
                    };
                    let item = splits.train.item().clone();
                    let inputs = Inputs::open(&config, item, std::slice::from_ref(&path), None);
                    is_read |= inputs.and_then(|inputs| inputs.read(100_000)).is_ok();
                }
            }
        }
        is_read
    })
}

fn text_seeds() -> Vec<Vec<u8>> {
    let lines = "In the beginning\r\n\n\u{feff}Æ 日本\na well-known 16th, it's\n";
    let table = "name,kind\nAda,female\n\"Al, the elder\",male\nX,\n";
    [lines, table].map(|text| text.as_bytes().to_vec()).to_vec()
}

/// A recording as a clip, and as a spectrogram.
pub(crate) fn read_sound(bytes: &[u8]) -> bool {
    WORKPLACE.with(|workplace| {
        let path = workplace.put("sound", bytes);
        let read = |more: &str| {
            let text = format!(
                "[audio_folder]\npath = 'x'\nrate = 8000\nseconds = 0.1\nmax_seconds = 2.0\nalign = 'onset'\n{more}"
            );
            let config: DatasetConfig = toml::from_str(&text).expect("a config");
            let item = config.item_spec().expect("a shape");
            let inputs = Inputs::open(&config, item, std::slice::from_ref(&path), None);
            inputs.and_then(|inputs| inputs.read(1)).is_ok()
        };
        let [clip, spectrogram] =
            ["", "[audio_folder.spectrogram]\nbands = 8\nwindow = 128\nhop = 64"].map(read);
        assert_eq!(clip, spectrogram, "both are of the same samples");
        clip
    })
}

fn sound_seeds() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vae-sound/tests/recordings");
    let entries = fs::read_dir(folder).expect("recordings");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ending| ending != "sh")) // What made them.
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| fs::read(path).expect("a recording"))
        .collect()
}

/// A MIDI or ABC file as melodies.
pub(crate) fn read_melody(bytes: &[u8]) -> bool {
    WORKPLACE.with(|workplace| {
        let path = workplace.put("melody", bytes);
        ["'part'", "'skyline'"].iter().any(|line| {
            let text = format!(
                "[melodies]\npath = 'x'\nbars = 1\nmin_notes = 1\nmelody = {line}\nmeters = ['4/4', '2/2', '6/8']"
            );
            let config: DatasetConfig = toml::from_str(&text).expect("a config");
            let item = config.item_spec().expect("a shape");
            let inputs = Inputs::open(&config, item, std::slice::from_ref(&path), None);
            inputs.and_then(|inputs| inputs.read(1 << 20)).is_ok()
        })
    })
}

fn melody_seeds() -> Vec<Vec<u8>> {
    let spec = MelodySpec {
        bars: 2,
        steps_per_bar: 16,
        meter: [4, 4],
    };
    let tokens: Vec<i64> = (0..32).map(|i| [40, 0, 44, 1][i % 4]).collect();
    let midi = to_midi(&spec, &tokens);
    // The same in two tracks of a parallel file.
    let track = &midi[14..];
    let parallel = [b"MThd\0\0\0\x06\0\x01\0\x02\x01\xe0", track, track].concat();
    let abc = "%abc\nX:1\nT:A tune\nM:4/4\nL:1/8\nQ:1/4=90\nK:D mix ^g\n\
               A|:\"D\"d2{c}c>B (3ABc [Ac]2-|[M:2/2]!trill!A4 z2 ^F/G//A,|1 d'8:|2 d4 (5:4:5ABcde f|]\n\n\
               X:2\nM:6/8\nK:none\nABc cBA|Z2|\n";
    vec![midi, parallel, abc.as_bytes().to_vec()]
}

fn arrays_seeds() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vae-data/tests/arrays_of_python");
    let files = [
        "fortran.npy",
        "transposed.npy",
        "plain.npz",
        "deflated.npz",
        "one.safetensors",
        "fixed.parquet",
        "pandas.parquet",
    ];
    files
        .map(|name| fs::read(folder.join(name)).expect("an array"))
        .to_vec()
}

// Tables of latents, distinguished by their first bytes.

pub(crate) fn read_latents(bytes: &[u8]) -> bool {
    let ending = match bytes {
        [0x93, b'N', ..] => "npy",
        [b'P', b'A', b'R', b'1', ..] => "parquet",
        [_, _, _, _, _, _, _, _, b'{', ..] => "safetensors",
        _ => "csv",
    };
    WORKPLACE.with(|workplace| {
        let path = workplace.put(&format!("latents.{ending}"), bytes);
        // Codes differ from latents in the columns and tensors that are looked for.
        let _ = LatentsReader::open(&path, CODE, 2).map(|mut reader| reader.read(100));
        let Ok(mut reader) = LatentsReader::open(&path, MEAN, 2) else {
            return false;
        };
        let _ = reader.n_rows();
        loop {
            match reader.read(100) {
                // No reader continues forever without returning a row.
                Ok(Some(rows)) => {
                    assert!(rows.n_rows > 0 && rows.values.len() == 2 * rows.n_rows);
                }
                end => return end.is_ok(),
            }
        }
    })
}

fn latents_seeds() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().expect("a folder");
    ["csv", "parquet", "safetensors", "npy"]
        .map(|ending| {
            let path = folder.path().join(format!("latents.{ending}"));
            let mut fields = vec![Field::vector("mean", 2)];
            let mut values = vec![Values::Reals(vec![0.5, -1.25, 3.0, 1e-3, 7.5, -0.0])];
            if ending != "npy" {
                fields.insert(0, Field::text("file"));
                let names = ["a.png", "b/c.png", "d.png"].map(str::to_owned).to_vec();
                values.insert(0, Values::Text(names));
            }
            let mut writer = TableWriter::create(&path, fields).expect("created");
            writer.write(values).expect("written");
            writer.finish().expect("finished");
            fs::read(&path).expect("read")
        })
        .to_vec()
}

// Lists beside photos.

fn read_list(name: &str, bytes: &[u8], set: fn(&mut ImageFolderConfig, PathBuf)) -> bool {
    WORKPLACE.with(|workplace| {
        let mut folder = photos_config(&workplace.photos());
        set(&mut folder, workplace.put(name, bytes));
        let loaded = dataset_of(folder).load();
        loaded.is_ok_and(|splits| splits.train.first(1).is_ok())
    })
}

pub(crate) fn read_partition(bytes: &[u8]) -> bool {
    read_list("partition.txt", bytes, |config, path| {
        config.partition = Some(path)
    })
}

fn partition_seeds() -> Vec<Vec<u8>> {
    [
        PARTITION,
        "\u{feff}000000.png 0\r\n000001.png 0\r\n000002.png 1\r\n000003.png 2\r\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

pub(crate) fn read_attributes(bytes: &[u8]) -> bool {
    read_list("attributes.txt", bytes, |config, path| {
        config.attributes = Some(path)
    })
}

fn attributes_seeds() -> Vec<Vec<u8>> {
    [
        "4\nMale Young\n000000.png 1 -1\n000001.png -1 1\n000002.png 1 1\n000003.png -1 -1\n",
        "file,Male,Young\n000000.png,1,-1\n000001.png,,1\n000002.png,0.5,NA\n000003.png,-1,-1\n",
        "Male\timage_id\tYoung\n1\t000000.png\t-1\n-1\t000001.png\t1\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
