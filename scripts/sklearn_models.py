"""Real scikit-learn models as single files, for the quickstart and the examples of the documents.

    python -m scripts.sklearn_models [NAME ...]

They are made once and kept in the cache of `fetch_models`, in a folder of the scikit-learn version that wrote them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import sklearn
from sklearn.pipeline import Pipeline, make_pipeline

from scripts import fetch_models
from scripts.packages import say

REVISION = 1
"""Raise it when a model is made in another way, so that stale files are not used."""


def iris() -> Any:
    """Four named lengths in centimetres → the species of an iris, by its name. Trained on scikit-learn's own data."""
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    data = load_iris(as_frame=True)
    columns = {name: name.removesuffix(" (cm)").replace(" ", "_") for name in data.data.columns}
    species = data.target_names.take(data.target.to_numpy())
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(data.data.rename(columns=columns), species)


def profanity() -> Any:
    """Text → 1 if it swears. The vectorizer and the classifier of alt-profanity-check, in one pipeline."""
    folder = fetch_models.fetch("profanity")
    parts = {step: joblib.load(folder / f"{step}.joblib") for step in ("vectorizer", "model")}
    return Pipeline(list(parts.items()))


MODELS: dict[str, Callable[[], Any]] = {"iris": iris, "profanity": profanity}


def path(name: str) -> Path:
    """The ``.joblib`` file of a model, made now unless it is in the cache. Raises `packages.FetchError`."""
    file = fetch_models.cache_folder() / f"pipelines-{sklearn.__version__}-{REVISION}" / f"{name}.joblib"
    if not file.exists():
        say(f"{name}: making the pipeline")
        file.parent.mkdir(parents=True, exist_ok=True)
        model = MODELS[name]()
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as unfinished:
            joblib.dump(model, unfinished)
        Path(unfinished.name).replace(file)  # other processes see the whole file, or none
    return file


def main() -> None:
    """Makes the models that are named, by default all, and prints their files."""
    parser = argparse.ArgumentParser(description="Make scikit-learn models for the examples.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(MODELS)}")
    names = parser.parse_args().names or list(MODELS)
    for name in names:
        if name not in MODELS:
            parser.error(f"unknown model {name!r}; choose from {', '.join(MODELS)}")
    for name in names:
        print(path(name))


if __name__ == "__main__":
    main()
