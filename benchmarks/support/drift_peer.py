"""Runs one other drift monitor on recorded traffic, with its defaults. benchmarks/drift_peers.py
runs it in an environment with that monitor and pandas, without this project.

    python drift_peer.py evidently|nannyml|whylogs TRAFFIC.npz

Reads `reference` [rows, features], `rows` and `ends` (where each window ends); prints one JSON list
of the flagged features of every window. Every fourth feature is a category.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

Windows = list[pd.DataFrame]
Flagged = Iterator[list[str]]


def frame(rows: np.ndarray) -> pd.DataFrame:
    columns = {f"f{i:02d}": rows[:, i].astype(float) for i in range(rows.shape[1])}
    for name in categories(rows.shape[1]):
        columns[name] = np.array(list("abcde"))[columns[name].astype(int)]
    return pd.DataFrame(columns)


def categories(features: int) -> list[str]:
    return [f"f{i:02d}" for i in range(3, features, 4)]


def evidently(reference: pd.DataFrame, windows: Windows) -> Flagged:
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    kinds = categories(len(reference.columns))
    numeric = [name for name in reference.columns if name not in kinds]
    definition = DataDefinition(numerical_columns=numeric, categorical_columns=kinds)
    base = Dataset.from_pandas(reference, data_definition=definition)
    for window in windows:
        now = Dataset.from_pandas(window, data_definition=definition)
        flagged = []
        for metric in Report([DataDriftPreset()]).run(now, base).dict()["metrics"]:
            shown = metric["config"]
            if "column" not in shown:
                continue
            # Distances above their threshold count as drift, and p values below it.
            above = metric["value"] > shown["threshold"]
            if above != ("p_value" in shown["method"]):
                flagged.append(shown["column"])
        yield flagged


def nannyml(reference: pd.DataFrame, windows: Windows) -> Flagged:
    """Windows of one size only: thresholds are learned from reference chunks of that size."""
    import nannyml as nml

    names = list(reference.columns)
    size = int(np.median([len(window) for window in windows]))
    found = nml.UnivariateDriftCalculator(
        column_names=names, treat_as_categorical=categories(len(names)), chunk_size=size
    ).fit(reference)
    for window in windows:
        table = found.calculate(window).filter(period="analysis").to_df(multilevel=False)
        yield [name for name in names if bool(table[f"{name}_jensen_shannon_alert"].iloc[0])]


def whylogs(reference: pd.DataFrame, windows: Windows) -> Flagged:
    import whylogs as why
    from whylogs.viz.drift.column_drift_algorithms import calculate_drift_scores

    base = why.log(reference).view()
    for window in windows:
        scores = calculate_drift_scores(why.log(window).view(), base, with_thresholds=True)
        yield [name for name, score in scores.items() if score["drift_category"] == "DRIFT"]


PEERS: dict[str, Callable[[pd.DataFrame, Windows], Flagged]] = {
    "evidently": evidently,
    "nannyml": nannyml,
    "whylogs": whylogs,
}


def main() -> None:
    warnings.filterwarnings("ignore")
    name, path = sys.argv[1:]
    traffic = np.load(path)
    windows = [frame(rows) for rows in np.split(traffic["rows"], traffic["ends"][:-1])]
    flagged = list(PEERS[name](frame(traffic["reference"]), windows))
    print(json.dumps(flagged))


if __name__ == "__main__":
    main()
