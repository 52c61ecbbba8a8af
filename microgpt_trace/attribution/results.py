"""AttributionResult: parts of predictions, their sums, and roles of heads. This module needs no model."""

from __future__ import annotations

import math
from typing import Literal

from ..arrays.logits import LogitDifference
from ..measuring.definitions import Attention, RoleName
from ..notebook import in_notebook
from ..patching.patch_results import MeanPatched
from ..text.brief import one_line
from ..text.frozen import frozen
from ..text.json_writing import in_document
from ..tracing.findings import Check

Kind = Literal["embedding", "head", "mlp", "bias", "hook"]
GradientMethod = Literal["gradient", "gradient-x-input", "integrated"]
Method = Literal["writes", GradientMethod]


def size(value: float | None) -> float:
    """Return a key that sorts by absolute value. In descending order, NaN comes first and None last."""
    return -1.0 if value is None else abs(value) if value == value else math.inf


@frozen
class Contribution:
    """The contribution of one component to two logits, and the change of the loss without the component.

    `name` is the name of an event or of a bias parameter. If the kind is "hook", the part is a value that a
    hook added, and `loss_change` is None.
    """

    name: str
    kind: Kind
    layer: int | None
    target: float
    against: float
    difference: float  # target - against
    loss_change: float | None


@frozen
class LogitSum:
    """A traced logit and the sum of its parts.

    `deviation` is the distance of the logit from the sum, divided by `magnitude`. `magnitude` is the sum of
    the absolute values of the parts. `holds` is None if `deviation` is not finite.
    """

    p: float
    logit: float
    total: float
    magnitude: float
    deviation: float
    tolerance: float
    holds: bool | None


@frozen
class PositionAttribution:
    """The parts of one prediction, in order of computation. `loss` is -log P(target)."""

    contrast: LogitDifference
    loss: float
    target: LogitSum
    against: LogitSum
    parts: tuple[Contribution, ...]

    def by_difference(self) -> list[Contribution]:
        """Return the parts, the largest difference first. NaN counts as infinite."""
        return sorted(self.parts, key=lambda part: size(part.difference), reverse=True)


@frozen
class Removal:
    """The change of the mean loss over the requested positions if a component is removed."""

    name: str
    kind: Kind
    layer: int | None
    loss_change: float


@frozen
class Look:
    """The largest attention weight of a head at one requested position. `share` is the largest weight, and
    `most_at` is the key position with the largest weight."""

    position: int
    most_at: int
    share: float


@frozen
class HeadRole:
    """Where a head attends, compared with uniform attention over the visible positions. `role` names what the
    head mostly looks at. `looks` lists the largest attention weight at each requested position."""

    name: str
    layer: int
    head: int
    window: int | None
    attention: Attention
    uniform: Attention
    role: RoleName
    looks: tuple[Look, ...]


@frozen
class AttributionResult:
    """The attribution of a text's predictions, and the roles of the heads over the text.

    `mean_loss` and `removals` are means over the requested positions. Without ablation, `removals` is empty.
    `roles` is empty for a single token, because no earlier position exists.
    """

    SCHEMA = "microgpt.attribution/1"

    model: str
    family: str
    text: str
    tokens: tuple[int, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    ablation: bool
    mean_loss: float
    positions: tuple[PositionAttribution, ...]
    removals: tuple[Removal, ...]
    roles: tuple[HeadRole, ...]

    _repr_html_ = in_notebook

    def __repr__(self) -> str:
        about = {"model": self.model, "text": self.text, "positions": len(self.positions)}
        return one_line(self, **about, mean_loss=self.mean_loss, ok=self.ok)

    @property
    @in_document
    def ok(self) -> bool:
        """True if every sum equals its logit within the tolerance. False if a number is not finite."""
        return all(s.holds is True for p in self.positions for s in (p.target, p.against))


@frozen
class Attributed(MeanPatched):
    """The attribution of a part. `error` is known for integrated gradients: half the steps change the value
    by at most this number. Over several prompts, it is the mean of the errors."""

    error: float | None


@frozen
class Neuron:
    """The attribution of a neuron over all positions. `site` is the event and the channel, or the event, the
    expert and its channel. `active_at` are the positions with the largest absolute `activations`. `error` is
    like the error of an `Attributed` part."""

    site: str
    layer: int | None
    value: float
    active_at: tuple[int, ...]
    activations: tuple[float, ...]
    error: float | None


@frozen
class AttributedPrompt:
    """A prompt, and its `difference`, logit(target) - logit(against). `check` compares the sum of the
    attributions with the difference, and for "integrated" also bounds the error of every part, as a share of
    the change. It is None for the methods "gradient" and "gradient-x-input"."""

    tokens: tuple[int, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    contrast: LogitDifference
    difference: float
    check: Check | None


@frozen(slots=False)
class PromptsAttribution:
    """The mean and the spread, over one or several prompts, of the attributions of one logit difference.
    Places at single positions need prompts of equal length.

    With the method "gradient", a value is the L2 norm of the gradient, with "gradient-x-input" the sum of
    gradient * value, with "integrated" the integral of gradient * d value along a path, and with "writes" the
    contribution to the logits. `neurons` has the neurons of a single prompt with the largest values.
    """

    SCHEMA = "microgpt.prompts_attribution/1"

    model: str
    method: Method
    prompts: tuple[AttributedPrompt, ...]
    cells: tuple[Attributed, ...]
    neurons: tuple[Neuron, ...] = ()
    _repr_html_ = in_notebook

    @property
    @in_document
    def ok(self) -> bool:
        """True if all values are finite and the checks of all prompts hold."""
        finite = all(cell.count == len(self.prompts) for cell in self.cells)
        return finite and all(prompt.check is None or prompt.check.holds is True for prompt in self.prompts)
