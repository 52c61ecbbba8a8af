"""Plans of architectures: their rows, and the structure derived from them."""

import random
from dataclasses import replace

import pytest
from support.other_plans import post_norm_plan

from microgpt_trace.decoder import layered_plan
from microgpt_trace.decoder.architectures.llama import LlamaConfig
from microgpt_trace.decoder.catalogue import (
    examples,
    kind_named,
    known_rows,
    place_of,
    turned_names,
)
from microgpt_trace.microgpt.parameters import Config
from microgpt_trace.plans import microgpt_plan
from microgpt_trace.plans.blocks import RowBuilder
from microgpt_trace.plans.kinds import Add, Linear, Lookup, Norm
from microgpt_trace.plans.plan import Plan, kind_of, layer_of
from microgpt_trace.plans.rope import Rope

BIASES = ("attn_bq", "attn_bk", "attn_bv", "attn_bo", "mlp_bgate", "mlp_bup", "mlp_bdown")


def decoder(architecture, biases, qk_norm, tied, window):
    return LlamaConfig(
        architecture, 3, 16, 4, 2, 4, 24, 31, 64, 1e-5, Rope(1e4), tied, biases, qk_norm,
        window, (0, 2) if window else (),
    )  # fmt: skip


CASES = {
    "plain": (layered_plan, decoder("llama", (), False, False, None)),
    "all biases, tied": (layered_plan, decoder("llama", BIASES, False, True, None)),
    "three biases, norms of q and k, a window": (layered_plan, decoder("llama", BIASES[:3], True, False, 3)),
    "microGPT": (microgpt_plan, Config()),
    "2 layers": (microgpt_plan, Config(n_layer=2, n_head=2)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_rows_read_earlier_rows_and_each_layer_adds_twice_to_the_residual_stream(case):
    architecture, config = case
    plan, earlier = architecture.plan_of(config), set()
    for row in plan.values():
        assert {*row.inputs, *row.parts} <= earlier, row.name
        earlier.add(row.name)
    assert dict(plan.parameters) == config.shapes()
    assert len(plan.layers) == config.n_layer == len(plan.streams) - 1
    rows = [*plan.before, *(row for layer in plan.layers for row in layer), *plan.after]
    assert [row.name for row in rows] == list(plan)
    expected, stream = {}, plan.streams[0]
    for i in range(config.n_layer):
        for half, branch in (("attn", "out"), ("mlp", "down")):
            expected[f"layer{i}.{half}.residual"] = stream, f"layer{i}.{half}.{branch}"
            stream = f"layer{i}.{half}.residual"
    assert plan.residuals == expected
    assert plan.branches == {branch: read for read, branch in expected.values()}
    sums = {row.name for row in plan.sums_of.values()}
    assert sums == {part for name, (_, part) in expected.items() if "attn" in name}


def test_a_norm_after_a_branch_writes_to_the_stream():
    assert post_norm_plan().residuals == {
        "layer0.attn.residual": ("embed.sum", "layer0.attn.post_norm"),
        "layer0.mlp.residual": ("layer0.attn.residual", "layer0.mlp.down"),
    }


def rows_of_a_layer(*layer):
    """Return a plan of one layer. Each row is a name, a kind and the names of its inputs."""
    rows = RowBuilder()
    rows.add("embed.tok", Lookup("wte", "tokens", 3, 2), expr="")
    rows.layer = 0
    for name, kind, *inputs in layer:
        rows.add(name, kind, *inputs, expr="")
    rows.layer = None
    rows.add("logits", Linear("wte", 3), "layer0.mlp.residual", expr="")
    return Plan(rows.rows)


def test_parallel_branches_may_be_added_to_each_other_first():
    plan = rows_of_a_layer(
        ("attn.out", Linear("layer0.attn_wo", 2), "embed.tok"),
        ("mlp.down", Linear("layer0.mlp_wdown", 2), "embed.tok"),
        ("mlp.sum", Add(), "attn.out", "mlp.down"),
        ("mlp.residual", Add(), "embed.tok", "mlp.sum"),
    )
    assert plan.residuals == {"layer0.mlp.residual": ("embed.tok", "layer0.mlp.sum")}
    assert plan.branches == {"layer0.attn.out": "embed.tok", "layer0.mlp.down": "embed.tok"}


def test_the_stream_may_continue_after_a_norm():
    plan = rows_of_a_layer(
        ("attn.out", Linear("layer0.attn_wo", 2), "embed.tok"),
        ("attn.residual", Add(), "embed.tok", "attn.out"),
        ("attn.norm", Norm(1e-5), "attn.residual"),
        ("mlp.down", Linear("layer0.mlp_wdown", 2), "attn.norm"),
        ("mlp.residual", Add(), "attn.norm", "mlp.down"),
    )
    assert plan.residuals["layer0.mlp.residual"] == ("layer0.attn.norm", "layer0.mlp.down")


def test_events_in_heads_and_events_that_rope_turns():
    plan = decoder("llama", BIASES, True, True, None).plan
    attention = [row.name for row in plan.layers[0] if row.stage == "attention"]
    in_heads = [name.removeprefix("layer0.attn.") for name in attention if name in plan.heads]
    assert in_heads == ["q", "k", "v", "q_norm", "k_norm", "q_rope", "k_rope", "context"]
    turned = [row.name.removeprefix("layer0.attn.") for row in plan.behind("layer0.attn.q_rope")]
    assert turned == ["q_rope", "q_norm", "q"]
    events = {f"attn.{n}{suffix}" for n in "qk" for suffix in ("", "_norm", "_rope")}
    latent = {"attn.q_pe", "attn.k_pe", "attn_wq_pe", "attn_wk_pe", "attn_bk_pe"}
    assert turned_names() - latent == events | {f"attn_{letter}{n}" for n in "qk" for letter in "wb"}


def test_rows_are_compared_by_identity():
    plan = microgpt_plan.plan_of(Config())
    row = plan["layer0.attn.residual"]
    assert row == row
    assert row != replace(row, inputs=row.inputs[::-1])
    assert len({row, replace(row)}) == 2


def test_a_name_that_only_resembles_a_layer_has_no_layer():
    names = ("layerx.q", "layer-1.q", "layer1_0.q", "layer٣.q", "layer.q", "layernorm")
    assert [layer_of(name) for name in names] == [None] * 6


def test_the_merged_order_of_events_holds_for_every_architecture():
    """Layers of one architecture may have different rows, so each layer is compared alone."""
    for plan in examples():
        outside = [row for row in plan.values() if row.layer is None]
        for rows in (outside, *plan.layers):
            names = list(dict.fromkeys(kind_of(row.name) for row in rows))
            assert [name for name in known_rows() if name in names] == names


def test_events_of_several_layers_are_sorted_by_computation():
    layer = ["attn.norm", "attn.v", "attn.q_rope", "attn.head1", "attn.out", "mlp.gate", "mlp.residual"]
    layers = [f"layer{i}.{name}" for i in (0, 2, 10) for name in layer]
    sequence = ["embed.tok", "embed.norm", *layers, "final.norm", "logits", "loss"]
    shuffled = random.Random(3).sample(sequence, len(sequence))
    assert sorted(shuffled, key=place_of) == sequence


def test_only_an_event_has_a_kind():
    assert kind_named("layer0.attn.something") is None
    assert type(kind_named("layer3.attn.head2")).__name__ == "Linear"
