"""Hypotheses: what a mistake would make of an operation, and whether it is what the dump has.

Knows no mistake by itself; they are in the modules hypotheses_*.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from functools import partial as bind

import numpy as np

from ..brief import one_line
from ..graph import kind_of, layer_of, prefix_of
from ..stats import Array
from .evaluation import Evaluation
from .judging import Judge, Rows, row_errors
from .operations import Weights, inputs_of
from .rules import Rules

AT_MOST = 0.5  # of the error is left by a hypothesis worth naming
MEASURED = 0.01  # of the error is left by one with a measured number, which carries the dump's noise
FEW = 8  # operations
NEAREST = 3  # are named where none explains
PLAIN, NUMBERED, COMBINED, DESCRIBED = range(4)  # how plain an explanation is


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A mistake: the rules by which the engine would have computed, or what it did to the right value.

    `claim` goes on after "layer 0, q after RoPE: ". `measured`: it has a number taken from the dump.
    `rank` is PLAIN for one mistake, COMBINED for two at a time, DESCRIBED for what only tells how the
    values differ; a measured one that says PLAIN is NUMBERED.
    """

    id: str
    claim: str
    rules: Rules | None = None
    transform: Callable[[Case, Array], Array] | None = None
    measured: bool = False
    rank: int = PLAIN

    __repr__ = one_line

    @property
    def plainness(self) -> int:
        return max(self.rank, NUMBERED) if self.measured else self.rank


@dataclass(frozen=True)
class Finding:
    """A hypothesis about an operation that was tried, or a fact about the tokens.

    `residual` is the error that it leaves (relative L2 of the worst row), `also_explains` the other
    wrong operations that the same mistake explains, `cannot_be_told_from` the other hypotheses that
    explain this operation as well.
    """

    operation: str
    id: str
    claim: str
    residual: float
    explains: bool
    also_explains: tuple[str, ...] = ()
    cannot_be_told_from: tuple[str, ...] = ()

    __repr__ = one_line


@dataclass(frozen=True, eq=False)
class Case:
    """A wrong operation: the dump's values beside what follows from the dump's own inputs.

    `positions` are those of the rows of `found`, None where it has all; `expected` is float32 or float64.
    """

    name: str
    found: Array
    expected: Array
    positions: Sequence[int] | None
    judge: Judge
    error: float

    @property
    def rules(self) -> Rules:
        return self.judge.plain.rules

    @property
    def weights(self) -> Weights:
        return self.judge.plain.weights

    @property
    def kind(self) -> str:
        return kind_of(self.name)

    @property
    def layer(self) -> int | None:
        return layer_of(self.name)

    @property
    def prefix(self) -> str:
        return prefix_of(self.name)

    @cached_property
    def kinds(self) -> frozenset[str]:
        """The kinds of all operations since the dump's own inputs."""
        return frozenset(map(kind_of, (*self.judge.plain.between(self.name), self.name)))

    @property
    def alone(self) -> bool:
        """The dump has all the operation's inputs, and all rows of its output: numbers can be measured."""
        return len(self.kinds) == 1 and self.positions is None

    @cached_property
    def inputs(self) -> tuple[Array, ...]:
        """The dump's own inputs, float64; only where the operation stands alone."""
        values = self.judge.plain.values
        return tuple(np.asarray(values[name], np.float64) for name in inputs_of(self.rules, self.name))

    @cached_property
    def largest(self) -> float:
        """The largest error of a row, infinite where one is not finite."""
        errors = row_errors(self.found, self.expected, self.judge.compared(self.name))
        return float(np.nanmax(errors, initial=0))

    @cached_property
    def products(self) -> dict[str, str]:
        """The matrices of this layer that take part, and the products they are in: attn_wq -> attn.q"""
        behind = self.weights.behind
        found = {behind[kind]: kind for kind in behind if kind in self.kinds and self.has(behind[kind])}
        return found | ({"attn_wo": "attn.head"} if self.kind == "attn.head" else {})

    def value(self, kind: str) -> Array:
        """The event of that kind in this layer: the dump's, or what follows for it."""
        return self.judge.plain.value(self.prefix + kind)

    def has(self, parameter: str) -> bool:
        """Whether this layer has a parameter of that kind, or the layers before the model's end have it."""
        return self.whole_name(parameter) in self.weights

    def whole_name(self, parameter: str) -> str:
        """A parameter of this layer; at the model's ends its own, or else the first layer's."""
        own = self.prefix + parameter
        return own if self.layer is not None or own in self.weights else f"layer0.{parameter}"


Generator = Callable[[Case], Iterable[Hypothesis]]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What is left of the error under a hypothesis."""

    hypothesis: Hypothesis
    residual: float
    explains: bool

    __repr__ = one_line


def try_all(case: Case, stages: Sequence[Sequence[Generator]]) -> tuple[list[Outcome], list[str]]:
    """The outcomes of one stage after the other until one explains, and the ids of what was tried."""
    outcomes, tried = list[Outcome](), list[str]()
    size = min(case.error, 1.0)  # a small row beside a large one errs by more than all of itself
    for stage in stages:
        for hypothesis in _proposed(case, stage):
            tried.append(hypothesis.id)
            residual, holds = test(case, hypothesis)
            far_smaller = hypothesis.measured and residual <= MEASURED * size
            explains = (holds or far_smaller) and residual <= AT_MOST * size
            outcomes.append(Outcome(hypothesis, residual, explains))
        if any(outcome.explains for outcome in outcomes):
            break
    return outcomes, list(dict.fromkeys(tried))


def _proposed(case: Case, stage: Sequence[Generator]) -> Iterator[Hypothesis]:
    for generator in stage:
        with np.errstate(all="ignore"):
            yield from generator(case)


def test(case: Case, hypothesis: Hypothesis) -> tuple[float, bool]:
    """The residual of the worst row, and whether all rows are within their tolerance."""
    judge, most = case.judge, AT_MOST * case.largest
    if hypothesis.rules is not None:
        judge = under(hypothesis.rules, case.judge)
        expected = judge.plain.output(case.name, case.positions)
    else:
        assert hypothesis.transform is not None
        change = bind(hypothesis.transform, case)
        with np.errstate(all="ignore"):
            rows = judge.rows(case.name, case.found, change(case.expected), case.positions, change, most)
        return residual_of(rows)
    return residual_of(judge.rows(case.name, case.found, expected, case.positions, None, most))


def residual_of(rows: Rows) -> tuple[float, bool]:
    """The residual of the worst row and whether all hold; infinite where most rows cannot be judged."""
    unknown = np.isnan(rows.errors)
    if 2 * np.count_nonzero(unknown) > len(unknown):
        return math.inf, False
    return rows.error, rows.holds


def under(rules: Rules, judge: Judge) -> Judge:
    """The judge that goes by other rules."""

    of = judge.plain

    def evaluation(noise: int | None) -> Evaluation:
        return Evaluation(of.weights, rules, of.values, of.order, of.precision, noise, of.rounding)

    return Judge(evaluation(None), [evaluation(seed) for seed in range(len(judge.noisy))], judge.exprs)


def findings_of(
    case: Case, outcomes: Sequence[Outcome], others: Mapping[str, Callable[[], Case]],
    stages: Sequence[Sequence[Generator]],
) -> list[Finding]:  # fmt: skip
    """The findings: the plainest that explain, one of each id; else the nearest, that leave at most half.

    `others` are the other wrong operations, which a mistake of the same kind may explain as well.
    """
    explaining = _plainest([o for o in outcomes if o.explains])
    if explaining:
        ids = [o.hypothesis.id for o in explaining]
        also = _also_explained(explaining, others, stages)
        return [
            _finding(case, o, tuple(own), tuple(i for i in ids if i != o.hypothesis.id))
            for o, own in zip(explaining, also, strict=True)
        ]
    near = sorted(
        (o for o in outcomes if o.residual <= AT_MOST * min(case.error, 1.0)), key=lambda o: o.residual
    )
    return [_finding(case, o) for o in near[:NEAREST]]


def _plainest(explaining: Sequence[Outcome]) -> list[Outcome]:
    best = min((o.hypothesis.plainness for o in explaining), default=PLAIN)
    by_id: dict[str, Outcome] = {}
    for outcome in explaining:
        if outcome.hypothesis.plainness == best:
            by_id.setdefault(outcome.hypothesis.id, outcome)
    return list(by_id.values())


def _also_explained(
    explaining: Sequence[Outcome],
    others: Mapping[str, Callable[[], Case]],
    stages: Sequence[Sequence[Generator]],
) -> list[list[str]]:
    """For each hypothesis the other operations that it explains, or its like of the same id (a gain that
    is missing in every norm is another gain in each); each operation is read once."""
    found: list[list[str]] = [[] for _ in explaining]
    stages = stages[: 2 if len(others) <= FEW else 1]  # the second reads other layers' weights
    for name, open_case in others.items():
        case = open_case()
        for own, outcome in zip(found, explaining, strict=True):
            known = outcome.hypothesis
            if _explains(case, known) or any(_explains(case, like) for like in _alike(case, known, stages)):
                own.append(name)
    return found


def _alike(case: Case, known: Hypothesis, stages: Sequence[Sequence[Generator]]) -> Iterator[Hypothesis]:
    """What is proposed for this operation under the same id."""
    try:
        for stage in stages:
            yield from (proposed for proposed in _proposed(case, stage) if proposed.id == known.id)
    except (KeyError, ValueError, IndexError):  # the mistake cannot be made here
        return


def _explains(case: Case, hypothesis: Hypothesis) -> bool:
    if hypothesis.rules is None and hypothesis.transform is None:
        return False
    try:
        residual, holds = test(case, hypothesis)
    except (KeyError, ValueError, IndexError):  # the mistake cannot be made here
        return False
    return holds and residual <= AT_MOST * min(case.error, 1.0)


def _finding(case: Case, outcome: Outcome, also: tuple[str, ...] = (), same: tuple[str, ...] = ()) -> Finding:
    hypothesis = outcome.hypothesis
    claim = f"{words_of(case.name)}: {hypothesis.claim}"
    return Finding(case.name, hypothesis.id, claim, outcome.residual, outcome.explains, also, same)


def words_of(name: str) -> str:
    """An event as an engineer calls it: "layer 0, q after RoPE"."""
    layer, kind = layer_of(name), kind_of(name)
    words = words_of_kind(kind)
    if kind == "attn.head":
        words = f"share of head {name.rpartition('head')[2]}"
    return words if layer is None else f"layer {layer}, {words}"


def words_of_kind(kind: str) -> str:
    """An event without its layer, in words: "q after RoPE" of attn.q_rope"""
    return _WORDS.get(kind, kind)


_WORDS = {
    "embed.tok": "token embedding", "embed.pos": "position embedding", "embed.sum": "sum of the embeddings",
    "embed.norm": "norm of the embedding", "attn.norm": "norm before attention", "attn.q": "q", "attn.k": "k",
    "attn.v": "v", "attn.q_norm": "q after its norm", "attn.k_norm": "k after its norm",
    "attn.q_rope": "q after RoPE", "attn.k_rope": "k after RoPE", "attn.scores": "attention scores",
    "attn.weights": "attention weights", "attn.context": "attention context", "attn.out": "attention output",
    "attn.residual": "stream after attention", "mlp.norm": "norm before the MLP", "mlp.gate": "gate",
    "mlp.up": "up", "mlp.act": "activation", "mlp.hidden": "activation times up", "mlp.down": "MLP output",
    "mlp.residual": "stream after the MLP", "final.norm": "final norm", "logits": "logits",
    "probs": "probabilities", "loss": "loss",
}  # fmt: skip
