"""Vocabulary: the tokens of a model, their bytes and the encoding of text.

Labels and decoding need no optional package. Encoding needs `tokenizers`, and chat templates need jinja2.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import ClassVar

from ..errors import InputError, check_installed
from ..text.brief import one_line
from ..text.frozen import frozen
from ..text.printable import on_one_line
from .bpe import Encoder, literal_bytes
from .sandbox import MIB, Isolated, Limits

CHAT_TEMPLATES = f"{__package__}.chat_templates"  # the module that renders templates in a separate process
LIMITS = Limits(seconds=10, memory=512 * MIB)  # rendering with jinja2 usually takes 0.1 s and 60 MiB


def pick_template(templates: Mapping[str, str], path: Path) -> str:
    """Return the template named "default", or the only template. Raises InputError if there is no such
    template."""
    if not templates:
        raise InputError(f"{path}: the file has no chat template; leave out --chat")
    if "default" not in templates and len(templates) > 1:
        names = ", ".join(sorted(templates))
        raise InputError(f"{path}: expected a chat template named default, found {names:.200}")
    return templates["default" if "default" in templates else next(iter(templates))]


@frozen(slots=False, eq=False)
class Vocabulary:
    """The tokens of a model by id, their bytes, and the encoding of text.

    `to_bytes` converts a token, as spelled in the file, to bytes. The tokens in `literal` (ids) are stored as
    plain text, without conversion. If `add_bos` is not the file's flag, `bos_note` names the source of
    `add_bos`. `template_tokens` has the special tokens by their names in chat templates, where None means BOS
    and EOS. If `chat_adds_bos` is False, the only BOS of a chat is the BOS that its template prints.

    `certify` compares the last four fields. `types` has the types of tokens that are not normal, as numbers
    of GGUF, or is None if the file does not say. `read_merges` returns the merges in their order, each
    "left right". `configured` has flags of tokenizer_config.json, such as {"bos": True}, that have no effect.
    `ends_by_place` has the ids that end a text by the file or key that names them, such as
    {"generation_config.json": {0, 2}}. Generation with a folder uses only the first place.
    """

    longest_text: ClassVar[int] = 1 << 20  # in characters, which take 45 bytes each in `tokenizers`
    path: Path
    tokens: Sequence[str]
    kind: str  # such as "byte-level BPE (smollm)"
    to_bytes: Callable[[str], bytes]
    encoder: Encoder
    literal: Collection[int] = frozenset()
    bos_id: int | None = None
    eos_id: int | None = None
    stop_ids: Collection[int] = frozenset()  # tokens besides EOS that end a text, such as the end of a turn
    add_bos: bool = False
    add_eos: bool = False
    bos_note: str = ""
    templates: Mapping[str, str] = field(default_factory=dict)
    template_tokens: Mapping[str, str] | None = None
    chat_adds_bos: bool = True
    template_process: Isolated = field(
        default_factory=partial(Isolated, f"{CHAT_TEMPLATES}:render", "its chat template", LIMITS)
    )
    types: Mapping[int, int] | None = None
    read_merges: Callable[[], Sequence[str] | None] = lambda: None
    configured: Mapping[str, bool] = field(default_factory=dict)
    ends_by_place: Mapping[str, Collection[int]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return one_line(self, path=str(self.path), size=self.size, kind=self.kind)

    def ends_text(self, token: int) -> bool:
        """Return True if generation stops at this token."""
        return token == self.eos_id or token in self.stop_ids

    @property
    def size(self) -> int:
        return len(self.tokens)

    def encode(self, text: str, *, special: bool = False, chat: bool = False) -> list[int]:
        """Return the ids of a text, with BOS and EOS as the file requires.

        Special tokens that are spelled in the text are parsed only if `special` or `chat` is set. `chat` is
        True if a chat template printed the text. To the text of a template, `encode` adds no EOS and no
        second BOS, and no BOS at all if `chat_adds_bos` is False.

        Raises InputError if the text is too long, is not valid Unicode, or has no tokens, and FileFormatError
        if the file's tokenizer is broken or not supported.
        """
        if len(text) > self.longest_text:
            limit = f"{self.longest_text:,} characters"
            raise InputError(f"expected a text of at most {limit}, found {len(text):,}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"character {text[error.start]!a} at position {error.start} of the text is not valid Unicode"
            ) from error
        ids = self.encoder(text, special or chat)
        begins = chat and (not self.chat_adds_bos or ids[:1] == [self.bos_id])
        if self.add_bos and self.bos_id is not None and not begins:
            ids = [self.bos_id, *ids]
        if self.add_eos and self.eos_id is not None and not chat:
            ids = [*ids, self.eos_id]
        return ids

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token. An id without a token (of a padded embedding) has no bytes."""
        if not 0 <= token < self.size:
            return b""
        spelling = self.tokens[token]
        return literal_bytes(spelling) if token in self.literal else self.to_bytes(spelling)

    def label(self, token: int) -> str:
        """Return a readable token on one line."""
        return self.spelled([token]) if 0 <= token < self.size else f"(no token {token})"

    def spelled(self, ids: Iterable[int]) -> str:
        r"""Return the readable text of consecutive tokens on one line. Unprintable characters and the bytes
        of an incomplete character are escaped as \n, \u200b and \xe2, and a backslash is doubled."""
        return "".join(map(_printable, b"".join(map(self.piece, ids)).decode("utf-8", "surrogateescape")))

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids. Bytes that are not UTF-8 become U+FFFD."""
        return b"".join(map(self.piece, ids)).decode("utf-8", "replace")

    def chat(self, text: str) -> str:
        """Put one user message into the file's chat template, up to where the model's answer begins. Raises
        InputError if the file has no template, jinja2 is missing, or the template refuses the message, and
        FileFormatError if the template is invalid, fails, or takes too much time or memory."""
        template = pick_template(self.templates, self.path)
        check_installed("jinja2", "chat templates need")
        rendered: str = self.template_process(self.path, template, text, self.names_in_templates())
        return rendered

    def names_in_templates(self) -> dict[str, str]:
        """Return the special tokens by their names in chat templates, such as {"bos_token": "<s>"}."""
        ends = {"bos_token": self.bos_id, "eos_token": self.eos_id}
        spelled = {name: "" if i is None else self.decode([i]) for name, i in ends.items()}
        return spelled if self.template_tokens is None else dict(self.template_tokens)

    def describe(self) -> str:
        """Describe the vocabulary, as in "49,152 tokens, byte-level BPE (smollm), no BOS added"."""
        parts = [f"{self.size:,} tokens", self.kind]
        bos = f"BOS {self.label(self.bos_id)}" if self.add_bos and self.bos_id is not None else "no BOS"
        parts.append(f"{bos} added" + (f" ({self.bos_note})" if self.bos_note else ""))
        if self.add_eos and self.eos_id is not None:
            parts.append(f"EOS {self.label(self.eos_id)} added")
        return on_one_line(", ".join(parts))


def _printable(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not part of a character
        return f"\\x{code - 0xDC00:02x}"
    if 0x7F < code < 0x100 and not char.isprintable():
        return f"\\u{code:04x}"  # because \xa0 would mean a byte
    return char if char.isprintable() and char != "\\" else char.encode("unicode_escape").decode()
