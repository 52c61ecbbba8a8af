"""Gemma 4: layers that read keys and values of earlier layers, inputs of layers, and planted mistakes."""

import json
import shutil
from types import MethodType

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.commands import microgpt
from support.reference_models import IDS
from support.torch_models import torch_model

from microgpt_trace import load, trace
from microgpt_trace.diagnosis.diagnose import diagnose
from microgpt_trace.dumps.recorder import record
from microgpt_trace.errors import FileFormatError
from microgpt_trace.explaining.explain import explain
from microgpt_trace.hooks.edits import Edit
from microgpt_trace.interpreter import backward
from microgpt_trace.interpreter import run as interpreter
from microgpt_trace.operations import pass_state

torch = pytest.importorskip("torch", reason="the judge is transformers")
pytest.importorskip("transformers")
SIX = {"num_hidden_layers": 6, "layer_types": ["sliding_attention", "full_attention"] * 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A function that writes a model with these changes, and returns its folder."""
    made = {}

    def folder_of(name="gemma4_text", **changes):
        key = name, tuple(changes)
        if key not in made:
            made[key] = tmp_path_factory.mktemp(name)
            torch_model(name, changes).save_pretrained(made[key])
        return made[key]

    return folder_of


# --- Heads of two widths --------------------------------------------------------------------------


def test_arrays_and_dumps_have_the_heads_of_each_layer(folder, tmp_path):
    """Heads are 12 wide in layers with a window, and 16 wide in others. The dump stores heads apart."""
    ours = load(folder())
    run = trace(ours, tokens=IDS, values=True, names=["layer*.attn.q_norm"])
    apart = {f"Qcur_normed-{i}": run[f"layer{i}.attn.q_norm"].reshape(len(IDS), 4, -1) for i in range(4)}
    save_file(apart | {"input_ids": np.array([IDS])}, tmp_path / "theirs.safetensors")
    done = microgpt("diff", tmp_path / "theirs.safetensors", folder())
    print({name: array.shape for name, array in apart.items()}, done.out[-600:], done.err)
    assert done.code == 0
    shown = microgpt("trace", folder(), "--tokens", "1,2", "--show", "layer1.attn.q", width=200).out
    assert "3.15" in shown
    assert "5.3" not in shown


# --- Keys and values of earlier layers ------------------------------------------------------------


def test_a_change_of_keys_reaches_the_layers_that_share_them(folder):
    """The judge is transformers with the same change, of one run alone and of many runs together."""
    theirs, ours = torch_model("gemma4_text"), load(folder())
    theirs.model.layers[1].self_attn.k_proj.register_forward_hook(lambda module, args, out: -out)
    with torch.no_grad():
        expected = theirs(torch.tensor([IDS])).logits[0].numpy()
    with ours.hooks.subscribe(lambda event, value: -value, "layer1.attn.k"):
        found = trace(ours, tokens=IDS, positions="all", values=["*"], names=["*"])
    plain = trace(ours, tokens=IDS, positions="all", values=["*"], names=["*"])
    error = np.linalg.norm(found["logits"] - expected) / np.linalg.norm(expected)
    assert error < 5e-6
    assert not np.allclose(found["layer3.attn.scores"], plain["layer3.attn.scores"])
    rows, names = range(len(IDS)), ("layer3.attn.q", "layer1.attn.k", "embed.ple", "layer0.attn.v_norm")
    edits = [Edit(name, np.negative) for name in names]
    for number, logits in ours.edited_logits(ours.read(tokens=IDS), edits, rows):
        with ours.hooks.subscribe(lambda event, value: -value, names[number]):
            alone = trace(ours, tokens=IDS, positions="all", values=["logits"], names=["logits"])
        np.testing.assert_allclose(logits, alone["logits"], atol=1e-4, err_msg=names[number])


def test_layers_that_share_keys_own_no_cache(folder, monkeypatch):
    model, ids = load(folder()), np.array(IDS)
    expected = interpreter.forward(model, ids)
    cache = pass_state.KVCache(len(ids))
    monkeypatch.setattr(pass_state, "BLOCK", 64)  # several blocks of queries
    parts = [interpreter.forward(model, part, cache=cache) for part in (ids[:7], ids[7:])]
    np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-4, atol=1e-5)
    assert [*cache.rows] == [f"layer{i}.attn.{n}" for i in (0, 1) for n in ("k_rope", "v_norm")]


def test_gradients_are_the_same_if_no_other_values_fit_into_memory(folder, monkeypatch):
    model, names = load(folder()), ["layer0.attn.k", "embed.ple_tok", "layer1.attn.v"]
    expected = trace(model, tokens=IDS, backward=True, values=names)
    monkeypatch.setattr(backward, "KEPT", 0)
    found = trace(model, tokens=IDS, backward=True, values=names)
    for name in names:
        np.testing.assert_allclose(found.gradient(name), expected.gradient(name), rtol=1e-4, atol=1e-6)


def test_an_explanation_of_a_key_lists_the_layers_that_read_it(folder):
    uses = explain(load(folder()), "layer0.attn.k_rope[2,5]", tokens=IDS).uses
    assert {use.name.partition("[")[0] for use in uses} == {"layer0.attn.scores", "layer2.attn.scores"}


def test_unused_keys_of_sharing_layers_are_left_out(folder, tmp_path):
    shutil.copytree(folder(), tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    own = {n.replace("layers.1.", "layers.3."): w for n, w in weights.items() if ".k_" in n or ".v_" in n}
    save_file(weights | own, tmp_path / "model.safetensors")
    assert load(tmp_path).assumed == (
        "left out: 3 tensors of layers that read keys and values of earlier layers",
    )


def test_the_header_names_the_sizes_of_all_layers(folder):
    text = " ".join(microgpt("trace", folder(), "--tokens", "3,1,4").out.split())
    assert "layer 1: heads of 16 on 2 key-value heads, FFN 48" in text
    assert "layer 3: heads of 16 on 2 key-value heads, FFN 96, keys and values of layer 1" in text
    assert "base 1,000,000 in layers 1, 3, where 2 of 8 pairs turn" in text


WRONG = {
    "both sides": ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention 'all' is not"),
    "all shared": ({"num_kv_shared_layers": 4}, "num_kv_shared_layers: expected an earlier layer"),
    "two widths": ({"per_layer_config": {"1": {"head_dim": 16}, "3": {"head_dim": 8}}}, "heads of one width"),
    "other setting": ({"per_layer_config": {"1": {"window": 1}}}, "per_layer_config: expected head_dim or"),
    "another model": ({"model_type": "gemma3n_text"}, "architecture 'gemma3n_text' is not supported"),
    "other RoPE": ({"rope_parameters": {"full_attention": {}}}, "rope_parameters: expected values for"),
}


@pytest.mark.parametrize("case", WRONG)
def test_settings_that_are_not_computed_are_refused(case, folder, tmp_path):
    changes, words = WRONG[case]
    shutil.copytree(folder(), tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileFormatError, match=words):
        load(tmp_path)


# --- Planted mistakes -----------------------------------------------------------------------------


def gain_plus_one(theirs):
    norm = theirs.model.layers[1].input_layernorm
    norm.forward = lambda x: norm._norm(x) * (1 + norm.weight)


def usual_scale(theirs):
    theirs.model.layers[1].self_attn.scaling = 0.25  # 1 / sqrt(16)


def no_norm_of_v(theirs):
    for layer in theirs.model.layers[:2]:
        layer.self_attn.v_norm.forward = lambda x: x


def scale_of_the_branch(theirs):
    for layer in theirs.model.layers:
        added = {}

        def keep(module, args, out, added=added):
            added["last"] = out

        def hook(module, args, out, added=added):
            scale, last = module.layer_scalar, added["last"]
            return out / scale - last + scale * last

        layer.post_per_layer_input_norm.register_forward_hook(keep)
        layer.register_forward_hook(hook)


def unturned_keys(theirs):
    for layer in theirs.model.layers[:2]:
        keys = {}

        def keep(module, args, out, keys=keys):
            keys["last"] = out.transpose(1, 2)

        def share(module, args, kwargs, out, keys=keys):
            states = kwargs["shared_kv_states"]
            states[module.layer_type] = keys["last"], states[module.layer_type][1]

        layer.self_attn.k_norm.register_forward_hook(keep)
        layer.self_attn.register_forward_hook(share, with_kwargs=True)


def layers_miscounted(theirs):
    for i, layer in enumerate(theirs.model.layers):
        layer.self_attn.store_full_length_kv = i < 2


def inputs_of_the_next_layer(theirs):
    sound = theirs.model.project_per_layer_inputs
    theirs.model.project_per_layer_inputs = MethodType(
        lambda self, *args: torch.roll(sound(*args), -1, dims=2), theirs.model
    )


FAULTS = {  # the mistake, the first wrong event, the id of the cause, and changes of the model
    "gain": (gain_plus_one, "layer1.attn.norm", "gain-plus-one", {}),
    "scale": (usual_scale, "layer1.attn.weights", "scale", {}),
    "v": (no_norm_of_v, "layer0.attn.v_norm", "norm-missing", {}),
    "branch": (scale_of_the_branch, "layer0.mlp.layer_scaled", "factor-of-branch", {}),
    "unturned": (unturned_keys, "layer2.attn.weights", "shared-keys-unturned", {}),
    "miscounted": (layers_miscounted, "layer4.attn.weights", "shared-keys-of-layer", SIX),
    "next layer": (inputs_of_the_next_layer, "layer0.mlp.ple_hidden", "part-of-layer", {}),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_mistake_is_located_and_named(case, folder, tmp_path):
    plant, event, cause, changes = FAULTS[case]
    theirs = torch_model("gemma4_text", changes)
    plant(theirs)
    with record(theirs, tmp_path / "run.safetensors"), torch.no_grad():
        theirs(torch.tensor([IDS]))
    found = diagnose(tmp_path / "run.safetensors", folder(**changes)).diagnosis
    print(found.first_wrong, [(own.id, own.claim, own.explains) for own in found.findings])
    assert found.first_wrong == event
    assert found.findings[0].id.startswith(cause)
