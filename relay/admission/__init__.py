"""Who may call, and how much: principals, the machines that count, and the gate over them.

Nothing in this package does I/O or reads a clock; nothing in it imports `relay.upstream`.
"""
