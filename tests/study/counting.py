"""A small study of pieces that only count: what the tests of the machinery run, in this process or another."""

import sys
from pathlib import Path

from scintikit.study.running import LocalExecutor, run_all
from scintikit.study.work import Command, Made, Work

#: Adds to the numbers of the files given, one line at a time, into the first; goes on from what is there.
SCRIPT = """
import sys, time, pathlib
file, until, pause, *others = sys.argv[1:]
file = pathlib.Path(file)
first = sum(int(pathlib.Path(other).read_text().split()[-1]) for other in others)
start = len(file.read_text().split()) if file.exists() else 0
for number in range(start, int(until)):
    with file.open("a") as opened: opened.write(f"{first + number}\\n")
    time.sleep(float(pause))
"""


def counting(name: str, until: int, *needs: Work, pause: float = 0.05) -> Work:
    """Return a piece that counts from the sum of what its needs came to."""
    others = [Made(need, "numbers") for need in needs]
    return Work("count", name, (Command((Made(path="numbers"), until, pause, *others), (), program=("-c", SCRIPT)),))


def failing(name: str, *needs: Work) -> Work:
    """Return a piece that fails."""
    command = Command(tuple(Made(need) for need in needs), (), program=("-c", "import sys; sys.exit('error: no luck')"))
    return Work("fail", name, (command,))


def graph() -> list[Work]:
    """Return a few pieces that stand on each other."""
    first, second = counting("first", 10), counting("second", 15)
    third, fourth = counting("third", 12, first, second), counting("fourth", 8, first)
    return [third, fourth, counting("fifth", 9, third, fourth)]


def numbers(works: list[Work], root: Path) -> list[str]:
    """Return what each piece wrote."""
    return [(root / work.folder / "numbers").read_text() for work in works]


if __name__ == "__main__":
    print("begin", flush=True)
    run_all(graph(), Path(sys.argv[1]), LocalExecutor(2))
