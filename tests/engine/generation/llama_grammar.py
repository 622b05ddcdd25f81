"""A real model without its weights: its chat template, and grammars in llama.cpp itself."""

from __future__ import annotations

import ctypes
import math
from functools import cache
from typing import Any

import llama_cpp

from tests import models_gguf


@cache
def _model() -> Any:
    llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    return llama_cpp.llama_model_load_from_file(bytes(models_gguf.smollm2()), parameters)


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _silent(level: int, text: bytes, user_data: Any) -> None:
    pass


def chat_template() -> str:
    """The chat template that the model brings along."""
    return str(llama_cpp.llama_model_chat_template(_model(), None).decode())


class LlamaGrammar:
    """One grammar. Raises `ValueError` when llama.cpp does not take it."""

    def __init__(self, source: str) -> None:
        self._vocabulary = llama_cpp.llama_model_get_vocab(_model())
        self._sampler = llama_cpp.llama_sampler_init_grammar(self._vocabulary, source.encode(), b"root")
        if not self._sampler:
            raise ValueError(f"llama.cpp refuses the grammar:\n{source}")

    def __del__(self) -> None:
        if self._sampler:
            llama_cpp.llama_sampler_free(self._sampler)

    def matches(self, text: str) -> bool:
        """Whether a model could write exactly this text and then end."""
        llama_cpp.llama_sampler_reset(self._sampler)
        for token in self._tokens(text):
            if not self._allows(token):
                return False
            llama_cpp.llama_sampler_accept(self._sampler, token)
        return self._allows(llama_cpp.llama_vocab_eos(self._vocabulary))

    def can_write(self, text: str) -> bool:
        """Whether the vocabulary has tokens for all of a text; a small one lacks some bytes of rare characters."""
        pieces = b""
        for token in self._tokens(text):
            room = ctypes.create_string_buffer(256)
            length = llama_cpp.llama_token_to_piece(self._vocabulary, token, room, len(room), 0, True)
            pieces += room.raw[:length]
        return pieces == text.encode()

    def _tokens(self, text: str) -> list[int]:
        data = text.encode()
        room = len(data) + 8
        tokens = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self._vocabulary, data, len(data), tokens, room, False, False)
        return list(tokens[:count])

    def _allows(self, token: int) -> bool:
        candidates = (llama_cpp.llama_token_data * 1)(llama_cpp.llama_token_data(token, 0.0, 0.0))
        array = llama_cpp.llama_token_data_array(candidates, 1, -1, False)
        llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(array))
        return not math.isinf(candidates[0].logit)
