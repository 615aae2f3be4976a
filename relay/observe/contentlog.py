"""Writes what was asked and answered, of the keys that `observability.log_content` names: one line on stderr per call.

Credentials that stand in such a text are taken out as everywhere in this log; the rest is as it was said.
"""

from __future__ import annotations

from relay.observe import logs
from relay.records import CallRecord

log = logs.get("content")


def observe(records: list[CallRecord]) -> None:
    """An Observer of records. Costs milliseconds for a long text, and nothing for a call without."""
    for record in records:
        content = record.content
        if content is None:
            continue
        fields: dict[str, logs.Field] = {"request_id": record.request_id, "key": record.key}
        fields["model"], fields["outcome"] = record.model, record.outcome
        fields["prompt"] = logs.without_credentials(content.prompt)
        if content.thoughts:
            fields["reasoning"] = logs.without_credentials("".join(content.thoughts))
        fields["answer"] = logs.without_credentials(content.answer)
        fields["cut"] = content.cut
        log.info("content", **fields)
