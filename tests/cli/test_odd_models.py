"""Models with extreme or non-finite numbers, and folders of models, through every command."""

import re

import numpy as np
import pytest
from support.commands import microgpt, refused

from microgpt_trace import init, save


@pytest.fixture(scope="module")
def place(tmp_path_factory, decoder_folder):
    """A model with a NaN, one with extreme probabilities, and the folder of a production model."""
    folder = tmp_path_factory.mktemp("odd")
    save(init(seed=1), folder / "plain.safetensors")
    spoiled, sharp = init(seed=1), init(seed=1)
    spoiled.params["layer0.attn_wq"][0, 0] = np.nan
    sharp.params["lm_head"][...] *= 40
    save(spoiled, folder / "nan.safetensors")
    save(sharp, folder / "sharp.safetensors")
    (folder / "prompts.txt").write_text("emma\nanna\n")
    (folder / "model").symlink_to(decoder_folder("llama_gqa"))
    return folder


@pytest.mark.parametrize("line", [
    "trace emma --model nan.safetensors", "trace emma --model nan.safetensors --backward -v --top-k 3",
    "gradcheck e --model nan.safetensors", "diff plain.safetensors nan.safetensors emma",
    "diff plain.safetensors nan.safetensors --prompts prompts.txt",
    "diff plain.safetensors nan.safetensors --weights",
    "attribute emma --model nan.safetensors --target m --against e",
    "explain layer0.attn.q[1,0] emma --model nan.safetensors", "inspect --model nan.safetensors",
])  # fmt: skip
def test_a_nan_is_always_written_as_NaN(place, line):
    done = microgpt(line, cwd=place)
    assert done.code in (0, 1), done.err
    print(*[shown for shown in done.out.splitlines() if "NaN" in shown][:4], sep="\n")
    assert "NaN" in done.out or "not finite" in done.out
    assert not re.search(r"(?<!\w)nan(?![\w.])", done.out)
    if "--weights" in line:
        assert re.search(r"(?m)^layer0\.attn_wq .* NaN/Inf +exact +NaN/Inf +\[0, 0\] +NO$", done.out)


def test_small_probabilities_are_not_shown_as_zero(place):
    done = microgpt("trace emma --model sharp.safetensors", cwd=place)
    found = re.findall(r"^ +\d  \S+ +\w+ +\w+ +\S+ +(\S+)", done.out, re.MULTILINE)
    print(found)
    assert len(found) == 5
    assert all(float(p) > 0 for p in found)
    assert any("e-" in p for p in found)


def test_no_command_writes_into_a_model(place):
    both = "plain.safetensors plain.safetensors emma"
    for line in ("attribute emma", "explain loss emma", "inspect", "patch emma emmy", f"diff {both}",
                 "trace emma", "trace --schema"):  # fmt: skip
        done = microgpt(f"{line} --out model/generation_config.json", cwd=place)
        refused(done, "this would write into a model")
    assert not (place / "model" / "generation_config.json").exists()
