"""How much two correct engines may differ: rounding of precisions, bands of events, judged operations."""
