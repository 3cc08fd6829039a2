"""Build the daemon from the settings, run it and reload it."""
