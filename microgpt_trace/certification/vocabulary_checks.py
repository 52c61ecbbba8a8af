"""Check that an export has the tokens of its original and turns texts into the same tokens.

The ids are `vocabulary.size`, `.tokens`, `.types`, `.merges`, `.special` and `.encoding`. This module knows
nothing about models and templates.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Literal, TypeAlias

from ..errors import FileFormatError, InputError, MicrogptError, check_installed
from ..text.printable import on_one_line
from ..text.wording import listed
from ..vocabulary import bpe
from ..vocabulary.metadata import ASSUMED, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from ..vocabulary.pre_tokenizers import PRE_TOKENIZERS
from ..vocabulary.tokens import Vocabulary
from .certificate import CertificateCheck, Status
from .opening import Side
from .shipped import shipped
from .text_ends import is_folder, shown_id, stops_of, told_ends, wrong_ends

Found: TypeAlias = tuple[Status, str]  # the status and the detail of a check
Case: TypeAlias = tuple[str, bool]  # a text, and whether special tokens in the text are parsed
SAME: Found = ("same", "")
_CONTROL = (CONTROL, UNKNOWN)
_TYPES = {1: "normal", 3: "control", 4: "user-defined", 5: "unused", 6: "byte"}
PADDING = re.compile(r"|[\[<](PAD|pad|dummy|unused|mask|MASK)_?\d*[\]>]")  # tokens that no text needs
# Tokens that llama.cpp's converter makes control tokens
_LOOKS_SPECIAL = re.compile(r"<\|.*\|>|<｜.*｜>|<2mass>|\[@BOS@\]", re.DOTALL)


def vocabulary_checks(export: Side, original: Side, texts: Sequence[str] = ()) -> list[CertificateCheck]:
    """Compare two vocabularies. Both encode the 200 shipped texts and `texts`."""
    ours, theirs = export.vocabulary, original.vocabulary
    parts = {"size": _size, "tokens": _tokens, "types": _types, "merges": _merges, "special": special_tokens}
    if ours is None or theirs is None:
        return _unread(export if ours is None else original, [*parts, "encoding"], ours is None)
    checks: list[CertificateCheck] = []
    for name, part in (*parts.items(), ("encoding", None)):
        causes = " and ".join(check.id for check in checks[:4] if check.status == "different")
        compare = part or partial(_encoding, cases=_cases(texts, ours, theirs), causes=causes)
        try:
            checks.append(CertificateCheck(f"vocabulary.{name}", *compare(ours, theirs)))
        except MicrogptError as error:
            checks.append(CertificateCheck(f"vocabulary.{name}", "not checked", str(error)))
    return checks


def _unread(side: Side, names: Sequence[str], is_export: bool) -> list[CertificateCheck]:
    """Return the checks if a side has no vocabulary. A problem of the export is a difference in the part of
    the vocabulary that the problem names."""
    problem = side.vocabulary_problem
    detail = f"The vocabulary cannot be read: {problem}" if problem else f"{side.origin} has no vocabulary."
    words = {"token_type": "types", "merges": "merges", "scores": "merges", "_token": "special", "": "tokens"}
    wrong = next(name for word, name in words.items() if word in problem) if problem and is_export else ""
    status: dict[str, Status] = {wrong: "different"}
    return [CertificateCheck(f"vocabulary.{name}", status.get(name, "not checked"), detail) for name in names]


def _different(what: str, ours: str, theirs: str, todo: str) -> Found:
    return "different", on_one_line(f"{what} is {ours} in the export and {theirs} in the original. {todo}")


def _advice(export: Vocabulary, original: Vocabulary, key: str, file: str = "tokenizer.json") -> str:
    """Return what to do to an export: write a key of a GGUF file, or copy or correct a file of a folder."""
    if is_folder(export):
        return f"Copy {file} from the original." if is_folder(original) else f"Correct {file} of the export."
    return f"Write {key} into the metadata, or convert again."


def _size(ours: Vocabulary, theirs: Vocabulary) -> Found:
    """Compare the numbers of tokens. Tokens that only pad the longer vocabulary do not count."""
    if ours.size == theirs.size:
        return SAME
    sizes = f"The export has {ours.size:,} tokens, the original {theirs.size:,}."
    side, longer = ("export", ours) if ours.size > theirs.size else ("original", theirs)
    for i in range(min(ours.size, theirs.size), longer.size):
        if not _pads(i, longer):
            return "different", f"{sizes} Only the {side} has {shown_id(longer, i)}. Convert again."
    return "same", f"{sizes} The other tokens are padding."


def _pads(token: int, *vocabularies: Vocabulary) -> bool:
    """Return True if no text needs this token."""
    unused = [(v.types or {}).get(token) == UNUSED for v in vocabularies]
    return all(u or PADDING.fullmatch(v.tokens[token]) for u, v in zip(unused, vocabularies, strict=True))


def _tokens(ours: Vocabulary, theirs: Vocabulary) -> Found:
    """Compare the bytes of the tokens that both sides have. A type also changes the bytes of a token, but the
    types are compared elsewhere."""
    alike, pairs = ours.to_bytes is theirs.to_bytes, enumerate(zip(ours.tokens, theirs.tokens, strict=False))
    wrong = [i for i, (a, b) in pairs if not (alike and a == b) and ours.piece(i) != theirs.piece(i)]
    wrong = [i for i in wrong if not _pads(i, ours, theirs)]
    if not wrong:
        return SAME
    what = f"Tokens that differ: {len(wrong):,}. The first"
    kinds = "" if alike else f"The export has {ours.kind}, the original {theirs.kind}. "
    return _different(what, shown_id(ours, wrong[0]), shown_id(theirs, wrong[0]), f"{kinds}Convert again.")


def _types(ours: Vocabulary, theirs: Vocabulary) -> Found:
    """Compare the types of the tokens that both sides have, as far as both files say them. llama.cpp's
    converter makes a user-defined token that looks special a control token."""
    if ours.types is None or theirs.types is None:
        return "same", f"The {'export' if ours.types is None else 'original'} does not say the types."
    rows = list(_other_types(ours, theirs))
    if is_folder(ours) != is_folder(theirs):
        made = (USER_DEFINED, CONTROL) if is_folder(ours) else (CONTROL, USER_DEFINED)
        rows = [r for r in rows if r[1:] != made or not _LOOKS_SPECIAL.fullmatch(theirs.tokens[r[0]])]
    if not rows:
        return SAME
    token, a, b = rows[0]
    what = f"Tokens of another type: {len(rows):,}. The type of {shown_id(theirs, token)}"
    todo = _advice(ours, theirs, f"{b} as number {token} of tokenizer.ggml.token_type")
    return _different(what, _TYPES.get(a, str(a)), _TYPES.get(b, str(b)), todo)


def _other_types(ours: Vocabulary, theirs: Vocabulary) -> Iterator[tuple[int, int, int]]:
    """Yield each token whose type differs, with both types. The unknown token is a control token."""
    for i in sorted((ours.types or {}).keys() | (theirs.types or {}).keys()):
        kinds = [(v.types or {}).get(i, NORMAL) for v in (ours, theirs)]
        a, b = (CONTROL if kind == UNKNOWN else kind for kind in kinds)
        if a != b and i < min(ours.size, theirs.size) and not _pads(i, ours, theirs):
            yield i, a, b


def _merges(ours: Vocabulary, theirs: Vocabulary) -> Found:
    """Compare the merges and their order. A SentencePiece vocabulary in a GGUF file has scores instead, which
    put the other side's merges in order. Equal scores allow any order."""
    a, b = ours.read_merges(), theirs.read_merges()
    scores = [getattr(vocabulary.encoder, "scores", None) or None for vocabulary in (ours, theirs)]
    base, own = (ours, a) if scores[0] is None else (theirs, b)
    if None not in scores or (scores != [None, None] and own is not None):
        types, size = base.types or {}, min(ours.size, theirs.size)
        ids = {token: i for i, token in enumerate(base.tokens[:size]) if types.get(i, NORMAL) == NORMAL}
        a, b = (_by_score(own or ids, ids, one) for one in scores)
    if a is None or b is None:
        side = "export" if b is None else "original"
        return SAME if a is b else ("different", f"Only the {side} has merges. Convert again.")
    todo = _advice(
        ours, theirs, f"the original's tokenizer.ggml.{'merges' if scores[0] is None else 'scores'}"
    )
    for side, one, other in (("export", b, {*a}), ("original", a, {*b})):
        if lost := [merge for merge in one if merge not in other]:
            place = f'Number {one.index(lost[0]) + 1:,} is "{lost[0]:.60}".'
            return "different", on_one_line(f"Merges that the {side} lacks: {len(lost):,}. {place} {todo}")
    at = next((i for i, (one, two) in enumerate(zip(a, b, strict=False)) if one != two), None)
    if at is None:
        return SAME
    left, right = (f'"{merges[at]:.60}"' for merges in (a, b))
    return _different(f"The merges are in another order. Number {at + 1:,}", left, right, todo)


def _by_score(merges: Iterable[str], ids: Mapping[str, int], scores: Sequence[float] | None) -> list[str]:
    """Return the merges whose results have ids. If there are scores, put the merges in their order."""
    own = [merge for merge in merges if merge.replace(" ", "", 1) in ids]
    if scores is None:
        return own
    return sorted(own, key=lambda merge: scores[ids[merge.replace(" ", "", 1)]], reverse=True)


def special_tokens(ours: Vocabulary, theirs: Vocabulary) -> Found:
    """Compare BOS, the tokens that end a text, and whether BOS and EOS are added."""
    for end in ("bos", "eos"):
        name, (a, b) = end.upper(), added(end, ours, theirs)
        if a != b:
            todo = _advice(ours, theirs, f"tokenizer.ggml.add_{end}_token = {str(b).lower()}")
            return "different", f"Only the {'export' if a else 'original'} adds {name} to texts. {todo}"
    bos, right = ours.bos_id, theirs.bos_id
    if bos is not None and right not in (None, bos):
        todo = _advice(ours, theirs, f"tokenizer.ggml.bos_token_id = {right}", "tokenizer_config.json")
        return _different("BOS", shown_id(ours, bos), shown_id(theirs, right), todo)
    if wrong := wrong_ends(ours, theirs):
        key, lost = "eos", theirs.eos_id if theirs.eos_id != ours.eos_id else None
        if lost is None:
            key, lost = "eot", min(stops_of(theirs) - stops_of(ours), default=None)
        todo = f"Correct {listed(wrong)} of the export."
        if not is_folder(ours) and lost is not None:
            todo = _advice(ours, theirs, f"tokenizer.ggml.{key}_token_id = {lost}")
        return _different("The end of a text", told_ends(ours), told_ends(theirs), todo)
    if ours.add_bos != theirs.add_bos:
        return "same", "Whether BOS is added is only a flag of one side, or one side does not say it."
    return SAME


def added(end: Literal["bos", "eos"], ours: Vocabulary, theirs: Vocabulary) -> tuple[bool, bool]:
    """Return for both sides whether BOS or EOS is added. The sides agree if one side follows the flag in the
    other side's tokenizer_config.json, as converters do, or if an .apr file does not say."""
    a, b = ((v.add_bos if end == "bos" else v.add_eos) for v in (ours, theirs))
    follows = ours.configured.get(end) == b or theirs.configured.get(end) == a
    return (b, b) if follows or ASSUMED in (ours.bos_note, theirs.bos_note) else (a, b)


def _cases(texts: Sequence[str], ours: Vocabulary, theirs: Vocabulary) -> list[Case]:
    """Return texts with and without parsing their special tokens. If the types of a token differ, leave out
    the texts in which the token is not parsed."""
    types = theirs.types or ours.types or {}
    both = [i for i in types if i < min(ours.size, theirs.size) and not _pads(i, theirs)]
    first = [i for kind in (CONTROL, USER_DEFINED) for i in [i for i in both if types[i] == kind][:6]]
    own = [f"a {theirs.tokens[i]}b, {theirs.tokens[i]} c" for i in first]
    usable = [text for text in (*shipped("texts"), *own, *texts) if len(text) <= theirs.longest_text]
    usable = [text for text in usable if text.encode(errors="ignore").decode() == text]
    loose = [theirs.tokens[i] for i, _, _ in _other_types(ours, theirs)][:1000]
    clean = [text for text in usable if not any(token in text for token in loose)]
    parsed = clean if ours.types is None or theirs.types is None else usable
    return [(text, False) for text in clean] + [(text, True) for text in parsed]


def _encoding(ours: Vocabulary, theirs: Vocabulary, cases: Sequence[Case], causes: str) -> Found:
    """Compare the ids of texts, without BOS and EOS. `causes` names the checks of the tokens and merges that
    found a difference. Raises MicrogptError if a tokenizer is broken or not supported."""
    check_installed("tokenizers", "turning text into tokens needs")
    expected = [ids_of(theirs.encoder, case) for case in cases]
    try:
        found = [ids_of(ours.encoder, case) for case in cases]
    except FileFormatError as error:
        why = f"Follows from {causes}." if causes else _explanation(ours, theirs, cases)
        return ("different" if causes else "not checked"), f"{error}. {why}"
    wrong = [i for i, ids in enumerate(found) if ids != expected[i]]
    if not wrong:
        return SAME
    count, of = (f"{len({cases[i][0] for i in chosen}):,}" for chosen in (wrong, range(len(cases))))
    why = _explanation(ours, theirs, cases)
    if not why and all(_but_for_spaces(ours, theirs, cases[i]) for i in wrong):
        return "same", f"Only the GGUF file adds a space in {count} texts, which its format requires."
    splits = [(i, _split(ours, found[i], expected[i]), _split(theirs, expected[i], found[i])) for i in wrong]
    i, one, two = min(splits, key=lambda row: " tokens)" in row[1] + row[2])  # rather not parts of characters
    parsed = ", with special tokens parsed," if cases[i][1] else ""
    what = f'Texts that are split differently: {count} of {of}. "{cases[i][0]:.60}"{parsed}'
    follows = f"{why} The rest follows from {causes}." if why else f"Follows from {causes}."
    return _different(what, one, two, follows if causes else why or "Convert again.")


def ids_of(encoder: Callable[..., list[int]], case: Sequence[str | bool]) -> list[int] | str:
    """Return the ids of a text, or "refused ..." if the tokenizer lacks a token for a part of the text."""
    try:
        return encoder(*case)
    except InputError:
        return "refused by the tokenizer"


def _split(vocabulary: Vocabulary, ids: list[int] | str, others: list[int] | str) -> str:
    """Show the tokens around the place where the ids begin to differ. The tokens of one character are shown
    as this character and their number."""
    if isinstance(ids, str):
        return ids
    start = max(next((i for i, (a, b) in enumerate(zip(ids, others, strict=False)) if a != b), 0) - 2, 0)
    while start and b"\x80" <= vocabulary.piece(ids[start])[:1] < b"\xc0":  # the middle of a character
        start -= 1
    shown, group = ["…"] * (start > 0), list[int]()
    for token in ids[start : start + 36]:
        group.append(token)
        if "\ufffd" not in vocabulary.decode(group) or len(group) == 4:
            shown.append(f"{vocabulary.spelled(group):.60}" + f" ({len(group)} tokens)" * (len(group) > 1))
            group = []
    most = 8 + (start > 0)
    return f'"{"|".join([*shown[:most], *["…"] * (len(shown) > most)])}"'


def _but_for_spaces(ours: Vocabulary, theirs: Vocabulary, case: Case) -> bool:
    """Return True if a folder gives the ids of a GGUF file for the text with more spaces: a GGUF file puts a
    space before each text and after each special token, and some tokenizer.json do not."""
    file, folder = (ours, theirs) if is_folder(theirs) else (theirs, ours)
    encoder, (text, special) = file.encoder, case
    if not isinstance(encoder, bpe.SentencePieceBpe) or not encoder.add_space_prefix or not is_folder(folder):
        return False
    fixed = {file.tokens[i] for i in (*encoder.user_defined, *(encoder.control if special else ()))}
    parts = bpe.split_fixed(text, fixed)
    parts[::2] = [f" {part}" if part else "" for part in parts[::2]]
    return ids_of(folder.encoder, ("".join(parts), special)) == ids_of(encoder, case)


def _explanation(ours: Vocabulary, theirs: Vocabulary, cases: Sequence[Case]) -> str:
    """Name the way in which each side splits texts into words, and say what to do. Return "" if the ways are
    equal or unknown. How the sides merge words does not matter."""
    a, b = (_ways(vocabulary, [case for case in cases if not case[1]]) for vocabulary in (ours, theirs))
    if not b or set(a) & set(b):
        return ""
    one, two = (" or ".join([*ways[:1], *(way.partition(" = ")[2] for way in ways[1:])]) for ways in (a, b))
    export = f"The export splits like {one}, the" if a else "The"
    return f"{export} original splits like {two}. {_advice(ours, theirs, b[0])}"


def _ways(vocabulary: Vocabulary, cases: Sequence[Case]) -> list[str]:
    """Return the metadata with which a GGUF file of the same tokens splits texts as this vocabulary does."""
    merges, types, encoder = vocabulary.read_merges(), vocabulary.types or {}, vocabulary.encoder
    if vocabulary.to_bytes is bpe.sentencepiece_bytes:
        prefix = vocabulary.decode(encoder("x", False)).startswith(" ")
        return [f"tokenizer.ggml.add_space_prefix = {str(prefix).lower()}"]
    if merges is None or vocabulary.to_bytes is not bpe.byte_level_bytes:
        return []
    fixed = [i for i in types if types[i] == USER_DEFINED], [i for i in types if types[i] in _CONTROL]
    start = vocabulary.path, vocabulary.tokens, *fixed, (), merges
    ids = cache(partial(ids_of, encoder))  # each call takes 0.5 ms if a separate process encodes
    try:
        rows = {name: bpe.ByteLevelBpe(*start, row) for name, row in PRE_TOKENIZERS.items()}
        ways = [n for n, own in rows.items() if all(ids_of(own, c) == ids(c) for c in cases)]
    except FileFormatError:
        ways = []
    return [f'tokenizer.ggml.pre = "{name}"' for name in ways]
