"""Small tokenizers like those of published models, as Hugging Face folders and as GGUF metadata.

Patterns, normalizers, flags of tokens and the names of pre-tokenizers are those of the published files and of
llama.cpp's converter. The vocabularies are trained on the texts, and the chat templates are short.
"""

import json
import random
from dataclasses import dataclass, field
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = """
the capital of France don't I'LL We'VE y'all HTTPServer camelCase snake_case x86 1234567 3.14 2,718 0x1F ½ ٣٤٥
été résumé re\u0301sume\u0301 RE\u0301SUMe\u0301 Cửa Vie\u0323\u0302t Äpfel нещо 日本語
我想在apple工作1314151天 한국어 กาพย์ हिन्दी العربية 🎉 👩\u200d👩\u200d👧 🇫🇷 ✅ ǅ ﬁ “quoted”
... !!! -> != /* // `$x` {x} [y] <b> <h1> </s> def f(x): return x+1; a/b.py Ġ ▁ ▁▁
"""
SPACES = [
    "  ",
    "   ",
    " " * 17,
    " " * 40,
    "\t",
    "\n",
    "\n\n",
    "\n\n\n",
    "\r\n",
    " \n ",
    "\u00a0",
    "\u3000",
    "\0",
]
GAPS = [" "] * 12 + [""] * 8 + SPACES
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
TEKKEN = O200K.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace("{1,3}", "")
QWEN2 = CL100K.replace("{1,3}", "")
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)  # with GPT-2's pattern
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + m['role'] + '\n' + m['content'] | trim }}"
    "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
CHATML = (
    "{%- set ns = namespace(system='It is ' + strftime_now('%Y')) -%}{{ '<|im_start|>system\n' + ns.system }}"
    "{%- for m in messages %}{%- generation -%}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{%- endgeneration -%}{%- endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
HARMONY = (
    "{%- macro system() -%}{{- 'Date: ' + strftime_now('%Y') }}{{- tools | tojson }}"
    "{%- if reasoning_effort is not defined %}{%- set reasoning_effort = 'medium' %}{%- endif %}"
    "{{- '\n\nReasoning: ' + reasoning_effort }}{%- endmacro -%}"
    "{{- '<|start|>system<|message|>' + system() + '<|end|>' }}{%- for m in messages -%}"
    "{{- '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{%- endfor -%}"
)
THINKING = (
    "{%- set ns = namespace(last=0) %}{%- for m in messages[::-1] %}{%- if m.content is string and not "
    "m.content.startswith('<tool') %}{%- set ns.last = messages | length - 1 - loop.index0 %}{%- endif %}"
    "{%- endfor %}{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + ns.last | string }}"
    "{{- m.content.split('</think>')[-1].lstrip('\n') + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- if enable_thinking is defined and "
    "enable_thinking is false %}{{- '<think>' }}{%- endif %}{%- endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}{{ m['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
PHI3 = "{{ bos_token }}{% for m in messages %}<|user|>\n{{ m.content }}<|end|>\n<|assistant|>\n{% endfor %}"


def split(*patterns):
    cuts = [pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated") for pattern in patterns]
    return pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


@dataclass(frozen=True)
class Kind:
    """A kind of tokenizer. `pre` is the name in GGUF files, and None means SentencePiece. The first control
    token is BOS and EOS."""

    model_type: str
    control: tuple[str, ...]
    pre: str | None = None
    pre_tokenizer: Any = None
    user_defined: tuple[str, ...] = ()
    template: str = "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
    normalizer: Any = None
    model: dict = field(default_factory=dict)
    adds_bos: bool = False
    stripping: tuple[str, ...] = ()
    merged: bool = False  # a SentencePiece vocabulary whose merges are stored, as in files of Gemma 4
    tokenizer_class: str = "PreTrainedTokenizerFast"


DIGITS = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES])
RUNS = [char * n for char in "\n\t▁" for n in range(1 + (char == "▁"), 32)]
GEMMAS = {
    "control": ("<bos>", "<pad>", "<eos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
    "pre_tokenizer": pre_tokenizers.Split(" ", "merged_with_previous"), "adds_bos": True, "template": GEMMA,
    "normalizer": normalizers.Replace(" ", "▁"), "tokenizer_class": "GemmaTokenizer",
}  # fmt: skip
WHOLE = {"ignore_merges": True}
CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
HARMONIC = ("<|startoftext|>", "<|start|>", "<|message|>", "<|end|>", "<|channel|>")
PHI = ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>")
PREFIXED = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
KINDS = {
    "gpt-oss": Kind("gpt_oss", HARMONIC, "gpt-4o", split(O200K), template=HARMONY, model=WHOLE),
    "pythia": Kind(
        "gpt_neox", ("<|endoftext|>", "<|padding|>"), "olmo", BYTES, tuple(" " * n for n in range(2, 25)),
        normalizer=normalizers.NFC(), tokenizer_class="GPTNeoXTokenizer",
    ),
    "phi-4": Kind("phi3", (*CHAT, "<|im_sep|>"), "dbrx", split(CL100K), template=CHATML),
    "mixtral": Kind(
        "mixtral", ("<s>", "<unk>", "</s>"), template=INST, normalizer=PREFIXED, adds_bos=True,
        tokenizer_class="LlamaTokenizer",
    ),
    "gemma-3": Kind("gemma3_text", user_defined=(*RUNS, "[multimodal]", "<h1>"), **GEMMAS),
    "olmo-2": Kind("olmo2", CHAT, "dbrx", split(CL100K), ("|||IP_ADDRESS|||",), CHATML),
    "qwen-3-moe": Kind(
        "qwen3_moe", CHAT, "qwen2", split(QWEN2), ("<think>", "</think>", "<tool_call>"), THINKING,
        normalizers.NFC(), tokenizer_class="Qwen2Tokenizer",
    ),
    "granite": Kind("granite", ("<|end_of_text|>", "<|start_of_role|>"), "refact", DIGITS),
    "phi-3": Kind(
        "phi3", ("<s>", "<unk>", "<|endoftext|>", *PHI), user_defined=("</s>",), template=PHI3,
        normalizer=PREFIXED, adds_bos=True, stripping=(*PHI, "</s>"), tokenizer_class="LlamaTokenizer",
    ),
    "smollm-3": Kind("smollm3", CHAT, "smaug-bpe", split(CL100K), ("<think>",), CHATML, model=WHOLE),
    "gemma-2": Kind("gemma2", user_defined=RUNS, **GEMMAS),
    "deepseek-3": Kind("deepseek_v3", CHAT, "deepseek-v3", split(*DEEPSEEK3), ("<think>",)),
    "minimax-2": Kind("minimax_m2", CHAT, "minimax-m2", split(O200K)),
    "gemma-4": Kind("gemma4_text", user_defined=("<|channel>", "<channel|>"), merged=True, **GEMMAS),
    "glm-4": Kind("glm4", CHAT, "glm4", split(CL100K), ("<think>",)),
    "bloom": Kind("bloom", CHAT, "bloom", split(r" ?[^(\s|[.,!?…。，、।۔،])]+")),
    "stablelm-2": Kind("stablelm", CHAT, "stablelm2", split(QWEN2)),
    "hunyuan": Kind("hunyuan_v1_dense", CHAT, "hunyuan-dense", split(*DEEPSEEK3)),
    "exaone-4": Kind("exaone4", CHAT, "exaone4", BYTES),
    "phi-2": Kind("phi", CHAT, "phi-2", BYTES, tuple(" " * n for n in range(2, 32))),
    "falcon-3": Kind("llama", CHAT, "falcon3", split(CL100K), model=WHOLE),
    "llama-4": Kind("llama4_text", CHAT, "llama4", split(O200K), model=WHOLE),
    "ministral-3": Kind(
        "ministral3", ("<s>", "[INST]"), "tekken", split(TEKKEN), template=INST, model=WHOLE, adds_bos=True
    ),
    "command-r": Kind("cohere", CHAT, "command-r", DIGITS, normalizer=normalizers.NFC()),
    "gemma-1": Kind("gemma", user_defined=RUNS, **GEMMAS),
    "ernie-4.5": Kind(
        "ernie4_5", ("<s>", "<unk>", "</s>"), normalizer=normalizers.Replace(" ", "▁"),
        tokenizer_class="PreTrainedTokenizerFast",
    ),
}  # fmt: skip


def random_texts(kind, number, seed=0):
    """Return texts of words, white space and the kind's special tokens."""
    rng = random.Random(seed)
    words, texts = [*TEXT.split(), *kind.control, *kind.user_defined], ["", " ", "\n", "a", " a", "a "]
    while len(texts) < number:
        parts = [rng.choice(words) + rng.choice(GAPS) for _ in range(rng.randint(1, 8))]
        texts.append("".join(parts))
    return texts


def write_folder(kind, folder, texts):
    """Write tokenizer.json, tokenizer_config.json and config.json. Return the tokenizer as a dictionary, and
    the scores of the tokens."""
    build = _byte_level if kind.pre else _sentencepiece
    vocab, merges, scores = build(kind, texts)
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges, **kind.model))
    if not kind.pre:
        tokenizer.model = models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer.normalizer, tokenizer.pre_tokenizer = kind.normalizer, kind.pre_tokenizer
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.ByteLevel() if kind.pre else decoders.Sequence(steps)
    for token in (*kind.control, *kind.user_defined):
        strip = token in kind.stripping
        added = tokenizers.AddedToken(token, normalized=False, rstrip=strip, special=token in kind.control)
        tokenizer.add_special_tokens([added]) if added.special else tokenizer.add_tokens([added])
    bos = kind.control[0]
    if kind.adds_bos:
        ends = [(bos, tokenizer.token_to_id(bos))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=ends)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": bos, "eos_token": bos, "chat_template": kind.template}
    config |= {"tokenizer_class": kind.tokenizer_class}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"model_type": kind.model_type}), encoding="utf-8")
    return json.loads(tokenizer.to_str()), scores


def _byte_level(kind, texts):
    """Train byte-level BPE. The last tokens have no merge, like 588 words of Llama 3."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer, tokenizer.pre_tokenizer = kind.normalizer, kind.pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"][:-40]], {}


def _sentencepiece(kind, texts):
    """Train BPE on characters. Runs of spaces have one score, as in Llama 2, or are user-defined, as in
    Gemma."""
    from transformers.tokenization_utils_base import generate_merges

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=600, show_progress=False))
    trained = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    first = (*kind.control, *kind.user_defined, *(f"<0x{byte:02X}>" for byte in range(256)))
    pieces = dict.fromkeys(first, 0.0) | {"▁" * n: -1e9 for n in range(1, 17) if not kind.user_defined[1:]}
    pieces |= {token: -float(i) for token, i in trained if token not in pieces and token.isprintable()}
    vocab = {token: i for i, token in enumerate(pieces)}
    return vocab, generate_merges(vocab, pieces, skip_tokens=kind.control), pieces


def gguf_metadata(kind, tokenizer, scores):
    """Return what llama.cpp's converter writes: the spaces of user-defined tokens are unmarked."""
    added = {token["id"]: token for token in tokenizer["added_tokens"]}
    ids = tokenizer["model"]["vocab"] | {token["content"]: i for i, token in added.items()}
    tokens = sorted(ids, key=ids.get)
    user_defined = {i for i, token in added.items() if not token["special"]}
    types = [
        4 if i in user_defined else 3 if i in added else 6 if token.startswith("<0x") else 1
        for i, token in enumerate(tokens)
    ]
    end, sentencepiece = ids[kind.control[0]], not kind.pre
    metadata = {
        "tokens": [token.replace("▁", " ") if i in user_defined else token for i, token in enumerate(tokens)],
        "model": "llama" if sentencepiece else "gpt2", "pre": kind.pre or "default", "token_type": types,
        "bos_token_id": end, "eos_token_id": end, "add_bos_token": kind.adds_bos,
    }  # fmt: skip
    if kind.merged:
        metadata |= {"model": "gemma4", "unknown_token_id": ids["<unk>"]}
        metadata["merges"] = [" ".join(merge) for merge in tokenizer["model"]["merges"]]
    elif sentencepiece:
        metadata["add_space_prefix"] = kind.normalizer is PREFIXED
        metadata["scores"] = [-1000.0 if i in added else scores[token] for i, token in enumerate(tokens)]
    else:
        metadata["merges"] = [" ".join(merge) for merge in tokenizer["model"]["merges"]]
    return {f"tokenizer.ggml.{key}": value for key, value in metadata.items()} | {
        "general.architecture": kind.model_type, "tokenizer.chat_template": kind.template,
    }  # fmt: skip
