"""A process that has imported vtl and computed nothing, whose forks run `vtl` with other arguments.

python -m tests.faults.warm

Each line of its input is a JSON object with `arguments`, `directory`, `log` and `environment`. The
fork's process id comes back as a line at once, and its exit status as another once it has ended.
"""

import json
import os
import sys
import traceback
from typing import Any

from tests.faults import slowly

# What a process of `vtl` would import.
from vtl import main
from vtl.report import __main__ as report
from vtl.review import __main__ as review
from vtl.weights import __main__ as weights

IMPORTED = (main, report, review, weights)


def run(job: dict[str, Any]) -> None:
    """Run the job in this process, which then ends."""
    os.chdir(job["directory"])
    os.environ.update(job["environment"])
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    status = 0
    try:
        sys.argv[1:] = job["arguments"]
        slowly.main()
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    for line in sys.stdin:
        child = os.fork()
        if not child:
            run(json.loads(line))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
