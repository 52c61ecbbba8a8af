"""in_words: an element's formula as text, such as "sum of norm[3,c] × attn_wq[4,c], c=0..15". This module
depends on no kind of operation.

If the label of a step is a word, the step is written at the end, such as "rms = sqrt(...)". Every other step
is written inside the step that reads the result. In the text, a letter means all places of a range.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..plans.kinds import Length
from ..plans.plan import layer_of
from .formula import (
    Constant,
    ElementAt,
    FactorOf,
    Over,
    Place,
    PlaceAlong,
    ResultOf,
    ShareOfKnown,
    Sign,
    TermOf,
)
from .places import MASKED, ElementPlaces
from .steps import in_place_of_x, is_joined
from .traced_element import short

MOST = 6  # for a longer sum, only the first two terms and the last term are written


def in_words(at: ElementPlaces) -> str:
    """Return the right-hand side of the element's formula as text."""
    if at.hidden:
        return "0: the query does not see the key"
    terms = [term for term in at.formula.steps[-1].terms if at.counts(term)]
    if not terms:
        known = at.numbers.inputs.targets[at.axes[0]] is not None
        reason = "loss reads only the probability of the target" if known else "next token is not known"
        return f"0: the {reason}"
    if any(over.of in ("tokens", "itself") for over in terms[0].over) and not len(at.ranges(terms[0])[0]):
        return "0: the text does not read this row"
    if all(term.same and not np.size(at.at(at.ranges(term), term)[-1]) for term in terms):
        return "0: the expert was not chosen"
    return _Writer(at).formula()


class _Letter(NamedTuple):
    """A letter for the places along a range. `start` is the value of the letter at the first place."""

    letter: str
    start: int


Places = Sequence[int | _Letter]  # places along the axes of the formula, then along the ranges of a term


class _Writer:
    """Writes one formula. Stores the letters of the formula, and the steps that are written at the end."""

    def __init__(self, at: ElementPlaces) -> None:
        self._at, self._steps = at, at.formula.steps
        self._ranges: dict[str, str] = {}  # letter -> description of the range
        self._named: list[int] = []  # the steps that are written at the end
        terms = [term for step in self._steps for term in step.terms]
        read = {part.name for term in terms for part in term.factors if isinstance(part, ElementAt)}
        self._full_names = len(read) > 1 and not any(term.over for term in terms)

    def formula(self) -> str:
        text = self._step(len(self._steps) - 1)
        for step in self._named:  # writing a step may add to the list
            text += f", {self._steps[step].label} = {self._step(step)}"
        return text + "".join(self._ranges.values())

    def _step(self, number: int) -> str:
        step = self._steps[number]
        texts = [self._term(term, len(step.along)) for term in step.terms if self._at.counts(term)]
        if len(texts) > MOST:
            texts = [*texts[:2], "...", texts[-1]]
        return " + ".join(texts).replace(" + -", " - ")

    def _term(self, term: TermOf, along: int) -> str:
        """Write a term: a product or a function of a product, with "sum of" or "mean of" before a range."""
        places: list[int | _Letter] = list(self._at.axes)
        for n, over in enumerate(term.over):
            places.append(self._along(term, over, n))
        if term.same is not None and any(isinstance(place, _Letter) for place in places):
            where, axis = term.same
            self._ranges["where"] = f" where {self._spot(where, places)} is {places[axis]}"
        text, sign = self._product(term, places)
        if term.less is not None and not self._steps[term.less].guard:
            text = f"({text} - {self._name(term.less)})"
        words, prefix = term.function.words or term.function.text, ""
        if any(isinstance(place, _Letter) for place in places[len(self._at.axes) + along :]):
            is_mean = words.endswith(f"/{self._at.size(term.over[-1].size)}")
            prefix, words = ("mean of ", words.rpartition("/")[0]) if is_mean else ("sum of ", words)
        return f"{'-' if sign < 0 else ''}{prefix}{in_place_of_x(words, text) if words else text}"

    def _product(self, term: TermOf, places: Places) -> tuple[str, int]:
        """Return the factors of a term as text without a sign, and the sign, -1 or 1."""
        text, sign = "", 1
        parts = [part for part in term.factors if not isinstance(part, Sign)]
        for part in term.factors:
            if isinstance(part, Sign):
                sign *= int(part.values[self._at.axes[part.axis]])
                continue
            word, divides = self._factor(part, places), part.prefix.endswith("/")
            sign *= -1 if part.prefix.startswith("-") else 1
            signs = "+-" if not text or (divides and part is parts[-1]) else "+-×/"
            if len(parts) > 1 and is_joined(word, signs):
                word = f"({word})"
            if text:
                text += f" / {word}" if divides else f" × {word}"
            else:
                text = f"1/{word}" if divides else word
        return text, sign

    def _factor(self, part: FactorOf, places: Places) -> str:
        """Write a factor or a divisor without its sign."""
        match part:
            case ElementAt(less=None):
                return self._element(part, places)
            case ElementAt(less=int(number)):
                return f"({self._element(part, places)} - {self._name(number)})"
            case ResultOf(number):
                step = self._steps[number]
                return self._name(number) if step.label.isalpha() and not step.inside else self._step(number)
            case ShareOfKnown():
                return str(self._at.target_count)
            case Place(axis):
                return str(places[axis])
            case Constant(words, values, axis):
                return words if axis is None else f"{values[self._at.axes[axis]]:.6g}"
        raise TypeError(part)

    def _name(self, step: int) -> str:
        """Return the label of a step, and add the step to the list of steps that are written at the end."""
        if step not in self._named:
            self._named.append(step)
        return self._steps[step].label

    def _element(self, part: ElementAt, places: Places) -> str:
        name = part.name if layer_of(part.name) is None else short(part.name)
        if self._full_names or (name == short(self._at.name) and part.name != self._at.name):
            name = part.name
        index = ",".join(self._spot(spot, places) for spot in part.index)
        return "d " * (part.phase == "backward") + name + (f"[{index}]" if index else "")

    def _spot(self, spot: int | PlaceAlong, places: Places) -> str:
        """Write a place along an axis of an array, such as 3, c or c + 8."""
        spot = PlaceAlong(((spot, 1),)) if isinstance(spot, int) else spot
        by = spot.by[0] if spot.table else PlaceAlong(())
        rows = [places[axis] for axis, _ in by.axes] if isinstance(by, PlaceAlong) else [places[by]]
        if any(isinstance(row, _Letter) for row in rows):
            index = ",".join(row.letter if isinstance(row, _Letter) else str(row) for row in rows)
            return f"target at {index}" if spot.table == "targets" else f"{short(str(spot.table))}[{index}]"
        start, letters = self._start(spot, places), list[str]()
        for axis, stride in spot.axes:
            place = places[axis]
            if isinstance(place, _Letter):
                start -= place.start * stride
                letters.append(f"{stride if stride != 1 else ''}{place.letter}")
        if not letters:
            return str(start)
        return " + ".join(letters) + (f" {'+' if start > 0 else '-'} {abs(start)}" if start else "")

    def _start(self, spot: PlaceAlong, places: Places) -> int:
        """Return the place along an axis if every letter is 0."""
        numbers = ((places[axis], stride) for axis, stride in spot.axes)
        start = spot.offset + sum(place * stride for place, stride in numbers if isinstance(place, int))
        by, times = spot.by
        row = self._start(by, places) if isinstance(by, PlaceAlong) else places[by]
        if not spot.table or isinstance(row, _Letter):
            return start
        return start + int(self._at.entries(spot.table)[row]) * times

    def _along(self, term: TermOf, over: Over, n: int) -> int | _Letter:
        """Return the letter of a range and store a description, or return the place if no letter is
        needed."""
        axis, run = len(self._at.axes) + n, self._at.ranges(term)[n]
        is_plain = over.of == "all" and not isinstance(over.size, Length)
        if over.of == "itself" or (is_plain and len(run) == 1):
            return int(run[0])
        if not is_plain:
            letter, words = _of_tokens(over, run)
            return _Letter(self._free_letter(letter, words), 0)
        is_channel, start = self._first_read(term, axis)
        words = f", *={start + run[0]}..{start + run[-1]}"
        return _Letter(self._free_letter("c" if is_channel and not term.same else "h", words), start)

    def _first_read(self, term: TermOf, axis: int) -> tuple[bool, int]:
        """Find the first array that the range indexes with stride 1. Return True if the range indexes the
        last axis, and return the first place of the range along this axis."""
        for part in (part for part in term.factors if isinstance(part, ElementAt)):
            for n, spot in enumerate(part.index):
                spot = PlaceAlong(((spot, 1),)) if isinstance(spot, int) else spot
                if (axis, 1) in spot.axes:
                    places = [*self._at.axes, *[0] * (axis + 1)]
                    return n == len(part.index) - 1, self._start(spot, places)
        return False, 0

    def _free_letter(self, letter: str, words: str) -> str:
        """Return `letter`, or the next free letter if `letter` already means another range. `words` describe
        the range, with * in place of the letter."""
        while self._ranges.setdefault(letter, words.replace("*", letter)) != words.replace("*", letter):
            letter = chr(ord(letter) + 1)
        return letter


def _of_tokens(over: Over, run: Array) -> tuple[str, str]:
    """Return the letter for a range of positions or tokens, and a description of the range."""
    if over.of == "known":
        return "p", " for the positions * whose next token is known"
    if over.of == "tokens":
        return "p", " for the positions * that have the token"
    if over.of == "vocabulary":
        return "j", f" for all {len(run):,} tokens *"
    letter, places = ("j", over.of) if over.of in MASKED else ("p", "positions")
    return letter, f" for the {places} *={run[0]}..{run[-1]}"
