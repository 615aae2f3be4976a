"""Measures upstreams by calls of its own, directly: who is fast, steady and cheap from where this machine stands."""
