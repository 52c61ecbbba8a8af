"""Memory of a survey grows neither with the corpus nor with the texts in it."""

import gzip
import tracemalloc

import pytest
from support.corpora import corpus_bytes, table, written
from support.sweeps import in_sweep

from microgpt_trace import init, load, survey
from microgpt_trace.corpus.corpus import Document
from microgpt_trace.microgpt.documents import default_data
from microgpt_trace.surveying.execution import Block, Tasks
from microgpt_trace.vocabulary.tokens import Vocabulary

LONG = 1 << 20


def peak(model, corpus, **options):
    """Bytes, and the survey."""
    tracemalloc.start()
    found = survey(model, corpus, **options)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most, found


@pytest.mark.sweep
def test_four_times_as_many_texts_take_as_much():
    names, how = str(default_data()), {"top": 5, "histograms": ["layer0.mlp.*"]}
    peak(init(), names, limit=100, **how)  # what is made once
    few, many = (peak(init(), names, limit=limit, **how)[0] for limit in (4_000, 16_000))
    print(few, many)
    assert many < 1.15 * few


@pytest.mark.parametrize(
    ("family", "name"),
    [("microgpt", "long.parquet"), ("decoder", "long.jsonl.gz"), in_sweep(("decoder", "long.txt.gz"))],
)
def test_long_texts_are_not_held(tmp_path, monkeypatch, decoder_folder, family, name):
    """Twenty of a megabyte, of a file of some KB."""
    pytest.importorskip("tokenizers")
    monkeypatch.setattr(Vocabulary, "longest_text", LONG >> 2)
    model = init() if family == "microgpt" else load(decoder_folder())
    texts = ["emma", *["x" * LONG] * 20]
    content = table(texts) if "parquet" in name else gzip.compress(corpus_bytes(texts, name[:-3]), 1)
    short, _ = peak(model, written(tmp_path, "short.txt", texts[:1]))
    most, found = peak(model, written(tmp_path, name, content))
    ((reason, unfit),) = found.unfit.items()
    assert reason == f"longer than {'15' if family == 'microgpt' else '262,144'} characters"
    assert (unfit.texts, unfit.place) == (20, f"{tmp_path / name}:2")
    assert most - short < 8 * LONG, f"{most:,} bytes, and {short:,} of a short text"


def test_reading_ahead_stops_at_so_many_bytes(monkeypatch):
    """However few the blocks are."""
    monkeypatch.setattr("microgpt_trace.surveying.execution.HELD", 4 * LONG)
    blocks = iter([Block(n, [Document(n, "x" * LONG, "a", 1)], "") for n in range(90)])
    tasks = iter(Tasks(blocks, type("Crew", (), {"size": lambda self: 2, "parts": 1})()))
    first = next(tasks)
    assert len(first) + 4 >= 90 - len([*blocks]), "what was given out and what is held"


def test_a_long_text_is_told_from_others_as_a_short_one_is(tmp_path):
    """By the characters at its end, and by the name that training takes of it."""
    texts = ["ab" * 999, "ab" * 999 + "Q", "ab" * 999 + "!", "é" * 9000, " " * 9000 + "emma"]
    found = survey(init(), written(tmp_path, "a.txt", ["ann", *texts]))
    reasons = {reason.partition(" ")[0]: (unfit.texts, unfit.number) for reason, unfit in found.unfit.items()}
    assert reasons == {"longer": (2, 1), "with": (3, 3)}
    assert found.corpus.data == survey(init(), written(tmp_path, "b.txt", ["ann", "emma"])).corpus.data
