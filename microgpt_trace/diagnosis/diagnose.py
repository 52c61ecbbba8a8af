"""diagnose: judge every operation of another run's dump by its own inputs, and name the first mistake. A
dump's arrays are laid out as our events, and loaded when asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial as bind
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..architecture.model import LanguageModel
from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..comparison.compared_runs import ModelRun, RecordedRun, Unpaired
from ..comparison.diff import compare
from ..comparison.pairing import labels_of, open_all, prepare_sides
from ..comparison.read_tokens import with_tokens
from ..dumps.recording import Recording
from ..errors import InputError
from ..notebook import in_notebook
from ..rounding.bands import RoundedPasses, tolerance_of
from ..rounding.judging import OVER_THE_PASS, JudgedRun, OperationResult, Partial, Unseen, unseen
from ..rounding.precision import PRECISIONS, Found, precision_named, precision_of
from ..text.brief import frozen, one_line
from ..text.json_writing import in_document
from .case import Case, Generator
from .faults import attention, layers, norms, output, rope
from .faults import input as entrance
from .faults import weights as matrices
from .finding import Finding, findings_of, try_all

if TYPE_CHECKING:
    from ..dumps.mapping import NameMap

NONE: Partial = MappingProxyType({})
MOST_PRODUCTS = 0.8  # of them err where an engine rounds what goes into them
EXPLAINED = 0.5  # of the error is left by a precision that is offered; others leave all of it, or more

# What is cheap and simple, what reads other layers' weights, what only describes the output.
STAGES: tuple[tuple[Generator, ...], ...] = (
    (
        output.nonfinite, output.zeros, entrance.embedding, entrance.positions, matrices.biases, rope.rope,
        attention.scale, attention.unturned, attention.grouping, attention.mask, attention.softmax,
        attention.context, output.numbers, norms.norms, norms.numbers, norms.skipped_norms,
        layers.activations, layers.gates, layers.sums,
        matrices.matrices,
    ),
    (matrices.quants, matrices.layers),
    (rope.frequencies, output.whole, output.heads, output.places),
)  # fmt: skip


@dataclass(frozen=True)
class Offer:
    """A precision that nobody asked for and that the errors look like: `looks_like` in words.

    Judged by it, `explains` of the `wrong` operations that a product has part in are right, and lose half of
    their error or more where the dump has what goes into the product. It is `shown` where there are such.
    """

    compute: str
    looks_like: str
    explains: int
    wrong: int
    shown: bool = True


@frozen(slots=False)
class Diagnosis:
    """Every operation of a dump, and what explains the first one that is wrong.

    `compute` is the precision that the engine was judged by and `compute_how` how that is known. With an
    `offer` of another one no fault is named: `first_wrong` is None, and `findings` are about tokens alone.
    `untested` are events that could not be judged, or not in all rows, with the reason; a pass has `of`
    operations. `tried` are the ids of the hypotheses that were tried for `first_wrong`.
    """

    tokens: tuple[int, ...]
    compute: str
    compute_how: str
    operations: tuple[OperationResult, ...]
    findings: tuple[Finding, ...]
    first_wrong: str | None
    untested: tuple[tuple[str, str], ...]
    tried: tuple[str, ...]
    of: int
    offer: Offer | None = None
    unseen: Unseen | None = None

    @property
    @in_document
    def clean(self) -> bool:
        """No operation that was judged is wrong, and the tokens are those of the text where one is known."""
        return not self.wrong and not self.findings

    @property
    def judged(self) -> int:
        """How many operations could be judged, at least in some rows."""
        return sum(operation.error is not None for operation in self.operations)

    @property
    def wrong(self) -> tuple[OperationResult, ...]:
        """The operations that do not follow from their own inputs."""
        return tuple(operation for operation in self.operations if not operation.holds)


def diagnose_values(
    model: LanguageModel,
    tokens: Sequence[int],
    values: Mapping[str, Array],
    partial: Partial = NONE,
    *,
    compute: str | None = None,
    text_tokens: Sequence[int] | None = None,
) -> Diagnosis:
    """Judge every event of a dump by what follows from the dump's own inputs of it.

    `values` are the dump's arrays in the shapes of our events, all positions; `partial` those of some
    positions, which can be judged but not built upon. `compute` ("f32", "bf16", "f16", "q8") is the
    precision of the engine, found out from the values where it is None; `text_tokens` are what the
    dump's text gives by the model's tokenizer. Raises InputError for another `compute`, and where no
    input of any operation is finite.
    """
    run = _Diagnosing(model, tokens, values, partial)
    with one_blas_thread(), np.errstate(all="ignore"):
        found = precision_of(compute, run.values)
        operations = list(run.operations(found.precision))
        if not operations:
            raise InputError("nothing can be judged: the dump has no event of a pass over these tokens")
        if all(operation.error is None for operation in operations):
            raise InputError("nothing can be judged: no input of an operation that the dump has is finite")
        asked = compute is not None or found.precision.name != "f32"
        offer = None if asked else run.offer(operations)
        findings, tried = ([], []) if offer and offer.shown else run.explain(found, operations)
        if any(finding.explains for finding in findings):
            offer = None  # roundings over many products could bring any error of that size
        elif offer:
            findings, tried = [], []
    wrong = [operation.name for operation in operations if not operation.holds]
    return Diagnosis(
        tuple(int(token) for token in tokens),
        found.precision.name,
        run.how(found, operations),
        tuple(operations),
        (*entrance.token_findings(model, tokens, text_tokens), *findings),
        wrong[0] if wrong and not offer else None,
        tuple(run.untested(operations)),
        tuple(tried),
        run.count(operations),
        offer,
        unseen(operations, found.precision),
    )


class _Diagnosing(JudgedRun):
    """A dump of which the first wrong operation is explained."""

    def how(self, found: Found, operations: Sequence[OperationResult]) -> str:
        """How the precision is known, and in what its products are."""
        rows = [self.plan[operation.name] for operation in operations]
        ways = self.rounding.told(rows) if found.precision.into_products else ""
        return f"{found.how}; the products' inputs are {ways}" if ways else found.how

    def offer(self, operations: Sequence[OperationResult]) -> Offer | None:
        """A precision whose roundings of these very inputs explain most of the errors, if there is one."""
        products = {o.name: self.products(o.name) for o in operations if o.error is not None}
        errors = {o.name: o.error or 0 for o in operations if not o.holds and products.get(o.name)}
        judged = sum(bool(own) for own in products.values())
        if not errors or len(errors) < MOST_PRODUCTS * judged:
            return None
        right = {o.name: o.error or 0 for o in self.operations(PRECISIONS["q8"]) if o.holds}
        shown = [n for n in errors if n in right and right[n] <= EXPLAINED * errors[n]]
        explained = [n for n in errors if n in shown or (n in right and len(products[n]) > 1)]
        if len(explained) < MOST_PRODUCTS * len(errors):
            return None
        ways = Counter(self.rounding.way(own) for name in explained for own in products[name][-1:])
        way = ways.most_common(1)[0][0]
        return Offer(way.compute, f"rounding of {way.inputs}", len(explained), len(errors), bool(shown))

    def case(self, found: Found, operation: OperationResult) -> Case:
        judge, own = self.judge(found.precision), self.own(operation.name)
        assert own is not None
        assert operation.error is not None
        expected = judge.plain.output(operation.name, own[1])
        return Case(operation.name, own[0], expected, own[1], judge, operation.error, operation.measured)

    def explain(self, found: Found, operations: Sequence[OperationResult]) -> tuple[list[Finding], list[str]]:
        """What explains the first wrong operation, and what was tried."""
        wrong = [operation for operation in operations if not operation.holds]
        if not wrong:
            return [], []
        case = self.case(found, wrong[0])
        outcomes, tried = try_all(case, STAGES)
        others = {own.name: bind(self.case, found, own) for own in wrong[1:]}
        return findings_of(case, outcomes, others, STAGES), tried

    def count(self, operations: Sequence[OperationResult]) -> int:
        """How many operations a pass has, with those that cost extra where the dump has them."""
        own = {operation.name for operation in operations}
        return sum(name in own or not self.plan[name].extra for name in self.known)

    def untested(self, operations: Sequence[OperationResult]) -> Iterator[tuple[str, str]]:
        """The model's events that were not judged, and what the dump has beyond them."""
        judged = {operation.name: operation for operation in operations}
        for name in self.known:
            if name not in judged and not self.plan[name].extra:
                yield name, "the dump does not have it"
            elif name in judged and judged[name].error is None:
                yield name, judged[name].nonfinite
            elif name in judged and judged[name].unjudged:
                some = f"{judged[name].unjudged:,} of {judged[name].count:,} elements"
                yield name, f"{some}, for which nothing finite follows from the inputs"
            if name in judged and name in self.partial:
                here = len(self.partial[name][1] or ())
                yield name, f"all but the {here:,} of {len(self.given.tokens):,} positions that the dump has"
        for name in (*self.values, *self.partial):
            if name not in self.known:
                yield name, "no event of a forward pass of this model"


@frozen
class DumpFacts:
    """Where a dump comes from."""

    origin: str
    kind: str
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, repr=False)
class DiagnosisDocument(Diagnosis):
    """A diagnosis, with what was diagnosed."""

    SCHEMA = "microgpt.diagnosis/1"

    dump: DumpFacts
    model: str
    unpaired: tuple[Unpaired, ...]


class DumpDiagnosis(NamedTuple):
    """A diagnosis with what it was made of: the dump's side and what the model calls its tokens."""

    diagnosis: Diagnosis
    dump: RecordedRun
    labels: tuple[str, ...]
    model: str

    @property
    def document(self) -> DiagnosisDocument:
        """What its JSON document has."""
        dump = self.dump
        facts, unpaired = DumpFacts(dump.origin, dump.kind, tuple(dump.notes)), tuple(dump.unpaired)
        return DiagnosisDocument(**vars(self.diagnosis), dump=facts, model=self.model, unpaired=unpaired)

    def __repr__(self) -> str:
        return one_line(self)

    def _repr_html_(self) -> str:
        return in_notebook(self)


def diagnose(
    dump: str | Path | Recording,
    model: str | Path | LanguageModel,
    text: str | None = None,
    *,
    tokens: Sequence[int] | None = None,
    map: NameMap | None = None,
    layouts: Mapping[str, str] | None = None,
    compute: str | None = None,
) -> DumpDiagnosis:
    """Diagnose a recording, or one under a path, as `microgpt diagnose` does.

    The tokens are those given, those that the dump says, or those whose embedding it holds; a text
    beside them is what they should have been. Raises InputError where the dump holds no values, or none
    that has an event.
    """
    opened_dump, opened_model = open_all([dump, model], map)
    if not isinstance(opened_dump, Recording) or isinstance(opened_model, Recording):
        raise InputError(
            f"expected a dump, then a model, found {opened_dump.origin} and {opened_model.origin}"
        )
    opened_model = opened_model.alone()  # what the engine should compute, whatever hooks do
    said = (tokens, map.tokens if map else None, opened_dump.tokens)
    known = next((own for own in said if own is not None), None)
    expected = opened_model.read(text).tokens if text is not None else None
    if known is None:  # the embedding tells, looked up once
        opened_dump = with_tokens(opened_dump, opened_model, expected)
        known = opened_dump.tokens
    sides = [opened_dump, opened_model]
    dumped, ours = prepare_sides(sides, text if known is None else None, known, map, layouts or {})
    assert isinstance(dumped, RecordedRun)
    assert isinstance(ours, ModelRun)
    names = [name for name in ours.names if name in set(dumped.names)]
    lacking = [name for name in dumped.names if name not in set(ours.names)]
    dumped.unpaired += [Unpaired(name, f"not in {ours.origin}") for name in lacking]
    if dumped.statistics:
        raise InputError(f"{dumped.origin} holds statistics alone: what an operation gives needs its values")
    if not names:
        raise InputError(
            f"{dumped.origin} has no event of {ours.origin}; `microgpt diff --suggest-map` drafts a map"
        )
    values, partial = dumped.whole_and_partial(names)
    found = diagnose_values(
        opened_model, ours.inputs.tokens, values, partial, compute=compute, text_tokens=expected
    )
    if found.offer is None:
        found = _over_the_pass(found, dumped, ours)
    return DumpDiagnosis(found, dumped, labels_of(ours.inputs), ours.origin)


def _over_the_pass(found: Diagnosis, dumped: RecordedRun, ours: ModelRun) -> Diagnosis:
    """Return the diagnosis, with an earlier first wrong operation where `diff` sees one. Errors that are
    small in each operation, or that the gaps of a dump hide, may add up to more than roundings pass on."""
    precision = precision_named(found.compute)
    passes = RoundedPasses(ours.model, ours.inputs, precision) if precision.coarse else None
    tolerance = tolerance_of(passes.compute, draws=passes.count) if passes else tolerance_of()
    try:
        with one_blas_thread(), np.errstate(all="ignore"):
            events = compare([ours, dumped], (), tolerance, passes, judge=False).events
    except InputError:  # no value of both is finite
        return found
    order = [own.name for own in found.operations]
    first = next((event for event in events if not event.holds and event.name in order), None)
    if first is None:
        return found
    at = order.index(first.name)
    if found.first_wrong and order.index(found.first_wrong) <= at:
        return found
    own, error, limit = found.operations[at], first.relative, first.tolerance
    wrong = replace(own, holds=False, error=error, tolerance=limit, measured=OVER_THE_PASS)
    operations = (*found.operations[:at], wrong, *found.operations[at + 1 :])
    return replace(found, operations=operations, first_wrong=first.name)
