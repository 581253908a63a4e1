"""The command line: `tortie`."""
