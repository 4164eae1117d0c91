//! Parses the sources for the rules: the names that each module uses, with their lines. Tests are left out.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use proc_macro2::{Span, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree};

use super::Tree;

/// One file of a crate.
pub(super) struct Source {
    /// Its path from the root of the workspace.
    pub(super) path: String,
    /// The name of its crate, for example `vae-run`.
    pub(super) krate: String,
    /// The module of the file: empty for lib.rs and main.rs.
    pub(super) module: Vec<String>,
    /// Paths to items of its own crate, absolute but without `crate`, with their lines.
    pub(super) paths: Vec<(Vec<String>, usize)>,
    /// The meanings of the names that `use` brings into each module of the file.
    imports: BTreeMap<Vec<String>, BTreeMap<String, Import>>,
    /// Every name in the code, with its line. Names of macros end in `!`.
    pub(super) names: Vec<(String, usize)>,
    /// The text, for checks of comments.
    pub(super) text: String,
    /// Submodules in separate files that are compiled for tests only.
    test_modules: Vec<Vec<String>>,
}

/// Parses every Rust file of a tree except those that are compiled for tests only.
///
/// # Errors
/// A file is not valid Rust.
pub(super) fn parse(tree: &Tree) -> Result<Vec<Source>> {
    let files = tree.iter().filter(|(path, _)| path.ends_with(".rs"));
    let sources: Vec<Source> = files
        .map(|(path, text)| source(path, text).with_context(|| path.clone()))
        .collect::<Result<_>>()?;
    let tests: BTreeSet<(String, Vec<String>)> = sources
        .iter()
        .flat_map(|source| {
            let modules = source.test_modules.iter().cloned();
            modules.map(|module| (source.krate.clone(), module))
        })
        .collect();
    let is_test = |source: &Source| {
        let prefixes = (1..=source.module.len()).map(|n| source.module[..n].to_vec());
        prefixes
            .into_iter()
            .any(|module| tests.contains(&(source.krate.clone(), module)))
    };
    Ok(sources
        .into_iter()
        .filter(|source| !is_test(source))
        .collect())
}

fn source(path: &str, text: &str) -> Result<Source> {
    let inner = path.strip_prefix("crates/").unwrap_or(path);
    let (krate, file) = inner.split_once("/src/").unwrap_or(("", inner));
    let mut module: Vec<String> = file
        .trim_end_matches(".rs")
        .split('/')
        .map(str::to_owned)
        .collect();
    let last = module.last().map(String::as_str);
    if last == Some("mod") || module.len() == 1 && matches!(last, Some("lib" | "main")) {
        module.pop();
    }
    let mut reader = Reader {
        inside: module.clone(),
        source: Source {
            path: path.to_owned(),
            krate: krate.to_owned(),
            module,
            paths: Vec::new(),
            imports: BTreeMap::new(),
            names: Vec::new(),
            text: text.to_owned(),
            test_modules: Vec::new(),
        },
    };
    reader.visit_file(&syn::parse_file(text)?);
    Ok(reader.source)
}

/// The meaning of a name that `use` brings into a module.
pub(super) enum Import {
    /// An absolute path in the crate.
    Own(Vec<String>),
    /// A path as written, which begins with a submodule or with another crate.
    BelowOrForeign(Vec<String>),
}

struct Reader {
    /// The module being read, which may be an inline one.
    inside: Vec<String>,
    source: Source,
}

impl Reader {
    /// The absolute path in the crate of a path as written; `None` for another crate or a local name.
    fn absolute(&self, path: &[String]) -> Option<Vec<String>> {
        let mut segments = path.iter().map(String::as_str).peekable();
        let mut module = self.inside.clone();
        match segments.next()? {
            "crate" => module.clear(),
            "self" => {}
            "super" => {
                module.pop();
            }
            _ => return None,
        }
        while segments.peek() == Some(&"super") {
            segments.next();
            module.pop();
        }
        module.extend(segments.map(str::to_owned));
        Some(module)
    }

    fn add_path(&mut self, path: &[String], span: Span) {
        if let Some(path) = self.absolute(path) {
            self.source.paths.push((path, span.start().line));
        }
    }

    fn add_use(&mut self, tree: &UseTree, prefix: &mut Vec<String>) {
        match tree {
            UseTree::Path(path) => {
                let line = path.ident.span().start().line;
                self.source.names.push((path.ident.to_string(), line));
                prefix.push(path.ident.to_string());
                self.add_use(&path.tree, prefix);
                prefix.pop();
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_use(tree, prefix);
                }
            }
            UseTree::Glob(glob) => self.add_path(prefix, glob.star_token.spans[0]),
            UseTree::Name(name) => {
                let ident = name.ident.to_string();
                self.add_name(&ident, &ident, name.ident.span(), prefix);
            }
            UseTree::Rename(rename) => {
                let name = rename.rename.to_string();
                self.add_name(
                    &rename.ident.to_string(),
                    &name,
                    rename.ident.span(),
                    prefix,
                );
            }
        }
    }

    fn add_name(&mut self, ident: &str, name: &str, span: Span, prefix: &[String]) {
        let mut path = prefix.to_vec();
        let mut name = name.to_owned();
        match (ident, prefix.last()) {
            ("self", Some(last)) if name == "self" => name.clone_from(last),
            ("self", _) => {}
            _ => path.push(ident.to_owned()),
        }
        self.source
            .names
            .push((ident.to_owned(), span.start().line));
        self.add_path(&path, span);
        let import = match self.absolute(&path) {
            Some(target) => Import::Own(target),
            None => Import::BelowOrForeign(path),
        };
        let imports = self.source.imports.entry(self.inside.clone());
        imports.or_default().insert(name, import);
    }

    /// Adds the names and paths among the tokens of a macro call, whose arguments are not parsed as syntax.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut i = 0;
        while i < tokens.len() {
            match &tokens[i] {
                TokenTree::Group(group) => self.add_tokens(group.stream()),
                TokenTree::Ident(first) => {
                    let mut path = vec![first.to_string()];
                    let is_colon = |i: usize| matches!(tokens.get(i), Some(TokenTree::Punct(p)) if p.as_char() == ':');
                    while is_colon(i + 1)
                        && is_colon(i + 2)
                        && let Some(TokenTree::Ident(next)) = tokens.get(i + 3)
                    {
                        path.push(next.to_string());
                        i += 3;
                    }
                    let is_macro = matches!(tokens.get(i + 1), Some(TokenTree::Punct(p)) if p.as_char() == '!');
                    let line = first.span().start().line;
                    for (n, name) in path.iter().enumerate() {
                        let bang = if is_macro && n + 1 == path.len() {
                            "!"
                        } else {
                            ""
                        };
                        self.source.names.push((format!("{name}{bang}"), line));
                    }
                    self.add_path(&path, first.span());
                }
                _ => {}
            }
            i += 1;
        }
    }
}

/// Whether an item is compiled for tests only.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg")
                && attribute
                    .parse_args::<syn::Ident>()
                    .is_ok_and(|ident| ident == "test")
    })
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Mod(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            Item::Struct(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Const(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        match item {
            _ if !is_test(attributes) => visit::visit_item(self, item),
            Item::Mod(module) if module.content.is_none() => {
                let name = module.ident.to_string();
                let module = [self.inside.as_slice(), &[name]].concat();
                self.source.test_modules.push(module);
            }
            _ => {}
        }
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if module.content.is_some() {
            self.inside.push(module.ident.to_string());
            visit::visit_item_mod(self, module);
            self.inside.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_use(&item.tree, &mut Vec::new());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if let Some(first) = path.segments.first() {
            self.add_path(&names, first.ident.span());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        if let Some(last) = mac.path.segments.last() {
            let line = last.ident.span().start().line;
            self.source.names.push((format!("{}!", last.ident), line));
        }
        let names: Vec<String> = mac
            .path
            .segments
            .iter()
            .map(|s| s.ident.to_string())
            .collect();
        if let Some(first) = mac.path.segments.first() {
            self.add_path(&names, first.ident.span());
        }
        self.add_tokens(mac.tokens.clone());
    }

    fn visit_attribute(&mut self, _: &'ast Attribute) {}

    fn visit_ident(&mut self, ident: &'ast syn::Ident) {
        let line = ident.span().start().line;
        self.source.names.push((ident.to_string(), line));
    }
}

/// Finds the module of a crate that defines the target of a path, through any `use`.
pub(super) struct Resolver<'a> {
    modules: BTreeSet<&'a [String]>,
    imports: BTreeMap<&'a [String], &'a BTreeMap<String, Import>>,
}

/// The largest number of re-exports that a path is followed through, in case they form a cycle.
const MOST_JUMPS: usize = 16;

impl<'a> Resolver<'a> {
    /// A resolver for the sources of one crate.
    pub(super) fn new(sources: &[&'a Source]) -> Self {
        let modules = sources.iter().map(|source| source.module.as_slice());
        let imports = sources.iter().flat_map(|source| &source.imports);
        Self {
            modules: modules.collect(),
            imports: imports
                .map(|(module, names)| (module.as_slice(), names))
                .collect(),
        }
    }

    /// The module that defines the target of an absolute path; `None` in another crate.
    pub(super) fn owner(&self, path: &[String]) -> Option<Vec<String>> {
        let mut path = path.to_vec();
        for _ in 0..MOST_JUMPS {
            let mut n = 0;
            while n < path.len() && self.modules.contains(&path[..=n]) {
                n += 1;
            }
            let (module, rest) = path.split_at(n);
            let Some((name, rest)) = rest.split_first() else {
                return Some(path);
            };
            path = match self.imports.get(module).and_then(|names| names.get(name)) {
                None => return Some(module.to_vec()), // It is defined there.
                Some(Import::Own(target)) => [target, rest].concat(),
                Some(Import::BelowOrForeign(target)) => {
                    let below = [module, target.as_slice()].concat();
                    if !self.modules.contains(&below[..=n]) {
                        return None;
                    }
                    [below.as_slice(), rest].concat()
                }
            };
        }
        None
    }
}
