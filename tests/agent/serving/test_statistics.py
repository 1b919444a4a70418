"""Statistics add up by bundle, and of bundles that served long ago nothing is kept."""

from __future__ import annotations

from wherry.names import AliasName, Digest
from wherry_agent.serving.statistics import BUNDLES_KEPT, Statistics

ALIAS, OTHER = AliasName("default"), AliasName("other")
BUNDLE = Digest("a" * 64)


def answer(
    statistics: Statistics, *, alias: AliasName = ALIAS, bundle: Digest = BUNDLE, rows: int = 1
) -> None:
    statistics.answered(alias, bundle, rows=rows, latency_ns=100, compute_ns=70, now_ms=5)


def told(statistics: Statistics, alias: AliasName | None = None) -> list[dict[str, object]]:
    stats = statistics.tell(alias)["model_stats"]
    assert isinstance(stats, list)
    return stats


def test_counts_and_nanoseconds_add_up() -> None:
    statistics = Statistics()
    for rows in (1, 3, 3):
        answer(statistics, rows=rows)
    statistics.failed(ALIAS, BUNDLE, 40)
    (stats,) = told(statistics)
    nothing = {"count": 0, "ns": 0}
    assert stats == {
        "name": ALIAS,
        "version": BUNDLE,
        "last_inference": 5,
        "inference_count": 7,
        "execution_count": 3,
        "inference_stats": {
            "success": {"count": 3, "ns": 300},
            "fail": {"count": 1, "ns": 40},
            "queue": {"count": 3, "ns": 90},
            "compute_input": nothing,
            "compute_infer": {"count": 3, "ns": 210},
            "compute_output": nothing,
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": nothing,
                "compute_infer": {"count": count, "ns": 70 * count},
                "compute_output": nothing,
            }
            for rows, count in ((1, 1), (3, 2))
        ],
    }


def test_one_alias_or_all_are_told() -> None:
    statistics = Statistics()
    answer(statistics)
    answer(statistics, alias=OTHER)
    assert [stats["name"] for stats in told(statistics)] == [ALIAS, OTHER]
    assert [stats["name"] for stats in told(statistics, OTHER)] == [OTHER]


def test_the_bundle_that_did_nothing_for_longest_goes_first() -> None:
    statistics = Statistics()
    bundles = [Digest(f"{number:064x}") for number in range(BUNDLES_KEPT)]
    for bundle in (*bundles, bundles[0], BUNDLE):
        answer(statistics, bundle=bundle)
    kept = {stats["version"] for stats in told(statistics)}
    assert kept == {*bundles, BUNDLE} - {bundles[1]}
