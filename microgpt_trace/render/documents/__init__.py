"""Derive JSON documents of results, and the JSON Schemas of these documents, from dataclasses."""
