//! Imports PyTorch weights: maps the names of a `state_dict` to those of a model.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tch::Tensor;

use crate::ModelError;
use crate::tensor_file::OpenTensorFile;
use crate::weights;

/// How the tensors of a PyTorch `state_dict` map to a model's variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateDictMap {
    /// The names here ([`Vae::named_variables`](crate::Vae::named_variables)) by PyTorch's names. Names without an
    /// entry are the same, except for a common prefix. A tensor mapped to `""` is left out.
    pub names: BTreeMap<String, String>,
    /// PyTorch's names of tensors to leave out; `ema.*` matches all names that start with `ema.`.
    pub drop: Vec<String>,
    /// Whether NaN and infinite weights are imported, too. By default they are an error.
    pub allow_non_finite: bool,
}

/// Parts of names that PyTorch's wrappers add: DataParallel, `torch.compile`, FSDP.
const WRAPPERS: [&str; 3] = ["module", "_orig_mod", "_fsdp_wrapped_module"];

/// A counter of batch norms, which no model here has.
const COUNTER: &str = "num_batches_tracked";

impl StateDictMap {
    /// Reads the tensors of a model's `variables` (shapes by name) under the names here. Also returns notes on what was
    /// done to PyTorch's names.
    pub(crate) fn read(
        &self,
        path: &Path,
        variables: &BTreeMap<String, Vec<i64>>,
    ) -> Result<(BTreeMap<String, Tensor>, Vec<String>), ModelError> {
        let mut file = OpenTensorFile::open(path)?;
        let shapes = file.shapes();
        let absent = self.names.keys().find(|&name| !shapes.contains_key(name));
        if let Some(name) = absent {
            let problem = format!("it has no tensor {name}, which the map of names lists");
            return Err(ModelError::weights(path, problem));
        }
        let Resolved { ours, mut notes } = self.resolve(path, shapes.keys(), variables)?;

        let mut found = BTreeMap::new();
        for (theirs, ours) in &ours {
            if found.insert(ours.clone(), shapes[theirs].clone()).is_some() {
                let problem = format!("two tensors are mapped to {ours}; one of them is {theirs}");
                return Err(ModelError::weights(path, problem));
            }
        }
        let theirs: BTreeMap<&String, &String> =
            ours.iter().map(|(theirs, ours)| (ours, theirs)).collect();
        let source = |ours: &str| match theirs.get(&ours.to_owned()) {
            Some(theirs) if *theirs != ours => format!(" (from {theirs})"),
            _ => String::new(),
        };
        weights::check(path, &found, variables, source)
            .map_err(|error| hint(error, &found, variables))?;

        let tensors = file.read(|theirs| ours.contains_key(theirs))?;
        let tensors: BTreeMap<String, Tensor> = tensors
            .into_iter()
            .map(|(theirs, tensor)| (ours[&theirs].clone(), tensor))
            .collect();
        let non_finite = weights::non_finite(&tensors)?;
        if !non_finite.is_empty() {
            let problem = format!("NaN or infinite weights: {}", non_finite.join(", "));
            if !self.allow_non_finite {
                let problem = format!("{problem}; --allow-non-finite imports them as they are");
                return Err(ModelError::weights(path, problem));
            }
            notes.push(problem);
        }
        Ok((tensors, notes))
    }

    /// The names here of all tensors that are not left out.
    fn resolve<'a>(
        &self,
        path: &Path,
        names: impl Iterator<Item = &'a String>,
        variables: &BTreeMap<String, Vec<i64>>,
    ) -> Result<Resolved, ModelError> {
        let is_target = |name: &str| variables.contains_key(name) || self.names.contains_key(name);
        let ours = |name: &str| self.names.get(name).map_or(name, String::as_str).to_owned();
        let mut resolved = BTreeMap::new();
        let mut notes = Vec::new();
        let mut others = Vec::new();
        let mut dropped = Vec::new();
        for name in names {
            if self.names.get(name).is_some_and(String::is_empty)
                || self.drop.iter().any(|pattern| fits(pattern, name))
            {
                dropped.push(name.as_str());
            } else if is_target(name) {
                resolved.insert(name.clone(), ours(name));
            } else if name.rsplit('.').next() != Some(COUNTER) {
                others.push((name, unwrapped(name)));
            }
        }
        // The rest may be the same names with a prefix, such as `model.` of a trainer's module.
        let mut prefixes: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, name) in &others {
            if let Some(prefix) = prefix_of(name, is_target) {
                *prefixes.entry(prefix).or_default() += 1;
            }
        }
        let most = prefixes.values().copied().max().unwrap_or(0);
        let mut common = prefixes.iter().filter(|(_, n)| **n == most);
        let prefix = common.next().map(|(prefix, _)| (*prefix).to_owned());
        if let (Some(prefix), Some((other, _))) = (&prefix, common.next()) {
            return Err(ModelError::weights(
                path,
                format!(
                    "its tensors under `{}` and under `{}` match equally well; leave one out by a line of \
                     the map, drop = [\"{}*\"]",
                    called(prefix),
                    called(other),
                    other
                ),
            ));
        }
        let mut n_stripped = 0;
        for (name, unwrapped) in &others {
            let stripped = prefix
                .as_deref()
                .and_then(|prefix| unwrapped.strip_prefix(prefix))
                .filter(|name| is_target(name));
            if stripped.is_some() && Some(name.as_str()) != stripped {
                n_stripped += 1;
            }
            let name = (*name).clone();
            let ours = stripped.map_or_else(|| name.clone(), ours);
            resolved.insert(name, ours);
        }
        let wrappers: BTreeSet<&str> = others
            .iter()
            .flat_map(|(name, _)| name.split('.'))
            .filter(|part| WRAPPERS.contains(part))
            .collect();
        if n_stripped > 0 {
            let parts = prefix.iter().filter(|prefix| !prefix.is_empty());
            let parts: Vec<String> = parts
                .cloned()
                .chain(wrappers.iter().map(|wrapper| format!("{wrapper}.")))
                .collect();
            notes.push(format!(
                "removed `{}` from {n_stripped} names",
                parts.join("`, `")
            ));
        }
        if !dropped.is_empty() {
            notes.push(format!("left out as in the map: {}", dropped.join(", ")));
        }
        Ok(Resolved {
            ours: resolved,
            notes,
        })
    }
}

struct Resolved {
    /// The names here by PyTorch's names.
    ours: BTreeMap<String, String>,
    /// Notes for the user on what was done.
    notes: Vec<String>,
}

/// Whether a name matches a pattern, which may end in `*`.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

/// A name without the parts added by wrappers.
fn unwrapped(name: &str) -> String {
    let parts = name.split('.').filter(|part| !WRAPPERS.contains(part));
    parts.collect::<Vec<_>>().join(".")
}

/// The shortest prefix, empty or ending in a dot, whose removal gives a target.
fn prefix_of(name: &str, is_target: impl Fn(&str) -> bool) -> Option<&str> {
    let ends = name.match_indices('.').map(|(dot, _)| dot + 1);
    let mut starts = std::iter::once(0).chain(ends);
    starts
        .find(|&start| is_target(&name[start..]))
        .map(|start| &name[..start])
}

fn called(prefix: &str) -> &str {
    if prefix.is_empty() {
        "no prefix"
    } else {
        prefix
    }
}

/// Adds a hint for the map if names do not match.
fn hint(
    error: ModelError,
    found: &BTreeMap<String, Vec<i64>>,
    wanted: &BTreeMap<String, Vec<i64>>,
) -> ModelError {
    let ModelError::Weights { path, problem } = error else {
        return error;
    };
    let left_over = found.keys().find(|&name| !wanted.contains_key(name));
    let missing = wanted.keys().find(|&name| !found.contains_key(name));
    let advice = match (left_over, missing) {
        (Some(theirs), Some(_)) => format!(
            "; a line of the map gives a tensor its name here: \"{theirs}\" = \"NAME\" \
             (--print-map lists the names here), \"{theirs}\" = \"\" leaves it out"
        ),
        (Some(theirs), None) => {
            format!("; a line of the map, \"{theirs}\" = \"\", leaves it out")
        }
        _ => String::new(),
    };
    ModelError::weights(path, problem + &advice)
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::write_tensors;

    fn variables() -> BTreeMap<String, Vec<i64>> {
        let named = [("decoder.0.bias", vec![2]), ("encoder.0.bias", vec![3])];
        named.map(|(name, shape)| (name.to_owned(), shape)).into()
    }

    type Read = Result<(BTreeMap<String, Tensor>, Vec<String>), String>;

    /// Reads a file of tensors with these names and lengths.
    fn read(map: &StateDictMap, tensors: &[(&str, i64)]) -> Read {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s.safetensors");
        let tensors: Vec<_> = tensors
            .iter()
            .map(|(name, n)| {
                let tensor = Tensor::arange(*n, (Kind::Float, Device::Cpu));
                ((*name).to_owned(), tensor)
            })
            .collect();
        write_tensors(&path, &tensors, &[]).expect("written");
        map.read(&path, &variables())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn prefixes_and_wrappers_are_taken_off_and_said() {
        for (first, second, said) in [
            (
                "module.decoder.0.bias",
                "module.encoder.0.bias",
                "`module.`",
            ),
            ("model.decoder.0.bias", "model.encoder.0.bias", "`model.`"),
            (
                "_orig_mod.decoder.0.bias",
                "_orig_mod.encoder.0.bias",
                "`_orig_mod.`",
            ),
            (
                "state_dict.decoder.0.bias",
                "state_dict.encoder.0.bias",
                "`state_dict.`",
            ),
            (
                "state_dict.model._orig_mod.decoder.0.bias",
                "state_dict.model._orig_mod.encoder.0.bias",
                "`state_dict.model.`, `_orig_mod.`",
            ),
            (
                "decoder.module.0.bias",
                "encoder.module.0.bias",
                "`module.`",
            ),
        ] {
            let (tensors, notes) =
                read(&StateDictMap::default(), &[(first, 2), (second, 3)]).expect(first);
            assert_eq!(tensors["decoder.0.bias"].size(), [2]);
            assert_eq!(tensors["encoder.0.bias"].size(), [3]);
            assert_eq!(notes, [format!("removed {said} from 2 names")]);
        }
        // The map applies to names with a prefix, too.
        let map = StateDictMap {
            names: [("model.fc.b".into(), "encoder.0.bias".into())].into(),
            ..Default::default()
        };
        let (tensors, _) =
            read(&map, &[("model.decoder.0.bias", 2), ("model.fc.b", 3)]).expect("mapped");
        assert_eq!(tensors["encoder.0.bias"].size(), [3]);
    }

    #[test]
    fn of_two_prefixes_that_fit_none_is_guessed() {
        let both = [
            ("ema.decoder.0.bias", 2),
            ("ema.encoder.0.bias", 3),
            ("net.decoder.0.bias", 2),
            ("net.encoder.0.bias", 3),
        ];
        let message = read(&StateDictMap::default(), &both).expect_err("two");
        assert!(message.contains("drop = [\"net.*\"]"), "{message}");
        let map = StateDictMap {
            drop: vec!["ema.*".into()],
            ..Default::default()
        };
        let (tensors, notes) = read(&map, &both).expect("one");
        assert_eq!(tensors.len(), 2);
        assert_eq!(
            notes,
            [
                "removed `net.` from 2 names",
                "left out as in the map: ema.decoder.0.bias, ema.encoder.0.bias"
            ]
        );
    }

    #[test]
    fn what_is_left_over_can_be_left_out() {
        let tensors = [
            ("decoder.0.bias", 2),
            ("encoder.0.bias", 3),
            ("fc.weight", 4),
        ];
        let message = read(&StateDictMap::default(), &tensors).expect_err("left over");
        assert!(message.contains("fc.weight [4] is unexpected"), "{message}");
        assert!(message.contains("\"fc.weight\" = \"\""), "{message}");
        let maps = [
            StateDictMap {
                names: [("fc.weight".to_owned(), String::new())].into(),
                ..Default::default()
            },
            StateDictMap {
                drop: vec!["fc.weight".to_owned()],
                ..Default::default()
            },
        ];
        for map in maps {
            let (read, notes) = read(&map, &tensors).expect("left out");
            assert_eq!(read.len(), 2);
            assert_eq!(notes, ["left out as in the map: fc.weight"]);
        }
    }

    #[test]
    fn non_finite_weights_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s.safetensors");
        let tensors = [
            ("decoder.0.bias", Tensor::from_slice(&[f32::NAN, 1.0])),
            (
                "encoder.0.bias",
                Tensor::from_slice(&[f32::INFINITY, f32::NEG_INFINITY, 0.0]),
            ),
        ]
        .map(|(name, tensor)| (name.to_owned(), tensor));
        write_tensors(&path, &tensors, &[]).expect("written");
        let mut map = StateDictMap::default();
        let wanted = "NaN or infinite weights: decoder.0.bias (1 of 2), encoder.0.bias (2 of 3)";
        let message = map.read(&path, &variables()).expect_err("NaN").to_string();
        assert!(message.contains(wanted), "{message}");
        map.allow_non_finite = true;
        let (_, notes) = map.read(&path, &variables()).expect("allowed");
        assert_eq!(notes, [wanted]);
    }
}
