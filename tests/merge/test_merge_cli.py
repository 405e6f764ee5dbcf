"""``modelsmith merge`` as a user runs it: exit status, one clear line, the file."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import modelsmith
from merge.models import Model, write_model
from modelsmith.cli import main

Models = tuple[Path, Path, Path]


def test_a_weighted_sum_from_the_command_line(abc: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "o.safetensors"
    row = ",".join(["0.5"] * 20 + ["1"])
    status = main(["merge", "--method", "weighted_sum", "-a", str(abc[0]), "-b", str(abc[1]), "--alpha", "0.5",
                   "--block-weights", row, "-o", str(out), "--dtype", "bf16", "--quiet"])  # fmt: skip
    assert status == 0 and str(out) in capsys.readouterr().out
    found, b = load_file(str(out)), load_file(str(abc[1]))
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    vae = next(name for name in b if name.startswith("first_stage_model"))
    assert torch.equal(found[vae], b[vae].bfloat16())


def test_add_difference_with_a_preset(abc: Models, tmp_path: Path) -> None:
    out = tmp_path / "o.safetensors"
    status = main(["merge", "--method", "add_difference", "-a", str(abc[0]), "-b", str(abc[1]), "-c", str(abc[2]),
                   "--preset", "ALL_A", "-o", str(out), "--quiet"])  # fmt: skip
    assert status == 0
    a, found = load_file(str(abc[0])), load_file(str(out))
    assert all(torch.equal(found[name], a[name]) for name in a)


def test_exit_status_and_message(abc: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sd1 = write_model(tmp_path / "sd1.safetensors", Model("sd1"))
    out = tmp_path / "o.safetensors"
    assert main(["merge", "-a", str(abc[0]), "-b", str(sd1), "-o", str(out)]) == 1
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and "sd1" in told[0] and "sdxl" in told[0]
    assert main(["merge", "-a", str(abc[0]), "-b", str(abc[1]), "-o", str(tmp_path / "none" / "o.safetensors")]) == 2
    assert main(["merge", "-a", str(abc[0]), "-b", str(abc[1])]) == 2
    assert main(["merge", "-a", str(abc[0]), "-c", str(abc[1]), "-o", str(out)]) == 2
    assert (
        main(["merge", "-a", str(abc[0]), "-b", str(abc[1]), "--preset", "X", "--block-weights", "1", "-o", str(out)])
        == 2
    )
    assert main(["merge", "-a", str(abc[0]), "-b", str(abc[1]), "--set", "beta", "-o", str(out)]) == 2
    assert not out.exists()


def test_precisions_loras_and_the_device(
    abc: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file

    from lora.lora_files import write_lora
    from lora.lora_modules import lora

    key = "input_blocks.4.1.transformer_blocks.0.attn2.to_q"
    path = write_lora(tmp_path / "l.safetensors", {"lora_unet_" + key.replace(".", "_"): lora((6, 6))})
    out = tmp_path / "o.safetensors"
    given = ["merge", "-a", str(abc[0]), "-b", str(abc[1]), "--alpha", "0", "-o", str(out), "--quiet"]
    assert main([*given, "--lora", f"{path}:0.5", "--dtype", "bf16", "--component-dtype", "unet=fp32"]) == 0
    found, a = load_file(str(out)), load_file(str(abc[0]))
    name = f"model.diffusion_model.{key}.weight"
    assert {n for n in a if n.startswith("model.") and not torch.equal(found[n], a[n].float())} == {name}
    assert found["first_stage_model.decoder.conv_in.weight"].dtype == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([*given, "--overwrite", "--device", "cuda"]) == 2
    assert "no GPU" in capsys.readouterr().err
    assert main([*given, "--overwrite", "--component-dtype", "unet"]) == 2


def test_as_a_module_with_a_progress_bar_on_a_terminal(abc: Models, tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    out = tmp_path / "o.safetensors"
    library = Path(modelsmith.__file__).parents[1]
    command = [sys.executable, "-m", "modelsmith", "merge", "-a", str(abc[0]), "-b", str(abc[1]), "-o", str(out)]
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, text=True, check=False, cwd=library)
    os.close(theirs)
    shown = ""
    with contextlib.suppress(OSError), os.fdopen(ours, "rb", buffering=0) as terminal:
        while part := terminal.read(65536):  # ends with an error once nothing holds the other side
            shown += part.decode(errors="replace")
    assert done.returncode == 0, shown
    assert out.exists() and "100%" in shown


def test_the_command_is_known_without_torch() -> None:
    library = Path(modelsmith.__file__).parents[1]
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['numpy'] = None;"
        "from modelsmith.cli import build_parser; build_parser().parse_args(['merge', '-a', 'x', '-o', 'y'])"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=library)
