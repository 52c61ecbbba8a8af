"""Check the trained microGPT that the package contains: its size, its quality, and its name in commands."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.commands import microgpt, refusal

from microgpt_trace import load, trace
from microgpt_trace.microgpt.documents import default_data
from microgpt_trace.readers.loading import SMALL


def printed(line, **how):
    done = microgpt(line, **how)
    assert (done.code, done.err) == (0, ""), done.err
    return done.out


def test_the_file_is_small_and_has_only_weights_in_float32():
    tensors = load_file(SMALL)
    assert SMALL.stat().st_size <= 26_000
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float32)}
    assert tensors.keys() == load("small").config.shapes().keys()  # no moments of Adam


def test_the_model_knows_how_emma_goes_on():
    predictions = json.loads(printed("trace small emma --json"))["predictions"]
    best = {row["seen"]: row["predicted"]["label"] for row in predictions}
    print(best)
    assert (best["em"], best["emm"]) == ("m", "a")


@pytest.fixture(scope="module")
def survey_document():
    return json.loads(printed(f"survey --model small {default_data()} --limit 1000 --json --verbose"))


def test_two_heads_have_a_role_and_most_units_are_alive(survey_document):
    roles = [head["role"] for head in survey_document["heads"]]
    print(roles)
    assert len(roles) - roles.count("none") >= 2
    activations = np.concatenate([run_of(name) for name in default_data().read_text("utf-8").split()[:1000]])
    dead = (activations <= 0).all(axis=0).mean()
    print(dead)
    assert dead <= 0.25


def run_of(name):
    """Return the activations of all units on a name, by NumPy alone."""
    p, ids = load("small").params, [0, *(ord(letter) - 96 for letter in name)]
    x = p["wte"][ids] + p["wpe"][: len(ids)]
    x = scaled(x)
    q, k, v = (np.reshape(scaled(x) @ p[f"layer0.attn_w{part}"].T, (len(ids), 5, 4)) for part in "qkv")
    scores = np.einsum("thd,shd->hts", q, k) / 2 + np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = np.einsum("hts,shd->thd", weights / weights.sum(-1, keepdims=True), v).reshape(len(ids), 20)
    x = x + mixed @ p["layer0.attn_wo"].T
    return scaled(x) @ p["layer0.mlp_fc1"].T


def scaled(x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)


def test_every_command_reads_small_as_the_model_and_a_path_as_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("emma\nolivia\nava\nmia\n")
    whole = printed("trace small emma --json", cwd=tmp_path)
    assert printed("trace --model small emma --json", cwd=tmp_path) == whole
    shutil.copy(SMALL, tmp_path / "copy")
    assert json.loads(printed("trace ./copy emma --json", cwd=tmp_path))["loss"] == json.loads(whole)["loss"]
    for words in ("small 'logits[-1,r]' emma", "'logits[-1,r]' emma --model small"):
        explained = json.loads(printed(f"explain {words} --json", cwd=tmp_path))
        trained = trace(load("small"), "emma", values=True).arrays["forward", "logits"][4, 18]
        assert explained["value"] == pytest.approx(float(trained), abs=1e-5)
    assert printed("sample --model small -n 2", cwd=tmp_path)
    for workers in (0, 2):
        lines = [
            f"survey {words} names.txt --json --workers {workers}" for words in ("small", "--model small")
        ]
        first, second = (json.loads(printed(line, cwd=tmp_path)) for line in lines)
        assert first["heads"] == second["heads"]
        assert len(first["heads"]) == 5
    assert "no such" in refusal("trace ./small emma", cwd=tmp_path)
    (tmp_path / "small").write_bytes(b"no model")
    refusal("trace ./small emma", cwd=tmp_path)
    refusal("trace --model ./small emma", cwd=tmp_path)
    refusal("survey --model ./small names.txt", cwd=tmp_path)
    assert printed("trace small emma --json", cwd=tmp_path) == whole


def test_a_file_named_small_is_read_by_its_path(tmp_path, checkpoints):
    shutil.copy(checkpoints["trained"], tmp_path / "small")
    (tmp_path / "names.txt").write_text("emma\n")
    trained = load(checkpoints["trained"]).config.n_embd
    for line in ("trace ./small emma --json", "trace --model ./small emma --json"):
        assert json.loads(printed(line, cwd=tmp_path))["model"]["config"]["n_embd"] == trained
    compared = microgpt("diff small ./small", cwd=tmp_path)
    assert str(tmp_path / "small") in compared.out + compared.err
    survey = json.loads(printed("survey ./small names.txt --json", cwd=tmp_path))
    assert len(survey["heads"]) == load(checkpoints["trained"]).config.n_head
