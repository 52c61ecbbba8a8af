"""Dumps: .npy and .npz files, saved arrays, and APRT folders."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from support.aprt_folders import FINAL_NORM
from support.dump_writing import numbers, write_folder, write_npz, write_safetensors
from support.tiny_models import TOKENS, tiny_model
from support.tiny_models import write_folder as write_model

from microgpt_trace import load, trace
from microgpt_trace.dumps.aprt import open_aprt
from microgpt_trace.dumps.aprt_writing import write_aprt
from microgpt_trace.dumps.formats import is_recording, open_recording

from .format import GONE, Format
from .places import PLACES


def everything(path: Path) -> None:
    """Open a dump and read all its arrays."""
    is_recording(path)
    recording = open_recording(path)
    for tensor in (*recording.tensors.values(), *(left.recorded for left in recording.leftovers)):
        assert tensor.read().shape == tensor.shape


def npy(header: bytes | str, padded: int = 400) -> bytes:
    """Return a .npy file of version 1 with this header."""
    content = header if isinstance(header, bytes) else header.encode().ljust(padded) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(content)) + content + bytes(12)


def described(dtype: str = "'<f4'", shape: str = "(3,)") -> bytes:
    return npy(f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}")


def appended(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(path.read_bytes() + content)


OBJECTS = [
    ("Python objects", {}, {"logits": np.array([{}, 1], object)}),
    ("Python objects", {}, {"logits": np.array([(1, 2.0)], "i4,O")}),
]
TWO = b"APRT" + struct.pack("<IIff", 1, 2, 1.0, 1.0)  # elements of layer 1
SLOW = [b" " * 9000 + b"\0", b"{" + b" " * 60_000 + b"}"]  # NumPy takes 15 s for each
NPY = [
    *OBJECTS,
    ("found 177", appended(b"x")),
    ("expected 176 bytes for float32 [3, 4], found 224", appended(b"x" * 48)),
    ("empty file", b""),
    *(
        ("", described(shape=shape))
        for shape in ("(-1, 3)", "(10**9,)", f"({10**18}, {10**18})", f"({10**150}, {10**150})")
    ),
    ("", described("'<f9'")),
    ("", described("[('a', ('b',))]")),
    *(("", npy(header)) for header in ("{'descr': '<f4', 'shape': (3,)}", "[" * 300, "print(1)", "\0")),
    *(("expected a .npy array", npy(header)) for header in SLOW),
]


def member(header: bytes) -> Callable[[Path], None]:
    """Return a change that writes an archive of an array with this header."""

    def change(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", npy(header))

    return change


LONG_NAME = "expected a name of at most 512 characters, found 40,000"
NPZ = [
    *OBJECTS,
    *(("expected a .npy array", member(header)) for header in SLOW),
    (LONG_NAME, {}, {"1." * 20_000: numbers(1, 3)}),
]
NO_MODELS = [b"", b"GGUF\3\0\0\0", b"APR\0", b"{}", b'{"schema": "other/1"}', b"x" * 9]
SAVED = [
    *(("", content) for content in (*NO_MODELS, b"\x10\0\0\0\0\0\0\0{}")),
    (LONG_NAME, {}, {"1." * 20_000: numbers(1, 3)}),
]
SAYS = {"format": "microgpt.arrays/1", "tokens": "[1, 2]", "positions": "[0, 1]"}


def written(save: Callable[..., object]) -> Callable[[Path, Any, Any], object]:
    return lambda path, metadata, tensors: save(path, tensors)


def beside(place: str) -> Callable[[Path], object]:
    """Return a change that puts something beside the arrays."""
    return lambda folder: PLACES[place](folder / "x.npy")


FOLDERS = [
    ("found an empty folder", {}, {"logits": GONE}),
    (r"found a folder of 'a\nb'", lambda folder: (folder / "a\nb").touch(), {"logits": GONE}),
    ("x.npy: expected a .npy file, found a pipe", beside("fifo")),
    ("x.npy: no such file", beside("dangling link")),
]
ARRAYS = {"layer0.attn.q": numbers(2, 4), "ids": np.arange(2), "Qcur-0": numbers(2, 4, dtype=np.float16)}


def archive() -> Format:
    return Format({}, ARRAYS, written(write_npz), NPZ, name="x.npz", opened=everything)


def array() -> Format:
    def write(path: Path, _: object, held: dict[str, Any]) -> None:
        np.save(path, held["logits"])

    return Format({}, {"logits": numbers(3, 4)}, write, NPY, name="logits.npy", opened=everything)


def folder() -> Format:
    def write(path: Path, _: object, held: dict[str, Any]) -> None:
        path.mkdir()
        write_folder(path, held)

    return Format({}, {"logits": numbers(3, 4)}, write, FOLDERS, name="d", opened=everything)


def saved() -> Format:
    def write(path: Path, metadata: dict[str, Any], held: dict[str, Any]) -> None:
        write_safetensors(path, held, metadata)

    return Format(SAYS, {"logits": numbers(2, 4)}, write, SAVED, name="s.safetensors", opened=everything)


# --- APRT -------------------------------------------------------------------------------------

HEADER = "expected a header of 12 bytes that begins with APRT"
BARE = [
    (f"{HEADER}, found b''", b""),
    (HEADER, b"APRT\xff\xff\xff\xff\2\0"),
    (f"{HEADER}, found b'APS", b"APS\0\xff\xff\xff\xff" + bytes(4)),
    ("expected 20 bytes for 2 elements, found 19", bytes.fromhex(FINAL_NORM)[:-1]),
    ("expected 20 bytes for 2 elements, found 21", bytes.fromhex(FINAL_NORM) + b"\0"),
    ("expected 17,179,869,192 bytes for 4,294,967,295 elements", b"APRT" + b"\xff" * 8 + b"\0"),
    ("a header of the whole model, found the header of layer 3", b"APRT\3\0\0\0" + bytes(4)),
    ("expected a header of layer 4, found the header of layer 1", {}, {"layer-4/ffn_up.bin": TWO}),
    ("expected layer-0, layer-1 ..., found 'layer-x'", {}, {"layer-x/ffn_up.bin": TWO}),
    ("expected a file of APRT", lambda folder: (folder / "a.bin").mkdir()),
]


def bare_aprt() -> Format:
    """Return the format of a folder with one file and no manifest."""
    files = {"final_norm.bin": bytes.fromhex(FINAL_NORM)}
    return Format({}, files, write_files, BARE, name="dump", inside="final_norm.bin", opened=open_aprt)


UP, LAST, ALIAS = (f"layer-1/{name}.bin" for name in ("ffn_up", "post_ffn_residual", "layer_output"))
APRT = [
    (f"manifest.json: {UP}: shape: expected the 2 elements of the file", {}, {UP: TWO}),
    (f"'{UP}' is missing, but manifest.json lists it", {}, {UP: GONE}),
    ("tokens: expected a list of whole numbers, found None", {"tokens": None}),
    ("tokens: expected a list of whole numbers, found [1, -1]", {"tokens": [1, -1]}),
    ("lm_head.bin: positions: expected [1], found [6]", {"tokens": [1, 2]}),
    ("files: expected a list", {"files": 3}),
    ("notes: expected a list of sentences, found 'x'", {"notes": "x"}),
    ("notes: expected a list of sentences, found [1]", {"notes": [1]}),
    ("left_out: expected a list, found {}", {"left_out": {}}),
    ("left_out: expected names and reasons, found 'x'", {"left_out": ["x"]}),
    ("left_out: expected names and reasons, found {'name': 'x'}", {"left_out": [{"name": "x"}]}),
    ("files: expected one entry for each file, found 1", {"files": [1]}),
    ("expected the schema microgpt.aprt/1, found 'microgpt.aprt/2'", {"schema": "microgpt.aprt/2"}),
]
ENTRY = {
    "file": ["../dump/x.bin", 3], "stage": ["ffn_gate"], "layer": [1], "dtype": ["float64"],
    "events": [["logits"], [], "embed.pos"], "shape": [[7, 31], [-7, -32], None, [7.0, 32]],
    "positions": [[6]],
}  # fmt: skip
EVENTS = ["embed.tok", "layer*.attn.out", "layer1.mlp.*", "final.norm", "logits"]


def aprt() -> Format:
    """Return the format of a folder that the tool wrote for seven tokens of a qwen2.

    The metadata are its manifest, with the entries by file.
    """
    with TemporaryDirectory() as name:
        model = load(write_model(Path(name) / "model", *tiny_model("qwen2")))
        folder = Path(name) / "dump"
        write_aprt(trace(model, tokens=TOKENS, names=EVENTS, values=True), folder)
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.bin")}
        manifest = json.loads((folder / "manifest.json").read_text())
    entries = {entry["file"].replace("/", " "): entry for entry in manifest["files"]}
    wrong = {f"files/{next(iter(entries))}/{key}": values for key, values in ENTRY.items()}
    twin = entries[LAST.replace("/", " ")] | {"file": ALIAS, "stage": "layer_output"}
    twice = (f"is both in {LAST} and in layer-1/", {"files/twin": twin}, {ALIAS: files[LAST]})
    metadata = manifest | {"files": entries}
    return Format(metadata, files, write_files, [*APRT, twice], wrong, name="dump", opened=open_aprt)


def write_files(folder: Path, manifest: dict[str, Any], files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    if manifest:
        entries = manifest["files"]
        listed = list(entries.values()) if isinstance(entries, dict) else entries
        (folder / "manifest.json").write_text(json.dumps(manifest | {"files": listed}))
