"""diagnose: judge every operation of another run's dump by its own inputs, and name the first mistake."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial as bind
from types import MappingProxyType

import numpy as np

from ..decoder import Decoder
from ..dumps.recording import Fitted
from ..graph import kind_of, layer_of
from ..model import Model
from ..stats import Array
from ..threads import one_blas_thread
from . import hypotheses_attention as attention
from . import hypotheses_input as entrance
from . import hypotheses_layers as layers
from . import hypotheses_norms as norms
from . import hypotheses_output as output
from . import hypotheses_quants as stored
from . import hypotheses_rope as rope
from . import hypotheses_weights as matrices
from .evaluation import Evaluation
from .finding import findings_of
from .hypotheses import Case, Finding, Generator
from .judging import Judge, OperationResult
from .operations import Weights
from .precision import PRECISIONS, PRODUCTS, Found, precision_of
from .rules import rules_of
from .trying import try_all

NONE: Mapping[str, Fitted] = MappingProxyType({})
KEPT = 32  # arrays read last, about a layer
DRAWS = 4  # of roundings at random, to see how far they carry
MOST_PRODUCTS = 0.8  # of them err where an engine rounds what goes into them

# What is cheap and simple, what reads other layers' weights, what only describes the output.
STAGES: tuple[tuple[Generator, ...], ...] = (
    (
        output.nonfinite, output.zeros, entrance.embedding, entrance.positions, matrices.biases, rope.rope,
        attention.scale, attention.unturned, attention.grouping, attention.mask, attention.softmax,
        attention.context, output.numbers, norms.norms, norms.numbers, norms.skipped_norms,
        layers.activations, layers.gates, layers.sums,
        matrices.matrices,
    ),
    (stored.quants, matrices.layers),
    (rope.frequencies, output.whole, output.heads, output.places),
)  # fmt: skip


@dataclass(frozen=True)
class Diagnosis:
    """Every operation of a dump, and what explains the first one that is wrong.

    `compute` is the precision that the engine computes in and `compute_how` how that is known.
    `untested` are events that could not be judged, with the reason; `tried` the ids of the hypotheses
    that were tried for `first_wrong`.
    """

    tokens: tuple[int, ...]
    compute: str
    compute_how: str
    operations: tuple[OperationResult, ...]
    findings: tuple[Finding, ...]
    first_wrong: str | None
    untested: tuple[tuple[str, str], ...]
    tried: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """No operation is wrong, and the tokens are those of the text where one is known."""
        return self.first_wrong is None and not self.findings

    @property
    def wrong(self) -> tuple[OperationResult, ...]:
        """The operations that do not follow from their own inputs."""
        return tuple(operation for operation in self.operations if not operation.holds)


class Recent(Mapping[str, Array]):
    """A mapping that keeps the arrays read last: an event is read as an output and as an input or two."""

    def __init__(self, values: Mapping[str, Array]) -> None:
        self._values = values
        self._kept: OrderedDict[str, Array] = OrderedDict()

    def __getitem__(self, name: str) -> Array:
        if name not in self._kept:
            self._kept[name] = np.asarray(self._values[name])
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values


def diagnose_values(
    model: Model | Decoder,
    tokens: Sequence[int],
    values: Mapping[str, Array],
    partial: Mapping[str, Fitted] = NONE,
    *,
    compute: str | None = None,
    text_tokens: Sequence[int] | None = None,
) -> Diagnosis:
    """Judge every event of a dump by what follows from the dump's own inputs of it.

    `values` are the dump's arrays in the shapes of our events, all positions; `partial` those of some
    positions, which can be judged but not built upon. `compute` ("f32", "bf16", "f16", "q8") is the
    precision of the engine, found out from the values where it is None; `text_tokens` are what the
    dump's text gives by the model's tokenizer. Raises InputError for another `compute`.
    """
    run = _Diagnosing(model, np.array(tokens), Recent(values), partial)
    with one_blas_thread(), np.errstate(all="ignore"):
        found = precision_of(compute, run.values)
        operations = run.operations(found)
        if compute is None and found.precision.name == "f32" and _eight_bit_inputs(operations):
            found = _eight_bit(operations)
            operations = run.operations(found)
        findings, tried = run.explain(found, operations)
    of_tokens = entrance.token_finding(model, tokens, text_tokens)
    return Diagnosis(
        tuple(int(token) for token in tokens),
        found.precision.name,
        found.how,
        tuple(operations),
        (*([of_tokens] if of_tokens else []), *findings),
        next((operation.name for operation in operations if not operation.holds), None),
        tuple(run.untested(operations)),
        tuple(tried),
    )


class _Diagnosing:
    """A dump beside its model."""

    def __init__(
        self, model: Model | Decoder, tokens: Array, values: Recent, partial: Mapping[str, Fitted]
    ) -> None:
        self.specs = model.hooks.specs
        parameters = model.config.shapes()
        self.known = [name for name in self.specs if name not in parameters]
        self.order = {name: i for i, name in enumerate(self.known)}
        self.weights, self.rules = Weights(model), rules_of(model, tokens)
        self.values, self.partial = values, partial

    def judge(self, found: Found) -> Judge:
        """A judge that knows the model's own rules."""

        def evaluation(noise: int | None) -> Evaluation:
            return Evaluation(self.weights, self.rules, self.values, self.order, found.precision, noise)

        exprs = {name: self.specs[name].expr for name in self.known}
        return Judge(evaluation(None), [evaluation(seed) for seed in range(DRAWS)], exprs)

    def own(self, name: str) -> tuple[Array, tuple[int, ...] | None] | None:
        """What the dump has of an event, and the positions of its rows; None where it has nothing."""
        if name in self.values:
            return self.values[name], None
        fitted = self.partial.get(name)
        return None if fitted is None else (fitted.array, fitted.positions)

    def operations(self, found: Found) -> list[OperationResult]:
        """Every event that the dump has, in order of computation."""
        judge, results = self.judge(found), list[OperationResult]()
        for name in self.known:
            own = self.own(name)
            if own is not None:
                results.append(judge.judge(name, *own))
            layer = layer_of(name)
            if layer is not None:
                judge.plain.forget_before(layer)
                for noisy in judge.noisy:
                    noisy.forget_before(layer)
        return results

    def case(self, judge: Judge, operation: OperationResult) -> Case:
        own = self.own(operation.name)
        assert own is not None
        assert operation.error is not None
        expected = judge.plain.output(operation.name, own[1])
        return Case(operation.name, own[0], expected, own[1], judge, operation.error)

    def explain(self, found: Found, operations: Sequence[OperationResult]) -> tuple[list[Finding], list[str]]:
        """What explains the first wrong operation, and what was tried."""
        wrong = [operation for operation in operations if not operation.holds]
        if not wrong:
            return [], []
        case = self.case(self.judge(found), wrong[0])
        outcomes, tried = try_all(case, STAGES)
        others: dict[str, Callable[[], Case]] = {
            operation.name: bind(self._case_of, found, operation) for operation in wrong[1:]
        }
        return findings_of(case, outcomes, others, STAGES), tried

    def _case_of(self, found: Found, operation: OperationResult) -> Case:
        return self.case(self.judge(found), operation)

    def untested(self, operations: Sequence[OperationResult]) -> Iterator[tuple[str, str]]:
        """The model's events that were not judged, and what the dump has beyond them."""
        judged = {operation.name: operation for operation in operations}
        for name in self.known:
            if name not in judged and not self.specs[name].extra:
                yield name, "the dump does not have it"
            elif name in judged and judged[name].error is None:
                yield name, judged[name].nonfinite
        for name in (*self.values, *self.partial):
            if name not in self.order:
                yield name, "no event of a forward pass of this model"


def _eight_bit_inputs(operations: Sequence[OperationResult]) -> bool:
    """Whether the products err as those of 8-bit blocks do, nearly all of them, and little else does."""
    products = [o for o in operations if kind_of(o.name) in PRODUCTS and o.error is not None]
    others = [o for o in operations if kind_of(o.name) not in PRODUCTS]
    q8 = PRECISIONS["q8"]
    return (
        len(products) > 1
        and sum(not o.holds for o in products) >= MOST_PRODUCTS * len(products)
        and all((o.error or 0) <= q8.product for o in products)
        and all(o.holds or (o.error or 0) <= q8.roundings * q8.unit for o in others)
    )


def _eight_bit(operations: Sequence[OperationResult]) -> Found:
    errors = [o.error or 0 for o in operations if kind_of(o.name) in PRODUCTS]
    apart = f"{min(errors):.1g} to {max(errors):.1g}"
    how = f"all {len(errors)} products err by {apart}, as with 8-bit inputs, and nothing else does"
    return Found(PRECISIONS["q8"], how)
