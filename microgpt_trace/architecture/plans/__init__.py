"""How a model computes, as rows: kinds, plans, the architectures, and what their events are called."""
