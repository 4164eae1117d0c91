//! Which rows of a batch are whose, where several processes share the work.

use std::ops::Range;

/// One of several processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portion {
    /// Its rank, from 0.
    pub rank: usize,
    /// The number of processes, at least 1.
    pub size: usize,
}

impl Portion {
    /// The only process.
    pub const WHOLE: Self = Self { rank: 0, size: 1 };

    /// Its rows of `n`: a piece of about equal size for each process, in the order of the ranks.
    #[must_use]
    pub fn rows(self, n: usize) -> Range<usize> {
        let start = |rank: usize| rank * n / self.size.max(1);
        start(self.rank)..start(self.rank + 1)
    }

    /// The rows that it computes: its own, or without any the first, for form's sake.
    #[must_use]
    pub fn computed(self, n: usize) -> Range<usize> {
        match self.rows(n) {
            rows if rows.is_empty() => 0..n.min(1),
            rows => rows,
        }
    }

    /// The same of a batch that is computed in parts of so many rows, one after another.
    #[must_use]
    pub fn computed_in_parts(self, n: usize, part: usize) -> Vec<usize> {
        let part = part.max(1);
        let starts = (0..n).step_by(part);
        let rows = starts.flat_map(|start| {
            let rows = self.computed(part.min(n - start));
            rows.map(move |row| start + row)
        });
        rows.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_portions_of_all_processes_are_the_batch() {
        for size in 1..5 {
            for n in 0..20 {
                let of = |rank| Portion { rank, size }.rows(n);
                let all: Vec<usize> = (0..size).flat_map(of).collect();
                assert_eq!(all, (0..n).collect::<Vec<_>>());
                let lengths: Vec<usize> = (0..size).map(|rank| of(rank).len()).collect();
                let (least, most) = (lengths.iter().min().unwrap(), lengths.iter().max().unwrap());
                assert!(most - least <= 1, "{lengths:?}");
            }
        }
    }

    #[test]
    fn a_batch_in_parts_is_shared_part_by_part_and_who_has_no_row_takes_the_first() {
        let second = Portion { rank: 1, size: 2 };
        assert_eq!(second.computed_in_parts(7, 4), [2, 3, 5, 6]);
        assert_eq!(second.computed_in_parts(5, 4), [2, 3, 4]);
        let first = Portion { rank: 0, size: 2 };
        assert_eq!(
            first.computed_in_parts(5, 4),
            [0, 1, 4],
            "of one row the second has it"
        );
        assert_eq!(Portion::WHOLE.computed_in_parts(5, 2), [0, 1, 2, 3, 4]);
    }
}
