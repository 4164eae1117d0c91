"""Clusters against labels: accuracy of the best matching, and normalized mutual information.

    python crates/vae-train/tests/golden/clustering.py > crates/vae-train/tests/golden/clustering.json

Made with scikit-learn 1.9.1, SciPy 1.17.1 and NumPy 2.4.6.
"""

import json

import numpy
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix


def accuracy(clusters, labels):
    counts = contingency_matrix(labels, clusters)
    matched = linear_sum_assignment(counts, maximize=True)
    return counts[matched].sum() / len(labels)


def case(name, clusters, labels):
    clusters, labels = clusters.tolist(), labels.tolist()
    return {
        "name": name,
        "clusters": clusters,
        "labels": labels,
        "accuracy": accuracy(clusters, labels),
        "normalized_mutual_information": normalized_mutual_info_score(labels, clusters),
    }


def noisy(n_clusters, n_labels, share_of_noise, n=120):
    """Labels follow from the clusters, but for some images; the names of clusters are shuffled."""
    names = random.permutation(n_clusters)
    true = random.integers(n_clusters, size=n)
    noise = random.integers(n_labels, size=n)
    labels = numpy.where(random.random(n) < share_of_noise, noise, true % n_labels)
    return names[true], labels


random = numpy.random.default_rng(0)
print(
    json.dumps(
        [
            case("as many clusters as labels", *noisy(10, 10, 0.3)),
            case("more clusters", *noisy(17, 5, 0.2)),
            case("fewer clusters", *noisy(4, 10, 0.5)),
            case("chance alone", *noisy(10, 10, 1.0)),
            case("any integers as names", *(x * 1000 - 3000 for x in noisy(6, 6, 0.6, n=40))),
            case("one cluster", numpy.zeros(20, int), random.integers(3, size=20)),
            case("one label", random.integers(3, size=20), numpy.zeros(20, int)),
            case("one of both", numpy.ones(5, int), numpy.zeros(5, int)),
        ]
    )
)
