"""A formula of one element on one line: "sum of norm[3,c] × attn_wq[4,c], c=0..15". Knows no kind.

A step stands where its result is read, or if its label is a word behind the rest: "rms = sqrt(...)". Ranges
have letters; channels are counted as the first array that is read has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...arrays.stats import Array
from ..plans.kinds import Length
from ..plans.plan import layer_of
from .formula import Constant, ElementAt, Over, Part, Place, PlaceAlong, ResultOf, ShareOfKnown, Sign, TermOf
from .places import MASKED, ElementPlaces
from .steps import in_place_of_x, is_joined
from .traced_element import short

MOST = 6  # terms of a sum that are all named


def in_words(at: ElementPlaces) -> str:
    """The formula behind the sign of equality."""
    if at.hidden:
        return "0: the query does not see the key"
    terms = [term for term in at.formula.steps[-1].terms if at.counts(term)]
    if not terms:
        known = at.numbers.inputs.targets[at.axes[0]] is not None
        return f"0: {'the loss looks at the target alone' if known else 'it is not known what follows'}"
    if any(own.of in ("tokens", "itself") for own in terms[0].over) and not len(at.ranges(terms[0])[0]):
        return "0: the text does not read it"
    return _Writer(at).whole()


class _Letter(NamedTuple):
    """What stands for the places along a range: a letter that is `start` at the first of them."""

    letter: str
    start: int


class _Said(NamedTuple):
    """A factor in words: with a sign, and whether it is divided by it."""

    text: str
    divided: bool = False
    sign: int = 1


class _Writer:
    """Writes one formula, and notes which letters and which steps stand in it."""

    def __init__(self, at: ElementPlaces) -> None:
        self._at, self._steps = at, at.formula.steps
        self._said: dict[str, str] = {}  # of each letter, what it runs over
        self._named: list[int] = []  # the steps that stand behind the rest
        terms = [term for step in self._steps for term in step.terms]
        read = {part.name for term in terms for part in term.factors if isinstance(part, ElementAt)}
        self._whole_names = len(read) > 1 and not any(term.over for term in terms)

    def whole(self) -> str:
        text = self._step(len(self._steps) - 1)
        for step in self._named:  # which may grow meanwhile
            text += f", {self._steps[step].label} = {self._step(step)}"
        return text + "".join(self._said.values())

    def _step(self, step: int) -> str:
        own = self._steps[step]
        texts = [self._term(term, len(own.along)) for term in own.terms if self._at.counts(term)]
        if len(texts) > MOST:
            texts = [*texts[:2], "...", texts[-1]]
        return " + ".join(texts).replace(" + -", " - ")

    def _term(self, term: TermOf, along: int) -> str:
        """A product, or a function of it, or the sum or mean of all of a range."""
        places: list[int | _Letter] = list(self._at.axes)
        for n, own in enumerate(term.over):
            places.append(self._along(term, own, n))
        text, sign = self._product(term, places)
        if term.less is not None and not self._steps[term.less].guard:
            text = f"({text} - {self._name(term.less)})"
        words = term.function.words or term.function.text
        runs = any(isinstance(place, _Letter) for place in places[len(self._at.axes) + along :])
        how = "sum of " if runs else ""
        if runs and words.endswith(f"/{self._at.size(term.over[-1].size)}"):
            how, words = "mean of ", words.rpartition("/")[0]
        text = in_place_of_x(words, text) if words else text
        return f"{'-' if sign < 0 else ''}{how}{text}"

    def _product(self, term: TermOf, places: Sequence[int | _Letter]) -> tuple[str, int]:
        text, sign = "", 1
        parts = [part for part in term.factors if not isinstance(part, Sign)]
        for part in term.factors:
            if isinstance(part, Sign):
                sign *= int(part.values[self._at.axes[part.axis]])
                continue
            piece = self._piece(part, places)
            sign *= piece.sign
            if not text:
                own = f"({piece.text})" if is_joined(piece.text, "+-") and len(parts) > 1 else piece.text
                text = f"1/{own}" if piece.divided else own
                continue
            is_last = piece.divided and part is parts[-1]
            own = f"({piece.text})" if is_joined(piece.text, "+-" if is_last else "+-×/") else piece.text
            text += f" / {own}" if piece.divided else f" × {own}"
        return text, sign

    def _piece(self, part: Part, places: Sequence[int | _Letter]) -> _Said:
        if isinstance(part, ElementAt):
            name = self._element(part, places)
            return _Said(name if part.less is None else f"({name} - {self._name(part.less)})")
        if isinstance(part, ResultOf):
            own = self._steps[part.step]
            text = self._name(part.step) if own.label.isalpha() and not own.inside else self._step(part.step)
            return _Said(text, part.taken == "1/", -1 if part.taken == "-" else 1)
        if isinstance(part, ShareOfKnown):
            return _Said(str(self._at.known), True, part.sign)
        if isinstance(part, Place):
            return _Said(str(places[part.axis]))
        assert isinstance(part, Constant)
        if part.axis is not None:
            return _Said(f"{part.values[self._at.axes[part.axis]]:.6g}")
        return _Said(part.words.removeprefix("1/"), part.words.startswith("1/"))

    def _name(self, step: int) -> str:
        """A step by its label, which is then written out behind the rest."""
        if step not in self._named:
            self._named.append(step)
        return self._steps[step].label

    def _element(self, part: ElementAt, places: Sequence[int | _Letter]) -> str:
        own = part.name if layer_of(part.name) is None else short(part.name)
        gradient = "d " * (part.phase == "backward")
        alike = own == short(self._at.name) and part.name != self._at.name
        name = part.name if self._whole_names or alike else own
        index = ",".join(self._spot(spot, places) for spot in part.index)
        return f"{gradient}{name}[{index}]" if index else f"{gradient}{name}"

    def _spot(self, own: int | PlaceAlong, places: Sequence[int | _Letter]) -> str:
        """A place along an axis of an array: a number, or letters and what is added to them."""
        own = PlaceAlong(((own, 1),)) if isinstance(own, int) else own
        by = places[own.by[0]] if own.table else 0
        if isinstance(by, _Letter):
            return f"target at {by.letter}"
        at, letters = self._start(own, places), list[str]()
        for axis, stride in own.axes:
            place = places[axis]
            if isinstance(place, _Letter):
                at -= place.start * stride
                letters.append(f"{stride if stride != 1 else ''}{place.letter}")
        if not letters:
            return str(at)
        return " + ".join(letters) + (f" {'+' if at > 0 else '-'} {abs(at)}" if at else "")

    def _start(self, own: PlaceAlong, places: Sequence[int | _Letter]) -> int:
        """The place without what letters add."""
        fixed = ((places[axis], stride) for axis, stride in own.axes)
        at = own.offset + sum(place * stride for place, stride in fixed if isinstance(place, int))
        by = places[own.by[0]]
        if not own.table or isinstance(by, _Letter):
            return at
        table = self._at.numbers.inputs.tokens if isinstance(own.table, str) else own.table
        return at + table[by] * own.by[1]

    def _along(self, term: TermOf, own: Over, n: int) -> int | _Letter:
        """The letter of a range, of which it is said what it runs over; a place where there is only one."""
        axis, run = len(self._at.axes) + n, self._at.ranges(term)[n]
        is_plain = own.of == "all" and not isinstance(own.size, Length)
        if own.of == "itself" or (is_plain and len(run) == 1):
            return int(run[0])
        if not is_plain:
            letter, said = _of_tokens(own, run)
            return _Letter(self._lettered(letter, said), 0)
        is_channel, start = self._first_read(term, axis)
        letter = "c" if is_channel else "h"
        return _Letter(self._lettered(letter, f", *={start + run[0]}..{start + run[-1]}"), start)

    def _first_read(self, term: TermOf, axis: int) -> tuple[bool, int]:
        """Of the first array that is read along a range, place by place: whether it is so along its last
        axis, and where that starts."""
        for part in (part for part in term.factors if isinstance(part, ElementAt)):
            for n, spot in enumerate(part.index):
                own = PlaceAlong(((spot, 1),)) if isinstance(spot, int) else spot
                if (axis, 1) in own.axes:
                    places = [*self._at.axes, *[0] * (axis + 1)]
                    return n == len(part.index) - 1, self._start(own, places)
        return False, 0

    def _lettered(self, letter: str, said: str) -> str:
        """The letter, or the next one that is free where it runs over something else already."""
        while self._said.get(letter, said.replace("*", letter)) != said.replace("*", letter):
            letter = chr(ord(letter) + 1)
        self._said[letter] = said.replace("*", letter)
        return letter


def _of_tokens(own: Over, run: Array) -> tuple[str, str]:
    """The letter of a range of positions or tokens, and what is said of it."""
    if own.of == "known":
        return "p", " for the positions * whose next token is known"
    if own.of == "tokens":
        return "p", " for the positions * that have the token"
    if own.of == "vocabulary":
        return "j", f" for all {len(run):,} tokens *"
    letter, of = ("j", own.of) if own.of in MASKED else ("p", "positions")
    return letter, f" for the {of} *={run[0]}..{run[-1]}"
