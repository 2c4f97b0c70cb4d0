"""Answers kept shard by shard, for any item, message and form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from writer_toys import Scripted

from grlm_hf.files import Incomplete
from grlm_hf.llms.answers import AnswerForm, parse_part, sharded_answers

YES_NO = AnswerForm("(yes|no)", 4, {"yes", "no"}.__contains__, "yes or no")
IDS = [f"i{n}" for n in range(7)]
ANSWERS = ["yes", "no", "no", "yes", "yes", "no", "yes"]


def asked(writer: Scripted, folder: Path, **options: Any) -> list[str]:
    return sharded_answers(writer, folder, IDS, lambda n: f"Is {IDS[n]} odd?", YES_NO, shard_size=3, **options)


def test_answers_come_in_order_and_once(tmp_path: Path) -> None:
    writer = Scripted(ANSWERS)
    assert asked(writer, tmp_path / "odd") == ANSWERS
    assert writer.asked == [f"Is {i} odd?" for i in IDS]
    assert sorted(p.name for p in (tmp_path / "odd").iterdir()) == [f"answers-0000{n}-of-00003.parquet" for n in range(3)]
    assert asked(Scripted([]), tmp_path / "odd") == ANSWERS
    assert sharded_answers(Scripted([]), tmp_path / "none", [], str, YES_NO) == []


def test_parts_write_their_shards_and_wait_for_the_others(tmp_path: Path) -> None:
    with pytest.raises(Incomplete, match=r"^1 of 3 shards of the odd pass are not written yet"):
        asked(Scripted(ANSWERS[:3] + ANSWERS[6:]), tmp_path / "odd", part="0/2")
    assert asked(Scripted(ANSWERS[3:6]), tmp_path / "odd", part="1/2") == ANSWERS


def test_an_answer_of_another_form_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Item 'i1' was answered 'perhaps'; expected yes or no\. The back end \(scripted\)"):
        asked(Scripted(["yes", "perhaps", "no"]), tmp_path / "odd")
    assert not (tmp_path / "odd").exists()


@pytest.mark.parametrize("part", ["2/2", "x/2", "1", "-1/2"])
def test_a_part_that_makes_no_sense_is_named(part: str) -> None:
    with pytest.raises(ValueError, match=f"terms.llm.part is '{part}'; expected like 0/8"):
        parse_part(part, "terms.llm.part")
