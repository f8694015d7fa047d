"""The jars of a Kafka broker: pom.xml names them, Maven fetches them, the user's cache keeps them.

    python -m tests.t5_apps.kafka.jars      fetch them now, as `./bootstrap --tests` does

Independent of pytest. JarsMissing says why there are none.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

_POM = Path(__file__).with_name("pom.xml")
#: A repository that is far away answers late, and now and then not at all.
_ATTEMPTS = 3
_FETCH_S = 300.0


class JarsMissing(Exception):
    """There is no broker to be had here; the message says what is missing."""


def directory() -> Path:
    """Where the jars of this pom.xml are kept; it is there only when all of them are."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "tierfs-tests" / f"kafka-{hashlib.sha256(_POM.read_bytes()).hexdigest()[:12]}"


def jars() -> Path:
    """The directory with the jars, fetched now if they are not there yet. JarsMissing."""
    if shutil.which("java") is None:
        raise JarsMissing("java is not installed (Debian package default-jre-headless)")
    kept = directory()
    if not kept.is_dir():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix="fetching-") as fresh:
            _fetch(Path(fresh, "jars"))
            with suppress(OSError):  # somebody else was quicker
                os.rename(Path(fresh, "jars"), kept)
    return kept


def _fetch(into: Path) -> None:
    """Have Maven copy the jars there. JarsMissing."""
    maven = shutil.which("mvn")
    if maven is None:
        raise JarsMissing("the jars of Kafka are not there, and mvn is not installed (Debian package maven)")
    command = [maven, "-q", "-B", "-f", str(_POM), "dependency:copy-dependencies", f"-DoutputDirectory={into}"]
    said = ""
    for _ in range(_ATTEMPTS):
        shutil.rmtree(into, ignore_errors=True)
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_FETCH_S, check=False
            )
        except subprocess.TimeoutExpired:
            said = f"mvn did not end within {_FETCH_S:g} s"
            continue
        if done.returncode == 0 and list(into.glob("kafka_*.jar")):
            return
        said = (done.stdout + done.stderr).strip()[:1000]
    raise JarsMissing(f"Maven could not fetch the jars of Kafka: {said}")


def main() -> int:
    """Fetch the jars; exit status 1 and a sentence when that is impossible."""
    try:
        print(jars())
    except JarsMissing as missing:
        print(missing, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
