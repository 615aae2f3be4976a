"""Several processes that serve one port: a parent that starts them, a hub that knows what must hold for all, workers.

`start` decides how many; `parent` forks and restarts; `hub` owns the admin port, the quota authority and the permits;
`worker` is the relay of `app` with a `link` to the hub. The machines without I/O are in `admission` and `upstream`.
"""
