"""`microgpt diff` of two surveys from the shell: exit codes, output, documents and refusals."""

import re

import pytest
from rich.cells import cell_len
from support.commands import microgpt, refused
from support.documents import valid

from microgpt_trace import init, load, save
from microgpt_trace.surveying.survey import survey

NAMES = ["emma", "olivia", "ava", "mia", "amelia", "ella", "aria", "noah"] * 4
TEXTS = ["Ann ran", "a man", "\x1b[31mred\u202e", "rare"]


def nearly(weights):
    """Change the weights so little that a tolerance may allow it."""
    for name, array in weights.items():
        if "down_proj" in name:
            weights[name] = array * 1.01


@pytest.fixture(scope="module")
def place(tmp_path_factory, decoder_folder):
    """Surveys of two microGPTs over names, of two decoders over texts, and a model."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "names.txt").write_text("".join(f"{name}\n" for name in NAMES))
    (folder / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    for seed in (1, 2):
        survey(init(seed=seed), folder / "names.txt", out=folder / f"m{seed}.survey.safetensors")
    models = {"d1": decoder_folder(), "d2": decoder_folder(edit=nearly)}
    for name, model in models.items():
        out = folder / f"{name}.survey.safetensors"
        survey(load(model), folder / "texts.txt", histograms=["*"], events=["*"], out=out)
    save(init(seed=1), folder / "model.safetensors")
    return folder


def diff(place, a, b, *more, **how):
    return microgpt("diff", f"{a}.survey.safetensors", f"{b}.survey.safetensors", *more, cwd=place, **how)


@pytest.mark.parametrize(("words", "code", "title"), [
    ("m1 m1", 0, "The surveys are equal, bit for bit"),
    ("m1 m2", 1, "The surveys differ, first in embed.tok"),
    ("d1 d2 --rtol 0", 1, "The surveys differ, first in layer0.mlp.down"),
    ("d1 d2 --rtol 10", 0, "The surveys agree: no distance is above 10"),
    ("d1 d2 --layer layer0.attn.q", 0, "The surveys are equal, bit for bit"),
    ("m1 d1", 1, "The surveys differ, first in layer0.attn.k"),
])  # fmt: skip
def test_exit_codes_and_verdicts(place, words, code, title):
    a, b, *more = words.split()
    result = diff(place, a, b, *more)
    print(result.out, result.err)
    assert (result.code, result.err) == (code, "")
    assert re.search(f"(?m)^{title}", result.out)
    files = [place / f"{name}.survey.safetensors" for name in (a, b)]
    found = valid(diff(place, a, b, *more, "--json").out, "diff", *files)
    assert (found["schema"], found["agree"]) == ("microgpt.survey-diff/3", code == 0)
    shown = re.search(r"(?m)^(\S.*?) {2,}(\S.*?) {2,}", result.out.partition("distance\n")[2])
    first = [(own["name"], own["figure"]) for own in found["differences"][:1]]
    assert first == ([shown.groups()] if shown else [])


@pytest.mark.parametrize("words", ["m1 m2", "m1 m2 -v", "d1 d2 -v", "m1 m1", "d2 d1 --rtol 9", "m1 d1"])
def test_no_line_is_wider_than_the_screen(place, words):
    a, b, *more = words.split()
    for width in (80, 120):
        result = diff(place, a, b, *more, width=width)
        assert max(map(cell_len, result.out.splitlines())) <= width
        assert not set(result.out) & {"\x1b", "\u202e"}
        assert not re.search("nan|None", result.out)


IDLE = [
    ["hello"], ["--tokens", "1,2"], ["--positions", "all"], ["--map", "m.toml"], ["--layout", "*=TC"],
    ["--suggest-map"], ["--compute", "bf16"], ["--calibrate", "x"], ["--factor", "2"], ["--atol", "1"],
    ["--prompts", "p.txt"], ["--weights"], ["--plot", "x.png"], ["--html", "x.html"], ["--n-head", "2"],
]  # fmt: skip


def test_refuses_options_for_other_comparisons(place):
    for more in IDLE:
        said = refused(diff(place, "m1", "m2", *more))
        assert said == f"{'a text' if more == ['hello'] else more[0]} cannot be combined with two surveys"


def test_refuses_surveys_that_cannot_be_compared(place):
    one = "m1.survey.safetensors"
    for a, b in ((one, "model.safetensors"), ("model.safetensors", one)):
        refused(microgpt("diff", a, b, cwd=place), f"{one} is a survey, but model.safetensors is not")
    refused(microgpt("diff", one, cwd=place), "expected a second survey to compare it with")
    refused(microgpt("diff", one, one, "--layer", "x", cwd=place), "'x' matches no event")
    refused(diff(place, "m1", "m2", "--json", "-v"), "--verbose cannot be combined with --json")
    refused(diff(place, "m1", "m2", "--schema", "--weights"), "--weights cannot be combined with two surveys")
    refused(microgpt("diff", "a", "b", "--schema", cwd=place), "an argument cannot be combined with --schema")
