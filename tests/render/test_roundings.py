"""What a page works out itself and restores: to the last bit what the run had."""

import zlib
from base64 import b64encode

import numpy as np
import pytest
from support.result_pages import packed_in
from support.script_engine import needs_node, run_script

from microgpt_trace import Config, init, trace
from microgpt_trace.render.page.roundings import places, roundings
from microgpt_trace.render.page.trace_page import PREFIX, trace_page

RESTORE = """
const { unpacked } = await load("unpacking");
const { Page } = await load("runs");
const bytes = Uint8Array.from(Buffer.from(given.content, "base64"));
const { document, arrays } = unpacked(bytes);
if (given.break) arrays.get(`steps ${given.break}`)[0] += 1;
const page = new Page(document, arrays);
return Object.fromEntries(given.keys.map((key) => {
  try { return [key, Array.from(page.held(key))]; } catch (error) { return [key, error.message]; }
}));
"""
MODELS = {
    "default": init(seed=3),
    "deep": init(seed=4, config=Config(n_layer=3, n_head=2, n_embd=12)),
}


def page_and_trace(model, text="emma"):
    run = trace(model, text, values=True, backward=True, step=True)
    return run, trace_page(run, model, [], "microgpt trace", {"before": [], "text": text, "after": []})


def restored(page, keys, **more):
    return run_script(RESTORE, {"content": b64encode(packed_in(page)).decode(), "keys": keys, **more})


@needs_node
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("text", ["", "abcdefghijklmno"])
def test_every_array_is_what_the_run_had(name, text):
    run, page = page_and_trace(MODELS[name], text)
    wanted = {PREFIX[phase] + event: array for (phase, event), array in run.arrays.items()}
    found = restored(page, list(wanted))
    for key, array in wanted.items():
        own = np.tril(array) if array.ndim == 3 else array  # what the mask hides is not held
        assert np.array_equal(np.array(found[key], np.float32), own.reshape(-1)), key


@needs_node
def test_what_is_not_restored_is_told():
    _, page = page_and_trace(MODELS["default"])
    found = restored(page, ["logits", "layer0.attn.q"], **{"break": "layer0.attn.q"})
    assert "could not be restored" in found["layer0.attn.q"]


def test_most_numbers_are_steps():
    """A tenth of what the numbers take."""
    run, page = page_and_trace(MODELS["default"], "abcdefghijklmno")
    numbers = sum(array.nbytes for array in run.arrays.values())
    packed = len(zlib.compress(packed_in(page), 9))
    print(numbers, packed)
    assert packed < 0.6 * numbers


def test_neighbours_among_the_float32_are_one_place_apart():
    values = np.array([-1.0, -1e-45, 0.0, 1e-45, 1.0], np.float32)
    assert np.diff(places(np.nextafter(values, np.float32(2)))).tolist() == np.diff(places(values)).tolist()
    assert (places(np.nextafter(values, np.float32(2))) - places(values)).tolist() == [1] * 5


def test_an_array_that_is_nothing_like_it_is_held_itself():
    assert roundings(np.arange(6, dtype=np.float32), [], None) is None
