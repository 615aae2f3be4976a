"""The rig: a whole relay between a scripted upstream and a raw client, all over real sockets.

- `Upstream` plays a script of steps to each request and remembers what it was sent and when it
  was left.
- `RelayProcess` starts `relay serve` from a config literal on port 0 and reads its log lines.
- `RawClient` speaks HTTP/1.1 by hand and tells a clean end from a broken one.

Nothing in here sleeps: a test waits for a line, a byte, a gate or a closed socket, and every wait
has a hard deadline (`deadlines.py`), so that a hang is a failure with a name.
"""

from tests.rig.deadlines import SCALE, output, scenario, within
from tests.rig.raw_client import KEY, Answer, End, RawClient, chat, get
from tests.rig.relay_process import Models, RelayProcess, Upstreams, config
from tests.rig.scripts import (
    Close,
    Flood,
    Gate,
    Pause,
    Reset,
    Send,
    Stall,
)
from tests.rig.upstream import Exchange, Request, Upstream

__all__ = [
    "KEY",
    "SCALE",
    "Answer",
    "Close",
    "End",
    "Exchange",
    "Flood",
    "Gate",
    "Models",
    "Pause",
    "RawClient",
    "RelayProcess",
    "Request",
    "Reset",
    "Send",
    "Stall",
    "Upstream",
    "Upstreams",
    "chat",
    "config",
    "get",
    "output",
    "scenario",
    "within",
]
