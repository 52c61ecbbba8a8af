"""The system's browser, and pages in it. A page fails its test if it has errors, sends requests, opens
dialogs or violates its own content policy."""

import os
import shlex
import shutil
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import pytest
from fasteners import InterProcessLock
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
    """Start the browser once for all tests of a worker."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture(scope="session")
def axe():
    """Return axe-core, which judges the accessibility of pages."""
    reason = "axe-playwright-python, which carries axe-core, is not installed"
    return pytest.importorskip("axe_playwright_python.sync_playwright", reason=reason).Axe()


CONTRAST = "color-contrast"  # this rule takes most of axe-core's time


def axe_finds_nothing(axe, page, parts=None, schemes=("light",), widths=(1400,)):
    """Check a page with axe-core at these widths, and the contrasts of `parts` in each colour scheme. The
    page must fit a narrow and a wide screen."""
    for width in (400, 1400):
        page.set_viewport_size({"width": width, "height": 1000})
        assert page.evaluate("document.documentElement.scrollWidth") == width
        if width in widths:
            assert faults(axe, page, rules={CONTRAST: {"enabled": False}}) == []
    for scheme in schemes:
        show_in(page, scheme)
        assert faults(axe, page, parts, runOnly=[CONTRAST]) == [], scheme
    show_in(page, "light")


def show_in(page, scheme):
    """Show a page in a colour scheme at once: without reduced motion, colours would change slowly."""
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.evaluate("getComputedStyle(document.body).color")  # computes the colours before motion is back
    page.emulate_media(reduced_motion="null")


def faults(axe, page, context=None, **options):
    """Return the violations that axe-core finds, one line each."""
    violations = axe.run(page, context, {"resultTypes": ["violations"], **options}).response["violations"]
    nodes = [(violation["id"], node) for violation in violations for node in violation["nodes"]]
    return [f"{name}: {node['html'][:120]}: {node['failureSummary'][:250]}" for name, node in nodes]


@pytest.fixture(scope="session")
def page_file(tmp_path_factory):
    """A function that returns the page that a command writes. Each command runs once for all workers."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "pages"
    folder.mkdir(exist_ok=True)

    def file(*words):
        name = sha256(shlex.join(map(str, words)).encode()).hexdigest()[:20]
        path, new = folder / f"{name}.html", folder / f"{name}.new.html"
        with InterProcessLock(folder / f"{name}.lock"):
            if not path.exists():
                done = microgpt(*words, "--html", new)
                assert f"saved a page to {new}" in done.lines, done.err  # a failed check is in the page
                new.rename(path)
        return path

    return file


@pytest.fixture
def page_of(browser):
    """A function that opens a file in a page. Unexpected faults of the page fail the test when it ends."""
    with ExitStack() as pages:
        yield lambda path, address="", **options: pages.enter_context(
            opened_page(browser, path, address, **options)
        )


@pytest.fixture(scope="session")
def page_at(browser, page_file):
    """A function that follows a link in the page of a command. The page is loaded once for all tests of a
    worker. Its faults fail the last of these tests."""
    pages_by_path = {}
    with ExitStack() as pages:

        def show(*words, address=""):
            path = page_file(*words)
            if path not in pages_by_path:
                pages_by_path[path] = pages.enter_context(opened_page(browser, path))
            page = pages_by_path[path]
            page.set_viewport_size(SIZE)
            page.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0); }")
            follow(page, f"#{address}")
            return page

        yield show


@contextmanager
def opened_page(browser, path, address="", *, faults=(), ready=READY, **options):
    """Open a file in a new page. At the end, check that the page had the expected faults and no others."""
    context = browser.new_context(viewport=SIZE, **options)
    context.set_default_timeout(20_000)
    page, seen = context.new_page(), []
    page.add_init_script(WATCH)
    url = Path(path).as_uri()
    page.on("console", lambda message: seen.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: seen.append(f"error: {error}"))
    page.on("request", lambda r: r.url.partition("#")[0] == url or seen.append(f"requested {r.url}"))
    page.on("dialog", lambda dialog: (seen.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    try:
        page.goto(f"{url}{address}")
        if options.get("java_script_enabled", True):
            page.wait_for_selector(ready)
        yield page
        seen += page.evaluate("globalThis.refused ?? []")
        unexpected = [fault for fault in seen if not any(expected in fault for expected in faults)]
        assert not unexpected, unexpected
        assert all(any(expected in fault for fault in seen) for expected in faults), (faults, seen)
    finally:
        context.close()


def with_modules(page):
    """Give programs that are evaluated in the page its modules, `M`, and its Page, `shown`. The whole script
    runs again, except its last line, which starts the page."""
    if page.evaluate("globalThis.M !== undefined"):
        return page
    text = script("overview")
    changed = {"const M = {};": "const M = globalThis.M = {};", "start(overviewOf);\n": ""}
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
    """Follow a link to an address in the page."""
    follow(page, page.evaluate("(address) => `#${encodeURIComponent(address)}`", address))


def follow(page, link):
    """Follow a link within the page, and wait for the hashchange event."""
    page.evaluate(
        """(link) => new Promise((resolve) => {
        if ((location.hash || "#") === link) return resolve();
        addEventListener("hashchange", resolve, { once: true });
        location.hash = link;
        })""",
        link,
    )


def wait_for(page, condition):
    """Wait until an expression is true. The policy of the page does not let the driver wait by itself."""
    for _ in range(500):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(20)
    pytest.fail(f"never true in the page: {condition}")
