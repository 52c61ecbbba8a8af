"""attribute: what every component adds to a logit, the loss without the component, and the roles of heads."""
