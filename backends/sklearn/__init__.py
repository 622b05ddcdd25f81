"""scikit-learn estimators and pipelines.

``files.py`` recognises and reads model files, ``inputs.py`` finds what an estimator takes, ``outputs.py`` what it
gives, ``estimators.py`` looks inside it, ``backend.py`` serves it.
"""

from backends.sklearn.backend import SklearnBackend

__all__ = ["SklearnBackend"]
