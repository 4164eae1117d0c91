//! Which crates may depend on which, and which other dependencies they may have, according to their manifests.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::source::Source;
use super::{Finding, Tree};

/// The crates of the workspace in layers (floors), the lowest first. A crate may depend on those of lower floors, but
/// not on those of its own floor. Tests and examples may depend on any.
pub(super) const FLOORS: &[&[&str]] = &[
    &["vae-base"],
    &["vae-sound", "vae-torch"],
    &["vae-data", "vae-model"],
    &["vae-run"],
    &["vae-view"],
    &["vae-eval", "vae-train"],
    &["vae-cli"],
];

/// Crates that build without libtorch: they use no tensors, and depend on no crate that does.
const WITHOUT_TENSORS: &[&str] = &["vae-base", "vae-sound", "xtask"];

pub(super) fn check(tree: &Tree, floors: &[&[&str]]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree {
        let Some(folder) = path.strip_suffix("/Cargo.toml") else {
            continue;
        };
        let name = folder.rsplit('/').next().unwrap_or(folder);
        match text.parse::<Table>() {
            Ok(manifest) => findings.extend(check_manifest(path, name, text, &manifest, floors)),
            Err(error) => findings.push(Finding::new(path, 0, error.message())),
        }
    }
    for name in floors.iter().copied().flatten() {
        let path = format!("crates/{name}/Cargo.toml");
        if !tree.contains_key(&path) {
            let problem = "no such crate, but xtask/src/tidy/crates.rs lists it";
            findings.push(Finding::new(&path, 0, problem));
        }
    }
    findings
}

fn check_manifest(
    path: &str,
    name: &str,
    text: &str,
    manifest: &Table,
    floors: &[&[&str]],
) -> Vec<Finding> {
    let floor_of = |name: &str| floors.iter().position(|floor| floor.contains(&name));
    let is_ours = |name: &str| floor_of(name).is_some() || name.starts_with("vae-");
    let floor = floor_of(name);
    let mut findings = Vec::new();
    if floor.is_none() && name != "xtask" {
        let problem =
            format!("{name} is missing in the list of floors in xtask/src/tidy/crates.rs");
        findings.push(Finding::new(path, 0, problem));
    }
    let below: Vec<&str> = floors[..floor.unwrap_or(0)].concat();
    for table in ["dependencies", "build-dependencies", "dev-dependencies"] {
        let dependencies = manifest.get(table).and_then(Value::as_table);
        for (dependency, value) in dependencies.into_iter().flatten() {
            let line = line_of(text, dependency);
            let mut found = |problem: String| findings.push(Finding::new(path, line, problem));
            if value.get("workspace") != Some(&Value::Boolean(true)) {
                found(format!(
                    "{dependency}: declare the dependency in the workspace's Cargo.toml, and write \
                     `{dependency}.workspace = true` here"
                ));
            }
            let without_tensors = WITHOUT_TENSORS.contains(&name);
            if without_tensors && ["tch", "torch-sys"].contains(&dependency.as_str()) {
                found(format!(
                    "{name} depends on {dependency}, but has to build without libtorch"
                ));
            }
            if table != "dev-dependencies" && is_ours(dependency) && !below.contains(&&**dependency)
            {
                let allowed = match below.is_empty() {
                    true => "none".to_owned(),
                    false => below.join(", "),
                };
                found(format!(
                    "{name} depends on {dependency}, allowed are {allowed}"
                ));
            } else if name == "xtask" && is_ours(dependency) {
                found(format!(
                    "xtask depends on {dependency}, allowed are no crates of the workspace"
                ));
            }
        }
    }
    findings
}

fn line_of(text: &str, dependency: &str) -> usize {
    let is_it = |line: &str| {
        let rest = line.trim_start().strip_prefix(dependency);
        rest.is_some_and(|rest| rest.starts_with([' ', '.', '=']))
    };
    text.lines().position(is_it).map_or(0, |index| index + 1)
}

/// Checks that no source mentions a crate of a higher floor: such a comment belongs there, and would become outdated
/// here.
pub(super) fn check_mentions(sources: &[Source], floors: &[&[&str]]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        let Some(floor) = floors
            .iter()
            .position(|floor| floor.contains(&&*source.krate))
        else {
            continue;
        };
        let above: BTreeSet<&str> = floors[floor + 1..].concat().into_iter().collect();
        for (index, line) in source.text.lines().enumerate() {
            let mentioned = above.iter().find(|name| {
                let is_word = |name: &str| {
                    line.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'))
                        .any(|word| word == name)
                };
                is_word(name) || is_word(&name.replace('-', "_"))
            });
            if let Some(name) = mentioned {
                let problem = format!(
                    "{} mentions {name}, a crate above it: describe what is needed without the name",
                    source.krate
                );
                findings.push(Finding::new(&source.path, index + 1, problem));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::source::parse;
    use super::super::tests::tree;
    use super::*;

    const FLOORS: &[&[&str]] = &[&["vae-base"], &["vae-data", "vae-model"], &["vae-train"]];

    fn problems(train: &str, data: &str, base: &str, xtask: &str) -> Vec<String> {
        let manifest = |dependencies: &str| format!("[dependencies]\n{dependencies}\n");
        let files = [
            ("crates/vae-train/Cargo.toml", manifest(train)),
            ("crates/vae-data/Cargo.toml", manifest(data)),
            (
                "crates/vae-model/Cargo.toml",
                manifest("tch.workspace = true"),
            ),
            ("crates/vae-base/Cargo.toml", manifest(base)),
            ("xtask/Cargo.toml", manifest(xtask)),
        ];
        let files: Vec<(&str, &str)> = files.iter().map(|(p, t)| (*p, t.as_str())).collect();
        let findings = check(&tree(&files), FLOORS);
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_crate_may_depend_only_on_those_below() {
        let below = "vae-data.workspace = true\nvae-base = { workspace = true }";
        assert_eq!(
            problems(
                below,
                "vae-base.workspace = true",
                "",
                "syn.workspace = true"
            ),
            [""; 0]
        );
        let upward = problems(
            "",
            "serde.workspace = true\nvae-train.workspace = true",
            "",
            "",
        );
        assert_eq!(
            upward,
            ["crates/vae-data/Cargo.toml:3: vae-data depends on vae-train, allowed are vae-base"]
        );
        let beside = problems("", "vae-model.workspace = true", "", "");
        assert!(
            beside[0].contains("vae-data depends on vae-model"),
            "{beside:?}"
        );
        let unknown = problems("vae-else.workspace = true", "", "", "");
        assert!(
            unknown[0].contains("vae-train depends on vae-else"),
            "{unknown:?}"
        );
    }

    #[test]
    fn vae_base_and_xtask_have_no_tensors_and_xtask_no_crate() {
        let found = problems("", "", "tch.workspace = true", "");
        assert!(
            found[0].contains("vae-base depends on tch, but has to build without libtorch"),
            "{found:?}"
        );
        let found = problems(
            "",
            "",
            "",
            "torch-sys.workspace = true\nvae-base.workspace = true",
        );
        assert!(found[0].contains("xtask depends on torch-sys"), "{found:?}");
        assert!(found[1].contains("xtask depends on vae-base"), "{found:?}");
    }

    #[test]
    fn dependencies_are_declared_in_the_workspace_and_crates_have_floors() {
        let found = problems("serde = \"1\"", "", "", "");
        assert!(
            found[0].starts_with("crates/vae-train/Cargo.toml:2: serde: declare the dependency in")
        );
        let files = [("crates/vae-new/Cargo.toml", "[dependencies]\n")];
        let found = check(&tree(&files), &[&["vae-base"]]);
        assert!(found[0].to_string().contains("vae-new is missing"));
        assert!(
            found[1]
                .to_string()
                .contains("vae-base/Cargo.toml: no such crate")
        );
    }

    #[test]
    fn no_source_mentions_a_crate_above() {
        let found = |text: &str| {
            let sources = parse(&tree(&[("crates/vae-data/src/a.rs", text)])).unwrap();
            check_mentions(&sources, FLOORS).len()
        };
        assert_eq!(
            found("//! Of vae-base and `vae train`, beside vae-model.\n"),
            0
        );
        assert_eq!(found("//! As vae-train does it.\n"), 1);
        assert_eq!(found("/// See `vae_train::Trainer`.\nfn f() {}\n"), 1);
    }
}
