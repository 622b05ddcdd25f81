"""Large language models in GGUF files, on llama.cpp.

``file.py`` reads a file's header, ``model.py`` holds weights and vocabulary, ``context.py`` computes, ``scheduler.py``
decides what each step computes for whom, ``sequences.py`` is the state of what it computes for; ``sampling.py``
chooses tokens, ``text.py`` makes text of them, ``prefix_cache.py`` and ``speculation.py`` spare computing.
"""

from backends.gguf.backend import GgufBackend

__all__ = ["GgufBackend"]
