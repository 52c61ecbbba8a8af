"""Check activation patching against single reruns, PyTorch, a case worked by hand, and the real SmolLM2."""

from dataclasses import replace

import numpy as np
import pytest
from support.judges import agree, torch_run
from support.real_model import needs_smollm2
from support.sweeps import some_of

from microgpt_trace import Config, Model, Tokenizer, init, load, trace
from microgpt_trace.errors import InputError
from microgpt_trace.microgpt.parameters import Parameters
from microgpt_trace.patching.patch import patch
from microgpt_trace.patching.patch_results import moves, parts_of, runs_above, tables_of

CLEAN, CORRUPT = [17, 3, 44, 3, 60, 0, 29], [17, 3, 8, 3, 60, 51, 29]
PARTS = {  # sites with brackets or @, and the NumPy index of each
    "layer1.attn.weights[1]": np.s_[1],
    "layer0.attn.out@2,-1:0-2": np.ix_([2, -1], [0, 1, 2]),
    "layer1.mlp.up@:3": np.s_[:, 3],
    "logits@-1:#5": np.s_[-1, 5],
}


def options_of(text):
    return {"text": text} if isinstance(text, str) else {"tokens": text}


def rerun(model, clean, corrupt, cell, part, contrast):
    """The judge: one run under a hook that puts the clean value into this cell alone."""
    clean_value = trace(model, values=[cell.name], names=[cell.name], **options_of(clean))[cell.name]
    index = (
        np.s_[..., cell.position, :] if cell.position is not None else np.s_[...] if part is None else part
    )

    def put(event, value):
        changed = np.array(value)
        changed[index] = clean_value[index]
        return changed

    with model.hooks.subscribe(put, cell.name):
        logits = trace(model, values=["logits"], **options_of(corrupt))["logits"][contrast.position]
    return float(logits[contrast.target]) - float(logits[contrast.against])


def assert_equals_reruns(model, clean, corrupt, rtol, atol, **options):
    result = patch(model, clean, corrupt, sites=["*", *PARTS], **options)
    for text, run in ((clean, result.clean), (corrupt, result.corrupt)):
        logits = trace(model, values=["logits"], **options_of(text))["logits"][result.contrast.position]
        expected = logits[result.contrast.target] - logits[result.contrast.against]
        agree(run.difference, expected, rtol=rtol, atol=atol, what=run.text)
    kinds = set()
    for cell in result.cells[::3] + result.cells[-4:]:
        judged = rerun(model, clean, corrupt, cell, PARTS.get(cell.site), result.contrast)
        agree(cell.difference, judged, rtol=rtol, atol=atol, what=cell.site)
        span = result.clean.difference - result.corrupt.difference
        agree(cell.restored, (judged - result.corrupt.difference) / span, rtol=rtol, atol=atol / abs(span))
        kinds.add(cell.name)
    assert kinds > {f"layer{i}.attn.{n}" for i in (0, 1) for n in ("scores", "weights", "q", "k", "v", "out")}
    assert result.ok
    return result.contrast


@pytest.mark.parametrize(
    "case", some_of(["qwen3", "llama_gqa", "llama_mha_bias", "mistral_window", "qwen2_tied"], every=5)
)
def test_every_kind_of_site_of_a_decoder_equals_a_rerun(decoders, case):
    options = {"target": 7, "against": 11, "position": -3 if case == "qwen3" else -1}
    contrast = assert_equals_reruns(decoders(case)[0], CLEAN, CORRUPT, 1e-4, 5e-5, **options)
    assert (contrast.position, contrast.seen) == ((4, "60") if case == "qwen3" else (6, "29"))


def test_sites_equal_pytorch(deep):
    model, texts = deep.model, ("abbacife", "adbacihe")
    result = patch(model, *texts, sites=["*"], target="b", against="EOS")
    weights, config = dict(model.params.items()), model.config

    def run(text, replaced=None):
        ids = model.tokenizer.encode_name(text)
        events, _ = torch_run(weights, ids[:-1], ids[1:], config, replaced)
        return {name: tensor.detach().numpy() for name, tensor in events.items()}

    clean, corrupt = map(run, texts)
    for cell in result.cells[::5]:
        value = corrupt[cell.name].copy()
        index = np.s_[...] if cell.position is None else np.s_[..., cell.position, :]
        value[index] = clean[cell.name][index]
        events = run(texts[1], {cell.name: value})
        logits = value[-1] if cell.name == "logits" else events["logits"][-1]
        agree(cell.difference, logits[2 - 1] - logits[config.vocab_size - 1], what=cell.site)


def test_a_case_worked_by_hand():
    # The layers add nothing, so the logits are lm_head @ (x / rms). "a" is (3, 4) and "b" (4, 3), with rms
    # 5/sqrt(2) apart from eps. The logit of b is twice the second channel, so logit(a) - logit(b) is
    # (x0 - 2 x1) / rms: -5 / rms in the clean run, -2 / rms in the corrupted run.
    config = Config(vocab_size=3, n_embd=2, n_head=1, n_layer=1, block_size=2)
    params = Parameters.random(config, 0, np.float64)
    params.flat[...] = 0
    params["wte"][...] = [[0, 0], [3, 4], [4, 3]]
    params["lm_head"][...] = [[0, 0], [1, 0], [0, 2]]
    model = Model(params, Tokenizer("ab"), "by hand")
    sites = ["embed.norm@1:0", "embed.norm@1:1", "embed.norm", "layer0.attn.head0"]
    result = patch(model, "a", "b", sites=sites, target="a", against="b")
    rms = np.sqrt(12.5 + 1e-5)
    agree([result.clean.difference, result.corrupt.difference], [-5 / rms, -2 / rms])
    restored = {cell.site: cell.restored for cell in result.cells}
    expected = {"embed.norm@0": 0, "embed.norm@1": 1, "layer0.attn.head0": 0}
    expected |= {"embed.norm@1:0": 1 / 3, "embed.norm@1:1": 2 / 3}
    agree([restored[site] for site in expected], list(expected.values()))


def test_sites_with_equal_bits_in_both_runs_are_not_run(deep, monkeypatch):
    edited = []

    def recording(model, inputs, edits, rows, report):
        edited.extend(edit.name for edit in edits)
        return plain(model, inputs, edits, rows, report)

    plain = Model.edited_logits
    monkeypatch.setattr(Model, "edited_logits", recording)
    result = patch(deep.model, "abbacife", "abbacihe", target="f", against="a")
    # the check, embed.norm at position 7, and both layers at positions 7 and 8
    assert edited == ["embed.norm", "embed.norm", *["layer0.mlp.residual"] * 2, *["layer1.mlp.residual"] * 2]
    assert len(result.cells) == 3 * 9
    assert {cell.restored for cell in result.cells if cell.position < 7} == {0.0}


def test_the_default_tokens_are_the_predictions_of_the_runs(decoders):
    model = decoders("llama_gqa")[0]
    result = patch(model, CLEAN, CORRUPT)
    best = [trace(model, tokens=t).predictions[-1].predicted for t in (CLEAN, CORRUPT)]
    assert [result.contrast.target, result.contrast.against] == [b.token for b in best]
    agree([result.clean.p_target, result.corrupt.p_against], [b.p for b in best], rtol=1e-5)
    assert [cell.name for cell in result.cells[::7]] == [
        "embed.tok", "layer0.mlp.residual", "layer1.mlp.residual",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "options", "words"),
    [
        (("abba", "abb"), {}, "5 and 4 tokens and cannot be patched position by position: BOS a b b a | BOS"),
        (("abba", "ABBA"), {}, "both texts have the same tokens, BOS a b b a"),
        (("abba", "abbb"), {"position": 5}, "position 5: the texts have positions 0 to 4"),
        (("abba", "abbb"), {"position": 2}, "up to this position both texts have the same tokens"),
        (("abba", "abbb"), {"target": "a", "against": "a"}, "--target and --against are both a"),
        (("abba", "abbb"), {"target": "z"}, "'z'"),
        (("abba", "abbb"), {"target": 99}, "#99"),
        (("abba", "abbb"), {"sites": ["probs"]}, "probs: expected an event before the logits"),
        (("abba", "abbb"), {"sites": ["loss@0"]}, "loss: expected an event before the logits"),
        (("abba", "abbb"), {"sites": ["wte"]}, "wte is a parameter, which both runs share"),
        (("abba", "abbb"), {"sites": ["lm_head"]}, "the event is logits"),
        (("abba", "abbb"), {"sites": ["layer7.*"]}, "matches no event"),
        (("abba", "abbb"), {"sites": ["embed.tok@5"]}, "no position 5 exists: embed.tok"),
        (("abba", "abbb"), {"sites": []}, "at least one"),
    ],
)  # fmt: skip
def test_refuses_arguments_that_do_not_fit(deep, texts, options, words):
    tokens = {"target": "a", "against": "b"} if "target" not in options else {}
    with pytest.raises(InputError) as error:
        patch(deep.model, *texts, **tokens | options)
    print(error.value)
    assert words in str(error.value)


def test_runs_with_the_same_prediction_need_named_tokens(deep):
    model = deep.model
    with pytest.raises(InputError, match=r"are both (\S+) at position 2: .*--target \S+ --against"):
        patch(model, "ab", "ac")
    # if only one token is named, the default of the other may be the same
    best = trace(model, "ac", top_k=1).predictions[-1].predicted.label
    with pytest.raises(InputError, match=f"are both {best} .* name another token. .* for --against"):
        patch(model, "ab", "ac", target=best)


@pytest.mark.parametrize(("parameter", "rows", "value"), [("layer0.attn_wv", ..., 0), ("wte", 5, np.nan)])
def test_proposes_no_tokens_if_none_would_help(parameter, rows, value):
    """The runs have the same logits, or the clean run has logits that are not finite."""
    model = init()
    model.params[parameter][rows] = value
    best = trace(model, "onyx", top_k=1).predictions[-1].predicted.label
    for options in ({}, {"target": best}):
        with pytest.raises(InputError, match=r"position 4(: the logits of the two runs| are not finite)"):
            patch(model, "enyx", "onyx", **options)


@pytest.mark.parametrize(
    ("sites", "shape"), [(None, (3, 5)), (["layer*.attn.head*"], (2, 2)), (["logits"], (1, 5))]
)
def test_the_matrix_has_the_cells_of_the_table(deep, sites, shape):
    result = patch(deep.model, "abba", "abbb", sites=sites, target="a", against="b")
    (table,) = tables_of(result.cells)
    assert result.matrix.shape == shape
    for row, (_, cells) in zip(result.matrix, table.rows, strict=True):
        np.testing.assert_array_equal(row, [cell.restored for cell in cells])


@pytest.mark.parametrize("sites", [["layer0.mlp.act", "layer0.attn.out"], ["layer0.mlp.act@2:1"]])
def test_refuses_a_matrix_of_two_kinds_of_sites(deep, sites):
    result = patch(deep.model, "abba", "abbb", sites=sites, target="a", against="b")
    with pytest.raises(InputError, match="matrix: expected sites of one table, found"):
        _ = result.matrix


def test_refuses_a_model_with_hooks(deep):
    with (
        deep.model.hooks.subscribe(lambda event, value: None, "embed.tok"),
        pytest.raises(InputError, match="without hooks"),
    ):
        patch(deep.model, "abba", "abbb")


def test_refuses_logits_that_are_not_finite(decoder_folder):
    def spoil(weights):
        weights["model.embed_tokens.weight"][8] = np.nan  # a token of the corrupted text

    model = load(decoder_folder(edit=spoil))
    with pytest.raises(InputError, match="the corrupted run's logits at position 6 are not finite"):
        patch(model, CLEAN, CORRUPT)
    with pytest.raises(InputError, match="is nan in the corrupted run"):
        patch(model, CLEAN, CORRUPT, target=1, against=2)


def test_tables_have_a_row_per_layer_and_a_column_per_position_or_head(deep):
    result = patch(
        deep.model, "abba", "abbb", target="a", against="b",
        sites=["embed.*", "layer*.mlp.residual", "attn_out", "layer*.attn.head*", "logits@-1"],
    )  # fmt: skip
    tables = {table.kind: table for table in tables_of(result.cells)}
    assert list(tables) == ["mlp.residual", "attn.head", "attn.out"]
    assert [label for label, _ in tables["mlp.residual"].rows] == [
        "embed.tok", "embed.pos", "embed.sum", "embed.norm", "layer 0", "layer 1",
    ]  # fmt: skip
    assert tables["attn.head"].across == "head"
    assert tables["attn.head"].columns == (0, 1)
    assert tables["attn.out"].columns == (0, 1, 2, 3, 4)
    assert [cell.site for cell in parts_of(result.cells)] == ["logits@-1"]


PLACES = {  # sites with their head and position
    "layer0.attn.head1": (1, None),
    "layer0.attn.head1@0": (1, 0),
    "layer0.attn.head1@:3": (1, None),
    "layer0.attn.head1@0,2": (1, None),
    "layer0.attn.weights[1,3]": (1, 3),
    "layer0.attn.weights[:,3]": (None, None),
    "layer0.mlp.act@3": (None, None),
}


def test_a_part_of_a_head_has_its_head_and_its_position(deep):
    result = patch(deep.model, "abba", "abbb", target="a", against="b", sites=list(PLACES))
    assert {cell.site: (cell.head, cell.position) for cell in result.cells} == PLACES
    assert [cell.site for cell in parts_of(result.cells)] == list(PLACES)[1:]


def test_finds_the_runs_and_moves_of_a_table(decoders):
    result = patch(decoders("llama_gqa")[0], CLEAN, CORRUPT)
    values = [[0.9, 0.1], [0.8, 0.3], [0.2, 0.7]]
    cells = [cell for cell in result.cells if cell.position < 2]
    cells = [replace(c, restored=v) for c, v in zip(cells, np.ravel(values), strict=True)]
    (table,) = tables_of(cells)
    assert dict(runs_above(table, 0.5, lambda cell: cell.restored)) == {
        0: [("embed.tok", "layer 0")], 1: [("layer 1", "layer 1")],
    }  # fmt: skip
    assert list(moves(table, 0.5, lambda cell: cell.restored)) == [(0, 1, "layer 0", "layer 1")]
    assert not list(moves(table, 0.75, lambda cell: cell.restored))


FRANCE, ITALY = "The capital of France is", "The capital of Italy is"


@pytest.fixture(scope="module")
def france(smollm2):
    return patch(smollm2, FRANCE, ITALY)


@needs_smollm2
def test_the_answer_of_smollm2_moves_from_the_country_to_the_last_position(france):
    assert (france.contrast.target_label, france.contrast.against_label) == ("␣Paris", "␣Rome")
    assert france.clean.p_target == pytest.approx(0.7725, abs=5e-4)
    assert np.flatnonzero(np.not_equal(france.clean.tokens, france.corrupt.tokens)).tolist() == [3]
    assert france.ok
    grid = np.array([cell.restored for cell in france.cells]).reshape(31, 5)
    print(grid.round(2))
    assert np.all(np.abs(grid[:20, 3:] - [1, 0]) < 0.05)  # in early layers at the position of ␣Italy
    assert np.all(np.abs(grid[-5:, 3:] - [0, 1]) < 0.05)  # in late layers at the last position
    assert not grid[:, :3].any()


@needs_smollm2
def test_one_head_of_smollm2_carries_the_answer(smollm2, france):
    sites = ["layer23.attn.head4", "layer23.attn.head3", "layer23.attn.out@-1"]
    result = patch(smollm2, FRANCE, ITALY, sites=sites)
    restored = {cell.site: cell.restored for cell in result.cells}
    assert restored["layer23.attn.head4"] > 0.9 > 0.1 > restored["layer23.attn.head3"]
    assert restored["layer23.attn.out@-1"] > 0.95
    residual = next(cell for cell in france.cells if cell.site == "layer11.mlp.residual@3")
    for cell in (result.cells[0], residual):
        judged = rerun(smollm2, FRANCE, ITALY, cell, None, result.contrast)
        agree(cell.difference, judged, rtol=1e-4, atol=5e-4, what=cell.site)
