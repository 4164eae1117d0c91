//! CSV: a header, then a line for each image. An unknown number is an empty field. Files to read may have commas, semicolons (and
//! then decimal commas) or tabs between the columns.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};

use anyhow::{Context, Result, anyhow, bail};

use super::{FILE_COLUMN, Field, FieldKind, Latents, Values, latent_columns};

#[derive(Debug)]
pub(super) struct Writer(csv::Writer<BufWriter<File>>);

impl Writer {
    pub(super) fn new(file: BufWriter<File>, fields: &[Field]) -> Result<Writer> {
        let mut writer = csv::Writer::from_writer(file);
        let header = fields.iter().flat_map(|field| match &field.kind {
            FieldKind::Text | FieldKind::Integer => vec![field.name.clone()],
            FieldKind::Reals(columns) | FieldKind::Codes(columns) => columns.clone(),
        });
        writer.write_record(header)?;
        Ok(Writer(writer))
    }

    pub(super) fn write(&mut self, values: &[Values], n_rows: usize) -> Result<()> {
        for row in 0..n_rows {
            for values in values {
                match values {
                    Values::Text(texts) => self.0.write_field(&texts[row])?,
                    Values::Integers(integers) => {
                        let text = integers[row].map(|integer| integer.to_string());
                        self.0.write_field(text.unwrap_or_default())?;
                    }
                    Values::Codes(codes) => {
                        let width = codes.len() / n_rows;
                        for code in &codes[row * width..][..width] {
                            self.0.write_field(code.to_string())?;
                        }
                    }
                    Values::Reals(reals) => {
                        let width = reals.len() / n_rows;
                        for real in &reals[row * width..][..width] {
                            let text = (!real.is_nan()).then(|| real.to_string());
                            self.0.write_field(text.unwrap_or_default())?;
                        }
                    }
                }
            }
            self.0.write_record(None::<&[u8]>)?;
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<()> {
        let mut file = self.0.into_inner().map_err(|error| anyhow!("{error}"))?;
        Ok(file.flush()?)
    }
}

/// The longest line in bytes, including the read-ahead.
const LONGEST_LINE: usize = 1 << 24;

/// A reader with an error if a line is too long.
struct Lines {
    file: File,
    /// The number of bytes that may still be read before the line must end.
    left: usize,
}

impl Read for Lines {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(to)?;
        self.left = self.left.checked_sub(n).ok_or_else(|| {
            let problem = format!("a line of more than {} MiB", LONGEST_LINE >> 20);
            io::Error::new(io::ErrorKind::InvalidData, problem)
        })?;
        Ok(n)
    }
}

pub(super) struct Reader {
    reader: csv::Reader<BufReader<Lines>>,
    has_decimal_comma: bool,
    header: Vec<String>,
    latents: Vec<usize>,
    names: Option<usize>,
}

impl Reader {
    pub(super) fn new(file: File, column: &str) -> Result<Reader> {
        let left = LONGEST_LINE;
        let mut file = BufReader::with_capacity(1 << 16, Lines { file, left });
        let start = file.fill_buf()?;
        if start.starts_with(&[0xff, 0xfe]) || start.starts_with(&[0xfe, 0xff]) {
            bail!("is UTF-16: save it as UTF-8");
        }
        let mark = "\u{feff}".as_bytes();
        let n_mark = if start.starts_with(mark) {
            mark.len()
        } else {
            0
        };
        let delimiter = delimiter(&start[n_mark..]);
        file.consume(n_mark);
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .trim(csv::Trim::Headers)
            .from_reader(file);
        let header: Vec<String> = reader.headers()?.iter().map(str::to_owned).collect();
        let has_decimal_comma = delimiter != b',';
        if header
            .iter()
            .all(|name| number(name, has_decimal_comma).is_some())
        {
            return Err(anyhow!(
                "its first line consists of numbers, expected a header: file, {column}_0, {column}_1 and so on"
            ));
        }
        Ok(Reader {
            latents: latent_columns(&header, column)?,
            names: header.iter().position(|name| name == FILE_COLUMN),
            reader,
            has_decimal_comma,
            header,
        })
    }

    pub(super) fn width(&self) -> usize {
        self.latents.len()
    }

    pub(super) fn read(&mut self, n: usize) -> Result<Latents> {
        let mut names = self.names.map(|_| Vec::new());
        let (mut values, mut n_rows) = (Vec::new(), 0);
        let mut record = csv::StringRecord::new();
        while n_rows < n {
            self.reader.get_mut().get_mut().left = LONGEST_LINE;
            if !self.reader.read_record(&mut record)? {
                break;
            }
            for &column in &self.latents {
                let number =
                    number(&record[column], self.has_decimal_comma).with_context(|| {
                        let line = record.position().map_or(0, csv::Position::line);
                        let (column, found) = (&self.header[column], &record[column]);
                        format!("line {line}: {column} is `{found}`, expected a number")
                    })?;
                values.push(number);
            }
            if let (Some(names), Some(column)) = (&mut names, self.names) {
                names.push(record[column].to_owned());
            }
            n_rows += 1;
        }
        Ok(Latents {
            names,
            values,
            n_rows,
        })
    }
}

/// The separator of the columns: the one that is most frequent in the first line.
fn delimiter(start: &[u8]) -> u8 {
    let header = start
        .split(|&byte| byte == b'\n')
        .next()
        .unwrap_or_default();
    let count = |delimiter: u8| header.iter().filter(|&&byte| byte == delimiter).count();
    let others = [b';', b'\t']
        .into_iter()
        .max_by_key(|&delimiter| count(delimiter));
    others
        .filter(|&delimiter| count(delimiter) > count(b','))
        .unwrap_or(b',')
}

fn number(text: &str, has_decimal_comma: bool) -> Option<f32> {
    let text = text.trim();
    match has_decimal_comma && !text.contains('.') {
        true => text.replacen(',', ".", 1).parse().ok(),
        false => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Seek;

    use super::*;

    #[test]
    fn a_line_without_end_is_not_read_into_memory() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"mean_0,mean_1\n1,2\n\"").unwrap();
        // A hole of zero bytes takes no space on the disk.
        file.set_len(1 << 36).unwrap();
        file.rewind().unwrap();
        let mut reader = Reader::new(file, super::super::MEAN).unwrap();
        assert_eq!(reader.read(1).unwrap().values, [1.0, 2.0]);
        let said = format!("{:#}", reader.read(1).unwrap_err());
        assert!(said.contains("a line of more than 16 MiB"), "{said}");
    }
}
