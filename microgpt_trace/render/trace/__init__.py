"""What a trace shows, as sections: its header, its events, attention, predictions and interventions."""
