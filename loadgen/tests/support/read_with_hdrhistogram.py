"""Reads a run directory with PyPI hdrhistogram and compares it with what fracas wrote beside it."""

import json
import math
import pathlib
import sys

from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

directory = pathlib.Path(sys.argv[1])
summary = json.loads((directory / "run.json").read_text())

for series in ("response", "service", "lag"):
    total = HdrHistogram(1, 3_600_000_000_000, 3)
    log = HistogramLogReader(str(directory / "latency.hlog"), total)
    start = log.get_next_interval_histogram()
    assert log.get_start_time_sec() == summary["started_at_unix_ms"] / 1000, log.get_start_time_sec()
    lines = 0
    while start:
        if start.get_tag() == series:
            total.add(start)
            lines += 1
        start = log.get_next_interval_histogram()
    expected = summary[series]
    assert lines > 0, series
    assert total.get_total_count() == expected["count"], (series, total.get_total_count(), expected["count"])
    for name, percentile in (("p50", 50), ("p90", 90), ("p99", 99), ("p99.9", 99.9)):
        # Java and Rust round the rank up, Python to the nearest: ask for the rank itself.
        count = expected["count"]
        rank = math.ceil(round(percentile * count / 100, 6))
        found = total.get_value_at_percentile(100 * rank / count)
        assert found == expected[name], (series, name, found, expected[name])
    assert total.get_max_value() == expected["max"], (series, total.get_max_value(), expected["max"])

    # The table: each row's quantile must fall into the buckets that print as its value.
    rows = [line.split() for line in (directory / f"{series}.hgrm").read_text().splitlines()]
    rows = [row for row in rows if row and row[0][0].isdigit()]
    before, upto, seen = {}, {}, 0
    for step in total.get_recorded_iterator():
        text = f"{step.value_iterated_to / 1e6:.3f}"
        before.setdefault(text, seen)
        seen += step.count_at_value_iterated_to
        upto[text] = seen
    assert len(rows) > 10 and rows[-1][2] == str(expected["count"]), series
    for value, quantile, count, *_ in rows:
        wanted = float(quantile) * expected["count"]
        assert before[value] <= wanted + 1e-3 and wanted <= upto[value] + 1e-3, (series, value, quantile)
        assert before[value] < int(count) <= upto[value], (series, value, count)
print("ok")
