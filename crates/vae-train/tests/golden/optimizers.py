"""Twenty steps of PyTorch's optimizers on a fixed problem.

    python crates/vae-train/tests/golden/optimizers.py > crates/vae-train/tests/golden/optimizers.json

Made with PyTorch 2.11.0 on a CPU. The problem: minimize Σ cᵢ·(wᵢ − tᵢ)² + Σ sin(3·wᵢ) from w = 0.5.
"""

import json

import torch

c = torch.tensor([0.1, 1.0, 10.0, 0.01])
t = torch.tensor([1.0, -2.0, 0.3, 5.0])


def trajectory(make, clip=lambda parameters: None, **options):
    w = torch.full((4,), 0.5, requires_grad=True)
    optimizer = make([w], **options)
    steps = []
    for _ in range(20):
        optimizer.zero_grad()
        ((c * (w - t) ** 2).sum() + torch.sin(3 * w).sum()).backward()
        clip([w])
        optimizer.step()
        steps.append(w.tolist())
    return steps


def by_norm(parameters):
    torch.nn.utils.clip_grad_norm_(parameters, 1.5)


def by_value(parameters):
    torch.nn.utils.clip_grad_value_(parameters, 0.7)


def both(parameters):
    by_norm(parameters)
    by_value(parameters)


adam = dict(lr=0.05, betas=(0.8, 0.95), eps=1e-8)
rmsprop = dict(lr=0.05, alpha=0.9, eps=1e-7)
optim = torch.optim
print(
    json.dumps(
        {
            "adam": trajectory(optim.Adam, **adam),
            "adam_decay": trajectory(optim.Adam, **adam, weight_decay=0.3),
            "adamw": trajectory(optim.AdamW, **adam, weight_decay=0.3),
            "rmsprop": trajectory(optim.RMSprop, **rmsprop),
            "rmsprop_decay": trajectory(optim.RMSprop, **rmsprop, weight_decay=0.3),
            "sgd": trajectory(optim.SGD, lr=0.01),
            "sgd_decay": trajectory(optim.SGD, lr=0.01, weight_decay=0.3),
            "momentum": trajectory(optim.SGD, lr=0.01, momentum=0.8, weight_decay=0.3),
            "nesterov": trajectory(optim.SGD, lr=0.01, momentum=0.8, nesterov=True),
            "clip_norm": trajectory(optim.SGD, by_norm, lr=0.05),
            "clip_value": trajectory(optim.SGD, by_value, lr=0.05),
            "clip_both": trajectory(optim.SGD, both, lr=0.05),
        },
        indent=1,
    )
)
