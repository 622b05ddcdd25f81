"""What is computed with a Whisper model of the library: windows encoded, languages told, texts written and weighed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from backends.base import ModelFileError
from backends.pytorch import limit_threads
from backends.transformers.folder import Folder
from backends.transformers.library import Network, of_run
from backends.transformers.whisper_windows import MOMENTS, SECONDS_PER_TIME

GENERATION = "generation_config.json"
_LONGEST = 224
"""Tokens of the text of a window, as in the original."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens that are no text."""

    end: int
    """Ends a text; those before it are text."""
    start: int
    previous: int
    """Before what was said before."""
    no_speech: int
    first_time: int
    tasks: dict[str, int]
    languages: dict[str, int]
    """By code, such as ``en``; none of a model that knows English alone."""


class Weighed(NamedTuple):
    """How likely a text is, by its tokens."""

    logprobs: NDArray[np.float32]
    """Of each token, and of the end after them."""
    no_speech_prob: float
    times: NDArray[np.float32] | None
    """When each token ended, in seconds from the beginning of the window; if that was asked for."""


class WhisperNetwork:
    """A Whisper model, ready to compute for several windows at once."""

    def __init__(self, folder: Folder, network: Network, tokenizer: Any) -> None:
        """Raises `ModelFileError`."""
        self._network = network
        self._torch = network.torch
        self._model = model = network.model
        folder.read(GENERATION)  # the library makes do without one that is corrupt
        told = model.generation_config
        self.tokens = vocabulary(folder, model.config, told, tokenizer)
        self.alignment_heads = _heads(folder, told, model.config)
        model.generation_config = self._settings(folder, told)

    def _settings(self, folder: Folder, told: Any) -> Any:
        """How the library is to generate: of the folder's settings, those that belong to Whisper alone are heeded."""
        tokens, size = self.tokens, self._model.config.vocab_size
        found: dict[str, Any] = {}
        for name in ("suppress_tokens", "begin_suppress_tokens"):
            ids = getattr(told, name, None)
            if ids is not None and not _are_below(ids, size):
                raise ModelFileError(f"{folder.name} is corrupt: {name} in {GENERATION} are no tokens of the model.")
            found[name] = ids
        if tokens.languages:
            found["task_to_id"] = tokens.tasks
            found["lang_to_id"] = {f"<|{code}|>": number for code, number in tokens.languages.items()}
        latest = getattr(told, "max_initial_timestamp_index", None)
        return self._network.library.transformers.GenerationConfig(
            bos_token_id=tokens.end,
            eos_token_id=tokens.end,
            pad_token_id=tokens.end,
            decoder_start_token_id=tokens.start,
            prev_sot_token_id=tokens.previous,
            no_timestamps_token_id=tokens.first_time - 1,
            max_initial_timestamp_index=latest if type(latest) is int and latest > 0 else None,
            is_multilingual=bool(tokens.languages),
            **found,
        )

    def encode(self, windows: Sequence[NDArray[np.float32]]) -> list[Any]:
        """What the model heard in each window, [1, positions, width] on its device."""
        features = self._torch.from_numpy(np.stack(windows)).to(self._network.device, self._model.dtype)
        with self._computing():
            return list(self._model.model.encoder(features).last_hidden_state.split(1))

    def tell_languages(self, encoded: Sequence[Any]) -> list[tuple[str, float]]:
        """The language of each window, and how likely it is among all that the model knows."""
        codes = list(self.tokens.languages)
        numbers = list(self.tokens.languages.values())
        with self._computing():
            start = self._ids([[self.tokens.start]] * len(encoded))
            states = self._decoded(start, encoded).last_hidden_state
            chances = self._model.proj_out(states)[:, -1, numbers].float().softmax(-1).cpu().numpy()
        return [(codes[int(row.argmax())], float(row.max())) for row in chances]

    def write(
        self, encoded: Sequence[Any], prompts: Sequence[list[int]], languages: list[str], temperature: float, beams: int
    ) -> list[list[int]]:
        """The text of each window after its prompt; those must be equally long."""
        from transformers.modeling_outputs import BaseModelOutput

        length = len(prompts[0])
        with self._computing():
            found = self._model.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=self._torch.cat(list(encoded))),
                decoder_input_ids=self._ids(prompts),
                language=languages if self.tokens.languages else None,
                return_timestamps=True,
                force_unique_generate_call=True,
                temperature=temperature,
                num_beams=beams if temperature == 0 else 1,
                max_new_tokens=min(_LONGEST, self._model.config.max_target_positions - length),
            )
        texts = [row[length:] for row in found.tolist()]
        return [row[: row.index(self.tokens.end)] if self.tokens.end in row else row for row in texts]

    def weigh(
        self, encoded: Sequence[Any], prompts: Sequence[list[int]], texts: Sequence[list[int]], moments: Sequence[int]
    ) -> Iterator[Weighed]:
        """How likely each text is; with `moments`, how much of each window is sound, also when its tokens were said."""
        length, start = len(prompts[0]), prompts[0].index(self.tokens.start)
        longest = max(map(len, texts))
        rows = [
            [*prompt, *text, *[self.tokens.end] * (longest - len(text))]
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        with self._computing(attentions=bool(moments)):
            ids = self._ids(rows)
            decoded = self._decoded(ids, encoded, output_attentions=bool(moments))
            for i, text in enumerate(texts):  # one after the other: the logits of a text take 50 MB
                states = decoded.last_hidden_state[i, start : length + len(text)]
                logprobs = self._model.proj_out(states).float().log_softmax(-1)
                of_text = logprobs[length - 1 - start :].gather(-1, self._ids([[*text, self.tokens.end]]).mT)
                times = None
                if moments:
                    end = length + len(text)
                    attentions = [layer[i : i + 1, :, :end] for layer in decoded.cross_attentions]
                    times = self._times(ids[i : i + 1, :end], attentions, length, moments[i])
                yield Weighed(of_text[:, 0].cpu().numpy(), float(logprobs[0, self.tokens.no_speech].exp()), times)

    def _times(self, ids: Any, attentions: list[Any], length: int, moments: int) -> NDArray[np.float32]:
        """When each token of a text ended, by what the library aligns."""
        from transformers.generation.utils import GenerateEncoderDecoderOutput

        output = GenerateEncoderDecoderOutput(sequences=ids, cross_attentions=(tuple(attentions),))
        found = self._model._extract_token_timestamps(
            output,
            self.alignment_heads,
            time_precision=SECONDS_PER_TIME,
            num_frames=max(moments, 2 * self._model.config.median_filter_width),
            num_input_ids=length,
        )
        times: NDArray[np.float32] = found[0, length:].cpu().numpy()
        return times

    def _decoded(self, ids: Any, encoded: Sequence[Any], **wishes: Any) -> Any:
        states = self._torch.cat(list(encoded))
        return self._model.model.decoder(input_ids=ids, encoder_hidden_states=states, use_cache=False, **wishes)

    def _ids(self, rows: Sequence[Sequence[int]]) -> Any:
        return self._torch.tensor(rows, dtype=self._torch.long, device=self._network.device)

    @contextmanager
    def _computing(self, attentions: bool = False) -> Iterator[None]:
        """Only one kind of attention tells where it looks. Raises `OutOfMemory` or `BackendError`."""
        limit_threads(self._torch, self._network.threads)
        usual = self._model.config._attn_implementation
        try:
            with self._torch.inference_mode():
                if attentions:
                    self._model.set_attn_implementation("eager")
                yield
        except Exception as e:
            raise of_run(e) from e
        finally:
            if attentions:
                self._model.set_attn_implementation(usual)


def vocabulary(folder: Folder, config: Any, told: Any, tokenizer: Any) -> Vocabulary:
    """The special tokens of a model. Raises `ModelFileError` if it is no Whisper's."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    numbers = tokenizer.get_vocab()
    needed = ("endoftext", "startoftranscript", "startofprev", "transcribe", "translate", "notimestamps")
    missing = [name for name in needed if f"<|{name}|>" not in numbers]
    if missing:
        raise ModelFileError(f"The tokenizer of {folder.name} has no token <|{missing[0]}|>, so it is no Whisper's.")
    end, start, previous, transcribe, translate, no_times = (numbers[f"<|{name}|>"] for name in needed)
    times = MOMENTS // 2 + 1
    if max(end, start, previous, transcribe, translate, no_times + times) >= config.vocab_size:
        raise ModelFileError(
            f"{folder.name} has weights for {config.vocab_size} tokens; with its tokenizer, whose times begin at "
            f"{no_times + 1}, it needs {no_times + 1 + times}."
        )
    several = getattr(told, "is_multilingual", None)
    if several is None:
        several = config.vocab_size >= _MULTILINGUAL
    known = {code: numbers[f"<|{code}|>"] for code in LANGUAGES if f"<|{code}|>" in numbers} if several else {}
    if any(number >= config.vocab_size for number in known.values()):
        raise ModelFileError(f"{folder.name} has a tokenizer with more tokens than the model has weights for.")
    tasks = {"transcribe": transcribe, "translate": translate}
    return Vocabulary(end, start, previous, no_times - 1, no_times + 1, tasks, known)


_MULTILINGUAL = 51865
"""Tokens of the smallest vocabulary with several languages; those that know English alone have one less."""


def _heads(folder: Folder, told: Any, config: Any) -> list[tuple[int, int]] | None:
    """Of attention, by layer and number, those that look where a token is said; `None` if the folder names none."""
    pairs = getattr(told, "alignment_heads", None)
    if not pairs:
        return None
    try:
        found = [(layer, head) for layer, head in pairs]
    except (TypeError, ValueError):
        found = [(-1, -1)]
    layers, heads = config.decoder_layers, config.decoder_attention_heads
    if not _are_below([pair[0] for pair in found], layers) or not _are_below([pair[1] for pair in found], heads):
        raise ModelFileError(
            f"{folder.name} is corrupt: alignment_heads in {GENERATION} must be pairs of one of {layers} layers and "
            f"one of {heads} heads."
        )
    return found


def _are_below(numbers: Any, limit: int) -> bool:
    return isinstance(numbers, list) and all(type(n) is int and 0 <= n < limit for n in numbers)
