"""A stand-in for gcloud that remembers: gcloud_standin.py STATE COMMAND... (STATE is a JSON file)

It knows the commands of setup.sh and of the doctor, and no more; that the real gcloud takes them is
another test.
"""

import json
import re
import sys

path, *argv = sys.argv[1:]
with open(path) as file:  # noqa: PTH123 - starts faster
    state = json.load(file)
things, policies = state["things"], state["policies"]
words = [word for word in argv if not word.startswith("--")]
flags = dict(word[2:].partition("=")[::2] for word in argv if word.startswith("--"))
verbs = ["add-iam-policy-binding", "apply", "create", "describe", "enable", "import", "list"]
verbs += ["get-iam-policy"]
at = next(number for number, word in enumerate(words) if word in verbs)
kind, verb, names = " ".join(words[:at]), words[at], words[at + 1 :]
name = names[-1] if names else ""


def there(name: str) -> None:
    if kind != "projects" and name not in things.get(kind, []):
        sys.exit(f"ERROR: ({kind}) NOT_FOUND: {name}")


def add(kind: str, *names: str) -> None:
    things[kind] = sorted({*things.get(kind, []), *names})


def from_file(flag: str, pattern: str) -> list[str]:
    with open(flags[flag]) as file:  # noqa: PTH123
        return re.findall(pattern, file.read(), re.M)


state["ran"].append(f"{kind} {verb}")
match verb:
    case "enable":
        add(kind, *names)
    case "create":
        add(kind, f"{name}@p.iam.gserviceaccount.com" if "service-accounts" in kind else name)
    case "import":
        add(kind, *from_file("source", r"^name: (.*)"))
    case "apply":
        add("deploy targets", *from_file("file", r"^kind: Target\nmetadata: \{name: (.*)\}"))
    case "describe":
        there(name)
        print("{}")
    case "list":
        if kind == "secrets versions":
            kind = "secrets"
            there(name)
            print("1" if name in state["values"] else "")
        else:
            print("\n".join(things.get(kind, [])))
    case "add-iam-policy-binding":
        there(name)
        policies.setdefault(f"{kind} {name}", []).append([flags["role"], flags["member"]])
    case "get-iam-policy":
        there(name)
        granted = policies.get(f"{kind} {name}", [])
        print(json.dumps({"bindings": [{"role": r, "members": [m]} for r, m in granted]}))
with open(path, "w") as file:  # noqa: PTH123
    json.dump(state, file)
