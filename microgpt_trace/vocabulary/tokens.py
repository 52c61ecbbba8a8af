"""Vocabulary: the tokens of a model, what they stand for and how text becomes ids. Knows no file format.

Labels and decoding need nothing installed; `tokenizers` is needed when text is encoded, jinja2 when
a chat template is rendered.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

from ..errors import InputError, check_installed
from ..text.brief import one_line
from ..text.printable import on_one_line
from .bpe import Encoder, literal_bytes
from .sandbox import MIB, Isolated, Limits

LIMITS = Limits(seconds=10, memory=512 * MIB)  # a template takes 0.1 s and 60 MiB, jinja2 included


def pick_template(templates: Mapping[str, str], path: Path) -> str:
    """The template for plain chat: the one named "default", or the only one. Raises InputError."""
    if not templates:
        raise InputError(f"{path}: the file has no chat template; leave --chat out")
    if "default" in templates:
        return templates["default"]
    if len(templates) > 1:
        raise InputError(
            f"{path}: none of its chat templates is the default: {', '.join(sorted(templates)):.200}"
        )
    return next(iter(templates.values()))


@dataclass(frozen=True, eq=False, repr=False)
class Vocabulary:
    """The tokens of a model by id, what they stand for, and how text becomes ids.

    `spell` gives the bytes of a token as the file writes it; `literal` are the ids of tokens that
    stand for their own spelling. `bos_note` says where add_bos was not read from the file. `named` are the
    special tokens that chat templates call by name, None: BOS and EOS; with `chat_adds_bos` a chat begins
    with a BOS where a text does.
    """

    longest_text: ClassVar[int] = 1 << 20  # characters; `tokenizers` takes 45 bytes for each
    path: Path
    tokens: Sequence[str]
    kind: str  # "byte-level BPE (smollm)"
    spell: Callable[[str], bytes]
    encoder: Encoder
    literal: Collection[int] = frozenset()
    bos_id: int | None = None
    eos_id: int | None = None
    stop_ids: Collection[int] = frozenset()  # what else ends a text: the end of a turn, say
    add_bos: bool = False
    add_eos: bool = False
    bos_note: str = ""
    templates: Mapping[str, str] = field(default_factory=dict)
    named: Mapping[str, str] | None = None
    chat_adds_bos: bool = True
    template_process: Isolated = field(
        default_factory=partial(Isolated, f"{__package__}.templates:render", "its chat template", LIMITS)
    )

    def __repr__(self) -> str:
        return one_line(self, path=str(self.path), size=self.size, kind=self.kind)

    def ends_text(self, token: int) -> bool:
        """Whether a model that predicts this token has no more to say."""
        return token == self.eos_id or token in self.stop_ids

    @property
    def size(self) -> int:
        return len(self.tokens)

    def encode(self, text: str, *, special: bool = False, chat: bool = False) -> list[int]:
        """The ids of a text, BOS and EOS around them where the file's flags say so.

        Special tokens spelled in the text are parsed only where `special` or `chat` says so. `chat` is
        text from a chat template: a BOS it begins with is not doubled, nor put where `chat_adds_bos` says no,
        and its open end gets no EOS.
        Raises InputError for text that has no tokens or cannot be encoded here, FileFormatError where
        the file's tokenizer is at fault or of a kind that is not supported.
        """
        if len(text) > self.longest_text:
            raise InputError(f"a text of {len(text):,} characters; at most {self.longest_text:,} are read")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"character {text[error.start]!a} at position {error.start} of the text is no valid Unicode"
            ) from error
        ids = self.encoder(text, special or chat)
        begun = chat and (not self.chat_adds_bos or ids[:1] == [self.bos_id])
        if self.add_bos and self.bos_id is not None and not begun:
            ids = [self.bos_id, *ids]
        if self.add_eos and self.eos_id is not None and not chat:
            ids = [*ids, self.eos_id]
        return ids

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for: none, where a model's table has more rows than tokens."""
        if not 0 <= token < self.size:
            return b""
        spelling = self.tokens[token]
        return literal_bytes(spelling) if token in self.literal else self.spell(spelling)

    def label(self, token: int) -> str:
        """A token as a person reads it, on one line."""
        return self.spelled([token]) if 0 <= token < self.size else f"(no token {token})"

    def spelled(self, ids: Iterable[int]) -> str:
        r"""Tokens that follow one another as a person reads them, on one line: unprintable characters and the
        bytes of an incomplete one escaped as \n, \u200b and \xe2, a backslash doubled."""
        return "".join(map(_printable, b"".join(map(self.piece, ids)).decode("utf-8", "surrogateescape")))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are no UTF-8 appear as U+FFFD."""
        return b"".join(map(self.piece, ids)).decode("utf-8", "replace")

    def chat(self, text: str) -> str:
        """The file's chat template around one message of the user, up to where the answer begins.

        Raises InputError where the file has no template, jinja2 is missing or the template refuses the
        message, FileFormatError where it is no template, fails, or takes too much time or memory.
        """
        template = pick_template(self.templates, self.path)
        check_installed("jinja2", "chat templates need")
        ends = {"bos_token": self.bos_id, "eos_token": self.eos_id}
        spelled = {
            name: "" if i is None else self.piece(i).decode("utf-8", "replace") for name, i in ends.items()
        }
        tokens = spelled if self.named is None else dict(self.named)
        rendered: str = self.template_process(self.path, template, text, tokens)
        return rendered

    def describe(self) -> str:
        """In words: "49,152 tokens, byte-level BPE (smollm), no BOS added"."""
        parts = [f"{self.size:,} tokens", self.kind]
        bos = f"BOS {self.label(self.bos_id)}" if self.add_bos and self.bos_id is not None else "no BOS"
        parts.append(f"{bos} added" + (f" ({self.bos_note})" if self.bos_note else ""))
        if self.add_eos and self.eos_id is not None:
            parts.append(f"EOS {self.label(self.eos_id)} added")
        return on_one_line(", ".join(parts))


def _printable(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is part of no character
        return f"\\x{code - 0xDC00:02x}"
    if 0x7F < code < 0x100 and not char.isprintable():
        return f"\\u{code:04x}"  # \xa0 is the byte, \u00a0 the character
    return char if char.isprintable() and char != "\\" else char.encode("unicode_escape").decode()
