"""An importance matrix as sections."""

from __future__ import annotations

from ...surveying.imatrix import ImatrixReport
from ...text.wording import counted
from ..numbers import ratio, significant
from ..sections import Column, Labelled, Section, fields, name_of, table_section


def imatrix_sections(report: ImatrixReport) -> list[Section]:
    """Each weight of an importance matrix."""
    pairs = [
        ("imatrix", report.file),
        ("of", ", ".join(report.datasets)),
        ("read", f"{counted(report.chunk_count, 'chunk')} of {report.chunk_size:,} tokens"),
    ]
    columns = [
        Column("weight", name_of, whole=True),
        *fields("{:,}".format, {"matrices": "matrices"}, from_width=90),
        *fields("{:,}".format, {"channels": "channels", "rows": "rows"}),
        *fields(significant, {"RMS": "rms"}),
        Column("largest channel", lambda row: "–" if row.channel is None else str(row.channel), right=True),
        *fields(ratio, {"× median": "times_median"}),
    ]
    said = "RMS: of what a weight reads; largest channel: by RMS, with how many times the median one that is"
    return [Section([Labelled(pairs)]), *table_section("Inputs", columns, report.weights, said)]
