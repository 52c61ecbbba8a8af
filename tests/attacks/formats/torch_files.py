"""Write .pt files opcode by opcode, also hostile ones."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

import numpy as np

from ..hostile_values import INTS

FLOAT, LONG = b"ctorch\nFloatStorage\n", b"ctorch\nLongStorage\n"


def pt_bytes(
    program: bytes, storages: Sequence[bytes] = (), root: str = "x", compression: int = zipfile.ZIP_STORED,
    **files: bytes,
) -> bytes:  # fmt: skip
    """Return a .pt file with a pickle of these opcodes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr(f"{root}/data.pkl", b"\x80\x02" + program + b".")
        for key, content in enumerate(storages):
            archive.writestr(f"{root}/data/{key}", content)
        for name, content in files.items():
            archive.writestr(f"{root}/{name}", content)
    return stream.getvalue()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    """Return the opcode LONG1."""
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def tensor(
    count: int = 6, offset: int = 0, shape: Sequence[int] = (2, 3), strides: Sequence[int] = (3, 1),
    key: str = "0", storage: bytes = FLOAT,
) -> bytes:  # fmt: skip
    """Return the opcodes of a tensor, as torch.save writes them."""
    stored = b"(" + text("storage") + storage + text(key) + text("cpu") + number(count) + b"tQ"
    lengths = b"".join(b"(" + b"".join(map(number, values)) + b"t" for values in (shape, strides))
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + stored + number(offset) + lengths + hooks + b"tR"


def dict_of(values: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(name) + value for name, value in values.items()) + b"u"


def of_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return a .pt file with a dict of float32 arrays."""
    held = {
        name: tensor(array.size, 0, array.shape, [stride // 4 for stride in array.strides], str(key))
        for key, (name, array) in enumerate(arrays.items())
    }
    return pt_bytes(dict_of(held), [array.tobytes() for array in arrays.values()], byteorder=b"little")


CALLS = [
    b"cposix\nsystem\n" + text("touch hacked") + b"\x85R", b"cbuiltins\neval\n" + text("1/0") + b"\x85R",
    b"(" + text("touch hacked") + b"ios\nsystem\n", b"cbuiltins\ngetattr\n", b"ctorch\nload\n",
    text("posix") + text("system") + b"\x93" + text("touch hacked") + b"\x85R",
    b"ctorch._utils\n_rebuild_parameter\ncposix\nsystem\n" + text("id") + b"\x85R\x85R",
    b"ctorch._utils\n_rebuild_tensor_v2\n(" + b"K\x01" * 6 + b"tR", b"Vos\nVsystem\n\x93",
    b"ccollections\nOrderedDict\n(]tR", b"ctorch\nSize\n]\x85R", b"Pos.system\n", b"\x82\x01", b"K\x01)\x81",
]  # fmt: skip
SHAPES = [
    b"]q\x00h\x00a", b"]" + b"(K\x00K\x00eq\x00" + b"](h\x00h\x00eq\x00" * 60, b")" + b"q\x00h\x00\x86" * 60,
    b"K\x01" + b"\x85" * 50_000, b"]" * 50_000 + b"a" * 49_999, b"}" * 50_000, b"(" * 50_000,
    b"N" + b"r\xff\xff\xff\xff" * 100 + b"j\xff\xff\xff\xff", b"X\xff\xff\xff\xff", b"\x8d" + b"\xff" * 8,
    b"]" + b"\x94" * 70_000,
    b"\x8a\xff" + b"\x7f" * 255, b")q\x00" + b"h\x00h\x00\x86q\x00" * 100 + b"h\x00Q",
    b")q\x00" + b"h\x00h\x00\x86q\x00" * 100 + b"h\x00K\x01s", b"}q\x00" + b"(K\x01h\x00uh\x00" * 100,
]  # fmt: skip
OPCODES = [bytes([code]) for code in (*b"(.0123FIJKLMNPQRSTUVXabcdeghijlopqrstuBCG]})", *range(0x80, 0x99))]
KEYS = ("0", "1", "2", "../0", "/etc/passwd", "", "\0", "0/../1", "x" * 1000, "..\\0")


def hostile_program(rng: Random) -> bytes:
    """Return opcodes with calls, endless structures, wrong views or random changes."""
    sizes = (0, 1, 2, 3, 6, 7, 1 << 20, 1 << 40, -1, *INTS[:6])
    shape = [rng.choice(sizes) for _ in range(rng.choice((0, 1, 2, 2, 2, 40)))]
    strides = [rng.choice(sizes) for _ in range(rng.choice((len(shape), len(shape), 1)))]
    count, offset = rng.choice((6, 6, 6, 5, 1 << 40)), rng.choice((0, 0, *sizes))
    view = tensor(count, offset, shape, strides, rng.choice(KEYS))
    good = dict_of({"logits": tensor(), "ids": tensor(3, 0, (3,), (1,), "1", LONG)})
    other = dict_of({"x": rng.choice((*CALLS, *SHAPES, view))})
    program = rng.choice((good, good, good, view, other, rng.choice(SHAPES)))
    for _ in range(rng.choice((0, 0, 1, 1, 2, 5, 20))):
        at = rng.randrange(len(program) + 1)
        piece = rng.choice((*OPCODES, *CALLS, rng.randbytes(4), rng.choice(SHAPES)[:100], b""))
        program = program[:at] + piece + program[at + rng.choice((0, 0, 1, len(piece), 10)) :]
    return program


def hostile_file(rng: Random, path: Path) -> str:
    """Write a hostile .pt file, and return what it is in words."""
    storages = [np.arange(6, dtype="<f4").tobytes(), np.arange(3).tobytes()]
    kind = rng.choice((*["program"] * 30, *["bytes"] * 10, *["entries"] * 8, "bomb"))
    if kind == "bomb":
        zeros = bytes(rng.choice((1 << 10, 1 << 22)))
        whole = tensor(len(zeros) // 4, 0, (len(zeros) // 4,), (1,))
        program = rng.choice((whole, b"N" * (1 << 21), b"]" * (1 << 20)))
        content = pt_bytes(program, [zeros], compression=zipfile.ZIP_DEFLATED)
    elif kind == "entries":
        name = rng.choice(("data/0x", "../y", "byteorder", "data.pkl/data.pkl"))
        wrong = {name: rng.choice((b"big", b"", b"x"))}
        content = pt_bytes(hostile_program(rng), storages, rng.choice(("x", "", "..", "/", "a/b")), **wrong)
    else:
        content = pt_bytes(hostile_program(rng), storages, byteorder=b"little")
    changed = bytearray(content)
    for _ in range(rng.choice((1, 2, 8)) if kind == "bytes" else 0):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    path.write_bytes(changed[: rng.randrange(len(changed))] if rng.random() < 0.05 else changed)
    return kind
