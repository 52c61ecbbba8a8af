"""The result of `inspect` as sections: the architecture, and a row per parameter or stored tensor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...decoder.decoder import Decoder
from ...microgpt.model import Model
from ...progress import unreported
from ...tracing.inspection import Inspection, inspect_decoder, inspect_microgpt
from ..numbers import significant
from ..sections import Column, Labelled, Section, Words, fields, name_of, table_section, words
from ..trace.whole_trace import model_facts

STATISTICS = {
    "mean": "stats.mean", "std": "stats.std", "min": "stats.min", "max": "stats.max", "L2": "stats.l2_norm",
}  # fmt: skip


def microgpt_sections(model: Model, *, inspection: Inspection | None = None) -> list[Section]:
    """Return the architecture, vocabulary and training of a microGPT, and a table of its parameters."""
    inspection = inspection or inspect_microgpt(model)
    columns = [
        Column("name", name_of),
        Column("shape", lambda row: str(list(row.shape))),
        *fields("{:,}".format, {"count": "stats.count"}),
        *fields(significant, STATISTICS),
    ]
    table = table_section("", columns, inspection.parameters, about=name_of, more=_nonfinite(inspection))
    config = model.config
    pairs = [
        ("model", f"{model.origin}, {config.parameter_count:,} parameters ({model.dtype})"),
        ("architecture", f"{config.n_layer} × [RMSNorm → {config.n_head} heads of {config.head_dim} → "
            f"residual → RMSNorm → MLP {config.n_inner} with ReLU → residual]"),
        ("sizes", f"width {config.n_embd}, {config.block_size} positions, {config.vocab_size} tokens"),
        ("vocabulary", model.tokenizer.describe()),
    ]  # fmt: skip
    if state := model.training:
        plan = state.schedule
        progress = f"step {state.step:,} of {plan.steps:,}, batch {plan.batch_size}, lr {plan.lr:g}"
        pairs.append(("training", f"{progress}, seed {plan.seed}, on {state.data}"))
    pairs += [("assumed", text) for text in model.assumed]
    return [Section([Labelled(pairs)]), *table]


def decoder_sections(model: Decoder, *, inspection: Inspection | None = None) -> list[Section]:
    """Return the architecture of a production model, a table of the tensors in its file, and the metadata."""
    inspection = inspection or inspect_decoder(model, [], False, False, unreported)
    rows: Any = inspection.parameters
    columns = [
        Column("tensor", name_of, whole=True),
        Column("type", lambda row: row.type, whole=True),
        Column("shape", lambda row: str(list(row.shape)), whole=True),
        *fields("{:,}".format, {"bytes": "bytes"}),
    ]
    if rows and rows[0].stats is not None:
        columns += fields(significant, STATISTICS)
    columns.append(Column("stored as", lambda row: row.stored_as, whole=True))
    total = sum(row.bytes for row in rows)
    below = words(f"{len(rows):,} of {len(model.tensors):,} tensors, {total:,} bytes", "dim")
    table = table_section("", columns, rows, about=name_of, more=[below, *_nonfinite(inspection)])
    sections = [Section([Labelled(model_facts(inspection.model))]), *table]
    if inspection.metadata is not None:
        pairs = [(key, _one_line(value)) for key, value in inspection.metadata.items()]
        sections.append(Section([Labelled(pairs)], "Metadata"))
    return sections


def _nonfinite(inspection: Inspection) -> Iterator[Words]:
    for row in inspection.parameters:
        if row.stats is not None and row.stats.nonfinite_count:
            yield words(f"{row.name}: {row.stats.nonfinite_count:,} values are not finite", "bold red")


def _one_line(brief: Any) -> str:
    if isinstance(brief, dict) and "first" in brief and "count" in brief:
        return f"{brief['count']:,} items: {', '.join(map(repr, brief['first']))}, …"
    text = str(brief)
    rest = f"… (the first 300 of {len(text):,} characters; --json has all)" if len(text) > 300 else ""
    return f"{text[:300]}{rest}".replace("\n", "\\n")
