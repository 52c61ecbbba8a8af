"""Two runs, or two models, side by side: how far apart they are, and where they part."""
