"""Check the weights of an export, tensor by tensor: what is missing, misplaced, changed or rounded too far.

The folder weights finds how two tensors are related. Each wrong tensor is accused of the first relation that
explains the tensor, and only of this relation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..arrays.encodings import StoredTensor
from ..grouping import grouped
from ..progress import Report, unreported
from ..text.printable import on_one_line
from ..text.wording import abridged, at_most
from ..weights.relations import Cause, ParameterPair, compared_parameters, paired
from ..weights.stored_rounding import EXACT, FACTOR, LIMIT, QuantisationDistance, Values, measure
from ..weights.used_bits import bits_of_type, narrowed, wasted_bits
from .certificate import CertificateCheck
from .opening import Side, check_of
from .vocabulary_checks import PADDING

_BY_VOCABULARY = ("wte", "lm_head")  # parameters with a row for each token
_MOST_RANK = 64  # ranks up to half of this are found
_UNRELATED = 0.9  # tensors with this relative L2 distance have nothing in common
_SHOWN = 3  # sentences of a check
_ADVICE: Mapping[str, str] = {
    "missing": "Convert again from the whole original.",
    "extra": "Convert again from this original, or remove what does not belong to it.",
    "permuted": "Convert again with a current converter, which orders these rows as the file format needs.",
    "transposed": "Write each matrix as [out, in], as the other matrices are written.",
    "swapped": "Correct the names of these tensors, or the order in which the converter joins them.",
    "scaled": "Store the numbers of the original, and convert again.",
    "damaged": "Copy or convert the file again, and compare its checksum.",
    "rounded": "Round or quantise again from the original, in one step and to the nearest numbers.",
    "other": "Check that the export was made from this original, with the same fine-tune merged in.",
}


class _Accusation(NamedTuple):
    """A sentence for a check. Without a `name` of a parameter, the model is the same nevertheless. `error` is
    the relative L2 distance of the parameter, and `allowed` is the distance that its type explains."""

    check: str
    text: str
    name: str = ""
    error: float = 0.0
    allowed: float = 0.0


def weight_checks(export: Side, original: Side, report: Report = unreported) -> list[CertificateCheck]:
    """Compare the tensors of an export with the tensors of its original.

    Only a few rows of a tensor are in memory at a time, except to find the cause of a difference.
    `report(done, of)` is called with the number of compared tensors and of all tensors. Returns the checks
    weights.missing, .extra, .permuted, .transposed, .swapped, .scaled, .damaged, .rounded and .other.
    """
    theirs, ours = ({n: Values.of(own) for n, own in side.tensors.items()} for side in (original, export))
    if original.unused_head is not None:
        theirs["lm_head, which its config ties to wte"] = Values.of(original.unused_head)
    needed = original.config.shapes() if original.config is not None else original.tensors
    names = [name for name in needed if name in ours and name in theirs]
    pairs = paired(theirs, ours, [*names, *["lm_head"] * ("lm_head" in ours and "lm_head" not in needed)])
    found = [*_on_one_side(export, original, needed)]
    found += [_padding(own, export, original) for own in pairs if _differ_in_rows(own)]
    pairs = [_without_padding(own) if _differ_in_rows(own) else own for own in pairs]
    dims = tuple(side.config.head_dim for side in (original, export) if side.config is not None)
    for pair in compared_parameters(pairs, theirs, dims, LIMIT, report=report):
        found += _accused(pair, export)
    named = {own.name for own in found}  # these tensors need no other sentence about why the file cannot run
    problems = [own for own in export.problems if not own.names or not named.issuperset(own.names)]
    left = replace(export, problems=tuple(problems))
    return [_check(check, [own for own in found if own.check == check], left) for check in _ADVICE]


def _on_one_side(export: Side, original: Side, needed: Iterable[str]) -> Iterator[_Accusation]:
    """Yield the parameters that only one side has. A head that equals the embedding may be left out."""
    tensors = original.tensors
    for name in (name for name in needed if name in tensors and name not in export.tensors):
        if name == "lm_head" and "wte" in tensors and _are_equal(tensors["wte"], tensors[name]):
            yield _Accusation("missing", "The export has no head, and the original's head equals wte.")
            continue
        tied = name == "lm_head" and export.unused_head is not None
        text = "the file has this tensor, but its config has tie_word_embeddings = true; set it to false"
        yield _Accusation("missing", text if tied else "the export lacks this tensor", name)
    for name in (name for name in export.tensors if name not in needed):
        if name == "lm_head" and "wte" in tensors:
            yield _Accusation("extra", "The export writes out its head. The original uses wte.")
        else:
            yield _Accusation("extra", "the original has no such tensor", name)


def _are_equal(a: StoredTensor, b: StoredTensor) -> bool:
    return a.shape == b.shape and measure(Values.of(a), Values.of(b)).holds(LIMIT)


def _differ_in_rows(pair: ParameterPair) -> bool:
    """Return True if both sides have rows of the same width for different numbers of tokens."""
    a, b = pair.a.shape, pair.b.shape
    return pair.name in _BY_VOCABULARY and a[1:] == b[1:] != () and a != b


def _without_padding(pair: ParameterPair) -> ParameterPair:
    """Return the pair with only the rows of the tokens that both sides have."""
    rows, both = min(pair.a.shape[0], pair.b.shape[0]), (pair.a, pair.b)
    a, b = (Values.of(own.tensor.of_rows(range(rows))) if own.tensor and rows else own for own in both)
    return pair._replace(a=a, b=b)


def _padding(pair: ParameterPair, export: Side, original: Side) -> _Accusation:
    """Return whether a token needs the rows that only one side has."""
    name, theirs, ours = pair.name, pair.a.shape[0], pair.b.shape[0]
    sides = (original, export) if ours < theirs else (export,)
    vocabulary = next((side.vocabulary for side in sides if side.vocabulary is not None), None)
    tokens = [] if vocabulary is None else list(vocabulary.tokens)
    while tokens and PADDING.fullmatch(tokens[-1]):
        tokens.pop()
    check = "missing" if ours < theirs else "extra"
    text = f"{theirs:,} rows in the original, {ours:,} in the export"
    if len(tokens) > min(theirs, ours):
        return _Accusation(check, f"{text}, and the vocabulary has {len(tokens):,} tokens", name)
    return _Accusation(check, f"{name} has {text}. No token needs the rows that only one side has.")


def _accused(pair: ParameterPair, export: Side) -> Iterator[_Accusation]:
    """Yield how a parameter of the export differs from the original's."""
    name, _, _, left, right, distance, is_allowed, cause = pair
    if distance is None:
        check = "transposed" if left.shape[::-1] == right.shape else "other"
        yield _Accusation(check, f"expected shape {list(left.shape)}, found {list(right.shape)}", name)
        return
    if distance.unequal == 0:
        return
    if not is_allowed:
        cause = cause or Cause("other", "")
    elif wasted := wasted_bits(right, distance):
        cause = Cause("coarse", "", str(bits_of_type(right.type) - wasted))
    if cause is not None and cause.kind != "rounded":
        yield _judged(name, cause, left, right, distance, export)
        return
    type = right.type if left.type in EXACT else f"{right.type} from {left.type}"
    if cause is not None and cause.other and (narrow := narrowed(right, cause.other)):
        type, distance = f"{type} through {cause.other}", measure(left, narrow)
    allowed = max(FACTOR * (distance.expected or 0.0), LIMIT)
    yield _Accusation("rounded", type, "", distance.relative_l2, allowed)


def _judged(
    name: str, cause: Cause, left: Values, right: Values, distance: QuantisationDistance, export: Side
) -> _Accusation:
    """Return the sentence about a parameter that differs by more than rounding explains."""
    error, text = distance.relative_l2, cause.told("the original", "the export")
    if cause.kind == "coarse":
        if cause.other:
            wide = right.type == "BF16" and cause.other == "8"  # BF16 has 8 bits, but no common step
            text = f"the numbers use only about {cause.other} bits{'' if wide else f' of {right.type}'}"
        return _Accusation("rounded", text, name, error)
    if cause.kind == "permuted" and cause.other:
        in_pairs = export.config is not None and export.config.adjacent_pairs
        text = "the rows were not reordered for RoPE, but this file needs adjacent pairs of rows"
        if cause.other == "B" or not in_pairs:
            text = "the rows were reordered for RoPE " + ("twice" if in_pairs else "without need")
    if cause.kind != "other" or text.startswith("expert") or (text and bits_of_type(right.type) <= 8):
        return _Accusation(cause.kind, text, name)
    text = "all numbers differ a little, as if one side was trained further"
    if bits_of_type(right.type) <= 8:
        text = f"{right.type} explains only a part, as if one side was trained further or had fewer bits"
    if error > _UNRELATED:
        text = "the numbers have nothing in common with the original"
    elif rank := _rank(left, right, distance):
        text = f"the difference has rank {rank}, as if a LoRA was merged into one side only"
    return _Accusation("other", text, name, error)


def _rank(left: Values, right: Values, distance: QuantisationDistance) -> int | None:
    """Return the rank of the difference of two matrices, or None if the rank is not low. The difference is
    multiplied with random vectors (Halko, Martinsson and Tropp, 2011), a few rows at a time."""
    count = min(_MOST_RANK, *left.shape)
    noise = 1.3 * (distance.expected or 0.0) ** 2 / distance.relative_l2**2 + 1e-9
    if len(left.shape) != 2 or noise > 0.5:
        return None
    vectors = np.random.default_rng(0).standard_normal((left.shape[1], count))
    gram, step = np.zeros((count, count)), max(1, (1 << 17) // left.shape[1])
    for start in range(0, left.shape[0], step):
        ours, theirs = (own.rows(start, min(start + step, left.shape[0])) for own in (right, left))
        sketch = (ours.astype(np.float64) - theirs) @ vectors
        gram += sketch.T @ sketch
    energies = np.linalg.eigvalsh(gram)[::-1]
    rank = 1 + int(np.argmax(1 - np.cumsum(energies) / energies.sum() <= noise))
    return rank if rank <= count // 2 else None


def _check(check: str, found: Sequence[_Accusation], export: Side) -> CertificateCheck:
    """Return a check, with the first sentences of what was found."""
    own, accused = f"weights.{check}", [one for one in found if one.name]
    problems = [problem for problem in export.problems if check_of(problem) == own]
    names = [*(name for problem in problems for name in problem.names), *(one.name for one in accused)]
    unknown = [on_one_line(name) for name in export.unknown if check == "extra"]
    sentences = [problem.text.rstrip(".") for problem in problems]
    sentences += [f"{abridged(unknown)}: the architecture has no such tensor"] * bool(unknown)
    for text, alike in grouped(accused, lambda one: one.text).items():
        most = max(one.error for one in alike)
        error = f" (difference: up to {at_most(most)} of the tensor's size)" * bool(most)
        stored = [f"{one.name}{_in_file(export.tensors.get(one.name))}" for one in alike]
        sentences.append(f"{abridged(stored)}: {text}{error}")
    if sentences:
        more = [f"{len(sentences) - _SHOWN:,} more sentences are left out"] * (len(sentences) > _SHOWN)
        detail = f"{'. '.join(sentences[:_SHOWN] + more)}. {_ADVICE[check]}"
        return CertificateCheck(own, "different", detail, tuple(dict.fromkeys(names)))
    if check != "rounded" or not found:
        return CertificateCheck(own, "same", " ".join(one.text for one in found[:_SHOWN]))
    parts = []
    for type, alike in grouped(found, lambda one: one.text).items():
        error, allowed = map(at_most, max((one.error, one.allowed) for one in alike))
        parts.append(f"{type}: at most {error} of each tensor's size, rounding explains up to {allowed}")
    return CertificateCheck(own, "rounded", f"{'; '.join(parts)}.")


def _in_file(tensor: StoredTensor | None) -> str:
    return "" if tensor is None else f" ({on_one_line(tensor.name)})"
