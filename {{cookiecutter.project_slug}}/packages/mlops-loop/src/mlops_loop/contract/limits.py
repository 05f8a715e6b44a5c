"""Limits that the API and files share."""

import re

MAX_ROWS = 1000  # in one request
ODD_NAME = re.compile(r'[\\"\x00-\x1f]')  # no name of a field in msgspec
