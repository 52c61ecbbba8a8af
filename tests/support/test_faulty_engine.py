"""The engine with faults to order is right without one, and rounds as it is told to."""

import ast
from pathlib import Path

import numpy as np
import pytest
from support import engine_operations, faulty_engine
from support.faulty_engine import decoder_run, microgpt_run, rounded_to
from support.judges import torch_run
from support.judges_decoder import decoder_events
from support.tiny_models import (
    TOKENS,
    as_bf16,
    dequantised,
    random_quantised_weights,
    rope_4,
    tiny_config,
    tiny_model,
)

WIDE = tiny_config(hidden_size=256, intermediate_size=256, num_hidden_layers=1, **rope_4())


def distance(found, expected):
    """Relative L2, endless where one side is not finite or the shapes differ."""
    if found.shape != expected.shape:
        return np.inf
    off = np.linalg.norm(found.astype(np.float64) - expected) / np.linalg.norm(expected)
    return off if np.isfinite(off) else np.inf


def assert_same(found, expected, tolerance=1e-5):
    gaps = {name: distance(found[name], expected[name]) for name in expected}
    worst = max(gaps, key=gaps.get)
    print(f"worst {gaps[worst]:.1e} of {tolerance:.0e} in {worst}")
    assert gaps[worst] < tolerance, worst


def run_name(case, fault=None, drop=0):
    """A microGPT case run by the engine, without its last tokens where a fault needs their places."""
    params = {name: np.asarray(array) for name, array in case.model.params.items()}
    ids = [int(n) for n in case.ids][: len(case.ids) - drop]
    return microgpt_run(params, ids[:-1], case.model.config.n_head, fault, targets=ids[1:])


# --- Right without a fault ------------------------------------------------------------------


def test_microgpt_equals_torch(case):
    ids = [int(n) for n in case.ids]
    params = dict(case.model.params.items())
    judged, _ = torch_run(params, ids[:-1], ids[1:], case.model.config)
    found = run_name(case)
    assert set(found) == set(judged)
    assert_same(found, {name: judged[name].detach().numpy() for name in judged})


@pytest.mark.parametrize("module", [engine_operations, faulty_engine])
def test_imports_nothing_of_the_package(module):
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    modules = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert not [m for m in modules if m.startswith("microgpt_trace")]


def test_blocks_are_read_as_gguf_reads_them():
    weights = random_quantised_weights(WIDE, lambda _: "Q6_K", "wide")
    assert_same(decoder_run(WIDE, weights, TOKENS), decoder_events(WIDE, dequantised(weights), TOKENS))


# --- Precision ------------------------------------------------------------------------------


def test_bf16_is_the_nearest_and_ties_to_even():
    x = np.float32(
        [1.00390625, 1.01171875, -3.3e38, 0.0, np.nan, np.inf, *np.random.RandomState(0).randn(999)]
    )
    expected = (as_bf16(x[:4]).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(rounded_to(x, "bf16")[:4], expected)
    np.testing.assert_array_equal(
        rounded_to(x[6:], "bf16"), (as_bf16(x[6:]).astype(np.uint32) << 16).view(np.float32)
    )
    assert np.isnan(rounded_to(x, "bf16")[4])
    assert np.isinf(rounded_to(x, "bf16")[5])


@pytest.mark.parametrize(("rounding", "least", "most"), [("bf16", 1e-3, 0.1), ("f16", 1e-4, 1e-2)])
@pytest.mark.parametrize("round_weights", [False, True])
def test_rounding_moves_every_event_a_little(rounding, least, most, round_weights):
    config, weights = tiny_model("qwen3")
    right = decoder_run(config, weights, TOKENS)
    found = decoder_run(config, weights, TOKENS, rounding=rounding, round_weights=round_weights)
    gaps = [distance(found[name], right[name]) for name in right]
    print(f"{rounding}: {min(gaps):.1e} to {max(gaps):.1e}, logits {gaps[-2]:.1e}")
    assert least / 10 < gaps[0]
    assert least < max(gaps) < most
