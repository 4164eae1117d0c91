//! Melodies as piano rolls, as notes to be heard and as MIDI files.

use tch::{Device, Kind, Tensor};
use vae_data::melodies::to_midi;
use vae_model::{ItemSpec, MelodySpec};
use vae_sound::{Tone, synth};

use crate::ViewError;

/// Quarter notes a minute of what is heard.
const TEMPO: f64 = 120.0;

/// Samples a second of what is heard.
pub(crate) const RATE: u32 = 22_050;

/// Seconds after the last step, in which the last note dies away.
const TAIL: f64 = 0.25;

/// The pitches of a piano roll, from the lowest C but one of a piano to its highest C but one. Notes beyond are drawn at the edge.
const SHOWN: [i64; 2] = [36, 96];

/// Pixels of a pitch, and about how many a whole roll is wide.
const ROW: i64 = 3;
const WIDTH: i64 = 192;

const WHITE_KEY: [f32; 3] = [1.0, 1.0, 1.0];
const BLACK_KEY: [f32; 3] = [0.94, 0.94, 0.95];
const OCTAVE: [f32; 3] = [0.83, 0.83, 0.87];
const BEAT: [f32; 3] = [0.90, 0.90, 0.92];
const BAR: [f32; 3] = [0.62, 0.62, 0.68];
const NOTE: [f32; 3] = [0.25, 0.46, 0.73];
const BEGINNING: [f32; 3] = [0.10, 0.22, 0.45];

/// The tokens of each melody, `[N, T]`.
fn tokens(items: &Tensor) -> Result<Vec<Vec<i64>>, ViewError> {
    let items = items.to_device(Device::Cpu).to_kind(Kind::Int64);
    (0..items.size()[0])
        .map(|i| Ok(Vec::<i64>::try_from(items.get(i).contiguous().view(-1))?))
        .collect()
}

/// Piano rolls `[N, 3, H, W]` of melodies: time to the right, pitch upwards, lines at the beats, bars and Cs. The first step of a
/// note is darker.
pub(crate) fn piano_rolls(melody: &MelodySpec, items: &Tensor) -> Result<Tensor, ViewError> {
    let all = tokens(items)?;
    let step = (WIDTH / melody.n_steps().max(1)).max(1);
    let (height, width) = ((SHOWN[1] - SHOWN[0] + 1) * ROW, melody.n_steps() * step + 1);
    let mut pixels = Vec::with_capacity(all.len() * (3 * height * width) as usize);
    for melody_tokens in &all {
        let roll = roll(melody, melody_tokens, [step, height, width]);
        pixels.extend(roll.into_iter().flatten());
    }
    let sides = [all.len() as i64, height, width, 3];
    Ok(Tensor::from_slice(&pixels)
        .view(sides)
        .permute([0, 3, 1, 2])
        .contiguous())
}

/// The pixels of one roll, row by row from the top. `sizes` are the width of a step, and height and width of the roll.
fn roll(melody: &MelodySpec, tokens: &[i64], sizes: [i64; 3]) -> Vec<[f32; 3]> {
    let [step, height, width] = sizes;
    let is_black = |pitch: i64| matches!(pitch % 12, 1 | 3 | 6 | 8 | 10);
    let mut pixels = vec![WHITE_KEY; (height * width) as usize];
    let mut fill = |rows: [i64; 2], columns: [i64; 2], color: [f32; 3]| {
        for row in rows[0].max(0)..rows[1].min(height) {
            for column in columns[0].max(0)..columns[1].min(width) {
                pixels[(row * width + column) as usize] = color;
            }
        }
    };
    // The lowest row of a pitch is the line between it and the pitch below.
    let rows = |pitch: i64| {
        let top = (SHOWN[1] - pitch) * ROW;
        [top, top + ROW]
    };
    for pitch in SHOWN[0]..=SHOWN[1] {
        let [top, bottom] = rows(pitch);
        if is_black(pitch) {
            fill([top, bottom], [0, width], BLACK_KEY);
        }
        if pitch % 12 == 0 {
            fill([bottom - 1, bottom], [0, width], OCTAVE);
        }
    }
    let steps_per_beat = melody.steps_per_bar as f64 / f64::from(melody.meter[0]);
    for bar in 0..=melody.bars {
        let start = bar * melody.steps_per_bar * step;
        for beat in 1..melody.meter[0] {
            let at = start + (f64::from(beat) * steps_per_beat * step as f64).round() as i64;
            fill([0, height], [at, at + 1], BEAT);
        }
        fill([0, height], [start, start + 1], BAR);
    }
    for note in MelodySpec::notes(tokens) {
        let pitch = i64::from(note.pitch).clamp(SHOWN[0], SHOWN[1]);
        let [from, to] = [note.start, note.end].map(|at| at as i64 * step);
        // One pixel is left of the next note, where there is room.
        let gap = i64::from(step > 2);
        fill(rows(pitch), [from + gap, to], NOTE);
        fill(
            rows(pitch),
            [from + gap, from + step.max(2) / 2 + gap],
            BEGINNING,
        );
    }
    pixels
}

/// The samples of melodies, [`RATE`] a second, that a simple synthesizer makes of each at 120 quarter notes a minute.
pub(crate) fn heard(melody: &MelodySpec, items: &Tensor) -> Result<Vec<Vec<f32>>, ViewError> {
    let seconds = 60.0 / TEMPO * melody.quarters_per_bar() / melody.steps_per_bar as f64;
    let sound = |tokens: &Vec<i64>| {
        let notes = MelodySpec::notes(tokens).into_iter();
        let tones: Vec<Tone> = notes
            .map(|note| Tone {
                start: note.start as f64 * seconds,
                end: note.end as f64 * seconds,
                pitch: note.pitch,
            })
            .collect();
        let length = tokens.len() as f64 * seconds + TAIL;
        synth::render(&tones, length, RATE)
    };
    Ok(tokens(items)?.iter().map(sound).collect())
}

/// A MIDI file of melodies `[N, 1, 1, T]` one after another, at 120 quarter notes a minute.
///
/// # Errors
/// The items are no melodies.
pub fn midi(item: &ItemSpec, items: &Tensor) -> Result<Vec<u8>, ViewError> {
    let Some(melody) = &item.melody else {
        return Err(ViewError::Plot("these items are no melodies".to_owned()));
    };
    let mut all = tokens(items)?;
    for tokens in &mut all {
        // What is held at the beginning of a melody is silence, not the last note of the one before.
        if let Some(first) = tokens
            .first_mut()
            .filter(|first| **first == MelodySpec::HOLD)
        {
            *first = MelodySpec::REST;
        }
    }
    Ok(to_midi(melody, &all.concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: MelodySpec = MelodySpec {
        bars: 1,
        steps_per_bar: 8,
        meter: [4, 4],
    };

    fn items(tokens: &[i64]) -> Tensor {
        Tensor::from_slice(tokens).view([-1, 1, 1, 8])
    }

    #[test]
    fn a_roll_has_its_notes_at_their_places() {
        let c = MelodySpec::token(60).unwrap();
        let top = MelodySpec::token(108).unwrap();
        let rolls = piano_rolls(&SPEC, &items(&[1, 0, c, 0, 1, 0, top, 0])).unwrap();
        assert_eq!(rolls.size(), [1, 3, 183, 8 * 24 + 1]);
        let is_note = |row: i64, column: i64| rolls.double_value(&[0, 0, row, column]) < 0.5;
        let row = (96 - 60) * 3 + 1;
        assert!(is_note(row, 50) && is_note(row, 95) && !is_note(row, 97) && !is_note(row, 40));
        assert!(!is_note(row - 3, 50) && !is_note(row + 3, 50));
        // Beyond the edge: in the highest row.
        assert!(is_note(1, 150) && !is_note(4, 150));
    }

    #[test]
    fn what_is_heard_has_the_length_and_the_silence_of_the_melody() {
        let c = MelodySpec::token(60).unwrap();
        let sounds = heard(
            &SPEC,
            &items(&[1, 0, c, 0, 1, 0, 0, 0, c, 1, 0, 0, 0, 0, 0, 0]),
        )
        .unwrap();
        // A quarter is half a second, and two steps.
        assert_eq!(sounds[0].len(), (2.25 * 22_050.0_f64).round() as usize);
        let loudest = |sound: &[f32], from: f64, to: f64| {
            let [from, to] = [from, to].map(|at| (at * 22_050.0) as usize);
            sound[from..to].iter().fold(0.0_f32, |a, b| a.max(b.abs()))
        };
        assert_eq!(loudest(&sounds[0], 0.0, 0.5), 0.0);
        assert!(loudest(&sounds[0], 0.5, 1.0) > 0.5);
        assert_eq!(loudest(&sounds[0], 1.07, 2.25), 0.0);
        assert!(loudest(&sounds[1], 0.0, 0.25) > 0.5);
    }

    #[test]
    fn melodies_follow_one_another_in_a_midi_file() {
        let c = MelodySpec::token(60).unwrap();
        let item = ItemSpec::of_melodies(SPEC);
        let one = [c, 0, 0, 0, 0, 0, 0, 0];
        let silent = [0; 8];
        let file = midi(&item, &items(&[one, silent].concat())).unwrap();
        assert_eq!(
            file,
            to_midi(&SPEC, &[&one[..], &[1], &silent[1..]].concat())
        );
        let other = ItemSpec::new(vae_model::ItemKind::Array, vec![8]);
        assert!(midi(&other, &items(&one)).is_err());
    }
}
