"""cc-relay: a streaming relay between Anthropic Messages clients and the providers that can answer them."""

__version__ = "0.1.0"
