"""Lists of the largest numbers: those of sorting all of them, ties, excerpts and any merging included."""

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


def listed(some, most=3):
    """A list of entries that come at once, each with an excerpt that tells it from the others."""
    own = TopList(3, most, 4)
    if some:
        unit, value, document, position = map(np.array, zip(*some, strict=True))
        texts = np.stack([unit, document, position, 7 * document], axis=1).astype(np.uint8)
        rows = zip(value, document, 10 * document, position, unit + 5, strict=True)
        own.add(unit, np.array([*rows], ENTRY), texts.__getitem__)
    return own


def by_hand(some, most=3):
    """Of each unit (value, document, position), the largest first, then the earlier document and position."""
    of = {unit: [one[1:] for one in some if one[0] == unit] for unit in range(3)}
    return [sorted(own, key=lambda one: (-one[0], *one[1:]))[:most] for own in of.values()]


def held(own):
    of_units = own.entries[["value", "document", "position"]]
    return [unit[unit["document"] != NOBODY].tolist() for unit in of_units]


@given(entries, st.integers(1, 5), st.randoms())
def test_merged_in_any_order_and_parts(some, count, random):
    parts = [[one for one in some if one[2] % count == number] for number in range(count)]
    random.shuffle(parts)
    own = TopList(3, 3, 4)
    for part in parts:
        own.merge(listed(part))
    whole = listed(some)
    assert held(own) == by_hand(some)
    assert all(own.arrays()[name].tobytes() == array.tobytes() for name, array in whole.arrays().items())


@given(entries)
def test_excerpts_and_rows_stay_with_their_entries(some):
    own = listed(some)
    for unit, at in zip(*np.nonzero(own.entries["document"] != NOBODY), strict=True):
        _, document, row, position, channel = own.entries[unit, at]
        assert own.excerpt[unit, at].tolist() == [unit, document, position, 7 * document]
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
        found = units[unit].examples if unit in units else ()
        assert [(own.value, own.document, own.position) for own in found] == expected, f"unit {unit}"
        for own in found:
            read = next(read for number, read, _ in documents if number == own.document)
            labels = [model.label(int(t)) if t != model.bos else "" for t in read.tokens]
            assert own.token == model.label(int(read.tokens[own.position]))
            assert own.before == "".join(labels[: own.position])
            assert own.place == f"corpus.txt:{own.document + 1}"


def test_excerpts_of_long_characters_are_cut_between_them(tmp_path):
    """Three bytes each: 21 of them at most, the token among them."""
    tokenizer = Tokenizer("日本語 ")
    model = Model(Parameters.random(Config(vocab_size=5, block_size=64), 3), tokenizer, "three bytes")
    texts = ["日本語" * 20, "本" * 40, "語 日" * 15]
    found = report_of(surveyed(model, texts, tmp_path, top=5)).units
    assert len(found) > 20
    for own in (one for unit in found for one in unit.examples):
        said = (own.before + own.token).encode()
        assert len(said) < EXCERPT
        assert "BOS" in own.token or (own.before + own.token) in texts[own.document], own
        assert len(said) > EXCERPT - 6 or own.position < 27, own


@needs_smollm2
def test_characters_of_several_tokens_are_read_as_such(smollm2, tmp_path):
    """Of SmolLM2's tokens these have two to four to a character."""
    texts = ["日本語テキスト", "😀 🎉", "\u202eab"]
    found = report_of(surveyed(smollm2, texts, tmp_path, events=["layer0.mlp.hidden"], top=1))
    assert {own.document: own.before for own in found.parts[0].worst} == {
        0: texts[0], 1: texts[1], 2: "\\u202eab"
    }  # fmt: skip
    examples = [one for unit in found.units for one in unit.examples if one.document == 1]
    assert "😀" in {one.before for one in examples}
