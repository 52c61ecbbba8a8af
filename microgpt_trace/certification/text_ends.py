"""Compare the tokens at which both sides of a certificate end a text, and the places that name them."""

from __future__ import annotations

import re

from ..grouping import grouped
from ..text.wording import listed
from ..vocabulary.tokens import Vocabulary

# Tokens at which llama.cpp ends any text
_KNOWN = re.compile(
    r"<\|(eot_id|eom_id|im_end|end|end_of_text|endoftext|return|call|calls|flush|END_OF_TURN_TOKEN)\|>"
    r"|</s>|<eos>|<end_of_turn>|<end_of_utterance>|_?<EOT>|\[EOT\]|\[EOS\]|<｜end▁of▁sentence｜>"
)


def is_folder(vocabulary: Vocabulary) -> bool:
    """Return True if the vocabulary comes from a Hugging Face folder."""
    return vocabulary.template_tokens is not None


def shown_id(vocabulary: Vocabulary, token: int) -> str:
    return f'token {token:,} "{vocabulary.label(token):.60}"'


def wrong_ends(ours: Vocabulary, theirs: Vocabulary) -> list[str]:
    """Return the places of the export whose tokens do not end a text of the original, or the reverse.

    Places of two folders must agree, and so must the tokens at which generation stops. A GGUF file has no
    place for all tokens of a folder. llama.cpp's converter writes one of them, and llama.cpp also ends a text
    at well-known spellings. A folder made from a GGUF file needs the tokens that the file names.
    """
    mine, theirs_by_place = ours.ends_by_place, theirs.ends_by_place
    if not theirs_by_place:
        return []
    needed = frozenset[int]().union(*theirs_by_place.values())
    stops, other_stops, first = stops_of(ours), stops_of(theirs), next(iter(mine), "generation_config.json")
    if is_folder(ours) and is_folder(theirs):
        both = [place for place in mine if place in theirs_by_place]
        wrong = [place for place in both if {*mine[place]} != {*theirs_by_place[place]}]
        lost = first if first not in theirs_by_place else next(iter(theirs_by_place))
        return wrong or [lost] * (stops != other_stops)
    if is_folder(ours):
        appended = {ours.eos_id} if ours.add_eos else set()
        wrong = [place for place, tokens in mine.items() if needed.isdisjoint(tokens)]
        return wrong or [first] * (not needed - appended <= stops)
    if is_folder(theirs):
        return [first] * (ours.eos_id not in (None, *needed) or stops.isdisjoint(other_stops))
    extra = [place for place, tokens in mine.items() if not other_stops.issuperset(tokens)]
    return extra or [first] * (ours.eos_id != theirs.eos_id or not needed <= stops)


def stops_of(vocabulary: Vocabulary) -> set[int]:
    """Return the tokens at which generation stops. A folder uses the first place that names them, a GGUF file
    all places and tokens with well-known spellings."""
    places = [{*tokens} for tokens in vocabulary.ends_by_place.values()]
    if is_folder(vocabulary):
        return places[0] if places else set()
    return {i for i, token in enumerate(vocabulary.tokens) if _KNOWN.fullmatch(token)}.union(*places)


def told_ends(vocabulary: Vocabulary) -> str:
    """Say which places name which tokens that end a text."""
    places = grouped(vocabulary.ends_by_place, lambda place: (*sorted(vocabulary.ends_by_place[place]),))
    told = (
        f"{' or '.join(shown_id(vocabulary, token) for token in tokens[:4])} ({listed(names)})"
        for tokens, names in places.items()
    )
    return ", ".join(told) or "no token"
