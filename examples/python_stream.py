# ruff: noqa: T201  an example speaks to whoever runs it
"""Streams one answer through the relay with the unchanged OpenAI SDK.

pip install openai
OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=sk-... python python_stream.py "Where is my parcel?"
"""

import os
import sys

from openai import APIError, OpenAI

# Nothing here knows of the relay: the SDK reads OPENAI_BASE_URL and OPENAI_API_KEY by itself.
client = OpenAI()

try:
    stream = client.chat.completions.create(
        model=os.environ.get("MODEL", "deepseek-chat"),
        messages=[{"role": "user", "content": " ".join(sys.argv[1:]) or "Hello!"}],
        stream=True,
    )
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            print(chunk.choices[0].delta.content, end="", flush=True)
    print()
except APIError as error:
    # Raised in the middle of a stream too: what was printed so far is then not the whole answer.
    sys.exit(f"\n{type(error).__name__}: {error}")
