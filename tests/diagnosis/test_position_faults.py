"""diagnose names mistakes in chunks, in factors of queries, in slopes of ALiBi and in xIELU. The wrong
engines are models of transformers with a fault."""

import pytest
from support.reference_models import IDS
from support.torch_models import torch_model, written

from microgpt_trace.diagnosis.diagnose import diagnose
from microgpt_trace.dumps.recorder import record

torch = pytest.importorskip("torch", reason="the wrong engines are models of transformers")
pytest.importorskip("transformers")
LIBRARY = "transformers.models"
WEIGHTS = "layer0.attn.weights"


def setting(**values):
    return lambda theirs, patch: [setattr(theirs.config, key, value) for key, value in values.items()]


def window_of(size):
    """Replace the mask of chunks by a window of `size` positions."""

    def plant(theirs, patch):
        from transformers.masking_utils import create_sliding_window_causal_mask

        theirs.config.sliding_window = size
        name = f"{LIBRARY}.llama4.modeling_llama4.create_chunked_causal_mask"
        patch.setattr(name, create_sliding_window_causal_mask)

    return plant


def untuned(theirs, patch):
    for layer in theirs.model.layers:
        layer.self_attn.attn_temperature_tuning = False


def strength(theirs, patch):
    for layer in theirs.model.layers:
        layer.self_attn.attn_scale = 0.6


def from_0_in_llama4(theirs, patch):
    """Count positions from 0 in the factor: floor((position + 1) / 3) becomes floor(position / 3)."""
    floor = torch.floor
    patch.setattr(torch, "floor", lambda x: floor(x - 1 / 3 + 1e-4))


def growth(change):
    def plant(theirs, patch):
        name = f"{LIBRARY}.ministral3.modeling_ministral3.get_llama_4_attn_scale"
        from transformers.models.ministral3.modeling_ministral3 import get_llama_4_attn_scale as right

        patch.setattr(name, lambda at, beta, period: right(*change(at, beta), period))

    return plant


def alibi(change):
    """Change the slopes of a BLOOM, [H]."""

    def plant(theirs, patch):
        name = f"{LIBRARY}.bloom.modeling_bloom._get_alibi_slopes"
        from transformers.models.bloom.modeling_bloom import _get_alibi_slopes as right

        patch.setattr(name, lambda heads, device: change(right(heads, device)))

    return plant


def exchanged(theirs, patch):
    for layer in theirs.model.layers:
        act = layer.mlp.act_fn
        act.alpha_p.data, act.alpha_n.data = act.alpha_n.data.clone(), act.alpha_p.data.clone()


PLANTED = {
    "chunks missing": ("llama4_text", setting(layer_types=["full_attention"] * 4), WEIGHTS,
                       "the chunks of 5 positions are missing"),
    "window for chunks": ("llama4_text", window_of(5), WEIGHTS,
                          "the sliding window has 5 positions, the model says chunks of 5"),
    "chunks too long": ("llama4_text", setting(attention_chunk_size=6), WEIGHTS,
                        "the chunks have 6 positions, the model says 5"),
    "chunks too short": ("llama4_text", setting(attention_chunk_size=4), WEIGHTS,
                         "the chunks have 4 positions, the model says 5"),
    "llama4 factor missing": ("llama4_text", untuned, "layer3.attn.weights",
                              "q is not multiplied by the factor of its position"),
    "llama4 other factor": ("llama4_text", strength, "layer3.attn.weights",
                            "the factor of q grows by 0.6 * ln(...), not by 0.3 * ln(...)"),
    "llama4 from 0": ("llama4_text", from_0_in_llama4, "layer3.attn.weights",
                      "the positions in the factor of q are counted from 0, not from 1"),
    "ministral factor missing": ("ministral3", growth(lambda at, beta: (at, 0.0)), WEIGHTS,
                                 "q is not multiplied by the factor of its position"),
    "ministral from 1": ("ministral3", growth(lambda at, beta: (at + 1, beta)), WEIGHTS,
                         "the positions in the factor of q are counted from 1, not from 0"),
    "slopes halved": ("bloom", alibi(lambda s: s / 2), WEIGHTS, "the bias of ALiBi is multiplied by 0.5"),
    "alibi missing": ("bloom", alibi(lambda s: 0 * s), WEIGHTS, "the bias of ALiBi is missing"),
    "alibi subtracted": ("bloom", alibi(lambda s: -s), WEIGHTS, "the bias of ALiBi is subtracted"),
    "slopes reversed": ("bloom", alibi(lambda s: s.flip(0)), WEIGHTS,
                        "the slopes of ALiBi are in the reverse order of heads"),
    "slopes sorted": ("bloom", alibi(lambda s: s.sort(descending=True).values), WEIGHTS,
                      "the slopes of ALiBi are in order of size, the largest first"),
    "slopes by 6": ("bloom", alibi(lambda s: 2.0 ** (-8 * torch.arange(1, 7) / 6)), WEIGHTS,
                    "the slopes of ALiBi are 2^(-8 h / 6) for every head"),
    "alphas exchanged": ("apertus", exchanged, "layer0.mlp.act", "the two learned numbers"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A function that returns the folder of a model."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            written(name, made[name])
        return made[name]

    return folder


@pytest.mark.parametrize("fault", PLANTED)
def test_a_mistake_of_positions_is_located_and_named(fault, folders, tmp_path, monkeypatch):
    name, plant, event, words = PLANTED[fault]
    folder, theirs = folders(name), torch_model(name)
    plant(theirs, monkeypatch)
    with record(theirs, tmp_path / "run.safetensors"), torch.no_grad():
        theirs(torch.tensor([IDS]))
    monkeypatch.undo()
    found = diagnose(tmp_path / "run.safetensors", folder).diagnosis
    claims = [own.claim for own in found.findings if own.explains]
    print(fault, found.first_wrong, claims)
    assert found.first_wrong == event
    assert len(claims) == 1
    assert words in claims[0]
