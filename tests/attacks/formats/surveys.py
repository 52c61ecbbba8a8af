"""Surveys with wrong metadata or tensors, and with the matching digest."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors.numpy import load, save
from support.surveys import MANY, surveyed

from microgpt_trace import init
from microgpt_trace.surveying.report import report_of
from microgpt_trace.surveying.survey_files import _digest, read_survey, survey_bytes

from .format import GONE, Format

EVENT = "layer0.mlp.act"
WRONG = {
    "format": ["microgpt.survey-file/3"], "block_size": [0, -8, "8", 2.5, None],
    "blocks": [{"x": "y"}, {"-1": "y"}, [1], {"0": 5}],
    "unfit": [{"long": [1]}, {"long": ["a", "b", "c"]}, 3], "arithmetic": [3, [3]], "model": [{}],
    "corpus": [None], "order": [[]], "corpus/documents": [10**18, -1, "many", None],
    "corpus/files": [[[1, "a"]], [["a", "b"]]], "corpus/sources": ["names.txt", [1]],
    "corpus/skipped": [{"a": [1]}, {"a": ["x", 1]}], "corpus/seed": ["s"], "corpus/data": [1],
    "corpus/fingerprint": [3], "model/labels": [[], [1] * 27], "model/windows": [[], ["a"]],
    "model/streams": [[]], "model/kinds": [{}, 1], "model/origin": [1], "model/more": [1],
    "model/trained_on": [None], "order/events": [["nothing"], "logits"],
    "order/histograms": [["embed.tok"]], "order/units": [["embed.tok"], [1]], "order/examples": [-1, "2"],
}  # fmt: skip
PARTS = ("total.sum", "values.count", "range.range.least")
PARTS += tuple(f"top.top.{name}" for name in ("value", "excerpt", "document"))
TENSORS = [
    *(f"{EVENT}/{part}" for part in PARTS), "logits/magnitudes.count", "streams/rows.count",
    "streams/farthest.top.value", "attention/queries.count", "attention.all/first.sum",
    "layer0.attn.weights/entropy.sum", "layer0.attn.weights/pairs.count",
    "layer0.attn.weights/examples.top.position", "predictions.train/token_loss.sum",
    "predictions.train/worst.top.row", "predictions.train/documents.count", "corpus/read.count",
]  # fmt: skip
MISFITS = [GONE, np.zeros(3), np.zeros(64, np.float16)]
MORE_MISFITS = [*map(np.zeros, ((2, 2, 2), (0, 64), ())), np.zeros(64, np.uint8), np.zeros(64, bool)]
VALUES = [np.full(64, np.nan), np.full(64, np.inf), np.full(64, 1e300)]
NAMES = ["x", "x/y", "a/b.count.c.d", "a/b.sum.", "/.sum", "a/b.other", "a/b.top.value", "\n/\x1b.sum"]
NAMES += [f"{EVENT}/total.count", f"{EVENT}/total.sum.more"]
UNFIT = {
    "streams/farthest.top.position": -(2**31), f"{EVENT}/squares.sum": -1, "attention/queries.count": 0,
    "attention/repeats.count": 0, "attention/repeats_apart.count": 0, "streams/growth.sum": 1e200,
    "streams/rows.count": 0,
}  # fmt: skip


def opened(path: Path) -> None:
    """Read a survey, and compute its report and its bytes."""
    result = read_survey(path)
    report_of(result)
    survey_bytes(result)


def parts(content: bytes) -> tuple[dict, dict]:
    """Return the metadata and the tensors of a survey."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return json.loads(header["__metadata__"]["survey"]), load(content)


def join(metadata: dict, tensors: dict) -> bytes:
    """Return the survey with these parts and the matching digest."""
    values = {key: value for key, value in metadata.items() if key != "digest"}
    return save(tensors, {"survey": json.dumps(values | {"digest": _digest(tensors, values)})})


def write(path: Path, metadata: dict, tensors: dict) -> None:
    path.write_bytes(join(metadata, tensors))


def survey() -> Format:
    """Return the format of a survey of short texts."""
    with TemporaryDirectory() as folder:
        events = [EVENT, "layer0.attn.weights", "embed.*", "*.residual", "logits"]
        result = surveyed(init(), MANY, Path(folder), events=events, histograms=["logits"], top=2)
    content = survey_bytes(result)
    metadata, good = parts(content)
    excerpt = f"{EVENT}/top.top.excerpt"
    tensors = [
        *({name: misfit} for name in TENSORS for misfit in MISFITS),
        *({f"{EVENT}/total.sum": misfit} for misfit in (*MORE_MISFITS, *VALUES)),
        *({f"{EVENT}/range.range.least": misfit} for misfit in (*MORE_MISFITS, VALUES[0])),
        *({name: np.zeros(64)} for name in NAMES),
        {excerpt: np.zeros((1 << 26, 1 << 10, 0), np.uint8)},  # no bytes, but many rows
        {excerpt: np.full_like(good[excerpt], 0xFF)},  # not text
    ]
    rows = [
        *(("", content[:at]) for at in (0, 1, 7, 8, 9, 100, 5000, -1, -8, -len(content) // 2)),
        *(("", text) for text in (b"\0" * 200, b"{}", b"microgpt.survey", b'\xff"survey"' * 9)),
        *(("", {}, changes) for changes in tensors),
        *((name[:7], {}, {name: np.full_like(good[name], value)}) for name, value in UNFIT.items()),
        ("found changed bytes", content.replace(b"survey-file/2", b"survey-file/1")),
    ]
    return Format(metadata, good, write, rows, WRONG, name="a.survey.safetensors", opened=opened, memory=60)
