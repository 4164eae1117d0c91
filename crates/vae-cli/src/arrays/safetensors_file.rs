//! safetensors: a tensor for each field. Unknown labels are −1; names are bytes of JSON, a line for
//! each; the names of a field's columns, where they are its own, are in the metadata.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Take, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::{FILE_COLUMN, Field, FieldKind, Latents, MEAN, Number, Values, rewound, write_reals};

/// What tells that no label is known.
const UNKNOWN_LABEL: i64 = -1;

/// Bytes of the largest header that is read: a few tensors, and the names of their columns.
const LARGEST_HEADER: u64 = 1 << 24;

/// The header comes first and needs every length, so each field waits in a file of its own.
#[derive(Debug)]
pub(super) struct Writer {
    file: BufWriter<File>,
    spools: Vec<BufWriter<File>>,
}

impl Writer {
    pub(super) fn new(file: BufWriter<File>, folder: &Path, fields: &[Field]) -> Result<Writer> {
        let spool = |_| Ok(BufWriter::new(tempfile::tempfile_in(folder)?));
        let spools = fields.iter().map(spool).collect::<io::Result<_>>()?;
        Ok(Writer { file, spools })
    }

    pub(super) fn write(&mut self, values: &[Values]) -> Result<()> {
        for (spool, values) in self.spools.iter_mut().zip(values) {
            match values {
                Values::Text(texts) => {
                    for text in texts {
                        serde_json::to_writer(&mut *spool, text)?;
                        spool.write_all(b"\n")?;
                    }
                }
                Values::Integers(integers) => {
                    for integer in integers {
                        spool.write_all(&integer.unwrap_or(UNKNOWN_LABEL).to_le_bytes())?;
                    }
                }
                Values::Reals(reals) => write_reals(spool, reals)?,
            }
        }
        Ok(())
    }

    pub(super) fn finish(mut self, fields: &[Field], n_rows: usize) -> Result<()> {
        let mut parts = Vec::new();
        let mut metadata = HashMap::new();
        for (field, spool) in fields.iter().zip(self.spools) {
            let file = spool.into_inner().map_err(|error| error.into_error())?;
            let n_bytes = file.metadata()?.len() as usize;
            let (dtype, shape) = match &field.kind {
                FieldKind::Text => (Dtype::U8, vec![n_bytes]),
                FieldKind::Integer => (Dtype::I64, vec![n_rows]),
                FieldKind::Reals(_) if field.is_scalar() => (Dtype::F32, vec![n_rows]),
                FieldKind::Reals(columns) => {
                    if columns[0] != format!("{}_0", field.name) {
                        metadata.insert(field.name.clone(), serde_json::to_string(columns)?);
                    }
                    (Dtype::F32, vec![n_rows, columns.len()])
                }
            };
            parts.push((&field.name, dtype, shape, n_bytes, file));
        }
        // The widest numbers first, so that all are aligned.
        parts.sort_by_key(|&(_, dtype, ..)| match dtype {
            Dtype::I64 => 0,
            Dtype::F32 => 1,
            _ => 2,
        });
        let mut start = 0;
        let tensors = parts.iter().map(|(name, dtype, shape, n_bytes, _)| {
            let data_offsets = (start, start + n_bytes);
            start = data_offsets.1;
            let info = TensorInfo {
                dtype: *dtype,
                shape: shape.clone(),
                data_offsets,
            };
            ((*name).clone(), info)
        });
        let tensors = tensors.collect();
        let metadata = (!metadata.is_empty()).then_some(metadata);
        let mut header = serde_json::to_vec(&Metadata::new(metadata, tensors)?)?;
        header.resize(header.len().next_multiple_of(8), b' ');
        self.file.write_all(&(header.len() as u64).to_le_bytes())?;
        self.file.write_all(&header)?;
        for (.., file) in parts {
            io::copy(&mut rewound(file)?, &mut self.file)?;
        }
        Ok(self.file.flush()?)
    }
}

pub(super) struct Reader {
    file: BufReader<File>,
    number: Number,
    pub(super) width: usize,
    pub(super) n_left: usize,
    names: Option<Names>,
}

type Names =
    serde_json::StreamDeserializer<'static, serde_json::de::IoRead<BufReader<Take<File>>>, String>;

impl Reader {
    pub(super) fn new(mut file: File, path: &Path) -> Result<Reader> {
        let n_bytes = file.metadata()?.len();
        let mut length = [0; 8];
        file.read_exact(&mut length)
            .context("no safetensors file")?;
        let length = u64::from_le_bytes(length);
        ensure!(
            length <= LARGEST_HEADER.min(n_bytes.saturating_sub(8)),
            "no safetensors file: a header of {length} bytes"
        );
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header)?;
        let metadata: Metadata =
            serde_json::from_slice(&header).context("no safetensors file: its header")?;
        let tensors = metadata.tensors();
        let (start, wanted) = (8 + length, metadata.data_len() as u64);
        ensure!(
            n_bytes - start == wanted,
            "{} bytes of tensors, expected {wanted} by its header",
            n_bytes - start
        );
        let number = |info: &TensorInfo| match info.dtype {
            Dtype::BF16 => Some(Number::BF16),
            Dtype::F16 => Some(Number::F16),
            Dtype::F32 => Some(Number::F32),
            Dtype::F64 => Some(Number::F64),
            _ => None,
        };
        let is_latents = |info: &TensorInfo| info.shape.len() == 2 && number(info).is_some();
        let latents = match tensors.get(MEAN) {
            Some(info) => *info,
            None => {
                let mut arrays = tensors.values().filter(|info| is_latents(info));
                let first = arrays.next().with_context(no_latents)?;
                ensure!(arrays.next().is_none(), no_latents());
                *first
            }
        };
        let number = number(latents).with_context(no_latents)?;
        let &[n_left, width] = latents.shape.as_slice() else {
            return Err(anyhow!(no_latents()));
        };
        let names = match tensors.get(FILE_COLUMN) {
            Some(info) if info.dtype == Dtype::U8 => {
                // A duplicated handle would share its place with the latents'.
                let mut file = File::open(path)?;
                let (from, to) = info.data_offsets;
                file.seek(SeekFrom::Start(start + from as u64))?;
                let names = BufReader::new(file.take((to - from) as u64));
                Some(serde_json::Deserializer::from_reader(names).into_iter())
            }
            _ => None,
        };
        file.seek(SeekFrom::Start(start + latents.data_offsets.0 as u64))?;
        Ok(Reader {
            file: BufReader::new(file),
            number,
            width,
            n_left,
            names,
        })
    }

    pub(super) fn read(&mut self, n: usize) -> Result<Latents> {
        let n_rows = n.min(self.n_left);
        let mut bytes = vec![0; n_rows * self.width * self.number.n_bytes()];
        self.file.read_exact(&mut bytes)?;
        self.n_left -= n_rows;
        let names = match &mut self.names {
            Some(names) => {
                let names: Vec<String> = names
                    .take(n_rows)
                    .collect::<Result<_, _>>()
                    .context("its names")?;
                ensure!(names.len() == n_rows, "fewer names than latents");
                Some(names)
            }
            None => None,
        };
        Ok(Latents {
            names,
            values: self.number.read(&bytes),
            n_rows,
        })
    }
}

fn no_latents() -> String {
    format!("no tensor `{MEAN}` of shape [N, Z], nor another one that alone could be it")
}
