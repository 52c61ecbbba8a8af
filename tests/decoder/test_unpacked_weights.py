"""A model that keeps its weights unpacked: it has the same values, and stays within its memory limit."""

from dataclasses import replace

import numpy as np
from support.stored_tensors import ONE_BY_ONE, PARTS, stored, transposed
from support.tiny_models import wide_model

from microgpt_trace import load
from microgpt_trace.arrays.encodings import ENCODINGS


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


def test_a_model_for_many_passes_computes_the_same_from_unpacked_weights(tmp_path):
    model = load(wide_model(tmp_path, "Q4_1")[0].origin, memory=None)
    inputs = model.read(tokens=[5, 3, 44, 3])
    ready = model.for_many_passes()
    assert ready.for_many_passes() is ready
    for tensor in model.tensors.values():
        if len(tensor.shape) == 2:
            matrix = ready.kept.matrix(tensor, None)
            assert matrix.is_plain
            assert matrix is ready.kept.matrix(tensor, None)
            np.testing.assert_array_equal(matrix.read(), tensor.read())
    rows = range(4)
    logits, expected = ready.logits(inputs, rows), model.logits(inputs, rows)
    distance = np.abs(logits - expected).max() / np.abs(expected).max()
    print(f"distance: {distance:.1e} of the largest logit")
    assert 0 < distance < 1e-5


def test_a_model_keeps_the_first_matrices_that_fit(tmp_path):
    model, _, _ = wide_model(tmp_path, "Q4_1")
    matrices = [tensor for tensor in model.tensors.values() if len(tensor.shape) == 2]
    sizes = [4 * own.shape[0] * own.shape[1] for own in matrices]
    for memory in (0, sizes[0] - 1, sizes[0], sum(sizes[:3]), sum(sizes)):
        weights, left = model.keeping(memory).kept, memory
        for own, size in zip(matrices, sizes, strict=True):
            assert weights.matrix(own, None).is_plain == (size <= left)
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
    for given, matrix in ((0, False), (1_000_000_000, True)):
        model = load(path, memory=given)
        assert model.for_many_passes() is model
        tensor = next(t for t in model.tensors.values() if len(t.shape) == 2)
        assert model.kept.matrix(tensor, None).is_plain == matrix


def test_the_vocabulary_is_read_once(decoder_folder):
    model = load(decoder_folder())
    assert model.for_many_passes().vocabulary is model.vocabulary is not None
