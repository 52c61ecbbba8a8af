"""Read safetensors files. A file consists of the length of the header (u64), the header as JSON {name:
{dtype, shape, data_offsets}}, and the data. The offsets count from the start of the data.

The safetensors package is used only to check the header, because this package would copy tensors to memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..arrays.encodings import ENCODINGS, U8, StoredTensor
from ..errors import FileFormatError
from ..text.brief import brief
from ..untrusted_files import check_regular, json_object, reading
from .mapped_file import MappedFile

_DTYPES = ("F32", "F16", "BF16")
_BYTES = ("_blocks", "_scales")  # the ends of names of tensors of bytes, which form tensors of MXFP4
_MAX_DIMS = 8


def safetensors_header(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the header's entry of each tensor, and the metadata. Offsets count from the start of the file.

    Raises FileFormatError if the safetensors package does not accept the file.
    """
    from safetensors import SafetensorError, safe_open

    size = check_regular(path)
    with reading(path):
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
        except SafetensorError as error:
            reason = brief(str(error).splitlines()[0])
            raise FileFormatError(
                f"{path}: expected a complete safetensors file, found {size:,} bytes ({reason})"
            ) from error
        with path.open("rb") as raw:
            content = raw.read(int.from_bytes(raw.read(8), "little"))
    header = json_object(path, content, "the header of a safetensors file")
    header.pop("__metadata__", None)
    for entry in header.values():
        entry["data_offsets"] = [8 + len(content) + offset for offset in entry["data_offsets"]]
    return header, metadata


def read_safetensors(path: Path, has: Callable[[str], bool] = lambda name: True) -> list[StoredTensor]:
    """Return the tensors of a file in the order of their data, if `has` is true for the name."""
    header, _ = safetensors_header(path)
    file = MappedFile.open(path)
    in_order = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    return [_tensor(file, name, entry) for name, entry in in_order if has(name)]


def _tensor(file: MappedFile, name: str, entry: dict[str, Any]) -> StoredTensor:
    dtype, shape = entry["dtype"], entry["shape"]
    known = (*_DTYPES, *["U8"] * name.endswith(_BYTES))
    if dtype not in known or len(shape) > _MAX_DIMS:
        raise FileFormatError(
            f"{file.path}: tensor {brief(name)}: expected {', '.join(_DTYPES)} of up to {_MAX_DIMS} "
            f"dimensions, found {brief(dtype)} of shape {brief(shape)}"
        )
    return file.tensor(name, U8 if dtype == "U8" else ENCODINGS[dtype], tuple(shape), *entry["data_offsets"])
