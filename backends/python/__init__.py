"""Models written in Python by the user: plugins.

``target.py`` says what a path such as ``file.py:Class`` names, ``loader.py`` imports it, ``backend.py`` serves it.
"""

from backends.python.backend import PythonBackend
from backends.python.target import split_target

__all__ = ["PythonBackend", "split_target"]
