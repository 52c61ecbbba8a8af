"""Whatever a caller can reach shows itself on one short line."""

import subprocess
import sys
from collections.abc import Mapping
from functools import cached_property

import numpy as np
import pytest

import microgpt_trace
from microgpt_trace import (
    Config,
    Intervention,
    Tokenizer,
    attribute,
    diagnose,
    diff,
    explain,
    gradcheck,
    init,
    load,
    patch,
    save,
    trace,
    train,
    validate,
)
from microgpt_trace.cli import COMMANDS, build
from microgpt_trace.comparison.weights import compare_weights
from microgpt_trace.dumps.arrays_file import save_arrays
from microgpt_trace.patching.pairs import patch_pairs, read_pairs
from microgpt_trace.timeline.reading import read_timeline

SHORT = 200  # characters
PLAIN = (str, bytes, int, float, type(None), np.ndarray, np.generic)


def attributes(value):
    """What an object holds and what it works out, by name."""
    names = set(getattr(value, "__dict__", ()))
    for base in type(value).__mro__:
        names |= {*getattr(base, "__slots__", ())} - {"__dict__"}
        names |= {n for n, made in vars(base).items() if isinstance(made, property | cached_property)}
    for name in sorted(names):
        try:
            yield f".{name}", getattr(value, name)
        except (AttributeError, microgpt_trace.MicrogptError):
            continue


def parts(value):
    if isinstance(value, Mapping):
        yield from ((f"[{key!r}]", item) for key, item in list(value.items())[:40])
    elif isinstance(value, tuple | list | set | frozenset):
        yield from ((f"[{i}]", item) for i, item in enumerate(list(value)[:40]))
    if type(value).__module__.startswith("microgpt_trace"):
        yield from attributes(value)


def objects_within(root, name):
    """Every object of ours that can be reached, with the way there."""
    waiting, seen = [(name, root)], {}
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, PLAIN) or id(value) in seen or path.count(".") > 8:
            continue
        seen[id(value)] = value  # kept: an id is only its own while the object lives
        if type(value).__module__.startswith("microgpt_trace"):
            yield path, value
        waiting += [(path + step, part) for step, part in parts(value)]


def assert_short(root, name):
    kinds = set()
    for path, value in objects_within(root, name):
        said = repr(value)
        kinds.add(type(value).__name__)
        assert len(said) <= SHORT, f"{path}: {len(said):,} characters: {said[:80]}"
        assert "\n" not in said, f"{path}: {said[:80]}"
    return kinds


LONG = "x" * 5000
HEAD = "layer0.attn.head1"


def of_microgpt(kind, folder):
    model = init()
    match kind:
        case "trace":
            return trace(model, "emma", backward=True, step=True, top_k=27)
        case "intervened":
            scaled = Intervention("scale", "layer0.mlp.act@3:5", 0.5)
            return trace(model, "emma", interventions=[Intervention("ablate", HEAD), scaled])
        case "explanation":
            return explain(model, "layer0.attn.scores[1,3,2]", "emma")
        case "gradient":
            return explain(model, "layer0.mlp.act[3,5]", "emma", backward=True)
        case "attribution":
            return attribute(model, "emma")
        case "patch":
            return patch(model, "emma", "emmy", target="m", against="y")
        case "pairs":
            (folder / "pairs.txt").write_text("emma\temmy\tm\ty\nanna\tanny\tm\ty\n")
            return patch_pairs(model, read_pairs(folder / "pairs.txt"))
        case "validation":
            return validate(model, "emma")
        case "gradcheck":
            return list(gradcheck(model, "emma"))
        case "diff":
            return diff(model, init(seed=1), "emma")
        case "weights":
            return compare_weights(model, init(seed=1))
        case "trained":
            return train(model, steps=5)
        case "diagnosis":
            save_arrays(trace(init(seed=1), "emma"), folder / "a.safetensors")
            return diagnose(folder / "a.safetensors", model)


KINDS = (
    "trace", "intervened", "explanation", "gradient", "attribution", "patch", "pairs", "validation",
    "gradcheck", "diff", "weights", "trained", "diagnosis",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_microgpt_gives_is_told_on_a_short_line(kind, tmp_path):
    assert assert_short(of_microgpt(kind, tmp_path), kind) - {"Check"}


@pytest.mark.parametrize("case", ["llama_gqa", "qwen2", "qwen3"])
def test_so_is_what_a_decoder_gives(case, compared_folders):
    model = load(compared_folders[case])
    model.vocabulary.encode("Ann")
    ablated = [Intervention("ablate", "layer0.attn.out")]
    run = trace(model, "Ann ran", lens=True, generate=2, values=True, interventions=ablated)
    kinds = assert_short(run, "trace") | assert_short(model, "model")
    assert {"Trace", "Vocabulary", "StoredTensor", "DecoderConfig"} <= kinds
    assert_short(attribute(model, "Ann ran", target="A"), "attribution")
    assert_short(explain(model, "layer1.attn.q_rope[2,1]", "Ann ran"), "explanation")
    assert_short(diff(model, model, "Ann ran"), "diff")


def test_a_timeline_is_short(tmp_path):
    program, log = build(COMMANDS), tmp_path / "run.jsonl"
    words = f"train --steps 40 --out {tmp_path / 'm.safetensors'} --log {log} --trace-every 10"
    program(words.split(), standalone_mode=False)
    assert {"Timeline", "EventCurve"} <= assert_short(read_timeline(log), "timeline")


def test_what_is_long_is_cut_short(tmp_path):
    """Names, paths and vocabularies of any length."""
    folder = tmp_path / ("a" * 120) / ("b" * 120)
    folder.mkdir(parents=True)
    save(init(), folder / "m.safetensors")
    far = load(folder / "m.safetensors")
    wide = init(Config(block_size=1000))
    for value in (Tokenizer("".join(map(chr, range(0x4E00, 0x9E00)))), far, trace(far, "emma"), wide):
        assert_short(value, type(value).__name__)
    assert_short(trace(wide, LONG[:999], values=False), "trace")
    assert_short(Intervention("add", f"layer0.mlp.{LONG}", 4.0, np.zeros(16), LONG), "intervention")


def test_a_trace_says_what_it_is_of():
    assert repr(trace(init(), "emma")) == (
        "Trace(text='emma', model='untrained, seed 42', loss=3.16999, events=25, arrays=25)"
    )
    assert repr(init()).startswith("Model(origin='untrained, seed 42', parameters=4192, ")


def test_dir_lists_each_public_name_once():
    code = "import microgpt_trace; microgpt_trace.init; print(*dir(microgpt_trace))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = done.stdout.split()
    assert len(names) == len(set(names))
    assert [name for name in names if not name.startswith("__")] == microgpt_trace.__all__
    assert "__version__" in names
