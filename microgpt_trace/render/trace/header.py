"""What a trace read and of which model it is: the head of what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...text.printable import on_one_line, shown_token, with_ids
from ...text.wording import counted
from ...tracing.result import Trace
from ..sections import Labelled, Section, words

MAX_LABELS = 40  # tokens whose text the header spells out
MAX_TEXT = 200  # characters of a text


def header_sections(trace: Trace, whole: bool = True) -> list[Section]:
    """What was read; if `whole` also the model, and of a production model the chain of its layers. What was
    changed or taken for granted is told in any case."""
    inputs, model = trace.input, trace.model
    of_names = model["family"] == "microgpt"
    most = len(inputs.tokens) if of_names else MAX_LABELS
    tokens = ", ".join(map(str, inputs.tokens[:most]))
    more = len(inputs.tokens) - most
    tokens += f", … {more:,} more" if more > 0 else ""
    said = f"{_quoted(inputs.text)} → " if inputs.text or of_names else ""
    notes = [("note", text) for text in inputs.notes]
    title = words(f"Input: {said}tokens [{tokens}]", "bold")
    if not whole:
        told = [*(("assumed", text) for text in model["assumed"]), *notes]
        return [Section([title, Labelled(told)] if told else [title])]
    read = with_ids(inputs.labels[:most], inputs.tokens[:most])
    if of_names:
        follows = " ".join(shown_token(target.label) for target in trace.targets)
        pairs = [("reads", f"{read}, to predict {follows}"), *_microgpt_facts(model)]
    else:
        reads = f"{counted(len(inputs.tokens), 'token')}: {read}{' …' * (more > 0)}"
        pairs = [("reads", reads), *model_facts(model)]
    head = Section([title, Labelled([*pairs, *notes])])
    if of_names:
        return [head]
    count, chain = model["config"]["n_layer"], " → ".join(model["layer"])
    same = f" (same pattern × {count} layers)" if count > 1 else ""
    return [head, Section([words(f"Layer 0: {chain}{same}")])]


def _microgpt_facts(model: dict[str, Any]) -> list[tuple[str, str]]:
    config = model["config"]
    layers = counted(config["n_layer"], "layer")
    dimensions = (
        f"{layers}, {config['n_head']} heads, width {config['n_embd']}, MLP {config['n_inner']}, "
        f"block {config['block_size']}"
    )
    return [
        ("vocabulary", model["vocabulary"]["convention"]),
        ("model", f"{model['origin']}, {model['parameters']:,} parameters ({model['dtype']})"),
        *(("", text) for text in trained(model)),
        ("", dimensions),
        *(("assumed", text) for text in model["assumed"]),
    ]


def trained(model: dict[str, Any]) -> list[str]:
    """For how many steps, where that is known and the model, which has no file, is not called so."""
    steps = model.get("trained_steps")
    said = f"trained for {counted(steps, 'step')}" if steps else model["origin"]
    return [said] if said != model["origin"] else []


def model_facts(model: dict[str, Any]) -> list[tuple[str, str]]:
    """What a model's description says, as labelled lines."""
    config = model["config"]
    heads = f"{config['n_head']} heads of {config['head_dim']}"
    if config["n_kv_head"] != config["n_head"]:
        heads += f" on {config['n_kv_head']} key-value heads"
    layers = counted(config["n_layer"], "layer")
    tied = "head tied to the embedding" if config["tied"] else "head of its own"
    return [
        ("vocabulary", model["vocabulary"] or "none in the file: tokens are shown as numbers"),
        ("model", f"{model['origin']} ({model['format']}), {model['parameters']:,} parameters"),
        ("", f"{config['architecture']}: {layers}, width {config['n_embd']}, {heads},"),
        ("", f"FFN {config['n_inner']:,}, {tied}, context {config['context_length']:,}"),
        *([("RoPE", describe_rope(config))] if config["rope"] else [("positions", "learned")]),
        ("stored", describe_encodings(model["encodings"])),
        *(("taken", text) for text in model["assumed"]),
    ]


def _quoted(text: str) -> str:
    shown = text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"
    return f'"{on_one_line(shown)}"'


def describe_rope(config: dict[str, Any]) -> str:
    rope = config["rope"]
    text = f"base {rope['theta']:,.10g}"
    if rope["kind"] != "default":
        text += f", {rope['kind']} × {rope['factor']:g}"
    text += ", with frequency factors of the file" * bool(rope["factors"])
    if config["adjacent_pairs"]:
        text += ", adjacent pairs in the file (shown in Hugging Face order)"
    return text


def describe_encodings(encodings: Sequence[dict[str, Any]]) -> str:
    total = sum(e["bytes"] for e in encodings)
    return ", ".join(
        f"{e['type']} {_share(e['bytes'] / total)} in {e['tensors']} tensor{'s' * (e['tensors'] != 1)}"
        for e in encodings
    )


def _share(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 else f"{share:.2g}" if share < 0.0005 else f"{share:.1%}"
