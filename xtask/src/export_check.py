"""Exports of one small model of each kind, against what libtorch computes of the same inputs.

Called by `cargo xtask export-check` with a folder that holds, for each model, encoder and decoder as
TorchScript and ONNX, and references.safetensors: inputs of another batch size than the traced one,
and outputs. A folder `any_size` within has ONNX for any size, and images of another size than the
model's. A folder `diffusers` is read by diffusers' AutoencoderKL, and its computation compared.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from safetensors.numpy import load_file

TOLERANCE = 1e-4

torch = None
if "--without-torch" not in sys.argv:
    # The wheel is linked to CUDA libraries that stubs stand for: only what is called is looked up.
    sys.setdlopenflags(os.RTLD_LAZY)
    import torch


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


def diffusers(folder, tensors):
    """The largest difference between diffusers' outputs and ours, in units of our largest output."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from diffusers import AutoencoderKL, AutoencoderTiny, VQModel

    kinds = {kind.__name__: kind for kind in [AutoencoderKL, AutoencoderTiny, VQModel]}
    kind = kinds[json.loads((folder / "config.json").read_text())["_class_name"]]
    model, report = kind.from_pretrained(folder, output_loading_info=True, low_cpu_mem_usage=False)
    assert not any(report.values()), f"{folder}: {report}"
    with torch.no_grad():
        images = torch.from_numpy(tensors["encoder.input"]) * 2 - 1
        encoded = model.eval().encode(images)
        if kind is AutoencoderKL:
            found = [encoded.latent_dist.mean, encoded.latent_dist.logvar]
        else:
            found = [encoded.latents]
        if kind is VQModel:
            found = [model.quantize(encoded.latents)[0]]
        [channels, rows, columns] = found[0].shape[1:]
        found = [values.flatten(1) for values in found]
        latents = torch.from_numpy(tensors["decoder.input"])
        options = {"force_not_quantize": True} if kind is VQModel else {}
        decoded = model.decode(latents.view(-1, channels, rows, columns), **options).sample
        found.append(((decoded + 1) / 2).clamp(0, 1))
    wanted = [tensors[f"encoder.output.{i}"] for i in range(len(found) - 1)] + [tensors["decoder.output.0"]]
    errors = [np.abs(a.numpy() - b).max() / max(1, np.abs(b).max()) for a, b in zip(found, wanted)]
    assert max(errors) <= TOLERANCE, f"{folder}: differs by {errors}"
    return max(map(float, errors))


def main(folder):
    runtimes = {"onnx": onnx} if torch is None else {"onnx": onnx, "pt": torchscript}
    n_checked, largest = dict.fromkeys(runtimes, 0), dict.fromkeys(runtimes, 0.0)
    of_diffusers = []
    for references in sorted(Path(folder).rglob("references.safetensors")):
        tensors = load_file(references)
        written = references.parent / "diffusers"
        if torch and written.exists():
            of_diffusers.append(diffusers(written, tensors))
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
                    largest[ending] = max(largest[ending], float(error))
                n_checked[ending] += 1
    assert all(n_checked.values()), n_checked
    for ending, n in n_checked.items():
        print(f"{ending}: {n} files are right, the largest difference is {largest[ending]:.1e}")
    if torch:
        n, error = len(of_diffusers), max(of_diffusers)
        print(f"diffusers: {n} folders are right, the largest difference is {error:.1e}")


main(sys.argv[1])
