"""The commands of the command line, a file for each family of them; `relay.cli` has the table.

A command imports what it needs when it runs, so that `relay --help` and `relay check` start at once.
"""
