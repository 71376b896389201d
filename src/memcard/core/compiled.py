"""Loops written in LLVM's language, compiled for this very processor when they are needed.

Making a few of them takes 0.1 s with the import of llvmlite and leaves nothing on the disk. A call lets
other threads run. Without llvmlite the import of this module fails, and callers go on with numpy.

Source: https://llvm.org/docs/LangRef.html
"""

from __future__ import annotations

from contextlib import suppress
from ctypes import addressof, c_char
from threading import RLock
from typing import Any

from llvmlite import binding as llvm

from memcard.core.give_back import leave

# Two threads that compile the same loop would each get one, and a cache would drop the one of them,
# with its code, while it may be running.
ONE_AT_A_TIME = RLock()
_BYTE = c_char.from_buffer


def assemble(text: str) -> Any:
    """Compile functions in LLVM's language for this processor; keep what is returned."""
    with suppress(RuntimeError):  # llvmlite 0.45 and later do this by themselves, and say so
        llvm.initialize()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=3
    )
    module = llvm.parse_assembly(text)
    module.triple, module.data_layout = llvm.get_default_triple(), str(machine.target_data)
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = options.loop_unrolling = True
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    leave("libllvmlite")
    return engine


def address(array: Any) -> int:
    """Return where the values of a numpy array lie."""
    try:
        return addressof(_BYTE(array))  # a quarter of the time that asking the array itself takes
    except (TypeError, ValueError):  # it may not be written to, or is empty
        place: int = array.__array_interface__["data"][0]
        return place
