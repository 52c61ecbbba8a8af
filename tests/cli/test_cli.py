"""The real executable: results, exit codes, one line per error, and narrow or ASCII terminals."""

import json
import os
import re
import signal
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.commands import environment, microgpt, process, refusal, refused, start_process
from support.documents import valid, valid_lines
from support.sweeps import in_sweep

from microgpt_trace import Config, Tokenizer, init, load, save
from microgpt_trace.cli import COMMANDS

STAGES = [
    "Stage 1: Embedding", "Stage 2: Multi-Head Self-Attention", "Stage 3: MLP (FFN)",
    "Stage 4: Language Model Head",
]  # fmt: skip


@pytest.mark.parametrize(("width", "encoding"), [(80, "utf-8"), (120, "ascii")])
def test_trace_prints_the_transcript(width, encoding):
    result = microgpt("trace", "emma", width=width, encoding=encoding)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0] == 'Input: "emma" %s tokens [0, 5, 13, 13, 1]' % ("->" if encoding == "ascii" else "→")
    for wanted in STAGES:
        assert any(line.startswith(wanted) for line in lines), wanted
    places = [result.out.index(stage) for stage in STAGES]
    assert places == sorted(places)
    assert "[5, 16]  8.94" in result.out
    assert max(map(len, lines)) <= width + (encoding == "ascii") * 8  # "->" is wider than its arrow
    assert result.out.isascii() == (encoding == "ascii")
    assert "Self-check: 6 of 6 hold" in result.out


@pytest.mark.parametrize("line", [
    "trace -v --step --top-k 9 --ablate layer0.mlp.act", "explain layer0.attn.weights[1,3,2] emma --backward",
    "attribute emma",
    "patch christopher kristopherr --target e --against a --sites layer0.attn.v@-1:0-3 --sites *.head*",
    "patch --pairs pairs.txt", "diff one.safetensors two.safetensors --positions all", "timeline t.jsonl",
    "trace qwen2 'Hello you'", "trace qwen2 'Hello you' -v --lens --generate 3",
    "trace qwen2 'Hello you' --layer layer1.* --time",
])  # fmt: skip
def test_a_terminal_without_unicode_gets_ascii_and_no_escapes(results, line):
    done = microgpt(line, cwd=results, encoding="ascii", NO_COLOR="1")
    assert done.code in (0, 1), done.err
    assert done.out.isascii()
    assert not re.search(r"\x1b|\\x|\\u", done.out)
    assert max(map(len, done.out.splitlines())) <= 80 + 8 * line.startswith("trace")


def test_a_process_writes_in_the_encoding_of_its_streams(tmp_path):
    save(init(tokenizer=Tokenizer("éz")), tmp_path / "m")
    shown = process("trace", "é", "--model", tmp_path / "m", PYTHONIOENCODING="ascii")
    assert (shown.code, shown.out.isascii()) == (0, True), shown.err
    assert 'Input: "\\xe9" -> tokens' in shown.out
    assert "\\xe8" in refused(process("trace", "è", "--model", tmp_path / "m", PYTHONIOENCODING="ascii"))


@pytest.mark.parametrize("text", ["emma", "a" * 15])
def test_verbose_adds_events_parameters_and_matrices(text):
    output = microgpt("trace", text, "-v", width=80).out
    for wanted in ("q = x_n @ wq", "scores = q @ k.T", "w_fc1 = layer0.mlp_fc1.T", "NaN/Inf", "head 3"):
        assert wanted in output
    assert re.search(r"BOS █100", output)
    assert max(map(len, output.splitlines())) <= 80


def test_each_layer_has_a_header(checkpoints):
    output = microgpt("trace", "a", "--model", checkpoints["deep"]).out
    assert "Layer 0" in output
    assert output.count("Stage 3: MLP (FFN)") == 2


def test_backward_and_step():
    output = microgpt("trace", "--step", width=80).out
    assert "Backward pass" in output
    assert re.search(r"Adam step 1 \(lr 0.01, fresh moments\): loss 3.1700 → 2.6\d+", output)
    assert "Self-check: 7 of 7 hold" in output


@pytest.mark.parametrize(
    "options", [in_sweep([]), ["--step", "--values", "--verbose", "--top-k", "5"], in_sweep(["--time"])]
)
def test_json_validates_against_the_printed_schema(options):
    events = valid(microgpt("trace", "emma", "--json", *options).out, "trace")["events"]
    lines = valid_lines(microgpt("trace", "emma", "--jsonl", *options).out, "trace")
    assert [line["name"] for line in lines if line["record"] == "event"] == [e["name"] for e in events]


def test_a_model_with_nan_has_a_headline_and_a_valid_document(checkpoints):
    shown = microgpt("trace", "--model", checkpoints["broken"])
    assert "Not finite: embed.pos, position 2, element [2, 5] = NaN" in shown.out
    result = microgpt("trace", "--json", "--verbose", "--values", "--model", checkpoints["broken"])
    assert (shown.code, result.code) == (1, 1)
    assert valid(result.out, "trace")["loss"] == "NaN"


def test_values_and_save_hold_the_same_arrays(tmp_path):
    saved = tmp_path / "arrays.safetensors"
    result = microgpt("trace", "--backward", "--json", "--values", "--save", saved)
    arrays = load_file(saved)
    for event in json.loads(result.out)["events"]:
        key = event["name"] if event["phase"] == "forward" else f"backward/{event['name']}"
        np.testing.assert_array_equal(np.float32(event["values"]), arrays.pop(key))
    assert arrays == {}


def test_show_and_save_do_not_disturb_each_other(tmp_path):
    saved = tmp_path / "arrays.safetensors"
    options = ["--layer", "logits", "--save", saved, "--show", "layer0.attn.q"]
    output = microgpt("trace", *options).out
    assert "layer0.attn.q  5×16 float32" in output
    assert list(load_file(saved)) == ["logits"]


def test_out_writes_utf8_and_does_not_overwrite(tmp_path):
    out = tmp_path / "trace.txt"
    assert microgpt("trace", "--out", out).code == 0
    assert "√(5·16)" in out.read_text(encoding="utf-8")
    refused(microgpt("trace", "--out", out), "exists already", "--force")
    assert microgpt("trace", "--out", out, "--force", "--json").code == 0
    assert json.loads(out.read_text(encoding="utf-8"))["schema"] == "microgpt.trace/1"


def test_the_empty_text_traces_bos_alone():
    document = json.loads(microgpt("trace", "", "--json").out)
    assert document["input"]["tokens"] == [0]
    assert len(document["predictions"]) == 1


@pytest.mark.parametrize(("args", "words"), [
    (["trace", "--payload", "é"], ["'é'"]), (["trace", "--payload", "--diff"], ["microgpt diff"]),
    (["sample", "--model", "bare", "--n-head", "4", "--prefix", "é"], ["'é'"]),
    (["train", "--steps", "2", "--data", "names", "--watch", "é"], ["'é'"]),
    (["train", "--steps", "2", "--data", "wrong"], ["none of its 2 lines fits"]),
    (["timeline", "cut", "--plot", "loss=a.svg"], ["a curve needs at least 2 steps"]),
])  # fmt: skip
def test_a_refusal_prints_no_notes(tmp_path, args, words):
    """Each of these commands would print a note if it were not refused."""
    save_file(dict(init().params.items()), tmp_path / "bare")
    (tmp_path / "names").write_text("emma\nava\n1234\nmia\n")
    (tmp_path / "wrong").write_text("1234\n5678\n")
    train = ["train", "--steps", "4", "--data", "names", "--log", "log", "--trace-every", "2"]
    assert microgpt(*train, cwd=tmp_path).code == 0
    start = (tmp_path / "log").read_text().partition('{"record": "step"')[0]
    (tmp_path / "cut").write_text(start + '{"record"')
    (tmp_path / "microgpt.safetensors").unlink()
    refused(microgpt(*args, cwd=tmp_path), *words)


def test_weights_without_metadata_show_what_is_assumed(tmp_path, checkpoints):
    tensors = load_file(checkpoints["trained"])
    path = tmp_path / "bare.safetensors"
    save_file({name: tensor for name, tensor in tensors.items() if not name.startswith("adam")}, path)
    output = microgpt("trace", "emma", "--model", path).out
    assert "4 heads (--n-head)" in output
    assert "BOS first" in output
    output = microgpt("trace", "emma", "--model", path, "--bos", "last", "--n-head", "2").out
    assert "tokens [26, 4, 12, 12, 0]" in output
    assert "assumed" not in output


def test_training_writes_a_checkpoint_and_prints_how_to_trace_it(tmp_path):
    result = microgpt("train", "--steps", "40", cwd=tmp_path, width=80)
    assert result.code == 0, result.err
    assert "microgpt trace emma --model microgpt.safetensors" in result.out
    assert re.search(r"held out  3\.\d{4} → 2\.\d{4}", result.out)
    assert result.err == ""
    assert microgpt("sample", "-n", "3", cwd=tmp_path).out.count("\n") == 3
    refused(microgpt("train", cwd=tmp_path), "exists already", "--force", "--resume")


HINT = "--vocab data uses the characters of the data"


def test_suggests_vocab_data_for_names_with_other_characters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "names.txt"
    words = "train --data names.txt --steps 1"
    data.write_text("emma\nNew York\n")
    (left_out,) = [line for line in microgpt(f"{words} --out a.safetensors").lines if "left out" in line]
    assert left_out.endswith(f"(first: line 2: 'New York'); {HINT}")
    data.write_text("日本\nNew York\nZoë\n")
    assert refusal(f"{words} --out b.safetensors").endswith(HINT)
    done = microgpt(f"{words} --out b.safetensors --vocab data")
    assert (done.code, HINT in done.err) == (0, False)
    data.write_text(f"emma\n{'a' * 40}\n")
    done = microgpt(f"{words} --out c.safetensors")  # too long, whatever the vocabulary
    assert (done.code, HINT in done.err) == (0, False)


def test_a_resumed_run_ends_with_the_same_checkpoint(tmp_path):
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    steps = 3000
    assert microgpt("train", "--steps", steps, "--out", whole).code == 0
    with start_process("train", "--steps", steps, "--out", half, "--autosave", 0.02) as running:
        while not half.exists() and running.poll() is None:
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        message = running.stderr.read()
    print(message)
    assert running.returncode == 130
    assert f"microgpt train --resume {half}" in message.replace("\n", " ")
    (tmp_path / "other.txt").write_text("anna\nbob\n")
    for option, said in (("--lr 0.5", "--lr 0.5 contradicts"), ("--n-layer 3", "--n-layer 3 contradicts"),
                         (f"--data {tmp_path / 'other.txt'}", "other data")):  # fmt: skip
        refused(microgpt(f"train --resume {half} {option}"), said)
    assert microgpt("train", "--resume", half).code == 0
    refused(microgpt("train", "--resume", half), "nothing is left")
    expected, found = load_file(whole), load_file(half)
    assert {name: tensor.tobytes() for name, tensor in expected.items()} == {
        name: tensor.tobytes() for name, tensor in found.items()
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--steps 50 --lr 1e20", r"step \d+: the loss is \w+; the first event that is not finite is \S+"),
        ("--steps 1 --lr 1e38", r"not finite[^\n]*\n$"),  # by the last update
    ],
)
def test_a_run_that_diverges_is_not_saved(tmp_path, options, said):
    result = microgpt(f"train {options} --out m.safetensors", cwd=tmp_path)
    print(result.err)
    assert result.code == 1
    assert re.search(said, result.err)
    assert "no checkpoint was written" in result.err
    assert not [*tmp_path.iterdir()]


def test_gradcheck_compares_every_gradient(tmp_path):
    model = init(Config(n_embd=4, n_head=1))
    save(model, tmp_path / "m")
    result = microgpt("gradcheck", "ava", "--model", tmp_path / "m")
    assert result.code == 0
    assert "all 1,089 gradients agree" in result.out
    model.params["wpe"][2, 3] = np.nan
    save(model, tmp_path / "broken")
    assert microgpt("gradcheck", "ava", "--model", tmp_path / "broken").code == 1


def test_refuses_to_write_to_a_pipe(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    refused(microgpt("trace", "--out", fifo, "--force"), "regular file")
    assert fifo.is_fifo()


def test_no_number_is_cut_in_a_narrow_terminal():
    output = microgpt("trace", "--backward", "--top-k", "3", "--time", width=40).out
    assert "…" not in output
    assert "Top 3" in output
    assert " µs" in output


def test_no_color_and_no_terminal_have_no_escapes():
    assert "\x1b" not in microgpt("trace", "-v").out
    assert "\x1b[" in microgpt("trace", FORCE_COLOR="1").out
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", microgpt("trace", FORCE_COLOR="1", NO_COLOR="1").out)


def test_help_loads_no_numpy():
    code = (
        "import sys; from microgpt_trace.cli import COMMANDS, build\n"
        "for name in (*COMMANDS, None):\n"
        "    try: build(COMMANDS)([*filter(None, [name]), '--help'])\n"
        "    except SystemExit as done: print(name, done.code, 'numpy' in sys.modules)"
    )
    result = process(code=code, cwd="/")
    for name in (*COMMANDS, None):
        assert f"\n{name} 0 False\n" in result.out, result.err
    assert result.out.count("Usage") == len(COMMANDS) + 1
    assert result.out.count("Examples") == len(COMMANDS)


def test_a_command_loads_no_library_to_read_its_options():
    code = (
        "import sys; from microgpt_trace.cli import main\n"
        "sys.argv = ['microgpt', 'trace', 'emma', '--seed', '3', '--top-k', '2', '--model', 'none.gguf']\n"
        "try: main()\n"
        "finally: assert 'pydantic' not in sys.modules, 'pydantic is loaded'"
    )
    assert "none.gguf" in refused(process(code=code))


def test_version_and_no_command():
    assert re.fullmatch(r"microgpt \d+\.\d+\.\d+\n", microgpt("--version").out)
    assert "Usage" in microgpt().out


def test_ctrl_c_ends_silently(checkpoints):
    with start_process("sample", "-n", 10_000_000, "--model", checkpoints["trained"]) as running:
        running.stdout.readline()
        running.send_signal(signal.SIGINT)
        _, message = running.communicate(timeout=60)
    assert (running.returncode, message) == (130, "")


AT_THE_END = """
import atexit, threading, weakref
class Cache: pass
cache = Cache()
weakref.finalize(cache, print, "finalized", flush=True)
atexit.register(print, "left", flush=True)
threading.Thread(target=lambda: (threading.main_thread().join(), print("joined", flush=True))).start()
"""


@pytest.mark.parametrize(("words", "code"), [("trace emma", 0), ("trace emma --seed -1", 2)])
def test_calls_functions_that_others_registered_for_the_exit(tmp_path, words, code):
    """Such as the report of a coverage tool, the removal of a cache, or a thread that still writes."""
    (tmp_path / "sitecustomize.py").write_text(AT_THE_END)
    done = process(*words.split(), PYTHONPATH=os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]]))
    assert done.code == code, done.err
    assert {"finalized", "left", "joined"} <= {*done.out.splitlines()}


# --- inspect --------------------------------------------------------------------------------------


def test_a_document_has_every_parameter_with_its_statistics(checkpoints):
    assert "layer0.mlp_fc2  [16, 64]  1,024" in microgpt("inspect", "--model", checkpoints["trained"]).out
    document = valid(microgpt("inspect", "--json").out, "inspect")
    assert [row["name"] for row in document["parameters"]][:3] == ["wte", "wpe", "lm_head"]
    assert sum(row["stats"]["count"] for row in document["parameters"]) == 4192
    assert document["model"]["parameters"] == 4192


@pytest.mark.parametrize("options", [(), ("--metadata",), ("--stats", "--filter", "*attn*")])
def test_a_document_has_the_tensors_as_they_are_stored(compared_folders, options):
    decoder = compared_folders["llama_gqa"]
    document = valid(microgpt("inspect", decoder, *options, "--json").out, "inspect")
    tensors = load(decoder).tensors
    rows = {row["name"]: row for row in document["parameters"]}
    assert set(rows) == {name for name in tensors if "--filter" not in options or "attn" in name}
    for name, row in rows.items():
        assert (row["stored_as"], row["bytes"]) == (tensors[name].name, tensors[name].data.size)
        assert (row["stats"] is not None) == ("--stats" in options)
    assert (document["metadata"] is not None) == ("--metadata" in options)
