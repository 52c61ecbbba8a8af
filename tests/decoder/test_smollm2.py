"""The real SmolLM2-135M-Instruct in Q4_1: its config, predictions, known anomalies, checks and memory."""

import json
import sys

import numpy as np
import pytest
from support.commands import microgpt, process
from support.dump_writing import write_npz
from support.judges_decoder import softmax
from support.real_model import SMOLLM2, needs_smollm2
from support.sweeps import in_sweep, some_of

from microgpt_trace import Intervention, diff, trace
from microgpt_trace.models.packs import Pack

pytest.importorskip("tokenizers", reason="text is encoded by the package tokenizers")
FRANCE = "The capital of France is"
pytestmark = needs_smollm2
FILE = SMOLLM2
RARE = [16644, 29476, 24045, 31455, 40023]


@pytest.fixture(scope="module")
def france(smollm2):
    return trace(smollm2, FRANCE, lens=True, generate=3, recheck=True, top_k=3)


def test_the_config(smollm2):
    config = smollm2.config
    assert (config.architecture, config.n_layer, config.n_embd) == ("llama", 30, 576)
    assert (config.n_head, config.n_kv_head, config.head_dim, config.n_inner) == (9, 3, 64, 1536)
    assert (config.rope.theta, config.tied, config.vocab_size) == (1e5, True, 49152)
    assert config.parameter_count == 134_515_008


PREDICTED = [
    (FRANCE, " Paris", 0.7725),
    ("Once upon a time, in a small village", " nestled", 0.4096),
    ("emma", ".", 0.0905),
]


def test_predictions_of_texts_alone_and_in_one_pass(smollm2):
    texts = sorted(PREDICTED, key=lambda case: len(smollm2.read(case[0]).tokens))
    pack, seen, bus = smollm2.read_many([text for text, _, _ in texts]), [], smollm2.hooks.alone()
    run = bus.begin(before=[bus.subscription(lambda event, value: seen.append(np.array(value)), "logits")])
    smollm2.run_pack(Pack(pack), run.tap("forward"))
    ends = np.cumsum([len(text.tokens) for text in pack])
    for (text, token, p), row in zip(texts, np.concatenate(seen)[ends - 1], strict=True):
        alone = trace(smollm2, text, positions="last").predictions[0].predicted
        print(token, p, alone, softmax(row).max())
        assert alone.label == smollm2.label(int(row.argmax())) == token
        assert [alone.p, softmax(row).max()] == pytest.approx([p, p], abs=5e-4)


def test_it_reads_without_a_bos_and_continues(france):
    assert france.input.tokens == (504, 3575, 282, 4649, 314)
    assert france.input.labels == ("The", " capital", " of", " France", " is")
    assert france.generation[0].token.label == " Paris"
    likely = [prediction.predicted.label for prediction in france.predictions]
    assert [token.label for token in france.lens[-1].predicted] == likely


def test_the_massive_activation(france):
    peaks = [(row.peak_position, row.peak_channel) for row in france.layers]
    largest = max(france.layers, key=lambda row: abs(row.peak))
    print(largest.layer, largest.peak)
    assert abs(largest.peak) == pytest.approx(22552, abs=5)
    assert (largest.peak_position, largest.peak_channel) == (0, 507)
    assert peaks.count((0, 507)) > 20
    insight = next(insight for insight in france.insights if insight.id == "massive")
    assert insight.holds
    assert "position 0 (The), channel 507" in insight.text


TEXTS = [
    FRANCE, "Once upon a time, in a small village", "emma", "a", "def f(x):\n    return x", "Hello " * 60,
    "the the the the the", "0" * 16, "a" * 19, "a" * 100, "ab" * 30, "hahahahahahahahahahaha", "." * 50,
    "\n" * 30, "3.14159265358979323846264338327950288", "?!.,;:'\"()[]{}<>@#$%^&*", "今天天气很好，我们去",
    "😀" * 20, "A" * 50 + " The history of the city begins in the ninth century.",
]  # fmt: skip


@pytest.mark.parametrize("text", some_of(TEXTS, every=4, sweep=2), ids=lambda text: ascii(text[:12]))
def test_no_text_shows_an_anomaly(smollm2, text):
    """Massive activations are normal for this model, also in the only row of a short prompt."""
    assert anomalies_of(trace(smollm2, text, positions="last")) == []


def test_rare_and_special_tokens_show_no_anomaly(smollm2):
    """All rare tokens after position 0 have massive activations. Most special tokens get them in layer 11;
    the others are compared in all layers."""
    assert anomalies_of(trace(smollm2, tokens=RARE, positions="last")) == []
    traced = trace(smollm2, tokens=list(range(17)), positions="last")
    assert anomalies_of(traced) == []
    assert {row.compared.positions for row in traced.layers} == {4}


def anomalies_of(traced):
    print(*(f"{a.id}: {a.found} {a.value} {a.detail} {a.unseen}" for a in traced.anomalies), sep="\n")
    return [a.id for a in traced.anomalies if a.found is True]


FAULTY = [(0, "mlp.down"), (28, "attn.out")]
SWEPT = [(0, "attn.out"), (1, "mlp.down"), (15, "attn.out"), (20, "mlp.down"), (29, "attn.out")]
OTHERS = [(1, "attn.out"), (15, "mlp.down"), (20, "attn.out"), (28, "mlp.down"), (29, "mlp.down")]
FAULTS = [*FAULTY, *map(in_sweep, SWEPT), *(in_sweep(fault, whole=True) for fault in OTHERS)]


@pytest.mark.parametrize(("layer", "name"), FAULTS)
def test_a_fault_in_any_layer_is_an_anomaly(smollm2, layer, name):
    """Except in the attention output of layer 0, which the anomalies do not judge."""
    fault = Intervention("scale", f"layer{layer}.{name}", 50.0)
    traced = trace(smollm2, FRANCE, positions="last", interventions=[fault])
    ids, details = anomalies_of(traced), [a.detail for a in traced.anomalies if a.found]
    assert (layer, name) == (0, "attn.out") or (ids and f"layer {layer}:" in "".join(details))


def test_every_check_holds_and_every_insight_is_evaluated(france):
    print(*france.checks, sep="\n")
    checks = ("finite", "residual", "softmax", "causal", "untraced", "cache")
    insights = ("rmsnorm", "growth", "massive", "sinks", "turn", "pattern")
    assert {check.id: check.holds for check in france.checks} == dict.fromkeys(checks, True) | {"heads": None}
    assert {i.id: i.holds for i in france.insights} == dict.fromkeys(insights, True)


def test_heads_sum_to_the_output(smollm2):
    traced = trace(smollm2, FRANCE, names=["layer17.attn.head*", "layer17.attn.out"], values=True)
    total = sum(traced[f"layer17.attn.head{h}"].astype(np.float64) for h in range(9))
    np.testing.assert_allclose(total, traced["layer17.attn.out"], atol=1e-4)


def test_the_command_line_shows_tokens_types_and_predictions():
    result = microgpt("trace", FILE, FRANCE, width=100)
    assert result.code == 0, result.err
    words = ("→ tokens [504, 3575, 282, 4649, 314]", "no BOS added", "Q4_1", "Q8_0")
    for word in (*words, "␣Paris", "0.7725", "22552", "Anomalies: none"):
        assert word in result.out, word


MEASURE = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(json.dumps([code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="getrusage counts KiB on Linux alone")
@pytest.mark.parametrize(
    ("options", "most"), [("-v --json --generate 4 --memory 0", 200), ("--lens", 235), ("--generate 4", 330)]
)
def test_peak_memory(options, most):
    """Measured by a small process in between, since a child starts with the peak of its parent; in MB."""
    pytest.importorskip("resource")
    command = [sys.executable, "-m", "microgpt_trace", "trace", str(FILE), FRANCE, *options.split()]
    code, peak = json.loads(process(*command, code=MEASURE).out)
    print(f"{peak / 1024:.0f} MiB")
    assert code == 0
    assert peak * 1024 < most * 1e6


STORY, CODE = "Once upon a time, in a small village", "def add(a, b):\n    return a"


@pytest.mark.parametrize(
    ("compute", "text"), [("bf16", STORY), in_sweep(("f16", CODE)), in_sweep(("q8", STORY), whole=True)]
)
def test_diff_rejects_capped_logits_in_any_precision(smollm2, compute, text, tmp_path):
    """They differ by less than such precisions may err, but predict other tokens."""
    cap = np.float32(30)
    with smollm2.hooks.subscribe(lambda event, value: cap * np.tanh(value / cap), "logits"):
        logits = trace(smollm2, text, values=["logits"], positions="all")["logits"]
    result = diff(smollm2, write_npz(tmp_path / "capped.npz", {"logits": logits}), text, compute=compute)
    event = result.event("logits")
    print(event.relative, event.tolerance, event.measured, result.agreement)
    assert not event.holds
    assert "prediction" in event.measured or compute == "f16"
