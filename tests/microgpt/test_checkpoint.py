"""Checkpoints: round trips, foreign weights, files that are none, and writes that fail."""

import errno
import json
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


def ours(model=None, **changes):
    """Tensors and metadata of a checkpoint of ours, as `save` writes them."""
    model = model or init()
    metadata = {
        "format": "microgpt.checkpoint/1",
        "config": json.dumps(vars(model.config)),
        "vocabulary": json.dumps({"chars": model.tokenizer.chars, "bos": model.tokenizer.bos}),
    }
    return tensors_of(model), metadata | changes


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


NOT_SAFETENSORS = {
    "empty": lambda whole: b"",
    "text": lambda whole: b"emma\nolivia\nava\n",
    "one byte": lambda whole: b"\x00",
    "garbage": lambda whole: np.random.default_rng(0).bytes(5000),
    "cut in the header": lambda whole: whole[:100],
    "cut in the data": lambda whole: whole[:-1],
    "bytes too many": lambda whole: whole + b"\x00",
    "a header that is no JSON": lambda whole: whole[:8] + b"X" + whole[9:],
    "a pickle": lambda whole: b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00.",
}


@pytest.mark.parametrize("spoil", NOT_SAFETENSORS.values(), ids=NOT_SAFETENSORS.keys())
def test_a_file_that_is_none_is_refused(spoil, path):
    save(init(), path)
    path.write_bytes(spoil(path.read_bytes()))
    size = path.stat().st_size
    assert f"expected a safetensors checkpoint, found {size:,} bytes that are not one" in refused(path)


def without(name):
    return lambda tensors: tensors.pop(name)


def put(name, array):
    return lambda tensors: tensors.update({name: array})


MISFITS = {
    "wrong shape": (
        put("wte", np.zeros((27, 8), np.float32)),
        "'wte': expected float32 [27, 16], found float32 [27, 8]",
    ),
    "transposed": (
        put("layer0.mlp_fc1", np.zeros((16, 64), np.float32)),
        "'layer0.mlp_fc1': expected float32 [64, 16], found float32 [16, 64]",
    ),
    "a vector": (
        put("lm_head", np.zeros(432, np.float32)),
        "'lm_head': expected float32 [27, 16], found float32 [432]",
    ),
    "integers": (
        put("layer0.attn_wq", np.zeros((16, 16), np.int32)),
        "'layer0.attn_wq': expected float32 [16, 16], found int32 [16, 16]",
    ),
    "missing": (without("layer0.attn_wv"), "tensor 'layer0.attn_wv' is missing"),
    "too many": (put("layer1.attn_wq", np.zeros((16, 16), np.float32)), "'layer1.attn_wq'"),
    "foreign": (put("bias", np.zeros(16, np.float32)), "'bias'"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "said"), MISFITS.values(), ids=MISFITS.keys())
def test_tensors_that_do_not_fit_the_metadata_are_refused(change, said, path):
    tensors, metadata = ours()
    change(tensors)
    save_file(tensors, path, metadata)
    assert said in refused(path)


BARE_MISFITS = {
    "foreign": (put("bias", np.zeros(16, np.float32)), "found 'bias' as well"),
    "missing": (without("layer0.attn_wo"), "tensor 'layer0.attn_wo' is missing"),
    "no head": (without("lm_head"), "tensor 'lm_head' is missing"),
    "no embedding": (without("wte"), "expected a microGPT with a matrix 'wte', found layer0.attn_wk"),
    "no first query": (without("layer0.attn_wq"), "layer0.attn_wq"),
    "a vector": (put("wpe", np.zeros(16, np.float32)), "expected a microGPT with a matrix 'wpe'"),
    "integers": (put("wpe", np.zeros((16, 16), np.int64)), "'wpe': expected float32 [16, 16], found int64"),
    "other tokens": (put("wte", np.zeros((65, 16), np.float32)), "65 tokens and no metadata that names them"),
    "an odd width": (put("wte", np.zeros((27, 18), np.float32)), "width 18 is not a multiple of 4 heads"),
    "a layer is left out": (put("layer2.attn_wq", np.zeros((16, 16), np.float32)), "'layer2.attn_wq'"),
    "nothing": (lambda tensors: tensors.clear(), "found nothing"),
    "an empty embedding": (put("wpe", np.zeros((0, 16), np.float32)), "block_size"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "said"), BARE_MISFITS.values(), ids=BARE_MISFITS.keys())
def test_bare_weights_that_do_not_fit_are_refused(change, said, path):
    tensors = tensors_of(init())
    change(tensors)
    save_file(tensors, path)
    assert said in refused(path)


@pytest.mark.parametrize("n_head", [3, 5, 0, -4])
def test_heads_that_do_not_divide_bare_weights_are_refused(n_head, path):
    save_file(tensors_of(init()), path)
    with pytest.raises((InputError, FileFormatError), match="n_head"):
        load(path, n_head=n_head)


def trained(**changes):
    return {"training": json.dumps({"step": 1, "data": "", "schedule": {}} | changes)}


METADATA = {
    "another format": ({"format": "llama/7"}, "expected format microgpt.checkpoint/1, found 'llama/7'"),
    "no JSON": ({"config": "{"}, "the metadata do not describe a microGPT"),
    "a list": ({"config": "[]"}, "the metadata do not describe a microGPT"),
    "null": ({"config": "null"}, "the metadata do not describe a microGPT"),
    "an unknown dimension": ({"config": '{"n_experts": 8}'}, "the metadata do not describe a microGPT"),
    "a dimension that is none": ({"config": '{"n_embd": "wide"}'}, "the metadata do not describe a microGPT"),
    "a dimension of 0": ({"config": '{"n_head": 0}'}, "n_head"),
    "other vocabulary": ({"vocabulary": '{"chars": "abc"}'}, "name 4 tokens but a vocab_size of 27"),
    "no vocabulary": ({"vocabulary": ""}, "the metadata do not describe a microGPT"),
    "BOS in the middle": ({"vocabulary": '{"bos": "middle"}'}, "BOS stands first or last"),
    "training is a list": ({"training": "[]"}, "the metadata do not describe a microGPT"),
    "training without schedule": (
        {"training": '{"step": 1, "data": ""}'},
        "the metadata do not describe a microGPT",
    ),
    "training without end": (
        {"training": '{"step": 1, "data": "", "schedule": {"steps": 0}}'},
        "steps: expected a whole number of at least 1, found 0",
    ),
    "nested too deeply": ({"config": "[" * 2000 + "]" * 2000}, "values nested more than 64 deep"),
    "a rate of 401 digits": (
        {"training": f'{{"step": 1, "data": "", "schedule": {{"lr": {10**400}}}}}'},
        "an integer of 401 digits",
    ),
    "a key of 1 MB": ({"config": json.dumps({"x" * 1_000_000: 1})}, "the metadata do not describe"),
    "heads that are true": ({"config": '{"n_head": true}'}, "n_head: expected a whole number"),
    "layers without end": ({"config": '{"n_layer": 1e99}'}, "n_layer: expected a whole number"),
    "a width past 31 bits": ({"config": f'{{"n_embd": {2**31}}}'}, "n_embd: expected a whole number below"),
    "an inner width of false": ({"config": '{"n_inner": false}'}, "n_inner: expected a whole number"),
    "half a character": ({"vocabulary": '{"chars": "\\ud800"}'}, "found half of one"),
    "a rate that is true": (trained(schedule={"lr": True}), "lr: expected a positive number, found True"),
    "a rate past float64": (trained(schedule={"lr": "1"}), "lr: expected a positive number, found '1'"),
    "steps that are true": (trained(schedule={"steps": True}), "steps: expected a whole number"),
    "a batch past 63 bits": (trained(schedule={"batch_size": 2**63}), "batch_size: expected a whole number"),
    "a batch that takes all memory": (trained(schedule={"batch_size": 65_537}), "below 65,537"),
    "a seed past 63 bits": (trained(schedule={"seed": 10**60}), "seed: expected a whole number below"),
    "a step that is true": (trained(step=True), "step: expected a whole number"),
    "a step past the last": (trained(step=5001), "step: expected a whole number below 5,001, found 5001"),
    "data that are none": (trained(data=["x" * 1_000_000]), "data: expected text"),
    "a step that is none": (
        {"training": '{"step": "x", "data": "", "schedule": {}}'},
        "the metadata do not describe a microGPT",
    ),
}


@pytest.mark.parametrize(("changes", "said"), METADATA.values(), ids=METADATA.keys())
def test_metadata_that_describe_no_microgpt_are_refused(changes, said, path):
    tensors, metadata = ours(**changes)
    save_file(tensors, path, metadata)
    assert said in refused(path)


def test_metadata_without_config_are_refused(path):
    tensors, metadata = ours()
    del metadata["config"]
    save_file(tensors, path, metadata)
    assert "the metadata do not describe a microGPT ('config')" in refused(path)


def test_the_mark_of_other_frameworks_is_no_format_of_ours(path):
    """`save_file(..., metadata={"format": "pt"})` is how PyTorch programs commonly export weights."""
    save_file(tensors_of(init()), path, {"format": "pt"})
    assert load(path).assumed != ()


def test_what_contradicts_our_checkpoint_is_refused(path):
    save(init(), path)
    assert refused(path, InputError, n_head=2) == f"--n-head 2 contradicts {path}, which says 4"
    assert refused(path, InputError, bos="last") == f"--bos last contradicts {path}, which says first"
    assert load(path, n_head=4, bos="first").assumed == ()


def test_half_of_the_moments_are_refused(path, tmp_path):
    data = tmp_path / "names.txt"
    data.write_text("emma\n")
    model = train(steps=2, data=data)
    state = {"step": 2, "data": "", "schedule": {}}
    tensors, metadata = ours(model, training=json.dumps(state))
    save_file(tensors | {"adam.m_sum": np.zeros(4192, np.float32)}, path, metadata)
    assert "adam.v_sum" in refused(path)


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
