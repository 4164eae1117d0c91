"""The von Mises-Fisher distribution's normalizer, mean and kl by SciPy's Bessel functions.

    python crates/vae-model/tests/golden/von_mises_fisher.py > crates/vae-model/tests/golden/von_mises_fisher.json

Made with SciPy 1.17.1. One line a case: Z, kappa, ln of the integral of exp(kappa (cos theta - 1)) over
the unit sphere in R^Z, E[1 - cos theta], and the kl to the uniform distribution, by the formulas of Davidson
et al. 2018 (https://arxiv.org/abs/1804.00891) with I(kappa) = ive(kappa) exp(kappa).
"""

import json

import numpy as np
from scipy.special import gammaln, ive

cases = []
for z in [2, 3, 4, 5, 10, 20, 50, 200]:
    for kappa in [1.0, 2.5, 10.0, 100.0, 1000.0, 1e4]:
        bessel = ive(z / 2 - 1, kappa)
        log_normalizer = z / 2 * np.log(2 * np.pi) - (z / 2 - 1) * np.log(kappa) + np.log(bessel)
        shortfall = (bessel - ive(z / 2, kappa)) / bessel
        log_area = np.log(2) + z / 2 * np.log(np.pi) - gammaln(z / 2)
        kl = -kappa * shortfall - log_normalizer + log_area
        cases.append([z, kappa, log_normalizer, shortfall, kl])
print("[\n" + ",\n".join("  " + json.dumps(case) for case in cases) + "\n]")
