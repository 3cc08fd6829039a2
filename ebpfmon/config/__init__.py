"""Settings: TOML to typed values."""
