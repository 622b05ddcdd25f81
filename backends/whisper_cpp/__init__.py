"""Whisper models in whisper.cpp's format, with pywhispercpp.

``backend.py`` serves them; ``listener.py`` writes down one window of a recording after another, ``words.py`` makes
words of tokens, and tokens of prompts. ``file.py`` recognises and checks a model's file.
"""

from backends.whisper_cpp.backend import WhisperCppBackend

__all__ = ["WhisperCppBackend"]
