"""A model that keeps its weights unpacked: the same values, each unpacked once, and no more than it may."""

import numpy as np
from support.stored_tensors import ONE_BY_ONE, PARTS, stored, transposed
from support.tiny_models import wide

from microgpt_trace import load
from microgpt_trace.arrays.encodings import ENCODINGS
from microgpt_trace.decoder import model as decoder


def assert_unpacked(tensor):
    found = tensor.unpacked()
    assert (found.encoding.name, found.shape, found.scale, found.order) == ("F32", tensor.shape, 1.0, None)
    np.testing.assert_array_equal(found.read(), tensor.read())
    np.testing.assert_array_equal(found.take([2, 0, 2]), tensor.take([2, 0, 2]))
    return found


def test_every_encoding():
    for name in ENCODINGS:
        assert_unpacked(stored(name, 7, 512, scale=0.5 if name == "AprQ8" else 1.0))


def test_rows_in_any_order_and_columns():
    for part, indices in PARTS.items():
        assert_unpacked(transposed(ONE_BY_ONE[0], part)[0])
        for tensor in (stored("Q4_0", 37, 64), stored("F32", 37, 64)):
            for index in indices:
                tensor = tensor.of_rows(index)
            assert_unpacked(tensor)


def test_what_is_f32_row_after_row_stays_where_it_is():
    tensor = stored("F32", 7, 12)
    assert tensor.unpacked() is tensor
    padded = stored("F32", 7, 12, row_size=16)
    np.testing.assert_array_equal(padded.unpacked().read(), padded.read())


def test_a_model_run_over_and_over_gives_the_same_and_unpacks_once(tmp_path):
    model, _, _ = wide(tmp_path, "Q4_1")
    inputs = model.read(tokens=[5, 3, 44, 3])
    ready = model.for_many_passes()
    assert ready is not model
    for name, tensor in ready.tensors.items():
        assert tensor.encoding.name == "F32"
        assert tensor is ready.tensors[name]
        np.testing.assert_array_equal(tensor.read(), model.tensors[name].read())
    rows = range(4)
    found, expected = ready.logits(inputs, rows), model.logits(inputs, rows)
    apart = np.abs(found - expected).max() / np.abs(expected).max()
    print(f"apart by {apart:.1e} of the largest logit")
    assert 0 < apart < 1e-5


def test_a_large_model_stays_packed(tmp_path, monkeypatch):
    model, _, _ = wide(tmp_path, "Q4_1")
    monkeypatch.setattr(decoder, "MOST", model.config.parameter_count - 1)
    assert model.for_many_passes() is model
    monkeypatch.setattr(decoder, "MOST", model.config.parameter_count)
    assert model.for_many_passes() is not model


def test_the_vocabulary_is_read_once(decoder_folder):
    model = load(decoder_folder())
    assert model.for_many_passes().vocabulary is model.vocabulary is not None
