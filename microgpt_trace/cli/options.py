"""One annotated alias per option that several commands share, and how they become a model."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import FileFormatError, InputError

if TYPE_CHECKING:
    from ..model import Model

DEFAULT_CHECKPOINT = Path("microgpt.safetensors")
STDOUT = Path("-")


class Bos(str, Enum):
    first = "first"
    last = "last"


Text = Annotated[str, typer.Argument(help="The name to look at.", show_default=True)]
ModelFile = Annotated[
    Path | None, typer.Option("--model", help="A checkpoint.", metavar="FILE", show_default="untrained")
]
CheckpointFile = Annotated[
    Path | None,
    typer.Option("--model", help="A checkpoint.", metavar="FILE", show_default=str(DEFAULT_CHECKPOINT)),
]
Seed = Annotated[int | None, typer.Option(help="Seed of an untrained model.", min=0, show_default="42")]
Heads = Annotated[
    int | None, typer.Option("--n-head", help="Heads of weights that cannot tell.", min=1, show_default="4")
]
BosPlace = Annotated[
    Bos | None,
    typer.Option("--bos", help="Place of BOS, for weights that cannot tell.", show_default="first"),
]
Out = Annotated[Path | None, typer.Option("--out", help="Write to this file, not stdout.", metavar="FILE")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document.")]


def model_from(path: Path | None, seed: int | None, n_head: int | None, bos: Bos | None) -> Model:
    """The checkpoint, or an untrained model of the seed."""
    if path is not None:
        if seed is not None:
            raise InputError(f"--seed is for an untrained model, but --model names {path}")
        from ..checkpoint import load

        return load(path, n_head=n_head, bos=bos.value if bos else None)
    if n_head is not None or bos is not None:
        option = "--n-head" if n_head is not None else "--bos"
        raise InputError(f"{option} is for a file of weights without metadata: it needs --model")
    from ..model import init

    return init(seed=42 if seed is None else seed)


def trained_model(path: Path | None, n_head: int | None, bos: Bos | None) -> Model:
    """The checkpoint, by default the one that `microgpt train` leaves here."""
    if path is None and not DEFAULT_CHECKPOINT.exists():
        raise FileFormatError(
            f"no {DEFAULT_CHECKPOINT} here: `microgpt train` makes one in a second, or name one with --model"
        )
    return model_from(path or DEFAULT_CHECKPOINT, None, n_head, bos)
