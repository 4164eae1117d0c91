//! The types of numbers in files of arrays.

use safetensors::Dtype;

/// The type of a number in a file. In memory all are little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Number {
    /// One byte, 0 or 1.
    Bool,
    /// 8 bits, unsigned.
    U8,
    /// 8 bits, signed.
    I8,
    /// 16 bits, unsigned.
    U16,
    /// 16 bits, signed.
    I16,
    /// 32 bits, unsigned.
    U32,
    /// 32 bits, signed.
    I32,
    /// 64 bits, unsigned.
    U64,
    /// 64 bits, signed.
    I64,
    /// bfloat16: the upper half of an F32.
    BF16,
    /// IEEE 754 binary16.
    F16,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
}

/// Each type with NumPy's code (without the byte order) and its usual name.
const NAMES: [(Number, &str, &str); 13] = [
    (Number::Bool, "b1", "bool"),
    (Number::U8, "u1", "uint8"),
    (Number::I8, "i1", "int8"),
    (Number::U16, "u2", "uint16"),
    (Number::I16, "i2", "int16"),
    (Number::U32, "u4", "uint32"),
    (Number::I32, "i4", "int32"),
    (Number::U64, "u8", "uint64"),
    (Number::I64, "i8", "int64"),
    // NumPy itself does not have it.
    (Number::BF16, "", "bfloat16"),
    (Number::F16, "f2", "float16"),
    (Number::F32, "f4", "float32"),
    (Number::F64, "f8", "float64"),
];

impl Number {
    /// Bytes per number.
    #[must_use]
    pub fn n_bytes(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::BF16 | Self::F16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// NumPy's name, for example `float32`.
    #[must_use]
    pub fn name(self) -> &'static str {
        let mut names = NAMES.iter().filter(|(number, ..)| *number == self);
        names.next().map_or("", |(.., name)| name)
    }

    /// Whether it is the type of pixels.
    #[must_use]
    pub fn is_byte(self) -> bool {
        self == Self::U8
    }

    /// Parses NumPy's `descr`, such as `<f4`; also returns whether the bytes are in big-endian order.
    pub(crate) fn of_numpy(descr: &str) -> Option<(Self, bool)> {
        let kind = descr.strip_prefix(['<', '>', '|', '='])?;
        let mut known = NAMES.iter().filter(|(_, name, _)| *name == kind);
        let (number, ..) = known.next().filter(|_| !kind.is_empty())?;
        Some((*number, descr.starts_with('>')))
    }

    pub(crate) fn of_safetensors(dtype: Dtype) -> Option<Self> {
        Some(match dtype {
            Dtype::BOOL => Self::Bool,
            Dtype::U8 => Self::U8,
            Dtype::I8 => Self::I8,
            Dtype::U16 => Self::U16,
            Dtype::I16 => Self::I16,
            Dtype::U32 => Self::U32,
            Dtype::I32 => Self::I32,
            Dtype::U64 => Self::U64,
            Dtype::I64 => Self::I64,
            Dtype::BF16 => Self::BF16,
            Dtype::F16 => Self::F16,
            Dtype::F32 => Self::F32,
            Dtype::F64 => Self::F64,
            _ => return None,
        })
    }

    /// Converts little-endian numbers to the nearest f32; values beyond the range of f32 become infinite.
    #[must_use]
    pub fn to_f32(self, bytes: &[u8]) -> Vec<f32> {
        fn each<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
            bytes.as_chunks().0.iter().copied().map(value).collect()
        }
        match self {
            Self::Bool => each(bytes, |[byte]| f32::from(u8::from(byte != 0))),
            Self::U8 => each(bytes, |[byte]| f32::from(byte)),
            Self::I8 => each(bytes, |bytes| f32::from(i8::from_le_bytes(bytes))),
            Self::U16 => each(bytes, |bytes| f32::from(u16::from_le_bytes(bytes))),
            Self::I16 => each(bytes, |bytes| f32::from(i16::from_le_bytes(bytes))),
            Self::U32 => each(bytes, |bytes| u32::from_le_bytes(bytes) as f32),
            Self::I32 => each(bytes, |bytes| i32::from_le_bytes(bytes) as f32),
            Self::U64 => each(bytes, |bytes| u64::from_le_bytes(bytes) as f32),
            Self::I64 => each(bytes, |bytes| i64::from_le_bytes(bytes) as f32),
            Self::BF16 => each(bytes, |bytes| {
                f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
            }),
            Self::F16 => each(bytes, |bytes| half(u16::from_le_bytes(bytes))),
            Self::F32 => each(bytes, f32::from_le_bytes),
            Self::F64 => each(bytes, |bytes| f64::from_le_bytes(bytes) as f32),
        }
    }

    /// Converts little-endian integers, or floats with integer values, to i64. The error is the first number that is
    /// not an integer, such as NaN.
    pub(crate) fn to_i64(self, bytes: &[u8]) -> Result<Vec<i64>, f64> {
        fn each<const N: usize>(
            bytes: &[u8],
            value: impl Fn([u8; N]) -> Result<i64, f64>,
        ) -> Result<Vec<i64>, f64> {
            bytes.as_chunks().0.iter().copied().map(value).collect()
        }
        let whole = |value: f64| match value.fract() == 0.0 && value.abs() < 2_f64.powi(53) {
            true => Ok(value as i64),
            false => Err(value),
        };
        match self {
            Self::U64 => each(bytes, |bytes| {
                let value = u64::from_le_bytes(bytes);
                i64::try_from(value).map_err(|_| value as f64)
            }),
            Self::I64 => each(bytes, |bytes| Ok(i64::from_le_bytes(bytes))),
            Self::F64 => each(bytes, |bytes| whole(f64::from_le_bytes(bytes))),
            Self::U32 => each(bytes, |bytes| Ok(u32::from_le_bytes(bytes).into())),
            Self::I32 => each(bytes, |bytes| Ok(i32::from_le_bytes(bytes).into())),
            _ => self
                .to_f32(bytes)
                .into_iter()
                .map(|value| whole(value.into()))
                .collect(),
        }
    }
}

/// IEEE 754 binary16.
fn half(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f32::from(bits & 0x3ff));
    sign * match exponent {
        0 => fraction * 2_f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1.0 + fraction / 1024.0) * 2_f32.powi(exponent - 15),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_known_by_numpys_name_and_has_its_value() {
        // 7 or 1 in each type.
        for (descr, bytes, value) in [
            ("|b1", vec![1], 1.0),
            ("|u1", vec![7], 7.0),
            ("|i1", vec![0xf9], -7.0),
            ("<u2", 7_u16.to_le_bytes().to_vec(), 7.0),
            ("<i2", (-7_i16).to_le_bytes().to_vec(), -7.0),
            ("<u4", 7_u32.to_le_bytes().to_vec(), 7.0),
            ("<i4", (-7_i32).to_le_bytes().to_vec(), -7.0),
            ("<u8", 7_u64.to_le_bytes().to_vec(), 7.0),
            ("<i8", (-7_i64).to_le_bytes().to_vec(), -7.0),
            ("<f2", vec![0x00, 0x47], 7.0),
            ("<f4", 7_f32.to_le_bytes().to_vec(), 7.0),
            ("<f8", (-7_f64).to_le_bytes().to_vec(), -7.0),
        ] {
            let (number, is_big_endian) = Number::of_numpy(descr).unwrap();
            assert!(!is_big_endian);
            assert_eq!(number.n_bytes(), bytes.len(), "{descr}");
            assert_eq!(number.to_f32(&bytes), [value], "{descr}");
            assert_eq!(number.to_i64(&bytes), Ok(vec![value as i64]), "{descr}");
        }
        assert_eq!(Number::BF16.to_f32(&[0xe0, 0x40]), [7.0]);
        assert_eq!(Number::of_numpy(">f8"), Some((Number::F64, true)));
        for other in ["<c8", "<U4", "<M8[ns]", "|O", "<", "", "f4"] {
            assert_eq!(Number::of_numpy(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_no_integer_is_named() {
        let bytes = [3.0_f64, 2.5].map(f64::to_le_bytes).concat();
        assert_eq!(Number::F64.to_i64(&bytes), Err(2.5));
        assert!(Number::F32.to_i64(&f32::NAN.to_le_bytes()).is_err());
        assert!(Number::U64.to_i64(&u64::MAX.to_le_bytes()).is_err());
    }

    #[test]
    fn half_precision_is_read() {
        // https://en.wikipedia.org/wiki/Half-precision_floating-point_format, examples.
        for (bits, value) in [
            (0x0001, 0.000_000_059_604_645),
            (0x03ff, 0.000_060_975_55),
            (0x3555, 0.333_251_95),
            (0x3c00, 1.0),
            (0x7bff, 65504.0),
            (0xc000, -2.0),
        ] {
            assert_eq!(half(bits), value, "{bits:04x}");
        }
        assert_eq!(half(0xfc00), f32::NEG_INFINITY);
    }
}
