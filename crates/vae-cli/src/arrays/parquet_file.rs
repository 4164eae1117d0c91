//! Parquet: a column for each number, written in groups of rows and read column by column within a group.

use std::fs::File;
use std::io::BufWriter;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use parquet::basic::{ConvertedType, Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, FloatType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;
use vae_data::array_file::{ParquetColumn, ParquetReader};

use super::{FILE_COLUMN, Field, FieldKind, Latents, Values, latent_columns};

/// The number of values in a group of rows, which are held in memory until the group is written.
const GROUP_NUMBERS: usize = 1 << 20;

pub(super) struct Writer {
    file: SerializedFileWriter<BufWriter<File>>,
    /// Rows of the current group.
    pending: Vec<Values>,
    n_pending: usize,
    rows_in_group: usize,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("n_pending", &self.n_pending)
            .finish_non_exhaustive()
    }
}

impl Writer {
    pub(super) fn new(file: BufWriter<File>, fields: &[Field]) -> Result<Writer> {
        let (mut columns, mut width) = (Vec::new(), 0);
        for field in fields {
            match &field.kind {
                FieldKind::Text => {
                    let column = Type::primitive_type_builder(&field.name, Physical::BYTE_ARRAY)
                        .with_converted_type(ConvertedType::UTF8)
                        .with_repetition(Repetition::REQUIRED);
                    columns.push(Arc::new(column.build()?));
                    width += 1;
                }
                FieldKind::Integer => {
                    let column = Type::primitive_type_builder(&field.name, Physical::INT64)
                        .with_repetition(Repetition::OPTIONAL);
                    columns.push(Arc::new(column.build()?));
                    width += 1;
                }
                FieldKind::Reals(names) | FieldKind::Codes(names) => {
                    let kind = match field.kind {
                        FieldKind::Codes(_) => Physical::INT64,
                        _ => Physical::FLOAT,
                    };
                    for name in names {
                        let column = Type::primitive_type_builder(name, kind)
                            .with_repetition(Repetition::REQUIRED);
                        columns.push(Arc::new(column.build()?));
                    }
                    width += names.len();
                }
            }
        }
        let schema = Type::group_type_builder("images")
            .with_fields(columns)
            .build()?;
        // Neither names nor latents are repeated.
        let properties = WriterProperties::builder()
            .set_dictionary_enabled(false)
            .build();
        Ok(Writer {
            file: SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties))?,
            pending: Vec::new(),
            n_pending: 0,
            rows_in_group: (GROUP_NUMBERS / width.max(1)).max(1000),
        })
    }

    pub(super) fn write(
        &mut self,
        fields: &[Field],
        values: Vec<Values>,
        n_rows: usize,
    ) -> Result<()> {
        if self.pending.is_empty() {
            self.pending = values;
        } else {
            for (pending, values) in self.pending.iter_mut().zip(values) {
                match (pending, values) {
                    (Values::Text(pending), Values::Text(values)) => pending.extend(values),
                    (Values::Integers(pending), Values::Integers(values)) => pending.extend(values),
                    (Values::Reals(pending), Values::Reals(values)) => pending.extend(values),
                    (Values::Codes(pending), Values::Codes(values)) => pending.extend(values),
                    _ => bail!("values of another kind"),
                }
            }
        }
        self.n_pending += n_rows;
        match self.n_pending >= self.rows_in_group {
            true => self.write_group(fields),
            false => Ok(()),
        }
    }

    fn write_group(&mut self, fields: &[Field]) -> Result<()> {
        let n_rows = std::mem::take(&mut self.n_pending);
        let values = std::mem::take(&mut self.pending);
        if n_rows == 0 {
            return Ok(());
        }
        let mut group = self.file.next_row_group()?;
        for (field, values) in fields.iter().zip(values) {
            match values {
                Values::Text(texts) => {
                    let texts: Vec<ByteArray> =
                        texts.iter().map(|text| text.as_str().into()).collect();
                    let mut column = group.next_column()?.context("a column for each field")?;
                    column
                        .typed::<ByteArrayType>()
                        .write_batch(&texts, None, None)?;
                    column.close()?;
                }
                Values::Integers(integers) => {
                    let known: Vec<i16> = integers.iter().map(|i| i.is_some().into()).collect();
                    let integers: Vec<i64> = integers.into_iter().flatten().collect();
                    let mut column = group.next_column()?.context("a column for each field")?;
                    column
                        .typed::<Int64Type>()
                        .write_batch(&integers, Some(&known), None)?;
                    column.close()?;
                }
                Values::Codes(codes) => {
                    let FieldKind::Codes(names) = &field.kind else {
                        bail!("values of another kind");
                    };
                    for i in 0..names.len() {
                        let codes: Vec<i64> =
                            codes.iter().skip(i).step_by(names.len()).copied().collect();
                        let mut column = group.next_column()?.context("a column for each field")?;
                        column
                            .typed::<Int64Type>()
                            .write_batch(&codes, None, None)?;
                        column.close()?;
                    }
                }
                Values::Reals(reals) => {
                    let FieldKind::Reals(names) = &field.kind else {
                        bail!("values of another kind");
                    };
                    for i in 0..names.len() {
                        let reals: Vec<f32> =
                            reals.iter().skip(i).step_by(names.len()).copied().collect();
                        let mut column = group.next_column()?.context("a column for each field")?;
                        column
                            .typed::<FloatType>()
                            .write_batch(&reals, None, None)?;
                        column.close()?;
                    }
                }
            }
        }
        group.close()?;
        Ok(())
    }

    pub(super) fn finish(mut self: Box<Self>, fields: &[Field]) -> Result<()> {
        self.write_group(fields)?;
        self.file.finish()?;
        // Both finish and the buffer's own flush write it.
        std::io::Write::flush(self.file.inner_mut())?;
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct Reader(ParquetReader);

impl Reader {
    pub(super) fn new(file: File, column: &str) -> Result<Reader> {
        let choose = |columns: &[ParquetColumn]| {
            let header: Vec<String> = columns.iter().map(|column| column.name.clone()).collect();
            latent_columns(&header, column).map_err(|error| error.to_string())
        };
        let reader = ParquetReader::open(file, Some(FILE_COLUMN), choose);
        reader.map(Reader).map_err(|problem| anyhow!(problem))
    }

    pub(super) fn width(&self) -> usize {
        self.0.width()
    }

    pub(super) fn n_rows(&self) -> usize {
        self.0.n_rows()
    }

    pub(super) fn read(&mut self, n: usize) -> Result<Latents> {
        let rows = self.0.read(n).map_err(|problem| anyhow!(problem))?;
        let names = rows.texts.map(|texts| {
            let names = texts.into_iter().collect::<Option<Vec<String>>>();
            names.context("column file: a value is missing (null)")
        });
        Ok(Latents {
            names: names.transpose()?,
            values: rows.numbers,
            n_rows: rows.n_rows,
        })
    }
}
