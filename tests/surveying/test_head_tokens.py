"""The tokens that heads look from and to, and where they look most, against plain loops over all weights."""

import numpy as np
import pytest
from support.surveys import LONG, MANY, set_pack_size, surveyed, values_of
from support.sweeps import in_sweep
from support.terminal import rendered

from microgpt_trace import init
from microgpt_trace.measuring import head_tokens
from microgpt_trace.measuring.tallies import TopList
from microgpt_trace.microgpt.documents import default_data
from microgpt_trace.render.results.survey_sections import survey_sections
from microgpt_trace.surveying import report_heads, survey_files
from microgpt_trace.surveying.report import report_of
from microgpt_trace.surveying.state import merge_surveys
from microgpt_trace.surveying.survey_files import read_survey, survey_bytes

OFTEN, MOST = 4, 10**6
TEXTS = [*MANY, *LONG, "abcabcabc", "d"]
# In many passes over so many texts, no head of a layer has a new place for its list.
SHORT = ["".join(word) for word in np.random.default_rng(0).choice([*"abcdefgh"], (400, 4))]
CASES = [
    *(("trained", TEXTS), ("mistral_window", TEXTS), ("gpt2", TEXTS), in_sweep(("qwen2", SHORT))),
    *(in_sweep((case, TEXTS)) for case in ("broken", "deep", "llama_gqa")),
]
KINDS = ("looks_from", "looks_to", "pairs")


def judged(documents, event, head, window):
    """Return the sums (attention, even attention, count) of each kind by tokens, the largest multiple of each
    text, and whether position 0 and the query receive more than even attention."""
    sums, peaks, resting = {kind: {} for kind in KINDS}, [], []
    for number, read, values in documents:
        weights, tokens = values[event][head].astype(float), read.tokens.tolist()
        if not np.isfinite(values[event]).all():
            continue
        length, times = len(tokens), {}
        even = np.zeros((length, length))
        for q in range(length):
            seen = range(max(0, q + 1 - (window or q + 1)), q + 1)
            even[q, seen] = 1 / len(seen)
            times |= {(q, k): weights[q, k] * len(seen) for k in seen if k > 0}
            resting += [weights[q, 0] + weights[q, q] - even[q, 0] - even[q, q]] * (q > 0)
        looked = [(q, k) for q in range(length) for k in range(1, q) if even[q, k]]
        groups = {(("looks_from", (tokens[q],)), q): [] for q, _ in looked}
        groups |= {(("looks_to", (tokens[k],)), k): [] for _, k in looked}
        groups |= {(("pairs", (tokens[q], tokens[k])), (q, k)): [] for q, k in looked}
        for q, k in looked:
            for cell in (("looks_from", (tokens[q],)), q), (("looks_to", (tokens[k],)), k):
                groups[cell].append((q, k))
            groups[("pairs", (tokens[q], tokens[k])), (q, k)].append((q, k))
        for ((kind, names), _), places in groups.items():
            own = [sum(matrix[place] for place in places) for matrix in (weights, even)]
            sums[kind][names] = np.add(sums[kind].get(names, np.zeros(3)), [*own, 1])
        if times:
            place = max(times, key=lambda place: (times[place], -place[0], -place[1]))
            peaks.append((times[place], number, *place))
    return sums, sorted(peaks, key=lambda peak: (-peak[0], peak[1])), sum(resting) > 0


@pytest.mark.parametrize(("model", "texts"), CASES, indirect=["model"])
def test_looks_and_examples_are_those_of_plain_loops(model, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(report_heads, "OFTEN", OFTEN)
    monkeypatch.setattr(report_heads, "MOST_LOOKS", MOST)
    report, documents = report_of(surveyed(model, texts, tmp_path)), values_of(model, texts)
    assert [(own.event, own.head) for own in report.looks] == [(own.event, own.head) for own in report.heads]
    tiny = model.config.vocab_size <= 32
    labels = [model.label(token, target=True) for token in range(model.config.vocab_size)]
    for own, shares in zip(report.looks, report.heads, strict=True):
        sums, peaks, rests = judged(documents, own.event, own.head, shares.window)
        for kind in KINDS:
            expected = {
                tuple(labels[token] for token in tokens): (count, total / count, even / count)
                for tokens, (total, even, count) in sums[kind].items()
                if count >= OFTEN and (tiny or kind != "pairs") and (rests or kind != "looks_from")
            }
            looks = getattr(own, kind)
            got = {look.tokens: (look.count, look.attention, look.even) for look in looks}
            assert got.keys() == expected.keys(), f"{own.event} {own.head} {kind}"
            for tokens, numbers in expected.items():
                assert got[tokens] == pytest.approx(numbers, rel=1e-5, abs=1e-7), f"{kind} {tokens}"
            times = [look.times_even for look in looks]
            assert times == sorted(times, reverse=True)
            assert times == pytest.approx([look.attention / look.even for look in looks])
        examples = [(at.times_even, at.document, at.query, at.key) for at in own.examples]
        print(examples[:1], peaks[:1])
        assert [place[1:] for place in examples] == [peak[1:] for peak in peaks[:10]]
        assert [place[0] for place in examples] == pytest.approx([peak[0] for peak in peaks[:10]], rel=1e-6)
        for at in own.examples:
            weights = next(values for number, _, values in documents if number == at.document)[own.event]
            assert at.weight == pytest.approx(weights[own.head, at.query, at.key], rel=1e-6)
            assert at.place.endswith(f"corpus.txt:{at.document + 1}")


@pytest.mark.parametrize("model", ["trained", "gpt2"], indirect=True)
def test_examples_mark_the_key_and_the_query_in_the_text(model, tmp_path):
    report = report_of(surveyed(model, TEXTS, tmp_path))
    examples = [at for own in report.looks for at in own.examples]
    assert {at.query - at.key > 0 for at in examples} == {True, False}
    for at in examples:
        labels = [model.label(token) for token in model.read(TEXTS[at.document]).tokens]
        before = "".join(labels[max(0, at.key - 8) : at.key]).replace("BOS", "")
        inner = "".join(labels[at.key + 1 : at.query])
        inner = inner if len(inner) <= 16 else f"{inner[:8]}…{inner[-7:]}"
        query = f"{inner}[{labels[at.query]}]" if at.key < at.query else ""
        text = f"‹{labels[at.key]}›{query}" if query else f"[‹{labels[at.key]}›]"
        assert at.text == before[-16:] + text


@pytest.mark.parametrize("at_once", [1, 100, 1 << 17])
def test_sums_of_weights_do_not_depend_on_how_many_are_summed_at_once(at_once, monkeypatch):
    monkeypatch.setattr(head_tokens, "AT_ONCE", at_once)
    weights = np.tril(np.random.default_rng(0).random((5, 3, 6, 6), np.float32))
    inner = np.tril(weights, -1)[:, :, 1:, 1:].astype(float)
    for got, axis in zip(head_tokens._sums_of_weights(weights), (3, 2), strict=True):
        np.testing.assert_allclose(got, inner.sum(axis=axis), rtol=0, atol=1e-15)


def test_tokens_without_sums_are_left_out():
    sums = np.zeros((3, 2), np.int64)
    head_tokens._add(
        sums, np.array([1, 5, 0, 1]), np.array([[0.5, 1, 0.25, 0.5]]), np.array([0, 1, 0.5, 0.5])
    )
    assert (sums * head_tokens.UNIT).tolist() == [[0.25, 1], [0.5, 0.5], [1, 1]]


def test_places_below_the_bar_change_no_list(monkeypatch, tmp_path):
    set_pack_size(monkeypatch, 8)
    texts = default_data().read_text().split()[:400]
    one = survey_bytes(surveyed(init(), texts, tmp_path))
    monkeypatch.setattr(TopList, "bar", property(lambda self: np.full(self.units, -np.inf)))
    assert survey_bytes(surveyed(init(), texts, tmp_path)) == one


def test_older_files_open_and_merge_without_looks(monkeypatch, tmp_path):
    """A merged survey has looks only if all its parts have looks."""
    set_pack_size(monkeypatch, 8)
    whole = surveyed(init(), TEXTS, tmp_path)
    old, new = (surveyed(init(), TEXTS, tmp_path, shard=(part, 2)) for part in (1, 2))
    for name in [*old.tallies]:
        if name.endswith(("/from", "/to", "/pairs", "/examples")):
            del old.tallies[name]
    paths = [tmp_path / f"{name}.survey.safetensors" for name in ("old", "new")]
    with monkeypatch.context() as older:
        older.setattr(survey_files, "FORMAT", survey_files.OLDER)
        paths[0].write_bytes(survey_bytes(old))
    paths[1].write_bytes(survey_bytes(new))
    assert [len(report_of(read_survey(path)).looks) for path in paths] == [0, 4]
    for files in (paths, paths[::-1]):
        report = report_of(merge_surveys({str(path): read_survey(path) for path in files}))
        assert (report.whole, report.heads, report.looks) == (True, report_of(whole).heads, ())
        assert "an older version surveyed a part of the corpus" in rendered(survey_sections(report), 80)
