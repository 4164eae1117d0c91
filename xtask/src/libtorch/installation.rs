//! Is a folder a whole libtorch of the right version?

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::VERSION;

const EXTENSION: &str = if cfg!(target_os = "macos") {
    "dylib"
} else {
    "so"
};

/// A libtorch that can be linked: headers and libraries of [`VERSION`].
#[derive(Debug)]
pub(crate) struct Installation {
    /// The folder that holds `include/` and `lib/`, absolute.
    pub(crate) folder: PathBuf,
    /// For example `2.11.0+cpu`.
    pub(crate) version: String,
    /// Whether it holds the CUDA libraries.
    pub(crate) cuda: bool,
}

impl Installation {
    /// Inspect `folder`, by names, sizes and recorded version: a matter of milliseconds.
    ///
    /// # Errors
    /// Names what is missing or of another version.
    pub(crate) fn inspect(folder: &Path) -> Result<Self> {
        let folder =
            fs::canonicalize(folder).with_context(|| format!("no folder {}", folder.display()))?;
        let mut needed = vec![PathBuf::from(
            "include/torch/csrc/api/include/torch/torch.h",
        )];
        needed.extend(["torch", "torch_cpu", "c10"].map(library));
        for file in needed {
            let n_bytes = fs::metadata(folder.join(&file)).map_or(0, |metadata| metadata.len());
            ensure!(
                n_bytes > 0,
                "{} holds no {}",
                folder.display(),
                file.display()
            );
        }
        let version = version_of(&folder)?;
        let release = version.split('+').next().unwrap_or_default();
        ensure!(
            release == VERSION,
            "{} is version {version}, wanted {VERSION}",
            folder.display()
        );
        let cuda = folder.join(library("torch_cuda")).is_file();
        Ok(Self {
            folder,
            version,
            cuda,
        })
    }
}

fn library(name: &str) -> PathBuf {
    PathBuf::from(format!("lib/lib{name}.{EXTENSION}"))
}

/// The version that the folder itself records: archives in `build-version`, the Python package in
/// `version.py`, everything else in a header.
fn version_of(folder: &Path) -> Result<String> {
    let read = |file: &str| fs::read_to_string(folder.join(file)).ok();
    if let Some(version) = read("build-version") {
        return Ok(version.trim().to_owned());
    }
    if let Some(version) = read("version.py").as_deref().and_then(version_in_python) {
        return Ok(version);
    }
    let headers = [
        "include/torch/headeronly/version.h",
        "include/torch/csrc/api/include/torch/version.h",
    ];
    if let Some(version) = headers
        .iter()
        .filter_map(|file| read(file))
        .find_map(|text| version_in_header(&text))
    {
        return Ok(version);
    }
    bail!("{} does not say its version", folder.display())
}

/// From a line like `__version__ = '2.11.0+cpu'`.
fn version_in_python(text: &str) -> Option<String> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("__version__ = "))?;
    Some(value.trim().trim_matches(['\'', '"']).to_owned())
}

/// From three lines like `#define TORCH_VERSION_MAJOR 2`.
fn version_in_header(text: &str) -> Option<String> {
    let number = |part: &str| {
        let prefix = format!("#define TORCH_VERSION_{part} ");
        text.lines()
            .find_map(|line| line.strip_prefix(&prefix)?.trim().parse::<u32>().ok())
    };
    Some(format!(
        "{}.{}.{}",
        number("MAJOR")?,
        number("MINOR")?,
        number("PATCH")?
    ))
}

/// The torch of `python3`, found without importing it (which would take seconds).
///
/// # Errors
/// If there is none, or it is not a complete libtorch of the right version.
pub(crate) fn of_python() -> Result<Installation> {
    let script = "import importlib.util as u; s = u.find_spec('torch'); \
                  print(s.submodule_search_locations[0] if s else '')";
    let output = Command::new("python3")
        .args(["-c", script])
        .output()
        .context("cannot run python3")?;
    ensure!(output.status.success(), "python3 fails to look for torch");
    let folder = String::from_utf8(output.stdout).context("python3's answer is not UTF-8")?;
    let folder = folder.trim();
    ensure!(!folder.is_empty(), "python3 has no torch");
    Installation::inspect(Path::new(folder))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A folder with the names and versions of a libtorch, and nothing behind them.
    pub(crate) fn fake_libtorch(folder: &Path, version: &str) {
        for file in [
            "include/torch/csrc/api/include/torch/torch.h".into(),
            library("torch"),
            library("torch_cpu"),
            library("c10"),
        ] {
            let path = folder.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        fs::write(folder.join("build-version"), format!("{version}\n")).unwrap();
    }

    #[test]
    fn whole_folder_is_accepted_with_its_version() {
        let folder = tempfile::tempdir().unwrap();
        fake_libtorch(folder.path(), "2.11.0+cpu");
        let found = Installation::inspect(folder.path()).unwrap();
        assert_eq!((found.version.as_str(), found.cuda), ("2.11.0+cpu", false));

        fs::write(folder.path().join(library("torch_cuda")), "x").unwrap();
        assert!(Installation::inspect(folder.path()).unwrap().cuda);
    }

    #[test]
    fn missing_empty_or_other_version_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let refusal = || {
            Installation::inspect(folder.path())
                .unwrap_err()
                .to_string()
        };
        assert!(refusal().contains("torch.h"));
        fake_libtorch(folder.path(), "2.10.0");
        assert!(refusal().contains("is version 2.10.0, wanted 2.11.0"));
        fake_libtorch(folder.path(), "2.11.0");
        fs::write(folder.path().join(library("torch_cpu")), "").unwrap();
        assert!(refusal().contains("torch_cpu"));
    }

    #[test]
    fn version_is_read_from_each_kind_of_file() {
        assert_eq!(
            version_in_python("x = 1\n__version__ = '2.11.0+cu130'\n").unwrap(),
            "2.11.0+cu130"
        );
        let header = "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 11\n#define TORCH_VERSION_PATCH 0\n";
        assert_eq!(version_in_header(header).unwrap(), "2.11.0");
        assert_eq!(version_in_header("#define TORCH_VERSION_MAJOR 2\n"), None);
    }
}
