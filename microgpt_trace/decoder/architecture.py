"""Architecture: all that the program knows about a kind of model. Each module in architectures/ describes one
kind, and catalogue.py lists the modules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .config import DecoderConfig
from .file_names import FileNames
from .settings import Options, Settings, Sizes

SIZES = {  # our names -> keys of config.json
    "n_layer": "num_hidden_layers", "n_head": "num_attention_heads", "n_embd": "hidden_size",
    "n_kv_head": "num_key_value_heads", "head_dim": "head_dim", "n_inner": "intermediate_size",
    "vocab_size": "vocab_size", "context_length": "max_position_embeddings", "norm_eps": "rms_norm_eps",
}  # fmt: skip
QKV_BIASES = ("attn_bq", "attn_bk", "attn_bv")


@dataclass(frozen=True, eq=False)
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
      transformers.
    - `engine_names` maps names of tensors in dumps to events, if other architectures use these names for
      other events. `refused_names` maps names to the reason why they cannot be compared. In a name, # stands
      for the layer number.
    - Every file contains the biases in `biases`. If the config sets a flag of `flagged_biases`, the file also
      contains the biases of this flag. `flags` contains flags that are true by default.
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
    refused_names: Mapping[str, str] = field(default_factory=dict)
    engine_names: Mapping[str, str] = field(default_factory=dict)
    gains_less_one: bool = False
    gguf_eps: str = "attention.layer_norm_rms_epsilon"
    permuted: bool = False
