"""Compare attribution by gradients with captum, on tiny models of transformers.

Two rules of captum 0.9 differ from the formulas of the papers, and therefore from ours:

- The trapezoidal rule of captum gives its n + 1 points the weight 1/(n + 1), and half of it to both ends. The
  n steps of the path have the length 1/n (Sundararajan et al., 2017, section 5). captum's integral is too
  small by the factor n/(n + 1).
- The conductance of captum multiplies the change of a value during a step by the gradient at the start of the
  step. Ours takes the mean of the gradients at both ends, which is closer to the integral (Dhamdhere et al.,
  2018). Along the reversed path, captum takes the gradient at the other end, and the opposite change.

In gemma2, a norm follows the MLP. Our MLP is what is added to the residual stream, the output of this norm.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from support.judges import agree
from support.tiny_models import TOKENS
from support.torch_models import written

from microgpt_trace import attribute, load
from microgpt_trace.attribution import gradients

POSITION, BASELINE, STEPS, LAYER, HEADS = 5, 5, 24, 1, 4
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
def fixed_steps(monkeypatch):
    """Integrate in a fixed number of steps, and return all neurons."""
    for name, value in (("FIRST", STEPS), ("MOST", STEPS), ("NEURONS", 10_000)):
        monkeypatch.setattr(gradients, name, value)


def compare(found, expected, what):
    expected = expected.detach().numpy()
    print(f"{what}: {found}\nby captum {expected.tolist()}")
    agree(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max(), what=what)


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
def test_integrated_gradients_of_tokens_equal_those_of_captum(sides, baseline, fixed_steps):
    judge, start = sides.attr.IntegratedGradients(sides.difference), sides.start
    start = start * 0 if baseline is None else start
    total = judge.attribute(sides.x, start, n_steps=STEPS + 1, method="riemann_trapezoid")[0].sum(1)
    found = at_tokens(attribute(sides.model, **ABOUT, method="integrated", baseline=baseline), "embed.tok")
    compare(found, total * (STEPS + 1) / STEPS, f"from {baseline}")


def test_conductances_of_heads_mlps_and_neurons_equal_those_of_captum(sides, fixed_steps):
    result = attribute(sides.model, **ABOUT, method="integrated", baseline=BASELINE, neurons=True)
    compare(
        at_tokens(result, sides.mlp_name),
        conductance(sides, sides.mlp, False).sum(1),
        "MLP",
    )
    heads = conductance(sides, sides.context, True).reshape(len(TOKENS), HEADS, -1).sum(2)
    for head in range(HEADS):
        compare(at_tokens(result, f"layer{LAYER}.attn.head{head}"), heads[:, head], f"head {head}")
    own = {int(neuron.site.split(":")[1]): neuron.value for neuron in result.neurons if neuron.layer == LAYER}
    neurons = conductance(sides, sides.hidden, True).sum(0)
    compare([own[channel] for channel in range(len(neurons))], neurons, "neurons")
