"""Runs of a model as others look on or take part: streams of events, interventions, tokens by name."""
