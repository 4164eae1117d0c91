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


def halved(shape, n):
    """The sizes (H, W) of maps after 0, 1, …, n halvings, rounded up."""
    sizes = [shape[1:]]
    for _ in range(n):
        sizes.append(tuple((side + 1) // 2 for side in sizes[-1]))
    return sizes


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


class Faces(nn.Module):
    """Convolutions of stride 2 with batch norm and leaky ReLU. They have no bias, for the norm would take it out again."""

    def __init__(self, shape, latent_dims, channels):
        super().__init__()
        self.shape, self.latent_dims = shape, latent_dims
        sizes = halved(shape, len(channels))
        self.map = (channels[-1], *sizes[-1])
        n_features = channels[-1] * sizes[-1][0] * sizes[-1][1]
        down = zip([shape[0], *channels], channels)
        self.down = nn.ModuleList([nn.Conv2d(i, o, 3, 2, 1, bias=False) for i, o in down])
        self.down_norms = nn.ModuleList([nn.BatchNorm2d(o) for o in channels])
        self.posterior, self.hidden = nn.Linear(n_features, 2 * latent_dims), nn.Linear(latent_dims, n_features)
        outputs = [*channels[-2::-1], channels[0]]
        self.up = nn.ModuleList()
        for i, o, small, large in zip([channels[-1], *outputs], outputs, sizes[:0:-1], sizes[-2::-1]):
            missing = tuple(b - (2 * a - 1) for a, b in zip(small, large))
            self.up.append(nn.ConvTranspose2d(i, o, 3, 2, 1, missing, bias=False))
        self.up_norms = nn.ModuleList([nn.BatchNorm2d(o) for o in outputs])
        self.likelihood = conv(channels[0], shape[0], 1)

    def encode(self, x):
        for layer, norm in zip(self.down, self.down_norms):
            x = F.leaky_relu(norm(layer(x)), 0.01)
        return self.posterior(x.flatten(1))

    def decode(self, z):
        x = self.hidden(z).view(-1, *self.map)
        for layer, norm in zip(self.up, self.up_norms):
            x = F.leaky_relu(norm(layer(x)), 0.01)
        return self.likelihood(x)

    def names(self):
        named = {"encoder.posterior": self.posterior, "decoder.hidden": self.hidden, "decoder.likelihood": self.likelihood}
        for side, layers, norms in (("encoder", self.down, self.down_norms), ("decoder", self.up, self.up_norms)):
            for i, (layer, norm) in enumerate(zip(layers, norms)):
                named[f"{side}.conv.{i}"], named[f"{side}.norm.{i}"] = layer, norm
        return named


class Block(nn.Module):
    def __init__(self, channels, group_size):
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(channels // group_size, channels) for _ in range(2)])
        self.convs = nn.ModuleList([conv(channels, channels, 1) for _ in range(2)])

    def forward(self, x):
        h = self.convs[0](F.silu(self.norms[0](x)))
        return x + self.convs[1](F.silu(self.norms[1](h)))


class Residual(nn.Module):
    """Residual blocks with group norm; strided convolutions down, 1×1 convolutions and nearest neighbors up."""

    def __init__(self, shape, latent_dims, channels, blocks, group_size):
        super().__init__()
        self.shape, self.latent_dims = shape, latent_dims
        self.sizes = halved(shape, len(channels) - 1)
        self.map = (channels[-1], *self.sizes[-1])
        n_features = channels[-1] * self.sizes[-1][0] * self.sizes[-1][1]
        self.down = nn.ModuleList([conv(shape[0], channels[0], 1)])
        self.down.extend(conv(i, o, 2) for i, o in zip(channels, channels[1:]))
        self.down_blocks = nn.ModuleList([nn.Sequential(*[Block(c, group_size) for _ in range(blocks)]) for c in channels])
        self.norm, self.posterior = nn.GroupNorm(channels[-1] // group_size, channels[-1]), nn.Linear(n_features, 2 * latent_dims)
        self.hidden = nn.Linear(latent_dims, n_features)
        back = channels[::-1]
        self.up = nn.ModuleList([nn.Conv2d(i, o, 1) for i, o in zip(back, back[1:])])
        self.up_blocks = nn.ModuleList([nn.Sequential(*[Block(c, group_size) for _ in range(blocks)]) for c in back])
        self.last_norm, self.likelihood = nn.GroupNorm(channels[0] // group_size, channels[0]), conv(channels[0], shape[0], 1)

    def encode(self, x):
        for layer, blocks in zip(self.down, self.down_blocks):
            x = blocks(layer(x))
        return self.posterior(F.silu(self.norm(x)).flatten(1))

    def decode(self, z):
        x = self.up_blocks[0](self.hidden(z).view(-1, *self.map))
        for layer, blocks, size in zip(self.up, self.up_blocks[1:], self.sizes[-2::-1]):
            x = blocks(F.interpolate(layer(x), size=size, mode="nearest"))
        return self.likelihood(F.silu(self.last_norm(x)))

    def names(self):
        named = {
            "encoder.norm": self.norm,
            "encoder.posterior": self.posterior,
            "decoder.hidden": self.hidden,
            "decoder.norm": self.last_norm,
            "decoder.likelihood": self.likelihood,
        }
        for side, layers, stages, first in (
            ("encoder", self.down, self.down_blocks, 0),
            ("decoder", self.up, self.up_blocks, 1),
        ):
            for i, layer in enumerate(layers):
                named[f"{side}.{i + first}.conv"] = layer
            for i, blocks in enumerate(stages):
                for j, block in enumerate(blocks):
                    for k in range(2):
                        named[f"{side}.{i}.block.{j}.norm.{k}"] = block.norms[k]
                        named[f"{side}.{i}.block.{j}.conv.{k}"] = block.convs[k]
        return named


def case(network, batch=3, faces=False):
    """`faces`: pixels in [-1, 1], tanh, squared error; otherwise in [0, 1], logits, cross-entropy."""
    torch.manual_seed(0)
    kinds = ("weight", "bias", "running_mean", "running_var")
    named = sorted(
        (f"{name}.{kind}", getattr(layer, kind))
        for name, layer in network.names().items()
        for kind in kinds
        if getattr(layer, kind, None) is not None
    )
    for i, (name, tensor) in enumerate(named):
        fan_in = tensor[0].numel() if tensor.dim() > 1 else 100
        values = wave(tensor.numel(), float(i), 1.0 / fan_in**0.5).view_as(tensor)
        # Scales of norms lie around 1.
        is_scale = tensor.dim() == 1 and name.endswith(("weight", "running_var"))
        tensor.data = values + 1 if is_scale else values
    x = images(batch, network.shape)
    x = 2 * x - 1 if faces else x
    noise = wave(batch * network.latent_dims, 0.3, 1.2).view(batch, -1)
    network.train()
    mean, log_var = network.encode(x).chunk(2, 1)
    z = mean + torch.exp(0.5 * log_var) * noise
    output = network.decode(z)
    if faces:
        errors = F.mse_loss(torch.tanh(output), x, reduction="none")
    else:
        errors = F.binary_cross_entropy_with_logits(output, x, reduction="none")
    reconstruction = errors.flatten(1).sum(1)
    kl = -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(1)
    loss = (reconstruction + kl).mean()
    loss.backward()
    # The tutorial's loss: means over pixels and latent dimensions, no ½.
    tutorial = reconstruction / x[0].numel() + 5e-4 * (mean.square() + log_var.exp() - log_var - 1).mean(1)
    network.eval()
    with torch.no_grad():
        evaluated = network.encode(x).chunk(2, 1)[0]
        output = network.decode(evaluated)
        mean_image = (torch.tanh(output) + 1) / 2 if faces else torch.sigmoid(output)
    trained = [(name, tensor) for name, tensor in named if tensor.requires_grad]
    return {
        "mean": mean.flatten()[:48].tolist(),
        "log_var": log_var.flatten()[:48].tolist(),
        "evaluated_mean": evaluated.flatten()[:48].tolist(),
        "mean_image_head": mean_image.flatten()[:64].tolist(),
        "reconstruction": reconstruction.tolist(),
        "kl": kl.tolist(),
        "loss": loss.item(),
        "tutorial_loss": tutorial.mean().item(),
        "gradient_norms": {name: tensor.grad.norm().item() for name, tensor in trained},
        "gradient_heads": {name: tensor.grad.flatten()[:4].tolist() for name, tensor in trained},
        "running_heads": {name: tensor.flatten()[:4].tolist() for name, tensor in named if "running" in name},
    }


cases = {
    "mnist": case(Mnist()),
    "odd": case(Odd()),
    "mlp": case(Mlp()),
    "faces": case(Faces((3, 64, 64), 128, [32, 64, 128, 256, 512]), faces=True),
    "odd_faces": case(Faces((3, 37, 50), 5, [4, 6, 8]), faces=True),
    "residual": case(Residual((3, 21, 34), 5, [4, 8, 12], blocks=2, group_size=4), faces=True),
}
print(json.dumps({"torch": torch.__version__, **cases}, indent=1))
