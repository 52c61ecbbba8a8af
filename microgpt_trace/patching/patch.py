"""patch: put clean activations into a corrupted run, site by site. Reads no file and prints nothing.

The method comes from Vig et al., "Investigating Gender Bias in Language Models Using Causal Mediation
Analysis" (2020), and Meng et al., "Locating and Editing Factual Associations in GPT" (2022). The measure is
the logit difference (Wang et al., "Interpretability in the Wild", 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from functools import partial
from itertools import count
from typing import Literal, NamedTuple

import numpy as np

from ..arrays.logits import LogitDifference, best_tokens, softmax
from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..errors import InputError
from ..hooks.edits import Edit
from ..models.language_model import LanguageModel, TraceInput
from ..plans.plan import Plan, over_tokens
from ..progress import Report, unreported
from ..rounding.invariants import OF_SUMS
from ..selection.token_names import blank_notes, token_argument, token_label, token_of
from ..text.printable import shown_token
from ..tracing.findings import Check
from ..tracing.observers import Collector
from .attribution_patching import Estimates, default_points, largest_neurons, neurons_of, to_confirm
from .patch_results import Patched, PatchResult, PathPatched, Spot, Unpatched, confirmed_by
from .path_patching import Values, path_edits, paths_of
from .points import WHOLE, PatchPoint, point_of, points_of

Names = str | Sequence[str]  # a name or a glob, or several
Text = str | Sequence[int]  # a text, or its token ids
Token = str | int | None
Method = Literal["exact", "attribution"]
CONFIRM = 20  # the default number of estimates to confirm
NEURONS = 100  # the number of neurons in a result
CLAIM = "with the clean embedding at all positions the corrupted run equals the clean run"
MOST = 40  # tokens of a text that an error shows at most


class PatchOptions(NamedTuple):
    """The options of `patch`, without the texts."""

    sites: Sequence[str] | None = None
    target: Token = None
    against: Token = None
    position: int = -1
    method: Method = "exact"
    confirm: int = CONFIRM
    neurons: bool = False
    senders: tuple[str, ...] = ()
    receivers: tuple[str, ...] = ()


def patch(
    model: LanguageModel, clean: Text, corrupt: Text, *, sites: Sequence[str] | None = None,
    target: Token = None, against: Token = None, position: int = -1, method: Method = "exact",
    confirm: int | None = None, neurons: bool = False, sender: Names = (), receiver: Names = (),
    report: Report = unreported,
) -> PatchResult:  # fmt: skip
    """Put the clean run's activations into the corrupted run, one site at a time, and measure each effect.

    The effect of a site is the share that it restores of the logit difference, logit(target) -
    logit(against), at `position`. A share of 0 means the logit difference of the corrupted run, a share of 1
    the logit difference of the clean run.

    - `clean` and `corrupt` are texts, or lists of token ids, of the same number of tokens.
    - `sites` are names of events or parts, by default the residual stream. An event is patched position by
      position. A head is patched at all positions at once, and a part such as layer3.mlp.act@2:5 as a whole.
    - `target` and `against` are tokens, as texts or ids. The default tokens are the predictions of the clean
      and of the corrupted run at the position.
    - With the `method` "attribution", every effect is estimated from one gradient of the corrupted run, and
      the `confirm` sites with the largest estimates (by default 20) are also patched. By default the sites
      are the residual stream, the MLPs and the heads at each position. `neurons` adds the neurons with the
      largest estimates.
    - `sender` and `receiver` are names or globs: the receiver, such as "layer23.attn.head4.q", alone reads
      what the sender, such as "layer9.attn.head6" or "embed.tok@3", writes in the clean run. The module
      path_patching.py describes senders and receivers.
    - `report` is called with the number of layers done and the total.

    Raises InputError if an argument does not fit, or if hooks are subscribed, because patching runs without
    hooks.
    """
    if method == "exact" and (neurons or confirm is not None):
        raise InputError("confirm and neurons: need the method attribution")
    most = CONFIRM if confirm is None else confirm
    senders, receivers = ((name,) if isinstance(name, str) else tuple(name) for name in (sender, receiver))
    if bool(senders) != bool(receivers) or (senders and (sites is not None or method != "exact")):
        raise InputError("sender and receiver: a path needs both, no sites, and the method exact")
    options = PatchOptions(sites, target, against, position, method, most, neurons, senders, receivers)
    return patch_inputs(model, read_pair(model, clean, corrupt), options, report)


def read_pair(model: LanguageModel, clean: Text, corrupt: Text) -> tuple[TraceInput, TraceInput]:
    """Tokenize both texts. Raises InputError for texts with equal tokens or different numbers of tokens."""
    if len(model.hooks):
        raise InputError("patching runs without hooks: end the subscriptions to this model first")
    a, b = (
        model.read(text) if isinstance(text, str) else model.read(None, text) for text in (clean, corrupt)
    )
    if len(a.tokens) != len(b.tokens):
        raise InputError(
            f"the texts have {len(a.tokens):,} and {len(b.tokens):,} tokens and cannot be patched position "
            f"by position: {_labels(a)} | {_labels(b)}"
        )
    if a.tokens == b.tokens:
        raise InputError(f"both texts have the same tokens, {_labels(a)}: nothing to patch")
    return a, b


def _labels(inputs: TraceInput) -> str:
    labels = " ".join(map(shown_token, inputs.labels[:MOST]))
    return labels + " …" * (len(inputs.labels) > MOST)


@np.errstate(all="ignore")
def patch_inputs(
    model: LanguageModel, pair: tuple[TraceInput, TraceInput], options: PatchOptions, report: Report
) -> PatchResult:
    """Patch two tokenized texts as `patch` does."""
    length, position = len(pair[0].tokens), options.position
    if not -length <= position < length:
        raise InputError(f"position {position}: the texts have positions 0 to {length - 1}")
    row = position % length
    if pair[0].tokens[: row + 1] == pair[1].tokens[: row + 1]:
        raise InputError(f"position {row}: up to this position both texts have the same tokens")
    if options.method == "attribution":
        return _estimated(model, pair, options, row, report)
    model = model.for_many_passes()
    if options.senders:
        paths = paths_of(model, options.senders, options.receivers, length)
        spots = [(path.sender.spot, path.receiver) for path in paths]
        names = {path.sender.spot.name for path in paths}.union(*(path.route.frozen for path in paths))
        edits_of = partial(path_edits, model, pair[1], paths)
    else:
        points = points_of(model, options.sites, length)
        spots, names = [(point.spot, "") for point in points], {point.spot.name for point in points}
        edits_of = partial(_edits, points)
    recorded = [_recorded(model, inputs, names, row) for inputs in pair]
    measure = _measure(model, pair, np.stack([logits for logits, _ in recorded]), options, row)
    edits = edits_of(*(values for _, values in recorded))
    found, check = _patched(model, pair[1], edits, recorded[0][1], measure, report)
    cells = [measure.cell(*spot, own) for spot, own in zip(spots, found, strict=True)]
    return PatchResult(measure.contrast, *measure.runs, check, model.origin, tuple(cells))


def _estimated(
    model: LanguageModel, pair: tuple[TraceInput, TraceInput], options: PatchOptions, row: int, report: Report
) -> PatchResult:
    """Estimate the effect of every point, and patch the points with the largest estimates."""
    length = len(pair[0].tokens)
    if options.sites is None:
        points = default_points(model, model.plan.streams, length)
    else:
        head = {event.name for event in model.plan.head}  # computed at one position only
        points = [p for p in points_of(model, options.sites, length) if p.spot.name not in head]
        if not points:
            raise InputError(f"{' and '.join(options.sites)}: an estimate needs an event before the logits")
    inner = neurons_of(model.plan) if options.neurons else []
    estimates = Estimates(model, pair, points, inner, row)
    measure = _measure(model, pair, estimates.logits, options, row)
    estimates.differentiate(measure.contrast)
    neurons = largest_neurons(model, estimates, NEURONS) if options.neurons else []
    every = [*points, *neurons]
    effects = [estimates.of(point) for point in every]
    cells = [measure.cell(p.spot, "", measure.low + own) for p, own in zip(every, effects, strict=True)]
    chosen = to_confirm(model.plan, every, effects, options.confirm)
    best = [every[number] for number in chosen]
    names = {point.spot.name for point in best}
    clean, corrupt = (_recorded(model, inputs, names, row)[1] for inputs in pair)
    exact, check = _patched(model, pair[1], _edits(best, clean, corrupt), clean, measure, report)
    return PatchResult(
        measure.contrast, *measure.runs, check, model.origin, tuple(cells[: len(points)]), "attribution",
        tuple(
            confirmed_by(cells[number], measure.restored(own), check.tolerance)
            for number, own in zip(chosen, exact, strict=True)
        ),
        tuple(cells[len(points) :]), sum(estimates.effects[name].size for name in inner),
    )  # fmt: skip


class Measure(NamedTuple):
    """The logit difference to measure, in the clean and in the corrupted run. `noise` is the change that
    rounding alone may cause."""

    contrast: LogitDifference
    runs: tuple[Unpatched, Unpatched]
    noise: float

    @property
    def low(self) -> float:
        """The logit difference of the corrupted run."""
        return self.runs[1].difference

    @property
    def span(self) -> float:
        """The difference between the runs, which patching can restore."""
        return self.runs[0].difference - self.low

    def restored(self, difference: float) -> float:
        """Return the share that a run with this logit difference restores."""
        return (difference - self.low) / self.span

    def cell(self, spot: Spot, receiver: str, difference: float) -> Patched:
        values = (*spot.place, self.restored(difference), difference)
        return PathPatched(*values, receiver) if receiver else Patched(*values)


def _measure(
    model: LanguageModel, pair: tuple[TraceInput, TraceInput], logits: Array, options: PatchOptions, row: int
) -> Measure:
    """Return the logit difference of both runs, from their logits [2, V]. Raises InputError if the runs do
    not differ."""
    named = options.target, options.against
    contrast = _contrast(model, pair[0], row, logits, *named)
    clean, corrupt = (_unpatched(model, *run, contrast) for run in zip(pair, logits, named, strict=True))
    what = f"logit({contrast.target_label}) - logit({contrast.against_label}) at position {row}"
    for which, run in (("clean", clean), ("corrupted", corrupt)):
        if not math.isfinite(run.difference):
            raise InputError(f"{what} is {run.difference} in the {which} run: nothing to compare")
    noise = _noise(logits)
    if not abs(clean.difference - corrupt.difference) > noise:
        raise InputError(f"{what} is {clean.difference:.6g} in both runs: nothing to explain")
    return Measure(contrast, (clean, corrupt), noise)


def _edits(points: Sequence[PatchPoint], clean: Values, corrupt: Values) -> list[Edit | None]:
    """Return the edit that puts the clean value in each point, or None if both runs are equal there."""
    named = [(point.spot.name, point) for point in points]
    return [None if p.same(clean[n], corrupt[n]) else Edit(n, p.change(clean[n])) for n, p in named]


def _patched(
    model: LanguageModel, corrupt: TraceInput, edits: Sequence[Edit | None], clean: Values, measure: Measure,
    report: Report,
) -> tuple[list[float], Check]:  # fmt: skip
    """Return the logit difference of the corrupted run under each edit, and the check that patching
    everything restores the clean run. An edit that is None changes nothing and is not run."""
    first, *others = (  # the check patches everything that layers read of the embeddings
        Edit(name, point_of(model.plan, name, WHOLE).change(clean[name])) for name in _entering(model.plan)
    )
    changing = [first._replace(also=tuple(others)), *filter(None, edits)]
    differences = {
        number: measure.contrast.difference(edited[0])
        for number, edited in model.edited_logits(corrupt, changing, [measure.contrast.position], report)
    }
    deviation = abs(measure.restored(differences[0]) - 1)
    tolerance = measure.noise / abs(measure.span)
    number = count(1)
    found = [measure.low if edit is None else differences[next(number)] for edit in edits]
    return found, Check("embedding", CLAIM, deviation <= tolerance, deviation, tolerance)


def _entering(plan: Plan) -> list[str]:
    """Return the events before the first layer that layers read."""
    return [plan.streams[0], *(row.name for row in plan.before if row.name in plan.lasting)]


def _noise(logits: Array) -> float:
    """Return how far rounding may move a logit."""
    return OF_SUMS[str(logits.dtype)] * float(np.abs(logits[np.isfinite(logits)]).max(initial=0))


def _recorded(
    model: LanguageModel, inputs: TraceInput, events: Set[str], row: int
) -> tuple[Array, dict[str, Array]]:
    """Run without hooks, and return the logits [V] at position `row`, and the values of the events and of the
    embeddings that layers read."""
    names = sorted({*_entering(model.plan), *events})
    collector, bus = Collector(names), model.hooks.alone()
    tap = bus.begin(after=[bus.subscription(collector, *names)]).tap("forward")
    rows = range(len(inputs.tokens)) if any(map(over_tokens, names)) else [row]
    with one_blas_thread(), np.errstate(all="ignore"):
        logits = model.logits(inputs, rows, tap)
    return logits[rows.index(row)], {name: value for (_, name), value in collector.arrays.items()}


def _contrast(
    model: LanguageModel, clean: TraceInput, row: int, logits: Array, target: Token, against: Token
) -> LogitDifference:
    """Return the two tokens of the logit difference. The defaults are the predictions of the two runs."""
    ids = []
    for which, token, own in zip(("clean", "corrupted"), (target, against), logits, strict=True):
        if token is None and not np.isfinite(own).all():
            raise InputError(f"the {which} run's logits at position {row} are not finite: name the tokens")
        ids.append(best_tokens(own, 1)[0] if token is None else token_of(model, token))
    labels = [token_label(model, token, target=True) for token in ids]
    if ids[0] == ids[1]:
        raise InputError(_same_token(model, row, logits, labels[0], target, against))
    return LogitDifference(row, clean.labels[row], ids[0], labels[0], ids[1], labels[1])


def _same_token(
    model: LanguageModel, row: int, logits: Array, label: str, target: Token, against: Token
) -> str:
    """Explain why target and against are the same token, and list tokens whose probabilities change most."""
    if target is not None and against is not None:
        return f"--target and --against are both {label}"
    if not np.ptp(np.subtract(*logits)) > _noise(logits):  # rounding alone, or NaN
        same = "differ by rounding alone" if np.isfinite(logits).all() else "are not finite"
        return f"position {row}: the logits of the two runs {same}, so there is nothing to explain"
    moved = np.subtract(*softmax(logits).astype(np.float64))
    moved[[token_of(model, token) for token in (target, against) if token is not None]] = np.nan
    best = [("--target", target, np.nanargmax(moved)), ("--against", against, np.nanargmin(moved))]
    others = [f"{option} {token_argument(model, int(token))}" for option, own, token in best if own is None]
    return (
        f"target and against are both {label} at position {row}: name another token. The probability changes "
        f"most between the runs for {' '.join(others)}"
    )


def _unpatched(
    model: LanguageModel, inputs: TraceInput, logits: Array, named: Token, contrast: LogitDifference
) -> Unpatched:
    """Describe a run at the position, with notes about the token `named` by the user for this run."""
    probs = softmax(logits)
    notes = (*inputs.notes, *blank_notes(model, named, [probs.item]))
    return Unpatched(
        inputs.text, inputs.tokens, inputs.labels, notes, contrast.difference(logits),
        float(probs[contrast.target]), float(probs[contrast.against]),
    )  # fmt: skip
