"""The features of a machine are those that its kernel lists for every core."""

from __future__ import annotations

import pytest

from tests import cpuinfos as cpuinfo
from wherry.cpuinfo import features_in


@pytest.mark.parametrize(
    ("text", "has", "has_not"),
    [
        (cpuinfo.PI_ZERO_2, {"asimd"}, {"asimddp", "i8mm"}),
        (cpuinfo.PI_4, {"asimd"}, {"asimddp", "i8mm"}),
        (cpuinfo.PI_5, {"asimd", "asimddp", "asimdhp"}, {"i8mm"}),
        (cpuinfo.ORIN, {"asimd", "asimddp", "asimdhp"}, {"i8mm"}),
        (cpuinfo.PI_3_IN_32_BITS, {"neon"}, {"asimd"}),
        (cpuinfo.HASWELL, {"avx2", "sse4_2"}, {"avx512_vnni", "avx_vnni", "vnmi"}),
        (cpuinfo.EPYC, {"avx2", "avx512_vnni"}, {"avx_vnni"}),
    ],
    ids=["Pi Zero 2", "Pi 4", "Pi 5", "Orin", "Pi 3 in 32 bits", "Haswell", "EPYC"],
)
def test_the_features_are_those_that_the_kernel_lists(
    text: str, has: set[str], has_not: set[str]
) -> None:
    features = set(features_in(text))
    assert has <= features
    assert not has_not & features


def test_a_feature_that_one_core_lacks_is_none_of_the_machine() -> None:
    assert "asimddp" not in features_in(cpuinfo.PI_5 + "\n" + cpuinfo.PI_4)
    assert "asimd" in features_in(cpuinfo.PI_5 + "\n" + cpuinfo.PI_4)


def test_a_kernel_that_lists_nothing_has_no_features() -> None:
    assert features_in("") == ()
    assert features_in("processor\t: 0\nisa\t\t: rv64imafdc\n") == ()
