//! The places where a source file can be changed, and the changes.

use std::ops::Range;

use anyhow::{Context, Result};
use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{BinOp, Expr, Item, Lit, Member, Pat, ReturnType, Stmt, UnOp};

/// The path of [`switch.rs`](super) in the changed crates.
const SWITCH: &str = "crate::mutant_switch";

/// One expression or statement that can be changed.
#[derive(Debug)]
pub(super) struct Site {
    /// The bytes of the file that are replaced.
    range: Range<usize>,
    /// The replacement.
    template: Vec<Piece>,
    /// Line in the file, from 1.
    pub(super) line: usize,
    /// The function that contains it.
    pub(super) function: String,
    /// The description of the change.
    pub(super) what: String,
}

impl Site {
    /// The key for sorting: by position, with outer sites before the inner ones.
    pub(super) fn place(&self) -> (usize, std::cmp::Reverse<usize>) {
        (self.range.start, std::cmp::Reverse(self.range.end))
    }
}

#[derive(Debug)]
enum Piece {
    Text(String),
    /// The number of the mutant.
    Number,
    Source(Range<usize>),
}

/// All sites of a file, except in tests, constants, macros, and `impl Default`, `Debug` and `Display`.
pub(super) fn find(source: &str) -> Result<Vec<Site>> {
    let file = syn::parse_file(source).context("not a Rust file")?;
    let mut finder = Finder {
        source,
        sites: Vec::new(),
        functions: Vec::new(),
    };
    finder.visit_file(&file);
    let mut sites = finder.sites;
    // The sort is stable: of two sites with equal ranges, the outer one was found first and stays first.
    sites.sort_by_key(Site::place);
    Ok(sites)
}

/// The source with switches at the given sites, each with the number of its mutant, and the ranges of the sites in the
/// result.
pub(super) fn rewrite(source: &str, sites: &[(u32, &Site)]) -> (String, Vec<(u32, Range<usize>)>) {
    let mut writer = Writer {
        source,
        sites,
        out: String::with_capacity(2 * source.len()),
        places: Vec::new(),
    };
    writer.write(0..source.len(), 0);
    (writer.out, writer.places)
}

struct Writer<'a> {
    source: &'a str,
    sites: &'a [(u32, &'a Site)],
    out: String,
    places: Vec<(u32, Range<usize>)>,
}

impl Writer<'_> {
    /// Writes a range of the source with the sites in it. Only sites from index `first` on are considered.
    fn write(&mut self, range: Range<usize>, first: usize) {
        let mut at = range.start;
        let sites = self.sites;
        for (i, (number, site)) in sites.iter().enumerate().skip(first) {
            if site.range.start < at {
                continue; // Within a site that is already written, or before the range.
            }
            if site.range.end > range.end {
                if site.range.start >= range.end {
                    break;
                }
                continue;
            }
            self.out.push_str(&self.source[at..site.range.start]);
            let start = self.out.len();
            for piece in &site.template {
                match piece {
                    Piece::Text(text) => self.out.push_str(text),
                    Piece::Number => self.out.push_str(&number.to_string()),
                    Piece::Source(range) => self.write(range.clone(), i + 1),
                }
            }
            self.places.push((*number, start..self.out.len()));
            at = site.range.end;
        }
        self.out.push_str(&self.source[at..range.end]);
    }
}

struct Finder<'a> {
    source: &'a str,
    sites: Vec<Site>,
    functions: Vec<String>,
}

fn text(text: impl Into<String>) -> Piece {
    Piece::Text(text.into())
}

fn of(node: &impl Spanned) -> Piece {
    Piece::Source(node.span().byte_range())
}

impl Finder<'_> {
    fn shown(&self, range: Range<usize>) -> String {
        let words: Vec<_> = self.source[range].split_whitespace().collect();
        let shown = words.join(" ");
        match shown.char_indices().nth(100) {
            Some((end, _)) => format!("{}…", &shown[..end]),
            None => shown,
        }
    }

    fn add(&mut self, span: Span, template: Vec<Piece>, change: &str) {
        let range = span.byte_range();
        let what = format!("`{}`: {change}", self.shown(range.clone()));
        self.sites.push(Site {
            range,
            template,
            line: span.start().line,
            function: self.functions.join("::"),
            what,
        });
    }

    /// Adds a site that calls one of the switch's functions.
    fn call(&mut self, node: &impl Spanned, function: &str, arguments: Vec<Piece>, change: &str) {
        let mut template = vec![text(format!("{SWITCH}::{function}(")), Piece::Number];
        for argument in arguments {
            template.extend([text(", "), argument]);
        }
        template.push(text(")"));
        self.add(node.span(), template, change);
    }

    /// One of two texts.
    fn choice(
        &mut self,
        node: &impl Spanned,
        mutated: Vec<Piece>,
        original: Vec<Piece>,
        change: &str,
    ) {
        let mut template = vec![
            text(format!("(if {SWITCH}::is(")),
            Piece::Number,
            text(") { "),
        ];
        template.extend(mutated);
        template.push(text(" } else { "));
        template.extend(original);
        template.push(text(" })"));
        self.add(node.span(), template, change);
    }

    fn binary(&mut self, node: &syn::ExprBinary) {
        let (left, right) = (&node.left, &node.right);
        let function = match node.op {
            BinOp::Add(_) => Some(("add", "+ to −")),
            BinOp::Sub(_) => Some(("sub", "− to +")),
            BinOp::Mul(_) => Some(("mul", "* to /")),
            BinOp::Div(_) => Some(("div", "/ to *")),
            _ => None,
        };
        if let Some((function, change)) = function {
            return self.call(node, function, vec![of(left), of(right)], change);
        }
        let comparison = match node.op {
            BinOp::Lt(_) => Some(("lt", "< to <=")),
            BinOp::Le(_) => Some(("le", "<= to <")),
            BinOp::Gt(_) => Some(("gt", "> to >=")),
            BinOp::Ge(_) => Some(("ge", ">= to >")),
            BinOp::Eq(_) => Some(("eq", "== to !=")),
            BinOp::Ne(_) => Some(("ne", "!= to ==")),
            _ => None,
        };
        if let Some((function, change)) = comparison {
            // Comparison operators take references of their operands, so the functions do, too.
            let mut template = vec![text(format!("{SWITCH}::{function}(")), Piece::Number];
            for side in [left, right] {
                template.extend([text(", &("), of(side), text(")")]);
            }
            template.push(text(")"));
            return self.add(node.span(), template, change);
        }
        let (operators, change) = match node.op {
            BinOp::AddAssign(_) => ([" -= ", " += "], "+= to -="),
            BinOp::SubAssign(_) => ([" += ", " -= "], "-= to +="),
            BinOp::MulAssign(_) => ([" /= ", " *= "], "*= to /="),
            BinOp::DivAssign(_) => ([" *= ", " /= "], "/= to *="),
            BinOp::And(_) => ([" || ", " && "], "&& to ||"),
            BinOp::Or(_) => ([" && ", " || "], "|| to &&"),
            _ => return,
        };
        if has_let(left) || has_let(right) {
            return;
        }
        let [mutated, original] =
            operators.map(|operator| vec![of(left), text(operator), of(right)]);
        self.choice(node, mutated, original, change);
    }

    fn literal(&mut self, node: &syn::ExprLit) {
        let mutated = match &node.lit {
            Lit::Float(number) => {
                let value: f64 = number.base10_parse().unwrap_or(0.0);
                let mutated = match value {
                    0.0 => 1.0,
                    0.5 => 1.0,
                    1.0 => 2.0,
                    2.0 => 1.0,
                    other => 2.0 * other,
                };
                format!("{mutated:?}{}", number.suffix())
            }
            Lit::Int(number) => {
                let value: u64 = number.base10_parse().unwrap_or(0);
                format!("{}{}", value + 1, number.suffix())
            }
            Lit::Bool(value) => (!value.value).to_string(),
            _ => return,
        };
        let change = format!("becomes {mutated}");
        self.call(node, "either", vec![of(node), text(mutated)], &change);
    }

    fn method(&mut self, node: &syn::ExprMethodCall) {
        let name = node.method.to_string();
        let mutated = match &name[..] {
            "max" if node.args.len() == 1 => "min",
            "min" if node.args.len() == 1 => "max",
            "clamp_min" => "clamp_max",
            "clamp_max" => "clamp_min",
            "mean" => "sum",
            "mean_dim" => "sum_dim_intlist",
            "sum_dim_intlist" => "mean_dim",
            "sum" if node.turbofish.is_none() && node.args.len() == 1 => "mean",
            "floor" => "ceil",
            "ceil" => "floor",
            "exp" => "square",
            _ => "",
        };
        // Calls that can be removed, because their result has the type of their receiver.
        let dropped = matches!(
            &name[..],
            "abs" | "square" | "sqrt" | "ln" | "log" | "detach" | "reciprocal"
        ) && node.args.is_empty();
        let receiver = vec![
            text("{ let mutant_subject = &("),
            of(&node.receiver),
            text("); "),
        ];
        let called = |name: &str| -> Vec<Piece> {
            let mut pieces = vec![text(format!("mutant_subject.{name}("))];
            for argument in &node.args {
                pieces.extend([of(argument), text(", ")]);
            }
            pieces.push(text(")"));
            pieces
        };
        let (other, change) = match (mutated, dropped) {
            ("", false) => return,
            (_, true) => {
                let unchanged = vec![text(format!("{SWITCH}::same(mutant_subject)"))];
                (unchanged, format!(".{name}() left out"))
            }
            (mutated, false) => (called(mutated), format!(".{name} to .{mutated}")),
        };
        let mut template = receiver;
        template.extend([
            text(format!("if {SWITCH}::is(")),
            Piece::Number,
            text(") { "),
        ]);
        template.extend(other);
        template.push(text(" } else { "));
        template.extend(called(&name));
        template.push(text(" } }"));
        template.insert(0, text("("));
        template.push(text(")"));
        self.add(node.span(), template, &change);
    }

    /// Swaps the two arguments of a call if they look alike.
    fn swapped(&mut self, node: &impl Spanned, before: Range<usize>, arguments: [&Expr; 2]) {
        if !arguments.iter().all(|argument| is_simple(argument)) {
            return;
        }
        let [first, second] = arguments;
        let call = |one: &Expr, other: &Expr| {
            vec![
                Piece::Source(before.clone()),
                text("("),
                of(one),
                text(", "),
                of(other),
                text(")"),
            ]
        };
        let (mutated, original) = (call(second, first), call(first, second));
        self.choice(node, mutated, original, "arguments change places");
    }

    fn statement(&mut self, node: &Stmt) {
        let may_go = match node {
            Stmt::Expr(expression, Some(_)) => match expression {
                Expr::MethodCall(_) | Expr::Call(_) | Expr::Assign(_) => true,
                Expr::Try(inner) => matches!(*inner.expr, Expr::MethodCall(_) | Expr::Call(_)),
                Expr::Binary(binary) => matches!(
                    binary.op,
                    BinOp::AddAssign(_)
                        | BinOp::SubAssign(_)
                        | BinOp::MulAssign(_)
                        | BinOp::DivAssign(_)
                ),
                _ => false,
            },
            Stmt::Local(local) => matches!(local.pat, Pat::Wild(_)),
            _ => false,
        };
        if may_go {
            let template = vec![
                text(format!("if !{SWITCH}::is(")),
                Piece::Number,
                text(") { "),
                of(node),
                text(" }"),
            ];
            self.add(node.span(), template, "left out");
        }
    }

    fn body(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let ReturnType::Type(_, kind) = &signature.output else {
            return;
        };
        let kind = self.shown(kind.span().byte_range());
        if !matches!(&kind[..], "f64" | "Tensor") || block.stmts.is_empty() {
            return;
        }
        let braces = block.span().byte_range();
        let template = vec![
            text(format!("{{ let result: {kind} = ")),
            Piece::Source(braces),
            text(format!("; if {SWITCH}::is(")),
            Piece::Number,
            text(") { -result } else { result } }"),
        ];
        self.add(block.span(), template, "the result's sign");
        let last = self.sites.len() - 1;
        self.sites[last].what = "the result's sign".to_owned();
    }
}

/// Names, numbers in fields, and references to them.
fn is_simple(expression: &Expr) -> bool {
    match expression {
        Expr::Path(_) => true,
        Expr::Field(field) => is_simple(&field.base),
        Expr::Reference(reference) => is_simple(&reference.expr),
        _ => false,
    }
}

fn has_let(expression: &Expr) -> bool {
    struct Looking(bool);
    impl Visit<'_> for Looking {
        fn visit_expr_let(&mut self, _: &syn::ExprLet) {
            self.0 = true;
        }
    }
    let mut looking = Looking(false);
    looking.visit_expr(expression);
    looking.0
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || (attribute.path().is_ident("cfg")
                && attribute
                    .parse_args::<syn::Ident>()
                    .is_ok_and(|name| name == "test"))
    })
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let skipped = match item {
            Item::Const(_) | Item::Static(_) | Item::Macro(_) => true,
            Item::Mod(module) => is_test(&module.attrs),
            Item::Fn(function) => is_test(&function.attrs) || function.sig.constness.is_some(),
            Item::Impl(block) => block.trait_.as_ref().is_some_and(|(_, path, _)| {
                let name = path
                    .segments
                    .last()
                    .map(|segment| segment.ident.to_string());
                matches!(name.as_deref(), Some("Default" | "Debug" | "Display"))
            }),
            _ => false,
        };
        if !skipped {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_fn(&mut self, node: &'ast syn::ItemFn) {
        self.functions.push(node.sig.ident.to_string());
        self.body(&node.sig, &node.block);
        visit::visit_block(self, &node.block);
        self.functions.pop();
    }

    fn visit_impl_item_const(&mut self, _: &'ast syn::ImplItemConst) {}

    fn visit_impl_item_fn(&mut self, node: &'ast syn::ImplItemFn) {
        if node.sig.constness.is_some() || is_test(&node.attrs) {
            return;
        }
        self.functions.push(node.sig.ident.to_string());
        self.body(&node.sig, &node.block);
        visit::visit_block(self, &node.block);
        self.functions.pop();
    }

    fn visit_type(&mut self, _: &'ast syn::Type) {}
    fn visit_pat(&mut self, _: &'ast Pat) {}
    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}
    fn visit_generic_argument(&mut self, _: &'ast syn::GenericArgument) {}

    fn visit_local(&mut self, node: &'ast syn::Local) {
        if let Some(init) = &node.init {
            self.visit_expr(&init.expr);
            if let Some((_, otherwise)) = &init.diverge {
                self.visit_expr(otherwise);
            }
        }
    }

    fn visit_arm(&mut self, node: &'ast syn::Arm) {
        if let Some((_, guard)) = &node.guard {
            self.visit_expr(guard);
        }
        self.visit_expr(&node.body);
    }

    fn visit_stmt(&mut self, node: &'ast Stmt) {
        self.statement(node);
        visit::visit_stmt(self, node);
    }

    fn visit_expr_repeat(&mut self, node: &'ast syn::ExprRepeat) {
        self.visit_expr(&node.expr);
    }

    fn visit_expr_closure(&mut self, node: &'ast syn::ExprClosure) {
        self.visit_expr(&node.body);
    }

    fn visit_expr_if(&mut self, node: &'ast syn::ExprIf) {
        if !has_let(&node.cond) {
            let condition = &*node.cond;
            self.call(
                condition,
                "flip",
                vec![of(condition)],
                "the condition turned round",
            );
        }
        visit::visit_expr_if(self, node);
    }

    fn visit_expr_binary(&mut self, node: &'ast syn::ExprBinary) {
        self.binary(node);
        visit::visit_expr_binary(self, node);
    }

    fn visit_expr_unary(&mut self, node: &'ast syn::ExprUnary) {
        if let UnOp::Neg(_) = node.op {
            if let Expr::Lit(literal) = &*node.expr {
                let arguments = vec![of(node), of(literal)];
                return self.call(node, "either", arguments, "the sign");
            }
            self.call(node, "neg", vec![of(&node.expr)], "the sign");
        }
        visit::visit_expr_unary(self, node);
    }

    fn visit_expr_lit(&mut self, node: &'ast syn::ExprLit) {
        self.literal(node);
    }

    fn visit_expr_path(&mut self, node: &'ast syn::ExprPath) {
        let shown = self.shown(node.span().byte_range());
        let (mutated, change) = match &shown[..] {
            "Mode::Train" => ("Mode::Evaluate", "the other mode"),
            "Mode::Evaluate" => ("Mode::Train", "the other mode"),
            name => {
                let is_constant = name.len() > 1
                    && !name.contains(':')
                    && name
                        .chars()
                        .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
                if is_constant {
                    self.call(node, "double", vec![of(node)], "doubled");
                }
                return;
            }
        };
        self.call(node, "either", vec![of(node), text(mutated)], change);
    }

    fn visit_expr_field(&mut self, node: &'ast syn::ExprField) {
        if let Member::Named(name) = &node.member {
            let other = match &name.to_string()[..] {
                "train" => "test",
                "test" => "train",
                "alpha" => "gamma",
                "gamma" => "alpha",
                _ => return visit::visit_expr_field(self, node),
            };
            let field = |name: &str| vec![text("&"), of(&node.base), text(format!(".{name}"))];
            let (mutated, original) = (field(other), field(&name.to_string()));
            self.choice(node, mutated, original, &format!("the field {other}"));
            let last = self.sites.len() - 1;
            self.sites[last].template.insert(0, text("(*"));
            self.sites[last].template.push(text(")"));
        }
        visit::visit_expr_field(self, node);
    }

    fn visit_expr_call(&mut self, node: &'ast syn::ExprCall) {
        if let [first, second] = &node.args.iter().collect::<Vec<_>>()[..] {
            self.swapped(node, node.func.span().byte_range(), [first, second]);
        }
        // The path of a call is a function.
        if !matches!(*node.func, Expr::Path(_)) {
            self.visit_expr(&node.func);
        }
        node.args
            .iter()
            .for_each(|argument| self.visit_expr(argument));
    }

    fn visit_expr_method_call(&mut self, node: &'ast syn::ExprMethodCall) {
        self.method(node);
        if let [first, second] = &node.args.iter().collect::<Vec<_>>()[..] {
            let begin = node.span().byte_range().start;
            self.swapped(
                node,
                begin..node.method.span().byte_range().end,
                [first, second],
            );
        }
        self.visit_expr(&node.receiver);
        node.args
            .iter()
            .for_each(|argument| self.visit_expr(argument));
    }

    fn visit_macro(&mut self, _: &'ast syn::Macro) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "
        const LIMIT: f64 = 0.5;
        fn loss(a: f64, b: f64) -> f64 {
            log(a);
            if a < b && b > LIMIT {
                return (a - 2.0 * b).max(-1.0);
            }
            a.abs()
        }
        #[cfg(test)]
        mod tests {
            fn of_a_test() -> f64 { 1.0 + 2.0 }
        }
    ";

    #[test]
    fn every_kind_of_change_is_found_outside_of_constants_and_tests() {
        let sites = find(SOURCE).expect("Rust");
        let found: Vec<&str> = sites.iter().map(|site| &site.what[..]).collect();
        assert_eq!(
            found,
            [
                "the result's sign",
                "`log(a);`: left out",
                "`a < b && b > LIMIT`: the condition turned round",
                "`a < b && b > LIMIT`: && to ||",
                "`a < b`: < to <=",
                "`b > LIMIT`: > to >=",
                "`LIMIT`: doubled",
                "`(a - 2.0 * b).max(-1.0)`: .max to .min",
                "`a - 2.0 * b`: − to +",
                "`2.0 * b`: * to /",
                "`2.0`: becomes 1.0",
                "`-1.0`: the sign",
                "`a.abs()`: .abs() left out",
            ]
        );
        assert!(sites.iter().all(|site| site.function == "loss"));
        assert_eq!(sites[4].line, 5);
    }

    #[test]
    fn one_inside_another_has_its_switch_in_both_of_its_places() {
        let sites = find(SOURCE).expect("Rust");
        let numbered = |wanted: &[&str]| -> Vec<(u32, &Site)> {
            let chosen = sites.iter().filter(|site| wanted.contains(&&site.what[..]));
            (1..).zip(chosen).collect()
        };
        assert_eq!(rewrite(SOURCE, &[]).0, SOURCE);
        let chosen = numbered(&["`a < b && b > LIMIT`: && to ||", "`b > LIMIT`: > to >="]);
        let (text, places) = rewrite(SOURCE, &chosen);
        let wanted = "if (if crate::mutant_switch::is(1) { \
             a < b || crate::mutant_switch::gt(2, &(b), &(LIMIT)) } else { \
             a < b && crate::mutant_switch::gt(2, &(b), &(LIMIT)) }) {";
        let wanted: Vec<_> = wanted.split_whitespace().collect();
        let found: Vec<_> = text.split_whitespace().collect();
        assert!(
            found.windows(wanted.len()).any(|words| words == wanted),
            "{text}"
        );
        let numbers: Vec<u32> = places.iter().map(|place| place.0).collect();
        assert_eq!(numbers, [2, 2, 1]);
        for (number, place) in places {
            let function = [
                "",
                "(if crate::mutant_switch::is(1)",
                "crate::mutant_switch::gt(2",
            ];
            assert!(text[place].starts_with(function[number as usize]));
        }
        syn::parse_file(&text).expect("Rust");
    }
}
