"""Write the files that the examples of the pages use: models, dumps and texts."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from support.apr_files import HF
from support.faulty_engine import Fault, decoder_run
from support.foreign_dumps import write_dump
from support.gguf_files import rewrite
from support.pages import ROOT, Example
from support.real_model import SMOLLM2
from support.tiny_experts import write_experts
from support.tiny_models import TOKENS, rope_5, tiny_config, tiny_model, write_folder

from microgpt_trace import load
from microgpt_trace.readers.gguf import read_gguf_header

MLP = "model.layers.1.mlp.{}_proj.weight"


def write_files(examples: list[Example], folder: Path) -> None:
    """Write the files that examples name to a folder, except those that need SmolLM2 where it is missing."""
    named = {word for example in examples for word in re.findall(r"[\w.-]+", example.text)}
    for name, write in FILES.items():
        if name in named and (SMOLLM2 is not None or name not in OF_SMOLLM2):
            write(folder / name)


def run_wrong_pairs(config, weights, tokens):
    """Return the events of an engine whose RoPE pairs neighbouring channels."""
    changes = {f"attn.{name}_rope": {"interleaved": True} for name in "qk"}
    return decoder_run(config, weights, tokens, Fault("wrong pairs", "", (), None, changes))


@cache  # 3 s
def smollm2_wrong_pairs():
    model = load(SMOLLM2)
    weights = {hf_name(name): model.parameter(name) for name in model.tensors}
    return run_wrong_pairs(smollm2_config(model.config), weights, [504, 3575, 282, 4649, 314])


def hf_name(name: str) -> str:
    layer, _, rest = name.rpartition(".")
    return f"model.layers.{layer.removeprefix('layer')}.{HF[rest]}" if layer else HF[rest]


def smollm2_config(config) -> dict:
    return tiny_config(
        vocab_size=config.vocab_size, hidden_size=config.n_embd, intermediate_size=config.n_inner,
        num_hidden_layers=config.n_layer, num_attention_heads=config.n_head,
        num_key_value_heads=config.n_kv_head, rms_norm_eps=config.norm_eps, tie_word_embeddings=True,
        **rope_5(config.rope.theta),
    )  # fmt: skip


def write_dump_of_smollm2(style):
    """Return a function that writes the events of SmolLM2, with wrong RoPE pairs, in a style."""
    return lambda folder: write_dump(folder, smollm2_wrong_pairs(), style)


def write_small_port(folder: Path) -> None:
    write_dump(folder, run_wrong_pairs(*tiny_model("qwen2"), TOKENS), "huggingface")


def write_converted(folder: Path) -> None:
    """Write the model as a converter does that exchanges two matrices of an MLP."""
    config, weights = tiny_model("qwen2")
    gate, up = MLP.format("gate"), MLP.format("up")
    write_folder(folder, config, weights | {gate: weights[up], up: weights[gate]})


def write_export_of_smollm2(path: Path) -> None:
    """Write SmolLM2 as a converter does that forgets the RoPE base, one matrix of keys, and a line break."""
    right = read_gguf_header(SMOLLM2)
    tensors = {tensor.name: tensor for tensor in right.tensors}
    keys = tensors["blk.3.attn_k.weight"]
    pairs = np.arange(keys.shape[0]).reshape(-1, 2, 32).swapaxes(1, 2).ravel()
    rows = keys.stored.reshape(keys.shape[0], -1)
    tensors[keys.name] = replace(keys, stored=rows[np.argsort(pairs)].ravel())
    template = right.metadata["tokenizer.chat_template"]
    assert "assistant\n" in template
    changes = {
        "llama.rope.freq_base": None,
        "tokenizer.chat_template": template.replace("assistant\n", "assistant"),
    }
    rewrite(path, right, changes, list(tensors.values()))


FACTS = "Paris is the capital of France.\nWater boils at 100 degrees.\nThe cat sat on the mat.\n"
OF_SMOLLM2 = {
    "smollm2.gguf": lambda path: path.symlink_to(SMOLLM2),
    "port": write_dump_of_smollm2("numbers"),  # names without meaning
    "my-port": write_dump_of_smollm2("transformerlens"),
    "export.gguf": write_export_of_smollm2,
}
FILES = OF_SMOLLM2 | {
    "small-port": write_small_port,
    "model": lambda folder: write_folder(folder, *tiny_model("qwen2")),
    "converted": write_converted,
    "tiny-experts": write_experts,
    "prompts.txt": lambda path: path.write_text("The capital of Italy is\n[504, 3575, 282]\n"),
    "facts.txt": lambda path: path.write_text(f"{FACTS}Two and two make four.\n"),
    "names.txt": lambda path: path.symlink_to(ROOT / "names.txt"),
}
