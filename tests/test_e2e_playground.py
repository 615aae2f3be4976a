"""The playground in Debian's Chromium, on a real relay: a key, a stream and its measures, and whom the browser asks."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.page.browser import Browser, Chromium
from tests.page.visits import PRICED, SAID, ready_to_send, tile
from tests.rig import KEY, RelayProcess, Upstream, config, scenario
from tests.rig import scripts as say
from tests.rig.scripts import Gate


@scenario
async def test_the_playground_streams_measures_and_tells_who_served(
    tmp_path: Path, chromium: Chromium
) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"alpha": upstream}, PRICED), tmp_path) as relay,
        Browser(chromium) as browser,
    ):
        await ready_to_send(browser, relay)
        await browser.click("#send")

        await browser.until(f"{SAID} === 'Done.'")
        await browser.until(f"{tile('served_by')} === 'alpha'")
        assert await browser.text("#answer") == say.TEXT
        assert (await browser.run(f"return {tile('first_token')}")).endswith("ms")
        assert await browser.run(f"return {tile('tokens')}") == "9 / 12"
        assert await browser.run(f"return {tile('cost')}") == "$0.033"
        assert await browser.run(f"return {tile('request_id')}") == relay.calls[-1]["request_id"]
        assert await browser.run("return document.querySelectorAll('#gaps rect').length") == 4
        assert relay.calls[-1]["client_request_id"].startswith("playground-")


@scenario
async def test_the_events_are_shown_as_they_came_when_somebody_looks(
    tmp_path: Path, chromium: Chromium
) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"alpha": upstream}), tmp_path) as relay,
        Browser(chromium) as browser,
    ):
        await ready_to_send(browser, relay)
        await browser.click("#send")
        await browser.until(f"{SAID} === 'Done.'")
        folded = await browser.run("return document.getElementById('raw').childElementCount")
        await browser.click("#raw-shown summary")
        await browser.until("document.getElementById('raw').childElementCount > 0")

        lines = (await browser.text("#raw")).splitlines()
        assert folded == 0
        assert lines[-1].endswith("data: [DONE]")
        assert re.match(r"[\d.]+ m?s ?data: \{", lines[0])
        events = [line.partition("data: ")[2] for line in lines if "data: " in line]
        assert (
            "".join(
                json.loads(each)["choices"][0]["delta"].get("content") or ""
                for each in events[:-1]
                if json.loads(each)["choices"]
            )
            == say.TEXT
        )


@scenario
async def test_of_a_long_stream_the_latest_events_are_kept(
    tmp_path: Path, chromium: Chromium
) -> None:
    long = [say.delta({"content": f"{number} " + 1000 * "x"}) for number in range(300)]
    async with (
        Upstream(say.sse([say.ROLE, *long, say.FINISH, say.DONE])) as upstream,
        RelayProcess(config({"alpha": upstream}), tmp_path) as relay,
        Browser(chromium) as browser,
    ):
        await ready_to_send(browser, relay)
        await browser.click("#raw-shown summary")
        await browser.click("#send")
        await browser.until(f"{SAID} === 'Done.'")
        await browser.until(
            "document.getElementById('raw').lastElementChild.textContent.includes('[DONE]')"
        )

        kept = await browser.run("return document.getElementById('raw').textContent.length")
        assert 150_000 < kept < 210_000
        assert "are not kept" in await browser.text("#raw-hint")
        assert '"0 x' not in await browser.text("#raw")


@scenario
async def test_stop_cancels_the_call_upstream(tmp_path: Path, chromium: Chromium) -> None:
    async with (
        Upstream(say.sse(say.EVENTS[:3], Gate("never"))) as upstream,
        RelayProcess(config({"alpha": upstream}), tmp_path) as relay,
        Browser(chromium) as browser,
    ):
        await ready_to_send(browser, relay)
        await browser.click("#send")
        await browser.until(f"{SAID} === 'Streaming…'")

        await browser.click("#stop")

        await browser.until(f"{SAID}.startsWith('Stopped')")
        await (await upstream.exchange()).left()
        line = await relay.call(lambda call: call.get("model") == "m")
        assert line["outcome"] == "client_cancelled"


@scenario
async def test_an_error_is_told_with_the_relays_words(tmp_path: Path, chromium: Chromium) -> None:
    async with (
        Upstream(say.error(400, "too <b>long</b>")) as upstream,
        RelayProcess(config({"alpha": upstream}), tmp_path) as relay,
        Browser(chromium) as browser,
    ):
        await ready_to_send(browser, relay)
        await browser.click("#send")

        await browser.until(f"{SAID}.includes('400: too <b>long</b>')")
        await browser.run("document.getElementById('key').value = ''")
        await browser.type("#key", "sk-wrong")
        await browser.until(f"{SAID}.startsWith('401')")
        assert await browser.run("return document.getElementById('send').disabled")


@scenario
async def test_nothing_leaves_the_two_ports_and_the_key_reaches_one(
    tmp_path: Path, chromium: Chromium
) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"alpha": upstream}), tmp_path) as relay,
        Browser(chromium) as browser,
    ):
        await ready_to_send(browser, relay)
        await browser.click("#send")
        await browser.until(f"{SAID} === 'Done.'")
        await browser.click("#language")
        await browser.click("#theme")
        await browser.click("#with-key")
        await browser.click("[data-program=python]")

        admin, data = (f"http://127.0.0.1:{port}/" for port in (relay.admin[1], relay.address[1]))
        asked = await browser.requests()
        assert all(each.url.startswith((admin, data)) for each in asked), asked
        assert any(KEY in each.sent for each in asked if each.url.startswith(data))
        assert not any(KEY in each.sent for each in asked if each.url.startswith(admin))
        kept = await browser.run(
            "return [document.cookie, JSON.stringify(localStorage), JSON.stringify(sessionStorage),"
            " location.href, JSON.stringify(history.state)].join()"
        )
        assert KEY not in kept
        assert "relay.theme" in kept
        assert browser.console == []


@scenario
async def test_a_program_holds_the_key_only_when_it_is_asked_to(
    tmp_path: Path, chromium: Chromium
) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"alpha": upstream}), tmp_path) as relay,
        Browser(chromium) as browser,
    ):
        await ready_to_send(browser, relay)
        plain = []
        for program in ("curl", "python", "javascript"):
            await browser.click(f"[data-program={program}]")
            plain.append(await browser.text("#program"))
        await browser.click("#with-key")

        assert all("YOUR_RELAY_KEY" in each and KEY not in each for each in plain)
        assert all(f"127.0.0.1:{relay.address[1]}/v1" in each for each in plain)
        assert KEY in await browser.text("#program")


@scenario
async def test_everything_can_be_reached_and_sent_by_keyboard(
    tmp_path: Path, chromium: Chromium
) -> None:
    async with (
        Upstream() as upstream,
        RelayProcess(config({"alpha": upstream}), tmp_path) as relay,
        Browser(chromium) as browser,
    ):
        await ready_to_send(browser, relay)
        nameless = await browser.run(
            "return [...document.querySelectorAll('button, input, select, textarea, [role=img], meter:not([hidden])')]"
            ".filter((each) => !(each.labels?.length || each.getAttribute('aria-label')"
            " || each.textContent.trim())).map((each) => each.outerHTML)"
        )
        await browser.run("document.getElementById('prompt').focus()")
        await browser.press("\ue009", "\ue007")  # Control, Enter
        await browser.until(f"{SAID} === 'Done.'")
        await browser.run("document.activeElement.blur()")
        stops = []
        for _ in range(30):
            await browser.press("\ue004")  # Tab
            stops.append(await browser.run("return document.activeElement.id"))

        assert nameless == []
        assert {"language", "theme", "key", "model", "prompt", "send", "copy"} <= set(stops)
