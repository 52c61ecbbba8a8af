"""The independent engine is right without a fault, rounds correctly, and shows each fault where it should."""

import ast
from pathlib import Path

import numpy as np
import pytest
from support import engine_operations, faulty_engine
from support.faults import decoder_faults, microgpt_faults, misread, row_change
from support.faulty_engine import decoder_run, microgpt_run, rounded_to
from support.judges import agree, torch_run
from support.sweeps import some_of
from support.tiny_models import CASES, TOKENS, as_bf16, random_blocks, tiny_model

SIZE = 1e-3  # relative L2 by which a fault must change a row


def assert_seen(faults, run):
    """Check that the event of each fault is the first one that differs from `run(None)` in any bit."""
    right = run(None)
    assert len({fault.id for fault in faults}) == len(faults)
    for fault in faults:
        values = run(fault)
        first = next((n for n in right if not np.array_equal(values[n], right[n], equal_nan=True)), None)
        assert first == fault.event, f"{fault.id}: first seen in {first}, expected in {fault.event}"
        if not fault.id.startswith(("eps", "bos")):  # an eps may change little, a BOS the number of rows
            assert row_change(values[first], right[first]) > SIZE, fault.id
        assert fault.cause


def microgpt(case, drop=0):
    """Return the parameters of a case and a function that runs a fault, without the last `drop` tokens."""
    params = {name: np.asarray(array) for name, array in case.model.params.items()}
    ids, heads = [int(n) for n in case.ids][: len(case.ids) - drop], case.model.config.n_head
    return params, lambda fault: microgpt_run(params, ids[:-1], heads, fault, targets=ids[1:])


def test_microgpt_equals_torch(case):
    params, run = microgpt(case)
    judged, _ = torch_run(params, [int(n) for n in case.ids[:-1]], case.ids[1:], case.model.config)
    values = run(None)
    assert set(values) == set(judged)
    for name, value in judged.items():
        agree(values[name], value.detach().numpy(), rtol=1e-5, atol=1e-5, what=name)


@pytest.mark.parametrize("module", [engine_operations, faulty_engine])
def test_imports_nothing_from_the_package(module):
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    modules = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert not [m for m in modules if m.startswith("microgpt_trace")]


def test_rounds_to_bf16_with_ties_to_even():
    x = np.float32([1.00390625, 1.01171875, -3.3e38, 0.0, *np.random.RandomState(0).randn(999)])
    expected = (as_bf16(x).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(rounded_to(x, "bf16"), expected)
    np.testing.assert_array_equal(rounded_to([np.nan, np.inf], "bf16"), [np.nan, np.inf])


@pytest.mark.parametrize("case", some_of(CASES, every=4))
def test_each_decoder_fault_first_shows_in_its_event(case):
    config, weights = tiny_model(case)
    alone = decoder_faults(config, layer=1)
    assert {fault.event.split(".")[0] for fault in alone} == {"layer1"}
    for faults in (decoder_faults(config), alone):
        assert_seen(faults, lambda fault: decoder_run(config, weights, (1, *TOKENS), fault))


def test_each_microgpt_fault_first_shows_in_its_event(deep):
    params, run = microgpt(deep, drop=1)
    assert_seen(microgpt_faults(params, deep.model.config.n_head), run)


def test_misreads_blocks_as_computed_by_hand():
    blocks = random_blocks("Q4_1", (1, 32), "by hand")
    scale, minimum = blocks.rows[0, :4].view(np.float16).astype(np.float32)
    low, high = blocks.rows[0, 4:] & 15, blocks.rows[0, 4:] >> 4
    expected = {
        "minimum_ignored": scale * np.concatenate([low, high]),
        "nibbles_swapped": scale * np.concatenate([high, low]) + minimum,
        "nibbles_interleaved": scale * np.stack([low, high], 1).ravel() + minimum,
    }
    for how, values in expected.items():
        np.testing.assert_allclose(misread(blocks, how)[0], values, rtol=1e-6)
    blocks = random_blocks("Q5_0", (1, 32), "zero")
    scale = blocks.rows[0, :2].view(np.float16).astype(np.float32)
    for how, steps in (("zero_point_missing", 16), ("zero_point_off_by_one", 1)):
        np.testing.assert_allclose(misread(blocks, how), blocks.values() + steps * scale, rtol=1e-5)
