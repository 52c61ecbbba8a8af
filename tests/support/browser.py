"""The system's browser, and a page in it of which all is written down that it owes nobody: errors, requests,
dialogs, and what its policy refused."""

import shutil
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.commands import microgpt

from microgpt_trace.render.page.page import script

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
LACKING = [
    *["playwright, which drives a browser, is not installed"] * (not find_spec("playwright")),
    *["no Chromium, which shows pages, is installed"] * (CHROMIUM is None),
]
needs_browser = pytest.mark.skipif(bool(LACKING), reason=" and ".join(LACKING))

READY = "body[data-ready]"
SIZE = {"width": 1400, "height": 1000}
WATCH = """
globalThis.refused = [];
addEventListener("securitypolicyviolation", (event) => refused.push(`refused ${event.effectiveDirective}`));
"""


@pytest.fixture(scope="session")
def browser():
    """Started once for many pages."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture(scope="session")
def axe():
    """The judge of what everybody can read and use: axe-core."""
    reason = "axe-playwright-python, which carries axe-core, is not installed"
    return pytest.importorskip("axe_playwright_python.sync_playwright", reason=reason).Axe()


CONTRAST = "color-contrast"  # which takes most of axe-core's time


def axe_finds_nothing(axe, page, parts=None, scheme="light", widths=(1400,)):
    """Let axe-core judge pages of these widths, and contrasts in a colour scheme, where `parts` of the page
    stand for all that is alike. Nothing is wider than a narrow or a wide screen."""
    for width in (400, 1400):
        page.set_viewport_size({"width": width, "height": 1000})
        assert page.evaluate("document.documentElement.scrollWidth") == width
        if width in widths:
            assert faults(axe, page, rules={CONTRAST: {"enabled": False}}) == []
    page.emulate_media(color_scheme=scheme)
    assert faults(axe, page, parts, runOnly=[CONTRAST]) == []
    page.emulate_media(color_scheme="light")


def faults(axe, page, context=None, **options):
    """What axe-core finds, a line each."""
    found = axe.run(page, context, {"resultTypes": ["violations"], **options}).response["violations"]
    nodes = [(own["id"], node) for own in found for node in own["nodes"]]
    return [f"{name}: {node['html'][:120]}: {node['failureSummary'][:250]}" for name, node in nodes]


@pytest.fixture(scope="session")
def page_file(tmp_path_factory):
    """A function that gives the file of a page, by the words of the command that writes it."""
    known, folder = {}, tmp_path_factory.mktemp("pages")

    def file(*words):
        words = tuple(map(str, words))
        if words not in known:
            path = folder / f"{len(known)}.html"
            done = microgpt(*words, "--html", path)
            assert f"saved a page to {path}" in done.lines, done.err  # a check that fails is in the page
            known[words] = path
        return known[words]

    return file


@pytest.fixture
def page_of(browser):
    """A function that opens a file, whose page is closed at the test's end and then fails it where it has
    faults of which the test said nothing."""
    with ExitStack() as pages:
        yield lambda path, address="", **how: pages.enter_context(opened(browser, path, address, **how))


@pytest.fixture(scope="session")
def page_at(browser, page_file):
    """A function that shows an address in the page of a command, as a link to it does. The page is loaded
    once for all tests of a worker. Its faults fail the last of these tests."""
    known = {}
    with ExitStack() as pages:

        def show(*words, address=""):
            path = page_file(*words)
            if path not in known:
                known[path] = pages.enter_context(opened(browser, path))
            page = known[path]
            page.set_viewport_size(SIZE)
            page.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0); }")
            follow(page, f"#{address}")
            return page

        yield show


@contextmanager
def opened(browser, path, address="", *, faults=(), ready=READY, **how):
    """A file in a browser's page of its own. It fails at the end where there was another fault than these."""
    context = browser.new_context(viewport=SIZE, **how)
    context.set_default_timeout(20_000)
    page, found = context.new_page(), []
    page.add_init_script(WATCH)
    own = Path(path).as_uri()
    page.on("console", lambda said: found.append(f"console: {said.text}"))
    page.on("pageerror", lambda error: found.append(f"error: {error}"))
    page.on("request", lambda asked: asked.url.partition("#")[0] == own or found.append(f"asked {asked.url}"))
    page.on("dialog", lambda dialog: (found.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    try:
        page.goto(f"{own}{address}")
        if how.get("java_script_enabled", True):
            page.wait_for_selector(ready)
        yield page
        found += page.evaluate("globalThis.refused ?? []")
        unexpected = [fault for fault in found if not any(known in fault for known in faults)]
        assert not unexpected, unexpected
        assert all(any(known in fault for fault in found) for known in faults), (faults, found)
    finally:
        context.close()


def with_modules(page):
    """Let programs that are evaluated in the page use its modules: `M`, and `shown`, which is its Page. They
    are those of its script to the letter, of which the last lines alone are not run again."""
    if page.evaluate("globalThis.M !== undefined"):
        return page
    text = script("main")
    changed = {"const M = {};": "const M = globalThis.M = {};", "switchTheme();\nstart();\n": ""}
    for line, other in changed.items():
        assert text.count(line) == 1, line
        text = text.replace(line, other)
    page.evaluate(text)
    page.evaluate("""() => {
        const { document, arrays } = M.unpacking.unpacked(globalThis.microgptContent);
        globalThis.shown = new M.runs.Page(document, arrays);
        shown.commandOf = () => "";
        shown.whyNoCommand = () => null;
    }""")
    return page


def go(page, address):
    """Show what an address names, as a link to it does."""
    follow(page, page.evaluate("(address) => `#${encodeURIComponent(address)}`", address))


def follow(page, link):
    """Follow a link within the page, and wait until the page has heard of it."""
    page.evaluate(
        """(link) => new Promise((resolve) => {
        if ((location.hash || "#") === link) return resolve();
        addEventListener("hashchange", resolve, { once: true });
        location.hash = link;
        })""",
        link,
    )


def wait_for(page, condition):
    """Until an expression is true in the page, whose policy keeps the driver from asking there itself."""
    for _ in range(500):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(20)
    pytest.fail(f"never true in the page: {condition}")
