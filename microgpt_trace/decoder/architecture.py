"""Architecture: all that the program knows about a kind of model. FileNames: the names of its parameters in
files. Each module in architectures/ describes one kind, and catalogue.py lists the modules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import field, replace
from functools import cached_property
from typing import Any

from ..text.frozen import frozen
from .config import DecoderConfig
from .settings import Options, Settings, Sizes

SIZES = {  # our names -> keys of config.json
    "n_layer": "num_hidden_layers", "n_head": "num_attention_heads", "n_embd": "hidden_size",
    "n_kv_head": "num_key_value_heads", "head_dim": "head_dim", "n_inner": "intermediate_size",
    "vocab_size": "vocab_size", "context_length": "max_position_embeddings", "norm_eps": "rms_norm_eps",
}  # fmt: skip
QKV_BIASES = ("attn_bq", "attn_bk", "attn_bv")
FUSED = {  # fused matrices and biases, and their parts
    "attn_wqkv": ("attn_wq", "attn_wk", "attn_wv"), "attn_bqkv": ("attn_bq", "attn_bk", "attn_bv"),
    "mlp_wgate_up": ("mlp_wgate", "mlp_wup"), "mlp_bgate_up": ("mlp_bgate", "mlp_bup"),
    "mlp_wgate_up_experts": ("mlp_wgate_experts", "mlp_wup_experts"),
    "mlp_bgate_up_experts": ("mlp_bgate_experts", "mlp_bup_experts"),
    "attn_wq_b": ("attn_wq", "attn_wq_pe"), "attn_wkv_a_mqa": ("attn_wkv_a", "attn_wk_pe"),
    "attn_bkv_a_mqa": ("attn_bkv_a", "attn_bk_pe"), "attn_wkv_b": ("attn_wk", "attn_wv"),
    "attn_wq_whole": ("attn_wq", "attn_wq_pe"),
}  # fmt: skip
# In every file, the rows of all parts of a head follow each other in these matrices.
BY_HEAD = ("attn_wq_b", "attn_wq_whole", "attn_wkv_b")
_EXPERT = re.compile(r"\.(0|[1-9][0-9]{0,3})\.")
_IN_TEXT_PART = re.compile(r"(model\.)?language_model\.(model\.)?")
GGUF_QKV = "attn_qkv"  # a GGUF file of any architecture may have q, k and v in one matrix


@frozen(slots=False, eq=False)
class FileNames:
    """The names of an architecture's parameters: our name -> (name in GGUF, name in Hugging Face).

    `model` contains the names outside of layers. `layer` contains the names in a layer, without the layer
    number. No name includes ".weight" or ".bias". In Hugging Face files, `blocks` precedes the layer number,
    and `outer` may precede any name. If `vectors` is true, norms may have biases. Hugging Face stores the
    matrices in `transposed` as [in, out]. If `by_head` is true, the rows of fused matrices in Hugging Face
    files are q, k and v of the first head, then q, k and v of the next head. `aliases` maps other names in
    Hugging Face files to the names of `model`. Names that end with an entry of
    `skipped` are ignored. `more` maps further complete names in a layer, in any file, to our names. In names
    of the tensors of a single expert, # stands for the number of the expert. If `experts_in_out` is true,
    Hugging Face files store the matrices of all experts as [experts, in, out], and if `experts_in_pairs` is
    true, with a row of gate before each row of up. GGUF files store the matrices in `turned_in_gguf` head by
    head, as [heads, in, out]. `widths` maps events in fused products to the keys of config.json that contain
    their widths in a head, if heads differ.
    """

    family: str  # "a Llama or Qwen2-class decoder"
    model: Mapping[str, tuple[str, str]]
    layer: Mapping[str, tuple[str, str]]
    blocks: str = "model.layers"
    outer: str = ""
    vectors: bool = False
    transposed: tuple[str, ...] = ()
    by_head: bool = False
    aliases: Mapping[str, str] = field(default_factory=dict)
    skipped: tuple[str, ...] = ("rotary_emb.inv_freq", "masked_bias")
    more: Mapping[str, str] = field(default_factory=dict)
    experts_in_out: bool = False
    experts_in_pairs: bool = False
    turned_in_gguf: tuple[str, ...] = ()
    widths: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def ours(self) -> Mapping[str, str]:
        """Maps each name in a file to our name. Neither name includes the layer number."""
        named = [(name, own) for own, theirs in self.model.items() for name in theirs]
        for own, (gguf, hf) in self.layer.items():
            named += [(f"blk.{gguf}", own), (f"{self.blocks}.{hf}", own)]
        if "attn_wq" in self.layer:
            named.append((f"blk.{GGUF_QKV}", "attn_wqkv"))
        ours = dict(named)
        named += [(alias, ours[name]) for alias, name in self.aliases.items()]
        result = {f"{name}.weight": own for name, own in named}
        for name, own in named:
            bias = bias_name(own)
            if bias and (self.vectors or ("." in name and "_w" in own)):
                result[f"{name}.bias"] = bias
        more = self.more.items()
        return result | {f"{of}.{name}": own for name, own in more for of in ("blk", self.blocks)}

    def changed(
        self, family: str, without: Collection[str] = (), model: Mapping[str, tuple[str, str]] = {},
        layer: Mapping[str, tuple[str, str]] = {}, more: Mapping[str, str] = {}, **others: Any,
    ) -> FileNames:  # fmt: skip
        """Return the names of another family: other or further names in `model`, `layer` and `more`, and no
        names of the parameters `without`."""
        model, layer = (
            {own: theirs for own, theirs in names.items() if own not in without}
            for names in ({**self.model, **model}, {**self.layer, **layer})
        )
        return replace(self, family=family, model=model, layer=layer, more={**self.more, **more}, **others)

    def our_name(self, name: str) -> str | None:
        """Return our name for a tensor of a file, or None if the architecture lacks such a parameter. The
        name of a tensor of expert 5 ends with #5."""
        name = text_name(name).removeprefix(self.outer)
        layered = re.fullmatch(rf"(blk|{re.escape(self.blocks)})\.(0|[1-9][0-9]{{0,3}})\.(.+)", name)
        if layered is None:
            ours = self.ours.get(name)
            return None if name.startswith(("blk.", f"{self.blocks}.")) else ours
        prefix, index, rest = layered.groups()
        expert = _EXPERT.search(rest)
        ours = self.ours.get(f"{prefix}.{_EXPERT.sub('.#.', rest, 1)}")
        return f"layer{index}.{ours}" + (f"#{expert[1]}" if expert else "") if ours else None

    def gguf_name(self, own: str) -> str:
        """Return the name in GGUF of a matrix or gain, or of the fused matrix that contains the matrix.

        Raises KeyError if `own` is not the name of a matrix or gain.
        """
        layer, _, kind = own.rpartition(".")
        if not layer:
            return f"{self.model[kind][0]}.weight"
        for fused, parts in FUSED.items():
            kind = fused if kind in parts and fused in self.layer else kind
        return f"blk.{layer.removeprefix('layer')}.{self.layer[kind][0]}.weight"

    def like(self, name: str) -> list[str]:
        """Return all known names. Names in layers have the layer number of `name`."""
        number = re.search(r"\.([0-9]{1,4})\.", name)
        index = number[1] if number else "0"
        blocks = rf"^(blk|{re.escape(self.blocks)})\."
        return [re.sub(blocks, rf"\1.{index}.", pattern) for pattern in self.ours]


def text_name(name: str) -> str:
    """Return the name that a tensor has in a file of the text part alone.

    >>> text_name("model.language_model.norm.weight"), text_name("language_model.lm_head.weight")
    ('model.norm.weight', 'lm_head.weight')
    """
    part = _IN_TEXT_PART.match(name)
    rest = name[part.end() :] if part else name
    return rest if part is None or rest.startswith("lm_head.") else f"model.{rest}"


def bias_name(own: str) -> str | None:
    """Return the name of the bias of a matrix or gain: attn_bq for attn_wq, and lm_bhead for lm_head. Return
    None for embeddings."""
    half, _, rest = own.partition("_")
    return f"{half}_b{rest.removeprefix('w')}" if rest.startswith(("w", "norm", "head")) else None


@frozen(slots=False, eq=False)
class Architecture:
    """The rows, the options and the file names of an architecture.

    - `config` is the type of the config, which computes the rows from the dimensions and options.
    - `example` contains the options of a model with every optional row, besides plain RoPE.
    - `sizes` maps our names of dimensions to keys of config.json, and `defaults` to the defaults of
      transformers. The default of `n_inner` is a multiple of the width. `tied` is the default of
      tie_word_embeddings, or None if the tensors decide.
    - `options` reads the other settings of config.json. The second argument contains the dimensions.
    - `from_gguf` translates other GGUF metadata to keys of config.json. `gguf_eps` is the key of eps, without
      the prefix. If `permuted` is true, converters to GGUF put the rows of each RoPE pair side by side.
      `from_gguf` is None if GGUF files use the name of another architecture.
    - If `gains_less_one` is true, Hugging Face files store the gains of norms less 1. GGUF files do not.
    - `modules` maps modules of transformers without own parameters to the events that they return. A path
      starts in the layer, or in the stack of layers if the event is an embedding. `optional_modules` are
      modules with parameters that some models lack. The event of `unclear_modules` depends on the version of
      transformers. The modules in `heads_first` return [1, H, T, D], and no other module does.
    - `engine_names` maps names of tensors in dumps to events, if other architectures use these names for
      other events. `refused_names` maps names to the reason why they cannot be compared. In a name, # stands
      for the layer number.
    - Every file contains the biases in `biases`. If the config sets a flag of `flagged_biases`, the file also
      contains the biases of this flag. `flags` contains flags that are true by default.
    - GGUF metadata may have a value for each layer under the keys in `by_layer`; the value of layer 0 counts
      as the size of the model.
    """

    config: type[DecoderConfig]
    names: FileNames
    options: Callable[[Settings, Sizes], Options]
    modules: Mapping[str, str]
    example: Mapping[str, Any] = field(default_factory=dict)
    from_gguf: Callable[[Settings, Sizes], Options] | None = None
    sizes: Mapping[str, str] = field(default_factory=lambda: SIZES)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    tied: bool | None = None
    biases: tuple[str, ...] = ()
    flagged_biases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    flags: Mapping[str, bool] = field(default_factory=dict)
    optional_modules: tuple[str, ...] = ()
    unclear_modules: tuple[str, ...] = ()
    heads_first: tuple[str, ...] = ()
    refused_names: Mapping[str, str] = field(default_factory=dict)
    engine_names: Mapping[str, str] = field(default_factory=dict)
    gains_less_one: bool = False
    gguf_eps: str = "attention.layer_norm_rms_epsilon"
    permuted: bool = False
    by_layer: tuple[str, ...] = ()
