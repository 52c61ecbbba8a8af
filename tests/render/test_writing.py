"""Compare the card that writes letters with the softmax of divided logits, and with `microgpt sample`."""

import numpy as np
import pytest
from support.browser import follow, needs_browser, with_modules

from microgpt_trace import load, sample, trace

pytestmark = needs_browser
SMALL = ("trace", "small", "emma")


def heated(text, temperature):
    """Return the softmax of the last row of logits, divided by a temperature."""
    logits = trace(load("small"), text, names=["logits"], values=True).arrays["forward", "logits"]
    powers = np.exp((logits[-1].astype(np.float64) - logits[-1].max()) / temperature)
    return powers / powers.sum()


def written(page):
    """Return the name that the card wrote."""
    return page.input_value("#text")


@pytest.mark.parametrize("temperature", [0.2, 0.5, 1, 2])
@pytest.mark.parametrize("text", ["", "emma"])
def test_chances_at_a_temperature_are_the_softmax_of_the_divided_logits(page_at, text, temperature):
    page = with_modules(page_at(*SMALL))
    shown = page.evaluate(
        """([text, temperature]) => {
          const { tokens, targets } = shown.read(text);
          const run = shown.ownRun(tokens, targets);
          return M.write_view.heated(M.changes.chancesAfter(shown, run, run.length - 1), temperature);
        }""",
        [text, temperature],
    )
    difference = np.abs(np.array(shown) - heated(text, temperature)).max()
    print(difference)
    assert difference <= 1e-6
    assert sum(shown) == pytest.approx(1)


def test_segments_are_the_chances_and_the_marker_stands_in_the_segment_of_the_letter(page_at):
    widths_of = "(all) => all.map((element) => parseFloat(element.style.width))"
    for seed in range(6):
        page = page_at(*SMALL, address=f"&text=em&seed={seed}&temperature=0.7")
        widths = page.locator(".segments span:not(.marker)").evaluate_all(widths_of)
        marker = page.locator(".segments .marker").evaluate("(element) => parseFloat(element.style.left)")
        assert np.abs(np.array(widths) / 100 - heated("em", 0.7)).max() <= 1e-6
        token = int(np.searchsorted(np.cumsum(widths), marker, side="right"))
        said = page.locator(".write div p").last.inner_text()
        print(seed, marker, token, said)
        assert f"picks {load('small').label(token)}, which" in said
        page.click("[data-key='write one']")
        assert written(page) == "em" + load("small").label(token)


def test_the_same_seed_writes_the_same_name_also_after_a_reload(page_of, page_file):
    page = page_of(page_file(*SMALL), "#&text=&seed=5&temperature=0.8")
    page.click("[data-key='write all']")
    name, link = written(page), page.evaluate("location.hash")
    assert name
    assert "seed=5&temperature=0.8" in link
    page.reload()
    assert (written(page), page.evaluate("location.hash")) == (name, link)
    page.click("[data-key=empty]")
    while page.locator("[data-key='write one']").is_enabled():
        page.click("[data-key='write one']")
    assert written(page) == name
    assert "stop: the name ends here" in page.inner_text(".write")
    page.click("[data-key=seed]")
    page.click("[data-key=empty]")
    page.click("[data-key='write all']")
    assert written(page) != name


def test_writing_ends_at_15_letters(page_at):
    page = page_at(*SMALL, address="&text=abcdefghijklmno")
    assert page.locator("[data-key='write one']").is_disabled()
    page, names = page_at("trace", "emma"), []  # an untrained model seldom stops
    for seed in range(6):
        follow(page, f"#&text=annabellel&temperature=2&seed={seed}")
        if page.locator("[data-key='write all']").is_enabled():
            page.click("[data-key='write all']")
        names.append(written(page))
    print(names)
    assert max(map(len, names)) == 15


def test_many_names_of_the_page_start_as_often_with_a_letter_as_sampled_names(page_at):
    page, chances = with_modules(page_at(*SMALL)), heated("", 1)
    drawn = page.evaluate(
        "(chances) => Array.from({ length: 4000 }, (_, seed) => M.write_view.randomAt(seed, 0)).map("
        "(number) => M.write_view.tokenAt(chances, number))",
        chances.tolist(),
    )
    names = list(sample(load("small"), 1000, temperature=1, seed=1))
    sampled = [load("small").tokenizer.token(name[0]) if name else 0 for name in names]
    for tokens in (drawn, sampled):
        counts = np.bincount(tokens, minlength=len(chances))
        size = np.sqrt(len(tokens) * chances * (1 - chances)) + 1
        distance = np.abs(counts - len(tokens) * chances) / size
        print(distance.round(1))
        assert distance.max() < 4.5


def test_a_text_that_the_model_cannot_read_leaves_the_traced_name_to_go_on_from(page_of, page_file):
    page = page_of(page_file(*SMALL), "#tour=9")
    page.fill("#text", "em/")
    assert "After emma, seed 1 picks" in page.inner_text(".write")
    page.fill("#text", "em")
    assert "After em, seed 1 picks" in page.inner_text(".write")
