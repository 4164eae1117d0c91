"""Writes the first 256 training and 64 test digits of MNIST, with labels, into this folder.

    python3 crates/vae-train/tests/data/mnist/make.py datasets/mnist

in the workspace's root, after `cargo xtask fetch-data mnist`. License and source: datasets/mnist.toml.
"""

import gzip
import struct
import sys
from pathlib import Path

here = Path(__file__).parent
source = Path(sys.argv[1])

for split, n in [("train", 256), ("t10k", 64)]:
    for kind, n_dims, n_bytes in [("images-idx3", 3, 28 * 28), ("labels-idx1", 1, 1)]:
        name = f"{split}-{kind}-ubyte"
        whole = (source / name).read_bytes()
        magic, n_all = struct.unpack(">II", whole[:8])
        header = 4 + 4 * n_dims
        assert magic == 0x800 + n_dims and n_all > n
        first = struct.pack(">II", magic, n) + whole[8 : header + n * n_bytes]
        # Without a time in it the file is the same whenever it is made.
        (here / f"{name}.gz").write_bytes(gzip.compress(first, mtime=0))
