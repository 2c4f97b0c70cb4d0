"""Calls with flags, settings and recipes that make no sense."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path

from trial import Trial

from grlm_hf.recipe import Recipe

ODD_VALUES = ("-1", "x", "1e400", "[1]")
RECIPES = {
    "empty": b"",
    "a list": b"- a\n- b\n",
    "a text": b"hello",
    "a tab": b"train:\n\tepochs: 3\n",
    "an unknown key": b"trian: {epochs: 3}\n",
    "a tag": b"name: !!python/object/apply:os.system ['touch PWNED']\n",
    "aliases without end": b"a: &a [x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 8)) for c in b"bcdefghi")
    + b"name: *i\n",
    "a secret": b"name: ${oc.env:HF_TOKEN}\n",
    "no such variable": b"name: ${oc.env:GRLM_NO_SUCH}\n",
    "itself": b"name: ${name}\n",
    "another resolver": b"name: ${oc.decode:'[1,2]'}\n",
    "zeros": bytes(200),
    "utf-16": "name: x\n".encode("utf-16"),
    "half": b"train: {epochs: 3",
    "deep": b"[" * 5000,
    "a number": b"seed: 1.5\n",
    "a key twice": b"seed: 1\nseed: 2\n",
}
CALLS = """
recommend checkpoint --history B0001 --k 0
recommend checkpoint --history B0001 --k -1
recommend checkpoint --history B0001 --k nan
recommend checkpoint --history B0001 --k 99999999999999999999
recommend checkpoint --history B0001 --k 91
recommend checkpoint --history B0001 --num-beams 0
recommend checkpoint --history B0001 --num-beams 10000000
recommend checkpoint --history B0001 --length-penalty 1e308
recommend checkpoint --history B0001 --length-penalty nan
recommend checkpoint --history B0001 --deadline-ms -1
recommend checkpoint --history B0001 --deadline-ms nan --exact
recommend checkpoint --history B0001 --domain Otdoor
recommend checkpoint --history B0001 --allow B9999
recommend checkpoint --history B0001 --exclude ,
recommend checkpoint --history B0001 --hitsory B1
recommend checkpoint --history B0001 --prior owm
recommend checkpoint
recommend nowhere --history B0001
recommend checkpoint --history ''
recommend checkpoint --history MANY
recommend checkpoint --history CONTROL
recommend datasets --history B0001
recommend shop --history B0001
recommend shop.yaml --history B0001
recommend '' --history B0001
recommend ../../../etc --history a
recommend a/b/c/d --history a
recommend /dev/null --history a
explain checkpoint --history B0001 --item B9999
explain checkpoint --history B0001 --item B0002 --exclude-seen
evaluate checkpoint datasets --output shop
evaluate checkpoint shop
evaluate datasets checkpoint
evaluate checkpoint datasets --part train
evaluate checkpoint datasets --output /dev/null
evaluate checkpoint datasets --output /proc/x/report.json
train datasets --output shop
train datasets --output shop.yaml
train datasets --output /proc/out
train datasets --output /dev/null
train shop --output out
train datasets --output out --recipe nowhere.yaml
train datasets --output out --set train.model=nowhere/here
train datasets --output out --set train.model=shop
train datasets --output out --set train.model=checkpoint --set train.max_steps=1 --set train.bf16=perhaps
train datasets --output out --finish
grpo checkpoint shop --output out
grpo shop datasets --output out
dpo checkpoint datasets --output shop
neighbors shop --output /dev/null
neighbors shop --output shop
neighbors nowhere
neighbors shop --set neighbors.embedder=nowhere/here
terms shop --output shop
terms shop --output out --part 9/8
terms shop --output out --neighbors shop.yaml
terms shop --output out --set terms.generator=file --set terms.file=shop.yaml
quality shop
quality datasets --output shop
join a=shop
join a=shop a=shop --output out
join a=shop b=nowhere --output out
join ../x=shop b=shop --output out
dataset shop --catalog shop --output out
dataset shop --catalog checkpoint --output shop
dataset push me/x --from shop
push checkpoint no/such/name --license mit
push shop me/x --license mit
push checkpoint me/x --license mitt --dry-run
push checkpoint .. --license mit --dry-run
serve nowhere
serve checkpoint --port 99999999
serve checkpoint --host no.such.host.invalid
serve checkpoint --state shop.yaml --port 0
serve checkpoint --max-batch 0
serve checkpoint --max-body-mb nan
serve checkpoint --keep 0
serve checkpoint --api-key-file nowhere
serve checkpoint --backend tpu
space nowhere
report
report nowhere.json
report shop.yaml
report shop
doctor nowhere
doctor /dev/null
doctor shop
run nowhere.yaml
run shop
run shop.yaml --data nowhere --output out
run shop.yaml --data shop --output shop
run shop.yaml --data shop --output shop.yaml
run shop.yaml --data shop --output /dev/null
run shop.yaml --data shop --output /proc/x
quickstart --output /proc/x
quickstart --output shop.yaml
import
import out
import out --items nowhere.csv --interactions nowhere.csv
import shop --items shop/items.jsonl --interactions shop/interactions.jsonl
import out --items shop/items.jsonl --interactions shop/interactions.jsonl --core 1000
import out --items shop/interactions.jsonl --interactions shop/items.jsonl
frobnicate
recomend checkpoint
--no-such-flag
recommend -- --history
"""
"""One call a line. MANY and CONTROL are names of texts that do not fit on a line."""
TEXTS = {"MANY": "B0001," * 5000, "CONTROL": "\x01"}


def trials(kept: Path) -> Iterator[Trial]:
    prepare = partial(_plain, kept=kept)
    for line in CALLS.split("\n")[1:-1]:
        call = [TEXTS.get(part, part) for part in shlex.split(line)]
        written = call[call.index("--output") + 1] if "--output" in call else ""
        yield Trial("a call", call, prepare, written if written == "out" else "")
    for how, data in RECIPES.items():
        yield Trial(
            f"a recipe, {how}",
            ["run", "r.yaml", "--data", "shop", "--output", "out", "--set", "until=neighbors"],
            partial(_recipe, kept=kept, data=data),
            "out",
        )
    for n, key in enumerate(_settings(Recipe())):
        value = ODD_VALUES[n % len(ODD_VALUES)]
        yield Trial(
            "a setting",
            ["run", "shop.yaml", "--data", "shop", "--output", "out", "--set", "until=neighbors", "--set", f"{key}={value}"],
            prepare,
        )


def _settings(value: object, before: str = "") -> Iterator[str]:
    for f in fields(value):  # type: ignore[arg-type]
        inner = getattr(value, f.name)
        yield from _settings(inner, f"{before}{f.name}.") if is_dataclass(inner) else [before + f.name]


def _plain(folder: Path, kept: Path) -> None:
    for link in ("datasets", "checkpoint"):
        (folder / link).symlink_to(kept / "run" / link)
    shutil.copytree(kept / "shop", folder / "shop")
    shutil.copyfile(kept / "shop.yaml", folder / "shop.yaml")


def _recipe(folder: Path, kept: Path, data: bytes) -> None:
    _plain(folder, kept)
    (folder / "r.yaml").write_bytes(data)
