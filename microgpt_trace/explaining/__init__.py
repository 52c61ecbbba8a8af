"""explain: the arithmetic of one element of an event, a gradient or a parameter."""
