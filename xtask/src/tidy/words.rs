//! Names that are restricted to few places: those that change the state of the whole process, write to the terminal, or read
//! and write files without the functions of `vae-base`.

use super::Finding;
use super::source::Source;

/// Names, and where they are allowed.
pub(super) struct Rule {
    /// Names as in the code: of macros with a `!`, or the last two parts of a path with `::`.
    names: &'static [&'static str],
    /// The rule, as printed for a violation.
    rule: &'static str,
    /// Exceptions: a file, or a folder with a `/` at the end; the largest number of occurrences; the reason.
    allowed: &'static [(&'static str, usize, &'static str)],
}

/// The rules. They apply to code, not to tests.
pub(super) const RULES: &[Rule] = &[
    Rule {
        names: &["manual_seed"],
        rule: "random numbers are drawn from generators that are passed, never from libtorch's global one",
        allowed: &[],
    },
    Rule {
        names: &["println!", "print!", "eprintln!", "eprint!", "dbg!"],
        rule: "results are printed by vae-cli's output.rs, which does not panic when the pipe is closed",
        allowed: &[],
    },
    Rule {
        names: &[
            "set_num_threads",
            "set_num_interop_threads",
            "keep_freed_blocks",
            "libloading",
        ],
        rule: "only the binary sets the process's threads and allocator and loads CUDA",
        allowed: &[
            ("crates/vae-cli/src/main.rs", 2, "the binary's start"),
            ("crates/vae-cli/src/device.rs", 1, "loads libtorch_cuda.so"),
            ("crates/vae-cli/src/threads.rs", 1, "of the binary"),
            ("crates/vae-base/src/memory.rs", 1, "its definition"),
        ],
    },
    Rule {
        names: &["fs::write", "File::create"],
        rule: "a file must get its name only when it is complete: use vae_base::write_whole, or a temporary folder \
               that is renamed when it is complete",
        allowed: &[
            (
                "crates/vae-base/src/files.rs",
                1,
                "writes to a device or pipe",
            ),
            (
                "crates/vae-run/src/run_dir.rs",
                1,
                "the lock in a folder before it gets its name",
            ),
            (
                "crates/vae-model/src/export/torchscript.rs",
                1,
                "in a temporary folder",
            ),
            (
                "crates/vae-view/src/latent/projector.rs",
                1,
                "in a folder before it gets its name",
            ),
        ],
    },
    Rule {
        names: &["fs::read", "read_to_string"],
        rule: "read files completely only up to a bounded size, and only regular files: use vae_base::read_small",
        allowed: &[
            ("crates/vae-base/src/memory.rs", 1, "/proc"),
            ("crates/vae-cli/src/commands/doctor.rs", 1, "/proc"),
            ("crates/vae-cli/src/threads.rs", 1, "/proc"),
            ("crates/vae-run/src/run_lock.rs", 1, "bounded by `take`"),
            ("crates/vae-model/src/sums.rs", 1, "bounded by `take`"),
            (
                "crates/vae-model/src/export/torchscript.rs",
                1,
                "a file that it has just written",
            ),
            (
                "crates/vae-train/src/callback/tensorboard.rs",
                1,
                "the run's own pictures",
            ),
        ],
    },
];

pub(super) fn check(sources: &[Source], rules: &[Rule]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for rule in rules {
        let mut unneeded: Vec<_> = rule.allowed.iter().collect();
        for source in sources.iter().filter(|source| !source.krate.is_empty()) {
            let found = found(source, rule);
            let allowed = rule
                .allowed
                .iter()
                .find(|(place, ..)| match place.strip_suffix('/') {
                    Some(_) => source.path.starts_with(place),
                    None => source.path == *place,
                });
            let n_allowed = allowed.map_or(0, |&(_, n, _)| n);
            if !found.is_empty() {
                unneeded.retain(|place| Some(*place) != allowed);
            }
            if found.len() > n_allowed {
                let (name, line) = &found[n_allowed];
                findings.push(Finding::new(
                    &source.path,
                    *line,
                    format!("`{name}`: {} (allowed here: {n_allowed})", rule.rule),
                ));
            }
        }
        for (place, ..) in unneeded {
            let problem = format!(
                "no longer contains `{}`: remove it from the list in xtask/src/tidy/words.rs",
                rule.names.join("`, `")
            );
            findings.push(Finding::new(place, 0, problem));
        }
    }
    findings
}

fn found(source: &Source, rule: &Rule) -> Vec<(String, usize)> {
    let names = &source.names;
    let is_at = |index: usize, name: &str| match name.rsplit_once("::") {
        Some((first, last)) => {
            names[index].0 == last
                && index > 0
                && names[index - 1] == (first.to_owned(), names[index].1)
        }
        None => names[index].0 == name,
    };
    let found = (0..names.len()).filter_map(|index| {
        let name = rule.names.iter().find(|name| is_at(index, name))?;
        Some(((*name).to_owned(), names[index].1))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::super::source::parse;
    use super::super::tests::tree;
    use super::*;

    const RULE: Rule = Rule {
        names: &["manual_seed", "println!", "fs::write"],
        rule: "not here",
        allowed: &[("crates/k/src/start.rs", 1, "the start")],
    };

    fn problems(start: &str, other: &str) -> Vec<String> {
        let files = [
            ("crates/k/src/start.rs", start),
            ("crates/k/src/other.rs", other),
        ];
        let findings = check(&parse(&tree(&files)).unwrap(), &[RULE]);
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_name_may_occur_where_it_is_allowed_and_in_tests() {
        let start = "fn main() { tch::manual_seed(1); }";
        let test = "#[cfg(test)]\nmod tests { fn f() { println!(); tch::manual_seed(1) } }";
        assert_eq!(problems(start, test), [""; 0]);
        for (other, found) in [
            (
                "\nfn f() { tch::manual_seed(1) }",
                "other.rs:2: `manual_seed`: not here (allowed here: 0)",
            ),
            ("use tch::manual_seed;", "other.rs:1: `manual_seed`"),
            ("fn f() { println!() }", "other.rs:1: `println!`"),
            (
                "fn f() { vec![0; { println!(); 1 }] }",
                "other.rs:1: `println!`",
            ),
            ("fn f() { std::fs::write(a, b) }", "other.rs:1: `fs::write`"),
        ] {
            let problems = problems(start, other);
            assert!(
                problems.len() == 1 && problems[0].contains(found),
                "{other}: {problems:?}"
            );
        }
        assert_eq!(
            problems(start, "fn f() { file.write(b); my_fs::write(b) }"),
            [""; 0]
        );
        let more = format!("{start} fn g() {{ tch::manual_seed(1) }}");
        assert!(
            problems(&more, "")[0]
                .contains("start.rs:1: `manual_seed`: not here (allowed here: 1)")
        );
    }

    #[test]
    fn an_unused_exception_is_reported() {
        assert!(
            problems("", "")[0]
                .starts_with("crates/k/src/start.rs: no longer contains `manual_seed`")
        );
    }
}
