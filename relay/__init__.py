"""relay: a reverse proxy for OpenAI-compatible chat APIs. The map of the package is in README.md."""

__version__ = "0.1.0"
