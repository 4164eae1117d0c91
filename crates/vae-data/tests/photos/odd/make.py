"""Unusual, odd and damaged JPEGs, and the pixels that Pillow (libjpeg-turbo) reads from them.

Needs Pillow, `cjpeg` and `djpeg` (Debian: libjpeg-turbo-progs). Run here: python3 make.py

pixels.json has for each file its upright width and height and the CRC-32 of its RGB bytes, or what a
bad file's reason must say. Pillow reads some of the bad ones, with gray where data are missing.
"""

import io
import json
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

W, H = 43, 29
EOI = b"\xff\xd9"


def scene():
    """Smooth colors with sharp edges: wrong upsampling, color or order is seen in every part."""
    image = Image.new("RGB", (W, H))
    for y in range(H):
        for x in range(W):
            image.putpixel((x, y), (30 + 5 * x, 240 - 7 * y, (9 * x + 4 * y) % 256))
    draw = ImageDraw.Draw(image)
    draw.ellipse((4, 5, 19, 20), fill=(250, 30, 40))
    draw.rectangle((24, 9, 38, 25), outline=(20, 40, 250), width=2)
    return image


def cjpeg(*options, scans=None, image=None, quality=60):
    image = image or scene()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "scene.ppm")
        image.save(source)
        options = ["-quality", str(quality), *options]
        if scans:
            script = Path(folder, "scans")
            script.write_text(scans)
            options += ["-scans", str(script)]
        return subprocess.run(["cjpeg", *options, str(source)], check=True, capture_output=True).stdout


def segments(jpeg):
    """[(marker, start, end)] of the headers and, last, the first scan with all that follows."""
    found, at = [], 2
    while True:
        marker = jpeg[at + 1]
        if marker == 0xDA:
            return found + [(marker, at, len(jpeg))]
        end = at + 2 + struct.unpack(">H", jpeg[at + 2 : at + 4])[0]
        found.append((marker, at, end))
        at = end


def without(jpeg, marker):
    parts = [jpeg[start:end] for found, start, end in segments(jpeg) if found != marker]
    return jpeg[:2] + b"".join(parts)


def segment(marker, content):
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def in_front(jpeg, *more):
    return jpeg[:2] + b"".join(more) + jpeg[2:]


def patched(jpeg, marker, offset, value):
    """With another byte so far behind the marker of the (first) segment."""
    start = next(start for found, start, _ in segments(jpeg) if found == marker)
    at = start + offset
    return jpeg[:at] + bytes([value]) + jpeg[at + 1 :]


def exif(orientation, kind=3, order="<"):
    """A block with one entry, of 16 (kind 3) or 32 bits (4)."""
    value = struct.pack(order + ("HH" if kind == 3 else "I"), *[orientation, 0][: 2 if kind == 3 else 1])
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(order + "HHI", 0x0112, kind, 1) + value
    tiff = mark + struct.pack(order + "IH", 8, 1) + entry + struct.pack(order + "I", 0)
    return segment(0xE1, b"Exif\0\0" + tiff)


def no_orientation():
    return segment(0xE1, b"Exif\0\0II*\0" + struct.pack("<IHI", 8, 0, 0))


def scan_cut(jpeg, share):
    """The first so much of the image data."""
    _, start, end = segments(jpeg)[-1]
    header = 2 + struct.unpack(">H", jpeg[start + 2 : start + 4])[0]
    start += header
    return jpeg[: start + int(share * (end - 2 - start))]


def until_scan(jpeg, n):
    """What is in front of scan n + 1."""
    at = -1
    for _ in range(n + 1):
        at = jpeg.index(b"\xff\xda", at + 1)
    return jpeg[:at]


def last_scan(jpeg):
    return jpeg[jpeg.rindex(b"\xff\xda") : -2]


def cmyk():
    file = io.BytesIO()
    scene().convert("CMYK").save(file, "JPEG", quality=60)
    return file.getvalue()


base = cjpeg("-sample", "2x2")
progressive = cjpeg("-sample", "2x2", "-progressive")
# Its last scan is a bit for each block, so that it may come again.
small = cjpeg("-grayscale", scans="0: 0-0, 0, 1;\n0: 1-63, 0, 0;\n0: 0-0, 1, 0;\n", image=scene().crop((0, 0, 8, 8)))
each = "0;\n1;\n2;\n"
restarts = cjpeg("-sample", "2x2", "-restart", "2B")
plain_rgb = without(cjpeg("-rgb"), 0xEE)
second_restart = restarts.index(b"\xff\xd1")

GOOD = {
    "444": cjpeg("-sample", "1x1"),
    "422": cjpeg("-sample", "2x1"),
    "440": cjpeg("-sample", "1x2"),
    "420": base,
    "411": cjpeg("-sample", "4x1"),
    "factors-1x4": cjpeg("-sample", "1x4"),
    "factors-3x2": cjpeg("-sample", "3x2"),
    "factors-mixed": cjpeg("-sample", "2x2,2x1,1x2"),
    "more-chroma-than-luma": cjpeg("-sample", "1x1,2x2,2x2"),
    "gray": cjpeg("-grayscale"),
    "gray-factors-2x2": cjpeg("-grayscale", "-sample", "2x2"),
    "one-scan-each-420": cjpeg("-sample", "2x2", scans=each),
    "one-scan-each-440": cjpeg("-sample", "1x2", scans=each),
    "one-scan-each-422": cjpeg("-sample", "2x1", scans=each),
    "two-scans": cjpeg("-sample", "2x2", scans="0;\n1 2;\n"),
    "progressive": progressive,
    "progressive-gray": cjpeg("-grayscale", "-progressive"),
    "progressive-restarts": cjpeg("-sample", "2x2", "-progressive", "-restart", "1"),
    "restarts": restarts,
    "arithmetic": cjpeg("-sample", "2x2", "-arithmetic"),
    "arithmetic-progressive": cjpeg("-sample", "2x2", "-arithmetic", "-progressive"),
    "16-bit-quantization": cjpeg("-sample", "2x2", quality=2),
    "no-huffman-tables": without(base, 0xC4),
    "no-jfif": without(base, 0xE0),
    "jfif-of-the-future": patched(base, 0xE0, 9, 7),
    "junk-between-headers": in_front(base, b"\0\x01junk\0") + b"junk behind the end",
    "fill-bytes": in_front(base, b"\xff" * 9),
    "adobe-too-short": in_front(base, segment(0xEE, b"Adobe\0\x64")),
    "adobe-unknown-transform": in_front(without(base, 0xE0), segment(0xEE, b"Adobe\0\x64\0\0\0\0\x07")),
    "adobe-rgb": cjpeg("-rgb"),
    "rgb-by-its-names": plain_rgb,
    "cmyk": cmyk(),
    "cmyk-without-adobe": without(cmyk(), 0xEE),
    "ycck": patched(cmyk(), 0xEE, 15, 2),
    "bytes-before-the-end": base[:-2] + b"\x12\x34\x56" + EOI,
    "odd-scan-parameters": patched(base, 0xDA, 12, 0),
    "exif-6": in_front(base, exif(6)),
    "exif-8-big-endian": in_front(base, exif(8, order=">")),
    "exif-6-of-32-bits": in_front(base, exif(6, kind=4)),
    "exif-5-of-32-bits-big-endian": in_front(base, exif(5, kind=4, order=">")),
    "exif-9": in_front(base, exif(9)),
}
# Pillow joins blocks, of which it then sees the first; browsers and exiftool look into each.
SECOND_BLOCK = ("exif-3-in-the-second-block", in_front(base, no_orientation(), exif(3)))

BAD = {
    "without-the-end": (base[:-2], "cut short"),
    "half-of-the-scan-then-the-end": (scan_cut(base, 0.5) + EOI, "cut short"),
    "half-of-the-scan": (scan_cut(base, 0.5), "cut short"),
    "all-but-a-byte-of-the-scan": (scan_cut(base, 1)[:-1], "cut short"),
    "one-percent-of-the-scan-then-the-end": (scan_cut(base, 0.01) + EOI, "cut short"),
    "one-of-three-scans-then-the-end": (until_scan(cjpeg("-sample", "2x2", scans=each), 1) + EOI, "cut short"),
    "two-of-three-scans": (until_scan(cjpeg("-sample", "2x2", scans=each), 2), "cut short"),
    "too-many-scans": (small[:-2] + 220 * last_scan(small) + EOI, "200 scans"),
    "half-of-progressive": (progressive[: len(progressive) // 2], "cut short"),
    "three-scans-of-progressive": (until_scan(progressive, 3), "cut short"),
    "half-of-arithmetic": (scan_cut(cjpeg("-arithmetic"), 0.5), "cut short"),
    "a-restart-lost": (restarts[:second_restart] + restarts[second_restart + 2 :], ""),
    "headers-alone": (base[: segments(base)[-1][1]] + EOI, ""),
    "start-alone": (base[:2], ""),
    "12-bits": (patched(base, 0xC0, 4, 12), "precision 12"),
    "lossless": (patched(base, 0xC0, 1, 0xC3), "0xc3"),
    "without-a-height": (patched(base, 0xC0, 6, 0), "DNL"),
    "factors-that-are-no-multiples": (patched(cjpeg("-sample", "3x1"), 0xC0, 14, 0x21), "sampling"),
}


def pillow(jpeg):
    try:
        image = Image.open(io.BytesIO(jpeg))
    except UnidentifiedImageError:
        # Its own reading of the headers comes first; this is libjpeg-turbo's.
        ppm = subprocess.run(["djpeg"], input=jpeg, capture_output=True).stdout
        image = Image.open(io.BytesIO(ppm))
    image = ImageOps.exif_transpose(image).convert("RGB")
    return {"size": list(image.size), "crc32": zlib.crc32(image.tobytes())}


if __name__ == "__main__":
    for old in Path().glob("*.jpg"):
        old.unlink()
    wanted = {}
    for name, jpeg in GOOD.items():
        Path(f"{name}.jpg").write_bytes(jpeg)
        wanted[f"{name}.jpg"] = pillow(jpeg)
    name, jpeg = SECOND_BLOCK
    Path(f"{name}.jpg").write_bytes(jpeg)
    turned = Image.open(io.BytesIO(base)).convert("RGB").transpose(Image.Transpose.ROTATE_180)
    wanted[f"{name}.jpg"] = {"size": list(turned.size), "crc32": zlib.crc32(turned.tobytes())}
    for name, (jpeg, reason) in BAD.items():
        Path(f"{name}.jpg").write_bytes(jpeg)
        wanted[f"{name}.jpg"] = {"bad": reason}
    lines = (f'  "{name}": {json.dumps(wanted[name])}' for name in sorted(wanted))
    Path("pixels.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
