"""Models in Hugging Face folders, on PyTorch and Transformers: those that embed.

``folder.py`` says what a folder is for, ``weights.py`` what its weights are, both without a runtime; ``library.py``
loads a model, ``tokens.py`` makes tokens of texts.
"""
