"""What an attempt sends, but for what belongs to the member it sends it to."""

from __future__ import annotations


class Request:
    """What is sent to one member: the same for every attempt but for the parts that belong to the member."""

    __slots__ = ("asked", "body", "forward", "head", "hurried", "span", "stream")

    def __init__(
        self, forward: bytes, body: bytes, stream: bool, head: bytes | None = None
    ) -> None:
        """`head` replaces the member's own prepared one."""
        self.forward = forward
        self.body = body
        self.stream = stream
        self.head = head
        self.span = 0
        """The attempt's id in the trace that `forward` tells of; 0 without one."""
        self.asked = 0
        """The token counts that it asks for on our account (see `reporting`)."""
        self.hurried = False
        """The client allows less silence than the configuration: its end says nothing of the member."""
