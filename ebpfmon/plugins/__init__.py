"""Find, check and load plugins, and what their authors start from."""
