"""Attribution by gradients against central differences, gradients of a trace, and integrals by PyTorch."""

import os
import signal
from itertools import pairwise

import numpy as np
import pytest
from support.commands import microgpt, refusal
from support.documents import valid
from support.sweeps import in_sweep
from support.tiny_models import TOKENS
from support.torch_models import written

from microgpt_trace import attribute, init, load, save, trace
from microgpt_trace.arrays.logits import LogitDifference
from microgpt_trace.attribution import gradient_attribution, path
from microgpt_trace.attribution.attribute import attribute_prompts
from microgpt_trace.errors import FileFormatError, InputError

TARGET, AGAINST = 7, 11
METHODS = ("gradient", "gradient-x-input", "integrated")


@pytest.fixture(scope="module")
def model_of(decoders, tmp_path_factory):
    """A function that returns a model and the keyword arguments that name its input."""

    def model(case):
        if case == "microgpt":
            return init(seed=3), {"text": "emma"}
        if case in ("qwen3", "llama_gqa"):
            return decoders(case)[0], {"tokens": TOKENS}
        folder = tmp_path_factory.mktemp(case)
        written(case, folder)
        return load(folder), {"tokens": TOKENS}

    return model


def values_of(result):
    return {cell.site: cell.mean for cell in result.cells}


def difference(model, about, name, change):
    """Return the logit difference at the last position, with a changed event."""
    with model.hooks.subscribe(lambda event, value: value + change.astype(value.dtype), name):
        row = trace(model, **about, values=["logits"])["logits"][-1].astype(np.float64)
    return row[TARGET] - row[AGAINST]


@pytest.mark.parametrize("case", ["qwen3", in_sweep("mixtral"), "microgpt"])
def test_norms_of_gradients_equal_central_differences(model_of, case):
    model, about = model_of(case)
    found = values_of(attribute(model, **about, target=TARGET, against=AGAINST, method="gradient"))
    down = gradient_attribution.patching.mlps_of(model.plan)[0]
    columns = model.plan["layer0.attn.head1"].kind.columns
    sites = [("embed.tok@2", "embed.tok", None), (f"{down}@2", down, None),
             ("layer0.attn.head1@2", "layer0.attn.context", columns)]  # fmt: skip
    for site, name, part in sites:
        shape, slopes, step = trace(model, **about, names=[name], values=[name])[name].shape, [], 3e-3
        for channel in range(*(part or (0, shape[1]))):
            change = np.zeros(shape)
            change[2, channel] = step
            up, low = (difference(model, about, name, sign * change) for sign in (1, -1))
            slopes.append((up - low) / (2 * step))
        print(f"{case} {site}: {found[site]:.6g}, by differences {np.linalg.norm(slopes):.6g}")
        assert found[site] == pytest.approx(np.linalg.norm(slopes), rel=1e-2)


@pytest.mark.parametrize("case", ["llama_gqa", "mixtral"])
def test_gradient_times_value_equals_the_products_of_a_trace(model_of, case):
    model, about = model_of(case)
    about = about | {"target": TARGET, "against": AGAINST}
    found = attribute(model, **about, method="gradient-x-input", neurons=True)
    names = [
        "embed.tok",
        "layer1.attn.context",
        "layer1.attn.head2",
        *gradient_attribution.patching.mlps_of(model.plan),
    ]
    run = trace(model, **about, names=names, values=names, backward=True, position=-1)
    products = {name: run[name].astype(np.float64) * run.gradient(name) for name in names}
    values, (start, end) = values_of(found), model.plan["layer1.attn.head2"].kind.columns
    for name in (names[0], *names[3:]):
        assert values[name] == pytest.approx(products[name].sum(), rel=1e-4, abs=1e-5)
        assert values[f"{name}@3"] == pytest.approx(products[name][3].sum(), rel=1e-4, abs=1e-5)
    columns = products["layer1.attn.context"][:, start:end]
    print(values["layer1.attn.head2"], columns.sum(), products["layer1.attn.head2"].sum())
    assert values["layer1.attn.head2"] == pytest.approx(columns.sum(), rel=1e-4, abs=1e-5)
    assert values["layer1.attn.head2"] == pytest.approx(
        products["layer1.attn.head2"].sum(), rel=1e-3, abs=1e-5
    )
    assert values["layer1.attn.head2@4"] == pytest.approx(columns[4].sum(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("case", ["olmo2", "gemma2"])
def test_an_mlp_with_a_norm_behind_it_is_what_the_norm_writes(model_of, case):
    model, about = model_of(case)
    name, step = "layer1.mlp.post_norm", 0.01
    options = {"target": TARGET, "against": AGAINST, "method": "gradient-x-input"}
    found = values_of(attribute(model, **about, **options))[name]
    value = trace(model, **about, names=[name], values=[name])[name]
    up, low = (difference(model, about, name, sign * step * value) for sign in (1, -1))
    print(f"{case}: {found:.6g}, by differences {(up - low) / (2 * step):.6g}")
    assert found == pytest.approx((up - low) / (2 * step), rel=1e-2)
    assert abs(found) > 0.001  # it is 0 before the norm


@pytest.mark.parametrize("case", ["llama_gqa", "mixtral"])
def test_neurons_equal_the_products_of_a_trace(model_of, case):
    model, about = model_of(case)
    about = about | {"target": TARGET, "against": AGAINST}
    names = gradient_attribution.patching.neurons_of(model.plan)
    chosen = sorted({*map(model.plan.chosen_by.get, names)} - {None})
    run = trace(model, **about, names=[*names, *chosen], values=[*names, *chosen], backward=True, position=-1)
    expected = {}
    for name in names:
        products, choice = run[name].astype(np.float64) * run.gradient(name), model.plan.chosen_by.get(name)
        for position, row in enumerate(products):
            experts = [None] if choice is None else run[choice][position].astype(int).tolist()
            for expert, part in zip(experts, np.split(row, len(experts)), strict=True):
                for channel, product in enumerate(part):
                    site = f"{name}{'' if expert is None else f' expert {expert}'}:{channel}"
                    expected[site] = expected.get(site, 0.0) + product
    found = attribute(model, **about, method="gradient-x-input", neurons=True).neurons
    best = sorted(expected.values(), reverse=True)[: len(found)]
    np.testing.assert_allclose([neuron.value for neuron in found], best, rtol=1e-4, atol=1e-6)
    for neuron in found[:10]:
        assert neuron.value == pytest.approx(expected[neuron.site], rel=1e-4, abs=1e-6)
        assert abs(neuron.activations[0]) == max(map(abs, neuron.activations))
    if case == "llama_gqa":
        name, channel = found[0].site.rsplit(":", 1)
        activations = run[name][:, int(channel)]
        assert found[0].active_at[0] == np.abs(activations).argmax()
        assert found[0].activations[0] == pytest.approx(activations[found[0].active_at[0]])


@pytest.mark.parametrize("case", ["gpt2", in_sweep("olmo2")])
def test_integrated_gradients_of_tokens_equal_those_of_pytorch(case, tmp_path, monkeypatch):
    judge, baseline = written(case, tmp_path), 5
    torch = pytest.importorskip("torch")
    table = judge.get_input_embeddings().weight.detach()
    embeddings, start = table[list(TOKENS)], table[baseline]
    nodes, weights = np.polynomial.legendre.leggauss(160)
    total = np.zeros(len(TOKENS))
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        x = (start + node * (embeddings - start)).requires_grad_(True)
        row = judge(inputs_embeds=x[None]).logits[0, -1]
        (gradient,) = torch.autograd.grad(row[TARGET] - row[AGAINST], x)
        total += weight * (gradient * (embeddings - start)).sum(dim=1).numpy()
    monkeypatch.setattr(path, "TOLERANCE", 1e-3)
    about = {"tokens": TOKENS, "target": TARGET, "against": AGAINST}
    result = attribute(load(tmp_path), **about, method="integrated", baseline=baseline)
    values = values_of(result)
    found = [values[f"embed.tok@{position}"] for position in range(len(TOKENS))]
    print(f"{found}\nby PyTorch {total.tolist()}\n{result.prompts[0].check.claim}")
    np.testing.assert_allclose(found, total, atol=0.01 * np.abs(total).max())
    assert result.ok


@pytest.mark.parametrize("case", ["llama_gqa", "qwen3", "microgpt"])
def test_the_attributions_of_every_stream_sum_to_the_change(model_of, case, monkeypatch):
    monkeypatch.setattr(path, "TOLERANCE", 1e-3)
    model, about = model_of(case)
    inputs = model.read(about.get("text"), about.get("tokens"))
    contrast = LogitDifference(len(inputs.tokens) - 1, "", TARGET, "", AGAINST, "")
    streams = [name for name in model.plan.streams if name != "embed.tok"]
    names, steps = ["embed.tok", *streams], []
    start = model.parameter("wte", np.array([5]))
    found, _ = path.integrate(
        gradient_attribution._along(model, inputs, contrast, names, start),
        lambda effects: np.array([effects[name].sum() for name in names]),
        lambda *done: steps.append(done),
    )  # fmt: skip
    logits = trace(model, **about, values=["logits"])["logits"][-1]
    with model.hooks.subscribe(lambda event, value: value * 0 + start, "embed.tok"):
        before = trace(model, **about, values=["logits"])["logits"][-1]
    change = contrast.difference(logits) - contrast.difference(before)
    print(f"change {change:.5g}, sums {dict(zip(names, found.values, strict=True))}, errors {found.errors}")
    assert found.values == pytest.approx(np.full(len(names), change), rel=0.003)
    assert found.change == pytest.approx(change, rel=1e-4)
    assert steps == sorted(steps)
    assert found.steps == steps[-1][0] <= steps[-1][1]


def test_too_few_steps_are_reported(decoder_folder, monkeypatch):
    monkeypatch.setattr(path, "MOST", 16)
    line = f"attribute {decoder_folder('llama_gqa')} --tokens 3,5,9,4 --target #7 --method integrated"
    done = microgpt(line)
    assert done.code == 1
    assert "Self-check FAILED: in 16 steps from zeros to the token embeddings" in " ".join(done.out.split())


def test_every_part_is_checked(model_of):
    """Sums over the tokens may be right while parts are wrong: with 128 steps, the trapezoidal rule gave
    +0.067 for layer1.attn.head2@0, and -0.098 is right. A run of many small steps is the judge."""
    model, about = model_of("olmo2")[0], {"target": TARGET, "against": AGAINST, "method": "integrated"}
    result = attribute(model, tokens=[3, 5, 9, 4], **about)
    (prompt,), inputs = result.prompts, model.read(tokens=[3, 5, 9, 4])
    names = ["embed.tok", "layer1.attn.context"]
    run = gradient_attribution._along(model, inputs, prompt.contrast, names, np.zeros(1))
    shares, exact = [0.0, *np.geomspace(1e-16, 1, 6000)], 0.0
    points = run(shares)
    columns = slice(*model.plan["layer1.attn.head2"].kind.columns)
    for a, b in pairwise(points):
        (start, end), (low, high) = (
            [of[way]["layer1.attn.context"][0, columns].astype(np.float64) for of in (a, b)] for way in (2, 1)
        )
        exact += float(((start + end) / 2 * (high - low)).sum())
    (cell,) = [cell for cell in result.cells if cell.site == "layer1.attn.head2@0"]
    print(f"{cell.mean:.5f}, error {cell.error:.5f}, by 6,000 steps {exact:.5f}; {prompt.check.claim}")
    assert exact < -0.05
    assert cell.mean == pytest.approx(exact, abs=cell.error + 0.002)
    largest = max(cell.error for cell in result.cells)
    assert prompt.check.deviation == pytest.approx(largest / 3.583, rel=1e-3)  # not only the sum is checked
    assert prompt.check.holds


def test_points_of_one_pass_equal_points_of_separate_passes(model_of):
    for case in ("mixtral", "gemma2", "microgpt"):
        model, about = model_of(case)
        inputs = model.read(about.get("text"), about.get("tokens"))
        contrast = LogitDifference(2, "", TARGET, "", AGAINST, "")
        names = ["embed.tok", "layer0.attn.context"]
        start, shares = model.parameter("wte", np.array([5])), [0.25, 0.5, 1.0]
        together = gradient_attribution._along(model, inputs, contrast, names, start)(shares)
        for share, point in zip(shares, together, strict=True):
            (alone,) = gradient_attribution._along(model, inputs, contrast, names, start)([share])
            assert point[0] == pytest.approx(alone[0], rel=1e-4, abs=1e-6)
            for own, other in zip(point[1:], alone[1:], strict=True):
                for name in names:
                    scale = np.abs(other[name]).max()
                    np.testing.assert_allclose(own[name], other[name], rtol=1e-3, atol=1e-5 * scale)


def test_ctrl_c_prints_the_known_part_of_the_path(monkeypatch, tmp_path, default_signals):
    calls, begin = [], gradient_attribution.DifferentiableRun.gradients

    def gradients_of(self, contrast):
        calls.append(contrast)
        if len(calls) == after:
            os.kill(os.getpid(), signal.SIGINT)
        return begin(self, contrast)

    monkeypatch.setattr(gradient_attribution.DifferentiableRun, "gradients", gradients_of)
    after = 2  # the first pass has run
    done = microgpt("attribute emma --method integrated")
    assert done.code == 130
    assert "in 16 steps from zeros" in " ".join(done.out.split())
    assert "interrupted before the errors were small" in " ".join(done.out.split())
    (tmp_path / "p").write_text("emma\nanna\n")
    calls.clear()
    document = valid(microgpt(f"attribute --prompts {tmp_path / 'p'} --method integrated --json").out,
                     "attribute", "--method", "integrated")  # fmt: skip
    assert len(document["prompts"]) == 1
    calls.clear()
    after = 1  # nothing is known
    done = microgpt("attribute emma --method integrated")
    assert (done.code, done.out) == (130, "")


def test_the_error_of_a_neuron_is_checked(monkeypatch):
    integrate = gradient_attribution.integrate

    def with_an_error(*arguments):
        found, interrupted = integrate(*arguments)
        found.errors[-1] = 1.0  # the last neuron of the only layer
        return found, interrupted

    monkeypatch.setattr(gradient_attribution, "integrate", with_an_error)
    done = microgpt("attribute emma --method integrated --neurons")
    assert done.code == 1
    assert "half the steps change no part by more than 1 (layer0.mlp.act:63)" in " ".join(done.out.split())


def test_deviations_are_shares_of_the_change():
    done = microgpt("attribute emma --method integrated")
    assert "of the change, allowed 0.01)" in " ".join(done.out.split())
    assert "error: half the steps change the value by at most this number" in " ".join(done.out.split())
    document = valid(microgpt("attribute emma --method integrated --neurons --json").out, "attribute",
                     "--method", "integrated")  # fmt: skip
    errors = [part["error"] for part in (*document["cells"], *document["neurons"])]
    check = document["prompts"][0]["check"]
    assert 0 < max(errors) < check["tolerance"] * abs(document["prompts"][0]["difference"])
    gradient = valid(
        microgpt("attribute emma --method gradient --json").out, "attribute", "--method", "gradient"
    )
    assert {cell["error"] for cell in gradient["cells"]} == {None}


def test_a_jump_where_the_chosen_experts_change_is_not_halved_forever(model_of, monkeypatch):
    monkeypatch.setattr(path, "MOST", 128)
    model, options = model_of("mixtral")[0], {"target": TARGET, "against": AGAINST, "method": "integrated"}
    result = attribute(model, tokens=[5], **options)
    print(result.prompts[0].check.claim)
    assert not result.ok
    assert result.prompts[0].check.claim.startswith("in 128 steps")
    assert result.prompts[0].check.claim.endswith("the chosen experts may change along the path")


@pytest.mark.parametrize("method", ["writes", *METHODS])
def test_means_over_prompts(model_of, method):
    model, texts = model_of("microgpt")[0], ["emma", "anna", "lara"]
    options = {"target": "a", "against": "n", "method": method}
    result = attribute_prompts(model, texts, **options)
    single = [attribute(model, text, **options, positions="last") for text in texts]
    if method == "writes":
        values = [{part.name: part.difference for part in own.positions[0].parts} for own in single]
    else:
        values = [values_of(own) for own in single]
    assert {cell.site for cell in result.cells} == set(values[0])
    for cell in result.cells:
        own = [each[cell.site] for each in values]
        assert (cell.mean, cell.spread) == pytest.approx((np.mean(own), np.std(own)), rel=1e-9, abs=1e-12)
    assert result.ok
    longer = attribute_prompts(model, ["emma", ("annabel", "e", "a")], **options)
    assert {cell.position for cell in longer.cells} == {None}
    assert longer.prompts[1].contrast.target_label == "e"


@pytest.mark.parametrize(("content", "words"), [
    ("emma\nanna\te\n", "line 2: expected TEXT or TEXT<TAB>TARGET<TAB>AGAINST, found 2 fields"),
    ("emma\nanna\te\te\n", "line 2: target and against: expected two tokens"),
    ("# none\n", "found none"),
])  # fmt: skip
def test_files_that_do_not_fit(tmp_path, content, words):
    (tmp_path / "p").write_text(content)
    with pytest.raises((FileFormatError, InputError), match=words):
        attribute_prompts(init(), tmp_path / "p")


@pytest.mark.parametrize("prompts", [[], [("emma", "a")]])
def test_prompts_that_do_not_fit(prompts):
    with pytest.raises(InputError, match="expected texts or"):
        attribute_prompts(init(), prompts)


@pytest.mark.parametrize(("options", "words"), [
    ({"method": "gradient", "positions": "all"}, "gradient explains one position, found 7"),
    ({"method": "gradient", "baseline": 3}, "baseline: needs the method integrated"),
    ({"neurons": True}, "need a method that uses gradients"),
])  # fmt: skip
def test_arguments_that_do_not_fit(decoders, options, words):
    with pytest.raises(InputError, match=words):
        attribute(decoders("llama_gqa")[0], tokens=TOKENS, **options)


def test_neurons_of_chosen_experts_have_no_path(model_of):
    model, about = model_of("mixtral")
    with pytest.raises(InputError, match="the chosen experts may change"):
        attribute(model, **about, method="integrated", neurons=True)


def test_hooks_count(decoders):
    model = decoders("llama_gqa")[0]
    about = {"tokens": TOKENS, "target": TARGET, "against": AGAINST, "method": "gradient-x-input"}
    with model.hooks.subscribe(lambda event, value: value * 0, "layer0.attn.head1"):
        found = values_of(attribute(model, **about))
    assert found["layer0.attn.head1"] == 0
    assert values_of(attribute(model, **about))["layer0.attn.head1"] != 0


@pytest.mark.parametrize("method", METHODS)
def test_the_command(method, tmp_path):
    pytest.importorskip("matplotlib")
    line = f"attribute emma --method {method} --neurons"
    document = valid(microgpt(f"{line} --json").out, "attribute", "--method", method)
    assert (document["method"], len(document["prompts"])) == (method, 1)
    out = microgpt(f"{line} --html {tmp_path / 'p.html'} --plot {tmp_path / 'p.svg'}").out
    neurons = "Neurons with the largest gradients" if method == "gradient" else "Neurons that raise"
    assert all(title in out for title in ("Largest parts", neurons, "embed.tok at one position"))
    assert "layer0.mlp.act:" in (tmp_path / "p.html").read_text()
    assert "embed.tok" in (tmp_path / "p.svg").read_text()
    assert ("Self-check holds" in out) == (method == "integrated")


def test_a_neuron_that_does_not_raise_the_difference_is_not_listed():
    done = microgpt("attribute emma --method gradient-x-input --neurons --top 64")
    lines = done.out.split("Neurons that")[1].splitlines()
    values = [float(line.split()[1]) for line in lines if line.startswith("layer0")]
    assert 0 < len(values) < 64
    assert min(values) >= 0


def test_the_command_with_prompts(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("emma\nanna\te\ta\n")
    for method in ("writes", "gradient"):
        line = f"attribute --prompts {file} --method {method}"
        document = valid(microgpt(f"{line} --json").out, "attribute", "--prompts", str(file))
        assert [prompt["contrast"]["target_label"] for prompt in document["prompts"]] == ["EOS", "e"]
        assert "mean of 2 prompts" in microgpt(line).out


@pytest.mark.parametrize(("line", "words"), [
    ("emma --neurons", "--neurons needs --method: neurons are attributed by gradients"),
    ("emma --baseline a", "--baseline needs --method"),
    ("emma --prompts p", "a text cannot be combined with --prompts"),
    ("--prompts p --method gradient --neurons", "--neurons cannot be combined with --prompts"),
    ("emma --method gradient --position all", "gradient explains one position, found 5"),
    ("emma --method half", "--method: expected writes or gradient or gradient-x-input or integrated"),
])  # fmt: skip
def test_lines_that_do_not_fit(line, words):
    assert words in refusal(f"attribute {line}")


@pytest.mark.parametrize(("value", "code", "words"), [
    (np.nan, 1, {"gradient": "not all attributions are finite", "integrated": "Self-check FAILED"}),
    (0.0, 0, {"gradient": "Largest parts", "integrated": "Self-check holds"}),
])  # fmt: skip
def test_models_of_nan_or_zeros(tmp_path, value, code, words):
    model = init()
    model.params["lm_head"][:] = value
    save(model, tmp_path / "m.safetensors")
    for method, expected in words.items():
        line = f"attribute {tmp_path / 'm.safetensors'} emma --target a --against b --method {method}"
        done = microgpt(line)
        assert done.code == code
        assert expected in done.out
        assert "--baseline" not in done.out  # a path from a token would not help
        valid(microgpt(f"{line} --json").out, "attribute", "--method", method)
