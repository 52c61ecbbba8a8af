"""Open files that `trace` refuses. Everything but the fault stays usable."""

import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from attacks.formats import apr, gguf, huggingface
from support import apr_files
from support.exports import side_of
from support.gguf_files import gguf_bytes, rewrite
from support.gguf_of_torch import write_gguf_of
from support.hostile import open_safely
from support.sweeps import some_of
from support.tiny_models import tiny_model, write_folder, write_gguf
from support.torch_models import torch_model

from microgpt_trace.certification.opening import check_of, open_side
from microgpt_trace.certification.setting_checks import settings_checks
from microgpt_trace.errors import FileFormatError
from microgpt_trace.readers.gguf import read_gguf_header
from microgpt_trace.readers.loading import SMALL

FORMATS = {
    "GGUF": gguf.gguf, "GGUF with yarn": lambda: gguf.scaled(gguf.gguf()), ".apr": apr.apr,
    "gpt2": huggingface.gpt2, "config.json": huggingface.no_config, "safetensors": huggingface.safetensors,
    "shards": huggingface.sharded,
    **{case: partial(huggingface.huggingface, case) for case in huggingface.CONFIGS},
}  # fmt: skip


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """The header of a GGUF file, and the opened folder of the same model."""
    folder = tmp_path_factory.mktemp("llama")
    config, weights = tiny_model("llama_gqa")
    file = read_gguf_header(write_gguf(folder / "model.gguf", config, weights))
    return file, open_side(write_folder(folder / "hf", config, weights))


@pytest.fixture(params=["with the original", "alone"])
def opened(llama, tmp_path, request):
    """Return a function that opens a GGUF file of changed metadata and tensors, perhaps with the original."""
    file, original = llama
    fallback = original if request.param == "with the original" else None

    def open_changed(tensors=file.tensors, **changes):
        return open_side(rewrite(tmp_path / "export.gguf", file, changes, tensors), fallback)

    return open_changed


def ids(side):
    print(*side.problems, sep="\n")
    assert side.model is None
    return [check_of(problem) for problem in side.problems]


def check_tensors(side, original, without=()):
    """Check that the tensors of a side are those of the original, apart from some names."""
    assert set(side.tensors) == set(original.tensors) - set(without)
    for name, tensor in side.tensors.items():
        np.testing.assert_array_equal(tensor.read(), original.tensors[name].read(), name)


def test_a_sound_file_has_a_model_and_no_problems(opened, llama):
    side = opened()
    assert (side.problems, side.unknown, side.vocabulary, side.vocabulary_problem) == ((), [], None, "")
    assert side.config == side.model.config == side_of(side.model).config
    check_tensors(side, llama[1])


def lacking(*names):
    return lambda tensors: [own for own in tensors if not any(name in own.name for name in names)]


def with_norm(*names):
    """Add copies of the last norm under these names."""

    def add(tensors):
        norm = next(tensor for tensor in tensors if tensor.name == "output_norm.weight")
        return [*tensors, *(replace(norm, name=name) for name in names)]

    return add


def turned(tensors):
    return [replace(t, shape=t.shape[::-1]) if "ffn_up" in t.name else t for t in tensors]


ODD = ("blk.0.attn_z.weight", "model.norm.weight", "x" * 250)
LOST = ("blk.1.attn_q.weight", "output_norm.weight")
FAULTS = {  # a change of the tensors, changes of the metadata, the check, and the accused parameters
    "missing tensors": (lacking(*LOST), {}, "weights.missing", "layer1.attn_wq final_norm"),
    "no embedding": (lacking("token_embd"), {}, "weights.missing", "wte"),
    "unknown and repeated": (with_norm(*ODD), {}, "weights.extra", ""),
    "of another layer": (with_norm("blk.2.attn_norm.weight"), {}, "weights.extra", "layer2.attn_norm"),
    "a wrong shape": (turned, {}, "weights.other", "layer0.mlp_wup layer1.mlp_wup"),
    "a wrong vocabulary size": (list, {"llama.vocab_size": 77}, "vocabulary.size", "vocab_size"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_and_the_rest_is_read(opened, llama, fault):
    change, metadata, check, names = FAULTS[fault]
    side, (_, original) = opened(change(llama[0].tensors), **metadata), llama
    assert ids(side) == [check]
    assert {*side.problems[0].names} == {*names.split()}
    assert side.unknown == [*ODD] * (fault == "unknown and repeated")
    if check == "weights.other":
        assert "expected [48, 32] for the first, found [32, 48]" in side.problems[0].text
    elif fault != "of another layer":
        check_tensors(side, original, names.split() if check == "weights.missing" else ())


def test_a_lost_layer_is_missing(llama, tmp_path):
    path = rewrite(tmp_path / "export.gguf", llama[0], tensors=lacking("blk.1.")(llama[0].tensors))
    side = open_side(path, llama[1])
    assert ids(side) == ["weights.missing"]
    assert len(side.problems[0].names) == 9


def test_wrong_heads_do_not_change_the_order_of_rows(llama, tmp_path):
    file, original = llama
    for heads in (8, 3):
        path = rewrite(tmp_path / "export.gguf", file, {"llama.attention.head_count": heads})
        check_tensors(open_side(path, original), original)


def test_a_broken_vocabulary_leaves_the_model(opened):
    keys = {"model": "gpt2", "tokens": ["a", "b"], "merges": ["a b"], "bos_token_id": 99}
    side = opened(**{f"tokenizer.ggml.{key}": value for key, value in keys.items()})
    assert side.model is not None
    assert side.vocabulary is None
    assert "okenizer.ggml.bos_token_id: expected an id below 2, found 99" in side.vocabulary_problem


def of_torch(name, folder, form=""):
    """Return the opened folder of a model of transformers, and the header of its GGUF file."""
    model = torch_model(name)
    model.save_pretrained(folder / "original")
    file = read_gguf_header(write_gguf_of(model, folder / "model.gguf", form))
    return open_side(folder / "original"), file


@pytest.mark.parametrize(
    ("name", "form", "dropped", "lost"),
    [("qwen2", "", "attn_k.bias", "attn_bk"), ("mixtral", "single", "ffn_up.2.weight", "mlp_wup_experts")],
)
def test_lost_biases_and_experts_are_missing(tmp_path, name, form, dropped, lost):
    original, file = of_torch(name, tmp_path, form)
    side = open_side(
        rewrite(tmp_path / "export.gguf", file, tensors=lacking(dropped)(file.tensors)), original
    )
    assert set(ids(side)) == {"weights.missing"}
    missing = [f"layer{i}.{lost}" for i in range(4)]
    assert set(missing) == {name for problem in side.problems for name in problem.names}
    check_tensors(side, original, missing)


def test_fused_tensors_are_split_by_the_heads_of_the_original(tmp_path):
    original, file = of_torch("phi3", tmp_path)
    path = rewrite(tmp_path / "export.gguf", file, {"phi3.attention.head_count_kv": 4})
    side = open_side(path, original)
    assert ids(side) == ["settings.n_kv_head"]
    check_tensors(side, original)


APR_FAULTS = [
    ({"num_layers": 3}, "n_layer"), ({"num_heads": 2}, "n_head"), ({"rms_norm_eps": None}, "norm_eps"),
    ({"rope_type": 7}, "rope_pairs"), ({"architecture": "bert"}, "architecture"),
    ({"intermediate_size": 99}, "n_inner"), ({"rope_scaling": {"type": "x"}}, "rope_scaling"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "fault"), APR_FAULTS)
def test_a_wrong_setting_of_an_apr_file_is_named(tmp_path, changes, fault):
    for name, metadata in (("good", apr_files.METADATA), ("export", apr_files.METADATA | changes)):
        (tmp_path / name).write_bytes(apr_files.apr_bytes(metadata, apr_files.tiny_model()[0]))
    original = open_side(tmp_path / "good")
    side = open_side(tmp_path / "export", original)
    assert f"settings.{fault}" in ids(side)
    wrong = [check.id for check in settings_checks(side, original) if check.status != "same"]
    assert wrong == [f"settings.{fault}"]
    check_tensors(side, original)


def test_what_is_no_decoder_is_refused(tmp_path, llama):
    path = tmp_path / "cut.gguf"
    path.write_bytes(gguf_bytes(llama[0].metadata, llama[0].tensors)[:-40])
    with pytest.raises(FileFormatError, match="cut short"):
        open_side(path, llama[1])
    with pytest.raises(FileFormatError, match="found a microGPT"):
        open_side(SMALL)


@pytest.mark.skipif(sys.platform == "win32", reason="the damage replaces files by links and pipes")
@pytest.mark.parametrize("part", some_of(range(4), every=4))
@pytest.mark.parametrize("name", some_of(FORMATS, every=4, sweep=2))
def test_damage_is_a_problem_or_one_line(tmp_path, name, part):
    """Each damage that `load` refuses is a problem of the opened file, or the same kind of error."""
    form = FORMATS[name]()
    (tmp_path / "good").mkdir()
    good = open_side(form.damaged(tmp_path / "good"))
    assert good.problems == ()
    wrong = [("", {key: value}) for key, values in form.wrong.items() for value in values]
    for fallback in (good, None):
        for _, *change in [*form.refused, *wrong][part::4]:
            sides = []
            path = form.damaged(tmp_path, *change)
            message = open_safely(path, lambda path: sides.append(open_side(path, fallback)), 2 * form.memory)  # noqa: B023
            assert bool(message) != bool(sides)
            for side in sides:
                found = [c for c in settings_checks(side, good) if c.status in ("different", "not checked")]
                assert side.problems or found, change
                assert all(problem.text.isprintable() for problem in side.problems)
