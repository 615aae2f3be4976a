"""The upstream side: whom a call is sent to, what became of it, and what we remember of that.

- endpoint, address: one base URL with one credential, its account, and our memory of both; it survives reloads.
- breaker: closed, open, half-open: when an endpoint is left alone, and how it comes back.
- pool, balance: the members of one model, and how one of them is picked (a strategy is a row there).
- budget: how many extra attempts recent traffic has paid for.
- failures: every way an attempt can fail: how safe another try is, whom it strikes, what the client gets.
- errorbody, retry_after, scrub: what an upstream says, read strictly, and cleaned of what must not leave the house.
- failover: which member comes next for one call; attempt, wire, dial, headers, encoding: the sockets.

The first five bullets are machines: they are told the time, do no I/O, and neither log nor measure.
"""
