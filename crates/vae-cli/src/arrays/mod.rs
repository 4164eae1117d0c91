//! Tables with a row of numbers for each image, as CSV, Parquet, npy or safetensors, according to the file's ending. They are
//! written and read in chunks of rows.

mod csv_file;
mod npy;
mod parquet_file;
mod safetensors_file;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use tempfile::NamedTempFile;
use vae_data::array_file::{ArrayReader, Wanted};
use vae_data::open_regular;

/// The column of file names.
pub(crate) const FILE_COLUMN: &str = "file";

/// The column of class labels.
pub(crate) const LABEL_COLUMN: &str = "label";

/// The columns of a latent: `mean_0`, `mean_1`, …
pub(crate) const MEAN: &str = "mean";

/// The columns of codes: `code_0`, `code_1`, …
pub(crate) const CODE: &str = "code";

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Csv,
    Npy,
    Parquet,
    Safetensors,
}

impl Format {
    /// The format according to the file's ending.
    pub(crate) fn of(path: &Path) -> Result<Format> {
        let ending = path.extension().and_then(|ending| ending.to_str());
        match ending.map(str::to_ascii_lowercase).as_deref() {
            Some("csv") => Ok(Self::Csv),
            Some("npy") => Ok(Self::Npy),
            Some("parquet") => Ok(Self::Parquet),
            Some("safetensors") => Ok(Self::Safetensors),
            _ => bail!(
                "{}: its name must end in .csv, .npy, .parquet or .safetensors, which selects the format",
                path.display()
            ),
        }
    }

    /// Whether it contains only one array of numbers.
    pub(crate) fn is_bare(self) -> bool {
        self == Self::Npy
    }
}

/// A field of a table: one number or several for each image.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    /// The name, if the format has one for the whole field.
    pub(crate) name: String,
    pub(crate) kind: FieldKind,
}

#[derive(Clone, Debug)]
pub(crate) enum FieldKind {
    Text,
    /// An integer that may be unknown.
    Integer,
    /// A number in each of these columns; NaN means unknown.
    Reals(Vec<String>),
    /// A code in each of these columns.
    Codes(Vec<String>),
}

impl Field {
    pub(crate) fn text(name: &str) -> Field {
        Field {
            name: name.to_owned(),
            kind: FieldKind::Text,
        }
    }

    pub(crate) fn integer(name: &str) -> Field {
        Field {
            name: name.to_owned(),
            kind: FieldKind::Integer,
        }
    }

    pub(crate) fn real(name: &str) -> Field {
        Field {
            name: name.to_owned(),
            kind: FieldKind::Reals(vec![name.to_owned()]),
        }
    }

    /// `width` columns `name_0`, `name_1`, …
    pub(crate) fn vector(name: &str, width: usize) -> Field {
        Field {
            name: name.to_owned(),
            kind: FieldKind::Reals((0..width).map(|i| format!("{name}_{i}")).collect()),
        }
    }

    /// `width` columns `code_0`, `code_1`, …
    pub(crate) fn codes(width: usize) -> Field {
        Field {
            name: CODE.to_owned(),
            kind: FieldKind::Codes((0..width).map(|i| format!("{CODE}_{i}")).collect()),
        }
    }

    /// Columns with names of their own, which are changed if one of `others` has the same.
    pub(crate) fn named(name: &str, columns: &[String], others: &[Field]) -> Field {
        let taken = |column: &str| {
            others.iter().any(|field| match &field.kind {
                FieldKind::Reals(columns) | FieldKind::Codes(columns) => {
                    columns.iter().any(|other| other == column)
                }
                FieldKind::Text | FieldKind::Integer => field.name == column,
            })
        };
        let columns = columns.iter().map(|column| match taken(column) {
            true => format!("attribute_{column}"),
            false => column.clone(),
        });
        Field {
            name: name.to_owned(),
            kind: FieldKind::Reals(columns.collect()),
        }
    }

    /// Whether it is a single number.
    fn is_scalar(&self) -> bool {
        matches!(&self.kind, FieldKind::Reals(columns) if columns[..] == [self.name.clone()])
    }
}

/// Values of a field for some rows.
#[derive(Debug)]
pub(crate) enum Values {
    Text(Vec<String>),
    Integers(Vec<Option<i64>>),
    /// Row by row.
    Reals(Vec<f32>),
    /// Row by row.
    Codes(Vec<i64>),
}

/// Writes a table. The file appears under its name only when it is whole.
#[derive(Debug)]
pub(crate) struct TableWriter {
    partial: Partial,
    fields: Vec<Field>,
    kind: Writer,
    n_rows: usize,
}

#[derive(Debug)]
enum Writer {
    Csv(Box<csv_file::Writer>),
    Npy(npy::Writer),
    Parquet(Box<parquet_file::Writer>),
    Safetensors(safetensors_file::Writer),
}

impl TableWriter {
    pub(crate) fn create(path: &Path, fields: Vec<Field>) -> Result<TableWriter> {
        let format = Format::of(path)?;
        let partial = Partial::create(path)?;
        let file = || partial.handle();
        let kind = match format {
            Format::Csv => Writer::Csv(Box::new(csv_file::Writer::new(file()?, &fields)?)),
            Format::Npy => Writer::Npy(npy::Writer::new(file()?, &fields)?),
            Format::Parquet => {
                Writer::Parquet(Box::new(parquet_file::Writer::new(file()?, &fields)?))
            }
            Format::Safetensors => Writer::Safetensors(safetensors_file::Writer::new(
                file()?,
                partial.folder(),
                &fields,
            )?),
        };
        Ok(TableWriter {
            partial,
            fields,
            kind,
            n_rows: 0,
        })
    }

    /// Appends rows; `values` has an entry for each field, all with the same number of rows.
    pub(crate) fn write(&mut self, values: Vec<Values>) -> Result<()> {
        let n_rows = check(&self.fields, &values)?;
        self.n_rows += n_rows;
        let fields = &self.fields;
        let written = match &mut self.kind {
            Writer::Csv(writer) => writer.write(&values, n_rows),
            Writer::Npy(writer) => writer.write(fields, &values),
            Writer::Parquet(writer) => writer.write(fields, values, n_rows),
            Writer::Safetensors(writer) => writer.write(&values),
        };
        written.with_context(|| self.partial.context())
    }

    /// Renames the file to its final name.
    pub(crate) fn finish(self) -> Result<usize> {
        let context = self.partial.context();
        let finished = match self.kind {
            Writer::Csv(writer) => writer.finish(),
            Writer::Npy(writer) => writer.finish(self.n_rows),
            Writer::Parquet(writer) => writer.finish(&self.fields),
            Writer::Safetensors(writer) => writer.finish(&self.fields, self.n_rows),
        };
        finished
            .and_then(|()| self.partial.persist())
            .context(context)?;
        Ok(self.n_rows)
    }
}

/// The number of rows, which all fields share.
fn check(fields: &[Field], values: &[Values]) -> Result<usize> {
    ensure!(fields.len() == values.len(), "a value for each field");
    let mut n_rows = None;
    for (field, values) in fields.iter().zip(values) {
        let n = match (values, &field.kind) {
            (Values::Text(texts), FieldKind::Text) => texts.len(),
            (Values::Integers(integers), FieldKind::Integer) => integers.len(),
            (Values::Reals(reals), FieldKind::Reals(columns)) => reals.len() / columns.len().max(1),
            (Values::Codes(codes), FieldKind::Codes(columns)) => codes.len() / columns.len().max(1),
            _ => bail!("{}: values of another kind", field.name),
        };
        ensure!(*n_rows.get_or_insert(n) == n, "{}: {n} rows", field.name);
    }
    Ok(n_rows.unwrap_or(0))
}

/// A file with another name until it is complete.
#[derive(Debug)]
struct Partial {
    file: NamedTempFile,
    /// The target of a link, which is replaced instead of the link.
    path: PathBuf,
}

impl Partial {
    fn create(path: &Path) -> Result<Partial> {
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let name = path.display();
        ensure!(
            !target.exists() || target.is_file(),
            "{name}: already exists, and is not a file"
        );
        let folder = folder_of(&target);
        fs::metadata(folder).with_context(|| format!("{name}: {}", folder.display()))?;
        let mut builder = tempfile::Builder::new();
        // Temporary files are private by default. The final one gets the ordinary mode under the umask.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder
            .tempfile_in(folder)
            .with_context(|| name.to_string())?;
        Ok(Partial { file, path: target })
    }

    fn folder(&self) -> &Path {
        folder_of(&self.path)
    }

    fn handle(&self) -> Result<BufWriter<File>> {
        let file = self.file.as_file().try_clone();
        Ok(BufWriter::new(file.with_context(|| self.context())?))
    }

    fn context(&self) -> String {
        self.path.display().to_string()
    }

    fn persist(self) -> Result<()> {
        self.file.as_file().sync_all()?;
        self.file.persist(&self.path)?;
        Ok(())
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Little-endian bytes, as in every format here.
fn write_reals(to: &mut impl Write, reals: &[f32]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(4 * reals.len());
    bytes.extend(reals.iter().flat_map(|real| real.to_le_bytes()));
    to.write_all(&bytes)
}

fn write_integers(to: &mut impl Write, integers: &[i64]) -> io::Result<()> {
    let bytes: Vec<u8> = integers.iter().flat_map(|i| i.to_le_bytes()).collect();
    to.write_all(&bytes)
}

/// Some of a file's latents.
#[derive(Debug)]
pub(crate) struct Latents {
    /// A name for each, if the file has names.
    pub(crate) names: Option<Vec<String>>,
    /// Row by row.
    pub(crate) values: Vec<f32>,
    pub(crate) n_rows: usize,
}

/// Reads the latents of a file in chunks: the `mean` (or `code`) of `vae encode`'s files, or the numeric columns of others.
pub(crate) struct LatentsReader {
    path: PathBuf,
    width: usize,
    /// None if the number of rows is only known at the end of the file.
    n_rows: Option<usize>,
    kind: Reader,
}

enum Reader {
    Csv(csv_file::Reader),
    Npy(npy::Reader),
    Parquet(Box<parquet_file::Reader>),
    Safetensors(safetensors_file::Reader),
}

impl fmt::Debug for LatentsReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LatentsReader")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl LatentsReader {
    /// Reads the header. `column` is [`MEAN`] or [`CODE`], `wanted` the required number of them in a row.
    pub(crate) fn open(path: &Path, column: &str, wanted: usize) -> Result<LatentsReader> {
        let name = || path.display().to_string();
        let format = Format::of(path)?;
        let file = open_regular(path).with_context(name)?;
        let (kind, width, n_rows) = match format {
            Format::Csv => {
                let reader = csv_file::Reader::new(file, column).with_context(name)?;
                let width = reader.width();
                (Reader::Csv(reader), width, None)
            }
            Format::Npy => {
                // Its errors name the file.
                let array = ArrayReader::open(path, &Wanted::default())?;
                let reader = npy::Reader::new(array).with_context(name)?;
                let (width, n_rows) = (reader.width, reader.n_left);
                (Reader::Npy(reader), width, Some(n_rows))
            }
            Format::Parquet => {
                let reader = parquet_file::Reader::new(file, column).with_context(name)?;
                let (width, n_rows) = (reader.width(), reader.n_rows());
                (Reader::Parquet(Box::new(reader)), width, Some(n_rows))
            }
            Format::Safetensors => {
                let reader =
                    safetensors_file::Reader::new(file, path, column).with_context(name)?;
                let (width, n_rows) = (reader.width(), reader.n_rows());
                (Reader::Safetensors(reader), width, Some(n_rows))
            }
        };
        ensure!(
            width == wanted,
            "{}: {}",
            name(),
            match column {
                CODE => format!("{width} codes in a row, but the model has {wanted} for an item"),
                _ => format!(
                    "latents of {width} numbers, but the model has {wanted} latent dimensions"
                ),
            }
        );
        Ok(LatentsReader {
            path: path.to_owned(),
            width,
            n_rows,
            kind,
        })
    }

    pub(crate) fn n_rows(&self) -> Option<usize> {
        self.n_rows
    }

    /// The next `n` rows or fewer; none at the end.
    pub(crate) fn read(&mut self, n: usize) -> Result<Option<Latents>> {
        let rows = match &mut self.kind {
            Reader::Csv(reader) => reader.read(n),
            Reader::Npy(reader) => reader.read(n),
            Reader::Parquet(reader) => reader.read(n),
            Reader::Safetensors(reader) => reader.read(n),
        };
        let rows = rows.with_context(|| self.path.display().to_string())?;
        if rows.n_rows == 0 {
            return Ok(None);
        }
        if let Some(i) = rows.values.iter().position(|value| !value.is_finite()) {
            let (value, row, column) = (rows.values[i], i / self.width, i % self.width);
            bail!(
                "{}: found {value} in dimension {column}, {row} rows after those already read",
                self.path.display()
            );
        }
        Ok(Some(rows))
    }
}

/// The columns of the latents: `mean_0`, `mean_1`, … (or `code_0`, …) if they exist, else all but names, labels and an unnamed
/// index.
fn latent_columns(header: &[String], column: &str) -> Result<Vec<usize>> {
    let find = |name: String| header.iter().position(|column| *column == name);
    let means: Vec<usize> = (0..).map_while(|i| find(format!("{column}_{i}"))).collect();
    if !means.is_empty() {
        return Ok(means);
    }
    let others: Vec<usize> = (0..header.len())
        .filter(|&i| !["", "Unnamed: 0", FILE_COLUMN, LABEL_COLUMN].contains(&header[i].as_str()))
        .filter(|&i| !header[i].starts_with("__index_level_"))
        .collect();
    ensure!(
        !others.is_empty(),
        "no columns of latents, expected {column}_0, {column}_1 and so on"
    );
    Ok(others)
}

/// Seeks to the start, so that spooled data can be read.
fn rewound(mut file: File) -> io::Result<File> {
    file.rewind()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATENTS: [f32; 6] = [0.5, -1.0, 0.25, 2.0, -3.0, 0.125];

    /// All latents of a file of two dimensions, and their names.
    fn read_all(path: &Path) -> Result<(Vec<f32>, Option<Vec<String>>), String> {
        let read = || {
            let mut reader = LatentsReader::open(path, MEAN, 2)?;
            let (mut values, mut names) = (Vec::new(), None);
            while let Some(rows) = reader.read(2)? {
                values.extend(rows.values);
                if let Some(more) = rows.names {
                    names.get_or_insert_with(Vec::new).extend(more);
                }
            }
            Ok::<_, anyhow::Error>((values, names))
        };
        read().map_err(|error| format!("{error:#}"))
    }

    /// Written by tests/tables/make.py.
    fn table(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/tables")
            .join(name)
    }

    #[test]
    fn parquet_of_other_programs_is_read_whatever_compresses_it() {
        for name in [
            "none", "snappy", "gzip", "brotli", "lz4", "zstd", "float16", "float64", "polars",
            "index",
        ] {
            let (values, names) = read_all(&table(&format!("{name}.parquet"))).unwrap();
            assert_eq!(values, LATENTS, "{name}");
            assert_eq!(names.unwrap(), ["a.png", "b.png", "c.png"], "{name}");
        }
        for (name, problem) in [
            (
                "null",
                "found NaN in dimension 1, 1 rows after those already read",
            ),
            ("decimal", "column mean_0: expected numbers, found Decimal"),
        ] {
            let error = read_all(&table(&format!("{name}.parquet"))).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn every_array_of_numbers_is_read() {
        for name in ["big-endian", "columns", "float16"] {
            let (values, _) = read_all(&table(&format!("{name}.npy"))).unwrap();
            assert_eq!(values, LATENTS, "{name}");
        }
        assert_eq!(read_all(&table("one.npy")).unwrap().0, LATENTS[..2]);
        // Rounded toward 0.
        let integers = LATENTS.map(f32::trunc);
        assert_eq!(read_all(&table("integers.npy")).unwrap().0, integers);
        assert_eq!(
            read_all(&table("list.parquet")).unwrap(),
            (LATENTS.to_vec(), None)
        );
    }

    #[test]
    fn a_table_of_text_is_read_with_any_separator() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("latents.csv");
        let latents = "file,mean_0,mean_1\na.png,0.5,-1\n\"b,c.png\",0.25,2e0\n";
        let german = "file;mean_0;mean_1\r\na.png;0,5;-1\r\nb,c.png;0.25;2\r\n";
        for text in [
            latents.to_owned(),
            format!("\u{feff}{latents}"),
            format!("\u{feff}{german}"),
            german.replace(';', "\t"),
            ",z0,z1,file\n0,0.5,-1,a.png\n7,0.25,2,\"b,c.png\"\n".to_owned(),
            "Unnamed: 0,z0, z1,file\n0,0.5,-1,a.png\n7,0.25,2,\"b,c.png\"\n".to_owned(),
        ] {
            fs::write(&path, &text).unwrap();
            let (values, names) = read_all(&path).unwrap();
            assert_eq!(values, LATENTS[..4], "{text}");
            assert_eq!(names.unwrap(), ["a.png", "b,c.png"]);
        }
        let utf16 = "\u{feff}a,b\n".encode_utf16().flat_map(u16::to_le_bytes);
        fs::write(&path, utf16.collect::<Vec<u8>>()).unwrap();
        assert!(read_all(&path).unwrap_err().contains("is UTF-16"));
        // Many short lines are not one long line.
        fs::write(&path, format!("a,b\n{}", "1.0,2.0\n".repeat(2_200_000))).unwrap();
        assert_eq!(read_all(&path).unwrap().0.len(), 4_400_000);
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("latents.csv");
        fs::create_dir(&path).unwrap();
        let error = read_all(&path).unwrap_err();
        assert!(
            error.ends_with("latents.csv: is a folder, expected a file"),
            "{error}"
        );
    }

    #[test]
    fn a_damaged_table_is_an_error_and_never_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        // A fixed pseudorandom sequence: Marsaglia's xorshift.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        let mut tensor = b"\x48\0\0\0\0\0\0\0".to_vec();
        tensor
            .extend(br#"{"mean":{"dtype":"BF16","shape":[3,2],"data_offsets":[0,12]}}           "#);
        let bits = LATENTS.map(|number| (number.to_bits() >> 16) as u16);
        tensor.extend(bits.iter().flat_map(|bits| bits.to_le_bytes()));
        fs::write(folder.path().join("whole.safetensors"), &tensor).unwrap();
        assert_eq!(
            read_all(&folder.path().join("whole.safetensors"))
                .unwrap()
                .0,
            LATENTS
        );

        let mut files = vec![
            ("safetensors", tensor),
            (
                "csv",
                b"file,mean_0,mean_1\na.png,0.5,-1\nb.png,0.25,2e0\n".to_vec(),
            ),
        ];
        for name in [
            "columns.npy",
            "float16.npy",
            "zstd.parquet",
            "gzip.parquet",
            "polars.parquet",
        ] {
            let ending = name.split('.').next_back().unwrap();
            files.push((ending, fs::read(table(name)).unwrap()));
        }
        for (ending, bytes) in files {
            let path = folder.path().join(format!("damaged.{ending}"));
            for _ in 0..150 {
                let mut bytes = bytes.clone();
                for _ in 0..=random(4) {
                    let at = random(bytes.len());
                    bytes[at] = [0, 1, 0x7f, 0x80, 0xff, random(256) as u8][random(6)];
                }
                if random(4) == 0 {
                    bytes.truncate(random(bytes.len()));
                }
                fs::write(&path, &bytes).unwrap();
                let _ = read_all(&path);
            }
        }
    }
}
