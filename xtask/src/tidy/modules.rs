//! Which modules of a crate may use which: each may use those before it in the crate's order. Within a folder files may
//! use each other, but without cycles; the folder's own mod.rs, which combines them, is not checked for cycles.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;
use super::source::{Resolver, Source};

/// The modules of a crate, the lowest first: each may use those before it.
pub(super) struct Order {
    pub(super) krate: &'static str,
    pub(super) modules: &'static [&'static str],
    /// Existing uses of a later module, (user, used), which should be removed. No new ones may be added.
    pub(super) upward: &'static [(&'static str, &'static str)],
}

/// The orders of all crates. lib.rs and main.rs may use every module.
pub(super) const ORDERS: &[Order] = &[
    Order {
        krate: "vae-base",
        modules: &[
            "files",
            "small_file",
            "text",
            "dotted",
            "npy",
            "safetensors_header",
            "portion",
            "seed",
            "memory",
            "image_shape",
            "text_spec",
            "melody_spec",
            "item_spec",
            "condition",
            "data_spec",
        ],
        upward: &[],
    },
    Order {
        krate: "vae-torch",
        modules: &[
            "call",
            "cpu",
            "bernoulli",
            "gaussians",
            "convolution",
            "generator",
            "group",
            "kernels",
            "norm_silu",
            "recompute",
        ],
        upward: &[],
    },
    Order {
        krate: "vae-sound",
        modules: &[
            "wav",
            "synth",
            "decode",
            "resample",
            "clip",
            "stft",
            "mel",
            "griffin_lim",
            "log_mel",
        ],
        upward: &[],
    },
    Order {
        krate: "vae-data",
        modules: &[
            "unread_files",
            "bad_files",
            "error",
            "pipeline",
            "hold_out",
            "limits",
            "attributes",
            "binarization",
            "factors",
            "stored",
            "bits",
            "classes",
            "batch",
            "dataset",
            "factor_grid",
            "loader",
            "idx",
            "npz",
            "row_split",
            "array_file",
            "arrays",
            "text",
            "sprites",
            "image_folder",
            "audio_folder",
            "melodies",
            "config",
            "inputs",
            "known",
        ],
        upward: &[],
    },
    Order {
        krate: "vae-model",
        modules: &[
            "error",
            "mode",
            "terms",
            "share",
            "math",
            "support",
            "nn",
            "watch",
            "sums",
            "tensor_file",
            "feature_network",
            "preprocessing",
            "graph",
            "units",
            "condition",
            "network",
            "strips",
            "likelihood",
            "topology",
            "quantizer",
            "posterior",
            "prior",
            "config",
            "weights",
            "import",
            "part",
            "parts",
            "compatibility",
            "drawing",
            "vae",
            "diffusers",
            "sampler",
            "code_use",
            "invert",
            "objective",
            "fine_tuning",
            "objective_compatibility",
            "export",
            "summary",
        ],
        upward: &[],
    },
    Order {
        krate: "vae-run",
        modules: &[
            "error",
            "range",
            "position",
            "latent_use",
            "record",
            "config",
            "options",
            "rollback",
            "progress",
            "summary",
            "checkpoint_folder",
            "run_lock",
            "run_dir",
            "checkpoint",
            "session",
            "samplers",
            "overview",
            "preflight",
            "resume",
        ],
        upward: &[],
    },
    Order {
        krate: "vae-view",
        modules: &[
            "error",
            "texts",
            "ticks",
            "format",
            "file",
            "fonts",
            "recorder",
            "chart",
            "curves",
            "melody",
            "sound",
            "tile",
            "picture",
            "labeled",
            "levels",
            "animation",
            "latent",
            "tensorboard",
        ],
        upward: &[],
    },
    Order {
        krate: "vae-eval",
        modules: &[
            "error",
            "number",
            "images_used",
            "protocol",
            "measure",
            "verdict",
            "report",
            "subject",
            "probe",
            "clustering",
            "aggregate",
            "importance",
            "annealed",
            "probabilistic_pca",
            "features",
            "image_quality",
            "disentanglement",
            "likelihood",
            "pictures",
            "sound",
            "latents",
            "published",
            "figures",
            "html",
        ],
        upward: &[],
    },
    Order {
        krate: "vae-train",
        modules: &[
            "error",
            "full_disk",
            "plateau",
            "totals",
            "precision",
            "skipping",
            "optimizer",
            "ema",
            "player",
            "learner",
            "evaluate",
            "sampler",
            "fit",
            "callback",
            "clock",
            "steps",
            "recovery",
            "saving",
            "trainer",
        ],
        upward: &[],
    },
    Order {
        krate: "vae-cli",
        modules: &[
            "output",
            "signals",
            "device",
            "run_config",
            "arrays",
            "progress",
            "threads",
            "processes",
            "commands",
        ],
        upward: &[],
    },
];

/// Uses of one module by another: (user, used) with the first line of each.
type Edges = BTreeMap<(String, String), (String, usize)>;

pub(super) fn check(sources: &[Source], orders: &[Order]) -> Vec<Finding> {
    let crates: BTreeSet<&str> = sources.iter().map(|source| source.krate.as_str()).collect();
    let mut findings = Vec::new();
    for krate in crates.into_iter().filter(|krate| !krate.is_empty()) {
        let sources: Vec<&Source> = sources.iter().filter(|s| s.krate == krate).collect();
        let folders = edges(&sources);
        for (folder, edges) in &folders {
            if folder.is_empty() {
                findings.extend(match orders.iter().find(|order| order.krate == krate) {
                    Some(order) => check_order(&sources, edges, order),
                    None => vec![Finding::new(
                        &format!("crates/{krate}/src/lib.rs"),
                        0,
                        "xtask/src/tidy/modules.rs has no order of the crate's modules",
                    )],
                });
            } else {
                findings.extend(check_cycles(edges));
            }
        }
    }
    findings
}

/// The uses in each folder between its direct entries. A folder is a module with others below it; the empty path is the
/// whole crate.
fn edges(sources: &[&Source]) -> BTreeMap<Vec<String>, Edges> {
    let resolver = Resolver::new(sources);
    let mut folders: BTreeMap<Vec<String>, Edges> = BTreeMap::from([(Vec::new(), Edges::new())]);
    for source in sources {
        for (path, line) in &source.paths {
            let Some(used) = resolver.owner(path) else {
                continue;
            };
            let n_common = source.module.iter().zip(&used);
            let n_common = n_common.take_while(|(a, b)| a == b).count();
            let (Some(user), Some(used)) = (source.module.get(n_common), used.get(n_common)) else {
                continue; // One contains the other.
            };
            let edges = folders.entry(source.module[..n_common].to_vec());
            edges
                .or_default()
                .entry((user.clone(), used.clone()))
                .or_insert((source.path.clone(), *line));
        }
    }
    folders
}

fn check_order(sources: &[&Source], edges: &Edges, order: &Order) -> Vec<Finding> {
    let place = |module: &str| order.modules.iter().position(|m| *m == module);
    let mut findings = Vec::new();
    let mut there = BTreeSet::new();
    for source in sources {
        let Some(module) = source.module.first() else {
            continue;
        };
        if there.insert(module.as_str()) && place(module).is_none() {
            let problem = format!(
                "the module `{module}` is missing in the order of {}: insert it after the modules it uses and before \
                 those that use it (xtask/src/tidy/modules.rs)",
                order.krate
            );
            findings.push(Finding::new(&source.path, 0, problem));
        }
    }
    let file = format!("crates/{}/src/lib.rs", order.krate);
    for module in order.modules {
        if !there.contains(module) {
            let problem = format!(
                "no module `{module}`, but xtask/src/tidy/modules.rs lists it: remove it there"
            );
            findings.push(Finding::new(&file, 0, problem));
        }
    }
    let mut unneeded: BTreeSet<_> = order.upward.iter().collect();
    for ((user, used), (path, line)) in edges {
        let (Some(at), Some(used_at)) = (place(user), place(used)) else {
            continue;
        };
        let pair = order
            .upward
            .iter()
            .find(|pair| *pair == &(user.as_str(), used.as_str()));
        if used_at < at {
            continue;
        }
        match pair {
            Some(pair) => {
                unneeded.remove(pair);
            }
            None => {
                let allowed = match at {
                    0 => "none".to_owned(),
                    _ => order.modules[..at].join(", "),
                };
                let problem = format!(
                    "`{user}` uses `{used}`, which comes later in the order of {}; allowed are {allowed}",
                    order.krate
                );
                findings.push(Finding::new(path, *line, problem));
            }
        }
    }
    for (user, used) in unneeded {
        let problem = format!(
            "`{user}` no longer uses `{used}`: remove the pair from `upward` in xtask/src/tidy/modules.rs"
        );
        findings.push(Finding::new(&file, 0, problem));
    }
    findings
}

/// A finding for each use that is part of a cycle.
fn check_cycles(edges: &Edges) -> Vec<Finding> {
    let reaches = |from: &str, to: &str| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(module) = next.pop() {
            if module == to {
                return true;
            }
            if seen.insert(module) {
                let users = edges.keys().filter(|(user, _)| user == module);
                next.extend(users.map(|(_, used)| used.as_str()));
            }
        }
        false
    };
    let closing = edges.iter().filter(|((user, used), _)| reaches(used, user));
    closing
        .map(|((user, used), (path, line))| {
            let problem = format!(
                "`{user}` uses `{used}`, which uses `{user}` directly or through others: remove one of the two uses"
            );
            Finding::new(path, *line, problem)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::source::parse;
    use super::super::tests::tree;
    use super::*;

    const ORDER: Order = Order {
        krate: "k",
        modules: &["low", "middle", "high"],
        upward: &[],
    };

    fn problems(files: &[(&str, &str)], order: Order) -> Vec<String> {
        let sources = parse(&tree(files)).unwrap();
        let findings = check(&sources, &[order]);
        findings.iter().map(ToString::to_string).collect()
    }

    const LIB: (&str, &str) = (
        "crates/k/src/lib.rs",
        "mod high; mod low; mod middle;\npub use high::High;\npub use low::{Low, of};\npub use other::Thing;",
    );

    #[test]
    fn downward_uses_are_fine_and_upward_ones_are_not() {
        let low = ("crates/k/src/low.rs", "pub struct Low;");
        let middle = "use crate::{Low, Thing};\nfn f() { crate::low::of() }";
        let high =
            "use super::middle;\npub struct High;\n#[cfg(test)]\nmod tests { use crate::High; }";
        let files = |middle| {
            vec![
                LIB,
                low,
                ("crates/k/src/middle.rs", middle),
                ("crates/k/src/high.rs", high),
            ]
        };
        assert_eq!(problems(&files(middle), ORDER), [""; 0]);
        let found = |line: usize| {
            vec![format!(
                "crates/k/src/middle.rs:{line}: `middle` uses `high`, which comes later in the order of k; allowed are \
                 low"
            )]
        };
        // By its path, through a re-export, by `super`, in a function body and in a macro.
        for (text, line) in [
            ("\nuse crate::high::High;", 2),
            ("use crate::{Low, High};", 1),
            ("use super::high;", 1),
            ("fn f() {\n\n    super::High::new()\n}", 3),
            ("fn f() { println!(\"{}\", crate::high::X) }", 1),
            ("mod inner { use super::super::high::X; }", 1),
        ] {
            assert_eq!(problems(&files(text), ORDER), found(line), "{text}");
        }
    }

    #[test]
    fn the_order_lists_exactly_the_modules() {
        let files = [
            LIB,
            ("crates/k/src/low.rs", ""),
            ("crates/k/src/new/mod.rs", ""),
        ];
        let found = problems(&files, ORDER);
        assert!(found[0].starts_with("crates/k/src/new/mod.rs: the module `new` is missing"));
        assert!(found[1].contains("no module `middle`") && found[2].contains("no module `high`"));
        assert_eq!(found.len(), 3);
        let other = Order {
            krate: "other",
            ..ORDER
        };
        assert!(problems(&[LIB], other)[0].contains("has no order"));
    }

    #[test]
    fn an_unused_exception_is_reported() {
        let order = || Order {
            upward: &[("low", "high")],
            ..ORDER
        };
        let files = |low| {
            vec![
                LIB,
                ("crates/k/src/low.rs", low),
                ("crates/k/src/middle.rs", ""),
                ("crates/k/src/high.rs", ""),
            ]
        };
        assert_eq!(problems(&files("use crate::high::High;"), order()), [""; 0]);
        let found = problems(&files(""), order());
        assert!(
            found[0].contains("`low` no longer uses `high`"),
            "{found:?}"
        );
    }

    #[test]
    fn files_of_a_folder_use_each_other_without_cycles() {
        let order = || Order {
            modules: &["parts"],
            ..ORDER
        };
        let files = |a, b| {
            let parts =
                "mod a; mod b; mod c;\npub use a::A;\npub trait Part {}\nfn build() { b::B }";
            vec![
                ("crates/k/src/lib.rs", "mod parts;"),
                ("crates/k/src/parts/mod.rs", parts),
                ("crates/k/src/parts/a.rs", a),
                ("crates/k/src/parts/b.rs", b),
                ("crates/k/src/parts/c.rs", "use super::b::B;"),
            ]
        };
        // The folder's own file may use its children, and they may use it.
        assert_eq!(
            problems(&files("use super::Part;", "use super::A;"), order()),
            [""; 0]
        );
        let found = problems(&files("\nuse super::c::C;", "use super::A;"), order());
        let files: Vec<&str> = found
            .iter()
            .map(|f| f.split_once(": ").unwrap().0)
            .collect();
        let places = [
            "crates/k/src/parts/a.rs:2",
            "crates/k/src/parts/b.rs:1",
            "crates/k/src/parts/c.rs:1",
        ];
        assert_eq!(files, places);
    }
}
