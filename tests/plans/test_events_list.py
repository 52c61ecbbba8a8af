"""The complete list of the events of "emma", in order of computation."""

import math

from microgpt_trace import trace

STREAM, HEADS, HIDDEN, VOCAB = (5, 16), (4, 5, 5), (5, 64), (5, 27)

FORWARD = [
    ("embed.tok", "embedding", None, STREAM, "tok_emb = one_hot(tokens) @ wte"),
    ("embed.pos", "embedding", None, STREAM, "pos_emb = one_hot(pos) @ wpe"),
    ("embed.sum", "embedding", None, STREAM, "x = tok_emb + pos_emb"),
    ("embed.norm", "embedding", None, STREAM, "x = RMSNorm(x)"),
    ("layer0.attn.norm", "attention", 0, STREAM, "x_n = RMSNorm(x) [pre-attn]"),
    ("layer0.attn.q", "attention", 0, STREAM, "q = x_n @ wq"),
    ("layer0.attn.k", "attention", 0, STREAM, "k = x_n @ wk"),
    ("layer0.attn.v", "attention", 0, STREAM, "v = x_n @ wv"),
    ("layer0.attn.scores", "attention", 0, HEADS, "scores = q @ k.T / sqrt(4)"),
    ("layer0.attn.weights", "attention", 0, HEADS, "weights = softmax(scores + mask)"),
    ("layer0.attn.context", "attention", 0, STREAM, "context = weights @ v"),
    ("layer0.attn.head0", "attention", 0, STREAM, "head_0_out @ wo[0]"),
    ("layer0.attn.head1", "attention", 0, STREAM, "head_1_out @ wo[1]"),
    ("layer0.attn.head2", "attention", 0, STREAM, "head_2_out @ wo[2]"),
    ("layer0.attn.head3", "attention", 0, STREAM, "head_3_out @ wo[3]"),
    ("layer0.attn.out", "attention", 0, STREAM, "attn_out = context @ wo"),
    ("layer0.attn.residual", "attention", 0, STREAM, "x = x_res + attn_out [residual]"),
    ("layer0.mlp.norm", "mlp", 0, STREAM, "x_n = RMSNorm(x) [pre-MLP]"),
    ("layer0.mlp.up", "mlp", 0, HIDDEN, "h = x_n @ w_fc1 [up project]"),
    ("layer0.mlp.act", "mlp", 0, HIDDEN, "h = ReLU(h)"),
    ("layer0.mlp.down", "mlp", 0, STREAM, "mlp_out = h @ w_fc2 [down project]"),
    ("layer0.mlp.residual", "mlp", 0, STREAM, "x = x_res + mlp_out [residual]"),
    ("logits", "head", None, VOCAB, "logits = x @ w_lm"),
    ("probs", "head", None, VOCAB, "probs = softmax(logits)"),
    ("loss", "head", None, (), "loss = mean(-log probs[target])"),
]

HEADS_BACK = [f"layer0.attn.head{h}" for h in range(4)]  # in forward order
BACK = [name for name, *_ in FORWARD[::-1] if name not in HEADS_BACK]
BACKWARD = [*BACK[:10], *HEADS_BACK, *BACK[10:]]

PARAMETERS = [
    ("wte", "embedding", None, (27, 16)),
    ("wpe", "embedding", None, (16, 16)),
    ("lm_head", "head", None, (27, 16)),
    ("layer0.attn_wq", "attention", 0, (16, 16)),
    ("layer0.attn_wk", "attention", 0, (16, 16)),
    ("layer0.attn_wv", "attention", 0, (16, 16)),
    ("layer0.attn_wo", "attention", 0, (16, 16)),
    ("layer0.mlp_fc1", "mlp", 0, (64, 16)),
    ("layer0.mlp_fc2", "mlp", 0, (16, 64)),
]

SHAPES = {name: shape for name, _, _, shape, _ in FORWARD} | {name: shape for name, _, _, shape in PARAMETERS}


def test_every_event_of_a_step_has_its_phase_stage_shape_and_statistics(emma):
    traced = list(trace(emma, step=True))
    forward, backward, update = traced[:25], traced[25:59], traced[59:]
    assert [(e.name, e.stage, e.layer, e.shape, e.expr) for e in forward] == FORWARD
    assert [e.name for e in backward] == [*BACKWARD, *(name for name, *_ in reversed(PARAMETERS))]
    assert [e.shape for e in backward] == [SHAPES[e.name] for e in backward]
    assert [(e.name, e.stage, e.layer, e.shape) for e in update] == PARAMETERS
    phases = ["forward"] * 25 + ["backward"] * 34 + ["update"] * 9
    assert [(e.seq, e.phase) for e in traced] == list(enumerate(phases))
    for event in traced:
        causal = event.name.endswith((".scores", ".weights"))
        assert event.stats.count == (4 * 15 if causal else math.prod(event.shape)), event.name
        assert event.dtype == "float32"
    assert [event.expr for event in backward if event.name == "logits"] == ["d loss / d logits"]
    assert update[0].expr == "update of wte"


def test_a_selection_has_exactly_the_requested_events(emma):
    traced = trace(emma, names=["layer0.attn.head*", "logits"], backward=True)
    chosen = [f"layer0.attn.head{h}" for h in range(4)]
    assert [e.name for e in traced] == [*chosen, "logits", "logits", *chosen]
    assert len(traced) == 10


def test_seconds_are_measured_only_on_request(emma):
    assert {e.seconds for e in trace(emma)} == {None}
    assert all(e.seconds > 0 for e in trace(emma, time=True, backward=True))
