"""The quota authority of several relays: a store that all of them reach, so far Redis."""
