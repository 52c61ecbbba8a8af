"""Mixtures of experts: explanations, pages, interventions, and generation with a cache."""

import numpy as np
import pytest
from support.browser import go, needs_browser
from support.commands import microgpt
from support.documents import document
from support.explanations import elements
from support.judges import agree
from support.page_numbers import explained_in, verdict_in
from support.torch_models import torch_model, written

from microgpt_trace import load, trace
from microgpt_trace.dumps.recorder import record
from microgpt_trace.explaining.explain import explain_in, keep_run
from microgpt_trace.formulas.steps import element_name

torch = pytest.importorskip("torch", reason="the models are made by transformers")
TOKENS = (17, 3, 44, 3, 60, 0, 29, 8, 5)
IDS = ",".join(map(str, TOKENS))


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


@pytest.mark.parametrize("name", ["gpt_oss", "qwen2_moe"])
def test_every_event_and_parameter_can_be_explained(name, folders):
    model = load(folders(name))
    run = keep_run(model, tokens=list(TOKENS))
    for event, index in elements(run.shapes, 2):
        explained = explain_in(run, element_name(event, index), terms=10**6)
        if event in model.plan:
            agree(explained.traced, explained.value, rtol=1e-4, atol=1e-5, what=explained.element)


def test_the_number_of_an_expert_says_what_it_selects(folders):
    model = load(folders("mixtral"))
    run = keep_run(model, tokens=list(TOKENS))
    told = explain_in(run, "layer1.mlp.chosen[3,1]")
    router = run.array("layer1.mlp.router")[3]
    second = int(np.argsort(-router)[1])
    print(told.value, second, told.notes, [use.name for use in told.uses])
    assert told.value == second
    logit = f"layer1.mlp.router[3,{second}] = {router[second]:.6g} is number 2 of the logits"
    assert logit in told.notes[0]
    out = microgpt("explain", folders("mixtral"), "layer1.mlp.chosen[3,1]", "--tokens", IDS).out
    assert "Came from" not in out  # no element comes from itself
    assert "Next:" not in out
    assert [use.name for use in told.uses][1] == "layer1.mlp.gate[3,48]"
    weight = explain_in(run, f"layer1.mlp_wgate_experts[{second},2,7]")
    assert f"parameter of expert {second}: from input 7 to output 2" in weight.place
    used = [use for use in weight.uses if use.count]
    assert used
    unused = sorted({*range(6)} - {*run.array("layer1.mlp.chosen").ravel().astype(int).tolist()})
    for expert in unused:
        assert not explain_in(run, f"layer1.mlp_wgate_experts[{expert},2,7]").uses


@pytest.mark.parametrize("place", [(-1, 20, 3), (2, slice(20, 22), slice(0, 4)), (slice(1, 3), 20)])
def test_a_part_of_the_matrices_of_experts_can_be_shown(place, folders):
    """Row 20 has a larger number than any expert."""
    words = [f"{i.start}:{i.stop}" if isinstance(i, slice) else str(i) for i in place]
    name = f"layer0.mlp_wgate_experts[{','.join(words)}]"
    folder = folders("mixtral")
    out = microgpt("trace", folder, "--tokens", IDS, "--show", name, "--brief").out
    matrices = load(folder).parameter("layer0.mlp_wgate_experts")
    first = np.ravel(np.arange(6)[place[0]]).tolist()
    assert f"expert {first[0]}\n" in out
    assert "head" not in out.split("Stage")[0]
    for value in np.ravel(matrices[place])[:8]:
        assert f"{value:.3f}" in out


ON_THE_PAGE = (
    "layer0.mlp.router[3,2]", "layer1.mlp.chosen[3,1]", "layer1.mlp.routing[4,2]", "layer1.mlp.gate[2,70]",
    "layer2.mlp.up_clipped[5,3]", "layer2.mlp.hidden[5,100]", "layer0.mlp.down[8,40]",
    "layer3.mlp.mixture[8,31]", "layer2.attn.weights[1,6,4]",
)  # fmt: skip


@needs_browser
def test_a_page_works_out_the_numbers_of_experts(folders, page_of, tmp_path):
    words, path = ("trace", folders("gpt_oss"), "--tokens", IDS), tmp_path / "page.html"
    assert microgpt(*words, "--html", path).code == 0
    told = document(*words, "--values", "--layer", "*")
    arrays = {event["name"]: np.array(event["values"], np.float32) for event in told["events"]}
    page, plan = page_of(path), load(folders("gpt_oss")).plan
    for element in ON_THE_PAGE:
        go(page, element)
        name, index = element.rstrip("]").split("[")
        assert explained_in(page) == arrays[name][tuple(map(int, index.split(",")))], element
        assert plan[name].kind.names or verdict_in(page), element  # pages of decoders have no parameters


def test_an_expert_without_a_share_adds_nothing(folders):
    """Take the first choice of a position out, and compare with transformers without this expert."""
    folder, theirs = folders("mixtral"), torch_model("mixtral")
    router = theirs.model.layers[2].mlp.gate

    def without(module, args, output):
        logits, shares, chosen = output
        shares = shares.clone()
        shares[4, 0] = 0
        return logits, shares, chosen

    hook = router.register_forward_hook(without)
    with torch.no_grad():
        expected = theirs(torch.tensor([TOKENS])).logits[0].numpy()
    hook.remove()
    model = load(folder)

    def zero(event, value):
        changed = value.copy()
        changed[4, 0] = 0
        return changed

    with model.hooks.subscribe(zero, "layer2.mlp.routing"):
        found = trace(model, tokens=TOKENS, positions="all", names=["logits"], values=True)["logits"]
    agree(found, expected, rtol=1e-4, atol=1e-4, what="logits")


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_a_recording_in_bfloat16_is_clean(name, folders, tmp_path):
    """Its router may choose other experts than a pass in float32."""
    with record(model := torch_model(name).to(torch.bfloat16), tmp_path / "d.safetensors"), torch.no_grad():
        model(torch.tensor([TOKENS]))
    done = microgpt("diagnose", tmp_path / "d.safetensors", folders(name), "--compute", "bf16")
    print(done.out[-1500:])
    assert done.code == 0


@pytest.mark.parametrize("name", ["gpt_oss", "qwen3_moe", "qwen2_moe"])
def test_a_cache_changes_no_token(name, folders):
    done = microgpt("trace", folders(name), "--tokens", IDS, "--generate", "6", "--recheck")
    print(done.out[-900:])
    assert done.code == 0
    assert "decode steps equal the rows of a full pass" in " ".join(done.out.split())


@pytest.mark.parametrize(
    ("changes", "size", "steps", "words"),
    [
        ({}, "3 of 6 experts of FFN 14", "experts → shared_expert → residual", "experts and a shared expert"),
        ({"decoder_sparse_step": 2}, "3 of 6 experts", "ffn_down → residual", "for each position in 2 of 4"),
        ({"mlp_only_layers": [0, 1, 2, 3]}, "key-value heads, FFN 48,", "ffn_down → residual", "biases."),
    ],
)
def test_the_header_describes_the_layers_that_have_experts(changes, size, steps, words, tmp_path):
    """A shared expert is no second step of a layer, since both read the same norm."""
    torch_model("qwen2_moe", changes).save_pretrained(tmp_path / "model")
    out = " ".join(microgpt("trace", tmp_path / "model", "--tokens", IDS).out.split())
    for expected in (size, steps, words, "same pattern: norm → attn → residual → norm → ffn → residual."):
        assert expected in out
