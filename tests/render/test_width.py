"""No line of output is wider than the screen, for every command and for awkward texts."""

import json

import numpy as np
import pytest
from rich.cells import cell_len
from support.commands import PARAMS, microgpt
from support.foreign_dumps import write_dump
from support.result_files import write_result_files
from support.sweeps import some_of
from support.terminal import rendered
from support.tiny_experts import write_experts
from support.tiny_tokenizer import write_tokenizer

from microgpt_trace import Config, Model, Tokenizer, load, save, trace
from microgpt_trace.microgpt.parameters import Parameters
from microgpt_trace.render.arrays import Selection, array_section
from microgpt_trace.render.sections import Column, Section, Table
from microgpt_trace.render.terminal.screen import wrapped

CHARS = " '日本語ǆabcdefghijklmnopqrstuvwxyz0123456789\u3000\x1b\U0001f642"
WIDTHS = (80, 120)
COPIED = ("Next: ", "or: ", "trace it ")  # before command lines, which are never wrapped


@pytest.fixture(scope="module")
def place(tmp_path_factory, decoder_folder):
    """A folder with models of both families, logs, dumps and prompts, with awkward texts and numbers."""
    folder = tmp_path_factory.mktemp("place")
    write_result_files(folder)
    config = Config(vocab_size=len(CHARS) + 1, n_embd=24, n_head=12, n_layer=2, block_size=24)
    params = Parameters.random(config)
    params.flat *= 12
    save(Model(params, Tokenizer(CHARS), "test"), folder / "wide.safetensors")
    for case in ("llama_gqa", "qwen3"):
        (folder / case).symlink_to(decoder_folder(case, template="{{ messages[0]['content'] }}"))
    write_tokenizer(write_experts(folder / "experts"))
    run = trace(load(folder / "qwen3"), "Ann ran", values=True)
    events = {name: array + np.float32(0.1) for (_, name), array in run.arrays.items()}
    write_dump(folder / "dump", events, "ours")
    (folder / "names.txt").write_text(f"{CHARS[:20]}\nabc 1\n" * 3)
    (folder / "prompts.txt").write_text(f"{'Ann ran ' * 6}\nAnn\n")
    shape = "--n-layer 2 --n-embd 24 --n-head 12 --block-size 24"
    line = f"train --data names.txt --vocab data {shape} --steps 60 --trace-every 10 --force"
    done = microgpt(f"{line} --out t.safetensors --log t.jsonl", cwd=folder)
    assert done.code == 0, done.err
    return folder


WIDE, TEXT = "--model wide.safetensors", "'日本 語\u30009 a\x1b\U0001f642 xyz 0123'"
OTHER = TEXT.replace("a", "b")
CHANGED = "--ablate layer0.attn.head2 --scale layer1.mlp.act@3:5=0.5 --ablate-mean layer1.attn.out"
LINES = (
    "trace",
    "trace -v --backward --step --time --top-k 27",
    f"trace {CHANGED.replace('layer1', 'layer0')} -v --step",
    f"trace {TEXT} {WIDE} -v --backward --step --time --top-k 9",
    f"trace {TEXT} {WIDE} {CHANGED} -v --backward --step --time",
    f"trace {TEXT} {WIDE} --validate -v",
    f"trace {TEXT} {WIDE} --show wte --show logits --show layer0.attn.weights --backward",
    "trace llama_gqa 'Ann ran'",
    "trace experts 'Ann ran'",
    "survey experts prompts.txt",
    "trace qwen3 'Ann ran' -v --time --lens --generate 3 --top-k 9 --recheck",
    "trace qwen3 'Ann ran' --chat --positions last",
    "trace qwen3 'Ann ran' -v --lens --ablate layer0.attn.out --generate 2",
    "trace qwen3 --layer '*.head*' 'Ann ran' --show wte --show logits",
    "trace qwen3 'Ann ran' --lens --target n --top-k 12 --brief",
    "trace qwen3 'Ann ran' -v --layer '*.weights' --show 'layer1.attn.scores[3,2:5]' --show 'logits[-1]'",
    "diff one.safetensors two.safetensors emma -v --positions all",
    "diff one.safetensors two.safetensors --weights -v",
    "diff llama_gqa qwen3 --weights",
    "diff qwen3 dump 'Ann ran' -v --positions all",
    "diff qwen3 dump 'Ann ran'",
    "diff qwen3 qwen3 --prompts prompts.txt",
    "diagnose dump qwen3 'Ann ran'",
    "diagnose dump qwen3 'Ann ran' -v",
    f"explain 'layer1.mlp.down[3,5]' {TEXT} {WIDE} --terms 40",
    f"explain 'probs[3,9]' {TEXT} {WIDE}",
    f"explain 'layer1.attn.weights[3,9,4]' {TEXT} {WIDE} --backward",
    "explain qwen3 'layer1.attn.q_rope[2,5]' 'Ann ran'",
    "explain qwen3 'logits[-1,A]' 'Ann ran'",
    "attribute emma",
    "attribute emma --method integrated --neurons",
    f"attribute {TEXT} {WIDE} --top 4",
    "attribute qwen3 'Ann ran' --target A",
    f"patch {TEXT} {OTHER} {WIDE} --target a --against b",
    f"patch {TEXT} {OTHER} {WIDE} --target 9 --against b --sites 'layer*.attn.head*' --sites embed.tok@2:5",
    f"patch {TEXT} {OTHER} {WIDE} --target a --against b --sender '*' --receiver '*.q' --receiver logits",
    f"explain 'layer0.attn.scores[1,2,1]' {TEXT} {WIDE} --by-writer",
    "patch --pairs pairs.txt --sites 'layer0.attn.head*' --sites 'layer0.mlp.act@1:3'",
    f"inspect {WIDE}",
    "inspect qwen3 --stats --metadata",
    "inspect",
    "gradcheck",
    "sample --model t.safetensors",
    "train --data names.txt --vocab data --steps 40 --out again.safetensors --force",
    "--help",
    *(f"{name} --help" for name in PARAMS),
)


def test_the_lines_use_every_command():
    assert {line.split()[0] for line in LINES} >= set(PARAMS)


@pytest.mark.parametrize("line", some_of(LINES, every=12, sweep=2))
def test_no_line_is_wider_than_the_screen(place, monkeypatch, line):
    monkeypatch.chdir(place)
    for width in WIDTHS:
        done = microgpt(line, width=width)
        assert done.code in (0, 1), done.err
        for shown in done.out.splitlines():
            assert cell_len(shown) <= width or shown.startswith(COPIED), (width, shown)


def test_a_screen_of_one_character_is_not_an_error():
    for line in ("explain 'layer0.attn.scores[0,1,0]'", "trace", "attribute"):
        assert microgpt(line, width=1).code == 0, line


ROW = {"name": "layer10.attn.head12", "text": "日本語 " * 9 + "[down project] x", "figure": "123,456.78"}


def column(title, cell, **options):
    return Column(title, lambda row: row[cell], **options)


@pytest.mark.parametrize("width", range(24, 150, 7))
def test_columns_that_do_not_fit_form_a_table_below(width):
    figures = [column(f"figure {i}", "figure", right=True) for i in range(6)]
    columns = [column("name", "name", whole=True), *figures, column("text", "text", wrap=True)]
    text = rendered([Section([Table(columns, [ROW, ROW])])], width)
    lines = text.splitlines()
    assert max(map(cell_len, lines)) <= max(width, len(ROW["name"]) + 2 + len(ROW["figure"]))
    assert text.count(ROW["figure"]) == 12
    parts = text.count("name ")
    assert text.count(ROW["name"]) == 2 * parts
    assert text.count("日") == 18


@pytest.mark.parametrize("width", [31, 32, 34, 37, 38, 80])
def test_a_matrix_uses_the_width_of_the_screen(emma, width):
    """One more column would not fit: the margin has 4 characters, a cell 8."""
    values = np.full((5, 64), -0.123)
    selection = Selection(values, values.shape, [range(5), range(64)])
    lines = rendered([array_section("layer0.mlp.act", selection, emma, ["BOS", *"emma"])], width).splitlines()
    assert not [line for line in lines if line.startswith("-")]  # no row is wrapped
    assert width - 8 < max(cell_len(line) for line in lines if line.startswith("BOS")) <= width


TEXTS = ["mlp_out = h @ w_fc2 [down project]", "日本語のテキスト is", "a" * 30, "", "  x", "[unclosed x"]
TEXTS += ["a  b", "👨 \u0301"]  # the last word has no width


@pytest.mark.parametrize("width", [1, 2, 5, 12, 40])
def test_wrapping_keeps_all_text(width):
    for text in TEXTS:
        lines = wrapped(text, width)
        assert "".join("".join(lines).split()) == "".join(text.split())
        assert all(cell_len(line) <= max(width, 2) for line in lines)
        assert lines == [line.rstrip() for line in lines]
    if width >= 12:
        assert "[down project]" in " ".join(wrapped(TEXTS[0], max(width, 14)))


def test_interventions_do_not_wrap_operations():
    out = microgpt("trace emma --ablate layer0.attn.head2").out
    lines = "mlp_out = h @ w_fc2 [down project] ", "weights = softmax(scores + mask) ", "h = ReLU(h)  ← "
    assert [line for line in lines if line not in out] == []


def test_json_is_not_wrapped():
    assert json.loads(microgpt("trace emma --json", width=40).out)["loss"]
