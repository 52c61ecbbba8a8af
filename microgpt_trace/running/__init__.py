"""Observe or change a run of a model: streams of events, interventions, tokens by name."""
