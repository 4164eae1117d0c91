"""Exports of one small model of each kind, against what libtorch computes of the same inputs.

Called by `cargo xtask export-check` with a folder that holds, for each model, encoder and decoder as
TorchScript and ONNX, and references.safetensors: inputs of another batch size than the traced one,
and outputs.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from safetensors.numpy import load_file

TOLERANCE = 1e-4

try:
    # The wheel is linked to CUDA libraries that stubs stand for: only what is called is looked up.
    sys.setdlopenflags(os.RTLD_LAZY)
    import torch
except ImportError as error:
    torch = None
    print(f"TorchScript is not checked, no torch: {error}", file=sys.stderr)


def onnx(path, inputs, n_outputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    preprocessing = json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])
    assert preprocessing["image"] and preprocessing["value_range"], path
    [wanted] = session.get_inputs()
    outputs = session.run(None, {wanted.name: inputs})
    names = [output.name for output in session.get_outputs()]
    assert names == {"images": ["mean", "log_var"], "latents": ["images"]}[wanted.name][:n_outputs]
    return outputs


def torchscript(path, inputs, _):
    with torch.no_grad():
        outputs = torch.jit.load(str(path))(torch.from_numpy(inputs)).numpy()
    return list(outputs) if path.stem == "encoder" else [outputs]


def main(folder):
    runtimes = {"onnx": onnx} if torch is None else {"onnx": onnx, "pt": torchscript}
    n_checked = dict.fromkeys(runtimes, 0)
    for references in sorted(Path(folder).glob("*/references.safetensors")):
        tensors = load_file(references)
        for part in ["encoder", "decoder"]:
            outputs = [tensors[name] for name in sorted(tensors) if name.startswith(f"{part}.output")]
            for ending, run in runtimes.items():
                path = references.parent / f"{part}.{ending}"
                if not path.exists():
                    continue  # Refused; the program that wrote the others has said so.
                found = run(path, tensors[f"{part}.input"], len(outputs))
                assert len(found) == len(outputs), f"{path}: {len(found)} outputs"
                for i, (found, wanted) in enumerate(zip(found, outputs)):
                    assert found.shape == wanted.shape, f"{path}: {found.shape}"
                    error = np.abs(found - wanted).max()
                    assert error <= TOLERANCE, f"{path}, output {i}: differs by {error}"
                    print(f"{references.parent.name} {path.name} output {i}: {error:.1e}")
                n_checked[ending] += 1
    assert all(n_checked.values()), n_checked
    print(f"right: {n_checked}")


main(sys.argv[1])
