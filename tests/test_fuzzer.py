"""The fuzzer finds what is planted, and nothing else: tests/fuzzer.py says what it tries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import fuzz_cases, fuzzer

SHORT = {"files": 100, "prompts": 100, "requests": 100, "corpora": 100, "recipes": 50}
PLANTED = {
    "raises": "TypeError: planted (fuzz_child.py:",
    "burns": "s of CPU",
    "swallows": "MB of memory",
    "dies": "the process ended with -6",
    "babbles": "no sentence",
    "is fine": "",
    "is refused": "",
}


def test_every_planted_fault_is_found_and_named() -> None:
    jobs = [("plants", at, name) for at, name in enumerate([*PLANTED, *PLANTED])]
    (row,) = fuzzer.tried(jobs).values()
    assert (row.cases, row.accepted, row.refused) == (len(jobs), 2, 2)
    found = {(each["number"], each["case"]): each["fault"] for each in row.faults}
    assert set(found) == {(at, name) for _, at, name in jobs if PLANTED[name]}
    assert all(PLANTED[name] in fault for (_, name), fault in found.items()), found
    assert row.slowest_ms > 1000 and row.largest_mb > 128


@pytest.mark.parametrize("counts", [SHORT, pytest.param(fuzzer.LONG, marks=pytest.mark.slow)], ids=["short", "long"])
def test_whatever_arrives_is_taken_or_refused_in_a_sentence(counts: dict[str, int]) -> None:
    jobs = fuzzer.every(counts, seed=0)
    rows = fuzzer.tried(jobs)
    print(f"seed 0\n{fuzzer.table(rows)}")
    assert not any(row.faults for row in rows.values()), fuzzer.faults(rows)
    assert sum(row.cases for row in rows.values()) == len(jobs)
    # Cases that are all refused, or all taken, would look at half of the code.
    assert all(row.accepted > row.cases / 25 for row in rows.values())
    assert all(row.refused > row.cases / 4 for kind, row in rows.items() if kind != "prompts")


def test_a_case_is_the_same_in_every_run_and_a_value_of_json() -> None:
    for kind in fuzz_cases.KINDS:
        cases = [fuzz_cases.draw(kind, 7, number) for number in range(50)]
        again = [fuzz_cases.draw(kind, 7, number) for number in range(50)]
        assert json.dumps(cases) == json.dumps(again) != json.dumps([fuzz_cases.draw(kind, 8, at) for at in range(50)])


def test_found_cases_are_kept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzer, "KEPT", tmp_path / "fuzzed.json")
    (tmp_path / "fuzzed.json").write_text('{"prompts": ["a"]}', encoding="utf-8")
    row = fuzzer.Row("prompts")
    for case in ("a", "\u732b", "b"):
        row.add(0, case, {"cpu": 0.0, "memory": 0.0, "refused": "", "fault": "" if case == "b" else "some"})
    for _ in range(2):
        fuzzer.keep({"prompts": row})
    assert list(fuzzer.kept()) == [("prompts", -1, "a"), ("prompts", -2, "\u732b")]
