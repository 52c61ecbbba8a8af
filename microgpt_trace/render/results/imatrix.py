"""An importance matrix as sections."""

from __future__ import annotations

from ...surveying.imatrix import ImatrixReport
from ...text.wording import counted
from ..numbers import ratio, significant
from ..sections import Column, Labelled, Section, Table, words


def imatrix_sections(report: ImatrixReport) -> list[Section]:
    """Each weight of an importance matrix."""
    pairs = [
        ("imatrix", report.file),
        ("of", ", ".join(report.datasets)),
        ("read", f"{counted(report.chunk_count, 'chunk')} of {report.chunk_size:,} tokens"),
    ]
    columns = [
        Column("weight", lambda row: row.name, whole=True),
        Column("matrices", lambda row: f"{row.matrices:,}", right=True, from_width=90),
        Column("channels", lambda row: f"{row.channels:,}", right=True),
        Column("rows", lambda row: f"{row.rows:,}", right=True),
        Column("RMS", lambda row: significant(row.rms), right=True),
        Column("largest channel", lambda row: "–" if row.channel is None else str(row.channel), right=True),
        Column("× median", lambda row: ratio(row.times_median), right=True),
    ]
    said = "RMS: of what a weight reads; largest channel: by RMS, with how many times the median one that is"
    return [
        Section([Labelled(pairs)]),
        Section([Table(columns, report.weights), words(said, "dim")], "Inputs"),
    ]
