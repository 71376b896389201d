import hashlib
from pathlib import Path

from memcard.core import digest
from memcard.core.progress import Event, Progress


def test_sha256_of_a_file_larger_than_one_chunk(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(os_bytes := bytes(range(256)) * (digest.CHUNK // 256) + b"tail")
    seen: list[Event] = []

    found = digest.sha256_file(path, seen.append)

    assert found == hashlib.sha256(os_bytes).hexdigest()
    assert seen[-1] == Progress("sha256", len(os_bytes), len(os_bytes))
