"""Open any model file or folder. The content decides the format, not the file name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..arrays.threads import MEMORY
from ..decoder.setting_names import RopePairs
from ..errors import FileFormatError, InputError
from ..untrusted_files import beginning, check_regular, reading

if TYPE_CHECKING:
    from ..decoder.decoder import Decoder
    from ..microgpt.model import Model

Format = Literal["checkpoint", "GGUF", "apr", "Hugging Face"]
SMALL = Path(__file__).parents[1] / "small.safetensors"  # the trained microGPT of the package, named "small"
MODEL_SUFFIXES = (".gguf", ".apr", ".safetensors")
DOWNLOAD = "expected a file or folder; a model of a hub must be downloaded first"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*[/:][A-Za-z0-9][\w.-]*")  # or the name of a file in a folder
_FORMATS = {  # what a model of each format is called, and the options that apply to the format
    "checkpoint": ("a microGPT checkpoint", ("--n-head", "--bos")),
    "apr": ("an .apr model", ("--rope-pairs", "--set")),
    "GGUF": ("a GGUF model", ("--set",)),
    "Hugging Face": ("a Hugging Face model", ("--set",)),
}


def load(
    path: str | Path, *, n_head: int | None = None, bos: Literal["first", "last"] | None = None,
    rope_pairs: RopePairs | None = None, settings: Mapping[str, Any] | None = None,
    memory: int | None = MEMORY,
) -> Model | Decoder:  # fmt: skip
    """Open a microGPT checkpoint, a GGUF file, an .apr file or a Hugging Face folder. "small" names the
    trained microGPT of this package, and the text "./small" a file.

    `n_head` and `bos` describe a microGPT whose weights have no metadata. `rope_pairs` and `settings`, such
    as {"num_heads": 14}, add settings that are missing in an .apr file. These settings must not contradict
    the file. For a GGUF file or a Hugging Face folder, `settings`, such as {"hidden_act": "gelu_new"},
    replace settings of config.json.

    A production model keeps up to `memory` bytes of its matrices ready for the next pass, by default 1 GB.
    With None, only computations of many passes keep them. This changes no number.

    Raises FileFormatError if the file is missing, is damaged or has an unknown format.
    """
    path = SMALL if str(path) == "small" else Path(path)
    if names_hub_model(str(path)) and not path.exists():
        raise FileFormatError(f"{path}: no such model; {DOWNLOAD}")
    kind = format_of(path)
    called, allowed = _FORMATS[kind]
    options = {"--n-head": n_head, "--bos": bos, "--rope-pairs": rope_pairs, "--set": settings}
    for option, value in options.items():
        if value and option not in allowed:
            raise InputError(f"{option} does not apply to {path}, which is {called}")
    if kind == "checkpoint":
        from ..microgpt.checkpoint import load as load_checkpoint

        model = load_checkpoint(path, n_head=n_head, bos=bos)
        return replace(model, origin="small") if path == SMALL else model
    pairs = {"rope_pairs": rope_pairs} if kind == "apr" else {}
    decoder = reader_of(kind)(path, overrides=settings or {}, **pairs)
    return decoder if memory is None else decoder.keeping(memory)


def reader_of(kind: Format) -> Callable[..., Decoder]:
    """Return the function that opens a decoder in a format."""
    if kind == "apr":
        from .apr import read_apr

        return read_apr
    if kind == "GGUF":
        from .gguf_model import read_gguf

        return read_gguf
    from .huggingface_folder import read_huggingface

    return read_huggingface


def names_hub_model(text: str) -> bool:
    """Return True for a name like meta-llama/Llama-3.2-1B or llama3.2:1b, which is not the name of a file."""
    return _HUB_ID.fullmatch(text) is not None and not text.endswith(MODEL_SUFFIXES)


def is_model(path: Path) -> bool:
    """Return True if an existing file or folder looks like a model of any format."""
    if path.is_dir():
        return (path / "config.json").exists()
    try:
        if format_of(path) != "checkpoint":
            return True
    except FileFormatError:
        return False
    head = beginning(path, 9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def format_of(path: Path) -> Format:
    """Return the format of a model. A safetensors file outside of a Hugging Face folder is a checkpoint.

    Raises FileFormatError if the path does not exist, has another format or is a folder without a model.
    """
    with reading(path):
        if path.is_dir():
            if not (path / "config.json").exists():
                raise FileFormatError(f"{path}: expected a model, found a folder without config.json")
            return "Hugging Face"
        check_regular(path)
        with path.open("rb") as file:
            head = file.read(1 << 16)
    if head[:4] == b"GGUF":
        return "GGUF"
    if head[:3] == b"APR":
        return "apr"
    if path.name == "config.json":
        return "Hugging Face"
    if any(
        name in head
        for name in (b'"model.layers.', b'"model.embed_tokens', b"language_model.", b'"lm_head.weight')
    ):
        if (path.parent / "config.json").is_file():
            return "Hugging Face"
        raise FileFormatError(f"{path}: expected a config.json beside the weights of a decoder, found none")
    if path.suffix != ".safetensors" and head[8:9] != b"{":
        found = f"a file that begins with the bytes {repr(head[:8])[1:]}"
        if head[:4] == b"PK\3\4" and path.suffix in (".pt", ".pth", ".bin"):
            found = "a file of torch.save; save the parameters as safetensors beside their config.json"
        raise FileFormatError(f"{path}: expected a GGUF, .apr or safetensors file, found {found}")
    return "checkpoint"
