//! Tunes in ABC notation (<https://abcnotation.com/wiki/abc:standard:v2.1>).
//!
//! Read are notes with accidentals, octaves and lengths, rests, ties, broken rhythm, tuplets, chords (their highest note), bar
//! lines, and the fields that matter to a melody: `X`, `M`, `L`, `K`, also within a tune. Grace notes, slurs, decorations, chord
//! symbols, words and all other fields are left out. Repeats are read once, and no window crosses from a first ending into a
//! second one. A tune with several voices, or with anything else, has an error that says what and in which line.

use std::collections::BTreeMap;

use super::tune::{Bar, MOST_BARS, Meter, Note, Tune};

/// Ticks of a whole note: lengths down to a 256th, in triplets, quintuplets and septuplets, are whole numbers of them.
const WHOLE: i64 = 256 * 9 * 5 * 7;

/// The most ticks of a note: a hundred whole notes.
const LONGEST: i64 = 100 * WHOLE;

/// The most characters of a line.
const LONGEST_LINE: usize = 1 << 16;

/// The most notes of a tune.
const MOST_NOTES: usize = 1 << 16;

/// The tunes of a file: each, or its name and the reason why it is not read.
pub(super) fn read(bytes: &[u8]) -> Vec<Result<Tune, (String, String)>> {
    let text = String::from_utf8_lossy(bytes);
    let mut tunes: Vec<(String, Vec<(usize, &str)>)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        match line.strip_prefix("X:") {
            Some(name) => {
                let name = name.split('%').next().unwrap_or_default().trim();
                tunes.push((name.to_owned(), Vec::new()));
            }
            None => {
                if let Some((_, lines)) = tunes.last_mut() {
                    lines.push((number, line));
                }
            }
        }
    }
    let read = |(name, lines): &(String, Vec<(usize, &str)>)| {
        Reader::read(lines)
            .map(|(notes, bars)| Tune {
                name: name.clone(),
                notes,
                bars,
            })
            .map_err(|reason| (name.clone(), reason))
    };
    tunes.iter().map(read).collect()
}

/// A tuplet that is not over.
#[derive(Clone, Copy, Debug)]
struct Tuplet {
    /// Each note has `num`/`den` of its length.
    num: i64,
    den: i64,
    n_left: i64,
}

/// What stands between two bars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Plain,
    /// The beginning of another ending.
    OtherEnding,
}

/// A note or a rest that was read and may still change.
#[derive(Clone, Copy, Debug)]
struct Last {
    /// Of a rest `None`.
    pitch: Option<u8>,
    start: i64,
    length: i64,
}

/// Reads the lines of one tune.
#[derive(Debug)]
struct Reader {
    meter: Option<Meter>,
    unit: Option<(i64, i64)>,
    /// Sharps (positive) and flats of the key, by letter from A to G.
    key: [i8; 7],
    /// Accidentals of this bar, by letter and octave.
    accidentals: BTreeMap<(u8, i32), i8>,
    is_in_body: bool,
    voice: Option<String>,
    time: i64,
    notes: Vec<Note>,
    last: Option<Last>,
    /// Whether the last note is tied to the next one.
    is_tied: bool,
    /// `>` and `<` behind the last note: how often, and which.
    broken: i64,
    tuplet: Option<Tuplet>,
    /// Where bar lines are, and the meter that begins there.
    lines: Vec<(i64, Line, Option<Meter>)>,
    is_first_ending: bool,
}

impl Reader {
    fn read(lines: &[(usize, &str)]) -> Result<(Vec<Note>, Vec<Bar>), String> {
        let mut reader = Reader {
            meter: Some(Meter::COMMON),
            unit: None,
            key: [0; 7],
            accidentals: BTreeMap::new(),
            is_in_body: false,
            voice: None,
            time: 0,
            notes: Vec::new(),
            last: None,
            is_tied: false,
            broken: 0,
            tuplet: None,
            lines: Vec::new(),
            is_first_ending: false,
        };
        for &(number, line) in lines {
            let at_line = |problem: String| format!("line {number}: {problem}");
            if line.len() > LONGEST_LINE {
                let problem = format!("more than {LONGEST_LINE} characters");
                return Err(at_line(problem));
            }
            reader.line(line).map_err(at_line)?;
        }
        if !reader.is_in_body {
            return Err("has no key (K:), behind which a tune's notes begin".to_owned());
        }
        reader.end_note();
        let meter = reader.meter;
        reader.lines.push((reader.time, Line::Plain, meter));
        if reader.notes.is_empty() {
            return Err("has no notes".to_owned());
        }
        let bars = bars(&reader.lines)?;
        Ok((reader.notes, bars))
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        let line = line.trim_end();
        if line.starts_with('%') || line.is_empty() {
            return Ok(());
        }
        let mut letters = line.chars();
        let field = match (letters.next(), letters.next()) {
            (Some(name), Some(':')) if name.is_ascii_alphabetic() || name == '+' => Some(name),
            _ => None,
        };
        // `A:|` in a tune is a note before a repeat.
        let is_music = self.is_in_body
            && letters.next().is_some_and(|next| matches!(next, '|' | ':'))
            && field.is_some_and(|name| matches!(name, 'A'..='G' | 'a'..='g'));
        if let Some(name) = field.filter(|_| !is_music) {
            let value = line[2..].split('%').next().unwrap_or_default();
            return self.field(name, value.trim());
        }
        match self.is_in_body {
            true => self.music(line),
            false => Ok(()), // Text between the fields of a header.
        }
    }

    fn field(&mut self, name: char, value: &str) -> Result<(), String> {
        match name {
            'M' => {
                self.meter = meter(value)?;
                if self.is_in_body {
                    self.end_note();
                    self.lines.push((self.time, Line::Plain, self.meter));
                }
            }
            'L' => self.unit = Some(unit(value)?),
            'K' => {
                self.key = key(value, self.key)?;
                self.accidentals.clear();
                if !self.is_in_body {
                    self.is_in_body = true;
                    self.lines.push((0, Line::Plain, self.meter));
                }
            }
            'V' => {
                let voice = value.split_whitespace().next().unwrap_or_default();
                match &self.voice {
                    Some(first) if first != voice => {
                        return Err("several voices (V:) are not read".to_owned());
                    }
                    Some(_) => {}
                    None => self.voice = Some(voice.to_owned()),
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Ticks of the unit of length.
    fn unit(&self) -> i64 {
        let (num, den) = self.unit.unwrap_or_else(|| {
            let meter = self.meter.unwrap_or(Meter::COMMON);
            let is_short = 4 * meter.beats < 3 * meter.unit;
            (1, if is_short { 16 } else { 8 })
        });
        WHOLE * num / den
    }

    fn music(&mut self, line: &str) -> Result<(), String> {
        let mut text = Text(line);
        while let Some(letter) = text.first() {
            let at = text.0;
            match letter {
                '%' => return Ok(()),
                ' ' | '\t' | '\\' | '`' | ')' | '~' | '.' | '$' | '*' | ';' | '?' | '@' | '#' => {
                    text.skip()
                }
                // Decorations by a letter; a spacer.
                'H'..='W' | 'h'..='w' | 'y' | 'Y' => text.skip(),
                '"' => text.skip_to('"')?,
                '!' => text.skip_decoration(),
                '+' => text.skip_to('+')?,
                '{' => {
                    text.0 = text.0.split_once('}').ok_or("{ without }")?.1;
                }
                '(' => {
                    text.skip();
                    if text.first().is_some_and(|letter| letter.is_ascii_digit()) {
                        self.tuplet = Some(self.tuplet(&mut text)?);
                    }
                }
                '-' => {
                    text.skip();
                    self.is_tied = self.last.is_some_and(|last| last.pitch.is_some());
                }
                '>' | '<' => {
                    let n = text.0.chars().take_while(|&next| next == letter).count();
                    text.0 = &text.0[n..];
                    let n = i64::try_from(n).unwrap_or(0);
                    if n > 3 {
                        return Err(format!("{n} of {letter} behind a note, at most 3 are read"));
                    }
                    self.broken = if letter == '>' { n } else { -n };
                }
                '|' | ':' => self.bar_line(&mut text),
                ']' => text.skip(), // The end of a line such as |]
                '&' => return Err("several voices in a line (&) are not read".to_owned()),
                '[' => {
                    let mut rest = text.0[1..].chars();
                    match (rest.next(), rest.next()) {
                        (Some('|'), _) => {
                            text.skip();
                            self.bar_line(&mut text);
                        }
                        (Some(number), _) if number.is_ascii_digit() => {
                            text.skip();
                            self.ending(&mut text);
                        }
                        (Some(name), Some(':')) if name.is_ascii_alphabetic() => {
                            let (field, rest) = text.0[1..].split_once(']').ok_or("[ without ]")?;
                            text.0 = rest;
                            self.field(name, field[2..].trim())?;
                        }
                        _ => {
                            text.skip();
                            self.chord(&mut text)?;
                        }
                    }
                }
                // An ending whose bar line stands at the end of the line before.
                '1'..='9'
                    if self
                        .lines
                        .last()
                        .is_some_and(|(time, ..)| *time == self.time) =>
                {
                    self.ending(&mut text);
                }
                'z' | 'x' => {
                    text.skip();
                    let length = self.length(&mut text)?;
                    self.add(None, length)?;
                }
                'Z' | 'X' => {
                    text.skip();
                    let n = text.number().unwrap_or(1);
                    let meter = self.meter.ok_or("Z without a meter")?;
                    let bar = WHOLE * i64::from(meter.beats) / i64::from(meter.unit);
                    self.add(None, n.saturating_mul(bar))?;
                }
                '^' | '_' | '=' | 'A'..='G' | 'a'..='g' => {
                    let pitch = self.pitch(&mut text)?;
                    let length = self.length(&mut text)?;
                    self.add(Some(pitch), length)?;
                }
                other => return Err(format!("found {other:?}, which is not read")),
            }
            if text.0.len() == at.len() {
                text.skip(); // Never without progress.
            }
        }
        Ok(())
    }

    /// `(3`, `(3:2`, `(3:2:3`, behind the parenthesis.
    fn tuplet(&self, text: &mut Text) -> Result<Tuplet, String> {
        let p = text.number().unwrap_or(0);
        let is_compound = self
            .meter
            .is_some_and(|meter| meter.unit == 8 && meter.beats % 3 == 0);
        let mut number = |default: i64| {
            if text.first() != Some(':') {
                return default;
            }
            text.skip();
            text.number().unwrap_or(default)
        };
        let q = number(match p {
            2 | 4 | 8 => 3,
            3 | 6 => 2,
            _ if is_compound => 3,
            _ => 2,
        });
        let r = number(p);
        match (2..=32).contains(&p) && (1..=32).contains(&q) && (1..=64).contains(&r) {
            true => Ok(Tuplet {
                num: q,
                den: p,
                n_left: r,
            }),
            false => Err(format!("a tuplet ({p}:{q}:{r} is not read")),
        }
    }

    /// `[ceg]2`, behind the bracket: its highest note.
    fn chord(&mut self, text: &mut Text) -> Result<(), String> {
        let (mut highest, mut first_length) = (None, None);
        loop {
            match text.first() {
                None => return Err("[ without ]".to_owned()),
                Some(']') => break text.skip(),
                Some('^' | '_' | '=' | 'A'..='G' | 'a'..='g') => {
                    highest = highest.max(Some(self.pitch(text)?));
                    let length = self.length(text)?;
                    first_length.get_or_insert(length);
                }
                Some('"') => text.skip_to('"')?,
                Some('!') => text.skip_decoration(),
                Some('z' | 'x') => {
                    text.skip();
                    self.length(text)?;
                }
                Some('-') => {
                    text.skip();
                    self.is_tied = false;
                }
                Some(' ' | '.' | '~' | '(' | ')' | 'H'..='W' | 'h'..='w') => text.skip(),
                Some(other) => return Err(format!("found {other:?} in a chord")),
            }
        }
        let (Some(pitch), Some(inner)) = (highest, first_length) else {
            return Ok(());
        };
        let (num, den) = text.fraction()?;
        self.add(Some(pitch), inner.saturating_mul(num) / den)
    }

    /// A pitch with its accidental and octave.
    fn pitch(&mut self, text: &mut Text) -> Result<u8, String> {
        /// Semitones above C, of the letters from A to G.
        const SEMITONES: [i32; 7] = [9, 11, 0, 2, 4, 5, 7];
        let mut accidental = None;
        while let Some(sign @ ('^' | '_' | '=')) = text.first() {
            text.skip();
            let by = match sign {
                '^' => 1,
                '_' => -1,
                _ => 0,
            };
            accidental = Some(accidental.unwrap_or(0_i8).saturating_add(by));
        }
        let letter = text
            .first()
            .filter(|letter| matches!(letter, 'A'..='G' | 'a'..='g'));
        let letter = letter.ok_or("an accidental without a note")?;
        text.skip();
        let mut octave = if letter.is_ascii_lowercase() { 1 } else { 0 };
        while let Some(sign @ (',' | '\'')) = text.first() {
            text.skip();
            octave += if sign == ',' { -1 } else { 1 };
        }
        let name = letter.to_ascii_uppercase() as u8 - b'A';
        let accidental = match accidental {
            Some(found) if found.abs() > 2 => return Err("more than two accidentals".to_owned()),
            Some(found) => {
                self.accidentals.insert((name, octave), found);
                found
            }
            None => match self.accidentals.get(&(name, octave)) {
                Some(found) => *found,
                None => self.key[usize::from(name)],
            },
        };
        let pitch = 60 + 12 * octave + SEMITONES[usize::from(name)] + i32::from(accidental);
        u8::try_from(pitch)
            .ok()
            .filter(|&pitch| pitch < 128)
            .ok_or_else(|| format!("a note {octave} octaves above the middle one"))
    }

    /// Ticks of the length behind a note, `2`, `/2`, `3/2` or nothing.
    fn length(&self, text: &mut Text) -> Result<i64, String> {
        let (num, den) = text.fraction()?;
        Ok(self.unit().saturating_mul(num) / den)
    }

    /// Adds a note or a rest.
    fn add(&mut self, pitch: Option<u8>, length: i64) -> Result<(), String> {
        let mut length = length;
        if let Some(tuplet) = &mut self.tuplet {
            length = length.saturating_mul(tuplet.num) / tuplet.den;
            tuplet.n_left -= 1;
            if tuplet.n_left <= 0 {
                self.tuplet = None;
            }
        }
        if self.broken != 0 {
            // a>b: the first one is dotted, the second one has what is left; a>>b: double dotted.
            let (n, is_left) = (self.broken.unsigned_abs() as u32, self.broken > 0);
            let short = |ticks: i64| ticks >> n;
            let long = |ticks: i64| 2 * ticks - (ticks >> n);
            if let Some(last) = &mut self.last {
                let old = last.length;
                last.length = if is_left { long(old) } else { short(old) };
                self.time += last.length - old;
            }
            length = if is_left { short(length) } else { long(length) };
            self.broken = 0;
        }
        if !(1..=LONGEST).contains(&length) {
            return Err(format!(
                "a note or rest of {} whole notes",
                length as f64 / WHOLE as f64
            ));
        }
        if let Some(last) = self.last
            && std::mem::take(&mut self.is_tied)
            && pitch == last.pitch
        {
            // The same note, longer. A bar line may lie between.
            self.time += length;
            self.last = Some(Last {
                length: last.length + length,
                ..last
            });
            return Ok(());
        }
        self.end_note();
        if self.notes.len() == MOST_NOTES {
            return Err(format!("more than {MOST_NOTES} notes"));
        }
        self.last = Some(Last {
            pitch,
            start: self.time,
            length,
        });
        self.time += length;
        Ok(())
    }

    /// The last note is as it is.
    fn end_note(&mut self) {
        self.is_tied = false;
        if let Some(Last {
            pitch: Some(pitch),
            start,
            length,
        }) = self.last.take()
        {
            self.notes.push(Note {
                start,
                end: start + length,
                pitch,
            });
        }
    }

    /// `|`, `||`, `|:`, `:|`, `::`, `|1` and the like.
    fn bar_line(&mut self, text: &mut Text) {
        let mut is_repeat = false;
        while let Some(sign @ ('|' | ':')) = text.first() {
            is_repeat |= sign == ':';
            text.skip();
        }
        self.accidentals.clear();
        if text.first().is_some_and(|number| number.is_ascii_digit()) {
            // `:|2` after `|1`: what was played before it is not what stands before it.
            self.ending(text);
            return;
        }
        if is_repeat {
            self.is_first_ending = false;
        }
        self.add_line(Line::Plain);
    }

    /// `1`, `2`, `1,3` of an ending.
    fn ending(&mut self, text: &mut Text) {
        let n = text
            .0
            .find(|letter: char| !matches!(letter, '0'..='9' | ',' | '-' | '.'))
            .unwrap_or(text.0.len());
        let is_first = text.0[..n].starts_with('1');
        text.0 = &text.0[n..];
        self.is_first_ending = is_first;
        self.add_line(match is_first {
            true => Line::Plain,
            false => Line::OtherEnding,
        });
    }

    fn add_line(&mut self, line: Line) {
        // A broken rhythm never crosses it.
        self.broken = 0;
        match self.lines.last_mut() {
            Some((time, last, _)) if *time == self.time => {
                if line == Line::OtherEnding {
                    *last = line;
                }
            }
            _ => self.lines.push((self.time, line, self.meter)),
        }
    }
}

/// The whole bars between bar lines. An upbeat and the part of a bar that it completes, which stand before and behind a repeat,
/// are one bar.
fn bars(lines: &[(i64, Line, Option<Meter>)]) -> Result<Vec<Bar>, String> {
    let mut bars: Vec<Bar> = Vec::new();
    let mut follows = false;
    let mut i = 0;
    while i + 1 < lines.len() {
        let (start, line, meter) = lines[i];
        follows &= line == Line::Plain;
        let Some(meter) = meter else {
            follows = false;
            i += 1;
            continue;
        };
        let length = WHOLE * i64::from(meter.beats) / i64::from(meter.unit);
        let found = lines[i + 1].0 - start;
        let with_next = lines.get(i + 2).map(|(end, ..)| end - start);
        let is_one_with_next = found < length
            && with_next == Some(length)
            && lines[i + 1].1 == Line::Plain
            && lines[i + 1].2 == Some(meter);
        if found == length || is_one_with_next {
            if bars.len() == MOST_BARS {
                return Err(format!("has more than {MOST_BARS} bars"));
            }
            bars.push(Bar {
                start,
                length,
                meter,
                follows,
            });
            follows = true;
        } else if found > 0 {
            // An upbeat, or a bar with too many or too few notes.
            follows = false;
        }
        i += if is_one_with_next { 2 } else { 1 };
    }
    Ok(bars)
}

/// What is left of a line.
#[derive(Debug)]
struct Text<'a>(&'a str);

impl Text<'_> {
    fn first(&self) -> Option<char> {
        self.0.chars().next()
    }

    fn skip(&mut self) {
        let mut letters = self.0.chars();
        letters.next();
        self.0 = letters.as_str();
    }

    /// Skips from a mark to the next one like it.
    fn skip_to(&mut self, mark: char) -> Result<(), String> {
        self.skip();
        let end = self.0.find(mark);
        let end = end.ok_or_else(|| format!("{mark} without another one"))?;
        self.0 = &self.0[end + mark.len_utf8()..];
        Ok(())
    }

    /// Skips `!trill!`, or a single `!`, which in older files is the end of a printed line.
    fn skip_decoration(&mut self) {
        self.skip();
        let name = self.0.split_once('!');
        if let Some((name, rest)) = name
            && !name.contains(['|', ' '])
        {
            self.0 = rest;
        }
    }

    /// A number of at most six digits.
    fn number(&mut self) -> Option<i64> {
        let n = self.0.bytes().take_while(u8::is_ascii_digit).count();
        let number = self.0.get(..n.min(6))?.parse().ok();
        self.0 = &self.0[n..];
        number
    }

    /// `3`, `/`, `//`, `/4`, `3/2` or nothing, as numerator and denominator.
    fn fraction(&mut self) -> Result<(i64, i64), String> {
        let num = self.number().unwrap_or(1);
        let mut den = 1;
        while self.first() == Some('/') {
            self.skip();
            den *= self.number().unwrap_or(2);
            if !(1..=1024).contains(&den) {
                return Err(format!("a length divided by {den}"));
            }
        }
        Ok((num, den))
    }
}

/// `C`, `C|`, `6/8`, `2+3/8`; of `none` there is no meter.
fn meter(value: &str) -> Result<Option<Meter>, String> {
    let wrong = || format!("the meter {value:?}, expected one such as 4/4, 6/8, C or none");
    let meter = match value {
        "C" => Some(Meter::COMMON),
        "C|" => Meter::new(2, 2),
        "none" | "" => return Ok(None),
        _ => {
            let (beats, unit) = value.split_once('/').ok_or_else(wrong)?;
            let beats = beats.trim_matches(|sign: char| matches!(sign, '(' | ')' | ' '));
            let beats = beats.split('+').try_fold(0_u32, |sum, beats| {
                sum.checked_add(beats.trim().parse().ok()?)
            });
            let unit = unit.trim().parse().ok();
            beats
                .zip(unit)
                .and_then(|(beats, unit)| Meter::new(beats, unit))
        }
    };
    meter.map(Some).ok_or_else(wrong)
}

/// `1/8`.
fn unit(value: &str) -> Result<(i64, i64), String> {
    let wrong = || format!("the unit of length {value:?}, expected one such as 1/8");
    let (num, den) = value.split_once('/').unwrap_or((value, "1"));
    let number = |text: &str| text.trim().parse::<i64>().map_err(|_| wrong());
    let (num, den) = (number(num)?, number(den)?);
    let is_unit = (1..=16).contains(&num) && (1..=256).contains(&den);
    is_unit.then_some((num, den)).ok_or_else(wrong)
}

/// The signature of a key, as sharps and flats by letter from A to G. What does not name a key (a clef) leaves the one before.
fn key(value: &str, before: [i8; 7]) -> Result<[i8; 7], String> {
    /// Letters in the order in which they get sharps: F C G D A E B.
    const SHARPS: [usize; 7] = [5, 2, 6, 3, 0, 4, 1];
    /// Sharps of the major keys of A to G.
    const MAJOR: [i32; 7] = [3, 5, 0, 2, 4, -1, 1];
    let value = value.trim();
    let of_count = |n: i32| {
        let mut key = [0; 7];
        for i in 0..n.unsigned_abs().min(7) as usize {
            match n > 0 {
                true => key[SHARPS[i]] = 1,
                false => key[SHARPS[6 - i]] = -1,
            }
        }
        key
    };
    let mut letters = value.chars();
    let mut key = match letters.next() {
        None => return Ok(before),
        Some('H') => {
            // The highland pipes: HP has no signature, Hp that of D.
            let has_sharps = letters.next() == Some('p');
            return Ok(of_count(if has_sharps { 2 } else { 0 }));
        }
        Some(tonic @ 'A'..='G') => {
            let rest = letters.as_str();
            let (sign, rest) = match rest.chars().next() {
                Some('#') => (7, &rest[1..]),
                Some('b') => (-7, &rest[1..]),
                _ => (0, rest),
            };
            let mode: String = rest
                .trim_start()
                .chars()
                .take_while(char::is_ascii_alphabetic)
                .flat_map(char::to_lowercase)
                .take(3)
                .collect();
            let mode = match mode.as_str() {
                "lyd" => 1,
                "mix" => -1,
                "dor" => -2,
                "m" | "min" | "aeo" => -3,
                "phr" => -4,
                "loc" => -5,
                // Also `exp`, and what is no mode, such as a clef.
                _ => 0,
            };
            let is_explicit = rest.trim_start().starts_with("exp");
            let n = MAJOR[tonic as usize - 'A' as usize] + sign + mode;
            of_count(if is_explicit { 0 } else { n })
        }
        _ if value.starts_with("none") => [0; 7],
        // Such as `clef=treble`.
        _ if value.contains('=') => return Ok(before),
        _ => {
            return Err(format!(
                "the key {value:?}, expected one such as G, Em or D mixolydian"
            ));
        }
    };
    // Accidentals behind it: `K:D =c ^g`.
    for word in value.split_whitespace().skip(1) {
        let signs = word
            .chars()
            .take_while(|sign| "^_=".contains(*sign))
            .count();
        let letter = word[signs..].chars().next().filter(|_| signs > 0);
        if let Some(letter @ ('A'..='G' | 'a'..='g')) = letter {
            let by = word[..signs].chars().map(|sign| match sign {
                '^' => 1,
                '_' => -1,
                _ => 0_i8,
            });
            let by = by.fold(0_i8, i8::saturating_add).clamp(-2, 2);
            key[usize::from(letter.to_ascii_uppercase() as u8 - b'A')] = by;
        }
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use vae_base::MelodySpec;

    use super::super::tune::tests::grid;
    use super::*;

    fn tune(text: &str) -> Tune {
        let mut tunes = read(text.as_bytes());
        assert_eq!(tunes.len(), 1, "{text}");
        tunes
            .remove(0)
            .unwrap_or_else(|(_, reason)| panic!("{reason}: {text}"))
    }

    /// Pitch and length in eighths of each note of a line, in 4/4 with L:1/8.
    fn line(key: &str, line: &str) -> Vec<(u8, f64)> {
        let tune = tune(&format!("X:1\nM:4/4\nL:1/8\nK:{key}\n{line}\n"));
        let eighths = |ticks: i64| ticks as f64 / (WHOLE / 8) as f64;
        let notes = tune.notes.iter();
        notes
            .map(|note| (note.pitch, eighths(note.end - note.start)))
            .collect()
    }

    fn pitches(key: &str, text: &str) -> Vec<u8> {
        line(key, text).iter().map(|(pitch, _)| *pitch).collect()
    }

    #[test]
    fn pitches_have_keys_accidentals_and_octaves() {
        assert_eq!(
            pitches("C", "C D E F G A B c b c' C,"),
            [60, 62, 64, 65, 67, 69, 71, 72, 83, 84, 48]
        );
        assert_eq!(pitches("G", "F f ^F =F F | F"), [66, 78, 66, 65, 65, 66]);
        // Of one octave alone, and until the bar line.
        assert_eq!(
            pitches("C", "^c C c | c _B B __B ^^C"),
            [73, 60, 73, 72, 70, 70, 69, 62]
        );
        assert_eq!(pitches("Eb", "E A B"), [63, 68, 70]);
        for (key, sharps_and_flats) in [
            ("Am", 0),
            ("A Minor", 0),
            ("Edor", 2),
            ("D Mixolydian", 1),
            ("Glyd", 2),
            ("F#m", 3),
            ("Bb", -2),
            ("Bphr", 1),
            ("AMix", 2),
            ("Cm", -3),
            ("HP", 0),
            ("Hp", 2),
            ("none", 0),
        ] {
            let key = super::key(key, [9; 7]).unwrap();
            assert_eq!(key.iter().sum::<i8>(), sharps_and_flats, "{key:?}");
        }
        assert_eq!(pitches("D =c", "c f"), [72, 78]);
        assert!(super::key("?", [0; 7]).is_err());
    }

    #[test]
    fn lengths_are_multiples_parts_tuplets_and_dots() {
        let lengths = |text: &str| -> Vec<f64> {
            line("C", text).iter().map(|(_, length)| *length).collect()
        };
        assert_eq!(
            lengths("A A2 A/ A/2 A// A3/2 A/4"),
            [1.0, 2.0, 0.5, 0.5, 0.25, 1.5, 0.25]
        );
        assert_eq!(lengths("A>B A<B A2>>B2"), [1.5, 0.5, 0.5, 1.5, 3.5, 0.5]);
        let third = 2.0 / 3.0;
        assert_eq!(
            lengths("(3ABc d (3:2:2A2B"),
            [third, third, third, 1.0, 2.0 * third, third]
        );
        assert_eq!(lengths("A2-A B-|B2 A-B"), [3.0, 3.0, 1.0, 1.0]);
        assert_eq!(line("C", "[CEG]2 A"), [(67, 2.0), (69, 1.0)]);
        assert_eq!(line("C", "[C2E2G2] A"), [(67, 2.0), (69, 1.0)]);
        // What is no note.
        assert_eq!(
            pitches("C", "{cd}\"Am\"!trill!~uvA. (B c) ``d % e"),
            [69, 71, 72, 74]
        );
    }

    #[test]
    fn the_first_bars_of_a_known_tune() {
        // Aird's Airs, number 1: The White Cockade, with an upbeat, and repeats that cut a bar in two.
        let text = "%abc\nX:0001\nT:The White Cockade\nM:C|\nL:1/8\nQ:1/2=112\nK:G\n\
                    AG|B2B2 B2AG|B2B2 B2g2|B2B2 B2AG|AGAB A2\n\
                    GA|B2B2 cBAG|A2B2 g2fg|a2gf g2fe|d2B2 B2::\n\
                    Bc|d2B2 g2B2|d2d2 d2e2|d2cB g2fg|a2A2 A2\n\
                    GA|B2B2 cBAG|A2B2 g2fg|a2gf g2fe|d2B2 B2:|\n";
        let tune = tune(text);
        assert_eq!(tune.name, "0001");
        // 3 + 1 + 3 + 1 + 3 + 1 + 3 whole bars, of which the last half of the last one is missing.
        assert_eq!(tune.bars.len(), 15);
        assert!(tune.bars[1..].iter().all(|bar| bar.follows) && !tune.bars[0].follows);
        let windows = tune.windows(&grid(2, &["2/2"]));
        let [a, b, g, g2] = [69, 71, 67, 79].map(|pitch| MelodySpec::token(pitch).unwrap());
        let wanted = [
            b, 0, 0, 0, b, 0, 0, 0, b, 0, 0, 0, a, 0, g, 0, //
            b, 0, 0, 0, b, 0, 0, 0, b, 0, 0, 0, g2, 0, 0, 0,
        ];
        assert_eq!(windows[0].tokens, wanted);
        // The second part of the melody comes twice, each time in the same windows.
        assert_eq!(windows.len(), 14 - 2);
    }

    #[test]
    fn older_habits_are_read() {
        // An ending on its own line, line breaks, a rest in a chord.
        let text = "X:1\nM:4/4\nL:1/4\nK:C\nCDEF|GABc|!\n1 cBA!G:|2 c4|]\n";
        let follows: Vec<bool> = tune(text).bars.iter().map(|bar| bar.follows).collect();
        assert_eq!(follows, [false, true, true, false]);
        assert_eq!(
            pitches("C", "C!D|E!F !fermata!G [C2z2]"),
            [60, 62, 64, 65, 67, 60]
        );
    }

    #[test]
    fn no_window_crosses_into_another_ending() {
        let text = "X:1\nM:4/4\nL:1/4\nK:C\nCDEF|GABc|1 cBAG:|2 c4|]\n";
        let tune = tune(text);
        let follows: Vec<bool> = tune.bars.iter().map(|bar| bar.follows).collect();
        assert_eq!(follows, [false, true, true, false]);
    }

    #[test]
    fn bars_with_too_many_notes_interrupt() {
        let text = "X:1\nM:4/4\nL:1/4\nK:C\nCDEF|GABcd|cBAG|[M:3/4]CDE|\nM:2/4\nA:|\n";
        let tune = tune(text);
        let bars: Vec<(String, bool)> = tune
            .bars
            .iter()
            .map(|bar| (bar.meter.to_string(), bar.follows))
            .collect();
        let bar = |meter: &str, follows| (meter.to_owned(), follows);
        assert_eq!(
            bars,
            [bar("4/4", false), bar("4/4", false), bar("3/4", true)]
        );
    }

    #[test]
    fn what_is_not_read_is_said_with_its_line() {
        let reason = |text: &str| match read(text.as_bytes()).remove(0) {
            Ok(tune) => panic!("read as {tune:?}"),
            Err((name, reason)) => format!("{name}: {reason}"),
        };
        let head = "X:7\nM:4/4\nK:C\n";
        for (body, said) in [
            ("AB & c", "7: line 4: several voices in a line"),
            ("V:1\nA\nV:2\nc", "7: line 6: several voices (V:)"),
            ("A é", "7: line 4: found 'é'"),
            ("\"A", "7: line 4: \" without another one"),
            ("{A", "7: line 4: { without }"),
            ("[A", "7: line 4: [ without ]"),
            ("^^^A", "7: line 4: more than two accidentals"),
            ("A''''''''", "7: line 4: a note 8 octaves"),
            ("A999999", "7: line 4: a note or rest of"),
            ("A/0", "7: line 4: a length divided by 0"),
            ("Z999999", "7: line 4: a note or rest of"),
            ("L:0/8", "7: line 4: the unit of length"),
            ("M:4/5", "7: line 4: the meter \"4/5\""),
            ("|||", "7: has no notes"),
            ("A>>>>B", "7: line 4: 4 of > behind"),
        ] {
            let found = reason(&format!("{head}{body}\n"));
            assert!(found.starts_with(said), "{found}, expected {said}");
        }
        assert!(reason("X:1\nABC\n").contains("no key"));
        // Other tunes of the file are read.
        let both = read(b"X:1\nK:C\nA&\n\nX:2\nK:C\nA|\n");
        assert!(both[0].is_err() && both[1].is_ok());
        assert!(read(b"no tune").is_empty());
    }
}
