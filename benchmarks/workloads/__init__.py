"""One module a workload. Each has ``run(options) -> Result``."""
