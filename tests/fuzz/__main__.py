"""Feed what reads bytes of others, for some minutes, with what might break it.

    python -m tests.fuzz                              # all targets, 10 minutes together
    python -m tests.fuzz frames shown --minutes 30
    python -m tests.fuzz replies --file build/fuzz/replies/crash-1234     # one input again

atheris follows which lines an input reaches; where it cannot be had, hypothesis tries mutations of the corpus. What
breaks a target is kept in tests/fuzz/corpus, made as small as can be, and from then on read by the quick suite. The
exit code is 1 when something did.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "src")]
WORK = ROOT / "build" / "fuzz"
NAMES = (
    "values", "blobs", "outcomes", "shown", "frames", "replies", "stored", "urls", "names", "functions", "settings",
    "words", "lines", "pages", "stacks", "health",
)  # fmt: skip
LONGEST_S = 5  # one input; libFuzzer's own clock
MOST_MB = 1024


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(NAMES)}")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all of them together")
    parser.add_argument("--engine", choices=("atheris", "hypothesis"), help="default: atheris, if it is installed")
    parser.add_argument("--file", type=Path, help="read this one input, and nothing else")
    parser.add_argument("--within", type=float, help=argparse.SUPPRESS)  # we are the process of one target
    options = parser.parse_args()
    if unknown := set(options.targets) - set(NAMES):
        parser.error(f"no target is named {', '.join(sorted(unknown))}")
    targets = options.targets or list(NAMES)
    engine = options.engine or ("atheris" if find_spec("atheris") else "hypothesis")
    if options.file is not None:
        return _read_one(targets[0], options.file)
    if options.within is not None:
        (_atheris if engine == "atheris" else _hypothesis)(targets[0], options.within)
        return 0
    if engine == "hypothesis" and options.engine is None:
        print("atheris has no wheel here (it is in the extra `fuzz`): hypothesis takes over, which sees no coverage")
    broken = [target for target in targets if not _run(target, engine, 60 * options.minutes / len(targets))]
    print(f"{len(targets) - len(broken)} of {len(targets)} targets took it all" + (f"; not {broken}" if broken else ""))
    return int(bool(broken))


def _run(target: str, engine: str, seconds: float) -> bool:
    """Fuzz one target in a process of its own; keep what broke it."""
    home = WORK / target
    home.mkdir(parents=True, exist_ok=True)
    before = {file.name for file in home.glob("*-*")}
    began = time.monotonic()
    command = [sys.executable, "-m", "tests.fuzz", target, "--engine", engine, "--within", f"{max(1.0, seconds):.0f}"]
    log = home / "log.txt"
    with log.open("wb") as stream:
        done = subprocess.run(command, cwd=ROOT, stdout=stream, stderr=stream, check=False)
    tail = log.read_text("utf-8", "replace").splitlines()
    runs = next((line for line in reversed(tail) if line.startswith(("#", "Done "))), "")
    print(f"{target:10} {time.monotonic() - began:6.1f} s  {runs[:80]}", flush=True)
    found = [file for file in home.glob("*-*") if file.name not in before]
    for file in found:
        kept = _smaller(target, file)
        print(f"{target}: broken by {len(kept)} bytes:\n" + "\n".join(tail[-25:]))
        from tests.fuzz import corpus

        print(f"kept as {corpus.keep(target, kept).relative_to(ROOT)}")
    return done.returncode == 0 and not found


def _smaller(target: str, file: Path) -> bytes:
    """Cut out of an input whatever is not needed for it to fail in the same way, within ten seconds."""
    from tests.fuzz.targets import TARGETS

    def fails(data: bytes) -> type | None:
        try:
            TARGETS[target](data)
        except Exception as error:
            return type(error)
        return None

    data = file.read_bytes()
    kind, ends = fails(data), time.monotonic() + 10
    size = len(data) // 2
    while kind is not None and size and time.monotonic() < ends:
        at = 0
        while at < len(data) and time.monotonic() < ends:
            shorter = data[:at] + data[at + size :]
            if fails(shorter) is kind:
                data = shorter
            else:
                at += size
        size //= 2
    return data


def _read_one(target: str, file: Path) -> int:
    from tests.fuzz.targets import TARGETS

    TARGETS[target](file.read_bytes())
    print(f"{target} took it")
    return 0


def _atheris(target: str, seconds: float) -> None:
    import atheris

    with atheris.instrument_imports(include=["qworker"]):
        from tests.fuzz.targets import TARGETS

    from tests.fuzz import corpus

    fresh = WORK / target / "corpus"
    fresh.mkdir(parents=True, exist_ok=True)
    seeds = corpus.CORPUS / target
    atheris.Setup(
        [
            f"fuzz {target}", str(fresh), *([str(seeds)] if seeds.is_dir() else []),
            f"-max_total_time={seconds:.0f}", f"-timeout={LONGEST_S}", f"-rss_limit_mb={MOST_MB}", "-max_len=6000",
            f"-artifact_prefix={WORK / target}/",
        ],
        TARGETS[target],
    )  # fmt: skip
    atheris.Fuzz()


def _hypothesis(target: str, seconds: float) -> None:
    from hypothesis import HealthCheck, Phase, given, settings

    from tests.fuzz import corpus, grammar
    from tests.fuzz.targets import TARGETS

    ends = time.monotonic() + seconds
    failed: list[bytes] = []
    count = 0

    @settings(
        max_examples=1_000, deadline=None, suppress_health_check=list(HealthCheck), database=None,
        phases=[Phase.generate, Phase.shrink],
    )  # fmt: skip
    @given(grammar.inputs(corpus.of(target), target))
    def check(data: bytes) -> None:
        nonlocal count
        if time.monotonic() > ends:
            return
        count += 1
        try:
            TARGETS[target](data)
        except Exception:
            failed.append(data)
            raise

    try:
        while time.monotonic() < ends:
            check()
    finally:
        if failed:
            (WORK / target / f"crash-{time.time_ns()}").write_bytes(failed[-1])
        print(f"\nDone {count} runs by hypothesis")


if __name__ == "__main__":
    sys.exit(main())
