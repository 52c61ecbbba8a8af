"""Read the documents of files, one after another, in any supported format."""
