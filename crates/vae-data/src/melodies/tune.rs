//! A melody as notes and bars, and its windows on a grid.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use vae_base::{MelodyNote, MelodySpec};

/// The most bars of a tune.
pub(super) const MOST_BARS: usize = 10_000;

/// A meter: so many of which part of a whole note a bar has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Meter {
    pub(crate) beats: u32,
    pub(crate) unit: u32,
}

impl Meter {
    pub(super) const COMMON: Meter = Meter { beats: 4, unit: 4 };

    pub(super) fn new(beats: u32, unit: u32) -> Option<Meter> {
        let is_meter = (1..=64).contains(&beats) && unit.is_power_of_two() && unit <= 64;
        is_meter.then_some(Meter { beats, unit })
    }
}

impl FromStr for Meter {
    type Err = ();

    fn from_str(text: &str) -> Result<Meter, ()> {
        let (beats, unit) = text.split_once('/').ok_or(())?;
        let number = |text: &str| text.parse().map_err(|_| ());
        Meter::new(number(beats)?, number(unit)?).ok_or(())
    }
}

impl fmt::Display for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.beats, self.unit)
    }
}

/// A note of a melody. Times are ticks from the beginning, of a length that each file has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) start: i64,
    pub(super) end: i64,
    /// The number of its key in MIDI.
    pub(super) pitch: u8,
}

/// A bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bar {
    pub(super) start: i64,
    pub(super) length: i64,
    pub(super) meter: Meter,
    /// Whether the bar before it in the list leads to it.
    pub(super) follows: bool,
}

/// A melody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tune {
    /// What tells it from other tunes of its file; empty if there is one.
    pub(super) name: String,
    /// In their order; none begins before the one before it ends.
    pub(super) notes: Vec<Note>,
    /// In their order, only whole ones.
    pub(super) bars: Vec<Bar>,
}

/// How windows are cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    pub(crate) spec: MelodySpec,
    /// The meters that are read.
    pub(crate) meters: Vec<Meter>,
    /// Bars from one window to the next.
    pub(crate) stride: usize,
    /// The fewest notes of a window.
    pub(crate) min_notes: usize,
}

/// A part of a melody on a grid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// The number of its first bar, from 1.
    pub(super) bar: usize,
    /// `[T]`
    pub(super) tokens: Vec<i64>,
}

impl Tune {
    /// The windows of bars that follow one another in meters that are read, each different one once. Windows with fewer notes
    /// than asked for, or silent for a bar or more, are left out.
    pub(super) fn windows(&self, grid: &Grid) -> Vec<Window> {
        let n_bars = grid.spec.bars as usize;
        let steps_per_bar = grid.spec.steps_per_bar as usize;
        let mut known = BTreeSet::new();
        let mut windows = Vec::new();
        let mut place = 0;
        while place < self.bars.len() {
            let is_read = |bar: &Bar| grid.meters.contains(&bar.meter);
            if !is_read(&self.bars[place]) {
                place += 1;
                continue;
            }
            let end = (place + 1..self.bars.len())
                .find(|&i| !self.bars[i].follows || !is_read(&self.bars[i]))
                .unwrap_or(self.bars.len());
            let section = &self.bars[place..end];
            if section.len() >= n_bars {
                let notes = self.on_grid(section, steps_per_bar);
                let last = section.len() - n_bars;
                for first in (0..=last).step_by(grid.stride.max(1)) {
                    let tokens = cut(&notes, first * steps_per_bar, n_bars * steps_per_bar);
                    let n_notes = tokens.iter().filter(|&&token| token >= 2).count();
                    let is_good =
                        n_notes >= grid.min_notes && longest_rest(&tokens) < steps_per_bar;
                    if is_good && known.insert(tokens.clone()) {
                        windows.push(Window {
                            bar: place + first + 1,
                            tokens,
                        });
                    }
                }
            }
            place = end;
        }
        windows
    }

    /// The notes of a section of bars at the nearest steps. Of notes that begin at the same step the longest stays, and each
    /// lasts a step at least.
    fn on_grid(&self, section: &[Bar], steps_per_bar: usize) -> Vec<MelodyNote> {
        let (Some(first), Some(last)) = (section.first(), section.last()) else {
            return Vec::new();
        };
        let (start, end) = (first.start, last.start + last.length);
        let n_steps = section.len() * steps_per_bar;
        let step = |time: i64| {
            let time = time.clamp(start, end);
            let bar = section.partition_point(|bar| bar.start <= time).max(1) - 1;
            let Bar { start, length, .. } = section[bar];
            let share = (time - start) as f64 / length as f64;
            (bar * steps_per_bar + (share * steps_per_bar as f64).round() as usize).min(n_steps)
        };
        let first_note = self.notes.partition_point(|note| note.end <= start);
        let sounding = self.notes[first_note..]
            .iter()
            .take_while(|note| note.start < end);
        let mut notes: Vec<MelodyNote> = Vec::new();
        let mut longest = 0;
        for note in sounding {
            let (from, to) = (step(note.start), step(note.end));
            if from == n_steps {
                continue;
            }
            let duration = note.end - note.start;
            let new = MelodyNote {
                start: from,
                end: to.max(from + 1),
                pitch: note.pitch,
            };
            match notes.last_mut() {
                Some(last) if last.start == from => {
                    if duration <= longest {
                        continue;
                    }
                    *last = new;
                }
                Some(last) => {
                    last.end = last.end.min(from);
                    notes.push(new);
                }
                None => notes.push(new),
            }
            longest = duration;
        }
        notes
    }
}

/// The tokens of the steps from `start` on. A note that sounds there begins anew.
fn cut(notes: &[MelodyNote], start: usize, n_steps: usize) -> Vec<i64> {
    let first = notes.partition_point(|note| note.end <= start);
    let inside: Vec<MelodyNote> = notes[first..]
        .iter()
        .take_while(|note| note.start < start + n_steps)
        .map(|note| MelodyNote {
            start: note.start.saturating_sub(start),
            end: note.end - start,
            pitch: note.pitch,
        })
        .collect();
    MelodySpec::tokens(&inside, n_steps)
}

/// Steps of the longest silence.
fn longest_rest(tokens: &[i64]) -> usize {
    let mut ends = 0;
    let mut longest = 0;
    for note in MelodySpec::notes(tokens) {
        longest = longest.max(note.start - ends);
        ends = note.end;
    }
    longest.max(tokens.len() - ends)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn grid(bars: i64, meters: &[&str]) -> Grid {
        let meters: Vec<Meter> = meters.iter().map(|meter| meter.parse().unwrap()).collect();
        Grid {
            spec: MelodySpec {
                bars,
                steps_per_bar: 16,
                meter: [meters[0].beats, meters[0].unit],
            },
            meters,
            stride: 1,
            min_notes: 1,
        }
    }

    /// Bars of 4/4 with 4 · `quarter` ticks, and notes (start, end, pitch) in quarters.
    fn tune(n_bars: i64, quarter: i64, notes: &[(f64, f64, u8)]) -> Tune {
        let bar = |i| Bar {
            start: 4 * quarter * i,
            length: 4 * quarter,
            meter: Meter::COMMON,
            follows: i > 0,
        };
        let tick = |time: f64| (time * quarter as f64).round() as i64;
        let note = |&(start, end, pitch): &(f64, f64, u8)| Note {
            start: tick(start),
            end: tick(end),
            pitch,
        };
        Tune {
            name: String::new(),
            notes: notes.iter().map(note).collect(),
            bars: (0..n_bars).map(bar).collect(),
        }
    }

    #[test]
    fn notes_go_to_the_nearest_step() {
        // A sixteenth is a step. Triplets of eighths begin at 0, 1.33 and 2.67 of the steps of a quarter.
        let third = 1.0 / 3.0;
        let played = [
            (0.01, 0.99, 60),
            (1.0, 1.0 + third, 62),
            (1.0 + third, 1.0 + 2.0 * third, 64),
            (1.0 + 2.0 * third, 2.0, 65),
            (2.0, 2.06, 70), // A grace note, shorter than the one at the same step.
            (2.06, 2.5, 67),
            (3.0, 4.4, 72), // Into the second bar.
            (7.5, 8.0, 60),
        ];
        let windows = tune(2, 480, &played).windows(&grid(1, &["4/4"]));
        let token = |pitch| MelodySpec::token(pitch).unwrap();
        let [c, d, e, f, g, c2] = [60, 62, 64, 65, 67, 72].map(token);
        let wanted = [c, 0, 0, 0, d, e, 0, f, g, 0, 1, 0, c2, 0, 0, 0];
        assert_eq!(windows[0].tokens, wanted);
        assert_eq!(windows[0].bar, 1);
        // The note that sounds at the second bar's beginning begins anew.
        let wanted = [c2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, c, 0];
        assert_eq!((windows[1].bar, &windows[1].tokens[..]), (2, &wanted[..]));
    }

    #[test]
    fn windows_stay_in_sections_of_their_meters() {
        let quarters: Vec<(f64, f64, u8)> = (0..24)
            .map(|i| (f64::from(i), f64::from(i) + 1.0, 60 + i as u8))
            .collect();
        let mut tune = tune(6, 12, &quarters);
        let bars = |tune: &Tune, grid: &Grid| -> Vec<usize> {
            tune.windows(grid).iter().map(|window| window.bar).collect()
        };
        assert_eq!(bars(&tune, &grid(2, &["4/4"])), [1, 2, 3, 4, 5]);
        tune.bars[4].follows = false;
        assert_eq!(bars(&tune, &grid(2, &["4/4"])), [1, 2, 3, 5]);
        tune.bars[1].meter = "2/2".parse().unwrap();
        assert_eq!(bars(&tune, &grid(2, &["4/4"])), [3, 5]);
        assert_eq!(bars(&tune, &grid(2, &["2/2", "4/4"])), [1, 2, 3, 5]);
        assert_eq!(bars(&tune, &grid(1, &["2/2"])), [2]);
        let every_other = Grid {
            stride: 2,
            ..grid(1, &["2/2", "4/4"])
        };
        assert_eq!(bars(&tune, &every_other), [1, 3, 5]);
    }

    #[test]
    fn repeated_empty_and_silent_windows_are_left_out() {
        let theme = |bar: f64| {
            [
                (4.0 * bar, 4.0 * bar + 2.0, 60),
                (4.0 * bar + 2.0, 4.0 * bar + 4.0, 64),
            ]
        };
        let notes = [theme(0.0), theme(1.0), theme(4.0)].concat();
        let tune = tune(6, 4, &notes);
        let bars: Vec<usize> = tune
            .windows(&grid(1, &["4/4"]))
            .iter()
            .map(|window| window.bar)
            .collect();
        assert_eq!(
            bars,
            [1],
            "the second and fifth are the same, and the others are silent"
        );
        let more = Grid {
            min_notes: 3,
            ..grid(1, &["4/4"])
        };
        assert!(tune.windows(&more).is_empty());
        // A bar of silence in the window, wherever it lies.
        assert_eq!(longest_rest(&[40, 1, 0, 0, 41, 1]), 3);
        assert_eq!(longest_rest(&[1, 0, 40, 0]), 2);
        assert_eq!(longest_rest(&[0, 0, 0, 0]), 4);
    }

    #[test]
    fn meters_are_read() {
        assert_eq!("6/8".parse(), Ok(Meter { beats: 6, unit: 8 }));
        for wrong in ["", "4", "4/3", "0/4", "65/4", "4/128", "-1/4", "a/b"] {
            assert!(wrong.parse::<Meter>().is_err(), "{wrong}");
        }
    }
}
