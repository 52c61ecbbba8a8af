"""How large a trace's page is, and that a browser shows it."""

import pytest
from support.browser import needs_browser, with_modules
from support.real_model import SMOLLM2, needs_smollm2

PROMPT = "The capital of France is"
WHOLE = ("q_rope", "k_rope", "v", "scores", "weights", "context", "out")


def tokens(count):
    return ("trace", SMOLLM2, "--tokens", ",".join(map(str, range(500, 500 + count))))


# The words of a command, and how many thousand bytes its page has at the most.
SIZES = {
    "the longest name": (("trace", "a" * 15, "--step"), 250),
    "5 tokens": (("trace", SMOLLM2, PROMPT), 2000),
    "all layers": (("trace", SMOLLM2, PROMPT, "--layers", "0-29", "--html-budget", "2.5"), 2500),
    "63 tokens": (tokens(63), 2000),
    "256 tokens": (tokens(256), 2000),
}
CASES = [
    "the longest name",
    *(pytest.param(name, marks=needs_smollm2) for name in ("5 tokens", "63 tokens", "all layers")),
    pytest.param("256 tokens", marks=(needs_smollm2, pytest.mark.sweep)),
]


@needs_browser
@pytest.mark.parametrize("name", CASES)
def test_a_page_is_as_small_as_is_promised_and_becomes_ready(page_at, page_file, name):
    words, most = SIZES[name]
    size = page_file(*words).stat().st_size / 1000
    print(f"{name}: {size:.0f} KB")
    assert size <= most
    page, layers = with_modules(page_at(*words)), 30 if words[1] == SMOLLM2 else 1
    assert page.locator(".attention canvas").count() >= 2
    heads = {1: 4, 30: 270}[layers]
    assert page.locator(".glance").get_attribute("aria-label").startswith(f"{heads} heads")
    if name == "all layers":
        names = [f"layer{layer}.attn.{own}" for layer in range(30) for own in WHOLE]
        names += [f"layer{layer}.mlp.residual" for layer in range(30)]
        exact = "(names) => names.filter((name) => shown.held(name) && !shown.held(name).exact)"
        assert page.evaluate(exact, names) == names
