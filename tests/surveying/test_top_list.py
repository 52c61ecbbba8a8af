"""Lists of the largest values equal a sort of all values, with ties and excerpts, however they are merged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.real_model import needs_smollm2
from support.surveys import MANY, surveyed, values_of

from microgpt_trace import Config, Model, Tokenizer
from microgpt_trace.measuring.meter import EXCERPT
from microgpt_trace.measuring.tallies import ENTRY, NOBODY, TopList
from microgpt_trace.microgpt.parameters import Parameters
from microgpt_trace.surveying.report import report_of

entries = st.lists(
    st.tuples(
        st.integers(0, 2), st.sampled_from([0.5, 1.0, 2.0, -1.0]), st.integers(0, 9), st.integers(0, 3)
    ),
    max_size=40,
    unique_by=lambda one: (one[0], *one[2:]),
)


def top_list(entries):
    """Return a list with all entries (perhaps none) added at once, each with an excerpt of its own."""
    top = TopList(3, 3, 4)
    unit, value, document, position = np.array(entries, float).reshape(-1, 4).T
    unit, document = unit.astype(int), document.astype(int)
    texts = np.stack([unit, document, position, 7 * document], axis=1).astype(np.uint8)
    rows = zip(value, document, 10 * document, position, unit + 5, strict=True)
    top.add(unit, np.array([*rows], ENTRY), texts.__getitem__)
    return top


def by_hand(entries):
    """Return the three largest (value, document, position) of each unit; earlier places win ties."""
    by_unit = [[one[1:] for one in entries if one[0] == unit] for unit in range(3)]
    return [sorted(own, key=lambda one: (-one[0], *one[1:]))[:3] for own in by_unit]


def contents(top):
    units = top.entries[["value", "document", "position"]]
    return [unit[unit["document"] != NOBODY].tolist() for unit in units]


@given(entries, st.integers(1, 5), st.randoms())
def test_parts_merge_in_any_order(some, count, random):
    parts = [[one for one in some if one[2] % count == number] for number in range(count)]
    random.shuffle(parts)
    top = TopList(3, 3, 4)
    for part in parts:
        top.merge(top_list(part))
    assert contents(top) == by_hand(some)
    assert all(top.arrays()[name].tobytes() == own.tobytes() for name, own in top_list(some).arrays().items())


@given(entries)
def test_excerpts_and_rows_stay_with_their_entries(some):
    top = top_list(some)
    for unit, at in zip(*np.nonzero(top.entries["document"] != NOBODY), strict=True):
        _, document, row, position, channel = top.entries[unit, at]
        assert top.excerpt[unit, at].tolist() == [unit, document, position, 7 * document]
        assert (row, channel) == (10 * document, unit + 5)


@pytest.mark.parametrize(
    ("model", "top"),
    [("untrained", 4), ("deep", 1), ("broken", 500), ("llama_gqa", 4), ("gpt2", 4)],
    indirect=["model"],
)
def test_top_examples_of_units(model, top, tmp_path):
    names = [name for name in model.plan if name.endswith((".mlp.act", ".mlp.hidden"))][-1:]
    units = {own.unit: own for own in report_of(surveyed(model, MANY, tmp_path, events=names, top=top)).units}
    documents = values_of(model, MANY)
    for unit in range(documents[0][2][names[0]].shape[1]):
        every = [
            (-float(value), number, position)
            for number, _, values in documents
            for position, value in enumerate(values[names[0]][:, unit])
            if 0 < value < np.inf
        ]
        expected = [(-value, number, position) for value, number, position in sorted(every)[:top]]
        examples = units[unit].examples if unit in units else ()
        assert [(own.value, own.document, own.position) for own in examples] == expected, f"unit {unit}"
        for own in examples:
            read = next(read for number, read, _ in documents if number == own.document)
            labels = [model.label(int(t)) if t != model.bos else "" for t in read.tokens]
            assert own.token == model.label(int(read.tokens[own.position]))
            assert own.before == "".join(labels[: own.position])
            assert own.place == f"corpus.txt:{own.document + 1}"


def test_excerpts_are_cut_between_characters(tmp_path):
    """Characters of three bytes: an excerpt has at most 21, the token included."""
    tokenizer = Tokenizer("日本語 ")
    model = Model(Parameters.random(Config(vocab_size=5, block_size=64), 3), tokenizer, "three bytes")
    texts = ["日本語" * 20, "本" * 40, "語 日" * 15]
    units = report_of(surveyed(model, texts, tmp_path, top=5)).units
    assert len(units) > 20
    for own in (example for unit in units for example in unit.examples):
        size = len((own.before + own.token).encode())
        assert size < EXCERPT
        assert "BOS" in own.token or (own.before + own.token) in texts[own.document], own
        assert size > EXCERPT - 6 or own.position < 27, own


@needs_smollm2
def test_excerpts_join_the_tokens_of_a_character(smollm2, tmp_path):
    """SmolLM2 has two to four tokens for each of these characters."""
    texts = ["日本語テキスト", "😀 🎉", "\u202eab"]
    report = report_of(surveyed(smollm2, texts, tmp_path, events=["layer0.mlp.hidden"], top=1))
    worst = {own.document: own.before for own in report.parts[0].worst}
    assert worst == {0: texts[0], 1: texts[1], 2: "\\u202eab"}
    assert "😀" in {own.before for unit in report.units for own in unit.examples if own.document == 1}
