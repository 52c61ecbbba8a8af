"""Compare the predictions of an export and its original over texts, position by position."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from ..arrays.logits import compared_predictions, in_parts, in_products
from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..decoder.decoder import Decoder
from ..errors import MicrogptError, check_installed
from ..interpreter.logits_forward import final_of_pack
from ..interpreter.run import head_forward
from ..models.packs import UNKNOWN, Pack, ReadText, passes
from ..progress import Report, unreported
from ..rounding.bands import PREDICTED, ROUNDING
from ..text.printable import shown_token
from ..text.wording import counted, listed, number, percent
from ..vocabulary.tokens import Vocabulary
from .certificate import CertificateCheck, Status
from .opening import Side
from .vocabulary_checks import ids_of

Reads: TypeAlias = list[ReadText | str]  # texts, or why a text is left out
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
    export: Side, original: Side, reads: Reads | str, max_kl: float | None,
    before: Sequence[CertificateCheck], report: Report = unreported,
) -> list[CertificateCheck]:  # fmt: skip
    """Return the checks predictions.kl and predictions.top of texts that `texts_read` has read.

    KL(original || export) is measured in nats at every position. A mean KL above `max_kl` is "different".
    `before` are the earlier checks, which may explain why predictions differ. `report` receives the number of
    finished texts and of all texts.
    """
    vocabulary = original.vocabulary or export.vocabulary
    if isinstance(reads, str) or not (vocabulary and export.model and original.model):
        return [CertificateCheck(name, "not checked", str(reads)) for name in IDS]
    both = export.model.config, original.model.config
    rows, context = (min(getattr(own, n) for own in both) for n in ("vocab_size", "context_length"))
    kept, left = dict[int, ReadText](), Counter[str]()
    for place, own in enumerate(reads, 1):
        if isinstance(own, str):
            left[own] += 1
        elif own.tokens.max() >= rows:
            left[f"with a token that is not among the first {rows:,}"] += 1
        elif len(own.tokens) > context:
            left[f"longer than the context of {context:,} tokens"] += 1
        else:
            kept[place] = own
    lost = "".join(f"{counted(count, 'text')} did not fit: {why}. " for why, count in left.items())
    if not kept:
        return [CertificateCheck(name, "not checked", lost.rstrip()) for name in IDS]
    found = compared(original.model, export.model, [*kept.values()], report)
    different = (check.id for check in before if check.status == "different" and check.id not in HARMLESS)
    causes = [name for name in different if name.startswith(CAUSES)]
    detail = _detail(vocabulary, kept, found, lost)
    (status, advice), result = _kl(found, max_kl), list[CertificateCheck]()
    for name, own, text in zip(IDS, (status, _top(found)[0]), (detail, _top(found)[1]), strict=True):
        if causes and own != "same":
            check = CertificateCheck(name, "different", f"{text} This follows from {listed(causes)}.")
        else:
            check = CertificateCheck(name, own, text + advice * (name == IDS[0]))
        result.append(check)
    return result


def texts_read(export: Side, original: Side, texts: Sequence[str]) -> Reads | str:
    """Encode texts as the original does, or as the export does if the original has no vocabulary. A text that
    cannot be encoded becomes the reason. If no predictions can be compared, return only the reason."""
    for name, side in (("export", export), ("original", original)):
        if side.model is None:
            return f"The {name} cannot run{f': {side.problems[0].text}' if side.problems else '.'}"
    vocabulary = original.vocabulary or export.vocabulary
    if vocabulary is None:
        return original.vocabulary_problem or "No vocabulary could encode the texts."
    try:
        check_installed("tokenizers", "turning text into tokens needs")
        found = [ids_of(vocabulary.encode, [text]) or "without tokens" for text in texts]
    except MicrogptError as error:
        return str(error)
    reads = [own if isinstance(own, str) else ReadText(np.array([*own, UNKNOWN])) for own in found]
    return reads or "There are no texts."


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
                    (kl, top), noise = compared_predictions(a, b), _noise(a, len(original.plan.layers))
                    found.append(ComparedPredictions(text[part], position[part], kl, noise, top))
    return ComparedPredictions(*map(np.concatenate, zip(*found, strict=True)))


def _noise(logits: Array, layers: int) -> Array:
    """Return the largest KL that rounding in float32 explains: [n, V] -> [n]. sqrt(2 KL) is about the
    standard deviation of the difference of two rows of logits."""
    mean_square = np.square(logits, dtype=np.float64).mean(axis=1)
    return np.square(PREDICTED * ROUNDING) * mean_square * (layers + 1) / 2


def _detail(
    vocabulary: Vocabulary, reads: Mapping[int, ReadText], found: ComparedPredictions, lost: str
) -> str:
    """Describe the KL over all positions, and the position with the largest KL. `lost` describes the texts
    that are not among `reads`, the texts by number."""
    at = int(np.argmax(found.kl))  # the first NaN, if there is one
    (text, read), position = [*reads.items()][found.text[at]], int(found.position[at])
    seen = shown_token(vocabulary.spelled(read.tokens[: position + 1][-SEEN:].tolist()))
    seen = re.sub(r"^(\\x[89ab][0-9a-f])+", "", seen) or seen  # the end of a character
    labels = (vocabulary.label(own) if own < vocabulary.size else f"#{own}" for own in found.top[at].tolist())
    a, b = (f"{shown_token(label):.60}" for label in labels)
    mean, high = (number(float(value)) for value in (found.kl.mean(), np.percentile(found.kl, 99)))
    of = f"{counted(len(found.kl), 'position')} of {counted(len(reads), 'text')}"
    return (
        f"Mean KL {mean} nats over {of}, 99th percentile {high}. {lost}"
        f"Largest: {number(float(found.kl[at]))} nats at position {position} of text {text}: after "
        f"“{seen[-60:]}”, the original predicts “{a}” and the export “{b}”."
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
