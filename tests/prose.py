#!/usr/bin/env python3
"""Counts what makes the source and the docs easy or hard to read, and holds it against tests/prose.toml.

usage: tests/prose.py [--list] [FOLDER | FILE ...]     default: src and the docs; --list names each place
Exits with 1 where a limit is broken (for the whole of src and the docs only)."""

import re
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RULES = tomllib.loads((ROOT / "tests/prose.toml").read_text())
TYPE = re.compile(r"^\s*(?:pub(?:\([^)]*\))? )?(?:struct|enum|trait|type|union) ([A-Z]\w*)")
FUNCTION = re.compile(r"^(\s*)(?:pub(?:\([^)]*\))? )?(?:const |async |unsafe )*fn (\w+)")
DOC = re.compile(r"^\s*//[/!] ?(.*)$")
PRIVATE = r"\b(?:%s)\b" % "|".join(RULES["words"])
INLINE = re.compile(r"(?:^|\s)//(?![/!]) ?(.*)$")


def is_for_tests(path):
    """True for a file whose module is compiled for unit tests alone."""
    above = path.parent / "mod.rs"
    return above.exists() and re.search(rf"#\[cfg\(test\)\]\n(pub\(crate\) )?mod {path.stem};", above.read_text())


def without_tests(lines):
    """The lines before the file's unit tests, which have names instead of prose."""
    for at, line in enumerate(lines):
        if re.match(r"\s*mod tests \{", line):
            return lines[: at - 1]
    return lines


class Counts:
    def __init__(self):
        self.docs = self.clauses = self.words = self.private = self.code = self.reasons = self.statements = 0
        self.types, self.long, self.places = defaultdict(set), [], []

    def file(self, path):
        name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
        lines = without_tests(path.read_text().splitlines())
        in_code_block = in_doc = False
        prose, begun = [], None
        indent_of_type = None
        for number, line in enumerate(lines, 1):
            doc, inline = DOC.match(line), INLINE.search(line) if '"' not in line.split("//")[0] else None
            if doc:
                text = doc.group(1)
                if text.startswith("```"):
                    in_code_block = not in_code_block
                elif not in_code_block:
                    if not in_doc and text:
                        self.docs += 1
                        if re.match(r"(?:%s)\b" % "|".join(RULES["openers"]), text):
                            self.clauses += 1
                            self.places.append(f"{name}:{number}: opener: {text[:90]}")
                    prose.append((number, text))
                in_doc = True
                continue
            in_doc = False
            if inline and not line.strip().startswith("#"):
                self.reasons += 1
                prose.append((number, inline.group(1)))
            if line.strip() and not line.strip().startswith("//"):
                self.code += 1
                self.statements += line.count(";") + line.count("=>")
            kind = TYPE.match(line)
            # An associated type or one inside a function is not a noun of the crate.
            if kind and len(line) - len(line.lstrip()) == 0:
                self.types[kind.group(1)].add(name)
            function = FUNCTION.match(line)
            if function and begun is None and not line.rstrip().endswith(";"):
                begun = (number, function.group(1), function.group(2))
            # A declaration without a body, over several lines.
            if begun and line.startswith(begun[1] + ")") and line.rstrip().endswith(";"):
                begun = None
            if begun and line.rstrip() == begun[1] + "}":
                if number - begun[0] + 1 > 60:
                    self.long.append(f"{name}:{begun[0]}: {begun[2]}, {number - begun[0] + 1} lines")
                begun = None
        for number, text in prose:
            text = re.sub(r"`[^`]*`|\[[^\]]*\](?:\([^)]*\))?", " ", text)
            self.words += len(re.findall(r"[A-Za-z][A-Za-z'-]*", text))
            for word in re.findall(PRIVATE, text, re.I):
                self.private += 1
                self.places.append(f"{name}:{number}: word: {word}: {text[:90]}")

    def page(self, path):
        """The sentences of a page or another file for operators; blocks of code and spans show what is typed and printed."""
        name, in_block, prose = path.relative_to(ROOT), False, []
        is_indented = lambda line: path.suffix == ".md" and line.startswith("    ")
        for line in path.read_text().splitlines():
            is_fence = line.lstrip().startswith("```")
            in_block ^= is_fence
            prose.append("" if in_block or is_fence or is_indented(line) else line)
        hidden = r"`[^`]*`|\]\([^)]*\)|<http[^>]*>"
        text = re.sub(hidden, lambda code: " " + "\n" * code.group().count("\n"), "\n".join(prose))
        for number, line in enumerate(text.split("\n"), 1):
            self.words += len(re.findall(r"[A-Za-z][A-Za-z'-]*", line))
            for word in re.findall(PRIVATE, line, re.I):
                self.private += 1
                self.places.append(f"{name}:{number}: word: {word}: {prose[number - 1].strip()[:90]}")


def docs():
    """The private words of the docs in 1,000, with their places."""
    counts = Counts()
    pages = [page for pattern in RULES["docs"] for page in sorted(ROOT.glob(pattern))]
    assert len(pages) > 8, pages
    for page in pages:
        counts.page(page)
    share = round(1000 * counts.private / counts.words, 1)
    print(f"docs_private_words_per_1000 = {share}\nwords_of_docs = {counts.words}")
    return share, counts.places


def main():
    arguments = [a for a in sys.argv[1:] if a != "--list"]
    folders = [Path(a).resolve() for a in arguments] or [ROOT / "src"]
    counts = Counts()
    for page in [folder for folder in folders if folder.suffix == ".md"]:
        counts.page(page)
    for folder in folders:
        files = [] if folder.suffix == ".md" else [folder] if folder.is_file() else sorted(folder.rglob("*.rs"))
        for path in files:
            if not is_for_tests(path):
                counts.file(path)
    twice = {name: sorted(at) for name, at in counts.types.items() if len(at) > 1}
    src = folders[0]
    loose = [p.name for p in src.iterdir() if p.is_file()] if src.is_dir() else []
    full = [f"{d}: {n}" for d in [src, *src.rglob("*")] if d.is_dir()
            and (n := sum(p.is_file() for p in d.iterdir())) > RULES["limits"]["files_in_a_folder"]]
    measured = {
        "clause_openers_percent": round(100 * counts.clauses / max(counts.docs, 1), 1),
        "private_words_per_1000": round(1000 * counts.private / max(counts.words, 1), 1),
        "types_in_two_files": len(twice),
        "functions_over_60_lines": len(counts.long),
        "loose_files_in_src": len(loose),
        "folders_over_the_limit": len(full),
        "reasons_percent_of_code": round(100 * counts.reasons / max(counts.code, 1), 2),
        "rust_statements": counts.statements,
        "lines_of_code": counts.code,
        "doc_comments": counts.docs,
        "words_of_comments": counts.words,
    }
    for name, value in measured.items():
        print(f"{name} = {value}")
    share, places = (0, []) if arguments else docs()
    counts.places += places
    if "--list" in sys.argv:
        print(*counts.places, *counts.long, *(f"type in two files: {n}: {', '.join(at)}" for n, at in twice.items()),
              *full, sep="\n")
    if arguments:
        return 0
    limits = RULES["limits"]
    broken = [n for n in measured if n in limits and n != "reasons_percent_of_code" and measured[n] > limits[n]]
    broken += ["docs_private_words_per_1000"] * (share > limits["private_words_per_1000"])
    broken += ["folders_over_the_limit"] * bool(full)
    broken += ["reasons_percent_of_code"] * (measured["reasons_percent_of_code"] < limits["reasons_percent_of_code"])
    if broken:
        print("over the limit:", ", ".join(broken), file=sys.stderr)
    return bool(broken)


sys.exit(main())
