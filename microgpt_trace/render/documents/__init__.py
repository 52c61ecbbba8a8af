"""Results as JSON documents, and the JSON Schemas of these documents, both from the same dataclasses."""
