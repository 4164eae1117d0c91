//! Metrics of clusters, compared with SciPy and scikit-learn (values written by `tests/golden/clustering.py`) and with
//! values computed by hand, and their laws.

use vae_eval::{clustering_accuracy, normalized_mutual_information};

#[derive(serde::Deserialize)]
struct Case {
    name: String,
    clusters: Vec<i64>,
    labels: Vec<i64>,
    accuracy: f64,
    normalized_mutual_information: f64,
}

fn golden() -> Vec<Case> {
    serde_json::from_str(include_str!("golden/clustering.json")).expect("the golden file")
}

#[test]
fn scipy_and_scikit_learn_agree() {
    for case in golden() {
        let (clusters, labels) = (&case.clusters, &case.labels);
        let accuracy = clustering_accuracy(clusters, labels);
        assert_eq!(accuracy, case.accuracy, "{}", case.name);
        let (found, wanted) = (
            normalized_mutual_information(clusters, labels),
            case.normalized_mutual_information,
        );
        assert!(
            (found - wanted).abs() < 1e-12,
            "{}: {found}, scikit-learn has {wanted}",
            case.name
        );
    }
}

#[test]
fn names_do_not_matter_and_sides_may_change() {
    for case in golden() {
        let (clusters, labels) = (&case.clusters, &case.labels);
        let renamed: Vec<i64> = clusters.iter().map(|&name| 100 - 7 * name).collect();
        for (a, b) in [(&renamed, labels), (labels, clusters)] {
            assert_eq!(clustering_accuracy(a, b), case.accuracy, "{}", case.name);
            let found = normalized_mutual_information(a, b);
            let wanted = case.normalized_mutual_information;
            assert!((found - wanted).abs() < 1e-12, "{}", case.name);
        }
        assert_eq!(clustering_accuracy(&renamed, clusters), 1.0);
        let found = normalized_mutual_information(&renamed, clusters);
        assert!((found - 1.0).abs() < 1e-12, "{}: {found}", case.name);
    }
}

#[test]
fn the_matching_is_the_best_of_all_not_the_largest_first() {
    // Cluster 0 has 3 images of label 0 and 2 of label 1; cluster 1 has 2 of label 0. Matching cluster 0 with its most
    // frequent label makes 3 images correct, the other matching 2 + 2.
    let (clusters, labels) = ([0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0, 0]);
    assert_eq!(clustering_accuracy(&clusters, &labels), 4.0 / 7.0);
}

#[test]
fn a_cluster_left_over_counts_as_errors() {
    // Of the three pure clusters, one of the two with label 0 is matched with no label.
    assert_eq!(clustering_accuracy(&[0, 0, 1, 2], &[0, 0, 0, 5]), 0.75);
    // Likewise for a label that is matched with no cluster.
    assert_eq!(clustering_accuracy(&[0, 0, 0, 5], &[0, 0, 1, 2]), 0.75);
}

#[test]
fn independent_clusters_tell_nothing() {
    let clusters = [0, 1, 2, 0, 1, 2];
    let labels = [0, 0, 0, 1, 1, 1];
    assert_eq!(normalized_mutual_information(&clusters, &labels), 0.0);
    assert_eq!(clustering_accuracy(&clusters, &labels), 2.0 / 6.0);
}

#[test]
fn mutual_information_of_four_clusters_and_two_labels_by_hand() {
    // Four clusters of one image, two labels: I = H(L) = ln 2 and H(C) = 2 ln 2, so 1 / 1.5.
    let nmi = normalized_mutual_information(&[0, 1, 2, 3], &[0, 0, 1, 1]);
    assert!((nmi - 2.0 / 3.0).abs() < 1e-15, "{nmi}");
}

#[test]
fn no_images_are_no_accuracy() {
    assert!(clustering_accuracy(&[], &[]).is_nan());
    assert_eq!(normalized_mutual_information(&[], &[]), 1.0);
}

#[test]
#[should_panic(expected = "one of each for every image")]
fn a_missing_label_is_a_bug() {
    let _ = clustering_accuracy(&[0, 1], &[0]);
}
