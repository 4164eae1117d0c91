//! `cargo xtask fetch-data tunes`: old tunes of the public domain, an ABC file each, from the corpus of music21.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::{self, File};
use std::io::{Cursor, Read, Seek};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use zip::ZipArchive;

use super::recordings::{self, Origin};
use crate::download::{Client, Patience};
use crate::pip::Pip;
use crate::workspace::Workspace;

/// The data set's name.
pub(super) const NAME: &str = "tunes";

/// Bytes of the largest archive, and of the largest file in it.
const LARGEST_ARCHIVE: u64 = 1 << 29;
const LARGEST_FILE: u64 = 1 << 24;

/// Folders of the corpus in ABC, and what they are called here.
const BOOKS: [(&str, &str); 3] = [
    ("airdsAirs", "aird"),
    ("oneills1850", "oneill"),
    ("ryansMammoth", "ryan"),
];

/// The folder of chorales in MusicXML, of which the soprano is taken.
const CHORALES: (&str, &str) = ("bach", "bach");

/// `datasets/tunes.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TunesManifest {
    description: String,
    license: String,
    homepage: String,
    /// An archive with the corpus.
    url: String,
    /// A wheel with the corpus.
    wheel: String,
    /// Of the files that are taken, see [`Corpus::sum`].
    sha256: String,
}

/// Whether all tunes are there.
pub(super) fn is_complete(folder: &Path) -> bool {
    recordings::is_whole(folder)
}

/// Put the tunes into `datasets/tunes`, a folder for each book, with a list that keeps tunes of one name, and chorales of one
/// melody, in one split.
///
/// # Errors
/// No source has the corpus; `from` is not it; the file system refuses.
pub(super) fn fetch(workspace: &Workspace, from: Option<&Path>) -> Result<()> {
    let folder = workspace.datasets().join(NAME);
    let path = workspace.datasets().join(format!("{NAME}.toml"));
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let manifest: TunesManifest =
        toml::from_str(&text).with_context(|| format!("{} is no manifest", path.display()))?;
    eprintln!(
        "{NAME}: {} ({}; {})",
        manifest.description, manifest.license, manifest.homepage
    );
    if from.is_none() && is_complete(&folder) {
        eprintln!("{NAME}: {} is complete", workspace.shown(&folder));
        return Ok(());
    }
    let (corpus, source) = match from {
        Some(from) => {
            let corpus = Corpus::of_path(from)?;
            corpus
                .check(&manifest.sha256)
                .with_context(|| from.display().to_string())?;
            (corpus, from.display().to_string())
        }
        None => manifest.corpus()?,
    };
    let tunes = corpus.tunes()?;
    recordings::begin(&folder)?;
    write(&tunes, &folder)?;
    let origin = Origin {
        description: manifest.description,
        license: manifest.license,
        source,
        n_recordings: tunes.len(),
    };
    recordings::finish(&folder, &origin)?;
    eprintln!(
        "{NAME}: {} holds its {} tunes",
        workspace.shown(&folder),
        tunes.len()
    );
    Ok(())
}

impl TunesManifest {
    /// The corpus, from the first source that has it, and which one that is.
    fn corpus(&self) -> Result<(Corpus, String)> {
        let from_web = || -> Result<Corpus> {
            let (body, _) = Client::new(Patience::default()).open(&self.url)?;
            let mut content = Vec::new();
            body.take(LARGEST_ARCHIVE).read_to_end(&mut content)?;
            Corpus::of_archive(Cursor::new(content))
        };
        let from_wheel = || -> Result<Corpus> {
            let scratch = tempfile::tempdir().context("cannot create a temporary folder")?;
            // The wheel has no code for a certain Python, but says for which it is.
            let options = ["--python-version=3.13".to_owned()];
            let wheel = Pip::find()?.download(&self.wheel, &options, scratch.path())?;
            Corpus::of_path(&wheel)
        };
        let mut failures = Vec::new();
        let sources: [(&str, &dyn Fn() -> Result<Corpus>); 2] =
            [(&self.url, &from_web), (&self.wheel, &from_wheel)];
        for (source, corpus) in sources {
            eprintln!("  from {source}");
            let corpus = corpus().and_then(|corpus| {
                corpus.check(&self.sha256)?;
                Ok(corpus)
            });
            match corpus {
                Ok(corpus) => return Ok((corpus, format!("music21's corpus, {source}"))),
                Err(reason) => {
                    eprintln!("    failed: {reason:#}");
                    failures.push(format!("  - {source}: {reason:#}"));
                }
            }
        }
        bail!(
            "no source gave the tunes:\n{}\nWhat you can do: run this again when the network is there, or pass music21's wheel, \
             its sources as a zip or its folder corpus with --from PATH.",
            failures.join("\n")
        )
    }
}

/// The files of the corpus that are taken, by folder and name.
#[derive(Debug, Default)]
struct Corpus(BTreeMap<(String, String), Vec<u8>>);

impl Corpus {
    /// That of a zip, or of the folder `corpus`.
    fn of_path(path: &Path) -> Result<Corpus> {
        if !path.is_dir() {
            let file =
                File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            return Corpus::of_archive(file).with_context(|| path.display().to_string());
        }
        let mut corpus = Corpus::default();
        for (folder, _) in BOOKS.iter().chain([&CHORALES]) {
            let folder_path = path.join(folder);
            let entries = fs::read_dir(&folder_path)
                .with_context(|| format!("cannot read {}", folder_path.display()))?;
            for entry in entries {
                let entry = entry?.path();
                let name = entry
                    .file_name()
                    .and_then(|name| name.to_str())
                    .unwrap_or_default();
                if is_taken(folder, name) {
                    let content = fs::read(&entry)
                        .with_context(|| format!("cannot read {}", entry.display()))?;
                    let key = ((*folder).to_owned(), name.to_owned());
                    corpus.0.insert(key, content);
                }
            }
        }
        Ok(corpus)
    }

    /// Files in folders of a zip whose path has `corpus/` in it.
    fn of_archive(archive: impl Read + Seek) -> Result<Corpus> {
        let mut archive = ZipArchive::new(archive).context("is no zip archive")?;
        let mut corpus = Corpus::default();
        for i in 0..archive.len() {
            let file = archive.by_index(i).context("the archive is damaged")?;
            let path = file.name().context("the archive is damaged")?.into_owned();
            let Some((_, place)) = path.split_once("music21/corpus/") else {
                continue;
            };
            let Some((folder, name)) = place.split_once('/') else {
                continue;
            };
            if !is_taken(folder, name) {
                continue;
            }
            let mut content = Vec::new();
            file.take(LARGEST_FILE).read_to_end(&mut content)?;
            corpus
                .0
                .insert((folder.to_owned(), name.to_owned()), content);
        }
        Ok(corpus)
    }

    /// The SHA-256 of all files in the order of their folders and names: of each both, its length and its content.
    fn sum(&self) -> String {
        let mut hash = Sha256::new();
        for ((folder, name), content) in &self.0 {
            hash.update(format!("{folder}/{name}\n{}\n", content.len()));
            hash.update(content);
        }
        hash.finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    fn check(&self, sha256: &str) -> Result<()> {
        let found = self.sum();
        ensure!(
            found == sha256,
            "its {} files of tunes have the SHA-256 {found}, expected {sha256}; refused",
            self.0.len()
        );
        Ok(())
    }

    /// All tunes in the order of their files.
    fn tunes(&self) -> Result<Vec<Tune>> {
        let mut tunes: Vec<Tune> = Vec::new();
        let mut known = BTreeMap::new();
        for ((folder, name), content) in &self.0 {
            let new = match BOOKS.iter().find(|(found, _)| found == folder) {
                Some((_, book)) => of_book(book, name, &String::from_utf8_lossy(content)),
                None => vec![chorale(name, content).with_context(|| name.clone())?]
                    .into_iter()
                    .flatten()
                    .collect(),
            };
            for mut tune in new {
                // Two people wrote down some of O'Neill's tunes: the first one stays.
                let n = known.entry(tune.file.clone()).or_insert(0_usize);
                *n += 1;
                match (*n, tune.file.starts_with("oneill/")) {
                    (1, _) => {}
                    (_, true) => continue,
                    (n, false) => tune.file = tune.file.replace(".abc", &format!("-{n}.abc")),
                }
                tunes.push(tune);
            }
        }
        Ok(tunes)
    }
}

fn is_taken(folder: &str, name: &str) -> bool {
    let is_book = BOOKS.iter().any(|(book, _)| *book == folder);
    is_book && name.ends_with(".abc")
        || folder == CHORALES.0 && name.starts_with("bwv") && name.ends_with(".mxl")
}

/// A tune as an ABC file.
#[derive(Debug, PartialEq)]
struct Tune {
    /// Its path in the data set.
    file: String,
    content: String,
    /// What it shares with others that are the same: its names, or of a chorale the beginning of its melody.
    names: Vec<String>,
}

/// The tunes of a file of a book. A tune begins with its number (X:).
fn of_book(book: &str, file: &str, text: &str) -> Vec<Tune> {
    let mut tunes: Vec<(String, Vec<&str>)> = Vec::new();
    for line in text.lines().map(str::trim_end) {
        if let Some(number) = line.strip_prefix("X:") {
            tunes.push((number.trim().to_owned(), vec![line]));
        } else if let Some((_, lines)) = tunes.last_mut() {
            lines.push(line);
        }
    }
    let tune = |(number, lines): (String, Vec<&str>)| {
        let titles = lines.iter().filter_map(|line| line.strip_prefix("T:"));
        let names: Vec<String> = titles.map(plain).filter(|name| !name.is_empty()).collect();
        let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
        let number: u32 = digits.parse().unwrap_or(0);
        let name = match book {
            "oneill" => format!("{number:04}"),
            "aird" => format!("{}-{number:04}", file.trim_end_matches(".abc")),
            _ => file.trim_end_matches(".abc").to_owned(),
        };
        let content = format!("{}\n", lines.join("\n").trim_end());
        Tune {
            file: format!("{book}/{name}.abc"),
            content,
            names,
        }
    };
    tunes.into_iter().map(tune).collect()
}

/// A title in lower-case letters and digits, without what differs from book to book: an article, a kind of dance behind a dash.
fn plain(title: &str) -> String {
    let title = title.split(" -- ").next().unwrap_or_default();
    let title = title.split(['(', ',', '.']).next().unwrap_or_default();
    let title = title.trim().to_lowercase();
    let title = title.strip_prefix("the ").unwrap_or(&title);
    title.chars().filter(char::is_ascii_alphanumeric).collect()
}

/// The soprano of a chorale as ABC; none if its first part is another one.
fn chorale(file: &str, content: &[u8]) -> Result<Option<Tune>> {
    let mut archive = ZipArchive::new(Cursor::new(content)).context("is no zip archive")?;
    let is_score = |name: &str| !name.starts_with("META-INF") && name.ends_with("xml");
    let score = archive
        .file_names()
        .filter_map(Result::ok)
        .map(|name| name.into_owned())
        .find(|name| is_score(name));
    let score = score.context("has no score")?;
    let mut text = String::new();
    archive
        .by_name(&score)?
        .take(LARGEST_FILE)
        .read_to_string(&mut text)?;
    let name = file.trim_end_matches(".mxl");
    let Some(Soprano {
        meter,
        body,
        intervals,
    }) = soprano(&text)
    else {
        return Ok(None);
    };
    Ok(Some(Tune {
        file: format!("{}/{name}.abc", CHORALES.1),
        content: format!(
            "X:1\nT:{}\nC:J. S. Bach\nN:soprano of a chorale\nM:{meter}\nL:1/16\nK:C\n{body}\n",
            name.to_uppercase().replace("BWV", "BWV ")
        ),
        names: vec![format!("chorale {intervals}")],
    }))
}

/// The melody of a chorale.
struct Soprano {
    meter: String,
    /// Bars in ABC, every note with its accidental.
    body: String,
    /// The first intervals in semitones, by which chorales of one melody are known in any key.
    intervals: String,
}

/// The first part of a score in MusicXML, if it is called soprano.
fn soprano(score: &str) -> Option<Soprano> {
    const N_INTERVALS: usize = 7;
    let part_name = element(score, "part-name")?;
    if !part_name.to_lowercase().starts_with("sop") {
        return None;
    }
    let part = score.split_once("<part ")?.1;
    let part = part.split_once("</part>")?.0;
    let (mut divisions, mut meter, mut body) = (1_i64, None, String::new());
    let mut pitches = Vec::new();
    for measure in part.split("<measure ").skip(1) {
        if let Some(found) = element(measure, "divisions") {
            divisions = found.parse().ok().filter(|n| (1..=10_080).contains(n))?;
        }
        if let (Some(beats), Some(unit)) =
            (element(measure, "beats"), element(measure, "beat-type"))
        {
            let found = format!("{beats}/{unit}");
            match &meter {
                None => meter = Some(found),
                Some(before) if *before != found => write!(body, "[M:{found}]").ok()?,
                Some(_) => {}
            }
        }
        // Behind it other voices of the part.
        let voice = measure.split("<backup>").next().unwrap_or_default();
        for note in voice.split("<note").skip(1) {
            let note = note.split("</note>").next().unwrap_or_default();
            if note.contains("<chord") || note.contains("<grace") {
                continue;
            }
            let duration: i64 = element(note, "duration")?.parse().ok()?;
            let pitch = if note.contains("<rest") {
                "z".to_owned()
            } else {
                let step = element(note, "step")?.chars().next()?;
                let alter: i64 =
                    element(note, "alter").map_or(Some(0), |alter| alter.parse().ok())?;
                let octave: i64 = element(note, "octave")?.parse().ok()?;
                if !note.contains("<tie type=\"stop\"") {
                    let semitone = [9, 11, 0, 2, 4, 5, 7][usize::from(step as u8 - b'A')];
                    pitches.push(12 * octave + semitone + alter);
                }
                abc_pitch(step, alter, octave)?
            };
            let tie = if note.contains("<tie type=\"start\"") {
                "-"
            } else {
                ""
            };
            let (num, den) = reduced(4 * duration, divisions);
            let length = match (num, den) {
                (1, 1) => String::new(),
                (num, 1) => num.to_string(),
                (num, den) => format!("{num}/{den}"),
            };
            write!(body, "{pitch}{length}{tie} ").ok()?;
        }
        body += "|\n";
    }
    let intervals: Vec<String> = pitches
        .windows(2)
        .take(N_INTERVALS)
        .map(|two| (two[1] - two[0]).to_string())
        .collect();
    Some(Soprano {
        meter: meter?,
        body: body.trim_end().to_owned(),
        intervals: intervals.join(" "),
    })
}

/// The text of the first element of this name.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let start = xml.find(&format!("<{name}>"))? + name.len() + 2;
    let rest = &xml[start..];
    Some(rest[..rest.find('<')?].trim())
}

/// A note in ABC, always with its accidental.
fn abc_pitch(step: char, alter: i64, octave: i64) -> Option<String> {
    let accidental = match alter {
        -2 => "__",
        -1 => "_",
        0 => "=",
        1 => "^",
        2 => "^^",
        _ => return None,
    };
    let is_letter = matches!(step, 'A'..='G');
    let letter = match octave {
        5.. => step.to_ascii_lowercase(),
        _ => step,
    };
    let marks = match octave {
        0..=3 => ",".repeat(4 - octave as usize),
        4 | 5 => String::new(),
        6..=9 => "'".repeat(octave as usize - 5),
        _ => return None,
    };
    is_letter.then(|| format!("{accidental}{letter}{marks}"))
}

fn reduced(num: i64, den: i64) -> (i64, i64) {
    let (mut a, mut b) = (num, den);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    (num / a.max(1), den / a.max(1))
}

/// Writes the tunes and the list of their splits.
fn write(tunes: &[Tune], folder: &Path) -> Result<()> {
    let mut list = String::new();
    for (tune, part) in tunes.iter().zip(parts(tunes)) {
        let path = folder.join(&tune.file);
        if let Some(book) = path.parent() {
            fs::create_dir_all(book)
                .with_context(|| format!("cannot create {}", book.display()))?;
        }
        fs::write(&path, &tune.content)
            .with_context(|| format!("cannot write {}", path.display()))?;
        writeln!(list, "{} {part}", tune.file)?;
    }
    let path = folder.join("list_eval_partition.txt");
    fs::write(&path, list).with_context(|| format!("cannot write {}", path.display()))
}

/// The split of each tune, 0 (training), 1 (validation) or 2 (testing): tunes that share a name are in the same one, chosen by the
/// hash of the first name of them all.
fn parts(tunes: &[Tune]) -> Vec<u8> {
    // Groups by the smallest position in them.
    let mut group: Vec<usize> = (0..tunes.len()).collect();
    fn root(group: &mut [usize], mut i: usize) -> usize {
        while group[i] != i {
            group[i] = group[group[i]];
            i = group[i];
        }
        i
    }
    let mut first: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, tune) in tunes.iter().enumerate() {
        for name in &tune.names {
            let other = *first.entry(name).or_insert(i);
            let (a, b) = (root(&mut group, i), root(&mut group, other));
            group[a.max(b)] = a.min(b);
        }
    }
    (0..tunes.len())
        .map(|i| {
            let known = root(&mut group, i);
            let key = tunes[known].names.first().unwrap_or(&tunes[known].file);
            let hash = Sha256::digest(key);
            // Of 256 each: a tenth for testing, a tenth for validation.
            match hash.first() {
                Some(0..=25) => 2,
                Some(26..=51) => 1,
                _ => 0,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_is_read() {
        let workspace = Workspace::find().unwrap();
        let text = fs::read_to_string(workspace.datasets().join("tunes.toml")).unwrap();
        let manifest: TunesManifest = toml::from_str(&text).unwrap();
        assert_eq!(manifest.sha256.len(), 64);
        assert!(manifest.wheel.starts_with("music21=="));
    }

    #[test]
    fn a_book_is_cut_into_its_tunes() {
        let text =
            "% a book\n\nX: 7\nT: The Rakes of Mallow\nK:G\nABc|\n\n\nX:8\nT:Polka, The\nK:D\nd|\n";
        let tunes = of_book("oneill", "0001-0050.abc", text);
        assert_eq!(tunes.len(), 2);
        assert_eq!(tunes[0].file, "oneill/0007.abc");
        assert_eq!(
            tunes[0].content,
            "X: 7\nT: The Rakes of Mallow\nK:G\nABc|\n"
        );
        assert_eq!(tunes[0].names, ["rakesofmallow"]);
        assert_eq!(
            of_book("aird", "book1.abc", text)[1].file,
            "aird/book1-0008.abc"
        );
        assert_eq!(plain("Acacia -- Reel"), "acacia");
        assert_eq!(plain(" The Acacia, (reel)."), "acacia");
    }

    #[test]
    fn tunes_of_one_name_are_in_one_split() {
        let tune = |file: usize, names: &[&str]| Tune {
            file: format!("{file}.abc"),
            content: String::new(),
            names: names.iter().map(|&name| name.to_owned()).collect(),
        };
        let chain: Vec<Tune> = (0..60)
            .map(|i| tune(i, &[&format!("n{i}"), &format!("n{}", i + 1)]))
            .collect();
        let of_chain = parts(&chain);
        assert!(
            of_chain.iter().all(|part| *part == of_chain[0]),
            "each shares a name with the next"
        );
        let alone: Vec<Tune> = (0..1000).map(|i| tune(i, &[&format!("n{i}")])).collect();
        let of_alone = parts(&alone);
        for part in [1, 2] {
            let n = of_alone.iter().filter(|found| **found == part).count();
            // Standard deviation 9.5.
            assert!(n.abs_diff(102) < 50, "{n}");
        }
    }

    #[test]
    fn the_soprano_of_a_score_is_abc() {
        let note = |pitch: &str, duration: i64, more: &str| {
            format!("<note>{pitch}<duration>{duration}</duration>{more}</note>")
        };
        let pitch = |step: char, octave: i64, alter: &str| {
            format!("<pitch><step>{step}</step>{alter}<octave>{octave}</octave></pitch>")
        };
        let score = format!(
            "<part-list><score-part id=\"P1\"><part-name>Soprano</part-name></score-part></part-list>\
             <part id=\"P1\"><measure number=\"0\"><attributes><divisions>2</divisions><time><beats>4</beats>\
             <beat-type>4</beat-type></time></attributes>{}{}</measure><measure number=\"1\">{}{}{}<backup></backup>{}\
             </measure></part><part id=\"P2\"></part>",
            note(&pitch('C', 5, "<alter>1</alter>"), 1, ""),
            note(&pitch('B', 4, ""), 1, "<tie type=\"start\"/>"),
            note(&pitch('B', 4, ""), 3, "<tie type=\"stop\"/>"),
            note("<rest/>", 2, ""),
            note(&pitch('E', 3, "<alter>-1</alter>"), 3, ""),
            note(&pitch('C', 3, ""), 8, ""),
        );
        let found = soprano(&score).unwrap();
        assert_eq!(found.meter, "4/4");
        assert_eq!(found.body, "^c2 =B2- |\n=B6 z4 _E,6 |");
        assert_eq!(found.intervals, "-2 -20");
        assert!(soprano(&score.replace("Soprano", "Alto")).is_none());
        assert_eq!(reduced(6, 4), (3, 2));
        assert_eq!(abc_pitch('G', 0, 6).unwrap(), "=g'");
    }
}
