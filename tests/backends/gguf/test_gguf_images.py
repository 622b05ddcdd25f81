"""A model that sees: images in prompts, through llama.cpp's own projectors, of random weights."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import resources
from backends.base import Device, InvalidInput, InvalidOption, ModelFileError, OutOfMemory
from backends.generation import IMAGE, Generation, Pixels, Sampling
from backends.gguf import images, memory
from backends.gguf.images import Image
from backends.gguf.options import GgufOptions
from tests import models_gguf, models_mmproj
from tests.backends.gguf.generating import Answer, Loaded, ask, chat, finish, greedy, load, run, step
from tests.models_mmproj import picture

pytest.importorskip("llama_cpp")

KINDS = ("mlp", "tiles", "gemma3", "qwen2vl_merger")
"""A plain one, one with tiles, one whose tokens see one another, one of a model that sees in two dimensions."""


def open_model(kind: str, **options: Any) -> Loaded:
    if kind == "qwen2vl_merger":
        projector = models_mmproj.projector(kind, 64)
        return load(models_mmproj.qwen2vl(), mmproj=str(projector), **{"max_context_length": 128, **options})
    return load(mmproj=str(models_mmproj.projector(kind)), **options)


def asked(text: str, *pictures: Pixels, tokens: int = 6, **rest: Any) -> Generation:
    return greedy(text, tokens, images=pictures, logprobs=1, **rest)


def values(answer: Answer) -> list[float]:
    return [token.logprob for token in answer.logprobs]


@pytest.fixture(scope="module")
def seeing() -> Iterator[Loaded]:
    backend = open_model("mlp")
    yield backend
    backend.close()


# --- where images are, and what stands for them ---------------------------------------------------------------------


def image(begin: int, count: int, advance: int | None = None, key: bytes = b"a") -> Image:
    positions = np.arange(begin, begin + count, dtype=np.int32)[None]
    return Image(
        begin,
        positions,
        count if advance is None else advance,
        key=key,
        whole=False,
        encode=lambda: np.zeros((count, 2), np.float32),
    )


def test_positions_are_counted_as_images_say() -> None:
    both = [image(2, 10, 4), image(20, 10, 3)]
    assert [images.position(both, index) for index in (0, 2, 12, 20, 30)] == [0, 2, 6, 14, 17]


def test_what_is_shared_ends_at_the_edge_of_an_image() -> None:
    both = [image(2, 10), image(12, 10)]
    assert [images.bounded(both, length) for length in (1, 2, 3, 11, 12, 13, 22, 30)] == [1, 2, 2, 2, 12, 12, 22, 30]


def test_stand_ins_are_those_of_the_image() -> None:
    first, again, other = image(0, 64), image(5, 64), image(0, 64, key=b"b")
    assert (first.stand_ins < 0).all()
    assert np.array_equal(first.stand_ins, again.stand_ins)
    assert not (first.stand_ins == other.stand_ins).any()


def test_images_of_few_tokens_are_never_taken_for_the_same() -> None:
    assert not np.array_equal(image(0, 7).stand_ins, image(0, 7).stand_ins)


def test_an_image_is_encoded_once() -> None:
    calls: list[int] = []

    def encode() -> Any:
        calls.append(1)
        return np.zeros((3, 2), np.float32)

    one = Image(0, np.zeros((1, 3), np.int32), 3, key=b"", whole=False, encode=encode)
    one.encode()
    one.encode()
    assert calls == [1]


# --- as llama.cpp's own helper computes it --------------------------------------------------------------------------


@functools.cache
def reference(kind: str, text: str, seed: int) -> Any:
    """The logits after a prompt with an image, computed by llama.cpp's helper alone."""
    import llama_cpp.llama_cpp as api
    import llama_cpp.mtmd_cpp as mtmd

    small = kind == "qwen2vl_merger"
    path = models_mmproj.qwen2vl() if small else models_gguf.smollm2()
    params = api.llama_model_default_params()
    params.n_gpu_layers = 0
    model = api.llama_model_load_from_file(str(path).encode(), params)
    settings = api.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = 512
    settings.n_threads = settings.n_threads_batch = 1
    context = api.llama_init_from_model(model, settings)
    options = mtmd.mtmd_context_params_default()
    options.use_gpu, options.n_threads, options.media_marker = False, 1, IMAGE.encode()
    projector = models_mmproj.projector(kind, *([64] if small else []))
    sight = mtmd.mtmd_init_from_file(str(projector).encode(), model, options)
    pixels = np.ascontiguousarray(picture(seed))
    pointer = pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
    bitmap = mtmd.mtmd_bitmap_init(pixels.shape[1], pixels.shape[0], pointer)
    chunks = mtmd.mtmd_input_chunks_init()
    data = text.encode()
    wanted = mtmd.mtmd_input_text(data, len(data), small, True)
    assert mtmd.mtmd_tokenize(sight, chunks, ctypes.byref(wanted), (ctypes.c_void_p * 1)(bitmap), 1) == 0
    end = ctypes.c_int32()
    assert mtmd.mtmd_helper_eval_chunks(sight, context, chunks, 0, 0, 512, True, ctypes.byref(end)) == 0
    size = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
    logits = np.ctypeslib.as_array(api.llama_get_logits_ith(context, -1), (size,)).copy()
    mtmd.mtmd_input_chunks_free(chunks)
    mtmd.mtmd_bitmap_free(bitmap)
    mtmd.mtmd_free(sight)
    api.llama_free(context)
    api.llama_model_free(model)
    return logits


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_the_helper_of_llama_cpp_does(kind: str) -> None:
    text = f"hello {IMAGE} is that" if kind == "qwen2vl_merger" else chat(f"{IMAGE} What is it?")
    backend = open_model(kind)
    for seed in (1, 2):
        (first,) = ask(backend, asked(text, picture(seed), tokens=1)).logprobs
        logits = reference(kind, text, seed).astype(np.float64)
        expected = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        assert first.token == expected.argmax()
        assert first.logprob == pytest.approx(expected.max(), abs=2e-3)
    backend.close()


# --- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_depends_on_the_image_and_nothing_else(kind: str) -> None:
    backend = open_model(kind, prefix_cache=False)
    text = f"hello {IMAGE} is that" if kind == "qwen2vl_merger" else chat(f"{IMAGE} What is it?")
    first, second = (ask(backend, asked(text, picture(seed))) for seed in (1, 2))
    assert values(first) != values(second)
    assert values(ask(backend, asked(text, picture(1)))) == values(first)
    backend.close()


def test_usage_counts_the_tokens_of_images(seeing: Loaded) -> None:
    with_image = asked(chat(f"{IMAGE}What is it?"), picture(3))
    answer = ask(seeing, with_image)
    assert answer.usage is not None
    plain = seeing.count(greedy(chat("What is it?")))
    assert answer.usage.prompt_tokens == seeing.count(with_image)
    assert 64 <= answer.usage.prompt_tokens - plain <= 66  # text before an image, and after it, is cut apart


def test_an_image_may_have_tiles() -> None:
    backend = open_model("tiles")
    assert backend.count(asked(IMAGE, picture())) == 3 * 64
    backend.close()


def test_beside_text_it_answers_as_alone(seeing: Loaded) -> None:
    requests = {
        1: asked(chat(f"{IMAGE} What is it?"), picture(4), tokens=12),
        2: greedy(chat("What is the capital of France?"), 12),
        3: asked(chat(f"First {IMAGE}, then {IMAGE}. Compare."), picture(5), picture(6), tokens=12),
        4: greedy(chat("Write a poem about rain."), 12),
    }
    alone = {key: ask(seeing, request).text for key, request in requests.items()}
    together = run(seeing, requests)
    assert {key: answer.text for (key, _), answer in together.items()} == alone


def test_others_go_on_while_images_are_encoded(seeing: Loaded) -> None:
    """An image takes a step to be encoded, and every running answer gets its token in each step between two of them."""
    answers: dict[tuple[int, int], Answer] = {}
    seeing.add(1, greedy(chat("Count to one hundred."), 40, ignore_eos=True))
    for _ in range(3):
        step(seeing, answers)
    before = answers[1, 0].tokens
    seeing.add(2, asked(chat(f"{IMAGE}{IMAGE}{IMAGE}{IMAGE}"), *(picture(seed) for seed in range(20, 24))))
    steps = 0
    while (2, 0) not in answers:
        step(seeing, answers)
        steps += 1
    assert steps >= 9  # at least one for each image to be encoded and one to compute the last, with tokens in between
    assert answers[1, 0].tokens >= before + steps // 2
    finish(seeing, answers)


def test_a_text_does_not_wait_for_all_images_of_others(seeing: Loaded) -> None:
    answers: dict[tuple[int, int], Answer] = {}
    seeing.add(1, asked(chat(f"{IMAGE}{IMAGE}{IMAGE}{IMAGE}"), *(picture(seed) for seed in range(30, 34))))
    seeing.add(2, greedy(chat("What is the capital of Peru?"), 2))
    step(seeing, answers)
    assert (2, 0) in answers
    assert (1, 0) not in answers
    finish(seeing, answers)


def test_several_answers_to_one_image(seeing: Loaded) -> None:
    request = asked(chat(f"{IMAGE} What is it?"), picture(7), choices=3)
    answers = run(seeing, {1: request})
    assert {answer.text for answer in answers.values()} == {
        ask(seeing, asked(chat(f"{IMAGE} What is it?"), picture(7))).text
    }


def test_penalties_and_speculation_overlook_images(seeing: Loaded) -> None:
    penalised = Sampling(temperature=0, repeat_penalty=1.3, repeat_last_n=-1)
    text = chat(f"{IMAGE} Repeat: one two three one two three one two three")
    request = Generation(prompt=text, images=(picture(8),), sampling=penalised, max_tokens=20)
    first = ask(seeing, request)
    assert first.tokens
    assert ask(seeing, request).text == first.text


def test_a_cancelled_request_leaves_nothing(seeing: Loaded) -> None:
    answers: dict[tuple[int, int], Answer] = {}
    seeing.add(1, asked(chat(f"{IMAGE}{IMAGE}"), picture(9), picture(10)))
    step(seeing, answers)
    seeing.cancel(1)
    assert not seeing.busy
    assert ask(seeing, greedy("Hello", 2)).tokens == 2


def test_a_sequence_that_outgrows_its_slot_keeps_its_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.gguf.backend._SHORT", 128)
    request = asked(chat(f"Once upon a time. {IMAGE} Go on."), picture(1), tokens=60, ignore_eos=True)
    backend, roomy = (open_model("mlp", prefix_cache=False, long_sequences=n) for n in (1, 4))
    answer = ask(backend, request)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens + 32 < 128 < answer.usage.prompt_tokens + answer.tokens
    assert values(ask(roomy, request)) == pytest.approx(values(answer), abs=0.02)
    backend.close()
    roomy.close()


# --- the prefix cache -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_computed_of_an_image_serves_the_same_one_only(kind: str) -> None:
    backend, fresh = open_model(kind), open_model(kind, prefix_cache=False)
    text = f"hello, hello {IMAGE} that" if kind == "qwen2vl_merger" else chat(f"{IMAGE} What is it?")
    first = ask(backend, asked(text, picture(1)))
    again, other = ask(backend, asked(text, picture(1))), ask(backend, asked(text, picture(2)))
    assert first.cached == 0
    assert again.usage is not None
    assert again.cached == again.usage.prompt_tokens - 1
    assert other.cached <= again.usage.prompt_tokens - 16  # of which 16 and more are the image, and what follows it
    assert again.text == first.text
    expected = ask(fresh, asked(text, picture(2)))
    assert [token.token for token in other.logprobs] == [token.token for token in expected.logprobs]
    assert values(other) == pytest.approx(values(expected), abs=0.02)
    backend.close()
    fresh.close()


def test_a_longer_conversation_about_an_image_goes_on_from_it(seeing: Loaded) -> None:
    text = chat(f"{IMAGE} What is it?")
    first = ask(seeing, asked(text, picture(11)))
    more = f"{text}{first.text}<|im_end|>\n{chat('And what else?')}"
    answer = ask(seeing, asked(more, picture(11)))
    assert first.usage is not None
    assert answer.cached >= first.usage.prompt_tokens
    assert ask(seeing, asked(more, picture(12))).cached < 64


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "field", "problem"),
    [
        (asked(f"{IMAGE}{IMAGE}", picture()), "images", "2 places for images"),
        (asked("none", picture()), "images", "0 places for images"),
        (Generation(prompt=(1, 2), images=(picture(),)), "images", "A prompt of tokens"),
        (asked(IMAGE, picture(), suffix="x"), "suffix", "does not go with images"),
        (asked(IMAGE * 8, *[picture()] * 8), "prompt", "512 of them for images"),
        (asked(IMAGE * 8, *[picture()] * 8, truncate=True), "prompt", "Send fewer or smaller images"),
    ],
)
def test_requests_that_do_not_fit(seeing: Loaded, request_: Generation, field: str, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem) as caught:
        seeing.add(1, request_)
    assert caught.value.field == field
    assert not seeing.busy


def test_a_model_without_a_projector_sees_nothing() -> None:
    backend = load()
    assert backend.info.generation is not None
    assert not backend.info.generation.images
    with pytest.raises(InvalidInput, match="without a projector") as caught:
        backend.add(1, asked(IMAGE, picture()))
    assert caught.value.field == "images"
    backend.close()


def test_an_image_that_must_be_computed_at_once_fits_a_call(tmp_path: Path) -> None:
    large = models_mmproj.write(tmp_path / "mmproj.gguf", "gemma3", side=96, **{"projector.scale_factor": 1})
    backend = load(mmproj=str(large), batch_tokens=128)
    with pytest.raises(InvalidInput, match="takes the 144 tokens of an image at once, and may take 128") as caught:
        backend.add(1, asked(IMAGE, picture()))
    assert caught.value.field == "images"
    backend.close()
    roomy = load(mmproj=str(large), batch_tokens=160)
    assert ask(roomy, asked(IMAGE, picture(), tokens=1)).tokens == 1
    roomy.close()


# --- which projector ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a model alone."""
    (tmp_path / "model.gguf").symlink_to(models_gguf.smollm2())
    return tmp_path


def loaded(folder: Path, **options: Any) -> Loaded:
    backend = load(folder / "model.gguf", **options)
    backend.close()
    return backend


def sees(backend: Loaded) -> bool:
    assert backend.info.generation is not None
    return backend.info.generation.images


def test_one_beside_the_model_is_found(folder: Path) -> None:
    models_mmproj.write(folder / "model-mmproj-f16.gguf")
    found = loaded(folder)
    assert sees(found)
    assert "Images go through model-mmproj-f16.gguf (mlp), which lies beside the model" in " ".join(found.info.notes)
    assert "the projector" in found.info.notes[0]
    assert not sees(loaded(folder, mmproj="off"))


def test_of_several_none_is_chosen(folder: Path) -> None:
    for name in ("mmproj-a.gguf", "mmproj-b.gguf"):
        models_mmproj.write(folder / name)
    backend = loaded(folder)
    assert not sees(backend)
    assert "Several projectors lie beside the model: mmproj-a.gguf, mmproj-b.gguf." in " ".join(backend.info.notes)
    assert sees(loaded(folder, mmproj=str(folder / "mmproj-b.gguf")))


def test_one_that_is_found_and_does_not_fit_is_left_out(folder: Path) -> None:
    models_mmproj.write(folder / "mmproj.gguf", width=64)
    backend = loaded(folder)
    assert not sees(backend)
    assert "mmproj.gguf lies beside the model, but is not used." in " ".join(backend.info.notes)
    assert "the projector" not in backend.info.notes[0]


def test_one_that_is_found_and_takes_too_much_memory_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs: list[int] = []
    check = memory.check

    def recorded(need: memory.Need, device: Device, name: str) -> None:
        needs.append(need.total)
        check(need, device, name)

    monkeypatch.setattr(memory, "check", recorded)
    loaded(folder)
    path = models_mmproj.write(folder / "mmproj.gguf")
    monkeypatch.setattr(resources, "available", lambda: needs[0])
    backend = loaded(folder)
    assert not sees(backend)
    assert "mmproj.gguf lies beside the model, but is not used. model.gguf needs" in " ".join(backend.info.notes)
    assert "the projector" not in backend.info.notes[0]
    with pytest.raises(OutOfMemory, match="the projector"):
        loaded(folder, mmproj=str(path))


@pytest.mark.parametrize(
    ("make", "error", "problem"),
    [
        (lambda _: models_gguf.smollm2(), InvalidOption, "is no projector, but a model of the architecture llama"),
        (lambda path: models_mmproj.write(path, width=64), ModelFileError, "mismatch between text model"),
        (lambda path: models_mmproj.write(path, block_count=2**31), ModelFileError, "1 to 512|0 to 512"),
        (lambda path: models_mmproj.write(path, image_std=[0.5, 0.0, 0.5]), ModelFileError, "divides by zero"),
        (lambda path: models_mmproj.write(path, image_mean=[0.5]), ModelFileError, "a number for each colour"),
        (lambda path: models_mmproj.write(path, embedding_length=0), ModelFileError, "is 0; 1 to"),
        (lambda path: models_mmproj.write(path, patch_size=7), ModelFileError, "is damaged, or of a kind"),
        (lambda path: models_mmproj.write(path, **{"attention.head_count": 5}), ModelFileError, "is damaged, or of"),
        (lambda path: models_mmproj.write(path, "idefics3"), ModelFileError, "vocabulary lacks tokens"),
        (lambda path: path, ModelFileError, "does not exist"),
    ],
)
def test_a_named_one_must_fit(tmp_path: Path, make: Any, error: type[Exception], problem: str) -> None:
    projector = make(tmp_path / "mmproj.gguf")
    with pytest.raises(error, match=problem) as caught:
        load(mmproj=str(projector))
    assert getattr(caught.value, "field", None) == "config.mmproj"


def test_its_memory_is_counted(folder: Path) -> None:
    plain = loaded(folder, mmproj="off").info.notes[0]
    path = models_mmproj.write(folder / "mmproj.gguf")
    assert "the projector" not in plain
    assert "the projector" in loaded(folder).info.notes[0]
    backend, blind = load(folder / "model.gguf"), load(folder / "model.gguf", mmproj="off")
    assert backend.memory() - blind.memory() > path.stat().st_size
    backend.close()
    blind.close()


def test_a_projector_alone_is_no_model() -> None:
    with pytest.raises(ModelFileError, match="register the model itself"):
        Loaded().load(models_mmproj.projector(), Device("cpu", threads=1), GgufOptions())
