"""Lists every public name of the TensorRT Python bindings from their wheel, on a machine without TensorRT.

    pip download --no-deps tensorrt-cu13-bindings==11.4.0.106
    python tests/reference/list_tensorrt_api.py tensorrt_cu13_bindings-*.whl >
    tests/reference/tensorrt_11_api.txt

The bindings need TensorRT's shared libraries only to run. Empty libraries that define the missing symbols
(made here with the C compiler) are enough to import the module and list it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

_LIST = """
import importlib.machinery, importlib.util, os, sys
sys.setdlopenflags(os.RTLD_LAZY)
loader = importlib.machinery.ExtensionFileLoader("tensorrt", sys.argv[1])
module = importlib.util.module_from_spec(importlib.util.spec_from_loader("tensorrt", loader))
loader.exec_module(module)
for name in sorted(n for n in dir(module) if not n.startswith("_")):
    print(name)
    value = getattr(module, name)
    if isinstance(value, type):
        for member in sorted(m for m in dir(value) if not m.startswith("_")):
            print(f"{name}.{member}")
            inner = getattr(value, member, None)
            if isinstance(inner, type):
                for part in sorted(m for m in dir(inner) if not m.startswith("_")):
                    print(f"{name}.{member}.{part}")
"""


def _output(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **environment}
    )
    return done.stdout


def _needed_libraries(bindings: Path) -> list[str]:
    lines = _output("readelf", "-d", str(bindings)).splitlines()
    names = [line.split("[")[1].rstrip("]") for line in lines if "NEEDED" in line]
    return [name for name in names if name.startswith("libnv")]


def _missing_symbols(bindings: Path) -> list[str]:
    """Undefined symbols without a version: those of the C and C++ libraries have one."""
    lines = _output("nm", "-D", "--undefined-only", str(bindings)).splitlines()
    symbols = [line.split()[-1] for line in lines]
    return [name for name in symbols if "@" not in name and not name.startswith(("Py", "_Py"))]


def _definition(symbol: str) -> str:
    """Type information and tables are data; everything else is a function (the version is asked on
    import)."""
    if symbol.startswith(("_ZTI", "_ZTV", "_ZTS")):
        return f"char {symbol}[256];\n"
    return f"long {symbol}(void) {{ return 0; }}\n"


def main(wheel: Path) -> None:
    """Print the names, one a line."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            archive.extract("tensorrt_bindings/tensorrt.so", folder)
        bindings = Path(folder) / "tensorrt_bindings" / "tensorrt.so"
        stub = Path(folder) / "stub.c"
        symbols = _missing_symbols(bindings)
        stub.write_text("".join(_definition(name) for name in symbols))
        for library in _needed_libraries(bindings):
            target = str(Path(folder) / library)
            _output(
                "cc",
                "-shared",
                "-fPIC",
                "-w",
                "-fno-builtin",
                f"-Wl,-soname,{library}",
                "-o",
                target,
                str(stub),
            )
        sys.stdout.write(_output(sys.executable, "-c", _LIST, str(bindings), LD_LIBRARY_PATH=folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
