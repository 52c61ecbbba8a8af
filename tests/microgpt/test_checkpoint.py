"""Check checkpoints: round trips, weights without metadata, invalid files, and writes that fail."""

import errno
import os
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from microgpt_trace import Config, Model, Tokenizer, init, load, save, trace, train
from microgpt_trace.errors import FileFormatError, InputError, RunError

SMALL = Config(vocab_size=5, n_embd=6, n_head=3, n_layer=2, block_size=7, n_inner=9)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def tensors_of(model):
    return {name: np.ascontiguousarray(array) for name, array in model.params.items()}


def refused(path, error=FileFormatError, **options):
    """Return the error for a file: one short line that names the file."""
    with pytest.raises(error) as refusal:
        load(path, **options)
    message = str(refusal.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 500 + len(str(path))
    return message


MODELS = {
    "default": init(),
    "small, BOS last": init(SMALL, tokenizer=Tokenizer("wxyz", bos="last")),
    "beyond ASCII": init(Config(vocab_size=4), tokenizer=Tokenizer("é花\U0001f600")),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_saved_model_loads_unchanged(model, path):
    save(model, path)
    loaded = load(path)
    assert (loaded.config, loaded.tokenizer, loaded.training) == (model.config, model.tokenizer, None)
    assert np.array_equal(loaded.params.flat, model.params.flat)
    assert loaded.params.dtype is np.float32
    assert (loaded.origin, loaded.assumed) == (str(path), ())


def test_a_checkpoint_keeps_the_state_of_training(path, tmp_path):
    data = tmp_path / "names.txt"
    data.write_text("emma\nava\nmia\n")
    model = train(steps=7, batch_size=2, lr=0.02, seed=5, data=data)
    save(model, path)
    loaded = load(path)
    assert loaded.training == model.training
    assert loaded.training.data == "3 names, crc32 " + model.training.data[-8:]
    assert np.array_equal(loaded.training.moments, model.training.moments)
    assert trace(loaded).loss == trace(model).loss


def test_a_checkpoint_keeps_numbers_that_are_not_finite_and_loads_writable(path):
    model = init()
    model.params.wte[0, :3] = np.nan, np.inf, -np.inf
    save(model, path)
    loaded = load(path)
    assert np.array_equal(loaded.params.flat, model.params.flat, equal_nan=True)
    loaded.params.wte[...] = 1
    assert loaded.params.flat[0] == 1


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}], ids=["none", "of PyTorch"])
def test_weights_without_our_metadata_load_with_stated_assumptions(metadata, path):
    save_file(tensors_of(init()), path, metadata)
    model = load(path)
    assert model.config == Config()
    assert (model.tokenizer, model.training) == (Tokenizer(), None)
    assert model.assumed == ("4 heads (--n-head)", "BOS first, a = 1 (--bos first|last)")
    assert model.describe()["assumed"] == list(model.assumed)
    assert np.array_equal(model.params.flat, init().params.flat)


def test_options_replace_assumptions(path):
    save_file(tensors_of(init(Config(n_head=2))), path)
    assert load(path, n_head=2).assumed == ("BOS first, a = 1 (--bos first|last)",)
    assert load(path, bos="last").assumed == ("4 heads (--n-head)",)
    model = load(path, n_head=2, bos="last")
    assert (model.assumed, model.config.n_head) == ((), 2)
    assert model.tokenizer.encode_name("az") == [26, 0, 25, 26]


def test_dimensions_follow_from_the_shapes_of_weights(path):
    config = Config(n_embd=12, n_layer=3, block_size=9, n_inner=7)
    save_file(tensors_of(init(config)), path)
    assert load(path).config == config


def test_float64_weights_stay_float64_and_float16_weights_become_float32(path):
    model = Model(init().params.copy(np.float64), Tokenizer(), "wide")
    model.params.flat[...] *= 1 + 1e-12
    save(model, path)
    assert np.array_equal(load(path).params.flat, model.params.flat)
    assert load(path).assumed == ()
    save_file({name: array.astype(np.float16) for name, array in tensors_of(init()).items()}, path)
    assert load(path).params.dtype is np.float32
    assert np.allclose(load(path).params.flat, init().params.flat, atol=1e-3)


@pytest.mark.parametrize("n_head", [3, 5, 0, -4])
def test_rejects_a_number_of_heads_that_does_not_divide_the_width(n_head, path):
    save_file(tensors_of(init()), path)
    with pytest.raises((InputError, FileFormatError), match="n_head"):
        load(path, n_head=n_head)


def test_rejects_options_that_contradict_the_checkpoint(path):
    save(init(), path)
    assert refused(path, InputError, n_head=2) == f"--n-head 2 contradicts {path}, which has 4"
    assert refused(path, InputError, bos="last") == f"--bos last contradicts {path}, which has first"
    assert load(path, n_head=4, bos="first").assumed == ()


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_no_other(failure, path, monkeypatch):
    def fail(descriptor):
        raise failure

    save(init(seed=1), path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises((RunError, KeyboardInterrupt)) as error:
        save(init(seed=2), path)
    if isinstance(failure, OSError):
        message = f"{path}: cannot write (No space left on device); nothing there was changed"
        assert (str(error.value), error.value.exit_code) == (message, 1)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_the_error_names_a_missing_folder(tmp_path):
    target = tmp_path / "none" / "model.safetensors"
    with pytest.raises(RunError, match=r"none.model\.safetensors: cannot write \(No such file"):
        save(init(), target)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows allows symbolic links only to some users")
def test_save_follows_a_symbolic_link(path, tmp_path):
    save(init(seed=1), path)
    link = tmp_path / "link"
    link.symlink_to(path)
    save(init(seed=2), link)
    assert link.is_symlink()
    assert np.array_equal(load(path).params.flat, init(seed=2).params.flat)
