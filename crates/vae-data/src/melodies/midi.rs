//! MIDI files as melodies, and melodies as MIDI files.

use std::collections::BTreeMap;

use midly::num::{u4, u7, u15, u24, u28};
use midly::{
    EventIter, Format, Header, MetaMessage, MidiMessage, Smf, Timing, TrackEvent, TrackEventKind,
};
use vae_base::{MelodyNote, MelodySpec};

use super::MelodyLine;
use super::tune::{Bar, MOST_BARS, Meter, Note, Tune};

/// The channel of drums, from 0.
const DRUMS: u8 = 9;

/// The share of a part's time in which several notes may sound at once in a part that is called monophonic.
const MOST_OVERLAP: f64 = 0.05;

/// The most notes of a file.
const MOST_NOTES: usize = 1 << 20;

/// Whether content with these first bytes is MIDI.
pub(crate) fn is_midi(beginning: &[u8]) -> bool {
    let is_riff = beginning.starts_with(b"RIFF") && beginning.get(8..12) == Some(&b"RMID"[..]);
    beginning.starts_with(b"MThd") || is_riff
}

/// Why a file has no melody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// It is fine, but every part of it has chords.
    NoPart,
    Bad(String),
}

impl From<String> for Problem {
    fn from(reason: String) -> Self {
        Self::Bad(reason)
    }
}

/// What is said of files without a melody.
pub(super) const NO_PART: &str =
    "without a part with one note at a time (melody = \"skyline\" takes the highest notes)";

/// A note of one part of a file.
#[derive(Clone, Copy, Debug)]
struct PartNote {
    /// Track and channel.
    part: (usize, u8),
    note: Note,
}

/// The melody of a file, or the reason why it has none.
pub(super) fn read(bytes: &[u8], line: MelodyLine) -> Result<Tune, Problem> {
    let (header, tracks) =
        midly::parse(bytes).map_err(|error| format!("is damaged: {}", error.kind().message()))?;
    let Timing::Metrical(quarter) = header.timing else {
        return Err("counts time in seconds (SMPTE), not in beats"
            .to_owned()
            .into());
    };
    let quarter = i64::from(quarter.as_int());
    if quarter == 0 {
        return Err("is damaged: a quarter note of 0 ticks".to_owned().into());
    }
    let mut content = Content::default();
    let mut begins_at = 0;
    for (track, events) in tracks.enumerate() {
        let events = events.map_err(|error| format!("is damaged: {}", error.kind().message()))?;
        let ends_at = content.read(track, events, begins_at)?;
        if header.format == Format::Sequential {
            begins_at = ends_at;
        }
    }
    if content.notes.is_empty() {
        return Err("has no notes".to_owned().into());
    }
    content.notes.sort_by_key(|found| {
        let Note { start, end, pitch } = found.note;
        (start, u8::MAX - pitch, end)
    });
    let notes = match line {
        MelodyLine::Part => best_part(&content.notes).ok_or(Problem::NoPart)?,
        MelodyLine::Skyline => skyline(content.notes.iter().map(|found| found.note)),
    };
    let end = notes.last().map_or(0, |last| last.end);
    let bars = bars(&mut content.meters, quarter, end)?;
    Ok(Tune {
        name: String::new(),
        notes,
        bars,
    })
}

/// What a file has of interest.
#[derive(Debug, Default)]
struct Content {
    notes: Vec<PartNote>,
    /// Each with the tick at which it begins.
    meters: Vec<(i64, Meter)>,
}

impl Content {
    /// Adds a track that begins at a tick, and returns the tick at which it ends.
    fn read(&mut self, track: usize, events: EventIter, begins_at: i64) -> Result<i64, String> {
        let mut time = begins_at;
        // The beginning of each note that sounds.
        let mut open: BTreeMap<(u8, u8), i64> = BTreeMap::new();
        for event in events {
            let TrackEvent { delta, kind } =
                event.map_err(|error| format!("is damaged: {}", error.kind().message()))?;
            time += i64::from(delta.as_int());
            match kind {
                TrackEventKind::Midi { channel, message } => {
                    let (key, begins) = match message {
                        MidiMessage::NoteOn { key, vel } => (key, vel > 0),
                        MidiMessage::NoteOff { key, .. } => (key, false),
                        _ => continue,
                    };
                    let (channel, key) = (channel.as_int(), key.as_int());
                    if channel == DRUMS {
                        continue;
                    }
                    if let Some(start) = open.remove(&(channel, key)) {
                        self.add(track, channel, start, time, key)?;
                    }
                    if begins {
                        open.insert((channel, key), time);
                    }
                }
                TrackEventKind::Meta(MetaMessage::TimeSignature(beats, unit, _, _)) => {
                    let meter = 1_u32
                        .checked_shl(unit.into())
                        .and_then(|unit| Meter::new(beats.into(), unit));
                    let Some(meter) = meter else {
                        return Err(format!("has a meter of {beats} over 2 to the power {unit}"));
                    };
                    self.meters.push((time, meter));
                }
                _ => {}
            }
        }
        for ((channel, key), start) in open {
            self.add(track, channel, start, time, key)?;
        }
        Ok(time)
    }

    fn add(
        &mut self,
        track: usize,
        channel: u8,
        start: i64,
        end: i64,
        pitch: u8,
    ) -> Result<(), String> {
        if end <= start {
            return Ok(());
        }
        if self.notes.len() == MOST_NOTES {
            return Err(format!("has more than {MOST_NOTES} notes"));
        }
        self.notes.push(PartNote {
            part: (track, channel),
            note: Note { start, end, pitch },
        });
        Ok(())
    }
}

/// Of the parts in which one note sounds at a time the highest one, among those with at least half as many notes as the
/// fullest. Notes are sorted.
fn best_part(notes: &[PartNote]) -> Option<Vec<Note>> {
    let mut parts: BTreeMap<(usize, u8), Vec<Note>> = BTreeMap::new();
    for found in notes {
        parts.entry(found.part).or_default().push(found.note);
    }
    let monophonic: Vec<Vec<Note>> = parts
        .into_values()
        .filter(|notes| overlap(notes) <= MOST_OVERLAP)
        .collect();
    let fullest = monophonic.iter().map(Vec::len).max()?;
    let mean = |notes: &[Note]| {
        let sum: f64 = notes.iter().map(|note| f64::from(note.pitch)).sum();
        sum / notes.len() as f64
    };
    monophonic
        .into_iter()
        .filter(|notes| 2 * notes.len() >= fullest)
        // The first of equals.
        .reduce(|best, notes| {
            if mean(&notes) > mean(&best) {
                notes
            } else {
                best
            }
        })
        .map(skyline)
}

/// The share of a part's sounding time in which another note of it has already begun.
fn overlap(notes: &[Note]) -> f64 {
    let (mut ends, mut twice, mut sounding) = (i64::MIN, 0, 0);
    for note in notes {
        let begins = note.start.max(ends);
        sounding += (note.end - begins).max(0);
        twice += ends.min(note.end).saturating_sub(note.start).max(0);
        ends = ends.max(note.end);
    }
    twice as f64 / sounding.max(1) as f64
}

/// The highest line through notes that are sorted by their beginning, and then from high to low. A note ends when one begins
/// that is higher or outlasts it; others that begin while it sounds are left out.
fn skyline(notes: impl IntoIterator<Item = Note>) -> Vec<Note> {
    let mut line: Vec<Note> = Vec::new();
    for note in notes {
        if let Some(last) = line.last_mut()
            && note.start < last.end
        {
            if note.start == last.start || note.pitch < last.pitch && note.end <= last.end {
                continue;
            }
            last.end = note.start;
        }
        line.push(note);
    }
    line
}

/// The bars up to the end of the music. Without a meter it is 4/4.
fn bars(meters: &mut Vec<(i64, Meter)>, quarter: i64, end: i64) -> Result<Vec<Bar>, String> {
    meters.sort_by_key(|(time, _)| *time); // Stable: of several at one time the last counts.
    if meters.first().is_none_or(|(time, _)| *time > 0) {
        meters.insert(0, (0, Meter::COMMON));
    }
    let mut bars: Vec<Bar> = Vec::new();
    for (i, &(start, meter)) in meters.iter().enumerate() {
        let next = meters.get(i + 1).map_or(i64::MAX, |(time, _)| *time);
        let length = 4 * quarter * i64::from(meter.beats) / i64::from(meter.unit);
        if length == 0 {
            return Err(format!("is damaged: a bar of {meter} has no tick"));
        }
        let mut time = start;
        // The music may end before its last bar does. A bar that the next meter cuts short is none.
        while time < end && time + length <= next {
            if bars.len() == MOST_BARS {
                return Err(format!("has more than {MOST_BARS} bars"));
            }
            let follows = bars
                .last()
                .is_some_and(|bar: &Bar| bar.start + bar.length == time);
            bars.push(Bar {
                start: time,
                length,
                meter,
                follows,
            });
            time += length;
        }
    }
    Ok(bars)
}

/// Ticks of a quarter note in files that are written: whole numbers of steps for the usual grids.
const QUARTER: f64 = 480.0;

/// A MIDI file of the melody of these tokens, at 120 quarter notes a minute.
#[must_use]
pub fn to_midi(spec: &MelodySpec, tokens: &[i64]) -> Vec<u8> {
    of_notes(spec, &MelodySpec::notes(tokens), tokens.len())
}

/// A MIDI file of notes on a grid, which lasts so many steps.
fn of_notes(spec: &MelodySpec, notes: &[MelodyNote], n_steps: usize) -> Vec<u8> {
    const VELOCITY: u7 = u7::new(80);
    const MICROSECONDS: u24 = u24::new(500_000);
    let step = QUARTER * spec.quarters_per_bar() / spec.steps_per_bar as f64;
    let tick = |at: usize| (at as f64 * step).round() as u32;
    let channel = u4::new(0);
    let [beats, unit] = spec.meter;
    let meter = MetaMessage::TimeSignature(beats as u8, unit.trailing_zeros() as u8, 24, 8);
    let mut events = vec![
        (0, TrackEventKind::Meta(meter)),
        (0, TrackEventKind::Meta(MetaMessage::Tempo(MICROSECONDS))),
    ];
    for note in notes {
        let key = u7::from(note.pitch);
        let on = MidiMessage::NoteOn { key, vel: VELOCITY };
        let off = MidiMessage::NoteOff {
            key,
            vel: u7::new(0),
        };
        for (at, message) in [(note.start, on), (note.end, off)] {
            events.push((tick(at), TrackEventKind::Midi { channel, message }));
        }
    }
    events.push((tick(n_steps), TrackEventKind::Meta(MetaMessage::EndOfTrack)));
    let mut before = 0;
    let track = events.into_iter().map(|(at, kind)| {
        let delta = u28::new(at - before);
        before = at;
        TrackEvent { delta, kind }
    });
    let timing = Timing::Metrical(u15::new(QUARTER as u16));
    let smf = Smf {
        header: Header::new(Format::SingleTrack, timing),
        tracks: vec![track.collect()],
    };
    let mut file = Vec::new();
    // Writing to a vector cannot fail.
    let _ = smf.write(&mut file);
    file
}

#[cfg(test)]
mod tests {
    use super::super::tune::tests::grid;
    use super::*;

    /// A file of tracks of (delta, event).
    fn file(format: Format, tracks: Vec<Vec<(u32, TrackEventKind<'static>)>>) -> Vec<u8> {
        let event = |(delta, kind)| TrackEvent {
            delta: u28::new(delta),
            kind,
        };
        let smf = Smf {
            header: Header::new(format, Timing::Metrical(u15::new(4))),
            tracks: tracks
                .into_iter()
                .map(|track| track.into_iter().map(event).collect())
                .collect(),
        };
        let mut bytes = Vec::new();
        smf.write(&mut bytes).unwrap();
        bytes
    }

    fn key(channel: u8, key: u8, vel: u8) -> TrackEventKind<'static> {
        let (key, vel) = (u7::new(key), u7::new(vel));
        TrackEventKind::Midi {
            channel: u4::new(channel),
            message: MidiMessage::NoteOn { key, vel },
        }
    }

    fn meter(beats: u8, unit: u8) -> TrackEventKind<'static> {
        TrackEventKind::Meta(MetaMessage::TimeSignature(beats, unit, 24, 8))
    }

    fn note(start: i64, end: i64, pitch: u8) -> Note {
        Note { start, end, pitch }
    }

    #[test]
    fn a_melody_comes_back_note_for_note() {
        for meter in [[4, 4], [6, 8], [3, 4]] {
            let spec = MelodySpec {
                bars: 2,
                steps_per_bar: if meter == [4, 4] { 16 } else { 12 },
                meter,
            };
            let tokens: Vec<i64> = (0..spec.n_steps())
                .map(|i| match i % 5 {
                    0 => 2 + i * 2,
                    3 => MelodySpec::REST,
                    4 => 60 - i,
                    _ => MelodySpec::HOLD,
                })
                .collect();
            let tune = read(&to_midi(&spec, &tokens), MelodyLine::Part).unwrap();
            let grid = super::super::tune::Grid {
                spec,
                ..grid(2, &[&format!("{}/{}", meter[0], meter[1])])
            };
            let windows = tune.windows(&grid);
            assert_eq!(windows.len(), 1);
            assert_eq!(windows[0].tokens, tokens, "{meter:?}");
            // And once more, byte for byte.
            assert_eq!(to_midi(&spec, &windows[0].tokens), to_midi(&spec, &tokens));
        }
    }

    #[test]
    fn the_melody_is_the_highest_part_with_one_note_at_a_time() {
        let chords = vec![
            (0, key(0, 90, 1)),
            (0, key(0, 94, 1)),
            (8, key(0, 90, 0)),
            (0, key(0, 94, 0)),
        ];
        let line = |channel, pitch: u8| {
            let notes = (0..3).flat_map(|i| {
                [
                    (0, key(channel, pitch + i, 64)),
                    (4, key(channel, pitch + i, 0)),
                ]
            });
            notes.collect::<Vec<_>>()
        };
        let drums = line(9, 100);
        let sparse = vec![(0, key(3, 105, 1)), (4, key(3, 105, 0))];
        let bytes = file(
            Format::Parallel,
            vec![chords.clone(), line(1, 50), line(2, 70), drums, sparse],
        );
        let tune = read(&bytes, MelodyLine::Part).unwrap();
        assert_eq!(
            tune.notes,
            [note(0, 4, 70), note(4, 8, 71), note(8, 12, 72)]
        );
        assert_eq!(tune.bars.len(), 1, "4 ticks a quarter");
        let tune = read(&bytes, MelodyLine::Skyline).unwrap();
        assert_eq!(tune.notes[0], note(0, 4, 105));
        let problem = read(&file(Format::SingleTrack, vec![chords]), MelodyLine::Part);
        assert_eq!(problem, Err(Problem::NoPart));
        let problem = read(
            &file(Format::SingleTrack, vec![vec![]]),
            MelodyLine::Skyline,
        );
        assert_eq!(problem, Err(Problem::Bad("has no notes".to_owned())));
    }

    #[test]
    fn the_skyline_is_the_highest_note_at_each_time() {
        let notes = [
            note(0, 8, 60),
            note(2, 4, 50), // below
            note(4, 6, 72), // above: the first one ends
            note(6, 9, 71),
            note(6, 9, 40),  // a chord
            note(8, 12, 65), // outlasts it, as in a legato
        ];
        let wanted = [
            note(0, 4, 60),
            note(4, 6, 72),
            note(6, 8, 71),
            note(8, 12, 65),
        ];
        assert_eq!(skyline(notes), wanted);
        assert_eq!(overlap(&notes[..1]), 0.0);
        assert_eq!(overlap(&notes[..2]), 0.25);
    }

    #[test]
    fn bars_follow_the_meters() {
        let track = vec![
            (0, meter(3, 2)),
            (0, key(0, 60, 1)),
            (24, key(0, 60, 0)),
            (2, meter(2, 2)), // after two bars and two ticks
            (0, key(0, 62, 1)),
            (12, key(0, 62, 0)),
        ];
        let tune = read(&file(Format::SingleTrack, vec![track]), MelodyLine::Part).unwrap();
        let bars: Vec<(i64, i64, bool)> = tune
            .bars
            .iter()
            .map(|bar| (bar.start, bar.length, bar.follows))
            .collect();
        let wanted = [
            (0, 12, false),
            (12, 12, true),
            (26, 8, false),
            (34, 8, true),
        ];
        assert_eq!(bars, wanted);
        // Tracks of a sequential file come one after another.
        let one = vec![(0, key(0, 60, 1)), (16, key(0, 60, 0))];
        let tune = read(
            &file(Format::Sequential, vec![one.clone(), one]),
            MelodyLine::Skyline,
        );
        assert_eq!(tune.unwrap().notes, [note(0, 16, 60), note(16, 32, 60)]);
    }

    /// Why a file of one track is bad.
    fn reason(track: Vec<(u32, TrackEventKind<'static>)>) -> String {
        match read(&file(Format::SingleTrack, vec![track]), MelodyLine::Part) {
            Err(Problem::Bad(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_few_bytes_that_claim_years_are_refused() {
        // 2^28 − 1 ticks of a quarter of a tick's beat.
        let longest = (1 << 28) - 1;
        let track = vec![(0, key(0, 60, 1)), (longest, key(0, 60, 0))];
        let found = reason(track);
        assert!(found.contains("more than 10000 bars"), "{found}");
        for wrong in [meter(4, 200), meter(0, 2), meter(255, 2)] {
            let track = vec![(0, wrong), (0, key(0, 60, 1)), (4, key(0, 60, 0))];
            assert!(reason(track).starts_with("has a meter of"));
        }
        let track = vec![(0, meter(1, 6)), (0, key(0, 60, 1)), (4, key(0, 60, 0))];
        assert!(reason(track).contains("has no tick"));
    }
}
