"""Makes the two small fonts of the plots from the npm package @fontsource/inter 5.3.0 (SIL OFL 1.1).

    pip install fonttools brotli
    python subset.py PACKAGE_FOLDER

keeps ASCII, the accented Latin letters and a few signs of each weight, without hints and layout.
"""

import sys
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

KEPT = [*range(0x20, 0x7F), *range(0xC0, 0x100), 0xB1, 0xB2, 0xB7, 0xD7, 0x2013, 0x2026, 0x2212]

for weight, name in (400, "Inter-Regular"), (600, "Inter-SemiBold"):
    font = TTFont(Path(sys.argv[1]) / "files" / f"inter-latin-{weight}-normal.woff2")
    font.flavor = None
    options = subset.Options()
    options.hinting = False
    options.layout_features = []
    options.drop_tables += ["GSUB", "GPOS", "GDEF", "STAT"]
    options.name_IDs = [0, 1, 2, 3, 4, 5, 6, 13, 14]
    options.notdef_outline = True
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=KEPT)
    subsetter.subset(font)
    font.save(Path(__file__).parent / f"{name}.ttf")
