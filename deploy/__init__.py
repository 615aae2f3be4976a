"""What stands around a relay: files for other programs, and what makes some of them."""
