"""Save the logits of llama.cpp for a GGUF file. This is a script, because some errors end the process.

python llama_cpp_logits.py model.gguf 3,1,4 OUT.npy
"""

import os
import subprocess
import sys

import numpy as np


class RefusedError(Exception):
    """llama.cpp cannot run a file. The text is its first message about an error."""


def logits_of(path, tokens):
    """Return the logits of all positions: [T, V]. Raises RefusedError."""
    out = path.with_suffix(".npy")
    words = [sys.executable, __file__, str(path), ",".join(map(str, tokens)), str(out)]
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "rror" in line or "ASSERT" in line]
        raise RefusedError((said or [done.stderr[-300:]])[0])
    return np.load(out)


def main(path, ids, out):
    """Evaluate all tokens in one batch on the CPU, with keys and values in float32 and without kernels for
    whole blocks of attention."""
    import llama_cpp as llama

    tokens = [int(i) for i in ids.split(",")]
    params = llama.llama_model_default_params()
    params.use_mmap = params.use_extra_bufts = False
    model = llama.llama_model_load_from_file(path.encode(), params)
    if not model:
        sys.exit(1)
    options = llama.llama_context_default_params()
    options.n_ctx, options.n_batch, options.n_ubatch = 32, len(tokens), len(tokens)
    options.n_threads = options.n_threads_batch = 1
    options.type_k = options.type_v = llama.GGML_TYPE_F32
    options.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = llama.llama_init_from_model(model, options)
    batch = llama.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for place, token in enumerate(tokens):
        batch.token[place], batch.pos[place] = token, place
        batch.n_seq_id[place], batch.seq_id[place][0], batch.logits[place] = 1, 0, 1
    if not context or llama.llama_decode(context, batch):
        sys.exit(1)
    size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    np.save(out, np.ctypeslib.as_array(llama.llama_get_logits(context), (len(tokens), size)))


if __name__ == "__main__":
    main(*sys.argv[1:])
