"""Prints what an OpenAI SDK streams from a foreign server, directly and through the relay, side by side.

Run `make sdks` once, then `python -m tests.transcript`. The exit code is 1 when anything differs.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path

from tests.rig import RelayProcess, config
from tests.rig.foreign import ForeignServer, alike
from tests.rig.sdks import SDKS, drive

PROMPTS = ("Say hello.", "What is the weather?", "Think.")


async def compare(directory: Path) -> bool:
    """True when every SDK saw the same events both ways."""
    same = True
    async with ForeignServer() as server:
        fields = config({"foreign": {"base_url": server.base_url}})
        async with RelayProcess(fields, directory) as relay:
            through = "http://{}:{}/v1".format(*relay.address)
            env = {"PROMPTS": json.dumps(PROMPTS)}
            for sdk in SDKS:
                directly = await drive(sdk, "streams", server.base_url, env=env)
                by_relay = await drive(sdk, "streams", through, env=env)
                for prompt in PROMPTS:
                    direct, relayed = directly[prompt]["async"], by_relay[prompt]["async"]
                    equal = alike(direct) == alike(relayed)
                    same &= equal
                    say(f"{sdk.name}, {prompt!r}: {len(direct)} events directly,")
                    say(f"  {len(relayed)} through the relay, {'equal' if equal else 'DIFFERENT'}")
                    for event in relayed:
                        say(f"    {json.dumps(event['choices'], ensure_ascii=False)[:100]}")
    return same


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        sys.exit(0 if asyncio.run(compare(Path(name))) else 1)
