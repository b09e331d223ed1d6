"""`shoebox emulator calibrate`: a device profile fitted to times that were measured on the device."""

from __future__ import annotations

import contextlib
import csv
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import yaml

from objectives.latency import DeviceProfile, ExecutionCounts, known_profiles, load_profile
from objectives.latency.calibration import FEWEST_RUNS, FITTED, Calibration, MeasuredRun, calibrate
from objectives.latency.profile import Figure, parse_profile, read_profile
from runners.bundle import MODEL
from runners.emulator.execution import run_models
from runners.emulator.install import install
from space.errors import InputError, OutputError
from space.paths import expanded

_COLUMNS = "Give the columns model, tokens and milliseconds, and repeats if you like."

_SHORTEST, _LONGEST = 1e-3, 1e6  # milliseconds that one inference may take: beyond is another unit


@dataclass(frozen=True)
class Measurement:
    """One line of a file of measurements; ``name`` is the model as the file has it."""

    name: str
    model: Path
    tokens: int
    milliseconds: float
    repeats: float


def calibrate_device(measured: Path, device: str, output: Path, report: Callable[[str], None]) -> Calibration:
    """Emulate the measured models, fit the guesses of a device's profile to them, and write the fitted profile.

    Args:
        measured: CSV file, see `read_measurements`.
        device: profile to start from, by name or path.
        output: YAML file to make; the profile is named after it.
        report: gets lines of text: what is done, then the fit.

    Raises:
        InputError: the measurements, the profile or the output cannot be used, or the emulator fails.
        OutputError: the profile cannot be written.
    """
    profile, text = load_profile(device), read_profile(device)
    output = expanded(output)
    name = _name_of(output)
    measurements = read_measurements(measured)
    installation = install(report)
    counts: dict[tuple[Path, int], ExecutionCounts] = {}
    for tokens in sorted({measurement.tokens for measurement in measurements}):
        models = sorted({measurement.model for measurement in measurements if measurement.tokens == tokens})
        report(f"Emulating {len(models)} models at {tokens} tokens.")
        for model, run in zip(models, run_models(models, tokens, profile, installation), strict=True):
            counts[model, tokens] = run.counts
    runs = [
        MeasuredRun(
            f"{measurement.name}, {measurement.tokens} tokens",
            counts[measurement.model, measurement.tokens],
            measurement.milliseconds,
            measurement.repeats,
        )
        for measurement in measurements
    ]
    source = f"calibrated on {len(runs)} measurements of {measured.name}, {date.today().isoformat()}"
    found = calibrate(runs, profile, name=name, source=source)
    _write(output, profile_text(text, found.profile))
    for line in describe(found):
        report(line)
    report(f"Written to {output}. Use it with: --device {output}")
    return found


# ---- measurements


def read_measurements(path: Path) -> list[Measurement]:
    """The lines of a CSV file with a header.

    Columns: ``model``, an ONNX file or the folder of a bundle, relative to the file; ``tokens``; ``milliseconds`` of
    one inference; and if wanted ``repeats``, how many the time is the median of. Other columns are ignored.

    Raises:
        InputError: names the file, the line and the column that is wrong.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in ("model", "tokens", "milliseconds") if name not in (reader.fieldnames or [])]
            if missing:
                raise InputError(f"{path} has no column {missing[0]!r} in its first line.", _COLUMNS)
            rows = [_Row(path, reader.line_num, row) for row in reader]
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text.", _COLUMNS) from None
    except csv.Error as error:
        raise InputError(f"{path} is not CSV: {error}.", _COLUMNS) from None
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}.") from None
    measurements = [row.measurement() for row in rows]
    distinct = len({(measurement.model, measurement.tokens) for measurement in measurements})
    if distinct < FEWEST_RUNS:  # said before minutes are spent on emulation
        raise InputError(
            f"{path} holds {distinct} different measurements; a calibration needs at least {FEWEST_RUNS}.",
            "Measure models of different widths, depths and bits, at several numbers of tokens.",
        )
    return measurements


@dataclass(frozen=True)
class _Row:
    path: Path
    line: int
    cells: dict[str | None, str | list[str] | None]

    def measurement(self) -> Measurement:
        if None in self.cells:
            raise InputError(f"{self.path}, line {self.line}: there are more cells than columns.")
        name = self._text("model")
        try:
            model = self.path.parent / expanded(name)
        except InputError as error:
            raise self._error("model", error.message.rstrip("."), _COLUMNS) from None
        if model.is_dir():
            model /= MODEL
        if not model.is_file():
            raise self._error("model", f"there is no file {model}", "Name an ONNX file or the folder of a bundle.")
        repeats = self._number("repeats") if self.cells.get("repeats") else 1.0
        tokens = self._number("tokens")
        if tokens != int(tokens) or tokens > 4096:
            raise self._error("tokens", f"found {self._text('tokens')!r}", "Give a whole number from 1 to 4096.")
        milliseconds = self._number("milliseconds")
        if not _SHORTEST <= milliseconds <= _LONGEST:
            hint = f"Give milliseconds of one inference, from {_SHORTEST:g} to {_LONGEST:,.0f}."
            raise self._error("milliseconds", f"found {self._text('milliseconds')!r}", hint)
        return Measurement(name, model.resolve(), int(tokens), milliseconds, repeats)

    def _text(self, column: str) -> str:
        cell = self.cells[column]
        if not isinstance(cell, str) or not cell.strip():
            raise self._error(column, "the cell is empty", _COLUMNS)
        return cell.strip()

    def _number(self, column: str) -> float:
        text = self._text(column)
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise self._error(column, f"found {text!r}", "Give a number above 0, with a point for the decimals.")
        return number

    def _error(self, column: str, what: str, hint: str) -> InputError:
        return InputError(f"{self.path}, line {self.line}, column {column!r}: {what}.", hint)


# ---- the profile


def _name_of(output: Path) -> str:
    """The name of the profile that a file is to hold. Raises InputError where the file cannot be made."""
    if output.suffix not in (".yaml", ".yml"):
        raise InputError(f"A device profile is a .yaml file, {output} is not.", "For instance: -o my-board.yaml")
    if output.exists():
        raise InputError(f"{output} exists already.", "Give another name.")
    if not output.absolute().parent.is_dir():
        raise InputError(f"There is no folder {output.absolute().parent}.")
    name = re.sub(r"[^a-z0-9.-]+", "-", output.stem.lower()).strip(".-") or "calibrated"
    return f"{name}-calibrated" if name in known_profiles() else name


def profile_text(text: str, profile: DeviceProfile) -> str:
    """The YAML text of a profile that was fitted from the one in ``text``, with its order and comments.

    Where the text is written in a way that cannot be changed piece by piece, the profile is written anew.
    """
    pieces = list(_pieces(text, profile))
    for start, end, piece in sorted(pieces, reverse=True):
        text = text[:start] + piece + text[end:]
    try:
        if parse_profile(text, profile.name) == profile:
            return text
    except InputError:
        pass
    return yaml.safe_dump(profile.model_dump(mode="json", exclude_none=True), sort_keys=False, width=116)


def _pieces(text: str, profile: DeviceProfile) -> Iterator[tuple[int, int, str]]:
    """What to put in place of which characters of the text."""
    original = parse_profile(text, profile.name)
    root = _entries(yaml.compose(text, Loader=yaml.SafeLoader))
    for key, piece in (("name", profile.name), ("calibrated", "true")):
        if key in root:
            yield root[key].start_mark.index, root[key].end_mark.index, piece
        else:
            yield 0, 0, f"{key}: {piece}\n"
    for section, key in FITTED:
        figure: Figure[float] = getattr(getattr(profile, section), key)
        if figure == getattr(getattr(original, section), key):
            continue
        piece = yaml.safe_dump(
            figure.model_dump(exclude_none=True), default_flow_style=True, sort_keys=False, width=math.inf
        ).strip()
        entries = _entries(root[section])
        if key in entries:
            start, end = entries[key].start_mark.index, entries[key].end_mark.index
            yield start, start + len(text[start:end].rstrip()), piece
        elif section == "pipeline":  # the overhead, which need not be written
            first = root[section].start_mark
            yield first.index, first.index, f"{key}: {piece}\n{' ' * first.column}"


def _entries(node: yaml.Node | None) -> dict[str, yaml.Node]:
    return {key.value: value for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}


def _write(output: Path, text: str) -> None:
    temporary = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, output)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise OutputError(f"{output} cannot be written: {error.strerror or error}.") from None


# ---- the report


def describe(found: Calibration) -> list[str]:
    """The fit as lines of text: every run before and after, the residuals, and the figures."""
    rows: list[Sequence[str]] = [("model", "measured ms", "before", "ratio", "after", "ratio")]
    for run in found.runs:
        row = [run.name, f"{run.measured:.2f}"]
        for modelled in (run.before, run.after):
            row += [f"{modelled:.2f}", f"{modelled / run.measured:.2f}"]
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(cells))
        for cells in (zip(row, widths, strict=True) for row in rows)
    ]
    for when, (middle, worst) in (("before", found.residual_before), ("after", found.residual_after)):
        lines.append(f"Residual {when}: {middle:.1%} (median), {worst:.1%} (worst)")
    for name, figure in found.fitted.items():
        remark = "" if figure.identified else " (these measurements do not settle it)"
        if figure.at_bound:
            remark += " (as far as a fit may go: are the milliseconds, the core and its clock right?)"
        lines.append(f"{name}: {figure.guess:g} -> {figure.value:g}{remark}")
    return lines
