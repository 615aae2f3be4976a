"""What `relay keys` does: makes keys, finds them in their files, changes these, takes over others, lists them.

Nothing here serves a call: a relay learns of a change by reading its files anew.
"""
