//! Attributes from CelebA's list or a CSV or TSV file.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use tracing::warn;

use super::split::file_name;
use crate::{Attributes, DataError};

/// The official name of CelebA's list, found automatically beside the images.
pub const ATTRIBUTES_FILE: &str = "list_attr_celeba.txt";

/// Names of the column with the file names; where none of them is there, it is the first column.
const FILE_COLUMNS: [&str; 6] = ["file", "file_name", "filename", "image", "image_id", "path"];

/// The rows of an attribute file.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) names: Vec<String>,
    rows: HashMap<String, Vec<f32>>,
}

impl Table {
    /// Reads CelebA's own form (the number of images, the attributes' names, then a line for each
    /// image), or a CSV (or TSV, by the separator in its first line) with a header. A column that
    /// holds anything but numbers or true and false is left out with a warning.
    pub(crate) fn read(path: &Path) -> Result<Table, DataError> {
        let text = fs::read_to_string(path).map_err(|source| DataError::Io {
            path: path.to_owned(),
            source,
        })?;
        let first = text.lines().next().unwrap_or_default().trim();
        match first.parse::<u64>() {
            Ok(_) => read_celeba(path, &text),
            Err(_) => read_csv(path, &text),
        }
    }

    /// A number for each name of an image called so, or whose path ends so; NaN for what is unknown.
    pub(crate) fn row(&self, image: &str) -> impl Iterator<Item = f32> {
        let row = self.rows.get(image);
        let row = row.or_else(|| self.rows.get(file_name(image)));
        (0..self.names.len()).map(move |i| row.map_or(f32::NAN, |row| row[i]))
    }
}

/// The attributes of the images called `images`, from a [`Table`].
pub(crate) fn read_attributes(path: &Path, images: &[String]) -> Result<Attributes, DataError> {
    let table = Table::read(path)?;
    let values = images.iter().flat_map(|image| table.row(image)).collect();
    Ok(Attributes::new(table.names, values))
}

fn wrong(path: &Path, line: u64, problem: String) -> DataError {
    DataError::Table {
        path: path.to_owned(),
        line,
        problem,
    }
}

fn read_celeba(path: &Path, text: &str) -> Result<Table, DataError> {
    let mut lines = text.lines().zip(1..).skip(1);
    let (header, _) = lines.next().unwrap_or_default();
    let names: Vec<String> = header.split_whitespace().map(str::to_owned).collect();
    if names.is_empty() {
        let problem = "expected the attributes' names".to_owned();
        return Err(wrong(path, 2, problem));
    }
    let mut rows = HashMap::new();
    for (line, i) in lines {
        let mut words = line.split_whitespace();
        let Some(image) = words.next() else { continue };
        let values: Vec<f32> = words.map_while(|word| word.parse().ok()).collect();
        if values.len() != names.len() || line.split_whitespace().count() != names.len() + 1 {
            let problem = format!("expected a file name and {} numbers", names.len());
            return Err(wrong(path, i, problem));
        }
        rows.insert(image.to_owned(), values);
    }
    Ok(Table { names, rows })
}

fn read_csv(path: &Path, text: &str) -> Result<Table, DataError> {
    let header = text.lines().next().unwrap_or_default();
    let separator = if header.contains('\t') { b'\t' } else { b',' };
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(separator)
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let csv_error = |error: csv::Error| {
        let line = error.position().map_or(1, csv::Position::line);
        wrong(path, line, error.to_string())
    };
    let header = reader.headers().map_err(csv_error)?.clone();
    let file_column = header
        .iter()
        .position(|name| {
            FILE_COLUMNS
                .iter()
                .any(|known| name.eq_ignore_ascii_case(known))
        })
        .unwrap_or(0);

    // A column is a number's as long as no row says otherwise.
    let mut is_number = vec![true; header.len()];
    let mut rows = HashMap::new();
    for record in reader.records() {
        let record = record.map_err(csv_error)?;
        let values: Vec<f32> = record
            .iter()
            .zip(&mut is_number)
            .map(|(text, is_number)| {
                let value = number(text);
                *is_number &= value.is_some();
                value.unwrap_or(f32::NAN)
            })
            .collect();
        rows.insert(record[file_column].to_owned(), values);
    }
    let (kept, left_out): (Vec<usize>, Vec<usize>) = (0..header.len())
        .filter(|&column| column != file_column)
        .partition(|&column| is_number[column]);
    let names = |columns: &[usize]| -> Vec<String> {
        columns.iter().map(|&i| header[i].to_owned()).collect()
    };
    if kept.is_empty() {
        let problem = "expected a header, and columns of numbers beside the file names".to_owned();
        return Err(wrong(path, 1, problem));
    }
    if !left_out.is_empty() {
        warn!(
            "{}: not only numbers in {}: left out",
            path.display(),
            names(&left_out).join(", ")
        );
    }
    for row in rows.values_mut() {
        *row = kept.iter().map(|&column| row[column]).collect();
    }
    Ok(Table {
        names: names(&kept),
        rows,
    })
}

/// A number, 1 for true, 0 for false, NaN for an empty field.
fn number(text: &str) -> Option<f32> {
    match text.to_ascii_lowercase().as_str() {
        "" => Some(f32::NAN),
        "true" => Some(1.0),
        "false" => Some(0.0),
        text => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Attributes, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        fs::write(&path, text).unwrap();
        let images = ["faces/a.jpg", "faces/b.jpg"].map(str::to_owned);
        read_attributes(&path, &images).map_err(|error| {
            let folder = folder.path().display().to_string();
            error.to_string().replace(&folder, "FOLDER")
        })
    }

    fn column(attributes: &Attributes, name: &str) -> Vec<Option<f32>> {
        attributes.column(name).unwrap().collect()
    }

    #[test]
    fn celebas_list_is_read() {
        let list = "2\nSmiling Young \nb.jpg -1  1\nc.jpg  1  1\n";
        let attributes = read(list).unwrap();
        assert_eq!(attributes.names(), ["Smiling", "Young"]);
        assert_eq!(column(&attributes, "Smiling"), [None, Some(-1.0)]);
        assert_eq!(column(&attributes, "Young"), [None, Some(1.0)]);
        assert!(attributes.column("Bald").is_none());
        assert_eq!(attributes.n_missing(), 1);
    }

    #[test]
    fn tables_with_a_file_name_column_are_read() {
        let comma = "age,file_name,who,glasses\n31,faces/a.jpg,\"Doe, J.\",true\n40.5,b.jpg,X,\n";
        for text in [
            comma.to_owned(),
            comma.replace(',', "\t").replace("Doe\t J.", "Doe"),
        ] {
            let attributes = read(&text).unwrap();
            assert_eq!(attributes.names(), ["age", "glasses"]);
            assert_eq!(column(&attributes, "age"), [Some(31.0), Some(40.5)]);
            assert_eq!(column(&attributes, "glasses"), [Some(1.0), None]);
            assert_eq!(attributes.n_missing(), 0);
        }
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, message) in [
            (
                "2\nA B\nb.jpg 1\n",
                "FOLDER/list:3: expected a file name and 2 numbers",
            ),
            (
                "2\nA B\nb.jpg 1 x\n",
                "FOLDER/list:3: expected a file name and 2 numbers",
            ),
            ("2\n", "FOLDER/list:2: expected the attributes' names"),
            (
                "file,who\na.jpg,X\n",
                "FOLDER/list:1: expected a header, and columns of numbers beside the file names",
            ),
        ] {
            assert_eq!(read(text).unwrap_err(), message);
        }
        let error = read("file,a\na.jpg,1,2\n").unwrap_err();
        assert!(error.starts_with("FOLDER/list:2: CSV error"), "{error}");
    }
}
