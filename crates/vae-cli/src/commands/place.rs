//! Points of latent space, as given on the command line.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use tch::{Device, Kind, Tensor, no_grad};
use vae_data::{Dataset, Split, Splits, one_line};
use vae_run::Session;
use vae_view::latent::{self, Codes};
use vae_view::picture;

use crate::progress;

/// A point of latent space.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Place {
    /// `z:0.1,-2,…`: a latent.
    Latent(Vec<f64>),
    /// `prior:7`: a draw from the prior with this seed.
    Prior(u64),
    /// `test:3`, `validation:3` or `train:3`: the latent of an item of the run, by its position from 0 on.
    Item(Split, usize),
    /// The latent of an image in a file.
    Image(PathBuf),
}

/// The splits by their names on the command line.
const SPLITS: [(Split, &str); 3] = [
    (Split::Train, "train"),
    (Split::Validation, "validation"),
    (Split::Test, "test"),
];

/// Latents, each with its condition.
pub(crate) struct Places {
    /// f32 `[N, Z]` on the CPU.
    pub(crate) latents: Tensor,
    /// `[N, D]` on the CPU; none for a model without a condition.
    pub(crate) condition: Option<Tensor>,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(numbers) = text.strip_prefix("z:") {
            let number = |word: &str| match word.trim().parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(number),
                _ => Err(format!(
                    "`{word}` is not a number; expected z:0.1,-2 for example"
                )),
            };
            let numbers = numbers.split(',').map(number).collect::<Result<_, _>>();
            return Ok(Self::Latent(numbers?));
        }
        if let Some(seed) = text.strip_prefix("prior:") {
            let seed = seed.parse();
            return Ok(Self::Prior(seed.map_err(|_| {
                format!("found `{text}`, expected a seed as in prior:7")
            })?));
        }
        for (split, name) in SPLITS {
            let Some(position) = text.strip_prefix(name).and_then(|t| t.strip_prefix(':')) else {
                continue;
            };
            let position = position.parse();
            return Ok(Self::Item(
                split,
                position.map_err(|_| {
                    format!("found `{text}`, expected a position from 0 on as in {name}:3")
                })?,
            ));
        }
        Ok(Self::Image(text.into()))
    }
}

impl fmt::Display for Place {
    /// What was asked for, of a file its name without folders.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latent(numbers) => {
                let numbers: Vec<String> = numbers.iter().map(f64::to_string).collect();
                write!(f, "z:{}", numbers.join(","))
            }
            Self::Prior(seed) => write!(f, "prior:{seed}"),
            Self::Item(split, position) => {
                let split = match split {
                    Split::Train => "train",
                    Split::Validation => "validation",
                    Split::Test => "test",
                };
                write!(f, "{split}:{position}")
            }
            Self::Image(path) => {
                let name = path.file_name().unwrap_or(path.as_os_str());
                write!(f, "{}", one_line(&name.to_string_lossy()))
            }
        }
    }
}

/// The names of places; without any, those of [`latents_or_held_out`].
pub(crate) fn names(session: &Session, places: &[Place], count: usize) -> Vec<String> {
    match places {
        [] => {
            let default = |i: usize| match session.vae().has_encoder() {
                true => Place::Item(Split::Test, i).to_string(),
                false => Place::Prior(i as u64).to_string(),
            };
            (0..count).map(default).collect()
        }
        places => places.iter().map(Place::to_string).collect(),
    }
}

/// The latents of places.
pub(crate) fn latents(session: &Session, places: &[Place]) -> Result<Places> {
    let mut splits = None;
    let places = places
        .iter()
        .map(|place| latent_of(session, place, &mut splits))
        .collect::<Result<Vec<_>>>()?;
    let latents: Vec<&Tensor> = places.iter().map(|place| &place.latents).collect();
    let conditions: Option<Vec<&Tensor>> = places
        .iter()
        .map(|place| place.condition.as_ref())
        .collect();
    Ok(Places {
        latents: Tensor::cat(&latents, 0),
        condition: conditions.map(|conditions| Tensor::cat(&conditions, 0)),
    })
}

/// The latent of one place. `splits` are loaded when they are first needed.
fn latent_of(session: &Session, place: &Place, splits: &mut Option<Splits>) -> Result<Places> {
    let latent_dims = session.vae().config().n_latents();
    match place {
        Place::Latent(numbers) => {
            ensure!(
                numbers.len() as i64 == latent_dims,
                "z: has {} numbers, this model's latents have {latent_dims}",
                numbers.len()
            );
            let latent = Tensor::from_slice(numbers)
                .to_kind(Kind::Float)
                .unsqueeze(0);
            Ok(Places {
                latents: latent::onto_support(session.vae(), &latent)?,
                condition: session.condition_alone(),
            })
        }
        Place::Prior(seed) => {
            let mut generator = picture::sample_generator(session.vae(), *seed);
            let condition = session.condition_alone();
            let latents = no_grad(|| match &condition {
                Some(condition) => session.vae().sample_latents_of(condition, &mut generator),
                None => Ok(session.vae().sample_latents(1, &mut generator)),
            })?;
            Ok(Places {
                latents: latents.to_device(Device::Cpu),
                condition,
            })
        }
        Place::Item(split, position) => {
            let splits = match splits {
                Some(splits) => splits,
                none => none.insert(session.splits()?),
            };
            let (items, name) = match split {
                Split::Train => (&splits.train, "train"),
                Split::Test => (&splits.test, "test"),
                Split::Validation => {
                    let held_out = splits.validation.as_ref();
                    (
                        held_out.context("this run has no validation items")?,
                        "validation",
                    )
                }
            };
            let n = items.len();
            ensure!(
                *position < n,
                "{name}:{position}: there are {n} {name} images, the last one is {name}:{}",
                n - 1
            );
            let batch = items.batch(&[*position])?;
            centers(session, batch.items, batch.condition)
        }
        Place::Image(path) => {
            let inputs = session.inputs(std::slice::from_ref(path), Split::Test, None)?;
            let batch = inputs.read(1)?;
            let condition = session.condition_of(&inputs, &batch);
            centers(session, batch.items, condition)
        }
    }
}

/// The posterior centers of images.
fn centers(session: &Session, images: Tensor, condition: Option<Tensor>) -> Result<Places> {
    const N_AT_A_TIME: i64 = 500;
    let conditions = condition.as_ref().map(|known| known.split(N_AT_A_TIME, 0));
    let mut conditions = conditions.into_iter().flatten();
    let parts = images.split(N_AT_A_TIME, 0);
    let parts = parts
        .iter()
        .map(|images| {
            let condition = conditions.next();
            let posterior = no_grad(|| session.vae().encode((images, condition.as_ref())))?;
            Ok(no_grad(|| posterior.center()).to_device(Device::Cpu))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Places {
        latents: Tensor::cat(&parts, 0),
        condition,
    })
}

/// The latents of places or, without any, of the first `count` test images; of a model without an encoder draws from the
/// prior.
pub(crate) fn latents_or_held_out(
    session: &Session,
    places: &[Place],
    count: usize,
) -> Result<Places> {
    if places.is_empty() && !session.vae().has_encoder() {
        let drawn: Vec<Place> = (0..count as u64).map(Place::Prior).collect();
        return latents(session, &drawn);
    }
    if places.is_empty() {
        let batch = session.first_test_images(count)?;
        return centers(session, batch.items, batch.condition);
    }
    latents(session, places)
}

/// Encodes every image of a data set, with a progress bar.
pub(crate) fn encode(session: &Session, dataset: &Dataset, what: &str, seed: u64) -> Result<Codes> {
    let n = dataset.len() as u64;
    let bar = progress::bar(n, "{msg} {bar:24} {pos}/{len}, {eta} left")?;
    bar.set_message(what.to_owned());
    let codes = latent::encode(session.vae(), dataset, seed, |n_done| {
        bar.set_position(n_done as u64);
    })
    .with_context(|| format!("encoding the {what}"))?;
    bar.finish_and_clear();
    Ok(codes)
}

/// Checks the dimensions that `--dims` names.
pub(crate) fn check_dims(session: &Session, dims: &[usize], most: usize) -> Result<()> {
    let latent_dims = session.vae().config().n_latents() as usize;
    if let Some(dim) = dims.iter().find(|&&dim| dim >= latent_dims) {
        anyhow::bail!(
            "--dims: no dimension {dim}, this model's are 0 to {}",
            latent_dims - 1
        );
    }
    ensure!(
        dims.len() <= most,
        "--dims: found {} dimensions, at most {most} can be shown",
        dims.len()
    );
    let mut sorted = dims.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    ensure!(
        sorted.len() == dims.len(),
        "--dims: a dimension is repeated"
    );
    Ok(())
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        let place = |text: &str| text.parse::<Place>();
        assert_eq!(
            place("z:0.1,-2, 3e-1"),
            Ok(Place::Latent(vec![0.1, -2.0, 0.3]))
        );
        assert_eq!(place("prior:7"), Ok(Place::Prior(7)));
        assert_eq!(place("test:0"), Ok(Place::Item(Split::Test, 0)));
        assert_eq!(place("train:12"), Ok(Place::Item(Split::Train, 12)));
        assert_eq!(place("a b.jpg"), Ok(Place::Image("a b.jpg".into())));
        for wrong in ["z:", "z:1,x", "z:nan", "prior:x", "test:-1"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }
}
