"""The engine with faults to order is right without one, rounds as it is told to, and errs where it says."""

import ast
from pathlib import Path

import numpy as np
import pytest
from support import engine_operations, faulty_engine
from support.faults import changed, decoder_faults, microgpt_faults, misread
from support.faulty_engine import decoder_run, microgpt_run, rounded_to
from support.judges import agree, torch_run
from support.sweeps import some_of
from support.tiny_models import CASES, TOKENS, as_bf16, random_blocks, tiny_model

SIZE = 1e-3  # relative L2 by which a fault must change a row


def assert_seen(faults, run):
    """Each fault's event is the first that differs from `run(None)`; those before it are equal to the bit."""
    right = run(None)
    assert len({fault.id for fault in faults}) == len(faults)
    for fault in faults:
        found = run(fault)
        first = next((n for n in right if not np.array_equal(found[n], right[n], equal_nan=True)), None)
        assert first == fault.event, f"{fault.id}: first seen in {first}, expected in {fault.event}"
        if not fault.id.startswith(
            ("eps", "bos")
        ):  # of which many a row has little, or another number of rows
            assert changed(found[first], right[first]) > SIZE, fault.id
        assert fault.cause


def microgpt(case, drop=0):
    """(parameters, the run of a fault) of a case, less its last tokens where a fault needs their places."""
    params = {name: np.asarray(array) for name, array in case.model.params.items()}
    ids, heads = [int(n) for n in case.ids][: len(case.ids) - drop], case.model.config.n_head
    return params, lambda fault: microgpt_run(params, ids[:-1], heads, fault, targets=ids[1:])


# --- Right without a fault ------------------------------------------------------------------


def test_microgpt_equals_torch(case):
    params, run = microgpt(case)
    judged, _ = torch_run(params, [int(n) for n in case.ids[:-1]], case.ids[1:], case.model.config)
    found = run(None)
    assert set(found) == set(judged)
    for name, value in judged.items():
        agree(found[name], value.detach().numpy(), rtol=1e-5, atol=1e-5, what=name)


@pytest.mark.parametrize("module", [engine_operations, faulty_engine])
def test_imports_nothing_of_the_package(module):
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    modules = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert not [m for m in modules if m.startswith("microgpt_trace")]


def test_bf16_is_the_nearest_and_ties_to_even():
    x = np.float32([1.00390625, 1.01171875, -3.3e38, 0.0, *np.random.RandomState(0).randn(999)])
    expected = (as_bf16(x).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(rounded_to(x, "bf16"), expected)
    np.testing.assert_array_equal(rounded_to([np.nan, np.inf], "bf16"), [np.nan, np.inf])


# --- Faults -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", some_of(CASES, every=4))
def test_each_decoder_fault_is_first_seen_where_it_says(case):
    config, weights = tiny_model(case)
    alone = decoder_faults(config, layer=1)
    assert {fault.event.split(".")[0] for fault in alone} == {"layer1"}
    for faults in (decoder_faults(config), alone):
        assert_seen(faults, lambda fault: decoder_run(config, weights, (1, *TOKENS), fault))


def test_each_microgpt_fault_is_first_seen_where_it_says(deep):
    params, run = microgpt(deep, drop=1)
    assert_seen(microgpt_faults(params, deep.model.config.n_head), run)


# --- Quantised weights ----------------------------------------------------------------------


def test_misreadings_by_hand():
    blocks = random_blocks("Q4_1", (1, 32), "by hand")
    scale, minimum = blocks.rows[0, :4].view(np.float16).astype(np.float32)
    low, high = blocks.rows[0, 4:] & 15, blocks.rows[0, 4:] >> 4
    said = {
        "minimum_ignored": scale * np.concatenate([low, high]),
        "nibbles_swapped": scale * np.concatenate([high, low]) + minimum,
        "nibbles_interleaved": scale * np.stack([low, high], 1).ravel() + minimum,
    }
    for how, values in said.items():
        np.testing.assert_allclose(misread(blocks, how)[0], values, rtol=1e-6)
    blocks = random_blocks("Q5_0", (1, 32), "zero")
    scale = blocks.rows[0, :2].view(np.float16).astype(np.float32)
    for how, steps in (("zero_point_missing", 16), ("zero_point_off_by_one", 1)):
        np.testing.assert_allclose(misread(blocks, how), blocks.values() + steps * scale, rtol=1e-5)
