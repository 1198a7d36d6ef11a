"""The list of seeded faults cannot rot: each text is in the code, once, and its change is one."""

from __future__ import annotations

import ast

import pytest

from tests.mutants import MUTANTS, Mutant
from tests.mutants.__main__ import ROOT


def test_there_are_enough_of_each() -> None:
    files = [mutant.file for mutant in MUTANTS]
    assert len(MUTANTS) >= 10
    assert {file.rpartition("/")[0] for file in files} >= {"broker", "shared/db", "shared/verdict"}
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_mutant_can_be_planted(mutant: Mutant) -> None:
    sound = (ROOT / mutant.file).read_text()
    assert sound.count(mutant.original) == 1, f"change the mutant with the code: {mutant.original!r}"
    planted = sound.replace(mutant.original, mutant.mutated)
    assert ast.dump(ast.parse(planted)) != ast.dump(ast.parse(sound))
    assert all((ROOT / file).is_file() for file in mutant.killed_by)
