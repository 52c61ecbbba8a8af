"""Read the vocabulary of a Hugging Face folder: tokenizer.json, tokenizer_config.json and related files.

As in transformers 5, the post-processor of tokenizer.json decides whether BOS and EOS are added. The flag
add_bos_token in tokenizer_config.json has no effect. As in apply_chat_template, the only special tokens of a
chat are the tokens that the chat template prints.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, check_installed
from ..text.brief import brief
from ..text.json_reading import MANY_VALUES
from ..untrusted_files import read_json, read_text
from .bpe import byte_level_bytes, literal_bytes, sentencepiece_bytes
from .metadata import BYTE, CONTROL, USER_DEFINED, Metadata, check_tokens
from .sandbox import MIB, Isolated, Limits
from .tokens import Vocabulary


def from_huggingface(folder: Path) -> Vocabulary | None:
    """Return the vocabulary of a folder, or None if the folder has no tokenizer.json. Raises
    FileFormatError."""
    path = folder / "tokenizer.json"
    if not path.exists():
        return None
    tokenizer = read_json(path, MANY_VALUES)
    config_path = folder / "tokenizer_config.json"
    config = read_json(config_path) if config_path.exists() else {}
    ids = _token_ids(tokenizer, path)
    kind, to_bytes = _alphabet(tokenizer, path)
    ends = _named_ends(config, ids, config_path) | _added_ends(config, tokenizer, ids, path)
    places = _configured_stops(folder, max(ids.values()) + 1)
    stops = next(iter(places.values()), [])
    if ends.get("eos_id") is not None:
        places["tokenizer.json" if ends["add_eos"] else "tokenizer_config.json"] = [ends["eos_id"]]
    elif stops:
        ends["eos_id"] = stops[0]
    # The decoder of SentencePiece also changes added tokens, such as Gemma's runs of spaces.
    literal = () if to_bytes is sentencepiece_bytes else _added(tokenizer, path).values()
    process = Isolated(f"{__package__}.tokenizer_json:encode", "its tokenizer", _LIMITS)
    return Vocabulary(
        path, _by_id(ids, path), f"{kind} (tokenizer.json)", to_bytes,
        partial(_encode, process, path, str(path.absolute())),  # the folder may change
        literal=frozenset(literal), stop_ids=frozenset(stops),
        templates=_templates(folder, config, config_path), template_tokens=_template_tokens(folder, config),
        chat_adds_bos=False, types=_types(tokenizer, ids, to_bytes), read_merges=partial(_merges, path),
        ends_by_place=places, **ends,
    )  # fmt: skip


def convertible(folder: Path) -> str:
    """Name the files that transformers could convert to a missing tokenizer.json. Return "" if there are no
    such files."""
    if (folder / "tokenizer.json").exists():
        return ""
    kinds = (("tokenizer.model",), ("vocab.json", "merges.txt"))
    present = (files for files in kinds if all((folder / file).exists() for file in files))
    return " and ".join(next(present, ()))


def _token_ids(tokenizer: Mapping[str, Any], path: Path) -> dict[str, int]:
    """Return the id of every token, including the added tokens."""
    model = tokenizer.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, list) and all(isinstance(p, list) and p and type(p[0]) is str for p in vocab):
        vocab = {pair[0]: i for i, pair in enumerate(vocab)}  # Unigram lists pairs [token, score]
    if not isinstance(vocab, dict):
        raise FileFormatError(f"{path}: expected a vocabulary under model.vocab, found {brief(vocab)}")
    ids = vocab | _added(tokenizer, path)
    if not ids or set(map(type, ids)) != {str} or set(map(type, ids.values())) != {int}:
        raise FileFormatError(f"{path}: expected a vocabulary of tokens and ids, found {brief(vocab)}")
    return ids


def _added(tokenizer: Mapping[str, Any], path: Path) -> dict[str, int]:
    try:
        return {token["content"]: token["id"] for token in tokenizer.get("added_tokens") or ()}
    except (TypeError, KeyError) as error:
        raise FileFormatError(
            f"{path}: added_tokens: expected a list of tokens with content and id"
        ) from error


def _by_id(ids: Mapping[str, int], path: Path) -> list[str]:
    """Return the tokens in the order of their ids. The result has "" for an id without a token."""
    least, size = min(ids.values()), max(ids.values()) + 1
    if least < 0 or size > 2 * len(ids) + 1024:
        raise FileFormatError(
            f"{path}: expected ids from 0 to about {len(ids):,} for {len(ids):,} tokens, found {least:,} to "
            f"{size - 1:,}"
        )
    check_tokens(list(ids), path)
    tokens = [""] * size
    for token, id_ in ids.items():
        tokens[id_] = token
    return tokens


def _alphabet(tokenizer: Mapping[str, Any], path: Path) -> tuple[str, Callable[[str], bytes]]:
    """Return the tokenizer's kind in words, and the function that turns the spelling of a token into
    bytes."""
    kind = tokenizer["model"].get("type")
    model = "BPE" if not kind else kind if isinstance(kind, str) and len(kind) < 40 else brief(kind)
    parts = {
        str(part.get("type"))
        for key in ("decoder", "pre_tokenizer")
        for part in _nested(tokenizer.get(key), path)
    }
    if "ByteLevel" in parts:
        return f"byte-level {model}", byte_level_bytes
    if parts & {"Metaspace", "ByteFallback"}:
        return f"SentencePiece {model}", sentencepiece_bytes
    return model, literal_bytes


def _types(
    tokenizer: Mapping[str, Any], ids: Mapping[str, int], to_bytes: Callable[[str], bytes]
) -> dict[int, int]:
    """Return the types of the tokens that are not normal, as the numbers in GGUF files."""
    added, unknown = tokenizer.get("added_tokens") or (), tokenizer["model"].get("unk_token")
    spelled = {f"<0x{byte:02X}>": BYTE for byte in range(256 if to_bytes is sentencepiece_bytes else 0)}
    spelled |= {unknown: CONTROL} if isinstance(unknown, str) else {}
    types = {ids[token]: kind for token, kind in spelled.items() if token in ids}
    return types | {token["id"]: CONTROL if token.get("special") else USER_DEFINED for token in added}


def _merges(path: Path) -> list[str] | None:
    """Read the merges of tokenizer.json, each "left right"."""
    merges = read_json(path, MANY_VALUES).get("model", {}).get("merges")
    if not isinstance(merges, list):
        return None
    return [" ".join(map(str, merge)) if isinstance(merge, list) else str(merge) for merge in merges]


def _nested(part: Any, path: Path) -> Iterator[dict[str, Any]]:
    """Yield a part of tokenizer.json and, if it is a sequence, its members at any depth."""
    queue = deque([part])
    while queue:
        part = queue.popleft()
        if isinstance(part, dict):
            yield part
            for key in ("decoders", "pretokenizers", "processors"):
                members = part.get(key) or []
                if not isinstance(members, list):
                    raise FileFormatError(f"{path}: {key}: expected a list, found {brief(members)}")
                queue.extend(members)


def _named_ends(config: Mapping[str, Any], ids: Mapping[str, int], path: Path) -> dict[str, Any]:
    """Return the ids of the BOS and EOS that tokenizer_config.json names, as bos_id and eos_id."""
    ends = {}
    for name in ("bos", "eos"):
        token = _content(config.get(f"{name}_token"))
        if token is not None and (not isinstance(token, str) or token not in ids):
            raise FileFormatError(
                f"{path}: {name}_token: expected a token of the vocabulary, found {brief(token)}"
            )
        ends[f"{name}_id"] = None if token is None else ids[token]
    return ends


def _template_tokens(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the special tokens by their names, which end in _token. The tokens are in tokenizer_config.json,
    or in special_tokens_map.json, which older versions of transformers wrote."""
    path = folder / "special_tokens_map.json"
    values = (read_json(path) if path.exists() else {}) | dict(config)
    contents = {name: _content(token) for name, token in values.items() if name.endswith("_token")}
    return {name: token for name, token in contents.items() if isinstance(token, str)}


def _content(token: Any) -> Any:
    """Return the text of a token that is stored as text or as {"content": text}."""
    return token.get("content") if isinstance(token, dict) else token


def _added_ends(
    config: Mapping[str, Any], tokenizer: Mapping[str, Any], ids: Mapping[str, int], path: Path
) -> dict[str, Any]:
    """Return add_bos and add_eos, and the ids of the tokens that the post-processor adds."""
    before, after = _surroundings(tokenizer.get("post_processor"), path)
    ends: dict[str, Any] = {"add_bos": bool(before), "add_eos": bool(after)}
    flags = {end: config.get(f"add_{end}_token") for end in ("bos", "eos")}
    ends["configured"] = {end: flag for end, flag in flags.items() if type(flag) is bool}
    if config.get("add_bos_token") not in (None, bool(before)):
        flag = brief(config["add_bos_token"])
        ends["bos_note"] = f"tokenizer.json decides, not add_bos_token = {flag}"
    for name, tokens in (("bos", before), ("eos", after)):
        if len(tokens) > 1 or not all(type(token) is str and token in ids for token in tokens):
            raise FileFormatError(
                f"{path}: post_processor: expected one token as {name.upper()}, found {brief(tokens)}"
            )
        if tokens:
            ends[f"{name}_id"] = ids[tokens[0]]
    return ends


def _surroundings(post_processor: Any, path: Path) -> tuple[list[str], list[str]]:
    """Return the special tokens that a post-processor puts before and after a text."""
    before, after = list[str](), list[str]()
    try:
        for part in _nested(post_processor, path):
            if part.get("type") == "TemplateProcessing":
                items = [item.get("SpecialToken", {}).get("id") for item in part["single"]]
                text = items.index(None)
                before, after = items[:text] + before, after + items[text + 1 :]
            elif "cls" in part:
                before, after = [part["cls"][0], *before], [*after, part["sep"][0]]
    except (TypeError, KeyError, ValueError, AttributeError, IndexError) as error:
        raise FileFormatError(f"{path}: post_processor: cannot be read ({error!r:.60})") from error
    return before, after


def _configured_stops(folder: Path, size: int) -> dict[str, list[int]]:
    """Return the ids of eos_token_id by file. Generation uses generation_config.json, or else config.json, so
    the ids of the first file must be tokens."""
    places: dict[str, list[int]] = {}
    for path in (folder / "generation_config.json", folder / "config.json"):
        config = read_json(path) if path.exists() else {}
        value = config.get("eos_token_id")
        stops: list[Any] = value if isinstance(value, list) else [value]
        if stops and all(isinstance(stop, int) for stop in stops):
            for stop in [] if places else stops:
                Metadata(path, {"eos_token_id": stop}).token("eos_token_id", size)
            places[path.name] = stops
    return places


def _templates(folder: Path, config: Mapping[str, Any], path: Path) -> dict[str, str]:
    """Return the chat templates by name, from chat_template.jinja or from chat_template in the config."""
    file = folder / "chat_template.jinja"
    if file.exists():
        return {"default": read_text(file, "a chat template")}
    value = config.get("chat_template")
    entries = value if isinstance(value, list) else [{"name": "default", "template": value}] if value else []
    try:
        templates = {entry["name"]: entry["template"] for entry in entries}
    except (TypeError, KeyError) as error:
        raise FileFormatError(f"{path}: chat_template: expected templates with name and template") from error
    if not all(isinstance(part, str) for entry in templates.items() for part in entry):
        raise FileFormatError(f"{path}: chat_template: expected text, found {brief(value)}")
    return templates


# Measured: 1.3 s and 380 MiB for BPE with 514,000 merges, 2.3 s and 1.2 GiB for Unigram with 250,000 tokens.
_LIMITS = Limits(seconds=30, memory=2048 * MIB)


def _encode(process: Isolated, path: Path, location: str, text: str, special: bool) -> list[int]:
    """Encode a text with the tokenizer of a file. The package `tokenizers` reads this file in a separate
    process."""
    check_installed("tokenizers", "turning text into tokens needs")
    ids: list[int] = process(path, location, text, special)
    return ids
