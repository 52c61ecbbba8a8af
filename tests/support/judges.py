"""Independent references for microGPT: scalars with `math` alone, PyTorch, and central differences.

They do not use the package's mathematics. Parameters are named [out, in] matrices.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest

EPS = 1e-5


def agree(found, expected, *, rtol=1e-9, atol=1e-12, what=""):
    """Check that values are close, or print both numbers where they differ most."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, f"{what}: expected the shape {expected.shape}, found {found.shape}"
    close = np.isclose(found, expected, rtol=rtol, atol=atol, equal_nan=True)
    if not close.all():
        gap = np.where(close, 0.0, np.nan_to_num(np.abs(found - expected), nan=np.inf))
        at = np.unravel_index(gap.argmax(), gap.shape)
        pytest.fail(f"{what}{[int(i) for i in at]}: expected {expected[at]!r}, found {found[at]!r}")


def central_difference(loss_at: Callable[[float], float], h: float = 1e-6) -> float:
    """Return the central difference of a function of one number around 0."""
    return (loss_at(h) - loss_at(-h)) / (2 * h)


def _matvec(w, x):
    return [math.fsum(a * b for a, b in zip(row, x, strict=True)) for row in w]


def _rmsnorm(x):
    rms = math.sqrt(math.fsum(a * a for a in x) / len(x) + EPS)
    return [a / rms for a in x]


def softmax_of(row):
    top = max(row)
    e = [math.exp(a - top) for a in row]
    return [a / math.fsum(e) for a in e]


def _plus(a, b):
    return [x + y for x, y in zip(a, b, strict=True)]


def scalar_forward(weights, tokens, n_head, n_layer):
    """Return the logits of a name as lists of floats, one position at a time with a KV cache."""
    w = {name: array.tolist() for name, array in weights.items()}
    keys, values = [[] for _ in range(n_layer)], [[] for _ in range(n_layer)]
    rows = []
    for position, token in enumerate(tokens):
        x = _rmsnorm(_plus(w["wte"][token], w["wpe"][position]))
        for i in range(n_layer):
            x = _plus(x, _scalar_attention(_rmsnorm(x), w, i, keys[i], values[i], n_head))
            hidden = [max(0.0, a) for a in _matvec(w[f"layer{i}.mlp_fc1"], _rmsnorm(x))]
            x = _plus(x, _matvec(w[f"layer{i}.mlp_fc2"], hidden))
        rows.append(_matvec(w["lm_head"], x))
    return rows


def _scalar_attention(x, w, i, keys, values, n_head):
    q = _matvec(w[f"layer{i}.attn_wq"], x)
    keys.append(_matvec(w[f"layer{i}.attn_wk"], x))
    values.append(_matvec(w[f"layer{i}.attn_wv"], x))
    width = len(q) // n_head
    context = []
    for start in range(0, len(q), width):
        head = range(start, start + width)
        scores = [math.fsum(q[c] * k[c] for c in head) / math.sqrt(width) for k in keys]
        shares = softmax_of(scores)
        context += [math.fsum(s * v[c] for s, v in zip(shares, values, strict=True)) for c in head]
    return _matvec(w[f"layer{i}.attn_wo"], context)


def scalar_loss(rows, targets):
    losses = []
    for row, target in zip(rows, targets, strict=True):
        top = max(row)
        losses.append(top + math.log(math.fsum(math.exp(a - top) for a in row)) - row[target])
    return math.fsum(losses) / len(losses)


def torch_run(weights, tokens, targets, config, replaced=None, dtype="float64"):
    """Run forward and backward in PyTorch. Return (events, parameters) by our names, gradients in `.grad`.

    `replaced` maps events to constants, or to functions of the tensor. `events` keeps the tensor before it is
    replaced. A constant gives it no gradient.
    """
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    kind = getattr(torch, dtype)
    w = {n: torch.tensor(np.array(a), dtype=kind, requires_grad=True) for n, a in weights.items()}
    events = {}

    def emit(name, value):
        if value.requires_grad:
            value.retain_grad()
        events[name] = value
        if replaced is not None and name in replaced:
            if callable(replaced[name]):
                return replaced[name](value)
            return torch.tensor(replaced[name], dtype=kind)
        return value

    def norm(x):
        return F.rms_norm(x, x.shape[-1:], eps=EPS)

    def split(x):  # [T, C] -> [H, T, D]
        return x.reshape(len(tokens), config.n_head, -1).transpose(0, 1)

    tok = emit("embed.tok", w["wte"][list(tokens)])
    pos = emit("embed.pos", w["wpe"][: len(tokens)])
    x = emit("embed.norm", norm(emit("embed.sum", tok + pos)))
    below = torch.ones(len(tokens), len(tokens)).tril().bool()
    for i in range(config.n_layer):
        at = f"layer{i}.attn."
        x_n = emit(at + "norm", norm(x))
        q, k, v = (emit(at + n, x_n @ w[f"layer{i}.attn_w{n}"].T) for n in "qkv")
        scores = emit(at + "scores", split(q) @ split(k).mT / config.head_dim**0.5)
        attn = emit(at + "weights", scores.masked_fill(~below, -torch.inf).softmax(-1))
        context = emit(at + "context", (attn @ split(v)).transpose(0, 1).reshape(len(tokens), -1))
        shares = context.split(config.head_dim, 1)
        projections = w[f"layer{i}.attn_wo"].split(config.head_dim, 1)
        heads = [emit(f"{at}head{h}", shares[h] @ projections[h].T) for h in range(config.n_head)]
        out = emit(at + "out", sum(heads))
        x = emit(at + "residual", x + out)
        at = f"layer{i}.mlp."
        up = emit(at + "up", emit(at + "norm", norm(x)) @ w[f"layer{i}.mlp_fc1"].T)
        down = emit(at + "down", emit(at + "act", up.relu()) @ w[f"layer{i}.mlp_fc2"].T)
        x = emit(at + "residual", x + down)
    logits = emit("logits", x @ w["lm_head"].T)
    probs = emit("probs", logits.softmax(-1))
    loss = emit("loss", -probs[range(len(targets)), list(targets)].log().mean())
    if loss.requires_grad:
        loss.backward()
    return events, w


def torch_grad(tensor):
    """Return the gradient as an array, zero if the loss does not depend on the tensor."""
    return np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy()
