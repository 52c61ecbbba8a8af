"""What stands on a command line for a run to compare: a model, or what another run left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os.path import realpath
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from ..text.command_lines import command
from .options import Bos, RopePairs, settings_of

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel
    from ..dumps.mapping import NameMap
    from ..dumps.recording import Recording

MapFile = Annotated[
    Path | None,
    typer.Option(
        "--map",
        help='TOML of a dump\'s names: lines below \\[events] like "layer{i}.mlp.up" = "up_{i}".',
        metavar="FILE",
    ),
]
Layouts = Annotated[
    list[str] | None,
    typer.Option(
        "--layout",
        help="How arrays lie, where their shape leaves that open: '*.attn.q=HTD'.",
        metavar="GLOB=LETTERS",
    ),
]
Tokens = Annotated[str | None, typer.Option(help="The token ids, in place of a text.", metavar="ID,ID...")]


@dataclass
class Opener:
    """Opens models and recordings by their paths, each once."""

    n_head: int | None = None
    bos: Bos | None = None
    rope_pairs: RopePairs | None = None
    settings: list[str] | None = None
    names: NameMap | None = None
    _known: dict[str, Any] = field(default_factory=dict)

    def open(self, path: Path) -> LanguageModel | Recording:
        """What lies under the path. Raises FileFormatError where that is nothing to compare."""
        key = realpath(path)  # Path.resolve raises RuntimeError of a loop of links
        if key not in self._known:
            self._known[key] = self._open(path)
        return self._known[key]

    def model(self, path: Path) -> LanguageModel:
        """The model under the path. Raises InputError where a dump is."""
        from ..dumps.recording import Recording

        found = self.open(path)
        if isinstance(found, Recording):
            raise InputError(f"{path}: expected a model, found {found.kind}")
        return found

    def dump(self, path: Path) -> Recording:
        """The dump under the path. Raises InputError where a model is."""
        from ..dumps.recording import Recording

        found = self.open(path)
        if not isinstance(found, Recording):
            again = command("trace", [str(path)], ["--save", "FILE"])
            raise InputError(
                f"{path}: expected a dump, found a {found.family} model; `{again}` makes a dump of its run"
            )
        return found

    def _open(self, path: Path) -> LanguageModel | Recording:
        from ..comparison.compared_runs import opened

        return opened(
            path, self.names, n_head=self.n_head, bos=self.bos.value if self.bos else None,
            rope_pairs=self.rope_pairs.value if self.rope_pairs else None,
            settings=settings_of(self.settings or []),
        )  # fmt: skip


def name_map(path: Path | None) -> NameMap | None:
    if path is None:
        return None
    from ..dumps.mapping import read_map

    return read_map(path)


def layouts_of(pairs: list[str] | None) -> dict[str, str]:
    """NAME=LETTERS, the letters known. Raises InputError."""
    from ..dumps.layouts import LAYOUTS

    found = {}
    for pair in pairs or []:
        name, equals, letters = pair.partition("=")
        if not name or not equals:
            raise InputError(f"--layout: expected GLOB=LETTERS, found {pair!r}")
        if letters not in LAYOUTS:
            raise InputError(f"--layout {pair}: expected one of {', '.join(LAYOUTS)}, found {letters!r}")
        found[name] = letters
    return found


def refuse_idle(sides: Sequence[Any], of_models: Mapping[str, Any], of_dumps: Mapping[str, Any]) -> None:
    """Raises InputError for an option that concerns none of the sides."""
    models = [hasattr(side, "family") for side in sides]
    for options, idle, what in ((of_models, not any(models), "model"), (of_dumps, all(models), "dump")):
        for option, value in options.items():
            if idle and value not in (None, False, []):
                raise InputError(f"{option} is for a {what}, and neither side is one")
