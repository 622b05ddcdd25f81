"""`unimodel transcribe`: recordings in, text and subtitles out."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys

import pytest
from terminal import Terminal

from tests import models_speech
from tests.models_speech import TEXTS


@pytest.fixture(scope="session")
def whisper(served):
    """The name of the one model for speech that the server of `served` serves."""
    if importlib.util.find_spec("faster_whisper") is None:  # importing it here would be slow
        pytest.skip("faster-whisper is not installed")
    served.ok("register", "whisper", models_speech.whisper())
    return "whisper"


@pytest.fixture
def clip(tmp_path):
    """A file of two segments."""
    path = tmp_path / "talk.wav"
    path.write_bytes(models_speech.clip("0870"))
    return path


def test_text_is_a_line_a_segment(served, whisper, clip):
    lines = served.ok("transcribe", clip).splitlines()
    assert len(lines) > 1
    assert " ".join(lines) == TEXTS["0870"]


def test_stdin_and_a_model_by_name(served, whisper):
    out = served.ok("transcribe", "-", "--model", whisper, input=models_speech.clip("0930"))
    assert out == TEXTS["0930"] + "\n"


def test_subtitles(served, whisper, clip, tmp_path):
    srt = served.ok("transcribe", clip, "--format", "srt")
    assert re.match(r"1\n00:00:00,000 --> 00:00:05,\d{3}\nAnd Mr\. John", srt)
    assert served.ok("transcribe", clip, "--format", "vtt", "-o", tmp_path / "talk.vtt") == ""
    vtt = (tmp_path / "talk.vtt").read_text()
    assert vtt.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:05.")
    words = served.ok("transcribe", clip, "--format", "srt", "--words")
    assert [entry.splitlines()[2] for entry in words.strip().split("\n\n")] == TEXTS["0870"].split()


def test_json_has_all_of_it(served, whisper, clip):
    answer = json.loads(served.ok("transcribe", clip, "--format", "json", "--words"))
    assert answer["text"] == TEXTS["0870"]
    assert (answer["file"], answer["model"], answer["duration"]) == (str(clip), "whisper", 7.1)
    words = [word["word"] for segment in answer["segments"] for word in segment["words"]]
    assert "".join(words).strip() == TEXTS["0870"]
    assert served.json("transcribe", clip)["text"] == TEXTS["0870"]


def test_several_files_and_one_that_is_none(served, whisper, clip, tmp_path):
    other = tmp_path / "other.mp3"
    other.write_bytes(models_speech.encoded("0930", "mp3"))
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"nothing")
    done = served("transcribe", clip, broken, tmp_path / "missing.wav", other)
    assert done.returncode == 1
    assert done.stdout.startswith(f"{clip}:\nAnd Mr.")
    assert done.stdout.endswith(f"{other}:\n{TEXTS['0930']}\n")
    assert f"{broken}: The recording cannot be decoded" in done.stderr
    assert f"{tmp_path / 'missing.wav'}: Cannot read" in done.stderr
    assert "2 of 4 files could not be transcribed." in done.stderr
    folder = tmp_path / "out"
    folder.mkdir()
    lines = served.ok("transcribe", clip, other, "-o", folder, "--format", "srt", "--json").splitlines()
    assert [json.loads(line)["path"] for line in lines] == [str(folder / "talk.srt"), str(folder / "other.srt")]
    assert TEXTS["0930"] in (folder / "other.srt").read_text()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--words"], "--words goes with --format json, srt or vtt"),
        (["--json", "--format", "srt"], "--format srt needs -o PATH"),
        (["again.wav", "--format", "srt"], "Several files need -o FOLDER"),
        (["again.wav", "-o", "no/folder"], "no/folder is no folder"),
        (["--model", "double"], "double is for the task tensor; it does not write down speech"),
        (["--format", "poem"], "poem"),
        (["--task", "sing"], "sing"),
    ],
)
def test_wrong_usage(served, whisper, clip, flags, says):
    done = served("transcribe", clip, *flags)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stdout == ""


def test_errors_of_the_server(served, whisper, clip):
    code, error = served.error("transcribe", clip, "--language", "de")
    assert code == 1
    assert "knows English alone" in error["message"]
    code, error = served.error("transcribe", clip, "--model", "nobody")
    assert code == 4
    code, error = served.error("transcribe", clip, "--timeout", "0.001")
    assert code == 6
    assert served.error("transcribe", "nothing.wav")[0] == 2


def test_without_a_model_for_speech(cli, stand_in, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"x")
    server = stand_in(None)
    code, error = cli.error("transcribe", tmp_path / "a.wav", "--host", server.url)
    assert code == 2
    assert "has no model for speech" in error["message"]


def test_segments_are_shown_on_a_terminal_while_a_file_is_written(served, whisper, clip, tmp_path):
    with Terminal(served, "transcribe", clip, "-o", tmp_path / "talk.txt") as terminal:
        terminal.until("in his power to do for them.")
        assert terminal.end() == 0
    assert (tmp_path / "talk.txt").read_text().splitlines()[-1] == "in his power to do for them."


def test_show_has_calls_that_work(served, whisper, clip):
    folder = clip.rename(clip.parent / "speech.wav").parent
    shown = served.ok("show", whisper)
    assert "Languages" in shown
    command, curl, python = re.search(r"Command line\n(.*)\n\ncurl\n(.*)\n\nPython\n(.*)", shown, re.DOTALL).groups()
    assert " ".join(served.ok(*shlex.split(command)[1:], cwd=folder).splitlines()) == TEXTS["0870"]
    run = {"cwd": folder, "capture_output": True, "check": True}
    assert json.loads(subprocess.run(["sh", "-c", curl], **run).stdout)["text"] == TEXTS["0870"]
    code = python.strip().replace("answer.text", "print(answer.text)")
    assert subprocess.run([sys.executable, "-c", code], **run).stdout.decode().strip() == TEXTS["0870"]


def test_predict_takes_a_recording_too(served, whisper, clip):
    assert json.loads(served.ok("predict", whisper, clip))["text"] == TEXTS["0870"]
    with_words = json.loads(served.ok("predict", whisper, clip, "--params", "words=true"))
    assert with_words["segments"][0]["words"]
