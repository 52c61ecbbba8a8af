"""`diagnose`: judge every operation of a dump by the dump's own inputs, and name the first mistake.

The arrays of a dump are loaded only when needed, and converted to the shapes of our events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial as bind
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..comparison.compared_runs import ModelRun, RecordedRun, Unpaired
from ..comparison.diff import compare
from ..comparison.pairing import labels_of, open_all, prepare_sides
from ..comparison.read_tokens import with_tokens
from ..dumps.recording import Recording
from ..errors import InputError
from ..models.language_model import LanguageModel
from ..naming.user_map import NameMap
from ..notebook import in_notebook
from ..rounding.bands import RoundedPasses, tolerance_of
from ..rounding.judging import OVER_THE_PASS, JudgedRun, OperationResult, Unseen, unseen
from ..rounding.offers import Offer, offered
from ..rounding.precision import NONE, Partial, Precision, precision_named, precision_of
from ..text.brief import one_line
from ..text.frozen import frozen
from ..text.json_writing import in_document
from ..text.wording import abridged
from .case import ONE_PASS, Case, Generator, OtherRun, PassSchedule
from .faults import (
    attention_faults,
    elementwise_faults,
    expert_faults,
    input_faults,
    norm_faults,
    position_faults,
    rank_faults,
    rope_faults,
    schedule_faults,
    sharing_faults,
    weight_faults,
    wrong_values,
)
from .finding import Finding, findings_of, try_all

Explanation = tuple[list[Finding], list[str]]

# Simple mistakes. Then matrices, decoded wrongly or from another layer. Then descriptions of wrong values.
STAGES: tuple[tuple[Generator, ...], ...] = (
    (
        wrong_values.nonfinite, wrong_values.zeros, input_faults.embedding, input_faults.positions,
        schedule_faults.positions, schedule_faults.keys_and_values, schedule_faults.padding,
        schedule_faults.other_texts, rank_faults.sums, weight_faults.biases, rope_faults.rope,
        rope_faults.rope_in_every_layer, attention_faults.scale, attention_faults.scores_before_rope,
        attention_faults.grouping, attention_faults.mask, attention_faults.softmax,
        attention_faults.context, position_faults.query_factors, position_faults.slopes,
        elementwise_faults.factors, elementwise_faults.caps,
        attention_faults.late_cap, elementwise_faults.clips, elementwise_faults.steepness,
        expert_faults.choices, expert_faults.shares, expert_faults.orders, expert_faults.router_orders,
        wrong_values.numbers, norm_faults.norms, norm_faults.numbers, norm_faults.skipped_norms,
        norm_faults.other_streams, elementwise_faults.activations, elementwise_faults.gates,
        elementwise_faults.sums, sharing_faults.keys_and_values, sharing_faults.parts,
        sharing_faults.scaled_streams, weight_faults.matrices,
    ),
    (weight_faults.quants, weight_faults.layers),
    (
        rope_faults.frequencies, wrong_values.whole, wrong_values.heads, wrong_values.places,
        rank_faults.one_rank,
    ),
)  # fmt: skip


@frozen(slots=False)
class Diagnosis:
    """The result of judging every operation of a dump, with an explanation of the first wrong operation.

    `compute` is the precision of the engine, and `compute_how` names the source of this precision. If there
    is an `offer` of another precision, `first_wrong` is None, and `findings` are only about tokens.
    `untested` lists the events that could not be judged completely, with the reason. `of` is the number of
    operations of a pass. `tried` lists the ids of the hypotheses that were tested on `first_wrong`.
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

    def __repr__(self) -> str:
        about = {"clean": self.clean, "first_wrong": self.first_wrong, "judged": self.judged, "of": self.of}
        return one_line(self, **about, claims=[finding.claim for finding in self.findings])

    @property
    @in_document
    def clean(self) -> bool:
        """True if no judged operation is wrong, and no token differs from the tokens of a given text."""
        return not self.wrong and not self.findings

    @property
    def judged(self) -> int:
        """The number of operations with at least one judged row."""
        return sum(operation.error is not None for operation in self.operations)

    @property
    def wrong(self) -> tuple[OperationResult, ...]:
        """The operations whose values differ from the values computed from their inputs."""
        return tuple(operation for operation in self.operations if not operation.holds)


def diagnose_values(
    model: LanguageModel, tokens: Sequence[int], values: Mapping[str, Array], partial: Partial = NONE, *,
    compute: str | None = None, text_tokens: Sequence[int] | None = None,
    schedule: PassSchedule = ONE_PASS,
) -> Diagnosis:  # fmt: skip
    """Judge every event of a dump by the dump's own inputs.

    `values` are the dump's arrays at all positions, in the shapes of our events. `partial` contains arrays at
    only some positions. Where later events read other positions, these are recomputed. `compute` ("f32",
    "bf16", "f16", "q8") is the precision of the engine. If `compute` is None, the precision is inferred from
    the values. `text_tokens` are the tokens of the dump's text, by the model's tokenizer. `schedule`
    describes the passes of the dump. Raises InputError if `compute` is unknown, or if no operation can be
    judged.
    """
    run = _Diagnoser(model, tokens, values, partial)
    with one_blas_thread(), np.errstate(all="ignore"):
        precision, how = precision_of(compute, run.values, partial)
        operations = list(run.operations(precision))
        if not operations:
            raise InputError("no operation can be judged: the dump has no event of a pass over these tokens")
        if all(operation.error is None for operation in operations):
            raise InputError("no operation can be judged: all operations have NaN or infinite inputs")
        wrong = [operation for operation in operations if not operation.holds]
        known = compute is not None or precision.name != "f32"
        offer = None if known else offered(run, operations)
        findings, tried = ([], []) if offer and offer.shown else run.explain(precision, wrong, schedule)
        if any(finding.explains for finding in findings):
            offer = None  # report the fault instead: rounding in several products can explain every error
        elif offer:
            findings, tried = [], []
    about_tokens = input_faults.token_findings(model, tokens, text_tokens, schedule.starts)
    return Diagnosis(
        tuple(int(token) for token in tokens), precision.name, run.how(precision, how, operations),
        tuple(operations), (*about_tokens, *findings),
        wrong[0].name if wrong and not offer else None, tuple(run.untested(operations)), tuple(tried),
        run.count(operations), offer, unseen(operations, precision),
    )  # fmt: skip


class _Diagnoser(JudgedRun):
    """The judged operations of a dump, with methods that explain the first wrong operation."""

    def how(self, precision: Precision, how: str, operations: Sequence[OperationResult]) -> str:
        """Describe where the precision comes from, and how the inputs of products are rounded."""
        rows = [self.plan[operation.name] for operation in operations]
        ways = self.rounding.describe(rows) if precision.into_products else ""
        return f"{how}; the inputs of products are {ways}" if ways else how

    def case(self, precision: Precision, operation: OperationResult, schedule: PassSchedule) -> Case:
        judge, own = self.judge(precision), self.own(operation.name)
        assert own is not None
        assert operation.error is not None
        expected = judge.plain.output(operation.name, own[1])
        about = operation.error, operation.measured, schedule
        return rank_faults.of_rank(Case(operation.name, own[0], expected, own[1], judge, *about))

    def explain(
        self, precision: Precision, wrong: Sequence[OperationResult], schedule: PassSchedule
    ) -> Explanation:  # fmt: skip
        """Return the findings about the first wrong operation, and the ids of the tested hypotheses."""
        if not wrong:
            return [], []
        case = self.case(precision, wrong[0], schedule)
        outcomes, tried = try_all(case, STAGES)
        others = {own.name: bind(self.case, precision, own, schedule) for own in wrong[1:]}
        return findings_of(case, outcomes, others, STAGES), tried

    def count(self, operations: Sequence[OperationResult]) -> int:
        """Count the operations of a pass. Extra operations count only if the dump contains their values."""
        own = {operation.name for operation in operations}
        return sum(name in own or not self.plan[name].extra for name in self.names)

    def untested(self, operations: Sequence[OperationResult]) -> Iterator[tuple[str, str]]:
        """Yield each event of the model or the dump that was not judged completely, with the reason."""
        judged = {operation.name: operation for operation in operations}
        for name in self.names:
            if name not in judged and not self.plan[name].extra:
                yield name, "the dump does not contain this event"
            elif name in judged and judged[name].error is None:
                yield name, judged[name].nonfinite
            elif name in judged and judged[name].unjudged:
                elements = f"{judged[name].unjudged:,} of {judged[name].count:,} elements"
                yield name, f"{elements}: the values computed from the inputs are not finite"
            if ties := judged[name].ties if name in judged else ():
                at = f"position{'s' * (len(ties) > 1)} {abridged([*map(str, ties)])}"
                yield name, f"rounding decides between two experts (a near tie) at {at}"
            if name in judged and name in self.partial:
                count = len(self.partial[name][1] or ())
                yield name, f"the dump contains only {count:,} of {len(self.given.tokens):,} positions"
        for name in (*self.values, *self.partial):
            if name not in self.names:
                yield name, "not an event of this model's forward pass"


@frozen
class DumpFacts:
    """The origin, kind and notes of a dump."""

    origin: str
    kind: str
    notes: tuple[str, ...]


@frozen(slots=False, kw_only=True)
class DiagnosisDocument(Diagnosis):
    """The JSON document of a diagnosis, with facts about the dump and the model."""

    SCHEMA = "microgpt.diagnosis/1"

    dump: DumpFacts
    model: str
    unpaired: tuple[Unpaired, ...]


class DumpDiagnosis(NamedTuple):
    """A diagnosis with the dump, the origin of the model and the texts of the tokens."""

    diagnosis: Diagnosis
    dump: RecordedRun
    labels: tuple[str, ...]
    model: str

    @property
    def document(self) -> DiagnosisDocument:
        dump = self.dump
        facts, unpaired = DumpFacts(dump.origin, dump.kind, tuple(dump.notes)), tuple(dump.unpaired)
        return DiagnosisDocument(**vars(self.diagnosis), dump=facts, model=self.model, unpaired=unpaired)

    def __repr__(self) -> str:
        return one_line(self, dump=self.dump.origin, model=self.model, wrong=self.diagnosis.first_wrong)

    def _repr_html_(self) -> str:
        return in_notebook(self)


def diagnose(
    dump: str | Path | Recording, model: str | Path | LanguageModel, text: str | None = None, *,
    tokens: Sequence[int] | None = None, map: NameMap | None = None,
    layouts: Mapping[str, str] | None = None, compute: str | None = None,
) -> DumpDiagnosis:  # fmt: skip
    """Diagnose a dump, a recording or a path, as `microgpt diagnose` does.

    The tokens are the argument `tokens`, or else the tokens in the map, or else the tokens in the dump. If
    these sources lack tokens, the tokens are found by the embedding in the dump. If there is also a `text`,
    the diagnosis reports where the text's tokens differ. `map`, `layouts` and `compute` have the same meaning
    as in `diff`. Raises InputError if the dump has no value of an event of the model.
    """
    opened_dump, opened_model = open_all([dump, model], map)
    if not isinstance(opened_dump, Recording) or isinstance(opened_model, Recording):
        raise InputError(
            f"expected a dump, then a model, found {opened_dump.origin} and {opened_model.origin}"
        )
    opened_model = opened_model.alone()  # without hooks, because the engine has none
    sources = (tokens, map.tokens if map else None, opened_dump.tokens)
    known = next((own for own in sources if own is not None), None)
    expected = opened_model.read(text).tokens if text is not None else None
    if known is None:  # find the tokens by the embedding, only once
        opened_dump = with_tokens(opened_dump, opened_model, expected)
        known = opened_dump.tokens
    sides = [opened_dump, opened_model]
    dumped, ours = prepare_sides(sides, text if known is None else None, known, map, layouts or {})
    assert isinstance(dumped, RecordedRun)
    assert isinstance(ours, ModelRun)
    lacking = [name for name in dumped.names if name not in set(ours.names)]
    dumped.unpaired += [Unpaired(name, f"not in {ours.origin}") for name in lacking]
    if dumped.statistics:
        raise InputError(f"{dumped.origin} has only statistics: a diagnosis needs the values of operations")
    values, partial = dumped.whole_and_partial(ours.names)
    if not values and not partial:
        raise InputError(
            f"{dumped.origin} has no event of {ours.origin}; draft a map with `microgpt diff --suggest-map`"
        )
    schedule = replace(
        _schedule_of(dumped.recording, opened_model, map, layouts or {}), part=dumped.on_rank,
        ranks={name: own for name in ours.names if (own := dumped.ranks_of(name)) is not None},
    )  # fmt: skip
    diagnosis = diagnose_values(
        opened_model, ours.inputs.tokens, values, partial, compute=compute, text_tokens=expected,
        schedule=schedule,
    )  # fmt: skip
    if diagnosis.offer is None:
        diagnosis = _over_the_pass(diagnosis, dumped, ours)
    diagnosis = replace(diagnosis, findings=(*rank_faults.findings(schedule), *diagnosis.findings))
    return DumpDiagnosis(diagnosis, dumped, labels_of(ours.inputs), ours.origin)


def _schedule_of(
    dump: Recording, model: LanguageModel, names: NameMap | None, layouts: Mapping[str, str]
) -> PassSchedule:  # fmt: skip
    """Return what is known about the passes of a dump. Other texts of the batch are opened when needed."""
    texts = dump.texts
    if texts is None:
        return PassSchedule(dump.starts)

    def other(number: int) -> OtherRun:
        assert texts is not None
        assert dump.again is not None
        own = dump.again(model=model, text=number)
        recorded, ours = prepare_sides([own, model], None, own.tokens, names, layouts)
        assert isinstance(recorded, RecordedRun)
        run = JudgedRun(model, own.tokens or (), *recorded.whole_and_partial(ours.names))
        return OtherRun(run, np.array(texts.rows))

    padding = 0 if not texts.rows else 1 + texts.rows[-1] - len(texts.rows)
    others = {number: bind(other, number) for number in range(texts.count) if number != texts.chosen}
    return PassSchedule(dump.starts, padding, bind(other, texts.chosen) if padding else None, others)


def _over_the_pass(diagnosis: Diagnosis, dumped: RecordedRun, ours: ModelRun) -> Diagnosis:
    """Return the diagnosis with an earlier first wrong operation, if `diff` finds an earlier difference. Over
    a pass, small errors may add up to more than rounding explains, or the dump may lack a wrong event."""
    precision = precision_named(diagnosis.compute)
    passes = RoundedPasses(ours.model, ours.inputs, precision) if precision.coarse else None
    tolerance = tolerance_of(passes.compute, passes=passes.count) if passes else tolerance_of()
    try:
        with one_blas_thread(), np.errstate(all="ignore"):
            found = compare([ours, dumped], (), tolerance, passes, judge=False)
    except InputError:  # the dump and the model's pass have no finite element in common
        return diagnosis
    order = [own.name for own in diagnosis.operations]
    if found.first not in order:
        return diagnosis
    first = found.event(found.first)
    at = order.index(first.name)
    if diagnosis.first_wrong and order.index(diagnosis.first_wrong) <= at:
        return diagnosis
    before, own, after = diagnosis.operations[:at], diagnosis.operations[at], diagnosis.operations[at + 1 :]
    wrong = replace(own, holds=False, error=first.relative, tolerance=first.tolerance, measured=OVER_THE_PASS)
    return replace(diagnosis, operations=(*before, wrong, *after), first_wrong=first.name)
