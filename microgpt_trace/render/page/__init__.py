"""Write results of commands as pages: HTML files that open in any browser and load no other file."""
