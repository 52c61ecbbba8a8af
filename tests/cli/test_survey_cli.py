"""`microgpt survey` from the shell: output, documents, files, importance matrices and refusals."""

import gzip
import json
import os
import re

import numpy as np
import pytest
from gguf import GGUFReader
from rich.cells import cell_len
from support.commands import microgpt, refusal
from support.documents import valid

from microgpt_trace import init, read_survey, save
from microgpt_trace.surveying.imatrix import read_imatrix

TEXTS = ["Ann ran", "a man and a red\tear", "\x1b[31mred\u202e", "rare", "a", "near a dam"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, decoder_folder, checkpoints):
    """A trained microGPT, a decoder, and corpora for them."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "microgpt.safetensors").symlink_to(checkpoints["trained"])
    save(init(seed=7), folder / "seven.safetensors")
    (folder / "decoder").symlink_to(decoder_folder())
    (folder / "names.txt").write_text("emma\nolivia\n\nÉva\nava\nabcdefghijklmnopqrst\nmia\nzoe\n")
    (folder / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    records = "".join(json.dumps({"said": text}) + "\n" for text in TEXTS)
    (folder / "texts.jsonl.gz").write_bytes(gzip.compress(records.encode()))
    return folder


def run(place, words, **how):
    done = microgpt(f"survey {words}", cwd=place, **how)
    assert (done.code, done.err) == (0, ""), done.err
    return done.out


@pytest.mark.parametrize("words", [
    "microgpt.safetensors names.txt --top 2 --histograms '*'", "microgpt.safetensors names.txt --verbose",
    "decoder texts.txt --top 2 --histograms '*' --events '*'",
    "decoder '*.jsonl.gz' --field said --max-tokens 3 --verbose",
])  # fmt: skip
def test_output_fits_the_screen_and_the_document_its_schema(place, words):
    for width in (80, 120):
        out = run(place, words, width=width)
        assert max(map(cell_len, out.splitlines())) <= width
        assert not {"\x1b", "\u202e"} & set(out)
        titles = ["Predictions", "Residual stream", "What heads look at", "Channels"]
        assert [title for title in titles if title not in out] == []
    document = valid(run(place, f"{words.replace('--verbose', '')} --json"), "survey")
    assert document["whole"] is True
    assert len(document["events"]) > 15
    assert [head["role"] for head in document["heads"]] != []


def test_counts_skipped_texts_and_names_the_first(place):
    out = run(place, "microgpt.safetensors names.txt")
    assert "run       5 texts, 24 tokens" in out
    assert "left out  1 blank (first: names.txt:3)" in out
    assert "1 longer than 15 characters (first: names.txt:6)" in out
    assert "1 with a character outside a..z (first: names.txt:4)" in out
    cut = run(place, "decoder texts.txt --max-tokens 3")
    assert "in part  5 cut to the tokens allowed (first: texts.txt:1)" in cut
    assert "left out" not in cut  # all of them were run


def test_losses_that_are_not_finite_are_counted(place, checkpoints):
    out = run(place, f"{checkpoints['broken']} names.txt")
    assert "24 more tokens have a loss that is not finite" in out
    assert "not finite" not in run(place, "microgpt.safetensors names.txt")


def test_shows_the_entropy_of_uniform_attention_per_window(place, decoder_folder):
    """Layer 0 attends to all keys, layer 1 to three. In a text of six tokens, queries 1 to 5 count."""
    (place / "six.txt").write_text("a rare\n")
    said = " ".join(run(place, f"{decoder_folder('qwen2_window')} six.txt").split())
    entropies = [np.mean([np.log(min(seen, window)) for seen in range(2, 7)]) for window in (3, 6)]
    narrow, whole = re.search(
        r"uniform attention would have: (.*) \(window 3\); (.*) \(no window\)", said
    ).groups()
    assert [narrow.split(",")[0], whole.split(",")[0]] == [f"entropy {own:.2f}" for own in entropies]


def test_saves_shows_and_merges_surveys(place):
    whole = run(place, "--limit 3000 --out whole.survey.safetensors --force")
    for part in (1, 2):
        run(place, f"--limit 3000 --shard {part}/2 --out {part}.survey.safetensors --force")
    again = run(place, "whole.survey.safetensors")
    assert whole.partition("Predictions")[2] == again.partition("Predictions")[2] != ""
    run(place, "2.survey.safetensors 1.survey.safetensors --out both.survey.safetensors --force")
    files = [(place / f"{name}.survey.safetensors").read_bytes() for name in ("whole", "both")]
    assert files[0] == files[1]
    part = place / "1.survey.safetensors"
    assert "part of a corpus of 3,000 documents" in run(place, part.name)
    assert refusal("survey", part, part) == f"{part}: named twice"
    assert "What heads look at" in read_survey(part)._repr_html_()


@pytest.mark.parametrize("output", ["", " --imatrix-output"])
def test_an_importance_matrix_is_written_and_shown(place, output):
    run(place, f"decoder texts.txt --imatrix i.gguf --out i.survey.safetensors --force{output}")
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(place / "i.gguf").tensors}
    found, survey = read_imatrix(place / "i.gguf"), read_survey(place / "i.survey.safetensors")
    squares = survey.tallies["layer0.attn.norm/squares"].values()
    np.testing.assert_allclose(tensors["blk.0.attn_k.weight.in_sum2"].ravel(), squares, rtol=1e-6)
    assert ("output.weight" in found.entries) == bool(output)
    assert "blk.1.ffn_down.weight" in run(place, "i.gguf")
    valid(run(place, "i.gguf --json"), "survey", place / "i.gguf")


FIVE = "five.survey.safetensors"


def test_refuses_other_options_with_a_finished_survey(place, monkeypatch):
    """A single file of texts is a corpus and not a model."""
    monkeypatch.chdir(place)
    (place / "six.txt").write_text("ann\nbob\n")
    assert "untrained" in run(place, "six.txt --limit 2")
    run(place, "--limit 5 --out five.survey.safetensors --force")
    run(place, "decoder texts.txt --imatrix j.gguf")
    for words in (f"{FIVE} --limit 3", "j.gguf --verbose", f"{FIVE} names.txt"):
        assert refusal(f"survey {words}")
    assert "exists already" in refusal("survey --limit 5 --out five.survey.safetensors")


def test_seed_is_for_the_sample_or_the_model(place):
    seven = json.loads(run(place, "--seed 7 --limit 50 --json"))
    of_file = json.loads(run(place, "seven.safetensors --limit 50 --json"))
    assert seven["fingerprint"] == of_file["fingerprint"]
    samples = [json.loads(run(place, f"--sample 40 --seed {seed} --json")) for seed in (1, 1, 2)]
    prints = [sample["corpus_fingerprint"] for sample in samples]
    assert prints[0] == prints[1] != prints[2]
    assert samples[0]["fingerprint"] == samples[2]["fingerprint"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize("words", ["survey pipe.gguf", "survey pipe.txt", "diff pipe.txt pipe.txt"])
def test_refuses_a_pipe_without_opening_it(tmp_path, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("pipe.gguf", "pipe.txt"):
        os.mkfifo(tmp_path / name)
    assert "found a pipe" in refusal(words)
