//! The headers of safetensors files: names, types, shapes and positions of the tensors.
//!
//! <https://huggingface.co/docs/safetensors>

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{self, ErrorKind, Read};

use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

/// About the size of the JSON of 100,000 tensors.
const LARGEST_HEADER: u64 = 1 << 24;

/// More dimensions than the kernel of a 3D convolution has.
const MOST_DIMENSIONS: usize = 8;

/// The header of a file whose tensors fill the rest of the file exactly.
#[derive(Clone, Debug)]
pub struct SafetensorsHeader {
    /// The text entries.
    pub metadata: HashMap<String, String>,
    /// The tensors by name, in the order of their data, which is contiguous.
    pub tensors: Vec<(String, TensorInfo)>,
    /// The offset in the file at which the data begins. The tensors' offsets are relative to it.
    pub start: u64,
}

impl SafetensorsHeader {
    /// Reads the header of a file of `n_bytes` from the file's start. All sizes are compared with the file's length, so
    /// that the caller can allocate the tensors.
    ///
    /// # Errors
    /// The source fails. With the kind `InvalidData`: the header is missing or malformed, or its tensors do not fill
    /// the rest of the file.
    pub fn read(from: &mut impl Read, n_bytes: u64) -> io::Result<Self> {
        if n_bytes < 8 {
            return Err(incomplete("fewer than 8 bytes"));
        }
        let mut length = [0; 8];
        from.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        if length > LARGEST_HEADER.min(n_bytes - 8) {
            return Err(incomplete(&format!(
                "a header of {length} bytes in a file of {n_bytes}; expected at most {LARGEST_HEADER}"
            )));
        }
        let mut json = vec![0; length as usize];
        from.read_exact(&mut json)?;
        let start = 8 + length;
        let Entries { metadata, tensors } =
            parse(&json, n_bytes - start).map_err(|problem| incomplete(&problem))?;
        Ok(Self {
            metadata,
            tensors,
            start,
        })
    }

    /// Type, shape and position of a tensor.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let found = self.tensors.iter().find(|(other, _)| other == name);
        found.map(|(_, info)| info)
    }
}

fn incomplete(problem: &str) -> io::Error {
    let problem = format!("not a complete safetensors file ({problem}); was it cut short?");
    io::Error::new(ErrorKind::InvalidData, problem)
}

/// The entries of a header, with the tensors in the order of their data in the `n_bytes` after the header.
fn parse(json: &[u8], n_bytes: u64) -> Result<Entries, String> {
    let mut entries: Entries = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let tensors = &mut entries.tensors;
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    for (name, TensorInfo { shape, .. }) in &*tensors {
        let n = shape.len();
        if n > MOST_DIMENSIONS {
            return Err(format!(
                "{name} has {n} dimensions, expected at most {MOST_DIMENSIONS}"
            ));
        }
        if shape.iter().any(|&side| i64::try_from(side).is_err()) {
            return Err(format!("{name} has the shape {shape:?}"));
        }
    }
    // Checks that the data of the tensors is contiguous and fits their shapes.
    let checked = Metadata::new(None, tensors.clone()).map_err(|error| error.to_string())?;
    let claimed = checked.data_len() as u64;
    if claimed != n_bytes {
        return Err(format!(
            "its tensors take {claimed} bytes, the file has {n_bytes} for them"
        ));
    }
    Ok(entries)
}

/// The JSON object of a header. Unlike the safetensors library, it refuses duplicate names.
#[derive(Debug, Default)]
struct Entries {
    metadata: HashMap<String, String>,
    tensors: Vec<(String, TensorInfo)>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;

        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut seen = HashSet::new();
                let mut entries = Entries::default();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("{name} is listed twice")));
                    }
                    if name == "__metadata__" {
                        entries.metadata = map.next_value()?;
                    } else {
                        entries.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(entries)
            }
        }

        deserializer.deserialize_map(EntriesVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(header: &str, n_data: u64) -> Result<SafetensorsHeader, String> {
        let length = header.len() as u64;
        let bytes = [&length.to_le_bytes(), header.as_bytes()].concat();
        let read = SafetensorsHeader::read(&mut &bytes[..], 8 + length + n_data);
        read.map_err(|error| error.to_string())
    }

    #[test]
    fn tensors_come_in_the_order_of_their_data() {
        let header = read(
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},"__metadata__":{"k":"v"},
                "b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
            12,
        );
        let header = header.unwrap();
        let names: Vec<&str> = header.tensors.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["b", "a"]);
        assert_eq!(header.metadata["k"], "v");
        assert_eq!(header.tensor("a").unwrap().shape, [2]);
        assert!(header.tensor("c").is_none());
    }

    #[test]
    fn claims_of_a_header_that_the_file_does_not_keep_are_refused() {
        for (entry, wanted) in [
            (
                r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,12]}"#,
                "",
            ),
            (
                r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#,
                "take 4 bytes",
            ),
            (
                r#""a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}"#,
                "",
            ),
            (
                r#""a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}"#,
                "",
            ),
            (
                r#""a":{"dtype":"F32","shape":[9007199254740992,9007199254740992],"data_offsets":[0,8]}"#,
                "",
            ),
            (
                r#""a":{"dtype":"F32","shape":[2,1,1,1,1,1,1,1,1],"data_offsets":[0,8]}"#,
                "9 dimensions",
            ),
            (
                r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                   "a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#,
                "twice",
            ),
            (
                r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                   "b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}"#,
                "",
            ),
        ] {
            let message = read(&format!("{{{entry}}}"), 8).unwrap_err();
            assert!(
                message.contains("not a complete safetensors file") && message.contains(wanted),
                "{message}"
            );
        }
    }

    #[test]
    fn a_header_longer_than_the_file_is_not_allocated() {
        for length in [u64::MAX, 1 << 53, 1 << 31, 9] {
            let bytes = [length.to_le_bytes(), [b' '; 8]].concat();
            let error = SafetensorsHeader::read(&mut &bytes[..], 16).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData);
            let message = error.to_string();
            assert!(
                message.contains(&format!("a header of {length} bytes")),
                "{message}"
            );
        }
        let error = SafetensorsHeader::read(&mut &b"1234567"[..], 7).unwrap_err();
        assert!(error.to_string().contains("fewer than 8 bytes"));
    }
}
