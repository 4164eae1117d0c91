//! What the tokens of a melody stand for.

use serde::{Deserialize, Serialize};

/// A melody on a grid of equal steps, with the 90 tokens of MusicVAE (Roberts et al. 2018,
/// <https://arxiv.org/abs/1803.05428>): at each step what sounds goes on, or it ends, or the note of one of 88 pitches
/// begins.
///
/// It is saved with the weights, so that what the model gives can be written as notes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MelodySpec {
    /// Bars of an item.
    pub bars: i64,
    /// Steps of a bar.
    pub steps_per_bar: i64,
    /// The meter in which melodies are written, 4/4 as `[4, 4]`: how many of which part of a whole note a bar has.
    pub meter: [u32; 2],
}

/// A note on a grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MelodyNote {
    /// The step at which it begins.
    pub start: usize,
    /// The step at which it has ended.
    pub end: usize,
    /// The number of its key in MIDI: 60 is the middle C.
    pub pitch: u8,
}

impl MelodySpec {
    /// The token of a step at which nothing changes: a note or silence goes on.
    pub const HOLD: i64 = 0;
    /// The token of a step at which silence begins.
    pub const REST: i64 = 1;
    /// The lowest pitch, the first key of a piano; its token is 2.
    pub const LOWEST: u8 = 21;
    /// The highest pitch, the last key of a piano.
    pub const HIGHEST: u8 = 108;
    /// The number of tokens.
    pub const VOCABULARY: i64 = 90;
    /// The most steps of an item.
    pub const MOST_STEPS: i64 = 1 << 12;

    /// T, the steps of an item.
    #[must_use]
    pub fn n_steps(&self) -> i64 {
        self.bars.saturating_mul(self.steps_per_bar)
    }

    /// Quarter notes of a bar.
    #[must_use]
    pub fn quarters_per_bar(&self) -> f64 {
        let [beats, unit] = self.meter;
        4.0 * f64::from(beats) / f64::from(unit)
    }

    /// The token of a step at which a note of this pitch begins; `None` outside a piano's keys.
    #[must_use]
    pub fn token(pitch: u8) -> Option<i64> {
        (Self::LOWEST..=Self::HIGHEST)
            .contains(&pitch)
            .then(|| i64::from(pitch - Self::LOWEST) + 2)
    }

    /// The pitch of the note that begins with a token, if one does.
    #[must_use]
    pub fn pitch(token: i64) -> Option<u8> {
        (2..Self::VOCABULARY)
            .contains(&token)
            .then(|| (token - 2) as u8 + Self::LOWEST)
    }

    /// The notes of a melody. What is held before the first note is silence.
    ///
    /// ```
    /// use vae_base::{MelodyNote, MelodySpec};
    ///
    /// let c = MelodySpec::token(60).unwrap();
    /// let notes = MelodySpec::notes(&[0, c, 0, c, 1, 0]);
    /// let note = |start, end| MelodyNote { start, end, pitch: 60 };
    /// assert_eq!(notes, [note(1, 3), note(3, 4)]);
    /// ```
    #[must_use]
    pub fn notes(tokens: &[i64]) -> Vec<MelodyNote> {
        let mut notes: Vec<MelodyNote> = Vec::new();
        let mut sounds = false;
        for (step, &token) in tokens.iter().enumerate() {
            if token == Self::HOLD {
                continue;
            }
            if let Some(last) = notes.last_mut().filter(|_| sounds) {
                last.end = step;
            }
            let pitch = Self::pitch(token);
            sounds = pitch.is_some();
            notes.extend(pitch.map(|pitch| MelodyNote {
                start: step,
                end: tokens.len(),
                pitch,
            }));
        }
        notes
    }

    /// The tokens of notes in their order, none of which begins before the last one ends. The first token is a note or
    /// [`Self::REST`]. Notes outside the steps or a piano's keys are left out.
    #[must_use]
    pub fn tokens(notes: &[MelodyNote], n_steps: usize) -> Vec<i64> {
        let mut tokens = vec![Self::HOLD; n_steps];
        if let Some(first) = tokens.first_mut() {
            *first = Self::REST;
        }
        for note in notes.iter().filter(|note| note.start < n_steps) {
            let Some(token) = Self::token(note.pitch) else {
                continue;
            };
            tokens[note.start] = token;
            if let Some(end) = tokens.get_mut(note.end.max(note.start + 1)) {
                *end = Self::REST;
            }
        }
        tokens
    }

    /// The same melody so many semitones higher; unchanged where a note would leave a piano's keys.
    pub fn transpose(tokens: &mut [i64], semitones: i64) {
        let moved = |token: i64| match token {
            Self::HOLD | Self::REST => token,
            pitch => pitch + semitones,
        };
        let has_room = |&token: &i64| token < 2 || (2..Self::VOCABULARY).contains(&moved(token));
        if tokens.iter().all(has_room) {
            tokens.iter_mut().for_each(|token| *token = moved(*token));
        }
    }

    /// What is wrong with it: the name of a field, what was found there and what is needed.
    #[must_use]
    pub fn problem(&self) -> Option<(&'static str, String)> {
        let [beats, unit] = self.meter;
        if self.bars < 1 {
            return Some(("bars", format!("found {}, at least 1 is needed", self.bars)));
        }
        if !(1..=192).contains(&self.steps_per_bar) {
            let found = self.steps_per_bar;
            return Some((
                "steps_per_bar",
                format!("found {found}, 1 to 192 is needed"),
            ));
        }
        if self.n_steps() > Self::MOST_STEPS {
            let problem = format!(
                "found {}, which is {} steps: at most {} would fit",
                self.bars,
                self.n_steps(),
                Self::MOST_STEPS
            );
            return Some(("bars", problem));
        }
        let is_meter = (1..=64).contains(&beats) && unit.is_power_of_two() && unit <= 64;
        (!is_meter).then(|| {
            let problem = format!("found {beats}/{unit}, a meter such as 4/4 or 6/8 is needed");
            ("meter", problem)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_and_tokens_are_the_same_melody() {
        let note = |start, end, pitch| MelodyNote { start, end, pitch };
        let notes = [
            note(2, 4, 60),
            note(4, 5, 60),
            note(6, 9, 21),
            note(9, 16, 108),
        ];
        let tokens = MelodySpec::tokens(&notes, 16);
        let rest = MelodySpec::REST;
        assert_eq!(
            tokens,
            [rest, 0, 41, 0, 41, rest, 2, 0, 0, 89, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(MelodySpec::notes(&tokens), notes);
        // Outside the keys, and outside the steps.
        let outside = [note(0, 1, 20), note(1, 2, 109), note(16, 17, 60)];
        assert_eq!(MelodySpec::tokens(&outside, 2), [rest, 0]);
        assert_eq!(MelodySpec::tokens(&[], 0), [] as [i64; 0]);
    }

    #[test]
    fn a_pitch_has_the_token_of_its_key() {
        assert_eq!(MelodySpec::token(21), Some(2));
        assert_eq!(MelodySpec::token(108), Some(MelodySpec::VOCABULARY - 1));
        assert_eq!([20, 109].map(MelodySpec::token), [None; 2]);
        for pitch in MelodySpec::LOWEST..=MelodySpec::HIGHEST {
            assert_eq!(
                MelodySpec::token(pitch).and_then(MelodySpec::pitch),
                Some(pitch)
            );
        }
        assert_eq!([0, 1, 90, -1].map(MelodySpec::pitch), [None; 4]);
    }

    #[test]
    fn a_melody_moves_as_a_whole_or_stays() {
        let mut tokens = [1, 40, 0, 44, 89];
        MelodySpec::transpose(&mut tokens, 1);
        assert_eq!(tokens, [1, 40, 0, 44, 89], "the highest key is taken");
        MelodySpec::transpose(&mut tokens, -3);
        assert_eq!(tokens, [1, 37, 0, 41, 86]);
    }
}
