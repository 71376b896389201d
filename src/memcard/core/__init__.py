"""What everything else agrees on: tensor specs, the checkpoint protocol, the registry, progress."""
