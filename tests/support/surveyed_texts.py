"""Texts for a survey that takes a moment, and what is measured of them."""

from microgpt_trace.surveying.survey import survey

WORDS = ("The quick brown fox", "jumps", "over", "the lazy dog.", "It's", "a fine day,", "isn't it?")
MEASURED = {"events": ["*.mlp.*", "*.residual"], "histograms": ["*.mlp.hidden"], "top": 2}


def lines(count):
    """So many texts, some of which do not fit a context of 64 tokens."""
    return [" ".join(WORDS[(i * k) % 7] for k in range(1, 2 + i % 5)) + "!" * (i % 3) for i in range(count)]


def written(path, texts):
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return str(path)


def measured(model, corpus, **how):
    return survey(model, corpus, **{**MEASURED, **how})
