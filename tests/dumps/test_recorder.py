"""Record models of transformers: every array agrees with our trace of the same folder; and refusals."""

import json
import sys
from contextlib import suppress
from copy import deepcopy

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from support.tiny_gpt2 import GPT2S
from support.tiny_models import TOKENS
from support.torch_models import MODELS
from support.torch_models import torch_model as tiny_model

from microgpt_trace import load, trace
from microgpt_trace.comparison.diff import diff
from microgpt_trace.dumps.formats import open_recording
from microgpt_trace.dumps.recorder import record
from microgpt_trace.errors import InputError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# Versions of transformers rename arguments and warn about the old names.
pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")

IDS = torch.tensor([TOKENS])
CASES = ("llama_mha_bias", "mistral_window", "qwen2", "qwen3", "llama_yarn_attention", *GPT2S)
both_families = pytest.mark.parametrize("case", ["llama_gqa", "gpt2"])


def torch_model(folder, attention="eager", dtype=torch.float32, **options):
    auto = options.pop("auto", transformers.AutoModelForCausalLM)
    return auto.from_pretrained(folder, dtype=dtype, attn_implementation=attention, **options).eval()


@pytest.fixture(scope="module")
def folder_of(decoder_folder, gpt2):
    """A function that returns the folder of a case."""
    return lambda case: gpt2(case)[0] if case in GPT2S else decoder_folder(case)


@pytest.fixture(scope="module")
def folder(folder_of):
    return folder_of("llama_gqa")


@pytest.fixture
def model(folder):
    return torch_model(folder)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "theirs.safetensors"


def recorded(model, target, *args, **kwargs):
    """Record one pass and return the saved arrays."""
    with record(model, target), torch.no_grad():
        model(*(args or (IDS,)), **kwargs)
    return load_file(target)


def metadata(target):
    with safe_open(target, "numpy") as file:
        return file.metadata()


def own_events(folder, **options):
    """Return the events of our trace that record() saves."""
    ours = trace(load(folder), tokens=TOKENS, values=True, names=["*"], **options)
    left_out = (".scores", ".head", "probs", "loss")
    return {e.name: ours[e.name] for e in ours if not any(part in e.name for part in left_out)}


def distance(theirs, ours):
    return np.linalg.norm(theirs - ours) / np.linalg.norm(ours)


def assert_same(theirs, ours, within=1e-5):
    """Check that events, shapes and values are the same."""
    assert theirs.keys() == ours.keys()
    for name, array in ours.items():
        assert (theirs[name].shape, theirs[name].dtype) == (array.shape, np.float32), name
        found = distance(theirs[name], array)
        print(f"{name}: relative L2 {found:.1e}, allowed {within:.0e}")
        assert found < within, f"{name}: {theirs[name].ravel()[:4]} against {array.ravel()[:4]}"


def hooks_of(model):
    """Return the number of hooks on the modules of a model, and the function that rotates q and k."""
    count = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return count, transformers.models.llama.modeling_llama.apply_rotary_pos_emb


def left_out(target):
    return json.loads(metadata(target)["model"])["left_out"]


@pytest.mark.parametrize("case", CASES)
def test_every_event_agrees_with_our_trace(case, folder_of, target):
    folder = folder_of(case)
    assert_same(recorded(torch_model(folder), target), own_events(folder))
    assert left_out(target) == ["attn.scores, attn.head*, probs, loss: no module returns these values"]
    assert not open_recording(target).leftovers


@both_families
def test_records_all_but_the_attention_weights_from_sdpa(case, folder_of, target):
    folder = folder_of(case)
    ours = {name: array for name, array in own_events(folder).items() if not name.endswith(".weights")}
    assert_same(recorded(torch_model(folder, "sdpa"), target), ours)
    missing = ["attn.scores, attn.head*, probs, loss", "attn.weights"]
    assert [line.partition(":")[0] for line in left_out(target)] == missing
    notes = open_recording(target).notes
    assert [note.split(": ")[:2] for note in notes] == [["left out", name] for name in missing]


def test_the_file_describes_the_model_and_the_run(model, folder, target):
    recorded(model, target)
    saved = metadata(target)
    assert (saved["format"], saved["text"]) == ("microgpt.arrays/1", "")
    assert json.loads(saved["tokens"]) == list(TOKENS)
    assert json.loads(saved["positions"]) == list(range(len(TOKENS)))
    about = json.loads(saved["model"])
    assert (about["class"], about["dtype"], about["attention"]) == ("LlamaForCausalLM", "float32", "eager")
    assert (about["torch"], about["transformers"]) == (torch.__version__, transformers.__version__)
    assert about["origin"] == str(folder)


def test_the_arrays_are_copies_that_can_be_used_inside_and_after_the_block(model, target):
    with record(model, target) as recording, torch.no_grad():
        assert (recording.arrays, recording.tokens) == ({}, ())
        logits = model(input_ids=IDS).logits
        before = logits[0].numpy().copy()
        logits.zero_()
        np.testing.assert_array_equal(recording.arrays["logits"], before)
    assert recording.tokens == TOKENS
    assert recording.arrays.keys() == load_file(target).keys()


def test_widens_bf16_exactly(folder, target):
    model = torch_model(folder, dtype=torch.bfloat16)
    with record(model, target), torch.no_grad():
        logits = model(IDS).logits
    arrays = load_file(target)
    assert json.loads(metadata(target)["model"])["dtype"] == "bfloat16"
    for name, array in arrays.items():
        assert not np.any(array.view(np.uint32) & 0xFFFF), f"{name} has more than bf16 holds"
    np.testing.assert_array_equal(arrays["logits"], logits[0].float().numpy())
    assert 1e-4 < distance(arrays["logits"], own_events(folder)["logits"]) < 0.1


def test_recording_changes_no_value_and_removes_its_hooks(model, target):
    original = hooks_of(model)
    with torch.no_grad():
        before = model(IDS).logits
        with record(model, target):
            assert hooks_of(model)[0] > 30
            assert hooks_of(model)[1] is not original[1]
            during = model(IDS).logits
    assert torch.equal(before, during)
    assert hooks_of(model) == original
    assert original[0] == 0


@both_families
def test_records_logits_of_the_last_positions(case, folder_of, target):
    folder, length = folder_of(case), len(TOKENS)
    arrays = recorded(torch_model(folder), target, logits_to_keep=2)
    assert json.loads(metadata(target)["positions"]) == [length - 2, length - 1]
    assert_same(arrays, own_events(folder, positions=[length - 2, length - 1]))


@both_families
def test_records_a_decoder_without_a_head(case, folder_of, target):
    folder = folder_of(case)
    bare = torch_model(folder, auto=transformers.AutoModel)
    ours = own_events(folder)
    del ours["logits"]
    assert_same(recorded(bare, target), ours)
    assert json.loads(metadata(target)["positions"]) == []
    assert "logits: the head did not run" in left_out(target)


class Wrapper(torch.nn.Module):
    """A model inside two modules, as adapters have it: base_model.model."""

    def __init__(self, model):
        super().__init__()
        self.base_model = torch.nn.Module()
        self.base_model.model = model

    def forward(self, *args, **kwargs):
        return self.base_model.model(*args, **kwargs)


def test_records_a_wrapped_model_whose_layers_share_an_activation(model, target, folder):
    for layer in model.model.layers:
        layer.mlp.act_fn = model.model.layers[0].mlp.act_fn
    assert_same(recorded(Wrapper(model), target), own_events(folder))


class LoraLinear(torch.nn.Module):
    """A Linear inside a module with an adapter, under the names of PEFT."""

    def __init__(self, base, name="default"):
        super().__init__()
        self.base_layer, self.active_adapters, self.disable_adapters = base, [name], False
        self.lora_A = torch.nn.ModuleDict({name: torch.nn.Linear(base.in_features, 2, bias=False)})
        self.lora_B = torch.nn.ModuleDict({name: torch.nn.Linear(2, base.out_features, bias=False)})

    def forward(self, x):
        out, (name,) = self.base_layer(x), self.active_adapters
        return out if self.disable_adapters else out + self.lora_B[name](self.lora_A[name](x))


def test_records_the_sum_of_a_module_and_its_adapter_and_says_so(model, target, folder):
    for layer in model.model.layers:
        layer.self_attn.q_proj = LoraLinear(layer.self_attn.q_proj)
        layer.mlp.down_proj = LoraLinear(layer.mlp.down_proj, "mine")
    queries = []
    model.model.layers[0].self_attn.q_proj.register_forward_hook(lambda m, args, out: queries.append(out))
    arrays = recorded(Wrapper(model), target)
    np.testing.assert_array_equal(arrays["layer0.attn.q"], queries[0][0].detach().numpy())
    assert distance(arrays["layer0.attn.q"], own_events(folder)["layer0.attn.q"]) > 0.01
    assert "adapters of PEFT are active: default, mine" in open_recording(target).notes
    for module in model.modules():
        module.disable_adapters = True
    with record(model, target, force=True):
        model(IDS)
    assert_same(load_file(target), own_events(folder))
    assert json.loads(metadata(target)["notes"]) == []


def test_an_adapter_of_gemmas_embedding_returns_the_scaled_embedding(target):
    gemma = tiny_model("gemma3_text")
    embedding = gemma.model.embed_tokens
    gemma.model.embed_tokens = adapter = torch.nn.Module()
    adapter.base_layer, adapter.active_adapters = embedding, ["default"]
    adapter.forward = lambda ids: embedding(ids)
    arrays = recorded(gemma, target)
    np.testing.assert_array_equal(arrays["embed.scaled"], embedding(IDS)[0].detach().numpy())


def test_records_data_parallel_and_compiled_models(model, target, folder):
    compiled = torch.nn.Module()
    compiled._orig_mod, compiled.forward = model, model.forward  # the names of torch.compile
    for wrapper in (torch.nn.DataParallel(model), compiled):
        with record(wrapper, target, force=True), torch.no_grad():
            wrapper(IDS)
        assert_same(load_file(target), own_events(folder))


class OwnAttention(transformers.models.llama.modeling_llama.LlamaAttention):
    """An attention whose forward is not in the Python module of the function that rotates q and k."""

    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


def test_leaves_out_unknown_modules_and_functions_with_the_reason(model, target):
    for layer in model.model.layers:
        del layer.mlp.act_fn
        layer.mlp.act_fn = torch.nn.functional.silu
        layer.self_attn.__class__ = OwnAttention
    arrays, reasons = recorded(model, target), left_out(target)
    assert not [name for name in arrays if name.endswith(("_rope", "mlp.act"))]
    assert "mlp.act: the activation is not a module" in reasons
    reason = "the attention does not call apply_rotary_pos_emb of its module"
    assert f"attn.q_rope, attn.k_rope: {reason}" in reasons


def test_records_whole_heads_of_an_attention_that_rotates_a_slice(target, monkeypatch):
    """As in StableLM and in GPT-NeoX before transformers 4.48. The judge is the same model without slices."""
    modeling = transformers.models.gpt_neox.modeling_gpt_neox
    sizes = {"vocab_size": 61, "hidden_size": 32, "num_key_value_heads": None, "head_dim": None}
    theirs = of_transformers("GPTNeoX", **SMALL | sizes).eval()  # turns 4 of 16 channels
    expected = recorded(theirs, target)

    def in_slices(q, k, cos, sin):
        count = cos.shape[-1]
        turned = apply_rotary_pos_emb(q[..., :count], k[..., :count], cos, sin)  # noqa: F821
        return [torch.cat([own, x[..., count:]], -1) for own, x in zip(turned, (q, k), strict=True)]

    class Slicing(modeling.GPTNeoXAttention):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    here = sys.modules[__name__]
    monkeypatch.setattr(here, "apply_rotary_pos_emb", modeling.apply_rotary_pos_emb, raising=False)
    monkeypatch.setattr(modeling, "apply_rotary_pos_emb", in_slices)
    for layer in theirs.gpt_neox.layers:
        layer.attention.__class__ = Slicing
    assert_same(recorded(theirs, target.with_name("slices.safetensors")), expected, within=1e-30)


def test_other_models_of_the_class_may_run_or_be_recorded_at_the_same_time(model, target, tmp_path, folder):
    theirs, idle, original = torch_model(folder), torch_model(folder), hooks_of(model)
    with record(model, target), record(theirs, tmp_path / "other.safetensors"), torch.no_grad():
        idle(IDS[:, :3])
        model(IDS)
        theirs(IDS)
        idle(IDS[:, :3])
    assert hooks_of(model) == original == hooks_of(theirs)
    for path in (target, tmp_path / "other.safetensors"):
        assert_same(load_file(path), own_events(folder))


@both_families
def test_generating_one_token_is_one_pass(case, folder_of, target):
    folder = folder_of(case)
    model = torch_model(folder)
    with record(model, target):
        model.generate(IDS, max_new_tokens=1, do_sample=False, pad_token_id=1)
    assert json.loads(metadata(target)["positions"])[-1] == len(TOKENS) - 1
    ours, found = own_events(folder)["final.norm"], load_file(target)["final.norm"]
    assert distance(found, ours) < 1e-5


def test_keeps_an_existing_file_unless_forced(model, target):
    target.write_text("mine")
    with pytest.raises(InputError, match=r"exists already; force=True overwrites it"), record(model, target):
        model(IDS)
    assert target.read_text() == "mine"
    with record(model, str(target), force=True):
        model(IDS)
    assert len(load_file(target)) > 30


REFUSED = {
    "two texts": (lambda m: m(IDS.repeat(2, 1)), r"expected one text, .* found int64 of shape \(2, 7\)"),
    "embeddings": (
        lambda m: m(inputs_embeds=torch.zeros(1, 3, 32)), "expected input_ids as the model's input, found"),
    "padding": (
        lambda m: m(IDS, attention_mask=torch.tensor([[0, 0, 1, 1, 1, 1, 1]])), "no padding, found 2 zeros"),
    "padding by position": (lambda m: m.model(IDS, torch.tensor([[0, 1, 1, 1, 1, 1, 1]])), "found 1 zeros"),
    "own mask": (
        lambda m: m(IDS, attention_mask=torch.zeros(1, 1, 7, 7)),
        r"expected None, or a mask of shape \(B, S\), found shape \(1, 1, 7, 7\)"),
    "shifted": (lambda m: m(IDS, position_ids=torch.arange(1, 8)[None]), r"expected 0 to 6, found \[1, 2"),
    "some logits": (
        lambda m: m(IDS, logits_to_keep=torch.tensor([0, 2])), "all positions or the last N"),
    "earlier tokens": (lambda m: m(IDS, past_key_values=m.earlier), "found a cache with earlier tokens"),
    "earlier tokens, positions from 0": (
        lambda m: m(IDS, past_key_values=m.earlier, position_ids=torch.arange(7)[None]),
        "found a cache with earlier tokens"),
    "two passes": (lambda m: (m(IDS), m(IDS)), "found a second pass: .* or use steps=True"),
    "generate": (
        lambda m: m.generate(IDS, max_new_tokens=2, do_sample=False, pad_token_id=1, eos_token_id=[]),
        "generate with max_new_tokens=1"),
    "no pass": (lambda m: None, "made no forward pass inside record"),
    "a prompt of embeddings": (
        lambda m: (m.model.embed_tokens(IDS), m(inputs_embeds=torch.zeros(1, 9, 32))),
        "expected a position for each token, found 9 positions of 7 tokens"),
    "head alone": (lambda m: m.lm_head(torch.zeros(1, 1, 32)), "expected the decoder to run before"),
}  # fmt: skip
OF_BOTH = ("embeddings", "padding", "shifted", "earlier tokens", "earlier tokens, positions from 0")
REFUSED_OF_GPT2 = {what: REFUSED[what] for what in OF_BOTH} | {
    "padding by position": (
        lambda m: m.transformer(IDS, None, torch.tensor([[0, 1, 1, 1, 1, 1, 1]])),
        "found 1 zeros",
    ),
    "token types": (lambda m: m(IDS, token_type_ids=IDS), "expected one forward pass"),
}
EVERY_REFUSED = [("llama_gqa", what, *it) for what, it in REFUSED.items()]
EVERY_REFUSED += [("gpt2", what, *it) for what, it in REFUSED_OF_GPT2.items()]


@pytest.mark.parametrize(("case", "what", "run", "message"), EVERY_REFUSED)
def test_rejects_passes_that_a_trace_cannot_be_compared_with(case, what, run, message, folder_of, target):
    model = torch_model(folder_of(case))
    model.earlier = model(IDS[:, :2], use_cache=True).past_key_values
    before = hooks_of(model)
    with pytest.raises(InputError, match=message), record(model, target):
        run(model)
    assert hooks_of(model) == before
    assert not target.exists()


def test_does_not_save_a_pass_that_failed(model, target):
    def stop(*_):
        raise KeyError("out of memory")

    model.model.layers[1].mlp.register_forward_pre_hook(stop)
    before = hooks_of(model)
    with pytest.raises(KeyError), record(model, target):
        model(IDS)
    assert (hooks_of(model), list(target.parent.iterdir())) == (before, [])
    with (
        pytest.raises(InputError, match=r"layer1\.mlp\.gate and 6 more events were not computed"),
        record(model, target),
        suppress(KeyError),
    ):
        model(IDS)
    assert not target.exists()


def test_records_layers_once_if_the_backward_pass_computes_them_again(model, target, folder):
    model.train().gradient_checkpointing_enable()
    with record(model, target):
        model(IDS, labels=IDS).loss.backward()
    assert_same(load_file(target), own_events(folder))


def test_rejects_a_layer_that_runs_a_second_time(model, target):
    turns = (torch.ones(1, 7, 8), torch.zeros(1, 7, 8))
    with pytest.raises(InputError, match=r"found layer1\.attn\.norm a second time"), record(model, target):
        model.model.layers[1](
            model(IDS, output_hidden_states=True).hidden_states[1], position_embeddings=turns
        )
    assert not target.exists()


SMALL = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
         "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "pad_token_id": 0}  # fmt: skip
SMALL_OPT = {"num_hidden_layers": 1, "hidden_size": 8, "ffn_dim": 8, "num_attention_heads": 2,
             "vocab_size": 11}  # fmt: skip
SMALL_GPT2 = {"n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 61, "n_positions": 8}


def of_transformers(kind, head="ForCausalLM", **config):
    return getattr(transformers, f"{kind}{head}")(getattr(transformers, f"{kind}Config")(**config))


FOREIGN = {
    "a string": (lambda: "a string", "expected a PyTorch model, found str"),
    "a layer": (
        lambda: torch.nn.Linear(2, 2),
        r"Linear: expected a module with the children embed_tokens, layers, norm, as in a Llama"),
    "another stack": (
        lambda: of_transformers("OPT", **SMALL_OPT),
        r"OPTForCausalLM: expected .*, or wte, wpe, drop, h, ln_f, as in a GPT-2.*; found model, "),
    "other norms": (
        lambda: of_transformers("VaultGemma", **SMALL),
        r"model\.layers\.0: (expected a module|the module) \w+.* (found none|is not part of a Llama)"),
    "experts": (lambda: of_transformers("GraniteMoe", **SMALL), r"expected a module (mlp|block)"),
    "another text": (
        lambda: of_transformers("GPT2", "LMHeadModel", **SMALL_GPT2, add_cross_attention=True),
        r"transformer\.h\.0: the module \w+ is not part of a GPT-2"),
    "another order of q, k and v": (
        lambda: of_transformers("GPTBigCode", **SMALL_GPT2),
        r"transformer\.h\.0: the attention does not split q, k and v like a GPT-2"),
    "active dropout": (
        lambda: of_transformers("GPT2", "LMHeadModel", **SMALL_GPT2).train(),
        r"transformer\.drop is active dropout of 10%: call model\.eval\(\)"),
}  # fmt: skip


@pytest.mark.parametrize("what", FOREIGN)
def test_rejects_models_of_other_families(what, target):
    model, message = FOREIGN[what]
    with pytest.raises(InputError, match=message):
        record(model(), target).__enter__()


def test_dropout_with_probability_0_is_not_active(target):
    model = of_transformers("GPT2", "LMHeadModel", **SMALL_GPT2, embd_pdrop=0, attn_pdrop=0, resid_pdrop=0)
    assert "logits" in recorded(model.train(), target)


def test_rejects_a_model_with_two_decoders(model, target, folder):
    both = torch.nn.ModuleDict({"draft": torch_model(folder), "target": model})
    with pytest.raises(InputError, match=r"has 2 decoders \(draft.model, target.model\)"):
        record(both, target).__enter__()


def test_records_the_text_part_of_a_model_of_texts_and_images(target, tmp_path):
    vision = dict.fromkeys(("hidden_size", "intermediate_size"), 8) | {"image_size": 28, "patch_size": 14}
    vision |= {"model_type": "siglip_vision_model", "num_hidden_layers": 1, "num_attention_heads": 2}
    text = MODELS["gemma3_text"][1] | {"model_type": "gemma3_text"}
    parts = {"text_config": deepcopy(text), "vision_config": vision}
    config = transformers.Gemma3Config(**parts, image_token_index=55, mm_tokens_per_image=4)
    auto = transformers.AutoModelForImageTextToText
    model = auto.from_config(config, attn_implementation="eager").eval()
    model.save_pretrained(tmp_path)
    with record(model, target), torch.no_grad():
        model(input_ids=IDS, attention_mask=torch.ones_like(IDS))
    found = diff(target, tmp_path)
    assert found.first is None
    assert {"embed.scaled", "layer3.attn.k_rope", "layer3.attn.weights", "logits"} <= load_file(target).keys()
    assert "left out: 2 tensors of multi_modal_projector and " in load(tmp_path).assumed[0]
    with pytest.raises(InputError, match="expected a text without images and sound, found pixel_values"):
        recorded(model, tmp_path / "image", IDS, pixel_values=torch.zeros(1, 3, 28, 28))
