"""What trained networks look like inside, and what the paper proves of them."""
