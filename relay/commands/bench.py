"""`relay bench`: the upstreams side by side, measured by calls of its own."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import closing
from time import time
from typing import TYPE_CHECKING, Final

from relay.commands import drawing
from relay.commands.progress import Progress
from relay.commands.terms import FAILED, OK, Command, Failure, config_path, failure, note, say
from relay.commands.times import seconds

if TYPE_CHECKING:
    from relay.config.model import Config
    from relay.measure.call import Sample
    from relay.measure.run import Run
    from relay.measure.targets import Target
    from relay.pricing import Price

INTERRUPTED: Final = 130
"""What shells report for a program ended by Ctrl-C."""
CALLS: Final = 20
"""To each upstream: the fewest of which a 95th percentile is not just the slowest."""
TOKENS: Final = 256
MOST: Final = 1000
"""Calls altogether that need no `--yes`."""
SEEDS: Final = 1_000_000

Left = list[tuple[str, str]]


def bench(arguments: argparse.Namespace) -> int:
    targets, left_out = _targets(arguments)
    for name, reason in left_out:
        note(f"{name} is left out: {reason}")
    if not targets:
        raise Failure("there is no upstream to measure")
    plan = _plan(arguments, targets)
    _ask(plan, arguments.yes)
    began = time()
    samples, interrupted = _run(plan)
    return _tell(arguments, plan, samples, left_out, (began, time()), interrupted)


def _targets(arguments: argparse.Namespace) -> tuple[list[Target], Left]:
    from relay.measure.targets import Choice, NotMeasurable, targets_of

    found: list[Target] = []
    left_out: Left = []
    choice = Choice(
        arguments.model, tuple(arguments.upstream), None if arguments.base_url else arguments.asked
    )
    try:
        if arguments.base_url is None or choice.model or choice.upstreams:
            found, left_out = targets_of(_config(arguments), choice)
        if arguments.base_url is not None:
            found.append(_foreign(arguments))
    except NotMeasurable as error:
        raise Failure(str(error)) from None
    return found, left_out


def _config(arguments: argparse.Namespace) -> Config:
    from relay.config.file import ConfigErrors, load

    path = config_path(arguments)
    try:
        return load(path, os.environ)
    except ConfigErrors as errors:
        raise failure(errors, path, note) from None


def _foreign(arguments: argparse.Namespace) -> Target:
    from relay.measure.targets import foreign

    asked = arguments.asked or arguments.model
    if asked is None:
        raise Failure("say which model --base-url is asked for, by --upstream-model")
    key = None
    if arguments.api_key_env is not None:
        key = os.environ.get(arguments.api_key_env)
        if not key:
            raise Failure(f"the variable {arguments.api_key_env} of --api-key-env is empty")
        if not key.isascii() or not key.isprintable() or " " in key:
            raise Failure(f"{arguments.api_key_env} holds no key: it could not be sent")
    return foreign(arguments.base_url, key, asked, arguments.price)


def _plan(arguments: argparse.Namespace, targets: list[Target]) -> Run:
    from secrets import randbelow

    from relay.measure.run import PROMPT, Run

    together = arguments.concurrency
    for target in targets:
        if target.most is not None and target.most < together:
            together = target.most
            note(f"{together} at a time: {target.name} takes no more (max_concurrent)")
    return Run(
        targets=targets,
        calls=arguments.calls,
        concurrency=together,
        most_tokens=arguments.max_tokens,
        prompt=arguments.prompt or PROMPT,
        seed=1 + randbelow(SEEDS) if arguments.seed is None else arguments.seed,
        timeout=arguments.timeout,
    )


def _ask(plan: Run, yes: bool) -> None:
    """Says what it will come to, and waits for a yes where somebody can give it."""
    count = plan.calls * len(plan.targets)
    each = f" ({plan.calls} to each of {len(plan.targets)})" if len(plan.targets) > 1 else ""
    note(
        f"{count} call{'s' if count > 1 else ''}{each}, {plan.concurrency} at a time, of at most"
        f" {plan.most_tokens:,} tokens each: {_bill(plan)}"
    )
    if yes:
        return
    if count > MOST:
        raise Failure(f"more than {MOST:,} calls need --yes")
    free = all(target.demo for target in plan.targets)
    if not free and sys.stdin.isatty() and sys.stderr.isatty():
        sys.stderr.write("Go ahead? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise Failure("nothing was called")


def _bill(plan: Run) -> str:
    from relay.commands.money import NANO

    cost, unknown = plan.worst()
    # Rounded up: it is a promise.
    if not cost and not unknown:
        return "it costs nothing"
    known = f"at most US$ {-(-cost * 10_000 // NANO) / 10_000:,.4f}"
    if not unknown:
        return known
    names = ", ".join(unknown)
    if not cost:
        return f"what that costs is not known, for there is no price of {names}"
    return f"{known}, and what {names} take{'s' if len(unknown) == 1 else ''}, without a price here"


def _run(plan: Run) -> tuple[list[list[Sample]], bool]:
    """The samples of each target, and whether it was interrupted."""
    import asyncio

    from relay.measure.run import run

    samples: list[list[Sample]] = [[] for _ in plan.targets]
    progress = Progress(plan.calls * len(plan.targets))

    def told(place: int, sample: Sample) -> None:
        samples[place].append(sample)
        failed = sum(not one.whole for row in samples for one in row)
        state = f"{failed} failed" if failed else plan.targets[place].name
        progress.show(sum(map(len, samples)), state)

    progress.show(0, "")
    interrupted = False
    with closing(progress):
        try:
            asyncio.run(run(plan, told))
        except KeyboardInterrupt:
            interrupted = True
    return samples, interrupted


def _tell(
    arguments: argparse.Namespace,
    plan: Run,
    samples: list[list[Sample]],
    left_out: Left,
    when: tuple[float, float],
    interrupted: bool,
) -> int:
    from relay.commands import benchchart, benchview
    from relay.measure.figures import figures_of

    figures = [figures_of(*pair) for pair in zip(plan.targets, samples, strict=True)]
    view = benchview.View(plan, figures, left_out, *when, interrupted)
    say(benchview.as_json_text(view) if arguments.json else benchview.as_table(view))
    sys.stdout.flush()
    for line in benchview.remarks(view):
        note(line)
    if arguments.chart is not None:
        drawing.save(benchchart.draw(figures, benchview.day(view.began)), arguments.chart)
    if interrupted:
        return INTERRUPTED
    return OK if any(one.whole for one in figures) else FAILED


# --- options --------------------------------------------------------------------------------------


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 1 to 1,000,000")
    return int(text)


def _price(text: str) -> Price:
    from relay.config.model import PriceConfig
    from relay.pricing import Price

    try:
        taken, given = (float(part) for part in text.split(","))
        return Price.of(PriceConfig(input=taken, output=given))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no price: say US$ per million tokens of prompt and answer, as 0.27,0.42"
        ) from None


def _options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-n", dest="calls", type=_count, default=CALLS, metavar="CALLS", help="to each (20)")
    add("--concurrency", type=_count, default=1, metavar="C", help="calls at a time, of all (1)")
    add("--model", metavar="M", help="the pool of this model (default: every upstream)")
    add("--upstream", nargs="+", action="extend", default=[], metavar="NAME", help="only these")
    add("--upstream-model", dest="asked", metavar="NAME", help="the model they are asked for")
    add("--base-url", metavar="URL", help="an upstream that is in no configuration, up to /v1")
    add("--api-key-env", metavar="VAR", help="the variable that holds the key for it")
    add("--price", type=_price, metavar="IN,OUT", help="what it takes, US$ per million tokens")
    add("--max-tokens", type=_count, default=TOKENS, metavar="N", help="of each answer (256)")
    add("--prompt", metavar="TEXT", help="what is asked (default: 200 words about tides)")
    add("--timeout", type=seconds, metavar="S", help="for one call (default: as configured)")
    add("--seed", type=_count, metavar="N", help="draws the order (default: another each time)")
    add("--yes", action="store_true", help="ask nothing, and allow more than 1,000 calls")
    add("--json", action="store_true", help="every figure and every call, as JSON")
    add("--chart", type=drawing.chart_path, metavar="FILE", help="draw first tokens: .svg or .png")


COMMANDS: Final = (Command(("bench",), "measure the upstreams, side by side", bench, _options),)
