"""Tiny models as Hugging Face folders, and exports of these models to GGUF: sound ones and faulty ones."""

from dataclasses import replace

import numpy as np
import pytest
from support.gguf_files import rewrite
from support.gguf_of_torch import write_gguf_of
from support.tiny_gpt2 import gpt2_config, random_gpt2, write_gpt2_gguf
from support.tiny_models import LLAMA3, random_weights, rope_4, tiny_config, write_folder, write_gguf
from support.torch_models import IN_GGUF, torch_model

from microgpt_trace.arrays.encodings import ENCODINGS, StoredTensor
from microgpt_trace.certification.opening import Side, open_side
from microgpt_trace.readers.gguf import read_gguf_header

SIZES = {"hidden_size": 64, "intermediate_size": 96, "max_position_embeddings": 256}
WIDE = SIZES | {"num_attention_heads": 4}
OWN = {  # models that need no torch
    "llama": tiny_config(**WIDE, **rope_4()),
    "llama_tied": tiny_config(**WIDE | {"tie_word_embeddings": True}, **rope_4()),
    "llama_mha": tiny_config(**WIDE | {"num_key_value_heads": 4, "attention_bias": True}, **rope_4()),
    "llama3": tiny_config(**WIDE, **rope_4(500.0, rope_type="llama3", **LLAMA3)),
    "qwen2": tiny_config("qwen2", **WIDE, **rope_4(1e6)),
    "qwen3": tiny_config("qwen3", **WIDE | {"head_dim": 16, "tie_word_embeddings": True}, **rope_4()),
    "mistral": tiny_config("mistral", sliding_window=5, **WIDE, **rope_4()),
    "gpt2": gpt2_config(n_embd=64, n_positions=256),
}


def write_pair(name, folder, **changes):
    """Write a model, with changes of its config, as a folder and as a GGUF file in F32. Return both paths."""
    original, export = folder / name, folder / f"{name}.gguf"
    if name in OWN:
        config, is_gpt2 = OWN[name] | changes, name == "gpt2"
        weights = (random_gpt2 if is_gpt2 else random_weights)(config, name)
        write = write_gpt2_gguf if is_gpt2 else write_gguf
        return write_folder(original, config, weights), write(export, config, weights)
    more = {"num_hidden_layers": 2, "moe_intermediate_size": 32}
    theirs = torch_model(name, IN_GGUF[name] | SIZES | more | changes)
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


def exported(source, path, type="F32", *edits, vocabulary=(), damage=None):
    """Write a GGUF file with the metadata and tensors of the file `source`, and return its path. Each edit
    changes the metadata and the arrays before the arrays are stored as `type`. `damage` changes the stored
    tensors."""
    right = read_gguf_header(source)
    metadata, arrays = right.metadata | dict(vocabulary), {t.name: np.array(t.read()) for t in right.tensors}
    for edit in edits:
        edit(metadata, arrays)
    tensors = {
        name: stored(name, array, "F32" if name.startswith("rope_") else type)
        for name, array in arrays.items()
    }
    if damage:
        tensors = {name: replace(own, stored=own.stored.copy()) for name, own in tensors.items()}
        damage(tensors)
    return rewrite(path, right, {**dict.fromkeys(right.metadata), **metadata}, [*tensors.values()])


def side_of(model):
    """Return the side of a model that `trace` can run."""
    return Side(
        origin=model.origin, model=model, config=model.config, tensors=model.tensors, format=model.format,
        vocabulary=model.vocabulary, metadata=model.metadata, assumed=model.assumed,
    )  # fmt: skip


def side(path):
    """Open a model that `trace` can run as a side of a certificate."""
    return open_side(path)
