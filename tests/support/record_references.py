"""Record the values that transformers computes in float32 for every tiny model.

`PYTHONPATH=tests python tests/support/record_references.py` writes tests/references/CASE.npz, with arrays by
event name: all for the cases of WHOLE, and for the others what their options change. Needs torch and
transformers. The tests that use the references do not.
"""

import math
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from support.faulty_engine import decoder_run
from support.foreign_dumps import HUGGINGFACE
from support.reference_models import REFERENCES
from support.tiny_gpt2 import GPT2S, gpt2_events, tiny_gpt2
from support.tiny_models import CASES, TOKENS, tiny_model, write_folder
from transformers.masking_utils import eager_mask
from transformers.models.gpt2 import modeling_gpt2
from transformers.models.llama import modeling_llama

WHOLE = "llama_gqa", "llama_mha_bias", "qwen3", "gpt2"  # the references with every event
OF_OTHERS = re.compile(r"logits|layer1\.(attn\.(q_rope|k_rope|scores|weights)|mlp\.act)")

# Events by the module whose output or input they are, in a layer or in the whole model
PLACES = {module: event for event, module in HUGGINGFACE.items()} | {
    "ln_1": "attn.norm", "attn.c_attn": ("attn.q", "attn.k", "attn.v"), "attn.c_proj": "attn.out",
    "attn.c_proj.input": "attn.context", "ln_2": "mlp.norm", "ln_2.input": "attn.residual",
    "mlp.c_fc": "mlp.up", "mlp.act": "mlp.act", "mlp.c_proj": "mlp.down",
    "transformer.wte": "embed.tok", "transformer.wpe": "embed.pos", "transformer.drop": "embed.sum",
    "transformer.ln_f": "final.norm",
}  # fmt: skip


def rows(tensor):
    """Flatten the features of a tensor: [1, T, ...] -> [T, N]"""
    return tensor.detach().reshape(tensor.shape[1], -1).numpy().copy()


def hook_modules(model, keep):
    """Hook every module whose output or input is an event. `keep(names, tensor)` receives the tensors."""
    for name, module in model.named_modules():
        layer = re.fullmatch(r"(?:model\.layers|transformer\.h)\.(\d+)\.?(.*)", name)
        place, prefix = (layer[2], f"layer{layer[1]}.") if layer else (name or None, "")
        if events := PLACES.get(place):
            names = [prefix + event for event in ((events,) if isinstance(events, str) else events)]
            module.register_forward_hook(
                lambda _m, _x, y, names=names: keep(names, y[0] if isinstance(y, tuple) else y)
            )
        if event := PLACES.get(f"{place}.input"):
            module.register_forward_pre_hook(lambda _m, x, event=prefix + event: keep([event], x[0]))


def record_attention(events):
    """Register the eager attention of transformers under the name "recorded", which keeps its events."""

    def attention(module, query, key, value, attention_mask, scaling, **kwargs):
        at = f"layer{module.layer_idx}.attn."
        if module.config.model_type == "gpt2":
            eager = modeling_gpt2.eager_attention_forward
        else:
            eager = modeling_llama.eager_attention_forward
            turned = (rows(a.transpose(1, 2)) for a in (query, key))
            events[at + "q_rope"], events[at + "k_rope"] = turned
            assert math.isclose(scaling, query.shape[-1] ** -0.5)
        keys = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
        events[at + "scores"] = (query @ keys.mT * scaling)[0].numpy()
        out, weights = eager(module, query, key, value, attention_mask, scaling, **kwargs)
        events[at + "weights"] = weights[0].numpy()
        return out, weights

    transformers.AttentionInterface.register("recorded", attention)
    transformers.AttentionMaskInterface.register("recorded", eager_mask)


def split_rows(tensor, names):
    """Split a tensor with the channels of several events, side by side, into the rows of each."""
    return dict(zip(names, np.split(rows(tensor), len(names), -1), strict=True))


def recorded(config, weights, tokens):
    """Return every event of a run in float32. The model is loaded from a folder."""
    events = {}
    record_attention(events)
    with tempfile.TemporaryDirectory() as folder:
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            write_folder(Path(folder), config, weights),
            attn_implementation="recorded",
            dtype=torch.float32,
            output_loading_info=True,
        )
    assert not any(report.values()), report
    hook_modules(model.eval(), lambda names, tensor: events.update(split_rows(tensor, names)))
    with torch.no_grad():
        logits = model(torch.tensor([tokens]), use_cache=False).logits
    events["probs"] = rows(logits.softmax(-1))
    return events


def main():
    REFERENCES.mkdir(exist_ok=True)
    for case in sys.argv[1:] or [*CASES, *GPT2S]:
        config, weights = tiny_gpt2(case) if case in GPT2S else tiny_model(case)
        events = recorded(config, weights, TOKENS)
        if case in GPT2S:
            judged = gpt2_events(config, weights, TOKENS)
            judged = {n: a for n, a in judged.items() if n != "loss" and ".head" not in n}
        else:
            judged = decoder_run(config, weights, TOKENS)
        assert events.keys() == judged.keys(), events.keys() ^ judged.keys()
        off = max(np.linalg.norm(events[n] - judged[n]) / np.linalg.norm(judged[n]) for n in judged)
        path = REFERENCES / f"{case}.npz"
        kept = [name for name in judged if case in WHOLE or OF_OTHERS.fullmatch(name)]
        np.savez_compressed(path, ids=np.array(TOKENS), **{name: events[name] for name in kept})
        print(f"{case:28} {path.stat().st_size / 1024:5.1f} KB, from the formulas in float64: {off:.1e}")


if __name__ == "__main__":
    main()
