"""Why some seeds of the MNIST network half collapse: how many of the encoder's 32 hidden units are ever on.

    python benches/hidden_units.py [datasets/mnist/train-images-idx3-ubyte]

Trains the network of pytorch_vae.py for 120 steps (Adam 1e-3, batch 128) from four seeds, with PyTorch's
initialization and with Kaiming's, and prints a line for each: units on for at least one image of the last batch,
KL of each latent dimension, reconstruction (nats per image).
"""

import sys

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

path = sys.argv[1] if len(sys.argv) > 1 else "datasets/mnist/train-images-idx3-ubyte"
images = torch.from_numpy(np.fromfile(path, dtype=np.uint8, offset=16).reshape(-1, 1, 28, 28).copy())


class Mnist(nn.Module):
    def __init__(s):
        super().__init__()
        c = lambda i, o, st: nn.Conv2d(i, o, 3, stride=st, padding=1)
        s.enc = nn.Sequential(c(1, 32, 1), nn.ReLU(), c(32, 64, 2), nn.ReLU(), c(64, 64, 1), nn.ReLU(), c(64, 64, 1), nn.ReLU(),
                              nn.Flatten(), nn.Linear(12544, 32), nn.ReLU())
        s.mu, s.lv, s.up = nn.Linear(32, 2), nn.Linear(32, 2), nn.Linear(2, 12544)
        s.dec = nn.Sequential(nn.ConvTranspose2d(64, 32, 3, 2, 1, 1), nn.ReLU(), c(32, 1, 1))


def kaiming(m):
    """`initialization = "kaiming"`: ±√(6/n) before a ReLU, ±1/√n elsewhere, n terms in a sum; zero biases."""
    for layer in m.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            n = 64 * 9 / 4 if isinstance(layer, nn.ConvTranspose2d) else layer.weight[0].numel()
            output = layer in (m.mu, m.lv, m.dec[2])
            bound = ((1 if output else 6) / n) ** 0.5
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.zeros_(layer.bias)


for seed in range(4):
    for name, initialize in (("pytorch", lambda m: None), ("kaiming", kaiming)):
        torch.manual_seed(seed)
        m = Mnist().to(memory_format=torch.channels_last)
        initialize(m)
        optimizer = torch.optim.Adam(m.parameters(), 1e-3)
        order = torch.randperm(len(images))
        for step in range(120):
            x = images[order[step * 128 : (step + 1) * 128]].float() / 255
            hidden = m.enc(x)
            mean, log_var = m.mu(hidden), m.lv(hidden)
            z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
            logits = m.dec(F.relu(m.up(z)).view(-1, 64, 14, 14))
            reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
            kl = (-0.5 * (1 + log_var - mean**2 - log_var.exp())).mean(0)
            optimizer.zero_grad()
            (reconstruction + kl.sum()).backward()
            optimizer.step()
        on = (hidden > 0).any(0).sum().item()
        print(f"seed {seed} {name}: {on:2} of 32 units on, kl {kl[0]:.2f} + {kl[1]:.2f}, reconstruction {reconstruction:.1f}", flush=True)
