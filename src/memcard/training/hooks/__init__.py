"""Other people's trainers, one file each: how their state gets into a save, and back.

``Registry("memcard.training.hooks")[name]`` is called with the class of the Checkpointer, what it is to
watch, the folder of the run, and the options of a Checkpointer; see ``memcard.training._trainers``. ``dcp`` is
not called: torch.distributed.checkpoint saves by itself, so its entry has a storage ``writer`` and a ``reader``.
"""
