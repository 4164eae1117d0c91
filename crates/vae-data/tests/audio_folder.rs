//! `[dataset.audio_folder]`: recordings as sound and as spectrograms.

use std::fs;
use std::path::Path;

use tch::{Kind, Tensor};
use vae_data::audio_folder::AudioFolder;
use vae_data::loader::Batches;
use vae_data::{DatasetConfig, Inputs, ItemKind, Split};
use vae_sound::wav;

fn tone(frequency: f32, rate: u32, n: usize) -> Vec<u8> {
    let step = frequency * std::f32::consts::TAU / rate as f32;
    let samples: Vec<f32> = (0..n).map(|i| 0.5 * (step * i as f32).sin()).collect();
    wav::encode(&samples, 1, rate)
}

/// Forty recordings in two folders, high and low tones.
fn recordings(folder: &Path) {
    for (name, frequency) in [("high", 2000.0), ("low", 200.0)] {
        fs::create_dir_all(folder.join(name)).expect("created");
        for i in 0..20 {
            let rate = if i % 2 == 0 { 8000 } else { 11_025 };
            let file = tone(frequency + i as f32, rate, rate as usize / 2);
            fs::write(folder.join(format!("{name}/{i:02}.wav")), file).expect("written");
        }
    }
}

fn config(folder: &Path, rest: &str) -> DatasetConfig {
    let path = folder.display();
    let text = format!(
        "[audio_folder]\npath = '{path}'\nrate = 8000\nseconds = 0.256\nworkers = 2\n{rest}"
    );
    toml::from_str(&text).expect("a config")
}

const SPECTROGRAM: &str = "[audio_folder.spectrogram]\nbands = 20\n";

#[test]
fn recordings_become_sound_with_classes_and_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recordings");
    recordings(&path);
    let config = config(&path, "");
    let splits = config.load().unwrap();
    let item = splits.train.item();
    assert_eq!(
        (item.kind, &item.shape[..]),
        (ItemKind::Sound { rate: 8000 }, &[1, 2048][..])
    );
    assert_eq!(item, &config.item_spec().unwrap());
    let validation = splits.validation.as_ref().unwrap();
    let n = splits.train.len() + validation.len() + splits.test.len();
    assert_eq!(n, 40);
    assert!(splits.report.bad_files.is_empty());
    let condition = splits.train.condition_spec(true, &[]).unwrap();
    assert_eq!(condition.classes, ["high", "low"]);
    for i in 0..splits.train.len() {
        let name = splits.train.file_name(i).unwrap();
        let label = splits.train.labels().unwrap().int64_value(&[i as i64]);
        assert_eq!(name.starts_with("low/"), label == 1, "{name}");
        let clip = Vec::<i16>::try_from(splits.train.select(&[i]).unwrap().view(-1)).unwrap();
        let crossings = clip
            .windows(2)
            .filter(|pair| pair[0] < 0 && pair[1] >= 0)
            .count() as f64;
        let wanted = 0.256 * if label == 1 { 200.0 } else { 2000.0 };
        assert!((crossings - wanted).abs() < 6.0, "{name}: {crossings}");
    }
    // Batches carry 16-bit samples.
    let batch = Batches::shuffled(&splits.train, 4, tch::Device::Cpu, 1, 0)
        .next()
        .unwrap()
        .unwrap();
    assert_eq!(
        (batch.items.kind(), batch.items.size()),
        (Kind::Int16, vec![4, 1, 1, 2048])
    );
}

#[test]
fn spectrograms_are_standardized_by_the_training_items() {
    let folder = tempfile::tempdir().unwrap();
    recordings(folder.path());
    let config = config(folder.path(), SPECTROGRAM);
    let splits = config.load().unwrap();
    let item = splits.test.item();
    assert_eq!(
        (item.kind, &item.shape[..]),
        (ItemKind::Array, &[1, 20, 16][..])
    );
    let spectrogram = item.spectrogram.unwrap();
    assert_eq!(
        (spectrogram.rate, spectrogram.hop, spectrogram.high),
        (8000, 128, 4000.0)
    );
    let all: Vec<usize> = (0..splits.train.len()).collect();
    let items = splits.train.select(&all).unwrap().to_kind(Kind::Double);
    let found = item.standardization.as_ref().unwrap();
    assert!((items.mean(Kind::Double).double_value(&[]) - found.mean[0]).abs() < 1e-3);
    assert!((items.std(false).double_value(&[]) - found.std[0]).abs() < 1e-3);
    // The loudest band of a high tone is above that of a low one.
    let loudest = |i: usize| {
        splits
            .train
            .select(&[i])
            .unwrap()
            .get(0)
            .get(0)
            .select(1, 8)
            .argmax(0, false)
    };
    for i in 0..splits.train.len() {
        let is_low = splits.train.file_name(i).unwrap().starts_with("low");
        assert_eq!(loudest(i).int64_value(&[]) < 5, is_low);
    }
}

#[test]
fn the_pack_is_used_and_made_again_when_files_change() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recordings");
    recordings(&path);
    let config = config(&path, "");
    let open = || AudioFolder::open(config.audio_folder.as_ref().unwrap()).unwrap();
    let (first, _) = open().clips().unwrap();
    assert!(open().pack_file().is_file());
    open().check_pack().unwrap();
    let without = DatasetConfig {
        audio_folder: config.audio_folder.clone().map(|mut sounds| {
            sounds.pack = false;
            sounds
        }),
        ..config.clone()
    };
    let (decoded, _) = AudioFolder::open(without.audio_folder.as_ref().unwrap())
        .unwrap()
        .clips()
        .unwrap();
    assert_eq!(first.first(40).unwrap(), decoded.first(40).unwrap());
    assert_eq!(first.fingerprint().unwrap(), decoded.fingerprint().unwrap());
    fs::write(path.join("low/99.wav"), tone(150.0, 8000, 4000)).unwrap();
    assert!(open().check_pack().is_err());
    assert_eq!(open().clips().unwrap().0.len(), 41);
}

#[test]
fn bad_files_are_counted_with_reasons_and_too_many_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    recordings(folder.path());
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    write("low/empty.wav", b"");
    write("low/noise.mp3", b"this is no sound at all");
    write("low/cut.wav", &tone(200.0, 8000, 20_000)[..10_000]);
    write("low/silent.wav", &wav::encode(&[0.0; 4000], 1, 8000));
    write("low/notes.txt", b"not looked at");
    write("low/a.m4a", b"\0\0\0\x18ftypM4A ");
    let error = config(folder.path(), "").load().unwrap_err().to_string();
    assert!(error.contains("4 of 44 files are not usable"), "{error}");
    assert!(
        error.contains("dataset.audio_folder.max_bad_fraction"),
        "{error}"
    );
    let splits = config(folder.path(), "max_bad_fraction = 0.5")
        .load()
        .unwrap();
    let bad = splits.report.bad_files.to_text();
    for line in [
        "low/cut.wav\tends early: ",
        "low/empty.wav\tis empty",
        "low/noise.mp3\tis not WAV, FLAC, OGG or MP3",
        "low/silent.wav\tis silent",
    ] {
        assert!(bad.contains(line), "{bad}");
    }
    assert_eq!(
        splits.report.unread_files.to_string(),
        "1 M4A file is not read: convert it to WAV or FLAC"
    );
}

#[test]
fn a_table_gives_classes_and_attributes() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..20 {
        fs::write(
            folder.path().join(format!("{i}.wav")),
            tone(300.0, 8000, 3000),
        )
        .unwrap();
    }
    let rows: String = (0..20)
        .map(|i| format!("{i}.wav,{},{}\n", i % 3, 90 + i))
        .collect();
    fs::write(
        folder.path().join("labels.csv"),
        format!("file,digit,pitch\n{rows}"),
    )
    .unwrap();
    let splits = config(folder.path(), "label = 'digit'").load().unwrap();
    assert_eq!(
        splits.train.attributes().unwrap().names(),
        ["digit", "pitch"]
    );
    for i in 0..splits.train.len() {
        let number: i64 = splits
            .train
            .file_name(i)
            .unwrap()
            .trim_end_matches(".wav")
            .parse()
            .unwrap();
        assert_eq!(
            splits.train.labels().unwrap().int64_value(&[i as i64]),
            number % 3
        );
    }
    let error = config(folder.path(), "label = 'speaker'")
        .load()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("dataset.audio_folder.label") && error.contains("digit, pitch"),
        "{error}"
    );
}

#[test]
fn other_recordings_are_prepared_as_those_of_training() {
    let folder = tempfile::tempdir().unwrap();
    recordings(folder.path());
    let config = config(folder.path(), SPECTROGRAM);
    let splits = config.load().unwrap();
    let item = splits.train.item().clone();
    let own = Inputs::of_split(&config, item.clone(), Split::Test, None)
        .unwrap()
        .read(100)
        .unwrap();
    assert_eq!(own.names.len(), splits.test.len());
    let paths: Vec<_> = own
        .names
        .iter()
        .map(|name| folder.path().join(name))
        .collect();
    let again = Inputs::open(&config, item.clone(), &paths, None)
        .unwrap()
        .read(100)
        .unwrap();
    assert_eq!(again.items, own.items);
    let whole = Inputs::open(&config, item.clone(), &[folder.path().join("low")], None).unwrap();
    assert_eq!(whole.read(100).unwrap().names.len(), 20);
    let text = folder.path().join("a.txt");
    fs::write(&text, "text").unwrap();
    let error = Inputs::open(&config, item, &[text], None)
        .unwrap()
        .read(9)
        .unwrap_err();
    assert!(error.to_string().contains("is not WAV"), "{error}");
}

#[test]
fn what_does_not_go_together_is_said_with_the_key() {
    for (rest, wanted) in [
        ("channels = 3", "dataset.audio_folder.channels: found 3"),
        ("silence = 0", "dataset.audio_folder.silence"),
        (
            "[audio_folder.spectrogram]\nbands = 300",
            "dataset.audio_folder.spectrogram.bands: found 300, but band",
        ),
        (
            "[audio_folder.spectrogram]\nhop = 300",
            "dataset.audio_folder.spectrogram.hop: found 300, 1 to 256",
        ),
        (
            "[audio_folder.spectrogram]\nhigh = 5000",
            "dataset.audio_folder.spectrogram.high",
        ),
        (
            "[audio_folder.split]\ntest_fraction = 1",
            "dataset.audio_folder.split.test_fraction",
        ),
    ] {
        let error = config(Path::new("nowhere"), rest)
            .validate()
            .unwrap_err()
            .to_string();
        assert!(error.contains(wanted), "{error}");
    }
    let error = config(Path::new("nowhere"), "")
        .load()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("dataset.audio_folder.path: nowhere: no such folder"),
        "{error}"
    );
    let both = "binarization = 'static'\n[audio_folder]\npath = 'x'";
    let both: DatasetConfig = toml::from_str(both).unwrap();
    assert!(
        both.validate()
            .unwrap_err()
            .to_string()
            .contains("dataset.binarization")
    );
}

#[test]
fn samples_of_a_tensor_are_those_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..4 {
        let samples: Vec<f32> = (0..2048)
            .map(|t| ((t * (i + 1)) % 200) as f32 / 200.0 - 0.5)
            .collect();
        fs::write(
            folder.path().join(format!("{i}.wav")),
            wav::encode(&samples, 1, 8000),
        )
        .unwrap();
    }
    let sounds = config(folder.path(), "").audio_folder.unwrap();
    let (dataset, _) = AudioFolder::open(&sounds).unwrap().clips().unwrap();
    let wanted: Vec<i16> = (0..2048)
        .map(|t| wav::to_i16(((t * 3) % 200) as f32 / 200.0 - 0.5))
        .collect();
    let difference = dataset.select(&[2]).unwrap().view(-1) - Tensor::from_slice(&wanted);
    assert!(difference.abs().max().int64_value(&[]) <= 1);
}
