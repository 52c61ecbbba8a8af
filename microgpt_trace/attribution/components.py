"""The components of a model that write into its residual stream, in order of computation."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .parts import Kind

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel


class Component(NamedTuple):
    """A writer: the name of its event, of a bias that of the parameter."""

    name: str
    kind: Kind
    layer: int | None = None
    head: int | None = None


def components_of(model: LanguageModel) -> list[Component]:
    """All that write: their writes add up to what the unembedding reads."""
    config = model.config
    found = [Component("embed.tok", "embedding")]
    if "embed.pos" in model.hooks.specs:
        found.append(Component("embed.pos", "embedding"))
    biases = config.biases
    for i in range(config.n_layer):
        found += [Component(f"layer{i}.attn.head{h}", "head", i, h) for h in range(config.n_head)]
        found += [Component(f"layer{i}.attn_bo", "bias", i)] * ("attn_bo" in biases)
        found.append(Component(f"layer{i}.mlp.down", "mlp", i))
        found += [Component(f"layer{i}.mlp_bdown", "bias", i)] * ("mlp_bdown" in biases)
    return found
