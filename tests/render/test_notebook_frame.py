"""The page of a trace in the frame of a notebook, in a browser."""

import pytest
from support.browser import needs_browser, opened

from microgpt_trace import init, trace

pytestmark = needs_browser

# What stands for the notebook: text of its own, and a body that says it is there.
NOTEBOOK = '<!doctype html><meta charset="utf-8"><body data-ready="yes" style="color-scheme: {}">{}</body>'


@pytest.mark.parametrize(("theme", "values"), [("light", False), ("dark", True)])
def test_it_runs_and_asks_for_nothing(browser, tmp_path, values, theme):
    """Without storage, history or an address of its own, which a sandboxed frame lacks, and in the notebook's
    colours."""
    run = trace(init(), "emma", values=values)
    path = tmp_path / "notebook.html"
    path.write_text(NOTEBOOK.format(theme, run._repr_html_()), encoding="utf-8")
    with opened(browser, path, color_scheme="null") as page:  # as the body says
        frame = page.frame_locator("iframe")
        frame.locator("body[data-ready]").wait_for()
        frame.get_by_role("button", name="scores").first.click()
        assert "layer0.attn.scores" in frame.locator("#views").inner_text()
        assert page.frames[1].evaluate("() => location.origin") == "null"
        paper = page.frames[1].evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(20, 23, 26)") == (theme == "dark"), paper
