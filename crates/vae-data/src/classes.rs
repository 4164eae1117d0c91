//! Folders as classes of the files in them.

use std::collections::BTreeSet;

use tch::Tensor;

/// The largest number of classes that folders stand for: more are taken for something else, such as dates.
const MOST_FOLDERS: usize = 1000;

/// First folders that are no classes but parts of a data set, as torchvision's and Keras' readers want them.
const PARTS: [&str; 7] = [
    "train",
    "training",
    "val",
    "valid",
    "validation",
    "test",
    "testing",
];

/// The class of each file.
#[derive(Debug)]
pub(crate) struct Classes {
    /// −1 where it is unknown.
    pub(crate) labels: Vec<i64>,
    /// The names of the classes, where they have some.
    pub(crate) names: Option<Vec<String>>,
}

impl Classes {
    /// The classes of the files at `ids`, i64 `[n]`.
    pub(crate) fn select(&self, ids: &[usize]) -> Tensor {
        Tensor::from_slice(&ids.iter().map(|&i| self.labels[i]).collect::<Vec<_>>())
    }

    /// The folders of these paths as classes, in alphabetical order: the first folder in which the paths differ, below
    /// `train`, `test` and the like. `None` if there are fewer than two or more than 1000 folders, one for each file, or
    /// a file lies beside them.
    pub(crate) fn of_folders(names: &[String]) -> Option<Classes> {
        let mut paths: Vec<&str> = names.iter().map(String::as_str).collect();
        if paths.is_empty() {
            return None;
        }
        loop {
            let split: Vec<(&str, &str)> = paths
                .iter()
                .map(|path| path.split_once('/'))
                .collect::<Option<_>>()?;
            let known: BTreeSet<&str> = split.iter().map(|(folder, _)| *folder).collect();
            let are_parts = known
                .iter()
                .all(|folder| PARTS.contains(&folder.to_ascii_lowercase().as_str()));
            if known.len() == 1 || are_parts {
                paths = split.into_iter().map(|(_, rest)| rest).collect();
                continue;
            }
            let known: Vec<&str> = known.into_iter().collect();
            let label = |(folder, _): &(&str, &str)| {
                known.binary_search(folder).map_or(-1, |class| class as i64)
            };
            let are_classes = known.len() <= MOST_FOLDERS && known.len() < names.len();
            return are_classes.then(|| Classes {
                labels: split.iter().map(label).collect(),
                names: Some(known.iter().map(|&name| name.to_owned()).collect()),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> Option<Classes> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        Classes::of_folders(&names)
    }

    #[test]
    fn folders_are_classes_in_their_order() {
        let classes = of(&["snare/a.wav", "kick/b.wav", "kick/x/c.wav"]).unwrap();
        assert_eq!(classes.labels, [1, 0, 0]);
        assert_eq!(classes.names.unwrap(), ["kick", "snare"]);
        assert!(of(&["kick/a.wav", "b.wav"]).is_none());
        assert!(of(&["kick/a.wav", "kick/b.wav"]).is_none());
        assert!(
            of(&["kick/a.wav", "snare/b.wav"]).is_none(),
            "a folder for each file"
        );
        assert!(of(&[]).is_none());
    }

    #[test]
    fn a_folder_of_all_and_those_of_splits_are_no_classes() {
        let classes = of(&["all/cat/1.jpg", "all/dog/2.jpg", "all/cat/3.jpg"]).unwrap();
        assert_eq!(classes.labels, [0, 1, 0]);
        let classes = of(&["train/cat/1.jpg", "test/dog/2.jpg", "Val/cat/3.jpg"]).unwrap();
        assert_eq!(classes.labels, [0, 1, 0]);
        assert_eq!(classes.names.unwrap(), ["cat", "dog"]);
        assert!(of(&["train/1.jpg", "test/2.jpg", "train/3.jpg"]).is_none());
    }
}
