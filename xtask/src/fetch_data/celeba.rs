//! `cargo xtask fetch-data celeba`: photos that stay in their zip, and the lists about them.
//!
//! Unlike the other data sets this one is often had in part or in another size, so what the user
//! brings is checked for being such a set, not for being the official bytes; downloads are.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use md5::{Digest, Md5};
use serde::Deserialize;
use zip::ZipArchive;

use super::store;
use crate::download::{Client, Patience};
use crate::progress;
use crate::workspace::Workspace;

/// The data set's name.
pub(super) const NAME: &str = "celeba";

/// The file without which there is no data set; the lists are optional.
pub(super) const PHOTOS: &str = "img_align_celeba.zip";

/// `datasets/celeba.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    description: String,
    license: String,
    homepage: String,
    #[serde(rename = "file")]
    files: Vec<CelebaFile>,
}

/// One of its files.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CelebaFile {
    name: String,
    /// The folder of the official Google Drive, and of copies of it, that holds the file.
    drive_folder: String,
    /// Of the official file.
    md5: String,
    urls: Vec<String>,
}

/// Bring CelebA into `datasets/celeba`, from the user's zip or folder, or from the web.
///
/// # Errors
/// If what is at `from` is not it, or no address gives the photos; then it says where to get what.
pub(super) fn fetch(workspace: &Workspace, from: Option<&Path>) -> Result<()> {
    let path = workspace.datasets().join(format!("{NAME}.toml"));
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let manifest: Manifest =
        toml::from_str(&text).with_context(|| format!("{} is no manifest", path.display()))?;
    let Manifest {
        description,
        license,
        homepage,
        ..
    } = &manifest;
    eprintln!("{NAME}: {description} ({license}; {homepage})");
    let folder = workspace.datasets().join(NAME);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    match from {
        Some(from) => take(&manifest, from, &folder)?,
        None => download(&manifest, &folder, &Client::new(Patience::default()))?,
    }
    let n_photos = n_photos(&folder.join(PHOTOS))?;
    eprintln!(
        "{NAME}: {} holds {n_photos} photos",
        workspace.shown(&folder)
    );
    Ok(())
}

/// Copy what is at `from`: the zip with the lists beside it or in it, or a folder that holds them,
/// laid out flat or as the official one.
fn take(manifest: &Manifest, from: &Path, folder: &Path) -> Result<()> {
    let metadata = fs::metadata(from).with_context(|| format!("cannot read {}", from.display()))?;
    let (zip, around) = if metadata.is_dir() {
        let photos = manifest.files.iter().find(|file| file.name == PHOTOS);
        let zip = photos.and_then(|file| find(from, file)).with_context(|| {
            format!(
                "{} holds no {PHOTOS} (a folder of extracted photos needs no fetching: name it in \
                 dataset.image_folder.path)",
                from.display()
            )
        })?;
        (zip, from.to_owned())
    } else {
        let around = from.parent().unwrap_or(Path::new("")).to_owned();
        (from.to_owned(), around)
    };
    n_photos(&zip)?;
    for file in &manifest.files {
        let destination = folder.join(&file.name);
        if file.name == PHOTOS {
            let content =
                File::open(&zip).with_context(|| format!("cannot open {}", zip.display()))?;
            let length = content.metadata().map(|metadata| metadata.len()).ok();
            let bar = progress::bytes(&file.name, length);
            store(bar.wrap_read(content), &destination)?;
            bar.finish_and_clear();
        } else if let Some(list) = find(&around, file) {
            let content =
                File::open(&list).with_context(|| format!("cannot open {}", list.display()))?;
            store(content, &destination)?;
        } else if let Some(content) = member(&zip, &file.name)? {
            store(&content[..], &destination)?;
        } else {
            eprintln!(
                "  {}: neither beside {} nor in it; done without",
                file.name,
                zip.display()
            );
            continue;
        }
        let official = md5_of_file(&destination)? == file.md5;
        let remark = match official {
            true => "the official file",
            false => "not the official file's bytes: a part or a version of it",
        };
        eprintln!("  {}: {remark}", file.name);
    }
    Ok(())
}

/// The file in `folder`, or where the official folder keeps it.
fn find(folder: &Path, file: &CelebaFile) -> Option<PathBuf> {
    [folder.to_owned(), folder.join(&file.drive_folder)]
        .into_iter()
        .map(|folder| folder.join(&file.name))
        .find(|path| path.is_file())
}

/// Fetch missing files from the addresses in the manifest.
fn download(manifest: &Manifest, folder: &Path, client: &Client) -> Result<()> {
    let mut failures = Vec::new();
    for file in &manifest.files {
        let destination = folder.join(&file.name);
        if destination.is_file() {
            continue;
        }
        for url in &file.urls {
            eprintln!("  {} from {url}", file.name);
            match download_one(client, url, file, &destination) {
                Ok(()) => break,
                Err(reason) => {
                    eprintln!("    failed: {reason:#}");
                    failures.push(format!("  - {url}: {reason:#}"));
                }
            }
        }
    }
    let missing: Vec<_> = manifest
        .files
        .iter()
        .filter(|file| !folder.join(&file.name).is_file())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let wanted: Vec<_> = missing
        .iter()
        .map(|file| format!("  - {}/{}", file.drive_folder, file.name))
        .collect();
    bail!(
        "no address gave every file:\n{}\n\
         What you can do: open {} in a browser, follow its link to the Google Drive (or the Baidu \
         Drive) of \"Align&Cropped Images\", download\n{}\n\
         into one folder, and run: cargo xtask fetch-data {NAME} --from FOLDER",
        failures.join("\n"),
        manifest.homepage,
        wanted.join("\n")
    )
}

fn download_one(client: &Client, url: &str, file: &CelebaFile, destination: &Path) -> Result<()> {
    let arrived = destination.with_extension("downloaded");
    client.download(url, &arrived)?;
    let found = md5_of_file(&arrived)?;
    if found != file.md5 {
        // Google answers with a page of text when too many people asked for the file.
        fs::remove_file(&arrived)
            .with_context(|| format!("cannot remove {}", arrived.display()))?;
        bail!("MD5 is {found}, expected {}; refused", file.md5);
    }
    fs::rename(&arrived, destination)
        .with_context(|| format!("cannot rename {}", arrived.display()))
}

/// How many photos a zip holds, at least one.
fn n_photos(path: &Path) -> Result<usize> {
    let archive = open_zip(path)?;
    let is_photo = |name: &[u8]| name.to_ascii_lowercase().ends_with(b".jpg");
    let n_photos = archive
        .file_names_raw()
        .filter(|name| is_photo(name))
        .count();
    ensure!(n_photos > 0, "{} holds no .jpg", path.display());
    Ok(n_photos)
}

fn open_zip(path: &Path) -> Result<ZipArchive<BufReader<File>>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    ZipArchive::new(BufReader::new(file))
        .with_context(|| format!("{} is no zip, or a damaged one", path.display()))
}

/// The content of the member called `name`, in any folder of the zip.
fn member(path: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let mut archive = open_zip(path)?;
    let found = archive
        .file_names_raw()
        .position(|member| member.rsplit(|&byte| byte == b'/').next() == Some(name.as_bytes()));
    let Some(i) = found else { return Ok(None) };
    let mut content = Vec::new();
    archive
        .by_index(i)
        .map_err(anyhow::Error::from)
        .and_then(|mut member| Ok(member.read_to_end(&mut content)?))
        .with_context(|| format!("{name} in {} is damaged", path.display()))?;
    Ok(Some(content))
}

fn md5_of_file(path: &Path) -> Result<String> {
    let read = || -> io::Result<String> {
        let mut md5 = Md5::new();
        io::copy(&mut File::open(path)?, &mut md5)?;
        let bytes = md5.finalize();
        Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    };
    read().with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use zip::write::SimpleFileOptions;

    use super::*;
    use crate::test_server::{Resource, TestServer};

    fn zip_of(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = io::Cursor::new(Vec::new());
        let mut zip = zip::ZipWriter::new(&mut bytes);
        for (name, content) in members {
            zip.start_file(*name, SimpleFileOptions::default()).unwrap();
            zip.write_all(content).unwrap();
        }
        zip.finish().unwrap();
        bytes.into_inner()
    }

    fn manifest(url: &str) -> Manifest {
        let file = |name: &str, drive_folder: &str, content: &[u8]| CelebaFile {
            name: name.to_owned(),
            drive_folder: drive_folder.to_owned(),
            md5: Md5::digest(content)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            urls: vec![format!("{url}{name}")],
        };
        Manifest {
            description: "d".to_owned(),
            license: "l".to_owned(),
            homepage: "https://home.example/".to_owned(),
            files: vec![
                file(PHOTOS, "Img", &photos()),
                file("list.txt", "Anno", b"a.jpg 0\n"),
            ],
        }
    }

    fn photos() -> Vec<u8> {
        zip_of(&[("img/a.jpg", b"photo")])
    }

    #[test]
    fn a_zip_is_taken_with_its_list_beside_or_inside() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("Img")).unwrap();
        fs::create_dir_all(from.join("Anno")).unwrap();
        fs::create_dir(&to).unwrap();
        let manifest = manifest("");

        let beside = from.join("Img").join(PHOTOS);
        fs::write(&beside, photos()).unwrap();
        take(&manifest, &beside, &to).unwrap();
        assert!(!to.join("list.txt").exists(), "there is none");
        fs::write(from.join("Anno/list.txt"), "a.jpg 0\n").unwrap();
        take(&manifest, &from, &to).unwrap();
        assert_eq!(
            fs::read_to_string(to.join("list.txt")).unwrap(),
            "a.jpg 0\n"
        );

        let inside = folder.path().join("mine.zip");
        fs::write(
            &inside,
            zip_of(&[("x/b.JPG", b"photo"), ("lists/list.txt", b"b.JPG 2\n")]),
        )
        .unwrap();
        take(&manifest, &inside, &to).unwrap();
        assert_eq!(
            fs::read_to_string(to.join("list.txt")).unwrap(),
            "b.JPG 2\n"
        );
        assert_eq!(
            fs::read(to.join(PHOTOS)).unwrap(),
            fs::read(&inside).unwrap()
        );

        fs::write(&inside, &photos()[..20]).unwrap();
        let error = format!("{:#}", take(&manifest, &inside, &to).unwrap_err());
        assert!(
            error.contains("mine.zip is no zip, or a damaged one"),
            "{error}"
        );
        fs::write(&inside, zip_of(&[("a.txt", b"text")])).unwrap();
        let error = format!("{:#}", take(&manifest, &inside, &to).unwrap_err());
        assert!(error.contains("mine.zip holds no .jpg"), "{error}");
        fs::remove_file(&beside).unwrap();
        let error = format!("{:#}", take(&manifest, &from, &to).unwrap_err());
        assert!(error.contains("holds no img_align_celeba.zip"), "{error}");
        assert_eq!(
            fs::read_dir(&to).unwrap().count(),
            2,
            "nothing half-written stays"
        );
    }

    #[test]
    fn what_cannot_be_downloaded_is_asked_of_the_user() {
        let server = TestServer::start();
        let put = |name: &str, content: &[u8]| {
            let resource = Resource {
                content: content.to_vec(),
                ..Resource::default()
            };
            server.put(name, resource);
        };
        let folder = tempfile::tempdir().unwrap();
        let patience = Patience {
            connect: Duration::from_secs(5),
            stall: Duration::from_secs(5),
        };
        let manifest = manifest(server.address());
        let fetch = || download(&manifest, folder.path(), &Client::new(patience));
        put(PHOTOS, b"<html>Quota exceeded</html>");
        put("list.txt", b"a.jpg 0\n");
        let said = fetch().unwrap_err().to_string();
        for part in [
            "MD5 is",
            "https://home.example/",
            "Img/img_align_celeba.zip",
            "--from FOLDER",
        ] {
            assert!(said.contains(part), "{part} in {said}");
        }
        assert!(!said.contains("Anno/list.txt"), "that one is there: {said}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        put(PHOTOS, &photos());
        fetch().unwrap();
        assert_eq!(n_photos(&folder.path().join(PHOTOS)).unwrap(), 1);
    }

    #[test]
    fn the_manifest_of_the_workspace_is_right() {
        let path = Workspace::find().unwrap().datasets().join("celeba.toml");
        let manifest: Manifest = toml::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let names: Vec<_> = manifest
            .files
            .iter()
            .map(|file| file.name.as_str())
            .collect();
        assert_eq!(
            names,
            [PHOTOS, "list_attr_celeba.txt", "list_eval_partition.txt"]
        );
        assert!(manifest.files.iter().all(|file| file.md5.len() == 32));
    }
}
