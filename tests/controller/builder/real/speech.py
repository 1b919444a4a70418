"""A version of silero-vad: its ONNX file, and sequences of sound like speech.

Nobody has labelled this sound, so a version is judged by the decisions that the model as published
makes on it: what is measured is faithfulness, and no quality of the model.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from tests.controller.builder.sources.cards import SPEECH, silero
from wherry.names import parse_model_name, parse_version_name
from wherry_controller.core.card import Card, Data, Goal, MetricName, Source, SourceKind, Task

Sound = npt.NDArray[np.float32]

RATE = 16000
CHUNK, CONTEXT = 512, 64
STEPS, SEQUENCES, CALIBRATION = 24, 120, 30
FORMANTS = ((300, 800), (900, 2300), (2400, 3200))
SCORE = """import numpy as np


def same_decisions(outputs, labels):
    spoken = outputs["output"][..., 0] > 0.5
    return (spoken == (labels["spoken"] > 0)).mean(axis=1)
"""


def a_speech_card(file: str = "silero_vad.onnx") -> Card:
    return Card(
        model=parse_model_name("speech"),
        version=parse_version_name("v1"),
        source=Source(kind=SourceKind.ONNX, file=file, constants={"sr": RATE}),
        signature=SPEECH,
        task=Task(output="output", metric=MetricName.FUNCTION, function="score.py:same_decisions"),
        data=Data(evaluation="evaluation.npz", calibration="calibration.npz"),
        goal=Goal(largest_drop=0.02),
    )


def write_speech_version(folder: Path) -> None:
    shutil.copy(silero("silero_vad.onnx"), folder)
    (folder / "score.py").write_text(SCORE)
    rng = np.random.default_rng(5)
    rows = np.stack([_frames(_voice(rng)) for _ in range(SEQUENCES)])
    spoken = _decisions(folder / "silero_vad.onnx", rows)
    judged = slice(CALIBRATION, None)
    np.savez(folder / "calibration.npz", input=rows[:CALIBRATION])
    np.savez(folder / "evaluation.npz", input=rows[judged], spoken=spoken[judged])


def _decisions(file: Path, rows: Sound) -> npt.NDArray[np.int64]:
    session = onnxruntime.InferenceSession(str(file))
    state = np.zeros((2, len(rows), 128), np.float32)
    spoken = []
    for step in range(STEPS):
        given = {"input": rows[:, step], "state": state, "sr": np.array(RATE)}
        chances, state = session.run(None, given)
        spoken.append(chances[:, 0] > 0.5)
    return np.stack(spoken, axis=1).astype(np.int64)


def _frames(sound: Sound) -> Sound:
    """Return the chunks of a sound, each after the last samples of the one before."""
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), sound])
    return np.stack([padded[at * CHUNK :][: CONTEXT + CHUNK] for at in range(STEPS)])


def _voice(rng: np.random.Generator) -> Sound:
    """Return syllables and pauses: the pulses of a voice, ringing at three formants."""
    sound = 0.005 * rng.standard_normal(STEPS * CHUNK)
    at = int(rng.uniform(0, 0.3) * RATE)
    while at < len(sound):
        length = min(int(rng.uniform(0.1, 0.45) * RATE), len(sound) - at)
        sound[at : at + length] += rng.uniform(0.1, 0.8) * _syllable(rng, length)
        at += length + int(rng.uniform(0.1, 0.5) * RATE)
    return np.clip(sound, -1, 1).astype(np.float32)


def _syllable(rng: np.random.Generator, length: int) -> npt.NDArray[np.float64]:
    seconds = np.arange(length) / RATE
    pitch = rng.uniform(90, 260) * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(1, 5) * seconds))
    pulses = np.diff(np.floor(np.cumsum(pitch) / RATE), prepend=0)
    ring = np.arange(int(0.03 * RATE)) / RATE
    answers = [np.exp(-300 * ring) * np.sin(2 * np.pi * rng.uniform(*at) * ring) for at in FORMANTS]
    voiced = np.convolve(pulses, np.sum(answers, axis=0))[:length]
    loudest = float(np.max(np.abs(voiced))) or 1.0
    return np.asarray(voiced / loudest * np.sin(np.pi * np.arange(length) / length), np.float64)
