"""Results of commands as pages: HTML files that load nothing else and open in any browser."""
