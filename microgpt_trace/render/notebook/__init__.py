"""What a notebook shows of a result: markup that one survives which does not trust it."""
