//! Attributes from CelebA's list or a CSV or TSV file.

use std::collections::HashSet;
use std::path::Path;

use tracing::warn;

use super::entry::has_image_name;
use super::names::ByName;
use super::text;
use crate::{Attributes, DataError};

/// The official name of CelebA's list, found automatically next to the images.
pub const ATTRIBUTES_FILE: &str = "list_attr_celeba.txt";

/// The official name, and the one at Kaggle.
pub(super) const ATTRIBUTES_FILES: [&str; 2] = [ATTRIBUTES_FILE, "list_attr_celeba.csv"];

/// Names of the column with the file names. Without one of them it is the first column of image names, or else the
/// first column.
const FILE_COLUMNS: [&str; 6] = ["file", "file_name", "filename", "image", "image_id", "path"];

/// Spellings of an unknown value in lower case, including those of pandas and R.
const UNKNOWN: [&str; 10] = [
    "", "?", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "none", "null",
];

/// The rows of an attribute file.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) names: Vec<String>,
    rows: ByName<Vec<f32>>,
}

impl Table {
    /// Reads CelebA's own format (the number of images, the attributes' names, then one line per image), or a table
    /// with a header. The separator is detected from the header: comma, semicolon (numbers may then have a decimal
    /// comma) or tab. A column with anything but numbers, true, false, yes, no and unknown values is left out with a
    /// warning; an index written by pandas is left out without one.
    pub(crate) fn read(path: &Path) -> Result<Table, DataError> {
        let text = text::read(path)?;
        let first = text.lines().next().unwrap_or_default().trim();
        let table = match first.parse::<u64>() {
            Ok(_) => read_celeba(path, &text),
            Err(_) => read_csv(path, &text),
        }?;
        let mut names = HashSet::new();
        if let Some(name) = table.names.iter().find(|name| !names.insert(*name)) {
            let problem = format!("two attributes are named {name:?}, expected different names");
            return Err(wrong(path, 1, problem));
        }
        Ok(table)
    }

    /// The numbers of an image whose path is a name in the table or ends with one; NaN for unknown values.
    pub(crate) fn row(&self, image: &str) -> impl Iterator<Item = f32> {
        let row = self.rows.get(image);
        (0..self.names.len()).map(move |i| row.map_or(f32::NAN, |row| row[i]))
    }

    /// Warns if the table, read from `path`, contains fewer than half of the images.
    ///
    /// # Errors
    /// It contains none of them.
    pub(crate) fn check(&self, path: &Path, images: &[String]) -> Result<(), DataError> {
        self.rows.check(path, images)
    }

    /// The attributes of the images with these names.
    pub(crate) fn attributes(&self, images: &[String]) -> Attributes {
        let values = images.iter().flat_map(|image| self.row(image)).collect();
        Attributes::new(self.names.clone(), values)
    }
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
    let mut rows = ByName::default();
    for (line, i) in lines {
        let mut words = line.split_whitespace();
        let Some(image) = words.next() else { continue };
        let values: Vec<f32> = words.map_while(|word| number(word, false)).collect();
        if values.len() != names.len() || line.split_whitespace().count() != names.len() + 1 {
            let problem = format!("expected a file name and {} numbers", names.len());
            return Err(wrong(path, i, problem));
        }
        rows.insert(image, values);
    }
    Ok(Table { names, rows })
}

/// A list with a header.
pub(super) struct Csv<'a> {
    pub(super) header: csv::StringRecord,
    reader: csv::Reader<&'a [u8]>,
    path: &'a Path,
    has_decimal_comma: bool,
}

impl<'a> Csv<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str) -> Result<Csv<'a>, DataError> {
        let delimiter = delimiter(text.lines().next().unwrap_or_default()).unwrap_or(b',');
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .trim(csv::Trim::All)
            .from_reader(text.as_bytes());
        let header = reader.headers().map_err(|error| csv_error(path, &error))?;
        Ok(Csv {
            header: header.clone(),
            reader,
            path,
            has_decimal_comma: delimiter != b',',
        })
    }

    /// The remaining rows, each with its line number.
    pub(super) fn records(
        &mut self,
    ) -> impl Iterator<Item = Result<(csv::StringRecord, u64), DataError>> {
        let path = self.path;
        self.reader.records().map(move |record| {
            let record = record.map_err(|error| csv_error(path, &error))?;
            let line = record.position().map_or(0, csv::Position::line);
            Ok((record, line))
        })
    }
}

/// The column with the file names; `row` is the first one below the header.
pub(super) fn file_column(header: &csv::StringRecord, row: &csv::StringRecord) -> usize {
    let is_known = |name: &str| {
        FILE_COLUMNS
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known))
    };
    let is_name = |text: &str| number(text, false).is_none();
    header
        .iter()
        .position(is_known)
        .or_else(|| row.iter().position(has_image_name))
        .or_else(|| row.iter().position(is_name).filter(|_| has_index(header)))
        .unwrap_or(0)
}

/// Whether the first column may be an index written by pandas, which has no name.
fn has_index(header: &csv::StringRecord) -> bool {
    header
        .get(0)
        .is_some_and(|name| ["", "Unnamed: 0"].contains(&name))
}

fn csv_error(path: &Path, error: &csv::Error) -> DataError {
    let line = error.position().map_or(1, csv::Position::line);
    wrong(path, line, error.to_string())
}

/// The separator of a header's columns: the most frequent candidate in it.
pub(super) fn delimiter(header: &str) -> Option<u8> {
    let count = |delimiter: u8| {
        // A separator in quotes is part of a name.
        let outside = header.split('"').step_by(2);
        outside
            .flat_map(str::bytes)
            .filter(|&byte| byte == delimiter)
            .count()
    };
    [b',', b';', b'\t']
        .into_iter()
        .filter(|&delimiter| count(delimiter) > 0)
        .max_by_key(|&delimiter| count(delimiter))
}

fn read_csv(path: &Path, text: &str) -> Result<Table, DataError> {
    let mut csv = Csv::new(path, text)?;
    let (header, has_decimal_comma) = (csv.header.clone(), csv.has_decimal_comma);
    // A column counts as numeric until a row contradicts it.
    let mut is_number = vec![true; header.len()];
    let mut is_empty = vec![true; header.len()];
    // The numbers in a possible index column, as long as they are distinct.
    let mut index = has_index(&header).then(HashSet::new);
    let (mut rows, mut names) = (ByName::default(), None);
    for record in csv.records() {
        let (record, _) = record?;
        let names = *names.get_or_insert_with(|| file_column(&header, &record));
        let values: Vec<f32> = record
            .iter()
            .zip(is_number.iter_mut().zip(&mut is_empty))
            .map(|(text, (is_number, is_empty))| {
                let value = number(text, has_decimal_comma);
                *is_number &= value.is_some();
                *is_empty &= text.is_empty();
                value.unwrap_or(f32::NAN)
            })
            .collect();
        index = index.and_then(|mut seen: HashSet<u64>| {
            let is_new = record[0].parse().is_ok_and(|i| seen.insert(i));
            is_new.then_some(seen)
        });
        rows.insert(&record[names], values);
    }
    let names = names.unwrap_or(0);
    let (kept, left_out): (Vec<usize>, Vec<usize>) = (0..header.len())
        .filter(|&column| column != names && !(column == 0 && index.is_some()))
        // Without the empty column that a separator at the end of each line makes.
        .filter(|&column| !(header[column].is_empty() && is_empty[column]))
        .partition(|&column| is_number[column]);
    let names_of = |columns: &[usize]| -> Vec<String> {
        let name = |&i: &usize| match &header[i] {
            "" => format!("column_{}", i + 1),
            name => name.to_owned(),
        };
        columns.iter().map(name).collect()
    };
    if kept.is_empty() {
        let problem = "expected a header, and columns of numbers besides the file names".to_owned();
        return Err(wrong(path, 1, problem));
    }
    if !left_out.is_empty() {
        warn!(
            "{}: not only numbers in {}: left out",
            path.display(),
            names_of(&left_out).join(", ")
        );
    }
    for row in rows.rows_mut() {
        *row = kept.iter().map(|&column| row[column]).collect();
    }
    Ok(Table {
        names: names_of(&kept),
        rows,
    })
}

/// A number; 1 for true and yes, 0 for false and no, NaN for unknown values.
fn number(text: &str, has_decimal_comma: bool) -> Option<f32> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" => Some(1.0),
        "false" | "no" => Some(0.0),
        text if UNKNOWN.contains(&text) => Some(f32::NAN),
        text if has_decimal_comma && !text.contains('.') => text.replacen(',', ".", 1).parse().ok(),
        text => text.parse().ok(),
    }
    .filter(|number: &f32| !number.is_infinite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Attributes, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        std::fs::write(&path, text).unwrap();
        let images = ["faces/a.jpg", "faces/b.jpg"].map(str::to_owned);
        let table = Table::read(&path).map_err(|error| {
            let folder = folder.path().display().to_string();
            error.to_string().replace(&folder, "FOLDER")
        })?;
        Ok(table.attributes(&images))
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
    fn an_index_is_no_attribute() {
        for (text, names) in [
            // Written by pandas.DataFrame.to_csv, for a whole table and for some of its rows.
            (
                ",image_id,Smiling\n0,a.jpg,1\n1,b.jpg,0\n",
                &["Smiling"][..],
            ),
            (",face,Smiling\n7,a.jpg,1\n3,b.jpg,0\n", &["Smiling"]),
            (
                "Unnamed: 0,face,Smiling\n0,a.jpg,1\n1,b.jpg,0\n",
                &["Smiling"],
            ),
            // The names are the index.
            (",Smiling\na.jpg,1\nb.jpg,0\n", &["Smiling"]),
            // Not an index: a value that is not a number, or occurs twice.
            (
                "id,face,Smiling\n0,a.jpg,1\n1,b.jpg,0\n",
                &["id", "Smiling"],
            ),
            ("face,Smiling,\na.jpg,1,\nb.jpg,0,\n", &["Smiling"]),
            (
                ",face,Smiling\n2,a.jpg,1\n2,b.jpg,0\n",
                &["column_1", "Smiling"],
            ),
        ] {
            let attributes = read(text).unwrap();
            assert_eq!(attributes.names(), names, "{text}");
            assert_eq!(column(&attributes, "Smiling"), [Some(1.0), Some(0.0)]);
        }
    }

    #[test]
    fn unknown_values_leave_a_column_of_numbers() {
        for unknown in [
            "", "NA", "nan", "NaN", "None", "null", "?", "N/A", "<NA>", "\"\"",
        ] {
            let attributes = read(&format!("file,x\na.jpg,{unknown}\nb.jpg,2\n")).unwrap();
            assert_eq!(column(&attributes, "x"), [None, Some(2.0)], "{unknown}");
        }
        let attributes = read("2\nx y\na.jpg NA 1\nb.jpg 2 -1\n").unwrap();
        assert_eq!(column(&attributes, "x"), [None, Some(2.0)]);
        for (yes, no) in [("yes", "no"), ("True", "FALSE"), ("1", "0"), ("1.0", "0.0")] {
            let attributes = read(&format!("file,x\na.jpg,{yes}\nb.jpg,{no}\n")).unwrap();
            assert_eq!(column(&attributes, "x"), [Some(1.0), Some(0.0)]);
        }
    }

    #[test]
    fn every_separator_and_a_decimal_comma() {
        for text in [
            "file;x;note\na.jpg;1,5;\"one; two\"\nb.jpg;-2;,\n",
            "\u{feff}file\tx\tnote\r\na.jpg\t1,5\ta\r\nb.jpg\t-2.0\tb\r\n",
            "\"file\",\"x\",\"a;b;c;d\"\n\"a.jpg\",\"1.5\",\"x\"\n\"b.jpg\",-2,y\n",
        ] {
            let attributes = read(text).unwrap();
            assert_eq!(attributes.names(), ["x"], "{text}");
            assert_eq!(column(&attributes, "x"), [Some(1.5), Some(-2.0)]);
        }
        // Commas between columns exclude decimal commas, and attributes are finite.
        let attributes = read("file,x,y,z\na.jpg,\"1,5\",1,inf\nb.jpg,2,3,4\n").unwrap();
        assert_eq!(attributes.names(), ["y"]);
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
                "file,Male,Young,Male\na.jpg,1,1,0\n",
                "FOLDER/list:1: two attributes are named \"Male\", expected different names",
            ),
            (
                "1\nMale Male\na.jpg 1 1\n",
                "FOLDER/list:1: two attributes are named \"Male\", expected different names",
            ),
            (
                "",
                "FOLDER/list:1: expected a header, and columns of numbers besides the file names",
            ),
            (
                "file,who\na.jpg,X\n",
                "FOLDER/list:1: expected a header, and columns of numbers besides the file names",
            ),
        ] {
            assert_eq!(read(text).unwrap_err(), message);
        }
        let error = read("file,a\na.jpg,1,2\n").unwrap_err();
        assert!(error.starts_with("FOLDER/list:2: CSV error"), "{error}");
    }
}
