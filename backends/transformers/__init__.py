"""Models in Hugging Face folders, on PyTorch and Transformers: those that generate text, embed, classify, or listen.

``folder.py`` says what a folder is for, ``weights.py`` what its weights are, both without a runtime; ``library.py``
loads a model, ``tokens.py`` makes tokens of texts. For generated text, ``scheduler.py`` decides what each step computes
for whom, ``prompt_queue.py`` which prompts share a call, ``decoder.py`` computes, ``cache.py`` keeps keys and values,
``prefixes.py`` those of earlier prompts; ``sampling.py`` chooses tokens, ``grammar.py`` says which ones a grammar
allows, and ``gbnf.py`` reads it. Those that embed pool by ``pooling.py``; those that classify have a head of
``heads.py``, ``token_heads.py``, ``image_head.py`` or ``detect_head.py``. Those that write down speech (``speech.py``)
listen as ``ctc_listener.py`` or ``whisper_listener.py`` does; the latter with ``whisper_windows.py`` and
``whisper_network.py``.
"""

from backends.transformers.backend import TransformersBackend

__all__ = ["TransformersBackend"]
