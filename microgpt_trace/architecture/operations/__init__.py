"""The arithmetic of each kind of operation, one module a kind: all that is known of it stands side by side.

The float64 reference of a kind never calls the kernel that it judges. What only a fault has (another base of
a softmax, eps outside the root) is a kind of its own that the reference alone knows.
"""
