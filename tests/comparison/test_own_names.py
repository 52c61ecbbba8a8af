"""Two dumps of a model that the program does not know are compared by the names of their tensors."""

import numpy as np
import pytest
from support.commands import microgpt

from microgpt_trace.comparison.diff import diff
from microgpt_trace.comparison.own_names import parts_apart, specs_by_name
from microgpt_trace.errors import InputError

RNG = np.random.default_rng(0)
ARRAYS = {
    "enc.0.wkv": RNG.standard_normal((1, 5, 16)).astype(np.float32),
    "enc.10.wkv": RNG.standard_normal((1, 5, 16)).astype(np.float32),
    "enc.2.heads": RNG.standard_normal((2, 4, 5, 8)).astype(np.float32),
    "state": np.float32(3.5),
}


def save(path, arrays, kind="npz"):
    if kind == "npz":
        np.savez(path, **arrays)
        return path
    path.mkdir()
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)
    return path


@pytest.mark.parametrize(("kind", "order", "words"), [
    ("npz", ["enc.0.wkv", "enc.10.wkv", "enc.2.heads", "state"], "in the order of the file"),
    ("npy", ["enc.0.wkv.npy", "enc.2.heads.npy", "enc.10.wkv.npy", "state.npy"], "sorted by name"),
])  # fmt: skip
def test_tensors_are_paired_by_name_in_order(tmp_path, kind, order, words):
    a, b = (save(tmp_path / f"{side}.npz", ARRAYS, kind) for side in "ab")
    found = diff(a, b)
    assert [event.name for event in found.events] == order
    assert found.same
    assert found.a.notes == (f"compared by the names of its tensors, {words}",)


def test_the_first_tensor_that_differs_is_named_with_its_heads_rows_and_channels(tmp_path):
    other = {name: array.copy() for name, array in ARRAYS.items()}
    other["enc.2.heads"][1, 2, 3, 5] += 0.5
    other["state"] = np.float32(3.6)
    found = diff(save(tmp_path / "a.npz", ARRAYS), save(tmp_path / "b.npz", other))
    assert (found.first, found.event(found.first).position) == ("enc.2.heads", 3)
    assert found.where == "differs in 1 of 8 heads (6), in 1 of 5 rows (3) and in 1 of 8 channels (5)"
    done = microgpt(f"diff {tmp_path}/a.npz {tmp_path}/b.npz")
    assert done.code == 1
    assert "First divergence: layer 2, enc.2.heads, position 3, head 6" in done.out


def test_rounding_of_narrow_types_is_no_difference(tmp_path):
    rounded = {n: np.float32(np.float16(a)) for n, a in ARRAYS.items()}
    nudged = {n: np.float32(np.float16(a * np.float32(1 + 2**-11))) for n, a in rounded.items()}
    found = diff(save(tmp_path / "a.npz", rounded), save(tmp_path / "b.npz", nudged))
    assert (found.agree, found.tolerance.kind) == (True, "f16")
    assert not diff(tmp_path / "a.npz", tmp_path / "b.npz", compute="f32").agree


def test_other_shapes_and_names_are_listed_and_nothing_in_common_is_refused(tmp_path):
    other = ARRAYS | {"enc.0.wkv": np.zeros((1, 5, 8)), "more": np.zeros(3)}
    found = diff(save(tmp_path / "a.npz", ARRAYS), save(tmp_path / "b.npz", other))
    reasons = {unpaired.name: unpaired.reason for unpaired in found.b.unpaired}
    assert reasons["more"] == "only on this side"
    assert reasons["enc.0.wkv"].startswith("the shapes differ: [1, 5, 16] in")
    assert len(found.events) == 3
    assert not found.same
    save(tmp_path / "c.npz", {"enc.0.wkv": np.zeros((1, 5, 8))})
    with pytest.raises(InputError, match=r"no tensor has the same shape on both sides; enc\.0\.wkv"):
        diff(tmp_path / "a.npz", tmp_path / "c.npz")


def test_a_name_that_is_an_event_does_not_hide_the_others(tmp_path):
    other = ARRAYS | {"logits": ARRAYS["state"], "enc.10.wkv": ARRAYS["enc.0.wkv"]}
    found = diff(
        save(tmp_path / "a.npz", ARRAYS | {"logits": ARRAYS["state"]}), save(tmp_path / "b.npz", other)
    )
    assert found.first == "enc.10.wkv"
    assert len(found.events) == 5


def test_nan_on_both_sides_and_empty_tensors_are_no_difference(tmp_path):
    nan = ARRAYS | {"enc.0.wkv": np.full((1, 5, 16), np.nan), "empty": np.zeros((0, 4))}
    found = diff(save(tmp_path / "a.npz", nan), save(tmp_path / "b.npz", nan))
    assert found.agree
    assert parts_apart(np.array([[np.nan, 1.0]]), np.array([[np.nan, 2.0]])).endswith(
        "in 1 of 2 channels (1)"
    )


def test_the_first_number_in_a_name_counts_as_the_layer():
    specs = specs_by_name(["h.3.attn.12", "x2", "none", "node_12345"])
    assert [spec.layer for spec in specs.values()] == [3, 2, None, None]


@pytest.mark.parametrize(("at", "words"), [
    ((slice(None), 0), "differs in all 3 rows and in 1 of 4 channels (0)"),
    ((0, slice(None)), "differs in 1 of 3 rows (0) and in all 4 channels"),
])  # fmt: skip
def test_parts_that_differ_are_counted(at, words):
    b = np.zeros((3, 4))
    b[at] = np.nan
    assert parts_apart(np.zeros((3, 4)), b) == words


def hooked(model, path, **inputs):
    """Write the outputs of all leaf modules under their names. A second call of a module gets a number."""
    torch, arrays, hooks = pytest.importorskip("torch"), {}, []

    def keep(name):
        def hook(module, args, output):
            output = output[0] if isinstance(output, tuple) else output
            count = sum(own.split("@")[0] == name for own in arrays)
            if torch.is_tensor(output):
                arrays[f"{name}@{count}" if count else name] = output.detach().float().numpy()

        return hook

    for name, module in model.named_modules():
        if name and not list(module.children()):
            hooks.append(module.register_forward_hook(keep(name)))
    with torch.no_grad():
        model(**inputs)
    for hook in hooks:
        hook.remove()
    np.savez(path, **arrays)
    return path


SMALL = {"vocab_size": 64, "d_model": 32}
WHISPER = {
    **{f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in
       (("layers", 2), ("attention_heads", 4), ("ffn_dim", 64))},
    "num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 16, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
UNKNOWN = {
    "T5": ("T5ForConditionalGeneration", SMALL | {"d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
           "decoder.block.1.layer.1.EncDecAttention.k", "decoder.block.1.layer.1.EncDecAttention.k"),
    "Rwkv": ("RwkvForCausalLM", {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2},
             "rwkv.blocks.1.feed_forward.key", "rwkv.blocks.1.feed_forward.key"),
    "Whisper": ("WhisperForConditionalGeneration", SMALL | WHISPER,
                "model.decoder.layers.1.fc1", "model.decoder.layers.1.fc1"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_models_that_we_cannot_open_are_compared_with_each_other(tmp_path, name):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    kind, settings, module, expected = UNKNOWN[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**settings)
    model = getattr(transformers, kind)(config).eval()
    inputs = (
        {"input_ids": torch.arange(9)[None]}
        if name != "Whisper"
        else {"input_features": torch.randn(1, 8, 40)}
    )
    inputs |= {} if name == "Rwkv" else {"decoder_input_ids": torch.arange(5)[None]}
    a = hooked(model, tmp_path / "a.npz", **inputs)
    wide = {key: own.double() if own.is_floating_point() else own for key, own in inputs.items()}
    assert diff(a, hooked(model.double(), tmp_path / "b.npz", **wide)).agree
    model.float().get_submodule(module).weight.data *= 1.01
    found = diff(a, hooked(model, tmp_path / "c.npz", **inputs))
    assert found.first == expected
    assert len(found.events) > 20
