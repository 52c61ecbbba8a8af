"""Checkpoints: round trips, foreign weights, files that are none, and writes that fail."""

import errno
import os

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
    """The one line that a file is refused with; it names the file."""
    with pytest.raises(error) as refusal:
        load(path, **options)
    message = str(refusal.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 500 + len(str(path))
    return message


MODELS = {
    "default": lambda: init(),
    "small, BOS last": lambda: init(SMALL, tokenizer=Tokenizer("wxyz", bos="last")),
    "beyond ASCII": lambda: init(Config(vocab_size=4), tokenizer=Tokenizer("é花\U0001f600")),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_a_model_comes_back_as_it_was(make, path):
    model = make()
    save(model, path)
    back = load(path)
    assert (back.config, back.tokenizer, back.training) == (model.config, model.tokenizer, None)
    assert np.array_equal(back.params.flat, model.params.flat)
    assert back.params.dtype is np.float32
    assert (back.origin, back.assumed) == (str(path), ())


def test_the_state_of_training_comes_back(path, tmp_path):
    data = tmp_path / "names.txt"
    data.write_text("emma\nava\nmia\n")
    model = train(steps=7, batch_size=2, lr=0.02, seed=5, data=data)
    save(model, path)
    back = load(path)
    assert back.training == model.training
    assert back.training.data == "3 names, crc32 " + model.training.data[-8:]
    assert np.array_equal(back.training.moments, model.training.moments)
    assert trace(back).loss == trace(model).loss


def test_numbers_that_are_not_finite_come_back(path):
    model = init()
    model.params.wte[0, :3] = np.nan, np.inf, -np.inf
    save(model, path)
    assert np.array_equal(load(path).params.flat, model.params.flat, equal_nan=True)


def test_the_parameters_of_a_loaded_model_can_be_trained(path):
    save(init(), path)
    model = load(path)
    model.params.wte[...] = 1
    assert model.params.flat[0] == 1


def test_bare_weights_are_read_and_what_is_assumed_is_said(path):
    save_file(tensors_of(init()), path)
    model = load(path)
    assert model.config == Config()
    assert (model.tokenizer, model.training) == (Tokenizer(), None)
    assert model.assumed == ("4 heads (--n-head)", "BOS first, a = 1 (--bos first|last)")
    assert model.describe()["assumed"] == list(model.assumed)
    assert np.array_equal(model.params.flat, init().params.flat)


def test_said_of_bare_weights_is_not_assumed(path):
    save_file(tensors_of(init(Config(n_head=2))), path)
    assert load(path, n_head=2).assumed == ("BOS first, a = 1 (--bos first|last)",)
    assert load(path, bos="last").assumed == ("4 heads (--n-head)",)
    model = load(path, n_head=2, bos="last")
    assert (model.assumed, model.config.n_head) == ((), 2)
    assert model.tokenizer.encode_name("az") == [26, 0, 25, 26]


def test_bare_weights_tell_their_dimensions(path):
    config = Config(n_embd=12, n_layer=3, block_size=9, n_inner=7)
    save_file(tensors_of(init(config)), path)
    assert load(path).config == config


def test_float64_stays_float64(path):
    model = Model(init().params.copy(np.float64), Tokenizer(), "wide")
    model.params.flat[...] *= 1 + 1e-12
    save(model, path)
    assert np.array_equal(load(path).params.flat, model.params.flat)
    assert load(path).assumed == ()


@pytest.mark.parametrize("dtype", [np.float16])
def test_bare_weights_in_another_precision_become_float32(dtype, path):
    tensors = {name: array.astype(dtype) for name, array in tensors_of(init()).items()}
    save_file(tensors, path)
    model = load(path)
    assert model.params.dtype is np.float32
    assert np.allclose(model.params.flat, init().params.flat, atol=1e-3)


def test_a_missing_file_says_how_to_make_one(path):
    assert refused(path) == f"{path}: no such file"


def test_a_folder_is_refused(tmp_path):
    assert refused(tmp_path) == f"{tmp_path}: expected a model, found a folder without config.json"


@pytest.mark.parametrize("n_head", [3, 5, 0, -4])
def test_heads_that_do_not_divide_bare_weights_are_refused(n_head, path):
    save_file(tensors_of(init()), path)
    with pytest.raises((InputError, FileFormatError), match="n_head"):
        load(path, n_head=n_head)


def test_the_mark_of_other_frameworks_is_no_format_of_ours(path):
    """`save_file(..., metadata={"format": "pt"})` is how PyTorch programs commonly export weights."""
    save_file(tensors_of(init()), path, {"format": "pt"})
    assert load(path).assumed != ()


def test_what_contradicts_our_checkpoint_is_refused(path):
    save(init(), path)
    assert refused(path, InputError, n_head=2) == f"--n-head 2 contradicts {path}, which says 4"
    assert refused(path, InputError, bos="last") == f"--bos last contradicts {path}, which says first"
    assert load(path, n_head=4, bos="first").assumed == ()


def no_space(descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_failed_write_leaves_the_old_file_and_no_other(path, monkeypatch):
    save(init(seed=1), path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(RunError) as error:
        save(init(seed=2), path)
    assert str(error.value) == f"{path}: cannot write (No space left on device); nothing there was changed"
    assert error.value.exit_code == 1
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupted_write_leaves_the_old_file_and_no_other(path, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    save(init(seed=1), path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(init(seed=2), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_is_missing_is_named(tmp_path):
    target = tmp_path / "none" / "model.safetensors"
    with pytest.raises(RunError, match=r"none.model\.safetensors: cannot write \(No such file"):
        save(init(), target)


def test_a_link_is_followed(path, tmp_path):
    save(init(seed=1), path)
    link = tmp_path / "link"
    try:
        link.symlink_to(path)
    except OSError:
        pytest.skip("this system makes no symbolic links here")
    save(init(seed=2), link)
    assert link.is_symlink()
    assert np.array_equal(load(path).params.flat, init(seed=2).params.flat)


def test_a_model_of_float64_is_saved_and_loads(path):
    params = init().params.copy(np.float64)
    save(Model(params, Tokenizer(), "test"), path)
    assert np.array_equal(load(path).params.flat, init().params.flat)
