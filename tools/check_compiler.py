"""Check of the compiler and Python headers that fairseq, published only as source, is built with.

It compiles what the build compiles: a C++ file that includes Python's headers.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

SOURCE = "#include <Python.h>\n#include <vector>\nint main() { return 0; }\n"


def complaint():
    """Return one line that says what to install, or None if C++ compiles."""
    command = shlex.split(os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "g++")
    if not shutil.which(command[0]):
        return (
            "error: fairseq is built on this machine, which has no C++ compiler "
            f"({command[0]}). Install one, such as g++ on Debian and Ubuntu or gcc-c++ on Fedora "
            "and RHEL, or name yours: `make setup CXX=NAME`"
        )
    headers = sysconfig.get_path("include")
    if not (Path(headers) / "Python.h").is_file():
        version = "{}.{}".format(*sys.version_info)
        return (
            "error: fairseq is built on this machine, which lacks the headers of Python "
            f"{version} ({headers}/Python.h). Install them: python{version}-dev on Debian and "
            f"Ubuntu, python{version}-devel on Fedora and RHEL"
        )
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "hello.cpp"
        source.write_text(SOURCE, encoding="ascii")
        process = subprocess.run(
            [*command, f"-I{headers}", "-c", str(source), "-o", f"{folder}/hello.o"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
    if process.returncode == 0:
        return None
    errors = [line.strip() for line in process.stderr.splitlines() if "error" in line.lower()]
    return (
        f"error: fairseq is built on this machine, whose C++ compiler ({' '.join(command)}) fails: "
        f"{(errors or [f'exit code {process.returncode}'])[0]}. Install g++, or name another one: "
        "`make setup CXX=NAME`"
    )


if __name__ == "__main__":
    text = complaint()
    if text:
        sys.stderr.write(text + "\n")
        sys.exit(2)
