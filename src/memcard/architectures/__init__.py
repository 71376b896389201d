"""Model families as data: key patterns, components, configs, default settings."""
