"""Run commands of the real gcloud in one process, as starting it takes a second for each of them.

Run by gcloud's own Python: gcloud_once.py LIB [parse] < commands.json > results.json, a list of
[exit code, what it said]. LIB is the folder `lib` of the installation; `parse` runs nothing.
"""

import contextlib
import io
import json
import os
import sys

sys.path[:0] = [sys.argv[1], os.path.join(sys.argv[1], "third_party")]  # noqa: PTH118

from googlecloudsdk import gcloud_main  # noqa: E402
from googlecloudsdk.core import log  # noqa: E402

commands = json.load(sys.stdin)
results = []
cli = gcloud_main.CreateCLI([])
do = cli._CLI__parser.parse_args if "parse" in sys.argv[2:] else cli.Execute
for command in commands:
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        log.Reset(out, err)
        try:
            do(command)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except Exception as error:
            code, _ = 1, err.write(f"{type(error).__name__}: {error}")
    results.append([code, out.getvalue() + err.getvalue()])
print(json.dumps(results), file=sys.__stdout__)
