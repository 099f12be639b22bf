"""Gather an image's root file system: what Standpipe needs to run, and nothing else.

Run in the build stage by the interpreter that the image will have, with the virtual environment at `APP` made::

    gather.py VARIANT CONTEXT OUT

OUT gets a directory for each layer, from what changes least to what changes most::

    system      the interpreter, its standard library, shared libraries, certificates, users
    packages    what Standpipe is built on
    models      the embedding model and the tokenizers' ranks
    standpipe   Standpipe itself

and `components.json`: for each component its kind, its version, and where in the image it lies. A file that belongs to
no component stops the build, as does a model's file of another SHA-256 than `models.sha256` says, and a shared library
that nothing in the image provides.
"""

from __future__ import annotations

import csv
import fnmatch
import hashlib
import importlib.metadata
import json
import os
import py_compile
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

APP = Path("/opt/standpipe")
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
SITE = APP / "lib" / PYTHON / "site-packages"
STDLIB = Path(sysconfig.get_path("stdlib"))
USER = 10001
EPOCH = 315532800
"""The time of every file, whatever is built, the first of 1980: so a layer that holds the same is the same."""

STDLIB_LEFT_OUT = (
    # Tests, teaching, packaging and documentation.
    *("test", "*/test", "*/tests", "idlelib", "turtle*", "lib2to3", "ensurepip", "distutils", "venv", "pydoc*"),
    *("__phello__", "antigravity.py", "this.py", "config-*", "lib-dynload/_test*", "lib-dynload/xx*", "doctest.py"),
    # Terminals, windows, sound, mail, news and the forms of the web before this one.
    *("curses", "lib-dynload/_curses*", "lib-dynload/readline*", "tkinter", "lib-dynload/_tkinter*"),
    *("aifc.py", "sunau.py", "wave.py", "sndhdr.py", "lib-dynload/audioop*", "lib-dynload/ossaudiodev*", "chunk.py"),
    *("imaplib.py", "nntplib.py", "poplib.py", "smtpd.py", "telnetlib.py", "mailbox.py", "mailcap.py", "cgi*.py"),
    *("dbm", "lib-dynload/_dbm*", "lib-dynload/_gdbm*", "lib-dynload/nis*", "xdrlib.py", "msilib", "sitecustomize.py"),
    # Bytecode is made anew, below.
    *("__pycache__", "*/__pycache__", "*/*/__pycache__", "*/*/*/__pycache__"),
)
"""Of the standard library: nothing of it is imported, by Standpipe or by what it is built on."""

PACKAGES_LEFT_OUT = (
    # Tests, and what compilers and type checkers read.
    *("*/tests/*", "*/testing/*", "*.pyi", "*.pyx", "*.pxd", "*.pxi", "*.h", "*.hpp", "*.c", "*.cpp", "*.a", "*.f90"),
    *("*/py.typed", "numpy/f2py/*", "numpy/distutils/*", "numpy/_pyinstaller/*", "numpy/_core/include/*"),
    # What makes and changes models, and the library for programs in C, which Python's does not use.
    *("onnxruntime/transformers/*", "onnxruntime/tools/*", "onnxruntime/quantization/*", "onnxruntime/datasets/*"),
    *("onnxruntime/backend/*", "onnxruntime/capi/libonnxruntime.so*", "onnxruntime/capi/*tensorrt*"),
    # What stands in for a BLAS in programs that know of no GPU.
    "nvidia/cu13/lib/libnvblas.so*",
    # Of Google's protocols only these are spoken.
    *(f"google/{name}/*" for name in ("api", "apps", "cloud", "gapic", "geo", "iam", "identity", "logging")),
    *(f"google/{name}/*" for name in ("longrunning", "shopping", "source", "type")),
    # What pip notes of its work, and commands that nobody calls.
    *("*.dist-info/INSTALLER", "*.dist-info/REQUESTED", "*.dist-info/direct_url.json", "../../../bin/*"),
    *("__pycache__/*", "*/__pycache__/*"),
)
"""Of the packages, by paths within site-packages."""

DRIVERS = ("libcuda.so.1", "libnvidia-ml.so.1")
"""Libraries that come with a GPU's driver, from the node."""

MODELS = {"cpu": "model.int8.onnx", "cuda13": "model.fp16.onnx"}
"""The weights that each variant has; another precision's are mounted by who wants them."""


class Image:
    """What is gathered: files, each in a layer and of a component."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.owners: dict[str, str] = {}
        """Component by path in the image, without its leading slash."""
        self.components: dict[str, dict[str, object]] = {}

    def component(self, key: str, /, **about: object) -> str:
        """Make a component known, once; answer with its key."""
        self.components.setdefault(key, about)
        return key

    def place(self, layer: str, path: Path) -> Path:
        """Tell where a path of the image lies for now; its directories are made, each a link where the base's is."""
        place = self.out / layer
        for part in path.parent.parts[1:]:
            place /= part
            place.mkdir(exist_ok=True)
        return place / path.name

    def own(self, path: Path, owner: str) -> None:
        """Note whose a path is."""
        self.owners[str(path).lstrip("/")] = owner

    def copy(self, layer: str, source: Path, owner: str, *, to: Path | None = None) -> None:
        """Copy a file, or a link as a link."""
        path = to or source
        place = self.place(layer, path)
        if place.is_symlink() or place.exists():
            return
        if source.is_symlink():
            place.symlink_to(source.readlink())
        else:
            if source.is_relative_to(APP):
                place.hardlink_to(source)  # what lies there is thrown away, and can have 2 GB
            else:
                shutil.copyfile(source, place)
            # Some wheels say of all that it is a program; none of what they hold is started.
            place.chmod(0o755 if layer == "system" and source.stat().st_mode & 0o100 else 0o644)
        self.own(path, owner)

    def write(self, layer: str, path: Path, content: str, owner: str, mode: int = 0o644) -> None:
        """Write a file of the image's own."""
        place = self.place(layer, path)
        place.write_text(content)
        place.chmod(mode)
        self.own(path, owner)


def merged(path: Path) -> Path:
    """Say a path as it is behind links of directories (/lib to /usr/lib), the last part apart."""
    return Path(os.path.realpath(path.parent)) / path.name


def chain(path: Path) -> Iterator[Path]:
    """Yield a path and, where it is a link, all that it leads to."""
    path = merged(path)
    yield path
    if path.is_symlink():
        yield from chain(path.parent / path.readlink())


# --- Debian ---------------------------------------------------------------------------------------------------


class Debian:
    """The packages of the base: whose a file is, and what dpkg knows of it."""

    def __init__(self) -> None:
        self.owner: dict[Path, str] = {}
        for listing in sorted(Path("/var/lib/dpkg/info").glob("*.list")):
            for line in listing.read_text().splitlines():
                path = Path(line)
                if line != "/." and not path.is_dir():
                    self.owner[merged(path)] = listing.stem
        self.stanzas: dict[str, str] = {}
        for stanza in Path("/var/lib/dpkg/status").read_text().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] != " ")
            if "Package" in fields:
                self.stanzas[fields["Package"]] = stanza.strip() + "\n"
        self.used: set[str] = set()

    def component(self, image: Image, path: Path) -> str:
        """Make the package of a path known; Python alone may be of none, as in Python's own images."""
        package = self.owner.get(merged(path))
        if package is None:
            return image.component(
                "generic/cpython", kind="generic", name="cpython", version=sys.version.split()[0], licence="PSF-2.0"
            )
        name = package.partition(":")[0]
        fields = dict(
            line.split(": ", 1) for line in self.stanzas[name].splitlines() if ": " in line and line[0] != " "
        )
        self.used.add(name)
        return image.component(
            f"deb/{name}",
            kind="deb",
            name=name,
            version=fields["Version"],
            architecture=fields["Architecture"],
            source=fields.get("Source", name),
            licences=_debian_licences(name),
        )

    def describe(self, image: Image) -> None:
        """Leave for scanners what dpkg knows of the packages that something was taken of, and their licences."""
        for name in sorted(self.used):
            owner = f"deb/{name}"
            image.write("system", Path("/var/lib/dpkg/status.d", name), self.stanzas[name], owner)
            copyright_file = Path("/usr/share/doc", name, "copyright")
            if copyright_file.exists():
                place = image.place("system", copyright_file)
                shutil.copyfile(copyright_file, place)  # where it is a link, what it leads to
                place.chmod(0o644)
                image.own(copyright_file, owner)


def _debian_licences(name: str) -> list[str]:
    path = Path("/usr/share/doc", name, "copyright")
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    named = {line.removeprefix("License:").strip() for line in lines if line.startswith("License:")} - {""}
    return sorted(named) or [f"see {path}"]


def system(image: Image) -> None:
    """Take the interpreter, the standard library, and what each of them has always needed."""
    debian = Debian()
    root = image.out / "system"
    for link in ("lib", "lib64"):
        if Path("/", link).is_symlink():
            (root / link).symlink_to(Path("/", link).readlink())
            image.own(Path("/", link), debian.component(image, Path("/etc/debian_version")))
    (root / "usr").mkdir(exist_ok=True)
    wanted = [Path(sys.base_prefix, "bin", PYTHON)]
    wanted += [path for path in files(STDLIB) if not left_out(path.relative_to(STDLIB), STDLIB_LEFT_OUT)]
    wanted += [Path("/etc/os-release"), Path("/etc/debian_version"), Path("/etc/nsswitch.conf")]
    for path in wanted:
        for step in chain(path) if path.exists() else ():
            if step.name != "sitecustomize.py":
                image.copy("system", step, debian.component(image, step))
    own = "standpipe"
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if not bundle.exists():
        sys.exit("the base must have certificates: install ca-certificates")
    debian.component(image, Path("/usr/sbin/update-ca-certificates"))
    image.copy("system", bundle, "deb/ca-certificates")
    image.write("system", Path("/etc/passwd"), f"standpipe:x:{USER}:{USER}::/:/nonexistent\n", own)
    image.write("system", Path("/etc/group"), f"root:x:0:\nstandpipe:x:{USER}:\n", own)
    libraries(image, debian)
    debian.describe(image)
    # As in every system; a tmpfs that is mounted on it takes its rights from it.
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    for path in ("var/lib/standpipe", "run/standpipe"):
        directory = root / path
        directory.mkdir(parents=True)
        # Group 0, as a cluster that gives out users of its own has it.
        os.chown(directory, USER, 0)
        directory.chmod(0o770)


def libraries(image: Image, debian: Debian) -> None:
    """Take the shared libraries that anything in the image names, and those that they name."""
    provided = {path.name for path in SITE.rglob("*.so*")}
    seen: set[str] = set()
    lacking: dict[str, str] = {}
    for path in sorted((image.out).rglob("*")):
        if path.is_symlink() or not path.is_file() or not _is_elf(path):
            continue
        # Asked where it was, since a package's libraries are found beside it.
        actual = Path("/", *path.relative_to(image.out).parts[1:])
        answer = subprocess.run(["ldd", actual], capture_output=True, text=True, check=False).stdout
        for line in answer.splitlines():
            name, _, place = (part.strip() for part in line.partition("=>"))
            target = (place or name).split(" (")[0]
            if target == "not found":
                if name not in provided and name not in DRIVERS:
                    lacking[name] = str(actual)
            elif target.startswith("/") and target not in seen and not target.startswith(str(APP)):
                seen.add(target)
                for step in chain(Path(target)):
                    image.copy("system", step, debian.component(image, step))
    if lacking:
        sys.exit("shared libraries are lacking: " + ", ".join(f"{name} of {of}" for name, of in lacking.items()))


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


# --- Python ---------------------------------------------------------------------------------------------------


def files(directory: Path) -> Iterator[Path]:
    """Yield all files and links below a directory, in order."""
    for path in sorted(directory.rglob("*")):
        if path.is_symlink() or path.is_file():
            yield path


def left_out(path: Path, patterns: tuple[str, ...]) -> bool:
    """Tell whether a path, or a directory that it lies in, is of these patterns."""
    return any(fnmatch.fnmatchcase(str(each), pattern) for each in (path, *path.parents) for pattern in patterns)


def packages(image: Image) -> None:
    """Take every distribution's files but what is left out, by its own record, which then says what is there."""
    (standpipe,) = importlib.metadata.distributions(name="standpipe", path=[str(SITE)])
    own = image.component("standpipe", kind="standpipe", version=standpipe.version)
    for distribution in importlib.metadata.distributions(path=[str(SITE)]):
        name, about = distribution.metadata["Name"], distribution.metadata
        layer = "standpipe" if name == "standpipe" else "packages"
        owner = (
            own
            if name == "standpipe"
            else image.component(
                f"pypi/{name.lower().replace('_', '-')}",
                kind="pypi",
                name=name,
                version=distribution.version,
                licence=about.get("License-Expression"),
                licences=[
                    value.rpartition(" :: ")[2] for value in about.get_all("Classifier") or () if "License ::" in value
                ]
                or [(about.get("License") or "see its package").strip().splitlines()[0]],
            )
        )
        record = next(path for path in distribution.files or () if path.name == "RECORD")
        kept = []
        for row in csv.reader(SITE.joinpath(record).read_text().splitlines()):
            if row[0] == str(record):
                kept.append(row)
            elif not left_out(Path(row[0]), PACKAGES_LEFT_OUT):
                image.copy(layer, SITE / row[0], owner)
                kept.append(row)
        text = "".join(",".join(_field(value) for value in row) + "\n" for row in sorted(kept))
        image.write(layer, SITE / record, text, owner)
    image.write(
        "standpipe",
        APP / "bin" / "standpipe",
        f"#!{APP}/bin/python -IB\nfrom sidecar.__main__ import main\n\nmain()\n",
        own,
        0o755,
    )
    interpreter = Path(sys.base_prefix, "bin", PYTHON)
    image.place("standpipe", APP / "bin" / "python").symlink_to(interpreter)
    image.own(APP / "bin" / "python", own)
    image.write(
        "standpipe", APP / "pyvenv.cfg", f"home = {interpreter.parent}\ninclude-system-site-packages = false\n", own
    )


def _field(value: str) -> str:
    return f'"{value}"' if "," in value else value


def compile_all(image: Image) -> None:
    """Write the bytecode of all modules, to be used unchecked: a read-only image has no other source for it."""
    for layer in ("system", "packages", "standpipe"):
        for source in files(image.out / layer):
            path = Path("/", source.relative_to(image.out / layer))
            if source.suffix != ".py" or not (path.is_relative_to(STDLIB) or path.is_relative_to(SITE)):
                continue
            compiled = path.parent / "__pycache__" / f"{path.stem}.{sys.implementation.cache_tag}.pyc"
            py_compile.compile(
                str(source),
                cfile=str(image.place(layer, compiled)),
                dfile=str(path),
                doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
            image.own(compiled, image.owners[str(path).lstrip("/")])


# --- models ---------------------------------------------------------------------------------------------------


def models(image: Image, variant: str, context: Path) -> None:
    """Take the variant's weights and the tokenizers, each of its SHA-256."""
    pins = dict(line.split()[::-1] for line in (context / "models.sha256").read_text().splitlines() if line[0] != "#")
    unwanted = {name for each, name in MODELS.items() if each != variant}
    for name, sha256 in pins.items():
        if Path(name).name in unwanted:
            continue
        source = context / "models" / name
        actual = hashlib.sha256(source.read_bytes()).hexdigest()
        if actual != sha256:
            sys.exit(f"{name}: its SHA-256 must be {sha256} and is {actual}")
        directory = Path(name).parts[0]
        owner = image.component(f"model/{directory}", kind="model", name=directory, hashes={})
        image.components[owner]["hashes"][f"models/{name}"] = sha256  # type: ignore[index]
        image.copy("models", source, owner, to=Path("/models", name))


# --- all ------------------------------------------------------------------------------------------------------


def occurrences(image: Image) -> dict[str, list[str]]:
    """Say where each component lies, in as few paths as do: a directory stands for all that is in it."""
    below: defaultdict[str, set[str]] = defaultdict(set)
    for path, owner in image.owners.items():
        for parent in Path(path).parents:
            below[str(parent)].add(owner)
    places: defaultdict[str, set[str]] = defaultdict(set)
    for path, owner in image.owners.items():
        whole = [str(parent) for parent in Path(path).parents if below[str(parent)] == {owner}]
        places[owner].add(whole[-1] + "/" if whole else path)
    return {owner: sorted("/" + path for path in paths) for owner, paths in sorted(places.items())}


def finish(image: Image) -> None:
    """Check that each file has its owner; give every file one time, and nobody but its owner the right to write."""
    for layer in ("system", "packages", "models", "standpipe"):
        for path in files(image.out / layer):
            if str(path.relative_to(image.out / layer)) not in image.owners:
                sys.exit(f"{path}: belongs to no component")
        for path in sorted((image.out / layer).rglob("*"), reverse=True):
            mode = path.lstat().st_mode
            everybodys = mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH) and path.name != "tmp"
            if everybodys and not path.is_symlink():
                sys.exit(f"{path}: must be neither set-user-id nor writable to all")
            os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)
        os.utime(image.out / layer, (EPOCH, EPOCH))


def main(variant: str, context: Path, out: Path) -> None:
    """Gather the image `variant`."""
    os.umask(0o022)
    image = Image(out)
    for layer in ("system", "packages", "models", "standpipe"):
        (out / layer).mkdir(parents=True)
    packages(image)
    models(image, variant, context)
    system(image)
    compile_all(image)
    # Where the list of components will lie.
    image.own(Path("/usr/share/standpipe/sbom.cdx.json"), "standpipe")
    image.write("standpipe", Path("/usr/share/standpipe/sbom.cdx.json"), "", "standpipe")
    finish(image)
    places = occurrences(image)
    components = {key: {**about, "places": places.get(key, [])} for key, about in sorted(image.components.items())}
    (out / "components.json").write_text(json.dumps(components, indent=1, sort_keys=True))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
