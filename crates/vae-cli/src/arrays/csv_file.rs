//! CSV: a header, then a line for each image. An unknown number is an empty field.

use std::fs::File;
use std::io::{BufWriter, Write};

use anyhow::{Context, Result, anyhow};

use super::{FILE_COLUMN, Field, FieldKind, Latents, Values, latent_columns};

#[derive(Debug)]
pub(super) struct Writer(csv::Writer<BufWriter<File>>);

impl Writer {
    pub(super) fn new(file: BufWriter<File>, fields: &[Field]) -> Result<Writer> {
        let mut writer = csv::Writer::from_writer(file);
        let header = fields.iter().flat_map(|field| match &field.kind {
            FieldKind::Text | FieldKind::Integer => vec![field.name.clone()],
            FieldKind::Reals(columns) => columns.clone(),
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

pub(super) struct Reader {
    reader: csv::Reader<File>,
    header: Vec<String>,
    latents: Vec<usize>,
    names: Option<usize>,
}

impl Reader {
    pub(super) fn new(file: File) -> Result<Reader> {
        let mut reader = csv::Reader::from_reader(file);
        let header: Vec<String> = reader.headers()?.iter().map(str::to_owned).collect();
        if header.iter().all(|name| name.parse::<f64>().is_ok()) {
            return Err(anyhow!(
                "its first line are numbers, expected a header: file, mean_0, mean_1 and so on"
            ));
        }
        Ok(Reader {
            latents: latent_columns(&header)?,
            names: header.iter().position(|name| name == FILE_COLUMN),
            reader,
            header,
        })
    }

    pub(super) fn width(&self) -> usize {
        self.latents.len()
    }

    pub(super) fn read(&mut self, n: usize) -> Result<Latents> {
        let mut names = self.names.map(|_| Vec::new());
        let (mut values, mut n_rows) = (Vec::new(), 0);
        for record in self.reader.records().take(n) {
            let record = record?;
            for &column in &self.latents {
                let number = record[column].trim().parse::<f32>().with_context(|| {
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
