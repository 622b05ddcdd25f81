"""Whisper models in CTranslate2's format, with faster-whisper.

``backend.py`` serves them; ``transcriber.py`` runs faster-whisper's own transcription of one recording, and
``rounds.py`` computes together what those of all requests ask of the model. ``file.py`` recognises and checks a model's
folder, ``tokenizer.py`` makes its tokenizer, ``features.py`` its extractor of features.
"""

from backends.whisper.backend import WhisperBackend

__all__ = ["WhisperBackend"]
