"""Find, validate, load, build and scaffold plugins."""
