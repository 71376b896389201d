"""Teach a checkpoint pictures of one's own: data folder, buckets, caches, adapters, the loop."""
