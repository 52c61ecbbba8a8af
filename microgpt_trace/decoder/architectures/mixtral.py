"""Mixtral: a Llama whose MLPs are mixtures of experts."""

from __future__ import annotations

from typing import ClassVar

from ...plans.blocks import Blocks
from ...plans.rope import Rope
from ...text.frozen import frozen
from ..architecture import Architecture
from ..layered_plan import LayeredConfig, Layout
from ..settings import WHOLE, Options, Settings, Sizes
from ..shared_options import read_experts, read_window, usual_options
from . import llama
from .llama import NAMES as LLAMA


@frozen(slots=False)
class MixtralConfig(LayeredConfig):
    """The config of a Mixtral."""

    experts: int = 1
    experts_used: int = 1  # for each position
    sinks: ClassVar[bool] = False  # True if attention has sinks

    @property
    def layout(self) -> Layout:
        return Layout(mlp=self.mlp, sinks=self.sinks)

    def mlp(self, rows: Blocks, source: str) -> str:
        """Add the rows of a mixture of experts that reads a row."""
        return rows.mixture(source, self.n_inner, normalised=True)


def options(settings: Settings, sizes: Sizes) -> Options:
    """Read RoPE, the function of the MLPs, the numbers of experts, and the window of all layers."""
    windows = read_window(settings, range(sizes["n_layer"]), None)
    return {**usual_options(settings, sizes, 1e6), **read_experts(settings, 8, 2), **windows}


def from_gguf(keys: Settings, sizes: Sizes) -> Options:
    """Translate as for a Llama, and the numbers of experts."""
    return llama.from_gguf(keys, sizes) | gguf_experts(keys)


def gguf_experts(keys: Settings) -> Options:
    """Translate the numbers of experts of any architecture."""
    used = keys.require("expert_used_count", WHOLE)
    return {"num_local_experts": keys.require("expert_count", WHOLE), "num_experts_per_tok": used}


EXPERTS = {  # the names of experts in GGUF and Hugging Face files
    "mlp_wrouter": ("ffn_gate_inp", "mlp.gate"),
    "mlp_wgate_experts": ("ffn_gate_exps", "mlp.experts.#.gate_proj"),
    "mlp_wup_experts": ("ffn_up_exps", "mlp.experts.#.up_proj"),
    "mlp_wdown_experts": ("ffn_down_exps", "mlp.experts.#.down_proj"),
}
MORE_EXPERTS = {
    "mlp.experts.gate_up_proj": "mlp_wgate_up_experts",
    "mlp.experts.down_proj": "mlp_wdown_experts",
    "ffn_gate_up_exps.weight": "mlp_wgate_up_experts",
    "ffn_gate.#.weight": "mlp_wgate_experts",
    "ffn_up.#.weight": "mlp_wup_experts",
    "ffn_down.#.weight": "mlp_wdown_experts",
}
OLD = "block_sparse_moe"
NAMES = LLAMA.changed(
    "a Mixtral",
    ("mlp_wgate", "mlp_wup", "mlp_wdown"),
    layer=EXPERTS,
    more={
        **MORE_EXPERTS,
        f"{OLD}.gate.weight": "mlp_wrouter",
        f"{OLD}.experts.#.w1.weight": "mlp_wgate_experts",
        f"{OLD}.experts.#.w3.weight": "mlp_wup_experts",
        f"{OLD}.experts.#.w2.weight": "mlp_wdown_experts",
    },
)
MODULES = {"self_attn": "attn.out", "mlp.experts": "mlp.mixture", "mlp": "mlp.mixture"}
ARCHITECTURES = {
    "mixtral": Architecture(
        MixtralConfig, NAMES, options, MODULES, from_gguf=from_gguf, permuted=True, tied=False,
        example={"rope": Rope(1e4), "experts": 2}, defaults={"norm_eps": 1e-5, "n_kv_head": 8},
    ),
}  # fmt: skip
