"""The chain of cycles: what to train next, what to choose, what is refused before, what it will cost."""
