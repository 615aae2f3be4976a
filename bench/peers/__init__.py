"""The peers, in the order in which each round takes them: nginx first, since all others are compared with it."""

from bench.peers import envoy, haproxy, litellm, nginx, portkey, relay, routers, tensorzero
from bench.peers.base import Peer

NGINX = nginx.PEER
RELAY = relay.PEER

PEERS: tuple[Peer, ...] = (
    NGINX,
    RELAY,
    haproxy.PEER,
    envoy.PEER,
    *routers.PEERS,
    tensorzero.PEER,
    portkey.PEER,
    litellm.PEER,
)
