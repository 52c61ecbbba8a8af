"""The real executable: results, exit codes, one line per error, and what a terminal cannot show."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.commands import environment, microgpt, process, refused, started
from support.documents import valid, valid_lines

from microgpt_trace import Tokenizer, init, save, train

LABELS = [
    "tok_emb = one_hot(tokens) @ wte", "pos_emb = one_hot(pos) @ wpe", "x = tok_emb + pos_emb",
    "x = RMSNorm(x)", "x_n = RMSNorm(x) [pre-attn]", "head_0_out @ wo[0]", "head_1_out @ wo[1]",
    "head_2_out @ wo[2]", "head_3_out @ wo[3]", "x = x_res + attn_out [residual]",
    "x_n = RMSNorm(x) [pre-MLP]", "h = x_n @ w_fc1 [up project]", "h = ReLU(h)",
    "mlp_out = h @ w_fc2 [down project]", "x = x_res + mlp_out [residual]", "logits = x @ w_lm",
]  # fmt: skip
STAGES = [
    "Stage 1: Embedding",
    "Stage 2: Multi-Head Self-Attention",
    "Stage 3: MLP (FFN)",
    "Stage 4: Language Model Head",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "m.safetensors"
    save(train(steps=300), path)
    return path


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_trace_prints_the_transcript(width, encoding):
    result = microgpt("trace", "emma", width=width, encoding=encoding)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0] == 'Input: "emma" %s tokens [0, 5, 13, 13, 1]' % ("->" if encoding == "ascii" else "→")
    for wanted in STAGES + LABELS:
        assert any(line.startswith(wanted) for line in lines), wanted
    assert "[5, 16]  8.94" in result.out
    assert max(map(len, lines)) <= width + (encoding == "ascii") * 8  # "->" is wider than its arrow
    assert result.out.isascii() == (encoding == "ascii")
    assert "Self-check: 6 of 6 hold" in result.out


def test_a_process_writes_in_the_encoding_of_its_streams(tmp_path):
    save(init(tokenizer=Tokenizer("éz")), tmp_path / "m")
    shown = process("trace", "é", "--model", tmp_path / "m", PYTHONIOENCODING="ascii")
    assert (shown.code, shown.out.isascii()) == (0, True), shown.err
    assert 'Input: "\\xe9" -> tokens' in shown.out
    assert "\\xe8" in refused(process("trace", "è", "--model", tmp_path / "m", PYTHONIOENCODING="ascii"))


def test_stage_order_is_that_of_the_transcript():
    output = microgpt("trace").out
    places = [output.index(wanted) for wanted in STAGES]
    assert places == sorted(places)


def test_verbose_adds_events_parameters_and_matrices():
    output = microgpt("trace", "emma", "-v", width=80).out
    for wanted in ("q = x_n @ wq", "scores = q @ k.T", "w_fc1 = layer0.mlp_fc1.T", "NaN/Inf", "head 3"):
        assert wanted in output
    assert re.search(r"BOS █100", output)
    assert max(map(len, output.splitlines())) <= 80


def test_longest_name_keeps_its_matrix_within_80_columns():
    output = microgpt("trace", "a" * 15, "-v", width=80).out
    assert max(map(len, output.splitlines())) <= 80


def test_several_layers_get_their_headers(tmp_path):
    model = init_of(tmp_path, n_layer=2, n_head=2, n_embd=8)
    output = microgpt("trace", "--model", model).out
    assert "Layer 0" in output
    assert output.count("Stage 3: MLP (FFN)") == 2


def init_of(folder, **dimensions):
    from microgpt_trace import Config

    path = folder / "init.safetensors"
    save(init(Config(**dimensions)), path)
    return path


def test_backward_and_step():
    output = microgpt("trace", "--step", width=80).out
    assert "Backward pass" in output
    assert re.search(r"Adam step 1 \(lr 0.01, fresh moments\): loss 3.1700 → 2.6\d+", output)
    assert "Self-check: 7 of 7 hold" in output


def test_show_prints_every_number_with_its_labels():
    output = microgpt("trace", "em", "--show", "layer0.attn.weights", "--show", "lm_head", width=80).out
    assert "layer0.attn.weights  4×3×3 float32" in output
    assert re.search(r"^BOS +1\.000 +0\.000 +0\.000$", output, re.MULTILINE)
    assert re.search(r"^z +-?\d", output, re.MULTILINE)


def test_top_k_and_time():
    output = microgpt("trace", "--top-k", "3", "--time").out
    assert "Top 3" in output
    assert " µs" in output


def test_layer_shows_exactly_the_events(tmp_path):
    document = json.loads(microgpt("trace", "--layer", "layer0.mlp.*", "--json").out)
    kinds = ["norm", "up", "act", "down", "residual"]
    assert [event["name"] for event in document["events"]] == [f"layer0.mlp.{kind}" for kind in kinds]


@pytest.mark.parametrize("options", [[], ["--verbose"], ["--step", "--values"], ["--time"], ["--top-k", "5"]])
def test_json_validates_against_the_printed_schema(options):
    assert valid(microgpt("trace", "emma", "--json", *options).out, "trace")


def test_json_of_a_model_with_nan_validates_and_exits_1(tmp_path):
    result = microgpt("trace", "--json", "--verbose", "--values", "--model", broken_model(tmp_path))
    document = valid(result.out, "trace")
    assert result.code == 1
    assert document["loss"] == "NaN"


def broken_model(folder):
    model, path = init(), folder / "nan.safetensors"
    model.params["layer0.attn_wk"][3, 4] = np.nan
    save(model, path)
    return path


def test_a_model_with_nan_gets_a_headline(tmp_path):
    result = microgpt("trace", "--model", broken_model(tmp_path))
    assert result.code == 1
    assert "Not finite: layer0.attn.k, position 0, element [0, 3] = NaN" in result.out


def test_json_lines_validate_and_tell_the_same():
    lines = valid_lines(microgpt("trace", "--jsonl", "--step").out, "trace")
    events = json.loads(microgpt("trace", "--json", "--step").out)["events"]
    assert [line["name"] for line in lines if line["record"] == "event"] == [e["name"] for e in events]


def test_output_is_the_same_from_run_to_run():
    assert microgpt("trace", "--step", "-v").out == microgpt("trace", "--step", "-v").out


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


def test_upper_case_is_lowered_with_a_note():
    result = microgpt("trace", "EmMa")
    assert "'EmMa' was lowered to 'emma'" in result.out
    assert "tokens [0, 5, 13, 13, 1]" in result.out


def test_the_empty_text_traces_bos_alone():
    document = json.loads(microgpt("trace", "", "--json").out)
    assert document["input"]["tokens"] == [0]
    assert len(document["predictions"]) == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["trace", "José"], ["'é'", "position 3", "a..z", "'jose'"]),
        (["trace", "a" * 16], ["at most 15", "found 16"]),
        (["trace", "--model", "nope"], ["nope: no such file"]),
        (["trace", "--model", "."], ["found a folder"]),
        (["trace", "--bogus"], ["--bogus"]),
        (["trace", "emma", "extra"], ["extra"]),
        (["trace", "--top-k", "0"], ["--top-k"]),
        (["trace", "--seed", "x"], ["--seed"]),
        (["trace", "--bos", "middle"], ["--bos", "first"]),
        (["trace", "--n-head", "2"], ["--n-head", "--model"]),
        (["trace", "--layer", "layer7.*"], ["'layer7.*' matches no event"]),
        (["trace", "--layer", "qkv_bias"], ["no counterpart"]),
        (["trace", "--layer", "wte"], ["--backward"]),
        (["trace", "--show", "nothing"], ["matches no event"]),
        (["trace", "--json", "--jsonl"], ["exclude"]),
        (["trace", "--values"], ["--json"]),
        (["trace", "--json", "--show", "logits"], ["--show"]),
        (["trace", "--out", "no/such/place"], ["does not exist"]),
        (["trace", "--out", "x", "--save", "./x"], ["--save and --out both name"]),
        (["trace", "--save", "x", "--save-aprt", "x"], ["--save and --save-aprt both name x"]),
        (["trace", "--save-tensor", "all"], ["--save-aprt DIR or --save FILE", "--verbose all"]),
        (["trace", "--save-tensor-dir", "x"], ["--save-tensor-dir: use --save-aprt DIR"]),
        (["trace", "--prompt", "hi"], ["--prompt: the text needs no option"]),
        (["trace", "--interactive"], ["--interactive: use --html FILE"]),
        (["parity", "a.gguf"], ["parity: use `microgpt diff A B`"]),
        (["check", "a.gguf"], ["check: every `microgpt trace MODEL` checks itself"]),
        (["tensors", "a.gguf"], ["tensors: use `microgpt inspect MODEL`"]),
        (["canary", "create"], ["canary: use `microgpt trace MODEL --save FILE`"]),
        (["lint", "a.gguf"], ["lint: use `microgpt inspect MODEL --metadata`"]),
        (["tarce"], ["tarce"]),
        (["sample"], ["microgpt train"]),
        (["sample", "--model", "nope"], ["nope"]),
        (["inspect", "--model", "nope"], ["nope"]),
        (["gradcheck", "é"], ["'é'"]),
        (["train", "--steps", "0"], ["--steps"]),
        (["train", "--lr", "nan"], ["lr", "nan"]),
        (["train", "--n-head", "3"], ["n_embd 16", "n_head 3"]),
        (["train", "--data", "nope"], ["nope", "no such file"]),
        (["train", "--resume", "nope"], ["nope"]),
        (["train", "--out", "no/such/place"], ["does not exist"]),
        (["train", "--out", "."], ["folder"]),
        (["train", "--vocab", "greek"], ["--vocab"]),
        (["train", "--trace-every", "5"], ["--log"]),
    ],
)  # fmt: skip
def test_a_wrong_request_is_one_line(tmp_path, args, words):
    refused(microgpt(*args, cwd=tmp_path), *words)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["trace", "--payload", "é"], ["'é'"]),
        (["trace", "--payload", "--diff"], ["microgpt diff"]),
        (["sample", "--model", "bare", "--n-head", "4", "--prefix", "é"], ["'é'"]),
        (["train", "--steps", "2", "--data", "names", "--watch", "é"], ["'é'"]),
        (["train", "--steps", "2", "--data", "wrong"], ["none of its 2 lines fits"]),
        (["timeline", "cut", "--event", "layer7.*"], ["'layer7.*' matches no"]),
    ],
)
def test_no_note_stands_before_a_refusal(tmp_path, args, words):
    """Each of these has something to note as well, where it is not refused."""
    save_file(dict(init().params.items()), tmp_path / "bare")
    (tmp_path / "names").write_text("emma\nava\n1234\nmia\n")
    (tmp_path / "wrong").write_text("1234\n5678\n")
    train = ["train", "--steps", "4", "--data", "names", "--log", "log", "--trace-every", "2"]
    assert microgpt(*train, cwd=tmp_path).code == 0
    (tmp_path / "cut").write_text((tmp_path / "log").read_text() + '{"record"')
    (tmp_path / "microgpt.safetensors").unlink()
    refused(microgpt(*args, cwd=tmp_path), *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["0 bytes"]),
        (b"not a checkpoint at all", ["safetensors"]),
        (None, ["safetensors"]),  # a good one, cut short
    ],
)
def test_a_foreign_or_cut_checkpoint_is_one_line(tmp_path, checkpoint, content, words):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(checkpoint.read_bytes()[:9000] if content is None else content)
    refused(microgpt("trace", "--model", path), "bad.safetensors", *words)


def test_a_misshapen_checkpoint_names_the_tensor(tmp_path, checkpoint):
    tensors = load_file(checkpoint)
    path = tmp_path / "bad.safetensors"
    bare = {name: tensor for name, tensor in tensors.items() if not name.startswith("adam")}
    save_file({**bare, "layer0.attn_wq": np.zeros((3, 3), np.float32)}, path)
    refused(microgpt("inspect", "--model", path), "layer0.attn_wq", "[16, 16]", "[3, 3]")


def test_bare_weights_say_what_is_assumed(tmp_path, checkpoint):
    bare = {name: tensor for name, tensor in load_file(checkpoint).items() if not name.startswith("adam")}
    path = tmp_path / "bare.safetensors"
    save_file(bare, path)
    output = microgpt("trace", "emma", "--model", path).out
    assert "4 heads (--n-head)" in output
    assert "BOS first" in output
    output = microgpt("trace", "emma", "--model", path, "--bos", "last", "--n-head", "2").out
    assert "tokens [26, 4, 12, 12, 0]" in output
    assert "assumed" not in output


@pytest.mark.parametrize("data", ["", "\n\n"])
def test_an_empty_data_file_is_one_line(tmp_path, data):
    (tmp_path / "d.txt").write_text(data)
    refused(microgpt("train", "--data", "d.txt", cwd=tmp_path), "d.txt", "empty file")


def test_lines_that_do_not_fit_are_counted(tmp_path):
    (tmp_path / "d.txt").write_text("anna\nJosé\nbob\n\n" + "x" * 30 + "\nEVE\n", encoding="utf-8")
    notes = microgpt("train", "--data", "d.txt", "--steps", "3", cwd=tmp_path).err
    assert "1 line left out, with a character outside a..z (first: line 2: 'José')" in notes
    assert "1 line left out, blank" in notes
    assert "longer than 15 characters (first: line 5" in notes
    assert "1 line lowered (first: line 6: 'EVE')" in notes


def test_training_leaves_a_checkpoint_and_says_how_to_trace_it(tmp_path):
    result = microgpt("train", "--steps", "40", cwd=tmp_path, width=80)
    assert result.code == 0, result.err
    assert "microgpt trace emma --model microgpt.safetensors" in result.out
    assert re.search(r"held out  3\.\d{4} → 2\.\d{4}", result.out)
    assert result.err == ""
    assert microgpt("sample", "-n", "3", cwd=tmp_path).out.count("\n") == 3
    refused(microgpt("train", cwd=tmp_path), "exists already", "--force", "--resume")


def test_stop_and_resume_equal_an_uninterrupted_run(tmp_path):
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    steps = 10_000
    assert microgpt("train", "--steps", steps, "--out", whole).code == 0
    with started("train", "--steps", steps, "--out", half, "--autosave", 0.1) as running:
        while not half.exists() and running.poll() is None:
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        message = running.stderr.read()
    print(message)
    assert running.returncode == 130
    assert f"microgpt train --resume {half}" in message.replace("\n", " ")
    assert microgpt("train", "--resume", half).code == 0
    expected, found = load_file(whole), load_file(half)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(tensor, found[name])


def test_resume_refuses_what_contradicts_the_checkpoint(tmp_path, checkpoint):
    refused(microgpt("train", "--resume", checkpoint), "nothing is left")
    part = half_done(tmp_path)
    refused(microgpt("train", "--resume", part, "--lr", "0.5"), "--lr 0.5 contradicts", "0.01")
    refused(microgpt("train", "--resume", part, "--n-layer", "3"), "--n-layer 3 contradicts")
    (tmp_path / "other.txt").write_text("anna\nbob\n")
    refused(microgpt("train", "--resume", part, "--data", tmp_path / "other.txt"), "other data")


def half_done(folder):
    from microgpt_trace.microgpt.documents import Documents, default_data, read_lines
    from microgpt_trace.microgpt.model import Schedule
    from microgpt_trace.microgpt.training import Trainer

    model, path = init(), folder / "part.safetensors"
    trainer = Trainer(model, Documents.fit(read_lines(default_data()), model.tokenizer, 16), Schedule(20))
    for record in trainer.run():
        if record.step == 10:
            break
    save(trainer.model("part"), path)
    return path


def test_a_diverging_run_names_step_and_event(tmp_path):
    out = tmp_path / "m.safetensors"
    result = microgpt("train", "--steps", "50", "--lr", "1e20", "--out", out)
    print(result.err)
    assert result.code == 1
    assert re.search(r"step \d+: the loss is \w+; the first event that is not finite is \S+", result.err)
    assert "no checkpoint was written" in result.err
    assert not out.exists()


def test_a_last_update_that_diverges_is_not_saved(tmp_path):
    out = tmp_path / "m.safetensors"
    result = microgpt("train", "--steps", "1", "--lr", "1e38", "--out", out)
    print(result.err)
    assert result.code == 1
    assert "not finite" in result.err.splitlines()[-1]
    assert not out.exists()


def test_the_log_can_be_replayed(tmp_path):
    log = tmp_path / "log.jsonl"
    microgpt("train", "--steps", "20", "--log", log, "--trace-every", "10", cwd=tmp_path)
    records = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [record for record in records if record["record"] == "step"]
    assert [record["step"] for record in steps] == list(range(1, 21))
    assert {"loss", "lr", "gradient_norm", "update_ratio"} <= steps[0].keys()
    events = [(r["step"], r["phase"], r["name"]) for r in records if r["record"] == "event"]
    for step in (0, 10, 20):
        assert (step, "forward", "layer0.mlp.act") in events
        assert (step, "backward", "wte") in events
    assert (10, "update", "lm_head") in events
    assert (0, "update", "lm_head") not in events
    kinds = {
        kind: [r for r in records if r["record"] == kind] for kind in ("prediction", "parameter", "relu")
    }
    assert [len(found) for found in kinds.values()] == [3 * 5, 3 * 9, 3 * 1]
    assert {"position", "target", "p", "loss", "rank", "predicted"} <= kinds["prediction"][0].keys()
    first, *_, last = kinds["parameter"]
    assert (first["name"], first["update_l2"], first["update_ratio"]) == ("wte", None, None)
    assert (last["name"], last["update_l2"] > 0, 0 < last["update_ratio"] < 1) == (
        "layer0.mlp_fc2",
        True,
        True,
    )
    assert kinds["relu"][0] == {"record": "relu", "step": 0, "layer": 0, "units": 64, "dead": []}


def test_training_on_other_dimensions_and_vocabulary(tmp_path):
    (tmp_path / "d.txt").write_text("zoë\nANNA\nüwe\n" * 3, encoding="utf-8")
    options = ["--vocab", "data", "--n-layer", "2", "--n-head", "2", "--n-embd", "8", "--block-size", "8"]
    result = microgpt("train", "--data", "d.txt", "--steps", "9", *options, cwd=tmp_path)
    assert result.code == 0, result.err
    output = microgpt("trace", "zoë", "--model", "microgpt.safetensors", cwd=tmp_path).out
    assert "Layer 1" in output
    assert "ë" in output


def test_inspect_and_gradcheck(checkpoint):
    output = microgpt("inspect", "--model", checkpoint, width=80).out
    assert "layer0.mlp_fc2  [16, 64]  1,024" in output
    document = valid(microgpt("inspect", "--json").out, "inspect")
    assert sum(row["stats"]["count"] for row in document["parameters"]) == 4192
    result = microgpt("gradcheck", "ava", "--model", checkpoint)
    assert result.code == 0
    assert "all 6,201 gradients agree" in result.out


def test_a_closed_pipe_ends_quietly():
    command = f"{sys.executable} -m microgpt_trace trace --json --verbose --values | head -c 5"
    script = f"set -o pipefail; {command}"
    result = subprocess.run(["bash", "-c", script], env=environment(), capture_output=True, encoding="utf-8")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("option", [[], ["--json"]])
def test_a_full_disk_is_one_line_and_exit_1(option):
    command = [sys.executable, "-m", "microgpt_trace", "trace", *option]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            command, env=environment(), stdout=full, stderr=subprocess.PIPE, encoding="utf-8"
        )
    assert result.returncode == 1
    assert result.stderr == "microgpt: cannot write the output (No space left on device)\n"


def test_a_device_is_no_target(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    refused(microgpt("trace", "--out", fifo, "--force"), "regular file")
    assert fifo.is_fifo()


def test_training_goes_on_when_nobody_watches(tmp_path):
    command = f"{sys.executable} -m microgpt_trace train --steps 3000 --out m.safetensors 2>&1 >out | head -1"
    subprocess.run(["bash", "-c", command], env=environment(), cwd=tmp_path, capture_output=True)
    assert (tmp_path / "m.safetensors").exists()
    assert "held out" in (tmp_path / "out").read_text()


def test_a_seed_beside_a_model_is_refused(checkpoint):
    refused(microgpt("trace", "--seed", "3", "--model", checkpoint), "--seed", "untrained")


def test_no_figure_is_cut_in_a_narrow_terminal():
    output = microgpt("trace", "--backward", "--top-k", "3", width=40).out
    assert "…" not in output


def test_no_color_and_no_terminal_have_no_escapes():
    assert "\x1b" not in microgpt("trace", "-v").out
    assert "\x1b[" in microgpt("trace", FORCE_COLOR="1").out
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", microgpt("trace", FORCE_COLOR="1", NO_COLOR="1").out)


@pytest.mark.parametrize(
    "command", [[], ["trace"], ["train"], ["timeline"], ["sample"], ["inspect"], ["gradcheck"]]
)
def test_help_loads_no_numpy(command):
    code = (
        "import sys; from microgpt_trace.cli import COMMANDS, build\n"
        f"try: build(COMMANDS)([*{command!r}, '--help'], standalone_mode=False)\n"
        "finally: assert 'numpy' not in sys.modules, 'numpy is loaded'"
    )
    result = process(code=code, cwd="/")
    assert result.code == 0, result.err
    assert "Usage" in result.out
    assert "Examples" in result.out or not command


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


def test_ctrl_c_ends_without_a_word(checkpoint):
    with started("sample", "-n", 10_000_000, "--model", checkpoint) as running:
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


@pytest.mark.parametrize(("words", "code"), [("trace emma", 0), ("trace emma --seed -1", 2), ("--help", 0)])
def test_what_others_ask_to_be_called_at_the_end_is_called(tmp_path, words, code):
    """A coverage tool's report, a cache to be removed, a thread that still writes."""
    (tmp_path / "sitecustomize.py").write_text(AT_THE_END)
    done = process(*words.split(), PYTHONPATH=os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]]))
    assert done.code == code, done.err
    assert {"finalized", "left", "joined"} <= {*done.out.splitlines()}


NOT_READ = {">&-": 1, "| true": 0, "2>&-": 0, "2>&1 | true": 0, ">/dev/full 2>/dev/full": 1}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", ["trace emma", "trace emma --json", "trace emma --seed -1"])
@pytest.mark.parametrize("where", NOT_READ)
def test_the_end_of_a_command_has_no_words_and_no_code_of_its_own(words, where):
    """Python's code is 120 where it cannot write what is left."""
    script = f"{sys.executable} -m microgpt_trace {words} {where}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], env=environment(), capture_output=True, encoding="utf-8")
    assert done.returncode == (2 if "-1" in words else NOT_READ[where])
    assert all(line.startswith("microgpt: ") for line in done.stderr.splitlines())
