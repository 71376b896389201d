"""The library on the disk: manifests, names, files, trash. Specified in ``docs/spec/library.md``."""
