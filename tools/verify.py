"""Verify a packed bundle."""

from __future__ import annotations

from scintikit.errors import PackageError
from scintikit.files import write_json
from scintikit.packing import passed, to_json, verify_bundle
from scintikit.packing.verify import TIME_LIMIT_S

MARKS = {True: "passed", False: "FAILED", None: "not run"}


def verify(
    bundle: str,
    install: bool = False,
    run: bool = True,
    sha256: str | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    output: str | None = None,
) -> None:
    """Check a packed bundle as the model zoo does, and further, and print a table.

    Nothing of the bundle is evaluated before its hashes are checked. Then it is run on a simulated scintigram, by its
    own copy of the library.

    Parameters
    ----------
    bundle : str
        A zip made by `pack`, or the folder into which one was unpacked.
    install : bool
        Run it in a new environment that has the packages of its metadata and nothing else. Downloads about 1 GB.
    run : bool
        `--run False`: only the checks that need no running.
    sha256 : str, optional
        What the author says the zip's SHA-256 is; another zip is refused. Without it, the check tells that the bundle
        is whole, not whose it is.
    time_limit_s : float
        A bundle that has not done its trial after so many seconds has failed it.
    output : str, optional
        Also write the results to this JSON file.
    """
    results = verify_bundle(bundle, install, run, sha256, time_limit_s)
    width = max(len(result.name) for result in results)
    for result in results:
        print(f"{result.name:<{width}}  {MARKS[result.passed]:<7}  {result.detail}")
    if output:
        write_json(output, to_json(bundle, results))
    if not passed(results):
        failed = [result.name for result in results if result.passed is False]
        raise PackageError(f"{bundle} failed: {', '.join(failed)}; do not use it before that is mended")
