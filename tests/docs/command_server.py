"""Commands of the pages in forks of one process that has imported PyTorch and MONAI: importing takes longer than most.

`python command_server.py serve SOCKET` waits for commands until its standard input ends;
`python command_server.py call SOCKET MODULE ARGUMENTS` has one run where it is, and ends as it ends.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
from pathlib import Path


def serve(path: str) -> None:
    """Run commands, one at a time."""
    import monai.bundle  # noqa: F401

    import tools.fidelity
    import tools.run  # noqa: F401

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    while sys.stdin not in (ready := select.select([listener, sys.stdin], [], [])[0]):
        assert ready
        connection, _ = listener.accept()
        message, screens, _, _ = socket.recv_fds(connection, 1 << 20, 2)
        child = os.fork()
        if not child:
            _run(json.loads(message), screens)
        for screen in screens:
            os.close(screen)
        connection.sendall(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
        connection.close()


def _run(call: dict[str, str], screens: list[int]) -> None:
    """Become the command, as `python -m` would start it; does not return."""
    import runpy
    import traceback

    from doc_commands import small, tools_words

    os.dup2(screens[0], 1)
    os.dup2(screens[1], 2)
    os.chdir(call["folder"])
    sys.path[0] = call["folder"]
    module, *words = call["words"]
    given = tools_words(["python", "-m", module, *words], Path(call["folder"]).name)
    sys.argv = [module, *words, *(small(given) if given else [])]
    code = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def call(path: str, words: list[str]) -> int:
    """Have a command run; return its exit code."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    socket.send_fds(connection, [json.dumps({"folder": str(Path.cwd()), "words": words}).encode()], [1, 2])
    return int(connection.recv(16))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        sys.exit(call(sys.argv[2], sys.argv[3:]))
