"""A model that keeps its weights ready: it has the same values, and stays within its memory limit."""

import math
from dataclasses import replace

import numpy as np
import pytest
from support.stored_tensors import ONE_BY_ONE, PARTS, stored, transposed
from support.tiny_models import wide_model

from microgpt_trace import load
from microgpt_trace.arrays.encodings import ENCODINGS
from microgpt_trace.arrays.packed_tensor import PackedTensor, packed_size


def assert_unpacked(tensor):
    copy = tensor.unpacked()
    assert (copy.encoding.name, copy.shape, copy.scale, copy.order) == ("F32", tensor.shape, 1.0, None)
    np.testing.assert_array_equal(copy.read(), tensor.read())
    np.testing.assert_array_equal(copy.take([2, 0, 2]), tensor.take([2, 0, 2]))


def test_every_encoding_can_be_unpacked():
    for name in ENCODINGS:
        assert_unpacked(stored(name, 7, 512, scale=0.5 if name == "AprQ8" else 1.0))


def test_rows_in_any_order_and_columns_can_be_unpacked():
    for part, indices in PARTS.items():
        assert_unpacked(transposed(ONE_BY_ONE[0], part)[0])
        for tensor in (stored("Q4_0", 37, 64), stored("F32", 37, 64)):
            for index in indices:
                tensor = tensor.of_rows(index)
            assert_unpacked(tensor)


def test_a_contiguous_f32_tensor_is_not_copied():
    tensor = stored("F32", 7, 12)
    assert tensor.unpacked() is tensor
    padded = stored("F32", 7, 12, row_size=16)
    np.testing.assert_array_equal(padded.unpacked().read(), padded.read())


def kept_size(tensor):
    return packed_size(tensor) if tensor.encoding.unpack else 4 * math.prod(tensor.shape)


def is_kept(model, tensor):
    return isinstance(matrix := model.kept.matrix(tensor, None), PackedTensor) or matrix.is_plain


def matrices_of(model):
    return [tensor for tensor in model.tensors.values() if len(tensor.shape) == 2]


@pytest.mark.parametrize("type", ["Q4_1", "Q8_0", "Q4_K", "F16", "BF16", "F32"])
def test_a_model_for_many_passes_computes_the_same_bits(tmp_path, type):
    model = load(wide_model(tmp_path, type)[0].origin, memory=None)
    ready = model.for_many_passes()
    assert ready.for_many_passes() is ready
    for tensor in matrices_of(model):
        assert is_kept(ready, tensor)
        assert ready.kept.matrix(tensor, None) is ready.kept.matrix(tensor, None)
    for tokens in ([5], [5, 3, 44, 3], [5, 3, 44, 3] * 10):
        inputs, rows = model.read(tokens=tokens), range(len(tokens))
        np.testing.assert_array_equal(ready.logits(inputs, rows), model.logits(inputs, rows))


def test_a_model_keeps_the_first_matrices_that_fit(tmp_path):
    model, _, _ = wide_model(tmp_path, "Q4_1")
    matrices = matrices_of(model)
    sizes = [kept_size(own) for own in matrices]
    for memory in (0, min(sizes) - 1, min(sizes), sum(sizes[:3]), sum(sizes)):
        ready, left = model.keeping(memory), memory
        for own, size in zip(matrices, sizes, strict=True):
            assert is_kept(ready, own) == (size <= left)
            left -= size * (size <= left)


def test_a_weight_in_place_of_another_is_not_kept(tmp_path):
    model = load(wide_model(tmp_path, "Q4_1")[0].origin, memory=None)
    name, tensor = next((n, t) for n, t in model.tensors.items() if len(t.shape) == 2)
    other = replace(tensor)
    changed = replace(model.for_many_passes(), tensors={**model.tensors, name: other})
    assert changed.kept.matrix(other, None) is other


def test_the_default_memory_is_for_runs_of_many_passes(tmp_path):
    path = wide_model(tmp_path, "Q4_1")[0].origin
    assert load(path, memory=None).kept is None
    for given, kept in ((0, False), (1_000_000_000, True)):
        model = load(path, memory=given)
        assert model.for_many_passes() is model
        assert is_kept(model, matrices_of(model)[0]) == kept


def test_the_vocabulary_is_read_once(decoder_folder):
    model = load(decoder_folder())
    assert model.for_many_passes().vocabulary is model.vocabulary is not None
