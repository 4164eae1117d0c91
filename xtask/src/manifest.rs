//! Data set manifests, `datasets/NAME.toml`: the files of a data set and where to find them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// A data set: its files and the places to get them from, in the order to try.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// A one-sentence description.
    pub(crate) description: String,
    /// Under which terms it may be used.
    pub(crate) license: String,
    /// Where it is described.
    pub(crate) homepage: String,
    /// Places that hold all files.
    #[serde(rename = "source")]
    pub(crate) sources: Vec<Source>,
    /// The files, named as they are stored, decompressed.
    #[serde(rename = "file")]
    pub(crate) files: Vec<DataFile>,
}

/// One file of a data set.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DataFile {
    /// Name in the data set's folder.
    pub(crate) name: String,
    /// Size, decompressed.
    pub(crate) bytes: u64,
    /// SHA-256 of the decompressed file.
    pub(crate) sha256: Option<String>,
    /// SHA-256 of the gzipped file as its authors publish it.
    pub(crate) gzip_sha256: Option<String>,
}

/// A place that holds the files of a data set.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "SourceEntry")]
pub(crate) enum Source {
    /// A folder on a web server; each file is `base` + name, with `.gz` behind it if `gzip`.
    Web {
        /// Address of the folder, with the final slash.
        base: String,
        /// Whether the files lie there gzipped.
        gzip: bool,
    },
    /// A folder within a package that the npm client can fetch.
    Npm {
        /// `name@version`.
        package: String,
        /// The folder with the files.
        folder: String,
    },
}

/// A `[[source]]` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceEntry {
    url: Option<String>,
    gzip: Option<bool>,
    npm: Option<String>,
    folder: Option<String>,
}

impl TryFrom<SourceEntry> for Source {
    type Error = String;

    fn try_from(entry: SourceEntry) -> Result<Self, String> {
        match entry {
            SourceEntry {
                url: Some(base),
                gzip,
                npm: None,
                folder: None,
            } => {
                if !base.ends_with('/') {
                    return Err(format!(
                        "source url {base:?} must end in a slash: file names are put behind it"
                    ));
                }
                Ok(Self::Web {
                    base,
                    gzip: gzip.unwrap_or(false),
                })
            }
            SourceEntry {
                npm: Some(package),
                folder: Some(folder),
                url: None,
                gzip: None,
            } => Ok(Self::Npm { package, folder }),
            _ => Err(
                "a source is either `url` with an optional `gzip`, or `npm` with `folder`"
                    .to_owned(),
            ),
        }
    }
}

impl Manifest {
    /// Read and check `path`.
    ///
    /// # Errors
    /// Says the file, and the line or the entry that is wrong.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is no data set manifest", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let manifest: Self = toml::from_str(text)?;
        ensure!(!manifest.files.is_empty(), "it lists no file");
        ensure!(!manifest.sources.is_empty(), "it lists no source");
        for file in &manifest.files {
            file.check()
                .with_context(|| format!("file {:?}", file.name))?;
        }
        Ok(manifest)
    }
}

impl DataFile {
    fn check(&self) -> Result<()> {
        let plain = !self.name.is_empty()
            && !self.name.starts_with('.')
            && !self.name.contains(['/', '\\']);
        ensure!(plain, "the name must be a plain file name");
        let sums = [("sha256", &self.sha256), ("gzip_sha256", &self.gzip_sha256)];
        if sums.iter().all(|(_, sum)| sum.is_none()) {
            bail!("neither sha256 nor gzip_sha256 is given: it could not be verified");
        }
        for (key, sum) in sums {
            let hexadecimal = |sum: &str| {
                sum.len() == 64
                    && sum
                        .bytes()
                        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            };
            ensure!(
                sum.as_deref().is_none_or(hexadecimal),
                "{key} must be 64 lower-case hexadecimal digits"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: &str = "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db";

    fn parse(sources_and_files: &str) -> Result<Manifest> {
        let head = "description = \"d\"\nlicense = \"l\"\nhomepage = \"h\"\n";
        Manifest::parse(&format!("{head}{sources_and_files}"))
    }

    fn refusal(sources_and_files: &str) -> String {
        format!("{:#}", parse(sources_and_files).unwrap_err())
    }

    #[test]
    fn both_kinds_of_source_are_read() {
        let file = format!("[[file]]\nname = \"a\"\nbytes = 1\nsha256 = \"{SUM}\"\n");
        let manifest = parse(&format!(
            "[[source]]\nurl = \"https://a.example/\"\ngzip = true\n[[source]]\nnpm = \"p@1\"\nfolder = \"f\"\n{file}"
        ))
        .unwrap();
        let web = Source::Web {
            base: "https://a.example/".into(),
            gzip: true,
        };
        let npm = Source::Npm {
            package: "p@1".into(),
            folder: "f".into(),
        };
        assert_eq!(manifest.sources, [web, npm]);
        assert_eq!(manifest.files[0].sha256.as_deref(), Some(SUM));
    }

    #[test]
    fn what_cannot_be_right_is_refused_with_its_reason() {
        let source = "[[source]]\nurl = \"https://a.example/\"\n";
        let file = format!("[[file]]\nname = \"a\"\nbytes = 1\nsha256 = \"{SUM}\"\n");
        for (text, reason) in [
            (file.clone(), "missing field `source`"),
            (source.to_owned(), "missing field `file`"),
            (
                format!("{source}gzipped = true\n{file}"),
                "unknown field `gzipped`",
            ),
            (
                format!("{source}folder = \"f\"\n{file}"),
                "a source is either",
            ),
            (
                format!("[[source]]\nurl = \"https://a.example\"\n{file}"),
                "must end in a slash",
            ),
            (
                format!("{source}[[file]]\nname = \"a\"\nbytes = 1\n"),
                "neither sha256 nor gzip_sha256",
            ),
            (
                format!("{source}[[file]]\nname = \"a\"\nbytes = 1\nsha256 = \"abc\"\n"),
                "64 lower-case",
            ),
            (
                format!("{source}[[file]]\nname = \"../a\"\nbytes = 1\nsha256 = \"{SUM}\"\n"),
                "plain file name",
            ),
            (
                format!("{source}[[file]]\nname = \"a\"\nbytes = -1\nsha256 = \"{SUM}\"\n"),
                "bytes",
            ),
        ] {
            let refusal = refusal(&text);
            assert!(
                refusal.contains(reason),
                "{refusal:?} does not say {reason:?}"
            );
        }
    }

    #[test]
    fn the_manifests_of_the_workspace_are_right() {
        let datasets = crate::workspace::Workspace::find().unwrap().datasets();
        for name in ["mnist", "fashion-mnist", "kmnist"] {
            let manifest = Manifest::read(&datasets.join(format!("{name}.toml"))).unwrap();
            assert_eq!(manifest.files.len(), 4, "{name}");
            assert_eq!(
                manifest.files.iter().map(|file| file.bytes).sum::<u64>(),
                54_950_048,
                "{name}"
            );
        }
    }
}
