"""Texts and options of a survey that takes a moment."""

from microgpt_trace.surveying.survey import survey

WORDS = ("The quick brown fox", "jumps", "over", "the lazy dog.", "It's", "a fine day,", "isn't it?")
SMALL = {"events": ["*.mlp.*", "*.residual"], "histograms": ["*.mlp.hidden"], "top": 2}


def make_texts(count):
    """Return `count` texts. Some do not fit a context of 64 tokens."""
    return [" ".join(WORDS[(i * k) % 7] for k in range(1, 2 + i % 5)) + "!" * (i % 3) for i in range(count)]


def write_texts(path, texts):
    """Write one text per line and return the path."""
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return str(path)


def small_survey(model, corpus, **options):
    return survey(model, corpus, **{**SMALL, **options})
