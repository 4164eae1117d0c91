//! Parquet: columns of numbers or of lists of numbers, read in chunks of rows within a row group.

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};

use parquet::basic::{ConvertedType, LogicalType, Repetition, Type as Physical};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FixedLenByteArrayType, FloatType,
    Int32Type, Int64Type,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;

use super::number::Number;

thread_local! {
    static READING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is in the parquet crate. Its panics are caught and become errors, so a panic hook need not
/// report them.
#[must_use]
pub fn is_reading() -> bool {
    READING.get()
}

/// The parquet crate panics on some damaged files; this turns such a panic into an error.
fn guarded<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    READING.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(read));
    READING.set(false);
    result.unwrap_or_else(|_| Err("is a damaged parquet file".to_owned()))
}

fn damaged(error: ParquetError) -> String {
    format!("is damaged, or not a parquet file: {error}")
}

/// A column as described by the file's schema.
#[derive(Clone, Debug)]
pub struct ParquetColumn {
    /// Its name; without Parquet's own parts for a list, with dots for a member of a struct.
    pub name: String,
    /// Why it is not a column of numbers or of lists of numbers; `None` if it is.
    pub problem: Option<String>,
    /// Whether each row holds a list.
    pub is_list: bool,
    /// Whether it holds text.
    pub is_text: bool,
}

/// Reads columns of a Parquet file as f32.
pub struct ParquetReader {
    file: SerializedFileReader<File>,
    columns: Vec<Chosen>,
    /// The column of text.
    text: Option<usize>,
    next_group: usize,
    /// The columns of the current row group, and its remaining rows.
    group: Option<Group>,
}

/// A column that is read.
#[derive(Debug)]
struct Chosen {
    index: usize,
    name: String,
    /// Numbers per row.
    width: usize,
    is_list: bool,
    is_unsigned: bool,
    levels: Levels,
}

/// The definition levels, by which Parquet marks missing values.
#[derive(Clone, Copy, Debug)]
struct Levels {
    /// The definition level of a number that is present.
    present: i16,
    /// The level of a null number in a list, if the schema allows it.
    null_in_list: Option<i16>,
    /// The level of an empty list; a lower level marks a list that is null.
    empty_list: i16,
}

struct Group {
    numbers: Vec<ColumnReader>,
    text: Option<ColumnReader>,
    rows: Range<usize>,
}

/// Some rows of a file.
#[derive(Debug)]
pub struct ParquetRows {
    /// Row after row, in the order of the chosen columns; NaN marks a missing (null) number.
    pub numbers: Vec<f32>,
    /// The column of text, if it was requested and exists; `None` marks a missing (null) value.
    pub texts: Option<Vec<Option<String>>>,
    /// The number of rows: at the end of the file fewer than requested.
    pub n_rows: usize,
}

impl fmt::Debug for ParquetReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParquetReader")
            .field("columns", &self.columns)
            .finish_non_exhaustive()
    }
}

impl ParquetReader {
    /// Reads the header. `choose` returns the positions of the columns to read. The column `text` is read too, if it
    /// exists and holds text.
    ///
    /// # Errors
    /// A file that is damaged or not Parquet; an error of `choose`; a column that does not hold numbers.
    pub fn open(
        file: File,
        text: Option<&str>,
        choose: impl FnOnce(&[ParquetColumn]) -> Result<Vec<usize>, String>,
    ) -> Result<ParquetReader, String> {
        guarded(|| Self::open_unguarded(file, text, choose))
    }

    fn open_unguarded(
        file: File,
        text: Option<&str>,
        choose: impl FnOnce(&[ParquetColumn]) -> Result<Vec<usize>, String>,
    ) -> Result<ParquetReader, String> {
        let n_bytes = file.metadata().map_err(|error| error.to_string())?.len();
        let file = SerializedFileReader::new(file).map_err(damaged)?;
        for group in file.metadata().row_groups() {
            for column in group.columns() {
                check_place(column, n_bytes).map_err(|problem| {
                    format!("column {}: {problem}", column.column_path().string())
                })?;
            }
        }
        let schema = file.metadata().file_metadata().schema_descr_ptr();
        let described: Vec<ParquetColumn> = schema
            .columns()
            .iter()
            .map(|column| described(column))
            .collect();
        let text = described
            .iter()
            .position(|column| Some(column.name.as_str()) == text && column.is_text);
        let mut reader = ParquetReader {
            file,
            columns: Vec::new(),
            text,
            next_group: 0,
            group: None,
        };
        for index in choose(&described)? {
            let ParquetColumn {
                name,
                problem,
                is_list,
                ..
            } = &described[index];
            let of_column = |problem: &str| format!("column {name}: {problem}");
            if let Some(problem) = problem {
                return Err(of_column(problem));
            }
            let column = schema.column(index);
            let present = column.max_def_level();
            let is_optional = column.self_type().get_basic_info().has_repetition()
                && column.self_type().get_basic_info().repetition() == Repetition::OPTIONAL;
            let mut chosen = Chosen {
                index,
                name: name.clone(),
                width: 1,
                is_list: *is_list,
                is_unsigned: [ConvertedType::UINT_32, ConvertedType::UINT_64]
                    .contains(&column.converted_type()),
                levels: Levels {
                    present,
                    null_in_list: (*is_list && is_optional).then_some(present - 1),
                    empty_list: present - 1 - i16::from(is_optional),
                },
            };
            if *is_list {
                chosen.width = reader
                    .first_length(&chosen)
                    .map_err(|problem| of_column(&problem))?;
            }
            reader.columns.push(chosen);
        }
        Ok(reader)
    }

    /// Numbers per row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.columns.iter().map(|column| column.width).sum()
    }

    /// Number of rows according to the header.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        usize::try_from(self.file.metadata().file_metadata().num_rows()).unwrap_or(0)
    }

    /// The name of each number of a row: that of its column, for a list with the position in it.
    #[must_use]
    pub fn column_names(&self) -> Vec<String> {
        let names = self.columns.iter().flat_map(|column| {
            (0..column.width).map(|i| match column.is_list {
                true => format!("{}[{i}]", column.name),
                false => column.name.clone(),
            })
        });
        names.collect()
    }

    /// The next `n` rows; fewer at the end.
    ///
    /// # Errors
    /// A damaged file; lists of different lengths.
    pub fn read(&mut self, n: usize) -> Result<ParquetRows, String> {
        guarded(|| self.read_rows(n))
    }

    fn read_rows(&mut self, n: usize) -> Result<ParquetRows, String> {
        let width = self.width();
        let mut rows = ParquetRows {
            numbers: Vec::new(),
            texts: self.text.map(|_| Vec::new()),
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
            let start = rows.numbers.len();
            let mut parts = Vec::with_capacity(self.columns.len());
            for (chosen, column) in self.columns.iter().zip(&mut group.numbers) {
                let numbers = numbers(column, chosen, n_more)
                    .map_err(|problem| format!("column {}: {problem}", chosen.name))?;
                parts.push((chosen.width, numbers));
            }
            rows.numbers.resize(start + n_more * width, 0.0);
            let mut offset = 0;
            for (n_columns, numbers) in parts {
                let places = rows.numbers[start..].chunks_exact_mut(width.max(1));
                for (place, numbers) in places.zip(numbers.chunks_exact(n_columns.max(1))) {
                    place[offset..offset + n_columns].copy_from_slice(numbers);
                }
                offset += n_columns;
            }
            if let (Some(column), Some(all)) = (&mut group.text, &mut rows.texts) {
                all.extend(
                    texts(column, n_more)
                        .map_err(|problem| format!("column of text: {problem}"))?,
                );
            }
            group.rows.start += n_more;
            rows.n_rows += n_more;
        }
        Ok(rows)
    }

    fn open_group(&self, i: usize) -> Result<Group, String> {
        let group = self.file.get_row_group(i).map_err(damaged)?;
        let n_rows = usize::try_from(group.metadata().num_rows())
            .map_err(|_| "is a damaged parquet file".to_owned())?;
        let reader = |i: usize| group.get_column_reader(i).map_err(damaged);
        Ok(Group {
            numbers: self
                .columns
                .iter()
                .map(|column| reader(column.index))
                .collect::<Result<_, _>>()?,
            text: self.text.map(reader).transpose()?,
            rows: 0..n_rows,
        })
    }

    /// The number of values in the first list of a column.
    fn first_length(&self, chosen: &Chosen) -> Result<usize, String> {
        for i in 0..self.file.num_row_groups() {
            let group = self.file.get_row_group(i).map_err(damaged)?;
            if group.metadata().num_rows() == 0 {
                continue;
            }
            let mut column = group.get_column_reader(chosen.index).map_err(damaged)?;
            let length = match &mut column {
                ColumnReader::BoolColumnReader(column) => first_list(column, chosen.levels),
                ColumnReader::Int32ColumnReader(column) => first_list(column, chosen.levels),
                ColumnReader::Int64ColumnReader(column) => first_list(column, chosen.levels),
                ColumnReader::FloatColumnReader(column) => first_list(column, chosen.levels),
                ColumnReader::DoubleColumnReader(column) => first_list(column, chosen.levels),
                ColumnReader::FixedLenByteArrayColumnReader(column) => {
                    first_list(column, chosen.levels)
                }
                _ => Err("expected numbers".to_owned()),
            };
            match length? {
                Some(0) => {
                    return Err("has an empty list, expected lists of one length".to_owned());
                }
                Some(n) => return Ok(n),
                None => {}
            }
        }
        Ok(0)
    }
}

/// The length of a group's first list; `None` if all are null.
fn first_list<T: DataType>(
    column: &mut ColumnReaderImpl<T>,
    levels: Levels,
) -> Result<Option<usize>, String> {
    loop {
        let (mut values, mut defined, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
        let (n_records, ..) = column
            .read_records(1, Some(&mut defined), Some(&mut repeated), &mut values)
            .map_err(damaged)?;
        match defined[..] {
            _ if n_records == 0 => return Ok(None),
            [level] if level < levels.empty_list => {}
            [level] if level == levels.empty_list => return Ok(Some(0)),
            _ => return Ok(Some(defined.len())),
        }
    }
}

/// Fails on a column that does not lie in the file. The parquet crate does not check this, and would panic or
/// allocate too much.
fn check_place(column: &ColumnChunkMetaData, n_bytes: u64) -> Result<(), String> {
    let start = column
        .dictionary_page_offset()
        .unwrap_or(column.data_page_offset());
    let length = column.compressed_size();
    let end = start.checked_add(length);
    let is_inside =
        start >= 0 && length >= 0 && end.is_some_and(|end| end.unsigned_abs() <= n_bytes);
    match is_inside {
        true => Ok(()),
        false => Err(format!(
            "damaged: {length} bytes from byte {start} of a file of {n_bytes}"
        )),
    }
}

fn described(column: &ColumnDescriptor) -> ParquetColumn {
    let parts = column.path().parts();
    let is_list = column.max_rep_level() == 1;
    // `embedding.list.element` and `embedding.bag.array_element` are both the list `embedding`.
    let n_added = match parts {
        [_, .., list, _] if is_list && ["list", "bag", "array"].contains(&&**list) => 2,
        _ => 0,
    };
    let name = parts[..parts.len() - n_added].join(".");
    ParquetColumn {
        name,
        problem: check_numeric(column).err(),
        is_list,
        is_text: column.physical_type() == Physical::BYTE_ARRAY && !is_list,
    }
}

/// Fails on anything but a column of numbers or of lists of numbers.
fn check_numeric(column: &ColumnDescriptor) -> Result<(), String> {
    if column.max_rep_level() > 1 {
        return Err("has lists of lists, expected numbers or lists of numbers".to_owned());
    }
    let logical = column.logical_type_ref();
    let is_number = match column.physical_type() {
        Physical::FLOAT | Physical::DOUBLE | Physical::BOOLEAN => true,
        // Dates, decimals and times are stored as integers, too, and are refused.
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
                Kind::UINT_32,
                Kind::UINT_64,
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
    match is_number {
        true => Ok(()),
        false => Err(format!("expected numbers, found {found}")),
    }
}

/// The next `n` values of a column; `None` marks a missing (null) value.
fn values<T: DataType>(
    column: &mut ColumnReaderImpl<T>,
    n: usize,
    present: i16,
) -> Result<Vec<Option<T::T>>, String> {
    let (mut values, mut defined) = (Vec::new(), Vec::new());
    let mut n_read = 0;
    while n_read < n {
        let (n_records, ..) = column
            .read_records(n - n_read, Some(&mut defined), None, &mut values)
            .map_err(damaged)?;
        if n_records == 0 {
            return Err("ends early".to_owned());
        }
        n_read += n_records;
    }
    if values.len() == n {
        return Ok(values.into_iter().map(Some).collect());
    }
    let mut values = values.into_iter();
    let each = defined.iter().map(|&level| match level == present {
        true => values.next(),
        false => None,
    });
    let all: Vec<Option<T::T>> = each.collect();
    match all.len() == n {
        true => Ok(all),
        false => Err("ends early".to_owned()),
    }
}

/// The next `n` rows of a column of numbers or lists, row after row; NaN marks a missing value.
fn rows<T: DataType>(
    column: &mut ColumnReaderImpl<T>,
    chosen: &Chosen,
    n: usize,
    number: impl Fn(T::T) -> f32,
) -> Result<Vec<f32>, String> {
    let Levels {
        present,
        null_in_list,
        empty_list,
    } = chosen.levels;
    if !chosen.is_list {
        let values = values(column, n, present)?.into_iter();
        return Ok(values
            .map(|value| value.map_or(f32::NAN, &number))
            .collect());
    }
    let (mut values, mut defined, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
    let mut n_read = 0;
    while n_read < n {
        let (n_records, ..) = column
            .read_records(
                n - n_read,
                Some(&mut defined),
                Some(&mut repeated),
                &mut values,
            )
            .map_err(damaged)?;
        if n_records == 0 {
            return Err("ends early".to_owned());
        }
        n_read += n_records;
    }
    let mut values = values.into_iter();
    let (mut numbers, mut n_rows) = (Vec::new(), 0);
    let check_length = |n_numbers: usize, n_rows: usize| match n_numbers == n_rows * chosen.width {
        true => Ok(()),
        false => Err(format!(
            "has lists of different lengths, expected {} numbers in each",
            chosen.width
        )),
    };
    for (&defined, &repeated) in defined.iter().zip(&repeated) {
        if repeated == 0 {
            check_length(numbers.len(), n_rows)?;
            n_rows += 1;
        }
        if defined == present {
            numbers.push(number(values.next().ok_or("ends early")?));
        } else if Some(defined) == null_in_list {
            numbers.push(f32::NAN);
        } else if defined < empty_list {
            numbers.resize(numbers.len() + chosen.width, f32::NAN);
        }
    }
    check_length(numbers.len(), n_rows)?;
    match n_rows == n {
        true => Ok(numbers),
        false => Err("ends early".to_owned()),
    }
}

fn numbers(column: &mut ColumnReader, chosen: &Chosen, n: usize) -> Result<Vec<f32>, String> {
    match column {
        ColumnReader::BoolColumnReader(column) => {
            rows::<BoolType>(column, chosen, n, |value| f32::from(u8::from(value)))
        }
        ColumnReader::FloatColumnReader(column) => {
            rows::<FloatType>(column, chosen, n, |value| value)
        }
        ColumnReader::DoubleColumnReader(column) => {
            rows::<DoubleType>(column, chosen, n, |value| value as f32)
        }
        ColumnReader::Int32ColumnReader(column) => {
            rows::<Int32Type>(column, chosen, n, |value| match chosen.is_unsigned {
                true => value.cast_unsigned() as f32,
                false => value as f32,
            })
        }
        ColumnReader::Int64ColumnReader(column) => {
            rows::<Int64Type>(column, chosen, n, |value| match chosen.is_unsigned {
                true => value.cast_unsigned() as f32,
                false => value as f32,
            })
        }
        ColumnReader::FixedLenByteArrayColumnReader(column) => {
            let float16 = |value: parquet::data_type::FixedLenByteArray| {
                let numbers = Number::F16.to_f32(value.data());
                numbers.first().copied().unwrap_or(f32::NAN)
            };
            rows::<FixedLenByteArrayType>(column, chosen, n, float16)
        }
        _ => Err("expected numbers".to_owned()),
    }
}

fn texts(column: &mut ColumnReader, n: usize) -> Result<Vec<Option<String>>, String> {
    let ColumnReader::ByteArrayColumnReader(column) = column else {
        return Err("expected text".to_owned());
    };
    let text = |text: ByteArray| {
        let text = text.as_utf8().map(str::to_owned);
        text.map_err(|_| "is not UTF-8".to_owned())
    };
    values::<ByteArrayType>(column, n, 1)?
        .into_iter()
        .map(|value| value.map(text).transpose())
        .collect()
}
