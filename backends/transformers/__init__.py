"""Models in Hugging Face folders, on PyTorch and Transformers: those that generate text, and those that embed.

``folder.py`` says what a folder is for, ``weights.py`` what its weights are, both without a runtime; ``library.py``
loads a model, ``tokens.py`` makes tokens of texts. For generated text, ``scheduler.py`` decides what each step computes
for whom, ``decoder.py`` computes, ``cache.py`` keeps keys and values, ``sampling.py`` chooses tokens.
"""

from backends.transformers.backend import TransformersBackend

__all__ = ["TransformersBackend"]
