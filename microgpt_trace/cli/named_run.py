"""What stands on a command line for a run to compare: a model, or what another run left."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from os.path import realpath
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from ..text.command_lines import command
from .options import AprSettings, BareWeights, of_the_file

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel
    from ..dumps.mapping import NameMap
    from ..dumps.recording import Recording

Tokens = Annotated[str | None, typer.Option(help="The token ids, in place of a text.", metavar="ID,ID...")]


@dataclass(frozen=True, eq=False, repr=False)
class Naming:
    """What the arrays of a dump are called, and how they lie."""

    map_file: Annotated[
        Path | None,
        typer.Option(
            "--map",
            help='TOML of a dump\'s names: lines below \\[events] like "layer{i}.mlp.up" = "up_{i}".',
            metavar="FILE",
        ),
    ] = None
    layouts: Annotated[
        list[str] | None,
        typer.Option(
            "--layout",
            help="How arrays lie, where their shape leaves that open: '*.attn.q=HTD'.",
            metavar="GLOB=LETTERS",
        ),
    ] = None

    def names(self) -> "NameMap | None":
        """What --map says. Raises FileFormatError."""
        if self.map_file is None:
            return None
        from ..dumps.mapping import read_map

        return read_map(self.map_file)

    def layouts_known(self) -> dict[str, str]:
        """GLOB=LETTERS, the letters known. Raises InputError."""
        from ..dumps.layouts import LAYOUTS

        found = {}
        for pair in self.layouts or []:
            name, equals, letters = pair.partition("=")
            if not name or not equals:
                raise InputError(f"--layout: expected GLOB=LETTERS, found {pair!r}")
            if letters not in LAYOUTS:
                raise InputError(f"--layout {pair}: expected one of {', '.join(LAYOUTS)}, found {letters!r}")
            found[name] = letters
        return found


@dataclass
class Opener:
    """Opens models and recordings by their paths, each once."""

    bare: BareWeights
    apr: AprSettings
    names: "NameMap | None" = None
    _known: dict[str, Any] = field(default_factory=dict)

    def open(self, path: Path) -> "LanguageModel | Recording":
        """What lies under the path. Raises FileFormatError where that is nothing to compare."""
        key = realpath(path)  # Path.resolve raises RuntimeError of a loop of links
        if key not in self._known:
            self._known[key] = self._open(path)
        return self._known[key]

    def model(self, path: Path) -> "LanguageModel":
        """The model under the path. Raises InputError where a dump is."""
        from ..dumps.recording import Recording

        found = self.open(path)
        if isinstance(found, Recording):
            raise InputError(f"{path}: expected a model, found {found.kind}")
        return found

    def dump(self, path: Path) -> "Recording":
        """The dump under the path. Raises InputError where a model is."""
        from ..dumps.recording import Recording

        found = self.open(path)
        if not isinstance(found, Recording):
            again = command("trace", [str(path)], ["--save", "FILE"])
            raise InputError(
                f"{path}: expected a dump, found a {found.family} model; `{again}` makes a dump of its run"
            )
        return found

    def _open(self, path: Path) -> "LanguageModel | Recording":
        from ..comparison.compared_runs import opened

        return opened(path, self.names, **of_the_file(self.bare, self.apr))


def refuse_idle(sides: Sequence[Any], bare: BareWeights, apr: AprSettings, naming: Naming) -> None:
    """Raises InputError for an option that concerns none of the sides."""
    of_models = {
        "--n-head": bare.n_head, "--bos": bare.bos, "--rope-pairs": apr.rope_pairs, "--set": apr.settings,
    }  # fmt: skip
    of_dumps = {"--map": naming.map_file, "--layout": naming.layouts}
    models = [hasattr(side, "family") for side in sides]
    for options, idle, what in ((of_models, not any(models), "model"), (of_dumps, all(models), "dump")):
        for option, value in options.items():
            if idle and value not in (None, False, []):
                raise InputError(f"{option} is for a {what}, and neither side is one")
