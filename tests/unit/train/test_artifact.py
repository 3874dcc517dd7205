from __future__ import annotations

import dataclasses
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icosfl.errors import CheckpointError, SchemaMismatch
from icosfl.schema import Schema, Series
from icosfl.train.artifact import (
    BEST,
    LATEST,
    Artifact,
    best_digest,
    from_bytes,
    latest_digest,
    load,
    load_best,
    load_latest,
    load_served,
    now_utc,
    point_best,
    save,
    served_digest,
    to_bytes,
)
from icosfl.train.plan import Plan
from icosfl.train.shape import ModelShape

SHAPE = ModelShape("lstm", series=2, horizons=2, window=40, hidden=4, layers=1)


def weights(shape: ModelShape) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(1)
    return tuple(rng.normal(size=dimensions).astype(np.float32) for _, dimensions in shape.arrays())


def gru() -> ModelShape:
    return dataclasses.replace(SHAPE, network="gru")


def made(**changes: Any) -> Artifact:
    artifact = Artifact(
        schema=Schema((Series("cpu_usage", "%"), Series("power", "W"))),
        period_seconds=3.0,
        horizons=(1, 20),
        season=1200,
        train_fraction=0.75,
        taught=("cpu_usage",),
        shape=SHAPE,
        run="8127346",
        round=3,
        nodes=("edge-01", "edge-02"),
        created="2025-01-01T00:00:00+00:00",
        parent=None,
        arrays=weights(SHAPE),
    )
    return dataclasses.replace(artifact, **changes)


def changed_arrays() -> tuple[np.ndarray, ...]:
    arrays = [array.copy() for array in made().arrays]
    arrays[-1][0] += np.float32(1e-6)
    return tuple(arrays)


CHANGES: list[dict[str, Any]] = [
    {"schema": Schema((Series("cpu_usage", "1"), Series("power", "W")))},
    {"schema": Schema((Series("power", "%"), Series("cpu_usage", "W")))},
    {"period_seconds": 1.0},
    {"horizons": (1, 21)},
    {"season": 1201},
    {"season": 0},
    {"train_fraction": 0.5},
    {"taught": ("cpu_usage", "power")},
    {"taught": ()},
    {"shape": gru(), "arrays": weights(gru())},
    {"run": "8127347"},
    {"round": 4},
    {"nodes": ("edge-01",)},
    {"created": "2025-01-01T00:00:01+00:00"},
    {"parent": "ab"},
    {"arrays": changed_arrays()},
]


def files_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def with_meta(**changes: object) -> bytes:
    files = files_of(to_bytes(made()))
    meta = json.loads(np.load(io.BytesIO(files["meta.npy"])).tobytes()) | changes
    return packed(files | {"meta.npy": npy(np.frombuffer(json.dumps(meta).encode(), np.uint8))})


def assert_same(one: Artifact, other: Artifact) -> None:
    for field in dataclasses.fields(Artifact):
        if field.name != "arrays":
            assert getattr(one, field.name) == getattr(other, field.name)
    for mine, theirs in zip(one.arrays, other.arrays, strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert mine.dtype == theirs.dtype
    assert one.digest == other.digest


def test_a_saved_artifact_loads_as_it_was(tmp_path: Path) -> None:
    path = save(made(), tmp_path / "models")

    assert path == tmp_path / "models" / "8127346-round-0003.npz"
    assert_same(load(path), made())
    latest = load_latest(tmp_path / "models")
    assert latest is not None
    assert_same(latest, made())
    assert latest_digest(tmp_path / "models") == made().digest


def test_an_artifact_travels_as_bytes() -> None:
    assert_same(from_bytes(to_bytes(made()), "message"), made())


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_the_digest_covers_everything(change: dict[str, Any]) -> None:
    assert made(**change).digest != made().digest


def test_the_digest_of_the_same_content_is_the_same() -> None:
    assert made().digest == made(arrays=tuple(np.asfortranarray(array) for array in made().arrays)).digest


def test_latest_names_the_one_saved_last(tmp_path: Path) -> None:
    save(made(round=9), tmp_path)
    save(made(run="9", round=1), tmp_path)

    latest = load_latest(tmp_path)

    assert latest is not None
    assert (latest.run, latest.round) == ("9", 1)
    assert load(tmp_path / "8127346-round-0009.npz").round == 9


def test_best_names_one_that_was_saved_before_the_latest(tmp_path: Path) -> None:
    save(made(round=1), tmp_path)
    save(made(round=2), tmp_path)

    point_best(made(round=1), tmp_path)

    best, latest = load_best(tmp_path), load_latest(tmp_path)
    assert best is not None
    assert latest is not None
    assert (best.round, latest.round) == (1, 2)
    assert best_digest(tmp_path) == made(round=1).digest


def test_a_file_that_is_not_the_model_that_best_names_is_refused(tmp_path: Path) -> None:
    save(made(round=1), tmp_path)
    point_best(made(round=1, season=7), tmp_path)

    with pytest.raises(CheckpointError, match="is not the model that best names"):
        load_best(tmp_path)


@pytest.mark.parametrize("directory", ["models", "missing/models"])
def test_where_nothing_was_saved_there_is_no_latest(tmp_path: Path, directory: str) -> None:
    (tmp_path / "models").mkdir()

    assert load_latest(tmp_path / directory) is None
    assert latest_digest(tmp_path / directory) is None
    assert load_best(tmp_path / directory) is None
    assert best_digest(tmp_path / directory) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"season": 1},
        {"season": None},
        {"period_seconds": 1.0},
        {"period_seconds": 1e999},
        {"series": [["cpu_usage", "1"], ["power", "W"]]},
        {"taught": ["power"]},
        {"taught": ["gpu"]},
        {"nodes": ["edge-01", "edge-02", "edge-03"]},
        {"digest": "0" * 64},
        {"format": 3},
        {"shape": {"network": "lstm", "series": 2, "horizons": 2, "window": 41, "hidden": 4, "layers": 1}},
        {"shape": {"network": "gru", "series": 2, "horizons": 2, "window": 40, "hidden": 4, "layers": 1}},
        {"shape": {"network": "rnn", "series": 2, "horizons": 2, "window": 40, "hidden": 4, "layers": 1}},
        {"shape": {"series": 2}},
        {"horizons": None},
        {"run": "../../evil"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_changed_description_is_detected(changes: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="message: "):
        from_bytes(with_meta(**changes), "message")


def test_a_changed_weight_is_detected() -> None:
    files = files_of(to_bytes(made()))
    arrays = [name for name in files if name.startswith("array_")]
    files[arrays[3]] = npy(np.load(io.BytesIO(files[arrays[3]])) + np.float32(0.001))

    with pytest.raises(CheckpointError, match="does not have the digest that it states"):
        from_bytes(packed(files), "message")


@pytest.mark.parametrize("at", np.linspace(0, 0.999, 25))
def test_a_damaged_byte_never_goes_unnoticed_into_the_content(at: float) -> None:
    content = bytearray(to_bytes(made()))
    content[int(at * len(content))] ^= 0x55

    try:
        found = from_bytes(bytes(content), "message")
    except CheckpointError:
        return
    assert_same(found, made())  # the byte was of the archive's own book-keeping


def test_a_bit_that_marks_a_part_as_encrypted_is_damage_like_any_other() -> None:
    content = bytearray(to_bytes(made()))
    content[content.index(b"PK\x01\x02") + 8] ^= 1

    with pytest.raises(CheckpointError, match="no sound model file"):
        from_bytes(bytes(content), "message")


@pytest.mark.parametrize("length", [0, 1, 100, 2000, -1])
def test_a_cut_off_file_is_refused(length: int) -> None:
    with pytest.raises(CheckpointError, match="no sound model file"):
        from_bytes(to_bytes(made())[:length], "message")


def test_a_pickle_is_never_opened() -> None:
    files = files_of(to_bytes(made()))
    first = next(name for name in files if name.startswith("array_"))
    evil = io.BytesIO()
    np.save(evil, np.array([print], dtype=object), allow_pickle=True)

    for content in (packed(files | {first: evil.getvalue()}), pickle.dumps({"meta": 1})):
        with pytest.raises(CheckpointError, match="no sound model file"):
            from_bytes(content, "message")


@pytest.mark.parametrize("drop", ["meta.npy", "array_001.npy"])
def test_a_file_that_lacks_a_part_is_refused(drop: str) -> None:
    files = files_of(to_bytes(made()))

    with pytest.raises(CheckpointError):
        from_bytes(packed({name: content for name, content in files.items() if name != drop}), "message")


def test_an_array_that_is_none_of_the_model_s_is_refused() -> None:
    files = files_of(to_bytes(made()))

    with pytest.raises(CheckpointError):
        from_bytes(packed(files | {"other.npy": npy(np.zeros(3))}), "message")


@pytest.mark.parametrize("writes", [0, 1])
def test_after_a_crash_while_saving_the_old_model_still_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    save(made(round=1), tmp_path)
    replace, done = Path.replace, []

    def crash(self: Path, target: Path) -> Path:
        if len(done) == writes:
            raise KeyboardInterrupt
        done.append(target)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        save(made(round=2), tmp_path)

    latest = load_latest(tmp_path)
    assert latest is not None
    assert latest.round == 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_disk_that_does_not_take_the_file_is_reported_and_the_old_model_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(made(round=1), tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match="cannot be written: No space left on device") as caught:
        save(made(round=1, nodes=()), tmp_path)

    assert "free space" in caught.value.cure
    latest = load_latest(tmp_path)
    assert latest is not None
    assert latest.nodes == ("edge-01", "edge-02")


def test_a_directory_that_cannot_be_is_reported(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")

    with pytest.raises(CheckpointError, match="cannot be written"):
        save(made(), tmp_path / "models")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"8127346-round-0003.npz",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"file": "../8127346-round-0003.npz", "digest": "x"}',
        b'{"file": "/etc/passwd", "digest": "x"}',
        b'{"file": ".npz", "digest": "x"}',
    ],
)
def test_a_pointer_that_names_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    save(made(), tmp_path)
    (tmp_path / LATEST).write_bytes(content)

    with pytest.raises(CheckpointError, match=LATEST):
        load_latest(tmp_path)


def test_a_model_that_is_gone_or_another_one_is_reported(tmp_path: Path) -> None:
    path = save(made(), tmp_path)
    path.write_bytes(to_bytes(made(nodes=())))
    with pytest.raises(CheckpointError, match="is not the model that latest names"):
        load_latest(tmp_path)

    path.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_latest(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": Schema((Series("cpu_usage", "%"),))}, "must have the series of its schema"),
        ({"taught": ("cpu_usage", "gpu")}, "be taught no others"),
        ({"horizons": (1,)}, "no horizons"),
        ({"horizons": (20, 1)}, "no horizons"),
        ({"horizons": (0, 1)}, "must not be negative"),
        ({"season": -1}, "must not be negative"),
        ({"round": -1}, "must not be negative"),
        ({"period_seconds": 0.0}, "must not be negative"),
        ({"period_seconds": float("nan")}, "must not be negative"),
        ({"train_fraction": 1.0}, "train_fraction"),
        ({"run": "a/b"}, "no run id"),
        ({"run": ""}, "no run id"),
        ({"arrays": made().arrays[:-1]}, "arrays"),
        ({"arrays": tuple(array * np.nan for array in made().arrays)}, "not finite"),
        ({"arrays": tuple(array.astype(np.float64) for array in made().arrays)}, "float32"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaMismatch, match=message):
        made(**changes)


def test_an_artifact_says_why_it_cannot_be_gone_on_with() -> None:
    artifact = made()
    own = (artifact.schema, 3.0, 40, (1, 20), SHAPE)

    assert artifact.misfit(*own) is None
    assert artifact.misfit(artifact.schema, 1.0, 40, (1, 20), SHAPE) == "sampling period 3.0 is not 1.0"
    different = artifact.misfit(artifact.schema.select(["power"]), 3.0, 60, (1,), SHAPE)
    assert different is not None
    for word in ("series", "window 40 is not 60", "horizons"):
        assert word in different


def test_an_artifact_of_any_season_can_be_gone_on_with_but_none_of_another_network() -> None:
    artifact = made()
    own = (artifact.schema, 3.0, 40, (1, 20))

    assert made(season=7).misfit(*own, SHAPE) is None
    reason = artifact.misfit(*own, gru())
    assert reason is not None
    assert "network='lstm'" in reason
    assert "network='gru'" in reason


def test_an_artifact_tells_how_it_looks_at_rows() -> None:
    assert made().window == 40
    assert made().plan(9.0) == Plan(("cpu_usage", "power"), 40, (1, 20), 1200, 3.0, 9.0)


def test_a_model_of_the_first_format_is_refused_with_a_cure() -> None:
    # as version 0.1 wrote it: with a scaler, and a window beside a shape without one
    first = with_meta(
        format=1,
        window=40,
        scaler={"mean": [30.5, None], "scale": [4.25, None]},
        shape={"series": 2, "horizons": 2, "hidden": 4, "layers": 1},
    )

    with pytest.raises(CheckpointError, match=r"models/1\.npz: no sound model file: it is of format 1") as caught:
        from_bytes(first, "models/1.npz")

    assert "train again" in caught.value.cure


def test_created_times_are_utc() -> None:
    assert now_utc().endswith("+00:00")


def test_what_is_forecast_with_is_the_best_model_and_the_newest_only_where_none_is_best(tmp_path: Path) -> None:
    save(made(round=1), tmp_path)
    alone = load_served(tmp_path)
    digest = served_digest(tmp_path)
    point_best(made(round=1), tmp_path)
    save(made(round=2), tmp_path)

    served = load_served(tmp_path)

    assert alone is not None
    assert served is not None
    assert alone.digest == digest == served.digest == served_digest(tmp_path) == made(round=1).digest


def test_a_damaged_best_is_said_and_not_passed_over(tmp_path: Path) -> None:
    save(made(round=1), tmp_path)
    (tmp_path / BEST).write_text("?", encoding="utf-8")

    with pytest.raises(CheckpointError, match="best: does not name a model file"):
        load_served(tmp_path)
    with pytest.raises(CheckpointError, match="best: does not name a model file"):
        served_digest(tmp_path)
