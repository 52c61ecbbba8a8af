"""Options of `trace` that change what the model computes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel
    from ..running.interventions import Intervention

PANEL = "Interventions"


def _option(flag: str, text: str, metavar: str) -> typer.models.OptionInfo:
    return typer.Option(flag, help=text, metavar=metavar, rich_help_panel=PANEL)


@dataclass(frozen=True, eq=False, repr=False)
class Interventions:
    """What stands in the place of which values."""

    ablate: Annotated[
        list[str] | None,
        _option(
            "--ablate",
            "Put zeros in the place of an event or head; NAME@3 is its position 3, NAME@3:5 of it channel 5.",
            "NAME",
        ),
    ] = None
    ablate_mean: Annotated[
        list[str] | None, _option("--ablate-mean", "Put its mean over the positions in its place.", "NAME")
    ] = None
    scale: Annotated[
        list[str] | None,
        _option(
            "--scale", "Multiply it; of a NAME that --add names too, multiply what is added.", "NAME=NUMBER"
        ),
    ] = None
    patch: Annotated[
        list[str] | None, _option("--patch", "Put there what a saved trace or another dump has.", "NAME=FILE")
    ] = None
    add: Annotated[
        list[str] | None, _option("--add", "Add an array, or one row to every position.", "NAME=FILE")
    ] = None


def interventions_of(asked: Interventions, model: "LanguageModel") -> "list[Intervention]":
    """The interventions in the order in which they are made: patch, add, scale, ablate. Raises InputError."""
    if not any(vars(asked).values()):
        return []
    from ..architecture.sites import parse_site
    from ..dumps.formats import open_recording
    from ..running.interventions import Intervention

    known = list(model.plan)

    def meant(target: str) -> tuple[object, ...]:
        """What a target stands for, however it is spelled."""
        site = parse_site(target)
        return tuple(site.names(known)), site.position, site.channel, site.index

    factors = {name: _number(name, text) for name, text in _pairs("--scale", asked.scale)}
    strength = {meant(name): factor for name, factor in factors.items()}
    patches, additions = _pairs("--patch", asked.patch), _pairs("--add", asked.add)
    files = {path: open_recording(Path(path)) for _, path in (*patches, *additions)}
    added = {meant(name) for name, _ in additions}
    return [
        *(Intervention("patch", name, 1.0, files[path], path) for name, path in patches),
        *(
            Intervention("add", name, strength.get(meant(name), 1.0), files[path], path)
            for name, path in additions
        ),
        *(
            Intervention("scale", name, factor)
            for name, factor in factors.items()
            if meant(name) not in added
        ),
        *(Intervention("ablate-mean", name) for name in asked.ablate_mean or ()),
        *(Intervention("ablate", name) for name in asked.ablate or ()),
    ]


def _pairs(option: str, texts: Sequence[str] | None) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not name or not equals or not value:
            wanted = "NUMBER" if option == "--scale" else "FILE"
            raise InputError(f"{option}: expected NAME={wanted}, found {text!r}")
        if option == "--scale" and name in dict(pairs):
            raise InputError(f"--scale: {name} is scaled twice")
        pairs.append((name, value))
    return pairs


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"--scale {name}: expected a number, found {text!r}") from error
