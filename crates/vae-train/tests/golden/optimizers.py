"""Twenty steps of PyTorch's optimizers on a fixed problem.

    python crates/vae-train/tests/golden/optimizers.py > crates/vae-train/tests/golden/optimizers.json

Made with PyTorch 2.11.0 on a CPU. The problem: minimize Σ cᵢ·(wᵢ − tᵢ)² + Σ sin(3·wᵢ) from w = 0.5.
"""

import json

import torch

c = torch.tensor([0.1, 1.0, 10.0, 0.01])
t = torch.tensor([1.0, -2.0, 0.3, 5.0])


def trajectory(make, **options):
    w = torch.full((4,), 0.5, requires_grad=True)
    optimizer = make([w], **options)
    steps = []
    for _ in range(20):
        optimizer.zero_grad()
        ((c * (w - t) ** 2).sum() + torch.sin(3 * w).sum()).backward()
        optimizer.step()
        steps.append(w.tolist())
    return steps


print(
    json.dumps(
        {
            "torch": torch.__version__,
            "adam": trajectory(torch.optim.Adam, lr=0.05, betas=(0.8, 0.95), eps=1e-8),
            "rmsprop": trajectory(torch.optim.RMSprop, lr=0.05, alpha=0.9, eps=1e-7),
        },
        indent=1,
    )
)
