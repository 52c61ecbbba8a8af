"""How events are chosen by name: exact names, globs, and the stage names of apr trace."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import translate

from ..errors import InputError

# The stages of apr trace and the events that mean the same. An empty tuple: no counterpart here.
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

# How files name a layer, and we where it is a number alone.
_LAYER = r"(?:layer|blk\.|(?:model\.)?layers\.|(?:transformer\.)?h\.)?([0-9]{1,9})"


def glob_pattern(glob: str) -> re.Pattern[str]:
    """`*` stands for any characters and `?` for one; everything else for itself."""
    return re.compile(translate(glob.replace("[", "[[]")))


def select_names(selectors: Iterable[str], names: Sequence[str]) -> list[str]:
    """The names that the selectors stand for, in their order: names, apr's stage names, globs, and layers as
    files name them (3, blk.3, model.layers.3 are layer3.*).

    An exact name beats an alias. Raises InputError where a selector matches nothing.
    """
    known, chosen = set(names), set[str]()
    for selector in selectors:
        if selector in known:
            chosen.add(selector)
            continue
        layer = re.fullmatch(_LAYER, selector)
        globs = (f"layer{int(layer[1])}.*",) if layer else ALIASES.get(selector, (selector,))
        patterns = [glob_pattern(glob) for glob in globs]
        matched = {name for name in names if any(p.fullmatch(name) for p in patterns)}
        if not matched:
            raise InputError(_nothing_matches(selector, names))
        chosen |= matched
    return [name for name in names if name in chosen]


def select_spelled(
    globs: Iterable[str], spellings: Mapping[str, Iterable[str]], what: str, asked: str = ""
) -> list[str]:
    """The names of which a spelling matches one of the globs, in their order.

    Raises InputError where a glob matches none: of `what` it is none, and by which option it was `asked` for.
    """
    chosen = set[str]()
    for glob in globs:
        pattern = glob_pattern(glob)
        matched = {name for name, known in spellings.items() if any(map(pattern.fullmatch, known))}
        if not matched:
            raise InputError(f"{asked}{glob!r} matches no {what}")
        chosen |= matched
    return [name for name in spellings if name in chosen]


def _nothing_matches(selector: str, names: Sequence[str]) -> str:
    if selector in ALIASES:
        return f"apr's stage {selector!r} has no counterpart in this model"
    layers = [int(found[1]) for name in names if (found := re.match(r"layer([0-9]+)\.", name))]
    if layers and re.fullmatch(_LAYER, selector):
        return f"{selector!r}: the last layer of this model is {max(layers)}"
    from difflib import get_close_matches

    plain = selector.replace("*", "").strip(".")
    close = get_close_matches(selector, names, 4, 0.5) or [n for n in names if plain and plain in n][:4]
    hint = f"close: {', '.join(close)}" if close else f"the names run from {names[0]} to {names[-1]}"
    return f"{selector!r} matches no event of this model ({hint})"
