"""Compare the predictions of an export and its original over texts, position by position."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..architecture.edits import Report, unreported
from ..architecture.interpreter.logits_forward import final_of_pack
from ..architecture.interpreter.run import head_forward
from ..architecture.packs import UNKNOWN, Pack, ReadText, passes
from ..arrays.logits import in_parts, in_products, kl_divergence, log_softmax
from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..decoder.model import Decoder
from ..rounding.bands import PREDICTED, ROUNDING
from ..running.token_names import token_label
from ..text.printable import shown_token
from ..text.wording import counted, listed, number, percent
from .certificate import CertificateCheck, Status
from .opening import Side

IDS = ("predictions.kl", "predictions.top")
SEEN = 8  # tokens of a text that a sentence shows
CAUSES = ("settings.", "weights.", "vocabulary.size")  # checks whose differences change predictions
HARMLESS = ("settings.context_length",)  # changes no prediction of a text that both models can read


class ComparedPredictions(NamedTuple):
    """Two models' predictions of the token after each of N positions."""

    text: Array  # [N] the number of the text
    position: Array  # [N] the position in the text
    kl: Array  # [N] KL(original || export) in nats
    noise: Array  # [N] the largest KL that rounding in float32 explains
    top: Array  # [N, 2] the most probable token in the original and in the export


def prediction_checks(
    export: Side, original: Side, texts: Sequence[str | Sequence[int]], max_kl: float | None,
    before: Sequence[CertificateCheck], report: Report = unreported,
) -> list[CertificateCheck]:  # fmt: skip
    """Return the checks predictions.kl and predictions.top.

    KL(original || export) is measured in nats at every position. A text may also be a list of token ids. A
    mean KL above `max_kl` is "different". `before` are the earlier checks, which may explain why predictions
    differ. `report` receives the number of finished texts and of all texts.

    Raises InputError if a token id does not fit the original.
    """
    reason, reads, left = why_not(export, original, texts), list[ReadText](), Counter[str]()
    reader = export.model if original.vocabulary is None else original.model
    if not reason and reader and export.model and original.model:
        both = export.model.config, original.model.config
        rows, context = (min(getattr(own, n) for own in both) for n in ("vocab_size", "context_length"))
        for own in texts_read(reader, texts):
            if isinstance(own, str):
                left[own] += 1
            elif own.tokens.max() >= rows:
                left[f"with a token that is not among the first {rows:,}"] += 1
            elif len(own.tokens) > context:
                left[f"longer than the context of {context:,} tokens"] += 1
            else:
                reads.append(own)
        reason = f"No text fits the context of both models and their {rows:,} tokens." if not reads else ""
    if reason or not (reader and export.model and original.model):
        return [CertificateCheck(name, "not checked", reason) for name in IDS]
    found = compared(original.model, export.model, reads, report)
    different = (check.id for check in before if check.status == "different" and check.id not in HARMLESS)
    causes = [name for name in different if name.startswith(CAUSES)]
    detail = _detail(reader, reads, found, left)
    (status, advice), result = _kl(found, max_kl), list[CertificateCheck]()
    for name, own, text in zip(IDS, (status, _top(found)[0]), (detail, _top(found)[1]), strict=True):
        if causes and own != "same":
            check = CertificateCheck(name, "different", f"{text} This follows from {listed(causes)}.")
        else:
            check = CertificateCheck(name, own, text + advice * (name == IDS[0]))
        result.append(check)
    return result


def why_not(export: Side, original: Side, texts: Sequence[str | Sequence[int]]) -> str:
    """Return why the predictions cannot be compared, or ""."""
    for name, side in (("export", export), ("original", original)):
        if side.model is None:
            return f"The {name} cannot run{f': {side.problems[0].text}' if side.problems else '.'}"
    if original.vocabulary is export.vocabulary is None and any(isinstance(text, str) for text in texts):
        return original.vocabulary_problem or "No vocabulary could encode the texts."
    return "" if texts else "There are no texts."


def texts_read(model: Decoder, texts: Sequence[str | Sequence[int]]) -> list[ReadText | str]:
    """Encode texts. A text that does not fit the model becomes the reason."""
    reads = list[ReadText | str]()
    for text in texts:
        if isinstance(text, str):
            reads += model.read_many([text])
        else:
            reads.append(ReadText(np.array([*model.read(tokens=text).tokens, UNKNOWN])))
    return reads


def compared(
    original: Decoder, export: Decoder, reads: Sequence[ReadText], report: Report
) -> ComparedPredictions:
    """Run both models over texts, a few texts in one pass, and compare their logits a part at a time."""
    models, found = (original, export), list[ComparedPredictions]()
    width = max(model.config.vocab_size for model in models)
    order = sorted(range(len(reads)), key=lambda at: len(reads[at].ids))
    with one_blas_thread(), np.errstate(all="ignore"):
        for chosen in passes([reads[at] for at in order], original.pass_rows):
            report(chosen.start, len(reads))
            pack = Pack([reads[at] for at in order[chosen]])
            finals = [final_of_pack(model, pack) for model in models]
            texts = np.array(order[chosen])[pack.text_at]
            for rows in in_products(pack.rows, width):
                logits = [head_forward(model, f[rows]) for model, f in zip(models, finals, strict=True)]
                text, position = texts[rows], pack.positions[rows]
                for part in in_parts(len(text), width):
                    a, b = (own[part] for own in logits)
                    top = np.stack([a.argmax(axis=1), b.argmax(axis=1)], axis=1)
                    kl, noise = divergences(a, b), _noise(a, len(original.plan.layers))
                    found.append(ComparedPredictions(text[part], position[part], kl, noise, top))
    return ComparedPredictions(*map(np.concatenate, zip(*found, strict=True)))


def divergences(a: Array, b: Array) -> Array:
    """Return KL(a || b) of each row of logits in nats: [n, V], [n, V'] -> [n]

    Tokens that only b has count as probability 0 in a. Tokens that only a has, such as rows that fill up the
    matrix, are left out of a. If a logit is NaN, the result is NaN.
    """
    size = min(a.shape[1], b.shape[1])
    return np.maximum(kl_divergence(log_softmax(a[:, :size]), log_softmax(b)[:, :size]), 0)


def _noise(logits: Array, layers: int) -> Array:
    """Return the largest KL that rounding in float32 explains: [n, V] -> [n]. sqrt(2 KL) is about the
    standard deviation of the difference of two rows of logits."""
    mean_square = np.square(logits, dtype=np.float64).mean(axis=1)
    return np.square(PREDICTED * ROUNDING) * mean_square * (layers + 1) / 2


def _detail(
    reader: Decoder, reads: Sequence[ReadText], found: ComparedPredictions, left: Counter[str]
) -> str:
    """Describe the KL over all positions, and the position with the largest KL. `reader` read the texts.
    `left` counts the texts that are left out by the reason."""
    at = int(np.argmax(found.kl))  # the first NaN, if there is one
    text, position = int(found.text[at]), int(found.position[at])
    seen = shown_token(reader.spelled(reads[text].tokens[: position + 1][-SEEN:].tolist()))
    seen = re.sub(r"^(\\x[89ab][0-9a-f])+", "", seen) or seen  # the end of a character
    size = reader.config.vocab_size
    a, b = (token_label(reader, own) if own < size else f"#{own}" for own in found.top[at].tolist())
    mean, high = (number(float(value)) for value in (found.kl.mean(), np.percentile(found.kl, 99)))
    of = f"{counted(len(found.kl), 'position')} of {counted(len(reads), 'text')}"
    return (
        f"Mean KL {mean} nats over {of}, 99th percentile {high}. "
        + "".join(f"{counted(count, 'text')} did not fit: {why}. " for why, count in left.items())
        + f"Largest: {number(float(found.kl[at]))} nats at position {position} of text {text + 1}: after "
        f"“{seen}”, the original predicts “{a}” and the export “{b}”."
    )


def _kl(found: ComparedPredictions, max_kl: float | None) -> tuple[Status, str]:
    """Return the status of the KL if all weights are correct, and what to do."""
    mean = float(found.kl.mean())
    if math.isnan(mean):
        return "different", " Some logits are not numbers: look for NaN in the weights."
    if bool((found.kl <= found.noise).all()):
        return "same", " Rounding in float32 explains this."
    if max_kl is not None and mean > max_kl:
        advice = "find the tensors that cause it with --by-tensor, and store them with more bits"
        return "different", f" --max-kl allows {max_kl:g}: {advice}."
    return "rounded", ""


def _top(found: ComparedPredictions) -> tuple[Status, str]:
    same = found.top[:, 0] == found.top[:, 1]
    of = f"{same.sum():,} of {counted(len(same), 'position')} ({percent(same.mean(), 1)})"
    return "same" if same.all() else "rounded", f"The most probable token is the same at {of}."
