"""The pre-tokenizers of byte-level BPE, by their names in GGUF files.

A pre-tokenizer splits a text into words, and tokens are merged only within a word. This module knows nothing
about vocabularies. Sources: the tokenizer.json of GPT-2, SmolLM, Llama 3, gpt-oss and DeepSeek V3, the
tokenizers of GPT-NeoX, Qwen and Cohere in transformers, Mistral's tekken.json, and the patterns of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..text.frozen import frozen


@frozen(slots=False)
class PreTokenizer:
    """How a text becomes words. Each pattern splits the pieces of the previous pattern.

    If `composed` is True, the text is first normalised to NFC. If `whole_words` is True, a word that is a
    token is not merged. `adds_bos` is llama.cpp's default for a file that does not store add_bos_token.
    """

    patterns: tuple[str, ...]
    composed: bool = False
    whole_words: bool = False
    adds_bos: bool = False


_CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
_GPT2 = rf"{_CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"
_DIGITS = (r"\p{N}", _GPT2)
_LLAMA3 = (
    rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace("{1,3}", "")
_QWEN35 = _QWEN2.replace(r"\p{L}+", r"[\p{L}\p{M}]+").replace(r"\s\p{L}", r"\s\p{L}\p{M}")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _by_case(ending: str, digits: str) -> str:
    """Return a pattern that also splits "camelCase" into "camel" and "Case"."""
    start, rest = r"[^\r\n\p{L}\p{N}]?", r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    return rf"{start}{_UPPER}*{_LOWER}+{ending}|{start}{_UPPER}+{_LOWER}*{ending}|{digits}|{rest}"


_GPT4O = _by_case(rf"(?i:{_CONTRACTIONS})?", r"\p{N}{1,3}")
_TEKKEN = _by_case("", r"\p{N}")
_DEEPSEEK3 = (  # an identifier keeps the character before it, as in ".append"
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"[!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
)
_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_CASED = (  # the letters with upper and lower case that DeepSeek LLM's pattern lists
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕ"
    "ἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-"
    "ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)

PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {
    "gpt-2": PreTokenizer((_GPT2,)),
    "olmo": PreTokenizer((_GPT2,), composed=True),  # also GPT-NeoX and Pythia
    "mpt": PreTokenizer((_GPT2,), composed=True),
    "smollm": PreTokenizer(_DIGITS),
    "starcoder": PreTokenizer(_DIGITS),
    "refact": PreTokenizer(_DIGITS),  # also Granite 3
    "command-r": PreTokenizer(_DIGITS, composed=True),
    "llama-bpe": PreTokenizer((_LLAMA3,), whole_words=True, adds_bos=True),
    "smaug-bpe": PreTokenizer((_LLAMA3,), whole_words=True),  # SmolLM3; llama.cpp merges these words
    "dbrx": PreTokenizer((_LLAMA3,)),  # also Phi-4, OLMo 2, OLMo 3 and Granite 4
    "gpt-4o": PreTokenizer((_GPT4O,), whole_words=True),  # also gpt-oss and Phi-4-mini
    "minimax-m2": PreTokenizer((_GPT4O,)),
    "tekken": PreTokenizer((_TEKKEN,), whole_words=True, adds_bos=True),  # Mistral, Apertus
    "qwen2": PreTokenizer((_QWEN2,), composed=True),
    "stablelm2": PreTokenizer((_QWEN2,)),
    "qwen35": PreTokenizer((_QWEN35,), composed=True),
    "deepseek-v3": PreTokenizer(_DEEPSEEK3),  # also DeepSeek R1
    "deepseek-coder": PreTokenizer(("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}")),
    "deepseek-llm": PreTokenizer(
        ("[\r\n]", rf"\s?[{_CASED}]+", r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+", r"\s+$", _CJK, r"\p{N}+")
    ),
    "bloom": PreTokenizer((" ?[^(\\s|.,!?…。，、।۔،)]+",)),
    "falcon": PreTokenizer((r"[\p{P}$+<=>^~|`]+", _GPT2, "[0-9][0-9][0-9]")),
    "default": PreTokenizer((r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
}
ALIASES = {  # names of the same rules, also as defaults of llama.cpp
    "gpt2": "gpt-2", "phi-2": "gpt-2", "exaone4": "gpt-2", "llama3": "llama-bpe", "llama-v3": "llama-bpe",
    "falcon3": "llama-bpe", "falcon-h1": "llama-bpe", "lfm2": "llama-bpe", "pixtral": "llama-bpe",
    "glm4": "dbrx", "chatglm-bpe": "dbrx", "llama4": "gpt-4o", "deepseek-r1-qwen": "qwen2",
    "hunyuan": "stablelm2", "hunyuan-dense": "deepseek-v3",
}  # fmt: skip


def pre_tokenizer(name: str | None) -> PreTokenizer | None:
    """Return the pre-tokenizer of this name in a GGUF file, or None if the name is missing or unknown."""
    return PRE_TOKENIZERS.get(ALIASES.get(name or "", name or ""))
