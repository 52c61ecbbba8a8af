"""Compare the numbers of a trace's page, as a browser shows them, with the JSON documents of commands."""

import re

import numpy as np
import pytest
from support.browser import needs_browser, with_modules
from support.documents import document
from support.page_numbers import command, exact, explained_in, in_tables, is_percent, number
from support.real_model import SMOLLM2, needs_smollm2
from support.script_engine import needs_node, run_script
from support.sweeps import in_sweep

from microgpt_trace import init, load
from microgpt_trace.render.colors import SCALES, color_at

pytestmark = needs_browser

ALL = ("--layer", "*")
PREFIX = {"forward": "", "backward": "gradient ", "update": "update "}


def traced(words):
    """Return the arrays of a trace by address; masked elements are NaN."""
    arrays = {}
    for event in document(*words, "--values")["events"]:
        values = np.array(event["values"], np.float32)
        if values.ndim == 3:
            values[:, ~np.tri(values.shape[-1], dtype=bool)] = np.nan
        arrays[PREFIX[event["phase"]] + event["name"]] = values
    return arrays


@needs_node
def test_numbers_are_written_with_few_and_with_all_digits():
    rng = np.random.default_rng(8)
    single = np.float32(rng.standard_normal(2000) * 10.0 ** rng.uniform(-44, 37, 2000)).astype(float)
    values = [*single, *(0.1 * single), 0.0, 1.0, -99995.0, 9.9995e-5, 16777216.0, 1e23]
    chances = [*10.0 ** rng.uniform(-15, 0, 1000), 1.0, 0.9999, 1e-5, 0.09995]
    program = """const { aligned, chance, exact, short } = await load("numbers");
    const all = (value) => [exact(value), short(value), chance(value)];
    return [given.values.map(all), given.chances.map(all), aligned([1, -23.456, 0.5, 123456])];"""
    of_values, of_chances, column = run_script(program, {"values": values, "chances": chances})
    for value, (all_digits, few, _) in zip(values, of_values, strict=True):
        is_single = float(np.float32(value)) == value
        assert exact(all_digits) == np.float32(value) if is_single else number(all_digits) == value
        is_whole = 1e4 <= abs(value) < 99995  # then all digits before the point are shown
        assert number(few) == (round(value) if is_whole else float(f"{value:.3e}")), (few, value)
    assert [p for p, (*_, text) in zip(chances, of_chances, strict=True) if not is_percent(text, p)] == []
    assert [text.strip() for text in column] == ["1.000", "\u221223.46", "0.5000", "1.235e5"]
    assert len({len(text) - text.index(".") for text in column}) == 1  # the points stand in one column


# The ends of the names of arrays to compare: activations, masked arrays, probabilities, and parameters.
COMPARED = ("attn.norm", "scores", "weights", "act", "probs", "loss", "mlp_fc1", "wte")


@pytest.mark.parametrize("name", ["untrained", in_sweep("broken")])
def test_numbers_of_a_page_are_those_of_the_document(page_at, checkpoints, name):
    words = (*command(name, checkpoints), "--backward", "--step")
    page, arrays = page_at(*words), traced((*words, *ALL))
    model = init() if name == "untrained" else load(checkpoints[name])
    arrays |= {parameter: model.parameter(parameter) for parameter in model.config.shapes()}
    for address, values in arrays.items():
        if address.endswith(COMPARED):
            shown = in_tables(page, address)
            assert np.array_equal(shown.reshape(values.shape), values, equal_nan=True), address


# Six points in the picture of a matrix, each inside an area of one colour, and that colour.
SPOTS = """(box) => {
  const canvas = box.querySelector("canvas");
  const { width, height } = canvas;
  const copy = Object.assign(document.createElement("canvas"), { width, height });
  const context = copy.getContext("2d", { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  const spots = [];
  for (let n = 1; n < 4000 && spots.length < 6; n += 1) {
    const [x, y] = [width * ((n * 0.618034) % 1), height * ((n * 0.754878) % 1)].map(Math.floor);
    if (x < 2 || y < 2 || x + 3 > width || y + 3 > height) continue;
    const { data } = context.getImageData(x - 2, y - 2, 5, 5);
    const color = Array.from(data.slice(0, 4));
    const isPlain = data.every((part, at) => part === color[at % 4]);
    if (color[3] === 255 && isPlain) spots.push([x, y, color.slice(0, 3)]);
  }
  return spots;
}"""


@pytest.mark.parametrize("address", ["gradient layer0.mlp.act", "update wte", "probs"])
def test_the_pointer_reads_the_number_of_the_cell_under_it(page_at, address):
    words = ("trace", "emma", "--backward", "--step")
    values = traced((*words, *ALL))[address]
    page = with_modules(page_at(*words, address=address.replace(" ", "+")))
    box = page.locator(f'[data-key="{address} null"]')
    box.scroll_into_view_if_needed()
    spots = box.evaluate(SPOTS)
    assert len(spots) == 6
    kind, end = ("share", 1) if address == "probs" else ("signed", np.abs(values).max())
    for x, y, color in spots:
        box.hover(position={"x": x + 0.5, "y": y + 0.5})
        name, value, index = reading(page)
        assert name == address
        assert value == values[index], index
        place = float(value / end if kind == "share" else (value / end + 1) / 2)
        assert tuple(color) == color_at(SCALES[kind].light, place), index
    box.click(position={"x": x + 0.5, "y": y + 0.5})
    assert explained_in(page) == values[index]


def reading(page):
    """Return the address, the number and the index from the line at the bottom of the page."""
    parts = re.fullmatch(r"(.+)\[([\d,]+)\] = (\S+) · .+", page.inner_text("#reading"))
    return parts[1], exact(parts[3]), tuple(map(int, parts[2].split(",")))


@needs_smollm2
def test_numbers_of_smollm2_are_those_of_the_document(page_at):
    words = ("trace", SMOLLM2, "The capital of France is")
    names = ("layer29.attn.k_rope", "layer29.attn.scores", "layer17.attn.weights")
    arrays = traced((*words, *(word for name in names for word in ("--layer", name))))
    page = page_at(*words)
    for name in names:
        shown = in_tables(page, name)
        assert np.array_equal(shown.reshape(arrays[name].shape), arrays[name], equal_nan=True), name
