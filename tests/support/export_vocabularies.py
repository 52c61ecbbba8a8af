"""Vocabularies like those of published models, as folders and GGUF metadata, to test certificates."""

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

from support.model_tokenizers import (
    BYTES,
    CHAT,
    CL100K,
    DIGITS,
    KINDS,
    PREFIXED,
    QWEN2,
    WHOLE,
    Kind,
    gguf_metadata,
    normalizers,
    pre_tokenizers,
    random_texts,
    split,
    write_folder,
)

from microgpt_trace.certification.opening import Side
from microgpt_trace.vocabulary.huggingface import from_huggingface
from microgpt_trace.vocabulary.metadata import from_gguf

HEADERS = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}"
    "{{ m['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages if m['role'] != 'system' %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}{{ m['content'] + eos_token }}"
    "{% endif %}{% endfor %}"
)
LLAMA3 = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
METASPACE = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
TOOLS = ("<tool_call>", "<|fim|>")
LLAMA2 = {"control": ("<s>", "<unk>", "</s>"), "template": INST, "adds_bos": True}
EXPORTED = {
    **KINDS,
    "llama-3": Kind("llama", LLAMA3, "llama-bpe", split(CL100K), (), HEADERS, None, WHOLE, adds_bos=True),
    "qwen-2": Kind("qwen2", CHAT, "qwen2", split(QWEN2), TOOLS, CHATML, normalizers.NFC()),
    "smollm": Kind("llama", CHAT, "smollm", DIGITS, template=CHATML),
    "gpt-2": Kind("gpt2", ("<|endoftext|>", "<|pad|>"), "gpt-2", BYTES),
    "llama-2": Kind("llama", normalizer=PREFIXED, **LLAMA2),
    "metaspace": Kind("llama", pre_tokenizer=METASPACE, **LLAMA2),
}  # fmt: skip


@cache
def written(name):
    """Write a folder once. Return the GGUF metadata and the folder."""
    kind, folder = EXPORTED[name], Path(tempfile.mkdtemp(prefix="certify-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    metadata = gguf_metadata(kind, *write_folder(kind, folder, random_texts(kind, 1000)))
    prefixed = {"tokenizer.ggml.add_space_prefix": True} if name == "metaspace" else {}
    return metadata | prefixed, folder


def side(vocabulary, problem=""):
    return Side(origin="model", vocabulary=vocabulary, vocabulary_problem=problem)


def exported(metadata):
    """Return the side of a GGUF file."""
    return side(from_gguf(metadata, Path("model.gguf")))


def original(name):
    return side(from_huggingface(written(name)[1]))


def changed_folder(name, folder, tokenizer=lambda tokenizer: None, **config):
    """Copy a folder, change its tokenizer.json and its tokenizer_config.json, and return its side."""
    shutil.copytree(written(name)[1], folder, dirs_exist_ok=True)
    for file, change in (("tokenizer", tokenizer), ("tokenizer_config", lambda own: own.update(config))):
        content = json.loads((folder / f"{file}.json").read_text(encoding="utf-8"))
        change(content)
        (folder / f"{file}.json").write_text(json.dumps(content), encoding="utf-8")
    return side(from_huggingface(folder))


def accused(checks):
    """Return the ids that differ, without those that only follow from another id. Print the details."""
    for check in checks:
        if check.detail:
            print(check.id, check.status, check.detail)
    return [
        check.id for check in checks if check.status == "different" and "Follows from" not in check.detail
    ]
