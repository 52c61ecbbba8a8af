"""Bands: their growth with depth and scores, third runs, and the reason in words."""

import numpy as np
import pytest

from microgpt_trace.comparison.routing_comparer import RoutingComparer
from microgpt_trace.hooks.event import EventSpec
from microgpt_trace.rounding.bands import AMPLIFIED, FACTOR, FACTOR_OF_ONE, ROUNDING, Bands, tolerance_of
from microgpt_trace.rounding.precision import PRECISIONS
from microgpt_trace.rounding.row_differences import compare_rows

NOTHING = (None, None, None, None, None)


def spec(name):
    layer = int(name[5 : name.index(".")]) if name.startswith("layer") else None
    stage = "embedding" if name.startswith("embed") else "head" if layer is None else "attention"
    return EventSpec(name, stage, layer, "")


def rows(size=1.0, off=0.0, count=3):
    a = np.full((count, 4), size)
    return compare_rows(a, a * (1 - off))


def band(bands, name, *thirds):
    bands_of_rows = bands.of(spec(name), rows(), thirds)[0].band
    assert bands_of_rows.shape == (3,)
    return float(bands_of_rows.max())


def plain(layers=30):
    return Bands(tolerance_of(*NOTHING), layers)


def test_the_band_grows_with_the_square_root_of_the_depth():
    bands = plain()
    widths = [band(bands, f"layer{i}.attn.q") / ROUNDING for i in (0, 1, 7, 29)]
    print(widths)
    assert widths == pytest.approx([2**0.5, 3**0.5, 3, 31**0.5])
    assert band(bands, "embed.tok") == ROUNDING
    assert band(bands, "logits") == pytest.approx(ROUNDING * 32**0.5)


@pytest.mark.parametrize("name", ["layer3.attn.weights", "probs", "loss"])
def test_the_band_of_exponentials_is_wider(name):
    other = "logits" if "." not in name else "layer3.attn.q"
    assert band(plain(), name) == pytest.approx(AMPLIFIED * band(plain(), other))


def test_large_scores_widen_the_bands_from_their_layer_on():
    bands, usual = plain(), plain()
    bands.note(spec("layer3.attn.scores"), [np.full((2, 3, 3), 500.0)] * 2)
    assert band(bands, "layer2.mlp.down") == band(usual, "layer2.mlp.down")
    for name in ("layer3.attn.weights", "layer4.attn.q", "layer29.mlp.down", "logits"):
        assert band(bands, name) > 2 * band(usual, name)


@pytest.mark.parametrize("wrong", [1e8, 3.4e38, np.inf, np.nan])
def test_large_scores_on_only_one_side_do_not_widen_a_band(wrong):
    usual, fine = np.ones((1, 2, 2)), np.full((1, 2, 2), wrong)
    widths = []
    for sides in ([usual, usual], [fine, usual], [usual, fine]):
        bands = plain()
        bands.note(spec("layer0.attn.scores"), sides)
        widths.append(band(bands, "layer0.attn.weights"))
    print(widths)
    assert max(widths) <= 1.01 * band(plain(), "layer0.attn.weights")


def test_masked_scores_and_other_events_do_not_widen_a_band():
    masked, other = plain(), plain()
    masked.note(spec("layer0.attn.scores"), [np.full((1, 2, 2), -3.4e38)] * 2)
    assert band(masked, "layer0.attn.q") < 0.01
    other.note(spec("layer0.attn.q"), [np.full((2, 2), 1e4)] * 2)
    assert band(other, "layer0.attn.q") == band(plain(), "layer0.attn.q")


@pytest.mark.parametrize(("option", "factor"), [(None, FACTOR_OF_ONE), (9.0, 9.0)])
def test_a_third_run_widens_the_band(option, factor):
    bands = Bands(tolerance_of(None, "third", option, None, None), 30)
    assert band(bands, "layer0.attn.q", rows(off=0.02)) == pytest.approx(factor * 0.02, rel=0.01)
    assert band(bands, "layer0.attn.q", rows()) == pytest.approx(band(plain(), "layer0.attn.q"))


@pytest.mark.parametrize(("name", "unit"), [("bf16", 2**-8), ("f16", 2**-11), ("q8", 0)])
def test_one_rounding_is_allowed_even_if_our_passes_were_exact(name, unit):
    bands = Bands(tolerance_of(PRECISIONS[name], None, None, None, None), 30, PRECISIONS[name])
    own = band(plain(), "layer0.attn.q")
    assert band(bands, "layer0.attn.q", rows()) == pytest.approx(FACTOR * unit + own)


@pytest.mark.parametrize(("off", "holds"), [((0.0, 0.0, 0.0, 0.0, 2.0), True), ((1.9,) * 5, False)])
def test_rounding_may_turn_over_a_single_row_but_not_the_median_row(off, holds):
    """All passes differ by 0.3, which is one row in three that turns over elsewhere."""
    bands = Bands(tolerance_of(PRECISIONS["bf16"], *NOTHING[1:]), 30, PRECISIONS["bf16"])
    compared = rows(off=np.array(off)[:, None], count=5)
    (plain, *_) = bands.of(spec("layer0.attn.q"), compared, [rows(off=0.3, count=5)])
    print(plain.distances, plain.band)
    assert bool((plain.distances <= plain.band).all()) == holds


def test_rtol_is_the_band_of_every_event():
    bands = Bands(tolerance_of(None, None, None, 0.03, None), 30)
    for name in ("embed.tok", "layer29.attn.weights", "logits"):
        assert band(bands, name) == 0.03
    assert band(Bands(tolerance_of(None, None, None, None, 1e-3), 30), "logits") == 0


BF16, Q8 = PRECISIONS["bf16"], PRECISIONS["q8"]
REASONS = [
    (NOTHING, "float32", "float32 rounding"),
    (
        (BF16, *NOTHING[1:]),
        "bf16",
        f"{FACTOR:g} times the largest distance between our own pass and 8 passes",
    ),
    ((Q8, None, 2.0, None, None), "q8", "2 times the largest distance between our own pass and 8 passes"),
    ((None, "r.gguf", *NOTHING[2:]), "calibrated", f"{FACTOR_OF_ONE:g} times the distance of r.gguf"),
    ((*NOTHING[:3], 0.1, None), "given", "rtol 0.1, atol 0"),
    ((*NOTHING[:4], 0.5), "given", "rtol 0, atol 0.5"),
]


@pytest.mark.parametrize(("options", "kind", "words"), REASONS)
def test_the_tolerance_states_its_reason(options, kind, words):
    tolerance = tolerance_of(*options)
    assert (tolerance.kind, words in tolerance.reason) == (kind, True)


def test_rounding_explains_the_margin_of_two_experts_up_to_five_standard_deviations():
    """A third run finds an error of 0.1 in each logit, so that a difference has an error of √2 · 0.1."""
    comparer, a = RoutingComparer(), np.array([[3.0, 1.0, 2.0]])
    comparer.aligned("layer0.mlp.router", [4], [a, np.array([[3.0, 2.5, 2.0]]), np.array([[3.1, 0.9, 2.1]])])
    comparer.aligned("layer0.mlp.chosen", [4], [np.array([[0, 2]]), np.array([[0, 1]])])
    (flip,) = comparer.flips()
    assert (flip.position, flip.only_a, flip.only_b, flip.margin) == (4, (2,), (1,), 2.0 - 1.0)
    assert flip.explained == pytest.approx(5 * 0.1 * 1.41421356)
    assert flip.follows
