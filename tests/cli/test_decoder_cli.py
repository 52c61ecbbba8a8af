"""`microgpt trace` on production models: arguments, options, refusals, JSON, gates and terminals."""

import json
import re
import tracemalloc

import numpy as np
import pytest
from support.commands import microgpt, process, refused
from support.documents import parse_json, valid, valid_lines
from support.sweeps import in_sweep
from support.tiny_models import CASES, random_weights, write_folder, write_gguf

from microgpt_trace import init, load, save, trace
from microgpt_trace.cli.trace_options import layers_of
from microgpt_trace.errors import InputError

HELLO = [37, 8, 15, 15, 18]
TEMPLATE = (
    "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}{% if add_generation_prompt %}a{% endif %}"
)
pytest.importorskip("tokenizers", reason="text is encoded by the package tokenizers")


@pytest.fixture(scope="module")
def model(decoder_folder):
    return decoder_folder(template=TEMPLATE)


@pytest.fixture(scope="module")
def plain(decoder_folder):
    """Ten layers, no chat template."""
    return decoder_folder(num_hidden_layers=10)


@pytest.fixture(scope="module")
def broken(decoder_folder):
    def spoil(weights):
        weights["model.layers.1.mlp.up_proj.weight"][5, 3] = np.nan

    return decoder_folder(edit=spoil)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A folder without a tokenizer."""
    folder = tmp_path_factory.mktemp("bare")
    return write_folder(folder, CASES["llama_gqa"], random_weights(CASES["llama_gqa"], "llama_gqa"))


def document(*args, code=0, **env):
    result = microgpt("trace", *args, "--json", **env)
    assert result.code == code, result.err
    return parse_json(result.out)


def tokens_of(*args, **env):
    return document(*args, **env)["input"]["tokens"]


# --- Which model, which text ----------------------------------------------------------------------


def test_a_model_and_a_text_are_named_in_any_order(model):
    read = document(model, "Hello")
    assert (read["input"]["tokens"], read["input"]["labels"]) == (HELLO, [*"Hello"])
    assert read["model"]["family"] == "decoder"
    assert document("--model", model, "Hello") == document("Hello", "--model", model) == read
    assert document(model) == document("--model", model)
    assert document(model)["input"]["text"] == "The capital of France is"
    assert document("emma")["model"]["family"] == "microgpt"  # a text alone is for that
    refused(microgpt("trace", model, "Hello", "--model", model), "expected one model, found")
    refused(microgpt("trace", model, "Hello", "you"), "you")


def test_a_word_names_a_model_only_if_it_is_one_and_no_other_is_named(model, tmp_path):
    (tmp_path / "folder").mkdir()
    assert tokens_of("folder", cwd=tmp_path) == [0, 6, 15, 12, 4, 5, 18]
    (tmp_path / "emma").write_text("not a model")
    (tmp_path / "emma.txt").write_text("not a model")
    (tmp_path / "tiny").symlink_to(model)
    assert tokens_of(model, "emma", cwd=tmp_path) == [8, 16, 16, 4]
    assert tokens_of("--model", model, "emma", cwd=tmp_path) == [8, 16, 16, 4]
    assert tokens_of("emma", cwd=tmp_path) == [0, 5, 13, 13, 1]
    refused(microgpt("trace", "tiny", "--tokens", "99", cwd=tmp_path), "token 99")
    refused(microgpt("trace", "emma.txt", cwd=tmp_path), "emma.txt: ")


def test_a_file_in_the_folder_and_a_gguf_are_models(model, bare, tmp_path):
    assert tokens_of(model / "model.safetensors", "Hello") == HELLO
    assert tokens_of(model / "config.json", "Hello") == HELLO
    pytest.importorskip("gguf")
    weights = random_weights(CASES["llama_gqa"], "llama_gqa")
    path = write_gguf(tmp_path / "m.bin", CASES["llama_gqa"], weights)  # sniffed, not by its suffix
    read = document(path, "--tokens", "3,5,8")
    assert read["model"]["format"].startswith("GGUF")
    assert read["loss"] == pytest.approx(document(bare, "--tokens", "3,5,8")["loss"], rel=1e-5)


# --- The prompt -----------------------------------------------------------------------------------


def test_tokens_special_tokens_and_chat_templates(model, bare, plain):
    read = document(model, "--tokens", "37,8,15")["input"]
    assert (read["tokens"], read["text"], read["labels"]) == ([37, 8, 15], "Hel", [*"Hel"])
    assert read["notes"] == ["the tokens are used as given"]
    assert document(bare, "--tokens", "37,8")["input"]["labels"] == ["37", "8"]
    refused(microgpt("trace", bare, "Hello"), str(bare), "--tokens")
    assert tokens_of(model, "<s>a") == [0, 22, 0, 4]
    special = document(model, "<s>a", "--special")["input"]
    assert (special["tokens"], special["notes"]) == ([1, 4], ["special tokens in the text were parsed"])
    refused(microgpt("trace", plain, "Hi", "--chat"), "no chat template", "--chat")
    pytest.importorskip("jinja2", reason="chat templates need jinja2")
    chat = document(model, "Hi", "--chat")["input"]
    assert (chat["tokens"], chat["text"]) == ([1, 37, 12, 2, 4], "<s>Hi</s>a")
    assert "chat template" in chat["notes"][0]


def test_several_targets_have_a_column_and_an_array_each(bare):
    words = ("--tokens", "3,5,8", "--backward", "--target", "#5", "--target", "#7", "--verbose")
    lines = microgpt("trace", bare, *words).out.splitlines()
    head = next(line.split("  ") for line in lines if line.startswith("tensor"))
    assert [title.strip() for title in head if title] == ["tensor", "L2", "d logit(5)", "d logit(7)"]
    shown = microgpt("trace", bare, *words, "--show", "final.norm[2,0:3]").out
    assert [f"d logit({token}) / d final.norm" in shown for token in (5, 7)] == [True, True]
    first, second = document(bare, *words[:5]), document(bare, *words[:3], *words[5:7])
    both = document(bare, *words[:7])
    assert [event["stats"] for event in both["more_gradients"][0]["events"]] == [
        event["stats"] for event in second["events"] if event["phase"] == "backward"
    ]
    assert both["events"] == first["events"]


OF_DECODERS = {
    "--tokens": ["1"], "--chat": [], "--special": [], "--layers": ["0"], "--positions": ["last"],
    "--lens": [], "--target": ["n"], "--generate": ["2"], "--temperature": ["0"], "--recheck": [],
    "--fail-on": ["anomaly"], "--parameters": ["*"], "--rope-pairs": ["halves"], "--set": ["a=1"],
}  # fmt: skip


@pytest.mark.parametrize("text", ["0-99999999", "0-9999999,1", "9999999-0"])
def test_huge_layer_ranges_take_no_memory(text):
    tracemalloc.start()
    with pytest.raises(InputError, match=f"--layers {text}"):
        layers_of(text, 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(peak)
    assert peak < 1 << 20


def test_refuses_options_for_the_other_family(model):
    for option, value in OF_DECODERS.items():
        refused(microgpt("trace", "emma", option, *value), option)
    refused(microgpt("sample", "--model", model), "production model")
    noted = microgpt("trace", model, "Hello", "--payload")
    assert ("--payload" in noted.err, noted.out) == (True, microgpt("trace", model, "Hello").out)


def without(package, *args):
    """Run with a package that cannot be imported."""
    program = f"import sys; sys.modules[{package!r}] = None; from microgpt_trace.cli import main; main()"
    return process(*args, code=program)


@pytest.mark.parametrize(("package", "option"), [("tokenizers", "--verbose"), ("jinja2", "--chat")])
def test_a_missing_package_names_the_command_that_installs_it(model, package, option):
    result = without(package, "trace", model, "Hello", option)
    refused(result, f"package {package}: python -m pip install {package}")
    result = without(package, "trace", model, "--tokens", "37,8")
    assert result.code == 0, result.err
    assert "H=37 e=8" in result.out


# --- Selection ------------------------------------------------------------------------------------


def test_the_overview_verbose_and_globs_choose_the_events(model, plain):
    def names(*options):
        return [event["name"] for event in document(*options)["events"]]

    specs = load(model).hooks.specs
    overview = ["embed.tok", "layer0.mlp.residual", "layer1.mlp.residual", "final.norm", "logits"]
    assert names(model, "Hello") == overview
    assert names(model, "Hello", "-v") == [name for name, spec in specs.items() if not spec.extra]
    globs = ["--layer", "layer3.mlp.*", "--layer", "ffn_swigl", "--layer", "layer1.attn.head0"]
    expected = {f"layer{i}.mlp.hidden" for i in range(10)} | {"layer1.attn.head0"}
    expected |= {f"layer3.mlp.{n}" for n in ("norm", "gate", "up", "act", "down", "residual")}
    assert {*names(plain, "Hello", *globs)} == expected


@pytest.mark.parametrize(
    ("layers", "shown"), [("3-5", {3, 4, 5}), ("0,9", {0, 9}), ("8-9,2,2-2", {2, 8, 9}), ("4 -v", {4})]
)
def test_layers(plain, layers, shown):
    read = document(plain, "Hello", "--layers", *layers.split())
    assert {e["layer"] for e in read["events"]} == shown | {None}
    assert {row["layer"] for row in read["layers"]} == shown


def test_positions_and_top_k(model):
    read = document(model, "Hello", "--positions", "-1,0", "--top-k", "3")
    assert [p["position"] for p in read["predictions"]] == [0, 4]
    assert [len(p["top"]) for p in read["predictions"]] == [3, 3]
    assert document(model, "Hello", "--positions", "last")["loss"] is None


# --- JSON -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "which"), [
    ("-v --lens --generate 3 --time", "model"), ("--values --layer layer0.* --generate 3", "broken"),
    in_sweep(("", "model")), in_sweep(("--positions last", "broken")),
])  # fmt: skip
def test_json_validates(request, form, which):
    folder, code = request.getfixturevalue(which), which == "broken"
    done, lines = (microgpt("trace", folder, "Hello", o, *form.split()) for o in ("--json", "--jsonl"))
    assert (done.code, lines.code) == (code, code)
    read, records = valid(done.out, "trace"), valid_lines(lines.out, "trace")
    assert [r["name"] for r in records if r["record"] == "event"] == [e["name"] for e in read["events"]]


@pytest.mark.parametrize("seed", [0, 7])
def test_the_seed_determines_the_sampled_continuation(model, seed):
    drawn = document(model, "Hello", "--generate", "6", "--temperature", "1.5", "--seed", seed)["generation"]
    expected = trace(load(model), "Hello", generate=6, temperature=1.5, seed=seed).generation
    assert [step["token"]["token"] for step in drawn] == [step.token.token for step in expected]


@pytest.fixture
def written(decoder_folder, tmp_path):
    """The files of models: a folder, a GGUF file and a link to it, one in parts, a microGPT, and a folder
    whose weights stand behind a link, as the cache of huggingface_hub has them."""
    pytest.importorskip("gguf")
    config, weights = CASES["llama_gqa"], random_weights(CASES["llama_gqa"], "llama_gqa")
    write_gguf(tmp_path / "m.bin", config, weights)
    (tmp_path / "link").symlink_to(tmp_path / "m.bin")
    write_gguf(tmp_path / "split.gguf", config, weights, split=8)
    save(init(), tmp_path / "m.safetensors")
    for name in ("folder", "cached"):
        (tmp_path / name).symlink_to(decoder_folder())
    (tmp_path / "cached" / "model.safetensors").rename(tmp_path / "blob")
    (tmp_path / "cached" / "model.safetensors").symlink_to(tmp_path / "blob")
    return tmp_path


@pytest.mark.parametrize(("model", "target"), [
    ("folder", "folder/model.safetensors"), ("folder", "folder/config.json"), ("folder", "folder/new"),
    ("folder/config.json", "folder/tokenizer.json"), ("m.bin", "m.bin"), ("m.bin", "link"),
    ("folder/model.safetensors", "folder/tokenizer.json"), ("link", "m.bin"),
    ("cached", "cached/model.safetensors"), ("split-00001-of-00003.gguf", "split-00002-of-00003.gguf"),
    ("m.safetensors", "m.safetensors"),
])  # fmt: skip
def test_never_writes_over_or_into_a_model(written, model, target):
    path, text = written / target, ["emma"] if model == "m.safetensors" else ["--tokens", "3,5"]
    before = path.read_bytes() if path.exists() else None
    for option in ("--save", "--out"):
        result = microgpt("trace", "--model", model, *text, option, target, "--force", cwd=written)
        inside = model.startswith(("folder", "cached", "split"))
        said = "this would write into a model" if inside else "this command reads the file"
        refused(result, f"{option} {target}: {said}")
        assert (path.read_bytes() if path.exists() else None) == before


# --- Parameters in full ---------------------------------------------------------------------------


def shown(*args):
    """Return the lines that --show prints on a screen that is wide enough."""
    result = microgpt("trace", *args, width=2000)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    return lines[lines.index("") : lines.index("Stage 1: Embedding") - 1]


def test_a_parameter_of_a_gguf_is_shown_in_the_rows_of_hugging_face(tmp_path):
    """In a GGUF file the rows of q and k are permuted."""
    pytest.importorskip("gguf")
    config, weights = CASES["llama_gqa"], random_weights(CASES["llama_gqa"], "llama_gqa")
    gguf = write_gguf(tmp_path / "m.gguf", config, weights)
    folder = write_folder(tmp_path / "hf", config, weights)
    for name in ("layer0.attn_wq", "layer1.attn_wk", "layer0.attn_wv"):
        of_gguf, of_folder = (shown(path, "--tokens", "3,5", "--show", name) for path in (gguf, folder))
        print(*of_gguf[:4], sep="\n")
        assert of_gguf == of_folder
        numbers = [[float(text) for text in line.split()[1:]] for line in of_gguf[3:]]
        stored = weights[f"model.layers.{name[5]}.self_attn.{name[-1]}_proj.weight"]
        np.testing.assert_allclose(numbers, stored, atol=6e-4)
    lines = shown(gguf, "--tokens", "3,5", "--show", "layer0.attn_w*", "--show", "layer1.mlp.*rm")
    titles = [line.split()[0] for line in lines if re.match(r"layer\d", line)]
    assert titles == [f"layer0.attn_w{x}" for x in "qkvo"] + ["layer1.mlp.norm"]
    refused(microgpt("trace", gguf, "--tokens", "3", "--show", "layer0.attn_x*"), "'layer0.attn_x*'")


@pytest.mark.parametrize("name", ["wte", "lm_head"])
def test_show_prints_128_rows_and_counts_the_others(decoder_folder, name):
    lines = shown(decoder_folder(vocab_size=200), "--tokens", "3,5", "--show", name)
    print(lines[1], lines[-1], sep="\n")
    assert lines[1] == f"{name}  200×32 float32"
    assert sum(len(line.split()) == 33 for line in lines) == 128
    assert "72 more rows" in lines[-1]


# --- Exit codes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["", "-v --lens --generate 2 --recheck"])
def test_a_nan_exits_with_1_and_is_named(broken, options):
    result = microgpt("trace", broken, "Hello", *options.split())
    assert result.code == 1
    assert "layer1.mlp.up, position 0, element [0, 5] = NaN" in " ".join(result.out.split())


def test_a_nan_in_a_decode_step_exits_with_1_and_is_named(model, decoder_folder):
    """Only the first decode step reads the NaN, and no earlier pass."""
    first = trace(load(model), "Hello", generate=1).generation[0].token.token
    assert first not in HELLO

    def spoil(weights):
        weights["model.embed_tokens.weight"][first, 4] = np.nan

    spoiled, why = decoder_folder(edit=spoil), "the logits of step 2 are not finite"
    assert microgpt("trace", spoiled, "Hello").code == 0
    shown, done = (microgpt("trace", spoiled, "Hello", "--generate", "3", *o) for o in ([], ["--json"]))
    text = " ".join(shown.out.split())
    assert (shown.code, done.code) == (1, 1)
    assert "Not finite: step 2: embed.tok, position 0, element [0, 4] = NaN" in text
    assert f"ended: {why}" in text
    read = valid(done.out, "trace")
    assert (len(read["generation"]), read["generation_end"]) == (1, why)
    (anomaly,) = (anomaly for anomaly in read["anomalies"] if anomaly["id"] == "nonfinite")
    assert (anomaly["found"], "embed.tok" in anomaly["detail"], anomaly["value"] > 61) == (True, True, True)


def test_fail_on_anomaly_exits_with_1_and_notes_rules_that_were_not_evaluated(decoder_folder, plain):
    def edit(weights):
        weights["model.layers.4.mlp.down_proj.weight"] *= np.float32(1000)

    def gate(folder, text, *options):
        return microgpt("trace", folder, text, "--fail-on", "anomaly", *options)

    odd = decoder_folder(edit=edit, num_hidden_layers=10)
    found = gate(odd, "World")
    assert (found.code, "growth" in found.out, "not evaluated" in found.err) == (1, True, False)
    assert gate(odd, "World", "--layers", "0").code == 1  # which is left out of the picture, and judged
    assert (microgpt("trace", odd, "World").code, gate(plain, "World").code) == (0, 0)
    passed = gate(odd, "aaaaaa")
    reason = "needs 4 different tokens after position 0 without massive activations, found 1"
    assert passed.code == 0
    assert f"growth, attention-write, mlp-write, silence, turn not evaluated, {reason}" in passed.err
    assert reason in " ".join(passed.out.split())


# --- Terminals ------------------------------------------------------------------------------------


LABELS = [
    "[/", "[b]", "[/INST]", "[/bold]", "[red]", "[link=x]", "[@", "[#", "]", "[", "[[b]]", "[dim]x[/dim]",
]  # fmt: skip


def renamed(folder, names):
    """Rename tokens 4, 5, ... in the tokenizer of a folder."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocab = {token: i for token, i in content["model"]["vocab"].items() if not 4 <= i < 4 + len(names)}
    content["model"]["vocab"] = vocab | {name: 4 + i for i, name in enumerate(names)}
    path.write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def bracketed(decoder_folder):
    """A model whose tokens all look like markup."""
    return renamed(
        decoder_folder(), [LABELS[i % len(LABELS)] + f"{i}" * (i >= len(LABELS)) for i in range(57)]
    )


def test_labels_that_look_like_markup_are_text(bracketed):
    traced = trace(load(bracketed), tokens=[4, 5, 7], lens=True, generate=4)
    args = ["trace", bracketed, "--tokens", "4,5,7", "--lens", "--generate", "4", "-v"]
    args += ["--show", "wte", "--show", "layer0.attn.weights"]
    output, coloured = microgpt(*args, width=140).out, microgpt(*args, width=140, FORCE_COLOR="1").out
    assert "\x1b[" in coloured
    stripped = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", coloured).splitlines()]
    lines, (first, second, _, last, *_) = output.splitlines(), LABELS
    assert stripped == lines
    assert lines[0].startswith(f'Input: "{first}{second}{last}" → tokens [4, 5, 7]')
    overview = microgpt(*args[:4], width=140).out.splitlines()
    assert f"{first}=4 {second}=5 {last}=7" in overview[1]
    assert any(line.split()[1:3] == [first, second] for line in overview if line.startswith("  0"))
    assert f"Top 5 after position 2 {last}" in lines
    for each in traced.predictions[-1].top:
        row = rf"{re.escape(each.label)} +{each.token} +{each.p:.4f}"
        assert any(re.match(row, line) for line in lines), row
    for step in traced.generation:
        assert f"\nStep {step.step}: {step.token.label}\n" in output or step.step == 1
        assert f"  {step.runners_up[0].label}={step.runners_up[0].p:.3f}" in output
    for row in traced.lens:
        labels = [c.label if len(c.label) <= 12 else f"{c.label[:11]}…" for c in row.predicted]
        assert any(line.split() == [str(row.layer), *labels] for line in lines)
    for label in LABELS:
        assert re.search(rf"^{re.escape(label[:12])} +-?\d", output, re.MULTILINE), label
    assert re.search(rf"^ +{re.escape(first)} +{re.escape(second)}", output, re.MULTILINE)


@pytest.mark.parametrize("token", ["\\[", "a\\"])
def test_a_backslash_is_text(decoder_folder, token):
    """LaTeX formulas begin like this. A label doubles a backslash."""
    lines = microgpt("trace", renamed(decoder_folder(), [token]), "--tokens", "5,4").out.splitlines()
    print(lines[0], *(line for line in lines if line.startswith("Top")), sep="\n")
    assert lines[0] == f'Input: "b{token}" → tokens [5, 4]'
    assert "Top 5 after position 1 " + token.replace("\\", "\\\\") in lines


def test_the_header_describes_the_model_and_the_input(plain):
    wide, narrow = (microgpt("trace", plain, "Hello", width=w).out for w in (100, 80))
    assert re.search(r"cosine +sink", wide)
    assert not re.search(r"cosine +sink", narrow)
    lines = narrow.splitlines()
    assert lines[0] == f'Input: "Hello" → tokens {HELLO}'
    text = " ".join(" ".join(lines).split())
    for wanted in (
        "llama: 10 layers, width 32, 4 heads of 8 on 2 key-value heads", "FFN 48", "context 64",
        "RoPE base 10,000", "stored F32 100% in 93 tensors", "H=37 e=8 l=15 l=15 o=18", "no BOS added",
        "attn_norm → q_proj → k_proj → v_proj → attn → o_proj → residual → ffn_norm → gate_proj → up_proj → "
        "SiLU → ffn_down → residual (same pattern × 10 layers)",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_verbose_shows_every_stage_of_a_layer(plain):
    output = microgpt("trace", plain, "Hello", "-v", "--layers", "3", width=120).out
    for wanted in (
        "x_n = RMSNorm(x) * g [pre-attn]", "q = x_n @ wq [q_proj]", "q = RoPE(q, position)",
        "scores = q @ k.T / sqrt(8)", "context = weights @ v [attn]", "act = SiLU(gate)", "hidden = act * up",
        "mlp_out = hidden @ wdown [ffn_down]", "wdown = layer3.mlp_wdown.T", "NaN/Inf", "Layer 3",
    ):  # fmt: skip
        assert wanted in output, wanted


def notes(output):
    """Return the notes beside SiLU, one per table."""
    return re.findall(r"^act = SiLU.*← (\d+)% within", output, re.MULTILINE)


def test_selected_layers_keep_their_notes(plain):
    whole, some = (microgpt("trace", plain, "Hello", "-v", *more) for more in ([], ["--layers", "3-5"]))
    assert some.code == 0, some.err
    print(notes(whole.out), notes(some.out))
    assert len(notes(whole.out)) == 10
    assert notes(some.out) == notes(whole.out)[3:6]


def test_notes_of_a_decode_step_describe_that_step(model):
    """The share is of the 48 activations of the step, not of the prompt."""
    found, decoder = [], load(model)
    with decoder.hooks.subscribe(lambda e, v: found.append((np.abs(v) <= 0.01).mean()), "layer*.mlp.act"):
        trace(decoder, "Hello", generate=4)
    shown = notes(microgpt("trace", model, "Hello", "-v", "--generate", "4", width=120).out)
    print(shown, found)
    assert shown[2:] in ([], [f"{100 * share:.0f}" for share in found[2 : len(shown)]])
