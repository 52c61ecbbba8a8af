"""Models with experts, and files of these models in every form, which all hold the same numbers."""

import numpy as np
import pytest
from support.gguf_of_torch import write_gguf_of
from support.torch_models import IN_GGUF, torch_model

ROWS = {"intermediate_size": 64, "moe_intermediate_size": 32}  # whole blocks of 32 elements
KINDS = ("mixtral", "qwen3_moe", "qwen2_moe", "gpt_oss")
FORMS = ("hub", "shards", "merged", "BF16", "MXFP4", "gguf", "fused.gguf", "quantised.gguf")
TYPES = {"gpt_oss": "MXFP4", "qwen2_moe": "Q8_0"}  # of the experts in GGUF files


def expert_model(name, seed=1):
    """Return a model of transformers whose matrices can be stored as BF16, and the matrices of experts in the
    type of `TYPES`."""
    torch = pytest.importorskip("torch")
    theirs = torch_model(name, IN_GGUF[name] | ROWS, seed)
    for key, parameter in theirs.named_parameters():
        rows = parameter.detach().bfloat16().float()
        is_quantised = name in TYPES and ".experts." in key and rows.ndim == 3
        parameter.data = torch.tensor(rounded(TYPES[name], rows.numpy(), name)) if is_quantised else rows
    return theirs


def rounded(type, matrices, kind):
    """Round the matrices of experts to a type of GGUF files, and the results to BF16."""
    import gguf

    own, turned = gguf.GGMLQuantizationType[type], matrices.swapaxes(1, 2)
    rows = np.ascontiguousarray(turned if kind == "gpt_oss" else matrices)
    values = gguf.quants.dequantize(gguf.quants.quantize(rows, own), own)
    return values.swapaxes(1, 2).copy() if kind == "gpt_oss" else values


def write_form(theirs, form, folder):
    """Write a model in one of FORMS. Return the path, or None if the model has no such form."""
    from safetensors.torch import save_file

    kind, path = theirs.config.model_type, folder / form
    types = {"quantised.gguf": TYPES.keys(), "MXFP4": {"gpt_oss"}, "BF16": set(KINDS) - {"qwen2_moe"}}
    if kind not in types.get(form, KINDS):
        return None
    if form.endswith("gguf"):
        type = TYPES[kind] if form.startswith("quantised") else "F32"
        return write_gguf_of(theirs, path, "fused" if form.startswith("fused") else "", type)
    if form in ("hub", "shards"):
        theirs.save_pretrained(path, max_shard_size="100KB" if form == "shards" else "1GB")
        return path
    theirs.config.save_pretrained(path)
    tensors = dict(theirs.named_parameters())
    if form == "BF16":
        tensors = {name: own.detach().bfloat16() for name, own in tensors.items()}
    if form == "MXFP4":
        tensors = {name: part for whole in tensors.items() for name, part in mxfp4(*whole).items()}
    save_file({name: own.detach().contiguous() for name, own in tensors.items()}, path / "model.safetensors")
    return path


def mxfp4(name, parameter):
    """Return the blocks and scales of a matrix of experts, or the parameter itself."""
    import gguf
    import torch

    if ".experts." not in name or parameter.ndim != 3:
        return {name: parameter}
    rows = np.ascontiguousarray(parameter.detach().numpy().swapaxes(1, 2))
    blocks = gguf.quants.quantize(rows, gguf.GGMLQuantizationType.MXFP4).reshape(*rows.shape[:2], -1, 17)
    low, high = blocks[..., 1:] & 15, blocks[..., 1:] >> 4  # elements 0 to 15, and 16 to 31
    codes = np.concatenate([low, high], axis=-1)
    pairs = codes[..., ::2] | codes[..., 1::2] << 4
    parts = {"blocks": pairs, "scales": blocks[..., 0]}
    return {f"{name}_{own}": torch.tensor(np.ascontiguousarray(part)) for own, part in parts.items()}
