"""Path patching: change the input of one receiver by what one sender writes to the residual stream.

The method comes from Wang et al., "Interpretability in the Wild" (2022), and Goldowsky-Dill et al.,
"Localizing Model Behavior with Path Patching" (2023). In the corrupted run, the receiver alone reads a
residual stream with the sender's write of the clean run. All heads and MLPs between sender and receiver keep
their corrupted values. Norms, scales and sums on the path are computed again, so the effect is exact. Then
the model runs on from the changed output of the receiver. A receiver is an input, and no event:

    layer3.attn.head2.q    the queries of head 2; also .k and .v. Heads that share keys and values keep theirs
    layer3.attn.q          the queries of all heads of the layer; also .k and .v
    layer3.mlp             the input of the MLP
    logits                 the input of the output matrix: the direct effect of the sender
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..errors import InputError
from ..grouping import grouped
from ..hooks.edits import Edit, EditTap
from ..hooks.names import select_spelled
from ..interpreter.edited_runs import ELEMENTS
from ..interpreter.run import head_input, run_rows
from ..models.language_model import LanguageModel, TraceInput
from ..operations.pass_state import PassState
from ..plans.kinds import Context, Scores
from ..plans.plan import Operation, Plan, prefix_of
from ..selection.sites import Part, parse_site
from ..text.frozen import frozen
from .points import PatchPoint, passes_on, point_of

Values = Mapping[str, Array]
RECEIVER = "receiver, such as layer0.attn.head0.q, layer0.attn.k, layer0.mlp or logits"


@frozen(slots=False, eq=False)
class Route:
    """The rows that are computed again for a receiver, the events and heads that write to the residual stream
    before the receiver, and the events that keep their corrupted values, unless one is the sender."""

    rows: tuple[Operation, ...]
    senders: frozenset[str]
    frozen: frozenset[str]


class Receiver(NamedTuple):
    """The output of a component, and the channels of a head in this output, or None for all channels. The
    component's inputs through the events `others` keep their corrupted values."""

    output: str
    others: frozenset[str] = frozenset()
    channels: tuple[int, ...] | None = None


class PathPoint(NamedTuple):
    """A path from a sender to a receiver."""

    sender: PatchPoint
    receiver: str
    channels: tuple[int, ...] | None
    route: Route


def receivers_in(model: LanguageModel) -> dict[str, Receiver]:
    """Return all receivers of a model by name, in order of computation."""
    plan, found = model.plan, dict[str, Receiver]()
    for context in plan.of_kind(Context):
        scores = [row for row in plan.of_kind(Scores) if row.layer == context.layer]
        inputs = (*(name for row in scores for name in row.inputs), context.inputs[1])
        for name in inputs:
            source, whole = plan.source(name), Receiver(context.name, frozenset(inputs) - {name})
            found[source] = whole
            for head in plan.readers[context.name]:
                if columns := getattr(plan[head].kind, "columns", None):
                    own = whole._replace(channels=tuple(range(*columns)))
                    found[f"{head}.{source.rpartition('.')[2]}"] = own
    attention = frozenset(row.name for row in plan.values() if row.parts)  # beside the MLP in parallel layers
    for _, branch in plan.residuals.values():
        if plan[branch].stage == "mlp":
            found[f"{prefix_of(branch)}mlp"] = Receiver(branch, attention)
    found["logits"] = Receiver(head_input(model))
    return dict(sorted(found.items(), key=lambda item: plan.order[item[1].output]))


def route_to(plan: Plan, receiver: Receiver) -> Route:
    """Follow the plan back from the output of a component, through its input, and along the residual stream
    to the embeddings."""
    streams = {*plan.streams, *plan.residuals, *(row.name for row in plan.before)}
    read, within = {receiver.output}, {receiver.output}  # `within` has the events inside the component
    rows, senders = list[Operation](), set[str]()
    for row in reversed(list(plan.values())):
        if row.name not in read:
            continue
        if inside := row.name in within and row.name not in streams:
            within.update(set(row.inputs) - receiver.others)
        else:
            senders.update((row.name, *row.parts))
        if inside or passes_on(row):
            rows.insert(0, row)
            read.update(set(row.inputs) - receiver.others if inside else row.inputs)
    frozen = {name for row in rows for name in row.inputs} - {row.name for row in rows}
    return Route(tuple(rows), frozenset(senders), frozenset(frozen))


def paths_of(
    model: LanguageModel, senders: Sequence[str], receivers: Sequence[str], length: int
) -> list[PathPoint]:
    """Return the paths from each sender to each receiver. A glob leaves out senders and receivers without a
    path. Raises InputError if a name matches nothing, or if no path leads from a sender to a receiver."""
    plan, known, paths, lost = model.plan, receivers_in(model), list[PathPoint](), list[tuple[str, str]]()
    route_of = cache(partial(route_to, plan))  # the heads of a layer share a route
    shapes, found, exact = plan.shapes(length), dict[str, PatchPoint](), set[tuple[str, str]]()
    for site in map(parse_site, senders):
        names = [name for name in site.names(list(plan)) if name in route_of(known["logits"]).senders]
        if not names:
            expected = "expected a head, an MLP, an embedding or the residual stream"
            raise InputError(f"{site.selector} does not write to the residual stream: {expected}")
        found |= {n + site.place: point_of(plan, n, site.part(n, shapes[n]), site.place) for n in names}
        exact |= {(site.selector, receiver) for receiver in receivers}
    points = sorted(found.values(), key=lambda point: plan.order[point.spot.name])
    for name in select_spelled(receivers, {name: (name,) for name in known}, RECEIVER):
        route = route_of(known[name]._replace(channels=None))
        for point in points:
            if point.spot.name in route.senders:
                paths.append(PathPoint(point, name, known[name].channels, route))
            elif (point.spot.name, name) in exact:
                lost.append((point.spot.site, name))
    if lost or not paths:
        sender, receiver = (*lost, (" and ".join(senders), " and ".join(receivers)))[0]
        raise InputError(f"{receiver} does not come after {sender}: expected a later receiver")
    return sorted(paths, key=lambda path: plan.order[path.sender.spot.name])


def path_edits(
    model: LanguageModel, inputs: TraceInput, paths: Sequence[PathPoint], *runs: Values
) -> list[Edit | None]:
    """Return for each path the edit of the corrupted run that changes the receiver's output. The edit is None
    if the sender writes the same in both runs. `runs` are the values of the clean and the corrupted run."""
    edits = dict[PathPoint, Edit]()
    changed = [path for path in paths if not path.sender.same(*(run[path.sender.spot.name] for run in runs))]
    for route, own in grouped(changed, lambda path: path.route).items():
        senders = list(dict.fromkeys(path.sender for path in own))
        outputs = dict(zip(senders, _outputs(model, inputs, route, senders, *runs), strict=True))
        for path in own:
            part = PatchPoint(path.sender.spot, Part(None, None, path.channels))
            edits[path] = Edit(route.rows[-1].name, part.change(outputs[path.sender]))
    return [edits.get(path) for path in paths]


def _outputs(
    model: LanguageModel, inputs: TraceInput, route: Route, senders: Sequence[PatchPoint], *runs: Values
) -> Iterator[Array]:
    """Yield for each sender the receiver's output [T, W]. Senders are sequences of one pass, if they fit."""
    size = max(1, ELEMENTS // sum(runs[1][name].size for name in route.frozen))
    for start in range(0, len(senders), size):
        writes = [_write(model.plan, sender, *runs) for sender in senders[start : start + size]]
        edits, n = grouped(enumerate(writes), lambda numbered: numbered[1].name), len(writes)
        run = PassState(model, np.tile(inputs.tokens, n), n, EditTap(edits, n))
        values = {name: run.tap.emit(name, np.concatenate([runs[1][name]] * n)) for name in route.frozen}
        with one_blas_thread():
            output = run_rows(route.rows, values, run)
        yield from output.reshape(n, len(inputs.tokens), -1)


def _write(plan: Plan, sender: PatchPoint, clean: Values, corrupt: Values) -> Edit:
    """Return the edit that puts the clean write in place of the corrupted write. A head is a part of a sum,
    which changes as much as the head."""
    name = sender.spot.name
    if name not in plan.sums_of:
        return Edit(name, sender.change(clean[name]))
    change = sender.change(clean[name])(corrupt[name]) - corrupt[name]
    return Edit(plan.sums_of[name].name, lambda value: value + change)
