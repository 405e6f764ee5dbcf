"""The streaming writer: bytes as safetensors reads them, the target old or whole, leftovers cleared."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from modelsmith.errors import Cancelled, MergeError, NoSpaceError, UsageError
from modelsmith.files import output as output_module
from modelsmith.files.dtypes import dtype_of
from modelsmith.files.names import check_output_name, made_name, output_path
from modelsmith.files.output import OutputFile, clear_leftovers
from modelsmith.files.writer import Entry, StreamingWriter, WriterOptions, build_header

State = dict[str, torch.Tensor]


def entries_of(state: State) -> list[Entry]:
    return [Entry(name, dtype_of(tensor.dtype).name, tuple(tensor.shape)) for name, tensor in state.items()]


def write(path: Path, state: State, options: WriterOptions | None = None) -> str | None:
    with StreamingWriter(path, entries_of(state), {"format": "pt", "naïve": "ü\n"}, options) as writer:
        for name, tensor in state.items():
            writer.write(name, tensor)
        return writer.finish().sha256


def sample() -> State:
    return {
        "ids": torch.arange(77).reshape(1, 77),
        "big": torch.randn(3001, 777).half(),
        "marker": torch.empty(0),
        "scalar": torch.tensor(2.5),
        "odd": torch.randint(0, 255, (4099,), dtype=torch.uint8),
        "last": torch.randn(7, 3).bfloat16(),
    }


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("chunk", [4096, 8 << 20])
def test_safetensors_reads_what_was_written(tmp_path: Path, direct: bool, chunk: int) -> None:
    state, path = sample(), tmp_path / "out.safetensors"
    digest = write(path, state, WriterOptions(direct=direct, chunk_bytes=chunk))
    found = load_file(str(path))
    assert found.keys() == state.keys()
    assert all(found[name].dtype == state[name].dtype and torch.equal(found[name], state[name]) for name in state)
    with safe_open(str(path), "pt") as file:
        assert file.metadata() == {"format": "pt", "naïve": "ü\n"}
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert os.listdir(tmp_path) == ["out.safetensors"]


def test_data_start_at_a_page(tmp_path: Path) -> None:
    header = build_header([Entry("a", "F16", (3,))], {})
    assert len(header) % 4096 == 0 and int.from_bytes(header[:8], "little") == len(header) - 8
    assert len(build_header([Entry("a", "F16", (3,))], {}, 8192)) == 8192


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(0, 9000), min_size=1, max_size=8),
    chunk=st.sampled_from([4096, 12288, 65536]),
    direct=st.booleans(),
    threads=st.integers(1, 4),
)
def test_threads_and_chunks_do_not_change_a_byte(
    tmp_path: Path, sizes: list[int], chunk: int, direct: bool, threads: int
) -> None:
    data = torch.randint(0, 255, (sum(sizes),), dtype=torch.uint8)
    path = tmp_path / "x.safetensors"
    made = [Entry(str(number), "U8", (size,)) for number, size in enumerate(sizes)]
    writer = StreamingWriter(path, made, {}, WriterOptions(True, direct, True, chunk, 3))
    bytes_ = data.numpy().tobytes()

    def work() -> None:
        while (part := writer.acquire()) is not None:
            part.view[:] = bytes_[part.start : part.start + len(part.view)]
            writer.submit(part)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    digest = writer.finish().sha256
    assert path.read_bytes() == build_header(made, {}) + bytes_
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_direct_writes_are_used_where_the_disk_takes_them(tmp_path: Path) -> None:
    with StreamingWriter(tmp_path / "a.safetensors", [Entry("a", "U8", (9,))], {}) as writer:
        by_hand = os.open(tmp_path / "probe", os.O_CREAT | os.O_RDWR)
        os.close(by_hand)
        try:
            os.close(os.open(tmp_path / "probe", os.O_RDWR | os.O_DIRECT))
            takes = True
        except OSError:
            takes = False
        assert writer.direct == takes


def test_a_refused_direct_write_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, refused = os.pwrite, []

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        import fcntl

        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(offset)
            raise OSError(22, "Invalid argument")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    state = sample()
    write(tmp_path / "out.safetensors", state)
    assert refused
    assert torch.equal(load_file(str(tmp_path / "out.safetensors"))["big"], state["big"])


def test_without_pwrite_as_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pwrite", "posix_fallocate", "O_DIRECT"):
        monkeypatch.delattr(os, name)
    monkeypatch.setattr(output_module, "fcntl", None)
    state = sample()
    digest = write(tmp_path / "out.safetensors", state)
    assert digest == hashlib.sha256((tmp_path / "out.safetensors").read_bytes()).hexdigest()
    assert torch.equal(load_file(str(tmp_path / "out.safetensors"))["big"], state["big"])
    assert os.listdir(tmp_path) == ["out.safetensors"]


def test_tmpfs(tmp_path: Path) -> None:
    folder = Path("/dev/shm")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        pytest.skip("no tmpfs that may be written")
    path = folder / f"modelsmith-test-{os.getpid()}.safetensors"
    try:
        state = sample()
        write(path, state)
        assert torch.equal(load_file(str(path))["big"], state["big"])
    finally:
        path.unlink(missing_ok=True)


def test_an_existing_target_stays_without_permission_and_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(UsageError, match="exists already"):
        write(path, sample())
    assert path.read_bytes() == b"old"
    write(path, sample(), WriterOptions(overwrite=True))
    assert path.stat().st_size > 4096


def test_a_target_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    with StreamingWriter(path, [], {}) as writer:
        path.write_bytes(b"someone else's")
        with pytest.raises(UsageError, match="appeared meanwhile"):
            writer.finish()
    assert path.read_bytes() == b"someone else's" and os.listdir(tmp_path) == ["out.safetensors"]


def test_leaving_early_removes_every_trace(tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    path.write_bytes(b"old")
    with StreamingWriter(path, entries_of(sample()), {}, WriterOptions(overwrite=True)) as writer:
        writer.write("ids", sample()["ids"])
        assert len(os.listdir(tmp_path)) == 2
        writer.stop()
        with pytest.raises(Cancelled):
            writer.acquire()
    assert os.listdir(tmp_path) == ["out.safetensors"] and path.read_bytes() == b"old"


def test_a_tensor_out_of_turn_is_refused(tmp_path: Path) -> None:
    with StreamingWriter(tmp_path / "out.safetensors", entries_of(sample()), {}) as writer, pytest.raises(UsageError):
        writer.write("big", sample()["big"])
    assert os.listdir(tmp_path) == []


def test_no_space_is_known_before_the_first_byte(tmp_path: Path) -> None:
    with pytest.raises(NoSpaceError) as caught:
        StreamingWriter(tmp_path / "out.safetensors", [Entry("a", "F32", (1 << 50,))], {})
    assert str(tmp_path) in str(caught.value) and f"{(1 << 52) + 4096:,}" in str(caught.value)
    assert os.listdir(tmp_path) == []


LIMITED = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from modelsmith.errors import NoSpaceError
from modelsmith.files import output
from modelsmith.files.writer import Entry, StreamingWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
if sys.argv[3] == "late":
    output.OutputFile._reserve = lambda self: None
try:
    with StreamingWriter(Path(sys.argv[2]), [Entry("a", "U8", (32 << 20,))], {}) as writer:
        while (chunk := writer.acquire()) is not None:
            writer.submit(chunk)
        writer.finish()
except NoSpaceError as error:
    print(error)
    raise SystemExit(9)
"""


@pytest.mark.parametrize("when", ["early", "late"])
def test_a_limit_on_the_file_size_while_writing(tmp_path: Path, when: str) -> None:
    path = tmp_path / "out.safetensors"
    path.write_bytes(b"old")
    target = tmp_path / "new.safetensors"
    library = Path(output_module.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(library), str(target), when], capture_output=True, text=True, check=False
    )
    assert done.returncode == 9, done.stderr
    assert str(tmp_path) in done.stdout
    assert os.listdir(tmp_path) == ["out.safetensors"]


def test_a_disk_that_fills_up_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.pwrite, []

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        calls.append(offset)
        if len(calls) > 2:
            raise OSError(28, "No space left on device")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    path = tmp_path / "out.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(NoSpaceError, match="filled up"):
        write(path, sample(), WriterOptions(overwrite=True, chunk_bytes=65536))
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["out.safetensors"]


@pytest.mark.parametrize("hashing", [True, False])
@pytest.mark.parametrize("chunks", [1, 2, 40])
def test_a_disk_that_fails_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunks: int, hashing: bool) -> None:
    """With few chunks the end tells of it, with many the next one: the disk is waited for neither way."""

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", pwrite)
    made = [Entry("a", "U8", (chunks * 4096,))]
    options = WriterOptions(hashing=hashing, chunk_bytes=4096, buffers=3)
    with (
        pytest.raises(NoSpaceError, match="filled up"),
        StreamingWriter(tmp_path / "out.safetensors", made, {}, options) as writer,
    ):
        while (chunk := writer.acquire()) is not None:
            writer.submit(chunk)
        writer.finish()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("hashing", [True, False])
def test_chunks_are_filled_while_the_disk_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashing: bool
) -> None:
    may_write, written = threading.Event(), []
    real = OutputFile.write_at

    def write_at(output: OutputFile, data: memoryview, offset: int) -> None:
        assert may_write.wait(60)
        real(output, data, offset)
        written.append(offset)

    monkeypatch.setattr(OutputFile, "write_at", write_at)
    made = [Entry("a", "U8", (5 * 4096,))]
    options = WriterOptions(hashing=hashing, chunk_bytes=4096, buffers=3)
    with StreamingWriter(tmp_path / "out.safetensors", made, {}, options) as writer:
        for number in range(5):
            if number == 3:
                assert not written, "three chunks were filled before the first was written"
                may_write.set()
            chunk = writer.acquire()
            assert chunk is not None
            chunk.view[:] = bytes([number]) * len(chunk.view)
            writer.submit(chunk)
        writer.finish()
    found = load_file(str(tmp_path / "out.safetensors"))["a"]
    assert found.reshape(5, -1).float().mean(1).tolist() == [0, 1, 2, 3, 4]


def test_leaving_waits_for_what_is_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A descriptor that is closed under a write could by then be that of another file."""
    begun, under_way = threading.Event(), [0]

    def write_at(output: OutputFile, data: memoryview, offset: int) -> None:
        under_way[0] += 1
        begun.set()
        time.sleep(0.2)
        under_way[0] -= 1

    monkeypatch.setattr(OutputFile, "write_at", write_at)
    with (
        pytest.raises(Cancelled),
        StreamingWriter(tmp_path / "out.safetensors", [Entry("a", "U8", (1 << 20,))], {}) as writer,
    ):
        chunk = writer.acquire()
        assert chunk is not None
        writer.submit(chunk)
        assert begun.wait(60)
        raise Cancelled
    assert under_way == [0] and os.listdir(tmp_path) == []


def test_another_failure_of_the_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(MergeError, match="Input/output error"):
        write(tmp_path / "out.safetensors", sample())
    assert os.listdir(tmp_path) == []


def test_leftovers_of_dead_processes_go_and_running_ones_stay(tmp_path: Path) -> None:
    code = (
        "import sys, os; sys.path.insert(0, sys.argv[1]); from pathlib import Path;"
        "from modelsmith.files.output import OutputFile;"
        "OutputFile(Path(sys.argv[2]), 5000); os.kill(os.getpid(), 9)"
    )
    library = Path(output_module.__file__).parents[2]
    running = OutputFile(tmp_path / "alive.safetensors", 5000)
    subprocess.run([sys.executable, "-c", code, str(library), str(tmp_path / "dead.safetensors")], check=False)
    (tmp_path / ".not-ours.tmp").write_bytes(b"")
    assert len(os.listdir(tmp_path)) == 3
    removed = clear_leftovers(tmp_path)
    assert [path.name.split(".modelsmith-")[0] for path in removed] == [".dead.safetensors"]
    running.commit()
    assert sorted(os.listdir(tmp_path)) == [".not-ours.tmp", "alive.safetensors"]


def test_one_target_is_written_once_at_a_time(tmp_path: Path) -> None:
    first = OutputFile(tmp_path / "a.safetensors", 10)
    with pytest.raises(UsageError, match="being written already"):
        OutputFile(tmp_path / "a.safetensors", 10)
    first.abort()
    OutputFile(tmp_path / "a.safetensors", 10).abort()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    ["../up.safetensors", "a/b", "a\\b", "", "  ", ".", "..", "CON", "nul.safetensors", "LPT1.x.safetensors", "a:b",
     "what?", "end.", "end ", " start", ".hidden", "line\nbreak", "x" * 250, "COM¹.safetensors"],
)  # fmt: skip
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        check_output_name(name)


@pytest.mark.parametrize("name", ["model.safetensors", "0.5(a) + 0.5(b)", "モデル", "console"])
def test_names_that_are_taken(name: str) -> None:
    assert check_output_name(name) == name


@pytest.mark.parametrize(
    "stem",
    ["plain", "長い名前のモデル" * 12, 'a "b" <c> d|e?*:', "a/b\\c", "con", "NUL.v2", "  ", "", "...", " start",
     ".hidden", "end. ", "\udce9" * 90, "x" * 250],
)  # fmt: skip
@pytest.mark.parametrize("ending", ["", "-fp16-cured"])
def test_names_that_are_made_up_are_always_taken(stem: str, ending: str) -> None:
    made = made_name(stem, ending)
    assert check_output_name(f"{made}-999.recipe.safetensors") and check_output_name(made) == made_name(made)
    assert made.endswith(ending)


def test_names_that_are_made_up_say_what_they_are_of() -> None:
    assert made_name("モデル_0.50_model v2.1") == "モデル_0.50_model v2.1"
    assert made_name("長" * 100, "-lora") == "長" * 57 + "-lora"


def test_an_output_path_gets_its_ending_once(tmp_path: Path) -> None:
    assert output_path(tmp_path, "a").name == "a.safetensors"
    assert output_path(tmp_path, "a.SAFETENSORS").name == "a.SAFETENSORS"
