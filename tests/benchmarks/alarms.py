"""``python -m tests.benchmarks.alarms``: how often drift is found where there is none, and where there is.

Days of made-up rows, 40 columns and a score, in two worlds: in one all rows are drawn alike, in the other
those of a day share an effect that carries over to the next day, as weather and yesterday's mean do. Nothing
drifts in either, so every signal on their days is a false alarm. Then one thing is planted in the last week:
a mean that moves by 0.2 standard deviations, a spread of 1.3 times, a tenth of a category's values that
become another one, a correlation that breaks, scores whose log-odds rise by 0.3. The window of 28 days that
ends with that week holds three quiet ones. A night signals when one of its windows does: of quiet nights,
one in a hundred should.

Beside each stands what Evidently's ``DataDriftPreset`` says of the same days, with its defaults: whether it
finds any column drifted, and whether it calls the data set drifted (half of the columns). Its reference is
a sample of 20,000 rows of the same days that ours learns from, for it reads all of it each time.

``--rows 200 1000`` measures some sizes, ``--seeds`` says how many worlds of each. With ``--keep FILE`` what
was measured is kept there and not measured again, so a long run may be cut and resumed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nightshift.monitoring import baseline, comparison
from nightshift.monitoring.baseline import Baseline
from nightshift.monitoring.sketches import Sketches
from nightshift.usecase import Drift

SIZES = (200, 1_000, 10_000, 100_000)
WORLDS = {"alike": 0.0, "a shared effect": 0.3}
SHIFTS = ("mean", "spread", "mix", "correlation", "scores")
NUMERIC = tuple(f"number_{place}" for place in range(30))
CATEGORICAL = tuple(f"category_{place}" for place in range(10))
WINDOWS = (1, 7, 28)
# A reference of 90 days of a hundred thousand rows would not fit into the memory of a laptop. Windows of 28
# days take 56 to learn what is ordinary.
REFERENCE_DAYS, MOST_REFERENCE_ROWS, LEAST_REFERENCE_DAYS = 90, 5_600_000, 56
QUIET_DAYS, SHIFTED_DAYS = 84, 7
# The preset takes seconds a day, so it is asked about some days, evenly spaced.
PRESET_DAYS, PRESET_SHIFTED_DAYS, PRESET_ROWS = 8, 2, 20_000
_FIRST = np.datetime64("2013-01-07")
_CARRIES_OVER = 0.6

Figures = dict[str, list[float]]


def main() -> None:
    """Measure what the command line asks for, and print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.alarms", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=list(SIZES), help="rows of a day")
    parser.add_argument("--seeds", type=int, default=3, help="worlds of each kind and size")
    parser.add_argument("--keep", type=Path, help="a file for what was measured")
    arguments = parser.parse_args()
    known: dict[str, Figures] = json.loads(arguments.keep.read_text()) if _exists(arguments.keep) else {}
    for rows in arguments.rows:
        for world in WORLDS:
            for seed in range(arguments.seeds):
                key = f"{rows}/{world}/{seed}"
                if key not in known:
                    known[key] = measure(seed, rows, WORLDS[world])
                    if arguments.keep:
                        arguments.keep.write_text(json.dumps(known, indent=1), encoding="utf-8")
    sys.stdout.write("\n".join(table(known, arguments.rows)) + "\n")


def measure(seed: int, rows: int, effect: float) -> Figures:
    """Return 0 or 1 for each day or window that was judged, by what was asked of whom."""
    days = min(REFERENCE_DAYS, max(LEAST_REFERENCE_DAYS, MOST_REFERENCE_ROWS // rows))
    known = made(seed, rows, effect, 0, days)
    learnt = baseline.learn(known, (*NUMERIC, baseline.SCORE), CATEGORICAL, Drift(windows=WINDOWS))
    sample = np.random.default_rng(seed).choice(
        known.num_rows, min(PRESET_ROWS, known.num_rows), replace=False
    )
    reference = _frame(known.take(pa.array(np.sort(sample))))
    del known
    found: Figures = {}

    def look(what: str, first: int, count: int, asked: int, shift: str = "") -> Sketches:
        """Sketch days, one at a time for the sake of memory, and ask the preset about some of them."""
        said, sketches = [], []
        chosen = set(np.linspace(0, count - 1, asked).astype(int))
        for place in range(count):
            table = made(seed, rows, effect, first + place, 1, shift)
            sketches.append(learnt.grid.sketch(table, np.zeros(rows, dtype=np.intp), 1))
            if place in chosen:
                said.append(preset(reference, _frame(table)))
        found[f"{what}/preset/column"] = [float(share > 0) for share in said]
        found[f"{what}/preset/data set"] = [float(share >= 0.5) for share in said]
        return _joined(sketches)

    def judge(what: str, seen: Sketches, new: int) -> None:
        """Judge the windows of the last ``new`` nights; of a length, those in which all days could be new."""
        nights = range(len(seen.rows) - new + 1, len(seen.rows) + 1)
        signalled = dict.fromkeys(nights, False)
        for length in WINDOWS:
            known = {
                end: _signals(learnt, seen.take(list(range(end - length, end))), length)
                for end in nights
                if end >= length
            }
            signalled |= {end: signalled[end] or signal for end, signal in known.items()}
            first = nights[min(length, new) - 1]
            found[f"{what}/ours/{length}"] = [float(signal) for end, signal in known.items() if end >= first]
        found[f"{what}/ours/night"] = [float(signal) for signal in signalled.values()]

    quiet = look("quiet", days, QUIET_DAYS, PRESET_DAYS)
    judge("quiet", quiet, QUIET_DAYS)
    for shift in SHIFTS:
        shifted = look(shift, days + QUIET_DAYS, SHIFTED_DAYS, PRESET_SHIFTED_DAYS, shift)
        judge(shift, _joined([quiet, shifted]), SHIFTED_DAYS)
    return found


def _signals(learnt: Baseline, window: Sketches, length: int) -> bool:
    least = Drift().min_effect
    return bool(comparison.judge(learnt, window, length, baseline.ALWAYS, min_effect=least).signals)


def _joined(sketches: Sequence[Sketches]) -> Sketches:
    parts = ("rows", "counts", "sums", "products")
    return Sketches(*(np.concatenate([getattr(one, part) for one in sketches]) for part in parts))


def _frame(table: pa.Table) -> Any:
    return table.drop_columns("partition").to_pandas()


def made(seed: int, rows: int, effect: float, first: int, count: int, shift: str = "") -> pa.Table:
    """Return ``count`` days of a world from ``first`` on, the same however they are cut.

    Ten normal numbers, of which six go together, ten lognormal, ten of a few values with a tenth missing;
    ten categories of three to twelve values; a score made of the six numbers and of chance.
    """
    shared = _effects(seed, first + count) * effect
    return pa.concat_tables(
        _day(np.random.default_rng([seed, day]), rows, shared[day], day, shift)
        for day in range(first, first + count)
    )


def _effects(seed: int, days: int) -> npt.NDArray[np.float64]:
    """Return an effect of unit variance a day and numeric column, which carries over to the next day."""
    random = np.random.default_rng(seed)
    found = np.empty((days, len(NUMERIC)))
    now = random.normal(size=len(NUMERIC))
    for day in range(days):
        now = _CARRIES_OVER * now + np.sqrt(1 - _CARRIES_OVER**2) * random.normal(size=len(NUMERIC))
        found[day] = now
    return found


def _day(
    random: np.random.Generator, rows: int, effects: npt.NDArray[np.float64], day: int, shift: str
) -> pa.Table:
    values = random.normal(size=(len(NUMERIC), rows))
    values[:6] = 0.8 * random.normal(size=rows) + 0.6 * values[:6]
    if shift == "correlation":
        values[0] = random.permutation(values[0])
    values += effects[:, None]
    if shift == "mean":
        values[7] += 0.2
    if shift == "spread":
        values[8] = effects[8] + 1.3 * (values[8] - effects[8])
    missing = random.random((len(NUMERIC), rows)) < 0.1
    columns: dict[str, Any] = {}
    for place, name in enumerate(NUMERIC):
        if place < 10:
            columns[name] = values[place]
        elif place < 20:
            columns[name] = np.exp(values[place])
        else:
            columns[name] = pa.array(np.round(2 * values[place]), mask=missing[place])
    for place, name in enumerate(CATEGORICAL):
        kinds = (3, 5, 12)[place % 3]
        codes = random.integers(0, kinds, rows)
        if shift == "mix" and place == 0:
            codes[random.random(rows) < 0.1] = 0
        names = pa.array([f"value {code}" for code in range(kinds)])
        columns[name] = pa.DictionaryArray.from_arrays(pa.array(codes), names).cast(pa.string())
    odds = values[:6].mean(axis=0) + random.normal(size=rows) + (0.3 if shift == "scores" else 0.0)
    columns[baseline.SCORE] = 1 / (1 + np.exp(-odds))
    columns["partition"] = np.full(rows, _FIRST + day)
    return pa.table(columns)


def preset(reference: Any, current: Any) -> float:
    """Return the share of columns that Evidently's preset finds drifted."""
    from evidently import Report
    from evidently.presets import DataDriftPreset

    said = Report([DataDriftPreset()]).run(current, reference).dict()
    return next(
        float(metric["value"]["share"])
        for metric in said["metrics"]
        if isinstance(metric["value"], dict) and "share" in metric["value"]
    )


def table(known: dict[str, Figures], sizes: Sequence[int]) -> Iterator[str]:
    """Yield the lines of a Markdown table, of all worlds that were measured."""
    yield (
        "| rows a day | days | what | ours, a night | its day | its 7 days | its 28 days "
        "| preset, any column | preset, data set |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    asked = ("ours/night", *(f"ours/{length}" for length in WINDOWS), "preset/column", "preset/data set")
    for rows in sizes:
        for world in WORLDS:
            cells = [found for key, found in known.items() if key.startswith(f"{rows}/{world}/")]
            for what in ("quiet", *SHIFTS):
                judged = [[value for cell in cells for value in cell[f"{what}/{name}"]] for name in asked]
                figures = " | ".join(f"{np.mean(values):.1%} of {len(values)}" for values in judged)
                name = "nothing (false alarms)" if what == "quiet" else what
                yield f"| {rows:,} | {world} | {name} | {figures} |"


def _exists(file: Path | None) -> bool:
    return file is not None and file.exists()


if __name__ == "__main__":
    main()
