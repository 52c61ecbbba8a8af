"""From an engine's unlabelled dump to the named fault, from the shell alone: "Which layer broke my port?" """

import re
from typing import NamedTuple

import pytest
from support.commands import microgpt
from support.faults import decoder_faults
from support.faulty_engine import Fault, decoder_run
from support.foreign_dumps import write_dump
from support.tiny_models import CASES, TOKENS, tiny_model

NORMS = ("attn.norm", "mlp.norm", "final.norm")
PLUS_ONE = Fault("gain_plus_one", "layer0.attn.norm", ("gain",), changes={n: {"plus": 1.0} for n in NORMS})


class Walk(NamedTuple):
    """A model's folder, and the folder where an engine left its .npy files."""

    model: object
    dumps: object

    def run(self, command, *more):
        """Both in the order in which the command takes them."""
        sides = (self.dumps, self.model) if command == "diagnose" else (self.model, self.dumps)
        result = microgpt(command, *sides, *more, width=200)
        print(result.out, result.err)
        return result


def walk(decoder_folder, tmp_path, style, fault):
    """Qwen2 run by the engine with a fault."""
    if isinstance(fault, str):
        fault = next(known for known in decoder_faults(CASES["qwen2"]) if known.id == fault)
    write_dump(tmp_path / "dumps", decoder_run(*tiny_model("qwen2"), TOKENS, fault), style)
    return Walk(decoder_folder("qwen2"), tmp_path / "dumps")


def residual(output):
    return float(re.search(r"leaves an error of ([\d.e+-]+)", " ".join(output.split()))[1])


def test_from_numbered_files_to_the_named_fault(decoder_folder, tmp_path):
    port, map_file = walk(decoder_folder, tmp_path, "numbers", "rope_interleaved"), tmp_path / "map.toml"
    assert port.run("diff", "--suggest-map", "--out", map_file).code == 0
    parted = port.run("diff", "--map", map_file)
    assert parted.code == 1
    assert "First divergence: layer 0, layer0.attn.q_rope" in parted.out
    named = port.run("diagnose", "--map", map_file)
    assert named.code == 1
    assert "First wrong operation: layer 0, layer0.attn.q_rope" in named.out
    assert "interleaved pairing of your own q" in " ".join(named.out.split())
    assert residual(named.out) < 1e-6


@pytest.mark.parametrize("style", ["llama.cpp", "huggingface"])
@pytest.mark.parametrize(
    ("fault", "first", "words"),
    [
        (PLUS_ONE, "layer0.attn.norm", "has 1 added to it"),
        ("gate_up_swapped", "layer0.mlp.gate", "swapped"),
    ],
    ids=["gain_plus_one", "gate_up_swapped"],
)
def test_from_named_files_to_the_named_fault(decoder_folder, tmp_path, style, fault, first, words):
    port = walk(decoder_folder, tmp_path, style, fault)
    parted, named = port.run("diff"), port.run("diagnose")
    assert (parted.code, named.code) == (1, 1)
    assert f"First divergence: layer 0, {first}" in parted.out
    assert f"First wrong operation: layer 0, {first}" in named.out
    assert words in " ".join(named.out.split())
    assert residual(named.out) < 1e-6


@pytest.mark.parametrize("style", ["numbers", "llama.cpp", "huggingface"])
def test_a_right_port_is_clean(decoder_folder, tmp_path, style):
    port, more = walk(decoder_folder, tmp_path, style, None), []
    if style == "numbers":
        more = ["--map", tmp_path / "map.toml"]
        assert port.run("diff", "--suggest-map", "--out", more[1]).code == 0
    assert [port.run(command, *more).code for command in ("diff", "diagnose")] == [0, 0]
