"""Run a trace and show, serialise and save what was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import InputError
from .output import note, put, show
from .progress import progress

if TYPE_CHECKING:
    from ..decoder import Decoder
    from ..events import TraceEvent
    from ..model import Model
    from ..render.screen import Screen
    from ..stats import Array
    from ..traces import Trace


@dataclass(frozen=True)
class Request:
    """What is shown of a trace, and where it goes."""

    verbose: bool
    layer: list[str]
    layers: str | None
    show: list[str]
    as_json: bool
    as_jsonl: bool
    values: bool
    save: Path | None
    out: Path | None
    fail_on: str | None

    @property
    def is_json(self) -> bool:
        return self.as_json or self.as_jsonl


def run(model: Model | Decoder, request: Request, options: dict[str, Any]) -> None:
    """Trace, then write what the request names; exit 1 where a check failed or a gate says no."""
    from ..tracing import trace

    production = model.family == "decoder"
    chosen = _layers(request.layers, model.config.n_layer)
    names = request.layer or _selection(model, request.verbose, chosen)
    wanted = [*request.show, *(names if request.values or request.save else [])]
    if request.verbose and not production:
        wanted.append("layer*.attn.weights")
    parameters = model.config.shapes()
    wanted = [name for name in wanted if not production or name not in parameters]
    with following(model):
        result = trace(model, names=names, values=wanted, **options)
    if chosen:
        result = replace(result, layers=tuple(row for row in result.layers if row.layer in chosen))
    if request.save is not None:
        from ..checkpoint import save_arrays

        save_arrays(result, request.save)
        note(f"saved {len(result)} arrays to {request.save}")
    if request.is_json:
        from ..render.document import to_json, to_json_lines

        for text in result.input.notes:
            note(text)
        lines = to_json_lines(result, request.values) if request.as_jsonl else [
            to_json(result, request.values)
        ]  # fmt: skip
        put(lines, request.out)
    else:
        show(lambda screen: _paint(result, model, request, screen), request.out)
    found = any(anomaly.found for anomaly in result.anomalies)
    if not result.ok or (request.fail_on and found):
        raise typer.Exit(1)


@contextmanager
def following(model: Model | Decoder) -> Iterator[None]:
    """Report each layer on stderr where the run takes long."""
    count = model.config.n_layer
    with progress("layer") as report:

        def told(event: TraceEvent, value: Array) -> None:
            report((event.layer or 0) + 1, count)

        with model.hooks.subscribe(told, "layer*.mlp.residual"):
            yield


def _selection(model: Model | Decoder, verbose: bool, layers: list[int]) -> list[str]:
    """What is shown unless asked otherwise: the events of the overview or all of them, but for those
    that cost a computation of their own."""
    return [
        name
        for name, spec in model.hooks.specs.items()
        if (verbose and not spec.extra) or spec.overview
        if not layers or spec.layer is None or spec.layer in layers
    ]


def _layers(text: str | None, count: int) -> list[int]:
    """ "3-5" is three layers, "3,7" two."""
    if text is None:
        return []
    chosen: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise InputError(f"--layers: expected something like 3-5 or 0,7, found {text!r}")
        chosen += range(int(first), int(last if dash else first) + 1)
    if not chosen or max(chosen) >= count:
        raise InputError(f"--layers {text}: this model has layers 0 to {count - 1}")
    return chosen


def _paint(result: Trace, model: Model | Decoder, request: Request, screen: Screen) -> None:
    from ..events import select_names
    from ..render.arrays import print_array

    specs = model.hooks.specs
    if model.family == "microgpt":
        from ..render.table import print_trace

        print_trace(result, screen, specs, verbose=request.verbose)
    else:
        from ..render.decoder import print_decoder_trace

        print_decoder_trace(
            result, screen, specs, verbose=request.verbose, overview=not (request.layer or request.verbose)
        )
    known = [*specs, *(name for name in model.config.shapes() if name not in specs)]
    labels = result.input.labels
    for name in [found for asked in request.show for found in select_names([asked], known)]:
        if name in model.config.shapes():
            array = model.params[name] if model.family == "microgpt" else model.tensors[name].read()
            print_array(name, array, model, labels, screen)
        if ("forward", name) in result.arrays:
            print_array(name, result[name], model, labels, screen)
        if ("backward", name) in result.arrays:
            print_array(name, result.gradient(name), model, labels, screen, f"d loss / d {name}")
