"""Start Modelsmith as an app of its own, or run its tests. Needs nothing but Python 3.10 or later.

    python3 launch.py [--models DIR] [--port N]     opens the Modelsmith tab on 127.0.0.1
    python3 launch.py --test [PYTEST ARGUMENTS]     passes the tests

Each way makes a virtual environment of its own beside this file and installs pinned packages into it; the next start
finds it ready.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
GRADIO = {"3.41.2": "gradio3", "4.40.0": "gradio4"}
DEFAULT_GRADIO = "4.40.0"
MOST_WORKERS = 4  # each holds torch, and some a browser


def requirement_files(gradio: str, test: bool) -> list[Path]:
    """The pinned requirements for a gradio version, with those of the tests where they are wanted."""
    names = [f"standalone-{GRADIO[gradio]}.txt"] + (["test.txt"] if test else [])
    return [ROOT / "requirements" / name for name in names]


def environment_folder(gradio: str, test: bool) -> Path:
    """Where the virtual environment lies; MODELSMITH_ENVIRONMENTS moves it elsewhere."""
    base = Path(os.environ.get("MODELSMITH_ENVIRONMENTS", ROOT))
    return base / (f".venv-test-{GRADIO[gradio]}" if test else f".venv-{GRADIO[gradio]}")


def python_of(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def prepare(gradio: str, test: bool) -> Path:
    """Make the environment, or bring it up to date, and return its interpreter."""
    folder, files = environment_folder(gradio, test), requirement_files(gradio, test)
    wanted = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest() + f" {sys.version_info[:2]}"
    stamp, python = folder / "modelsmith-requirements", python_of(folder)
    if python.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    print(f"Setting up {folder} (once; some minutes)", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    # Compiled as they are imported: most modules never are.
    install = [*pip, "install", "--no-compile", *(word for file in files for word in ("-r", str(file)))]
    # The pins name nearly all that is needed, so that nothing has to be worked out; what torch wants beside it depends
    # on its build, and pip adds that where it is missing.
    subprocess.run([*install, "--no-deps"], check=True)
    if subprocess.run([*pip, "check"], stdout=subprocess.DEVNULL, check=False).returncode:
        subprocess.run(install, check=True)
    stamp.write_text(wanted, encoding="utf-8")
    return python


def test_arguments(rest: list[str]) -> list[str]:
    """What is given to pytest: files of tests go side by side, except beside a real webui, which runs once.

    `-n 0` among the arguments keeps all in one process.
    """
    workers = side_by_side(rest)
    return ["-n", str(workers), "--dist", "loadfile", *rest] if workers > 1 else rest


def side_by_side(rest: list[str]) -> int:
    """How many processes the tests are given to; 1 where the arguments or a webui settle it."""
    if "MODELSMITH_WEBUI" in os.environ or any(argument.startswith("-n") for argument in rest):
        return 1
    return min(MOST_WORKERS, os.cpu_count() or 1)


def child_environment(workers: int = 1) -> dict[str, str]:
    """The environment of the process that is started: the library on the path, no calls home.

    workers: how many processes of tests go side by side. Each has its share of the cores: torch's threads wait for
    each other by turning in circles, and two processes that each took both cores of two took twice as long.
    """
    paths = [str(ROOT / "extension_lib"), os.environ.get("PYTHONPATH", "")]
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))} if workers > 1 else {}
    return {
        **threads,
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_OFFLINE": "1",
    }


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description="Modelsmith, standalone")
    parser.add_argument("--test", action="store_true", help="pass the tests; further arguments go to pytest")
    parser.add_argument("--gradio", choices=sorted(GRADIO), default=DEFAULT_GRADIO, help="which gradio to use")
    arguments, rest = parser.parse_known_args(argv)
    return arguments, rest


def main(argv: list[str]) -> int:
    """Prepare the environment and run the app or the tests in it."""
    if sys.version_info < (3, 10):  # noqa: UP036 - said before anything else can fail
        print("Modelsmith needs Python 3.10 or later.", file=sys.stderr)
        return 2
    arguments, rest = parse(argv)
    try:
        python = prepare(arguments.gradio, arguments.test)
    except subprocess.CalledProcessError as error:
        print(f"The packages could not be installed (pip ended with {error.returncode}).", file=sys.stderr)
        return 1
    module = "pytest" if arguments.test else "modelsmith_webui.standalone"
    workers = side_by_side(rest) if arguments.test else 1
    rest = test_arguments(rest) if arguments.test else rest
    try:
        ended = subprocess.run(
            [str(python), "-m", module, *rest], cwd=ROOT, env=child_environment(workers), check=False
        )
    except KeyboardInterrupt:
        return 130
    return ended.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
