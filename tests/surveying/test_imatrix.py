"""Importance matrices: files checked with the package gguf and llama-quantize, sums of squares checked with
transformers."""

import re
import shutil
import subprocess
from contextlib import suppress

import numpy as np
import pytest
from support.gguf_files import gguf_bytes
from support.hostile import rejection
from support.real_model import SMOLLM2
from support.sweeps import in_sweep
from support.tiny_gpt2 import IN_GGUF, tiny_gpt2, write_gpt2_gguf
from support.tiny_models import tiny_model, write_gguf

from microgpt_trace import load, read_survey, survey
from microgpt_trace.arrays.encodings import ENCODINGS, StoredTensor
from microgpt_trace.errors import FileFormatError, RunError
from microgpt_trace.surveying.imatrix import (
    Imatrix,
    SquaredInputs,
    imatrix_bytes,
    imatrix_of,
    is_imatrix,
    read_imatrix,
    write_imatrix,
)
from microgpt_trace.surveying.state import weights_of

# Two experts with three inputs, of which the second has no rows, and a matrix with five inputs
EXPERTS = SquaredInputs(np.array([[1.5, 2, 0.25], [0, 0, 0]]), np.array([7, 0]))
MATRIX = SquaredInputs(np.array([[1e-30, 3.0, 0.1, 1e30, 0]]), np.array([1 << 20]))
SOME = Imatrix(
    {"blk.2.ffn_down.weight": MATRIX, "blk.10.ffn_up_exps.weight": EXPERTS}, ("a.txt", "Wörter␣"), 3, 512
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "imatrix.gguf"


def assert_same(imatrix, other):
    """Compare two importance matrices, the sums in float32."""
    for name in ("datasets", "chunk_count", "chunk_size"):
        assert getattr(imatrix, name) == getattr(other, name)
    assert imatrix.entries.keys() == other.entries.keys()
    for name, expected in imatrix.entries.items():
        got = other.entries[name]
        np.testing.assert_array_equal(expected.sums.astype(np.float32), got.sums, strict=False)
        np.testing.assert_array_equal(expected.counts, got.counts, strict=True)
        assert (got.sums.dtype, got.sums.shape) == (np.float64, expected.sums.shape)


# --- Writing ----------------------------------------------------------------------------------


def test_the_package_gguf_reads_our_file(path):
    gguf = pytest.importorskip("gguf")
    write_imatrix(path, SOME)
    reader = gguf.GGUFReader(path)
    names = [name for name in reader.fields if not name.startswith("GGUF.")]
    assert {name: reader.fields[name].contents() for name in names} == {
        "general.type": "imatrix",
        "imatrix.datasets": ["a.txt", "Wörter␣"],
        "imatrix.chunk_count": 3,
        "imatrix.chunk_size": 512,
    }
    assert {reader.fields[f"imatrix.chunk_{own}"].types[0].name for own in ("count", "size")} == {"UINT32"}
    stored = [(t.name, t.tensor_type.name, t.shape.tolist(), t.data.tolist()) for t in reader.tensors]
    rounded = MATRIX.sums.astype(np.float32)[0].tolist()
    assert stored == [  # shapes in the order of GGUF, fastest dimension first, without a last 1
        ("blk.10.ffn_up_exps.weight.in_sum2", "F32", [3, 2], EXPERTS.sums.tolist()),
        ("blk.10.ffn_up_exps.weight.counts", "F32", [1, 2], [[7.0], [0.0]]),
        ("blk.2.ffn_down.weight.in_sum2", "F32", [5], rounded),
        ("blk.2.ffn_down.weight.counts", "F32", [1], [float(1 << 20)]),
    ]
    assert all(tensor.data_offset % 32 == 0 for tensor in reader.tensors)


def test_the_bytes_do_not_depend_on_the_order_of_weights():
    reverse = Imatrix(dict(reversed(SOME.entries.items())), SOME.datasets, 3, 512)
    assert imatrix_bytes(reverse) == imatrix_bytes(SOME)
    assert len(imatrix_bytes(SOME)) % 32 == 0


@pytest.mark.parametrize(("value", "text"), [(1e39, "1e+39"), (np.nan, "nan"), (np.inf, "inf")])
def test_refuses_to_write_sums_that_are_not_finite_in_float32(path, value, text):
    wrong = SquaredInputs(np.array([[1.0, 2.0, value]]), np.array([1]))
    message = rf"blk\.0\.w: the squares of input channel 2 add up to {re.escape(text)}, which"
    with pytest.raises(RunError, match=message):
        write_imatrix(path, Imatrix({"blk.0.w": wrong}, (), 0, 0))
    assert not path.exists()


# --- Reading ----------------------------------------------------------------------------------


@pytest.mark.parametrize("imatrix", [SOME, Imatrix(SOME.entries, (), 0, 0)], ids=["some", "no datasets"])
def test_reads_our_file(path, imatrix):
    write_imatrix(path, imatrix)
    assert_same(imatrix, read_imatrix(path))
    assert imatrix_bytes(read_imatrix(path)) == path.read_bytes()


def test_reads_a_file_of_the_package_gguf(path):
    """It also has sums of inputs, as in some versions of llama.cpp, and one count for two rows."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "")
    writer.kv_data[0].clear()  # no architecture
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["a.txt"])
    writer.add_uint32("imatrix.chunk_count", 2)
    writer.add_uint32("imatrix.chunk_size", 64)
    sums = np.arange(6, dtype=np.float32).reshape(2, 3)
    counts = np.full((1, 1), 128, np.float32)
    for ending, values in (("in_sum", -sums), ("counts", counts), ("in_sum2", sums)):
        writer.add_tensor(f"blk.0.attn_k_b.weight.{ending}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    one = SquaredInputs(sums.reshape(1, 6).astype(np.float64), np.array([128]))
    assert_same(Imatrix({"blk.0.attn_k_b.weight": one}, ("a.txt",), 2, 64), read_imatrix(path))


METADATA = {
    "general.type": "imatrix", "imatrix.datasets": ["a"], "imatrix.chunk_count": 1, "imatrix.chunk_size": 2
}  # fmt: skip
TENSORS = {"w.in_sum2": [[1, 2, 3, 4]], "w.counts": [[5]]}


def small_file(changes=(), tensors=()):
    """Return the bytes of a small file with changed metadata and tensors. None removes one. A tensor is given
    by its numbers, or by the name of an encoding for 32 elements."""
    metadata = {key: value for key, value in (METADATA | dict(changes)).items() if value is not None}
    stored = []
    for name, values in (TENSORS | dict(tensors)).items():
        if isinstance(values, str):
            stored.append(StoredTensor(name, ENCODINGS[values], (1, 32), np.zeros(64, np.uint8)))
        elif values is not None:
            array = np.asarray(values, "<f4")
            stored.append(StoredTensor(name, ENCODINGS["F32"], array.shape, array.reshape(-1).view(np.uint8)))
    return gguf_bytes(metadata, stored)


SIGNALLING = np.full((1, 4), 0x7F800001, np.uint32).view(np.float32)
BAD = {
    "a model": ({"general.type": "model"}, {}, "(general.type 'imatrix'), found 'model'"),
    "numbers for a type": ({"general.type": [1, 2]}, {}, "(general.type 'imatrix'), found [1, 2]"),
    "no datasets": ({"imatrix.datasets": None}, {}, "'imatrix.datasets' is missing"),
    "a dataset": ({"imatrix.datasets": "a"}, {}, "imatrix.datasets: expected a list of texts, found 'a'"),
    "many datasets": ({"imatrix.datasets": ["a"] * 1025}, {}, "expected at most 1,024 texts, found 1,025"),
    "no count of chunks": ({"imatrix.chunk_count": None}, {}, "'imatrix.chunk_count' is missing"),
    "a text of a size": (
        {"imatrix.chunk_size": "2"},
        {},
        "chunk_size: expected a whole number below 2^31, found '2'",
    ),
    "nothing": ({}, {"w.in_sum2": None, "w.counts": None}, "end in .in_sum2 and .counts, found none"),
    "no sums": ({}, {"w.in_sum2": None}, "tensor 'w.in_sum2' is missing"),
    "both endings": ({}, {"w.counts.in_sum2": [[1]]}, "tensor 'w.counts.counts' is missing"),
    "three counts of four": ({}, {"w.counts": [[5]] * 3}, "4 sums do not match the counts [5.0, 5.0, 5.0]"),
    "no rows": ({}, {"w.counts": np.ones((0, 1))}, "tensor 'w.counts' is empty"),
    "other numbers": ({}, {"w.in_sum2": "Q8_0"}, "tensor 'w.in_sum2': expected F32, found Q8_0"),
    "no number": ({}, {"w.in_sum2": [[1, np.nan, 3, 4]]}, "expected numbers of at least 0, found nan"),
    "a signalling NaN": ({}, {"w.in_sum2": SIGNALLING}, "expected numbers of at least 0, found nan"),
    "a count below 0": ({}, {"w.counts": [[-1]]}, "tensor 'w.counts': expected numbers of at least 0"),
    "a huge count": ({}, {"w.counts": [[1e30]]}, "weight 'w': 4 sums do not match the counts [1"),
}


@pytest.mark.parametrize(("changes", "tensors", "expected"), BAD.values(), ids=BAD)
def test_refuses_invalid_files_in_one_line(path, changes, tensors, expected):
    path.write_bytes(small_file(changes, tensors))
    message = rejection(path, read_imatrix)
    assert expected in message
    assert message.startswith(f"{path}: ")
    assert is_imatrix(path) == (changes.get("general.type", "imatrix") == "imatrix")


def test_reads_the_small_file_without_changes(path):
    path.write_bytes(small_file())
    one = SquaredInputs(np.array([[1.0, 2, 3, 4]]), np.array([5]))
    assert_same(Imatrix({"w": one}, ("a",), 1, 2), read_imatrix(path))


def test_a_file_that_is_cut_off_or_has_a_wrong_byte_is_read_or_refused(path):
    whole = imatrix_bytes(SOME)
    rng = np.random.default_rng(3)
    for at in range(0, len(whole) - 32, 7):  # the last bytes are padding
        path.write_bytes(whole[:at])
        with pytest.raises(FileFormatError):
            read_imatrix(path)
        path.write_bytes(whole[:at] + rng.bytes(1) + whole[at + 1 :])
        with suppress(FileFormatError):
            read_imatrix(path)


# --- The events that weights read -------------------------------------------------------------

FILES = ("llama_tied", "qwen3", *IN_GGUF, *map(in_sweep, ("llama_gqa", "mistral", "qwen2", "qwen2_tied")))


def file_of(case, path):
    return write_gpt2_gguf(path, *tiny_gpt2(case)) if case in IN_GGUF else write_gguf(path, *tiny_model(case))


@pytest.mark.parametrize("case", FILES)
def test_every_matrix_of_a_file_and_no_other_tensor_has_an_event(case, path):
    gguf = pytest.importorskip("gguf")
    model = load(file_of(case, path))
    shapes = {t.name: t.shape.tolist() for t in gguf.GGUFReader(path).tensors if len(t.shape) == 2}
    events = weights_of(model)
    output = min({"output.weight", "token_embd.weight"} & {*shapes})
    assert {*events} == {output, *(name for name in shapes if name.startswith("blk."))}
    assert events[output] == "final.norm"
    widths = {name: model.plan.shapes(1)[event][-1] for name, event in events.items()}
    assert widths == {name: shapes[name][0] for name in events}


def by_transformers(folder, architecture, tokens):
    """Return the sums of squared inputs of every linear layer, [in] float64, by names in GGUF."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    gguf = pytest.importorskip("gguf")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture], model.config.num_hidden_layers)
    sums = {}

    def listen(module, name):
        def hook(_, inputs):
            sums[name] = inputs[0].double().square().reshape(-1, inputs[0].shape[-1]).sum(0).numpy()

        module.register_forward_pre_hook(hook)

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | transformers.pytorch_utils.Conv1D):
            listen(module, names.get_name(f"{name}.weight", try_suffixes=(".weight",)))
    with torch.no_grad():
        model(torch.tensor([tokens]))
    return sums


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
@pytest.mark.parametrize("case", ["llama_tied", "gpt2", *map(in_sweep, ("qwen3", "gpt2_untied", "qwen2"))])
def test_the_sums_are_those_of_the_inputs_in_transformers(case, decoder_folder, gpt2, tmp_path):
    folder = gpt2(case)[0] if case.startswith("gpt2") else decoder_folder(case)
    model, text = load(folder), tmp_path / "text.txt"
    text.write_text("abcab\n")
    entries = imatrix_of(survey(model, text), with_output=True).entries
    tokens = model.read("abcab").tokens
    expected = by_transformers(folder, case.partition("_")[0].upper(), tokens)
    if model.config.tied:
        expected["token_embd.weight"] = expected.pop("output.weight")
    assert entries.keys() == expected.keys()
    assert {int(own.counts[0]) for own in entries.values()} == {len(tokens)}
    worst = max(np.abs(own.sums[0] / expected[name] - 1).max() for name, own in entries.items())
    print(f"{case}: largest relative difference {worst:.1e}")
    assert worst < 1e-4


@pytest.mark.sweep
@pytest.mark.skipif(shutil.which("llama-quantize") is None, reason="llama-quantize is not on the path")
@pytest.mark.skipif(SMOLLM2 is None, reason="SmolLM2 is not installed")
def test_llama_quantize_finds_all_weights_of_the_layers(tmp_path):
    (tmp_path / "texts.txt").write_text("The capital of France is Paris.\nWater boils at 100 degrees.\n")
    survey(load(SMOLLM2), tmp_path / "texts.txt", out=tmp_path / "a.survey.safetensors")
    write_imatrix(tmp_path / "a.gguf", imatrix_of(read_survey(tmp_path / "a.survey.safetensors")))
    words = ["llama-quantize", "--allow-requantize", "--imatrix", tmp_path / "a.gguf", SMOLLM2]
    done = subprocess.run([*words, tmp_path / "q.gguf", "Q2_K"], capture_output=True, text=True, timeout=300)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-500:]
    assert "210 importance matrix entries" in output
    assert "did not find weights" not in output
