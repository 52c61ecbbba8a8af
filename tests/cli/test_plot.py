"""--plot: the figures of each command, their files, and refusals before the run."""

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from support.commands import PARAMS, microgpt, refusal
from support.sweeps import some_of
from support.tiny_models import TOKENS

from microgpt_trace.cli.exports import FIGURES, Plot, plot_of
from microgpt_trace.errors import InputError

pytest.importorskip("matplotlib", reason="figures are drawn by matplotlib, which is not installed")

IDS = ",".join(map(str, TOKENS))
LINES = {  # a command that draws each figure, and words that stand in it
    "trace emma --plot F": "layer 0, head 0",
    "trace emma --plot probs=F --top-k 3": "most probable next tokens",
    "trace emma --plot loss=F --layer logits": "loss, −log P(target)",
    f"trace qwen2 --tokens {IDS} --plot F": "residual stream after each layer",
    f"trace qwen2 --tokens {IDS} --lens --plot lens=F": "after layer",
    "explain layer0.attn.q[3,5] emma --plot F": "sum of 16",
    "attribute emma --plot F": "position: target / against",
    "patch emma emmy --target m --against y --plot F": "share of the logit difference restored",
    "patch --pairs pairs.txt --plot patch=F": "share of the logit difference restored, mean of 2 pairs",
    "diff one.safetensors two.safetensors emma --plot F": "beyond its band",
    "diagnose port qwen2 --plot F": "left by the explanation",
    "timeline t.jsonl --plot F": 'probability of each next letter in "emma"',
    "timeline t.jsonl --plot loss=F": "loss of the batch",
}
MORE = {  # the same figures with other options
    "trace emma --plot attention=F": "head 3",
    "trace emma --plot attention:layer0.head3=F --json": "layer 0, head 3",
    f"trace qwen2 --tokens {IDS} --plot attention=F": "layer 1",
    f"trace qwen2 --tokens {IDS} --plot attention=F --layers 1": "layer 1, head 0",
    "attribute emma --position 2 --plot attribution=F --top 3": "4 more parts",
}


def drawn(path):
    return [text.text for text in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("line", some_of(LINES | MORE, every=3))
def test_writes_a_figure_and_prints_the_same_output(results, tmp_path, line):
    path = tmp_path / "a.svg"
    done = microgpt(line.replace("F", str(path)), cwd=results)
    print(done.err, drawn(path))
    option = line[line.index(" --plot ") :].split(" ")[2]
    plain = microgpt(line.replace(f" --plot {option}", ""), cwd=results)
    assert (done.code, done.out) == (plain.code, plain.out)
    assert done.code in (0, 1)
    assert f"saved a figure to {path}\n" in done.err
    assert (LINES | MORE)[line] in drawn(path)


def test_several_figures_in_several_formats(tmp_path):
    line = "trace emma --plot a.svg --plot attention:layer0.head1=b.PNG --plot probs=c.pdf"
    names = ("a.svg", "b.PNG", "c.pdf")
    assert microgpt(line, cwd=tmp_path).lines == [f"saved a figure to {name}" for name in names]
    starts = {path.name: path.read_bytes()[:5] for path in tmp_path.iterdir()}
    assert starts == {"a.svg": b"<?xml", "b.PNG": b"\x89PNG\r", "c.pdf": b"%PDF-"}


# --- Refusals -------------------------------------------------------------------------------------

OF_TRACE = "trace draws attention, stream, lens, probs and loss"
BOTH = "diff one.safetensors two.safetensors"
READ = "this command reads the file; choose another name"
REFUSED = {
    "trace emma --plot a.gif": "--plot a.gif: expected a file name that ends in .svg or .png or .pdf",
    "trace emma --plot ''": "--plot: expected a file name, found nothing",
    "trace emma --plot probs=": "--plot: expected a file name, found nothing",
    "trace emma --plot heat=a.svg": (
        f"--plot heat: {OF_TRACE}; other commands draw attribution, certificate, diagnosis, diff, "
        "explanation, patch and timeline"
    ),
    "trace emma --plot patch=a.svg": f"--plot patch: {OF_TRACE}",
    "patch emma emmy --plot lens=a.svg": "--plot lens: patch draws patch",
    "trace emma --plot stream=a.svg": (
        "--plot stream is for a production model, and this is a microGPT (untrained, seed 42)"
    ),
    f"trace qwen2 --tokens {IDS} --plot lens=a.svg": (
        "--plot lens needs --lens: the figure shows what --lens measures"
    ),
    "trace emma --plot probs:layer0=a.svg": "--plot probs:layer0: probs takes nothing after a colon",
    "trace emma --plot attention:layer1=a.svg": "--plot attention of layer 1: expected a layer from 0 to 0",
    "trace emma --plot attention:layer0.head4=a.svg": "--plot attention of head 4: layer 0 has heads 0 to 3",
    "trace emma --plot attention:head1=a.svg": (
        "--plot attention:head1: expected layer3.head0, layer3 or all after the colon"
    ),
    "trace emma --plot there.svg": "there.svg exists already; --force overwrites the file",
    "attribute emma --plot no/a.svg": "no/a.svg: the folder no does not exist",
    "attribute emma --plot a.svg --plot a.svg": "--plot names a.svg twice",
    "attribute emma --plot a.svg --out a.svg": "--out and --plot both name a.svg",
    "trace emma --plot a.svg --save a.svg": "--save and --plot both name a.svg",
    "trace emma --plot qwen2/a.svg": (
        "--plot qwen2/a.svg: this would write into a model; choose another place"
    ),
    "timeline log.svg --plot log.svg --force": f"--plot log.svg: {READ}",
    "trace emma --model one.png --plot one.png --force": f"--plot one.png: {READ}",
    "attribute emma --force": "--force needs --html or --plot: --force allows overwriting files",
    f"{BOTH} --weights --plot a.svg": "--plot cannot be combined with --weights",
    f"{BOTH} --prompts p --plot a.svg": "--plot cannot be combined with --prompts",
    f"{BOTH} --suggest-map --force": "--force cannot be combined with --suggest-map",
    "trace emma --validate --plot a.svg": "--plot cannot be combined with --validate",
    "explain wte[0,0] emma --plot a.svg": (
        "explanation of wte[0,0]: its formula has no sum, so there is no plot"
    ),
}


def test_refuses_figures_that_cannot_be_drawn(results):
    (results / "there.svg").write_text("mine")
    (results / "log.svg").write_bytes((results / "t.jsonl").read_bytes())
    (results / "one.png").write_bytes((results / "one.safetensors").read_bytes())
    before = {path.name for path in results.iterdir()}
    assert {line: refusal(line, cwd=results) for line in REFUSED} == REFUSED
    assert {path.name for path in results.iterdir()} == before
    assert (results / "there.svg").read_text() == "mine"


def test_force_overwrites_a_figure(tmp_path):
    for line in ("trace emma --plot a.svg --force", "attribute emma --plot a.svg --force"):
        (tmp_path / "a.svg").write_text("old")
        assert microgpt(line, cwd=tmp_path).code == 0
        assert (tmp_path / "a.svg").read_text().startswith("<?xml")


def test_says_how_to_install_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = refusal("patch emma emmy --plot a.svg", cwd=tmp_path)
    assert said == ("--plot draws with the package matplotlib: python -m pip install matplotlib")
    assert list(tmp_path.iterdir()) == []


def test_refuses_before_a_model_is_loaded(monkeypatch, tmp_path):
    def no_model(*args, **options):
        raise AssertionError("a model was made")

    for command in ("trace", "attribute", "patch", "named_model"):  # explain calls named_model.model_from
        monkeypatch.setattr(f"microgpt_trace.cli.{command}.model_from", no_model)
    for line in ("trace emma", "attribute emma", "patch emma emmy", "explain wte[0,0]"):
        refusal(f"{line} --plot a.gif", cwd=tmp_path)


# --- NAME=FILE ------------------------------------------------------------------------------------


def test_tells_a_figure_from_a_file_name():
    assert plot_of("probs=a.svg", "trace") == Plot("probs", "", Path("a.svg"))
    assert plot_of("attention=x=y.svg", "trace") == Plot("attention", "", Path("x=y.svg"))
    whole = plot_of("attention:layer3.head4=a.svg", "trace")
    assert whole == Plot("attention", "layer3.head4", Path("a.svg"))
    for file in ("a.svg", "probs.svg", "./x=y.svg", "x.y=z.svg", "C:\\new=1.svg"):
        assert plot_of(file, "trace") == Plot("", "", Path(file))


@pytest.mark.parametrize("text", ["attenton:layer3.head4=a.svg", "x=y.svg"])
def test_an_unknown_figure_lists_all_figures(text):
    with pytest.raises(InputError) as caught:
        plot_of(text, "trace")
    names = {name for names in FIGURES.values() for name in names}
    assert names <= set(re.findall(r"\w+", str(caught.value)))


def test_every_command_with_plot_has_figures():
    having = {command for command, params in PARAMS.items() if any(p.name == "plot" for p in params)}
    assert having == set(FIGURES)
    for command in having:
        assert any(param.name == "force" for param in PARAMS[command])
