"""Check attribution patching against exact patches, and against gradients of a trace."""

import re

import numpy as np
import pytest
from support.commands import microgpt
from support.documents import valid
from support.real_model import needs_smollm2
from support.tiny_models import tiny_model, write_folder

from microgpt_trace import Config, init, load, patch, trace
from microgpt_trace.errors import InputError
from microgpt_trace.patching.patch_results import Patched, confirmed_by

CLEAN, CORRUPT = [17, 3, 44, 3, 60, 0, 29], [17, 3, 8, 3, 60, 0, 29]
CASES = ["llama_gqa", "qwen3", "mistral_window"]


def with_similar_tokens(case, folder):
    """Return a model whose tokens 44 and 8 have almost equal embeddings, so that every effect is linear."""
    config, weights = tiny_model(case)
    table = weights["model.embed_tokens.weight"]
    table[8] = table[44] + 0.001 * np.random.default_rng(0).standard_normal(table.shape[1])
    return load(write_folder(folder, config, weights))


@pytest.mark.parametrize("case", CASES)
def test_estimates_of_a_small_change_equal_exact_patches(case, tmp_path):
    model = with_similar_tokens(case, tmp_path)
    result = patch(
        model, CLEAN, CORRUPT, target=7, against=11, method="attribution", confirm=60, neurons=True
    )
    off = max(abs(cell.estimate - cell.restored) for cell in result.confirmed)
    print(f"{len(result.confirmed)} estimates, largest error {off:.2g}, correlation {result.correlation}")
    assert len({cell.name.rpartition(".")[2] for cell in result.confirmed}) > 5
    assert off < 0.04  # in proportion to the change
    assert result.correlation > 0.9995
    assert not any(cell.fails for cell in result.confirmed)


def test_estimates_of_a_microgpt_equal_exact_patches():
    model = init(Config(n_layer=2), seed=1)
    model.params["wte"][2] = model.params["wte"][1] + 0.001 * np.random.default_rng(0).standard_normal(16)
    result = patch(model, "caca", "cbcb", target="d", against="e", method="attribution", confirm=40)
    off = max(abs(cell.estimate - cell.restored) for cell in result.confirmed)
    print(f"{len(result.confirmed)} estimates, largest error {off:.2g}")
    assert off < 0.04  # in proportion to the change


def products(model, names, result, position):
    """Return the product of change and gradient of each element, as shares of the change of the logits."""
    clean = trace(model, tokens=CLEAN, names=names, values=names)
    corrupt = trace(
        model, tokens=CORRUPT, names=names, values=names, backward=True, target=7, against=11,
        position=position,
    )  # fmt: skip
    span = result.clean.difference - result.corrupt.difference
    return {n: (clean[n] - corrupt[n]) * corrupt.gradient(n) / span for n in names}


def test_estimates_are_changes_times_gradients(decoders):
    model = decoders("llama_gqa")[0]
    sites = ["layer0.mlp.residual", "layer1.attn.weights[1]", "layer1.mlp.hidden@2:5", "layer0.attn.head1"]
    result = patch(
        model, CLEAN, CORRUPT, target=7, against=11, position=4, method="attribution", sites=sites, confirm=0
    )
    names = ["layer0.mlp.residual", "layer1.attn.weights", "layer1.mlp.hidden", "layer0.attn.head1"]
    expected = products(model, names, result, 4)
    found = {cell.site: cell.restored for cell in result.cells}
    assert found["layer0.mlp.residual@2"] == pytest.approx(expected[names[0]][2].sum(), rel=1e-4)
    assert found["layer1.attn.weights[1]"] == pytest.approx(expected[names[1]][1].sum(), rel=1e-4, abs=1e-6)
    assert found["layer1.mlp.hidden@2:5"] == pytest.approx(expected[names[2]][2, 5], rel=1e-4, abs=1e-6)
    assert found["layer0.attn.head1"] == pytest.approx(expected[names[3]].sum(), rel=1e-4)
    assert result.confirmed == ()
    assert result.correlation is None


def test_a_head_is_the_sum_of_its_positions_and_every_place_is_estimated(decoders):
    model = decoders("llama_gqa")[0]
    result = patch(model, CLEAN, CORRUPT, target=7, against=11, method="attribution", confirm=0, neurons=True)
    config, found = model.config, {cell.site: cell.restored for cell in result.cells}
    places = config.n_layer * (config.n_head + 2) + 1  # heads, MLP and stream of each layer, and embed.tok
    assert len(found) == places * len(CLEAN) + config.n_layer * config.n_head
    for layer in range(config.n_layer):
        for head in range(config.n_head):
            name = f"layer{layer}.attn.head{head}"
            parts = sum(found[f"{name}@{position}"] for position in range(len(CLEAN)))
            assert found[name] == pytest.approx(parts, rel=1e-4, abs=1e-6)
    assert result.neuron_count == config.n_layer * config.n_inner * len(CLEAN)
    hidden = [f"layer{layer}.mlp.hidden" for layer in range(config.n_layer)]
    effects = products(model, hidden, result, 6)
    every = {
        f"{name}@{position}:{channel}": effects[name][position, channel]
        for name in hidden
        for position, channel in np.ndindex(effects[name].shape)
    }
    largest = sorted(every, key=lambda site: -abs(every[site]))[: len(result.neurons)]
    expected = [every[site] for site in largest]
    assert min(expected) < 0 < max(expected)
    assert [cell.restored for cell in result.neurons] == pytest.approx(expected, rel=1e-4)


def test_confirmed_values_are_those_of_exact_patches(decoders):
    model = decoders("qwen3")[0]
    options = {"target": 7, "against": 11}
    result = patch(model, CLEAN, CORRUPT, method="attribution", confirm=9, **options)
    exact = patch(model, CLEAN, CORRUPT, sites=[cell.site for cell in result.confirmed], **options)
    by_site = {cell.site: cell.restored for cell in exact.cells}
    assert len(result.confirmed) == 9
    estimates = {cell.site: cell.restored for cell in result.cells if "@" in cell.site}
    for kind in ("attn.head", "mlp.down", "embed.tok|mlp.residual"):
        largest = sorted(
            (abs(value) for site, value in estimates.items() if re.search(kind, site)), reverse=True
        )
        chosen = [abs(cell.estimate) for cell in result.confirmed if re.search(kind, cell.name)]
        assert (len(chosen), chosen) == (3, largest[:3])
    for cell in result.confirmed:
        assert cell.restored == pytest.approx(by_site[cell.site], abs=1e-4)


@pytest.mark.parametrize(
    ("estimate", "exact", "fails"),
    [(0.2, 0.3, ""), (0.2, -0.3, "sign"), (0.2, 0.5, "factor"), (0.5, 0.2, "factor"), (0.0, 1e-7, "")],
)
def test_an_estimate_fails_by_sign_or_by_a_factor_of_2(estimate, exact, fails):
    cell = Patched("a@1", "a", None, None, 1, estimate, 0.0)
    assert confirmed_by(cell, exact, 1e-5).fails == fails


def test_the_command(decoder_folder):
    line = f"patch {decoder_folder('qwen3')} 'Ann ran' 'Ann sat' --target a --against n --method attribution"
    document = valid(microgpt(f"{line} --neurons --json").out, "patch")
    assert document["method"] == "attribution"
    out = microgpt(f"{line} --neurons --confirm 5").out
    for words in (
        "Estimate of what the clean value restores",
        "Largest neurons",
        "of 5 estimates fail",
    ):
        assert words in out


def test_logits_have_no_estimate(decoders):
    model, options = decoders("llama_gqa")[0], {"target": 7, "against": 11, "method": "attribution"}
    with pytest.raises(InputError, match="logits: an estimate needs an event before the logits"):
        patch(model, CLEAN, CORRUPT, sites=["logits"], **options)
    result = patch(model, CLEAN, CORRUPT, sites=["*"], confirm=0, **options)
    assert {cell.name for cell in result.cells} == {*model.plan} - {"logits", "probs", "loss"}


@pytest.mark.parametrize("option", [{"neurons": True}, {"confirm": 3}])
def test_exact_patches_need_no_confirmation(decoders, option):
    with pytest.raises(InputError, match="need the method attribution"):
        patch(decoders("llama_gqa")[0], CLEAN, CORRUPT, **option)


@needs_smollm2
def test_smollm2_answers_as_exact_patches_do(smollm2):
    texts = "The capital of France is", "The capital of Italy is"
    result = patch(smollm2, *texts, method="attribution")
    print(f"correlation {result.correlation:.4f}, failures {[c.site for c in result.confirmed if c.fails]}")
    assert len(result.cells) == 1655 + 270
    assert result.correlation > 0.97
    best = max((c for c in result.cells if c.head is not None), key=lambda c: c.restored)
    assert best.name == "layer23.attn.head4"
