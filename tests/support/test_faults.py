"""Each fault of the independent engine is seen where it says and not before."""

import numpy as np
import pytest
from support.faults import (
    GENERIC,
    decoder_faults,
    generic_fault,
    generic_faults,
    microgpt_faults,
    misread,
    misreadings,
    quantised_faults,
)
from support.faulty_engine import decoder_run
from support.judges_decoder import decoder_events
from support.sweeps import some_of
from support.tiny_microgpts import CASES as MICROGPT
from support.tiny_models import CASES, SCALES, TOKENS, random_blocks, random_quantised_weights, tiny_model
from test_faulty_engine import WIDE, assert_same, distance, run_name

BOS_FIRST = (1, *TOKENS)
SIZE = 1e-3  # relative L2 distance above which a fault must lie


def assert_seen(fault, found, right):
    """The fault's event is the first that differs; those before it are equal to the bit."""
    names = list(right)
    first = next((n for n in names if not np.array_equal(found[n], right[n], equal_nan=True)), None)
    assert first == fault.event, f"{fault.id}: first seen in {first}, expected in {fault.event}"
    off = distance(found[first], right[first])
    print(f"{fault.id:32} {first:24} {off:.1e}")
    assert off > SIZE or fault.id.startswith("eps"), fault.id


def faults_of(case, layer=None):
    params = {name: np.asarray(array) for name, array in case.model.params.items()}
    return microgpt_faults(params, case.model.config.n_head, layer)


# --- Faults of operations -------------------------------------------------------------------


@pytest.mark.parametrize("case", some_of(CASES, every=4))
def test_each_decoder_fault_is_first_seen_where_it_says(case):
    config, weights = tiny_model(case)
    right = decoder_run(config, weights, BOS_FIRST)
    for fault in decoder_faults(config):
        assert_seen(fault, decoder_run(config, weights, BOS_FIRST, fault), right)


@pytest.mark.parametrize("case", ["qwen2_window", "qwen3", "llama_mha_bias"])
def test_a_fault_of_one_layer_leaves_those_before_it(case):
    config, weights = tiny_model(case)
    right, faults = decoder_run(config, weights, TOKENS), decoder_faults(config, layer=1)
    assert {fault.event.split(".")[0] for fault in faults} == {"layer1"}
    for fault in faults:
        assert_seen(fault, decoder_run(config, weights, TOKENS, fault), right)


@pytest.mark.parametrize("name", ["default", "2 layers, 2 heads"])
def test_each_microgpt_fault_is_first_seen_where_it_says(name):
    case = MICROGPT[name]
    right = run_name(case, drop=1)
    for fault in faults_of(case):
        assert_seen(fault, run_name(case, fault, drop=1), right)


def kinds(faults):
    return {fault.id.split("@")[0] for fault in faults}


def test_faults_follow_the_config():
    every = kinds(f for case in CASES for f in decoder_faults(CASES[case]))
    llama = kinds(decoder_faults(CASES["llama_gqa"]))
    assert every - llama == {
        "bias_missing", "bias_other_layer", "bias_twice", "qk_norm_after_rope", "qk_norm_missing",
        "rope_attention_factor", "rope_factor", "rope_scaling_missing", "tied_head_missing",
        "window_longer", "window_missing",
    }  # fmt: skip
    assert not any(kind.startswith("kv_grouping") for kind in kinds(decoder_faults(CASES["llama_mqa"])))


@pytest.mark.parametrize("case", ["llama_gqa", "qwen3"])
def test_fault_ids_are_unique_and_have_causes(case):
    faults = decoder_faults(CASES[case])
    assert len({fault.id for fault in faults}) == len(faults)
    assert all(fault.cause for fault in faults)


def test_a_head_that_is_not_tied_is_what_the_judge_says():
    config, weights = tiny_model("llama_gqa")
    fault = next(f for f in decoder_faults(config) if f.id == "wte_for_head")
    judged = decoder_events(config | {"tie_word_embeddings": True}, weights, TOKENS)
    assert_same(decoder_run(config, weights, TOKENS, fault), judged)


@pytest.mark.parametrize(
    ("id", "case", "changes"),
    [
        ("rope_scaling_missing", "llama_llama3", {"rope_scaling": None}),
        ("rope_base", "llama_gqa", {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}),
        ("window_missing", "mistral_window", {"sliding_window": None}),
        ("window_longer", "mistral_window", {"sliding_window": 4}),
    ],
)
def test_a_fault_is_what_the_judge_says_of_the_wrong_config(id, case, changes):
    config, weights = tiny_model(case)
    fault = next(f for f in decoder_faults(config) if f.id == id)
    judged = decoder_events(config | changes, weights, TOKENS)
    assert_same(decoder_run(config, weights, TOKENS, fault), judged)


def test_a_bias_left_out_everywhere_is_what_the_judge_says():
    config, weights = tiny_model("qwen2")
    fault = next(f for f in decoder_faults(config) if f.id == "bias_missing@attn.q")
    without = {name: array for name, array in weights.items() if not name.endswith("q_proj.bias")}
    assert_same(decoder_run(config, weights, TOKENS, fault), decoder_events(config, without, TOKENS))


# --- Faults that any event can have ---------------------------------------------------------


@pytest.mark.parametrize("case", ["qwen3", "mistral_window"])
def test_each_kind_is_seen_at_every_decoder_event(case):
    config, weights = tiny_model(case)
    right = decoder_run(config, weights, TOKENS)
    faults = generic_faults(right)
    assert len(faults) == len(right) * len(GENERIC)
    for fault in faults:
        assert_seen(fault, decoder_run(config, weights, TOKENS, fault), right)


def test_each_kind_is_seen_at_every_microgpt_event(deep):
    right = run_name(deep)
    for fault in generic_faults(right):
        assert_seen(fault, run_name(deep, fault), right)


@pytest.mark.parametrize("kind", ["nan", "inf", "wrong_element"])
def test_one_element_alone_is_altered(kind):
    config, weights = tiny_model("llama_gqa")
    right = decoder_run(config, weights, TOKENS)
    for event in ("layer0.mlp.up", "layer1.attn.scores"):
        found = decoder_run(config, weights, TOKENS, generic_fault(kind, event))
        assert (found[event] != right[event]).sum() == 1


def test_size_scales_a_fault():
    config, weights = tiny_model("llama_gqa")
    right = decoder_run(config, weights, TOKENS)
    found = decoder_run(config, weights, TOKENS, generic_fault("scale", "logits", 1.5))
    assert distance(found["logits"], right["logits"]) == pytest.approx(0.5)


def test_alter_reaches_what_follows():
    config, weights = tiny_model("llama_gqa")

    def alter(name, value):
        return 2 * value if name == "layer0.mlp.down" else value

    fault = next(f for f in decoder_faults(config, 0) if f.id == "branch_twice@mlp.residual")
    altered, twice = (
        decoder_run(config, weights, TOKENS, *args, **options)
        for args, options in (((), {"alter": alter}), ((fault,), {}))
    )
    assert_same({"logits": altered["logits"]}, {"logits": twice["logits"]})


# --- Quantised weights ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", SCALES)
def test_each_misreading_changes_the_values(kind):
    blocks = random_blocks(kind, (8, 512), "misread")
    for how in misreadings(kind):
        off = distance(misread(blocks, how), blocks.values())
        print(f"{kind} {how}: {off:.2f}")
        assert off > 0.01


def test_misreadings_of_q4_1_by_hand():
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


@pytest.mark.parametrize(("kind", "missing"), [("Q4_0", 8), ("Q5_0", 16)])
def test_zero_points_are_added_back(kind, missing):
    blocks = random_blocks(kind, (2, 64), "zero")
    scale = blocks.rows.reshape(4, -1)[:, :2].copy().view(np.float16).astype(np.float32)
    for how, steps in (("zero_point_missing", missing), ("zero_point_off_by_one", 1)):
        more = (misread(blocks, how) - blocks.values()).reshape(4, 32)
        np.testing.assert_allclose(more, np.broadcast_to(steps * scale, (4, 32)), rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "event"),
    [
        ("model.embed_tokens.weight", "embed.tok"),
        ("model.layers.0.self_attn.k_proj.weight", "layer0.attn.k"),
        ("model.layers.0.mlp.down_proj.weight", "layer0.mlp.down"),
        ("lm_head.weight", "logits"),
    ],
)
def test_a_misread_matrix_is_first_seen_in_its_product(name, event):
    weights = random_quantised_weights(WIDE, lambda _: "Q4_K", "wide")
    right = decoder_run(WIDE, weights, TOKENS)
    for fault in quantised_faults(WIDE, weights, name):
        assert fault.event == event
        assert_seen(fault, decoder_run(WIDE, weights, TOKENS, fault), right)
