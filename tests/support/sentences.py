"""An independent reading of the sentences of a trace: numbers and quantifiers are taken out of the words
and held against the arrays. Nothing of the product but the arrays is asked."""

import math
import re
from itertools import pairwise

import numpy as np

NUMBER = r"(-?[\d,]*\.?\d+(?:e[-+]?\d+)?)"
PERCENT = r"(-?[\d,]*\.?\d+)%"


def wide(array):
    return np.asarray(array, np.float64)


def rms(x):
    return np.sqrt(np.square(wide(x)).mean(-1))


def l2(x):
    return float(np.sqrt(np.square(wide(x)).sum()))


def norms(x):
    return np.sqrt(np.square(wide(x)).sum(-1))


def number(text):
    return float(text.replace(",", ""))


def unit(text):
    """Half a unit of the last digit that is printed."""
    mantissa, _, exponent = text.replace(",", "").partition("e")
    digits = len(mantissa.partition(".")[2])
    whole = mantissa.lstrip("-").partition(".")[0]
    if not digits and not exponent and abs(number(text)) >= 1e4:
        digits = 0
    return 0.5 * 10.0 ** (int(exponent or 0) - digits) if whole or digits else 0.5


def says(text, value, what="", factor=1.0):
    """The printed number is the value, rounded as printed; float32 may differ in its last digits."""
    found, slack = number(text), unit(text) * 1.001 + 3e-5 * abs(value * factor) + 1e-9
    assert abs(found - value * factor) <= slack, f"{what}: says {text}, measured {value * factor!r}"


def bounds(text, value, what="", factor=1.0):
    """The printed number is the value rounded up, as printed."""
    found, slack = number(text), 3e-5 * abs(value * factor) + 1e-7 * factor  # float32
    above = found - value * factor
    assert -slack <= above <= 2.002 * unit(text) + slack, f"{what}: says {text}, measured {value * factor!r}"


def match(pattern, text):
    found = re.search(pattern, text)
    assert found, f"no {pattern!r} in {text!r}"
    return found


def says_span(text, values, what):
    """ "a" or "a to b": the least and the largest of the values."""
    low, _, high = text.partition(" to ")
    says(low, min(values), what)
    says(high or low, max(values), what)


SPAN = rf"{NUMBER[1:-1]}(?: to {NUMBER[1:-1]})?"


# --- microGPT --------------------------------------------------------------------------------------


def read_microgpt(traced, layers, eps=1e-5):
    """Hold every sentence of a trace that kept all its arrays against these."""
    for insight in traced.insights:
        if insight.text.startswith("Not evaluated: the run holds"):
            assert any(not np.isfinite(wide(a)).all() for a in traced.arrays.values())
            continue
        _MICROGPT[insight.id](insight, traced, layers, eps)


def _norm_inputs(traced, layers):
    """The norms by name with what goes in and what comes out."""
    pairs = {"embed.norm": traced["embed.sum"]}
    stream = traced["embed.norm"]
    for i in range(layers):
        pairs[f"layer{i}.attn.norm"] = stream
        pairs[f"layer{i}.mlp.norm"] = traced[f"layer{i}.attn.residual"]
        stream = traced[f"layer{i}.mlp.residual"]
    return {name: (rms(x), rms(traced[name])) for name, x in pairs.items()}


def _read_rmsnorm(insight, traced, layers, eps):
    text, rows = insight.text, _norm_inputs(traced, layers)
    found = [l2(traced[name]) for name in rows]
    if "does not hold" in text:
        name = match(r"rows after (\S+) are not", text)[1]
        given, got = rows[name]
        assert not np.allclose(got, given / np.sqrt(given**2 + eps), atol=1e-3) or "leave the range" in text
        return
    width, count = traced["embed.sum"].shape[1], len(traced["embed.sum"])
    least = min(float(got.min()) for _, got in rows.values())
    says_span(match(rf"L2 = ({SPAN}) after", text)[1], found, "L2 after the norms")
    says(match(rf"\({NUMBER} before the first", text)[1], l2(traced["embed.sum"]), "L2 before")
    assert f"the {len(rows)} norms" in text
    if insight.holds:
        assert "every row to RMS 1" in text
        assert least >= 0.99
        assert max(float(got.max()) for _, got in rows.values()) <= 1.001
        says(match(rf"√\({count}·{width}\) = {NUMBER};", text)[1], math.sqrt(count * width), "L2 of the rows")
        bounds(match(rf"eps takes at most {PERCENT} of a row", text)[1], max(1 - least, 0.0), "eps", 100)
    else:
        name, said = match(rf"one after (\S+) has RMS {NUMBER}, for", text).groups()
        says(said, float(rows[name][1].min()), "the smallest RMS")
        assert float(rows[name][1].min()) <= least * 1.001
        assert number(said) < 1


def _read_attention(insight, traced, layers, eps):
    text = insight.text
    before = [l2(traced["embed.norm"]), *(l2(traced[f"layer{i}.mlp.residual"]) for i in range(layers - 1))]
    out = [l2(traced[f"layer{i}.attn.out"]) for i in range(layers)]
    after = [l2(traced[f"layer{i}.attn.residual"]) for i in range(layers)]
    heads = [l2(a) for (_, name), a in traced.arrays.items() if ".attn.head" in name]
    shares = [o / b if b else (math.inf if o else 0.0) for o, b in zip(out, before, strict=True)]
    wrote, whole = match(rf"the heads? writes? (.*),? into a residual stream of L2 ({SPAN});", text).groups()
    says_span(whole, before, "L2")
    if "each" in wrote:
        assert len(heads) > len(out)
        each, together = match(rf"L2 ({SPAN}) each, together ({SPAN})", wrote).groups()
        says_span(each, heads, "L2")
        says_span(together, out, "L2")
    else:
        assert len(heads) == len(out)
        says_span(match(rf"L2 ({SPAN})", wrote)[1], out, "L2")
    moves = re.findall(rf"{NUMBER} → {NUMBER}", text)
    assert len(moves) == layers
    for (b, a), x, y in zip(moves, before, after, strict=True):
        says(b, x, "before")
        says(a, y, "after")
    top = max(shares)
    if insight.holds:
        assert "is a small perturbation" in text
        printed = match(rf"It adds {PERCENT} of the stream's L2", text)[1]
        assert number(printed) <= 25
        (says if layers == 1 or top > 0.025 else bounds)(printed, top, "share", 100)
        assert layers == 1 or f"at most, in layer {shares.index(top)}." in text
    elif "stream of zeros" in text:
        assert top == math.inf
    else:
        layer, printed, limit = match(
            rf"In layer (\d+) it writes {PERCENT} of .*be {PERCENT} or less", text
        ).groups()
        assert number(printed) > number(limit) >= 25
        says(printed, shares[int(layer)], "share", 100)
        assert shares[int(layer)] >= top * (1 - 1e-6)


KINDS = {"zeroes few units": (-1, 20), "leaves a sparse": (20, 80), "silences most units": (80, 101)}


def _read_relu(insight, traced, layers, eps):
    text = insight.text
    zeros = [float((traced[f"layer{i}.mlp.act"] == 0).mean()) * 100 for i in range(layers)]
    said = dict(enumerate(re.findall(rf"{PERCENT} of the \d+ hidden units are zero", text)))
    assert len(said) == layers
    for i, printed in said.items():
        says(printed, zeros[i], "zeros")
        up, act = traced[f"layer{i}.mlp.up"], traced[f"layer{i}.mlp.act"]
        part = text.split(" of the ")[i + 1]
        numbers = match(
            rf"L2 {NUMBER} → {NUMBER}, range \[{NUMBER}, {NUMBER}\] → \[{NUMBER}, {NUMBER}\]", part
        ).groups()
        for words, value in zip(
            numbers, (l2(up), l2(act), up.min(), up.max(), act.min(), act.max()), strict=True
        ):
            says(words, float(value), "up and act")
    lead = text.split(".")[0] if layers == 1 else text[: text.index(". Layer 0: ")]
    if layers == 1:
        lead = text.split(":")[0] + f" in layer 0 ({said[0]}%)"
    placed = {}
    for part in lead.removeprefix("ReLU ").split("; "):
        kind = next(kind for kind in KINDS if part.startswith(kind))
        for layer, printed in re.findall(rf"layer (\d+) \({PERCENT}\)", part):
            placed[int(layer)] = kind
            low, high = KINDS[kind]
            assert low <= number(printed) <= high, f"{kind}: {printed} %"
            assert low - 1e-9 <= zeros[int(layer)] <= high, f"{kind}: {zeros[int(layer)]} %"
            assert "sparse" in kind or number(printed) not in (20, 80)
    assert sorted(placed) == list(range(layers)), "every layer is spoken of"
    assert insight.holds is all("sparse" in kind for kind in placed.values())


def _read_predictions(insight, traced, layers, eps):
    text, probs = insight.text, wide(traced["probs"])
    size, targets = probs.shape[1], [p.target.token for p in traced.predictions]
    if text.startswith("Not evaluated"):
        assert np.abs(probs.sum(1) - 1).max() > 9e-4 or probs.min() < 0
        return
    losses = [p.loss for p in traced.predictions]
    mean, count = float(np.mean(losses)), len(targets)
    said = match(
        rf"Mean loss {NUMBER} over (\d+) predictions? against ln {size} = {NUMBER} of .* P = {NUMBER} "
        rf"against 1/{size} = {NUMBER}\. .* would have {NUMBER} ± {NUMBER} \(standard deviation over (\d+) ",
        text,
    ).groups()  # fmt: skip
    assert int(said[1]) == int(said[7]) == count
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = np.where(probs > 0, -np.log(probs), 0)
    own = (probs * surprise).sum(1)
    variance = (probs * (surprise - own[:, None]) ** 2).sum(1)
    measured = (
        mean,
        math.log(size),
        math.exp(-mean),
        1 / size,
        own.mean(),
        math.sqrt(variance.sum()) / count,
    )
    for words, value in zip((said[0], *said[2:7]), measured, strict=True):
        says(words, float(value), "predictions")
    gain = count * (math.log(size) - mean)
    if "untrained" in text:
        assert insight.holds is None
        assert not re.search("learned something|[Ww]orse|[Bb]etter|confident", text)
        return
    assert "learned" not in text
    way = match(r"(10\^)?([\d,.]+) times (as|less) likely", text)
    assert way[3] == ("as" if gain >= 0 else "less")
    ratio = float(way[2]) * math.log(10) if way[1] else math.log(number(way[2]))
    assert abs(ratio - abs(gain)) <= 0.06 * math.log(10), (ratio, gain)
    if "does not tell" in text:
        limit = number(match(rf"likely, {NUMBER} would count", text)[1])
        assert number(way[2]) < limit
        assert abs(gain) < math.log(20)
    else:
        assert abs(gain) >= math.log(20)
        assert text.startswith("Better" if gain > 0 else "Worse")


_MICROGPT = {
    "rmsnorm": _read_rmsnorm, "attention": _read_attention, "relu": _read_relu,
    "predictions": _read_predictions, "pattern": lambda *unused: None,
}  # fmt: skip


# --- Decoders --------------------------------------------------------------------------------------


def read_decoder(traced, gains, eps, windowed=()):
    """Hold every sentence of a trace that kept all its arrays against these; `gains` by norm."""
    layers = len(traced.layers)
    arrays = list(traced.arrays.values())
    for insight in traced.insights:
        if insight.text.startswith("Not evaluated: the run holds"):
            assert any(not np.isfinite(a).all() for a in arrays)
        elif insight.text.startswith("Not evaluated: a row of the stream"):
            assert not _squares(traced, layers)
        elif insight.id in _DECODER:
            _DECODER[insight.id](insight, traced, layers, gains, eps, windowed)


def _squares(traced, layers):
    """Whether every row of the stream has a norm in float32 that is neither zero nor infinite."""
    streams = [traced["embed.tok"], *(traced[f"layer{i}.mlp.residual"] for i in range(layers))]
    streams += [traced[f"layer{i}.attn.residual"] for i in range(layers)]
    with np.errstate(over="ignore", under="ignore"):
        sizes = np.concatenate([np.square(x).sum(-1) for x in streams])
    return bool(np.isfinite(sizes).all() and (sizes > 0).all())


def _read_norms(insight, traced, layers, gains, eps, windowed):
    text, streams = insight.text, [traced["embed.tok"]]
    for i in range(layers):
        streams += [traced[f"layer{i}.attn.residual"], traced[f"layer{i}.mlp.residual"]]
    names = [f"layer{i}.{kind}.norm" for i in range(layers) for kind in ("attn", "mlp")] + ["final.norm"]
    off, least = {}, {}
    for name, x in zip(names, streams, strict=True):
        used = gains[name] != 0
        if used.any():
            square = np.square(wide(x)).mean(-1)
            got = rms(wide(traced[name])[:, used] / gains[name][used])
            due = np.sqrt(np.square(wide(x)[:, used]).mean(-1) / (square + eps))
            off[name], least[name] = np.abs(got - due).max(), np.sqrt(square / (square + eps)).min()
    if not off:
        assert text == "Not evaluated: no norm has a gain."
        return
    said, name = match(rf"off by {NUMBER} at worst, after (\S+?)[);]", text).groups()
    assert abs(number(said) - off[name]) <= 2e-6 + 1e-2 * off[name]
    assert max(off.values()) <= off[name] + 2e-6 + 1e-3 * off[name]
    if "does not hold" in text:
        assert max(off.values()) > 0.99e-3
        return
    assert max(off.values()) <= 1.01e-3
    assert f"each of the {len(off)} norms, less what eps takes" in text
    if insight.holds:
        assert min(least.values()) >= 0.989
        said = match(rf"eps takes {NUMBER} at most", text)[1]
        assert abs(number(said) - (1 - min(least.values()))) <= 1e-6 + 0.06 * number(said)
    else:
        name, said = match(rf"a row after (\S+) has RMS {NUMBER}, for", text).groups()
        says(said, float(least[name]), "the smallest RMS")
        assert least[name] <= min(least.values()) * 1.001
        assert number(said) < 0.99


def _read_growth(insight, traced, layers, gains, eps, windowed):
    text = insight.text
    sizes = [float(np.median(norms(traced[f"layer{i}.mlp.residual"]))) for i in range(layers)]
    if layers == 1:
        assert text == "Not evaluated: the model has one layer."
        return
    first, last, factor = sizes[0], sizes[-1], sizes[-1] / sizes[0]
    a, b, n = match(rf"goes from {NUMBER} after layer 0 to {NUMBER} after layer (\d+)", text).groups()
    says(a, first, "first")
    says(b, last, "last")
    assert int(n) == layers - 1
    lowest, highest = min(first, last), max(first, last)
    for word, edge in (("at most", max(sizes)), ("at least", min(sizes))):
        found = re.search(rf"{word} {NUMBER} after layer (\d+)", text)
        outside = edge > highest * 1.0001 if word == "at most" else edge < lowest * 0.9999
        assert found or not outside, f"{word} {edge} is not told"
        if found:
            says(found[1], edge, word)
            says(found[1], sizes[int(found[2])], word)
    step, at = match(rf"The largest step is × {NUMBER}, in layer (\d+)", text).groups()
    steps = [y / x for x, y in pairwise(sizes)]
    says(step, steps[int(at) - 1], "step")
    assert max(abs(math.log(s)) for s in steps) <= abs(math.log(steps[int(at) - 1])) + 1e-4
    said = number(match(rf"× {NUMBER}", text)[1])
    assert abs(said - factor) <= 0.006 + 0.001 * factor
    assert insight.holds is text.startswith("The stream grows")
    if text.startswith("The stream grows"):
        assert said >= 2
    elif text.startswith("The stream shrinks"):
        assert factor <= 0.5001
    elif text.startswith("The stream keeps its size"):
        assert said < number(match(rf"would be × {NUMBER} or more", text)[1])
        assert all(0.4999 * first <= size <= 2.001 * first for size in sizes)
    else:
        assert text.startswith("The stream leaves its size and comes back near it")
        assert 0.4999 < factor < 2.001
        assert not all(0.5001 * first <= size <= 1.999 * first for size in sizes)


def _read_massive(insight, traced, layers, gains, eps, windowed):
    text, labels = insight.text, traced.input.labels
    streams = [np.abs(wide(traced[f"layer{i}.mlp.residual"])) for i in range(layers)]
    medians = [float(np.median(x)) for x in streams]
    times = [float(x.max()) / m if m else math.inf for x, m in zip(streams, medians, strict=True)]
    value, position, label, channel, layer = match(
        rf"arthest out is {NUMBER} at position (\d+) \((.*)\), channel (\d+), after layer (\d+),", text
    ).groups()
    position, channel, layer = int(position), int(channel), int(layer)
    says(value, float(traced[f"layer{layer}.mlp.residual"][position, channel]), "the element")
    assert label == labels[position].replace(" ", "␣")
    assert streams[layer].max() <= abs(number(value)) * 1.001
    assert times[layer] >= max(times) * (1 - 1e-5), "another layer has one farther out"
    if medians[layer] == 0:
        assert "where the median magnitude is 0" in text
    else:
        printed = match(rf"{NUMBER} times the median magnitude there", text)[1]
        says(printed, times[layer], "times")
        assert (number(printed) >= 1000) is bool(insight.holds)
    if not insight.holds:
        assert text.startswith("None: ")
        assert max(times) < 1000
        return
    count, of, here = match(
        r"After (\d+) of (\d+) layers? the largest element is 1,000\.?0* times the median or more"
        r"(?:, (\w+))?",
        text,
    ).groups()
    massive = [i for i in range(layers) if times[i] >= 1000]
    same = [
        i for i in massive
        if np.unravel_index(streams[i].argmax(), streams[i].shape) == (position, channel)
    ]  # fmt: skip
    assert (int(count), int(of)) == (len(massive), layers)
    assert len(same) == (len(massive) if here in ("all", None) else int(here))
    assert (here is None) == (len(massive) == 1)


def _read_sinks(insight, traced, layers, gains, eps, windowed):
    text, count = insight.text, len(traced.input.tokens)
    full = [i for i in range(layers) if i not in windowed]
    if count == 1 or not full:
        assert insight.holds is None
        return
    shares = {i: float(wide(traced[f"layer{i}.attn.weights"])[:, 1:, 0].mean()) for i in full}
    even = float(np.mean([1 / (t + 1) for t in range(1, count)]))
    limit = even + 0.3 * (1 - even)
    threshold = match(rf"puts? {PERCENT} or more on position 0", text)[1]
    says(threshold, limit, "limit", 100)
    mean, layer, largest, spread = match(
        rf"spend {PERCENT} of .* on average, most in layer (\d+) \({PERCENT}\); .* would be {PERCENT}\.", text
    ).groups()
    says(mean, float(np.mean(list(shares.values()))), "mean", 100)
    says(largest, shares[int(layer)], "largest", 100)
    says(spread, even, "evenly", 100)
    assert shares[int(layer)] >= max(shares.values()) - 1e-6
    over = [i for i in full if shares[i] >= limit]
    assert (number(largest) >= number(threshold)) is bool(over)
    if over:
        told, of = match(r"^(\d+) of (\d+) layers", text).groups()
        assert (int(told), int(of)) == (len(over), len(full))
        assert ("without a sliding window" in text) is bool(windowed)
    else:
        assert text.startswith("No layer")


def _read_turn(insight, traced, layers, gains, eps, windowed):
    text, entered, cosines = insight.text, wide(traced["embed.tok"]), []
    for i in range(layers):
        left = wide(traced[f"layer{i}.mlp.residual"])
        cosines.append(float(np.median((left * entered).sum(-1) / norms(left) / norms(entered))))
        entered = left
    layer, cosine = match(rf"layer (\d+) turns it most \(median cosine .* {NUMBER}\)", text).groups()
    says(cosine, cosines[int(layer)], "cosine")
    assert cosines[int(layer)] <= min(cosines) + 1e-5
    still = [i for i in range(layers) if cosines[i] >= 0.98]
    if text.startswith("No layer"):
        assert number(cosine) < 0.98
        assert not still or min(abs(cosines[i] - 0.98) for i in still) < 1e-5
        return
    count, of, named = match(
        r"^(\d+) of (\d+) layers? keeps? a cosine of 0.98 or more: ([\d, …]+);", text
    ).groups()
    assert (int(count), int(of)) == (len(still), layers)
    assert [int(i) for i in re.findall(r"\d+", named)] == still[:12]
    assert (number(cosine) >= 0.98) is (len(still) == layers)


_DECODER = {
    "rmsnorm": _read_norms, "growth": _read_growth, "massive": _read_massive, "sinks": _read_sinks,
    "turn": _read_turn,
}  # fmt: skip
