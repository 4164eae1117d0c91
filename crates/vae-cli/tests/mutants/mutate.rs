//! Damages bytes. The same seed gives the same changes.

/// splitmix64.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below `n`; 0 if `n` is 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        match n {
            0 => 0,
            _ => (self.next() % n as u64) as usize,
        }
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// Replacements for numbers in text.
const TEXT_NUMBERS: [&str; 22] = [
    "0",
    "-1",
    "1",
    "2",
    "255",
    "65536",
    "1048576",
    "2147483647",
    "2147483648",
    "4294967296",
    "9007199254740992",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e308",
    "-1e308",
    "1e-320",
    "nan",
    "inf",
    "true",
    "",
];

/// Replacements for integers in bytes.
const INTEGERS: [u64; 13] = [
    0,
    1,
    7,
    0x7f,
    0xff,
    0xffff,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    u32::MAX as u64,
    1 << 53,
    i64::MAX as u64,
    u64::MAX,
];

/// A damaged copy with one to three changes of bytes, or with one number replaced.
pub(crate) fn mutant(seed: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    if chance.below(3) == 0 {
        let at = chance.below(bytes.len());
        change_number(&mut bytes, at, chance);
        return bytes;
    }
    for _ in 0..=chance.below(3) {
        change(&mut bytes, chance);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, chance: &mut Chance) {
    let n = bytes.len();
    let at = chance.below(n);
    match chance.below(10) {
        0 if n > 0 => bytes[at] ^= 1 << chance.below(8),
        1 if n > 0 => bytes[at] = *chance.one_of(&[0, 1, 0x7f, 0x80, 0xff, b'"', b'-', b'9']),
        2 => bytes.truncate(at),
        3 => {
            let end = n.min(at + 1 + chance.below(16));
            bytes.drain(at..end);
        }
        4 => {
            let end = n.min(at + 1 + chance.below(64));
            let copy = bytes[at..end].to_vec();
            let to = chance.below(n);
            bytes.splice(to..to, copy);
        }
        5 => {
            let noise: Vec<u8> = (0..=chance.below(8)).map(|_| chance.next() as u8).collect();
            bytes.splice(at..at, noise);
        }
        6 => {
            let number = *chance.one_of(&INTEGERS);
            let width = *chance.one_of(&[1, 2, 4, 8]);
            let (big, little) = (number.to_be_bytes(), number.to_le_bytes());
            let number = match chance.below(2) {
                0 => &big[8 - width..],
                _ => &little[..width],
            };
            for (byte, new) in bytes[at..].iter_mut().zip(number) {
                *byte = *new;
            }
        }
        _ => change_number(bytes, at, chance),
    }
}

/// Replaces the next number written in digits, if there is one.
fn change_number(bytes: &mut Vec<u8>, at: usize, chance: &mut Chance) {
    let is_part = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit) else {
        return;
    };
    let start = at + start;
    let length = bytes[start..]
        .iter()
        .take_while(|byte| is_part(byte))
        .count();
    let new = chance.one_of(&TEXT_NUMBERS).bytes();
    bytes.splice(start..start + length, new);
}

/// Sets the length field before a changed safetensors header to its new length, so that readers parse the header.
/// `data` is the length of the tensors after it.
pub(crate) fn with_true_header_length(bytes: &mut [u8], data: usize) {
    if let Some(length) = bytes.len().checked_sub(8 + data) {
        bytes[..8].copy_from_slice(&(length as u64).to_le_bytes());
    }
}
