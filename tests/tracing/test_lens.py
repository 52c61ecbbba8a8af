"""Check the logit lens: candidates after every layer, and P and rank of a target, after attention too."""

import math
import re

import numpy as np
import pytest
from support.commands import microgpt, refusal
from support.documents import parse_json, valid, valid_lines
from support.judges_decoder import softmax
from support.other_plans import odd_plan, post_norm_plan
from support.terminal import rendered
from support.tiny_models import TOKENS

from microgpt_trace import Intervention, load, trace
from microgpt_trace.arrays import logits
from microgpt_trace.errors import InputError
from microgpt_trace.interpreter import run as interpreter
from microgpt_trace.render.trace.whole_trace import trace_sections
from microgpt_trace.tracing import lens as lens_module
from microgpt_trace.tracing.lens import streams_within

VOCAB = 61


def run(model, **options):
    return trace(model, tokens=list(TOKENS), lens=True, names=["*"], values=True, **options)


def expected_probs(model, stream):
    """Return the probabilities of rows of the stream in float64, by independent code: [n, V]"""
    x, eps = stream.astype(np.float64), model.config.norm_eps
    head = model.parameter("wte" if model.config.tied else "lm_head").astype(np.float64)
    if model.config.architecture == "gpt2":
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
        return softmax((x * model.parameter("final_norm") + model.parameter("final_bnorm")) @ head.T)
    return softmax(
        x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * model.parameter("final_norm") @ head.T
    )


def close(found, expected, rtol=2e-5):
    print(f"found {np.ravel(found)[:4]}, expected {np.ravel(expected)[:4]}")
    np.testing.assert_allclose(found, expected, rtol=rtol)


@pytest.fixture(params=["llama_gqa", "qwen2_tied", "gpt2"])
def model(request, decoder_folder, gpt2):
    return gpt2()[1] if request.param == "gpt2" else load(decoder_folder(request.param))


@pytest.mark.parametrize(("positions", "k"), [("all", None), ([1, -1], 4)])
def test_the_lens_applies_final_norm_and_head_after_every_layer(model, positions, k):
    traced = run(model, positions=positions, top_k=k)
    chosen = [*range(7)] if positions == "all" else [1, 6]
    assert [row.layer for row in traced.lens] == [0, 1]
    for row in traced.lens:
        probs = expected_probs(model, traced[f"layer{row.layer}.mlp.residual"][chosen])
        order = np.argsort(-probs, kind="stable")[:, : k or 1]
        assert row.positions == tuple(chosen)
        assert [c.token for c in row.predicted] == probs.argmax(-1).tolist()
        assert [[c.token for c in top] for top in row.top] == order.tolist()
        close([[c.p for c in top] for top in row.top], np.take_along_axis(probs, order, -1))
    assert traced.lens_target == ()


EVENTS = [f"layer{i}.{half}.residual" for i in range(2) for half in ("attn", "mlp")]


@pytest.mark.parametrize(
    ("positions", "chosen", "token"), [(None, [6], 17), ("all", range(7), 0), ([0, -2], [0, 5], 60)]
)
def test_a_target_has_p_and_rank_after_every_attention_and_layer(model, positions, chosen, token):
    scaled = [Intervention("scale", "layer0.mlp.down", 5.0)] * (token == 60)  # seen by the lens
    traced = run(model, positions=positions, target=f"#{token}", interventions=scaled)
    rows = [(row.event, row.position) for row in traced.lens_target]
    assert rows == [(event, position) for event in EVENTS for position in chosen]
    for row in traced.lens_target:
        probs = expected_probs(model, traced[row.event][[row.position]])[0]
        assert (row.layer, row.target.token) == (int(row.event[5]), token)
        close(row.target.p, probs[token])
        assert row.rank == 1 + sum(probs > probs[token])
    (final,) = trace(model, tokens=list(TOKENS), top_k=VOCAB, positions="last").predictions
    if 6 in chosen:  # after the last layer the lens gives the prediction
        close(traced.lens_target[-1].target.p, next(c.p for c in final.top if c.token == token))


def test_ties_rank_by_id(decoder_folder):
    def same(weights):
        weights["lm_head.weight"][:] = 0  # with equal rows a BLAS may add in different orders

    model = load(decoder_folder(edit=same))
    for token in (0, 1, 60):
        assert {row.rank for row in run(model, target=token).lens_target} == {token + 1}
    assert [c.token for c in run(model, top_k=3).lens[0].top[-1]] == [0, 1, 2]


def test_ranks_differ_where_probabilities_vanish(decoder_folder):
    def sharpen(weights):
        weights["lm_head.weight"] *= 1e4

    model = load(decoder_folder(edit=sharpen))
    traced = run(model, target="#5")
    x = traced["layer0.attn.residual"][6].astype(np.float64)
    x = x / np.sqrt((x * x).mean() + model.config.norm_eps) * model.parameter("final_norm")
    scores = model.parameter("lm_head").astype(np.float64) @ x
    for token in np.argsort(-scores)[[1, 20, 60]].tolist():
        row = run(model, target=token).lens_target[0]
        assert (row.target.p, row.rank) == (0, 1 + sum(scores > scores[token]))


def test_a_target_is_named_by_text_or_id(decoder_folder):
    model = load(decoder_folder(template="{{ messages[0]['content'] }}"))
    ids = {run(model, target=named).lens_target[0].target.token for named in ("#3", 3, "␣", " ")}
    assert ids == {3}
    for wrong in ("no such token", "#61", "", -1):
        with pytest.raises(InputError):
            run(model, target=wrong)


def test_there_are_no_rows_without_the_lens_option(tiny):
    assert trace(tiny, tokens=[1, 2]).lens == ()
    with pytest.raises(InputError, match="needs backward or lens"):
        trace(tiny, tokens=[1, 2], target="#3")


def test_parallel_layers_have_no_stream_after_attention():
    """The streams of a layer follow from the sums of the plan."""
    assert streams_within(odd_plan()) == [["layer0.mlp.residual"], ["layer1.mlp.residual"]]
    assert streams_within(post_norm_plan()) == [["layer0.attn.residual", "layer0.mlp.residual"]]


def test_the_table_of_parallel_layers_has_no_column_after_attention(tiny):
    traced = run(tiny, target=5)
    object.__setattr__(traced, "lens_target", tuple(r for r in traced.lens_target if ".mlp." in r.event))
    shown = rendered(trace_sections(traced))
    assert re.search(r"^layer +P after layer +rank$", shown, re.MULTILINE)
    assert "P after attn" not in shown


def test_computes_logits_in_parts(tiny, monkeypatch):
    expected, sizes = run(tiny, target=5, positions="all"), []

    def recorded(model, x):
        sizes.append(len(x))
        return interpreter.head_forward(model, x)

    monkeypatch.setattr(lens_module, "head_forward", recorded)
    monkeypatch.setattr(logits, "PART", 3 * VOCAB)
    monkeypatch.setattr(logits, "HELD", 1)
    found = run(tiny, target=5, positions="all")
    assert max(sizes) == 3
    assert sum(sizes) == 2 * 2 * 7
    first, second = ([[c.token for c in row.predicted] for row in told.lens] for told in (found, expected))
    assert first == second
    assert [row.rank for row in found.lens_target] == [row.rank for row in expected.lens_target]


def test_predicts_nothing_if_probabilities_are_not_finite(decoder_folder):
    def spoil(weights):
        weights["model.layers.1.mlp.up_proj.weight"][5, 0] = np.nan

    model = load(decoder_folder(edit=spoil))
    traced = run(model, target=5, top_k=2)
    first, last = traced.lens
    assert None not in first.predicted
    assert set(last.predicted) == {None}
    assert set(last.top) == {()}
    ranks = {row.event: (row.rank, math.isnan(row.target.p)) for row in traced.lens_target}
    assert ranks["layer1.mlp.residual"] == (None, True)
    assert ranks["layer1.attn.residual"][1] is False
    shown = rendered(trace_sections(traced))
    assert re.search(r"^ +1 +\S+ +\d+ +NaN +–$", shown, re.MULTILINE)


@pytest.mark.parametrize("options", ["", "--target '#5' --top-k 3 --positions 0,2 --generate 2"])
def test_documents_have_the_lens_and_fit_their_schemas(decoder_folder, options):
    line = f"trace {decoder_folder('qwen3')} 'Ann ran' --lens {options}"
    document = valid(microgpt(f"{line} --json").out, "trace")
    lines = valid_lines(microgpt(f"{line} --jsonl").out, "trace")
    for member in ("lens", "lens_target"):
        rows = [{"record": member} | row for row in document.get(member, [])]
        assert [line for line in lines if line["record"] == member] == rows
    assert ("lens_target" in document) == ("--target" in options)
    assert {len(top) for row in document["lens"] for top in row["top"]} == {3 if "--top-k" in options else 1}


def rows_of(text, title):
    """Return the rows of the table under a title that begins with `title`."""
    block = next(block for block in text.split("\n\n") if block.startswith(title))
    return [re.split(r" {2,}", line.strip()) for line in block.splitlines()[2:]]


def test_the_tables_show_the_same_numbers(decoder_folder):
    line = f"{decoder_folder('qwen3')} 'Ann ran' --lens --target n --top-k 3"
    out = microgpt(f"trace {line}").out
    document = parse_json(microgpt(f"trace {line} --json").out)
    shown = rows_of(out, "Logit lens of n after position 6 n")
    said = shown.pop() if shown[-1][0].startswith("rank 1") else None
    found = [cell for row in shown for cell in row[1:]]
    expected = [text for row in document["lens_target"] for text in (row["target"]["p"], row["rank"])]
    assert [int(rank) for rank in found[1::2]] == expected[1::2]
    np.testing.assert_allclose(np.float64(found[::2]), expected[::2], atol=5e-5, rtol=0.05)
    assert (said is None) == (1 not in expected[1::2])
    lens = rows_of(out, "Logit lens, top 3 after position 6 n")
    for row, layer in zip(lens, document["lens"], strict=True):
        told, top = [cell.rpartition("=") for cell in row[1:]], layer["top"][-1]
        assert [label for label, _, _ in told] == [c["label"].replace(" ", "␣") for c in top]
        np.testing.assert_allclose([float(p) for _, _, p in told], [c["p"] for c in top], atol=6e-4)


def test_reports_where_the_target_first_has_rank_1(tiny):
    traced, first = run(tiny), {}
    for event in reversed(EVENTS):
        first[int(expected_probs(tiny, traced[event][[6]]).argmax())] = event
    never = next(token for token in range(VOCAB) if token not in first)
    assert len(first) > 1
    for token in (*first, never):
        shown, event = rendered(trace_sections(run(tiny, target=token)), 120), first.get(token, "")
        where = f"{'the attention of ' * ('.attn.' in event)}layer {event[5:6]}\n"
        assert ("rank 1 for" in shown) == (token != never)
        assert token == never or f"rank 1 for the first time after {where}" in shown


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "trace emma --target n",
            "--target needs --backward or --lens: --target names the token",
        ),
        ("trace emma --lens --target n", "--lens is for a production model"),
        ("trace FILE --lens --target nothing", "token 'nothing'"),
        ("trace FILE --lens --target '#61'", "token #61: expected an id from #0 to #60"),
    ],
)
def test_refuses_a_target_that_names_no_token(decoder_folder, line, said):
    assert said in refusal(line.replace("FILE", str(decoder_folder("qwen3"))))
