"""How each element of an event, of its gradient and of a parameter's gradient is worked out, as data that any
language can evaluate. A module for each family of kinds."""
