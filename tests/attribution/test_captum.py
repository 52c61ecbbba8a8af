"""Compare attribution by gradients with captum, on tiny models of transformers.

The conductance of captum 0.9 multiplies the change of a value during a step by the gradient at the start of
the step. The tests take the mean of this and of the gradient at the end, which is closer to the integral
(Dhamdhere et al., 2018). Along the reversed path, captum takes the gradient at the other end, and the
opposite change.

captum takes many steps of equal size. We take as many as the errors need. From zeros, the judge integrates
small parts of the path separately, because norms change abruptly there.

In gemma2, a norm follows the MLP. Our MLP is what is added to the residual stream, the output of this norm.
"""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from support.judges import agree
from support.tiny_models import TOKENS
from support.torch_models import written

from microgpt_trace import attribute, load
from microgpt_trace.attribution import gradients

POSITION, BASELINE, STEPS, LAYER, HEADS = 5, 5, 400, 1, 4
ABOUT = {"tokens": TOKENS, "target": 7, "against": 11, "positions": [POSITION]}
CASES = {  # the layers, the modules of heads, MLP and neurons, and our name of the MLP
    "llama": ("layers", "self_attn.o_proj", "mlp", "mlp.down_proj", "mlp.down"),
    "gemma2": ("layers", "self_attn.o_proj", "post_feedforward_layernorm", "mlp.down_proj", "mlp.post_norm"),
    "gpt2": ("h", "attn.c_proj", "mlp", "mlp.c_proj", "mlp.down"),
}


@pytest.fixture(scope="module", params=list(CASES))
def sides(request, tmp_path_factory):
    """Our model, and captum with a function of the token embeddings, the modules and the ends of the path."""
    attr, folder = pytest.importorskip("captum.attr"), tmp_path_factory.mktemp(request.param)
    judge = written(request.param, folder).requires_grad_(False)
    table, scale = judge.get_input_embeddings(), 1.0
    if request.param == "gemma2":
        scale = table.embed_scale

    def difference(embeddings):  # [B, T, C] -> [B]
        row = judge(inputs_embeds=embeddings * scale).logits[:, POSITION]
        return row[:, ABOUT["target"]] - row[:, ABOUT["against"]]

    layers, *modules, name = CASES[request.param]
    layer = judge.base_model.get_submodule(layers)[LAYER]
    context, mlp, hidden = (layer.get_submodule(module) for module in modules)
    x, start = (table.weight[[*ids]][None].requires_grad_() for ids in (TOKENS, [BASELINE] * len(TOKENS)))
    return SimpleNamespace(
        model=load(folder), attr=attr, difference=difference, x=x, start=start, context=context, mlp=mlp,
        hidden=hidden, mlp_name=f"layer{LAYER}.{name}",
    )  # fmt: skip


@pytest.fixture
def all_neurons(monkeypatch):
    monkeypatch.setattr(gradients, "NEURONS", 10_000)


def compare(found, expected, what, off=1e-4):
    expected = expected.detach().numpy()
    print(f"{what}: {found}\nby captum {expected.tolist()}")
    agree(found, expected, rtol=1e-3, atol=off * np.abs(expected).max(), what=what)


def at_tokens(result, name):
    """Return the values of an event at each position."""
    values = {cell.site: cell.mean for cell in result.cells}
    return [values[f"{name}@{position}"] for position in range(len(TOKENS))]


def conductance(sides, module, of_input):
    """Return the mean of captum's conductances with the gradients at both ends of each step: [T, W]"""
    judge = sides.attr.LayerConductance(sides.difference, module)
    options = {"n_steps": STEPS, "method": "riemann_trapezoid", "attribute_to_layer_input": of_input}
    forth, back = (
        judge.attribute(x, start, **options)[0]
        for x, start in ((sides.x, sides.start), (sides.start, sides.x))
    )
    return (forth - back) / 2


def test_gradients_of_tokens_equal_those_of_captum(sides):
    slopes = sides.attr.Saliency(sides.difference).attribute(sides.x, abs=False)[0]
    products = sides.attr.InputXGradient(sides.difference).attribute(sides.x)[0]
    expected = {"gradient": slopes.norm(dim=1), "gradient-x-input": products.sum(1)}
    for method, values in expected.items():
        result = attribute(sides.model, **ABOUT, method=method)
        compare(at_tokens(result, "embed.tok"), values, method)


def test_gradients_of_heads_and_mlps_equal_those_of_captum(sides):
    judge = sides.attr.LayerGradientXActivation(sides.difference, sides.context)
    heads = judge.attribute(sides.x, attribute_to_layer_input=True)[0].reshape(len(TOKENS), HEADS, -1).sum(2)
    mlp = sides.attr.LayerGradientXActivation(sides.difference, sides.mlp).attribute(sides.x)[0].sum(1)
    result = attribute(sides.model, **ABOUT, method="gradient-x-input")
    compare(at_tokens(result, sides.mlp_name), mlp, "MLP")
    for head in range(HEADS):
        compare(at_tokens(result, f"layer{LAYER}.attn.head{head}"), heads[:, head], f"head {head}")


@pytest.mark.parametrize("baseline", [BASELINE, None])
def test_integrated_gradients_of_tokens_equal_those_of_captum(sides, baseline):
    judge, start = sides.attr.IntegratedGradients(sides.difference), sides.start
    shares = np.linspace(0, 1, 41)
    if baseline is None:  # norms change abruptly near zeros
        start, shares = start * 0, [0.0, *np.geomspace(1e-16, 1, 320)]
    points = [start + share * (sides.x - start) for share in map(float, shares)]
    total = sum(judge.attribute(b, a, n_steps=10)[0].sum(1) for a, b in pairwise(points))
    result = attribute(sides.model, **ABOUT, method="integrated", baseline=baseline)
    check = result.prompts[0].check
    if baseline is not None or check.holds:  # from zeros, gemma2 needs more steps, ours and captum's
        compare(at_tokens(result, "embed.tok"), total, f"from {baseline}: {check.claim}", 0.01)


def test_conductances_of_heads_mlps_and_neurons_equal_those_of_captum(sides, all_neurons):
    result = attribute(sides.model, **ABOUT, method="integrated", baseline=BASELINE, neurons=True)
    compare(
        at_tokens(result, sides.mlp_name),
        conductance(sides, sides.mlp, False).sum(1),
        "MLP", 0.01,
    )  # fmt: skip
    heads = conductance(sides, sides.context, True).reshape(len(TOKENS), HEADS, -1).sum(2)
    for head in range(HEADS):
        compare(at_tokens(result, f"layer{LAYER}.attn.head{head}"), heads[:, head], f"head {head}", 0.01)
    own = {int(neuron.site.split(":")[1]): neuron.value for neuron in result.neurons if neuron.layer == LAYER}
    neurons = conductance(sides, sides.hidden, True).sum(0)
    compare([own[channel] for channel in range(len(neurons))], neurons, "neurons", 0.01)
    errors = {neuron.site: neuron.error for neuron in result.neurons if neuron.layer == LAYER}
    for site, error in errors.items():
        channel = int(site.split(":")[1])
        assert abs(own[channel] - neurons[channel]) <= error + 2e-5, site  # captum's steps are coarser
