"""`microgpt attribute` from the shell: its output, its document, exit codes and refusals."""

import re
from importlib import import_module

import numpy as np
import pytest
from support.commands import microgpt, refused
from support.documents import valid

from microgpt_trace.render.characters import signed_bar
from microgpt_trace.render.numbers import signed

attributing = import_module("microgpt_trace.attribution.attribute")


@pytest.fixture(scope="module")
def decoder(decoder_folder):
    return decoder_folder("llama_mha_bias")


def attribute(*args, **options):
    return microgpt("attribute", *args, **options)


def validated(*args, code=0, **options):
    """Return the document, after checking it against the schema that the program prints."""
    done = attribute(*args, "--json", **options)
    assert done.code == code, done.err
    return valid(done.out, "attribute")


def test_shows_every_position_of_a_microgpt(checkpoints):
    done = attribute("emma", "--model", checkpoints["trained"], width=80)
    print(done.out)
    assert done.code == 0
    assert done.err == ""
    for title in ("Position 0 after BOS: e against", 'Position 2 after "em": m against', "EOS against"):
        assert title in done.out
    assert done.out.count("✓ the parts sum to the logits") == 5
    assert "Over the 5 positions" in done.out
    assert re.search(r"^layer0\.attn\.head3( +\d\.\d\d){4} ", done.out, re.MULTILINE)
    assert re.search(r"^uniform attention +0\.32 +0\.32 +0\.32 +0\.25", done.out, re.MULTILINE)
    caption = " ".join(done.out.split())  # only the second m of 4 queries occurred before
    assert "repeat: over the queries whose token occurred before; the shares overlap" in caption


def test_rows_are_sorted_and_smaller_ones_are_summed(decoder):
    done = attribute(decoder, "abca", "--target", "q", "--top", 3)
    print(done.out)
    rows = re.findall(r"^(?:embed|layer)\S+ +[+-]\S+ +[+-]\S+ +([+-]\S+)", done.out, re.MULTILINE)
    sizes = [abs(float(row)) for row in rows]
    assert len(sizes) == 3
    assert sizes == sorted(sizes, reverse=True)
    assert re.search(r"^12 more parts ", done.out, re.MULTILINE)  # 1 + 2 * (4 + 1 + 2) in all
    numbers = re.search(r"^sum of all +(\S+) +(\S+)", done.out, re.MULTILINE)
    logits = re.search(r"sum to the logits (\S+) and (\S+):", done.out)
    assert [float(x) for x in numbers.groups()] == [float(x) for x in logits.groups()]


def test_document_of_a_microgpt(checkpoints):
    document = validated("Emma", "--model", checkpoints["trained"])
    assert document["schema"] == "microgpt.attribution/1"
    assert document["ok"] is True
    assert document["notes"] == ["'Emma' was lowercased to 'emma'"]
    assert [p["contrast"]["target_label"] for p in document["positions"]] == ["e", "m", "m", "a", "EOS"]
    for position in document["positions"]:
        total = sum(part["difference"] for part in position["parts"])
        assert total == pytest.approx(position["target"]["logit"] - position["against"]["logit"], abs=1e-5)


def test_document_of_a_decoder(decoder):
    options = "--tokens 5,6,5,7 --target c --against #9 --position 1,-1"
    document = validated(decoder, *options.split())
    assert [p["contrast"]["position"] for p in document["positions"]] == [1, 3]
    kinds = {part["kind"] for part in document["positions"][0]["parts"]}
    assert kinds == {"embedding", "head", "mlp", "bias"}
    assert len(document["roles"]) == 8
    assert len(document["removals"]) == 15


def test_without_ablation_only_direct_contributions_are_measured():
    document = validated("emma", "--position", -1, "--no-ablation")
    assert document["removals"] == []
    assert all(part["loss_change"] is None for part in document["positions"][0]["parts"])
    assert "without it" not in attribute("emma", "--no-ablation").out


def test_a_single_token_has_nothing_to_attend_to(decoder):
    assert "A single token has nothing to look back at" in attribute(decoder, "a", "--target", "b").out


def test_exits_with_1_if_contributions_do_not_sum_to_the_logits(monkeypatch):
    whole = attributing.direct_writes

    def without_a_head(*args):
        components, writes = whole(*args)
        return components, writes | {"layer0.attn.head1": writes["layer0.attn.head1"] * 0}

    monkeypatch.setattr(attributing, "direct_writes", without_a_head)
    assert validated("emma", code=1)["ok"] is False
    done = attribute("emma", FORCE_COLOR="1", TERM="xterm-256color")
    assert done.code == 1
    assert re.search("\x1b\\[1;31m✗ the parts do not sum to the logits", done.out)


def test_non_finite_values_are_shown_and_not_checked(decoder_folder):
    def spoil(weights):
        weights["model.layers.1.self_attn.o_proj.weight"][3, 4] = np.inf

    folder = decoder_folder("llama_gqa", spoil)
    refused(attribute(folder, "abca"), "not finite", "--target")
    refused(attribute(folder, "abca", "--target", "c"), "not finite", "--against")
    done = attribute(folder, "abca", "--target", "c", "--against", "d", width=80)
    print(done.out)
    assert done.code == 1
    assert "not checked" in done.out
    assert re.search(r"^\S+ +NaN", done.out, re.MULTILINE)
    document = validated(folder, "abca", "--target", "c", "--against", "d", code=1)
    assert document["positions"][0]["target"]["holds"] is None


def test_without_a_next_token_the_prediction_is_attributed(decoder):
    done = attribute(decoder, "abca")
    title = re.search(r"Position 3 after a: (\S+) against (\S+)", done.out)
    note = "no token follows position 3, so the prediction {} is compared with the runner-up {}"
    assert note.format(*title.groups()) in " ".join(done.out.split())
    assert validated(decoder, "abca")["notes"] == [note.format(*title.groups())]
    refused(attribute(decoder, "abca", "--target", "abc"), "no such token")
    refused(attribute(decoder, "abca", "--tokens", "4,5", "--target", "b"), "found both")


def test_signed_bars():
    bars = [signed_bar(value, 2.0, 10) for value in (2.0, 0.75, 0.0, -0.75, -2.0, -9.0, None)]
    assert bars == ["    │████", "    │█▌", "    │", "  ▐█│", "████│", "████│", ""]
    assert signed_bar(float("nan"), 2.0, 10) == "    ?"
    assert [signed_bar(value, 2.0, 9, ascii_only=True) for value in (1.0, -1.0)] == ["    |##", "  ##|"]


def test_signed_figures():
    found = [signed(value, 2) for value in (1.5, -1.5, 0.0, -0.0, 1e-5, -1e-5, float("nan"), float("inf"))]
    assert found == ["+1.50", "-1.50", "0.00", "0.00", "+1.0e-05", "-1.0e-05", "NaN", "+inf"]
