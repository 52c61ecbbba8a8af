"""APRT directories as apr leaves them, and what a test asks of one."""

import json
import struct

import numpy as np

from microgpt_trace.dumps.aprt import open_aprt

FINAL_NORM = "41505254 ffffffff 02000000 0000803f 000020c0"  # [1, -2.5] of the whole model


def bare(folder, **files):
    """Files as apr leaves them: `layer3__ffn_up` lies in layer-3."""
    for place, values in files.items():
        layer, _, stage = place.rpartition("__")
        path = folder / layer.replace("layer", "layer-") / f"{stage}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        number = int(layer.removeprefix("layer")) if layer else 0xFFFFFFFF
        values = np.asarray(values, "<f4")
        path.write_bytes(b"APRT" + struct.pack("<II", number, values.size) + values.tobytes())
    return folder


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def reasons_of(folder):
    return {left.recorded.source: left.reason for left in open_aprt(folder).leftovers}
