//! Nested tables as one list with dotted keys, such as `model.latent_dims`.

use std::collections::BTreeMap;

/// The values of a table by their dotted keys. `entries` returns the entries of a value that is a table. An empty
/// table counts as a value.
pub fn dotted<V: Clone>(
    table: &V,
    entries: &impl Fn(&V) -> Option<Vec<(String, V)>>,
) -> BTreeMap<String, V> {
    let mut values = BTreeMap::new();
    add("", table, entries, &mut values);
    values
}

fn add<V: Clone>(
    key: &str,
    value: &V,
    entries: &impl Fn(&V) -> Option<Vec<(String, V)>>,
    values: &mut BTreeMap<String, V>,
) {
    match entries(value) {
        Some(inner) if !inner.is_empty() => {
            for (name, value) in inner {
                let key = match key {
                    "" => name,
                    key => format!("{key}.{name}"),
                };
                add(&key, &value, entries, values);
            }
        }
        _ => {
            values.insert(key.to_owned(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    enum Value {
        Number(u8),
        Table(Vec<(&'static str, Value)>),
    }

    #[test]
    fn keys_are_joined_by_dots_and_an_empty_table_is_a_value() {
        let inner = Value::Table(vec![("b", Value::Number(1)), ("c", Value::Table(vec![]))]);
        let table = Value::Table(vec![("a", inner), ("d", Value::Number(2))]);
        let values = dotted(&table, &|value| match value {
            Value::Table(entries) => {
                let owned = |(key, value): &(&str, Value)| ((*key).to_owned(), value.clone());
                Some(entries.iter().map(owned).collect())
            }
            Value::Number(_) => None,
        });
        let wanted = [
            ("a.b", Value::Number(1)),
            ("a.c", Value::Table(vec![])),
            ("d", Value::Number(2)),
        ];
        assert_eq!(
            values,
            wanted.map(|(key, value)| (key.to_owned(), value)).into()
        );
    }
}
