"""Language models on engines that batch by themselves, in processes of their own: vLLM and TensorRT-LLM.

``backend.py`` is what both have in common: tokens go in, tokens come out, and what they say is told as for every other
model. ``streams.py`` keeps what an engine has generated until a step takes it. ``vllm.py`` and ``tensorrt_llm.py`` say
how each engine is started and asked; ``trt_folder.py`` reads what TensorRT-LLM's folders say of themselves.
"""
