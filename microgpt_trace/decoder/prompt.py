"""What a decoder is given to read: text or tokens -> TraceInput."""

from __future__ import annotations

import json
from collections.abc import Sequence
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..architecture.model import TraceInput
from ..architecture.packs import UNKNOWN, ReadText
from ..errors import InputError
from ..text.printable import quoted, shown_token
from ..text.wording import counted
from ..untrusted_files import folder_of

if TYPE_CHECKING:
    from ..vocabulary.tokens import Vocabulary
    from .config import DecoderConfig


class Prompted(Protocol):
    """What reading a prompt asks of a decoder."""

    @property
    def config(self) -> DecoderConfig: ...
    @property
    def vocabulary(self) -> Vocabulary | None: ...
    @property
    def origin(self) -> str: ...
    @property
    def format(self) -> str: ...
    def label(self, token: int) -> str: ...


DEFAULT = "The capital of France is"


def prepare(
    model: Prompted,
    text: str | None,
    tokens: Sequence[int] | None = None,
    special: bool = False,
    chat: bool = False,
    room: int = 0,
) -> TraceInput:
    """Encode a prompt that leaves room for so many tokens more.

    Raises InputError for an empty prompt, one that is too long, and ids that the model does not have.
    """
    vocabulary, notes = model.vocabulary, []
    if tokens is not None:
        if text is not None or special or chat:
            raise InputError("--tokens takes the place of a text: give no text, no --special and no --chat")
        ids = list(map(index, tokens))
        text = vocabulary.decode([i for i in ids if 0 <= i < vocabulary.size]) if vocabulary else ""
        notes.append("tokens as given")
    else:
        text = DEFAULT if text is None else text
        known = _known(model, "give the prompt as --tokens 1,2,3")
        text = known.chat(text) if chat else text
        ids = known.encode(text, special=special, chat=chat)
        if chat:
            notes.append("rendered with the file's chat template, special tokens parsed")
            if any("strftime_now" in template for template in known.templates.values()):
                notes.append("the chat template may ask for today's date")
        elif special:
            notes.append("special tokens in the text parsed")
    _check(model, ids, room)
    labels = tuple(map(model.label, ids))
    return TraceInput(text, tuple(ids), (*ids[1:], None), labels, (*labels[1:], None), tuple(notes))


def read_text(model: Prompted, text: str, most: int | None, chat: bool) -> ReadText | str:
    """What is read of one of many texts, at most so many tokens of it, or why it cannot be."""
    known = _known(model)
    text = known.chat(text) if chat and len(text) <= known.longest_text else text
    if len(text) > known.longest_text:
        return f"longer than {known.longest_text:,} characters"
    ids = known.encode(text, chat=chat)[:most]
    if not ids:
        return "without tokens"
    limit = model.config.context_length
    if len(ids) > limit + (most == limit + 1):  # one more than is wanted tells that there are more
        return f"longer than the context of {limit:,} tokens"
    return ReadText(np.array([*ids, UNKNOWN]))


def _known(model: Prompted, otherwise: str = "") -> Vocabulary:
    if model.vocabulary is None:
        raise InputError(f"{model.origin} brings no tokenizer{_how_it_gets_one(model, otherwise)}")
    return model.vocabulary


def _how_it_gets_one(model: Prompted, otherwise: str) -> str:
    """What can be done without one, and what a folder has that becomes a tokenizer.json."""
    from ..vocabulary.huggingface import convertible

    folder = folder_of(Path(model.origin))
    found = convertible(folder) if model.format.startswith("Hugging Face") else ""
    if not found:
        return f": {otherwise or 'it reads no texts'}"
    name = json.dumps(str(folder), ensure_ascii=False)
    code = f"from transformers import AutoTokenizer as A; A.from_pretrained({name}).save_pretrained({name})"
    needs = " (with sentencepiece and protobuf)" if found == "tokenizer.model" else ""
    makes = f"of which transformers{needs} makes one: python -c {quoted(code)}"
    return f".json but {found}, {makes}" + (f"; or {otherwise}" if otherwise else "")


def _check(model: Prompted, ids: Sequence[int], room: int) -> None:
    limit, size = model.config.context_length, model.config.vocab_size
    if not ids:
        raise InputError("the prompt is empty, and this model puts no BOS before it: nothing to read")
    wrong = next((i for i in ids if not 0 <= i < size), None)
    if wrong is not None:
        raise InputError(f"token {wrong}: this model has tokens 0 to {size - 1:,}")
    if len(ids) + room > limit:
        more = f" and {room:,} to generate" if room else ""
        raise InputError(f"{counted(len(ids), 'token')}{more}: this model's context holds {limit:,}")


def named_token_of(vocabulary: Vocabulary, text: str) -> int:
    """The token of a text. Raises InputError where it is none, with the one that it may mean."""

    def spelled(text: str) -> int | None:
        wanted = text.encode("utf-8", "surrogatepass")  # a byte of the command line that is no UTF-8
        return next((i for i in range(vocabulary.size) if wanted and vocabulary.piece(i) == wanted), None)

    found = spelled(text)
    if found is not None:
        return found
    near = " " + text if not text.startswith(" ") else text.strip()
    other = spelled(near)
    hint = f"; '{shown_token(near)}' is #{other}" if other is not None else ""
    raise InputError(f"token '{shown_token(text)}': this model has no such token{hint}")


def chosen_positions(wanted: str | Sequence[int], length: int) -> list[int]:
    """The positions that get logits: "all", "last" or indices, which may count from the end."""
    if wanted == "all":
        return list(range(length))
    if wanted == "last":
        return [length - 1]
    if isinstance(wanted, str) or not wanted:
        raise InputError(f"positions: expected all, last or a list like 0,3,-1, found {wanted!r}")
    wrong = next((p for p in wanted if not -length <= p < length), None)
    if wrong is not None:
        raise InputError(f"position {wrong}: the prompt has positions 0 to {length - 1}")
    return sorted({p % length for p in wanted})
