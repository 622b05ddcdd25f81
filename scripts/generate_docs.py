"""Writes the parts of the documents that come from the code.

    python -m scripts.generate_docs [--check]

A document marks such a part, and everything between the two lines is replaced::

    <!-- generated: settings -->
    <!-- end -->

`SECTIONS` says what each name stands for. With ``--check`` nothing is written, and the exit code is 1 when a document
is not what would be written.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from backends.boosting.backend import BoostingOptions
from backends.engines.tensorrt_llm import TensorRtLlmOptions
from backends.engines.vllm import VllmOptions
from backends.gguf.embedding import EmbeddingOptions
from backends.gguf.options import GgufOptions
from backends.gguf.rerank import RerankOptions
from backends.onnx import OnnxOptions
from backends.sklearn.backend import SklearnOptions
from backends.tensorflow import TensorFlowOptions
from backends.tflite import TfliteOptions
from backends.torch.options import TorchOptions
from backends.transformers.backend import TransformersGenerationOptions
from backends.transformers.embedding import TransformersEmbeddingOptions
from backends.transformers.heads import ClassifyOptions
from backends.transformers.speech import SpeechOptions
from backends.whisper.backend import WhisperOptions
from backends.whisper_cpp.backend import WhisperCppOptions
from engine.model_options import ModelOptions
from scripts.docs import api, command_line, options, results

ROOT = Path(__file__).resolve().parents[1]
_SECTION = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def documents() -> list[Path]:
    """The documents that may have generated parts."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def refreshed(text: str) -> str:
    """A document with its generated parts anew. Raises `KeyError` for a part that nothing generates."""
    return _SECTION.sub(lambda m: f"{m[1]}{SECTIONS[m[2]]().strip()}\n{m[3]}", text)


def main() -> int:
    """Writes, or checks, every document. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the generated parts of the documents.")
    parser.add_argument("--check", action="store_true", help="only say which documents are stale")
    check = parser.parse_args().check
    stale = [file for file in documents() if file.read_text() != refreshed(file.read_text())]
    for file in stale:
        print(f"{file.relative_to(ROOT)} {'is stale; run: make docs' if check else 'written'}", file=sys.stderr)
        if not check:
            file.write_text(refreshed(file.read_text()))
    return 1 if check and stale else 0


SECTIONS: dict[str, Callable[[], str]] = {
    "commands": command_line.command_list,
    "exit-codes": command_line.exit_codes,
    "cli": command_line.cli,
    "settings": options.settings,
    "variables": options.variables,
    "model-options": options.options_of(ModelOptions),
    "onnx-options": options.options_of(OnnxOptions),
    "gguf-options": options.options_of(GgufOptions),
    "gguf-embedding-options": options.options_of(EmbeddingOptions),
    "gguf-rerank-options": options.options_of(RerankOptions),
    "sklearn-options": options.options_of(SklearnOptions),
    "torch-options": options.options_of(TorchOptions),
    "transformers-options": options.options_of(TransformersGenerationOptions),
    "transformers-classify-options": options.options_of(ClassifyOptions),
    "transformers-embedding-options": options.options_of(TransformersEmbeddingOptions),
    "transformers-speech-options": options.options_of(SpeechOptions),
    "vllm-options": options.options_of(VllmOptions),
    "tensorrt_llm-options": options.options_of(TensorRtLlmOptions),
    "boosting-options": options.options_of(BoostingOptions),
    "tensorflow-options": options.options_of(TensorFlowOptions),
    "tflite-options": options.options_of(TfliteOptions),
    "whisper-options": options.options_of(WhisperOptions),
    "whisper-cpp-options": options.options_of(WhisperCppOptions),
    "routes": api.routes_of(*api.NATIVE),
    "openai-routes": api.routes_of("openai"),
    "ollama-routes": api.routes_of("ollama"),
    "anthropic-routes": api.routes_of("anthropic"),
    "headers": api.headers,
    "errors": api.error_codes,
    "metrics": api.metrics,
    "benchmarks": results.benchmarks,
}
"""What can stand between the marks, by name."""


if __name__ == "__main__":
    raise SystemExit(main())
