"""What outlives the process: a SQLite file in the folder `state.path`, with what was used of budgets and the calls.

`database` makes and opens the file, `writer` writes to it from a thread, `lock` keeps a second relay off the folder.
`keeper` keeps the budgets (`budgets` has their table, `salvage` what is done with a damaged file); `ledger` records the
calls (`calls` has their tables, `report` reads them).
"""
