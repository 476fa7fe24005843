"""Runs inside a sandbox of its own: trusted test code, in which the candidate is a proxy.

Each call of the proxy goes to the host as a frame, and from there to the candidate in its own
sandbox. What comes back is rebuilt from the wire form, so tests only ever see exact built-in types.

    -> {"call", "args", "kwargs"}
    <- {"value", "args"?} | {"raise", "message"}
    -> {"done": number of calls} | {"failed": message, "line", "tests_fault"}
"""

import builtins
import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # values.py stands in front of this file when it is shipped
    from verifiers.shims.values import MAX_DEPTH, UnsupportedValue, decode, encode

_FILE = "<tests>"
_FILES = (_FILE, "<setup>", "<prelude>")
_PLAIN = (Exception, StopIteration, StopAsyncIteration)


class CandidateError(Exception):
    """The candidate raised something that has no built-in counterpart, or left the interpreter."""


class Judge:
    def __init__(self, read_fd, write_fd):
        self._read_fd, self._write_fd = read_fd, write_fd
        self.num_calls = 0
        self.fault = ""
        """What the tests did that cannot be sent to a candidate, even if they caught the error."""
        self.raised = []
        """Exceptions that came from the candidate."""

    def call(self, name, args, kwargs):
        try:
            # Deeper than a reply may be: a test that hands one on is not to blame for its depth.
            trees = [encode(part, 2 * MAX_DEPTH) for part in (list(args), kwargs)]
            request = {"call": name, "args": trees[0], "kwargs": trees[1]}
        except UnsupportedValue as error:
            self.fault = f"the tests pass {error} to {name}, which cannot be sent to a sandbox"
            raise
        self.send(request)
        reply = json.loads(self._exactly(int.from_bytes(self._exactly(4), "big")))
        self.num_calls += 1
        if "raise" in reply:
            error = _rebuild(reply["raise"], reply["message"])
            self.raised.append(error)
            raise error
        try:
            value = decode(reply["value"])
            after = [decode(tree) for tree in reply.get("args") or ()]
        except Exception as cause:
            error = CandidateError(f"its reply is malformed: {type(cause).__name__}")
            self.raised.append(error)
            raise error from None
        for arg, new in zip(args, after, strict=False):
            _update(arg, new)
        return value

    def send(self, message):
        data = json.dumps(message).encode()
        data = len(data).to_bytes(4, "big") + data
        while data:
            data = data[os.write(self._write_fd, data) :]

    def _exactly(self, size):
        parts = []
        while size:
            part = os.read(self._read_fd, min(size, 1 << 20))
            if not part:
                os._exit(1)  # the host is gone
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


class Proxy:
    """Stands for one function of the candidate."""

    def __init__(self, judge, name):
        self._judge, self.__name__ = judge, name

    def __call__(self, *args, **kwargs):
        return self._judge.call(self.__name__, args, kwargs)


def _rebuild(names, message):
    """The candidate's exception as its nearest built-in class.

    Not StopIteration: raised inside `all(map(candidate, xs))` it would end the loop, and with it
    the assertion, as if every item had been checked.
    """
    for name in names if type(names) is list else ():
        kind = builtins.__dict__.get(name) if type(name) is str else None
        if isinstance(kind, type) and issubclass(kind, Exception) and kind not in _PLAIN:
            try:
                return kind(message)
            except TypeError:  # UnicodeDecodeError and the like want more arguments
                continue
    return CandidateError(message)


def _update(arg, new):
    """Give a mutable argument the content it had after the call, in place."""
    if type(arg) is not type(new):
        return
    if type(arg) is list or type(arg) is bytearray:
        arg[:] = new
    elif type(arg) is dict or type(arg) is set:
        arg.clear()
        arg.update(new)


def run(judge, task):
    """Run the tests; null if they passed, else the last message."""
    module = type(sys)("tests")
    sys.modules["tests"] = module
    space = module.__dict__
    proxy = Proxy(judge, task["entry_point"])
    try:
        codes = [
            compile(task[part], f"<{part}>", "exec", dont_inherit=True)
            for part in ("prelude", "setup", "tests")
        ]
        for code in codes[:2]:
            exec(code, space)
        for name in task["helpers"]:
            space.setdefault(name, Proxy(judge, name))
        space[task["entry_point"]] = space["candidate"] = proxy
        exec(codes[2], space)
        check = space.get("check")
        if callable(check) and check is not proxy:
            check(proxy)
    except BaseException as error:
        return _failure(judge, error, task)
    return None


def _failure(judge, error, task):
    """What went wrong, in which line of the tests, and whether the tests are to blame."""
    line, innermost, trace = None, None, error.__traceback__
    while trace is not None:
        innermost = trace.tb_frame.f_code.co_filename
        if innermost == _FILE:
            line = trace.tb_lineno
        trace = trace.tb_next
    text = task["tests"].splitlines()[line - 1].strip()[:300] if line else ""
    message = f"{type(error).__name__}: {error}"[:500]
    if any(error is other for other in judge.raised):
        message, fault = f"the candidate raised {message}", False
    elif isinstance(error, (ImportError, NameError)) and innermost in _FILES:
        # A name that the tests do bind, somewhere, is missing because of how a call ended.
        bound = isinstance(error, NameError) and error.name not in task["unknown"]
        fault = not bound or judge.num_calls == 0
    else:
        fault = judge.num_calls == 0
    return {"failed": message, "line": text, "tests_fault": fault}


def main():
    read_fd, write_fd = map(int, os.environ["SANDBOX_CHANNEL"].split(","))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    with open("tests.json", encoding="utf-8") as file:
        task = json.load(file)
    judge = Judge(read_fd, write_fd)
    last = run(judge, task)
    if judge.fault:
        last = {"failed": judge.fault, "line": "", "tests_fault": True}
    judge.send(last or {"done": judge.num_calls})
    os._exit(0)


if __name__ == "__main__":
    main()
