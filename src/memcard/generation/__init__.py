"""Pictures out of checkpoints: pipelines, samplers, image metadata."""
