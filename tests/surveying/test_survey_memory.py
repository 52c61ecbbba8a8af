"""The memory of a survey grows neither with the corpus nor with its longest text."""

import gzip
import tracemalloc

import pytest
from support.corpora import corpus_bytes, table, write
from support.sweeps import in_sweep

from microgpt_trace import init, load, survey
from microgpt_trace.corpus.corpus import Document
from microgpt_trace.microgpt.documents import default_data
from microgpt_trace.surveying.execution import Block, Tasks
from microgpt_trace.vocabulary.tokens import Vocabulary

LONG = 1 << 20


def peak(model, corpus, **options):
    """Return the peak memory in bytes, and the survey."""
    tracemalloc.start()
    result = survey(model, corpus, **options)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most, result


@pytest.mark.sweep
def test_four_times_as_many_texts_take_the_same_memory():
    names, options = str(default_data()), {"top": 5, "histograms": ["layer0.mlp.*"]}
    peak(init(), names, limit=100, **options)  # fills the caches
    few, many = (peak(init(), names, limit=limit, **options)[0] for limit in (4_000, 16_000))
    print(few, many)
    assert many < 1.15 * few


@pytest.mark.parametrize(
    ("family", "name"),
    [("microgpt", "long.parquet"), ("decoder", "long.jsonl.gz"), in_sweep(("decoder", "long.txt.gz"))],
)
def test_long_texts_are_not_kept_in_memory(tmp_path, monkeypatch, decoder_folder, family, name):
    """The file of a few KB has twenty texts of a megabyte."""
    pytest.importorskip("tokenizers")
    monkeypatch.setattr(Vocabulary, "longest_text", LONG >> 2)
    model = init() if family == "microgpt" else load(decoder_folder())
    texts = ["emma", *["x" * LONG] * 20]
    content = table(texts) if "parquet" in name else gzip.compress(corpus_bytes(texts, name[:-3]), 1)
    short, _ = peak(model, write(tmp_path, "short.txt", texts[:1]))
    most, result = peak(model, write(tmp_path, name, content))
    ((reason, unfit),) = result.unfit.items()
    assert reason == f"longer than {'15' if family == 'microgpt' else '262,144'} characters"
    assert (unfit.texts, unfit.place) == (20, f"{tmp_path / name}:2")
    assert most - short < 8 * LONG, f"{most:,} bytes, and {short:,} of a short text"


def test_reading_ahead_stops_at_a_number_of_bytes(monkeypatch):
    monkeypatch.setattr("microgpt_trace.surveying.execution.HELD", 4 * LONG)
    blocks = iter([Block(n, [Document(n, "x" * LONG, "a", 1)], "") for n in range(90)])
    tasks = iter(Tasks(blocks, type("Crew", (), {"size": lambda self: 2, "parts": 1})()))
    first = next(tasks)
    assert len(first) + 4 >= 90 - len([*blocks]), "the blocks of the task and those read ahead"


def test_a_long_text_is_judged_like_a_short_one(tmp_path):
    """Its last characters decide why it does not fit, and training takes its name."""
    texts = ["ab" * 999, "ab" * 999 + "Q", "ab" * 999 + "!", "é" * 9000, " " * 9000 + "emma"]
    result = survey(init(), write(tmp_path, "a.txt", ["ann", *texts]))
    reasons = {reason.partition(" ")[0]: (own.texts, own.number) for reason, own in result.unfit.items()}
    assert reasons == {"longer": (2, 1), "with": (3, 3)}
    assert result.corpus.data == survey(init(), write(tmp_path, "b.txt", ["ann", "emma"])).corpus.data
