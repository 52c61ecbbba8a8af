"""The backward pass of any plan, against PyTorch, central differences and microGPT's hand-written passes."""

import numpy as np
import pytest
from support import everything
from support.backward_runs import TARGETS, Run
from support.judges import agree, torch_grad
from support.judges_decoder import rope_frequencies
from support.other_plans import in_float64, odd_plan, random_model, routed_plan
from support.sweeps import in_sweep, some_of
from support.tiny_microgpts import one_name
from support.tiny_models import TOKENS

from microgpt_trace.hooks.bus import HookBus
from microgpt_trace.hooks.event import Replacement
from microgpt_trace.interpreter import backward as generic
from microgpt_trace.microgpt import forward_backward as by_hand
from microgpt_trace.plans import kinds

DECODERS = ("llama_gqa", "llama_mha_bias", "llama_tied", "mistral_window", "qwen2", "qwen3")
OTHER, EVERYTHING = "unlike any", "everything"
ROUTED = "routed"
PLANS = {OTHER: odd_plan(), EVERYTHING: everything.OWN.plan, ROUTED: routed_plan()}


@pytest.fixture
def wide(decoders):
    """A function that returns the model of a case in float64."""
    return lambda case: random_model(PLANS[case]) if case in PLANS else in_float64(decoders(case)[0])


def torch_value(torch, row, w, x, config, tokens):
    """Compute a row's value by PyTorch, given its inputs `x`."""
    F, kind = torch.nn.functional, row.kind
    if isinstance(kind, kinds.Lookup):
        return w[kind.table][list(tokens) if kind.by == "tokens" else range(len(tokens))]
    if isinstance(kind, kinds.Linear):
        if kind.columns:
            return x[0][:, slice(*kind.columns)] @ w[kind.weight][:, slice(*kind.columns)].T
        return F.linear(x[0], w[kind.weight], w.get(kind.bias))
    if isinstance(kind, kinds.Norm):
        heads = x[0].unflatten(-1, (-1, kind.head_dim or x[0].shape[-1]))
        normed = F.layer_norm if kind.centred else F.rms_norm
        y = normed(heads, heads.shape[-1:], eps=kind.eps) * w.get(kind.gain, 1.0)
        return (y + w.get(kind.bias, 0.0)).flatten(-2)
    if isinstance(kind, kinds.Rotation):
        n = kind.channels
        plain = [kind.rope.theta ** (-2 * pair / n) for pair in range(n // 2)], 1.0
        frequencies, factor = plain if config is None else rope_frequencies(config)
        angles = torch.tensor(np.arange(len(tokens))[:, None, None] * np.array(frequencies))
        turning, rest = x[0].unflatten(-1, (-1, kind.head_dim)).split([n, kind.head_dim - n], -1)
        halves = (turning[..., ::2], turning[..., 1::2]) if kind.adjacent else turning.chunk(2, -1)
        turned = torch.complex(*halves) * torch.polar(torch.full_like(angles, factor), angles)
        both = torch.stack((turned.real, turned.imag), -1 if kind.adjacent else -2).flatten(-2)
        return torch.cat([both, rest], -1).flatten(1)
    if isinstance(kind, kinds.Scores):
        q, k = (a.unflatten(-1, (-1, kind.head_dim)).transpose(0, 1) for a in x)
        return q @ k[list(kind.group)].mT * kind.scale
    if isinstance(kind, kinds.Softmax):
        back = torch.arange(len(tokens))[:, None] - torch.arange(len(tokens))
        seen = (back >= 0) & (back < abs(kind.window or len(tokens)))
        if (kind.window or 0) < 0:
            chunks = torch.arange(len(tokens)) // -kind.window
            seen &= chunks[:, None] == chunks
        scores = x[0].masked_fill(~seen, -torch.inf)
        if kind.sinks:
            sinks = w[kind.sinks][:, None, None].expand(*scores.shape[:2], 1)
            return torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]
        return scores.softmax(-1)
    if isinstance(kind, kinds.Context):
        v = x[1].unflatten(-1, (-1, kind.head_dim)).transpose(0, 1)
        return (x[0] @ v[list(kind.group)]).transpose(0, 1).flatten(1)
    if isinstance(kind, kinds.Alibi):
        distance = torch.arange(len(tokens)) - torch.arange(len(tokens))[:, None]
        return x[0] + torch.tensor(kind.slopes)[:, None, None] * distance
    if isinstance(kind, kinds.PositionScale):
        periods = ((torch.arange(len(tokens)) + kind.shift) / kind.period).floor()
        return x[0] * (1 + kind.strength * torch.log1p(periods.double()))[:, None]
    if isinstance(kind, kinds.Activation):
        alphas = [w[name] for name in kind.learned]
        by_name = {
            "sigmoid": torch.sigmoid,
            "SiLU": F.silu,
            "xIELU": lambda a: xielu(a, *alphas),
            "GELU": F.gelu,
            "GELU by tanh": lambda a: F.gelu(a, approximate="tanh"),
        }
        return by_name[kind.function](x[0])
    if isinstance(kind, kinds.Channels):
        return x[0][:, kind.first : kind.first + kind.width]
    if isinstance(kind, kinds.Clip):
        return x[0].clamp(kind.low, kind.high) + kind.plus
    if isinstance(kind, kinds.Choice):
        of_groups = x[0].unflatten(1, (kind.groups, -1)).topk(kind.best).values.sum(-1)
        used = torch.zeros_like(of_groups).scatter(1, of_groups.topk(kind.groups_used).indices, 1) > 0
        allowed = x[0].masked_fill(~used.repeat_interleave(x[0].shape[1] // kind.groups, 1), -torch.inf)
        return allowed.topk(kind.count).indices + 0 * x[0][:, : kind.count]
    if isinstance(kind, kinds.Shift):
        return x[0] + w[kind.bias]
    if isinstance(kind, kinds.Routing):
        own = x[0].gather(1, x[1].long())
        if kind.of_scores:
            return own / own.sum(1, keepdim=True) if kind.normalised else own
        return own.softmax(-1) if kind.normalised else (own - x[0].logsumexp(1, keepdim=True)).exp()
    if isinstance(kind, kinds.Experts):
        parts = x[0].unflatten(1, (x[1].shape[1], -1)) if kind.beside else x[0][:, None]
        matrices, bias = w[kind.weight][x[1].long()], w.get(kind.bias)
        y = (matrices @ parts[..., None])[..., 0] + (0 if bias is None else bias[x[1].long()])
        return (y + 0 * x[1][..., None]).flatten(1)
    if isinstance(kind, kinds.Mixture):
        return (x[0].unflatten(1, (x[1].shape[1], -1)) * x[1][..., None]).sum(1)
    if isinstance(kind, kinds.Scale):
        return x[0] * kind.factor
    if isinstance(kind, kinds.Cap):
        return torch.tanh(x[0] / kind.limit) * kind.limit
    if isinstance(kind, kinds.Probabilities):
        return x[0].softmax(-1)
    return x[0] * x[1] if isinstance(kind, kinds.Multiply) else x[0] + x[1]


def xielu(x, alpha_p, alpha_n):
    """Return xIELU, in the words of Huang and Schlag (2024), with beta 0.5."""
    a, b = alpha_p.exp().log1p(), 0.5 + alpha_n.exp().log1p()
    return (x > 0) * (a * x * x) + (x <= 0) * b * (x.clamp(max=0).expm1() - x) + 0.5 * x


def torch_run(torch, model, config):
    """Return events and parameters by name. Sums are computed from parts, the loss from probabilities."""
    w = {n: torch.tensor(a, requires_grad=True) for n, a in model.arrays.items()}
    events = {}
    for row in model.plan.values():
        if isinstance(row.kind, kinds.Loss):
            value = -events["probs"][range(len(TOKENS) - 1), list(TOKENS[1:])].log().mean()
        elif row.parts:
            value = sum(events[part] for part in row.parts) + w.get(row.kind.bias, 0)
        else:
            value = torch_value(torch, row, w, [events[name] for name in row.inputs], config, TOKENS)
        value.retain_grad()
        events[row.name] = value
    events["loss"].backward()
    return events, w


@pytest.mark.parametrize("case", [*DECODERS, *PLANS])
def test_values_and_gradients_equal_pytorch_for_any_plan(wide, decoders, case):
    torch, model = pytest.importorskip("torch"), wide(case)
    config = None if case in PLANS else decoders(case)[1]
    events, w = torch_run(torch, model, config)
    found = Run(model)
    assert list(found.values) == list(model.plan) == [*events]
    assert sorted(found.gradients) == sorted(events)
    for name, event in events.items():
        agree(found.values[name], event.detach().numpy(), rtol=1e-6, atol=1e-6, what=name)
        agree(found.gradients[name], torch_grad(event), rtol=1e-8, atol=1e-10, what=f"d {name}")
    for name, parameter in w.items():
        agree(found.parameters[name], torch_grad(parameter), rtol=1e-8, atol=1e-10, what=f"d {name}")


@pytest.mark.parametrize("case", ["qwen2", "qwen3"])
def test_gradients_in_float32_are_near_those_in_float64(wide, decoders, case):
    found, expected = Run(decoders(case)[0]), Run(wide(case))
    for name, gradient in (expected.gradients | expected.parameters).items():
        narrow = (found.gradients | found.parameters)[name]
        assert narrow.dtype == np.float32
        agree(narrow, gradient, rtol=1e-3, atol=1e-5 * np.abs(gradient).max(), what=name)


def halved(event, value):
    """Halve every other element and make the rest constant; halve a single number."""
    slope = np.where(np.arange(value.size).reshape(value.shape) % 2, 0.5, 0.0) if value.ndim else 0.5
    slope = np.asarray(slope, value.dtype)
    return Replacement(value * slope + np.asarray(0.1 * (slope == 0), value.dtype), slope)


def loss_of(model, hooks):
    bus = HookBus(list(model.plan.values()))
    before = [bus.subscription(hook, name) for name, hook in hooks]
    tap = bus.begin(before=before).tap("forward")
    return float(generic.forward(model, np.array(TOKENS), TARGETS, tap).loss)


def along(model, name, hooks, step=1e-5, seed=0):
    """Return a random direction and the slope of the loss along it, by central differences."""
    shape = model.plan.shapes(len(TOKENS)).get(name, model.plan.parameters.get(name))
    u = np.random.default_rng(seed).standard_normal(shape)
    losses = []
    for t in (step, -step):
        if name in model.plan:
            losses.append(loss_of(model, [*hooks, (name, lambda e, v, t=t: v + t * u)]))
        else:
            model.arrays[name] += t * u
            losses.append(loss_of(model, hooks))
            model.arrays[name] -= t * u
    return u, (losses[0] - losses[1]) / (2 * step)


def assert_slopes(model, hooks=()):
    found = Run(model, dict(hooks))
    every = found.gradients | found.parameters
    for name in (*model.plan, *model.plan.parameters):
        if name != "probs":  # changed along a direction, it is no longer a probability
            u, slope = along(model, name, list(hooks))
            agree((every[name] * u).sum(), slope, rtol=1e-5, atol=2e-7, what=f"d {name}")


@pytest.mark.parametrize("case", [*map(in_sweep, [OTHER, ROUTED]), EVERYTHING])
def test_slopes_of_every_event_and_parameter(wide, case):
    assert_slopes(wide(case))


EVENTS = ("embed.tok", "layer0.attn.q", "layer0.attn.weights", "layer0.attn.head1", "layer1.attn.out",
          "layer0.mlp.residual", "final.norm", "logits", "probs")  # fmt: skip


@pytest.mark.parametrize("event", some_of(EVENTS, every=4))
def test_slopes_under_a_hook_that_halves_or_replaces_elements(wide, event):
    assert_slopes(wide(OTHER), [(event, halved)])


def test_passes_equal_those_by_hand(case):
    """The passes of training share no code with the plan: their values and gradients in float64."""
    model, inputs = case.model, case.model.read(case.text)
    found, grads = Run(model, None, inputs.tokens, inputs.targets), model.params.copy()
    done = by_hand.forward(model.params, one_name(case.ids, model.config))
    by_hand.backward(model.params, done, grads)
    values = {"embed.norm": done.embed_norm[0], "logits": done.logits, "probs": done.probs, "loss": done.loss}
    for i, (attn_norm, _, _, context, mlp_norm, _, relu) in enumerate(done.layers):
        own = {"attn.norm": attn_norm[0], "attn.context": context, "mlp.norm": mlp_norm[0], "mlp.act": relu}
        values |= {f"layer{i}.{name}": value for name, value in own.items()}
    for name, value in values.items():
        agree(found.values[name], value, rtol=1e-9, atol=1e-11, what=name)
    for name, gradient in grads.items():
        agree(found.parameters[name], gradient, rtol=1e-8, atol=1e-11, what=f"d {name}")


def test_only_requested_parameters_get_gradients_and_only_streams_are_kept(wide, monkeypatch):
    monkeypatch.setattr(generic, "KEPT", 0)
    model, name = wide("llama_gqa"), "layer1.attn_wq"
    done = generic.forward(model, np.array(TOKENS), TARGETS)
    gradients = {}
    generic.backward(done, wanted=[name], give=gradients.__setitem__)
    assert list(gradients) == [name]
    agree(gradients[name], Run(model).parameters[name], what=name)
    assert list(done.run.tap.used) == ["embed.tok"] + [
        f"layer{layer}.{half}.residual" for layer in (0, 1) for half in ("attn", "mlp")
    ]


def test_a_prompt_without_a_target_has_no_gradients(wide):
    gradients = Run(wide("llama_gqa"), None, TOKENS[:1], (None,)).gradients
    assert not any(gradient.any() for name, gradient in gradients.items() if name != "loss")
