"""A map of names in TOML, drafted from suggestions of which tensor is which event."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from .matching import Shapes, source_name
from .name_suggestion import CLOSE, Suggestion
from .recorded import OWN, Leftover
from .recording import Recording


def to_toml(
    suggestions: Sequence[Suggestion], leftovers: Iterable[Leftover], recording: Recording,
    tokens: Sequence[int] | None, said: Sequence[str] = (),
) -> str:  # fmt: skip
    """The draft as a map in TOML, with what is to be `said` of the tokens. A pattern is one line with {i}.
    Undecided suggestions are commented out, and the `leftovers` that no suggestion takes are listed."""
    shapes = {source_name(left.recorded): left.recorded.shape for left in recording.leftovers}
    leftovers = tuple(leftovers)
    lines = ["# drafted from names, shapes and a sample of the values, large ones clipped; check before use"]
    if recording.tensors:
        lines.append(f"# {len(recording.tensors)} tensors are known by their names and not listed here")
    if tokens is not None:
        lines += [f"# {note}" for note in said] + [f"tokens = {[int(token) for token in tokens]}"]
    lines.append("[events]")
    written = [(_entry(together, shapes), _comment(together)) for together in _lines(suggestions, recording)]
    width = min(max((len(entry) for entry, _ in written), default=0), 60)
    lines += [f"{entry:<{width}}  # {comment}" for entry, comment in written]
    for left in leftovers:
        why = "" if left.readable else f": {left.reason}"
        lines.append(f"# not placed: {_quoted(source_name(left.recorded))} {list(left.recorded.shape)}{why}")
    unsure = sum(bool(one.also) for one in suggestions)
    lines.append(
        f"# events: {len(suggestions) - unsure} placed, {unsure} unsure; tensors not placed: {len(leftovers)}"
    )
    return "\n".join(lines) + "\n"


def _lines(suggestions: Sequence[Suggestion], recording: Recording) -> list[list[Suggestion]]:
    """The suggestions of each line: those of a pattern together, if a line with {i} says just that."""
    together: dict[tuple[str, str], list[Suggestion]] = {}
    for one in suggestions:
        together.setdefault((one.pattern, _kind(one) if one.pattern else one.event), []).append(one)
    sources = [left.recorded.source for left in recording.leftovers]
    sources += [recorded.source for recorded in recording.tensors.values()]
    found: list[list[Suggestion]] = []
    for (pattern, _), members in together.items():
        if pattern and len(members) > 1 and _is_one_line(pattern, members, sources):
            found.append(members)
        else:
            found += [[one] for one in members]
    return found


def _kind(one: Suggestion) -> str:
    return one.event.partition(".")[2]


def _is_one_line(pattern: str, members: Sequence[Suggestion], sources: Sequence[str]) -> bool:
    """Whether the pattern stands for these tensors and no others, each in the same layout."""
    whole = pattern if not members[0].source.endswith("]") else pattern.rpartition("[")[0]
    head, *rest = map(re.escape, whole.split("{i}"))
    number = rf"{head}([0-9]{{1,4}}){''.join(f'{chr(92)}1' * bool(n) + part for n, part in enumerate(rest))}"
    matching = [name for name in sources if re.fullmatch(rf"{number}(\.npy)?", name)]
    return len({one.layout for one in members}) == 1 and len(matching) == len(members)


def _entry(together: Sequence[Suggestion], shapes: Shapes) -> str:
    plain, event = True, together[0].event
    for one in together:
        whole = one.source if one.source in shapes else one.source.rpartition("[")[0]
        lengths = [length for length in shapes.get(whole, ()) if length > 1]
        plain &= one.layout in ("TC", "HTS", OWN) and len({*lengths[:2]}) == len(lengths[:2])
    source = _quoted(together[0].source)
    if len(together) > 1:
        event, source = f"layer{{i}}.{_kind(together[0])}", _quoted(together[0].pattern)
    value = source if plain else f"{{ from = {source}, layout = {_quoted(together[0].layout)} }}"
    return f"{'# ' if together[0].also else ''}{_quoted(event)} = {value}"


def _comment(together: Sequence[Suggestion]) -> str:
    one = together[0]
    if len(together) > 1:
        how = _comment_on_layers(together)
    elif not one.known:
        how = f"by {one.why}; no value is finite on both sides"
    elif one.why == "values":
        how = f"values agree, {1 - one.similarity:.1e}"
    elif one.similarity > CLOSE:
        how = f"by {one.why}; values are close: cosine {one.similarity:.4f}"
    else:
        how = f"by {one.why}; values differ: cosine {one.similarity:.2g}"
    how += _comment_on_finite(together) + "; out of the dump's order" * one.out_of_order
    also = one.also if len(together) == 1 else f"layer{{i}}.{one.also.partition('.')[2]}"
    return f"unsure: also fits {also}; {how}" if one.also else how


def _comment_on_layers(together: Sequence[Suggestion]) -> str:
    """In how many layers values agree, and how far they are from it in the others."""
    agreeing = sum(one.why == "values" for one in together)
    if agreeing == len(together):
        worst = 1 - min(one.similarity for one in together)
        return f"values agree in all {agreeing} layers, {worst:.1e} at most"
    least = min(one.similarity for one in together if one.why != "values")
    return f"values agree in {agreeing} of {len(together)} layers; cosine {least:.4f} or more in the others"


def _comment_on_finite(together: Sequence[Suggestion]) -> str:
    """How many of the values that were looked at are NaN or infinite, where some are."""
    some = [one for one in together if one.known < 1]
    if len(together) > 1 and some:
        return f"; not all of them finite in {len(some)} layers"
    return f"; {1 - some[0].known:.0%} of them not finite" if some and some[0].known else ""


def _quoted(text: str) -> str:
    """A TOML basic string on one line, whatever has no shape of its own escaped."""
    return "".join(
        c if c.isprintable() else f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}"
        for c in json.dumps(text, ensure_ascii=False)
    )
