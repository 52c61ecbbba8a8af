"""Write a tokenizer of characters for tests."""

import json

TINY_TOKENS = ("<unk>", "<s>", "</s>", "Ġ", *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,!?'")


def write_tokenizer(folder, template=None, eos="</s>"):
    """Write a tokenizer of 61 tokens, one per character, as transformers saves it. It adds no BOS."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [{"id": i, "content": TINY_TOKENS[i], "special": True, **flags} for i in range(3)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    vocab = {token: i for i, token in enumerate(TINY_TOKENS)}
    parts = {"normalizer": None, "pre_tokenizer": byte_level, "decoder": byte_level, "post_processor": None}
    model = {"type": "BPE", "unk_token": "<unk>", "vocab": vocab, "merges": []}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | parts | {"model": model}))
    config = {"bos_token": "<s>", "eos_token": eos} | ({"chat_template": template} if template else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
