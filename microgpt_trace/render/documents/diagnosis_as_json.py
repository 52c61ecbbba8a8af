"""A diagnosis and the dump that it is of, as their document has them."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ...comparison.compared_runs import Unpaired
from ...diagnosis.diagnose import Diagnosis, DumpDiagnosis


@dataclass(frozen=True)
class DumpFacts:
    """Where a dump comes from."""

    origin: str
    kind: str
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class DiagnosisDocument(Diagnosis):
    """A diagnosis, with what was diagnosed."""

    SCHEMA = "microgpt.diagnosis/1"

    dump: DumpFacts
    model: str
    unpaired: tuple[Unpaired, ...]


def diagnosis_document(found: DumpDiagnosis) -> DiagnosisDocument:
    """What the document has of it."""
    dump, diagnosis = found.dump, found.diagnosis
    return DiagnosisDocument(
        **{field.name: getattr(diagnosis, field.name) for field in fields(diagnosis)},
        dump=DumpFacts(dump.origin, dump.kind, tuple(dump.notes)),
        model=found.model,
        unpaired=tuple(dump.unpaired),
    )
