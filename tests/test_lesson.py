"""The figures in the sentences of docs/learn.md: a forward pass written here computes the same figures."""

import re
from runpy import run_path

import numpy as np
import pytest
from support.pages import ROOT, read

from microgpt_trace import load
from microgpt_trace.microgpt.documents import Documents, default_data, read_lines
from microgpt_trace.microgpt.model import Schedule
from microgpt_trace.microgpt.training import Trainer

LESSON = " ".join(read(ROOT / "docs" / "learn.md").split())
EMMA, M = [0, 5, 13, 13, 1], 13


def normed(x):  # [T, C] -> [T, C]
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-5)


def softmax(x):
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def read_emma(places=True, without=None, shares=None):
    """Return the logits [T, V], the attention weights [H, T, T] and the ReLU units [T, F]. `without` is a
    head to leave out. `shares` has other weights for the first m, by head."""
    p = {name: np.asarray(value, np.float64) for name, value in load("small").params.items()}
    x = normed(p["wte"][EMMA] + places * p["wpe"][:5])
    q, k, v = (normed(x) @ p[f"layer0.attn_w{name}"].T for name in "qkv")
    later, weights, added = np.triu(np.full((5, 5), -np.inf), 1), [], 0
    for head in range(5):
        part = slice(4 * head, 4 * head + 4)
        weights.append(softmax(q[:, part] @ k[:, part].T / 2 + later))
        weights[-1][2] = (shares or {}).get(head, weights[-1][2])
        added += (head != without) * weights[-1] @ v[:, part] @ p["layer0.attn_wo"][:, part].T
    units = np.maximum(normed(x + added) @ p["layer0.mlp_fc1"].T, 0)
    return (x + added + units @ p["layer0.mlp_fc2"].T) @ p["lm_head"].T, np.array(weights), units


def chance_of_m(**changes):
    return f"{100 * softmax(read_emma(**changes)[0])[2, M]:.1f} %"


def test_the_figures_of_the_lesson():
    logits, weights, units = read_emma()
    to_bos, to_e = weights[2:4, 2, :2].T
    _, blind, _ = read_emma(places=False)
    r, cold_r = (softmax(logits[4] / heat).max() for heat in (1, 0.5))
    swapped = chance_of_m(shares={head: blind[head, 2] for head in (2, 3)})
    claims = [
        f"At the first m, head 2 gives {to_e[0]:.0%} to the e before it, and head 3 gives {to_e[1]:.0%}",
        f"from {chance_of_m()} to {100 * softmax(read_emma(places=False)[0])[2, M]:.2f} %",
        f"Without head 2, the chance of m falls from {chance_of_m()} to {chance_of_m(without=2)}",
        f"Without head 3, the chance falls to {chance_of_m(without=3)}",
        f"without head 1, the chance rises to {chance_of_m(without=1)}",
        f"gives the e only {blind[3, 2, 1]:.0%} at the first m, and gives the m itself {blind[3, 2, 2]:.0%}",
        f"falls from {chance_of_m()} to {swapped}",
        f"2.81 = {to_e[1] / to_bos[1]:.1f} times",
        f"{(units[2] > 0).sum()} of the 80 units are on",
        f"{logits[2, M] - logits[2, 9]:.3f} larger than the logit of i",
        f"{np.exp(logits[2, M] - logits[2, 9]):.2f} times as likely as i",
        f"r after emma has a chance of {100 * cold_r:.1f} %, instead of {100 * r:.1f} %",
    ]
    missing = [claim for claim in claims if re.sub(" ?%", " %", claim) not in LESSON]
    assert missing == []


@pytest.mark.sweep
def test_the_recipe_makes_a_model_as_good_as_the_small_model():
    """6 s. Processors round differently, so the parameters may differ."""
    model, small = run_path(str(ROOT / "docs" / "small_model.py"))["small_model"](), load("small")
    assert (model.config, model.training.schedule) == (small.config, small.training.schedule)
    documents = Documents.fit(read_lines(default_data()), model.tokenizer, model.config.block_size)
    ours, packaged = (
        Trainer(one, documents, Schedule(1, 1, 0.01, 0)).held_out_loss() for one in (model, small)
    )
    print(ours, packaged)
    assert abs(ours - packaged) < 0.005
    assert f"fell from 3.41 to {packaged:.2f}" in LESSON
