"""Compare conductances with captum, on tiny models of transformers. Other tests judge the other methods.

The conductance of captum 0.9 multiplies the change of a value during a step by the gradient at the start of
the step. The tests take the mean of this and of the gradient at the end, which is closer to the integral
(Dhamdhere et al., 2018). Along the reversed path, captum takes the gradient at the other end, and the
opposite change.

captum takes many steps of equal size. We take as many as the errors need.

In gemma2, a norm follows the MLP. Our MLP is what is added to the residual stream, the output of this norm.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from support.judges import agree
from support.sweeps import in_sweep
from support.tiny_models import TOKENS
from support.torch_models import written

from microgpt_trace import attribute, load
from microgpt_trace.attribution import gradient_attribution

POSITION, BASELINE, STEPS, LAYER, HEADS = 5, 5, 2000, 1, 4
ABOUT = {"tokens": TOKENS, "target": 7, "against": 11, "positions": [POSITION]}
CASES = {  # the layers, the modules of heads, MLP and neurons, and our name of the MLP
    "llama": ("layers", "self_attn.o_proj", "mlp", "mlp.down_proj", "mlp.down"),
    "gemma2": ("layers", "self_attn.o_proj", "post_feedforward_layernorm", "mlp.down_proj", "mlp.post_norm"),
    "gpt2": ("h", "attn.c_proj", "mlp", "mlp.c_proj", "mlp.down"),
}


@pytest.fixture(scope="module", params=["llama", in_sweep("gemma2"), in_sweep("gpt2")])
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
    monkeypatch.setattr(gradient_attribution, "NEURONS", 10_000)


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
