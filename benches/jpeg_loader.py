"""Image-folder loading of the usual PyTorch stack: Pillow, torchvision's transforms and a DataLoader.

    python benches/jpeg_loader.py FOLDER [--crop PIXELS] [--size 64] [--workers 2] [--images N]

Each image: decode, centered square crop, antialiased bilinear resize, to float in [-1, 1]; shuffled batches of 64.
Prints one JSON line. docs/data.md has what `vae data bench` comes to beside it.
"""
import argparse, glob, json, os, time
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

p = argparse.ArgumentParser()
p.add_argument("folder")
p.add_argument("--crop", type=int)
p.add_argument("--size", type=int, default=64)
p.add_argument("--workers", type=int, default=2)
p.add_argument("--images", type=int, default=4000)
a = p.parse_args()
torch.set_num_threads(1)
files = sorted(glob.glob(os.path.join(a.folder, "*.jpg")))
files = (files * (a.images // len(files) + 1))[: a.images]
crop = a.crop or min(Image.open(files[0]).size)
to_tensor = v2.Compose([v2.CenterCrop(crop), v2.Resize(a.size, antialias=True), v2.PILToTensor(),
                        v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)])


class Folder(Dataset):
    def __len__(self):
        return len(files)

    def __getitem__(self, i):
        return to_tensor(Image.open(files[i]).convert("RGB"))


t = time.perf_counter()
n = sum(len(b) for b in DataLoader(Folder(), batch_size=64, num_workers=a.workers, shuffle=True))
dt = time.perf_counter() - t
print(json.dumps(dict(peer="torchvision " + __import__("torchvision").__version__, workers=a.workers, crop=crop, size=a.size,
                      images_per_s=round(n / dt, 1))))
