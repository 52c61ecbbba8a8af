"""What `inspect` shows, as sections: the architecture, and a row per parameter or stored tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ...architecture.edits import unreported
from ...decoder.model import Decoder
from ...microgpt.model import Model
from ...tracing.inspection import (
    InspectedParameter,
    Inspection,
    StoredParameter,
    inspect_decoder,
    inspect_microgpt,
)
from ..numbers import significant
from ..sections import Block, Column, Labelled, Section, Table, Words, name_of, words
from ..trace.whole_trace import model_facts


def microgpt_sections(model: Model) -> list[Section]:
    """A microGPT by itself."""
    return microgpt_inspection_sections(model, inspect_microgpt(model))


def decoder_sections(model: Decoder) -> list[Section]:
    """A production model by itself, its tensors as they are stored."""
    return decoder_inspection_sections(model, inspect_decoder(model, [], False, False, unreported))


def microgpt_inspection_sections(model: Model, found: Inspection) -> list[Section]:
    """The architecture, then a row per parameter."""
    columns = [
        Column("name", lambda row: row.name),
        Column("shape", lambda row: str(list(row.shape))),
        Column("count", lambda row: f"{row.stats.count:,}", right=True),
        *_statistics(),
    ]
    table = Table(columns, found.parameters, about=name_of)
    return [Section([_microgpt_facts(model)]), Section([table, *_nonfinite(found.parameters)])]


def _microgpt_facts(model: Model) -> Labelled:
    """The architecture, the vocabulary and the training of a microGPT."""
    config = model.config
    pairs = [
        ("model", f"{model.origin}, {config.parameter_count:,} parameters ({model.dtype})"),
        (
            "architecture",
            f"{config.n_layer} × [RMSNorm → {config.n_head} heads of {config.head_dim} → residual → "
            f"RMSNorm → MLP {config.n_inner} with ReLU → residual]",
        ),
        ("stream", f"width {config.n_embd}, {config.block_size} positions, {config.vocab_size} tokens"),
        ("vocabulary", model.tokenizer.describe()),
    ]
    state = model.training
    if state is not None:
        schedule = state.schedule
        pairs.append(
            (
                "training",
                f"step {state.step:,} of {schedule.steps:,}, batch {schedule.batch_size}, "
                f"lr {schedule.lr:g}, seed {schedule.seed}, on {state.data}",
            )
        )
    return Labelled([*pairs, *(("assumed", text) for text in model.assumed)])


def decoder_inspection_sections(model: Decoder, found: Inspection) -> list[Section]:
    """The architecture, then a row per tensor as the file has it, then its metadata."""
    rows: Any = found.parameters
    columns = [
        Column("tensor", lambda row: row.name, whole=True),
        Column("type", lambda row: row.type, whole=True),
        Column("shape", lambda row: str(list(row.shape)), whole=True),
        Column("bytes", lambda row: f"{row.bytes:,}", right=True),
    ]
    if rows and rows[0].stats is not None:
        columns += _statistics()
    columns.append(Column("stored as", lambda row: row.stored_as, whole=True))
    total = sum(row.bytes for row in rows)
    below = words(f"{len(rows):,} of {len(model.tensors):,} tensors, {total:,} bytes", "dim")
    blocks: list[Block] = [Table(columns, rows, about=name_of), below, *_nonfinite(rows)]
    sections = [Section([Labelled(model_facts(found.model))]), Section(blocks)]
    if found.metadata is not None:
        pairs = [(key, _one_line(value)) for key, value in found.metadata.items()]
        sections.append(Section([Labelled(pairs)], "Metadata"))
    return sections


def _statistics() -> list[Column]:
    return [
        Column("mean", lambda row: significant(row.stats.mean), right=True),
        Column("std", lambda row: significant(row.stats.std), right=True),
        Column("min", lambda row: significant(row.stats.min), right=True),
        Column("max", lambda row: significant(row.stats.max), right=True),
        Column("L2", lambda row: significant(row.stats.l2_norm), right=True),
    ]


def _nonfinite(rows: Sequence[InspectedParameter | StoredParameter]) -> Iterator[Words]:
    for row in rows:
        if row.stats is not None and row.stats.nonfinite_count:
            yield words(f"{row.name}: {row.stats.nonfinite_count:,} values are not finite", "bold red")


def _one_line(brief: Any) -> str:
    if isinstance(brief, dict) and "first" in brief and "count" in brief:
        return f"{brief['count']:,} items: {', '.join(map(repr, brief['first']))}, …"
    text = str(brief)
    shown = text if len(text) <= 300 else f"{text[:300]}… ({len(text):,} characters; --json has them)"
    return shown.replace("\n", "\\n")
