//! `[dataset.arrays]`: files written by these tests, and some written by NumPy and pandas.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, FloatType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::Type;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tch::Kind;
use tempfile::TempDir;
use vae_base::NpyHeader;
use vae_data::{Dataset, DatasetConfig, Inputs, ItemKind, Split, Splits, loader::Batches};

fn npy_bytes(descr: &str, fortran_order: bool, shape: &[usize], numbers: &[u8]) -> Vec<u8> {
    let header = NpyHeader {
        descr: descr.to_owned(),
        fortran_order,
        shape: shape.to_vec(),
    };
    [header.to_bytes(128), numbers.to_vec()].concat()
}

fn le_f32(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// 20 rows of three columns, all values different: 0, 0.5, 1, …
fn table() -> Vec<f32> {
    (0..60_u8).map(|i| f32::from(i) / 2.0).collect()
}

struct Workplace(TempDir);

impl Workplace {
    fn new() -> Workplace {
        Workplace(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).expect("written");
        path
    }

    fn put_f32(&self, name: &str, shape: &[usize], numbers: &[f32]) -> PathBuf {
        self.put(name, npy_bytes("<f4", false, shape, &le_f32(numbers)))
    }

    fn npz(&self, name: &str, method: zip::CompressionMethod, arrays: &[(&str, Vec<u8>)]) {
        let mut zip = zip::ZipWriter::new(File::create(self.path(name)).expect("created"));
        let options = zip::write::SimpleFileOptions::default().compression_method(method);
        for (name, bytes) in arrays {
            zip.start_file(format!("{name}.npy"), options)
                .expect("begun");
            zip.write_all(bytes).expect("written");
        }
        zip.finish().expect("finished");
    }

    /// Nullable f32 columns a, b and c, an integer label, a text and a pandas index.
    fn parquet(&self, name: &str, rows: &[[Option<f32>; 3]]) {
        let schema = "message table {
            optional float a; optional double b; optional float c;
            required int64 class; optional binary name (UTF8); required int64 __index_level_0__;
        }";
        let schema = Arc::new(parse_message_type(schema).expect("a schema"));
        let file = File::create(self.path(name)).expect("created");
        let mut writer =
            SerializedFileWriter::new(file, schema, Arc::new(WriterProperties::default()))
                .expect("a writer");
        // Two row groups, so that a read crosses their boundary.
        let mut row = 0;
        for part in rows.chunks(rows.len().div_ceil(2)) {
            let mut group = writer.next_row_group().expect("a group");
            for column in 0..3 {
                let levels: Vec<i16> = part
                    .iter()
                    .map(|row| row[column].is_some().into())
                    .collect();
                let values: Vec<f32> = part.iter().filter_map(|row| row[column]).collect();
                let mut column_writer = group.next_column().expect("ok").expect("a column");
                if column == 1 {
                    let values: Vec<f64> = values.into_iter().map(f64::from).collect();
                    column_writer
                        .typed::<DoubleType>()
                        .write_batch(&values, Some(&levels), None)
                        .expect("written");
                } else {
                    column_writer
                        .typed::<FloatType>()
                        .write_batch(&values, Some(&levels), None)
                        .expect("written");
                }
                column_writer.close().expect("closed");
            }
            let positions: Vec<i64> = (row..row + part.len() as i64).collect();
            row += part.len() as i64;
            for column in ["class", "name", "__index_level_0__"] {
                let mut column_writer = group.next_column().expect("ok").expect("a column");
                match column {
                    "class" => {
                        let classes: Vec<i64> = positions.iter().map(|i| i % 4).collect();
                        column_writer
                            .typed::<Int64Type>()
                            .write_batch(&classes, None, None)
                    }
                    "name" => {
                        let names = positions
                            .iter()
                            .map(|i| ["cat", "dog", "ant"][*i as usize % 3]);
                        let names: Vec<ByteArray> = names.map(ByteArray::from).collect();
                        let levels = vec![1; names.len()];
                        column_writer.typed::<ByteArrayType>().write_batch(
                            &names,
                            Some(&levels),
                            None,
                        )
                    }
                    _ => column_writer
                        .typed::<Int64Type>()
                        .write_batch(&positions, None, None),
                }
                .expect("written");
                column_writer.close().expect("closed");
            }
            group.close().expect("closed");
        }
        writer.close().expect("closed");
    }

    /// Three rows; each column holds its number in all of them.
    fn plain_parquet(&self, name: &str, columns: &[(&str, f32)]) {
        let fields = columns
            .iter()
            .map(|(name, _)| format!("required float {name}; "));
        let schema = format!("message table {{ {} }}", fields.collect::<String>());
        let schema = Arc::new(parse_message_type(&schema).expect("a schema"));
        let file = File::create(self.path(name)).expect("created");
        let mut writer = SerializedFileWriter::new(file, schema, Arc::default()).expect("a writer");
        let mut group = writer.next_row_group().expect("a group");
        for (_, number) in columns {
            let mut column = group.next_column().expect("ok").expect("a column");
            let typed = column.typed::<FloatType>();
            typed
                .write_batch(&[*number; 3], None, None)
                .expect("written");
            column.close().expect("closed");
        }
        group.close().expect("closed");
        writer.close().expect("closed");
    }

    /// The config of `[dataset.arrays]`; `{}` in `text` is replaced by the folder.
    fn config(&self, text: &str) -> DatasetConfig {
        let folder = self.0.path().display().to_string();
        let text = text.replace("{}", &folder);
        toml::from_str(&format!("[arrays]\n{text}\n")).expect("a config")
    }

    fn load(&self, text: &str) -> Splits {
        self.config(text).load().expect(text)
    }

    fn error(&self, text: &str) -> String {
        let error = self.config(text).load().expect_err(text).to_string();
        error.replace(&format!("{}/", self.0.path().display()), "")
    }
}

fn values(dataset: &Dataset) -> Vec<f32> {
    let items = dataset.first(usize::MAX).expect("items");
    Vec::try_from(items.contiguous().view(-1).to_kind(Kind::Float)).expect("numbers")
}

fn labels(dataset: &Dataset) -> Vec<i64> {
    Vec::try_from(dataset.labels().expect("labels")).expect("numbers")
}

/// All rows, sorted by their first value.
fn sorted(splits: &Splits) -> Vec<Vec<f32>> {
    let parts = [
        Some(&splits.train),
        splits.validation.as_ref(),
        Some(&splits.test),
    ];
    let mut rows: Vec<Vec<f32>> = parts
        .into_iter()
        .flatten()
        .flat_map(|part| {
            let width = part.shape().n_values() as usize;
            let values = values(part);
            values
                .chunks(width)
                .map(<[f32]>::to_vec)
                .collect::<Vec<_>>()
        })
        .collect();
    rows.sort_by(|a, b| a[0].total_cmp(&b[0]));
    rows
}

#[test]
fn every_format_gives_the_same_items() {
    let workplace = Workplace::new();
    let table = table();
    let plain = npy_bytes("<f4", false, &[20, 3], &le_f32(&table));
    workplace.put("plain.npy", &plain);
    let f64s: Vec<u8> = table
        .iter()
        .flat_map(|&x| f64::from(x).to_be_bytes())
        .collect();
    workplace.put("big-endian.npy", npy_bytes(">f8", false, &[20, 3], &f64s));
    let columns: Vec<f32> = (0..3)
        .flat_map(|column| table.iter().skip(column).step_by(3).copied())
        .collect();
    let fortran = npy_bytes("<f4", true, &[20, 3], &le_f32(&columns));
    workplace.put("fortran.npy", &fortran);
    let other = npy_bytes("|u1", false, &[2], &[1, 2]);
    for (name, method) in [
        ("stored", zip::CompressionMethod::Stored),
        ("deflated", zip::CompressionMethod::Deflated),
    ] {
        let arrays = [("x", plain.clone()), ("y", other.clone())];
        workplace.npz(&format!("{name}.npz"), method, &arrays);
        let arrays = [("x", fortran.clone()), ("y", other.clone())];
        workplace.npz(&format!("{name}-fortran.npz"), method, &arrays);
    }
    let numbers = le_f32(&table);
    let tensor = TensorView::new(Dtype::F32, vec![20, 3], &numbers).expect("a tensor");
    let tensors = BTreeMap::from([("x", tensor)]);
    let bytes = safetensors::serialize(tensors, None).expect("serialized");
    workplace.put("x.safetensors", bytes);
    let rows: Vec<[Option<f32>; 3]> = table
        .chunks(3)
        .map(|row| [Some(row[0]), Some(row[1]), Some(row[2])])
        .collect();
    workplace.parquet("x.parquet", &rows);

    let wanted = workplace.load("train = '{}/plain.npy'");
    assert_eq!(wanted.train.item().shape, [3]);
    assert_eq!(wanted.train.item().kind, ItemKind::Array);
    assert_eq!(
        [
            wanted.train.len(),
            wanted.validation.as_ref().map_or(0, Dataset::len),
            wanted.test.len()
        ],
        [16, 2, 2]
    );
    assert_eq!(
        sorted(&wanted),
        table.chunks(3).map(<[f32]>::to_vec).collect::<Vec<_>>()
    );
    for text in [
        "train = '{}/big-endian.npy'",
        "train = '{}/fortran.npy'",
        "train = { file = '{}/stored.npz', array = 'x' }",
        "train = { file = '{}/deflated.npz', array = 'x' }",
        "train = { file = '{}/stored-fortran.npz', array = 'x' }",
        "train = { file = '{}/deflated-fortran.npz', array = 'x' }",
        "train = '{}/x.safetensors'",
        "train = { file = '{}/x.parquet', labels = 'class' }",
        "train = '{}/x.parquet'\ncolumns = ['a', 'b', 'c']",
    ] {
        let splits = workplace.load(text);
        assert_eq!(splits.train.spec(), wanted.train.spec(), "{text}");
        assert_eq!(values(&splits.train), values(&wanted.train), "{text}");
        assert_eq!(values(&splits.test), values(&wanted.test), "{text}");
        let described = workplace.config(text).item_spec().expect("a header");
        assert_eq!(
            (described.kind, &described.shape),
            (ItemKind::Array, &vec![3])
        );
        assert_eq!(described.standardization, None);
    }
    // If it is not named as the labels, the column of classes is an ordinary column. The index is left out.
    let four = workplace.load("train = '{}/x.parquet'");
    assert_eq!(four.train.item().shape, [4]);
    let turned = workplace.load("train = '{}/x.parquet'\ncolumns = ['c', 'a']");
    assert_eq!(sorted(&turned)[0], [1.0, 0.0]);
}

#[test]
fn every_type_of_number_becomes_f32() {
    let workplace = Workplace::new();
    for (descr, numbers) in [
        ("|b1", vec![1_u8, 0, 1, 1]),
        ("|i1", vec![0xff, 0, 1, 1]),
        ("|u1", vec![255, 0, 1, 1]),
        ("<i2", [-300_i16, 0, 1, 1].map(i16::to_le_bytes).concat()),
        (">i2", [-300_i16, 0, 1, 1].map(i16::to_be_bytes).concat()),
        ("<i4", [-70_000_i32, 0, 1, 1].map(i32::to_le_bytes).concat()),
        ("<i8", [-70_000_i64, 0, 1, 1].map(i64::to_le_bytes).concat()),
        ("<f2", vec![0, 0xbc, 0, 0, 0, 0x3c, 0, 0x3c]),
        (
            "<f8",
            [-1.5_f64, 0.0, 1.0, 1.0].map(f64::to_le_bytes).concat(),
        ),
    ] {
        workplace.put("x.npy", npy_bytes(descr, false, &[4, 1], &numbers));
        let rows = sorted(&workplace.load("train = '{}/x.npy'")).concat();
        let wanted = match descr {
            "|b1" => [0.0, 1.0, 1.0, 1.0],
            "|u1" => [0.0, 1.0, 1.0, 255.0],
            "|i1" | "<f2" => [-1.0, 0.0, 1.0, 1.0],
            "<i2" | ">i2" => [-300.0, 0.0, 1.0, 1.0],
            "<f8" => [-1.5, 0.0, 1.0, 1.0],
            _ => [-70_000.0, 0.0, 1.0, 1.0],
        };
        assert_eq!(rows, wanted, "{descr}");
    }
    for descr in ["<c8", "<M8[ns]", "<U1"] {
        workplace.put("x.npy", npy_bytes(descr, false, &[4, 1], &[0; 32]));
        let error = workplace.error("train = '{}/x.npy'");
        assert!(
            error.starts_with(&format!("x.npy: is an array of {descr}, expected numbers")),
            "{error}"
        );
    }
}

#[test]
fn the_axes_are_what_the_layout_says() {
    let workplace = Workplace::new();
    // Two axes, time and channels: item i has the values 100 i + 10 t + c.
    let numbers: Vec<f32> = (0..4 * 3 * 2)
        .map(|i| (100 * (i / 6) + 10 * (i % 6 / 2) + i % 2) as f32)
        .collect();
    workplace.put_f32("x.npy", &[4, 3, 2], &numbers);
    let by_time = workplace.load("train = '{}/x.npy'\nlayout = 'n_t_c'");
    assert_eq!(by_time.train.item().shape, [2, 3]);
    assert_eq!(by_time.train.shape().to_string(), "2×1×3");
    assert_eq!(
        sorted(&by_time)[1],
        [100.0, 110.0, 120.0, 101.0, 111.0, 121.0]
    );
    let by_channel = workplace.load("train = '{}/x.npy'");
    assert_eq!(by_channel.train.item().shape, [3, 2]);
    let images = workplace.load("train = '{}/x.npy'\nlayout = 'n_h_w'");
    assert_eq!(images.train.item().shape, [1, 3, 2]);
    assert_eq!(images.train.item().kind, ItemKind::Array);
    let error = workplace.error("train = '{}/x.npy'\nlayout = 'n_d'");
    assert_eq!(
        error,
        "x.npy: is an array of shape [4, 3, 2], but dataset.arrays.layout = \"n_d\" has 2 axes"
    );
    workplace.put_f32("x.npy", &[4], &numbers[..4]);
    assert!(
        workplace
            .error("train = '{}/x.npy'")
            .contains("expected [N, D]")
    );
}

#[test]
fn bytes_of_images_are_images_as_keras_keeps_mnist() {
    let workplace = Workplace::new();
    let pixels = |n: usize| (0..n * 12).map(|i| i as u8).collect::<Vec<u8>>();
    let arrays = [
        ("x_test", npy_bytes("|u1", false, &[3, 4, 3], &pixels(3))),
        ("x_train", npy_bytes("|u1", false, &[10, 4, 3], &pixels(10))),
        (
            "y_train",
            npy_bytes("|u1", false, &[10], &[5, 0, 4, 1, 9, 2, 1, 3, 1, 4]),
        ),
        ("y_test", npy_bytes("|u1", false, &[3], &[7, 2, 1])),
    ];
    workplace.npz("mnist.npz", zip::CompressionMethod::Deflated, &arrays);
    let text = "train = { file = '{}/mnist.npz', array = 'x_train', labels = 'y_train' }
                test = { file = '{}/mnist.npz', array = 'x_test', labels = 'y_test' }
                split = 'in_order'";
    let error = workplace.error(text);
    assert!(
        error.starts_with(
            "dataset.arrays.layout: is needed for mnist.npz of shape [10, 4, 3]: \"n_h_w\" if"
        ),
        "{error}"
    );
    let text = &format!("{text}\nlayout = 'n_h_w'");
    let splits = workplace.load(text);
    assert!(splits.train.item().is_image());
    assert_eq!(splits.train.shape().to_string(), "1×4×3");
    assert_eq!(splits.train.item().standardization, None);
    assert_eq!(labels(&splits.train), [5, 0, 4, 1, 9, 2, 1, 3, 1]);
    assert_eq!(labels(splits.validation.as_ref().expect("validation")), [4]);
    assert_eq!(labels(&splits.test), [7, 2, 1]);
    let test = splits.test.first(3).expect("images");
    assert_eq!(test.kind(), Kind::Uint8);
    assert_eq!(
        Vec::<u8>::try_from(test.view(-1)).expect("bytes"),
        pixels(3)
    );

    // Everything that works for images works for them.
    let mut config = workplace.config(text);
    config.binarization = Some(vae_data::Binarization::Static);
    let black = config
        .load()
        .expect("splits")
        .train
        .first(1)
        .expect("an image");
    let black = Vec::<u8>::try_from(black.view(-1)).expect("bytes");
    assert!(black.iter().all(|byte| [0, 255].contains(byte)));

    // Channels last.
    workplace.put(
        "cifar.npy",
        npy_bytes("|u1", false, &[2, 8, 8, 3], &vec![7; 384]),
    );
    assert!(
        workplace
            .error("train = '{}/cifar.npy'")
            .contains("\"n_h_w_c\" if these are images")
    );
    let cifar = workplace.load("train = '{}/cifar.npy'\nlayout = 'n_h_w_c'");
    assert_eq!(cifar.train.shape().to_string(), "3×8×8");
}

#[test]
fn statistics_are_those_of_the_training_items_alone() {
    let workplace = Workplace::new();
    // In order: 8 for training, 1 for validation, 1 for testing. The last two would change every statistic.
    let mut numbers = vec![1.0_f32, 10.0, 3.0, 10.0];
    numbers.extend([
        1.0, 10.0, 3.0, 10.0, 1.0, 10.0, 3.0, 10.0, 1.0, 10.0, 3.0, 10.0,
    ]);
    numbers.extend([1e6, 1e6, -1e9, 1e9]);
    workplace.put_f32("x.npy", &[10, 2], &numbers);
    let splits = workplace.load("train = '{}/x.npy'\nsplit = 'in_order'");
    let found = splits
        .train
        .item()
        .standardization
        .clone()
        .expect("statistics");
    // 1 and 3 alternate; the second column is constant.
    assert_eq!((found.mean, found.std), (vec![2.0, 10.0], vec![1.0, 1.0]));
    assert_eq!(splits.test.item(), splits.train.item());
    assert_eq!(values(&splits.test), [-1e9, 1e9]);
    let raw = workplace.load("train = '{}/x.npy'\nsplit = 'in_order'\nstandardize = false");
    assert_eq!(raw.train.item().standardization, None);

    // For series one mean per channel: 0 and 2 around 1; 5 and 9 around 7.
    let series = [0.0_f32, 2.0, 5.0, 9.0].repeat(4);
    workplace.put_f32("s.npy", &[4, 2, 2], &series);
    let splits = workplace.load("train = '{}/s.npy'");
    let found = splits
        .train
        .item()
        .standardization
        .clone()
        .expect("statistics");
    assert_eq!((found.mean, found.std), (vec![1.0, 7.0], vec![1.0, 2.0]));
}

#[test]
fn missing_and_infinite_values_are_refused_with_their_place() {
    let workplace = Workplace::new();
    let mut numbers = table();
    (numbers[3 * 17 + 1], numbers[3 * 18]) = (f32::NAN, f32::NAN);
    workplace.put_f32("x.npy", &[20, 3], &numbers);
    let error = workplace.error("train = '{}/x.npy'");
    assert_eq!(
        error,
        "x.npy: has 2 missing values (NaN), the first in row 17, column 1; dataset.arrays.missing = \"ignore\" \
         leaves them out of the likelihood"
    );
    let splits = workplace.load("train = '{}/x.npy'\nmissing = 'ignore'");
    assert!(splits.train.item().has_missing);
    let n_missing = sorted(&splits)
        .concat()
        .iter()
        .filter(|x| x.is_nan())
        .count();
    assert_eq!(n_missing, 2);
    let statistics = splits
        .train
        .item()
        .standardization
        .clone()
        .expect("statistics");
    assert!(statistics.mean.iter().all(|mean| mean.is_finite()));

    workplace.put_f32("s.npy", &[5, 2, 6], &{
        let mut numbers = table();
        numbers[12 * 3 + 6 + 4] = f32::NEG_INFINITY;
        numbers
    });
    for missing in ["refuse", "ignore"] {
        let error = workplace.error(&format!("train = '{{}}/s.npy'\nmissing = '{missing}'"));
        assert_eq!(
            error,
            "s.npy: has 1 values that are infinite or too large for f32, the first in row 3, at [1, 4]"
        );
    }
    let large = [1e300_f64, 1.0].map(f64::to_le_bytes).concat();
    workplace.put("large.npy", npy_bytes("<f8", false, &[2, 1], &large));
    assert!(
        workplace
            .error("train = '{}/large.npy'")
            .contains("too large for f32")
    );

    let mut rows = vec![[Some(1.0), Some(2.0), Some(3.0)]; 10];
    rows[7][1] = None;
    rows[9] = [None; 3];
    workplace.parquet("x.parquet", &rows);
    let table = "train = { file = '{}/x.parquet', labels = 'class' }\n";
    let error = workplace.error(table);
    assert!(
        error.contains("4 missing values (NaN), the first in row 7, column b"),
        "{error}"
    );
    let splits = workplace.load(&format!("{table}missing = 'ignore'"));
    let n_missing = sorted(&splits)
        .concat()
        .iter()
        .filter(|x| x.is_nan())
        .count();
    assert_eq!(n_missing, 4);
}

#[test]
fn splits_are_disjoint_and_always_the_same() {
    let workplace = Workplace::new();
    let numbers: Vec<f32> = (0..100_u8).map(f32::from).collect();
    workplace.put_f32("x.npy", &[100, 1], &numbers);
    let parts = |splits: &Splits| {
        let validation = splits.validation.as_ref().map_or(Vec::new(), values);
        [values(&splits.train), validation, values(&splits.test)]
    };
    let random = parts(&workplace.load("train = '{}/x.npy'"));
    assert_eq!(random.each_ref().map(Vec::len), [80, 10, 10]);
    let all: BTreeSet<u32> = random.concat().iter().map(|&x| x as u32).collect();
    assert!(all.into_iter().eq(0..100));
    assert_eq!(parts(&workplace.load("train = '{}/x.npy'")), random);
    // shuffled_order(100, derive_seed(0, 0, "arrays split"), 0): another order would change every run's test items.
    let order =
        vae_data::loader::shuffled_order(100, vae_data::derive_seed(0, 0, "arrays split"), 0);
    let order: Vec<f32> = order.into_iter().map(|row| row as f32).collect();
    assert_eq!(
        [random[2].clone(), random[1].clone(), random[0].clone()].concat(),
        order
    );

    let in_order =
        parts(&workplace.load("train = '{}/x.npy'\nsplit = 'in_order'\ntest_fraction = 0.2"));
    assert_eq!(in_order.concat(), numbers);
    assert_eq!(in_order.each_ref().map(Vec::len), [70, 10, 20]);

    let mut config = workplace.config("train = '{}/x.npy'");
    (config.train_limit, config.test_limit) = (Some(7), Some(3));
    config.validation = Some(vae_data::HoldOut::Count(0));
    let splits = config.load().expect("splits");
    assert!(splits.validation.is_none());
    assert_eq!(values(&splits.test), random[2][..3]);
    assert_eq!(splits.train.len(), 7);
    config.validation = Some(vae_data::HoldOut::Count(90));
    assert!(config.load().is_err());

    // Validation rows come from the training file even if there is a test file.
    workplace.put_f32("test.npy", &[2, 1], &[7.0, 8.0]);
    let splits = workplace.load("train = '{}/x.npy'\ntest = '{}/test.npy'");
    assert_eq!([splits.train.len(), splits.test.len()], [90, 2]);
    workplace.put_f32("test.npy", &[1, 2], &[7.0, 8.0]);
    let error = workplace.error("train = '{}/x.npy'\ntest = '{}/test.npy'");
    assert_eq!(
        error,
        "test.npy: its items are f32 [2], expected f32 [1] as the training items are"
    );
}

#[test]
fn labels_are_an_array_a_column_or_a_file() {
    let workplace = Workplace::new();
    workplace.put_f32("x.npy", &[20, 3], &table());
    let classes: Vec<u8> = (0..20).map(|i| i % 5).collect();
    workplace.put("y.npy", npy_bytes("|u1", false, &[20], &classes));
    let splits =
        workplace.load("train = { file = '{}/x.npy', labels = '{}/y.npy' }\nsplit = 'in_order'");
    assert_eq!(
        labels(&splits.train),
        classes[..16]
            .iter()
            .map(|&c| i64::from(c))
            .collect::<Vec<_>>()
    );
    let spec = splits.train.condition_spec(true, &[]).expect("classes");
    assert_eq!(spec.classes.len(), 5);

    let rows = vec![[Some(1.0), Some(2.0), Some(3.0)]; 9];
    workplace.parquet("x.parquet", &rows);
    let text =
        "train = { file = '{}/x.parquet', labels = 'name' }\ncolumns = ['a']\nsplit = 'in_order'";
    // Sorted: ant, cat, dog. In the file: cat, dog, ant, …
    assert_eq!(
        labels(&workplace.load(text).train),
        [1, 2, 0, 1, 2, 0, 1, 2]
    );
    let config = workplace.config(text);
    let item = config.item_spec().expect("a header");
    let inputs = Inputs::open(&config, item, &[workplace.path("x.parquet")], None).expect("inputs");
    let found = inputs.read(9).expect("read").labels;
    assert_eq!(found[..3], [Some(1), Some(2), Some(0)]);
    let text = "train = { file = '{}/x.parquet', labels = 'class' }\nsplit = 'in_order'";
    assert_eq!(labels(&workplace.load(text).test), [0]);

    for (descr, shape, numbers, problem) in [
        (
            "|u1",
            &[19][..],
            vec![0; 19],
            "y.npy: is an array of shape [19], expected a label for each of 20 rows, [20]",
        ),
        (
            "<f4",
            &[20],
            le_f32(&[0.5; 20]),
            "y.npy: has the label 0.5 (float32), expected integers",
        ),
        (
            "|i1",
            &[20],
            vec![0xfe; 20],
            "x.npy: has the label -2, expected 0 to 65535, or -1 for unknown",
        ),
    ] {
        workplace.put("y.npy", npy_bytes(descr, false, shape, &numbers));
        let error = workplace.error("train = { file = '{}/x.npy', labels = '{}/y.npy' }");
        assert_eq!(error, problem);
    }
    let error = workplace.error("train = { file = '{}/x.npy', labels = 'nowhere' }");
    assert_eq!(
        error,
        "x.npy: has no array nowhere, and there is no file of that name"
    );
}

#[test]
fn a_column_of_lists_is_as_many_columns() {
    let workplace = Workplace::new();
    let write = |lengths: &[usize]| {
        let schema = "message table { optional group embedding (LIST) { repeated group list { optional float element; } } \
                      required float x; }";
        let schema: Arc<Type> = Arc::new(parse_message_type(schema).expect("a schema"));
        let file = File::create(workplace.path("x.parquet")).expect("created");
        let mut writer = SerializedFileWriter::new(file, schema, Arc::default()).expect("a writer");
        let mut group = writer.next_row_group().expect("a group");
        let mut column = group.next_column().expect("ok").expect("a column");
        let n: usize = lengths.iter().sum();
        let values: Vec<f32> = (1..n).map(|i| i as f32).collect();
        // The very first number is null.
        let defined: Vec<i16> = (0..n).map(|i| if i == 0 { 2 } else { 3 }).collect();
        let repeated: Vec<i16> = lengths
            .iter()
            .flat_map(|&length| (0..length).map(|i| i16::from(i > 0)))
            .collect();
        let typed = column.typed::<FloatType>();
        typed
            .write_batch(&values, Some(&defined), Some(&repeated))
            .expect("written");
        column.close().expect("closed");
        let mut column = group.next_column().expect("ok").expect("a column");
        let x = vec![0.5; lengths.len()];
        column
            .typed::<FloatType>()
            .write_batch(&x, None, None)
            .expect("written");
        column.close().expect("closed");
        group.close().expect("closed");
        writer.close().expect("closed");
    };
    write(&[2, 2, 2]);
    let splits = workplace.load("train = '{}/x.parquet'\nmissing = 'ignore'\nsplit = 'in_order'");
    assert_eq!(splits.train.item().shape, [3]);
    assert_eq!(values(&splits.test), [4.0, 5.0, 0.5]);
    let error = workplace.error("train = '{}/x.parquet'");
    assert!(
        error.contains("1 missing values (NaN), the first in row 0, column embedding[0]"),
        "{error}"
    );
    // The columns of the training file must exist in the test file, too.
    let text = "train = '{}/x.parquet'\ntest = '{}/x.parquet'\nmissing = 'ignore'";
    assert_eq!(workplace.load(text).test.len(), 3);
    write(&[2, 3, 1]);
    let error = workplace.error("train = '{}/x.parquet'\ncolumns = ['embedding']");
    assert!(
        error.contains("column embedding: has lists of different lengths, expected 2 numbers"),
        "{error}"
    );
}

#[test]
fn training_and_test_files_may_have_different_formats() {
    let workplace = Workplace::new();
    workplace.plain_parquet("x.parquet", &[("b", 1.0), ("a", 2.0)]);
    workplace.put_f32("x.npy", &[2, 2], &[3.0, 4.0, 5.0, 6.0]);
    let splits = workplace.load("train = '{}/x.parquet'\ntest = '{}/x.npy'");
    assert_eq!(values(&splits.train)[..2], [1.0, 2.0]);
    assert_eq!(values(&splits.test), [3.0, 4.0, 5.0, 6.0]);
    let splits = workplace.load("train = '{}/x.npy'\ntest = '{}/x.parquet'");
    assert_eq!(values(&splits.test), [1.0, 2.0, 1.0, 2.0, 1.0, 2.0]);
    workplace.put_f32("wide.npy", &[2, 3], &[0.0; 6]);
    let error = workplace.error("train = '{}/x.parquet'\ntest = '{}/wide.npy'");
    assert_eq!(
        error,
        "wide.npy: its items are f32 [3], expected f32 [2] as the training items are"
    );
}

#[test]
fn missing_arrays_and_columns_are_named() {
    let workplace = Workplace::new();
    let plain = npy_bytes("<f4", false, &[20, 3], &le_f32(&table()));
    workplace.put("x.npy", &plain);
    workplace.npz(
        "x.npz",
        zip::CompressionMethod::Stored,
        &[("a", plain.clone()), ("b", plain.clone())],
    );
    workplace.parquet("x.parquet", &[[Some(1.0); 3]; 4]);
    workplace.put("x.csv", "a,b\n1,2\n");
    for (text, problem) in [
        ("train = '{}/none.npy'", "none.npy: no such file"),
        (
            "train = '{}/x.csv'",
            "x.csv: is not a .npy, .npz, .safetensors or .parquet file",
        ),
        (
            "train = '{}/x.npz'",
            "x.npz: holds a, b: name the one with the items",
        ),
        (
            "train = { file = '{}/x.npz', array = 'c' }",
            "x.npz: holds no array c, only a, b",
        ),
        (
            "train = { file = '{}/x.npy', array = 'c' }",
            "x.npy: holds one array without a name",
        ),
        (
            "train = '{}/x.npy'\ncolumns = ['a']",
            "x.npy: has no columns with names",
        ),
        (
            "train = '{}/x.parquet'\ncolumns = ['d']",
            "x.parquet: has no column d, only a, b, c, class",
        ),
        (
            "train = '{}/x.parquet'\ncolumns = ['name']",
            "x.parquet: column name: expected numbers, found",
        ),
        (
            "train = { file = '{}/x.parquet', array = 'c' }",
            "x.parquet: has no array c, but columns",
        ),
        (
            "train = '{}/x.npy'\ntest_fraction = 1.0",
            "dataset.arrays.test_fraction: found 1,",
        ),
        (
            "train = '{}/x.npy'\ncolumns = []",
            "dataset.arrays.columns: found none",
        ),
    ] {
        let error = workplace.error(text);
        assert!(error.starts_with(problem), "{text}: {error}");
    }
    let mut config = workplace.config("train = '{}/x.npy'");
    config.binarization = Some(vae_data::Binarization::Dynamic);
    for error in [
        config.load().expect_err("binarized"),
        config.item_spec().expect_err("binarized"),
    ] {
        assert!(
            error
                .to_string()
                .starts_with("dataset.binarization: makes pixels"),
            "{error}"
        );
    }
    for text in [
        "train = 7",
        "train = {}",
        "train = { file = 'x', fil = 'y' }",
    ] {
        assert!(
            toml::from_str::<DatasetConfig>(&format!("[arrays]\n{text}")).is_err(),
            "{text}"
        );
    }
}

#[test]
fn a_config_survives_being_written_and_read() {
    for text in [
        "train = 'a.npy'",
        "train = { file = 'a.npz', array = 'x', labels = 'y' }\ntest = 'b.npz'\nlayout = 'n_h_w_c'\n\
         missing = 'ignore'\nsplit = 'in_order'\ncolumns = ['a']\nstandardize = false",
    ] {
        let config: DatasetConfig = toml::from_str(&format!("[arrays]\n{text}")).expect(text);
        let written = toml::to_string(&config).expect("written");
        assert_eq!(
            toml::from_str::<DatasetConfig>(&written).expect(&written),
            config
        );
    }
}

/// The header's sizes are compared with the file before memory is allocated.
#[test]
fn hostile_headers_are_errors() {
    let workplace = Workplace::new();
    for (shape, numbers) in [
        (&[1 << 40, 1 << 20][..], vec![0; 8]),
        (&[usize::MAX, usize::MAX], vec![0; 8]),
        (&[1 << 62, 4], vec![0; 8]),
        (&[2, 1], vec![0; 7]),
        (&[2, 1], vec![0; 9]),
        (&[0, 3], vec![]),
        (&[3, 0], vec![]),
        (&[], vec![0; 4]),
    ] {
        let bytes = npy_bytes("<f4", false, shape, &numbers);
        workplace.put("x.npy", &bytes);
        let error = workplace.error("train = '{}/x.npy'");
        assert!(error.starts_with("x.npy: "), "{error}");
        for method in [
            zip::CompressionMethod::Stored,
            zip::CompressionMethod::Deflated,
        ] {
            workplace.npz("x.npz", method, &[("x", bytes.clone())]);
            let error = workplace.error("train = '{}/x.npz'");
            assert!(
                error.starts_with("x.npz: x ") || error.starts_with("x.npz: is an array"),
                "{error}"
            );
        }
    }
    let tensor = |json: &str, n: usize| {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.bytes());
        bytes.resize(bytes.len() + n, 0);
        workplace.put("x.safetensors", bytes);
        let error = workplace.error("train = '{}/x.safetensors'");
        assert!(error.starts_with("x.safetensors: "), "{error}");
    };
    tensor(
        r#"{"x":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}}"#,
        8,
    );
    tensor(
        r#"{"x":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}}"#,
        7,
    );
    tensor(
        r#"{"x":{"dtype":"F32","shape":[2,1],"data_offsets":[8,0]}}"#,
        8,
    );
    // Each file, cut at every fifth byte, is an error and does not panic.
    let plain = npy_bytes("<f4", false, &[20, 3], &le_f32(&table()));
    workplace.npz(
        "whole.npz",
        zip::CompressionMethod::Deflated,
        &[("x", plain)],
    );
    workplace.parquet("whole.parquet", &[[Some(1.0); 3]; 4]);
    for name in ["whole.npz", "whole.parquet"] {
        let bytes = fs::read(workplace.path(name)).expect("read");
        for n in (0..bytes.len()).step_by(5) {
            workplace.put("x", &bytes[..n]);
            workplace.error("train = '{}/x'");
        }
    }
}

#[test]
fn a_damaged_member_of_a_zip_is_found_by_its_checksum() {
    let workplace = Workplace::new();
    let plain = npy_bytes("<f4", false, &[20, 3], &le_f32(&table()));
    workplace.npz("x.npz", zip::CompressionMethod::Stored, &[("x", plain)]);
    let mut bytes = fs::read(workplace.path("x.npz")).expect("read");
    let place = bytes
        .windows(4)
        .rposition(|four| four == 29.5_f32.to_le_bytes())
        .expect("there");
    bytes[place] ^= 1;
    workplace.put("x.npz", bytes);
    let error = workplace.error("train = '{}/x.npz'");
    assert!(error.contains("wrong checksum"), "{error}");
}

#[test]
fn inputs_of_a_trained_model_are_files_like_those_of_the_run() {
    let workplace = Workplace::new();
    workplace.put_f32("x.npy", &[20, 3], &table());
    let config = workplace.config("train = '{}/x.npy'\nsplit = 'in_order'");
    let item = config.load().expect("splits").train.item().clone();
    let open = |name: &str| Inputs::open(&config, item.clone(), &[workplace.path(name)], None);
    let error = |name: &str| {
        let error = match open(name) {
            Ok(inputs) => inputs.read(1000).expect_err(name),
            Err(error) => error,
        };
        error
            .to_string()
            .replace(&format!("{}/", workplace.0.path().display()), "")
    };
    let all = open("x.npy").expect("inputs").read(100).expect("read");
    assert_eq!((all.names.len(), all.names[19].as_str()), (20, "19"));
    assert_eq!(all.items.size(), [20, 1, 1, 3]);
    assert_eq!(
        Vec::<f32>::try_from(all.items.view(-1)).expect("numbers"),
        table()
    );
    let some = open("x.npy#17..19")
        .expect("inputs")
        .read(100)
        .expect("read");
    assert_eq!(some.names, ["17", "18"]);
    assert_eq!(some.items.double_value(&[0, 0, 0, 0]), 25.5);
    assert!(error("x.npy#20").contains("row 20 was requested, but it holds 20"));
    let two = [workplace.path("x.npy#0"), workplace.path("x.npy#5")];
    let two = Inputs::open(&config, item.clone(), &two, None).expect("inputs");
    assert_eq!(two.n_images(), 2);
    let names = two.read(9).expect("read").names;
    assert!(names[1].ends_with("x.npy#5#5"), "{names:?}");

    // Other files with another number of columns, or with values that the run refused.
    workplace.put_f32("two.npy", &[10, 2], &table()[..20]);
    assert_eq!(
        error("two.npy"),
        "two.npy: its items are f32 [2], expected f32 [3] as those of the model are"
    );
    let mut numbers = table();
    numbers[40] = f32::NAN;
    workplace.put_f32("nan.npy", &[20, 3], &numbers);
    assert!(error("nan.npy").contains("1 missing values (NaN), the first in row 13, column 1"));
    assert!(error("nowhere.npy").starts_with("nowhere.npy: no such file"));
    workplace.put("photo.jpg", b"\xff\xd8\xff");
    assert!(error("photo.jpg").contains("is not a file of arrays"));
    let plain = npy_bytes("<f4", false, &[20, 3], &le_f32(&table()));
    let arrays = [("a", plain.clone()), ("b", plain)];
    workplace.npz("x.npz", zip::CompressionMethod::Deflated, &arrays);
    assert!(error("x.npz").contains("holds a, b"));
    assert_eq!(open("x.npz#b").expect("inputs").n_images(), 20);
    assert_eq!(
        open("x.npz#b#3..5")
            .expect("inputs")
            .read(9)
            .expect("read")
            .names,
        ["3", "4"]
    );

    // A table is read by the column names of the training file.
    workplace.plain_parquet("train.parquet", &[("a", 1.0), ("b", 2.0)]);
    workplace.plain_parquet("new.parquet", &[("c", 3.0), ("b", 2.0), ("a", 1.0)]);
    let trained = workplace.config("train = '{}/train.parquet'");
    let of_table = trained.load().expect("splits").train.item().clone();
    let new = [workplace.path("new.parquet")];
    let new = Inputs::open(&trained, of_table, &new, None).expect("inputs");
    let new = Vec::<f32>::try_from(new.read(9).expect("read").items.view(-1));
    assert_eq!(new.expect("numbers"), [1.0, 2.0].repeat(3));

    let test = Inputs::of_split(&config, item.clone(), Split::Test, None).expect("inputs");
    let test = test.read(9).expect("read");
    assert_eq!(test.names, ["18", "19"]);
    assert_eq!(
        Vec::<f32>::try_from(test.items.view(-1)).expect("numbers"),
        table()[54..]
    );
}

#[test]
fn batches_of_arrays_are_f32_on_the_device() {
    let workplace = Workplace::new();
    workplace.put_f32("x.npy", &[20, 3], &table());
    let splits = workplace.load("train = '{}/x.npy'");
    let mut n = 0;
    for batch in Batches::shuffled(&splits.train, 5, tch::Device::Cpu, 1, 0) {
        let items = batch.expect("a batch").items;
        assert_eq!(items.kind(), Kind::Float);
        n += items.size()[0];
    }
    assert_eq!(n, 16);
    let again = workplace.load("train = '{}/x.npy'");
    assert_eq!(
        splits.train.fingerprint().expect("a number"),
        again.train.fingerprint().expect("a number")
    );
}

/// Written by arrays_of_python/make.py.
#[test]
fn files_of_numpy_pandas_and_pyarrow_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/arrays_of_python");
    let load = |text: &str| {
        let text = text.replace("{}", &folder.display().to_string());
        let text = format!("[arrays]\nsplit = 'in_order'\n{text}\n");
        let config: DatasetConfig = toml::from_str(&text).expect("a config");
        config.load().expect(&text)
    };
    let table: Vec<f32> = (0..24_u8).map(|i| f32::from(i) / 2.0).collect();
    let all = |splits: &Splits| [values(&splits.train), values(&splits.test)].concat();
    for text in [
        "train = '{}/float64.npy'",
        "train = '{}/fortran.npy'",
        "train = '{}/plain.npz'",
        "train = '{}/deflated.npz'",
        "train = '{}/one.safetensors'",
        "train = { file = '{}/x.safetensors', labels = 'y' }",
        "train = '{}/pandas.parquet'\ncolumns = ['a', 'b', 'c']",
        "train = { file = '{}/fixed.parquet', labels = 'n' }",
    ] {
        let splits = load(text);
        assert!(splits.validation.is_none(), "8 rows");
        assert_eq!(all(&splits), table, "{text}");
    }
    assert_eq!(
        labels(&load("train = { file = '{}/x.safetensors', labels = 'y' }").test),
        [1]
    );
    assert_eq!(
        labels(&load("train = { file = '{}/fixed.parquet', labels = 'n' }").test),
        [1]
    );

    // arange(24).reshape(3, 2, 4).transpose(2, 0, 1): item i, channel c, step t has 8 c + 4 t + i.
    let series = load("train = '{}/transposed.npy'");
    assert_eq!(series.train.item().shape, [3, 2]);
    assert_eq!(values(&series.test), [3.0, 7.0, 11.0, 15.0, 19.0, 23.0]);

    let digits = load(
        "train = { file = '{}/keras.npz', array = 'x_train', labels = 'y_train' }
         test = { file = '{}/keras.npz', array = 'x_test', labels = 'y_test' }
         layout = 'n_h_w'",
    );
    assert!(digits.train.item().is_image());
    assert_eq!(digits.train.shape().to_string(), "1×4×5");
    assert_eq!(
        (labels(&digits.test), values(&digits.test)[59]),
        (vec![0, 1, 2], 59.0)
    );

    // Numbers, booleans, nullable integers and lists; no text, times or index.
    let frame = load("train = { file = '{}/pandas.parquet', labels = 'kind' }\nmissing = 'ignore'");
    assert_eq!(frame.train.item().shape, [7]);
    let first = values(&frame.train);
    assert_eq!(first[..7], [0.0, 0.5, 1.0, 0.0, 1.0, 0.0, 0.5]);
    assert!(
        first[12].is_nan() && first[13].is_nan(),
        "a list that is missing"
    );
    assert!(first[14 + 4].is_nan(), "a size that is missing");
    // Sorted: ant, cat, dog.
    assert_eq!(labels(&frame.train), [1, 2, 1, 0, 0, 2, 1]);
}
