"""LongRoPE: RoPE with short factors up to the original context, and with long factors in longer texts."""

from dataclasses import replace

import numpy as np
import pytest
from support.backward_runs import Run
from support.judges import agree
from support.other_plans import in_float64, values_of
from support.tiny_models import CASES, random_weights

from microgpt_trace import load, trace
from microgpt_trace.errors import InputError
from microgpt_trace.interpreter.logits_forward import run_packed
from microgpt_trace.models.packs import Pack, ReadText
from microgpt_trace.plans.rope import Rope

SHORT, LONG = (1.0, 1.1, 1.3, 1.5), (1.0, 2.0, 3.5, 6.0)
ORIGINAL, FACTOR = 6, 64 / 6
IDS = (17, 3, 44, 3, 60, 0, 29, 8, 21)


@pytest.fixture(scope="module")
def model(decoder_folder):
    """A model of two layers with 4 pairs of channels in each head."""
    plain = load(decoder_folder())
    rope = Rope(plain.config.rope.theta, "longrope", FACTOR, ORIGINAL, factors=(*SHORT, *LONG))
    return replace(plain, config=replace(plain.config, rope=rope))


def logits_of(model, ids):
    return trace(model, tokens=list(ids), positions="all", values=["logits"])["logits"]


@pytest.mark.parametrize("length", [5, 6, 7, 9])
def test_logits_equal_those_of_transformers(model, length):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.LlamaConfig(**CASES["llama_gqa"], attn_implementation="eager")
    config.rope_parameters = {
        "rope_type": "longrope", "rope_theta": model.config.rope.theta, "short_factor": list(SHORT),
        "long_factor": list(LONG), "original_max_position_embeddings": ORIGINAL, "factor": FACTOR,
    }  # fmt: skip
    judge = transformers.LlamaForCausalLM(config).eval()
    weights = {
        name: torch.tensor(array) for name, array in random_weights(CASES["llama_gqa"], "llama_gqa").items()
    }
    assert judge.load_state_dict(weights, strict=False).unexpected_keys == []
    with torch.no_grad():
        expected = judge(torch.tensor([IDS[:length]])).logits[0].numpy()
    agree(logits_of(model, IDS[:length]), expected, rtol=1e-4, atol=1e-4, what=f"logits of {length} tokens")


@pytest.mark.parametrize("length", [6, 9])
def test_passes_equal_the_reference(model, length):
    wide, ids = in_float64(model), IDS[:length]
    found, expected = Run(wide, tokens=ids, targets=(*ids[1:], None)).values, values_of(wide, ids)
    for name, value in expected.items():
        agree(found[name], value, rtol=1e-9, atol=1e-9, what=name)


def test_a_continuation_beyond_the_original_context_equals_full_passes(model):
    traced = trace(model, tokens=list(IDS[:4]), generate=6)
    (check,) = (check for check in traced.checks if check.id == "cache")
    print(check)
    assert check.holds
    tokens = [row.token.token for row in traced.generation]
    ids = [*IDS[:4], *tokens[:-1]]
    assert tokens[-1] == int(logits_of(model, ids)[-1].argmax())


def test_texts_of_a_pack_have_their_own_factors(model):
    texts = [ReadText(np.array(IDS[:length])) for length in (5, 9)]
    kept = []

    class Keeping:
        def emit(self, name, value):
            if name == "layer1.attn.k_rope":
                kept.append(value.copy())
            return value

        def wants(self, name):
            return name == "layer1.attn.k_rope"

        def layer(self, index):
            raise NotImplementedError

    run_packed(model, Pack(texts), Keeping())
    alone = [trace(model, tokens=text.tokens.tolist(), values=["layer1.attn.k_rope"]) for text in texts]
    expected = np.concatenate([each["layer1.attn.k_rope"] for each in alone])
    agree(kept[0], expected, rtol=1e-5, atol=1e-6, what="k after RoPE")


def test_each_pair_needs_a_short_and_a_long_factor(model):
    rope = replace(model.config.rope, factors=(*SHORT, *LONG[:2]))
    with pytest.raises(InputError, match="expected 8, one for each pair, found 6"):
        replace(model.config, rope=rope)
