"""Write dumps in every format, and read their leftovers and errors."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from microgpt_trace.dumps.formats import open_recording
from microgpt_trace.errors import FileFormatError
from microgpt_trace.naming.user_map import MapEntry, NameMap


def numbers(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def write_folder(folder, arrays):
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)
    return folder


def write_npz(path, arrays, save=np.savez):
    save(path, **arrays)
    return path


def write_safetensors(path, arrays, metadata=None):
    save_file({name: np.array(array, order="C") for name, array in arrays.items()}, path, metadata)
    return path


def reasons(recording):
    return {
        leftover.recorded.source.removesuffix(".npy"): leftover.reason for leftover in recording.leftovers
    }


def refused(path, *words, names=None, kind=FileFormatError):
    with pytest.raises(kind) as caught:
        open_recording(path, names)
    print(caught.value)
    assert str(caught.value).isprintable()
    assert all(word in str(caught.value) for word in (path.name, *words))


def name_map(*entries, tokens=None):
    return NameMap("map.toml", tuple(MapEntry(*entry) for entry in entries), tokens)
