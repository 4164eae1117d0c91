//! The lists of a section: bar charts, or tables for lists that belong together.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use super::charts;
use super::text::{Escaped, words};
use crate::number::number;

/// Lists are drawn as bars. Lists named `GROUP.ROW` become one table per group, and lists whose length is the product of a
/// `…_shape` list become tables of that shape.
pub(super) fn lists(page: &mut impl Write, lists: &BTreeMap<String, Vec<f64>>) -> fmt::Result {
    let shape = lists.iter().find_map(|(name, list)| match list[..] {
        [rows, columns] if name.ends_with("_shape") => Some((rows as usize, columns as usize)),
        _ => None,
    });
    let mut groups: BTreeMap<&str, Vec<(String, &[f64])>> = BTreeMap::new();
    for (name, values) in lists {
        if let Some((group, row)) = name.split_once('.') {
            let rows = groups.entry(group).or_default();
            rows.push((words(row), values));
        } else if let Some((n_rows, n_columns)) = shape
            && values.len() == n_rows * n_columns
            && n_columns > 0
        {
            let rows = values.chunks(n_columns).enumerate();
            let rows: Vec<_> = rows.map(|(i, row)| (format!("z{i}"), row)).collect();
            table(page, name, &rows)?;
        } else if !name.ends_with("_shape") {
            charts::bars(page, name, values)?;
        }
    }
    for (group, rows) in &groups {
        table(page, group, rows)?;
    }
    Ok(())
}

/// Tables with more rows are folded.
const N_SHOWN: usize = 12;

/// A row of values for each name, darker for larger values.
fn table(page: &mut impl Write, name: &str, rows: &[(String, &[f64])]) -> fmt::Result {
    let columns = match name {
        "attribute_probe" => vec![
            "linear probe",
            "its balanced accuracy",
            "nearest neighbors",
            "their balanced accuracy",
            "always the more frequent",
        ],
        _ => Vec::new(),
    };
    let n_columns = rows.iter().map(|row| row.1.len()).max().unwrap_or(0);
    let open = if rows.len() > N_SHOWN { "" } else { " open" };
    write!(
        page,
        "<details class=\"chart\"{open}><summary>{}, {} rows</summary>\n<div class=\"wide\">\
         <table class=\"matrix\"><thead><tr><td></td>",
        Escaped(words(name)),
        rows.len()
    )?;
    for column in 0..n_columns {
        match columns.get(column) {
            Some(name) => write!(page, "<th scope=\"col\">{name}</th>")?,
            None => write!(page, "<th scope=\"col\">{column}</th>")?,
        }
    }
    page.write_str("</tr></thead>\n<tbody>\n")?;
    let all = rows.iter().flat_map(|row| row.1.iter().copied());
    let largest = all.filter(|value| value.is_finite()).fold(0.0, f64::max);
    for (name, values) in rows {
        write!(page, "<tr><th scope=\"row\">{}</th>", Escaped(name))?;
        for value in *values {
            let shade = match value / largest {
                share if share.is_finite() => share.clamp(0.0, 1.0),
                _ => 0.0,
            };
            let text = match value.abs() {
                ..1000.0 => format!("{value:.3}").replace('-', "\u{2212}"),
                _ => number(*value),
            };
            write!(page, "<td style=\"--shade:{shade:.2}\">{text}</td>")?;
        }
        page.write_str("</tr>\n")?;
    }
    page.write_str("</tbody></table></div></details>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_belong_together_are_one_table() {
        let known = BTreeMap::from([
            ("attribute_probe.Bald".to_owned(), vec![0.9; 5]),
            ("attribute_probe.Smiling".to_owned(), vec![0.8; 5]),
            (
                "mutual_information".to_owned(),
                vec![0.0, 1.0, 2.0, f64::NAN, 4.0, 5.0],
            ),
            ("mutual_information_shape".to_owned(), vec![3.0, 2.0]),
            ("kl_per_dimension".to_owned(), vec![1.0, 2.0]),
        ]);
        let mut page = String::new();
        lists(&mut page, &known).unwrap();
        assert_eq!(page.matches("<table").count(), 2);
        assert_eq!(page.matches("<tr>").count(), (1 + 2) + (1 + 3));
        assert_eq!(page.matches("<svg").count(), 1);
        assert!(
            page.contains("--shade:1.00") && page.contains(">Smiling<"),
            "{page}"
        );
    }
}
