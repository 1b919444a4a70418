"""Profiles: facts that contradict one another are refused, version ranges hold at both ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.builders import a_profile
from wherry.codec import BadDocument, decode, encode
from wherry.profile import (
    Arch,
    BadProfile,
    Facts,
    Profile,
    accepts_runtime,
    find_wrong_processor,
    find_wrong_system,
    version_key,
)

NUMBERS = st.lists(st.integers(0, 2000), min_size=1, max_size=4).map(tuple)


def spelled(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


@pytest.mark.parametrize("version", ["1.23", "1.23.0", "1.23.2", "1.31.1", "1.100", "1.99.99"])
def test_a_version_within_the_range_is_accepted(version: str) -> None:
    assert accepts_runtime(a_profile(runtime_floor="1.23", runtime_below="2"), version)


@pytest.mark.parametrize("version", ["1.22.9", "1.9", "0.99", "2", "2.0.0", "10", "", "latest"])
def test_a_version_outside_the_range_is_not(version: str) -> None:
    assert not accepts_runtime(a_profile(runtime_floor="1.23", runtime_below="2"), version)


@given(NUMBERS, NUMBERS, NUMBERS)
def test_a_range_includes_its_floor_and_excludes_its_end(
    one: tuple[int, ...], other: tuple[int, ...], version: tuple[int, ...]
) -> None:
    low, high = sorted((version_key(spelled(one)), version_key(spelled(other))))
    if low == high:
        with pytest.raises(BadProfile, match="runtime_floor is not below runtime_below"):
            a_profile(runtime_floor=spelled(low), runtime_below=spelled(high))
        return
    profile = a_profile(runtime_floor=spelled(low), runtime_below=spelled(high))
    assert accepts_runtime(profile, spelled(low))
    assert not accepts_runtime(profile, spelled(high))
    assert accepts_runtime(profile, spelled(version)) == (
        low <= version_key(spelled(version)) < high
    )


def test_a_version_counts_up_to_the_first_part_that_is_no_number() -> None:
    assert version_key("1.31.1") == (1, 31, 1)
    assert version_key("1.31.dev4") == version_key("1.31.1rc1") == (1, 31)
    assert version_key("") == version_key("v1") == ()
    assert version_key("1.²") == version_key("1.-2") == (1,)


@given(st.text(max_size=20))
def test_any_text_has_a_version_key(text: str) -> None:
    assert all(number >= 0 for number in version_key(text))


@pytest.mark.parametrize(("floor", "below"), [("v1.20", "2"), ("", "2"), ("banana", "1.0")])
def test_a_range_begins_with_a_number(floor: str, below: str) -> None:
    with pytest.raises(BadProfile, match="runtime_floor is no version"):
        a_profile(runtime_floor=floor, runtime_below=below)


@pytest.mark.parametrize(("floor", "below"), [("2", "1"), ("1.23", "1.23"), ("1.23", "")])
def test_an_empty_range_is_refused(floor: str, below: str) -> None:
    with pytest.raises(BadProfile, match="runtime_floor is not below runtime_below"):
        a_profile(runtime_floor=floor, runtime_below=below)


def test_threads_and_the_largest_batch_start_at_one() -> None:
    assert a_profile(threads=1, max_batch=1).max_batch == 1
    with pytest.raises(BadProfile, match="start at 1"):
        a_profile(threads=0)
    with pytest.raises(BadProfile, match="start at 1"):
        a_profile(max_batch=0)


def test_a_profile_has_a_precision() -> None:
    with pytest.raises(BadProfile, match="precisions is empty"):
        a_profile(precisions=())


def test_what_was_detected_is_a_fact_of_the_profile() -> None:
    assert a_profile(detected=("arch", "memory_bytes")).detected == ("arch", "memory_bytes")
    with pytest.raises(BadProfile, match="'bogus' in detected is no fact"):
        a_profile(detected=("arch", "bogus"))


def test_a_profile_passes_the_wire_and_a_contradiction_does_not() -> None:
    data = encode(a_profile(latency_ms=2.5))
    assert decode(Profile, data) == a_profile(latency_ms=2.5)
    with pytest.raises(BadProfile):
        decode(Profile, data.replace(b'"threads":1', b'"threads":0'))
    with pytest.raises(BadDocument):
        decode(Profile, data.replace(b'"x86_64"', b'"z80"'))


def test_a_refusal_names_the_profile_and_what_to_do() -> None:
    with pytest.raises(BadProfile, match=r"profile 'x86-onnx-fp32' .*; correct its file"):
        a_profile(threads=0)


FACTS = Facts(
    arch="x86_64",
    cpu_features=("avx2", "avx_vnni"),
    page_size_bytes=4096,
    memory_bytes=1 << 29,
    libc="2.31",
    python="3.10.12",
)


def a_picky_profile(*features: str, page_size_bytes: int = 4096) -> Profile:
    profile = a_profile()
    return replace(profile, cpu_features=features, page_size_bytes=page_size_bytes)


@pytest.mark.parametrize(
    "features", [(), ("avx2",), ("avx2", "avx_vnni"), ("avx512_vnni|avx_vnni",)]
)
def test_each_feature_is_required_and_of_a_choice_one(features: tuple[str, ...]) -> None:
    assert find_wrong_processor(a_picky_profile(*features), FACTS) is None


@pytest.mark.parametrize(
    "features", [("avx",), ("avx2", "amx_int8"), ("avx512_vnni|amx_int8",), ("vnni",)]
)
def test_a_feature_is_there_by_its_whole_name(features: tuple[str, ...]) -> None:
    assert features[-1].split("|")[0] in str(
        find_wrong_processor(a_picky_profile(*features), FACTS)
    )


@pytest.mark.parametrize(("page_size_bytes", "fits"), [(4096, True), (16384, True), (2048, False)])
def test_a_profile_takes_pages_up_to_its_own(page_size_bytes: int, fits: bool) -> None:
    profile = a_picky_profile(page_size_bytes=page_size_bytes)
    assert (find_wrong_processor(profile, FACTS) is None) == fits


def test_another_arch_is_another_processor() -> None:
    profile = replace(a_profile(), arch=Arch.AARCH64)
    assert "aarch64 and this machine is x86_64" in str(find_wrong_processor(profile, FACTS))


def test_versions_of_the_system_are_compared_as_numbers() -> None:
    older = replace(a_profile(), libc_floor="2.4", python_floor="3.9")
    assert find_wrong_system(older, FACTS) is None
    assert "glibc" in str(find_wrong_system(replace(older, libc_floor="2.32"), FACTS))
    assert "Python" in str(find_wrong_system(replace(older, python_floor="3.11"), FACTS))


def test_a_budget_that_is_more_than_the_memory_is_refused() -> None:
    assert find_wrong_system(replace(a_profile(), memory_bytes=1 << 29), FACTS) is None
    larger = find_wrong_system(replace(a_profile(), memory_bytes=1 << 30), FACTS)
    assert larger == "it may take 1024 MiB of memory and this machine has 512"
