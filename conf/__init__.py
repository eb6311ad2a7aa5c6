"""One folder per group, one YAML per option; `run.yaml` is the primary config."""
