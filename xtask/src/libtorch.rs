//! `cargo xtask libtorch`: find or fetch libtorch and record where it is.

mod archive;
pub(crate) mod include;
pub(crate) mod installation;
pub(crate) mod nccl;
mod wheels;

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use self::installation::Installation;
use crate::download::{Client, Patience};
use crate::workspace::Workspace;

/// The release that the workspace's version of `tch` is made for.
pub(crate) const VERSION: &str = "2.11.0";

/// Put a libtorch in place and record it for cargo, or find that this is done already.
///
/// # Errors
/// If every source fails: one message with the reason of each and advice.
pub(crate) fn install(workspace: &Workspace, cuda: bool, force: bool) -> Result<()> {
    ensure!(
        cfg!(unix),
        "cargo xtask libtorch knows Linux and macOS; here, unpack libtorch {VERSION} and set LIBTORCH"
    );
    let include = workspace.libtorch_include();
    // A damaged include is rewritten.
    let recorded = include::recorded(&include).unwrap_or_default();
    let suits = |installation: &Installation| !cuda || installation.cuda;
    if !force {
        let exported = exported_by_user(std::env::var_os("LIBTORCH"), recorded.as_deref());
        if let Some((found, how)) = present(workspace, exported, recorded, suits) {
            include::record(&include, &found.folder)?;
            eprintln!(
                "libtorch {}: {} ({how})",
                found.version,
                found.folder.display()
            );
            return Ok(());
        }
    }
    let folder = fetch(workspace, cuda)?;
    let installed = Installation::inspect(&folder)?;
    include::record(&include, &installed.folder)?;
    eprintln!(
        "libtorch {}: {} (ready)",
        installed.version,
        installed.folder.display()
    );
    Ok(())
}

/// Install libtorch unless it is there; prints nothing if it is.
///
/// # Errors
/// As [`install`].
pub(crate) fn ensure_present(workspace: &Workspace) -> Result<()> {
    let include = workspace.libtorch_include();
    let recorded = include::recorded(&include).unwrap_or_default();
    let exported = exported_by_user(std::env::var_os("LIBTORCH"), recorded.as_deref());
    let ready = exported.is_none()
        && recorded.is_some_and(|folder| {
            Installation::inspect(&folder).is_ok() && include::record(&include, &folder).is_ok()
        });
    if ready {
        Ok(())
    } else {
        install(workspace, false, false)
    }
}

/// A whole libtorch that is on this machine already, and how it was found.
fn present(
    workspace: &Workspace,
    exported: Option<PathBuf>,
    recorded: Option<PathBuf>,
    suits: impl Fn(&Installation) -> bool,
) -> Option<(Installation, &'static str)> {
    if let Some(folder) = exported {
        match Installation::inspect(&folder) {
            Ok(found) if suits(&found) => return Some((found, "the variable LIBTORCH")),
            Ok(_) => eprintln!(
                "LIBTORCH is passed over: {} holds no CUDA libraries",
                folder.display()
            ),
            Err(reason) => eprintln!("LIBTORCH is passed over: {reason:#}"),
        }
    }
    let ours = workspace.libtorch();
    let folders = [ours.clone(), ours.join(wheels::CUDA_FOLDER)];
    for folder in recorded.into_iter().chain(folders) {
        if let Ok(found) = Installation::inspect(&folder)
            && suits(&found)
        {
            return Some((found, "nothing to do"));
        }
    }
    let found = installation::of_python().ok().filter(suits)?;
    Some((found, "the torch of python3"))
}

/// LIBTORCH as the user exported it. cargo hands the include's own value to xtask in the same
/// variable, or before there is one the placeholder of `.cargo/no-libtorch.toml`; these do not count.
fn exported_by_user(variable: Option<OsString>, recorded: Option<&Path>) -> Option<PathBuf> {
    let folder = PathBuf::from(variable.filter(|value| !value.is_empty())?);
    let ours = recorded == Some(&*folder) || folder.ends_with("xtask/no-libtorch");
    (!ours).then_some(folder)
}

/// Fetch libtorch into the workspace: the folder to be LIBTORCH.
fn fetch(workspace: &Workspace, cuda: bool) -> Result<PathBuf> {
    let partial = workspace.libtorch_partial();
    let downloads = partial.join("downloads");
    fs::create_dir_all(&downloads)
        .with_context(|| format!("cannot create {}", downloads.display()))?;
    let lock_path = partial.join("lock");
    let lock = File::create(&lock_path)
        .with_context(|| format!("cannot create {}", lock_path.display()))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            bail!("another `cargo xtask libtorch` is at work in this workspace")
        }
        // Some network file systems have no locks; continuing is better than stopping there.
        Err(TryLockError::Error(_)) => {}
    }

    let tree = partial.join("tree");
    let sources: [(&str, &dyn Fn() -> Result<PathBuf>); 2] = [
        ("the official archive", &|| {
            from_official_archive(cuda, &downloads, &tree)?;
            Ok(PathBuf::new())
        }),
        ("the Python wheels", &|| {
            wheels::build(cuda, &downloads, &tree)?;
            Ok(PathBuf::from(if cuda { wheels::CUDA_FOLDER } else { "" }))
        }),
    ];
    let mut failures = Vec::new();
    for (name, source) in sources {
        eprintln!("libtorch {VERSION} from {name}:");
        let outcome = remake(&tree).and_then(|()| source()).and_then(|inner| {
            Installation::inspect(&tree.join(&inner))?;
            Ok(inner)
        });
        match outcome {
            Ok(inner) => {
                move_into_place(&tree, &workspace.libtorch(), &partial)?;
                return Ok(workspace.libtorch().join(inner));
            }
            Err(reason) => {
                eprintln!("  failed: {reason:#}");
                failures.push(format!("  - {name}: {reason:#}"));
            }
        }
    }
    bail!(
        "no source of libtorch {VERSION} worked:\n{}\n\
         What you can do: run this again once the network is there (what has arrived is kept), \
         install pip for python3, or unpack libtorch {VERSION} yourself and set the variable LIBTORCH \
         to its folder (the one with include/ and lib/), then run this again.",
        failures.join("\n")
    )
}

/// Make `folder` anew, empty.
fn remake(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// Rename the finished `tree`, then clear away the old libtorch and the downloads.
fn move_into_place(tree: &Path, libtorch: &Path, partial: &Path) -> Result<()> {
    if libtorch.exists() {
        let old = partial.join("old");
        remake(&old)?;
        fs::rename(libtorch, old.join("libtorch"))
            .with_context(|| format!("cannot move {} away", libtorch.display()))?;
    }
    fs::rename(tree, libtorch).with_context(|| format!("cannot rename {}", tree.display()))?;
    fs::remove_dir_all(partial).with_context(|| format!("cannot remove {}", partial.display()))
}

/// Download the official archive and unpack its headers and libraries.
fn from_official_archive(cuda: bool, downloads: &Path, tree: &Path) -> Result<()> {
    let url = official_url(cuda)?;
    let name = url
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .replace("%2B", "+");
    let path = downloads.join(name);
    if !path.is_file() {
        Client::new(Patience::default())
            .download(&url, &path)
            .with_context(|| url.clone())?;
    }
    let unpacked = archive::extract(&path, tree, in_official_archive);
    if unpacked.is_err() {
        // Damaged: the next call must not stumble over it again.
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    unpacked
}

/// Where a file of the official archive goes; `None` if building and running do not need it.
fn in_official_archive(name: &str) -> Option<PathBuf> {
    let name = name.strip_prefix("libtorch/")?;
    let library = name.starts_with("lib/") && !name.ends_with(".a") && !name.contains("/cmake/");
    let needed = library || name.starts_with("include/") || name == "build-version";
    needed.then(|| PathBuf::from(name))
}

fn official_url(cuda: bool) -> Result<String> {
    let path = match (std::env::consts::OS, std::env::consts::ARCH, cuda) {
        ("linux", "x86_64", false) => format!("cpu/libtorch-shared-with-deps-{VERSION}%2Bcpu.zip"),
        ("linux", "x86_64", true) => {
            format!("cu130/libtorch-shared-with-deps-{VERSION}%2Bcu130.zip")
        }
        ("macos", "aarch64", false) => format!("cpu/libtorch-macos-arm64-{VERSION}.zip"),
        (system, architecture, _) => bail!(
            "there is none for {system} on {architecture}{}",
            if cuda { " with CUDA" } else { "" }
        ),
    };
    Ok(format!("https://download.pytorch.org/libtorch/{path}"))
}

#[cfg(test)]
mod tests {
    use super::installation::tests::fake_libtorch;
    use super::*;

    #[test]
    fn a_finished_tree_replaces_a_broken_libtorch_and_nothing_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(folder.path());
        let partial = workspace.libtorch_partial();
        fake_libtorch(&partial.join("tree"), "2.11.0+cpu");
        fs::create_dir_all(workspace.libtorch().join("broken")).unwrap();

        move_into_place(&partial.join("tree"), &workspace.libtorch(), &partial).unwrap();
        assert!(Installation::inspect(&workspace.libtorch()).is_ok());
        assert!(!workspace.libtorch().join("broken").exists());
        assert!(!partial.exists());
    }

    #[test]
    fn libtorch_of_the_workspace_is_found_when_the_recorded_folder_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(folder.path());
        fake_libtorch(&workspace.libtorch(), "2.11.0+cpu");
        let (found, _) =
            present(&workspace, None, Some("/gone/libtorch".into()), |_| true).unwrap();
        assert_eq!(found.folder, workspace.libtorch().canonicalize().unwrap());
    }

    #[test]
    fn a_good_exported_folder_wins_and_a_bad_one_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(folder.path());
        fake_libtorch(&workspace.libtorch(), "2.11.0+cpu");
        let exported = folder.path().join("mine");
        fake_libtorch(&exported, "2.11.0+cu130");
        let version = || {
            present(&workspace, Some(exported.clone()), None, |_| true)
                .unwrap()
                .0
                .version
        };
        assert_eq!(version(), "2.11.0+cu130");
        fake_libtorch(&exported, "2.5.0");
        assert_eq!(version(), "2.11.0+cpu");
    }

    #[test]
    fn the_includes_own_value_is_not_the_users() {
        let ours = Path::new("/w/libtorch");
        assert_eq!(exported_by_user(None, Some(ours)), None);
        assert_eq!(exported_by_user(Some("".into()), None), None);
        assert_eq!(exported_by_user(Some(ours.into()), Some(ours)), None);
        let placeholder = "/workspace/xtask/no-libtorch";
        assert_eq!(exported_by_user(Some(placeholder.into()), None), None);
        assert_eq!(
            exported_by_user(Some("/mine".into()), Some(ours)),
            Some("/mine".into())
        );
    }

    #[test]
    fn official_archive_gives_headers_libraries_and_version_only() {
        for name in [
            "include/a.h",
            "lib/libc10.so",
            "lib/libgomp-a34b3233.so.1",
            "build-version",
        ] {
            assert_eq!(
                in_official_archive(&format!("libtorch/{name}")),
                Some(PathBuf::from(name))
            );
        }
        for name in [
            "libtorch/lib/libdnnl.a",
            "libtorch/bin/protoc",
            "libtorch/share/cmake/x",
            "other/lib/a.so",
        ] {
            assert_eq!(in_official_archive(name), None);
        }
    }
}
