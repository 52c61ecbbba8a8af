"""Attribution against independent judges: explicit vectors, edited weights, attention maps by hand."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from support.faulty_engine import decoder_run
from support.judges import EPS, agree, torch_run
from support.judges_decoder import head_dim_of
from support.real_model import needs_smollm2
from support.sweeps import some_of
from support.tiny_models import CASES, TOKENS

from microgpt_trace import trace
from microgpt_trace.attribution import attribute as attributing
from microgpt_trace.attribution import writes
from microgpt_trace.attribution.attribute import attribute
from microgpt_trace.attribution.writes import components_of
from microgpt_trace.errors import InputError
from microgpt_trace.measuring.attention_meter import Queries
from microgpt_trace.measuring.definitions import Attention, role_of

TARGET, AGAINST = 7, 19
BIASED = "llama_mha_bias"
SOME = [BIASED, "llama_gqa", "mistral_window", "qwen2_tied", "qwen3"]


def parts_of(result, i=0):
    """Return (target, against) of each part at the i-th position, by name."""
    return {part.name: (part.target, part.against) for part in result.positions[i].parts}


def agree_by_name(found, expected, **tolerance):
    assert list(found) == list(expected)
    for name in expected:
        agree(found[name], expected[name], what=f"{name} ", **tolerance)


def explicit_parts(config, weights, tokens, position, ids):
    """Compute each part as a vector [C], times the norm with a constant scale, times the unembedding."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    events, dim = decoder_run(config, weights, tokens), head_dim_of(config)
    last = events[f"layer{config['num_hidden_layers'] - 1}.mlp.residual"][position]
    scale = w["model.norm.weight"] / math.sqrt((last * last).mean() + config["rms_norm_eps"])
    head = w["model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"]
    vectors = {"embed.tok": events["embed.tok"][position]}
    for i in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{i}."
        context, wo = events[f"layer{i}.attn.context"][position], w[prefix + "self_attn.o_proj.weight"]
        for h in range(config["num_attention_heads"]):
            cut = slice(h * dim, (h + 1) * dim)
            vectors[f"layer{i}.attn.head{h}"] = wo[:, cut] @ context[cut]
        if prefix + "self_attn.o_proj.bias" in w:
            vectors[f"layer{i}.attn_bo"] = w[prefix + "self_attn.o_proj.bias"]
        bias = w.get(prefix + "mlp.down_proj.bias")
        down = events[f"layer{i}.mlp.down"][position]
        vectors[f"layer{i}.mlp.down"] = down if bias is None else down - bias
        if bias is not None:
            vectors[f"layer{i}.mlp_bdown"] = bias
    return {name: head[list(ids)] @ (vector * scale) for name, vector in vectors.items()}, events["logits"]


@pytest.mark.parametrize("case", some_of(CASES, every=4))
def test_parts_of_a_decoder_equal_explicit_vectors(decoders, case):
    model, config, weights = decoders(case)
    result = attribute(
        model, tokens=TOKENS, target=TARGET, against=f"#{AGAINST}", positions=[2, -1], ablation=False
    )
    for i, position in enumerate((2, len(TOKENS) - 1)):
        expected, logits = explicit_parts(config, weights, TOKENS, position, (TARGET, AGAINST))
        agree_by_name(parts_of(result, i), expected, rtol=1e-4, atol=2e-5)
        totals = [result.positions[i].target.total, result.positions[i].against.total]
        agree(totals, logits[position, [TARGET, AGAINST]], rtol=1e-4, atol=2e-5)
    assert result.ok


def test_a_matrix_may_be_decoded_in_pieces(decoders, monkeypatch):
    model = decoders("qwen3")[0]
    whole = attribute(model, tokens=TOKENS, target=TARGET, ablation=False)
    for elements in (1, 100):
        monkeypatch.setattr(writes, "CHUNK", elements)
        pieces = attribute(model, tokens=TOKENS, target=TARGET, ablation=False)
        agree_by_name(parts_of(pieces), parts_of(whole))


def torch_parts(case):
    """Return each part of a microGPT as vectors by PyTorch; embeddings are divided by their RMS: [T, C]"""
    model, ids = case.model, case.ids
    events, weights = torch_run(dict(model.params.items()), ids[:-1], ids[1:], model.config)
    arrays = {name: tensor.detach().numpy() for name, tensor in events.items()}
    scale = np.sqrt((arrays["embed.sum"] ** 2).mean(1, keepdims=True) + EPS)
    vectors = {name: arrays[name] / scale for name in ("embed.tok", "embed.pos")}
    for i in range(model.config.n_layer):
        names = [f"layer{i}.attn.head{h}" for h in range(model.config.n_head)] + [f"layer{i}.mlp.down"]
        vectors |= {name: arrays[name] for name in names}
    return vectors, weights["lm_head"].detach().numpy(), arrays["logits"]


def test_parts_of_a_microgpt_equal_those_of_pytorch(case):
    vectors, head, logits = torch_parts(case)
    result = attribute(case.model, case.text, ablation=False)
    assert [p.contrast.target for p in result.positions] == case.ids[1:].tolist()
    for t, position in enumerate(result.positions):
        ids = [position.contrast.target, position.contrast.against]
        expected = {name: head[ids] @ vector[t] for name, vector in vectors.items()}
        agree_by_name(parts_of(result, t), expected)
        agree([position.target.logit, position.against.logit], logits[t, ids])
        best = np.argsort(-logits[t])
        assert ids[1] == next(token for token in best if token != ids[0])
    assert result.ok


def test_a_missing_part_is_noticed(decoders, monkeypatch):
    model = decoders(BIASED)[0]
    right = attributing.direct_writes
    for component in components_of(model):

        def without(*args, left_out=component.name):
            components, writes = right(*args)
            return components, writes | {left_out: writes[left_out] * 0}

        monkeypatch.setattr(attributing, "direct_writes", without)
        result = attribute(model, tokens=TOKENS, target=TARGET, against=AGAINST, ablation=False)
        assert not result.ok, component


def test_a_sum_of_parts_has_a_tolerance():
    logits = np.array([1.0, 2.0], np.float32)
    near, far = (attributing.logit_sum(logits, 1, [-1.0, 3.0 + off]) for off in (3e-5, 5e-5))
    print(near, far)
    assert (near.holds, far.holds, near.tolerance) == (True, False, 1e-5)
    assert near.deviation == pytest.approx(3e-5 / 4.0, rel=1e-4)
    assert attributing.logit_sum(logits, 1, [np.nan]).holds is None


def weights_without(config, weights, name):
    """Return the weights of a model without a part, for the judge, which has no edits."""
    changed = {key: array.copy() for key, array in weights.items()}
    layer, _, rest = name.partition(".")
    prefix = f"model.layers.{layer.removeprefix('layer')}."
    if name == "embed.tok":
        changed["model.embed_tokens.weight"][:] = 0
    elif rest.startswith("attn.head"):
        h, dim = int(rest.removeprefix("attn.head")), head_dim_of(config)
        changed[prefix + "self_attn.o_proj.weight"][:, h * dim : (h + 1) * dim] = 0
    else:
        changed[prefix + {"attn_bo": "self_attn.o_proj.bias", "mlp.down": "mlp.down_proj.weight",
                       "mlp_bdown": "mlp.down_proj.bias"}[rest]][:] = 0  # fmt: skip
    return changed


def loss_of(row, target):
    return math.log(np.exp(row - row.max()).sum()) + row.max() - row[target]


@pytest.mark.parametrize("case", some_of(SOME, every=3))
def test_the_loss_change_without_a_part_of_a_decoder(decoders, case):
    model, config, weights = decoders(case)
    reports = []
    result = attribute(model, tokens=TOKENS, positions=[1, 5], report=lambda *done: reports.append(done))
    assert reports[-1][0] == reports[-1][1] > 0
    if config["tie_word_embeddings"]:  # removing the embedding must not remove the head of the judge
        config = config | {"tie_word_embeddings": False}
        weights = weights | {"lm_head.weight": weights["model.embed_tokens.weight"]}
    before = decoder_run(config, weights, TOKENS)["logits"]
    for n, component in enumerate(components_of(model)):
        after = decoder_run(config, weights_without(config, weights, component.name), TOKENS)["logits"]
        expected = [loss_of(after[t], TOKENS[t + 1]) - loss_of(before[t], TOKENS[t + 1]) for t in (1, 5)]
        found = [position.parts[n].loss_change for position in result.positions]
        agree(found, expected, rtol=1e-3, atol=2e-5, what=component.name)
        agree(result.removals[n].loss_change, np.mean(expected), rtol=1e-3, atol=2e-5)


def test_the_loss_change_without_a_part_of_a_microgpt(deep):
    model, ids = deep.model, deep.ids
    result = attribute(model, deep.text)

    def losses(replaced):
        events, _ = torch_run(dict(model.params.items()), ids[:-1], ids[1:], model.config, replaced)
        logits = events["logits"].detach().numpy()
        return np.array([loss_of(row, target) for row, target in zip(logits, ids[1:], strict=True)])

    zeros = np.zeros((len(ids) - 1, model.config.n_embd))
    for n, removal in enumerate(result.removals):
        expected = losses({removal.name: zeros}) - losses({})
        agree([position.parts[n].loss_change for position in result.positions], expected, what=removal.name)
        agree(removal.loss_change, expected.mean())
    agree(result.mean_loss, losses({}).mean())


def assert_under_a_hook(model, name, **options):
    """Check that the parts add up to the traced logits, and that a head is removed under the same hook."""
    with model.hooks.subscribe(lambda event, value: value * 0.5, name):
        result = attribute(model, target=TARGET, against=2, positions="all", **options)
        logits = trace(model, values=["logits"], **options)["logits"]
        with model.hooks.subscribe(lambda event, value: value * 0, "layer1.attn.head0"):
            after = trace(model, values=["logits"], **options)["logits"].astype(np.float64)
    assert result.ok
    part = next(i for i, part in enumerate(result.positions[0].parts) if part.name == "layer1.attn.head0")
    for t, position in enumerate(result.positions):
        agree(position.target.logit, logits[t, TARGET], rtol=1e-6)
        expected = loss_of(after[t], TARGET) - position.loss
        agree(position.parts[part].loss_change, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    some_of(
        ["embed.tok", "layer0.attn.weights", "layer1.attn.out", "layer0.attn.head2", "layer0.attn.context",
         "layer1.mlp.down", "layer0.attn.residual", "layer1.mlp.residual", "final.norm", "logits"],
        every=3,
    ),
)  # fmt: skip
def test_attribution_under_a_hook_of_a_decoder(decoders, name):
    assert_under_a_hook(decoders(BIASED)[0], name, tokens=TOKENS)


@pytest.mark.parametrize("name", ["embed.pos", "embed.sum", "embed.norm", "layer0.attn.head1"])
def test_attribution_under_a_hook_of_a_microgpt(deep, name):
    assert_under_a_hook(deep.model, name, text=deep.text)


def test_an_observer_changes_nothing(decoders):
    model, seen = decoders("qwen3")[0], []
    plain = attribute(model, tokens=TOKENS, target=TARGET)
    with model.hooks.subscribe(lambda event, value: seen.append(event.name)):
        assert attribute(model, tokens=TOKENS, target=TARGET) == plain
    assert "layer1.attn.head3" in seen


WEIGHTS = np.array([
    [1.0, 0.0, 0.0, 0.0],
    [0.3, 0.7, 0.0, 0.0],
    [0.5, 0.3, 0.2, 0.0],
    [0.1, 0.2, 0.3, 0.4],
])  # fmt: skip


def test_attention_shares_of_a_map_by_hand():
    attention = Queries(np.array([[5, 6, 5, 5]])).attention(WEIGHTS[None])[0]
    expected = Attention(
        itself=(0.7 + 0.2 + 0.4) / 3,
        previous=(0.3 + 0.3 + 0.3) / 3,
        first=(0.3 + 0.5 + 0.1) / 3,
        repeat=(0.5 + (0.1 + 0.3)) / 2,  # query 2 repeats position 0; query 3 repeats positions 0 and 2
        repeat_apart=None,  # all these are position 0 or the previous position
    )
    assert_attention(attention, expected)


def test_repeats_without_position_0_and_the_previous_position():
    texts = ([6, 6, 5, 6], [5, 6, 7, 8])
    apart, none = (Queries(np.array([ids])).attention(WEIGHTS[None])[0] for ids in texts)
    agree([apart.repeat, apart.repeat_apart], [(0.3 + (0.1 + 0.2)) / 2, 0.2])
    assert (none.repeat, none.repeat_apart) == (None, None)


def test_uniform_attention_by_hand():
    queries = Queries(np.array([[5, 6, 5, 5]]))
    each = (1 / 2 + 1 / 3 + 1 / 4) / 3
    expected = Attention(each, each, each, (1 / 3 + 2 / 4) / 2, None)
    assert_attention(queries.even_attention(None), expected)
    half = (1 / 2 + 1 / 2 + 1 / 2) / 3  # in a window of two: itself and the previous position
    expected = Attention(half, half, (1 / 2 + 0 + 0) / 3, (0 + 1 / 2) / 2, None)
    assert_attention(queries.even_attention(2), expected)
    assert_attention(queries.even_attention(1), Attention(1.0, 0.0, 0.0, 0.0, None))


def assert_attention(attention, expected, **tolerance):
    for name in (field.name for field in fields(expected)):
        share, right = getattr(attention, name), getattr(expected, name)
        assert (share is None) == (right is None), name
        agree(share or 0.0, right or 0.0, what=name, **tolerance)


UNIFORM = Attention(0.2, 0.2, 0.2, 0.1, 0.1)


@pytest.mark.parametrize(
    ("shares", "role"),
    [
        ((0.45, 0.1, 0.1, 0.1), "itself"),
        ((0.1, 0.9, 0.05, None), "previous"),
        ((0.05, 0.41, 0.5, 0.2), "first"),
        ((0.05, 0.2, 0.6, 0.4), "repeat"),  # four times the uniform share, against three times
        ((0.05, 0.2, 0.9, 0.4), "first"),
        ((0.39, 0.2, 0.2, 0.39), "none"),
        ((0.1, 0.45, 0.45, 0.0), "none"),  # equal shares may be the same position
        ((math.nan, math.nan, math.nan, math.nan), "none"),
    ],
)
def test_the_role_is_the_share_that_stands_out(shares, role):
    assert role_of(Attention(*shares[:3], 1.0, shares[3]), UNIFORM) == role


@pytest.mark.parametrize(("itself", "role"), [(0.59, "none"), (0.60, "itself")])
def test_a_role_needs_twice_the_uniform_share(itself, role):
    attention, uniform = Attention(itself, 0.1, 0.1, None, None), Attention(0.3, 0.3, 0.3, None, None)
    assert role_of(attention, uniform) == role


@pytest.mark.parametrize("case", ["qwen2_window", "llama_gqa"])
def test_roles_of_a_decoder_are_measured_on_its_weights(decoders, case):
    model, config, weights = decoders(case)
    result = attribute(model, tokens=TOKENS, target=TARGET, positions=[2, 6], ablation=False)
    events = decoder_run(config, weights, TOKENS)
    for head in result.roles:
        maps = events[f"layer{head.layer}.attn.weights"]
        expected = [(t, maps[head.head, t].argmax(), maps[head.head, t].max()) for t in (2, 6)]
        agree([(look.position, look.most_at, look.share) for look in head.looks], expected, rtol=1e-4)
        judged = Queries(np.array([TOKENS])).attention(maps)[head.head]
        assert_attention(head.attention, judged, rtol=1e-4, atol=1e-6)
    windows = {head.layer: head.window for head in result.roles}
    assert windows == {0: None, 1: 3 if case == "qwen2_window" else None}


def test_the_default_tokens_are_the_next_or_predicted_and_the_most_probable_other(decoders):
    model = decoders("llama_gqa")[0]
    result = attribute(model, tokens=TOKENS, positions="all", ablation=False)
    order = np.argsort(-trace(model, tokens=TOKENS, values=["logits"])["logits"], kind="stable")
    following = (*TOKENS[1:], order[-1, 0])
    assert [p.contrast.target for p in result.positions] == list(following)
    others = [next(v for v in row if v != target) for row, target in zip(order, following, strict=True)]
    assert [p.contrast.against for p in result.positions] == others
    note = f"position 6, so the prediction {order[-1, 0]} is compared with the runner-up {order[-1, 1]}"
    assert result.notes == (f"no token follows {note}",)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": 4, "against": "#4"}, "expected two tokens, found .* twice"),
        ({"target": 61}, "token #61: expected an id from #0 to #60"),
        ({"positions": [0], "against": TOKENS[1]}, "position 0"),
        ({"target": 4, "positions": [9]}, "position 9"),
        ({"target": "a"}, "has no vocabulary"),
        ({"target": 4, "text": "a"}, "expected a text or tokens, found both"),
    ],
)
def test_requests_that_do_not_fit(decoders, options, words):
    with pytest.raises(InputError, match=words):
        attribute(decoders("llama_gqa")[0], tokens=TOKENS, **options)


def test_ok_needs_every_sum_to_hold(emma):
    result = attribute(emma, "emma", ablation=False)
    last = result.positions[-1]
    wrong = replace(last, against=replace(last.against, holds=False))
    assert result.ok
    assert not replace(result, positions=(*result.positions[:-1], wrong)).ok


@needs_smollm2
def test_smollm2_predicts_paris(smollm2):
    result = attribute(smollm2, "The capital of France is", target="␣Paris", ablation=False)
    (position,) = result.positions
    print(position.contrast, position.target)
    assert (position.contrast.seen, position.contrast.against_label) == ("␣is", "␣the")
    assert position.target.p == pytest.approx(0.7725, abs=5e-4)
    assert len(position.parts) == 1 + 30 * (9 + 1)
    assert result.ok
    assert max(position.target.deviation, position.against.deviation) < 1e-6
    assert sum(head.role == "first" for head in result.roles) > 150


@needs_smollm2
@pytest.mark.sweep
def test_smollm2_loses_paris_without_known_components(smollm2):
    result = attribute(smollm2, "The capital of France is", target="␣Paris")
    lost = {part.name: part.loss_change for part in result.positions[0].parts}
    assert max(lost, key=lost.get) in ("embed.tok", "layer0.mlp.down")
    assert lost["layer23.attn.head4"] > 1  # this head copies facts about the country to the last position
