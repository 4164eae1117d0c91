//! The kind and shape of the items of a data set.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{ImageShape, MelodySpec, TextSpec};

/// The kind of an item's numbers, and so the element type of tensors of items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ItemKind {
    /// Pixels `[C, H, W]` as u8, 0 is black.
    Image,
    /// Real numbers `[D]`, `[C, T]` or `[C, H, W]` as f32, in the data's own unit.
    Array,
    /// Sound `[C, T]` as i16, with so many samples a second.
    Sound {
        /// Samples a second.
        rate: u32,
    },
    /// Tokens `[T]` as i64, each below the size of the vocabulary.
    Tokens {
        /// How many different tokens there are.
        vocabulary: i64,
        /// The token at the end of an item, which is repeated up to T. Without one all T tokens belong to the item.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        end: Option<i64>,
    },
}

impl ItemKind {
    /// That of texts in this vocabulary.
    #[must_use]
    pub fn of_text(text: &TextSpec) -> Self {
        Self::Tokens {
            vocabulary: text.tokens.len() as i64,
            end: Some(TextSpec::END),
        }
    }

    /// The element type of tensors of such items, as Rust names it.
    #[must_use]
    pub fn element(self) -> &'static str {
        match self {
            Self::Image => "u8",
            Self::Array => "f32",
            Self::Sound { .. } => "i16",
            Self::Tokens { .. } => "i64",
        }
    }
}

/// What an item is: its kind and its shape, and of an array the statistics that standardize it.
///
/// Tensors of items are maps `[B, C, H, W]` for every kind ([`Self::map`]): a series `[C, T]` is a map of one
/// row, a vector `[D]` or a text `[T]` one row of one channel. Only what reads and writes files knows the item's
/// own shape.
///
/// ```
/// use vae_base::{ImageShape, ItemKind, ItemSpec};
///
/// let series = ItemSpec::new(ItemKind::Array, vec![3, 500]);
/// assert_eq!(series.map(), ImageShape { channels: 3, height: 1, width: 500 });
/// assert_eq!(series.to_string(), "3×500");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItemSpec {
    /// What its numbers are.
    pub kind: ItemKind,
    /// The shape of one item.
    pub shape: Vec<i64>,
    /// Mean and standard deviation by which the model standardizes an array.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standardization: Option<Standardization>,
    /// Whether values of an array may be missing (NaN). They are left out of the likelihood.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_missing: bool,
    /// How the sound was transformed whose spectrogram an array `[C, bands, frames]` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spectrogram: Option<Spectrogram>,
    /// What the tokens stand for, if they are text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextSpec>,
    /// What the tokens stand for, if they are melodies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub melody: Option<MelodySpec>,
}

/// The transform of sound to the array `[C, bands, frames]` of its log-mel spectrogram in dB, the lowest band first:
/// 10·log10 of the power of each mel band in the short-time Fourier transform of samples in `[-1, 1]`.
///
/// Frame t is centered at sample t·hop, and there are frames·hop samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spectrogram {
    /// Samples a second.
    pub rate: u32,
    /// Samples of the Hann window and of the Fourier transform.
    pub window: u32,
    /// Samples from one frame to the next.
    pub hop: u32,
    /// Where the lowest band begins, in Hz.
    pub low: f64,
    /// Where the highest band ends, in Hz.
    pub high: f64,
    /// Values below are raised to it, in dB.
    pub floor: f64,
}

impl Spectrogram {
    /// The largest window.
    const LARGEST_WINDOW: u32 = 1 << 15;

    /// What is wrong with it: the name of a field, what was found there and what is needed.
    #[must_use]
    pub fn problem(&self) -> Option<(&'static str, String)> {
        let Self {
            rate,
            window,
            hop,
            low,
            high,
            floor,
        } = *self;
        let nyquist = f64::from(rate) / 2.0;
        let largest = Self::LARGEST_WINDOW;
        if rate == 0 {
            return Some(("rate", "found 0, a positive number is needed".to_owned()));
        }
        if !(16..=largest).contains(&window) || window % 2 == 1 {
            let problem = format!("found {window}, an even number from 16 to {largest} is needed");
            return Some(("window", problem));
        }
        if hop == 0 || hop > window / 2 {
            let most = window / 2;
            let problem = format!("found {hop}, 1 to {most} (half of the window) would fit");
            return Some(("hop", problem));
        }
        if !(low >= 0.0 && low < nyquist) {
            let problem = format!("found {low}, 0 to {nyquist} Hz (half of the rate) would fit");
            return Some(("low", problem));
        }
        if !(high > low && high <= nyquist) {
            let problem = format!(
                "found {high}, more than {low} and at most {nyquist} Hz (half of the rate) would fit"
            );
            return Some(("high", problem));
        }
        let is_floor = floor.is_finite() && (-200.0..=0.0).contains(&floor);
        (!is_floor).then(|| ("floor", format!("found {floor}, -200 to 0 dB is needed")))
    }
}

/// Mean and standard deviation of the training data: of each channel of `[C, T]` or `[C, H, W]`, of each value of
/// `[D]`. A model sees (x − mean) / standard deviation, and what it gives is in the data's own unit again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standardization {
    /// In the data's unit.
    pub mean: Vec<f64>,
    /// In the data's unit, above 0.
    pub std: Vec<f64>,
}

impl ItemSpec {
    /// Items of a kind and shape, as they are: neither standardized nor with missing values.
    #[must_use]
    pub fn new(kind: ItemKind, shape: Vec<i64>) -> Self {
        Self {
            kind,
            shape,
            standardization: None,
            has_missing: false,
            spectrogram: None,
            text: None,
            melody: None,
        }
    }

    /// Melodies on a grid.
    #[must_use]
    pub fn of_melodies(melody: MelodySpec) -> Self {
        let kind = ItemKind::Tokens {
            vocabulary: MelodySpec::VOCABULARY,
            end: None,
        };
        Self {
            melody: Some(melody),
            ..Self::new(kind, vec![melody.n_steps()])
        }
    }

    /// What such items are called, one or several of them.
    #[must_use]
    pub fn noun(&self, n: usize) -> &'static str {
        let [one, several] = match self.kind {
            ItemKind::Image => ["image", "images"],
            ItemKind::Sound { .. } => ["sound", "sounds"],
            ItemKind::Array if self.spectrogram.is_some() => ["sound", "sounds"],
            ItemKind::Array => ["array", "arrays"],
            ItemKind::Tokens { .. } if self.text.is_some() => ["text", "texts"],
            ItemKind::Tokens { .. } if self.melody.is_some() => ["melody", "melodies"],
            ItemKind::Tokens { .. } => ["sequence of tokens", "sequences of tokens"],
        };
        if n == 1 { one } else { several }
    }

    /// Samples a second of sound, or of the sound whose spectrogram it is; `None` of other items.
    #[must_use]
    pub fn rate(&self) -> Option<u32> {
        match (self.kind, &self.spectrogram) {
            (ItemKind::Sound { rate }, _) => Some(rate),
            (_, Some(spectrogram)) => Some(spectrogram.rate),
            _ => None,
        }
    }

    /// Whether it can be heard: sound, spectrograms of it, or melodies.
    #[must_use]
    pub fn has_sound(&self) -> bool {
        self.rate().is_some() || self.melody.is_some()
    }

    /// Whether it can be seen: everything but tokens, and of those melodies.
    #[must_use]
    pub fn has_picture(&self) -> bool {
        !self.is_tokens() || self.melody.is_some()
    }

    /// Whether it is a sequence of tokens.
    #[must_use]
    pub fn is_tokens(&self) -> bool {
        matches!(self.kind, ItemKind::Tokens { .. })
    }

    /// Whether it is an image.
    #[must_use]
    pub fn is_image(&self) -> bool {
        self.kind == ItemKind::Image
    }

    /// The shape that it has in tensors: channels, rows and columns.
    #[must_use]
    pub fn map(&self) -> ImageShape {
        let [channels, height, width] = match self.shape[..] {
            [width] => [1, 1, width],
            [channels, width] => [channels, 1, width],
            [channels, height, width] => [channels, height, width],
            _ => [0, 0, 0], // Refused by `problem`.
        };
        ImageShape {
            channels,
            height,
            width,
        }
    }

    /// The shape of `n` items in files: `[n, D]`, `[n, C, T]` or `[n, C, H, W]`.
    #[must_use]
    pub fn batch_shape(&self, n: i64) -> Vec<i64> {
        [&[n], &self.shape[..]].concat()
    }

    /// Sizes of a tensor that goes with a map `[C, H, W]` and has one number for each mean and standard
    /// deviation: `[C, 1, 1]`, of a vector `[1, 1, D]`.
    #[must_use]
    pub fn statistics_shape(&self) -> [i64; 3] {
        match self.shape[..] {
            [n] => [1, 1, n],
            _ => [self.map().channels, 1, 1],
        }
    }

    /// What is wrong with it: a shape that its kind does not have, or that no memory holds; statistics that do
    /// not go with it.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let (fits, wanted) = match self.kind {
            ItemKind::Image => (self.shape.len() == 3, "[C, H, W]"),
            ItemKind::Array => (
                (1..=3).contains(&self.shape.len()),
                "[D], [C, T] or [C, H, W]",
            ),
            ItemKind::Sound { rate } => (self.shape.len() == 2 && rate > 0, "[C, T] and a rate"),
            ItemKind::Tokens { vocabulary, end } => (
                self.shape.len() == 1
                    && vocabulary > 0
                    && end.is_none_or(|end| (0..vocabulary).contains(&end)),
                "[T] and a vocabulary, the end one of its tokens",
            ),
        };
        if !fits {
            let (kind, shape) = (self.kind, &self.shape);
            return Some(format!(
                "found {kind:?} of shape {shape:?}, {wanted} is needed"
            ));
        }
        if let Some(spectrogram) = &self.spectrogram {
            let (kind, shape) = (self.kind, &self.shape);
            if kind != ItemKind::Array || shape.len() != 3 {
                return Some(format!(
                    "found a spectrogram as {kind:?} of shape {shape:?}, an array [C, bands, frames] is needed"
                ));
            }
            if let Some((name, problem)) = spectrogram.problem() {
                return Some(format!("spectrogram.{name}: {problem}"));
            }
        }
        if let Some(text) = &self.text
            && ItemKind::of_text(text) != self.kind
        {
            return Some(format!(
                "found a vocabulary of {} tokens for items of {:?}, expected one of each token, the first one the end",
                text.tokens.len(),
                self.kind
            ));
        }
        if let Some(melody) = &self.melody {
            if let Some((name, problem)) = melody.problem() {
                return Some(format!("melody.{name}: {problem}"));
            }
            let wanted = Self::of_melodies(*melody);
            if (wanted.kind, &wanted.shape) != (self.kind, &self.shape) {
                return Some(format!(
                    "found melodies of {} steps as {:?} of shape {:?}, expected a token of {} for each step",
                    melody.n_steps(),
                    self.kind,
                    self.shape,
                    MelodySpec::VOCABULARY
                ));
            }
        }
        self.map().problem().or_else(|| {
            let Standardization { mean, std } = self.standardization.as_ref()?;
            let n = self.statistics_shape().iter().product::<i64>() as usize;
            let is_right = [mean, std].iter().all(|numbers| numbers.len() == n)
                && mean.iter().all(|mean| mean.is_finite())
                && std.iter().all(|std| std.is_finite() && *std > 0.0);
            (!is_right).then(|| {
                format!(
                    "found {} means and {} standard deviations, {n} finite ones of each are needed, standard \
                     deviations above 0",
                    mean.len(),
                    std.len()
                )
            })
        })
    }
}

impl From<ImageShape> for ItemSpec {
    fn from(image: ImageShape) -> Self {
        Self::new(ItemKind::Image, image.sides().to_vec())
    }
}

impl fmt::Display for ItemSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sides: Vec<String> = self.shape.iter().map(i64::to_string).collect();
        f.write_str(&sides.join("×"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_shapes() {
        let tokens = |vocabulary, end| ItemKind::Tokens { vocabulary, end };
        let problem = |kind, shape: &[i64]| ItemSpec::new(kind, shape.to_vec()).problem();
        for (kind, shape) in [
            (ItemKind::Image, &[1, 28, 28][..]),
            (ItemKind::Array, &[8]),
            (ItemKind::Array, &[2, 100]),
            (ItemKind::Array, &[2, 10, 12]),
            (ItemKind::Sound { rate: 16_000 }, &[2, 100]),
            (tokens(50, None), &[100]),
            (tokens(50, Some(49)), &[100]),
        ] {
            assert_eq!(problem(kind, shape), None, "{kind:?} {shape:?}");
        }
        for (kind, shape) in [
            (ItemKind::Image, &[28, 28][..]),
            (ItemKind::Array, &[]),
            (ItemKind::Array, &[0]),
            (ItemKind::Array, &[1, 2, 3, 4]),
            (ItemKind::Sound { rate: 0 }, &[2, 100]),
            (ItemKind::Sound { rate: 8_000 }, &[100]),
            (tokens(0, None), &[100]),
            (tokens(9, None), &[1, 100]),
            (tokens(9, Some(9)), &[100]),
        ] {
            assert!(problem(kind, shape).is_some(), "{kind:?} {shape:?}");
        }
    }

    #[test]
    fn a_spectrogram_has_frames_and_bands() {
        let of = |shape: &[i64], hop, high| {
            let spectrogram = Spectrogram {
                rate: 8000,
                window: 512,
                hop,
                low: 0.0,
                high,
                floor: -60.0,
            };
            let spectrogram = Some(spectrogram);
            ItemSpec {
                spectrogram,
                ..ItemSpec::new(ItemKind::Array, shape.to_vec())
            }
        };
        assert_eq!(of(&[1, 64, 32], 128, 4000.0).problem(), None);
        assert_eq!(of(&[1, 64, 32], 128, 4000.0).rate(), Some(8000));
        let problem = |item: ItemSpec| item.problem().unwrap();
        assert!(problem(of(&[64, 32], 128, 4000.0)).contains("[C, bands, frames]"));
        assert!(problem(of(&[1, 64, 32], 512, 4000.0)).starts_with("spectrogram.hop: found 512"));
        assert!(problem(of(&[1, 64, 32], 128, 4001.0)).starts_with("spectrogram.high: found 4001"));
    }

    #[test]
    fn a_melody_has_a_token_for_each_step() {
        let melody = MelodySpec {
            bars: 2,
            steps_per_bar: 16,
            meter: [4, 4],
        };
        let item = ItemSpec::of_melodies(melody);
        assert_eq!((item.problem(), item.noun(2)), (None, "melodies"));
        let shorter = ItemSpec {
            shape: vec![31],
            ..item.clone()
        };
        assert!(shorter.problem().unwrap().contains("melodies of 32 steps"));
        let odd = ItemSpec::of_melodies(MelodySpec {
            meter: [4, 3],
            ..melody
        });
        assert!(
            odd.problem()
                .unwrap()
                .starts_with("melody.meter: found 4/3")
        );
    }

    #[test]
    fn statistics_have_to_go_with_the_items() {
        let spec = |shape: &[i64], std: Vec<f64>| ItemSpec {
            standardization: Some(Standardization {
                mean: vec![0.0; std.len()],
                std,
            }),
            ..ItemSpec::new(ItemKind::Array, shape.to_vec())
        };
        assert_eq!(spec(&[3], vec![1.0; 3]).problem(), None);
        assert_eq!(spec(&[2, 7], vec![1.0; 2]).problem(), None);
        assert_eq!(spec(&[2, 7, 5], vec![1.0; 2]).problem(), None);
        assert!(spec(&[2, 7], vec![1.0; 7]).problem().is_some());
        assert!(spec(&[2, 7], vec![1.0, 0.0]).problem().is_some());
        assert!(spec(&[2, 7], vec![1.0, f64::NAN]).problem().is_some());
    }
}
