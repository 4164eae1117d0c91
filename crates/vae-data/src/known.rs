//! Recognizes public data sets from a config.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::array_file::ArrayReader;
use crate::arrays::ArraysConfig;
use crate::config::{IdxConfig, find_file};
use crate::{DataError, DatasetConfig, idx};

/// A public data set with published results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum KnownDataset {
    /// Handwritten digits, also Larochelle's black-and-white ones.
    #[serde(rename = "MNIST")]
    Mnist,
    /// Clothing.
    #[serde(rename = "Fashion-MNIST")]
    FashionMnist,
    /// Cursive Japanese.
    #[serde(rename = "KMNIST")]
    Kmnist,
    /// Faces, aligned.
    CelebA,
    /// Shapes with known factors.
    #[serde(rename = "dSprites")]
    DSprites,
    /// Small photos of ten classes.
    #[serde(rename = "CIFAR-10")]
    Cifar10,
    /// Any other data set.
    #[default]
    #[serde(rename = "unknown")]
    Unknown,
}

impl KnownDataset {
    /// Number of images in its standard test split, if it has one.
    #[must_use]
    pub fn n_test_images(self) -> Option<usize> {
        match self {
            Self::Mnist | Self::FashionMnist | Self::Kmnist | Self::Cifar10 => Some(10_000),
            Self::CelebA => Some(19_962),
            Self::DSprites | Self::Unknown => None,
        }
    }
}

/// The usual spelling.
impl fmt::Display for KnownDataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mnist => "MNIST",
            Self::FashionMnist => "Fashion-MNIST",
            Self::Kmnist => "KMNIST",
            Self::CelebA => "CelebA",
            Self::DSprites => "dSprites",
            Self::Cifar10 => "CIFAR-10",
            Self::Unknown => "unknown",
        })
    }
}

/// How a data set was recognized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecognizedBy {
    /// The SHA-256 of its file of test images, or of the same images in an array.
    Digest,
    /// The name of its folder or file, and the number and size of the images if these are fixed.
    Name,
}

/// The data set that a config's images belong to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetIdentity {
    /// The public data set.
    pub name: KnownDataset,
    /// How it was recognized; `None` for an unknown one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recognized_by: Option<RecognizedBy>,
    /// The name of the folder, the zip or the file, without its ending.
    pub source: String,
}

/// The public name; for an unknown data set the folder's name.
impl fmt::Display for DatasetIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            KnownDataset::Unknown => f.write_str(&self.source),
            known => known.fmt(f),
        }
    }
}

/// SHA-256 of files of test images: of their content and of the published gzip files, from `datasets/*.toml`.
const DIGESTS: [(&str, KnownDataset); 3] = [
    (
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        KnownDataset::Mnist,
    ),
    (
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        KnownDataset::FashionMnist,
    ),
    (
        "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
        KnownDataset::Kmnist,
    ),
];

/// Folders of idx files by their names in lowercase, without `-` and `_`. MNIST is not among them: it is recognized
/// by the digest of its test images, so that a folder with other content is not taken for it.
const FOLDERS: [(&str, KnownDataset); 3] = [
    ("fashionmnist", KnownDataset::FashionMnist),
    ("kmnist", KnownDataset::Kmnist),
    (BINARIZED_MNIST, KnownDataset::Mnist),
];

const BINARIZED_MNIST: &str = "binarizedmnist";

impl DatasetConfig {
    /// The data set that the images belong to.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn identity(&self) -> Result<DatasetIdentity, DataError> {
        let unknown = |path: &Path| DatasetIdentity {
            source: stem(path),
            ..DatasetIdentity::default()
        };
        let by_name = |path: &Path, is_known: &dyn Fn(&str) -> bool, name| match stem(path) {
            source if is_known(&source) => DatasetIdentity {
                name,
                recognized_by: Some(RecognizedBy::Name),
                source,
            },
            _ => unknown(path),
        };
        if let Some(idx) = &self.idx {
            return Ok(DatasetIdentity {
                source: stem(&idx.folder),
                ..idx.identity()?
            });
        }
        if let Some(photos) = &self.image_folder {
            let is_celeba = |name: &str| name == "img_align_celeba";
            return Ok(by_name(&photos.path, &is_celeba, KnownDataset::CelebA));
        }
        if let Some(sprites) = &self.sprites {
            let is_dsprites = |name: &str| name.starts_with("dsprites");
            return Ok(by_name(&sprites.file, &is_dsprites, KnownDataset::DSprites));
        }
        if let Some(arrays) = &self.arrays {
            return Ok(DatasetIdentity {
                source: stem(&arrays.train.file),
                ..arrays.identity()?
            });
        }
        let paths = [
            self.audio_folder.as_ref().map(|sounds| &sounds.path),
            self.text.as_ref().map(|text| &text.path),
            self.melodies.as_ref().map(|melodies| &melodies.path),
        ];
        let path = paths.into_iter().flatten().next();
        Ok(path.map_or_else(DatasetIdentity::default, |path| unknown(path)))
    }

    /// Whether the images are MNIST as binarized by Larochelle & Murray (2011), in the folder that `cargo xtask
    /// fetch-data binarized-mnist` creates.
    #[must_use]
    pub fn is_binarized_mnist(&self) -> bool {
        let folder = self.idx.as_ref().map(|idx| plain(&stem(&idx.folder)));
        folder.as_deref() == Some(BINARIZED_MNIST)
    }
}

impl IdxConfig {
    fn identity(&self) -> Result<DatasetIdentity, DataError> {
        let Some(images) = find_file(&self.folder, "t10k-images-idx3-ubyte")? else {
            return Ok(DatasetIdentity::default());
        };
        let digests = digests(&images).map_err(|source| DataError::Io {
            path: images.clone(),
            source,
        })?;
        if let Some(identity) = digests.iter().find_map(|digest| by_digest(digest)) {
            return Ok(identity);
        }
        let folder = plain(&stem(&self.folder));
        let named = FOLDERS.iter().find(|(name, _)| *name == folder);
        let Some((_, name)) = named else {
            return Ok(DatasetIdentity::default());
        };
        let [n_images, height, width] = idx::read_images_header(&images)?;
        let fits = name.n_test_images() == Some(n_images as usize) && [height, width] == [28, 28];
        Ok(match fits {
            true => DatasetIdentity {
                name: *name,
                recognized_by: Some(RecognizedBy::Name),
                source: String::new(),
            },
            false => DatasetIdentity::default(),
        })
    }
}

impl ArraysConfig {
    /// Recognizes MNIST in Keras' `mnist.npz` and the like: the test images are those of MNIST's own file. Of the other
    /// data sets only the digests of gzipped files are known, so they are not recognized in arrays.
    fn identity(&self) -> Result<DatasetIdentity, DataError> {
        let Some((mut reader, sides)) = self.gray_test_images()? else {
            return Ok(DatasetIdentity::default());
        };
        // Other sizes are in none of the known files, so their images need not be read.
        if (reader.shape()[0], sides) != (10_000, [28, 28]) {
            return Ok(DatasetIdentity::default());
        }
        let digest = digest_as_idx(&mut reader, sides)?;
        Ok(by_digest(&digest).unwrap_or_default())
    }
}

fn by_digest(digest: &str) -> Option<DatasetIdentity> {
    let (_, name) = DIGESTS.iter().find(|(known, _)| *known == digest)?;
    Some(DatasetIdentity {
        name: *name,
        recognized_by: Some(RecognizedBy::Digest),
        source: String::new(),
    })
}

/// The digest of the idx file of these gray images.
fn digest_as_idx(images: &mut ArrayReader, sides: [i64; 2]) -> Result<String, DataError> {
    let n_images = images.shape()[0];
    let n_bytes = n_images * (sides[0] * sides[1]) as usize;
    let mut hasher = Sha256::new();
    let header = [
        idx::IMAGES_MAGIC,
        n_images as u32,
        sides[0] as u32,
        sides[1] as u32,
    ];
    hasher.update(header.map(u32::to_be_bytes).as_flattened());
    let n_chunk = images.chunk_rows();
    let mut n_read = 0;
    while n_read < n_bytes {
        let pixels = images.read(n_chunk)?;
        n_read += pixels.len();
        hasher.update(pixels);
    }
    Ok(hex(hasher))
}

fn hex(hasher: Sha256) -> String {
    let digest = hasher.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// For example `fashionmnist` for `Fashion_MNIST`.
fn plain(name: &str) -> String {
    let kept = name.chars().filter(|c| !matches!(c, '-' | '_'));
    kept.flat_map(char::to_lowercase).collect()
}

fn stem(path: &Path) -> String {
    // A path such as `.` has a name only after it is resolved.
    let resolved = match path.file_stem() {
        Some(_) => None,
        None => path.canonicalize().ok(),
    };
    let path = resolved.as_deref().unwrap_or(path);
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The digest of the file, and of its content if it is gzipped.
fn digests(path: &Path) -> io::Result<Vec<String>> {
    let of = |mut reader: Box<dyn Read>| -> io::Result<String> {
        let mut hasher = Sha256::new();
        io::copy(&mut reader, &mut hasher)?;
        Ok(hex(hasher))
    };
    let mut digests = vec![of(Box::new(File::open(path)?))?];
    let mut reader = BufReader::new(File::open(path)?);
    if reader.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
        digests.push(of(Box::new(MultiGzDecoder::new(reader)))?);
    }
    Ok(digests)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    /// A folder of this name with a file of test images, all black.
    fn folder(parent: &Path, name: &str, n_images: u32) -> DatasetConfig {
        let folder = parent.join(name);
        fs::create_dir_all(&folder).unwrap();
        let mut bytes: Vec<u8> = [0x803, n_images, 28, 28]
            .iter()
            .flat_map(|number| number.to_be_bytes())
            .collect();
        bytes.resize(16 + 784 * n_images as usize, 0);
        fs::write(folder.join("t10k-images-idx3-ubyte"), bytes).unwrap();
        of_idx(folder)
    }

    fn of_idx(folder: PathBuf) -> DatasetConfig {
        toml::from_str(&format!("[idx]\nfolder = {folder:?}")).unwrap()
    }

    #[test]
    fn a_data_set_is_known_by_its_content_or_else_by_its_name_and_size() {
        let parent = tempfile::tempdir().unwrap();
        let named = |name: &str, n_images: u32| {
            let identity = folder(parent.path(), name, n_images).identity().unwrap();
            assert_eq!(identity.source, name);
            (identity.name, identity.recognized_by)
        };
        let by_name = |name| (name, Some(RecognizedBy::Name));
        let unknown = (KnownDataset::Unknown, None);
        assert_eq!(
            named("fashion-mnist", 10_000),
            by_name(KnownDataset::FashionMnist)
        );
        assert_eq!(
            named("FashionMNIST", 10_000),
            by_name(KnownDataset::FashionMnist)
        );
        assert_eq!(named("kmnist", 10_000), by_name(KnownDataset::Kmnist));
        assert_eq!(
            named("binarized-mnist", 10_000),
            by_name(KnownDataset::Mnist)
        );
        // MNIST is recognized by the digest of its test images, and these differ.
        assert_eq!(named("mnist", 10_000), unknown);
        assert_eq!(named("kmnist", 9_999), unknown);
        assert_eq!(named("letters", 10_000), unknown);
        let letters = folder(parent.path(), "letters", 3);
        assert_eq!(letters.identity().unwrap().to_string(), "letters");
        assert!(!letters.is_binarized_mnist());
        assert!(folder(parent.path(), "binarized-mnist", 3).is_binarized_mnist());
    }

    #[test]
    fn photos_and_sprites_are_known_by_their_names() {
        let identity = |text: &str| {
            let config: DatasetConfig = toml::from_str(text).unwrap();
            config.identity().unwrap()
        };
        let celeba = identity("[image_folder]\npath = 'a/img_align_celeba.zip'");
        assert_eq!(celeba.name, KnownDataset::CelebA);
        assert_eq!(celeba.recognized_by, Some(RecognizedBy::Name));
        let photos = identity("[image_folder]\npath = 'a/holidays.zip'");
        assert_eq!(
            (photos.name, photos.to_string().as_str()),
            (KnownDataset::Unknown, "holidays")
        );
        let sprites = identity("[sprites]\nfile = 'dsprites_ndarray_co1sh3.npz'");
        assert_eq!(sprites.name, KnownDataset::DSprites);
        for kind in ["audio_folder", "melodies", "text"] {
            let others = identity(&format!("[{kind}]\npath = 'a/mine'"));
            assert_eq!(others.to_string(), "mine", "{kind}");
        }
    }

    #[test]
    fn digests_are_those_of_the_manifests() {
        for (name, known) in [
            ("mnist", KnownDataset::Mnist),
            ("fashion-mnist", KnownDataset::FashionMnist),
            ("kmnist", KnownDataset::Kmnist),
        ] {
            let file = format!("../../datasets/{name}.toml");
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
            let manifest: toml::Table = fs::read_to_string(file).unwrap().parse().unwrap();
            let files = manifest["file"].as_array().unwrap();
            let images = files
                .iter()
                .find(|file| file["name"].as_str() == Some("t10k-images-idx3-ubyte"))
                .unwrap();
            let digest = images.get("sha256").or(images.get("gzip_sha256")).unwrap();
            let found = DIGESTS.iter().find(|(_, name)| *name == known).unwrap();
            assert_eq!(digest.as_str(), Some(found.0));
        }
    }

    #[test]
    fn a_gzipped_file_is_known_by_what_it_holds_and_by_itself() {
        use std::io::Write;
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("abc.gz");
        let mut encoder =
            flate2::write::GzEncoder::new(File::create(&path).unwrap(), Default::default());
        encoder.write_all(b"abc").unwrap();
        encoder.finish().unwrap();
        let found = digests(&path).unwrap();
        // SHA-256 of "abc", FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(found.len(), 2);
        assert_eq!(found[1], abc);
        fs::write(&path, b"abc").unwrap();
        assert_eq!(digests(&path).unwrap(), [abc]);
    }

    /// The config of a `.npy` file of test images without channels.
    fn of_array(folder: &Path, images: &idx::IdxImages) -> DatasetConfig {
        let header = vae_base::NpyHeader {
            descr: "|u1".to_owned(),
            fortran_order: false,
            shape: vec![images.n_images, images.height, images.width],
        };
        let path = folder.join("x.npy");
        fs::write(
            &path,
            [header.to_bytes(128), images.pixels.clone()].concat(),
        )
        .unwrap();
        let text = format!("[arrays]\ntrain = {path:?}\ntest = {path:?}\nlayout = 'n_h_w'");
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn an_array_has_the_digest_of_the_idx_file_of_its_images() {
        let folder = tempfile::tempdir().unwrap();
        let images = idx::IdxImages {
            n_images: 3,
            height: 2,
            width: 4,
            pixels: (0..24).collect(),
        };
        let config = of_array(folder.path(), &images);
        let header = [0x803_u32, 3, 2, 4].map(u32::to_be_bytes).concat();
        let file = folder.path().join("idx");
        fs::write(&file, [header, images.pixels].concat()).unwrap();
        let arrays = config.arrays.as_ref().unwrap();
        let (mut reader, sides) = arrays.gray_test_images().unwrap().unwrap();
        assert_eq!(
            digest_as_idx(&mut reader, sides).unwrap(),
            digests(&file).unwrap()[0]
        );
        // Of this size there is no known data set.
        let identity = config.identity().unwrap();
        assert_eq!(
            (identity.name, identity.recognized_by),
            (KnownDataset::Unknown, None)
        );
        assert_eq!(identity.to_string(), "x");
        fs::remove_file(folder.path().join("x.npy")).unwrap();
        assert_eq!(config.identity().unwrap(), identity);
    }

    /// Needs the downloaded files (`cargo xtask fetch-data mnist`).
    #[test]
    fn mnist_itself_is_known_whatever_its_folder_is_called() {
        let mnist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/mnist");
        if !mnist.join("t10k-images-idx3-ubyte").exists() {
            eprintln!("NOT TESTED: no datasets/mnist");
            return;
        }
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("fashion-mnist");
        fs::create_dir(&folder).unwrap();
        let name = "t10k-images-idx3-ubyte";
        fs::copy(mnist.join(name), folder.join(name)).unwrap();
        let images = idx::read_images(&folder.join(name)).unwrap();
        for config in [of_array(parent.path(), &images), of_idx(folder)] {
            let identity = config.identity().unwrap();
            assert_eq!(
                (identity.name, identity.recognized_by),
                (KnownDataset::Mnist, Some(RecognizedBy::Digest))
            );
        }
    }
}
