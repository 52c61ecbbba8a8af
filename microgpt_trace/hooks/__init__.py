"""What a model emits while it runs: events, the bus that delivers them, what may replace them."""
