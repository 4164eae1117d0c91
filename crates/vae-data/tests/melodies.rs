//! Folders of MIDI and ABC files as melodies.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use tch::{Device, Tensor};
use vae_data::loader::Batches;
use vae_data::melodies::to_midi;
use vae_data::{Dataset, DatasetConfig, Inputs, MelodySpec, Splits};

const SPEC: MelodySpec = MelodySpec {
    bars: 2,
    steps_per_bar: 16,
    meter: [4, 4],
};

fn config(folder: &Path, more: &str) -> DatasetConfig {
    let text = format!(
        "[melodies]\npath = {:?}\n{more}",
        folder.display().to_string()
    );
    toml::from_str(&text).expect("a config")
}

fn load(folder: &Path, more: &str) -> Splits {
    config(folder, more).load().expect("melodies")
}

/// Four bars of a melody that no other number has.
fn melody(number: i64) -> Vec<i64> {
    (0..64)
        .map(|step| match step % 4 {
            0 => 30 + (number * 7 + step * (number % 5 + 1)) % 30,
            2 if number % 3 == 0 => MelodySpec::REST,
            _ => MelodySpec::HOLD,
        })
        .collect()
}

/// A folder of `n` MIDI files in two folders.
fn folder(n: i64) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for number in 0..n {
        let book = folder.path().join(["jigs", "reels"][(number % 2) as usize]);
        fs::create_dir_all(&book).expect("created");
        let file = book.join(format!("{number:03}.mid"));
        fs::write(file, to_midi(&SPEC, &melody(number))).expect("written");
    }
    folder
}

fn tokens(items: &Tensor) -> Vec<Vec<i64>> {
    (0..items.size()[0])
        .map(|i| Vec::<i64>::try_from(items.get(i).contiguous().view(-1)).expect("tokens"))
        .collect()
}

fn names(dataset: &Dataset) -> Vec<String> {
    (0..dataset.len())
        .map(|i| dataset.file_name(i).expect("a name").to_owned())
        .collect()
}

#[test]
fn windows_of_a_file_are_in_one_split_with_the_class_of_its_folder() {
    let folder = folder(40);
    let splits = load(folder.path(), "");
    let datasets = [
        &splits.train,
        splits.validation.as_ref().expect("validation items"),
        &splits.test,
    ];
    let files = datasets.map(|dataset| {
        let names = names(dataset).into_iter();
        names
            .map(|name| name.split_once('#').expect("a bar").0.to_owned())
            .collect::<BTreeSet<String>>()
    });
    let n: usize = files.iter().map(BTreeSet::len).sum();
    let all: BTreeSet<&String> = files.iter().flatten().collect();
    assert_eq!((n, all.len()), (40, 40), "no file is in two splits");
    for dataset in datasets {
        assert_eq!(dataset.item().melody, Some(SPEC));
        let labels = Vec::<i64>::try_from(dataset.labels().expect("classes")).expect("flat");
        let items = tokens(&dataset.first(usize::MAX).expect("in memory"));
        for ((name, label), item) in names(dataset).iter().zip(labels).zip(items) {
            assert_eq!(label == 1, name.starts_with("reels/"), "{name}");
            // Note for note: bar 1, 2 or 3 of the melody of this number.
            let (file, bar) = name.split_once('#').expect("a bar");
            let digits: String = file.chars().filter(char::is_ascii_digit).collect();
            let start = 16 * (bar.parse::<usize>().expect("a bar") - 1);
            let wanted = &melody(digits.parse().expect("a number"))[start..start + 32];
            assert_eq!(item, wanted, "{name}");
        }
    }
    // The same files give the same splits, in the same order.
    let again = load(folder.path(), "");
    assert_eq!(names(&again.train), names(&splits.train));
    let few = config(folder.path(), "").load().expect("melodies");
    assert_eq!(
        few.test.fingerprint().unwrap(),
        splits.test.fingerprint().unwrap()
    );
}

#[test]
fn transposition_follows_from_seed_epoch_and_place_and_stays_on_the_keys() {
    let folder = folder(30);
    let splits = load(folder.path(), "transpose = 5");
    let train = &splits.train;
    let plain = tokens(&train.first(usize::MAX).expect("in memory"));
    assert_eq!(
        plain,
        tokens(&load(folder.path(), "").train.first(usize::MAX).unwrap())
    );
    let epoch = |seed, epoch, n_skipped| -> Vec<(usize, Vec<i64>)> {
        let batches = Batches::shuffled(train, 7, Device::Cpu, seed, epoch).skip(n_skipped);
        batches
            .flat_map(|batch| {
                let batch = batch.expect("in memory");
                batch.rows.clone().into_iter().zip(tokens(&batch.items))
            })
            .collect()
    };
    let first = epoch(1, 0, 0);
    assert_eq!(first, epoch(1, 0, 0));
    assert_eq!(
        first[21..],
        epoch(1, 0, 3)[..],
        "resumed after three batches"
    );
    let mut shifts = BTreeSet::new();
    for (row, melody) in &first {
        let pairs: BTreeSet<i64> = melody
            .iter()
            .zip(&plain[*row])
            .filter(|(_, token)| **token >= 2)
            .map(|(moved, token)| moved - token)
            .collect();
        assert_eq!(pairs.len(), 1, "all notes by the same number");
        for (moved, token) in melody.iter().zip(&plain[*row]) {
            assert!(*token >= 2 || moved == token, "holds and rests stay");
        }
        shifts.extend(pairs);
    }
    assert_eq!(shifts, (-5..=5).collect());
    let by_row = |mut found: Vec<(usize, Vec<i64>)>| {
        found.sort();
        found
    };
    assert_ne!(by_row(first), by_row(epoch(1, 1, 0)), "anew in each epoch");
    // Not in evaluation, and not of the test items.
    let sequential = Batches::sequential(train, 1000, Device::Cpu)
        .next()
        .unwrap()
        .unwrap();
    assert_eq!(tokens(&sequential.items), plain);
    let test = tokens(&splits.test.first(usize::MAX).unwrap());
    let shuffled = Batches::shuffled(&splits.test, 1000, Device::Cpu, 1, 0)
        .next()
        .unwrap()
        .unwrap();
    let shuffled: BTreeSet<Vec<i64>> = tokens(&shuffled.items).into_iter().collect();
    assert_eq!(shuffled, test.into_iter().collect());

    // A melody on the lowest key only goes up.
    let low = tempfile::tempdir().unwrap();
    for i in 0..4 {
        let tokens: Vec<i64> = (0..32).map(|step| [2, 0, 5 + i, 0][step % 4]).collect();
        fs::write(low.path().join(format!("{i}.mid")), to_midi(&SPEC, &tokens)).unwrap();
    }
    let splits = load(low.path(), "transpose = 24");
    for epoch in 0..50 {
        for batch in Batches::shuffled(&splits.train, 2, Device::Cpu, 0, epoch) {
            assert!(
                tokens(&batch.unwrap().items)
                    .concat()
                    .iter()
                    .all(|&token| (0..90).contains(&token))
            );
        }
    }
}

#[test]
fn what_is_not_used_is_counted_and_listed() {
    let folder = folder(20);
    let put =
        |name: &str, bytes: &[u8]| fs::write(folder.path().join("jigs").join(name), bytes).unwrap();
    put("empty.mid", b"");
    put("text.mid", b"no MIDI");
    put("cut.mid", &to_midi(&SPEC, &melody(1))[..18]);
    put(
        "jig.abc",
        b"X:1\nM:6/8\nL:1/8\nK:G\nGAB ABc|d3 d3|GAB ABc|d3 d3|\n",
    );
    put(
        "two.abc",
        b"X:1\nM:C\nL:1/4\nK:G\nGABc|dcBA|G4|\n\nX:2\nM:C\nK:G\nV:1\nG\nV:2\nB\n",
    );
    put("notes.txt", b"ignored");
    let error = config(folder.path(), "").load().unwrap_err().to_string();
    assert!(error.contains("4 of 25 files are not usable"), "{error}");
    assert!(
        error.contains("dataset.melodies.max_bad_fraction"),
        "{error}"
    );
    let splits = load(folder.path(), "max_bad_fraction = 0.2");
    let bad = splits.report.bad_files.to_text();
    for line in [
        "jigs/empty.mid\tis empty\n",
        "jigs/text.mid\tholds no MIDI and no tune in ABC (X:)\n",
        "jigs/two.abc#2\tline 12: several voices (V:) are not read\n",
    ] {
        assert!(bad.contains(line), "{bad}");
    }
    assert!(bad.contains("jigs/cut.mid\t"), "{bad}");
    assert_eq!(splits.report.bad_files.len(), 4);
    assert_eq!(splits.report.left_out, [("in 6/8".to_owned(), 1)]);
    let all = [
        &splits.train,
        splits.validation.as_ref().unwrap(),
        &splits.test,
    ]
    .map(names)
    .concat();
    assert_eq!(
        all.iter()
            .filter(|name| name.starts_with("jigs/two.abc#1:"))
            .count(),
        2
    );
    let jigs = load(
        folder.path(),
        "max_bad_fraction = 0.2\nmeters = ['6/8', '4/4']\nsteps_per_bar = 12\nbars = 1",
    );
    assert_eq!(jigs.train.item().melody.unwrap().meter, [6, 8]);
    assert!(jigs.report.left_out.is_empty());
}

#[test]
fn a_zip_and_a_partition_are_read() {
    let folder = folder(6);
    let list = "jigs/000.mid 0\nreels/001.mid 0\njigs/002.mid 1\nreels/003.mid 2\njigs/004.mid 2\n";
    fs::write(folder.path().join("list_eval_partition.txt"), list).unwrap();
    let splits = load(folder.path(), "");
    assert_eq!(splits.train.len(), 6);
    assert_eq!(splits.validation.as_ref().unwrap().len(), 3);
    assert_eq!(splits.test.len(), 6);
    assert_eq!(splits.report.n_unlisted, 1);
    let zip = folder.path().join("tunes.zip");
    let mut archive = zip::ZipWriter::new(fs::File::create(&zip).unwrap());
    for number in 0..3_i64 {
        use std::io::Write;
        let options = zip::write::SimpleFileOptions::default();
        archive
            .start_file(format!("a/{number}.mid"), options)
            .unwrap();
        archive.write_all(&to_midi(&SPEC, &melody(number))).unwrap();
    }
    archive.finish().unwrap();
    fs::remove_file(folder.path().join("list_eval_partition.txt")).unwrap();
    let splits = load(&zip, "");
    let n = splits.train.len() + splits.validation.map_or(0, |some| some.len()) + splits.test.len();
    assert_eq!(n, 9);
}

#[test]
fn files_are_inputs_of_a_trained_model() {
    let folder = folder(6);
    let config = config(folder.path(), "");
    let item = config.item_spec().unwrap();
    let read = |name: &str| {
        let path = folder.path().join(name);
        let inputs = Inputs::open(&config, item.clone(), &[path], None)?;
        inputs.read(10)
    };
    let batch = read("jigs/000.mid").unwrap();
    assert_eq!(batch.items.size(), [3, 1, 1, 32]);
    assert_eq!(tokens(&batch.items)[0], melody(0)[..32]);
    let one = read("jigs/000.mid#2").unwrap();
    assert_eq!(tokens(&one.items), [melody(0)[16..48].to_vec()]);
    assert!(one.names[0].ends_with("jigs/000.mid#2"));
    let error = read("jigs/000.mid#9").unwrap_err().to_string();
    assert!(
        error.contains("has no window 9; the first one is"),
        "{error}"
    );
    assert_eq!(read("jigs").unwrap().items.size()[0], 9);
    fs::write(folder.path().join("bad.mid"), b"MThd").unwrap();
    let error = read("bad.mid").unwrap_err().to_string();
    assert!(error.contains("has no melody for this run: "), "{error}");
    assert!(read("none.mid").is_err());
    let inputs = Inputs::open(&config, item.clone(), &[folder.path().join("jigs")], None).unwrap();
    let error = inputs.read(1).unwrap_err().to_string();
    assert!(
        error.contains("9 melodies, expected at most 1 here; FILE#5"),
        "{error}"
    );
}

#[test]
fn wrong_configs_name_their_keys() {
    let error = |more: &str| {
        config(Path::new("/none"), more)
            .validate()
            .unwrap_err()
            .to_string()
    };
    for (more, said) in [
        ("bars = 0", "dataset.melodies.bars: found 0"),
        (
            "bars = 65",
            "dataset.melodies.bars: found 65, expected 1 to 64",
        ),
        (
            "bars = 64\nsteps_per_bar = 192",
            "dataset.melodies.bars: found 64, which is 12288 steps",
        ),
        (
            "steps_per_bar = 0",
            "dataset.melodies.steps_per_bar: found 0",
        ),
        ("meters = []", "dataset.melodies.meters: found none"),
        ("meters = ['4/5']", "dataset.melodies.meters: found \"4/5\""),
        ("stride = 0", "dataset.melodies.stride: found 0"),
        ("min_notes = 0", "dataset.melodies.min_notes: found 0"),
        ("transpose = 25", "dataset.melodies.transpose: found 25"),
        (
            "max_bad_fraction = 2.0",
            "dataset.melodies.max_bad_fraction: found 2",
        ),
        (
            "[melodies.split]\ntest_fraction = 1.0",
            "dataset.melodies.split.test_fraction",
        ),
    ] {
        let found = error(more);
        assert!(found.starts_with(said), "{found}, expected {said}");
    }
    let text = "binarization = 'static'\n[melodies]\npath = 'x'";
    let binarized: DatasetConfig = toml::from_str(text).unwrap();
    assert!(
        binarized
            .validate()
            .unwrap_err()
            .to_string()
            .starts_with("dataset.binarization")
    );
    let missing = config(Path::new("/none"), "")
        .load()
        .unwrap_err()
        .to_string();
    assert!(
        missing.contains("cargo xtask fetch-data tunes"),
        "{missing}"
    );
    let empty = tempfile::tempdir().unwrap();
    let none = config(empty.path(), "").load().unwrap_err().to_string();
    assert!(none.contains("holds no MIDI or ABC file"), "{none}");
}

#[test]
fn five_hundred_damaged_files_are_skipped_or_read_without_a_panic_or_much_memory() {
    let folder = tempfile::tempdir().unwrap();
    let whole = to_midi(&SPEC, &melody(3));
    let mut state = 7_u64;
    let mut random = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for i in 0..500 {
        let mut bytes = whole.clone();
        for _ in 0..=random(6) {
            match random(5) {
                0 => bytes.truncate(random(bytes.len() + 1)),
                1 if !bytes.is_empty() => {
                    let at = random(bytes.len());
                    bytes[at] = random(256) as u8;
                }
                // The longest delta time there is, of 2^28 − 1 ticks.
                2 if bytes.len() > 40 => {
                    let at = 22 + random(bytes.len() - 26);
                    bytes.splice(at..at, [0xff, 0xff, 0xff, 0x7f]);
                }
                3 if bytes.len() > 22 => bytes[18..22].copy_from_slice(&[0xff; 4]),
                _ => {
                    let at = random(bytes.len() + 1);
                    bytes.insert(at, random(256) as u8);
                }
            }
        }
        fs::write(folder.path().join(format!("{i:03}.mid")), bytes).unwrap();
    }
    for number in 0..4 {
        fs::write(
            folder.path().join(format!("good-{number}.mid")),
            to_midi(&SPEC, &melody(number)),
        )
        .unwrap();
    }
    let peak_before = peak_memory();
    for line in ["part", "skyline"] {
        let splits = load(
            folder.path(),
            &format!("max_bad_fraction = 1.0\nmelody = {line:?}"),
        );
        let n_bad = splits.report.bad_files.len();
        assert!((20..=500).contains(&n_bad), "{n_bad}");
        for file in splits.report.bad_files.files() {
            assert!(
                !file.reason.is_empty() && !file.name.starts_with("good"),
                "{file:?}"
            );
        }
    }
    let grown = peak_memory().saturating_sub(peak_before);
    assert!(grown < 200 << 20, "{} MB", grown >> 20);
}

/// The peak memory of this process in bytes; 0 if the system does not report it.
fn peak_memory() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<usize>().ok());
    kilobytes.unwrap_or(0) << 10
}
