"""Independent checks of the insights of a trace: every number and quantifier in the words is compared with
the arrays. Nothing else of the program is used."""

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


def half_unit(text):
    """Return half a unit of the last printed digit."""
    mantissa, _, exponent = text.replace(",", "").partition("e")
    return 0.5 * 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def assert_says(text, value):
    """Check that a printed number is the rounded value. The last digits of float32 may differ."""
    slack = half_unit(text) * 1.001 + 3e-5 * abs(value) + 1e-9
    assert abs(number(text) - value) <= slack, f"says {text}, measured {value!r}"


def assert_rounded_up(text, value):
    """Check that a printed percentage is the value, rounded up."""
    above, slack = number(text) - value, 3e-5 * abs(value) + 1e-5  # float32
    assert -slack <= above <= 2.002 * half_unit(text) + slack, f"says {text}, measured {value!r}"


def search(pattern, text):
    match = re.search(pattern, text)
    assert match, f"no {pattern!r} in {text!r}"
    return match


def assert_match(text, pattern, *expected):
    """Match a pattern, check its groups and return them. A group is a word, a rounded number, or the span
    "a to b" of a list of values."""
    groups = search(pattern, text).groups()
    for printed, value in zip(groups, expected, strict=True):
        if isinstance(value, str):
            assert printed == value, pattern
        elif isinstance(value, list):
            low, _, high = printed.partition(" to ")
            assert_says(low, min(value))
            assert_says(high or low, max(value))
        else:
            assert_says(printed, float(value))
    return groups


SPAN = rf"({NUMBER[1:-1]}(?: to {NUMBER[1:-1]})?)"


def check_microgpt(traced, layers, eps=1e-5):
    """Check every insight of a microGPT trace that kept all its arrays."""
    for insight in traced.insights:
        if insight.text.startswith("Not evaluated: the run contains"):
            assert any(not np.isfinite(wide(a)).all() for a in traced.arrays.values())
            continue
        _MICROGPT[insight.id](insight, traced, layers, eps)


def _norm_inputs(traced, layers):
    """Return the RMS of each norm's input and output, by name."""
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
        before, after = rows[search(r"hold: (\S+) is not the RMSNorm of its input", text)[1]]
        normalized = np.allclose(after, before / np.sqrt(before**2 + eps), atol=1e-3)
        assert not normalized or "overflow or underflow" in text
        return
    count, width = traced["embed.sum"].shape
    least = min(float(after.min()) for _, after in rows.values())
    assert_match(text, rf"L2 = {SPAN} after", [l2(traced[name]) for name in rows])
    assert_match(text, rf"\({NUMBER} before the first norm\)", l2(traced["embed.sum"]))
    assert f"the {len(rows)} norms" in text
    if insight.holds:
        assert "every row to RMS 1" in text
        assert least >= 0.99
        assert max(float(after.max()) for _, after in rows.values()) <= 1.001
        assert_match(text, rf"L2 √\({count}·{width}\) = {NUMBER}\. ", math.sqrt(count * width))
        lowered = search(rf"eps lowers the RMS of a row by at most {PERCENT}\.", text)[1]
        assert_rounded_up(lowered, 100 * max(1 - least, 0))
    else:
        name, printed = search(rf"a row after (\S+) has RMS {NUMBER}, because", text).groups()
        assert_says(printed, float(rows[name][1].min()))
        assert float(rows[name][1].min()) <= least * 1.001
        assert number(printed) < 1


def _read_attention(insight, traced, layers, eps):
    text = insight.text
    before = [l2(traced["embed.norm"]), *(l2(traced[f"layer{i}.mlp.residual"]) for i in range(layers - 1))]
    out, after = ([l2(traced[f"layer{i}.attn.{n}"]) for i in range(layers)] for n in ("out", "residual"))
    heads = [l2(a) for (_, name), a in traced.arrays.items() if ".attn.head" in name]
    shares = [100 * o / b if b else (math.inf if o else 0.0) for o, b in zip(out, before, strict=True)]
    writes = rf"each head writes L2 {SPAN}, and the heads of a layer together write {SPAN}, into a residual"
    assert_match(text, rf"{writes} stream of L2 {SPAN}\. ", heads, out, before)
    for printed, x, y in zip(re.findall(rf"{NUMBER} → {NUMBER}", text), before, after, strict=True):
        assert_says(printed[0], x)
        assert_says(printed[1], y)
    layer, largest = search(r"In layer (\d+)(, which has the largest share,)? ", text).groups()
    assert (largest is None) == (sum(bool(o or b) for o, b in zip(out, before, strict=True)) == 1)
    top = max(shares)
    assert shares[int(layer)] >= top * (1 - 1e-6)
    if "stream of zeros" in text:
        assert (top, insight.holds) == (math.inf, False)
        return
    share = rf"the L2 of attention's output is {NUMBER}% of the stream's L2 \({NUMBER}% or less is small\)\.$"
    printed, limit = assert_match(text, share, shares[int(layer)], 25)
    assert insight.holds is (number(printed) <= number(limit)) is text.startswith("Attention is a small")


KINDS = {"zeroes few units": (-1, 20), "leaves a sparse": (20, 80), "silences most units": (80, 101)}


def _read_relu(insight, traced, layers, eps):
    text = insight.text
    zeros = [float((traced[f"layer{i}.mlp.act"] == 0).mean()) * 100 for i in range(layers)]
    ranges = rf"the range from \[{NUMBER}, {NUMBER}\] to \[{NUMBER}, {NUMBER}\]"
    changes = rf"the L2 from {NUMBER} to {NUMBER} and {ranges}"
    printed = re.findall(rf"{PERCENT} of the \d+ hidden units are zero.*?ReLU changes {changes}", text)
    for i, numbers in zip(range(layers), printed, strict=True):
        up, act = traced[f"layer{i}.mlp.up"], traced[f"layer{i}.mlp.act"]
        measured = (zeros[i], l2(up), l2(act), up.min(), up.max(), act.min(), act.max())
        for words, value in zip(numbers, measured, strict=True):
            assert_says(words, float(value))
    lead = text.split(".")[0] if layers == 1 else text[: text.index(". Layer 0: ")]
    if layers == 1:
        lead = text.split(":")[0] + f" in layer 0 ({printed[0][0]}%)"
    kinds = {}
    for part in lead.removeprefix("ReLU ").split("; "):
        kind = next(kind for kind in KINDS if part.startswith(kind))
        for layer, share in re.findall(rf"layer (\d+) \({PERCENT}\)", part):
            kinds[int(layer)] = kind
            low, high = KINDS[kind]
            assert low <= number(share) <= high, f"{kind}: {share} %"
            assert low - 1e-9 <= zeros[int(layer)] <= high, f"{kind}: {zeros[int(layer)]} %"
            assert "sparse" in kind or number(share) not in (20, 80)
    assert sorted(kinds) == list(range(layers)), "a layer is missing"
    assert insight.holds is all("sparse" in kind for kind in kinds.values())


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
    entropy = (probs * surprise).sum(1)
    spread = math.sqrt((probs * (surprise - entropy[:, None]) ** 2).sum()) / count
    assert_match(
        text,
        rf"The mean loss over {count} predictions? is {NUMBER}; a uniform guess would give ln {size} = "
        rf"{NUMBER}\. The target typically gets P = {NUMBER}; a uniform guess would give 1/{size} = "
        rf"{NUMBER}\. .* would "
        rf"give a mean loss of {NUMBER} ± {NUMBER} \(standard deviation over {count} position",
        *(mean, math.log(size), math.exp(-mean), 1 / size, entropy.mean(), spread),
    )
    gain = count * (math.log(size) - mean)
    if "untrained" in text:
        assert insight.holds is None
        assert not re.search("learned something|[Ww]orse|[Bb]etter|confident", text)
        return
    assert "learned" not in text
    way = search(r"(10\^)?([\d,.]+) times (as|less) likely", text)
    assert way[3] == ("as" if gain >= 0 else "less")
    ratio = float(way[2]) * math.log(10) if way[1] else math.log(number(way[2]))
    assert abs(ratio - abs(gain)) <= 0.06 * math.log(10), (ratio, gain)
    if "does not distinguish" in text:
        limit = number(search(rf"likely, and {NUMBER} times would be evidence", text)[1])
        assert number(way[2]) < limit
        assert abs(gain) < math.log(20)
    else:
        assert abs(gain) >= math.log(20)
        assert text.startswith("Better" if gain > 0 else "Worse")


_MICROGPT = {
    "rmsnorm": _read_rmsnorm, "attention": _read_attention, "relu": _read_relu,
    "predictions": _read_predictions, "pattern": lambda *unused: None,
}  # fmt: skip


def check_decoder(traced, gains, eps, windowed=()):
    """Check every insight of a decoder trace that kept all its arrays. `gains` has the gain of each norm."""
    layers = len(traced.layers)
    arrays = list(traced.arrays.values())
    for insight in traced.insights:
        if insight.text.startswith("Not evaluated: the run contains"):
            assert any(not np.isfinite(a).all() for a in arrays)
        elif insight.text.startswith("Not evaluated: a row of the residual stream"):
            assert not _squares(traced, layers)
        elif insight.id in _DECODER:
            _DECODER[insight.id](insight, traced, layers, gains, eps, windowed)


def _squares(traced, layers):
    """Return True if the squares of no row of the residual stream sum to zero or infinity in float32."""
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
            output = rms(wide(traced[name])[:, used] / gains[name][used])
            expected = np.sqrt(np.square(wide(x)[:, used]).mean(-1) / (square + eps))
            off[name], least[name] = np.abs(output - expected).max(), np.sqrt(square / (square + eps)).min()
    if not off:
        assert text == "Not evaluated: no norm has a gain."
        return
    printed, name = search(rf"largest deviation {NUMBER}, after (\S+?)[);]", text).groups()
    assert abs(number(printed) - off[name]) <= 2e-6 + 1e-2 * off[name]
    assert max(off.values()) <= off[name] + 2e-6 + 1e-3 * off[name]
    if "does not hold" in text:
        assert max(off.values()) > 0.99e-3
        return
    assert max(off.values()) <= 1.01e-3
    assert f"each of the {len(off)} norms, apart from the effect of eps" in text
    if insight.holds:
        assert min(least.values()) >= 0.989
        printed = search(rf"eps lowers the RMS of a row by at most {NUMBER}\.$", text)[1]
        assert abs(number(printed) - (1 - min(least.values()))) <= 1e-6 + 0.06 * number(printed)
    else:
        name, printed = search(rf"a row after (\S+) has RMS {NUMBER}, because", text).groups()
        assert_says(printed, float(least[name]))
        assert least[name] <= min(least.values()) * 1.001
        assert number(printed) < 0.99


def _read_growth(insight, traced, layers, gains, eps, windowed):
    text = insight.text
    sizes = [float(np.median(norms(traced[f"layer{i}.mlp.residual"]))) for i in range(layers)]
    if layers == 1:
        assert text == "Not evaluated: the model has one layer."
        return
    first, last, factor = sizes[0], sizes[-1], sizes[-1] / sizes[0]
    goes = rf"goes from {NUMBER} after layer 0 to {NUMBER} after layer (\d+)"
    assert_match(text, goes, first, last, f"{layers - 1}")
    outside = {
        "a maximum of": (max(sizes), max(sizes) > max(first, last) * 1.0001),
        "a minimum of": (min(sizes), min(sizes) < min(first, last) * 0.9999),
    }
    for word, (edge, expected) in outside.items():
        printed = re.search(rf"{word} {NUMBER} after layer (\d+)", text)
        assert printed or not expected, f"{word} {edge} is missing"
        if printed:
            assert_says(printed[1], edge)
            assert_says(printed[1], sizes[int(printed[2])])
    step, at = search(rf"The largest change is × {NUMBER}, in layer (\d+)", text).groups()
    steps = [y / x for x, y in pairwise(sizes)]
    assert_says(step, steps[int(at) - 1])
    assert max(abs(math.log(s)) for s in steps) <= abs(math.log(steps[int(at) - 1])) + 1e-4
    printed = number(search(rf"× {NUMBER}", text)[1])
    assert abs(printed - factor) <= 0.006 + 0.001 * factor
    assert insight.holds is text.startswith("The stream grows")
    if text.startswith("The stream grows"):
        assert printed >= 2
    elif text.startswith("The stream shrinks"):
        assert factor <= 0.5001
    elif text.startswith("The stream keeps its size"):
        assert printed < number(search(rf"would be × {NUMBER} or more", text)[1])
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
    value, position, label, channel, layer = search(f"The most extreme element is {place}", text).groups()
    position, channel, layer = int(position), int(channel), int(layer)
    assert_says(value, float(traced[f"layer{layer}.mlp.residual"][position, channel]))
    assert label == labels[position].replace(" ", "␣")
    assert streams[layer].max() <= abs(number(value)) * 1.001
    assert times[layer] >= max(times) * (1 - 1e-5), "another layer has a more extreme element"
    if medians[layer] == 0:
        assert "where the median magnitude is 0" in text
    else:
        (printed,) = assert_match(text, rf"{NUMBER} times the median magnitude there", times[layer])
        assert (number(printed) >= 1000) is bool(insight.holds)
    if not insight.holds:
        assert text.startswith("None. ")
        assert max(times) < 1000
        return
    count, of, here = search(
        r"After (\d+) of (\d+) layers? the largest element is 1,000\.?0* times the median or more"
        r"(?:, in (\w+) of these layers)?",
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
    (threshold,) = assert_match(text, rf"put {PERCENT} or more of their attention on position 0", 100 * limit)
    layer = search(r"\(layer (\d+)\)", text)[1]
    _, largest, _, _ = assert_match(
        text,
        rf"The mean of these layers is {PERCENT}, and the largest share is {PERCENT} \(layer (\d+)\)\. "
        rf"Uniform attention would put {PERCENT} on position 0\.",
        *(100 * float(np.mean(list(shares.values()))), 100 * shares[int(layer)], layer, 100 * even),
    )
    assert shares[int(layer)] >= max(shares.values()) - 1e-6
    over = [i for i in full if shares[i] >= limit]
    assert (number(largest) >= number(threshold)) is bool(over)
    printed, of, _ = search(
        r"In (\d+) of (\d+) layers?( without a sliding window)?, later positions", text
    ).groups()
    assert (printed, int(of)) == (str(len(over)), len(full))
    assert ("without a sliding window" in text) is bool(windowed)


def _read_turn(insight, traced, layers, gains, eps, windowed):
    text, entered, cosines = insight.text, wide(traced["embed.tok"]), []
    for i in range(layers):
        left = wide(traced[f"layer{i}.mlp.residual"])
        cosines.append(float(np.median((left * entered).sum(-1) / norms(left) / norms(entered))))
        entered = left
    layer, cosine = search(rf"Layer (\d+) turns the stream most \(cosine {NUMBER}\)", text).groups()
    assert_says(cosine, cosines[int(layer)])
    assert cosines[int(layer)] <= min(cosines) + 1e-5
    still = [i for i in range(layers) if cosines[i] >= 0.98]
    count, of, named = search(
        r"^The median cosine of input and output is 0.98 or more in (\d+) of (\d+) layers?"
        r"(: [\d, …]+)?\. Layer",
        text,
    ).groups()
    assert int(of) == layers
    if count == "0":
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
