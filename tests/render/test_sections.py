"""The `about` of rows and cells names events, parameters and elements that exist."""

import pytest
from support.commands import microgpt
from support.sweeps import some_of

from microgpt_trace import init, load
from microgpt_trace.render.sections import ElementCell, Figures, Grid, Table, Words
from microgpt_trace.render.terminal import printing

MICROGPT = (
    "trace emma -v --backward --step --top-k 3",
    "trace emma --ablate layer0.attn.head2",
    "explain layer0.attn.scores[1,3,2] emma",
    "explain probs[1,a] emma",
    "explain layer0.mlp.act[3,5] emma --backward",
    "attribute emma",
    "attribute emma --method integrated --neurons",
    "patch emma emmy --target m --against y --sites *.residual --sites *.head* --sites embed.tok@2:5",
    "patch emma emmy --target m --against y --sender *.head* --receiver layer0.mlp --receiver logits",
    "patch emma emmy --target m --against y --sender embed.* --sender *.head2@3 --receiver layer0.mlp",
    "patch --pairs pairs.txt --sites layer0.attn.head* --sites layer0.mlp.act@1:3",
    "diff one.safetensors two.safetensors emma -v --positions all",
    "diff one.safetensors two.safetensors --weights",
    "inspect",
    "gradcheck",
)
DECODER = (
    "trace qwen3 'Ann ran' -v --generate 2",
    "trace qwen3 'Ann ran' --lens --target n --layer logits",
    "explain qwen3 layer1.mlp.hidden[2,5] 'Ann ran'",
    "attribute qwen3 'Ann ran' --target A",
    "patch qwen3 'Ann ran' 'Ann sat' --target A --against b",
    "diagnose dump qwen3 'Ann ran' -v",
    "inspect qwen3",
)


def names_of(block):
    """Return the names that the rows and cells of a block are about."""
    if isinstance(block, Grid):
        yield from (name for row in block.about for name in row)
    if isinstance(block, Words) and block.about:
        yield block.about
    if isinstance(block, Table):
        yield from map(block.about, block.rows) if block.about else ()
        cells = (column.cell(row) for column in block.columns for row in block.rows)
        yield from (cell.about for cell in cells if isinstance(cell, ElementCell))


@pytest.fixture
def shown(results, monkeypatch):
    """Return the blocks that a command prints."""

    def run(line):
        printed = []
        monkeypatch.setattr(printing, "print_sections", lambda sections, screen: printed.extend(sections))
        assert microgpt(line, cwd=results).code in (0, 1)
        return [block for section in printed for block in section.blocks]

    return run


@pytest.mark.parametrize("line", some_of([*MICROGPT, *DECODER], every=2))
def test_rows_and_cells_name_events_and_parameters_of_the_model(results, shown, line):
    model = init() if line in MICROGPT else load(results / "qwen3")
    existing = {*model.hooks.specs, *model.config.shapes()}
    names = {name for block in shown(line) for name in names_of(block) if name}
    print(*sorted(names)[:12], sep="\n")
    assert names
    names = {name.removeprefix("gradient ").partition(" to ")[0] for name in names}  # of a path, the sender
    assert {name.partition("[")[0].partition("@")[0] for name in names} <= existing
    if "--step" in line:
        assert names >= existing


def test_an_insight_names_the_event_to_look_at(shown):
    titles = {block.about: block.spans[0][0] for block in shown("trace emma") if isinstance(block, Words)}
    assert titles["layer0.attn.weights"] == "Attention and the residual stream"
    assert titles["layer0.mlp.act"] == "ReLU sparsity"


def test_the_terms_of_a_sum_name_their_factors(shown):
    table = next(block for block in shown("explain layer0.attn.q[3,5] emma") if isinstance(block, Table))
    factors = {name for name in names_of(table) if name}
    for prefix in ("layer0.attn.n", "layer0.attn_wq"):
        assert sum(name.startswith(prefix) for name in factors) == 16
    assert len(factors) == 32


def test_an_array_has_a_label_for_each_row_and_column(shown):
    for block in shown("trace emma --show wte --show layer0.attn.weights --show logits --backward"):
        if isinstance(block, Figures):
            assert block.values.shape[-2:] == (len(block.rows), len(block.columns))
            assert block.row_count == len(block.rows)
