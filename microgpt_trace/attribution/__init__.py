"""Who wrote a prediction: every part's direct write, what is lost without it, what the heads look at."""
