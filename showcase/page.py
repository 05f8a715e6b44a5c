"""The loop's templates and charts, as the template has them: the year's page looks like the others.

Nothing else of the package is imported: the showcase knows the project from outside.
"""

import sys
from pathlib import Path

SOURCE = (
    Path(__file__).resolve().parents[1] / "{{cookiecutter.project_slug}}/packages/mlops-loop/src"
)
sys.path.append(str(SOURCE))
WRITTEN = sys.dont_write_bytecode
sys.dont_write_bytecode = True  # cookiecutter would render what is left there
from mlops_loop.reporting import charts, formats, page  # noqa: E402

sys.dont_write_bytecode = WRITTEN
__all__ = ["charts", "formats", "page"]
