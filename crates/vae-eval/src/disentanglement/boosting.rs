//! Gradient-boosted trees for classification (Friedman 2001), like scikit-learn's `GradientBoostingClassifier` with its
//! defaults, except that splits are only considered between bins with equally many values.

/// The number of trees of each class.
pub(super) const N_ROUNDS: usize = 100;

/// The factor on a tree's output, the learning rate.
const LEARNING_RATE: f64 = 0.1;

/// The depth of a tree.
pub(super) const DEPTH: usize = 3;

/// The largest number of bins of a feature.
const MAX_BINS: usize = 255;

/// A classifier of vectors.
#[derive(Debug)]
pub(super) struct BoostedTrees {
    /// The initial log-probability of each class.
    prior: Vec<f64>,
    /// The trees of each class.
    trees: Vec<Vec<Tree>>,
    /// The reduction of the squared error by each feature's splits, normalized to the sum 1; all 0 without splits.
    pub(super) importances: Vec<f64>,
}

/// The nodes, from the root; the children of a node come after it.
#[derive(Debug)]
enum Tree {
    Leaf(f64),
    /// A split: whether the feature is at most the threshold.
    Split {
        feature: usize,
        threshold: f64,
        branches: Box<[Tree; 2]>,
    },
}

impl Tree {
    fn answer(&self, value: &impl Fn(usize) -> f64) -> f64 {
        match self {
            Tree::Leaf(answer) => *answer,
            Tree::Split {
                feature,
                threshold,
                branches,
            } => branches[usize::from(value(*feature) > *threshold)].answer(value),
        }
    }
}

/// A binned feature: the values of bin b are at most `thresholds[b]` and above the previous threshold.
struct Binned {
    bins: Vec<u8>,
    thresholds: Vec<f64>,
}

impl Binned {
    fn new(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let mut thresholds: Vec<f64> = (1..MAX_BINS)
            .filter_map(|i| {
                let at = i * sorted.len() / MAX_BINS;
                let below = *sorted.get(at.checked_sub(1)?)?;
                // In the middle of the gap above it, if there is one.
                let above = sorted[at..].iter().find(|value| **value > below)?;
                Some(below + (above - below) / 2.0)
            })
            .collect();
        thresholds.dedup();
        let bins = values.iter().map(|value| {
            // At most 254 thresholds.
            thresholds.partition_point(|threshold| threshold < value) as u8
        });
        Self {
            bins: bins.collect(),
            thresholds,
        }
    }
}

impl BoostedTrees {
    /// Fits `classes` (below `n_classes`) to features `[D][N]`.
    pub(super) fn fit(features: &[Vec<f64>], classes: &[usize], n_classes: usize) -> Self {
        let n = classes.len();
        let binned: Vec<Binned> = features.iter().map(|values| Binned::new(values)).collect();
        let mut counts = vec![0_usize; n_classes];
        for &class in classes {
            counts[class] += 1;
        }
        // A class without examples gets no tree and is never the most probable.
        let prior: Vec<f64> = counts
            .iter()
            .map(|&count| (count as f64 / n as f64).ln())
            .collect();
        let mut scores: Vec<Vec<f64>> = prior.iter().map(|&prior| vec![prior; n]).collect(); // [K][N]
        let mut trees: Vec<Vec<Tree>> = (0..n_classes).map(|_| Vec::new()).collect();
        let mut importances = vec![0.0; features.len()];
        let is_present = |class: &usize| counts[*class] > 0;
        let n_present = (0..n_classes).filter(is_present).count() as f64;
        let mut residuals = vec![0.0; n];
        for _ in 0..N_ROUNDS {
            let normalizers: Vec<f64> = (0..n)
                .map(|i| {
                    let of_image = scores.iter().map(|of_class| of_class[i]);
                    let highest = of_image.clone().fold(f64::NEG_INFINITY, f64::max);
                    highest
                        + of_image
                            .map(|score| (score - highest).exp())
                            .sum::<f64>()
                            .ln()
                })
                .collect();
            for class in (0..n_classes).filter(is_present) {
                for (i, residual) in residuals.iter_mut().enumerate() {
                    let p = (scores[class][i] - normalizers[i]).exp();
                    *residual = f64::from(u8::from(classes[i] == class)) - p;
                }
                let mut growing = Growing {
                    binned: &binned,
                    residuals: &residuals,
                    newton: (n_present - 1.0) / n_present,
                    scores: &mut scores[class],
                    importances: &mut importances,
                };
                let all = (0..n as u32).collect();
                trees[class].push(growing.grow(all, DEPTH));
            }
        }
        let total: f64 = importances.iter().sum();
        if total > 0.0 {
            importances
                .iter_mut()
                .for_each(|importance| *importance /= total);
        }
        Self {
            prior,
            trees,
            importances,
        }
    }

    /// The accuracy of the most probable classes on features `[D][N]`.
    pub(super) fn accuracy(&self, features: &[Vec<f64>], classes: &[usize]) -> f64 {
        let n_right = (0..classes.len()).filter(|&i| {
            let value = |feature: usize| features[feature][i];
            let scores = self.prior.iter().zip(&self.trees).map(|(prior, trees)| {
                let answers = trees.iter().map(|tree| tree.answer(&value));
                prior + LEARNING_RATE * answers.sum::<f64>()
            });
            let best = scores.enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
            best.is_some_and(|(class, _)| class == classes[i])
        });
        n_right.count() as f64 / classes.len() as f64
    }
}

/// A tree under construction.
struct Growing<'a> {
    binned: &'a [Binned],
    /// The targets, `[N]`.
    residuals: &'a [f64],
    /// The factor (K − 1)/K of a leaf's Newton step.
    newton: f64,
    /// The scores of the class, `[N]`, to which the leaves' outputs are added.
    scores: &'a mut [f64],
    importances: &'a mut [f64],
}

impl Growing<'_> {
    fn grow(&mut self, images: Vec<u32>, depth: usize) -> Tree {
        let best = match depth {
            0 => None,
            _ => self.best_split(&images),
        };
        let Some((gain, feature, bin)) = best else {
            return self.leaf(&images);
        };
        self.importances[feature] += gain;
        let bins = &self.binned[feature].bins;
        let (low, high) = images.into_iter().partition(|&i| bins[i as usize] <= bin);
        Tree::Split {
            feature,
            threshold: self.binned[feature].thresholds[usize::from(bin)],
            branches: Box::new([self.grow(low, depth - 1), self.grow(high, depth - 1)]),
        }
    }

    /// The reduction of the sum of squared errors, the feature, and the last bin of the lower side.
    fn best_split(&self, images: &[u32]) -> Option<(f64, usize, u8)> {
        let n = images.len() as f64;
        let sum: f64 = images.iter().map(|&i| self.residuals[i as usize]).sum();
        // Less is rounding.
        let mut best: Option<(f64, usize, u8)> = None;
        let mut lowest = 1e-12 * n;
        for (feature, binned) in self.binned.iter().enumerate() {
            let mut of_bins = [(0.0, 0_u32); MAX_BINS];
            for &i in images {
                let of_bin = &mut of_bins[usize::from(binned.bins[i as usize])];
                of_bin.0 += self.residuals[i as usize];
                of_bin.1 += 1;
            }
            let (mut low_sum, mut n_low) = (0.0, 0.0);
            for (bin, &(of_bin, count)) in of_bins[..binned.thresholds.len()].iter().enumerate() {
                low_sum += of_bin;
                n_low += f64::from(count);
                let n_high = n - n_low;
                if count == 0 || n_high == 0.0 {
                    continue;
                }
                let difference = low_sum / n_low - (sum - low_sum) / n_high;
                let gain = difference * difference * n_low * n_high / n;
                if gain > lowest {
                    (best, lowest) = (Some((gain, feature, bin as u8)), gain);
                }
            }
        }
        best
    }

    fn leaf(&mut self, images: &[u32]) -> Tree {
        let residuals = images.iter().map(|&i| self.residuals[i as usize]);
        let sum: f64 = residuals.clone().sum();
        let curvature: f64 = residuals.map(|r| r.abs() * (1.0 - r.abs())).sum();
        let answer = match curvature.abs() < 1e-150 {
            true => 0.0,
            false => self.newton * sum / curvature,
        };
        for &i in images {
            self.scores[i as usize] += LEARNING_RATE * answer;
        }
        Tree::Leaf(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_of_two_features_is_learned_and_the_third_is_not_used() {
        let n = 600;
        let feature = |a: usize, m: usize| -> Vec<f64> {
            (0..n).map(|i| (i * a % m) as f64 / m as f64).collect()
        };
        let features = vec![feature(7, 101), feature(11, 97), feature(5, 89)];
        let classes: Vec<usize> = (0..n)
            .map(|i| usize::from(features[0][i] > 0.5) + 2 * usize::from(features[1][i] > 0.3))
            .collect();
        let trees = BoostedTrees::fit(&features, &classes, 5);
        assert_eq!(trees.accuracy(&features, &classes), 1.0);
        let importances = &trees.importances;
        assert!((importances.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert!(
            importances[0] > 0.3 && importances[1] > 0.3,
            "{importances:?}"
        );
        assert!(importances[2] < 0.01, "{importances:?}");
    }

    #[test]
    fn constant_features_leave_the_most_frequent_class() {
        let features = vec![vec![3.0; 10]];
        let classes = [0, 1, 1, 1, 1, 1, 1, 1, 0, 2];
        let trees = BoostedTrees::fit(&features, &classes, 3);
        assert_eq!(trees.accuracy(&features, &classes), 0.7);
        assert_eq!(trees.importances, [0.0]);
    }

    #[test]
    fn bins_have_about_equally_many_values() {
        let values: Vec<f64> = (0..10_000).map(|i| f64::from(i).powi(3)).collect();
        let binned = Binned::new(&values);
        assert_eq!(binned.thresholds.len(), MAX_BINS - 1);
        let mut counts = [0; MAX_BINS];
        for &bin in &binned.bins {
            counts[usize::from(bin)] += 1;
        }
        assert!(
            counts.iter().all(|count| (39..=40).contains(count)),
            "{counts:?}"
        );
        assert_eq!(Binned::new(&[1.0, 2.0, 1.0]).thresholds, [1.5]);
    }
}
