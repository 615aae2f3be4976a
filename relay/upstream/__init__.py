"""The upstream side: whom a call is sent to, what became of it, and what we remember of that.

- endpoint, account, address: one base URL with one credential, who pays for it, and our memory of both over reloads.
- breaker: closed, open, half-open: when an endpoint is left alone, and how it comes back.
- pool, balance: the members of one model, and how one of them is picked (a strategy is a row there).
- budget: how many extra attempts recent traffic has paid for.
- failures, answers, verdicts: every way an attempt can fail: how safe another try is, whom it strikes, what the
  client gets.
- errorbody, retry_after, scrub: what an upstream says, read strictly, and cleaned of what must not leave the house.
- probes: asks ejected endpoints on their own, so that no call has to.
- failover: which member comes next for one call; attempt, wire, dial, headers, encoding: the sockets.

All but the last two are machines: they are told the time, do no I/O, and neither log nor measure.
"""
