//! TensorBoard's event files: TFRecords of protobuf `Event`s.
//!
//! The messages follow `event.proto`, `summary.proto` and `histogram.proto` of TensorFlow 2, restricted to the fields
//! that are written here.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Cursor, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crc::{CRC_32_ISCSI, Crc};
use image::{ImageDecoder, ImageResult, codecs::png::PngDecoder};
use prost::Message;
use serde_json::Value;
use vae_base::files::append_whole;
use vae_run::RunError;

use crate::ViewError;

/// An event file that this process appends to.
#[derive(Debug)]
pub struct EventsFile {
    path: PathBuf,
    file: File,
}

impl EventsFile {
    /// Starts a file after those in `folder`, for a run that continues after `step`.
    ///
    /// It begins with a `SessionLog` of status START at the next step, which makes TensorBoard discard what earlier files
    /// contain of that step and later ones. The files are numbered, because TensorBoard reads them in the order of their
    /// names.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn create(folder: &Path, step: u64) -> Result<Self, ViewError> {
        fs::create_dir_all(folder).map_err(RunError::io(folder))?;
        let mut number = 1;
        let (path, file) = loop {
            let path = folder.join(format!("events.out.tfevents.{number:06}.vae"));
            match OpenOptions::new().append(true).create_new(true).open(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
                opened => break (path.clone(), opened.map_err(RunError::io(path))?),
            }
        };
        let mut events = Self { path, file };
        let version = message::What::FileVersion("brain.Event:2".to_owned());
        let start = message::What::SessionLog(message::SessionLog {
            status: message::SESSION_START,
        });
        let written = events.write(&[(0, version), (step + 1, start)]);
        if written.is_err() {
            let _ = fs::remove_file(&events.path); // On a full disk the caller tries again.
        }
        written?;
        Ok(events)
    }

    /// Appends the summaries of a step.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn append(&mut self, step: u64, summaries: Vec<Summary>) -> Result<(), ViewError> {
        let values = summaries.into_iter().map(|summary| summary.0).collect();
        let summary = message::What::Summary(message::Summary { values });
        self.write(&[(step, summary)])
    }

    /// Writes all events at once and unbuffered, so that a reader sees only whole events.
    fn write(&mut self, events: &[(u64, message::What)]) -> Result<(), ViewError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let wall_time = now.unwrap_or_default().as_secs_f64();
        let bytes: Vec<u8> = events
            .iter()
            .flat_map(|(step, what)| {
                let event = message::Event {
                    wall_time,
                    step: *step as i64,
                    what: Some(what.clone()),
                };
                framed(&event.encode_to_vec())
            })
            .collect();
        append_whole(&mut self.file, &bytes).map_err(RunError::io(&self.path))?;
        Ok(())
    }
}

/// One value under a tag.
#[derive(Clone, Debug)]
pub struct Summary(message::Value);

impl Summary {
    /// A number. TensorBoard groups tags with the same part before the slash.
    #[must_use]
    pub fn scalar(tag: &str, value: f64) -> Self {
        Self::new(tag, message::Kind::Scalar(value as f32))
    }

    /// A picture, given as the bytes of a PNG file.
    ///
    /// # Errors
    /// The bytes are not a PNG file.
    pub fn picture(tag: &str, png: Vec<u8>) -> ImageResult<Self> {
        let decoder = PngDecoder::new(Cursor::new(&png))?;
        let (width, height) = decoder.dimensions();
        let image = message::Image {
            height: height as i32,
            width: width as i32,
            channels: i32::from(decoder.color_type().channel_count()),
            png,
        };
        Ok(Self::new(tag, message::Kind::Image(image)))
    }

    /// A sound, given as the bytes of a WAV file as [`crate::sound::Sound::to_wav`] writes it.
    #[must_use]
    pub fn sound(tag: &str, wav: Vec<u8>) -> Self {
        let number = |start: usize, n: usize| {
            let bytes = wav.get(start..start + n).unwrap_or_default();
            bytes
                .iter()
                .rev()
                .fold(0_u32, |number, byte| number << 8 | u32::from(*byte))
        };
        let (n_channels, rate, n_bytes) = (number(22, 2), number(24, 4), number(40, 4));
        let audio = message::Audio {
            rate: rate as f32,
            n_channels: n_channels.into(),
            n_frames: (n_bytes / (2 * n_channels).max(1)).into(),
            wav,
            content_type: "audio/wav".to_owned(),
        };
        Self::new(tag, message::Kind::Audio(audio))
    }

    /// A histogram.
    #[must_use]
    pub fn histogram(tag: &str, bins: &Bins) -> Self {
        Self::new(tag, message::Kind::Histogram(bins.0.clone()))
    }

    /// The hyperparameters of a run, for the HParams tab: a column each, and a row for the run.
    #[must_use]
    pub fn hyperparameters(run: &str, settings: &BTreeMap<String, Value>) -> Self {
        let value = |value: &Value| {
            let kind = match value {
                Value::Number(number) => message::Setting::Number(number.as_f64()?),
                Value::Bool(is) => message::Setting::Bool(*is),
                Value::String(text) => message::Setting::Text(text.clone()),
                Value::Null => return None,
                other => message::Setting::Text(other.to_string()),
            };
            Some(message::SettingValue { kind: Some(kind) })
        };
        let settings = settings.iter();
        let start = message::SessionStart {
            settings: settings
                .filter_map(|(key, found)| Some((key.clone(), value(found)?)))
                .collect(),
            group: run.to_owned(),
        };
        let content = message::Hyperparameters { start: Some(start) };
        let plugin = message::Plugin {
            name: "hparams".to_owned(),
            content: content.encode_to_vec(),
        };
        let nothing = message::Tensor {
            kind: message::FLOAT,
            shape: Some(message::Shape {
                sides: vec![message::Side { size: 1 }],
            }),
            floats: vec![0.0],
        };
        Self(message::Value {
            metadata: Some(message::Metadata {
                plugin: Some(plugin),
            }),
            ..Self::new(
                "_hparams_/session_start_info",
                message::Kind::Tensor(nothing),
            )
            .0
        })
    }

    /// The name of the value.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.0.tag
    }

    fn new(tag: &str, kind: message::Kind) -> Self {
        Self(message::Value {
            tag: tag.to_owned(),
            metadata: None,
            kind: Some(kind),
        })
    }
}

/// A histogram of thirty bins of equal width from the smallest to the largest value.
#[derive(Clone, Debug)]
pub struct Bins(message::Histogram);

impl Bins {
    /// Counts the finite values.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        const N_BINS: usize = 30;
        let finite: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        let min = finite.iter().copied().reduce(f64::min).unwrap_or(0.0);
        let max = finite.iter().copied().reduce(f64::max).unwrap_or(0.0);
        let n_bins = if max > min { N_BINS } else { 1 };
        let width = (max - min) / n_bins as f64;
        let mut counts = vec![0.0; n_bins];
        for value in &finite {
            let bin = ((value - min) / width) as usize; // 0 / 0 is NaN, which casts to 0.
            counts[bin.min(n_bins - 1)] += 1.0;
        }
        let mut limits: Vec<f64> = (1..=n_bins).map(|i| min + i as f64 * width).collect();
        limits[n_bins - 1] = max;
        Self(message::Histogram {
            min,
            max,
            num: finite.len() as f64,
            sum: finite.iter().sum(),
            sum_squares: finite.iter().map(|value| value * value).sum(),
            limits,
            counts,
        })
    }
}

/// A TFRecord: the length, its checksum, the bytes, their checksum.
fn framed(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(bytes.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(bytes);
    record.extend(masked_crc(bytes).to_le_bytes());
    record
}

/// CRC-32C, masked because files of records may themselves be stored in records (TensorFlow's
/// `core/lib/hash/crc32c.h`).
fn masked_crc(bytes: &[u8]) -> u32 {
    const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
    CRC32C
        .checksum(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

/// The protobuf messages.
mod message {
    use std::collections::BTreeMap;

    /// `SessionLog.SessionStatus.START`.
    pub(super) const SESSION_START: i32 = 1;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Event {
        /// Seconds since 1970.
        #[prost(double, tag = "1")]
        pub(super) wall_time: f64,
        #[prost(int64, tag = "2")]
        pub(super) step: i64,
        #[prost(oneof = "What", tags = "3, 5, 7")]
        pub(super) what: Option<What>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(super) enum What {
        #[prost(string, tag = "3")]
        FileVersion(String),
        #[prost(message, tag = "5")]
        Summary(Summary),
        #[prost(message, tag = "7")]
        SessionLog(SessionLog),
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct SessionLog {
        #[prost(int32, tag = "1")]
        pub(super) status: i32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Summary {
        #[prost(message, repeated, tag = "1")]
        pub(super) values: Vec<Value>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Value {
        #[prost(string, tag = "1")]
        pub(super) tag: String,
        #[prost(message, optional, tag = "9")]
        pub(super) metadata: Option<Metadata>,
        #[prost(oneof = "Kind", tags = "2, 4, 5, 6, 8")]
        pub(super) kind: Option<Kind>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(super) enum Kind {
        #[prost(float, tag = "2")]
        Scalar(f32),
        #[prost(message, tag = "4")]
        Image(Image),
        #[prost(message, tag = "5")]
        Histogram(Histogram),
        #[prost(message, tag = "6")]
        Audio(Audio),
        #[prost(message, tag = "8")]
        Tensor(Tensor),
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Metadata {
        #[prost(message, optional, tag = "1")]
        pub(super) plugin: Option<Plugin>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Plugin {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) content: Vec<u8>,
    }

    /// `HParamsPluginData` of TensorBoard's `plugins/hparams/plugin_data.proto`; its version is 0.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Hyperparameters {
        #[prost(message, optional, tag = "3")]
        pub(super) start: Option<SessionStart>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct SessionStart {
        #[prost(btree_map = "string, message", tag = "1")]
        pub(super) settings: BTreeMap<String, SettingValue>,
        #[prost(string, tag = "4")]
        pub(super) group: String,
    }

    /// `google.protobuf.Value`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct SettingValue {
        #[prost(oneof = "Setting", tags = "2, 3, 4")]
        pub(super) kind: Option<Setting>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(super) enum Setting {
        #[prost(double, tag = "2")]
        Number(f64),
        #[prost(string, tag = "3")]
        Text(String),
        #[prost(bool, tag = "4")]
        Bool(bool),
    }

    /// `DataType.DT_FLOAT`.
    pub(super) const FLOAT: i32 = 1;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Tensor {
        #[prost(int32, tag = "1")]
        pub(super) kind: i32,
        #[prost(message, optional, tag = "2")]
        pub(super) shape: Option<Shape>,
        #[prost(float, repeated, tag = "5")]
        pub(super) floats: Vec<f32>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Shape {
        #[prost(message, repeated, tag = "2")]
        pub(super) sides: Vec<Side>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Side {
        #[prost(int64, tag = "1")]
        pub(super) size: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Audio {
        #[prost(float, tag = "1")]
        pub(super) rate: f32,
        #[prost(int64, tag = "2")]
        pub(super) n_channels: i64,
        #[prost(int64, tag = "3")]
        pub(super) n_frames: i64,
        #[prost(bytes = "vec", tag = "4")]
        pub(super) wav: Vec<u8>,
        #[prost(string, tag = "5")]
        pub(super) content_type: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Image {
        #[prost(int32, tag = "1")]
        pub(super) height: i32,
        #[prost(int32, tag = "2")]
        pub(super) width: i32,
        #[prost(int32, tag = "3")]
        pub(super) channels: i32,
        #[prost(bytes = "vec", tag = "4")]
        pub(super) png: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Histogram {
        #[prost(double, tag = "1")]
        pub(super) min: f64,
        #[prost(double, tag = "2")]
        pub(super) max: f64,
        #[prost(double, tag = "3")]
        pub(super) num: f64,
        #[prost(double, tag = "4")]
        pub(super) sum: f64,
        #[prost(double, tag = "5")]
        pub(super) sum_squares: f64,
        /// The right edge of each bin.
        #[prost(double, repeated, tag = "6")]
        pub(super) limits: Vec<f64>,
        #[prost(double, repeated, tag = "7")]
        pub(super) counts: Vec<f64>,
    }
}
