//! `cargo xtask tidy`: the rules of ARCHITECTURE.md that a program can check.
//!
//! Each rule is a function from the texts of the workspace's files to findings. What a rule allows is a table in its
//! own module. Its tests need no files on disk.

mod crates;
mod map;
mod modules;
mod source;
mod words;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// The text files that the rules check, by their paths from the root, with `/` between folders.
type Tree = BTreeMap<String, String>;

/// A broken rule.
#[derive(Debug, PartialEq)]
struct Finding {
    file: String,
    /// The line, or 0 if the finding is not about a line.
    line: usize,
    /// What was found and what is allowed.
    problem: String,
}

impl Finding {
    fn new(file: &str, line: usize, problem: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line,
            problem: problem.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.problem),
            line => write!(f, "{}:{line}: {}", self.file, self.problem),
        }
    }
}

/// Checks every rule and prints the violations.
///
/// # Errors
/// A rule is broken; a file cannot be read or parsed.
pub(crate) fn tidy(workspace: &Workspace) -> Result<()> {
    let tree = read(workspace)?;
    let sources = source::parse(&tree)?;
    let mut findings = crates::check(&tree, crates::FLOORS);
    findings.extend(crates::check_mentions(&sources, crates::FLOORS));
    findings.extend(modules::check(&sources, modules::ORDERS));
    findings.extend(map::check(&tree, &sources));
    findings.extend(words::check(&sources, words::RULES));
    for finding in &findings {
        eprintln!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        n => bail!("tidy: {n} broken rules of ARCHITECTURE.md, listed above"),
    }
}

fn read(workspace: &Workspace) -> Result<Tree> {
    let root = workspace.root();
    let mut tree = Tree::new();
    for path in ["ARCHITECTURE.md", "Cargo.toml", "xtask/Cargo.toml"] {
        insert(&mut tree, root, &root.join(path))?;
    }
    let crates = root.join("crates");
    for entry in fs::read_dir(&crates).with_context(|| crates.display().to_string())? {
        let folder = entry?.path();
        let manifest = folder.join("Cargo.toml");
        if manifest.is_file() {
            insert(&mut tree, root, &manifest)?;
            insert_folder(&mut tree, root, &folder.join("src"))?;
        }
    }
    Ok(tree)
}

fn insert(tree: &mut Tree, root: &Path, path: &Path) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let name = path.strip_prefix(root).unwrap_or(path);
    tree.insert(name.to_string_lossy().replace('\\', "/"), text);
    Ok(())
}

fn insert_folder(tree: &mut Tree, root: &Path, folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            insert_folder(tree, root, &path)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            insert(tree, root, &path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files of a test.
    pub(super) fn tree(files: &[(&str, &str)]) -> Tree {
        let owned = |&(path, text): &(&str, &str)| (path.to_owned(), text.to_owned());
        files.iter().map(owned).collect()
    }

    #[test]
    fn the_workspace_is_tidy() {
        let workspace = Workspace::find().unwrap();
        tidy(&workspace).unwrap();
    }

    #[test]
    fn a_finding_names_its_line() {
        let finding = Finding::new("a.rs", 7, "found x, wanted y");
        assert_eq!(finding.to_string(), "a.rs:7: found x, wanted y");
        assert_eq!(Finding::new("a.rs", 0, "x").to_string(), "a.rs: x");
    }
}
