//! Selects the active mutant, and defines the mutants of operators. `cargo xtask mutants` copies this file into every
//! crate that it changes. Number 0 is the unchanged program.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::{Add, Div, Mul, Neg, Sub};
use std::sync::{Mutex, OnceLock};

use tch::Tensor;

/// Whether the environment variable VAE_MUTANT selects mutant `n`. If VAE_MUTANTS_SEEN is set, appends `n` to that
/// file, to record that the code of mutant `n` is run.
pub fn is(n: u32) -> bool {
    static CHOSEN: OnceLock<u32> = OnceLock::new();
    static SEEN: OnceLock<Option<Mutex<(File, HashSet<u32>)>>> = OnceLock::new();
    let seen = SEEN.get_or_init(|| {
        let path = std::env::var_os("VAE_MUTANTS_SEEN")?;
        let file = OpenOptions::new().create(true).append(true).open(path);
        Some(Mutex::new((file.expect("VAE_MUTANTS_SEEN can be opened"), HashSet::new())))
    });
    if let Some(seen) = seen {
        let (file, known) = &mut *seen.lock().unwrap_or_else(|poison| poison.into_inner());
        if known.insert(n) {
            file.write_all(format!("{n}\n").as_bytes()).expect("VAE_MUTANTS_SEEN can be written");
        }
    }
    let chosen = CHOSEN.get_or_init(|| {
        let text = std::env::var("VAE_MUTANT").unwrap_or_default();
        text.parse().unwrap_or(0)
    });
    *chosen == n
}

pub fn add<A: Add<B, Output = O> + Sub<B, Output = O>, B, O>(n: u32, a: A, b: B) -> O {
    if is(n) { a - b } else { a + b }
}

pub fn sub<A: Add<B, Output = O> + Sub<B, Output = O>, B, O>(n: u32, a: A, b: B) -> O {
    if is(n) { a + b } else { a - b }
}

pub fn mul<A: Mul<B, Output = O> + Div<B, Output = O>, B, O>(n: u32, a: A, b: B) -> O {
    if is(n) { a / b } else { a * b }
}

pub fn div<A: Mul<B, Output = O> + Div<B, Output = O>, B, O>(n: u32, a: A, b: B) -> O {
    if is(n) { a * b } else { a / b }
}

pub fn neg<A: Neg<Output = O>, O: Neg<Output = O>>(n: u32, a: A) -> O {
    if is(n) { -(-a) } else { -a }
}

pub fn lt<A: PartialOrd<B> + ?Sized, B: ?Sized>(n: u32, a: &A, b: &B) -> bool {
    if is(n) { a <= b } else { a < b }
}

pub fn le<A: PartialOrd<B> + ?Sized, B: ?Sized>(n: u32, a: &A, b: &B) -> bool {
    if is(n) { a < b } else { a <= b }
}

pub fn gt<A: PartialOrd<B> + ?Sized, B: ?Sized>(n: u32, a: &A, b: &B) -> bool {
    if is(n) { a >= b } else { a > b }
}

pub fn ge<A: PartialOrd<B> + ?Sized, B: ?Sized>(n: u32, a: &A, b: &B) -> bool {
    if is(n) { a > b } else { a >= b }
}

pub fn eq<A: PartialEq<B> + ?Sized, B: ?Sized>(n: u32, a: &A, b: &B) -> bool {
    (a == b) != is(n)
}

pub fn ne<A: PartialEq<B> + ?Sized, B: ?Sized>(n: u32, a: &A, b: &B) -> bool {
    (a != b) != is(n)
}

pub fn either<T>(n: u32, original: T, mutated: T) -> T {
    if is(n) { mutated } else { original }
}

pub fn double<T: Add<Output = T> + Copy>(n: u32, value: T) -> T {
    if is(n) { value + value } else { value }
}

pub fn flip(n: u32, condition: bool) -> bool {
    condition != is(n)
}

/// Replacements for a method's result that have the type of its receiver.
pub trait Same {
    type Own;
    fn own(&self) -> Self::Own;
}

impl Same for f64 {
    type Own = f64;
    fn own(&self) -> f64 {
        *self
    }
}

impl Same for Tensor {
    type Own = Tensor;
    fn own(&self) -> Tensor {
        self.shallow_clone()
    }
}

impl<T: Same> Same for &T {
    type Own = T::Own;
    fn own(&self) -> T::Own {
        (**self).own()
    }
}

pub fn same<T: Same>(subject: &T) -> T::Own {
    subject.own()
}
