//! TensorBoard's files, read back without the code that wrote them: checksums bit by bit, protobuf
//! by its wire format. `read_events.py` reads them with TensorBoard's own package.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use tch::{Device, Tensor};
use vae_data::{Dataset, Splits};
use vae_model::{ImageShape, MlpConfig, ModelConfig, NetworkConfig, Vae};
use vae_train::tensorboard::{Bins, EventsFile, Summary};
use vae_train::{Curves, MetricsLog, Pictures, RunConfig, RunDir, Stop, TensorBoard, Trainer};

/// CRC-32C by its definition: the reflected polynomial, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 * (crc & 1))
        })
    })
}

fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The contents of the records in a file.
fn records(path: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(path).expect("a file");
    let mut rest = &bytes[..];
    let mut records = Vec::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_at(8);
        let (checksum, after) = after.split_at(4);
        assert_eq!(checksum, masked(length).to_le_bytes());
        let length = u64::from_le_bytes(length.try_into().expect("8 bytes"));
        let (content, after) = after.split_at(length as usize);
        let (checksum, after) = after.split_at(4);
        assert_eq!(checksum, masked(content).to_le_bytes());
        records.push(content.to_vec());
        rest = after;
    }
    records
}

/// A protobuf field on the wire.
#[derive(Clone, Debug, PartialEq)]
enum Field {
    Varint(u64),
    Double(f64),
    Float(f32),
    Bytes(Vec<u8>),
}

impl Field {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            other => panic!("{other:?} where bytes were wanted"),
        }
    }
}

type Message = BTreeMap<u64, Vec<Field>>;

fn message(bytes: &[u8]) -> Message {
    fn varint(rest: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (&byte, after) = rest.split_first().expect("a byte");
            *rest = after;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }
    fn take<'a>(rest: &mut &'a [u8], n: usize) -> &'a [u8] {
        let (taken, after) = rest.split_at(n);
        *rest = after;
        taken
    }
    let mut message = Message::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let key = varint(&mut rest);
        let field = match key & 7 {
            0 => Field::Varint(varint(&mut rest)),
            1 => Field::Double(f64::from_le_bytes(
                take(&mut rest, 8).try_into().expect("8"),
            )),
            2 => {
                let length = varint(&mut rest);
                Field::Bytes(take(&mut rest, length as usize).to_vec())
            }
            5 => Field::Float(f32::from_le_bytes(
                take(&mut rest, 4).try_into().expect("4"),
            )),
            kind => panic!("wire type {kind}"),
        };
        message.entry(key >> 3).or_default().push(field);
    }
    message
}

/// The step of an event; a field that is 0 is not on the wire.
fn step(event: &Message) -> u64 {
    match event.get(&2).map(|fields| &fields[..]) {
        None => 0,
        Some([Field::Varint(step)]) => *step,
        other => panic!("{other:?}"),
    }
}

/// The values of an event by tag.
fn values(event: &Message) -> BTreeMap<String, Message> {
    let summary = message(event[&5][0].bytes());
    let values = summary[&1].iter().map(|value| {
        let value = message(value.bytes());
        let tag = String::from_utf8(value[&1][0].bytes().to_vec()).expect("UTF-8");
        (tag, value)
    });
    values.collect()
}

/// The doubles of a packed field.
fn doubles(field: &Field) -> Vec<f64> {
    let (numbers, rest) = field.bytes().as_chunks::<8>();
    assert!(rest.is_empty());
    numbers
        .iter()
        .map(|bytes| f64::from_le_bytes(*bytes))
        .collect()
}

fn events(path: &Path) -> Vec<Message> {
    records(path).iter().map(|record| message(record)).collect()
}

#[test]
fn the_checksum_of_this_test_is_crc_32c() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283); // RFC 3720's check value.
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa); // RFC 3720, B.4.
}

#[test]
fn each_opening_is_a_new_file_that_starts_after_the_step() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().join("events");
    for after in [0, 300] {
        let mut file = EventsFile::create(&folder, after).expect("a file");
        let summary = Summary::scalar("elbo/test", -1.5);
        file.append(after + 100, vec![summary]).expect("appended");
    }
    let mut paths: Vec<_> = fs::read_dir(&folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort(); // As TensorBoard reads them.
    assert_eq!(paths.len(), 2);
    for (path, after) in paths.iter().zip([0, 300]) {
        let name = path.file_name().expect("a name").to_string_lossy();
        assert!(name.contains("tfevents"), "{name}");
        let events = events(path);
        assert_eq!(events.len(), 3);
        // The version comes first, then SessionLog { status: START } at the next step.
        assert_eq!(events[0][&3][0].bytes(), b"brain.Event:2");
        assert_eq!(step(&events[1]), after + 1);
        assert_eq!(message(events[1][&7][0].bytes())[&1], [Field::Varint(1)]);
        assert_eq!(step(&events[2]), after + 100);
        assert_eq!(values(&events[2])["elbo/test"][&2], [Field::Float(-1.5)]);
        assert!(matches!(events[2][&1][..], [Field::Double(time)] if time > 1.7e9));
    }
}

#[test]
fn a_histogram_counts_every_number_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut file = EventsFile::create(folder.path(), 0).expect("a file");
    let several = Bins::of(&[0.0, 3.0, 0.125, 0.25, f64::NAN, 3.0]);
    let same = Bins::of(&[2.0, 2.0]);
    let summaries = [
        ("several", &several),
        ("same", &same),
        ("none", &Bins::of(&[])),
    ]
    .map(|(tag, bins)| Summary::histogram(tag, bins));
    file.append(1, summaries.into()).expect("appended");
    let path = folder.path().join("events.out.tfevents.000001.vae");
    let values = values(&events(&path)[2]);
    let histogram = |tag: &str| message(values[tag][&5][0].bytes());

    let several = histogram("several");
    let number = |field: u64| several.get(&field).map(|fields| fields[0].clone());
    assert_eq!(number(1), None); // min, 0
    assert_eq!(number(2), Some(Field::Double(3.0))); // max
    assert_eq!(number(3), Some(Field::Double(5.0))); // how many
    assert_eq!(number(4), Some(Field::Double(6.375))); // sum
    assert_eq!(number(5), Some(Field::Double(18.078125))); // sum of squares
    let limits = doubles(&several[&6][0]);
    let counts = doubles(&several[&7][0]);
    assert_eq!((limits.len(), counts.len()), (30, 30)); // 0.1 wide
    assert_eq!(limits[29], 3.0);
    assert_eq!(
        (counts[0], counts[1], counts[2], counts[29]),
        (1.0, 1.0, 1.0, 2.0)
    );
    assert_eq!(counts.iter().sum::<f64>(), 5.0);

    let same = histogram("same");
    assert_eq!(doubles(&same[&6][0]), [2.0]);
    assert_eq!(doubles(&same[&7][0]), [2.0]);
    assert_eq!(doubles(&histogram("none")[&7][0]), [0.0]);
}

#[test]
fn a_picture_that_is_none_is_refused() {
    assert!(Summary::picture("pictures/none", b"no PNG".to_vec()).is_err());
}

fn dataset(n: i64) -> Dataset {
    let bytes: Vec<u8> = (0..n * 20)
        .map(|i| if i % 7 < 3 { 220 } else { 10 })
        .collect();
    Dataset::new(Tensor::from_slice(&bytes).view([n, 1, 4, 5]), None).expect("a data set")
}

#[test]
fn a_run_shows_its_metrics_its_pictures_and_its_latents() {
    let folder = tempfile::tempdir().expect("a folder");
    let config: RunConfig = toml::from_str(
        "[dataset.idx]\nfolder = 'unused'\n[training]\nepochs = 2\nbatch_size = 8\nlog_every = 2\n\
         [pictures]\nfirst_step = 2\nmanifold_size = 3\nn_samples = 4\nn_reconstructions = 2\n",
    )
    .expect("a config");
    let model = ModelConfig {
        latent_dims: Some(3),
        network: NetworkConfig::Mlp(MlpConfig { hidden: vec![6] }),
        ..Default::default()
    };
    let shape = ImageShape {
        channels: 1,
        height: 4,
        width: 5,
    };
    let vae = Vae::new(&model, shape, Device::Cpu, 1).expect("a model");
    let splits = Splits::new(dataset(20), Some(dataset(7)), dataset(5));
    let run_dir = RunDir::create(&folder.path().join("run"), &config).expect("a run");
    let mut trainer = Trainer::new(&vae, &splits, &config).expect("a trainer");
    trainer.add(MetricsLog::new(&run_dir));
    trainer.add(Pictures::new(run_dir.clone()));
    trainer.add(Curves::new(run_dir.clone(), config.checkpoint_metric()));
    trainer.add(TensorBoard::new(run_dir.clone()));
    let outcome = trainer.fit(&AtomicBool::new(false));
    assert_eq!(outcome.ended.expect("no error"), Stop::Finished);

    let of = |split: &str| {
        let folder = run_dir.events().join(split);
        let events = events(&folder.join("events.out.tfevents.000001.vae"));
        let events = events[2..].iter().map(|e| (step(e), values(e)));
        events.collect::<Vec<_>>()
    };
    let steps = |events: &[(u64, BTreeMap<String, Message>)]| {
        events.iter().map(|(step, _)| *step).collect::<Vec<u64>>()
    };
    let scalar = |values: &BTreeMap<String, Message>, tag: &str| match values[tag][&2][..] {
        [Field::Float(value)] => value,
        ref other => panic!("{other:?}"),
    };
    // A split has a folder, a number the same name in each: 20 images in batches of 8, a line of steps every 2.
    let (train, validation) = (of("train"), of("validation"));
    assert_eq!(
        (steps(&train), steps(&validation)),
        (vec![3, 6], vec![3, 6])
    );
    assert_eq!(steps(&of("train_steps")), [2, 4, 6]);
    let records = run_dir.records().expect("records");
    let lines = run_dir.step_records().expect("records");
    assert_eq!((records.len(), lines.len()), (4, 3));
    for record in records.iter().chain(&lines) {
        let events = of(&record.split);
        let (_, values) = events
            .iter()
            .find(|(step, _)| *step == record.step)
            .expect("an event");
        for (name, wanted) in [
            ("elbo", record.means.elbo.expect("an elbo")),
            ("reconstruction", record.means.reconstruction.expect("one")),
            ("kl", record.means.kl.expect("a kl")),
            ("loss", record.means.loss),
            ("seconds", record.seconds),
            ("images_per_s", record.images_per_s),
        ] {
            assert_eq!(scalar(values, name), wanted as f32, "{name}");
        }
        if let Some(learning_rate) = record.learning_rate {
            assert_eq!(scalar(values, "learning_rate"), learning_rate as f32);
        }
    }
    // The first line is of 16 images, the second of the 4 + 8 since the epoch's start and before.
    assert_eq!((lines[0].epoch, lines[1].epoch, lines[2].epoch), (1, 2, 2));

    let whole = of(".");
    let (first, epochs) = whole.split_first().expect("events");
    // The hyperparameters, by TensorBoard's plugin.
    assert_eq!(first.0, 0);
    let value = &first.1["_hparams_/session_start_info"];
    let plugin = message(message(value[&9][0].bytes())[&1][0].bytes());
    assert_eq!(plugin[&1][0].bytes(), b"hparams");
    let start = message(message(plugin[&2][0].bytes())[&3][0].bytes());
    let settings: BTreeMap<String, Message> = start[&1]
        .iter()
        .map(|entry| {
            let entry = message(entry.bytes());
            let key = String::from_utf8(entry[&1][0].bytes().to_vec()).expect("UTF-8");
            (key, message(entry[&2][0].bytes()))
        })
        .collect();
    assert_eq!(settings["training.batch_size"][&2], [Field::Double(8.0)]);
    assert_eq!(settings["dataset.idx.folder"][&3][0].bytes(), b"unused");
    assert_eq!(settings["tensorboard"][&4], [Field::Varint(1)]);
    assert_eq!(
        steps(epochs),
        [2, 3, 6],
        "the first pictures, then those of the epochs"
    );
    for name in Pictures::names(&vae) {
        assert!(epochs[0].1.contains_key(&format!("pictures/{name}")));
        assert!(run_dir.picture_file(0, name).is_file());
    }
    let epochs = &epochs[1..];
    for (epoch, (_, values)) in (1..).zip(epochs) {
        assert_eq!(scalar(values, "epoch"), epoch as f32);
    }
    for (epoch, (_, values)) in (1..).zip(epochs) {
        for name in Pictures::names(&vae) {
            let path = run_dir.picture_file(epoch, name);
            let (width, height) = image::image_dimensions(&path).expect("a picture");
            let image = message(values[&format!("pictures/{name}")][&4][0].bytes());
            assert_eq!(image[&1], [Field::Varint(u64::from(height))]);
            assert_eq!(image[&2], [Field::Varint(u64::from(width))]);
            assert_eq!(image[&3], [Field::Varint(1)]);
            assert_eq!(image[&4], [Field::Bytes(fs::read(&path).expect("bytes"))]);
        }
        let histogram = message(values["latent/kl_per_dimension"][&5][0].bytes());
        assert_eq!(histogram[&3], [Field::Double(3.0)]);
    }
    assert!(image::image_dimensions(run_dir.curves_file()).is_ok());
}
