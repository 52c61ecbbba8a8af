"""`microgpt diagnose` from the shell: exit codes and its document."""

import re

import numpy as np
import pytest
from support.commands import microgpt
from support.documents import valid
from support.faults import decoder_faults
from support.faulty_engine import decoder_run
from support.foreign_dumps import write_dump
from support.tiny_models import TOKENS, tiny_model, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model `m`, a dump `right` of it, `wrong`, which has GELU in SiLU's place, and `eight`, whose products
    have 8-bit inputs."""
    root = tmp_path_factory.mktemp("diagnose")
    config, weights = tiny_model("llama_gqa")
    write_folder(root / "m", config, weights)
    write_dump(root / "right", decoder_run(config, weights, TOKENS), "ours")
    gelu = next(fault for fault in decoder_faults(config) if fault.id.startswith("gelu"))
    write_dump(root / "wrong", decoder_run(config, weights, TOKENS, gelu), "ours")
    write_dump(root / "eight", decoder_run(config, weights, TOKENS, inputs="Q8_0"), "ours")
    return root


def diagnose(folder, *args, **options):
    return microgpt("diagnose", *args, cwd=folder, **options)


@pytest.mark.parametrize("dump", ["right", "wrong", "eight"])
def test_the_document_fits_its_schema(folder, dump):
    document = valid(diagnose(folder, dump, "m", "--json").out, "diagnose")
    assert document["clean"] == (dump == "right")
    assert document["tokens"] == list(TOKENS)


def test_from_numbered_files_to_the_named_fault(folder, tmp_path):
    """Answer "Which layer broke my port?" for a dump whose array names mean nothing."""
    config, weights = tiny_model("llama_gqa")
    fault = next(fault for fault in decoder_faults(config) if fault.id == "rope_interleaved")
    write_dump(tmp_path / "port", decoder_run(config, weights, TOKENS, fault), "numbers")
    port, map_file = str(tmp_path / "port"), str(tmp_path / "map.toml")
    assert microgpt("diff", "m", port, "--suggest-map", "--out", map_file, cwd=folder).code == 0
    parted = microgpt("diff", "m", port, "--map", map_file, cwd=folder)
    named = diagnose(folder, port, "m", "--map", map_file)
    said = " ".join(named.out.split())
    print(parted.out, named.out)
    assert (parted.code, named.code) == (1, 1)
    assert "First divergence: layer 0, layer0.attn.q_rope" in parted.out
    assert "First wrong operation: layer 0, layer0.attn.q_rope" in said
    assert "your own q rotated in interleaved pairs" in said
    assert float(re.search(r"leaves an error of ([\d.e+-]+)", said)[1]) < 1e-6


def test_suggests_a_lower_precision_and_accepts_it_with_compute(folder):
    done = diagnose(folder, "eight", "m")
    said = " ".join(done.out.split())
    print(done.out)
    assert done.code == 1
    assert "No fault is named: the errors look like rounding of 8-bit inputs with `--compute q8`" in said
    assert "First wrong" not in said
    asked = diagnose(folder, "eight", "m", "--compute", "q8")
    assert asked.code == 0
    assert "the inputs of products are 8-bit blocks of 32 (15)" in " ".join(asked.out.split())


def test_non_finite_values_fit_the_schema_of_diagnose(folder, tmp_path):
    write_dump(tmp_path / "d", decoder_run(*tiny_model("llama_gqa"), TOKENS), "ours")
    q = np.load(tmp_path / "d" / "layer0.attn.q.npy")
    q[2, 3] = np.nan
    np.save(tmp_path / "d" / "layer0.attn.q.npy", q)
    document = valid(diagnose(folder, str(tmp_path / "d"), "m", "--json").out, "diagnose")
    assert document["first_wrong"] == "layer0.attn.q"
