//! How well clusters found without labels agree with the labels.

use std::collections::BTreeMap;

use pathfinding::matrix::Matrix;
use pathfinding::prelude::kuhn_munkres;

/// The share of images whose cluster is matched with their label, under the best matching of each
/// cluster with at most one label and each label with at most one cluster (Xie et al. 2016, eq. 10).
/// Every image of a cluster left over counts as an error. NaN without images.
///
/// Any integers may name clusters and labels.
///
/// # Panics
/// If there are not as many clusters as labels, one of each for every image.
///
/// ```
/// let accuracy = vae_eval::clustering_accuracy(&[7, 7, 4, 4], &[0, 0, 1, 0]);
/// assert_eq!(accuracy, 0.75);
/// ```
pub fn clustering_accuracy(clusters: &[i64], labels: &[i64]) -> f64 {
    let counts = Contingency::new(clusters, labels);
    let (n_clusters, n_labels) = (counts.of_cluster.len(), counts.of_label.len());
    let mut weights = Matrix::new(n_clusters, n_labels, 0_i64);
    for (&cell, &n_images) in &counts.of_both {
        weights[cell] = n_images as i64;
    }
    // kuhn_munkres matches every row, so it refuses more rows than columns.
    if n_clusters > n_labels {
        weights = weights.transposed();
    }
    let (n_right, _) = kuhn_munkres(&weights);
    n_right as f64 / clusters.len() as f64
}

/// The normalized mutual information of clusters and labels, I(C; L) / ((H(C) + H(L)) / 2): 0 if they are independent, 1
/// if they agree up to renaming. As in scikit-learn's `normalized_mutual_info_score`, it is 1 if all images are in one
/// cluster and have one label, or if there are no images.
///
/// # Panics
/// If there are not as many clusters as labels, one of each for every image.
///
/// ```
/// let nmi = vae_eval::normalized_mutual_information(&[7, 7, 4, 4], &[0, 0, 1, 1]);
/// assert!((nmi - 1.0).abs() < 1e-15);
/// ```
pub fn normalized_mutual_information(clusters: &[i64], labels: &[i64]) -> f64 {
    let counts = Contingency::new(clusters, labels);
    let (of_cluster, of_label) = (&counts.of_cluster, &counts.of_label);
    if of_cluster.len() <= 1 && of_label.len() <= 1 {
        return 1.0;
    }
    let n_images = clusters.len() as f64;
    let mutual_information: f64 = counts
        .of_both
        .iter()
        .map(|(&(cluster, label), &n_both)| {
            let n_both = n_both as f64;
            let independent = of_cluster[cluster] as f64 * of_label[label] as f64;
            // Products of whole numbers, so that independence is a logarithm of exactly 1.
            n_both / n_images * (n_both * n_images / independent).ln()
        })
        .sum();
    let mean_entropy = (entropy(of_cluster) + entropy(of_label)) / 2.0;
    // Only rounding leaves the interval.
    (mutual_information / mean_entropy).clamp(0.0, 1.0)
}

/// The entropy in nats of the distribution proportional to these counts, none of which is 0.
fn entropy(counts: &[usize]) -> f64 {
    let total = counts.iter().sum::<usize>() as f64;
    counts
        .iter()
        .map(|&count| count as f64 / total * (total / count as f64).ln())
        .sum()
}

/// The number of images of each cluster and label, numbered in the order of their names.
#[derive(Debug)]
struct Contingency {
    of_cluster: Vec<usize>,
    of_label: Vec<usize>,
    /// The count of each (cluster, label) that occurs.
    of_both: BTreeMap<(usize, usize), usize>,
}

impl Contingency {
    fn new(clusters: &[i64], labels: &[i64]) -> Contingency {
        assert_eq!(
            clusters.len(),
            labels.len(),
            "clusters and labels, expected one of each for every image"
        );
        let (clusters, of_cluster) = numbered(clusters);
        let (labels, of_label) = numbered(labels);
        let mut of_both = BTreeMap::new();
        for cell in clusters.into_iter().zip(labels) {
            *of_both.entry(cell).or_insert(0) += 1;
        }
        Contingency {
            of_cluster,
            of_label,
            of_both,
        }
    }
}

/// The index of each name, and the count of each index.
fn numbered(names: &[i64]) -> (Vec<usize>, Vec<usize>) {
    let mut numbers: BTreeMap<i64, usize> = names.iter().map(|&name| (name, 0)).collect();
    for (number, value) in numbers.values_mut().enumerate() {
        *value = number;
    }
    let mut counts = vec![0; numbers.len()];
    let numbered = names.iter().map(|name| numbers[name]).collect();
    for &number in &numbered {
        counts[number] += 1;
    }
    (numbered, counts)
}
