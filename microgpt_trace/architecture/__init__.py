"""How models compute: plans as rows, kinds of operation, what runs them forward and back. Knows no file."""
