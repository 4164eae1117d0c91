//! Yes-or-no labels of the images of a data set: an attribute of its table, or one of its classes.

use anyhow::{Result, bail};
use tch::Kind;
use vae_data::{Dataset, Splits};
use vae_view::latent::Labels;

/// The canonical name of an attribute: `digit=3` is `class=3`.
pub(super) fn canonical(name: &str) -> String {
    let class = ["digit=", "label="]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix));
    class.map_or_else(|| name.to_owned(), |class| format!("class={class}"))
}

/// Which images of a run's splits have an attribute.
pub(super) fn labels(splits: &Splits, name: &str) -> Result<Labels> {
    const TABLE: &str = "--attributes FILE";
    let name = canonical(name);
    Ok(Labels {
        train: yes_or_no(&splits.train, &name, TABLE)?,
        held_out: yes_or_no(&splits.test, &name, TABLE)?,
        name,
    })
}

/// Which images have an attribute, by its canonical name. `table` is what a table comes with, for the error of images without
/// one.
pub(super) fn yes_or_no(dataset: &Dataset, name: &str, table: &str) -> Result<Vec<Option<bool>>> {
    let column = dataset.attributes().and_then(|known| known.column(name));
    if let Some(column) = column {
        let values: Vec<Option<f32>> = column.collect();
        let odd = values
            .iter()
            .flatten()
            .find(|v| ![-1.0, 0.0, 1.0].contains(*v));
        if let Some(value) = odd {
            bail!(
                "attribute {name}: found {value}, expected yes or no for each image: 1, and 0 or -1"
            );
        }
        let yes = values
            .into_iter()
            .map(|value| value.map(|value| value > 0.0));
        return Ok(yes.collect());
    }
    let class = name
        .strip_prefix("class=")
        .and_then(|class| dataset.class(class));
    if let (Some(class), Some(labels)) = (class, dataset.labels()) {
        let labels = Vec::<i64>::try_from(labels.to_kind(Kind::Int64))?;
        return Ok(labels
            .into_iter()
            .map(|label| Some(label == class))
            .collect());
    }
    let known = names(dataset)?;
    let meant = format!("class={name}");
    match known.is_empty() {
        _ if known.contains(&meant) => bail!("attribute {name}: not found; did you mean {meant}?"),
        true => bail!(
            "attribute {name}: these images have neither attributes nor classes; a table with a \
             column of file names and one of 0 and 1 comes with {table}"
        ),
        false => bail!(
            "attribute {name}: not found; there are {}",
            known.join(", ")
        ),
    }
}

/// All names that [`yes_or_no`] accepts.
pub(super) fn names(dataset: &Dataset) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    if let Some(attributes) = dataset.attributes() {
        names.extend(attributes.names().iter().cloned());
        names.retain(|name| yes_or_no(dataset, name, "").is_ok());
    }
    if let Some(labels) = dataset.labels() {
        let mut classes = Vec::<i64>::try_from(labels.to_kind(Kind::Int64))?;
        classes.sort_unstable();
        classes.dedup();
        let known = classes.into_iter().filter(|&class| class >= 0);
        names.extend(known.map(|class| format!("class={}", dataset.class_name(class))));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use tch::{Device, Tensor};

    use super::*;

    #[test]
    fn classes_are_attributes() {
        let images = Tensor::zeros([3, 1, 2, 2], (Kind::Uint8, Device::Cpu));
        let dataset = Dataset::new(images, Some(Tensor::from_slice(&[7_i64, 0, 7]))).unwrap();
        assert_eq!(names(&dataset).unwrap(), ["class=0", "class=7"]);
        let found = yes_or_no(&dataset, &canonical("digit=7"), "").unwrap();
        assert_eq!(found, [Some(true), Some(false), Some(true)]);
        let error = yes_or_no(&dataset, "7", "").unwrap_err().to_string();
        assert_eq!(error, "attribute 7: not found; did you mean class=7?");
        let error = yes_or_no(&dataset, "Smiling", "").unwrap_err().to_string();
        assert_eq!(
            error,
            "attribute Smiling: not found; there are class=0, class=7"
        );
    }
}
