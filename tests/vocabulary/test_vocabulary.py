"""Vocabularies of model files: bytes, labels and ids, checked against `tokenizers`, against merges worked out
by hand, and against the real SmolLM2."""

import json
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.real_model import needs_smollm2

from microgpt_trace.errors import FileFormatError, InputError
from microgpt_trace.vocabulary import bpe
from microgpt_trace.vocabulary.bpe import ByteLevelBpe, byte_alphabet, split_fixed, substrings
from microgpt_trace.vocabulary.huggingface import from_huggingface
from microgpt_trace.vocabulary.metadata import from_apr, from_gguf
from microgpt_trace.vocabulary.pre_tokenizers import ALIASES, PRE_TOKENIZERS, pre_tokenizer

tokenizers = pytest.importorskip("tokenizers", reason="text is encoded by the package tokenizers")
PATH = Path("model.gguf")
ALPHABET = list(byte_alphabet())
BOS, EOS, TOOL = "<|bos|>", "<|eos|>", "<tool>"


def trained_merges():
    """Return 300 merges that are trained on the text of this file."""
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=556, initial_alphabet=ALPHABET, show_progress=False, special_tokens=[]
    )
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train([__file__], trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [" ".join(merge) for merge in merges]


MERGES = trained_merges()


def byte_level(merges=MERGES, pre="gpt-2", **changes):
    """GGUF metadata of two control tokens, the bytes, the results of merges, and a user-defined token."""
    tokens = [BOS, EOS, *ALPHABET, *dict.fromkeys(m.replace(" ", "", 1) for m in merges), TOOL]
    types = [3, 3] + [1] * (len(tokens) - 3) + [4]
    metadata = {
        "model": "gpt2", "pre": pre, "tokens": tokens, "merges": list(merges), "token_type": types,
        "bos_token_id": 0, "eos_token_id": 1, **changes,
    }  # fmt: skip
    return {f"tokenizer.ggml.{key}": value for key, value in metadata.items() if value is not None}


def sentencepiece(**changes):
    """GGUF metadata of a handmade vocabulary whose scores rank "ab" before "bc" before "▁a"."""
    pieces = {
        "<unk>": (2, 0), "<s>": (3, 0), "</s>": (3, 0), **{f"<0x{b:02X}>": (6, 0) for b in range(256)},
        "▁": (1, -10), "a": (1, -11), "b": (1, -12), "c": (1, -13), "ab": (1, -1), "bc": (1, -2),
        "▁a": (1, -3), "▁ab": (1, -4), "abc": (1, -5), "s>": (1, -6), "s": (1, -14), ">": (1, -15),
        "<": (1, -16), "ca": (1, -2.5), TOOL: (4, 0),
    }  # fmt: skip
    metadata = {
        "model": "llama", "tokens": list(pieces), "token_type": [kind for kind, _ in pieces.values()],
        "scores": [float(score) for _, score in pieces.values()], **changes,
    }  # fmt: skip
    return {f"tokenizer.ggml.{key}": value for key, value in metadata.items() if value is not None}


def spelled(vocabulary, text, **options):
    return [vocabulary.tokens[i] for i in vocabulary.encode(text, **options)]


GPT2 = from_gguf(byte_level(), PATH)


def whole_tokenizer(vocabulary):
    """The judge: `tokenizers` with all tokens and merges, and its own way to split GPT-2's words."""
    ids = {token: i for i, token in enumerate(vocabulary.tokens)}
    model = tokenizers.models.BPE(ids, [tuple(merge.split(" ")) for merge in MERGES])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


JUDGE = whole_tokenizer(GPT2)
TEXT = st.text(max_size=40) | st.lists(st.sampled_from(Path(__file__).read_text("utf-8").split(" "))).map(
    " ".join
)


@given(TEXT)
@example("a  b\n\n c's 123 ")
@example("日本 naïve 🎉\x00")
def test_byte_level_ids_are_those_of_tokenizers(text):
    text = text.replace(TOOL, "")
    ids, expected = GPT2.encode(text), JUDGE.encode(text).ids
    print(ids, expected)
    assert ids == expected
    assert GPT2.decode(ids) == text == JUDGE.decode(ids, skip_special_tokens=False)


@given(st.lists(st.integers(2, GPT2.size - 2), max_size=8))
def test_decoding_and_labels_agree_with_tokenizers_on_any_ids(ids):
    assert GPT2.decode(ids) == JUDGE.decode(ids, skip_special_tokens=False)
    texts = {i: JUDGE.decode([i], skip_special_tokens=False) for i in ids}
    plain = {i: text for i, text in texts.items() if text.isprintable() and not set(text) & {"\\", "\ufffd"}}
    assert {i: GPT2.label(i) for i in plain} == plain


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
@given(TEXT)
def test_decoding_restores_the_text(pre, text):
    vocabulary = from_gguf(byte_level(pre=pre, add_bos_token=False), PATH)
    if PRE_TOKENIZERS[pre].composed:
        text = unicodedata.normalize("NFC", text)
    assert vocabulary.decode(vocabulary.encode(text)) == text


@pytest.mark.parametrize(
    ("pre", "text", "words"),
    [
        ("gpt-2", "It's 2024  ok\n\n!", ["It", "'s", " 2024", " ", " ok", "\n", "\n", "!"]),
        ("gpt-2", "I'LL", ["I", "'", "LL"]),
        ("smollm", "It's 2024", ["It", "'s", " ", "2", "0", "2", "4"]),
        ("llama-bpe", "I'LL pay $12345.\n\n x", ["I", "'LL", " pay", " $", "123", "45", ".\n\n", " x"]),
        ("llama-bpe", "(word I'LLx", ["(word", " I", "'LL", "x"]),
        ("qwen2", "I'LL pay 12\n\n x", ["I", "'LL", " pay", " ", "1", "2", "\n\n", " x"]),
        ("refact", "It's 2024", ["It", "'s", " ", "2", "0", "2", "4"]),
        ("olmo", "It's 12\n\n!", ["It", "'s", " 12", "\n", "\n", "!"]),
        ("dbrx", "I'LL pay $12345", ["I", "'LL", " pay", " $", "123", "45"]),
        ("gpt-4o", "a newName's ABCd/\n 1234", ["a", " new", "Name's", " ABCd", "/\n", " ", "123", "4"]),
        ("tekken", "newName's 12/\n", ["new", "Name", "'s", " ", "1", "2", "/\n"]),
        ("qwen35", "नमस्ते 12", ["नमस्ते", " ", "1", "2"]),
        ("qwen2", "नमस्ते", ["नमस", "्त", "े"]),
        ("deepseek-coder", "a b!12\n日本語x", ["a", " b", "!", "1", "2", "\n", "日本語", "x"]),
        ("deepseek-llm", "né (日本) 12  ", ["n", "é", " (", "日本", ")", " ", "12", "  "]),  # :-~ has letters
        (
            "deepseek-v3",
            "x.append(I'm) 日本カナ12345!\n",
            ["x", ".append", "(I", "'m", ")", " ", "日本カナ", "123", "45", "!\n"],
        ),
        ("hunyuan-dense", "नमस्ते 1234", ["नमस्ते", " ", "123", "4"]),
        ("minimax-m2", "newName's 1234", ["new", "Name's", " ", "123", "4"]),
        ("llama4", "newName's 1234", ["new", "Name's", " ", "123", "4"]),
        ("glm4", "I'LL pay $12345", ["I", "'LL", " pay", " $", "123", "45"]),
        ("chatglm-bpe", "I'LL 12345", ["I", "'LL", " ", "123", "45"]),
        ("stablelm2", "I'LL 12", ["I", "'LL", " ", "1", "2"]),
        ("hunyuan", "I'LL 12", ["I", "'LL", " ", "1", "2"]),
        ("phi-2", "It's 2024", ["It", "'s", " 2024"]),
        ("exaone4", "It's 2024", ["It", "'s", " 2024"]),
        ("falcon3", "I'LL 12345", ["I", "'LL", " ", "123", "45"]),
        ("bloom", "It's 2024, (ok)  a", ["It's", " 2024", ", (", "ok", ") ", " a"]),
        ("falcon", "a`$b 1234", ["a", "`$", "b", " ", "123", "4"]),
        ("default", "a`$b 1234", ["a", "`", "$", "b", " ", "123", "4"]),
        ("default", "a$+b 12345 (c)", ["a", "$+", "b", " ", "123", "45", " ", "(", "c", ")"]),
    ],
)
def test_splits_words_as_worked_out_by_hand(pre, text, words):
    alphabet = {byte: char for char, byte in byte_alphabet().items()}
    result = ByteLevelBpe(PATH, ALPHABET, (), (), (), (), pre_tokenizer(pre))._words(text)
    print(result, words)
    assert result == ["".join(alphabet[b] for b in word.encode()) for word in words]


@pytest.mark.parametrize(
    ("merges", "text", "expected"),
    [
        (["b c", "a b"], "abc", ["a", "bc"]),  # earlier merges come first
        (["a b", "b c"], "abc", ["ab", "c"]),
        (["b c", "a b", "ab c", "a bc"], "abc", ["abc"]),  # of two that make a token, either may be the last
        (["b c", "a b", "a bc", "ab c"], "abc", ["abc"]),
        (["a b", "ab c", "a bc", "b c"], "abc", ["abc"]),
        (["b c", "a b", "ab c", "a bc"], "abab", ["ab", "ab"]),
    ],
)
def test_applies_merges_in_list_order(merges, text, expected):
    assert spelled(from_gguf(byte_level(merges), PATH), text) == expected


def test_the_documentation_lists_the_pre_tokenizers():
    page = (Path(__file__).parents[2] / "docs" / "production-models.md").read_text(encoding="utf-8")
    assert [name for name in (*PRE_TOKENIZERS, *ALIASES) if f"`{name}`" not in page] == []


@pytest.mark.parametrize("pre", ["qwen2", "qwen35", "olmo", "mpt", "command-r"])
def test_these_pre_tokenizers_compose_characters(pre):
    assert spelled(from_gguf(byte_level(["Ã ©"], pre), PATH), "e\u0301") == ["Ã©"]


def test_llama_takes_whole_words():
    metadata = byte_level(["a b", "b c", "ab c"], "llama-bpe", add_bos_token=False)
    metadata["tokenizer.ggml.merges"] = ["b c", "a b"]  # "abc" is a token that merging does not reach
    assert spelled(from_gguf(metadata, PATH), "abc") == ["abc"]
    assert spelled(from_gguf(metadata | {"tokenizer.ggml.pre": "gpt-2"}, PATH), "abc") == ["a", "bc"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ab", ["▁ab"]),
        ("abc", ["▁ab", "c"]),  # ab (-1), ▁ab (-4): abc (-5) comes too late
        ("bc", ["▁", "bc"]),
        ("c ab", ["▁", "c", "▁ab"]),
        ("cab", ["▁", "c", "ab"]),
        ("cac", ["▁", "ca", "c"]),
        ("é\n", ["▁", "<0xC3>", "<0xA9>", "<0x0A>"]),
        ("", []),
        (f"a{TOOL}a", ["▁a", TOOL, "▁a"]),  # llama.cpp puts a space after a token that it cut out
    ],
)
def test_sentencepiece_merges_the_highest_score_first(text, expected):
    vocabulary = from_gguf(sentencepiece(add_bos_token=False), PATH)
    assert spelled(vocabulary, text) == expected


def test_sentencepiece_decodes_spaces_and_bytes():
    vocabulary = from_gguf(sentencepiece(), PATH)
    ids = vocabulary.encode("é ab\n")
    assert vocabulary.decode(ids[1:]) == " é ab\n"
    assert [vocabulary.label(i) for i in ids] == ["<s>", " ", "\\xc3", "\\xa9", " ab", "\\n"]
    assert vocabulary.spelled(ids[:-3]) == "<s> \\xc3"
    assert vocabulary.spelled(ids) == "<s> é ab\\n"
    assert spelled(from_gguf(sentencepiece(add_space_prefix=False), PATH), "ab") == ["<s>", "ab"]


def test_without_byte_tokens_a_character_is_unknown_or_refused():
    metadata = sentencepiece(add_bos_token=False)
    tokens = metadata["tokenizer.ggml.tokens"]
    metadata["tokenizer.ggml.tokens"] = [f"x{t}" if t.startswith("<0x") else t for t in tokens]
    assert spelled(from_gguf(metadata, PATH), "aéda") == ["▁a", "<unk>", "a"]
    types = [3 if kind == 2 else kind for kind in metadata["tokenizer.ggml.token_type"]]
    with pytest.raises(InputError, match="the vocabulary has no token for 'é'"):
        from_gguf(metadata | {"tokenizer.ggml.token_type": types}, PATH).encode("aé")


def test_the_unknown_token_may_be_spelled_with_invalid_unicode():
    metadata = sentencepiece(add_bos_token=False)
    tokens = ["\udcff", *metadata["tokenizer.ggml.tokens"][1:3], *(f"x{i}" for i in range(256)), "▁", "a"]
    metadata |= {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.scores": [0.0] * len(tokens)}
    metadata["tokenizer.ggml.token_type"] = [2] + [1] * (len(tokens) - 1)
    assert spelled(from_gguf(metadata, PATH), "é a") == ["▁", "\udcff", "▁", "a"]


def test_one_long_token_does_not_make_encoding_slow(monkeypatch):
    """Only substrings that are as long as some token are looked up."""
    metadata = sentencepiece(add_bos_token=False)
    for key, value in (("tokens", "x" * 20_000), ("scores", 0.0), ("token_type", 1)):
        metadata[f"tokenizer.ggml.{key}"].append(value)
    lookups = []
    monkeypatch.setattr(
        bpe, "substrings", lambda word, lengths: (lookups.append(x) or x for x in substrings(word, lengths))
    )
    from_gguf(metadata, PATH).encode("abc" * 300)
    assert sum(map(len, lookups)) < 901 * 30


@pytest.mark.parametrize("metadata", [byte_level(add_bos_token=False), sentencepiece(add_bos_token=False)])
def test_parses_control_tokens_on_request_and_user_defined_tokens_always(metadata):
    vocabulary = from_gguf(metadata, PATH)
    bos = vocabulary.label(vocabulary.bos_id)
    assert TOOL in spelled(vocabulary, f"a{TOOL}b")
    assert bos not in spelled(vocabulary, f"{bos}a")
    assert spelled(vocabulary, f"{bos}a", special=True)[0] == bos


def test_unknown_tokens_are_parsed_like_control_tokens():
    vocabulary = from_gguf(byte_level(token_type=[2] * 2 + [1] * 557), PATH)
    assert (BOS in spelled(vocabulary, BOS), BOS in spelled(vocabulary, BOS, special=True)) == (False, True)


@pytest.mark.parametrize(("kind", "expected"), [(1, "\ufffd"), (2, "é"), (3, "é"), (4, "é"), (5, "é")])
def test_only_normal_tokens_are_written_in_the_byte_alphabet(kind, expected):
    metadata = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["é"]}
    assert from_gguf(metadata | {"tokenizer.ggml.token_type": [kind]}, PATH).decode([0]) == expected


def test_the_longest_fixed_token_wins():
    assert split_fixed("x<|a|>y<|a|>>", ["<|a|>", "<|a|>>", ""]) == ["x", "<|a|>", "y", "<|a|>>", ""]
    assert split_fixed("plain", ["<|a|>"]) == ["plain"]


LLAMA_CPP = "(llama.cpp's default, because the file does not say)"


@pytest.mark.parametrize(
    ("metadata", "begins", "ends", "described"),
    [
        (byte_level(add_bos_token=True, add_eos_token=True), True, True, f"BOS {BOS} added, EOS {EOS} added"),
        (byte_level(), False, False, f"no BOS added {LLAMA_CPP}"),
        (byte_level(pre="llama3"), True, False, f"BOS {BOS} added {LLAMA_CPP}"),
        (byte_level(pre="tekken"), True, False, f"BOS {BOS} added {LLAMA_CPP}"),
        (byte_level(pre="smaug-bpe"), False, False, f"no BOS added {LLAMA_CPP}"),
        (byte_level(pre="llama-bpe", bos_token_id=None), False, False, f"no BOS added {LLAMA_CPP}"),
        (sentencepiece(), True, False, f"BOS <s> added {LLAMA_CPP}"),
        (sentencepiece(add_bos_token=False), False, False, "no BOS added"),
    ],
)
def test_flags_or_else_llama_cpps_defaults_decide_about_bos(metadata, begins, ends, described):
    vocabulary = from_gguf(metadata, PATH)
    ids = vocabulary.encode("ab")
    print(ids, vocabulary.describe())
    assert (ids[0] == vocabulary.bos_id, ids[-1] == vocabulary.eos_id) == (begins, ends)
    assert vocabulary.describe().endswith(described)


def test_end_of_turn_tokens_end_a_text():
    vocabulary = from_gguf(byte_level(eot_token_id=3, eom_token_id=4), PATH)
    assert [token for token in range(vocabulary.size) if vocabulary.ends_text(token)] == [1, 3, 4]


def test_a_chat_gets_one_bos_and_no_eos():
    vocabulary = from_gguf(byte_level(add_bos_token=True, add_eos_token=True), PATH)
    assert spelled(vocabulary, f"{BOS}a", chat=True) == [BOS, "a"] == spelled(vocabulary, "a", chat=True)
    assert spelled(vocabulary, f"{BOS}a", special=True) == [BOS, BOS, "a", EOS]


def test_descriptions_name_kind_and_pre_tokenizer():
    described = from_gguf(byte_level(pre=None, add_bos_token=False), PATH).describe()
    assert described == f"559 tokens, byte-level BPE (default, {LLAMA_CPP[1:]}, no BOS added"
    assert from_gguf(sentencepiece(), PATH).describe().startswith("274 tokens, SentencePiece BPE, BOS")
    assert from_gguf({}, PATH) is None
    assert from_gguf({"tokenizer.ggml.model": "no_vocab"}, PATH) is None


@pytest.mark.parametrize(
    ("token", "label"),
    [
        ("Ġhi", " hi"), ("Ċ", "\\n"), ("\\", "\\\\"), ("ã", "\\xe3"), ("Âł", "\\u00a0"),
        ("âĢĭ", "\\u200b"), ("ÃŃ", "í"), ("Ā", "\\x00"), ("<tool>", "<tool>"), ("日", "日"),
        ("\udcff", "\\xff"), ("æĹ¥ã", "日\\xe3"), ("Ģ", "\\x80"),
    ],
)  # fmt: skip
def test_labels_stand_on_one_line(token, label):
    metadata = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": [token], "tokenizer.ggml.merges": []}
    vocabulary = from_gguf(metadata, PATH)
    assert vocabulary.label(0) == label
    assert vocabulary.label(0).isprintable()


def test_an_id_without_a_token_has_a_label_and_no_bytes():
    assert (GPT2.label(99_999), GPT2.label(-1)) == ("(no token 99999)", "(no token -1)")
    assert GPT2.piece(99_999) == b""


def test_only_encoding_needs_tokenizers(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    vocabulary = from_gguf(byte_level(), PATH)
    assert (vocabulary.label(0), vocabulary.decode([2, 3]), vocabulary.size) == (BOS, '!"', GPT2.size)
    with pytest.raises(InputError, match=r"tokenizers: python -m pip install tokenizers$"):
        vocabulary.encode("a")


LONG = "x" * 9999


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "bert"}, "tokenizer 'bert' is not supported; gpt2, llama and gemma4 are"),
        ({"model": LONG}, "tokenizer 'xx"),
        ({"model": "llama"}, "it has no scores"),
        ({"model": "gemma4", "merges": None}, "it has no merges"),
        ({"pre": "viking"}, "pre-tokenizer 'viking' is not one of gpt-2, olmo, mpt"),
        ({"pre": LONG}, "pre-tokenizer 'xx"),
        ({"merges": None}, "it has no merges"),
        ({"merges": ["a b", "q zzz"]}, "the merge 'q zzz' makes no token"),
        ({"merges": [LONG]}, "the merge 'xx"),
        ({"merges": ["ab"], "tokens": [*ALPHABET, "ab"]}, "expected merges of two tokens, found 'ab'"),
    ],
)
def test_an_unsupported_tokenizer_is_refused_only_at_encoding(changes, message):
    metadata = byte_level(token_type=None, bos_token_id=None, eos_token_id=None)
    metadata |= {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    vocabulary = from_gguf(metadata, PATH)
    assert vocabulary.decode([0]) in (BOS, "!")
    with pytest.raises(FileFormatError, match=f"^model.gguf: .*{message}") as caught:
        vocabulary.encode("ab")
    assert (len(str(caught.value)) < 500, len(vocabulary.describe()) < 200) == (True, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": None}, "tokenizer.ggml.tokens: expected a list of tokens, found none"),
        ({"tokens": [b"a"]}, "tokenizer.ggml.tokens: expected a list of texts, found"),
        ({"tokens": "abc"}, "tokenizer.ggml.tokens: expected a list of texts, found 'abc'"),
        ({"tokens": ["\ud800"]}, r"expected tokens of valid Unicode, found '\\ud800'"),
        ({"model": 3}, "tokenizer.ggml.model: expected text, found 3"),
        ({"merges": [1]}, "tokenizer.ggml.merges: expected a list of texts"),
        ({"token_type": [1]}, "tokenizer.ggml.token_type: expected 559 numbers, found 1"),
        ({"token_type": ["x"] * 559}, "tokenizer.ggml.token_type: expected a list of numbers"),
        ({"bos_token_id": 559}, "tokenizer.ggml.bos_token_id: expected an id below 559, found 559"),
        ({"eos_token_id": -1}, "tokenizer.ggml.eos_token_id: expected an id below 559, found -1"),
        ({"eos_token_id": True}, "tokenizer.ggml.eos_token_id: expected a token id, found True"),
        ({"add_bos_token": 1}, "tokenizer.ggml.add_bos_token: expected true or false, found 1"),
        ({"add_bos_token": True, "bos_token_id": None}, "add_bos_token is true, but bos_token_id is missing"),
        ({"model": "llama", "scores": [0.5]}, "tokenizer.ggml.scores: expected 559 numbers, found 1"),
    ],
)
def test_refuses_invalid_metadata(changes, message):
    with pytest.raises(FileFormatError, match=f"^model.gguf: {message}"):
        from_gguf(byte_level() | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}, PATH)


def test_refuses_text_without_tokens_invalid_text_and_long_text():
    metadata = byte_level([], tokens=["a", "Ã"], token_type=None, bos_token_id=None)
    with pytest.raises(InputError, match="no token for the byte 0xA9 of 'aé'"):
        from_gguf(metadata, PATH).encode("aé")
    with pytest.raises(InputError, match=r"character '\\udcff' at position 1 of the text is not valid"):
        GPT2.encode("a\udcff")
    with pytest.raises(InputError, match="expected a text of at most 1,048,576 characters, found 1,048,577"):
        GPT2.encode("a" * (GPT2.longest_text + 1))


def huggingface_folder(folder, config=None, before=(), after=(), **files):
    """Write the vocabulary of this file to a folder, as transformers does, and read it."""
    tokenizer = whole_tokenizer(GPT2)
    tokenizer.add_special_tokens([BOS, EOS])
    tokenizer.add_tokens([TOOL])
    ends = [(token, tokenizer.token_to_id(token)) for token in (BOS, EOS)]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=" ".join([*before, "$A", *after]), special_tokens=ends
    )
    tokenizer.enable_truncation(3)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config or {}), encoding="utf-8")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return from_huggingface(folder)


OWN, OTHERS = "{{ bos_token }}{{ messages[0].content }}", "{{ unk_token }}{{ pad_token }}{{ sep_token }}"


DECIDES = "(tokenizer.json decides, not add_bos_token = {})"


@pytest.mark.parametrize(
    ("before", "added", "template", "expected"),
    [
        ((), None, OWN, [BOS, "a"]),
        ((), True, OWN, [BOS, "a"]),
        ((BOS,), False, OWN, [BOS, "a"]),
        ((BOS,), None, "{{ messages[0].content }}{{ eos_token }}", ["a", EOS]),
        ((BOS,), True, OTHERS, [TOOL, EOS]),
    ],
)
def test_a_chat_has_the_ids_of_transformers(tmp_path, before, added, template, expected):
    transformers = pytest.importorskip("transformers")
    config = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "unk_token": TOOL}
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template}
    config |= {} if added is None else {"add_bos_token": added}
    vocabulary = huggingface_folder(tmp_path, config, before)
    ids = vocabulary.encode(vocabulary.chat("a"), chat=True)
    judge = transformers.PreTrainedTokenizerFast.from_pretrained(str(tmp_path))
    theirs = judge.apply_chat_template([{"role": "user", "content": "a"}], add_generation_prompt=True)
    theirs = theirs if isinstance(theirs, list) else theirs["input_ids"]
    print(ids, theirs)
    assert ids == list(theirs)
    assert [vocabulary.label(i) for i in ids] == expected


def test_reads_special_tokens_map_of_older_folders(tmp_path):
    map = {"unk_token": {"content": TOOL}, "bos_token": EOS, "additional_special_tokens": [BOS]}
    config = {"bos_token": BOS, "chat_template": "{{ bos_token }}{{ unk_token }}{{ pad_token }}"}
    assert huggingface_folder(tmp_path, config, special_tokens_map=map).chat("a") == BOS + TOOL


def test_reads_the_tokenizer_of_a_folder(tmp_path):
    vocabulary = huggingface_folder(tmp_path, {"bos_token": BOS, "eos_token": {"content": EOS}})
    text = f"The test's {BOS} text\n{TOOL}"
    assert (vocabulary.tokens, vocabulary.bos_id, vocabulary.eos_id) == (GPT2.tokens, 0, 1)
    assert vocabulary.encode(text) == GPT2.encode(text)
    assert vocabulary.encode(text, special=True) == GPT2.encode(text, special=True)
    assert vocabulary.decode(vocabulary.encode(text)) == text
    assert vocabulary.describe() == f"{GPT2.size} tokens, byte-level BPE (tokenizer.json), no BOS added"


@pytest.mark.parametrize(
    ("before", "after", "flag", "expected", "described"),
    [
        ((), (), None, ["a"], "no BOS added"),
        ((BOS,), (), True, [BOS, "a"], f"BOS {BOS} added"),
        ((BOS,), (EOS,), None, [BOS, "a", EOS], f"BOS {BOS} added, EOS {EOS} added"),
        ((BOS,), (), False, [BOS, "a"], f"BOS {BOS} added {DECIDES.format(False)}"),
        ((), (), True, ["a"], f"no BOS added {DECIDES.format(True)}"),
    ],
)
def test_the_post_processor_decides_about_bos(tmp_path, before, after, flag, expected, described):
    vocabulary = huggingface_folder(tmp_path, {"bos_token": BOS, "add_bos_token": flag}, before, after)
    assert spelled(vocabulary, "a") == expected
    assert vocabulary.describe().endswith(f"(tokenizer.json), {described}")


def test_refuses_a_post_processor_with_two_bos_tokens(tmp_path):
    with pytest.raises(FileFormatError, match="post_processor: expected one token as BOS, found"):
        huggingface_folder(tmp_path, before=(BOS, EOS))


def test_eos_comes_from_the_model_configs_if_the_tokenizer_names_none(tmp_path):
    assert huggingface_folder(tmp_path).eos_id is None
    (tmp_path / "config.json").write_text('{"eos_token_id": 999}')
    with pytest.raises(FileFormatError, match=r"config\.json: eos_token_id: expected an id below 559, found"):
        huggingface_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"eos_token_id": 7}')
    assert huggingface_folder(tmp_path).eos_id == 7
    vocabulary = huggingface_folder(tmp_path, generation_config={"eos_token_id": [5, 6]})
    assert vocabulary.eos_id == 5
    assert [vocabulary.ends_text(token) for token in (4, 5, 6)] == [False, True, True]
    assert huggingface_folder(tmp_path, {"eos_token": EOS}).eos_id == 1


def test_a_tokenizer_json_may_be_missing_but_not_broken(tmp_path):
    assert from_huggingface(tmp_path) is None
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    with pytest.raises(FileFormatError, match=r"tokenizer\.json: [^\n]+$"):
        from_huggingface(tmp_path).encode("a")


def apr(source, **changes):
    """Turn GGUF metadata into the metadata of an .apr file."""
    keys = {"tokens": "vocabulary", "merges": "merges", "scores": "scores", "bos_token_id": "bos_token_id"}
    metadata = {f"tokenizer.{new}": source.get(f"tokenizer.ggml.{old}") for old, new in keys.items()}
    return {key: value for key, value in metadata.items() if value is not None} | changes


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "Qwen2ForCausalLM"])
def test_assumes_the_pre_tokenizer_of_an_apr_file(architecture):
    vocabulary = from_apr(apr(byte_level(), architecture=architecture), Path("model.apr"))
    text = f"It's 12 {BOS}"
    for special in (False, True):
        expected = from_gguf(byte_level(pre="qwen2"), PATH).encode(text, special=special)
        assert vocabulary.encode(text, special=special) == expected
    assert "(qwen2, assumed, because .apr files do not say), no BOS added (assumed" in vocabulary.describe()


def test_an_apr_file_with_scores_is_sentencepiece():
    vocabulary = from_apr(apr(sentencepiece(bos_token_id=1), architecture="llama"), Path("model.apr"))
    assert spelled(vocabulary, "ab</s>") == ["<s>", "▁ab", "<", "<0x2F>", "s>"]
    assert spelled(vocabulary, "<unk>ab", special=True) == ["<s>", "<unk>", "▁ab"]
    assert not from_apr(apr(sentencepiece(), architecture="llama"), PATH).add_bos


@pytest.mark.parametrize(("size", "pre", "add_bos"), [(49152, "smollm", False), (128256, "llama-bpe", True)])
def test_the_size_of_a_llama_vocabulary_determines_its_pre_tokenizer(size, pre, add_bos):
    metadata = apr(byte_level(), architecture="llama")
    tokens = metadata["tokenizer.vocabulary"]
    metadata["tokenizer.vocabulary"] = [*tokens, *(f"<|é{i}|>" for i in range(size - len(tokens)))]
    vocabulary = from_apr(metadata, Path("model.apr"))
    print(vocabulary.describe())
    assert (vocabulary.add_bos, f"({pre}, assumed" in vocabulary.describe()) == (add_bos, True)
    assert vocabulary.label(559) == "<|é0|>"


@pytest.mark.parametrize("architecture", ["llama", None, "qwen3_5"])
def test_an_unknown_pre_tokenizer_of_an_apr_file_is_refused_at_encoding(architecture):
    vocabulary = from_apr(apr(byte_level(), architecture=architecture), Path("model.apr"))
    assert vocabulary.label(2) == "!"
    with pytest.raises(FileFormatError, match="does not name its pre-tokenizer"):
        vocabulary.encode("a")
    assert from_apr({}, PATH) is None


@needs_smollm2
def test_smollm2_encodes_as_recorded(smollm2):
    smollm2 = smollm2.vocabulary
    assert smollm2.encode("The capital of France is") == [504, 3575, 282, 4649, 314]
    assert smollm2.encode("emma") == [391, 2432]
    story = smollm2.encode("Once upon a time, in a small village")
    assert "|".join(map(smollm2.label, story)) == "Once| upon| a| time|,| in| a| small| village"
    assert smollm2.describe() == "49,152 tokens, byte-level BPE (smollm), no BOS added"


@needs_smollm2
def test_renders_the_chat_template_of_smollm2(smollm2):
    pytest.importorskip("jinja2", reason="chat templates need jinja2")
    smollm2 = smollm2.vocabulary
    text = smollm2.chat("Hi")
    ids = smollm2.encode(text, chat=True)
    print(text, ids)
    assert text.endswith("<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert ids[-11:] == [198, 1, 4093, 198, 26843, 2, 198, 1, 520, 9531, 198]
    assert smollm2.decode(ids) == text
