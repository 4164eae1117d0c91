//! The names of checkpoint folders, and writing and deleting them under hidden names, so that no partial folder is
//! ever visible.

use std::fs;
use std::io;
use std::path::Path;

use crate::{Position, RunError};

pub(crate) fn folder_name(position: Position) -> String {
    format!("epoch-{:04}-step-{:08}", position.epochs, position.steps)
}

pub(crate) fn parse_folder_name(name: &str) -> Option<Position> {
    let (epochs, rest) = name.strip_prefix("epoch-")?.split_once("-step-")?;
    let steps = match rest.split_once('-') {
        Some((steps, number)) => {
            number.parse::<u64>().ok()?;
            steps
        }
        None => rest,
    };
    Some(Position {
        epochs: epochs.parse().ok()?,
        steps: steps.parse().ok()?,
    })
}

/// The name of a new checkpoint's folder. A folder for the same position may exist: damaged, or of steps undone by
/// a rollback.
pub(crate) fn free_name(root: &Path, position: Position) -> String {
    let name = folder_name(position);
    let numbered = (2..).map(|i| format!("{name}-{i}"));
    std::iter::once(name.clone())
        .chain(numbered)
        .find(|name| fs::symlink_metadata(root.join(name)).is_err())
        .unwrap_or(name)
}

/// Deletes a checkpoint, which is never visible in part.
pub(crate) fn delete(folder: &Path) -> Result<(), RunError> {
    let (Some(root), Some(name)) = (folder.parent(), folder.file_name()) else {
        return Ok(());
    };
    let removed = root.join(format!(".{}{REMOVED_SUFFIX}", name.to_string_lossy()));
    remove_folder(&removed)?;
    fs::rename(folder, &removed).map_err(RunError::io(folder))?;
    remove_folder(&removed)
}

pub(crate) const PARTIAL_SUFFIX: &str = ".partial";
const REMOVED_SUFFIX: &str = ".removed";

/// Removes what processes left that were killed while they wrote or deleted a checkpoint. Only the process that
/// has the run's lock may call it; `root` is `checkpoints/`. Folders that cannot be removed stay.
pub(crate) fn remove_abandoned(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_ours = [".epoch-", ".last.", ".best."]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        if !is_ours || !(name.ends_with(PARTIAL_SUFFIX) || name.ends_with(REMOVED_SUFFIX)) {
            continue;
        }
        let _ = match entry.file_type() {
            Ok(kind) if kind.is_dir() => fs::remove_dir_all(entry.path()),
            _ => fs::remove_file(entry.path()),
        };
    }
}

pub(crate) fn remove_folder(folder: &Path) -> Result<(), RunError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(RunError::io(folder)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_the_position() {
        let position = Position {
            epochs: 12,
            steps: 123_456_789,
        };
        assert_eq!(parse_folder_name(&folder_name(position)), Some(position));
        let second = folder_name(position) + "-2";
        assert_eq!(parse_folder_name(&second), Some(position));
        for other in [
            "last",
            "best",
            ".epoch-0001-step-00000010.partial",
            "epoch-1",
            "epoch-0001-step-00000010-copy",
        ] {
            assert_eq!(parse_folder_name(other), None);
        }
    }
}
