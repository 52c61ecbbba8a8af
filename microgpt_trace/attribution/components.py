"""The components of a model that write into its residual stream, in order of computation.

They follow from a walk over the plan, from the logits back along the stream: a sum passes on both of its
parts, a norm what it reads, until a row of another kind, which writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..architecture.kinds import Add, Lookup, Norm
from .results import Kind

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel
    from ..architecture.plan import Operation, Plan


class Component(NamedTuple):
    """A writer: the name of its event, of a bias that of the parameter, and the row that it is of."""

    name: str
    kind: Kind
    row: Operation
    layer: int | None = None
    head: int | None = None


def passes_on(row: Operation) -> bool:
    """Whether a row on the way to the logits hands on what is written, in place of writing itself."""
    kind = row.kind
    return row.name == "logits" or isinstance(kind, Add) or (isinstance(kind, Norm) and not kind.head_dim)


def way_to_logits(plan: Plan) -> list[Operation]:
    """The rows that write into the stream, and those that pass it on up to the logits."""
    found = {"logits"}
    for row in reversed(list(plan.values())):
        if row.name in found and passes_on(row):
            found.update(row.inputs)
    return [row for row in plan.values() if row.name in found]


def components_of(model: LanguageModel) -> list[Component]:
    """All that write: their writes add up to the logits."""
    found: list[Component] = []
    for row in way_to_logits(model.plan):
        if isinstance(row.kind, Lookup):
            found.append(Component(row.name, "embedding", row, row.layer))
        elif row.parts:  # heads
            found += [Component(head, "head", row, row.layer, h) for h, head in enumerate(row.parts)]
        elif not passes_on(row):
            found.append(Component(row.name, "mlp", row, row.layer))
        if row.bias is not None:
            found.append(Component(row.bias, "bias", row, row.layer))
    return found
