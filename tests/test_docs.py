"""The pages: their links, the page of commands, and the picture of a trace."""

import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from runpy import run_path

import pytest
from support.commands import microgpt
from support.pages import PAGES, README, ROOT, anchors, close, examples, links, prose, read
from support.sweeps import in_sweep

from microgpt_trace import init, patch, train

DOCS = ROOT / "docs"
SVG = "{http://www.w3.org/2000/svg}"
CELL = 12.2  # the width of a character in rich's pictures


def broken(page, text):
    """Yield the links of a page to missing files or headings."""
    for target in links(text):
        name, _, anchor = target.partition("#")
        file = page.parent / name
        if not file.exists() or (anchor and anchor not in anchors(read(file) if name else text)):
            yield target


def test_no_link_is_broken():
    assert {page.stem: links for page in PAGES if (links := list(broken(page, read(page))))} == {}


def test_examples_of_the_page_of_commands_can_be_copied():
    """The help escapes brackets for rich. The page must not."""
    lines = [line[3:-1] for line in read(DOCS / "commands.md").splitlines() if line.startswith("- `microgpt")]
    assert len(lines) > 20
    assert [line for line in lines if "\\" in line] == []
    line = next(line for line in lines if "logits[" in line)
    assert microgpt(line.removeprefix("microgpt ")).code == 0


def test_finds_broken_links():
    text = "# A head\n[a](docs/none.md) [b](#a-head) [c](#another) [d](README.md) [e](https://a.b)"
    assert list(broken(README, text)) == ["docs/none.md", "#another"]


def test_every_page_can_be_reached_from_the_readme():
    reached, queue = set(), [README]
    while queue:
        page = queue.pop()
        reached.add(page)
        targets = {(page.parent / link.partition("#")[0]).resolve() for link in links(read(page))}
        queue += [target for target in targets if target.suffix == ".md" and target not in reached]
    assert set(PAGES) - reached == set()


def test_the_page_of_commands_is_up_to_date():
    """`make docs` writes the page."""
    assert read(DOCS / "commands.md") == run_path(str(DOCS / "write_commands.py"))["page"]()


def test_the_picture_shows_the_output_of_the_command():
    """`make docs` draws the picture."""
    shown = lines_of(read(DOCS / "trace.svg"))
    columns = run_path(str(DOCS / "picture.py"))["COLUMNS"]
    printed = microgpt("trace emma", width=columns).out
    in_colour = re.sub("[░▒▓█](?=[0-9])", " ", printed)  # in colour, a background replaces the shade
    differ = [pair for pair in zip(shown, in_colour.splitlines(), strict=True) if not close(*pair)]
    assert differ == []
    assert not re.search(r"@font-face|url\(http", read(DOCS / "trace.svg"))  # it needs no other file


def lines_of(svg):
    """Return the lines of text in a picture of a terminal."""
    lines = defaultdict(str)
    for text in ET.fromstring(svg).iter(f"{SVG}text"):
        line = text.get("clip-path", "").removeprefix("url(#trace-line-").removesuffix(")")
        if line.isdigit():
            column = round(float(text.get("x")) / CELL)
            lines[int(line)] = lines[int(line)].ljust(column) + text.text.replace("\xa0", " ")
    return [lines[number].rstrip() for number in range(max(lines) + 1)]


@pytest.mark.parametrize("steps", [1000, in_sweep(5000)])
def test_several_letters_and_heads_restore_a_part_of_the_answer_that_the_pages_patch(steps):
    """If one letter or head restored the whole answer, the map would show only 0 and 1."""
    for page in ("library.md", "microgpt.ipynb"):
        assert 'patch(model, "lara", "eira", target="n", against="EOS"' in read(DOCS / page).replace("\\", "")
    command = "patch lara eira --sites embed.norm --sites 'layer0.attn.head*' --target n"
    assert command in read(DOCS / "pages.md")
    model, sites = train(init(seed=42), steps=steps), ["embed.norm", "layer0.attn.head*"]
    cells = patch(model, "lara", "eira", target="n", against="EOS", sites=sites).cells
    letters = [cell.restored for cell in cells if cell.position in (1, 2)]
    heads = [cell.restored for cell in cells if cell.head is not None]
    print(letters, heads)
    assert all(0.1 < share < 0.9 for share in letters)
    assert sum(0.1 < share < 0.9 for share in heads) >= 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```console\n$ microgpt a\nb\n$ microgpt c\n```\n", [("microgpt a", ["b"]), ("microgpt c", [])]),
        ("```python\nprint(1)\n```\n\n```\n1\n```\n", [("print(1)\n", ["1"])]),
        ("```python\nx = 1\n```\nand\n```\n1\n```\n", [("x = 1\n", [])]),
        ("```\n$ nothing\n```\n", []),
    ],
)
def test_finds_examples(text, expected):
    assert [(example.text, example.shown) for example in examples(text)] == expected
    assert "microgpt" not in prose(text)


def test_headings_have_the_anchors_of_github():
    text = "# When something is wrong\n```\n# no heading\n```\n## `diff`, and `diagnose`\n"
    assert anchors(text) == {"when-something-is-wrong", "diff-and-diagnose"}
    assert links("[a](b.md#c) ![d](e.svg) [f](https://g)") == ["b.md#c", "e.svg"]
