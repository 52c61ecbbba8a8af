"""Formulas on one line, for an element of each kind of operation and of gradient."""

import numpy as np
import pytest
from support.tiny_models import TOKENS

from microgpt_trace import init
from microgpt_trace.explaining.explain import explain_in, keep_run

MICROGPT = {
    "embed.tok[3,5]": "tok[3,5] = wte[13,5]",
    "embed.sum[3,5]": "sum[3,5] = embed.tok[3,5] + embed.pos[3,5]",
    "layer0.attn.norm[3,5]": (
        "norm[3,5] = embed.norm[3,5] / rms, rms = sqrt(mean of embed.norm[3,c]^2 + 1e-05), c=0..15"
    ),
    "layer0.attn.q[3,5]": "q[3,5] = sum of norm[3,c] × attn_wq[5,c], c=0..15",
    "layer0.attn.scores[1,3,2]": "scores[1,3,2] = sum of q[3,c] × k[2,c] / sqrt(4), c=4..7",
    "layer0.attn.weights[1,3,2]": (
        "weights[1,3,2] = exp(scores[1,3,2]) / sum of exp(scores[1,3,j]) for the keys j=0..3"
    ),
    "layer0.attn.weights[1,2,3]": "weights[1,2,3] = 0: the query does not see the key",
    "layer0.attn.context[3,5]": "context[3,5] = sum of weights[1,3,j] × v[j,5] for the keys j=0..3",
    "layer0.attn.head1[3,5]": "head1[3,5] = sum of context[3,c] × attn_wo[5,c], c=4..7",
    "layer0.mlp.act[3,5]": "act[3,5] = max(up[3,5], 0)",
    "layer0.mlp.residual[3,5]": "residual[3,5] = layer0.attn.residual[3,5] + layer0.mlp.down[3,5]",
    "probs[3,5]": "probs[3,5] = exp(logits[3,5]) / sum of exp(logits[3,j]) for all 27 tokens j",
    "loss": "loss = sum of -log(probs[p,target at p]) / 5 for the positions p whose next token is known",
}
GRADIENTS = {
    "loss": "d loss = 1",
    "probs[3,1]": "d probs[3,1] = -1/5 × 1/probs[3,1]",
    "probs[3,2]": "d probs[3,2] = 0: the loss reads only the probability of the target",
    "logits[3,1]": "d logits[3,1] = probs[3,1] / 5 - 1/5",
    "logits[3,2]": "d logits[3,2] = probs[3,2] / 5",
    "layer0.mlp.up[3,5]": (
        "d up[3,5] = d layer0.mlp.act[3,5] × slope, slope = 1 if layer0.mlp.up[3,5] is above 0, else 0"
    ),
    "layer0.attn.head1[3,5]": "d head1[3,5] = d out[3,5]",
    "layer0.attn.q[3,5]": "d q[3,5] = sum of d scores[1,3,j] × k[j,5] / sqrt(4) for the keys j=0..3",
    "layer0.attn.v[3,5]": "d v[3,5] = sum of weights[1,j,3] × d context[j,5] for the queries j=3..4",
    "layer0.attn.scores[1,3,2]": (
        "d scores[1,3,2] = weights[1,3,2] × d weights[1,3,2] - weights[1,3,2] × (sum of "
        "weights[1,3,j] × d weights[1,3,j]) for the keys j=0..3"
    ),
    "embed.sum[3,5]": (
        "d sum[3,5] = d embed.norm[3,5] / rms - embed.norm[3,5] × (mean of d embed.norm[3,c] × "
        "embed.norm[3,c]) / rms, rms = sqrt(mean of embed.sum[3,c]^2 + 1e-05), c=0..15"
    ),
    "layer0.attn_wq[5,3]": "d attn_wq[5,3] = sum of d q[p,5] × norm[p,3] for the positions p=0..4",
    "wte[13,3]": "d wte[13,3] = sum of d embed.tok[p,3] for the positions p that have the token",
    "wte[25,3]": "d wte[25,3] = 0: the text does not read this row",
    "wpe[3,5]": "d wpe[3,5] = d embed.pos[3,5]",
    "wpe[7,5]": "d wpe[7,5] = 0: the text does not read this row",
}
DECODERS = {
    "llama_gqa": {
        "layer0.attn.q_rope[3,25]": "q_rope[3,25] = q[3,25] × cos(3 × 0.1) - q[3,29] × sin(3 × 0.1)",
        "layer0.attn.q_rope[3,29]": "q_rope[3,29] = q[3,29] × cos(3 × 0.1) + q[3,25] × sin(3 × 0.1)",
        "layer0.attn.scores[3,5,2]": (
            "scores[3,5,2] = sum of q_rope[5,c] × k_rope[2,c - 16] / sqrt(8), c=24..31"
        ),
        "layer0.attn.context[3,17]": "context[3,17] = sum of weights[2,3,j] × v[j,9] for the keys j=0..3",
        "layer0.mlp.act[0,1]": "act[0,1] = gate[0,1] × sigmoid, sigmoid = 1/(1 + exp(-gate[0,1]))",
        "layer0.mlp.hidden[0,1]": "hidden[0,1] = layer0.mlp.act[0,1] × layer0.mlp.up[0,1]",
    },
    "qwen2_window": {
        "layer1.attn.context[5,1]": "context[5,1] = sum of weights[0,5,j] × v[j,1] for the keys j=3..5",
    },
    "qwen3": {
        "layer0.attn.q_norm[3,38]": (
            "q_norm[3,38] = q[3,38] / rms × attn_q_norm[2], rms = sqrt(mean of q[3,c]^2 + 1e-05), c=36..47"
        ),
    },
    "llama_mha_bias": {
        "layer0.attn.k[4,17]": "k[4,17] = sum of norm[4,c] × attn_wk[17,c] + attn_bk[17], c=0..31",
    },
    "gpt2": {
        "layer0.mlp.norm[3,5]": (
            "norm[3,5] = (residual[3,5] - mean) / rms × mlp_norm[5] + mlp_bnorm[5], mean = mean of "
            "residual[3,c], rms = sqrt(mean of (residual[3,c] - mean)^2 + 1e-05), c=0..31"
        ),
        "layer0.mlp.act[0,1]": "act[0,1] = up[0,1]*(1 + tanh(sqrt(2/pi)*(up[0,1] + 0.044715*up[0,1]**3)))/2",
    },
}


@pytest.fixture(scope="module")
def run():
    return keep_run(init(), "emma", backward=True)


def test_events_and_gradients_of_a_microgpt(run):
    assert {element: explain_in(run, element).formula for element in MICROGPT} == MICROGPT
    assert {element: explain_in(run, element, backward=True).formula for element in GRADIENTS} == GRADIENTS


@pytest.mark.parametrize("case", DECODERS)
def test_events_of_decoders(decoders, gpt2, case):
    model = gpt2(case)[1] if case == "gpt2" else decoders(case)[0]
    run = keep_run(model, tokens=TOKENS)
    assert {element: explain_in(run, element).formula for element in DECODERS[case]} == DECODERS[case]


def test_a_replaced_part_is_added_up_and_passes_no_gradient():
    model = init()
    with model.hooks.subscribe(lambda event, value: value * 0, "layer0.attn.head1"):
        run = keep_run(model, "emma", backward=True)
        out, context = (explain_in(run, f"layer0.attn.{name}[3,5]", backward=back)
                        for name, back in (("out", False), ("context", True)))  # fmt: skip
    assert out.formula == "out[3,5] = " + " + ".join(f"layer0.attn.head{h}[3,5]" for h in range(4))
    assert context.formula == "d context[3,5] = 0 by way of layer0.attn.head1, because a hook replaced it"


def test_a_value_that_a_hook_put_behind_the_mask_is_in_the_formula():
    model = init()

    def leak(event, value):
        return value + np.float32(0.1)

    with model.hooks.subscribe(leak, "layer0.attn.weights"):
        explanation = explain_in(keep_run(model, "emma"), "layer0.attn.context[3,5]")
    assert explanation.formula == "context[3,5] = sum of weights[1,3,j] × v[j,5] for the keys j=0..4"
    assert explanation.holds
    assert explanation.steps[0].count == 5
