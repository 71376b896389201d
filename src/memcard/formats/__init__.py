"""File formats: one file is a container that can be sniffed, opened and created."""
