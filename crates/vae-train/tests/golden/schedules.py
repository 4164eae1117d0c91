"""The factors of PyTorch's learning-rate schedulers.

    python crates/vae-train/tests/golden/schedules.py > crates/vae-train/tests/golden/schedules.json

Made with PyTorch 2.11.0. Every list holds the learning rate of each step, in units of the
optimizer's (0.5 for schedules of the step, 1 for the plateau, whose list is after each loss).
"""

import json
import warnings

import torch
from torch.optim import lr_scheduler

# One-cycle and the plateau are stepped without an optimizer step, on purpose.
warnings.filterwarnings("ignore")

STEPS = 23


def optimizer(lr):
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)


def factors(make):
    sgd = optimizer(0.5)
    scheduler = make(sgd)
    found = []
    for _ in range(STEPS):
        found.append(sgd.param_groups[0]["lr"] / 0.5)
        sgd.step()
        if len(found) < STEPS:
            scheduler.step()
    return found


def after_warm_up(make):
    """Five steps of warm-up, then the other."""

    def both(sgd):
        rise = lr_scheduler.LinearLR(sgd, start_factor=1 / 6, end_factor=1, total_iters=5)
        return lr_scheduler.SequentialLR(sgd, [rise, make(sgd)], milestones=[5])

    return both


def cosine(sgd, steps=STEPS):
    return lr_scheduler.CosineAnnealingLR(sgd, T_max=steps, eta_min=0.5 * 0.1)


def step(sgd):
    return lr_scheduler.StepLR(sgd, step_size=4, gamma=0.3)


def exponential(sgd, steps=STEPS):
    return lr_scheduler.ExponentialLR(sgd, gamma=0.02 ** (1 / steps))


def one_cycle(sgd):
    return lr_scheduler.OneCycleLR(sgd, max_lr=0.5, total_steps=STEPS, cycle_momentum=False)


LOSSES = [9, 8, 8.5, 7.995, 8.1, 7.9991, 7, 7, 7, 7, 7, 7, 6, 6.5, 6.5, 6.5, 6.5, 6.5, 6.5, 6.5, 6.5, 6.5, 6.5]


def plateau(**options):
    sgd = optimizer(1.0)
    scheduler = lr_scheduler.ReduceLROnPlateau(
        sgd, mode="min", factor=0.3, patience=2, eps=0, **options
    )
    found = []
    for loss in LOSSES:
        scheduler.step(loss)
        found.append(sgd.param_groups[0]["lr"])
    return found


print(
    json.dumps(
        {
            "warm_up": factors(
                lambda sgd: lr_scheduler.LinearLR(sgd, start_factor=1 / 6, end_factor=1, total_iters=5)
            ),
            "cosine": factors(cosine),
            "warm_up_cosine": factors(after_warm_up(lambda sgd: cosine(sgd, STEPS - 5))),
            "step": factors(step),
            "warm_up_step": factors(after_warm_up(step)),
            "exponential": factors(exponential),
            "warm_up_exponential": factors(after_warm_up(lambda sgd: exponential(sgd, STEPS - 5))),
            "one_cycle": factors(one_cycle),
            "losses": LOSSES,
            "plateau_relative": plateau(threshold=1e-3),
            "plateau_absolute": plateau(
                threshold=1e-3, threshold_mode="abs", cooldown=2, min_lr=0.01
            ),
        },
        indent=1,
    )
)
