"""How large a trace's page is, and that a browser shows it; how soon is printed, for it is the machine's."""

import time

import pytest
from support.browser import needs_browser, with_modules
from support.real_model import SMOLLM2, needs_smollm2

PROMPT = "The capital of France is"
WHOLE = ("q_rope", "k_rope", "v", "scores", "weights", "context", "out")


def tokens(count):
    return ("trace", SMOLLM2, "--tokens", ",".join(map(str, range(500, 500 + count))))


# The words of a command, and how many thousand bytes its page has at the most.
SIZES = {
    "emma": (("trace", "emma"), 150),
    "the longest name": (("trace", "a" * 15, "--step"), 150),
    "5 tokens": (("trace", SMOLLM2, PROMPT), 2000),
    "all layers": (("trace", SMOLLM2, PROMPT, "--layers", "0-29", "--html-budget", "2.5"), 2500),
    "63 tokens": (tokens(63), 1000),
    "256 tokens": (tokens(256), 2000),
}
CASES = [
    pytest.param(name, marks=needs_smollm2 if words[1] == SMOLLM2 else ())
    for name, (words, _) in SIZES.items()
]


@pytest.mark.parametrize("name", CASES)
def test_a_page_is_as_small_as_is_promised(page_file, name):
    words, most = SIZES[name]
    size = page_file(*words).stat().st_size / 1000
    print(f"{name}: {size:.0f} KB")
    assert size <= most


@needs_browser
@pytest.mark.parametrize("name", CASES)
def test_a_page_of_any_size_becomes_ready(page_of, page_file, name):
    path, start = page_file(*SIZES[name][0]), time.perf_counter()
    page = page_of(path)
    print(f"{name}: ready {time.perf_counter() - start:.2f} s after it was asked for")
    assert page.locator(".attention canvas").count() >= 2
    heads = 270 if SIZES[name][0][1] == SMOLLM2 else 4
    assert page.locator(".glance").get_attribute("aria-label").startswith(f"{heads} heads")


@needs_browser
@needs_smollm2
def test_all_layers_are_there_in_full_when_they_are_asked_for(page_of, page_file):
    page = with_modules(page_of(page_file(*SIZES["all layers"][0])))
    names = [f"layer{layer}.attn.{own}" for layer in range(30) for own in WHOLE]
    names += [f"layer{layer}.mlp.residual" for layer in range(30)]
    held = page.evaluate(
        "(names) => names.filter((name) => shown.held(name) && !shown.held(name).exact)", names
    )
    assert held == names
