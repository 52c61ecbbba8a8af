"""Corpus files with known texts, written by other packages. A test is skipped if it needs a package that is
not installed."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from microgpt_trace.corpus.corpus import Corpus, CorpusSelection

TEXTS = ["emma", "olivia was here", "Zoë 日本 👩‍🚀", "  two  ", 'a "quoted" \\ text', "x" * 5000, "emma"]
NAMES = ["a.v1.txt", "a.text", "a", "a.v1.jsonl", "a.NDJSON", "a.parquet"]
NAMES += ["a.txt.gz", "a.gz", "a.b.JSONL.Zst", "a.parquet.gz", "a.gz.jsonl"]


def some_names(count, seed=0):
    """Return names of the training corpus."""
    names = Path(__file__).parents[2].joinpath("names.txt").read_text("utf-8").split()
    return np.random.default_rng(seed).choice(names, count, replace=False).tolist()


def compress(content, name):
    """Compress with gzip or Zstandard, according to the file extension."""
    if name.endswith(".gz"):
        return gzip.compress(content)
    if name.endswith(".zst"):
        return pytest.importorskip("zstandard").compress(content)
    return content


def records(texts, field="text"):
    return "".join(json.dumps({"n": [1, {"text": 2}], field: text}) + "\n" for text in texts).encode()


def table(texts, field="text", **options):
    """Return the bytes of a Parquet file."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    out = pa.BufferOutputStream()
    pq.write_table(pa.table({"n": list(range(len(texts))), field: texts}), out, **options)
    return out.getvalue().to_pybytes()


def corpus_bytes(texts, name, field="text"):
    """Return the bytes of a corpus in the format that the file name implies."""
    kind = name.lower()
    if ".parquet" in kind:
        content = table(texts, field)
    else:
        content = records(texts, field) if "json" in kind else "".join(f"{t}\n" for t in texts).encode()
    return compress(content, kind)


def write(folder, name, content):
    """Write bytes, or a corpus of texts, and return the path as a corpus source."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else corpus_bytes(content, name))
    return str(path)


def corpus(*sources, **selected):
    return Corpus(CorpusSelection(sources, **selected))


def texts(*sources, **selected):
    """Return the texts that the corpus reader finds in sources."""
    return [document.text for document in corpus(*sources, **selected)]
