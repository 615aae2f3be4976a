"""`python -m bench`: run the benchmarks, install the peers, write a report anew."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench import CACHE, ROOT, install, report, run
from bench.figures import Results
from bench.peers import PEERS
from bench.programs import ProgramError


def _run(asked: argparse.Namespace) -> None:
    options = run.Options(
        rounds=asked.rounds,
        pace=asked.pace,
        peers=asked.peers,
        stages=asked.stages,
        streams=asked.streams,
    )
    results = run.run(options)
    print(report.markdown(results))
    if asked.out is not None:
        _write(results, asked.out)


def _write(results: Results, folder: Path) -> None:
    for path in report.write(results, folder):
        print(f"bench: wrote {path.name}: {report.summary(results.samples)}", file=sys.stderr)


def _report(asked: argparse.Namespace) -> None:
    _write(report.read(asked.file), asked.out)


def _install(asked: argparse.Namespace) -> None:
    install.install(asked.peers)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _parser() -> argparse.ArgumentParser:
    known = ", ".join(peer.name for peer in PEERS)
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("run", help="measure, and write docs/benchmarks.*")
    command.add_argument(
        "--rounds", type=int, default=3, help="how often everything is measured (3)"
    )
    command.add_argument(
        "--pace", type=float, default=1.0, help="length of every load; 0.3 for a quick look"
    )
    command.add_argument(
        "--peers", type=_names, default=[], help=f"some of: {known} (all that are installed)"
    )
    command.add_argument(
        "--stages",
        type=_names,
        default=list(run.STAGES),
        help="some of: main (all programs), claims, growth (relay and nginx) (all)",
    )
    command.add_argument(
        "--streams", type=int, default=4000, help="held for the memory of one (4000)"
    )
    command.add_argument(
        "--out", type=Path, default=ROOT / "docs", help="where the report goes (docs)"
    )
    command.add_argument(
        "--no-report", dest="out", action="store_const", const=None, help="only print it"
    )
    command.set_defaults(do=_run)

    command = commands.add_parser("install", help="install the peers that can be had")
    command.add_argument("--peers", type=_names, default=[], help=f"some of: {known} (all)")
    command.set_defaults(do=_install)

    command = commands.add_parser("report", help="write the report of a run anew")
    command.add_argument("file", type=Path, nargs="?", default=CACHE / "last.json")
    command.add_argument("--out", type=Path, default=ROOT / "docs")
    command.set_defaults(do=_report)
    return parser


def main() -> int:
    asked = _parser().parse_args()
    try:
        asked.do(asked)
    except ProgramError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
