"""Every format that the tool reads: a good file in parts, and what is wrong with damaged ones."""
