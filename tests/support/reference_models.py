"""Tiny models of every architecture, and what transformers computed for them. Needs neither.

`record_architectures.py` writes architectures.npz, tiny.npz and the dumps of a flipped router.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from microgpt_trace.dumps.stored_arrays import write_arrays

REFERENCES = Path(__file__).parents[1] / "references"
IDS = [17, 3, 44, 3, 60, 0, 29, 8, 5, 21, 33, 12, 50, 2, 40, 7, 19, 26, 11]
FLIPPED = [28, 31, 46, 57, 2, 8, 50, 57, 15, 19, 53, 25, 16, 50, 15, 24]  # a flip at layer 0, position 3


def random_weights(shapes, seed=1):
    """Return random weights by name, norms and biases too. `shapes` has the shape of each."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape) * (0.3 if len(shape) == 1 else 1.5 / shape[-1] ** 0.5)
        weights[name] = (values + (len(shape) == 1 and "norm" in name)).astype(np.float32)
    return weights


@cache
def _stored(file):
    with np.load(REFERENCES / file) as arrays:
        return dict(arrays)


def cases():
    """Return the names of all models."""
    return list(json.loads(str(_stored("architectures.npz")["models"])))


def reference_folder(case, folder):
    """Write a model as transformers does, and return its folder."""
    config, shapes = json.loads(str(_stored("architectures.npz")["models"]))[case]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(random_weights(shapes), folder / "model.safetensors")
    return folder


def reference_values(case, file="architectures.npz"):
    """Return the values of transformers by event."""
    found = _stored(file).items()
    return {name.partition("/")[2]: array for name, array in found if name.startswith(f"{case}/")}


def router_dump(case, path):
    """Write the recording of PyTorch in bfloat16 of a mixture of 8 experts, and return its path."""
    arrays = _stored(f"router_{case}.npz")
    positions = tuple(range(len(FLIPPED)))
    write_arrays(path, arrays, text="", tokens=tuple(FLIPPED), positions=positions, model={}, overwrite=True)
    return path
