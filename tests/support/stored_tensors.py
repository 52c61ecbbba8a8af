"""Stored tensors of random bytes in every encoding: whole, in parts, and transposed."""

import numpy as np
from support.tiny_models import SCALES

from microgpt_trace.arrays.encodings import ENCODINGS, StoredTensor

HALVES = SCALES | {"AprQ4": (0,)}


def random_blocks(name, count, seed=0):
    """Return random bytes [count, block_bytes] whose scales and floats are finite."""
    rng, encoding = np.random.default_rng(seed), ENCODINGS[name]
    blocks = rng.integers(0, 256, (count, encoding.block_bytes), np.uint8)
    normal = rng.normal(size=(count, 1)).astype(np.float32)
    for at in HALVES.get(name, ()):
        blocks[:, at : at + 2] = rng.normal(size=(count, 1)).astype(np.float16).view(np.uint8)
    if name == "MXFP4":
        blocks[:, 0] = rng.integers(120, 136, count)
    plain = {"F32": normal, "F16": normal.astype(np.float16), "BF16": normal.view(np.uint16)[:, 1:]}
    return np.ascontiguousarray(plain[name]).view(np.uint8) if name in plain else blocks


def stored(name, *shape, row_size=None, scale=1.0, seed=0):
    """Return a tensor of random blocks."""
    elements = shape[0] * (row_size or int(np.prod(shape[1:])))
    blocks = random_blocks(name, -(-elements // ENCODINGS[name].block_size), seed)
    return StoredTensor("w", ENCODINGS[name], shape, blocks.reshape(-1), row_size, scale)


def permutation(count):
    return np.random.default_rng(count).permutation(count)


ONE_BY_ONE = [name for name in ENCODINGS if ENCODINGS[name].block_size == 1]
PARTS = {
    "the whole": (),
    "a part": (range(3, 20),),
    "an order": (permutation(37),),
    "every other": (range(1, 37, 2),),
    "repeats": ([4, 4, 0],),
    "a part of a part": (range(5, 30), range(4, 9)),
    "an order of a part": (range(5, 30), permutation(25)),
    "a part of an order": (permutation(37), range(4, 9)),
}


def transposed(name, parts="the whole", width=50, row_size=None):
    """Return a part of a transposed matrix of 37 rows, and the same part as NumPy computes it."""
    matrix = stored(name, width, 37, row_size=row_size, scale=0.5 if name == "AprQ8" else 1.0)
    tensor, plain = matrix.transposed(), matrix.read().T
    for index in PARTS[parts]:
        tensor, plain = tensor.of_rows(index), plain[np.array(index)]
    return tensor, np.ascontiguousarray(plain)
