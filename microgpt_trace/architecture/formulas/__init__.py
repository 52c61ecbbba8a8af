"""How each element of an event, of its gradient and of a parameter's gradient is worked out, as data that any
language can evaluate: what such a formula is, all elements at once, and one element in numbers and words.
The formulas themselves are beside the passes of their kinds, in operations/."""
