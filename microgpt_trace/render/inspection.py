"""What `inspect` shows, as sections and as JSON: the architecture, a row per parameter or stored tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ..arrays.stats import TensorStats
from ..decoder.model import Decoder
from ..decoder.stored_weights import Listed
from ..microgpt.model import Model
from .documents.writing import to_text
from .numbers import figure, significant
from .sections import Column, Labelled, Section, Table, Words, words
from .trace_header import model_facts

INSPECT_SCHEMA = "microgpt.inspect/1"
SHOWN = 3  # items of a long list in the metadata


def inspection_sections(model: Model) -> list[Section]:
    """The architecture, then a row per parameter."""
    config, known = model.config, model.describe()
    pairs = [
        ("model", f"{model.origin}, {config.parameter_count:,} parameters ({known['dtype']})"),
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
    pairs += [("assumed", text) for text in model.assumed]
    columns = [
        Column("name", lambda r: r[0]),
        Column("shape", lambda r: str(list(r[1]))),
        Column("count", lambda r: f"{r[2].count:,}", right=True),
        *(
            Column(title, lambda r, field=field: figure(getattr(r[2], field), 3), right=True)  # type: ignore[misc]
            for title, field in (("mean", "mean"), ("std", "std"), ("min", "min"), ("max", "max"))
        ),
        Column("L2", lambda r: figure(r[2].l2_norm), right=True),
    ]
    rows = [(name, array.shape, TensorStats.of(array)) for name, array in model.params.items()]
    bad = _nonfinite([(name, stats) for name, _, stats in rows])
    return [Section([Labelled(pairs)]), Section([Table(columns, rows, about=lambda row: row[0]), *bad])]


def _nonfinite(rows: Sequence[tuple[str, TensorStats | None]]) -> list[Words]:
    return [
        words(f"{name}: {stats.nonfinite_count:,} values are not finite", "bold red")
        for name, stats in rows
        if stats is not None and stats.nonfinite_count
    ]


def inspection_json(model: Model) -> str:
    """The same as one JSON document."""
    tensors = [
        {"name": name, "shape": list(array.shape), "stats": asdict(TensorStats.of(array))}
        for name, array in model.params.items()
    ]
    return to_text({"schema": INSPECT_SCHEMA, "model": model.describe(), "parameters": tensors})


def decoder_inspection_sections(model: Decoder, tensors: Sequence[Listed], metadata: bool) -> list[Section]:
    """The architecture, then a row per tensor as the file has it, then its metadata."""
    columns = [
        Column("tensor", lambda r: r[0], whole=True),
        Column("type", lambda r: r[1].encoding.name, whole=True),
        Column("shape", lambda r: str(list(r[1].shape)), whole=True),
        Column("bytes", lambda r: f"{r[1].data.size:,}", right=True),
    ]
    if tensors and tensors[0][2] is not None:
        columns += [
            Column("mean", lambda r: significant(r[2].mean), right=True),
            Column("std", lambda r: significant(r[2].std), right=True),
            Column("min", lambda r: significant(r[2].min), right=True),
            Column("max", lambda r: significant(r[2].max), right=True),
            Column("L2", lambda r: significant(r[2].l2_norm), right=True),
        ]
    columns.append(Column("stored as", lambda r: r[1].name, whole=True))
    total, stored = sum(t.data.size for _, t, _ in tensors), len(tensors)
    below = words(f"{stored:,} of {len(model.tensors):,} tensors, {total:,} bytes", "dim")
    bad = _nonfinite([(name, stats) for name, _, stats in tensors])
    facts = Section([Labelled(model_facts(model.describe()))])
    sections = [facts, Section([Table(columns, tensors, about=lambda row: row[0]), below, *bad])]
    if metadata:
        pairs = [(key, _one_line(value)) for key, value in model.metadata.items()]
        sections.append(Section([Labelled(pairs)], "Metadata"))
    return sections


def decoder_inspection_json(model: Decoder, tensors: Sequence[Listed], metadata: bool) -> str:
    """The same as one JSON document."""
    rows = [
        {"name": name, "stored_as": tensor.name, "type": tensor.encoding.name, "shape": list(tensor.shape),
         "bytes": tensor.data.size, "stats": None if stats is None else asdict(stats)}
        for name, tensor, stats in tensors
    ]  # fmt: skip
    document: dict[str, Any] = {"schema": INSPECT_SCHEMA, "model": model.describe(), "parameters": rows}
    if metadata:
        document["metadata"] = {key: _brief(value) for key, value in model.metadata.items()}
    return to_text(document)


def _brief(value: Any) -> Any:
    """Long lists as their length and first items: a vocabulary has 150,000."""
    if isinstance(value, str) or not isinstance(value, np.ndarray | Sequence):
        return value
    items = value[: 64 if len(value) <= 64 else SHOWN]
    shown = items.tolist() if isinstance(items, np.ndarray) else list(items)
    return shown if len(value) <= 64 else {"count": len(value), "first": shown}


def _one_line(value: Any) -> str:
    brief = _brief(value)
    if isinstance(brief, dict) and "first" in brief and "count" in brief:
        return f"{brief['count']:,} items: {', '.join(map(repr, brief['first']))}, …"
    text = str(brief)
    shown = text if len(text) <= 300 else f"{text[:300]}… ({len(text):,} characters; --json has them)"
    return shown.replace("\n", "\\n")
