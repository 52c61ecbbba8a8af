"""The page of a trace in the frame of a notebook, in a browser."""

import pytest
from support.browser import needs_browser

from microgpt_trace import init, trace

pytestmark = needs_browser

# What stands for the notebook: text of its own, and a body that says it is there.
NOTEBOOK = '<!doctype html><meta charset="utf-8"><body data-ready="yes" style="color-scheme: {}">{}</body>'


@pytest.mark.parametrize(("theme", "values"), [("light", False), ("dark", True)])
def test_it_runs_and_asks_for_nothing(page_of, tmp_path, values, theme):
    """Without storage, history or an address of its own, which a sandboxed frame lacks, and in the notebook's
    colours."""
    run = trace(init(), "emma", values=values)
    path = tmp_path / "notebook.html"
    path.write_text(NOTEBOOK.format(theme, run._repr_html_()), encoding="utf-8")
    blocked = "The Clipboard API has been blocked"
    page = page_of(path, color_scheme="null", faults=[blocked])  # as the body says
    frame = page.frame_locator("iframe")
    frame.locator("body[data-ready]").wait_for()
    assert page.frames[1].evaluate("() => location.origin") == "null"
    paper = page.frames[1].evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(20, 23, 26)") == (theme == "dark"), paper
    frame.get_by_role("button", name="scores").first.click()
    assert "layer0.attn.scores" in frame.locator("#views").inner_text()
    frame.locator(".row:has-text('q')").first.click()
    frame.locator('[data-key="layer0.attn.q null"] canvas').click(position={"x": 60, "y": 40})
    assert ": equal" in frame.locator(".verdict").inner_text()
    frame.locator("button.link", has_text="norm[").first.click()
    frame.locator("#text").fill("olivia")
    assert frame.locator("#origin").inner_text().startswith("Numbers: run in this page")
    frame.locator(".command .copy").first.click()
    assert frame.locator(".command .copy").first.inner_text() == "selected"
    frame.locator("h2").first.click()
    frame.locator("body").press("Backspace")
    assert frame.locator("#explained").inner_text().startswith("layer0.attn.q[")
