"""Every object that a caller can reach has a repr of one short line."""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import pytest
from support.commands import microgpt

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
from microgpt_trace.dumps.stored_arrays import save_arrays
from microgpt_trace.patching.pairs import Pair, patch_pairs
from microgpt_trace.timeline.reading import read_timeline
from microgpt_trace.weights.weights_comparison import compare_weights

SHORT = 200  # characters
PLAIN = (str, bytes, int, float, type(None), np.ndarray, np.generic)


def attributes(value):
    """Yield the attributes and properties of an object, by name."""
    names = set(getattr(value, "__dict__", ()))
    for base in type(value).__mro__:
        names |= {*getattr(base, "__slots__", ())} - {"__dict__"}
        names |= {n for n, value in vars(base).items() if isinstance(value, property | cached_property)}
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
    """Yield every object of the package that can be reached, with its path."""
    waiting, seen = [(name, root)], {}
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, PLAIN) or id(value) in seen or path.count(".") > 8:
            continue
        seen[id(value)] = value  # keep the object, since another could get its id
        if type(value).__module__.startswith("microgpt_trace"):
            yield path, value
        waiting += [(path + step, part) for step, part in parts(value)]


def assert_short(root, name):
    kinds = set()
    for path, value in objects_within(root, name):
        text = repr(value)
        kinds.add(type(value).__name__)
        assert len(text) <= SHORT, f"{path}: {len(text):,} characters: {text[:80]}"
        assert "\n" not in text, f"{path}: {text[:80]}"
    return kinds


LONG = "x" * 5000
HEAD = "layer0.attn.head1"


def train_log(folder):
    train = f"train --steps 40 --out {folder / 'm.safetensors'} --log {folder / 'run.jsonl'} --trace-every 10"
    assert microgpt(train).code == 0
    return read_timeline(folder / "run.jsonl")


def dump_of(folder):
    save_arrays(trace(init(seed=1), "emma"), folder / "a.safetensors")
    return folder / "a.safetensors"


INTERVENTIONS = [Intervention("ablate", HEAD), Intervention("scale", "layer0.mlp.act@3:5", 0.5)]
PAIRS = [Pair("emma", "emmy", "m", "y"), Pair("anna", "anny", "m", "y")]
RESULTS = {  # functions of a microGPT and a folder
    "trace": lambda model, _: trace(model, "emma", backward=True, step=True, top_k=27),
    "intervened": lambda model, _: trace(model, "emma", interventions=INTERVENTIONS),
    "explanation": lambda model, _: explain(model, "layer0.attn.scores[1,3,2]", "emma"),
    "gradient": lambda model, _: explain(model, "layer0.mlp.act[3,5]", "emma", backward=True),
    "attribution": lambda model, _: attribute(model, "emma"),
    "patch": lambda model, _: patch(model, "emma", "emmy", target="m", against="y"),
    "pairs": lambda model, _: patch_pairs(model, PAIRS),
    "validation": lambda model, _: validate(model, "emma"),
    "gradcheck": lambda model, _: list(gradcheck(model, "e")),
    "diff": lambda model, _: diff(model, init(seed=1), "emma"),
    "weights": lambda model, _: compare_weights(model, init(seed=1)),
    "trained": lambda model, _: train(model, steps=5),
    "diagnosis": lambda model, folder: diagnose(dump_of(folder), model),
    "timeline": lambda _, folder: train_log(folder),
}


@pytest.mark.parametrize("kind", RESULTS)
def test_results_of_a_microgpt_have_a_short_repr(kind, tmp_path):
    assert assert_short(RESULTS[kind](init(), tmp_path), kind) - {"Check"}


@pytest.mark.parametrize("case", ["llama_gqa", "qwen3"])
def test_results_of_a_decoder_have_a_short_repr(case, compared_folders):
    model = load(compared_folders[case])
    model.vocabulary.encode("Ann")
    ablated = [Intervention("ablate", "layer0.attn.out")]
    run = trace(model, "Ann ran", lens=True, generate=2, values=True, interventions=ablated)
    kinds = assert_short(run, "trace") | assert_short(model, "model")
    assert {"Trace", "Vocabulary", "StoredTensor", "LlamaConfig"} <= kinds
    assert_short(attribute(model, "Ann ran", target="A"), "attribution")
    assert_short(explain(model, "layer1.attn.q_rope[2,1]", "Ann ran"), "explanation")
    assert_short(diff(model, model, "Ann ran"), "diff")


def test_shortens_long_names_paths_and_vocabularies(tmp_path):
    folder = tmp_path / ("a" * 120) / ("b" * 120)
    folder.mkdir(parents=True)
    save(init(), folder / "m.safetensors")
    far = load(folder / "m.safetensors")
    wide = init(Config(block_size=1000))
    for value in (Tokenizer("".join(map(chr, range(0x4E00, 0x9E00)))), far, trace(far, "emma"), wide):
        assert_short(value, type(value).__name__)
    assert_short(trace(wide, LONG[:999], values=False), "trace")
    assert_short(Intervention("add", f"layer0.mlp.{LONG}", 4.0, np.zeros(16), LONG), "intervention")


def test_a_trace_names_its_text_and_model():
    assert repr(trace(init(), "emma")) == (
        "Trace(text='emma', model='untrained, seed 42', loss=3.16999, events=25, arrays=25)"
    )
    assert repr(init()).startswith("Model(origin='untrained, seed 42', parameters=4192, ")


def test_a_diagnosis_says_what_is_wrong(tmp_path):
    run = trace(init(), "emma")
    run.arrays["forward", "layer0.attn.norm"] *= 1.5
    save_arrays(run, tmp_path / "a.safetensors")
    result = diagnose(tmp_path / "a.safetensors", init())
    print(result, result.diagnosis)
    assert str(result).endswith("wrong='layer0.attn.norm')")
    start = "Diagnosis(clean=False, first_wrong='layer0.attn.norm', judged="
    assert str(result.diagnosis).startswith(start)
    assert "multiplied by" in str(result.diagnosis)
