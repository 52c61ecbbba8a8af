"""Compare the numbers in the pages of results with the results, and run the scripts of pages."""

import json
from dataclasses import replace

import numpy as np
import pytest
from support.result_pages import content_of, markup_of
from support.script_engine import needs_node, run_script

from microgpt_trace import attribute, diff, init, patch, plot_patch, trace
from microgpt_trace.comparison.comparers import KeptPair, PairKeeper
from microgpt_trace.render.page.diff_view import ROOM, diff_view
from microgpt_trace.render.page.page_view import attribution_view, patch_view
from microgpt_trace.render.page.section_page import section_page
from microgpt_trace.render.page.timeline_view import MOST_STEPS, timeline_view
from microgpt_trace.render.results.attribution_sections import attribution_sections
from microgpt_trace.render.results.diff_sections import comparison_sections
from microgpt_trace.render.results.patching_sections import patch_sections
from microgpt_trace.render.results.timeline_sections import timeline_sections
from microgpt_trace.text.printable import on_one_line
from microgpt_trace.timeline.reading import read_timeline


def page_of(result, sections, view):
    return section_page("a", "microgpt a", sections(result), lambda name: name, view(result))


def content(result, sections, view):
    return content_of(page_of(result, sections, view))


def test_a_map_and_the_facts_of_its_sites_have_the_numbers_of_the_result():
    result = patch(init(seed=1), "emma", "emmy", target="m", against="y")
    document = content(result, patch_sections, patch_view).document
    [grid] = document["grids"]
    pairs = (zip(*row, strict=True) for row in zip(grid["names"], grid["values"], strict=True))
    shown = {name: value for row in pairs for name, value in row}
    assert shown == {cell.site: cell.restored for cell in result.cells}
    assert grid["columns"] == ["BOS", "e", "m", "m", "a/y"]
    assert grid["across"][4] == "position 4, clean a, corrupted y"
    for cell in result.cells:
        assert dict(document["facts"][cell.site]) == {
            "restored": cell.restored, "logit difference": cell.difference,
            "corrupted run": result.corrupt.difference, "clean run": result.clean.difference,
        }  # fmt: skip


@pytest.mark.parametrize("most", [0.75, 1.75])
def test_a_map_and_its_figure_have_the_same_colour_scale(most):
    """The scale ends at 1, or at the largest magnitude of all maps."""
    figure = pytest.importorskip("matplotlib.figure", reason="figures are drawn by matplotlib").Figure()
    sites = ["layer0.mlp.residual", "layer0.attn.head*", "layer0.attn.head3@0"]
    result = patch(init(seed=1), "emma", "emmy", target="m", against="y", sites=sites)
    cells = [replace(cell, restored=-most if cell.head == 2 else 0.5) for cell in result.cells]
    cells[-1] = replace(cells[-1], restored=9.0)  # one head at one position, which is in no map
    result = replace(result, cells=tuple(cells))
    ends = [grid["end"] for grid in content(result, patch_sections, patch_view).document["grids"]]
    images = [axes.images for axes in plot_patch(result, ax=figure.add_subplot()).child_axes if axes.images]
    assert ends == [image.norm.vmax for image, *_ in images] == [max(1.0, most)] * 2


def test_attention_shares_of_heads_are_maps():
    result = attribute(init(seed=1), "emma")
    document = content(result, attribution_sections, attribution_view).document
    [added] = document["added"]
    shares = {"self": "itself", "previous": "previous", "position 0": "first", "repeat": "repeat"}
    for grid in added["grids"]:
        names = [role.name for role in result.roles]
        assert (grid["rows"], grid["names"]) == (["layer 0"], [names])
        share = shares.pop(grid["heading"])
        assert grid["values"] == [[getattr(role.attention, share) for role in result.roles]]
    assert not shares


def test_maps_of_heads_have_a_row_for_each_layer(decoders):
    result = attribute(decoders("qwen2")[0], tokens=[3, 5, 3, 9], target="#3", against="#5", ablation=False)
    grids = content(result, attribution_sections, attribution_view).document["added"][0]["grids"]
    by_place = {grid["heading"]: grid for grid in grids}
    print(by_place)
    for role in result.roles:
        assert by_place["previous"]["values"][role.layer][role.head] == role.attention.previous
        assert by_place["repeat"]["names"][role.layer][role.head] == role.name


@needs_node
def test_an_address_is_read_as_written_and_characters_without_a_shape_are_spelled_out():
    places = [
        {"name": "layer0.attn.q[3,5]", "settings": {}},
        {"name": "layer3.mlp.act@2:5", "settings": {"part": "position-3"}},
        {"name": "", "settings": {"step": "250"}},
        {"name": "a&b=c #%+ü␣", "settings": {"x=&": "&+ "}},
    ]
    program = """
const { read, written, split } = await load("place");
const results = given.places.map((place) => [written(place), read("#" + written(place)), split(place.name)]);
const { onOneLine } = await load("printable");
return [results, given.texts.map(onOneLine)];
"""
    texts = ["a\u202eb", "\x1b[31m", "é␣ 中", "\u2028"]
    results, spelled = run_script(program, {"places": places, "texts": texts})
    print(json.dumps(results, ensure_ascii=False))
    assert spelled == [on_one_line(text) for text in texts] != texts
    assert [place for _, place, _ in results] == places
    assert (results[0][0], results[2][0]) == ("layer0.attn.q[3,5]", "step=250")
    assert (results[0][2], results[2][2]) == (["layer0.attn.q", [3, 5]], ["", []])


def comparison(text="emma"):
    a, b = init(seed=1), init(seed=1)
    b.params["layer0.attn_wk"][:] *= 1.5
    keeper = PairKeeper(4 * ROOM, lambda name: a.plan[name].inputs)
    result = diff(a, b, text, watch=keeper)
    return a, b, result, diff_view(result, keeper.pairs, keeper.inputs_of)


def test_the_page_of_a_microgpt_diff_holds_all_values_of_both_sides():
    a, b, result, view = comparison()
    document, arrays = content(result, comparison_sections, lambda result: view)
    runs = {"a": trace(a, "emma", values=True), "b": trace(b, "emma", values=True)}
    assert list(document["held"]) == [*dict.fromkeys(["layer0.attn.k", *document["held"]])]
    assert set(document["held"]) == {event.name for event in result.events}
    for name in document["held"]:
        for side, run in runs.items():
            array = run.arrays["forward", name]
            assert np.array_equal(arrays[f"{side} {name}"].reshape(array.shape), array), name
    for data, event in zip(document["events"], result.events, strict=True):
        assert (data["name"], data["holds"], data["relative"]) == (event.name, event.holds, event.relative)
    assert document["first"] == "layer0.attn.k"


def test_a_page_without_room_for_all_events_holds_the_most_telling_ones():
    a, _, result, _ = comparison()
    zeros, ones = (np.full((5, 8000), value, np.float32) for value in (0, 1))
    names = [event.name for event in result.events if len(event.shape) == 2]
    many = {name: KeptPair(zeros, ones, range(5)) for name in names}
    view = diff_view(result, many, lambda name: a.plan[name].inputs)
    held = view.content["held"]
    print({name: pair["positions"] for name, pair in held.items()})
    assert list(held)[:2] == ["layer0.attn.k", "layer0.attn.norm"]
    assert sum(array.size for array in view.arrays.values()) <= ROOM
    assert any(pair["shape"][0] == 1 for pair in held.values())  # one position only
    assert len(held) < len(many)


@needs_node
def test_the_script_finds_the_values_of_an_element_on_both_sides():
    _, _, result, view = comparison()
    document, arrays = content(result, comparison_sections, lambda result: view)
    name, (head, query, key) = "layer0.attn.weights", (2, 3, 1)
    given = {
        "held": document["held"][name],
        "name": name,
        "arrays": {key: array.tolist() for key, array in arrays.items()},
        "index": [head, query, key],
    }
    weights = given["arrays"][f"a {name}"]
    weights[5 * (5 * head + 1) + 2] = 9.0  # masked, so that it does not end the colours
    weights[5 * (5 * head + 4)] = 3.0  # the largest magnitude of B - A, which is negative there
    program = """
const { sidesOf, placeIn, indexOf } = await load("sides");
const sides = sidesOf(given.held, given.name, new Map(Object.entries(given.arrays)));
const { head, row, column } = placeIn(sides, given.index);
const values = ["a", "b", "d"].map((side) => sides.at(side, head, row, column));
return {
  values, back: indexOf(sides, { head, row, column }),
  masked: sides.isMasked(1, 2), seen: sides.isMasked(2, 1),
  ends: sides.ends(head), none: [placeIn(sides, [9, 0, 0]), placeIn(sides, [1, 2]), placeIn(null, [1])],
};
"""
    sides = run_script(program, given)
    print(sides)
    a, b = (arrays[f"{side} {name}"].reshape(4, 5, 5) for side in "ab")
    value = [float(side[head, query, key]) for side in (a, b)]
    assert sides["values"] == [*value, value[1] - value[0]]
    assert sides["back"] == [head, query, key]
    assert (sides["masked"], sides["seen"], sides["none"]) == (True, False, [None, None, None])
    assert sides["ends"] == {"sides": 3.0, "d": 3.0 - float(b[head, 4, 0])}


@pytest.fixture
def log(results):
    return results / "t.jsonl"


def test_the_page_of_a_timeline_has_the_values_of_the_log(log):
    timeline = read_timeline(log)
    document, arrays = content(timeline, timeline_sections, timeline_view)
    assert document["steps"] == [0, 5, 10, 15, 20]
    for data, position in zip(document["positions"], timeline.positions, strict=True):
        assert (data["p"], data["rank"]) == (list(position.p), list(position.rank))
        assert data["top"] == [[[token.label, token.p] for token in tokens] for tokens in position.top]
    [attention] = document["attention"]
    print(attention["weights"][2][3])
    assert attention["weights"] == json.loads(json.dumps(timeline.attention[0].weights))
    assert np.array_equal(arrays["loss"], np.float32(timeline.loss.loss))


def test_the_page_of_a_long_log_has_evenly_spaced_steps(log):
    timeline = read_timeline(log)
    empty = dict.fromkeys(("attention", "layers", "positions"), ())
    many = replace(timeline, steps=tuple(range(1000)), **empty)
    document = timeline_view(many).content
    print(document["steps"][:4], document["steps"][-2:])
    assert (document["steps"][0], document["steps"][-1], document["traced"]) == (0, 999, 1000)
    assert len(set(document["steps"])) == MOST_STEPS


def test_names_of_a_log_are_shown_as_text(log, tmp_path):
    name = "<img src=x onerror=alert(1)>\u202e"
    text = log.read_text().replace('"layer0.attn.weights"', json.dumps(name))
    path = tmp_path / "odd.jsonl"
    path.write_text(text)
    page = page_of(read_timeline(path), timeline_sections, timeline_view)
    assert not [tag for tag, _ in markup_of(page) if tag == "img"]
    assert "\u202e" not in page


@needs_node
def test_the_script_finds_the_nearest_step_and_computes_means():
    program = """
const { placeOf, meansOf, numberOf } = await load("steps");
return [
  given.map((request) => placeOf([0, 250, 500, 5000], request)), placeOf([0, 5], undefined),
  meansOf([1, 2, 3, 4, 5], [1, 3, NaN, 5, 9], 2),
  [null, "NaN", "-Infinity", 2].map(numberOf),
];
"""
    places, last, means, numbers = run_script(program, ["250", "374", "376", "9999", "-1", "x", ""])
    print(places, last, means, numbers)
    assert (places, last) == ([1, 1, 2, 3, 0, 3, 3], 1)
    assert means == [[2, 2], [5, 7]]
    assert numbers == [None, "NaN", "-Infinity", 2]
