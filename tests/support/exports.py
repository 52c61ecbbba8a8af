"""Tiny models as Hugging Face folders, and exports of these models to GGUF: sound ones and faulty ones."""

from dataclasses import replace

import numpy as np
import pytest
from support.gguf_files import rewrite
from support.gguf_of_torch import write_gguf_of
from support.tiny_gpt2 import gpt2_config, random_gpt2, write_gpt2_gguf
from support.tiny_models import random_weights, rope_4, tiny_config, write_folder, write_gguf
from support.torch_models import IN_GGUF, torch_model

from microgpt_trace.arrays.encodings import ENCODINGS, StoredTensor
from microgpt_trace.certification.opening import Side, open_side
from microgpt_trace.readers.gguf import read_gguf_header

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "moe_intermediate_size": 32}
WIDE = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
OWN = {  # models that need no torch
    "llama": tiny_config(**WIDE, **rope_4()),
    "llama_mha": tiny_config(**WIDE | {"num_key_value_heads": 4, "attention_bias": True}, **rope_4()),
    "qwen2": tiny_config("qwen2", **WIDE, **rope_4()),
    "qwen3": tiny_config("qwen3", **WIDE | {"head_dim": 16, "tie_word_embeddings": True}, **rope_4()),
    "gpt2": gpt2_config(n_embd=64),
}


def write_pair(name, folder):
    """Write a model as a folder and as a GGUF file in F32. Return both paths."""
    original, export = folder / name, folder / f"{name}.gguf"
    if name == "gpt2":
        weights = random_gpt2(OWN[name], name)
        return write_folder(original, OWN[name], weights), write_gpt2_gguf(export, OWN[name], weights)
    if name in OWN:
        weights = random_weights(OWN[name], name)
        return write_folder(original, OWN[name], weights), write_gguf(export, OWN[name], weights)
    theirs = torch_model(name, SIZES | IN_GGUF[name] | {"num_hidden_layers": 2})
    theirs.save_pretrained(original)
    return original, write_gguf_of(theirs, export)


def stored(name, array, type):
    """Return an array as a tensor of a GGUF file. Vectors, and rows that no blocks divide, stay F32."""
    gguf = pytest.importorskip("gguf")
    array = np.ascontiguousarray(array, np.float32)
    if array.ndim < 2 or array.shape[-1] % ENCODINGS[type].block_size:
        type = "F32"
    blocks = gguf.quants.quantize(array, gguf.GGMLQuantizationType[type])
    return StoredTensor(name, ENCODINGS[type], array.shape, blocks.view(np.uint8).reshape(-1))


def exported(source, path, type="F32", edit=None, damage=None):
    """Write a GGUF file with the tensors of the file `source`, and return its path. `edit` changes the
    arrays before they are stored as `type`, and `damage` the stored tensors. Both take a dictionary."""
    right = read_gguf_header(source)
    arrays = {tensor.name: np.array(tensor.read()) for tensor in right.tensors}
    if edit:
        edit(arrays)
    tensors = {name: stored(name, array, type) for name, array in arrays.items()}
    if damage:
        tensors = {name: replace(own, stored=own.stored.copy()) for name, own in tensors.items()}
        damage(tensors)
    return rewrite(path, right, tensors=list(tensors.values()))


def side_of(model):
    """Return the side of a model that `trace` can run."""
    return Side(
        origin=model.origin, model=model, config=model.config, tensors=model.tensors, format=model.format,
        vocabulary=model.vocabulary, metadata=model.metadata, assumed=model.assumed,
    )  # fmt: skip


def side(path):
    """Open a model that `trace` can run as a side of a certificate."""
    return open_side(path)
