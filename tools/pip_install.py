"""Run ``pip install`` or ``pip wheel`` with the user's settings of where packages come from.

    .venv/bin/python tools/pip_install.py --no-deps -r requirements.lock
    .venv/bin/python tools/pip_install.py wheel --no-deps --wheel-dir dist ./shared/dyt
    .venv/bin/python tools/pip_install.py --unpinned torch==2.4.1    # not the lock's version

No other settings apply.

Settings such as ``user``, ``target``, ``constraint`` or ``require-virtualenv``, in pip's files or
in PIP_* variables, are for other installations: with them this one fails, or installs something
else. Indexes, proxies and certificates stay in force. Valid syntax for Python 3.8.
"""

import ast
import os
import subprocess
import sys

SOURCES = (
    "index-url", "extra-index-url", "no-index", "find-links", "trusted-host", "cert", "client-cert",
    "proxy", "timeout", "default-timeout", "retries", "resume-retries", "keyring-provider",
    "use-feature", "cache-dir", "no-cache-dir",
)  # fmt: skip
LOCK = "requirements.lock"
NOISE = "WARNING: Location "
"""Start of a warning that pip prints once for every package that a local index does not have."""


def pip(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "pip", *arguments], text=True, **options)


def settings(listed):
    """Return the settings of SOURCES from the output of ``pip config list``, as pip ranks them."""
    found = {}
    for section in ("global", "install", ":env:"):
        for line in listed.splitlines():
            name, _, value = line.partition("=")
            start, _, key = name.rpartition(".")
            if start == section and key in SOURCES:
                found[key] = ast.literal_eval(value)
    return found


def environment(environ, chosen, pin=True, isolated=True):
    """Return ``environ`` with the ``chosen`` settings in place of all others of pip.

    ``isolated`` is False with --no-build-isolation, which pip 25.3 and later refuse together with
    a build constraint.
    """
    kept = {name: value for name, value in environ.items() if not name.startswith("PIP_")}
    variables = {"PIP_" + key.upper().replace("-", "_"): value for key, value in chosen.items()}
    # Build dependencies of source packages are pinned by the lock (two names: old and new pip).
    pinned = {}
    if pin:
        pinned["PIP_CONSTRAINT"] = LOCK
    if pin and isolated:
        pinned["PIP_BUILD_CONSTRAINT"] = LOCK
    return {**kept, **variables, **pinned, "PIP_CONFIG_FILE": os.devnull}


def main(arguments):
    # A setting `user = true` would be taken for the option --user of `pip config`.
    listed = pip("config", "list", stdout=subprocess.PIPE, env={**os.environ, "PIP_USER": "0"})
    if listed.returncode:
        return listed.returncode
    command = ["wheel" if arguments[:1] == ["wheel"] else "install"]
    command += ["--disable-pip-version-check", "--quiet"]
    pin = "--unpinned" not in arguments
    isolated = "--no-build-isolation" not in arguments
    arguments = [word for word in arguments if word not in ("wheel", "--unpinned")]
    process = subprocess.Popen(
        [sys.executable, "-m", "pip", *command, *arguments],
        env=environment(os.environ, settings(listed.stdout), pin, isolated),
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    for line in process.stderr:
        if not line.startswith(NOISE):
            sys.stderr.write(line)
    return process.wait()


if __name__ == "__main__":
    os.chdir(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    sys.exit(main(sys.argv[1:]))
