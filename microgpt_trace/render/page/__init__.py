"""What a command shows as a page: one file, which asks for nothing else and needs no program."""
