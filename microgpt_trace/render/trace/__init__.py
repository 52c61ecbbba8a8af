"""A trace as sections: its header, events, attention weights, predictions and interventions."""
