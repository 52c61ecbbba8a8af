"""Damage files of every format in their bytes, numbers or structure, or replace them by something else."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from support.apr_files import METADATA as APR_METADATA
from support.apr_files import apr_bytes
from support.apr_files import tiny_model as apr_model
from support.gguf_files import gguf_bytes

from microgpt_trace.readers.gguf import TYPES, read_gguf_header
from microgpt_trace.surveying import is_survey

from .formats import surveys, torch_files
from .formats.places import PLACES
from .hostile_values import INTS, JSON, METADATA, NAMES, NUMBERS, PIECES

TOKEN = re.compile(
    r'-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|"(?:[^"\\]|\\.)*"|true|false|null|\[[^\[\]]*\]|\{[^{}]*\}'
)
DTYPES = ("<i8", "|O", "<U3", ">f8", "<c16", "|b1", "<f2", "|V4", "<M8[s]", "f", "", "<f3")
FLOATS = {  # by size: NaN, a signalling NaN, infinities, the largest, the smallest, zeros
    2: [struct.pack("<H", bits) for bits in (0x7E00, 0x7C01, 0x7C00, 0xFC00, 0x7BFF, 1, 0, 0x8000)],
    4: [struct.pack("<I", bits << 16) for bits in (0x7FC0, 0x7F81, 0x7F80, 0xFF80, 0x7F7F, 1, 0, 0x8000)],
}
TEXT = (".json", ".jsonl", ".toml", ".txt")


def mutate_bytes(rng: Random, content: bytes, other: bytes) -> bytes:
    """Flip, insert, delete, repeat or cut off bytes, or splice them with another file."""
    at = rng.randrange(min(len(content), rng.choice((64, 4096, 1 << 30))) + 1)
    length = rng.choice((1, 1, 2, 4, 8, 64, 1000))
    front, middle, back = content[:at], content[at : at + length], content[at + length :]
    other_at = rng.randrange(len(other) + 1)
    number = rng.choice((struct.pack("<Q", rng.choice(INTS)), struct.pack("<I", rng.choice(INTS) % 2**32)))
    return rng.choice((
        lambda: front + bytes(byte ^ 1 << rng.randrange(8) for byte in middle) + back,
        lambda: front + rng.choice(PIECES) + middle + back,
        lambda: front + rng.choice(PIECES) + back,
        lambda: front + back,
        lambda: front + middle + middle + back,
        lambda: front,
        lambda: front + other[other_at:],
        lambda: front + number + content[at + len(number) :],
        lambda: content + other,
    ))()  # fmt: skip


def mutate_text(rng: Random, text: str) -> str:
    """Replace, repeat or delete a number, string, list or object of a text."""
    tokens = list(TOKEN.finditer(text))
    if not tokens:
        return text + rng.choice(JSON)
    token = rng.choice(tokens)
    number = token.group()[0] in "-0123456789"
    new = rng.choice(NUMBERS if number and rng.random() < 0.5 else JSON)
    new = rng.choice((new, new, new, f"{token.group()},{token.group()}", "", rng.choice(tokens).group()))
    return text[: token.start()] + new + text[token.end() :]


def _safetensors(rng: Random, path: Path) -> bytes:
    """Change the header, or change numbers of a survey and correct its digest."""
    content = path.read_bytes()
    if is_survey(path) and rng.random() < 0.7:
        return _survey(rng, path)
    size = int.from_bytes(content[:8], "little")
    header = mutate_text(rng, content[8 : 8 + size].decode())
    if rng.random() < 0.3:  # also inside the JSON in strings of the metadata
        header = re.sub(r"\d+", lambda match: rng.choice((*NUMBERS, *[match.group()] * 40)), header)
    text = header.encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def _survey(rng: Random, path: Path) -> bytes:
    content = path.read_bytes()
    values, tensors = surveys.parts(content)
    if rng.random() < 0.5:
        array = tensors[name := rng.choice([*tensors])].copy()
        if array.size and array.dtype.kind in "fiu":
            number = rng.choice((0, 1, -1, 2**31, 2**62, 1e300, 1e-320, np.nan, np.inf))
            with np.errstate(all="ignore"):
                array.reshape(-1)[rng.randrange(array.size)] = np.float64(number).astype(array.dtype)
        tensors[name] = array
    else:
        with contextlib.suppress(ValueError, RecursionError, TypeError):  # it may no longer be an object
            values |= json.loads(mutate_text(rng, json.dumps(values)))
    return surveys.join(values, tensors)


def _gguf(rng: Random, path: Path) -> bytes:
    """Write other metadata and tensors in the right format."""
    header = read_gguf_header(path)
    metadata, tensors = dict(header.metadata), list(header.tensors)
    for _ in range(rng.choice((1, 1, 2))):
        metadata[rng.choice(list(metadata))] = rng.choice(METADATA)
    if rng.random() < 0.3:
        at = rng.randrange(len(tensors))
        tensors[at] = rng.choice(tensors)
    content = gguf_bytes(metadata, tensors)
    if rng.random() < 0.2:  # the type of a tensor or a value
        at = rng.randrange(len(content))
        content = content[:at] + struct.pack("<I", rng.choice(list(TYPES))) + content[at + 4 :]
    return content


def _apr(rng: Random, path: Path) -> bytes:
    """Change metadata, tensors or bytes, and correct the checksums."""
    tensors = apr_model()[0]
    kind = rng.randrange(3)
    if kind == 0:
        return apr_bytes(None, tensors, text=mutate_text(rng, json.dumps(APR_METADATA)).encode())
    if kind == 1:
        name = rng.choice(list(tensors))
        dtype, shape, content = tensors.pop(name)
        shape = tuple(rng.choice((size, rng.choice(INTS))) for size in shape)
        dtype, name = rng.choice((dtype, rng.randrange(40))), rng.choice((name, rng.choice(NAMES[:5])))
        return apr_bytes(APR_METADATA, tensors | {name: (dtype, shape, content)})
    content = bytearray(mutate_bytes(rng, path.read_bytes(), b"APR\0"))
    if len(content) > 68:
        content[40:44] = struct.pack("<I", zlib.crc32(bytes(content[:40]) + bytes(content[44:64])))
        content[-4:] = struct.pack("<I", zlib.crc32(bytes(content[:-4])))
    return bytes(content)


def _npy_bytes(rng: Random, content: bytes) -> bytes:
    size = int.from_bytes(content[8:10], "little")
    header = content[10 : 10 + size].decode("latin-1")
    changed = rng.choice((
        lambda: mutate_text(rng, header),
        lambda: re.sub(r"\d+", lambda _: rng.choice(NUMBERS), header),
        lambda: header.replace("<f4", rng.choice(DTYPES)),
        lambda: header.replace("False", rng.choice(("True", "None", "1"))),
    ))().encode("latin-1", "replace")[:65535]  # fmt: skip
    return content[:8] + struct.pack("<H", len(changed)) + changed + content[10 + size :]


def _npz(rng: Random, path: Path) -> bytes:
    """Change, repeat or rename a member."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    content = members.pop(name)
    content = _npy_bytes(rng, content) if rng.random() < 0.6 else mutate_bytes(rng, content, content)
    odd = rng.choice(NAMES).replace("\udcff", "?")
    name = rng.choice((name, name, "../x.npy", odd, "/x.npy", "a/b/c.npy"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for key, value in (*members.items(), (name, content)):
            archive.writestr(key, value)
    return buffer.getvalue()


def _pt(rng: Random, path: Path) -> bytes:
    """Change a member, or write a hostile file."""
    if rng.random() < 0.5:
        return _npz(rng, path)
    torch_files.hostile_file(rng, path)
    return path.read_bytes()


def _gz(rng: Random, path: Path) -> bytes:
    return gzip.compress(_unpacked(rng, gzip.decompress(path.read_bytes())), rng.choice((0, 1)))


def _zst(rng: Random, path: Path) -> bytes:
    import zstandard

    return zstandard.compress(_unpacked(rng, zstandard.decompress(path.read_bytes())))


def _unpacked(rng: Random, content: bytes) -> bytes:
    """Change the content of a compressed file, or sometimes replace it by very long or many lines."""
    if rng.random() < 0.1:
        return rng.choice((b"a" * (40 << 20) + b"\n", b"a\n" * 1000, b"\n" * (1 << 20))) * 3
    return mutate_bytes(rng, content, content)


STRUCTURE: dict[str, Callable[[Random, Path], bytes]] = {
    ".safetensors": _safetensors, ".gguf": _gguf, ".apr": _apr, ".npz": _npz,
    ".npy": lambda rng, path: _npy_bytes(rng, path.read_bytes()), ".pt": _pt, ".gz": _gz, ".zst": _zst,
}  # fmt: skip


def mutate_values(rng: Random, content: bytes) -> bytes:
    """Set numbers in the last three quarters of a file, which hold arrays, to unusual values."""
    changed, size = bytearray(content), rng.choice((2, 4))
    for _ in range(rng.choice((1, 1, 4, 100, 3000))):
        at = rng.randrange(len(content) // 4, len(content)) // size * size
        changed[at : at + size] = rng.choice(FLOATS[size])
    return bytes(changed[: len(content)])


def mutate(rng: Random, path: Path, other: Path) -> str:
    """Change a file in place, maybe by splicing it with `other`. Return the change in words."""
    kind = rng.choice(("bytes", "structure", "structure", "values"))
    content = path.read_bytes()
    if kind == "values" and content and path.suffix not in TEXT:
        path.write_bytes(mutate_values(rng, content))
        return f"values of {path.name}"
    if kind == "structure" and path.suffix in STRUCTURE:
        changed = STRUCTURE[path.suffix](rng, path)
    elif kind == "structure" and path.suffix in TEXT:
        text = content.decode()
        for _ in range(rng.choice((1, 1, 1, 3))):
            text = mutate_text(rng, text)
        changed = text.encode("utf-8", "surrogatepass")
    else:
        kind, changed = "bytes", content
        for _ in range(rng.choice((1, 1, 2, 5))):
            changed = mutate_bytes(rng, changed, other.read_bytes())
    path.write_bytes(changed)
    return f"{kind} of {path.name}"


def mutate_again(rng: Random, path: Path, other: Path) -> str:
    """Change a file once, and sometimes a second time if its format can still be read."""
    change = mutate(rng, path, other)
    try:
        return f"{change}, {mutate(rng, path, other)}" if rng.random() < 0.2 else change
    except Exception:  # the first change broke the format
        return change


KINDS = ("folder", "loop", "dangling link", "empty", "sparse", "null", "zeros", "another", "link", "socket")


def replace(rng: Random, path: Path, other: Path) -> str:
    """Replace a file or folder by something else. Return the replacement in words."""
    kind = rng.choice([*KINDS, *["fifo"] * hasattr(os, "mkfifo")])
    if kind == "link":
        kept = path.rename(path.with_name(f"kept{path.suffix}"))
        path.symlink_to(kept.name)
        return f"a link in the place of {path.name}"
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if kind == "sparse":
        path.write_bytes(other.read_bytes()[: rng.choice((0, 100, 1 << 20))])
        # smaller for a corpus, which is read to its end
        os.truncate(path, 1 << 28 if path.name.startswith("texts.") else rng.choice((1 << 33, 1 << 40)))
    elif kind == "another":
        shutil.copyfile(other, path)
    else:
        PLACES[kind](path)
    return f"{kind} in the place of {path.name}"
