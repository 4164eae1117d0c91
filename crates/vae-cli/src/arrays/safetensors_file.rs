//! safetensors: a tensor for each field. Unknown labels are −1. Names are JSON bytes, a line for each. If the columns of a field
//! have names of their own, these are in the metadata.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Take, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use vae_data::array_file::{ArrayReader, Wanted, safetensors_header};
use vae_data::open_regular;

use super::{
    CODE, FILE_COLUMN, Field, FieldKind, Latents, Values, npy, rewound, write_integers, write_reals,
};

/// The value of an unknown label.
const UNKNOWN_LABEL: i64 = -1;

/// The header comes first and needs every length, so each field is collected in a separate file.
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
                Values::Codes(codes) => write_integers(spool, codes)?,
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
                FieldKind::Codes(columns) => (Dtype::I64, vec![n_rows, columns.len()]),
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
    latents: npy::Reader,
    names: Option<Names>,
}

type Names =
    serde_json::StreamDeserializer<'static, serde_json::de::IoRead<BufReader<Take<File>>>, String>;

impl Reader {
    pub(super) fn new(mut file: File, path: &Path, column: &str) -> Result<Reader> {
        let header = safetensors_header(&mut file).map_err(|problem| anyhow!(problem))?;
        let is_latents = |info: &TensorInfo| {
            let fits = match column {
                CODE => info.dtype == Dtype::I64,
                _ => [Dtype::BF16, Dtype::F16, Dtype::F32, Dtype::F64].contains(&info.dtype),
            };
            info.shape.len() == 2 && fits
        };
        let no_latents = || no_latents(column);
        let latents = match header.tensor(column) {
            Some(info) if is_latents(info) => column,
            Some(_) => bail!(no_latents()),
            None => {
                let mut arrays = header.tensors.iter().filter(|(_, info)| is_latents(info));
                let (first, _) = arrays.next().with_context(no_latents)?;
                ensure!(arrays.next().is_none(), no_latents());
                first
            }
        };
        let wanted = Wanted {
            array: Some(latents),
            ..Wanted::default()
        };
        let names = match header.tensor(FILE_COLUMN) {
            Some(info) if info.dtype == Dtype::U8 => {
                // Another handle: a duplicated one would share its position with the latents'.
                let mut file = open_regular(path)?;
                let (from, to) = info.data_offsets;
                file.seek(SeekFrom::Start(header.start + from as u64))?;
                let names = BufReader::new(file.take((to - from) as u64));
                Some(serde_json::Deserializer::from_reader(names).into_iter())
            }
            _ => None,
        };
        Ok(Reader {
            latents: npy::Reader::new(ArrayReader::open(path, &wanted)?)?,
            names,
        })
    }

    pub(super) fn width(&self) -> usize {
        self.latents.width
    }

    pub(super) fn n_rows(&self) -> usize {
        self.latents.n_left
    }

    pub(super) fn read(&mut self, n: usize) -> Result<Latents> {
        let latents = self.latents.read(n)?;
        let names = match &mut self.names {
            Some(names) => {
                let names: Vec<String> = names
                    .take(latents.n_rows)
                    .collect::<Result<_, _>>()
                    .context("its names")?;
                ensure!(names.len() == latents.n_rows, "fewer names than latents");
                Some(names)
            }
            None => None,
        };
        Ok(Latents { names, ..latents })
    }
}

fn no_latents(column: &str) -> String {
    format!("no tensor `{column}` of shape [N, Z], nor another one that alone could be it")
}
