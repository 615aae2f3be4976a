"""What outlives the process: a SQLite file in the folder `state.path`, with what was used of budgets and the calls.

`database` opens the file and writes to it from a thread; `lock` keeps a second relay off the folder.
"""
