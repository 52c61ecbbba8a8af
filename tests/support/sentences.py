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


def norms(x):
    return np.sqrt(np.square(wide(x)).sum(-1))


def l2(x):
    return float(norms(np.ravel(x)))


def number(text):
    return float(text.replace(",", ""))


def unit(text):
    """Half a unit of the last digit that is printed."""
    mantissa, _, exponent = text.replace(",", "").partition("e")
    return 0.5 * 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def says(text, value):
    """The printed number is the value, rounded as printed; float32 may differ in its last digits."""
    slack = unit(text) * 1.001 + 3e-5 * abs(value) + 1e-9
    assert abs(number(text) - value) <= slack, f"says {text}, measured {value!r}"


def bounds(text, value):
    """The printed percentage is the value rounded up, as printed."""
    above, slack = number(text) - value, 3e-5 * abs(value) + 1e-5  # float32
    assert -slack <= above <= 2.002 * unit(text) + slack, f"says {text}, measured {value!r}"


def match(pattern, text):
    found = re.search(pattern, text)
    assert found, f"no {pattern!r} in {text!r}"
    return found


def read(text, pattern, *expected):
    """What a pattern takes out of a text, which is as expected: a number rounded as it is printed, of a list
    the least and the largest as "a to b", or a word."""
    found = match(pattern, text).groups()
    for said, value in zip(found, expected, strict=True):
        if isinstance(value, str):
            assert said == value, pattern
        elif isinstance(value, list):
            low, _, high = said.partition(" to ")
            says(low, min(value))
            says(high or low, max(value))
        else:
            says(said, float(value))
    return found


SPAN = rf"({NUMBER[1:-1]}(?: to {NUMBER[1:-1]})?)"


# --- microGPT --------------------------------------------------------------------------------------


def read_microgpt(traced, layers, eps=1e-5):
    """Hold every sentence of a trace that kept all its arrays against these."""
    for insight in traced.insights:
        if insight.text.startswith("Not evaluated: the run holds"):
            assert any(not np.isfinite(wide(a)).all() for a in traced.arrays.values())
            continue
        _MICROGPT[insight.id](insight, traced, layers, eps)


def _norm_inputs(traced, layers):
    """The norms by name with the RMS of what goes in and of what comes out."""
    pairs = {"embed.norm": traced["embed.sum"]}
    stream = traced["embed.norm"]
    for i in range(layers):
        pairs[f"layer{i}.attn.norm"] = stream
        pairs[f"layer{i}.mlp.norm"] = traced[f"layer{i}.attn.residual"]
        stream = traced[f"layer{i}.mlp.residual"]
    return {name: (rms(x), rms(traced[name])) for name, x in pairs.items()}


def _read_rmsnorm(insight, traced, layers, eps):
    text, rows = insight.text, _norm_inputs(traced, layers)
    if "does not hold" in text:
        given, got = rows[match(r"hold: (\S+) is not the RMSNorm of its input", text)[1]]
        assert not np.allclose(got, given / np.sqrt(given**2 + eps), atol=1e-3) or "leave the range" in text
        return
    count, width = traced["embed.sum"].shape
    least = min(float(got.min()) for _, got in rows.values())
    read(text, rf"L2 = {SPAN} after", [l2(traced[name]) for name in rows])
    read(text, rf"\({NUMBER} before the first norm\)", l2(traced["embed.sum"]))
    assert f"the {len(rows)} norms" in text
    if insight.holds:
        assert "every row to RMS 1" in text
        assert least >= 0.99
        assert max(float(got.max()) for _, got in rows.values()) <= 1.001
        read(text, rf"L2 √\({count}·{width}\) = {NUMBER}\. ", math.sqrt(count * width))
        bounds(
            match(rf"eps lowers the RMS of a row by at most {PERCENT}\.", text)[1], 100 * max(1 - least, 0)
        )
    else:
        name, said = match(rf"a row after (\S+) has RMS {NUMBER}, because", text).groups()
        says(said, float(rows[name][1].min()))
        assert float(rows[name][1].min()) <= least * 1.001
        assert number(said) < 1


def _read_attention(insight, traced, layers, eps):
    text = insight.text
    before = [l2(traced["embed.norm"]), *(l2(traced[f"layer{i}.mlp.residual"]) for i in range(layers - 1))]
    out, after = ([l2(traced[f"layer{i}.attn.{own}"]) for i in range(layers)] for own in ("out", "residual"))
    heads = [l2(a) for (_, name), a in traced.arrays.items() if ".attn.head" in name]
    shares = [100 * o / b if b else (math.inf if o else 0.0) for o, b in zip(out, before, strict=True)]
    writes = rf"each head writes L2 {SPAN}, and the heads of a layer together write {SPAN}, into a residual"
    read(text, rf"{writes} stream of L2 {SPAN}\. ", heads, out, before)
    for moved, x, y in zip(re.findall(rf"{NUMBER} → {NUMBER}", text), before, after, strict=True):
        says(moved[0], x)
        says(moved[1], y)
    layer, largest = match(r"In layer (\d+)(, which has the largest share,)? ", text).groups()
    assert (largest is None) == (sum(bool(o or b) for o, b in zip(out, before, strict=True)) == 1)
    top = max(shares)
    assert shares[int(layer)] >= top * (1 - 1e-6)
    if "stream of zeros" in text:
        assert (top, insight.holds) == (math.inf, False)
        return
    share = rf"the L2 of attention's output is {NUMBER}% of the stream's \({NUMBER}% or less is small\)\.$"
    printed, limit = read(text, share, shares[int(layer)], 25)
    assert insight.holds is (number(printed) <= number(limit)) is text.startswith("Attention is a small")


KINDS = {"zeroes few units": (-1, 20), "leaves a sparse": (20, 80), "silences most units": (80, 101)}


def _read_relu(insight, traced, layers, eps):
    text = insight.text
    zeros = [float((traced[f"layer{i}.mlp.act"] == 0).mean()) * 100 for i in range(layers)]
    ranges = rf"the range from \[{NUMBER}, {NUMBER}\] to \[{NUMBER}, {NUMBER}\]"
    changes = rf"the L2 from {NUMBER} to {NUMBER} and {ranges}"
    said = re.findall(rf"{PERCENT} of the \d+ hidden units are zero.*?ReLU changes {changes}", text)
    for i, numbers in zip(range(layers), said, strict=True):
        up, act = traced[f"layer{i}.mlp.up"], traced[f"layer{i}.mlp.act"]
        measured = (zeros[i], l2(up), l2(act), up.min(), up.max(), act.min(), act.max())
        for words, value in zip(numbers, measured, strict=True):
            says(words, float(value))
    lead = text.split(".")[0] if layers == 1 else text[: text.index(". Layer 0: ")]
    if layers == 1:
        lead = text.split(":")[0] + f" in layer 0 ({said[0][0]}%)"
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
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = np.where(probs > 0, -np.log(probs), 0)
    own = (probs * surprise).sum(1)
    spread = math.sqrt((probs * (surprise - own[:, None]) ** 2).sum()) / count
    read(
        text,
        rf"The mean loss over {count} predictions? is {NUMBER}; a uniform guess would give ln {size} = "
        rf"{NUMBER}\. The target typically gets P = {NUMBER}; a uniform guess would give 1/{size} = "
        rf"{NUMBER}\. .* would "
        rf"give a mean loss of {NUMBER} ± {NUMBER} \(standard deviation over {count} position",
        *(mean, math.log(size), math.exp(-mean), 1 / size, own.mean(), spread),
    )
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
    if "does not distinguish" in text:
        limit = number(match(rf"likely, and {NUMBER} times would be evidence", text)[1])
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
        elif insight.text.startswith("Not evaluated: a row of the residual stream"):
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
    said, name = match(rf"largest deviation {NUMBER}, after (\S+?)[);]", text).groups()
    assert abs(number(said) - off[name]) <= 2e-6 + 1e-2 * off[name]
    assert max(off.values()) <= off[name] + 2e-6 + 1e-3 * off[name]
    if "does not hold" in text:
        assert max(off.values()) > 0.99e-3
        return
    assert max(off.values()) <= 1.01e-3
    assert f"each of the {len(off)} norms, apart from the effect of eps" in text
    if insight.holds:
        assert min(least.values()) >= 0.989
        said = match(rf"eps lowers the RMS of a row by at most {NUMBER}\.$", text)[1]
        assert abs(number(said) - (1 - min(least.values()))) <= 1e-6 + 0.06 * number(said)
    else:
        name, said = match(rf"a row after (\S+) has RMS {NUMBER}, because", text).groups()
        says(said, float(least[name]))
        assert least[name] <= min(least.values()) * 1.001
        assert number(said) < 0.99


def _read_growth(insight, traced, layers, gains, eps, windowed):
    text = insight.text
    sizes = [float(np.median(norms(traced[f"layer{i}.mlp.residual"]))) for i in range(layers)]
    if layers == 1:
        assert text == "Not evaluated: the model has one layer."
        return
    first, last, factor = sizes[0], sizes[-1], sizes[-1] / sizes[0]
    goes = rf"goes from {NUMBER} after layer 0 to {NUMBER} after layer (\d+)"
    read(text, goes, first, last, f"{layers - 1}")
    outside = {
        "a maximum of": (max(sizes), max(sizes) > max(first, last) * 1.0001),
        "a minimum of": (min(sizes), min(sizes) < min(first, last) * 0.9999),
    }
    for word, (edge, is_told) in outside.items():
        found = re.search(rf"{word} {NUMBER} after layer (\d+)", text)
        assert found or not is_told, f"{word} {edge} is not told"
        if found:
            says(found[1], edge)
            says(found[1], sizes[int(found[2])])
    step, at = match(rf"The largest change is × {NUMBER}, in layer (\d+)", text).groups()
    steps = [y / x for x, y in pairwise(sizes)]
    says(step, steps[int(at) - 1])
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
        assert text.startswith("The stream changes its size, but ends near its first size")
        assert 0.4999 < factor < 2.001
        assert not all(0.5001 * first <= size <= 1.999 * first for size in sizes)


def _read_massive(insight, traced, layers, gains, eps, windowed):
    text, labels = insight.text, traced.input.labels
    streams = [np.abs(wide(traced[f"layer{i}.mlp.residual"])) for i in range(layers)]
    medians = [float(np.median(x)) for x in streams]
    times = [float(x.max()) / m if m else math.inf for x, m in zip(streams, medians, strict=True)]
    place = rf"{NUMBER} at position (\d+) \((.*)\), channel (\d+), after layer (\d+),"
    value, position, label, channel, layer = match(f"The most extreme element is {place}", text).groups()
    position, channel, layer = int(position), int(channel), int(layer)
    says(value, float(traced[f"layer{layer}.mlp.residual"][position, channel]))
    assert label == labels[position].replace(" ", "␣")
    assert streams[layer].max() <= abs(number(value)) * 1.001
    assert times[layer] >= max(times) * (1 - 1e-5), "another layer has one farther out"
    if medians[layer] == 0:
        assert "where the median magnitude is 0" in text
    else:
        (printed,) = read(text, rf"{NUMBER} times the median magnitude there", times[layer])
        assert (number(printed) >= 1000) is bool(insight.holds)
    if not insight.holds:
        assert text.startswith("None. ")
        assert max(times) < 1000
        return
    count, of, here = match(
        r"After (\d+) of (\d+) layers? the largest element is 1,000\.?0* times the median or more"
        r"(?:, in (\w+) of these)?",
        text,
    ).groups()
    massive = [i for i in range(layers) if times[i] >= 1000]
    places = [np.unravel_index(streams[i].argmax(), streams[i].shape) for i in massive]
    same = places.count((position, channel))
    assert (int(count), int(of)) == (len(massive), layers)
    assert same == (len(massive) if here in ("all", None) else int(here))
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
    (threshold,) = read(text, rf"put {PERCENT} or more of their attention on position 0", 100 * limit)
    layer = match(r"\(layer (\d+)\)", text)[1]
    _, largest, _, _ = read(
        text,
        rf"The mean of these layers is {PERCENT}, and the largest share is {PERCENT} \(layer (\d+)\)\. "
        rf"Evenly spread attention would put {PERCENT} there\.",
        *(100 * float(np.mean(list(shares.values()))), 100 * shares[int(layer)], layer, 100 * even),
    )
    assert shares[int(layer)] >= max(shares.values()) - 1e-6
    over = [i for i in full if shares[i] >= limit]
    assert (number(largest) >= number(threshold)) is bool(over)
    told, of = match(r"on position 0 in (\d+|none) of (\d+) layers?", text).groups()
    assert (told, int(of)) == (str(len(over) or "none"), len(full))
    assert ("without a sliding window" in text) is bool(windowed)


def _read_turn(insight, traced, layers, gains, eps, windowed):
    text, entered, cosines = insight.text, wide(traced["embed.tok"]), []
    for i in range(layers):
        left = wide(traced[f"layer{i}.mlp.residual"])
        cosines.append(float(np.median((left * entered).sum(-1) / norms(left) / norms(entered))))
        entered = left
    layer, cosine = match(rf"Layer (\d+) turns the stream most \(cosine {NUMBER}\)", text).groups()
    says(cosine, cosines[int(layer)])
    assert cosines[int(layer)] <= min(cosines) + 1e-5
    still = [i for i in range(layers) if cosines[i] >= 0.98]
    count, of, named = match(
        r"^The median cosine of input and output is 0.98 or more in (\d+|none) of (\d+) layers?"
        r"(: [\d, …]+)?\. Layer",
        text,
    ).groups()
    assert int(of) == layers
    if count == "none":
        assert number(cosine) < 0.98
        assert not still or min(abs(cosines[i] - 0.98) for i in still) < 1e-5
        return
    assert int(count) == len(still)
    assert [int(i) for i in re.findall(r"\d+", named)] == still[:12]
    assert (number(cosine) >= 0.98) is (len(still) == layers)


_DECODER = {
    "rmsnorm": _read_norms, "growth": _read_growth, "massive": _read_massive, "sinks": _read_sinks,
    "turn": _read_turn,
}  # fmt: skip
