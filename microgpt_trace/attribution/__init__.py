"""attribute: the direct write of every component, the loss without it, and the roles of heads."""
