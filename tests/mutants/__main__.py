"""`make mutants`: plants each seeded fault in a copy of the project and runs the tests that must notice it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
PARTS = ("shared", "gateway", "broker", "inferencer", "benchmarker", "preparer", "reporter", "trainer", "console")
BESIDES = ("tests", "benchmarks", "examples", "docs", "deploy", "pyproject.toml", "Makefile", "README.md")
BOUND_S = 300.0
PASSED, FAILED = 0, 1
"""pytest's exit codes; any other means that the tests did not run, which kills nothing."""


def main(words: list[str]) -> int:
    """Run those with one of the words in file or name, or all; returns the exit code, 1 when one survives."""
    chosen = [each for each in MUTANTS if not words or any(word in f"{each.file}: {each.name}" for word in words)]
    if not chosen:
        print(f"No mutant has {' or '.join(words)} in its file or name.")
        return 1
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder)
        for part in (*PARTS, *BESIDES):
            _copy(ROOT / part, copy / part)
        tests = sorted({file for mutant in chosen for file in mutant.killed_by})
        if _pytest(copy, tests) != PASSED:
            print("The tests fail without any mutant; mend them first.")
            return 1
        survivors = [mutant for mutant in chosen if not killed(mutant, copy)]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants killed.")
    return 1 if survivors else 0


def killed(mutant: Mutant, copy: Path) -> bool:
    """Whether the named tests notice the fault."""
    file = copy / mutant.file
    sound = file.read_text()
    file.write_text(sound.replace(mutant.original, mutant.mutated))
    outcome = _pytest(copy, [*mutant.killed_by, "--exitfirst"])
    file.write_text(sound)
    print(f"{'killed  ' if outcome == FAILED else 'SURVIVED'} {mutant.file}: {mutant.name}", flush=True)
    return outcome == FAILED


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy2(source, target)


def _pytest(copy: Path, arguments: list[str]) -> int:
    """The exit code of pytest in the copy, whose code comes before the installed one. A hang counts as a failure."""
    command = [sys.executable, "-B", "-m", "pytest", "-q", "--no-header", *arguments]
    environment = os.environ | {"PYTHONPATH": str(copy)}
    try:
        return subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, timeout=BOUND_S, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
