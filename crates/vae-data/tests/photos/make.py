"""Synthetic photos that the `image` crate cannot write, and what Pillow makes of one.

Needs Pillow. Run here: python3 make.py
"""

import io
import json

from PIL import Image

W, H = 48, 32


def scene(width, height):
    """Red grows to the right, green downwards; the top left corner is blue."""
    image = Image.new("RGB", (width, height))
    for y in range(height):
        for x in range(width):
            blue = 255 if x < width // 3 and y < height // 3 else 40
            image.putpixel((x, y), (40 + 200 * x // width, 40 + 200 * y // height, blue))
    return image


if __name__ == "__main__":
    upright = scene(W, H)
    upright.save("upright.png")
    # Inverted, with Adobe's marker: what Photoshop and Pillow write.
    upright.convert("CMYK").save("cmyk.jpg", quality=95, subsampling=0)
    # Orientation 6: the camera was turned; shown upright it is turned by 90° clockwise.
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    turned.save("exif-rotated.jpg", quality=95, subsampling=0, exif=exif)
    upright.convert("L").save("progressive-gray.jpg", quality=95, progressive=True)

    # Pillow's antialiased bilinear of a detailed image: [left, top, right, bottom] cut out, resized.
    detailed = Image.new("RGB", (89, 109))
    for y in range(109):
        for x in range(89):
            detailed.putpixel((x, y), ((x * x + 7 * y) % 256, (x * y) % 256, 255 * ((x // 3 + y // 5) % 2)))
    detailed.save("detailed.png", optimize=True)
    box = (7, 17, 81, 91)
    for side in (64, 20):
        detailed.crop(box).resize((side, side), Image.Resampling.BILINEAR).save(f"detailed-{side}.png")
    detailed.crop(box).resize((100, 100), Image.Resampling.BILINEAR).save("detailed-100.png")
