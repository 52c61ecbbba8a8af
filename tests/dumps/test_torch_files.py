"""Read .pt files without torch. Judges: torch.load, and a file written by hand."""

import io
import os
import subprocess
import sys
from collections import OrderedDict
from random import Random

import numpy as np
import pytest
from attacks.formats.dumps import everything
from attacks.formats.torch_files import LONG, dict_of, hostile_file, pt_bytes, tensor, text
from support.commands import microgpt
from support.commands import refused as command_refused
from support.dump_writing import numbers, reasons, refused, write_folder
from support.hostile import open_safely
from support.sweeps import some_of

from microgpt_trace.dumps.formats import is_recording, open_recording
from microgpt_trace.dumps.torch_files import torch_arrays


def write_pt(path, program, storages=(), **files):
    path.write_bytes(pt_bytes(program, storages, **files))
    return path


SIX = np.arange(6, dtype="<f4")


def test_reads_a_file_written_by_hand(tmp_path):
    ids = tensor(3, 0, (3,), (1,), "1", LONG)
    held = dict_of({"logits": tensor(), "ids": ids, "step": b"K\x05"})
    path = write_pt(tmp_path / "a.pt", held, [SIX.tobytes(), np.arange(3).tobytes()], byteorder=b"little")
    recording = open_recording(path)
    assert is_recording(path)
    assert (recording.kind, recording.tokens, recording.notes) == (
        ".pt file",
        (0, 1, 2),
        ("not read: 'step'",),
    )
    np.testing.assert_array_equal(recording.tensors["logits"].read(), SIX.reshape(2, 3))


def test_reads_a_folder_of_both_formats_and_names_its_tensors(tmp_path):
    folder = write_folder(tmp_path / "d", {"final.norm": numbers(2, 3)})
    (folder / "deep").mkdir()
    write_pt(folder / "deep/logits.pt", tensor(), [SIX.tobytes()])
    assert open_recording(folder).kind == ".npy and .pt files"
    write_pt(folder / "a.pth", dict_of({"x": tensor()}), [SIX.tobytes()])
    assert reasons(open_recording(folder)).keys() == {"deep/logits.pt", "x"}
    write_pt(folder / "b.pt", dict_of({"x": tensor()}), [SIX.tobytes()])
    assert reasons(open_recording(folder)).keys() == {"deep/logits.pt", "a/x", "b/x"}


# What the file holds, and the words of its error
REFUSED = {
    "os.system": (b"cposix\nsystem\n" + text("touch hacked") + b"\x85R", "'posix.system'"),
    "eval": (b"c__builtin__\neval\n" + text("1") + b"\x85R", "'__builtin__.eval'"),
    "an array of NumPy": (b"cnumpy._core.multiarray\n_reconstruct\n", "numpy._core.multiarray._reconstruct"),
    "a set": (b"\x8f", "EMPTY_SET"),
    "an object": (b")\x81", "NEWOBJ"),
    "an instance": (b"(iposix\nsystem\n", "INST"),
    "an extension": (b"\x82\x01", "EXT1"),
    "a call of a number": (b"K\x01)R", "a call of 1"),
    "a call of a type": (b"ctorch\nFloatStorage\n)R", "a call of 'torch.FloatStorage'"),
    "a beginning past the storage": (tensor(offset=1), "up to 5, found 6"),
    "a stride past the storage": (tensor(strides=(4, 1)), "up to 5, found 6"),
    "a negative stride": (tensor(strides=(-3, 1)), "found -3"),
    "a negative offset": (tensor(offset=-1), "found -1"),
    "another number of strides": (tensor(strides=(1,)), "[2, 3] with 1 strides"),
    "an expansion": (tensor(shape=(1 << 40, 1), strides=(0, 0)), "unpacked to 4,398,046,511,104"),
    "another size": (tensor(count=7), "expected 28 bytes in the storage '0', found 24"),
    "a missing storage": (tensor(key="../../etc/passwd"), "expected 'data/../../etc/passwd' in the archive"),
    "a list in itself": (b"]q\x00h\x00a", "nested at most 64 deep"),
    "lists of lists": (b"]" + b"(" + b"K\x00" * 40 + b"eq\x00" + b"](h\x00h\x00eq\x00" * 20, "65,536 values"),
    "a huge text": (b"X\xff\xff\xff\xff", "damaged"),
    "a missing memo": (b"j\xff\xff\xff\xff", "damaged"),
    "an empty stack": (b"0", "POP"),
    "many opcodes": (b"N" * (1 << 20), "at most 524,288 opcodes"),
    "an odd key": (b"}(K\x01\x85K\x02u", "as keys of a dict, found (1,)"),
    "two equal names": (
        b"}(" + text("a.b") + tensor() + text("a") + dict_of({"b": tensor()}) + b"u",
        "occurs twice",
    ),
    "parameters": (dict_of({"h.0.weight": tensor()}), "parameters of a model ('h.0.weight')"),
    "no tensors": (b"}", "expected a dump of tensors, found none"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refuses_other_content_by_name_and_runs_nothing(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "system", lambda command: pytest.fail("the file was run"))
    program, words = REFUSED[what]
    refused(write_pt(tmp_path / "a.pt", program, [SIX.tobytes()]), words)


def test_refuses_old_files_and_big_endian_numbers(tmp_path):
    (tmp_path / "old.pt").write_bytes(bytes.fromhex("80028a0a6cfc9c46f920") + bytes(40))
    assert is_recording(tmp_path / "old.pt")
    refused(tmp_path / "old.pt", "torch 1.6 or newer", "save it again")
    refused(
        write_pt(tmp_path / "big.pt", tensor(), [SIX.tobytes()], byteorder=b"big"), "expected little", "big"
    )


def test_commands_name_a_checkpoint_given_as_a_dump_or_a_model(tmp_path):
    path = write_pt(tmp_path / "a.pt", dict_of({"h.0.weight": tensor()}), [SIX.tobytes()])
    words = "parameters of a model ('h.0.weight'); save a model as safetensors"
    command_refused(microgpt("diff", path, path), words)
    words = "found a file of torch.save; save the parameters as safetensors"
    command_refused(microgpt("inspect", path), words)


def test_neither_torch_nor_pickle_reads_the_file(tmp_path):
    path = write_pt(tmp_path / "logits.pt", tensor(), [SIX.tobytes()])
    code = (
        "import sys; from microgpt_trace.dumps.formats import open_recording; from pathlib import Path\n"
        "sys.modules['torch'] = sys.modules['pickle'] = None\n"
        f"print(open_recording(Path({str(path)!r})).tensors['logits'].read().sum())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("15.0", "")


@pytest.mark.parametrize("seed", some_of(range(20), every=3))
def test_hostile_files_are_refused_or_opened_but_never_run(seed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        print(hostile_file(Random(f"{seed}/{number}"), tmp_path / "a.pt"))
        open_safely(tmp_path / "a.pt", everything, room=100 << 20)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


# --- Judged by torch --------------------------------------------------------------------------


def flat(value, name=""):
    """Yield the tensors of a value with their names."""
    torch = pytest.importorskip("torch")
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(one, f"{name}.{key}" if name else str(key))


def cases():
    torch = pytest.importorskip("torch")
    base = torch.from_numpy(numbers(6, 8))
    linear = torch.nn.Linear(3, 4)
    marked = torch.nn.Parameter(base[0])
    marked.note = "x"
    yield from (
        base,
        base.T,
        torch.tensor(2.5),
        torch.zeros(0, 3),
        base[:1].expand(5, 8),
        marked,
        linear.weight,
    )
    yield from ({"a": base, "b": {"c": [base, (base[1:4, 2:5], None, 3)]}}, OrderedDict(x=base))
    yield from ([base[::2], base.view(2, 3, 8).permute(2, 0, 1)], linear.state_dict())
    yield {f"key{i}": base[i % 6] for i in range(400)}
    yield {"s": torch.Size([2]), "d": torch.device("cuda:0"), "t": torch.bfloat16, "f": 1.5, "x": base}
    types = "float64 float16 bfloat16 float8_e4m3fn float8_e5m2 int64 int32 int16"
    for name in f"{types} int8 uint8 uint16 uint32 uint64 bool".split():
        yield (base * 100).abs().to(getattr(torch, name)).T
        if "float8" in name:
            yield torch.arange(256, dtype=torch.uint8).view(getattr(torch, name))  # all codes


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reads_the_bits_that_torch_reads(protocol, tmp_path):
    torch = pytest.importorskip("torch")
    count = 0
    for value in cases():
        stream = io.BytesIO()
        torch.save(value, stream, pickle_protocol=protocol)
        (tmp_path / "a.pt").write_bytes(stream.getvalue())
        arrays, _ = torch_arrays(tmp_path / "a.pt", "a.pt")
        stream.seek(0)
        expected = {name or "a.pt": one for name, one in flat(torch.load(stream, weights_only=False))}
        assert [array.name for array in arrays] == list(expected)
        for array, judge in zip(arrays, expected.values(), strict=True):
            one, found = judge.detach(), array.read()
            one = (one.float() if one.dtype.itemsize < 4 and one.is_floating_point() else one).numpy()
            assert (found.dtype, found.shape, array.shape) == (one.dtype, one.shape, one.shape)
            np.testing.assert_array_equal(found, one)
            if one.dtype.kind == "f":
                assert (np.signbit(found) == np.signbit(one))[~np.isnan(one)].all()
            count += 1
    print(count, "tensors")
    assert count > 400
