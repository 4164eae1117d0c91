"""Numbers of the networks in PyTorch, for fixed weights and inputs.

    python crates/vae-model/tests/golden/networks.py > crates/vae-model/tests/golden/networks.json

Made with PyTorch 2.11.0 on a CPU. Weights, images and noise come from formulas that
tests/golden.rs computes too, so that the file holds results only.
"""

import json

import torch
import torch.nn as nn
import torch.nn.functional as F


def wave(n, phase, amplitude):
    """The formula of all weights: amplitude · sin(phase + 0.7·i), in f64, then rounded to f32."""
    i = torch.arange(n, dtype=torch.float64)
    return (amplitude * torch.sin(phase + 0.7 * i)).float()


def images(batch, shape):
    i = torch.arange(batch * shape[0] * shape[1] * shape[2], dtype=torch.int64)
    return ((i * 37 + (i * i) % 101 * 5) % 256).view(batch, *shape).float() / 255


def conv(i, o, s):
    return nn.Conv2d(i, o, 3, stride=s, padding=1)


class Mnist(nn.Module):
    """The network of peers' scripts: 32, 64 (stride 2), 64, 64 channels, 32 hidden, 2 latent."""

    shape, latent_dims = (1, 28, 28), 2

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([conv(1, 32, 1), conv(32, 64, 2), conv(64, 64, 1), conv(64, 64, 1)])
        self.hidden, self.posterior = nn.Linear(12544, 32), nn.Linear(32, 4)
        self.up = nn.Linear(2, 12544)
        self.transposed = nn.ModuleList([nn.ConvTranspose2d(64, 32, 3, 2, 1, 1)])
        self.likelihood = conv(32, 1, 1)
        self.map = (64, 14, 14)

    def encode(self, x):
        for layer in self.convs:
            x = F.relu(layer(x))
        return self.posterior(F.relu(self.hidden(x.flatten(1))))

    def decode(self, z):
        x = F.relu(self.up(z)).view(-1, *self.map)
        for layer in self.transposed:
            x = F.relu(layer(x))
        return self.likelihood(x)

    def names(self):
        named = {}
        for i, layer in enumerate(self.convs):
            named[f"encoder.conv.{i}"] = layer
        named["encoder.hidden"], named["encoder.posterior"] = self.hidden, self.posterior
        named["decoder.hidden"] = self.up
        for i, layer in enumerate(self.transposed):
            named[f"decoder.conv.{i}"] = layer
        named["decoder.likelihood"] = self.likelihood
        return named


class Odd(Mnist):
    """Color, not square, sizes that no stride divides: 17×22 → 9×11 → 9×11 → 3×4 (strides 2, 1, 3)."""

    shape, latent_dims = (3, 17, 22), 5

    def __init__(self):
        nn.Module.__init__(self)
        self.convs = nn.ModuleList([conv(3, 6, 2), conv(6, 8, 1), conv(8, 10, 3)])
        self.hidden, self.posterior = nn.Linear(10 * 3 * 4, 16), nn.Linear(16, 10)
        self.up = nn.Linear(5, 10 * 3 * 4)
        self.transposed = nn.ModuleList(
            [
                nn.ConvTranspose2d(10, 7, 3, 3, 1, (2, 1)),  # 3×4 → 9×11
                nn.ConvTranspose2d(7, 6, 3, 1, 1, 0),
                nn.ConvTranspose2d(6, 4, 3, 2, 1, (0, 1)),  # 9×11 → 17×22
            ]
        )
        self.likelihood = conv(4, 3, 1)
        self.map = (10, 3, 4)


class Mlp(nn.Module):
    """784-40-30-8 and back."""

    shape, latent_dims = (1, 28, 28), 8

    def __init__(self):
        super().__init__()
        self.enc = nn.ModuleList([nn.Linear(784, 40), nn.Linear(40, 30), nn.Linear(30, 16)])
        self.dec = nn.ModuleList([nn.Linear(8, 30), nn.Linear(30, 40), nn.Linear(40, 784)])

    def encode(self, x):
        x = x.flatten(1)
        return self.enc[2](F.relu(self.enc[1](F.relu(self.enc[0](x)))))

    def decode(self, z):
        return self.dec[2](F.relu(self.dec[1](F.relu(self.dec[0](z))))).view(-1, 1, 28, 28)

    def names(self):
        return {f"{side}.{i}": layer for side, layers in (("encoder", self.enc), ("decoder", self.dec)) for i, layer in enumerate(layers)}


def case(network, batch=3):
    torch.manual_seed(0)
    named = sorted(
        (f"{name}.{kind}", getattr(layer, kind)) for name, layer in network.names().items() for kind in ("weight", "bias")
    )
    for i, (_, tensor) in enumerate(named):
        fan_in = tensor[0].numel() if tensor.dim() > 1 else 100
        tensor.data = wave(tensor.numel(), float(i), 1.0 / fan_in**0.5).view_as(tensor)
    x = images(batch, network.shape)
    noise = wave(batch * network.latent_dims, 0.3, 1.2).view(batch, -1)
    params = network.encode(x)
    mean, log_var = params.chunk(2, 1)
    z = mean + torch.exp(0.5 * log_var) * noise
    logits = network.decode(z)
    reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)
    kl = -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(1)
    loss = (reconstruction + kl).mean()
    loss.backward()
    # The tutorial's loss: means over pixels and latent dimensions, no ½.
    tutorial = reconstruction / x[0].numel() + 5e-4 * (mean.square() + log_var.exp() - log_var - 1).mean(1)
    return {
        "mean": mean.flatten().tolist(),
        "log_var": log_var.flatten().tolist(),
        "mean_image_head": torch.sigmoid(network.decode(mean)).flatten()[:64].tolist(),
        "reconstruction": reconstruction.tolist(),
        "kl": kl.tolist(),
        "loss": loss.item(),
        "tutorial_loss": tutorial.mean().item(),
        "gradient_norms": {name: tensor.grad.norm().item() for name, tensor in named},
        "gradient_heads": {name: tensor.grad.flatten()[:4].tolist() for name, tensor in named},
    }


print(json.dumps({"torch": torch.__version__, "mnist": case(Mnist()), "odd": case(Odd()), "mlp": case(Mlp())}, indent=1))
