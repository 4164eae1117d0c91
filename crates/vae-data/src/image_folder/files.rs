//! The image files of a folder or zip, and their bytes.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use flate2::{Decompress, FlushDecompress, Status};
use vae_base::open_regular;
use walkdir::WalkDir;

use super::archive;
use super::entry::{Entry, Media, Member, io_error, is_hidden};
use super::formats::N_SNIFFED;
use crate::{BadFile, DataError, UnreadFiles};

/// The image files of a folder or zip, sorted by name (the order of their UTF-8 bytes).
#[derive(Debug)]
pub(crate) struct Files {
    /// The folder or the zip.
    path: PathBuf,
    entries: Vec<Entry>,
    unread: UnreadFiles,
}

impl Files {
    /// Finds the images (or sounds) in `path`, and bad files that need not be read. Files whose names have the
    /// extension of one are not opened.
    pub(crate) fn scan(path: &Path, media: Media) -> Result<(Files, Vec<BadFile>), DataError> {
        let metadata = fs::metadata(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => DataError::MissingImages {
                path: path.to_owned(),
            },
            _ => io_error(path, source),
        })?;
        let mut unread = UnreadFiles::default();
        let (mut entries, bad) = if metadata.is_dir() {
            scan_folder(path, media, &mut unread)
        } else {
            archive::scan(path, media, &mut unread)?
        };
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let path = path.to_owned();
        let files = Files {
            path,
            entries,
            unread,
        };
        Ok((files, bad))
    }

    /// Files that were named individually.
    pub(crate) fn named(entries: Vec<Entry>) -> Files {
        Files {
            path: PathBuf::new(),
            entries,
            unread: UnreadFiles::default(),
        }
    }

    /// The images in unsupported formats.
    pub(crate) fn unread(&self) -> &UnreadFiles {
        &self.unread
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn scan_folder(
    folder: &Path,
    media: Media,
    unread: &mut UnreadFiles,
) -> (Vec<Entry>, Vec<BadFile>) {
    let (mut entries, mut bad) = (Vec::new(), Vec::new());
    let relative = |path: &Path| {
        let path = path.strip_prefix(folder).unwrap_or(path);
        let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
        match parts.is_empty() {
            true => ".".to_owned(),
            false => parts.join("/"),
        }
    };
    let system = SystemFiles::find();
    let visible = |entry: &walkdir::DirEntry| entry.depth() == 0 || !is_hidden(entry.file_name());
    let mut walk = WalkDir::new(folder)
        .follow_links(true)
        .into_iter()
        .filter_entry(visible);
    while let Some(found) = walk.next() {
        let file = match found.map_err(|error| walk_reason(&error, folder)) {
            Ok(file) => file,
            Err((path, reason)) => {
                let name = relative(&path);
                bad.push(BadFile { name, reason });
                continue;
            }
        };
        let is_folder = file.file_type().is_dir();
        let name = relative(file.path());
        if file.depth() > 0 && system.has(&file) {
            if is_folder {
                walk.skip_current_dir();
            }
            let reason = "belongs to the running system".to_owned();
            bad.push(BadFile { name, reason });
        } else if is_folder {
            if file.depth() > 0 && is_run(file.path()) {
                walk.skip_current_dir();
            }
        } else if file.file_type().is_file() {
            match folder_entry(&file, &name, media, unread) {
                Ok(Some(entry)) => entries.push(entry),
                Ok(None) => {}
                Err(reason) => bad.push(BadFile { name, reason }),
            }
        } else if media.has_name(&name) {
            let reason = "is not a regular file".to_owned();
            bad.push(BadFile { name, reason });
        }
    }
    (entries, bad)
}

/// Whether a folder is that of a run: its images are generated and must not become training data.
fn is_run(folder: &Path) -> bool {
    let has = |name| folder.join(name).exists();
    has("config.toml") && (has("checkpoints") || has("metrics.jsonl") || has("run.lock"))
}

/// Pseudo-files of the running system, such as those in /proc: some never end, and some block their reader.
struct SystemFiles {
    devices: Vec<u64>,
}

impl SystemFiles {
    fn find() -> SystemFiles {
        let device = |path: &str| device(fs::metadata(path).ok()?);
        let others = ["/proc", "/sys"].into_iter().filter_map(device);
        // An ordinary folder with such a name is on the root's device.
        let root = device("/");
        SystemFiles {
            devices: others.filter(|other| Some(*other) != root).collect(),
        }
    }

    fn has(&self, file: &walkdir::DirEntry) -> bool {
        // An ordinary file is on its folder's device, unless it was reached through a link.
        let may_be_elsewhere = file.file_type().is_dir() || file.path_is_symlink();
        may_be_elsewhere
            && file
                .metadata()
                .ok()
                .and_then(device)
                .is_some_and(|device| self.devices.contains(&device))
    }
}

/// The number of the file system that contains a file.
#[cfg(unix)]
fn device(metadata: fs::Metadata) -> Option<u64> {
    Some(std::os::unix::fs::MetadataExt::dev(&metadata))
}

#[cfg(not(unix))]
fn device(_: fs::Metadata) -> Option<u64> {
    None
}

fn walk_reason(error: &walkdir::Error, folder: &Path) -> (PathBuf, String) {
    let path = error.path().unwrap_or(folder).to_owned();
    let reason = match (error.loop_ancestor(), error.io_error()) {
        (Some(ancestor), _) => format!("is a link back to {}", ancestor.display()),
        (None, Some(source)) => format!("cannot be read: {source}"),
        (None, None) => error.to_string(),
    };
    (path, reason)
}

fn folder_entry(
    file: &walkdir::DirEntry,
    name: &str,
    media: Media,
    unread: &mut UnreadFiles,
) -> Result<Option<Entry>, String> {
    // Only the path in the folder must be UTF-8, not the folder's own path.
    let is_utf8 = file
        .path()
        .iter()
        .rev()
        .take(file.depth())
        .all(|part| part.to_str().is_some());
    let content = || {
        let mut bytes = Vec::new();
        open_regular(file.path())
            .and_then(|file| file.take(N_SNIFFED as u64).read_to_end(&mut bytes))
            .map_err(|error| format!("cannot be read: {error}"))?;
        Ok::<_, String>(bytes)
    };
    if !media.has_name(name) {
        let beginning = content()?;
        if !media.is_content(&beginning) {
            if let Some(format) = media.unread(name, &beginning) {
                unread.add(format);
            }
            return Ok(None);
        }
    }
    if !is_utf8 {
        return Err("its name is not UTF-8".to_owned());
    }
    let metadata = file
        .metadata()
        .map_err(|error| format!("cannot be read: {error}"))?;
    let changed = metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Ok(Some(Entry {
        name: name.to_owned(),
        n_bytes: metadata.len(),
        // u64 nanoseconds last until the year 2554.
        stamp: changed.map_or(0, |time| time.as_nanos() as u64),
        member: None,
    }))
}

/// Reads files into a reused buffer.
#[derive(Debug)]
pub(crate) struct FileReader {
    files: Arc<Files>,
    /// The zip, opened on first use.
    zip: Option<File>,
    compressed: Vec<u8>,
    inflate: Decompress,
    bytes: Vec<u8>,
}

impl FileReader {
    pub(crate) fn new(files: Arc<Files>) -> FileReader {
        FileReader {
            files,
            zip: None,
            compressed: Vec::new(),
            inflate: Decompress::new(false),
            bytes: Vec::new(),
        }
    }

    /// The content of file `i`, or the reason why it cannot be read.
    pub(crate) fn read(&mut self, i: usize, max_bytes: u64) -> Result<&[u8], String> {
        let files = Arc::clone(&self.files);
        let entry = &files.entries[i];
        let n_stored = entry.member.map_or(0, |member| member.n_compressed);
        match (entry.n_bytes, entry.n_bytes.max(n_stored)) {
            (0, _) => return Err("is empty".to_owned()),
            (_, n) if n > max_bytes => {
                return Err(format!("has {n} bytes, expected at most {max_bytes}"));
            }
            _ => {}
        }
        match entry.member {
            None => self
                .read_file(&files.path.join(&entry.name), max_bytes)
                .map_err(|error| format!("cannot be read: {error}"))?,
            Some(member) => self.read_member(&files.path, entry, member)?,
        }
        Ok(&self.bytes)
    }

    fn read_file(&mut self, path: &Path, max_bytes: u64) -> io::Result<()> {
        self.bytes.clear();
        // The file may have grown since it was listed.
        open_regular(path)?
            .take(max_bytes)
            .read_to_end(&mut self.bytes)?;
        Ok(())
    }

    fn read_member(&mut self, zip: &Path, entry: &Entry, member: Member) -> Result<(), String> {
        let corrupt = |what: String| format!("is corrupt in the zip: {what}");
        let file = match &mut self.zip {
            Some(file) => file,
            none => none.insert(
                open_regular(zip).map_err(|error| format!("the zip cannot be read: {error}"))?,
            ),
        };
        let raw = match member.deflated {
            true => &mut self.compressed,
            false => &mut self.bytes,
        };
        raw.clear();
        let n_read = file
            .seek(SeekFrom::Start(member.start))
            // The buffer grows with the bytes that are read, not with the declared size.
            .and_then(|_| file.take(member.n_compressed).read_to_end(raw))
            .map_err(|error| corrupt(error.to_string()))?;
        if n_read as u64 != member.n_compressed {
            return Err(corrupt("it ends early".to_owned()));
        }
        if member.deflated {
            self.inflate.reset(false);
            self.bytes.clear();
            // One byte more than declared, to detect excess data.
            self.bytes.reserve(entry.n_bytes as usize + 1);
            let status = self
                .inflate
                .decompress_vec(&self.compressed, &mut self.bytes, FlushDecompress::Finish)
                .map_err(|error| corrupt(error.to_string()))?;
            if status != Status::StreamEnd {
                return Err(corrupt(
                    "its stream does not end where it should".to_owned(),
                ));
            }
        }
        if self.bytes.len() as u64 != entry.n_bytes {
            return Err(corrupt(format!(
                "{} bytes, expected {}",
                self.bytes.len(),
                entry.n_bytes
            )));
        }
        let found = crc32fast::hash(&self.bytes);
        if u64::from(found) != entry.stamp {
            return Err(corrupt(format!(
                "CRC-32 {found:08x}, expected {:08x}",
                entry.stamp
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_told_by_its_name() {
        for (name, is) in [
            ("a.JPG", true),
            ("a/b.webp", true),
            ("list_attr_celeba.txt", false),
            ("jpg", false),
        ] {
            assert_eq!(Media::Images.has_name(name), is, "{name}");
        }
        assert!(Media::Sounds.has_name("a/b.Flac") && !Media::Sounds.has_name("a.jpg"));
    }
}
