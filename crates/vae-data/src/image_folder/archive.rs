//! The image files of a zip and the locations of their bytes, and the detection of other archives.
//!
//! A zip's directory cannot be trusted: members that share bytes, or declare more bytes than their compressed bytes
//! can hold, count as bad files before anything is decompressed.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::ops::Range;
use std::path::Path;

use tracing::warn;
use vae_base::open_regular;
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::entry::{Entry, Media, Member, io_error, is_hidden, is_image};
use super::names::normalized;
use crate::{BadFile, DataError, UnreadFiles};

/// Enough first bytes of a file to detect its format: a tar's signature ends at byte 262.
const N_SNIFFED: u64 = 512;

/// The largest compression ratio of deflate: 258 bytes from two bits.
const MAX_RATIO: u64 = 1032;

type Archive = ZipArchive<BufReader<File>>;

/// A member of a zip.
struct Found {
    /// Its normalized path.
    name: String,
    /// Its position in the zip's directory.
    listed_at: u64,
    /// The range of its header and compressed bytes.
    place: Range<u64>,
    kind: Kind,
}

enum Kind {
    Image(Entry),
    Bad(String),
    /// An image in an unsupported format.
    Unread(&'static str),
    /// Another archive, and its format.
    Archive(&'static str),
    Other,
}

/// The images of a zip and its bad files, unordered. Counts the images in unsupported formats.
pub(super) fn scan(
    path: &Path,
    media: Media,
    unread: &mut UnreadFiles,
) -> Result<(Vec<Entry>, Vec<BadFile>), DataError> {
    let mut archive = open(path)?;
    let mut members: HashMap<String, Found> = HashMap::with_capacity(archive.len());
    let mut has_equal_names = archive.has_duplicate_names();
    for i in 0..archive.len() {
        let Some(found) = member(&mut archive, i, media) else {
            continue;
        };
        // As in unpacking, the last member of a name replaces the others.
        match members.get(&found.name) {
            Some(other) => {
                has_equal_names = true;
                if other.listed_at < found.listed_at {
                    members.insert(found.name.clone(), found);
                }
            }
            None => {
                members.insert(found.name.clone(), found);
            }
        }
    }
    if has_equal_names {
        warn!(
            "{}: has several members of one name: the last of each is used",
            path.display()
        );
    }
    leave_out_runs(&mut members);
    let mut members: Vec<Found> = members.into_values().collect();
    members.sort_unstable_by_key(|found| (found.place.start, found.listed_at));
    mark_overlaps(&mut members);

    let (mut entries, mut bad, mut archives) = (Vec::new(), Vec::new(), Vec::new());
    for Found { name, kind, .. } in members {
        match kind {
            Kind::Image(entry) => entries.push(entry),
            Kind::Bad(reason) => bad.push(BadFile { name, reason }),
            Kind::Unread(format) => unread.add(format),
            Kind::Archive(what) => archives.push((name, what)),
            Kind::Other => {}
        }
    }
    if let Some((name, what)) = archives.iter().min() {
        let n_more = archives.len() - 1;
        let others = match n_more {
            0 => String::new(),
            _ => format!(", as are {n_more} others"),
        };
        if entries.is_empty() && bad.is_empty() {
            return Err(DataError::Zip {
                path: path.to_owned(),
                reason: format!(
                    "it holds no image, but {name} in it is {what}{others} (unpack it, and give its \
                     content)"
                ),
            });
        }
        warn!(
            "{}: {name} in it is {what}{others}: not read",
            path.display()
        );
    }
    Ok((entries, bad))
}

/// Leaves out the folders of runs, detected by their files as in a folder of photos: their images are generated.
fn leave_out_runs(members: &mut HashMap<String, Found>) {
    let is_mark = |rest: &str| {
        ["metrics.jsonl", "run.lock"].contains(&rest) || rest.starts_with("checkpoints/")
    };
    let mut marked = HashSet::new();
    for name in members.keys() {
        let slashes = name.match_indices('/').map(|(at, _)| at);
        marked.extend(
            slashes
                .filter(|at| is_mark(&name[at + 1..]))
                .map(|at| &name[..at]),
        );
    }
    let configs = members
        .keys()
        .filter_map(|name| name.strip_suffix("/config.toml"));
    let runs: HashSet<String> = configs
        .filter(|folder| marked.contains(folder))
        .map(str::to_owned)
        .collect();
    let is_in_run = |name: &String| {
        name.match_indices('/')
            .any(|(at, _)| runs.contains(&name[..at]))
    };
    if !runs.is_empty() {
        members.retain(|name, _| !is_in_run(name));
    }
}

/// Marks members that share bytes with another one as bad: a few kilobytes could otherwise become any number of
/// images. `members` are sorted by location.
fn mark_overlaps(members: &mut [Found]) {
    let (mut end, mut owner) = (0, String::new());
    for found in members {
        if found.place.start < end && matches!(found.kind, Kind::Image(_)) {
            found.kind = Kind::Bad(format!(
                "shares bytes of the zip with {owner} (a damaged zip, or a zip bomb)"
            ));
        }
        if found.place.end > end {
            end = found.place.end;
            owner.clone_from(&found.name);
        }
    }
}

/// Member `i`; `None` for a folder or a hidden file.
fn member(archive: &mut Archive, i: usize, media: Media) -> Option<Found> {
    let data = archive.by_index_data(i).ok()?;
    // macOS writes UTF-8 without setting the flag for it; names that are not UTF-8 use code page 437.
    let raw_name = match str::from_utf8(data.name_raw()) {
        Ok(name) => name.to_owned(),
        Err(_) => match data.name() {
            Ok(name) => name.into_owned(),
            Err(_) => String::from_utf8_lossy(data.name_raw()).into_owned(),
        },
    };
    let name = normalized(&raw_name);
    // `..` begins with a dot too, but a path that leaves the archive must be reported.
    let is_hidden = |part: &str| part != ".." && is_hidden(part.as_ref());
    if raw_name.ends_with(['/', '\\']) || name.is_empty() || name.split('/').any(is_hidden) {
        return None;
    }
    let listed_at = data.central_header_start();
    let leaves = raw_name.contains('\0') || name.split('/').any(|part| part == "..");
    let start = data.header_start();
    let mut place = start..start;
    let kind = if leaves {
        Kind::Bad("its path leaves the archive: refused".to_owned())
    } else {
        match entry(archive, i, &name) {
            Ok(Some(found)) => {
                place.end = found.end;
                kind(archive, i, found, media)
            }
            Ok(None) => Kind::Other,
            Err(reason) => Kind::Bad(reason),
        }
    };
    Some(Found {
        name,
        listed_at,
        place,
        kind,
    })
}

/// A member according to the zip's headers.
struct Listed {
    entry: Entry,
    end: u64,
    encrypted: bool,
    method: CompressionMethod,
}

/// `None` if the member is not a file.
fn entry(archive: &mut Archive, i: usize, name: &str) -> Result<Option<Listed>, String> {
    let member = archive
        .by_index_raw(i)
        .map_err(|error| format!("is corrupt in the zip: {error}"))?;
    if !member.is_file() {
        return Ok(None);
    }
    let start = member.data_start().ok_or("is corrupt in the zip")?;
    let n_compressed = member.compressed_size();
    Ok(Some(Listed {
        entry: Entry {
            name: name.to_owned(),
            n_bytes: member.size(),
            stamp: u64::from(member.crc32()),
            member: Some(Member {
                start,
                n_compressed,
                deflated: member.compression() == CompressionMethod::Deflated,
            }),
        },
        end: start.saturating_add(n_compressed),
        encrypted: member.encrypted(),
        method: member.compression(),
    }))
}

fn kind(archive: &mut Archive, i: usize, listed: Listed, media: Media) -> Kind {
    let Listed {
        entry,
        encrypted,
        method,
        ..
    } = listed;
    let is_named = media.has_name(&entry.name);
    let readable = [CompressionMethod::Stored, CompressionMethod::Deflated].contains(&method);
    if encrypted || !readable {
        // The content is unknown, so the name decides: a text file among encrypted images is not listed.
        return match is_named {
            false => Kind::Other,
            true if encrypted => Kind::Bad("is encrypted".to_owned()),
            true => Kind::Bad(format!(
                "is compressed by {method}, expected stored or deflated (unpack the zip)"
            )),
        };
    }
    if !is_named {
        let mut beginning = Vec::new();
        let read = archive
            .by_index(i)
            .map_err(std::io::Error::other)
            .and_then(|member| member.take(N_SNIFFED).read_to_end(&mut beginning));
        match (read, archive_kind(&beginning)) {
            (Err(error), _) => return Kind::Bad(format!("is corrupt in the zip: {error}")),
            (Ok(_), Some(what)) => return Kind::Archive(what),
            (Ok(_), None) if !media.is_content(&beginning) => {
                return match media.unread(&entry.name, &beginning) {
                    Some(format) => Kind::Unread(format),
                    None => Kind::Other,
                };
            }
            (Ok(_), None) => {}
        }
    }
    let most = match &entry.member {
        Some(member) if member.deflated => member.n_compressed.saturating_mul(MAX_RATIO),
        Some(member) => member.n_compressed,
        None => entry.n_bytes,
    };
    if entry.n_bytes > most {
        return Kind::Bad(format!(
            "is corrupt in the zip: {} bytes, which its compressed bytes cannot hold",
            entry.n_bytes
        ));
    }
    Kind::Image(entry)
}

/// Opens a zip; data before and after it are allowed.
fn open(path: &Path) -> Result<Archive, DataError> {
    let metadata = fs::metadata(path).map_err(|source| io_error(path, source))?;
    // Checked before opening, because opening a pipe would wait for its writer.
    if !metadata.is_file() {
        return Err(DataError::NotAFile {
            path: path.to_owned(),
        });
    }
    let file = open_regular(path).map_err(|source| io_error(path, source))?;
    ZipArchive::new(BufReader::new(file)).map_err(|error| DataError::Zip {
        path: path.to_owned(),
        reason: match beginning(path) {
            Ok(beginning) => why_no_zip(&beginning, &error),
            Err(error) => error.to_string(),
        },
    })
}

/// The first bytes of a file.
pub(crate) fn beginning(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?
        .take(N_SNIFFED)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether the file is a zip: by its first bytes, its name, or the directory at its end (for self-extracting
/// programs). `beginning` holds the first bytes of the file at `path`.
pub(crate) fn is_zip(path: &Path, beginning: &[u8]) -> bool {
    let is_named = path
        .extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("zip"));
    begins_as_zip(beginning) || is_named || (!is_image(beginning) && open(path).is_ok())
}

fn begins_as_zip(beginning: &[u8]) -> bool {
    // A member, an empty zip, a part of a split zip.
    [b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"]
        .iter()
        .any(|magic| beginning.starts_with(*magic))
}

/// The format of an archive with these first bytes.
pub(crate) fn archive_kind(beginning: &[u8]) -> Option<&'static str> {
    match beginning {
        _ if begins_as_zip(beginning) => Some("a zip"),
        [b'R', b'a', b'r', b'!', 0x1a, 7, ..] => Some("a RAR archive"),
        [b'7', b'z', 0xbc, 0xaf, 0x27, 0x1c, ..] => Some("a 7z archive"),
        [0x1f, 0x8b, ..] => Some("a gzip file"),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some("a bzip2 file"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some("an xz file"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("a zstd file"),
        _ if beginning.get(257..262) == Some(b"ustar") => Some("a tar archive"),
        _ => None,
    }
}

fn why_no_zip(beginning: &[u8], error: &ZipError) -> String {
    const AGAIN: &str = "interrupted download? fetch it again";
    let is_split =
        matches!(error, ZipError::UnsupportedArchive(what) if what.contains("multi-disk"));
    let text = String::from_utf8_lossy(beginning);
    let text = text.trim_start_matches('\u{feff}').trim();
    let is_text = !text.contains(|c: char| c == '\u{fffd}' || c.is_control() && !c.is_whitespace());
    match archive_kind(beginning) {
        _ if is_split || beginning.starts_with(b"PK\x07\x08") => {
            "it is one part of a zip in several (join them with `zip -s 0 LAST.zip --out \
             whole.zip`)"
                .to_owned()
        }
        _ if beginning.is_empty() => format!("it is empty ({AGAIN})"),
        Some("a zip") => format!("{error} ({AGAIN})"),
        Some(what) => format!("it is {what} (unpack it, and give the folder)"),
        None if is_image(beginning) => "it is an image (give the folder that it is in)".to_owned(),
        None if text.starts_with('<') => {
            "it is a web page, saved in place of the file? (fetch the file itself)".to_owned()
        }
        None if is_text => {
            let line = text.lines().next().unwrap_or_default();
            let start: String = line.chars().take(60).collect();
            format!("it is a text file that begins {start:?} (fetch the file itself)")
        }
        None => format!("{error} ({AGAIN})"),
    }
}

/// The members with the file name `name` in any folder, the least nested first, as normalized paths.
pub(super) fn members_named(path: &Path, name: &str) -> Result<Vec<String>, DataError> {
    let archive = open(path)?;
    let names = archive.file_names_raw().filter_map(|raw| {
        let member = normalized(str::from_utf8(raw).ok()?);
        let mut parts = member.rsplit('/');
        let is_called = parts.next() == Some(name) && !parts.any(|part| is_hidden(part.as_ref()));
        is_called.then_some(member)
    });
    let mut names: Vec<String> = names.collect();
    names.sort_by_cached_key(|member| (member.split('/').count(), member.clone()));
    Ok(names)
}

/// The content of the member `name`, if it has at most `most` bytes.
pub(super) fn read_member(path: &Path, name: &str, most: u64) -> Result<Vec<u8>, DataError> {
    let mut archive = open(path)?;
    let wrong = |problem: String| DataError::List {
        path: path.join(name),
        problem,
    };
    let is_it = |raw: &[u8]| str::from_utf8(raw).is_ok_and(|raw| normalized(raw) == name);
    let names = archive.file_names_raw().enumerate();
    let member = names.filter(|(_, raw)| is_it(raw)).map(|(i, _)| i).last();
    let member = member.ok_or_else(|| wrong("is not in the zip".to_owned()))?;
    let member = archive
        .by_index(member)
        .map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let mut bytes = Vec::new();
    member
        .take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| wrong(format!("cannot be read: {error}")))?;
    Ok(bytes)
}
