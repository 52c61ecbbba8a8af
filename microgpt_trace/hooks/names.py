"""Select events by name: exact names, globs, and the stage names of apr trace."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import translate

from ..errors import InputError

# The stages of apr trace, and the events that each stage means. A stage without events has an empty tuple.
ALIASES: dict[str, tuple[str, ...]] = {
    "embedding": ("embed.tok", "embed.sum"),
    "attn_norm": ("layer*.attn.norm",),
    "qkv_matmul": ("layer*.attn.q", "layer*.attn.k", "layer*.attn.v"),
    "qkv_bias": (),
    "q_post_rope": ("layer*.attn.q_rope",),
    "k_post_rope": ("layer*.attn.k_rope",),
    "attn_scores": ("layer*.attn.scores",),
    "attn_softmax": ("layer*.attn.weights",),
    "attention": ("layer*.attn.context",),
    "attn_out": ("layer*.attn.out",),
    "post_attn_residual": ("layer*.attn.residual",),
    "ffn_norm": ("layer*.mlp.norm",),
    "ffn_gate": ("layer*.mlp.gate",),
    "ffn_up": ("layer*.mlp.up",),
    "ffn_silu": ("layer*.mlp.act",),
    "ffn_swigl": ("layer*.mlp.hidden",),
    "ffn_out": ("layer*.mlp.down",),
    "post_ffn_residual": ("layer*.mlp.residual",),
    "layer_output": ("layer*.mlp.residual",),
    "moe_router": (),
    "moe_ffn_out": (),
    "final_norm": ("final.norm",),
    "lm_head": ("logits",),
}

# A layer: a number, with or without a prefix that files use.
_LAYER = r"(?:layer|blk\.|(?:model\.)?layers\.|(?:transformer\.)?h\.)?([0-9]{1,9})"


def glob_pattern(glob: str) -> re.Pattern[str]:
    """Compile a glob: `*` matches any characters, `?` one character, and any other character itself."""
    return re.compile(translate(glob.replace("[", "[[]")))


def select_names(selectors: Iterable[str], names: Sequence[str], what: str = "event") -> list[str]:
    """Return the names that match any selector, in the order of `names`. A selector is a name, a stage name
    of apr, a glob, or a layer in a file's notation (3, blk.3 and model.layers.3 mean layer3.*). An exact name
    precedes an alias. Raises InputError if a selector matches nothing. The error calls the names `what`."""
    exact, chosen = set(names), set[str]()
    for selector in selectors:
        if selector in exact:
            chosen.add(selector)
            continue
        layer = re.fullmatch(_LAYER, selector)
        globs = (f"layer{int(layer[1])}.*",) if layer else ALIASES.get(selector, (selector,))
        patterns = [glob_pattern(glob) for glob in globs]
        matched = {name for name in names if any(p.fullmatch(name) for p in patterns)}
        if not matched:
            raise InputError(_nothing_matches(selector, names, what))
        chosen |= matched
    return [name for name in names if name in chosen]


def select_spelled(
    globs: Iterable[str], spellings: Mapping[str, Iterable[str]], what: str, option: str = ""
) -> list[str]:
    """Return the names with a spelling that matches one of the globs, in the order of `spellings`. Raises
    InputError if a glob matches no name. The message begins with `option`, and `what` says what the glob
    should match."""
    chosen = set[str]()
    for glob in globs:
        pattern = glob_pattern(glob)
        matched = {name for name, own in spellings.items() if any(map(pattern.fullmatch, own))}
        if not matched:
            raise InputError(f"{option}{glob!r} matches no {what}")
        chosen |= matched
    return [name for name in spellings if name in chosen]


def _nothing_matches(selector: str, names: Sequence[str], what: str) -> str:
    if selector in ALIASES:
        return f"apr's stage {selector!r} has no counterpart in this model"
    layers = [int(match[1]) for name in names if (match := re.match(r"layer([0-9]+)\.", name))]
    if layers and re.fullmatch(_LAYER, selector):
        return f"{selector!r}: the last layer of this model is {max(layers)}"
    from difflib import get_close_matches

    plain = selector.replace("*", "").strip(".")
    close = get_close_matches(selector, names, 4, 0.5) or [n for n in names if plain and plain in n][:4]
    hint = f"close: {', '.join(close)}" if close else f"the names run from {names[0]} to {names[-1]}"
    return f"{selector!r} matches no {what} of this model ({hint})"
