"""Check the parts of an attention score against transformers, and their sum against every architecture."""

import numpy as np
import pytest
from support.commands import microgpt
from support.documents import valid
from support.judges import agree
from support.sweeps import some_of
from support.torch_models import MODELS, written

from microgpt_trace import attribution, init, load
from microgpt_trace.attribution.score_writers import score_by_writer
from microgpt_trace.errors import InputError

TOKENS, LAYER, HEAD, QUERY, KEY = [17, 3, 44, 3, 60, 0, 29], 2, 3, 5, 2


def parts_by_transformers(model):
    """Return the parts of the score by pairs of writers, with the scales of the norms of this run."""
    torch, seen = pytest.importorskip("torch"), {}
    layers, dim = model.model.layers, model.model.layers[0].self_attn.head_dim
    modules = [model.model.embed_tokens, layers[LAYER].input_layernorm]
    modules += [part for layer in layers for part in (layer.mlp, layer.self_attn.o_proj)]

    def keep(module, inputs, output):
        seen[module] = inputs[0], output

    for module in modules:
        module.register_forward_hook(keep)
    with torch.no_grad():
        model(torch.tensor([TOKENS]))
        cos, sin = model.model.rotary_emb(seen[modules[0]][1], torch.arange(len(TOKENS))[None])
        writes = {"embed.tok": seen[modules[0]][1][0]}
        for number, layer in enumerate(layers[:LAYER]):
            context, weight = seen[layer.self_attn.o_proj][0][0], layer.self_attn.o_proj.weight
            for head in range(model.config.num_attention_heads):
                columns = slice(head * dim, (head + 1) * dim)
                writes[f"layer{number}.attn.head{head}"] = context[:, columns] @ weight[:, columns].T
            writes[f"layer{number}.mlp.down"] = seen[layer.mlp][1][0]
        stream, norm = seen[modules[1]][0][0], modules[1]

        def vectors(letter, head, position):
            attention, rows = layers[LAYER].self_attn, slice(head * dim, (head + 1) * dim)
            product = getattr(attention, f"{letter}_proj")
            scale = norm.weight * (stream[position].square().mean() + norm.variance_epsilon) ** -0.5
            found = {name: product.weight[rows] @ (write[position] * scale) for name, write in writes.items()}
            if product.bias is not None:
                found[f"layer{LAYER}.attn_b{letter}"] = product.bias[rows]
            if (own := getattr(attention, f"{letter}_norm", None)) is not None:
                whole = sum(found.values())
                scale = own.weight * (whole.square().mean() + own.variance_epsilon) ** -0.5
                found = {name: vector * scale for name, vector in found.items()}
            turned = {n: torch.cat([-v[dim // 2 :], v[: dim // 2]]) for n, v in found.items()}
            return {n: v * cos[0, position] + turned[n] * sin[0, position] for n, v in found.items()}

        groups = model.config.num_attention_heads // model.config.num_key_value_heads
        queries, keys = vectors("q", HEAD, QUERY), vectors("k", HEAD // groups, KEY)
        return {(a, b): float(q @ k) * dim**-0.5 for a, q in queries.items() for b, k in keys.items()}


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_parts_equal_transformers(name, tmp_path):
    expected = parts_by_transformers(written(name, tmp_path))
    element = f"layer{LAYER}.attn.scores[{HEAD},{QUERY},{KEY}]"
    result = score_by_writer(load(tmp_path), element, tokens=TOKENS)
    assert result.pair_count == len(expected) >= 11**2
    assert result.check.holds
    largest = sorted(expected.values(), key=abs, reverse=True)[: len(result.pairs)]
    print(f"largest part {result.pairs[0].value} of {result.score}, expected {largest[0]}")
    for part in result.pairs:
        agree(part.value, expected[part.query, part.key], rtol=1e-4, atol=1e-5, what=str(part))
    agree([abs(part.value) for part in result.pairs], np.abs(largest), rtol=1e-4, atol=1e-5)
    for part in result.queries:
        total = sum(value for (query, _), value in expected.items() if query == part.query)
        agree(part.value, total, rtol=1e-4, atol=1e-5, what=part.query)
    agree(sum(part.value for part in result.keys), result.score, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", some_of(list(MODELS), every=4))
def test_parts_sum_to_the_score_in_every_architecture(name, tmp_path):
    written(name, tmp_path)
    model = load(tmp_path)
    for layer in (0, model.config.n_layer - 1):
        result = score_by_writer(model, f"layer{layer}.attn.scores[1,-1,2]", tokens=TOKENS)
        print(f"{result.element}: {len(result.queries)} writers sum to {result.total}, traced {result.score}")
        assert result.check.holds


def test_a_missing_writer_fails_the_check_and_ends_with_exit_code_1(monkeypatch):
    whole = attribution.score_writers.direct_writes

    def without_positions(*arguments):
        components, writes = whole(*arguments)
        return components, {name: write for name, write in writes.items() if name != "embed.pos"}

    monkeypatch.setattr(attribution.score_writers, "direct_writes", without_positions)
    assert score_by_writer(init(), "layer0.attn.scores[1,3,2]", "emma").check.holds is False
    result = microgpt("explain 'layer0.attn.scores[1,3,2]' emma --by-writer")
    assert result.code == 1
    assert "DIFFERS from the traced score" in result.out


def test_the_command():
    line = "explain 'layer0.attn.scores[1,3,2]' emma --by-writer"
    out = microgpt(line).out
    for words in ("query m and key m", "Pairs  4 of 4", "embed.pos", "equals the traced score"):
        assert words in out
    document = valid(microgpt(f"{line} --json").out, "explain", "--by-writer")
    total = sum(pair["value"] for pair in document["pairs"])
    agree(total, document["score"], rtol=1e-5)
    refused = microgpt(f"{line} --backward")
    assert (refused.code, refused.lines) == (
        2, ["microgpt: --backward cannot be combined with --by-writer"],
    )  # fmt: skip


@pytest.mark.parametrize("element", ["layer0.attn.q[3,2]", "layer0.attn.weights[1,3,2]"])
def test_only_scores_have_writers(element):
    with pytest.raises(InputError, match="expected an attention score, such as"):
        score_by_writer(init(), element, "emma")
