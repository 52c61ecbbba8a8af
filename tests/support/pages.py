"""The Markdown pages of the project: their examples, links and headings, and checks of their output."""

import re
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
NUMBER = re.compile(r"-?\d[\d,]*\.?\d*")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


class Example(NamedTuple):
    """A command or Python code, and the output that the page shows below it."""

    language: str
    text: str
    shown: list[str]


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def examples(text: str) -> list[Example]:
    """Return the examples of a page. The output of Python code is the block without a language below it."""
    result, blocks = [], list(FENCED.finditer(text))
    for block, below in zip_longest(blocks, blocks[1:]):
        language, code = block.groups()
        if language == "console":
            for part in re.split(r"^\$ ", code, flags=re.MULTILINE)[1:]:
                command, *shown = part.splitlines()
                result.append(Example(language, command, shown))
        elif language == "python":
            is_output = below and not below[1] and not text[block.end() : below.start()].strip()
            result.append(Example(language, code, below[2].splitlines() if is_output else []))
    return result


def prose(text: str) -> str:
    """Return a page without its blocks of code."""
    return FENCED.sub("", text)


def links(text: str) -> list[str]:
    """Return the targets of a page's links, except URLs."""
    return [target for target in LINK.findall(prose(text)) if "://" not in target]


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub makes from the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


def close(shown: str, printed: str) -> bool:
    """Return True if the words are the same and the numbers within 3 %: processors round differently."""
    if NUMBER.sub("#", shown) != NUMBER.sub("#", printed):
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    values = ((float(a.replace(",", "")), float(b.replace(",", ""))) for a, b in pairs)
    return all(abs(a - b) <= 0.02 + 0.03 * abs(a) for a, b in values)


def starts_like(shown: str, printed: str) -> bool:
    return printed.startswith(shown.removesuffix("..."))


def assert_shown(shown: list[str], printed: list[str]) -> None:
    """Check that the output has the shown lines in order. "..." matches any lines, or the end of a line."""
    at = 0
    for index, line in enumerate(shown):
        if line == "...":
            continue
        free = index > 0 and shown[index - 1] == "..."
        same = starts_like if line.endswith("...") else close
        matches = [i for i in range(at, len(printed)) if same(line, printed[i])]
        assert matches, f"not printed: {line!r}"
        assert free or matches[0] == at, f"expected {line!r} next, found {printed[at]!r}"
        at = matches[0] + 1
