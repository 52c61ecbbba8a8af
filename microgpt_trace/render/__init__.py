"""Trace -> text: tables for people, JSON for programs."""
