"""The languages of `stdio` programs. A new one is an entry in `LANGUAGES`.

A language is interpreted (`run` names what runs the source file) or compiled (`compile` makes the
file `program`). The commands must exist in the sandbox image. Python is neither: the sandbox starts
it itself, so that a warm interpreter can be used.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """How programs of one language are written down, built and started."""

    name: str
    source: str
    """File name of the program's text."""
    tags: tuple[str, ...]
    """Tags of fenced blocks, and other names in a problem's tests; lower case."""
    compile: tuple[str, ...] = ()
    """Command that turns `source` into the file `program`; empty if there is no such step."""
    run: tuple[str, ...] = ()
    """Command that runs it; empty for Python."""


_GCC = ("-O2", "-std=gnu17", "-pipe", "-w", "-o", "program", "main.c", "-lm")
_GPP = ("-O2", "-std=gnu++20", "-pipe", "-w", "-o", "program", "main.cpp")

LANGUAGES = {
    language.name: language
    for language in (
        Language(name="python", source="main.py", tags=("python", "python3", "py", "py3")),
        Language(
            name="c",
            source="main.c",
            tags=("c", "c11", "c17", "c99"),
            compile=("gcc", *_GCC),
            run=("./program",),
        ),
        Language(
            name="cpp",
            source="main.cpp",
            tags=("cpp", "c++", "cc", "cxx", "c++17", "c++20", "cpp17", "cpp20"),
            compile=("g++", *_GPP),
            run=("./program",),
        ),
    )
}


def find(name: str) -> Language | None:
    """The language of that name or tag, whatever its case."""
    lower = name.lower()
    for language in LANGUAGES.values():
        if lower == language.name or lower in language.tags:
            return language
    return None
