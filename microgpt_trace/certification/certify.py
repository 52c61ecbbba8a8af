"""certify: tell whether an exported model is the same model as its original."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..progress import Report, unreported
from ..vocabulary.sandbox import within
from .certificate import Certificate, CertificateCheck, TensorEffect
from .opening import open_side
from .prediction_checks import IDS, prediction_checks, texts_read
from .setting_checks import settings_checks
from .shipped import shipped
from .template_checks import template_checks
from .tensor_effects import tensor_effects
from .vocabulary_checks import vocabulary_checks
from .weight_checks import weight_checks

SOME = 8  # texts whose predictions show the effect of each tensor
SECONDS = 30  # for all tokenizers and chat templates, and more for own texts. Usually, a tenth is enough.
_LAST = ("vocabulary.encoding", "template.no_system", "weights.other", *IDS)  # the last checks of each part


def certify(
    export: str | Path, original: str | Path, *, texts: Sequence[str] = (), max_kl: float | None = None,
    by_tensor: bool = False, confirm: int | None = None, report: Report = unreported,
) -> Certificate:  # fmt: skip
    """Compare an exported model with the model that it was made from: settings, vocabulary, chat template,
    weights and predictions. `export` and `original` are GGUF files, .apr files or Hugging Face folders.

    Unlike `load`, this function opens models with missing tensors or wrong counts, which are findings.

    - `texts` replaces the 200 short texts whose predictions are compared. Encodings are compared on both.
    - A mean KL(original || export) above `max_kl`, in nats, counts as a difference.
    - `by_tensor` adds the KL that each parameter of the export causes alone, over eight passages, or over the
      eight longest `texts`. With `confirm`, the KL is estimated from gradients, and computed for this number
      of parameters with the largest estimates.

    On KeyboardInterrupt, what is known by then is returned, and the other checks are "not checked".

    `report(done, of)` is called with the progress. Raises FileFormatError if a file cannot be read, and
    InputError if an option does not fit.

    >>> certify("model-q4_1.gguf", "model-folder").verdict  # doctest: +SKIP
    'same'
    """
    if max_kl is not None and not max_kl >= 0:
        raise InputError(f"max_kl: expected a number of at least 0, found {max_kl}")
    if confirm is not None and not by_tensor:
        raise InputError("confirm: needs by_tensor")
    first = open_side(Path(original))
    other = open_side(Path(export), first)
    if first.problems:  # the settings that it lacks are those of the export
        first = open_side(Path(original), other)
    longest = sorted(texts or shipped("passages"), key=len)[-SOME:]
    checks, effects = [*settings_checks(other, first)], tuple[TensorEffect, ...]()
    try:
        with within(SECONDS + sum(0.05 + len(text) / 2000 for text in texts)):
            checks += vocabulary_checks(other, first, texts)
            checks += template_checks(other, first)
            reads = texts_read(other, first, texts or shipped("texts"))
            passages = texts_read(first, first, longest if by_tensor else [])
        checks += weight_checks(other, first, report)
        checks += prediction_checks(other, first, reads, max_kl, checks, report)
        effects = tensor_effects(other, first, passages, confirm, report)
    except KeyboardInterrupt:
        made = {check.id.partition(".")[0] for check in checks}
        missing = [name for name in _LAST if name.partition(".")[0] not in made]
        checks += [CertificateCheck(name, "not checked", "This check was interrupted.") for name in missing]
    return Certificate(str(export), str(original), tuple(checks), effects)
