"""Compares remote-vae with other engines on this machine: `python3 bench/peers`, see bench/README.md."""

import argparse
import sys
from pathlib import Path

import environment

ENGINES = ["remote-vae", "mnn", "ncnn", "onnxruntime", "openvino", "pytorch-channels-last", "pytorch"]
MORE_ENGINES = ["remote-vae-1-thread", "remote-vae-f16"]


def listed(choices: list[str] | None = None):
    """Reads `a,b,c`."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if choices is not None and name not in choices:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(choices)}")
        return names

    return read


def sizes(text: str) -> list[int]:
    """Reads `512,1024`."""
    numbers = [int(number) if number.isdecimal() else 0 for number in text.split(",")]
    if not all(8 <= number <= 4096 and number % 8 == 0 for number in numbers):
        raise argparse.ArgumentTypeError("expected multiples of 8 from 8 to 4096, such as 512,1024")
    return numbers


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 bench/peers",
        description="Decodes the same latents with remote-vae and with other engines in turn, checks that the "
        "pictures are the same, prints times, memory and ratios, and keeps a record of it.",
    )
    parser.add_argument(
        "--engines", type=listed(ENGINES + MORE_ENGINES), default=ENGINES, metavar="A,B",
        help=f"default: {','.join(ENGINES)}; there are also {', '.join(MORE_ENGINES)}",
    )
    parser.add_argument("--sizes", type=sizes, default=[512], metavar="N,N", help="sides of the pictures (512)")
    parser.add_argument("--rounds", type=int, default=5, help="decodes of each engine after its first one (5)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each engine (2)")
    parser.add_argument("--binary", type=Path, help="this remote-vae instead of a release build of the checkout")
    parser.add_argument(
        "--record", type=Path, metavar="FILE",
        help="default: bench/records/PROCESSOR-DATE.json. Rounds of the same build of remote-vae are added to those "
        "that are there; another build begins anew",
    )
    parser.add_argument("--chart", type=Path, metavar="SVG", help="also draw the record's times and memory")
    parser.add_argument("--no-run", action="store_true", help="only print (and draw) an existing --record")
    parser.add_argument(
        "--step", action="store_true",
        help="wait for a line on stdin before each round: to let the machine come to rest first",
    )
    args = parser.parse_args()
    if args.rounds < 1 or args.threads < 1:
        parser.error("--rounds and --threads count from 1")
    if args.no_run and args.record is None:
        parser.error("--no-run needs a --record")
    return args


def main() -> None:
    args = arguments()
    if not args.no_run:
        environment.enter()
    # From here on the packages of requirements.txt are there.
    import chart
    import record

    if args.no_run:
        kept = record.Record.read(args.record)
    else:
        import rounds

        kept = rounds.run(args)
    print(kept.table())
    if args.chart is not None:
        args.chart.write_text(chart.svg(kept))
        print(f"drawn: {args.chart}")


if __name__ == "__main__":
    try:
        main()
    except environment.Failure as failure:
        sys.exit(f"error: {failure}")
