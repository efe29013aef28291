"""The client's own copy of the generated messages: `python proto/generate.py` writes it."""
