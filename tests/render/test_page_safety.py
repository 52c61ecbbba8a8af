"""Check in a browser that the page of a trace shows untrusted texts as text, that its policy refuses foreign
code, and that it works in the frame of a notebook."""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest
from support.browser import go, needs_browser, wait_for
from support.commands import microgpt
from support.page_numbers import exact
from support.terminal import controls

from microgpt_trace import Config, Tokenizer, init, save, trace

pytestmark = needs_browser

SCRIPT = "</script><script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(1)>'
TOKENS = [SCRIPT, IMAGE, '"packed"', "layer#.", "layer0.attn.q", "${alert(1)}", "{{7*7}}", "__proto__"]
TOKENS += ["']&off=x"]
LETTERS = "<>&\"'`{}$\\/#[]=%+ \u2028\u202e\u200f\x1b\x85" + "emav"


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """Return a microGPT of strange letters, in a file whose path is markup, and a text of these letters."""
    folder = tmp_path_factory.mktemp("letters") / "<script>alert(1)<"
    folder.mkdir()
    tokenizer = Tokenizer(LETTERS)
    config = Config(vocab_size=tokenizer.vocab_size, block_size=32)
    save(init(config, tokenizer=tokenizer), folder / "script>")
    return folder / "script>", LETTERS[:25]


@pytest.fixture(scope="module")
def strange_tokens(decoder_folder):
    """Return a decoder whose tokens and chat template are markup and code, and a prompt of these tokens."""
    folder = decoder_folder("qwen3", template=IMAGE)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    names = {token: text for text, token in tokenizer["model"]["vocab"].items()}
    names |= dict(zip(range(5, 60), [*TOKENS, "\u00e2\u0122\u00ae", "\u00e2\u0122\u00a8"], strict=False))
    tokenizer["model"]["vocab"] = {text: token for token, text in names.items()}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder, ",".join(map(str, range(5, 5 + len(TOKENS) + 2)))


# All texts and attributes of a page, the visible text, and the numbers of scripts and of injected elements.
TEXTS = """() => {
  const texts = document.createTreeWalker(document, NodeFilter.SHOW_TEXT);
  const all = [document.title];
  while (texts.nextNode()) {
    if (!texts.currentNode.parentElement.matches("script, style")) all.push(texts.currentNode.data);
  }
  for (const { attributes } of document.querySelectorAll("body :not(#text)")) {
    all.push(...Array.from(attributes, ({ value }) => value));
  }
  const count = (selector) => document.querySelectorAll(selector).length;
  const injected = count("img, b:not(.letters, #cards b), i, iframe, object, [onerror]");
  return [all.join("\\n"), document.body.innerText, count("script"), injected];
}"""


def assert_harmless(page, *expected, count=3):
    """Check that the page has no injected element, shows the expected texts, and has no control character.
    The fixture fails a test whose page ran or requested anything else."""
    texts, visible, scripts, injected = page.evaluate(TEXTS)
    assert (scripts, injected) == (count, 0)
    assert [line for line in texts.split("\n") if controls(line, False)] == []
    for words in expected:
        assert words in visible, words


def test_letters_of_a_microgpt_are_always_text(page_of, page_file, letters):
    path, text = letters
    page = page_of(page_file("trace", path, text, "--step"))
    assert_harmless(page, "␣", "\\u2028", "\\u202e", "\\x1b", "<script>alert(1)</script>")
    for address in ("logits[3,2]", "layer0.attn.weights[0,5,3]", "wte[2,2]", "gradient probs[20,1]"):
        go(page, address)
        for details in page.locator("details.behind").all():
            details.locator("summary").click()
        assert_harmless(page)
    page.fill("#text", "a\u202e<\u2028")
    page.keyboard.press("Tab")
    assert page.inner_text("#origin").startswith("computed in this page")
    assert_harmless(page, "\\u202e")
    page.fill("#text", "\u202ez")
    assert_harmless(page)


def test_tokens_of_a_decoder_are_text_with_and_without_scripts(page_of, page_file, strange_tokens):
    folder, tokens = strange_tokens
    page = page_of(page_file("trace", folder, "--tokens", tokens, "--lens", "--top-k", "60"))
    assert_harmless(page, *TOKENS, "\\u202e", "\\u2028")
    for address in ("layer1.attn.weights[0,5,3]", "layer0.attn.scores[1,4,2]", "logits[3,2]"):
        go(page, address)
        assert_harmless(page, *TOKENS)
        assert page.locator(".verdict.bad").count() == 0
    page = page_of(page_file("trace", folder, "--tokens", tokens), java_script_enabled=False)
    assert_harmless(page, *TOKENS, count=2)
    assert SCRIPT in page.inner_text("h1")


def words_of(line):
    """Split a command line into words as bash does in UTF-8: a page spells out characters without a shape."""
    command = ["bash", "-c", f"printf '%s\\0' {line}"]
    done = subprocess.run(command, env={**os.environ, "LC_ALL": "C.UTF-8"}, capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


@pytest.mark.skipif(
    shutil.which("bash") is None, reason="bash, which reads the commands of pages, is missing"
)
def test_the_command_of_an_element_prints_the_number_in_the_page(page_at, letters, strange_tokens):
    for words, element in (
        (("trace", *letters), "layer0.attn.q[3,4]"),
        (("trace", "emma"), "gradient layer0.mlp.up[2,5]"),
        (("trace", strange_tokens[0], "--tokens", strange_tokens[1]), "layer0.attn.weights[1,3,2]"),
    ):
        page = page_at(*words)
        go(page, element)
        program, *rest = words_of(page.inner_text(".again code"))
        done = microgpt(*rest, "--json")
        assert (program, done.err) == ("microgpt", "")
        shown = exact(page.locator("#explained-value").get_attribute("value"))
        assert np.float32(json.loads(done.out)["traced"]) == shown


RAN = "globalThis.ran = 1"
INJECTED = {  # code that is run in a page: the directive of the policy that refuses it
    f"add('script', {{ textContent: '{RAN}' }})": "script-src-elem",
    "document.body.setAttribute('style', 'position: fixed')": "style-src-attr",
    "fetch('https://example.org/').catch(() => {})": "connect-src",
    "add('img', { src: 'https://example.org/x.png' })": "img-src",
    f"setTimeout('{RAN}')": "script-src",
    "add('form', { action: 'https://example.org/' }).submit()": "form-action",
    "add('base', { href: 'https://example.org/' })": "base-uri",
    "add('iframe', { src: 'https://example.org/' })": "frame-src",
    "try { new Worker('data:,') } catch {}": "worker-src",
    f'document.body.innerHTML += \'<img src="data:," onerror="{RAN}">\'': "script-src-attr",
}
ADD = """const add = (tag, members) => {
  const element = Object.assign(document.createElement(tag), members);
  document.body.append(element);
  return element;
};"""


def test_the_policy_refuses_foreign_code_and_requests(page_of, page_file):
    """The browser reports a request for an image before the policy refuses it."""
    faults = ["refused ", "console: ", "requested https://example.org/x.png"]
    page = page_of(page_file("trace", "emma"), faults=faults)
    for program, directive in INJECTED.items():
        page.evaluate(f"() => {{ {ADD} refused.length = 0; {program} }}")
        wait_for(page, f"refused.includes('refused {directive}')")
    assert page.evaluate("globalThis.ran") is None
    assert page.evaluate("getComputedStyle(document.body).position") == "static"


def test_a_script_with_another_hash_does_not_run(page_of, page_file, tmp_path):
    text, start = page_file("trace", "emma").read_text("utf-8"), "(async () =>"
    assert text.count(start) == 1
    (tmp_path / "page.html").write_text(text.replace(start, f"{RAN};\n{start}"), "utf-8")
    page = page_of(tmp_path / "page.html", faults=["refused script-src-elem", "console: "], ready="body")
    wait_for(page, "refused.length > 0")
    assert page.evaluate("globalThis.ran") is None
    assert page.locator("body[data-ready]").count() == 0
    assert "Predictions" in page.inner_text("body")


# A page in place of a notebook, whose body says that it is ready.
NOTEBOOK = '<!doctype html><meta charset="utf-8"><body data-ready="yes" style="color-scheme: {}">{}</body>'


@pytest.mark.parametrize(("theme", "values"), [("light", False), ("dark", True)])
def test_a_page_works_in_the_frame_of_a_notebook(page_of, tmp_path, values, theme):
    """A sandboxed frame has no storage, no history and no address. The colours are those of the notebook."""
    run = trace(init(), "emma", values=values)
    path = tmp_path / "notebook.html"
    path.write_text(NOTEBOOK.format(theme, run._repr_html_()), encoding="utf-8")
    blocked = "The Clipboard API has been blocked"
    page = page_of(path, color_scheme="null", faults=[blocked])  # the body sets the scheme
    frame = page.frame_locator("iframe")
    frame.locator("body[data-ready]").wait_for()
    assert page.frames[1].evaluate("() => location.origin") == "null"
    paper = page.frames[1].evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(20, 22, 28)") == (theme == "dark"), paper
    frame.get_by_role("button", name="scores").first.click()
    assert "layer0.attn.scores" in frame.locator("#views").inner_text()
    frame.locator(".row:has-text('q')").first.click()
    frame.locator('[data-key="layer0.attn.q null"] canvas').click(position={"x": 60, "y": 40})
    assert frame.locator(".verdict").inner_text() == "✓ worked out again"
    frame.locator("button.link", has_text="norm[").first.click()
    frame.locator("#text").fill("olivia")
    assert frame.locator("#origin").inner_text().startswith("computed in this page")
    frame.locator(".command .copy").first.click()
    assert frame.locator(".command .copy").first.inner_text() == "selected"
    frame.locator("h2").first.click()
    frame.locator("body").press("Backspace")
    assert frame.locator("#explained").inner_text().startswith("layer0.attn.q[")
