"""Examples and exit codes that `--help` shows under the options."""

from __future__ import annotations

EXIT_CODES = (
    "0 fine",
    "1 ran, but found a problem: every trial failed, no trial keeps --where, doctor names what keeps a search away",
    "2 wrong use or input: standard error says what, and where",
    "130 stopped by Ctrl-C; what has finished is kept",
)

COMMANDS: dict[str, tuple[str, ...]] = {
    "search": (
        "shoebox search quickstart",
        "shoebox search sst2 --data DIR --trials 30 --workers 2",
        "shoebox search my-study.yaml --resume",
        "shoebox search sst2 --name sst2-a76 --device cortex-a76 --sampler known-cost",
        "shoebox search mrpc --data DIR --warm-start stsb",
    ),
    "submit": (
        "shoebox submit sst2 --address http://head:8265",
        "shoebox submit amazon --address http://head:8265 --data /shoebox/amazon",
    ),
    "pareto": (
        "shoebox pareto sst2",
        'shoebox pareto sst2 --where "latency_ms < 5 and deployed_bytes < 1.5e6 and quality > 0.85"',
        "shoebox pareto sst2 --where \"depth <= 2 and not activation in ('relu', 'gelu')\"",
        "shoebox pareto sst2 --objectives quality,latency_ms,deployed_bytes",
        "shoebox pareto sst2 --knee",
        "shoebox pareto sst2 --within 1%",
        "shoebox pareto sst2 sst2-imdb --each --scatter",
        "shoebox pareto sst2 --device cortex-a76",
        "shoebox pareto sst2 --all --output trials.parquet",
    ),
    "export": ("shoebox export sst2 --best -o sst2-2mb/", "shoebox export sst2 --trial 7 -o seven/"),
    "predict": (
        'shoebox predict sst2-2mb/ "a gripping, funny film"',
        'shoebox predict mrpc-2mb/ "He left." --pair "He went away."',
        "shoebox predict sst2-2mb/ < lines.txt",
        "shoebox predict sst2-2mb/ --input reviews.csv --text review --output answers.jsonl",
    ),
    "studies": ("shoebox studies", "shoebox studies --json"),
    "doctor": ("shoebox doctor", "shoebox doctor sst2", "shoebox doctor my-study.yaml --json"),
    "ablate": ("shoebox ablate sst2", "shoebox ablate sst2 --trial 7 --seeds 5 --output ablation.md"),
    "bench-samplers": ("shoebox bench-samplers --seeds 3 --trials 50",),
    "baseline": ("shoebox baseline list", "shoebox baseline tinybert sst2 --seeds 3"),
    "emulator install": ("shoebox emulator install",),
    "emulator check": ("shoebox emulator check", "shoebox emulator check --json"),
    "emulator calibrate": ("shoebox emulator calibrate measured.csv --device cortex-a55 -o my-board.yaml",),
    "cluster manifest": (
        "shoebox cluster manifest sst2 --image registry/shoebox:1 -o study.yaml",
        "shoebox cluster manifest sst2 --kind ray-start -o start.sh",
        "shoebox cluster manifest amazon --image registry/shoebox:1 --data /shoebox/amazon -o study.yaml",
    ),
    "report": ("shoebox report sst2 -o sst2.html", "shoebox report sst2 --format md -o sst2.md"),
    "dashboard": ("shoebox dashboard", "shoebox dashboard --port 8081"),
    "quantize": ("shoebox quantize sst2-2mb/ --bits 4 -o sst2-4bit/",),
}


def epilog(command: str) -> str:
    """The examples of a command, a line each."""
    return _lines("Examples:", COMMANDS[command])


def exit_codes() -> str:
    """What the exit codes say, a line each."""
    return _lines("Exit codes:", EXIT_CODES)


def _lines(title: str, lines: tuple[str, ...]) -> str:
    # An empty line between them, or typer makes one paragraph of all.
    return "\n\n".join((title, *lines))
