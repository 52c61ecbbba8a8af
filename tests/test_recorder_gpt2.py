"""Recording transformers' GPT-2: every array against what transformers returns and its modules compute."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from microgpt_trace.dumps.files import open_recording
from microgpt_trace.dumps.recorder import record
from microgpt_trace.errors import InputError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")

IDS = torch.tensor([[17, 3, 44, 3, 60, 0, 29]])
LAYERS, WIDTH, HEADS = 3, 24, 4
OF_A_LAYER = (
    "attn.norm", "attn.q", "attn.k", "attn.v", "attn.weights", "attn.context", "attn.out", "attn.residual",
    "mlp.norm", "mlp.up", "mlp.act", "mlp.down", "mlp.residual",
)  # fmt: skip


def gpt2(attention="eager", kind="GPT2LMHeadModel", **changes):
    """A small one with random weights, biases and gains too."""
    torch.manual_seed(5)
    sizes = {"n_layer": LAYERS, "n_embd": WIDTH, "n_head": HEADS, "vocab_size": 64, "n_positions": 16}
    config = transformers.GPT2Config(**sizes | changes, attn_implementation=attention)
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def model():
    return gpt2()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "theirs.safetensors"


def recorded(model, target, *args, **kwargs):
    """The saved arrays of one pass, and what the model returned."""
    with record(model, target), torch.no_grad():
        returned = model(*(args or (IDS,)), **kwargs)
    return load_file(target), returned


def hooks_of(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def about(target):
    with safe_open(target, "numpy") as file:
        return json.loads(file.metadata()["model"]), json.loads(file.metadata()["positions"])


def same(found, expected):
    np.testing.assert_array_equal(found, expected[0].numpy())


def test_every_event_is_there(model, target):
    arrays, _ = recorded(model, target)
    layers = {f"layer{i}.{name}" for i in range(LAYERS) for name in OF_A_LAYER}
    assert arrays.keys() == {"embed.tok", "embed.pos", "embed.sum", "final.norm", "logits"} | layers
    assert about(target)[0]["left_out"] == ["attn.scores, attn.head*, probs, loss: no module gives them"]


def test_the_file_is_opened_as_a_recording(model, target):
    arrays, _ = recorded(model, target)
    opened = open_recording(target)
    assert opened.tensors.keys() == arrays.keys()
    assert not opened.leftovers


def test_the_stream_is_the_hidden_states_that_transformers_returns(model, target):
    arrays, returned = recorded(model, target, output_hidden_states=True)
    same(arrays["embed.sum"], returned.hidden_states[0])
    for i in range(LAYERS - 1):
        same(arrays[f"layer{i}.mlp.residual"], returned.hidden_states[i + 1])
    same(arrays["final.norm"], returned.hidden_states[LAYERS])
    same(arrays["logits"], returned.logits)


def test_attention_weights_are_those_that_transformers_returns(model, target):
    arrays, returned = recorded(model, target, output_attentions=True)
    for i, weights in enumerate(returned.attentions):
        assert weights.shape == (1, HEADS, 7, 7)
        same(arrays[f"layer{i}.attn.weights"], weights)


def test_the_fused_product_is_split_into_q_k_and_v(model, target):
    arrays, _ = recorded(model, target)
    for i, block in enumerate(model.transformer.h):
        with torch.no_grad():
            products = block.attn.c_attn(torch.from_numpy(arrays[f"layer{i}.attn.norm"])[None])
        for name, product in zip("qkv", products.split(WIDTH, dim=2), strict=True):
            same(arrays[f"layer{i}.attn.{name}"], product)


def test_events_follow_from_one_another(model, target):
    """Each by the formula, from those before it."""
    arrays, _ = recorded(model, target)
    with torch.no_grad():
        tables = [model.transformer.wte(IDS), model.transformer.wpe(torch.arange(7))[None]]
    same(arrays["embed.tok"], tables[0])
    same(arrays["embed.pos"], tables[1])
    stream = arrays["embed.tok"] + arrays["embed.pos"]
    for i in range(LAYERS):
        one = {name: arrays[f"layer{i}.{name}"] for name in OF_A_LAYER}
        heads = one["attn.v"].reshape(7, HEADS, -1).transpose(1, 0, 2)
        context = (one["attn.weights"] @ heads).transpose(1, 0, 2).reshape(7, WIDTH)
        np.testing.assert_allclose(one["attn.context"], context, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one["attn.residual"], stream + one["attn.out"], atol=1e-5)
        stream = one["attn.residual"] + one["mlp.down"]
        np.testing.assert_allclose(one["mlp.residual"], stream, atol=1e-5)
        x = one["mlp.up"].astype(np.float64)
        gelu = x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        np.testing.assert_allclose(one["mlp.act"], gelu, atol=1e-5)


def test_sdpa_gives_all_but_the_attention_weights(target):
    arrays, _ = recorded(gpt2("sdpa"), target)
    assert not [name for name in arrays if name.endswith(".weights")]
    assert [line.partition(":")[0] for line in about(target)[0]["left_out"]][1:] == ["attn.weights"]


def test_a_bare_decoder_has_no_logits(target):
    arrays, returned = recorded(gpt2(kind="GPT2Model"), target)
    same(arrays["final.norm"], returned.last_hidden_state)
    assert "logits" not in arrays
    assert about(target)[1] == []


def test_logits_of_the_last_positions_only(model, target):
    arrays, returned = recorded(model, target, logits_to_keep=2)
    same(arrays["logits"], returned.logits)
    assert about(target)[1] == [5, 6]


def test_generating_one_token_is_one_pass(model, target):
    with record(model, target):
        model.generate(IDS, max_new_tokens=1, do_sample=False, pad_token_id=1)
    assert about(target)[1][-1] == 6


REFUSED = {
    "padding": (lambda m: m(IDS, attention_mask=torch.tensor([[0, 1, 1, 1, 1, 1, 1]])), "found 1 zeros"),
    "padding by place": (
        lambda m: m.transformer(IDS, None, torch.tensor([[0, 1, 1, 1, 1, 1, 1]])),
        "found 1 zeros",
    ),
    "shifted": (lambda m: m(IDS, position_ids=torch.arange(1, 8)[None]), r"expected 0 to 6, found \[1, 2"),
    "token types": (lambda m: m(IDS, token_type_ids=IDS), "takes one forward pass"),
    "embeddings": (lambda m: m(inputs_embeds=torch.zeros(1, 3, WIDTH)), "was given embeddings"),
}


@pytest.mark.parametrize(("run", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_a_trace_cannot_be_compared_with_is_refused(run, message, model, target):
    before = hooks_of(model)
    with pytest.raises(InputError, match=message), record(model, target):
        run(model)
    assert hooks_of(model) == before
    assert not target.exists()


def test_earlier_tokens_in_a_cache_are_refused(model, target):
    past = model(IDS[:, :2], use_cache=True).past_key_values
    with pytest.raises(InputError, match="the cache holds earlier ones"), record(model, target):
        model(IDS, past_key_values=past, position_ids=torch.arange(7)[None])


def test_attention_to_another_text_is_refused(target):
    with pytest.raises(InputError, match=r"transformer\.h\.0: the module \w+ is none of GPT-2's"):
        record(gpt2(add_cross_attention=True), target).__enter__()


@pytest.mark.parametrize("multi_query", [True, False])
def test_a_product_that_is_split_otherwise_is_refused(multi_query, target):
    config = transformers.GPTBigCodeConfig(
        n_layer=1, n_embd=8, n_head=2, vocab_size=11, n_positions=8, multi_query=multi_query
    )
    with pytest.raises(InputError, match=r"transformer\.h\.0: the attention splits its product otherwise"):
        record(transformers.GPTBigCodeForCausalLM(config), target).__enter__()


def test_dropout_at_work_is_refused(target):
    model = gpt2().train()
    with pytest.raises(InputError, match=r"transformer\.drop drops 10% .* model\.eval\(\)"):
        record(model, target).__enter__()
    assert not hooks_of(model)
    arrays, _ = recorded(gpt2(embd_pdrop=0, attn_pdrop=0, resid_pdrop=0).train(), target)
    assert "logits" in arrays
