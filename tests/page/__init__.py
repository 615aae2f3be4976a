"""The page in a real browser: a driver for Debian's Chromium, a relay with something to show, and pictures of it."""
