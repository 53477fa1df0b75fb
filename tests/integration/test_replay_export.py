"""Entries as a stream: each once, in an order that stays, up to where the ledger stood when it began."""

from typing import Any

from ledger import replay_export
from quota.keys import AccountName
from quota.periods import DAY_MS
from tests.integration.pipeline import Pipeline
from tests.integration.replaying import go_back, through


class TestExport:
    def export(self, pipeline: Pipeline, **arguments: Any) -> list[Any]:
        whole = {"from_ms": 0, "to_ms": pipeline.clocked.now_ms() + DAY_MS, **arguments}
        result, found, _ = through(pipeline, replay_export.step, **whole)
        assert result == {"entries": len(found)}
        return found

    def test_every_entry_is_written_once_whatever_the_page(self, pipeline: Pipeline) -> None:
        go_back(pipeline)
        pages = [self.export(pipeline, step_entries=size) for size in (1, 2, 3, 100)]
        assert len(pages[0]) == 7
        assert all(page == pages[0] for page in pages)
        assert [(row.epoch, row.n) for row in pages[0]] == sorted((row.epoch, row.n) for row in pages[0])

    def test_it_ends_with_what_it_began_with(self, pipeline: Pipeline) -> None:
        shard = pipeline.shard.open("a", limit=None).open("z", limit=None)
        shard.consume(*[shard.step(1, metric="a")] * 3, *[shard.step(1, metric="z")] * 3)
        pipeline.drained()
        arguments = {"from_ms": 0, "to_ms": shard.now_ms() + DAY_MS, "step_entries": 2}
        first = replay_export.step(pipeline.engine, arguments, None)
        shard.consume(shard.step(1, metric="a"), shard.step(1, metric="z"))
        pipeline.drained()
        found, cursor = list(first.found), first.cursor
        for _ in range(10):
            step = replay_export.step(pipeline.engine, arguments, cursor)
            found, cursor = found + step.found, step.cursor
            if step.result is not None:
                break
        assert [(row.metric, row.n) for row in found] == [*(("a", n) for n in range(3)), *(("z", n) for n in (3, 4, 5))]

    def test_a_stretch_a_metric_and_a_tenant_are_chosen(self, pipeline: Pipeline) -> None:
        shard = pipeline.clocked.open("a", limit=None).open("z", limit=None)
        begins_ms = shard.now_ms()
        shard.consume(shard.step(1, metric="a"), shard.step(1, metric="z"))
        shard.step_clock(1_000)
        shard.consume(shard.step(2, metric="a"))
        pipeline.drained()
        assert [row.amount for row in self.export(pipeline, to_ms=begins_ms + 1_000)] == [1, 1]
        assert [row.amount for row in self.export(pipeline, from_ms=begins_ms + 1)] == [2]
        assert [row.amount for row in self.export(pipeline, metric="z")] == [1]
        assert [row.amount for row in self.export(pipeline, tenant="t", subject="u")] == [1, 2, 1]
        assert self.export(pipeline, tenant="t", subject=AccountName("t", "x", "m").subject) == []
        assert self.export(pipeline, tenant="x") == []
