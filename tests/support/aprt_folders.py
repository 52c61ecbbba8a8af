"""APRT folders as apr writes them, with or without a manifest."""

import struct

import numpy as np

from microgpt_trace.dumps.aprt import open_aprt

FINAL_NORM = "41505254 ffffffff 02000000 0000803f 000020c0"  # [1, -2.5], of no layer


def write_raw_aprt(folder, **files):
    """Write files without a manifest and return the folder. `layer3__ffn_up` is layer-3/ffn_up.bin."""
    for place, values in files.items():
        layer, _, stage = place.rpartition("__")
        path = folder / layer.replace("layer", "layer-") / f"{stage}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        number = int(layer.removeprefix("layer")) if layer else 0xFFFFFFFF
        values = np.asarray(values, "<f4")
        path.write_bytes(b"APRT" + struct.pack("<II", number, values.size) + values.tobytes())
    return folder


def reasons_of(folder):
    return {left.recorded.source: left.reason for left in open_aprt(folder).leftovers}
