"""`load` recognises the format of any model by its content, whatever its name."""

import json
import os
import shutil

import pytest
from support.apr_files import METADATA, apr_bytes
from support.apr_files import tiny_model as apr_model
from support.hostile import rejection
from support.tiny_models import tiny_model, write_folder, write_gguf

from microgpt_trace import init, load
from microgpt_trace.errors import FileFormatError, InputError
from microgpt_trace.microgpt.checkpoint import save


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "model", *tiny_model("llama_gqa"))


def write_apr(path):
    path.write_bytes(apr_bytes(METADATA, apr_model()[0]))
    return path


NAMES = ["model.gguf", "model.apr", "model.safetensors", "config.json", "noext", "ü ß"]


def test_the_content_decides_the_format_and_not_the_name(tmp_path):
    for name in NAMES:
        path = tmp_path / name
        assert load(write_gguf(path, *tiny_model("llama_gqa"))).format == "GGUF v3"
        assert load(write_apr(path)).format == ".apr v2"
        save(init(seed=3), path)
        assert (name == "config.json") or load(path).family == "microgpt"


def test_opens_a_checkpoint_beside_a_config(folder):
    save(init(seed=3), folder / "mine.safetensors")
    assert load(folder / "mine.safetensors").family == "microgpt"


def test_opens_a_folder_or_a_file_in_it(folder):
    for path in (folder, *folder.iterdir()):
        model = load(str(path))
        assert (model.format, model.origin) == ("Hugging Face folder", str(path))


def test_opens_any_file_of_a_sharded_folder(tmp_path):
    folder = write_folder(tmp_path, *tiny_model("llama_gqa"), shards=3)
    for path in sorted(folder.iterdir()):
        assert load(path).config == load(folder).config, path


def test_rejects_a_file_that_the_model_does_not_use(folder):
    other = shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    assert "the model does not use this file; give the folder or model.safetensors" in rejection(other)


def test_rejects_weights_of_a_decoder_without_a_config(folder):
    (folder / "config.json").unlink()
    assert "expected a config.json beside the weights" in rejection(folder / "model.safetensors")
    assert "found a folder without config.json" in rejection(folder)


def test_follows_links(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    (tmp_path / "blob").write_bytes(b"")
    (folder / "model.safetensors").rename(tmp_path / "blob")
    (folder / "model.safetensors").symlink_to(tmp_path / "blob")
    assert load(tmp_path / "link").config == load(tmp_path / "link" / "model.safetensors").config
    (tmp_path / "blob").unlink()
    assert "expected model.safetensors" in rejection(folder)
    write_gguf(tmp_path / "blob", *tiny_model("qwen2"))
    (tmp_path / "model.gguf").symlink_to("blob")
    assert load(tmp_path / "model.gguf").config.architecture == "qwen2"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_rejects_files_without_permission(name, folder):
    (folder / name).chmod(0)
    assert "cannot read it" in rejection(folder)
    assert "cannot read it" in rejection(folder / name)


def test_rejects_options_of_another_format(folder):
    for option in ({"rope_pairs": "halves"}, {"n_head": 4}, {"bos": "last"}):
        with pytest.raises(InputError, match=r"^--.* does not apply to .*, which is a .* model$"):
            load(folder, **option)


def test_settings_replace_those_of_a_folder_or_gguf_file(folder, tmp_path):
    gguf = write_gguf(tmp_path / "m.gguf", *tiny_model("llama_gqa"))
    for path in (folder, gguf):
        model = load(path, settings={"hidden_act": "gelu_new", "rms_norm_eps": 0.5})
        print(model.assumed)
        assert (model.config.activation, model.config.norm_eps) == ("GELU by tanh", 0.5)
        assert model.assumed[-2:] == ("hidden_act = 'gelu_new' (--set)", "rms_norm_eps = 0.5 (--set)")
        with pytest.raises(FileFormatError, match="--set num_heads: expected one of head_dim, hidden_act"):
            load(path, settings={"num_heads": 4})
        with pytest.raises(FileFormatError, match="expected values within hidden_act, found"):
            load(path, settings={"hidden_act.x": 4})


OBSTACLES = {
    "layers": (
        {"layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 6},
        "linear attention in layers 0-2, 4-6, 8-10, 12-14, ...",
    ),
    "experts": ({"num_local_experts": 8}, "a mixture of 8 experts"),
    "latent": ({"kv_lora_rank": 512, "num_experts": 0}, "keys and values compressed to 512 channels"),
    "inside": (
        {"text_config": {"num_experts": 4}},
        "a model of texts and other inputs; a mixture of 4 experts",
    ),
    "two stacks": ({"is_encoder_decoder": True}, "an encoder and a decoder"),
    "nothing": ({"layer_types": [1], "num_experts": True}, ""),
}


@pytest.mark.parametrize(("config", "words"), OBSTACLES.values(), ids=OBSTACLES)
def test_a_model_of_another_architecture_is_refused_with_what_stands_in_the_way(config, words, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "other"} | config))
    reason = f" ({words})" * bool(words)
    with pytest.raises(FileFormatError) as refused:
        load(tmp_path)
    print(refused.value)
    assert f"architecture 'other'{reason} is not supported; supported: llama, mistral," in str(refused.value)
