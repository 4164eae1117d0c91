"""Twelve steps of Adam and AdamW on two variables, one of which has gradients from the fifth step on.

    python crates/vae-train/tests/golden/late_variable.py > crates/vae-train/tests/golden/late_variable.json

The formulas of torch.optim.Adam and AdamW in float64, whose state, the number of steps included, is each
variable's own and begins with its first gradient. The problem of each: minimize c·(w − t)² + sin(3·w)
from w = 0.5.
"""

import json
import math

LR, BETA1, BETA2, EPS, DECAY = 0.05, 0.8, 0.95, 1e-8, 0.3
EARLY, LATE = (1.0, -2.0), (0.1, 1.0)


def gradient(w, c, t):
    return 2 * c * (w - t) + 3 * math.cos(3 * w)


class Variable:
    def __init__(self, problem):
        self.problem, self.w = problem, 0.5
        self.mean = self.mean_square = 0.0
        self.steps = 0

    def step(self, decoupled):
        g = gradient(self.w, *self.problem)
        if decoupled:
            self.w *= 1 - LR * DECAY
        else:
            g += DECAY * self.w
        self.steps += 1
        self.mean += (1 - BETA1) * (g - self.mean)
        self.mean_square += (1 - BETA2) * (g * g - self.mean_square)
        root = math.sqrt(self.mean_square / (1 - BETA2**self.steps))
        self.w -= LR / (1 - BETA1**self.steps) * self.mean / (root + EPS)


def trajectory(decoupled):
    early, late = Variable(EARLY), Variable(LATE)
    steps = []
    for step in range(1, 13):
        early.step(decoupled)
        if step >= 5:
            late.step(decoupled)
        steps.append([early.w, late.w])
    return steps


print(json.dumps({"adam_decay": trajectory(False), "adamw": trajectory(True)}, indent=1))
