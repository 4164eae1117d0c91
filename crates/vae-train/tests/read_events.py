"""Reads a run's events with TensorBoard's own package, and says what it finds.

    pip install tensorboard
    python read_events.py RUN

Fails where a tag has a step twice or out of order, as a resumed run must not.
"""

import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

events = EventAccumulator(str(Path(sys.argv[1]) / "events"), size_guidance={kind: 0 for kind in (
    "scalars", "images", "histograms", "compressedHistograms", "tensors")})
events.Reload()
tags = events.Tags()
found = [("scalar", tag, [(e.step, f"{e.value:.6g}") for e in events.Scalars(tag)])
         for tag in tags["scalars"]]
found += [("image", tag, [(e.step, f"{e.width}x{e.height}, {len(e.encoded_image_string)} bytes")
                          for e in events.Images(tag)]) for tag in tags["images"]]
found += [("histogram", tag, [(e.step, f"{e.histogram_value.num:.0f} values, sum "
                               f"{e.histogram_value.sum:.6g}") for e in events.Histograms(tag)])
          for tag in tags["histograms"]]
for kind, tag, values in found:
    steps = [step for step, _ in values]
    assert steps == sorted(set(steps)), f"{tag}: steps {steps}"
    print(f"{kind:9} {tag:28} " + "; ".join(f"{step}: {value}" for step, value in values))
assert found, "no events"
