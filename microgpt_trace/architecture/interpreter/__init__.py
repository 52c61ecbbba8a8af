"""Runs the rows of any plan forward and back: one text, many texts, many edits of one."""
