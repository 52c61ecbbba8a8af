"""The plan of an architecture: its rows, and what is derived from them."""

from itertools import product

import pytest

from microgpt_trace.architecture import llama, microgpt
from microgpt_trace.architecture.rope import Rope
from microgpt_trace.decoder.config import BIASES, DecoderConfig
from microgpt_trace.microgpt.parameters import Config


def decoder(architecture, biases, qk_norm, tied, window):
    return DecoderConfig(
        architecture, 3, 16, 4, 2, 4, 24, 31, 64, 1e-5, Rope(1e4), tied, biases, qk_norm,
        window, (0, 2) if window else (),
    )  # fmt: skip


CASES = {
    f"{len(b)} biases, qk_norm {n}, tied {t}, window {w}": (llama, decoder("llama", b, n, t, w))
    for b, n, t, w in product(((), BIASES, BIASES[:3]), (False, True), (False, True), (None, 3))
} | {"microGPT": (microgpt, Config()), "2 layers": (microgpt, Config(n_layer=2, n_head=2))}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_rows_read_what_comes_before_them_and_have_the_parameters_of_the_model(case):
    architecture, config = case
    plan, known = architecture.plan_of(config), set()
    for row in plan.values():
        assert {*row.inputs, *row.parts} <= known, row.name
        known.add(row.name)
    assert dict(plan.parameters) == config.shapes()
    assert len(plan.layers) == config.n_layer == len(plan.streams) - 1
    rows = [*plan.before, *(row for layer in plan.layers for row in layer), *plan.after]
    assert [row.name for row in rows] == list(plan)
