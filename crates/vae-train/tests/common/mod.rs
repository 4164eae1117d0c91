//! Shared by the tests of training, each of which uses a part of it.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::fs;
use std::path::{Path, PathBuf};

use tch::Tensor;
use vae_data::Dataset;
use vae_model::{
    AttributeSpec, AttributeValues, ConditionSpec, DataSpec, ImageShape, ItemKind, ItemSpec,
    NetworkConfig,
};
use vae_train::RunConfig;

pub const SHAPE: ImageShape = ImageShape {
    channels: 1,
    height: 6,
    width: 5,
};

/// Images of a pattern that differs from image to image.
pub fn dataset(n: i64) -> Dataset {
    let bytes: Vec<u8> = (0..n * SHAPE.n_values())
        .map(|i| if (i * i) % 11 < 4 { 220 } else { 10 })
        .collect();
    let images = Tensor::from_slice(&bytes).view([n, 1, SHAPE.height, SHAPE.width]);
    Dataset::new(images, None).expect("a data set")
}

/// The checked configs of a folder of the workspace, by path.
pub fn configs(folder: &str) -> Vec<(PathBuf, RunConfig)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut configs: Vec<_> = fs::read_dir(root.join(folder))
        .expect(folder)
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .map(|path| {
            let name = path.display();
            let text = fs::read_to_string(&path).expect("text");
            let config: RunConfig = toml::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
            config.check().unwrap_or_else(|e| panic!("{name}: {e}"));
            (path, config)
        })
        .collect();
    configs.sort_by(|a, b| a.0.cmp(&b.0));
    configs
}

/// The data specification for a config's model.
pub fn data_spec(config: &RunConfig, item: impl Into<ItemSpec>) -> DataSpec {
    let item = item.into();
    let Some(condition) = &config.model.condition else {
        return item.into();
    };
    let attribute = |name: &String| AttributeSpec {
        name: name.clone(),
        values: AttributeValues::YesNo,
    };
    let n_classes = if condition.classes { 10 } else { 0 };
    DataSpec {
        item,
        condition: ConditionSpec {
            classes: (0..n_classes).map(|class| class.to_string()).collect(),
            attributes: condition.attributes.iter().map(attribute).collect(),
        },
    }
}

/// A config's items: images, series as those of the signals, sound, melodies, or texts of 30 characters.
pub fn item(config: &RunConfig) -> ItemSpec {
    if let Some(text) = &config.dataset.text {
        let kind = ItemKind::Tokens {
            vocabulary: 30,
            end: Some(0),
        };
        return ItemSpec::new(kind, vec![text.max_length as i64 + 1]);
    }
    if config.dataset.melodies.is_some() {
        return config.dataset.item_spec().expect("a shape");
    }
    match (&config.dataset.arrays, &config.dataset.audio_folder) {
        (Some(_), _) => ItemSpec::new(ItemKind::Array, vec![3, 128]),
        // Known from the config alone.
        (None, Some(_)) => config.dataset.item_spec().expect("a shape"),
        (None, None) => shape(config).into(),
    }
}

/// The shape of a config's images.
pub fn shape(config: &RunConfig) -> ImageShape {
    let side = match config.dataset.sprites {
        Some(_) => 64,
        None => 28,
    };
    match &config.dataset.image_folder {
        Some(photos) => ImageShape {
            channels: if photos.grayscale { 1 } else { 3 },
            height: photos.image_size.height as i64,
            width: photos.image_size.width as i64,
        },
        None => ImageShape {
            channels: 1,
            height: side,
            width: side,
        },
    }
}

/// The shape scaled down to sides of at most 32 pixels, which is faster; the networks work at any size, except
/// top_down. Series keep their shape.
pub fn small(item: &ItemSpec, network: &NetworkConfig) -> ItemSpec {
    if !item.is_image() || matches!(network, NetworkConfig::TopDown(_)) {
        return item.clone();
    }
    let shape = item.map();
    let small = |side: i64| side / ((side + 31) / 32);
    ImageShape {
        height: small(shape.height),
        width: small(shape.width),
        ..shape
    }
    .into()
}

/// The config for images of [`small`] sides: a latent map has to shrink with them.
pub fn for_small(mut config: RunConfig, item: &ItemSpec) -> RunConfig {
    let (whole, less) = (item.map(), small(item, &config.model.network).map());
    if let Some([_, height, width]) = &mut config.model.latent_shape {
        *height = *height * less.height / whole.height;
        *width = *width * less.width / whole.width;
    }
    config
}
