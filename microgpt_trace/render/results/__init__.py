"""What every other result shows, as sections: a module for each."""
