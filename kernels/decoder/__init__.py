"""One forward of a Llama-style decoder over a few rows in a single C call, with its own trace."""
