"""What a terminal shows: sections, which it does not know the meaning of, and how far training has come."""
