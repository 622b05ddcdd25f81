"""SmolLM2-135M-Instruct as a Hugging Face folder, from a GGUF file: weights in 16 bits, and the tokenizer."""

from __future__ import annotations

import os
from pathlib import Path


def write(source: Path, file: str, folder: Path) -> None:
    """Writes the model in `file` of the folder `source` to `folder`."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        source, gguf_file=file, dtype=torch.bfloat16, quantization_config=transformers.GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(folder)
