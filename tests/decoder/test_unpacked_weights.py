"""A model that keeps its weights unpacked: it has the same values, and stays within its memory limit."""

import numpy as np
from support.stored_tensors import ONE_BY_ONE, PARTS, stored, transposed
from support.tiny_models import wide_model

from microgpt_trace import load
from microgpt_trace.arrays.encodings import ENCODINGS
from microgpt_trace.decoder import model as decoder


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
    model, _, _ = wide_model(tmp_path, "Q4_1")
    inputs = model.read(tokens=[5, 3, 44, 3])
    ready = model.for_many_passes()
    assert ready is not model
    for name, tensor in ready.tensors.items():
        assert tensor.encoding.name == "F32"
        assert tensor is ready.tensors[name]
        np.testing.assert_array_equal(tensor.read(), model.tensors[name].read())
    rows = range(4)
    logits, expected = ready.logits(inputs, rows), model.logits(inputs, rows)
    distance = np.abs(logits - expected).max() / np.abs(expected).max()
    print(f"distance: {distance:.1e} of the largest logit")
    assert 0 < distance < 1e-5


def test_a_large_model_stays_packed(tmp_path, monkeypatch):
    model, _, _ = wide_model(tmp_path, "Q4_1")
    monkeypatch.setattr(decoder, "MOST", model.config.parameter_count - 1)
    assert model.for_many_passes() is model
    monkeypatch.setattr(decoder, "MOST", model.config.parameter_count)
    assert model.for_many_passes() is not model


def test_the_vocabulary_is_read_once(decoder_folder):
    model = load(decoder_folder())
    assert model.for_many_passes().vocabulary is model.vocabulary is not None
