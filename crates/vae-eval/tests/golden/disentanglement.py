"""Disentanglement scores of small sets of latents, by the formulas of disentanglement_lib.

    python crates/vae-eval/tests/golden/disentanglement.py > crates/vae-eval/tests/golden/disentanglement.json

Made with scikit-learn 1.9.1 and NumPy 2.4.6. Written after disentanglement_lib's definitions (Locatello et
al. 2019, https://github.com/google-research/disentanglement_lib: mig.py, modularity_explicitness.py,
sap_score.py, dci.py); the support vector machines are solved to the end instead of for 1000 steps.
"""

import json

import numpy
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.metrics import mutual_info_score
from sklearn.svm import LinearSVC


def discretized(column, bins=20):
    return numpy.digitize(column, numpy.histogram(column, bins)[1][:-1])


def information(latents, factors):
    return numpy.array([[mutual_info_score(v, discretized(z)) for v in factors] for z in latents])


def mig(information, factors):
    entropies = numpy.array([mutual_info_score(v, v) for v in factors])
    ordered = numpy.sort(information, axis=0)[::-1]
    return numpy.mean((ordered[0] - ordered[1]) / entropies)


def modularity(information):
    squared = numpy.square(information)
    largest = numpy.max(squared, axis=1)
    numerator = numpy.sum(squared, axis=1) - largest
    denominator = largest * (squared.shape[1] - 1.0)
    scores = numpy.where(largest == 0.0, 0.0, 1.0 - numerator / numpy.where(largest == 0.0, 1.0, denominator))
    return numpy.mean(scores)


def accuracies(train, test):
    (latents, factors), (test_latents, test_factors) = train, test
    scores = numpy.zeros((len(latents), len(factors)))
    for i, (z, test_z) in enumerate(zip(latents, test_latents)):
        for j, (v, test_v) in enumerate(zip(factors, test_factors)):
            machine = LinearSVC(C=0.01, class_weight="balanced", dual=False, tol=1e-12, max_iter=1_000_000)
            machine.fit(z[:, None], v)
            scores[i, j] = numpy.mean(machine.predict(test_z[:, None]) == test_v)
    return scores


def sap(scores):
    ordered = numpy.sort(scores, axis=0)
    return numpy.mean(ordered[-1] - ordered[-2])


def certainty(columns):
    """1 less the entropy of each column, to the base of their length."""
    shares = (columns + 1e-11) / (columns + 1e-11).sum(axis=0)
    return 1.0 + (shares * numpy.log(shares)).sum(axis=0) / numpy.log(len(columns))


def trees(train, test):
    (latents, factors), (test_latents, test_factors) = train, test
    importances, right = [], []
    for v, test_v in zip(factors, test_factors):
        model = GradientBoostingClassifier(random_state=0)
        model.fit(latents.T, v)
        importances.append(model.feature_importances_)
        right.append(numpy.mean(model.predict(test_latents.T) == test_v))
    return numpy.array(importances).T, numpy.mean(right)


def case(name, train, test):
    rounded = [(z.round(4), v) for z, v in (train, test)]
    train, test = rounded
    of_latents = information(*train)
    scores = accuracies(train, test)
    importances, informativeness = trees(train, test)
    lists = lambda pair: {"latents": pair[0].tolist(), "factors": pair[1].tolist()}
    return {
        "name": name,
        "train": lists(train),
        "test": lists(test),
        "mutual_information": of_latents.tolist(),
        "mig": mig(of_latents, train[1]),
        "modularity": modularity(of_latents),
        "sap_accuracies": scores.tolist(),
        "sap": sap(scores),
        "importances": importances.tolist(),
        "disentanglement": (certainty(importances.T) * importances.sum(axis=1)).sum() / importances.sum(),
        "completeness": (certainty(importances) * importances.sum(axis=0)).sum() / importances.sum(),
        "informativeness": informativeness,
    }


SIZES = [3, 4, 6]


def drawn(n, latents):
    factors = numpy.array([random.integers(size, size=n) for size in SIZES])
    return latents((factors - (numpy.array(SIZES)[:, None] - 1) / 2) / numpy.array(SIZES)[:, None]), factors


def both(latents):
    return drawn(150, latents), drawn(80, latents)


def noise(v, scale):
    return scale * random.standard_normal((1, v.shape[1]))


random = numpy.random.default_rng(0)
mixing = random.standard_normal((5, 3))
print(
    json.dumps(
        [
            case("a factor each", *both(lambda v: v + 0.05 * random.standard_normal(v.shape))),
            case("mixed", *both(lambda v: mixing @ v + 0.1 * random.standard_normal((5, v.shape[1])))),
            case("two for one, one of noise", *both(lambda v: numpy.concatenate([v[:2] + noise(v, 0.1), v[1:2] + noise(v, 0.2), noise(v, 1.0)]))),
            case("one dimension with curves", *both(lambda v: numpy.concatenate([v**2 + noise(v, 0.02), 3.0 + noise(v, 2.0)]))),
        ]
    )
)
