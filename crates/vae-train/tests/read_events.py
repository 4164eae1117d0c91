"""Reads a run's events with TensorBoard's own package, and says what it finds.

    pip install tensorboard
    python read_events.py RUN

Fails where a tag has a step twice or out of order, as a resumed run must not, and where TensorBoard's plugin does not
find the hyperparameters.
"""

import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

root = Path(sys.argv[1]) / "events"
n_found = 0
for folder in [root, *sorted(path for path in root.iterdir() if path.is_dir())]:
    events = EventAccumulator(str(folder), size_guidance={kind: 0 for kind in (
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
        assert steps == sorted(set(steps)), f"{folder.name}, {tag}: steps {steps}"
        print(f"{folder.name:12} {kind:9} {tag:28} "
              + "; ".join(f"{step}: {value}" for step, value in values))
    n_found += len(found)
    if folder == root:
        content = events.PluginTagToContent("hparams")[metadata.SESSION_START_INFO_TAG]
        start = metadata.parse_session_start_info_plugin_data(content)
        for key in sorted(start.hparams):
            print(f"{folder.name:12} hparam    {key:40} {start.hparams[key]}".rstrip())
        assert start.hparams, "no hyperparameters"
assert n_found, "no events"
