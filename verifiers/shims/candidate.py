"""Runs inside the sandbox: loads the candidate's program and answers calls of its functions.

Nothing here is trusted by the host. A candidate that takes this file over can say that a call
returned some value, which it could have said by returning it. It never sees an expected value.

Messages are frames (4-byte big-endian length, JSON). In a session they go over the sandbox's
channel; in a run, over stdin and stdout, out of the way of programs that read and print.

    -> {"id": 0, "state": "ready" | "syntax" | "missing" | "raised", "message", "helpers"}    once
    <- {"id", "name", "args", "kwargs", "mutation"}
    -> {"id", "value", "args"?} | {"id", "raise", "message"} | {"id", "unsupported"}
"""

import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # values.py stands in front of this file when it is shipped
    from typing import Any

    from verifiers.shims.values import decode, encode

_ONLY_AST = 0x400
_MUTABLE = (list, dict, set, bytearray)


def main():
    read_fd, write_fd = _channel()
    with open("solution.json", encoding="utf-8") as file:
        task = json.load(file)
    space, state = _load(task)
    _write(write_fd, {"id": 0, **state})
    while state["state"] == "ready" and (request := _read(read_fd)) is not None:
        _write(write_fd, _answer(space, request))
    sys.stdout.flush()
    os._exit(0)  # threads and exit handlers of the program have no say any more


def _channel():
    if "SANDBOX_CHANNEL" in os.environ:
        read_fd, write_fd = map(int, os.environ["SANDBOX_CHANNEL"].split(","))
        return read_fd, write_fd
    read_fd, write_fd = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return read_fd, write_fd


def _read(fd):
    head = _read_exactly(fd, 4)
    return json.loads(_read_exactly(fd, int.from_bytes(head, "big")) or b"") if head else None


def _read_exactly(fd, size):
    parts = []
    while size:
        part = os.read(fd, min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _write(fd, message):
    data = json.dumps(message).encode()
    data = len(data).to_bytes(4, "big") + data
    while data:
        data = data[os.write(fd, data) :]


def _load(task):
    """Run the program as a module of its own; the namespace, and what to tell the host."""
    module = type(sys)("solution")
    sys.modules["solution"] = module
    space = module.__dict__
    try:
        text = _assemble(task)
        code = compile(text, "<solution>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        sys.__excepthook__(type(error), error.with_traceback(None), None)
        return space, {"state": "syntax", "message": f"{type(error).__name__}: {error}"}
    try:
        if task["prelude"]:
            exec(compile(task["prelude"], "<prompt>", "exec", dont_inherit=True), space)
        exec(code, space)
    except BaseException as error:
        sys.__excepthook__(type(error), error, error.__traceback__)
        return space, {"state": "raised", "message": _describe(error)}
    try:
        _resolve(space, task["entry_point"])
    except Exception:
        return space, {"state": "missing", "message": f"it defines no {task['entry_point']}"}
    helpers = [name for name in task["helpers"] if callable(space.get(name))]
    return space, {"state": "ready", "message": "", "helpers": helpers}


def _assemble(task):
    """The program: the text itself if it defines the entry point, else the prompt continued."""
    text, prompt, name = task["text"], task["prompt"], task["entry_point"].partition(".")[0]
    if prompt and (task["continues"] or not _defines(text, name)):
        for body in (text, "    " + text.lstrip(), _until_prose(text)):
            if _defines(prompt + body, name) and _compiles(prompt + body):
                return prompt + body
    return text


def _until_prose(text):
    """A continuation up to the first unindented line that cannot be code (a model that runs on)."""
    lines = text.splitlines(keepends=True)
    starts = (" ", "\t", "def ", "class ", "@", "import ", "from ", "#", "\n", "\r")
    for number, line in enumerate(lines[1:], start=1):
        if not line.startswith(starts):
            return "".join(lines[:number])
    return text


def _compiles(text):
    """Whether it does more than parse: a `return` outside a function parses."""
    try:
        compile(text, "<solution>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return True


def _defines(text, name):
    """Whether the text parses and binds the name at its top level."""
    try:
        tree: Any = compile(text, "<solution>", "exec", _ONLY_AST, dont_inherit=True)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    for node in tree.body:
        kind = type(node).__name__
        if kind in ("FunctionDef", "AsyncFunctionDef", "ClassDef") and node.name == name:
            return True
        if kind in ("Assign", "AnnAssign"):
            targets = node.targets if kind == "Assign" else [node.target]
            if any(getattr(target, "id", None) == name for target in targets):
                return True
        if kind in ("Import", "ImportFrom") and any(
            (alias.asname or alias.name) == name for alias in node.names
        ):
            return True
    return False


def _resolve(space, dotted):
    """`name`, or `Class.method` of a new instance; a bare method name is looked for in Solution."""
    first, *rest = dotted.split(".")
    if first not in space and "Solution" in space:
        first, rest = "Solution", [first]
    value = space[first]
    for name in rest:
        value = getattr(value() if isinstance(value, type) else value, name)
    return value


def _answer(space, request):
    args, kwargs = decode(request["args"]), decode(request["kwargs"])
    try:
        value = _resolve(space, request["name"])(*args, **kwargs)
    except BaseException as error:
        sys.__excepthook__(type(error), error, error.__traceback__)
        names = [kind.__name__ for kind in type(error).__mro__]
        return {"id": request["id"], "raise": names, "message": _describe(error)}
    try:
        reply = {"id": request["id"], "value": encode(value)}
    except Exception as error:
        return {"id": request["id"], "unsupported": str(error)}
    if request["mutation"] == "always" or (request["mutation"] == "auto" and value is None):
        reply["args"] = [_after(arg) for arg in args]
    return reply


def _after(arg):
    """A mutable argument as the call left it; null for one that cannot change or be encoded."""
    if type(arg) not in _MUTABLE:
        return None
    try:
        return encode(arg)
    except Exception:
        return None


def _describe(error):
    try:
        return f"{type(error).__name__}: {error}"[:500]
    except Exception:
        return type(error).__name__


if __name__ == "__main__":
    main()
