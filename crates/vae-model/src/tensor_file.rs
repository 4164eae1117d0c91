//! Reads safetensors files. The header comes first; its sizes are compared with the file's length before any tensor is
//! allocated.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorInfo};
use tch::{Kind, Tensor};
use vae_base::SafetensorsHeader;

use crate::ModelError;
use crate::sums::open_regular;

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
        if let Some(problem) = of_another_format(&mut reader, path)? {
            return Err(ModelError::weights(path, problem));
        }
        let header = SafetensorsHeader::read(&mut reader, n_bytes);
        let header = header.map_err(|error| match error.kind() {
            ErrorKind::InvalidData => ModelError::weights(path, error.to_string()),
            _ => ModelError::io(path)(error),
        })?;
        Ok(Self {
            path: path.to_owned(),
            reader,
            metadata: header.metadata,
            tensors: header.tensors,
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
