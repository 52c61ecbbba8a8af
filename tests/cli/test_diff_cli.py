"""`microgpt diff` from the shell: exit codes, documents, output and refusals."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.commands import microgpt, refused
from support.documents import valid
from support.tiny_models import TOKENS

from microgpt_trace import init, load, save, trace
from microgpt_trace.dumps.stored_arrays import save_arrays

IDS = ",".join(map(str, TOKENS))


@pytest.fixture(scope="module")
def sides(tmp_path_factory, decoder_folder):
    """Paths: a decoder, its saved trace, one with a fault, one with a NaN, and two microGPTs."""
    home, folder = tmp_path_factory.mktemp("sides"), decoder_folder()
    found = {"model": folder}
    faults = {"good": None, "bad": lambda e, v: v * np.float32(1.5), "nan": _with_nan}
    for name, fault in faults.items():
        found[name] = home / f"{name}.safetensors"
        model = load(folder)
        with ExitStack() as hooks:
            if fault:
                hooks.enter_context(model.hooks.subscribe(fault, "layer1.attn.v"))
            save_arrays(trace(model, tokens=TOKENS, names=["*"], values=True), found[name])
    for seed in (1, 2):
        found[f"micro{seed}"] = home / f"micro{seed}.safetensors"
        save(init(seed=seed), found[f"micro{seed}"])
    found["dump"] = home / "dump.npz"  # another engine's: strange names, the same values
    arrays = load_file(found["good"])
    np.savez(
        found["dump"], **{f"t{i:03}": a for i, (n, a) in enumerate(sorted(arrays.items())) if a.ndim == 2}
    )
    return found


def _with_nan(event, value):
    changed = value.copy()
    changed[3, 5] = np.nan
    return changed


def diff(sides, a, b, *more, **how):
    return microgpt("diff", sides[a], sides[b], *more, **how)


@pytest.mark.parametrize(("a", "b", "code", "words"), [
    ("model", "good", 0, "The same"), ("model", "model", 0, None),
    ("good", "bad", 1, "First divergence: layer 1, layer1.attn.v"), ("model", "nan", 1, "element [3, 5]"),
    ("micro1", "micro2", 1, "First divergence: embed.tok"), ("micro1", "micro1", 0, "number for number"),
])  # fmt: skip
def test_exit_codes_and_verdict(sides, a, b, code, words):
    more = ["--tokens", IDS] if a == b == "model" else []
    result = diff(sides, a, b, *more)
    print(result.out, result.err)
    assert result.code == code
    assert (words or "The same") in result.out


@pytest.mark.parametrize(("a", "b", "more", "kind"), [
    ("model", "nan", [], "diff"), ("good", "good", [], "diff"),
    ("micro1", "micro2", ["--weights"], "weights"), ("micro1", "micro2", ["--prompts", "p.txt"], "prompts"),
])  # fmt: skip
def test_documents_fit_their_schemas(sides, tmp_path, monkeypatch, a, b, more, kind):
    monkeypatch.chdir(tmp_path)
    Path("p.txt").write_text("emma\nolivia\n")
    result = diff(sides, a, b, *more, "--json")
    found = valid(result.out, "diff", *more)
    assert (found["schema"], result.code) == (f"microgpt.{kind}/1", int(a != b))
    assert found.get("agree", a == b) == (a == b)


def test_layer_positions_and_verbose(sides):
    found = diff(sides, "good", "bad", "--layer", "layer1.attn.*", "--positions", "3,-1", "-v", width=120).out
    print(found)
    assert "layer1.attn.context" in found
    assert "layer0." not in found.replace("not compared", "")
    assert "Worst row by position" in found


def test_counts_known_names_that_were_not_requested(sides, tmp_path):
    arrays = load_file(sides["good"])
    np.savez(tmp_path / "d.npz", **arrays, **{f"x{i}": np.ones(3, np.float32) for i in range(5)})
    found = microgpt("diff", sides["model"], tmp_path / "d.npz", "--tokens", IDS, "--layer", "layer0.attn.q")
    print(found.out)
    assert "names in the dump are known" not in found.out


def test_shows_the_worst_event_of_each_layer(decoder_folder):
    def edit(weights):
        weights["model.layers.4.mlp.down_proj.weight"] *= np.float32(2)

    models = [decoder_folder(num_hidden_layers=10, edit=change) for change in (None, edit)]
    found = microgpt("diff", *models, "--tokens", IDS)
    print(found.out)
    assert found.code == 1
    assert "The worst event of each layer (--verbose shows all)" in found.out
    assert "All events of layer 4" in found.out


def test_a_suggested_map_makes_a_foreign_dump_comparable(sides, tmp_path):
    refused(diff(sides, "model", "dump", "--tokens", IDS), "no event in common", "--suggest-map")
    drafted = diff(sides, "model", "dump", "--tokens", IDS, "--suggest-map")
    assert drafted.code == 0, drafted.err
    (tmp_path / "map.toml").write_text(drafted.out, encoding="utf-8")
    result = diff(sides, "model", "dump", "--map", tmp_path / "map.toml")
    print(drafted.out, result.out, result.err)
    assert result.code == 0
    assert "The 36 events compared (of 41) agree number for number" in result.out
