//! Checks that the code map of ARCHITECTURE.md names exactly the modules of every crate, except `error.rs`, which all
//! have.

use std::collections::{BTreeMap, BTreeSet};

use super::source::Source;
use super::{Finding, Tree};

const FILE: &str = "ARCHITECTURE.md";

pub(super) fn check(tree: &Tree, sources: &[Source]) -> Vec<Finding> {
    let text = tree.get(FILE).map_or("", String::as_str);
    let mut modules: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for source in sources.iter().filter(|source| !source.krate.is_empty()) {
        let modules = modules.entry(&source.krate).or_default();
        modules.extend(source.module.first().map(String::as_str));
    }
    let mut findings = Vec::new();
    for (krate, modules) in modules {
        let start = format!("| `crates/{krate}` |");
        let Some((index, row)) = text
            .lines()
            .enumerate()
            .find(|(_, l)| l.starts_with(&start))
        else {
            findings.push(Finding::new(
                FILE,
                0,
                format!("the code map has no row for crates/{krate}"),
            ));
            continue;
        };
        let quoted: BTreeSet<&str> = row.split('`').skip(1).step_by(2).collect();
        for module in modules.into_iter().filter(|module| *module != "error") {
            let names = [format!("{module}.rs"), format!("{module}/")];
            if !names.iter().any(|name| quoted.contains(&**name)) {
                let problem =
                    format!("the code map's row of {krate} lacks `{module}.rs` or `{module}/`");
                findings.push(Finding::new(FILE, index + 1, problem));
            }
        }
        for name in quoted
            .iter()
            .filter(|name| name.ends_with(".rs") || name.ends_with('/'))
        {
            let of_crate = sources.iter().filter(|source| source.krate == krate);
            let is_there = of_crate.into_iter().any(|source| {
                let inner = source
                    .path
                    .split_once("/src/")
                    .map_or("", |(_, inner)| inner);
                match name.strip_suffix('/') {
                    Some(folder) => inner.split('/').any(|part| part == folder),
                    None => inner.rsplit('/').next() == Some(name),
                }
            });
            if !is_there {
                let problem =
                    format!("the code map's row of {krate} names `{name}`, which does not exist");
                findings.push(Finding::new(FILE, index + 1, problem));
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

    fn problems(row: &str) -> Vec<String> {
        let tree = tree(&[
            (FILE, row),
            ("crates/k/src/lib.rs", "mod a; mod b;"),
            ("crates/k/src/a.rs", ""),
            ("crates/k/src/b/mod.rs", "mod c;"),
            ("crates/k/src/b/c.rs", ""),
        ]);
        let findings = check(&tree, &parse(&tree).unwrap());
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_map_names_exactly_the_modules() {
        assert_eq!(
            problems("| `crates/k` | `a.rs` letters, `b/` more: `c.rs`, `A` |"),
            [""; 0]
        );
        let found = problems("\n| `crates/k` | `a.rs` letters, `d.rs` more |");
        assert_eq!(
            found,
            [
                "ARCHITECTURE.md:2: the code map's row of k lacks `b.rs` or `b/`",
                "ARCHITECTURE.md:2: the code map's row of k names `d.rs`, which does not exist"
            ]
        );
        assert!(problems("")[0].contains("no row for crates/k"));
    }
}
