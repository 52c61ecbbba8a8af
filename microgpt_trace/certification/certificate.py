"""The result of `certify`: what was checked, and what differs."""

from __future__ import annotations

from typing import Literal

from ..notebook import in_notebook
from ..text.frozen import frozen
from ..text.json_writing import in_document

Status = Literal["same", "rounded", "different", "not checked"]
Verdict = Literal["same", "different", "incomplete"]


@frozen
class CertificateCheck:
    """A property that an export should share with its original.

    - `id` is "settings.NAME", "vocabulary.NAME", "template.NAME", "weights.NAME" or "predictions.NAME".
    - `status` is "rounded" if the property differs by no more than the rounding of the stored types.
    - `detail` has the values on both sides. If the property differs, `detail` also says what to do.
    - `names` are the parameters that are accused, by our names.
    """

    id: str
    status: Status
    detail: str = ""
    names: tuple[str, ...] = ()


@frozen
class TensorEffect:
    """What the rounding of one parameter of the export does to the predictions of the original.

    `kl` is the mean KL(original || original with this parameter) over all positions, in nats. `estimate` is
    the same by gradients to second order. Either may be missing. `share` is the part of the sum over all
    parameters.
    """

    name: str
    type: str
    kl: float | None
    estimate: float | None
    share: float | None

    @property
    def size(self) -> float | None:
        """The KL, or the estimate if the KL is unknown."""
        return self.estimate if self.kl is None else self.kl


@frozen
class Certificate:
    """Whether an export is the same model as its original."""

    SCHEMA = "microgpt.certificate/1"

    export: str
    original: str
    checks: tuple[CertificateCheck, ...]
    tensors: tuple[TensorEffect, ...] = ()
    _repr_html_ = in_notebook

    @property
    @in_document
    def verdict(self) -> Verdict:
        """Return "different" if a check found a difference, or else "incomplete" if a check is missing."""
        statuses = {check.status for check in self.checks}
        if "different" in statuses:
            return "different"
        return "incomplete" if "not checked" in statuses else "same"
