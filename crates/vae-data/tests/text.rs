//! Texts as items: splits, vocabulary, labels, long and damaged lines.

use std::fs;
use std::path::Path;

use tch::Tensor;
use vae_data::{Dataset, DatasetConfig, Inputs, ItemKind, Split, Tokenizer};

fn config(path: &Path, more: &str) -> DatasetConfig {
    let path = path.display();
    toml::from_str(&format!("[text]\npath = '{path}'\n{more}")).expect("valid")
}

/// The texts of a data set.
fn texts(dataset: &Dataset) -> Vec<String> {
    let tokenizer =
        Tokenizer::new(dataset.item().text.as_ref().expect("texts")).expect("a vocabulary");
    let items = dataset.first(dataset.len()).expect("valid");
    let text = |i: i64| Vec::<i64>::try_from(items.get(i).flatten(0, -1)).expect("valid");
    (0..dataset.len() as i64)
        .map(|i| tokenizer.decode(&text(i)))
        .collect()
}

#[test]
fn lines_are_split_and_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("names.txt");
    let names: Vec<String> = (0..20).map(|i| format!("Name {i}")).collect();
    fs::write(&path, format!("{}\r\n\n   \n", names.join("\r\n"))).unwrap();
    let splits = config(&path, "max_length = 8").load().unwrap();
    let validation = splits.validation.unwrap();
    assert_eq!(
        [splits.train.len(), validation.len(), splits.test.len()],
        [16, 2, 2]
    );
    let mut all = [&splits.train, &validation, &splits.test]
        .map(texts)
        .concat();
    all.sort_unstable();
    let mut wanted = names.clone();
    wanted.sort_unstable();
    assert_eq!(all, wanted);
    let item = splits.train.item();
    assert_eq!(item.shape, [9]);
    assert!(matches!(item.kind, ItemKind::Tokens { end: Some(0), .. }));
    // In order: the last ones are for testing.
    let splits = config(&path, "max_length = 8\nsplit = 'in_order'")
        .load()
        .unwrap();
    assert_eq!(texts(&splits.test), names[18..]);
}

#[test]
fn a_folder_and_a_test_file() {
    let folder = tempfile::tempdir().unwrap();
    let [b, a, test] =
        ["in/b.txt", "in/sub/a.TXT", "test.txt"].map(|name| folder.path().join(name));
    fs::create_dir_all(a.parent().unwrap()).unwrap();
    fs::write(&b, "\u{feff}first\nsecond").unwrap();
    fs::write(&a, "third\n").unwrap();
    fs::write(folder.path().join("in/c.md"), "no text").unwrap();
    fs::write(&test, "zzz").unwrap();
    let more = format!("test = '{}'", test.display());
    let mut config = config(&folder.path().join("in"), &more);
    config.validation = Some(vae_data::HoldOut::Count(0));
    let splits = config.load().unwrap();
    let mut found = texts(&splits.train);
    found.sort_unstable();
    assert_eq!(found, ["first", "second", "third"]);
    // z is in no training text.
    assert_eq!(texts(&splits.test), ["zzz"]);
}

#[test]
fn a_table_has_texts_and_classes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("names.csv");
    let table = "name,kind\nAda,female\n\"Al, the elder\",male\nEve,female\nX,\n";
    fs::write(&path, table).unwrap();
    let more = "column = 'name'\nlabels = 'kind'\nsplit = 'in_order'\ntest_fraction = 0.25";
    let mut config = config(&path, more);
    config.validation = Some(vae_data::HoldOut::Count(0));
    let splits = config.load().unwrap();
    assert_eq!(texts(&splits.train), ["Ada", "Al, the elder", "Eve"]);
    let labels = Vec::<i64>::try_from(splits.train.labels().unwrap()).unwrap();
    assert_eq!(labels, [0, 1, 0]);
    assert_eq!(
        splits.test.labels().unwrap(),
        &Tensor::from_slice(&[-1_i64])
    );
    let without = |more: &str| self::config(&path, more).load().unwrap_err().to_string();
    assert!(without("").contains("dataset.text.column: is needed for"));
    let problem = without("column = 'nom'");
    assert!(
        problem.contains("has no column \"nom\"; there are name, kind"),
        "{problem}"
    );
}

#[test]
fn long_lines_are_cut_or_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    fs::write(&path, "abc\nabcdef\nabcd\nab\n").unwrap();
    let read = |longer: &str| {
        let more = format!("split = 'in_order'\nmax_length = 4\nlonger = '{longer}'");
        let mut config = config(&path, &more);
        config.validation = Some(vae_data::HoldOut::Count(0));
        config.load().unwrap()
    };
    assert_eq!(texts(&read("cut").train), ["abc", "abcd", "abcd"]);
    let skipped = read("skip").train;
    assert_eq!(texts(&skipped), ["abc", "abcd"]);
    assert_eq!(skipped.file_row(1), Some(2));
    fs::write(&path, "abcdefgh\nabcdef\nab").unwrap();
    let more = "split = 'in_order'\nmax_length = 4\nlonger = 'skip'";
    let problem = config(&path, more).load().unwrap_err().to_string();
    assert!(
        problem.contains("every one of the 2 training texts"),
        "{problem}"
    );
}

#[test]
fn damaged_text_is_an_error_with_file_and_line_or_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    fs::write(&path, b"good\nb\xe4d\nfine\nokay").unwrap();
    let problem = config(&path, "").load().unwrap_err().to_string();
    assert!(problem.contains("a.txt:2: is not UTF-8"), "{problem}");
    let splits = config(&path, "invalid = 'skip'").load().unwrap();
    assert_eq!(splits.report.bad_files.len(), 1);
    assert!(splits.report.bad_files.files()[0].name.ends_with("a.txt:2"));
    let table = folder.path().join("a.csv");
    fs::write(&table, b"text\ngood\nb\xe4d\n").unwrap();
    let problem = config(&table, "").load().unwrap_err().to_string();
    assert!(problem.contains("a.csv:3: is not UTF-8"), "{problem}");
    for (content, wanted) in [
        (&b"\xff\xfea\0"[..], "is UTF-16"),
        (b"\n \n", "holds no line of text"),
        (b"one", "holds 1 texts, expected at least 2"),
    ] {
        fs::write(&path, content).unwrap();
        let problem = config(&path, "").load().unwrap_err().to_string();
        assert!(problem.contains(wanted), "{problem}");
    }
    let missing = folder.path().join("none.txt");
    let problem = config(&missing, "").load().unwrap_err().to_string();
    assert!(problem.contains("none.txt"), "{problem}");
}

#[test]
fn wrong_values_are_refused_by_key() {
    for (more, key) in [
        ("max_length = 0", "dataset.text.max_length"),
        ("test_fraction = 1.0", "dataset.text.test_fraction"),
        (
            "tokens.byte_pair.vocabulary = 256",
            "dataset.text.tokens.byte_pair.vocabulary",
        ),
        (
            "tokens.word.vocabulary = 0",
            "dataset.text.tokens.word.vocabulary",
        ),
    ] {
        let problem = config(Path::new("a"), more)
            .validate()
            .unwrap_err()
            .to_string();
        assert!(problem.contains(key), "{problem}");
    }
    let mut config = config(Path::new("a"), "");
    config.binarization = Some(vae_data::Binarization::Dynamic);
    assert!(config.validate().is_err());
}

#[test]
fn inputs_are_files_of_lines_or_texts_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    fs::write(&path, "abc\ncab\nbca\nbac\n").unwrap();
    let config = config(&path, "max_length = 5");
    let item = config.load().unwrap().train.item().clone();
    let paths = ["cabbage", "text:a/b", path.to_str().unwrap()].map(Into::into);
    let inputs = Inputs::open(&config, item.clone(), &paths, None).unwrap();
    let read = inputs.read(100).unwrap();
    assert_eq!(read.names, ["cabbage", "a/b", "abc", "cab", "bca", "bac"]);
    assert_eq!(read.items.size(), [6, 1, 1, 6]);
    let tokenizer = Tokenizer::new(item.text.as_ref().unwrap()).unwrap();
    let first = Vec::<i64>::try_from(read.items.get(0).flatten(0, -1)).unwrap();
    // g is not in the vocabulary, and takes two of the five tokens.
    assert_eq!(tokenizer.decode(&first), "cabba");
    let test = Inputs::of_split(&config, item.clone(), Split::Test, None).unwrap();
    assert_eq!(test.read(10).unwrap().names.len(), 1);
    fs::write(&path, "xyz\nzyx\nyzx\n").unwrap();
    let problem = Inputs::of_split(&config, item, Split::Test, None).unwrap_err();
    assert!(
        problem
            .to_string()
            .contains("its vocabulary is not that of the model")
    );
}
