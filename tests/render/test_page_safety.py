"""What a trace's page makes of texts that come from strangers, and what its policy lets run, in a browser and
in the frame of a notebook."""

import json
import os
import shutil
import subprocess

import pytest
from support.browser import go, needs_browser, wait_for
from support.commands import microgpt
from support.terminal import obeyed

from microgpt_trace import Config, Tokenizer, init, save, trace

pytestmark = needs_browser

SCRIPT = "</script><script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(1)>'
TOKENS = [SCRIPT, IMAGE, '"packed"', "layer#.", "layer0.attn.q", "${alert(1)}", "{{7*7}}", "__proto__"]
TOKENS += ["']&off=x"]
LETTERS = "<>&\"'`{}$\\/#[]=%+ \u2028\u202e\u200f\x1b\x85" + "emav"


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """A microGPT of such letters, in a file whose path is markup, and a text of them."""
    folder = tmp_path_factory.mktemp("letters") / "<script>alert(1)<"
    folder.mkdir()
    tokenizer = Tokenizer(LETTERS)
    config = Config(vocab_size=tokenizer.vocab_size, block_size=32)
    save(init(config, tokenizer=tokenizer), folder / "script>")
    return folder / "script>", LETTERS[:25]


@pytest.fixture(scope="module")
def strange_tokens(decoder_folder):
    """A decoder whose tokens and whose template are such texts, and a prompt of them."""
    folder = decoder_folder("qwen3", template=IMAGE)
    read = json.loads((folder / "tokenizer.json").read_text())
    names = {token: text for text, token in read["model"]["vocab"].items()}
    names |= dict(zip(range(5, 60), [*TOKENS, "\u00e2\u0122\u00ae", "\u00e2\u0122\u00a8"], strict=False))
    read["model"]["vocab"] = {text: token for token, text in names.items()}
    (folder / "tokenizer.json").write_text(json.dumps(read))
    return folder, ",".join(map(str, range(5, 5 + len(TOKENS) + 2)))


# What a page says in texts and attributes, hidden ones too, and how many scripts and strange elements it has.
SAYS = """() => {
  const texts = document.createTreeWalker(document, NodeFilter.SHOW_TEXT);
  const said = [document.title];
  while (texts.nextNode()) {
    if (!texts.currentNode.parentElement.matches("script, style")) said.push(texts.currentNode.data);
  }
  for (const { attributes } of document.querySelectorAll("body :not(#text)")) {
    said.push(...Array.from(attributes, (own) => own.value));
  }
  const count = (selector) => document.querySelectorAll(selector).length;
  const strange = count("img, b:not([id]), i, iframe, object, [onerror]");
  return [said.join("\\n"), document.body.innerText, count("script"), strange];
}"""


def assert_harmless(page, *shown, count=3):
    """Nothing strange is in it, everything is seen, and no character is obeyed. What runs or is asked for
    fails the test at its end."""
    said, seen, scripts, strange = page.evaluate(SAYS)
    assert (scripts, strange) == (count, 0)
    assert [line for line in said.split("\n") if obeyed(line, False)] == []
    for words in shown:
        assert words in seen, words


def test_letters_of_a_microgpt_are_text_wherever_they_stand(page_of, page_file, letters):
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
    assert page.inner_text("#origin").startswith("Numbers: run in this page")
    assert_harmless(page, "\\u202e")
    page.fill("#text", "\u202ez")
    assert_harmless(page)


def test_tokens_of_a_decoder_are_text_wherever_they_stand(page_of, page_file, strange_tokens):
    folder, tokens = strange_tokens
    page = page_of(page_file("trace", folder, "--tokens", tokens, "--lens", "--top-k", "60"))
    assert_harmless(page, *TOKENS, "\\u202e", "\\u2028")
    for address in ("layer1.attn.weights[0,5,3]", "layer0.attn.scores[1,4,2]", "logits[3,2]"):
        go(page, address)
        assert_harmless(page, *TOKENS)
        assert page.locator(".verdict.bad").count() == 0


def test_tokens_are_text_where_no_script_runs(page_of, page_file, strange_tokens):
    folder, tokens = strange_tokens
    page = page_of(page_file("trace", folder, "--tokens", tokens), java_script_enabled=False)
    assert_harmless(page, *TOKENS, count=2)
    assert SCRIPT in page.inner_text("h1")


def words_of(line):
    """The words that a shell makes of a line, which spells out what has no shape: bash reads it in UTF-8."""
    told = ["bash", "-c", f"printf '%s\\0' {line}"]
    done = subprocess.run(told, env={**os.environ, "LC_ALL": "C.UTF-8"}, capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash, which reads the commands that pages show")
def test_a_command_that_is_shown_gives_the_number_that_is_shown(page_at, letters, strange_tokens):
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
        assert json.loads(done.out)["traced"] == float(page.inner_text("#explained-value"))


RAN = "globalThis.ran = 1"
INJECTED = {  # what is put into a page, and the directive of its policy that refuses it
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
ADD = """const add = (tag, how) => {
  const element = Object.assign(document.createElement(tag), how);
  document.body.append(element);
  return element;
};"""


def test_the_policy_refuses_what_was_not_put_there(page_of, page_file):
    """Of an image the browser tells as if it were asked for, before the policy refuses it."""
    page = page_of(
        page_file("trace", "emma"), faults=["refused ", "console: ", "asked https://example.org/x.png"]
    )
    for program, directive in INJECTED.items():
        page.evaluate(f"() => {{ {ADD} refused.length = 0; {program} }}")
        wait_for(page, f"refused.includes('refused {directive}')")
    assert page.evaluate("globalThis.ran") is None
    assert page.evaluate("getComputedStyle(document.body).position") == "static"


def test_a_script_of_another_hash_does_not_run(page_of, page_file, tmp_path):
    text, start = page_file("trace", "emma").read_text("utf-8"), "(async () =>"
    assert text.count(start) == 1
    (tmp_path / "page.html").write_text(text.replace(start, f"{RAN};\n{start}"), "utf-8")
    page = page_of(tmp_path / "page.html", faults=["refused script-src-elem", "console: "], ready="body")
    wait_for(page, "refused.length > 0")
    assert page.evaluate("globalThis.ran") is None
    assert page.locator("body[data-ready]").count() == 0
    assert "Predictions" in page.inner_text("body")


# What stands for the notebook: text of its own, and a body that says it is there.
NOTEBOOK = '<!doctype html><meta charset="utf-8"><body data-ready="yes" style="color-scheme: {}">{}</body>'


@pytest.mark.parametrize(("theme", "values"), [("light", False), ("dark", True)])
def test_in_the_frame_of_a_notebook_it_runs_and_asks_for_nothing(page_of, tmp_path, values, theme):
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
