"""Numbers as pages write them: with U+2212 as the minus sign, in percent, with few or with all digits."""

import math
import re

import numpy as np
from support.browser import go

MINUS = "\u2212"
EXACT = re.compile(r"(\u2212?(\d+(\.\d+)?(e[\u2212+]?\d+)?|Infinity)|NaN)\Z")


def number(text):
    """Return the number of a text. It has no other minus sign than U+2212."""
    assert "-" not in text, text
    return float(text.replace(MINUS, "-").strip())


def exact(text):
    """Return the float32 that a text gives back with as few digits as possible."""
    assert EXACT.match(text), text
    value = np.float32(number(text))
    digits = re.sub(r"e.*|\D", "", text).strip("0")
    assert not np.isfinite(value) or len(digits) <= len(shortest(value)), (text, value)
    return value


def shortest(value):
    return re.sub(r"e.*|\D", "", np.format_float_scientific(value)).strip("0")


def is_exact(text, value):
    """Return True if a text has all digits of a value: those of a float32 if the value is one. Other values
    are computed in float64 both in the page and by the command, in another order."""
    if float(np.float32(value)) == value:
        return exact(text) == np.float32(value)
    return math.isclose(number(text), value, rel_tol=1e-12, abs_tol=1e-12)


def is_rounded(text, value, digits=4):
    """Return True if a text is the value with this number of significant digits. The value itself may be a
    float32, which is a bit off."""
    if not math.isfinite(value) or value == 0:
        return number(text) == value or (math.isnan(value) and text == "NaN")
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - digits + 1)
    return abs(number(text) - value) <= 0.5 * unit + 1e-6 * abs(value)


def is_percent(text, p):
    """Return True if a text is the probability p in percent with three digits, such as "14.9" or "14.9 %". A
    probability below 0.001 % may be one of so many, such as "1 in 250,000"."""
    if text.startswith("1 in "):
        return p < 1e-5 and is_rounded(text[5:].replace(",", ""), 1 / p, 2)
    return is_rounded(text.removesuffix(" %"), 100 * p, 3)


def explained_in(page):
    """Return the explained number. It is shown with four digits, and its element has all of them."""
    shown = page.locator("#explained-value")
    value = exact(shown.get_attribute("value"))
    assert is_rounded(shown.inner_text(), value), (shown.inner_text(), value)
    return value


def verdict_in(page):
    """Return what the page computed and what was traced, if both are equal. A tick says so, and its title has
    the numbers."""
    assert page.inner_text(".verdict") == "✓ worked out again"
    line = page.locator(".verdict").get_attribute("title")
    return re.fullmatch(r"computed here (\S+), traced (\S+): equal.*", line).groups()


def command(name, checkpoints):
    """Return the words of a trace: emma by the untrained model, or a text by one of the checkpoints."""
    texts = {"trained": "olivia", "deep": "abbacife", "broken": "emma"}
    return ("trace", "emma") if name == "untrained" else ("trace", checkpoints[name], texts[name])


# The cells of "show as a table" for an array, head by head.
TABLES = """async (address) => {
  const tables = [];
  for (const box of document.querySelectorAll(`[data-key^="${CSS.escape(address)} "]`)) {
    const behind = box.parentElement.querySelector("details.behind");
    behind.open = true;
    await new Promise((resolve) => setTimeout(resolve, 0));
    const rows = behind.querySelectorAll("tbody tr");
    tables.push(Array.from(rows, (row) => Array.from(row.cells, (cell) => cell.textContent).slice(1)));
  }
  return tables;
}"""


def cell(text):
    return math.nan if text == "masked" else exact(text)


def in_tables(page, address):
    """Return an array from the tables behind its pictures; masked elements are NaN."""
    go(page, address)
    tables = page.evaluate(TABLES, address)
    return np.array([[list(map(cell, row)) for row in table] for table in tables], np.float32)


# Explain some elements of every event and gradient, count the verdicts, and return those other than "equal".
VERDICTS = """(count) => {
  const digits = { write: M.numbers.exact, isExact: true };
  const run = shown.traced;
  const verdicts = { count: 0, equal: 0, masked: 0, others: [] };
  for (const { name } of [...shown.events, ...shown.parameters]) for (const of of ["value", "gradient"]) {
    const array = run.of(name, of);
    if (!array || (of === "value" && !shown.has(name))) continue;
    const shape = run.shape(name);
    for (let n = 0; n < Math.min(count, array.length); n += 1) {
      const flat = array.length <= count ? n : Math.floor(((n * 0.618034) % 1) * array.length);
      const at = { of, name, index: M.formulas.placeOf(flat, shape) };
      const context = { page: shown, run, at, trail: [], go() {}, slider: null, digits };
      const view = M.explain_view.explainView(context);
      const words = view.querySelector(".verdict")?.textContent ?? view.textContent;
      verdicts.count += 1;
      const isMasked = shown.row(name).axes.at(-1) === "key" && at.index.at(-1) > at.index.at(-2);
      const isEqual = /: equal( \\(difference \\S+, rounding explains up to \\S+\\))?$/.test(words);
      if (isMasked && / here \\S+; masked: .+/.test(words)) verdicts.masked += 1;
      else if (isEqual) verdicts.equal += 1;
      else verdicts.others.push(`${M.elements.addressOf(at)}: ${words}`);
    }
  }
  return verdicts;
}"""

LEFT = re.compile(
    r"The page (does not hold all inputs of this number\. The command below writes out its arithmetic|"
    r"holds (only an 8-bit picture of this array|no value of this number)\. The command below computes it)\."
)
