//! Items that are texts, as text.

use tch::{Device, Kind, Tensor};
use vae_data::Tokenizer;
use vae_model::ItemSpec;

use crate::ViewError;

/// The texts of items i64 `[N, 1, 1, T]`; `None` for items other than texts.
///
/// # Errors
/// The model's vocabulary contradicts itself.
pub fn texts(item: &ItemSpec, items: &Tensor) -> Result<Option<Vec<String>>, ViewError> {
    let Some(spec) = &item.text else {
        return Ok(None);
    };
    let tokenizer = Tokenizer::new(spec)?;
    let items = items.to_device(Device::Cpu).to_kind(Kind::Int64);
    let texts = (0..items.size()[0]).map(|i| {
        let tokens = Vec::<i64>::try_from(items.get(i).contiguous().view(-1))?;
        Ok(tokenizer.decode(&tokens))
    });
    texts
        .collect::<Result<_, tch::TchError>>()
        .map(Some)
        .map_err(|error| ViewError::Model(error.into()))
}

#[cfg(test)]
mod tests {
    use vae_model::{ItemKind, TextSpec, TextUnit};

    use super::*;

    #[test]
    fn tokens_are_texts_up_to_their_end() {
        let text = TextSpec {
            unit: TextUnit::Character,
            tokens: (0..17)
                .map(|_| String::new())
                .chain(["a", "b"].map(str::to_owned))
                .collect(),
            merges: Vec::new(),
        };
        let item = ItemSpec {
            text: Some(text.clone()),
            ..ItemSpec::new(ItemKind::of_text(&text), vec![3])
        };
        let items = Tensor::from_slice(&[17_i64, 18, 0, 18, 0, 17]).view([2, 1, 1, 3]);
        let found = texts(&item, &items).expect("a vocabulary");
        assert_eq!(found, Some(vec!["ab".to_owned(), "b".to_owned()]));
        let other = ItemSpec::new(ItemKind::Array, vec![3]);
        assert_eq!(texts(&other, &items).expect("no texts"), None);
    }
}
