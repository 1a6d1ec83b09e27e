"""Where upstream credentials come from."""
