//! Reads safetensors files. The header comes first; its sizes are checked against the file's length before any tensor
//! is allocated.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::Deserialize;
use serde::de::{Error as _, MapAccess, Visitor};
use tch::{Kind, Tensor};

use crate::ModelError;
use crate::sums::open_regular;

/// About the size of the JSON of 100,000 tensors.
const LARGEST_HEADER: u64 = 1 << 24;

/// More dimensions than the kernel of a 3D convolution has.
const MOST_DIMENSIONS: usize = 8;

/// Named tensors and text entries, as [`write_tensors`](crate::write_tensors) writes them.
#[derive(Debug)]
pub struct TensorFile {
    /// The text entries.
    pub metadata: HashMap<String, String>,
    /// The tensors by name: f32, on the CPU.
    pub tensors: BTreeMap<String, Tensor>,
}

/// Reads a safetensors file. Tensors of another floating-point kind (f16, bf16, f64) become f32.
///
/// # Errors
/// The file does not exist, is damaged, or has tensors that are not floating-point numbers.
pub fn read_tensors(path: &Path) -> Result<TensorFile, ModelError> {
    let mut file = OpenTensorFile::open(path)?;
    let tensors = file.read_all()?;
    Ok(TensorFile {
        metadata: file.metadata,
        tensors,
    })
}

/// A safetensors file whose header was read and agrees with the file's length.
#[derive(Debug)]
pub(crate) struct OpenTensorFile {
    path: PathBuf,
    /// Positioned at the first byte of the first tensor.
    reader: BufReader<File>,
    pub(crate) metadata: HashMap<String, String>,
    /// In the order of their data, which is contiguous.
    tensors: Vec<(String, TensorInfo)>,
}

impl OpenTensorFile {
    /// # Errors
    /// The file does not exist; the header is missing, or its tensors do not fill the rest of the file exactly.
    pub(crate) fn open(path: &Path) -> Result<Self, ModelError> {
        let file = open_regular(path)?;
        let n_bytes = file.metadata().map_err(ModelError::io(path))?.len();
        let mut reader = BufReader::new(file);
        let damaged = |problem: &str| {
            ModelError::weights(
                path,
                format!("not a complete safetensors file ({problem}); was it cut short?"),
            )
        };
        if let Some(problem) = of_another_format(&mut reader, path)? {
            return Err(ModelError::weights(path, problem));
        }
        let mut length = [0; 8];
        if n_bytes < 8 {
            return Err(damaged("fewer than 8 bytes"));
        }
        reader
            .read_exact(&mut length)
            .map_err(ModelError::io(path))?;
        let length = u64::from_le_bytes(length);
        if length > LARGEST_HEADER.min(n_bytes - 8) {
            return Err(damaged(&format!(
                "a header of {length} bytes in a file of {n_bytes}; expected at most {LARGEST_HEADER}"
            )));
        }
        let mut json = vec![0; length as usize];
        reader.read_exact(&mut json).map_err(ModelError::io(path))?;
        let (metadata, tensors) =
            parse_header(&json, n_bytes - 8 - length).map_err(|problem| damaged(&problem))?;
        Ok(Self {
            path: path.to_owned(),
            reader,
            metadata,
            tensors,
        })
    }

    /// Shapes of the tensors by name.
    pub(crate) fn shapes(&self) -> BTreeMap<String, Vec<i64>> {
        self.tensors
            .iter()
            .map(|(name, info)| (name.clone(), shape(info)))
            .collect()
    }

    /// All tensors, as f32.
    pub(crate) fn read_all(&mut self) -> Result<BTreeMap<String, Tensor>, ModelError> {
        self.read(|_| true)
    }

    /// The tensors whose names are `wanted`, as f32.
    pub(crate) fn read(
        &mut self,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<BTreeMap<String, Tensor>, ModelError> {
        let Self {
            path,
            reader,
            tensors,
            ..
        } = self;
        let mut read = BTreeMap::new();
        for (name, info) in tensors.iter() {
            let n_bytes = info.data_offsets.1 - info.data_offsets.0;
            if !wanted(name) {
                reader
                    .seek_relative(n_bytes as i64)
                    .map_err(ModelError::io(&**path))?;
                continue;
            }
            let kind = match info.dtype {
                Dtype::F16 => Kind::Half,
                Dtype::BF16 => Kind::BFloat16,
                Dtype::F32 => Kind::Float,
                Dtype::F64 => Kind::Double,
                other => {
                    let problem = format!(
                        "{name} is {other:?}, expected floating-point values (F32, F16, BF16, F64)"
                    );
                    return Err(ModelError::weights(&**path, problem));
                }
            };
            let mut bytes = Vec::new();
            bytes
                .try_reserve_exact(n_bytes)
                .map_err(|error| ModelError::weights(&**path, format!("{name}: {error}")))?;
            bytes.resize(n_bytes, 0);
            reader
                .read_exact(&mut bytes)
                .map_err(ModelError::io(&**path))?;
            let tensor = Tensor::f_from_data_size(&bytes, &shape(info), kind)?;
            read.insert(name.clone(), tensor.f_to_kind(Kind::Float)?);
        }
        Ok(read)
    }
}

fn shape(info: &TensorInfo) -> Vec<i64> {
    info.shape.iter().map(|&n| n as i64).collect()
}

/// Describes the file if its first bytes are those of PyTorch's own format.
fn of_another_format(
    reader: &mut BufReader<File>,
    path: &Path,
) -> Result<Option<String>, ModelError> {
    use std::io::BufRead;
    let start = reader.fill_buf().map_err(ModelError::io(path))?;
    let is_zip = start.starts_with(b"PK\x03\x04");
    // The format of before 2020. The same bytes may be the length of a safetensors header; those files go on with a {.
    let is_pickle =
        matches!(start, [0x80, 2..=5, ..]) && start.get(8).is_some_and(|&byte| byte != b'{');
    Ok((is_zip || is_pickle).then(|| {
        let name = path.display();
        format!(
            "a file of `torch.save`, which can run any program when it is read; a safetensors file is \
             needed: python3 -c \"import torch, safetensors.torch as s; \
             d = torch.load('{name}', map_location='cpu', weights_only=True); \
             d = d.get('state_dict', d); \
             s.save_file({{k: v.contiguous().clone() for k, v in d.items() if torch.is_tensor(v)}}, \
             'state.safetensors')\""
        )
    }))
}

type Header = (HashMap<String, String>, Vec<(String, TensorInfo)>);

/// The text entries, and the tensors in the order of their data in the `n_bytes` after the header.
fn parse_header(json: &[u8], n_bytes: u64) -> Result<Header, String> {
    let Entries {
        metadata,
        mut tensors,
    } = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    if let Some((name, info)) = tensors
        .iter()
        .find(|(_, info)| info.shape.len() > MOST_DIMENSIONS)
    {
        let n = info.shape.len();
        return Err(format!(
            "{name} has {n} dimensions, expected at most {MOST_DIMENSIONS}"
        ));
    }
    if let Some((name, info)) = tensors
        .iter()
        .find(|(_, info)| info.shape.iter().any(|&side| i64::try_from(side).is_err()))
    {
        return Err(format!("{name} has the shape {:?}", info.shape));
    }
    // Checks that their data is contiguous and fits their shapes.
    let checked = Metadata::new(None, tensors.clone()).map_err(|error| error.to_string())?;
    let claimed = checked.data_len() as u64;
    if claimed != n_bytes {
        return Err(format!(
            "its tensors take {claimed} bytes, the file has {n_bytes} for them"
        ));
    }
    Ok((metadata, tensors))
}

/// The JSON object of a header. Unlike the safetensors library, it refuses duplicate names.
#[derive(Debug, Default)]
struct Entries {
    metadata: HashMap<String, String>,
    tensors: Vec<(String, TensorInfo)>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;

        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut seen = std::collections::HashSet::new();
                let mut entries = Entries::default();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("{name} is listed twice")));
                    }
                    if name == "__metadata__" {
                        entries.metadata = map.next_value()?;
                    } else {
                        entries.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(entries)
            }
        }

        deserializer.deserialize_map(EntriesVisitor)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(header: &str, data: &[u8]) -> Result<TensorFile, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.safetensors");
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        fs::write(&path, bytes).expect("written");
        read_tensors(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn other_floating_point_kinds_become_f32_and_integers_are_refused() {
        let one = |kind: &str, data: &[u8]| {
            let n = data.len();
            let header =
                format!(r#"{{"a":{{"dtype":"{kind}","shape":[1],"data_offsets":[0,{n}]}}}}"#);
            read(&header, data)
        };
        // 1.5 in the IEEE 754 encoding of each kind.
        for (kind, data) in [
            ("F16", vec![0x00, 0x3e]),
            ("BF16", vec![0xc0, 0x3f]),
            ("F32", 1.5_f32.to_le_bytes().to_vec()),
            ("F64", 1.5_f64.to_le_bytes().to_vec()),
        ] {
            let tensor = &one(kind, &data).expect(kind).tensors["a"];
            assert_eq!(
                (tensor.kind(), tensor.double_value(&[0])),
                (Kind::Float, 1.5)
            );
        }
        let message = one("I64", &[0; 8]).expect_err("an integer");
        assert!(message.contains("a is I64"), "{message}");
    }

    #[test]
    fn claims_of_a_header_that_the_file_does_not_keep_are_refused() {
        let with = |entry: &str| read(&format!("{{{entry}}}"), &[0; 8]).expect_err(entry);
        for (entry, wanted) in [
            (
                r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,12]}"#,
                "",
            ),
            (
                r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#,
                "take 4 bytes",
            ),
            (
                r#""a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}"#,
                "",
            ),
            (
                r#""a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}"#,
                "",
            ),
            (
                r#""a":{"dtype":"F32","shape":[9007199254740992,9007199254740992],"data_offsets":[0,8]}"#,
                "",
            ),
            (
                r#""a":{"dtype":"F32","shape":[2,1,1,1,1,1,1,1,1],"data_offsets":[0,8]}"#,
                "9 dimensions",
            ),
            (
                r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                   "a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#,
                "twice",
            ),
            (
                r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                   "b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}"#,
                "",
            ),
        ] {
            let message = with(entry);
            assert!(
                message.contains("not a complete safetensors file"),
                "{message}"
            );
            assert!(message.contains(wanted), "{message}");
        }
    }

    #[test]
    fn a_header_longer_than_the_file_is_not_allocated() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.safetensors");
        for length in [u64::MAX, 1 << 53, 1 << 31, 9] {
            let mut bytes = length.to_le_bytes().to_vec();
            bytes.extend([b' '; 8]);
            fs::write(&path, bytes).expect("written");
            let message = read_tensors(&path).expect_err("too long").to_string();
            assert!(
                message.contains(&format!("a header of {length} bytes")),
                "{message}"
            );
        }
    }

    #[test]
    #[cfg(unix)]
    fn what_has_no_end_is_not_read() {
        let error = read_tensors(Path::new("/dev/zero")).expect_err("a device");
        let reason = std::error::Error::source(&error).expect("a reason");
        assert_eq!(reason.to_string(), "is a pipe or device, expected a file");
    }

    #[test]
    fn a_file_of_torch_save_is_refused_with_the_command_that_converts_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.pt");
        for start in [
            &b"PK\x03\x04"[..],
            b"\x80\x02\x8a\x0al\xfc\x9cF\xf9",
            b"\x80\x04\x95",
        ] {
            fs::write(&path, [start, &[0; 40]].concat()).expect("written");
            let message = read_tensors(&path).expect_err("a pickle").to_string();
            assert!(message.contains("model.pt', map_location"), "{message}");
        }
    }
}
