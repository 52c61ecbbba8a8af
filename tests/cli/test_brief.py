"""Requested arrays come first, without prose. --brief leaves prose out. Failures are always shown."""

import pytest
from support.commands import microgpt, refusal

REVEALS = "What the trace reveals"
PROSE = (REVEALS, "RMSNorm normalization", "every event is finite", "over the rows", "not checked:")
ATTENTION = "Attention weights in percent, row = query, column = key"


def titles(text):
    return [block.splitlines()[0].partition("  ")[0] for block in text.split("\n\n")]


def test_brief_leaves_out_prose_and_nothing_else(compared_folders):
    decoder = f"{compared_folders['qwen3']} 'Ann ran'"
    for line in ("emma", "emma -v --backward --step --top-k 3", "emma --ablate layer0.attn.head2", decoder,
                 f"{decoder} -v --lens --generate 2"):  # fmt: skip
        whole, brief = (microgpt(f"trace {line} {option}", width=500).out for option in ("", "--brief"))
        assert any(text in whole for text in PROSE)
        assert not any(text in brief for text in PROSE), line
        left_out = [each for each in whole.splitlines() if each not in brief.splitlines()]
        assert [each for each in brief.splitlines() if each not in whole.splitlines()] == []
        assert set(titles(whole)) - set(titles(brief)) == {REVEALS}
        assert not any(each.strip().startswith(("pos ", "layer0", "mean loss")) for each in left_out)
        last = brief.splitlines()[-1]
        assert last.startswith("Self-check: ")
        assert last in whole.splitlines()


@pytest.mark.parametrize(("options", "first"), [
    ("--layer layer0.attn.weights", ["Stage 2: Multi-Head Self-Attention", ATTENTION]),
    ("--show layer0.attn.q --show wte[2]", ["layer0.attn.q", "wte[2]", "Stage 1: Embedding"]),
    ("--show wte[2] --layer logits", ["wte[2]", "Stage 4: Language Model Head"]),
    ("--show logits -v", ["logits", "Stage 1: Embedding"]),
])  # fmt: skip
def test_requested_arrays_and_events_come_first_without_prose(options, first):
    out = microgpt(f"trace emma {options}").out
    assert titles(out)[: len(first) + 1] == ['Input: "emma" → tokens [0, 5, 13, 13, 1]', *first]
    assert not any(text in out for text in PROSE)
    assert out.splitlines()[-1] == "Self-check: 6 of 6 hold"
    assert "Predictions" in titles(out)


@pytest.mark.parametrize("options", ["--brief", "--layer logits", "--show layer0.attn.q", "--brief -v"])
def test_failed_checks_are_shown_in_full(checkpoints, options):
    done = microgpt(f"trace emma --model {checkpoints['broken']} {options}")
    assert done.code == 1
    assert done.out.count("Not finite: embed.pos, position 2, element [2, 5] = NaN") == 1
    assert "violated: every event is finite: embed.pos, position 2, element [2, 5] = NaN" in done.out
    if options.startswith("--show"):
        assert done.out.index("Not finite") < done.out.index("layer0.attn.q  5×16")


def test_anomalies_are_shown_in_full(decoder_folder):
    def scale(weights):
        weights["model.layers.1.mlp.down_proj.weight"] *= 0

    line = f"trace {decoder_folder('qwen3', edit=scale)} 'Ann ran'"
    whole, brief = (microgpt(f"{line} {option}").out for option in ("", "--brief"))
    found = whole[whole.index("Anomalies: 1\n") :].splitlines()[1]
    assert "constant" in found
    assert found in brief
    assert "not evaluated" in whole
    assert "not evaluated" not in brief


def test_notes_are_shown_and_brief_excludes_json():
    out = microgpt("trace Emma --layer logits").out
    assert out.splitlines()[1] == "note  'Emma' was lowercased to 'emma'"
    for other in ("--json", "--jsonl"):
        assert "--brief" in refusal(f"trace emma --brief {other}")
    assert "--brief cannot be combined with --validate" in refusal("trace emma --brief --validate")
