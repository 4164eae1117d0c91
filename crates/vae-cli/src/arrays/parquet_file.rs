//! Parquet: a column for each number. Written in groups of rows, read column by column within a group.

use std::cell::Cell;
use std::fs::File;
use std::io::BufWriter;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use parquet::basic::{ConvertedType, LogicalType, Repetition, Type as Physical};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{
    ByteArray, ByteArrayType, DataType, DoubleType, FixedLenByteArrayType, FloatType, Int32Type,
    Int64Type,
};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{ColumnDescriptor, Type};

use super::{FILE_COLUMN, Field, FieldKind, Latents, MEAN, Number, Values, latent_columns};

/// Numbers in a group of rows: what is held in memory until the group is written.
const GROUP_NUMBERS: usize = 1 << 20;

pub(super) struct Writer {
    file: SerializedFileWriter<BufWriter<File>>,
    /// Rows that wait for their group.
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
                FieldKind::Reals(names) => {
                    for name in names {
                        let column = Type::primitive_type_builder(name, Physical::FLOAT)
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
        // Neither names nor latents come twice.
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
        // Written out by finish, and by the buffer's own flush.
        std::io::Write::flush(self.file.inner_mut())?;
        Ok(())
    }
}

thread_local! {
    static READING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is in the parquet crate, whose panics are caught and make an error: a panic hook
/// need not tell the user of them.
pub(crate) fn is_reading() -> bool {
    READING.get()
}

/// The parquet crate asserts what damaged files do not keep.
fn guarded<T>(read: impl FnOnce() -> Result<T>) -> Result<T> {
    READING.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(read));
    READING.set(false);
    result.unwrap_or_else(|_| Err(anyhow!("a damaged parquet file")))
}

pub(super) struct Reader {
    file: SerializedFileReader<File>,
    header: Vec<String>,
    latents: Vec<usize>,
    names: Option<usize>,
    /// The next group of rows.
    next_group: usize,
    /// The columns of the group in progress, and which of its rows are left.
    group: Option<Group>,
}

struct Group {
    latents: Vec<ColumnReader>,
    names: Option<ColumnReader>,
    rows: Range<usize>,
}

impl Reader {
    pub(super) fn new(file: File) -> Result<Reader> {
        guarded(|| Reader::open(file))
    }

    fn open(file: File) -> Result<Reader> {
        let n_bytes = file.metadata()?.len();
        let file = SerializedFileReader::new(file).context("no parquet file")?;
        for group in file.metadata().row_groups() {
            for column in group.columns() {
                check_place(column, n_bytes)
                    .with_context(|| format!("column {}", column.column_path().string()))?;
            }
        }
        let schema = file.metadata().file_metadata().schema_descr_ptr();
        // A list or struct has a path with dots.
        let header: Vec<String> = schema
            .columns()
            .iter()
            .map(|column| column.path().string())
            .collect();
        let is_text = |i: usize| schema.column(i).physical_type() == Physical::BYTE_ARRAY;
        let names = header.iter().position(|name| name == FILE_COLUMN);
        let latents = latent_columns(&header)?;
        for &i in &latents {
            check_numbers(&schema.column(i)).with_context(|| format!("column {}", header[i]))?;
        }
        Ok(Reader {
            latents,
            names: names.filter(|&i| is_text(i)),
            file,
            header,
            next_group: 0,
            group: None,
        })
    }

    pub(super) fn width(&self) -> usize {
        self.latents.len()
    }

    pub(super) fn n_rows(&self) -> usize {
        usize::try_from(self.file.metadata().file_metadata().num_rows()).unwrap_or(0)
    }

    pub(super) fn read(&mut self, n: usize) -> Result<Latents> {
        guarded(|| self.read_rows(n))
    }

    fn read_rows(&mut self, n: usize) -> Result<Latents> {
        let width = self.width();
        let mut rows = Latents {
            names: self.names.map(|_| Vec::new()),
            values: Vec::with_capacity(n * width),
            n_rows: 0,
        };
        while rows.n_rows < n {
            let Some(group) = &mut self.group else {
                if self.next_group == self.file.num_row_groups() {
                    break;
                }
                self.group = Some(self.open_group(self.next_group)?);
                self.next_group += 1;
                continue;
            };
            let n_more = group.rows.len().min(n - rows.n_rows);
            if n_more == 0 {
                self.group = None;
                continue;
            }
            let start = rows.values.len();
            rows.values.resize(start + n_more * width, 0.0);
            for (i, column) in group.latents.iter_mut().enumerate() {
                let name = &self.header[self.latents[i]];
                let numbers = numbers(column, n_more).with_context(|| format!("column {name}"))?;
                let places = rows.values[start..].iter_mut().skip(i).step_by(width);
                for (place, number) in places.zip(numbers) {
                    *place = number;
                }
            }
            if let (Some(column), Some(names)) = (&mut group.names, &mut rows.names) {
                names.extend(texts(column, n_more).context("column file")?);
            }
            group.rows.start += n_more;
            rows.n_rows += n_more;
        }
        Ok(rows)
    }

    fn open_group(&self, i: usize) -> Result<Group> {
        let group = self.file.get_row_group(i)?;
        let n_rows = usize::try_from(group.metadata().num_rows())?;
        let latents = self.latents.iter().map(|&i| group.get_column_reader(i));
        let names = self.names.map(|i| group.get_column_reader(i));
        Ok(Group {
            latents: latents.collect::<Result<_, _>>()?,
            names: names.transpose()?,
            rows: 0..n_rows,
        })
    }
}

/// Refuses a column that does not lie in the file. The crate takes its place as given, and panics or
/// allocates by it.
fn check_place(column: &ColumnChunkMetaData, n_bytes: u64) -> Result<()> {
    let start = column
        .dictionary_page_offset()
        .unwrap_or(column.data_page_offset());
    let length = column.compressed_size();
    let end = start.checked_add(length);
    let is_inside =
        start >= 0 && length >= 0 && end.is_some_and(|end| end.unsigned_abs() <= n_bytes);
    ensure!(
        is_inside,
        "damaged: {length} bytes from byte {start} of a file of {n_bytes}"
    );
    Ok(())
}

/// Refuses what is no plain column of numbers.
fn check_numbers(column: &ColumnDescriptor) -> Result<()> {
    ensure!(
        column.max_rep_level() == 0,
        "is a list, expected a column for each number: {MEAN}_0, {MEAN}_1 and so on"
    );
    let logical = column.logical_type_ref();
    let is_number = match column.physical_type() {
        Physical::FLOAT | Physical::DOUBLE => true,
        // Not days, cents or nanoseconds.
        Physical::INT32 | Physical::INT64 => {
            use ConvertedType as Kind;
            let kinds = [
                Kind::NONE,
                Kind::INT_8,
                Kind::INT_16,
                Kind::INT_32,
                Kind::INT_64,
                Kind::UINT_8,
                Kind::UINT_16,
            ];
            matches!(logical, None | Some(LogicalType::Integer(_)))
                && kinds.contains(&column.converted_type())
        }
        Physical::FIXED_LEN_BYTE_ARRAY => logical == Some(&LogicalType::Float16),
        _ => false,
    };
    let found = match logical {
        // Without its parameters.
        Some(logical) => format!("{logical:?}")
            .split('(')
            .next()
            .map(str::to_owned)
            .unwrap_or_default(),
        None => column.physical_type().to_string(),
    };
    ensure!(is_number, "expected numbers, found {found}");
    Ok(())
}

/// The next `n` values, none of which may be missing.
fn values<T: DataType>(column: &mut ColumnReaderImpl<T>, n: usize) -> Result<Vec<T::T>> {
    let (mut values, mut levels) = (Vec::with_capacity(n), Vec::new());
    let mut n_read = 0;
    while n_read < n {
        let (n_records, ..) =
            column.read_records(n - n_read, Some(&mut levels), None, &mut values)?;
        ensure!(n_records > 0, "ends early");
        n_read += n_records;
    }
    ensure!(values.len() == n, "a value is missing (null)");
    Ok(values)
}

fn numbers(column: &mut ColumnReader, n: usize) -> Result<Vec<f32>> {
    Ok(match column {
        ColumnReader::FloatColumnReader(column) => values::<FloatType>(column, n)?,
        ColumnReader::DoubleColumnReader(column) => values::<DoubleType>(column, n)?
            .into_iter()
            .map(|number| number as f32)
            .collect(),
        ColumnReader::Int32ColumnReader(column) => values::<Int32Type>(column, n)?
            .into_iter()
            .map(|number| number as f32)
            .collect(),
        ColumnReader::Int64ColumnReader(column) => values::<Int64Type>(column, n)?
            .into_iter()
            .map(|number| number as f32)
            .collect(),
        ColumnReader::FixedLenByteArrayColumnReader(column) => {
            let numbers = values::<FixedLenByteArrayType>(column, n)?;
            let bytes: Vec<u8> = numbers
                .iter()
                .flat_map(|number| number.data())
                .copied()
                .collect();
            ensure!(bytes.len() == n * Number::F16.n_bytes(), "expected float16");
            Number::F16.read(&bytes)
        }
        _ => bail!("expected numbers"),
    })
}

fn texts(column: &mut ColumnReader, n: usize) -> Result<Vec<String>> {
    let ColumnReader::ByteArrayColumnReader(column) = column else {
        bail!("expected text");
    };
    values::<ByteArrayType>(column, n)?
        .iter()
        .map(|text| Ok(text.as_utf8()?.to_owned()))
        .collect()
}
