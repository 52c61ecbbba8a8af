"""Results as JSON: documents, and the schemas that they keep to, both from the same dataclasses."""
