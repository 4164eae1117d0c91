//! `vae arithmetic`: sums and differences of latents.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;
use tch::{Tensor, no_grad};
use vae_view::labeled::Labeled;
use vae_view::picture::{self, Pixels};
use vae_view::{latent, tiles};

use super::items_file::picture_or_text_name;
use super::place::{Place, Places};
use super::{LookArgs, RunArgs, place, print_file, subject, texts};
use crate::Done;
use crate::output::out;

/// Add and subtract images in latent space
///
/// The picture shows the reconstruction of each image in the order of the expression, and at its end the result. There must be a
/// space between a sign and a name: `a-b.jpg` is one file. Instead of a file, test:N (a test image), z:0.1,-2,… (a latent) or
/// prior:SEED are possible.
///
/// In a run of texts a name may be a text itself. The results are printed: the reconstruction of each, and at the end the sum.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vae arithmetic runs/celeba \"glasses.jpg - without.jpg + me.jpg\" --out me-with-glasses.png
  vae arithmetic runs/mnist \"test:0 - test:3 + test:10\" --out sum.png
  vae arithmetic runs/names \"Paula - Paul + Robert\"")]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,

    /// As in "a.jpg - b.jpg + c.jpg"
    #[arg(value_name = "EXPRESSION", allow_hyphen_values = true)]
    expression: Expression,

    /// The picture to write: .png, .jpg, .webp, .gif or .apng; of texts a text
    #[arg(long, short, value_name = "FILE.png|FILE.txt", value_parser = picture_or_text_name())]
    out: Option<PathBuf>,

    #[command(flatten)]
    look: LookArgs,

    /// Print JSON instead of the file's name
    #[arg(long)]
    json: bool,
}

/// Points with signs.
#[derive(Clone, Debug, PartialEq)]
struct Expression(Vec<(f64, Place)>);

impl std::str::FromStr for Expression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let mut terms = Vec::new();
        let (mut sign, mut words) = (1.0, Vec::new());
        // A sign is a word of its own, since file names may contain spaces.
        let mut finish = |sign: f64, words: &mut Vec<&str>| -> Result<(), String> {
            let name = words.join(" ");
            if name.trim().is_empty() {
                return Err(format!(
                    "found `{text}`, expected an image on both sides of each sign, as in a.jpg - b.jpg + \
                     c.jpg"
                ));
            }
            terms.push((sign, name.parse()?));
            words.clear();
            Ok(())
        };
        for (i, word) in text.split(' ').enumerate() {
            match word {
                "+" | "-" => {
                    if i > 0 {
                        finish(sign, &mut words)?;
                    }
                    sign = if word == "-" { -1.0 } else { 1.0 };
                }
                word => words.push(word),
            }
        }
        finish(sign, &mut words)?;
        Ok(Self(terms))
    }
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let run = args.run.open()?;
    texts::check_name(run.vae(), args.out.as_deref())?;
    let (signs, places): (Vec<f64>, Vec<Place>) = args.expression.0.into_iter().unzip();
    let Places {
        latents: terms, // [N, Z]
        condition,
    } = place::latents(&run, &places)?;
    let shown = signs.clone();
    let signs = Tensor::from_slice(&signs)
        .to_kind(terms.kind())
        .unsqueeze(1);
    let sum = (&terms * signs).sum_dim_intlist(0, true, terms.kind());
    let sum = latent::onto_support(run.vae(), &sum)?;
    let all = Tensor::cat(&[&terms, &sum], 0);
    // The result gets the condition of the last image, which is the one that is changed.
    let condition = condition.map(|known| {
        let last = known.narrow(0, known.size()[0] - 1, 1);
        Tensor::cat(&[known, last], 0)
    });
    let all = (&all, condition.as_ref());
    let items = no_grad(|| picture::decoded(run.vae(), all, Pixels::Mean))?;
    match (texts::of(run.vae(), &items)?, &args.out) {
        (Some(found), _) if args.json => out!("{}", json!({ "texts": found })),
        (Some(found), out) => texts::print(&found, out.as_deref())?,
        (None, Some(out)) => {
            let images = tiles(run.vae().item(), &items)?;
            let names = places.iter().zip(&shown).enumerate();
            let mut columns: Vec<String> = names
                .map(|(i, (place, sign))| match (i, sign < &0.0) {
                    (0, false) => place.to_string(),
                    (_, false) => format!("+ {place}"),
                    (_, true) => format!("− {place}"),
                })
                .collect();
            columns.push("= sum".to_owned());
            let labeled = Labeled {
                title: format!("Arithmetic of latents of {}", subject(&run)),
                subtitle: "the reconstruction of each image, and the decoded sum of their latents"
                    .to_owned(),
                columns,
                ..Labeled::default()
            };
            let picture = args.look.draw(&labeled, &images, places.len() + 1)?;
            picture::save(&picture, out)?;
            print_file(out, args.json, &picture);
        }
        (None, None) => {} // Refused above.
    }
    Ok(Done::Fully)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read() {
        let image = |name: &str| Place::Image(name.into());
        let read = |text: &str| text.parse::<Expression>().map(|found| found.0);
        assert_eq!(
            read("a.jpg - my b-c.jpg + test:3"),
            Ok(vec![
                (1.0, image("a.jpg")),
                (-1.0, image("my b-c.jpg")),
                (1.0, Place::Item(vae_data::Split::Test, 3))
            ])
        );
        assert_eq!(read("- a.jpg"), Ok(vec![(-1.0, image("a.jpg"))]));
        for wrong in ["", "a -", "a + - b", "a - z:x"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
