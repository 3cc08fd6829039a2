"""Wire everything together and run it."""
