"""The scripts of a queue written once more, in Python: what each is to do to the data, to answer, and to tell.

    twin.answer(call) ─► the reply          twin.data is what the server holds then, twin.told what it has pushed

It takes the very arguments of a call, by the names in the script's header. It says what is to come of them and has none
of the script's economies: a mutant that does anything else is seen in a reply, a key or a message. A full server is not
its business; it is asked only for calls that were done. What workers do is in machine_worker_scripts.py.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from qworker.broker.calls import Call
from support.machine_data import ADRIFT, NO_CLAIM, Data, Entry, ordered, pool_of

KEPT = "FTKE"
COUNTED = {"S": "succeeded", "F": "failed", "T": "timed_out", "X": "cancelled", "K": "crashed", "E": "expired"}
STAND_MS = 2_500
DEAD_MAX, DEAD_MS = 10_000, 7 * 24 * 3_600_000
CHUNK = 1_000
_ENTRY = re.compile(r"(\S+) (\d+) (\d+) (\S+) (\S+) (\S+)")


class Refused(Exception):
    """The script refuses the call: it changes nothing."""


def text_of(arg: Any) -> str:
    """An argument as text; bodies and outcomes stay what they are."""
    return arg.decode("latin-1") if isinstance(arg, bytes) else str(arg)


def bytes_of(arg: Any) -> bytes:
    """An argument as the server has it."""
    return arg if isinstance(arg, bytes) else str(arg).encode()


class Returns:
    """What one call puts back, in its order: to the front of each line, and to the suspects."""

    def __init__(self) -> None:
        self.front: dict[str, list[str]] = defaultdict(list)
        self.suspects: list[str] = []
        self.pools: set[int] = set()


class Producers:
    """The scripts of who submits, asks and stops, and what all scripts share."""

    def __init__(self, listening: Collection[str]) -> None:
        self.data = Data()
        self.told: dict[str, list[bytes]] = defaultdict(list)  # by channel
        self._listening = listening
        self.a: dict[str, str] = {}
        self.rest: Sequence[Any] = ()
        self.results: list[str] = []
        self.key = ""  # the first one

    def answer(self, call: Call[Any]) -> Any:
        """Do a call, and return what the server is to answer."""
        script = call.script
        assert script is not None
        data = self.data
        for _, key, value, _, _ in call.before:
            data.stashes[text_of(key).rpartition(":")[2]] = b"".join(value)  # type: ignore[arg-type]
        self.a = {name: text_of(arg) for name, arg in zip(script.args, call.args, strict=False)}
        self.rest = call.args[len(script.args) :]
        fixed = len(script.keys) + 11 * ("lines" in script.keys) + 3 * ("bells" in script.keys)
        further = [text_of(key) for key in call.keys[fixed:]]
        self.results = [key.partition(":result:")[2] for key in further if ":result:" in key]
        self.key = text_of(call.keys[0])
        reply = getattr(self, f"do_{script.name}")()
        for _, _, local, value in call.after:
            data.bodies.setdefault(text_of(local), b"".join(value))  # type: ignore[arg-type]
        return reply

    # -- what scripts share ---------------------------------------------------------------------------------------

    @property
    def now(self) -> int:
        return int(self.a["now_ms"])

    def publish(self, channel: str, message: bytes) -> None:
        if channel in self._listening:
            self.told[channel].append(message)

    def ring(self, pool: int, *, none: bool = False) -> None:
        """A bell rings once; who puts something into a line takes all standing claims away."""
        if not none:
            self.data.standing.clear()
        self.data.bells.add(pool)

    def draw_fence(self) -> int:
        """Larger than any before, no smaller than the time, in steps of twelves and one."""
        least = int(self.data.meta.get("fence", "0")) + 1
        fence = least + 12 * -(-max(0, self.now - least) // 12)
        self.data.meta["fence"] = str(fence)
        return fence

    def give_back(self, returns: Returns, local: str, r: Entry) -> None:
        r.state, r.started = "q", "0"
        (returns.suspects if r.is_suspect else returns.front[r.line]).append(local)
        returns.pools.add(pool_of(r.line))
        self.data.tasks[local] = r.text

    def write_returns(self, returns: Returns) -> None:
        for line, ids in returns.front.items():
            self.data.lines[line][:0] = ids
        self.data.suspects += returns.suspects
        for pool in returns.pools:
            self.ring(pool)

    def list_of(self, r: Entry) -> list[str]:
        return self.data.suspects if r.is_suspect else self.data.lines[r.line]

    def drop_claim(self, claim: str) -> None:
        for suffix in ("", "#", "+"):
            self.data.held.pop(claim + suffix, None)
        self.data.leases.pop(claim, None)

    def rescue(self, claims: Sequence[str], *, dead: bool) -> str:
        """Put back what these claims hold; charged is who was seen to have it. Names the first 20."""
        data, returns, named, count = self.data, Returns(), [], 0
        for claim in claims:
            _, _, alone, *ids = data.held.get(claim, "0 - 0").split()
            for local in ids:
                r = data.entry(local)
                if r is None or not data.holds(local, claim):
                    continue
                data.stops.pop(f"{claim} {local}", None)
                if claim + "+" in data.held:
                    r.charge(alone == "1")
                if not dead:
                    r.cast_adrift()
                r.claim = NO_CLAIM
                self.give_back(returns, local, r)
                count += 1
                named.append(f"{claim} {local}")
            self.drop_claim(claim)
        self.write_returns(returns)
        if count:
            data.stats["rescued"] += count
        return f"{count} {' '.join(named[:20])}"

    def stand(self, entry: str, now: int) -> None:
        """Leave a claim standing, unless something is queued or it was filled."""
        data = self.data
        if entry and not data.suspects and not any(data.lines.values()) and entry[:12] not in data.held:
            data.standing[entry] = now + STAND_MS

    def add_window(self, reply: list[Any], claim: str) -> None:
        fence, _, alone, *names = self.data.held[claim].split()
        ids = [local for local in names if local in self.data.bodies and self.data.holds(local, claim)]
        reply += [fence, alone, 0]
        for local in ids:
            reply += [local, self.data.bodies[local], self.data.tasks[local]]
        self.add_cursors(reply, ids)

    def add_cursors(self, reply: list[Any], ids: Sequence[str]) -> None:
        told = [local for local in ids if local in self.data.cursors]
        for local in told:
            reply += [local, self.data.cursors[local]]
        reply[7] = len(told)

    def add_stops(self, reply: list[Any], claims: Sequence[str]) -> None:
        for claim in claims:
            for member in sorted(self.data.stops):
                local = member[13:]
                r = self.data.entry(local)
                if member[:12] == claim and r is not None and self.data.holds(local, claim):
                    reply += [claim, local, r.stop]

    def read_meta(self) -> tuple[str, int]:
        """The epoch, and until when nothing is rescued."""
        data, now, lease = self.data, self.now, int(self.a["lease_ms"])
        data.meta.setdefault("epoch", self.a["epoch"])
        longest = max(lease, int(data.meta.get("longest", "0")))
        data.meta["longest"] = str(longest)
        for claim, until in data.leases.items():
            if until > now + longest:
                data.leases[claim] = now + lease
        hold, expected = int(data.meta.get("hold", "0")), self.a.get("expected_ms", "")
        astray = expected.isdecimal() and 2 * abs(now - int(expected)) > lease
        if self.a.get("stalled") == "1" or astray or hold > now + longest:
            hold = now + lease
            data.meta["hold"] = str(hold)
            data.stats["amnesties"] += 1
        return data.meta["epoch"], hold

    def bury(self, local: str, r: Entry | None) -> None:
        self.data.dead_bodies[local] = (r.run if r else "1").encode() + b" " + self.data.bodies[local]
        self.data.dead[local] = self.now

    def trim_dead(self) -> None:
        """What is old goes, and the oldest of what are too many; so many at once."""
        dead = self.data.dead
        oldest = ordered(dead) if len(dead) > DEAD_MAX else sorted(dead, key=dead.__getitem__)
        old = [local for local in oldest if dead[local] <= self.now - DEAD_MS][:CHUNK]
        over = len(dead) - len(old) - DEAD_MAX
        for local in [*old, *oldest[len(old) :][: max(0, min(over, CHUNK))]]:
            del dead[local]
            self.data.dead_bodies.pop(local, None)

    def finish(self, local: str, r: Entry | None, code: str, value: bytes) -> bytes:
        """End what no worker has. Returns what the outcome became, if the caller cannot know."""
        data, blob = self.data, self.data.bodies[local]
        outcome = value if len(blob) < 8 else value[:3] + blob[:8] + value[11:]
        adrift = r is not None and r.is_adrift
        if adrift:
            outcome = outcome[:12] + ADRIFT.encode() + outcome[24:]
        data.keep(local, outcome, int(self.a["ttl_ms"]))
        if code in KEPT:
            self.bury(local, r)
            self.trim_dead()
        for table in (data.bodies, data.tasks, data.cursors, data.progress):
            table.pop(local, None)  # type: ignore[attr-defined]
        if r is not None:
            if r.state == "s":
                data.later.pop(local, None)
            data.suspects[:] = [each for each in data.suspects if each != local or not r.is_suspect]
        data.stats[COUNTED[code]] += 1
        if blob[9:21].strip():
            self.publish(self.a["inbox"] + blob[9:21].decode(), outcome)
        return outcome if adrift else b""

    @staticmethod
    def is_made_of(outcome: bytes, value: bytes) -> bool:
        return outcome[12:24] in (NO_CLAIM.encode(), ADRIFT.encode()) and outcome[24:] == value[24:]

    # -- the scripts ----------------------------------------------------------------------------------------------

    def do_open(self) -> Any:
        self.data.meta.setdefault("schema", "1")
        self.data.meta.setdefault("epoch", self.a["epoch"])
        return [self.data.meta["schema"], self.data.meta["epoch"]]

    def do_submit(self) -> Any:
        data, step, line = self.data, int(self.a["step"]), self.a["line"]
        items = [self.rest[at : at + step] for at in range(0, len(self.rest), step)]
        letters = []
        for id_, blob, *_ in items:
            local, body = text_of(id_), bytes_of(blob)
            if local in data.bodies:
                known, letter = data.bodies[local][:8], "s"
            elif local in data.results and local in self.results:
                known, letter = data.results[local][3:11], "e"
            else:
                known, letter = body[:8], "o"
            if known != body[:8]:
                raise Refused(f"CONFLICT {local}")
            letters.append(letter)
        epoch = data.meta.setdefault("epoch", self.a["epoch"])
        new: list[tuple[Any, ...]] = [
            (text_of(item[0]), bytes_of(item[1]), *map(int, item[2:] or (0, 0)))
            for item, letter in zip(items, letters, strict=True) if letter == "o"
        ]  # fmt: skip
        ready, delayed = [], False
        for local, body, delay, deadline in new:
            large = len(body) == 8
            if not large:
                data.bodies[local] = body
            if delay or deadline or large:
                r = Entry(line=line, state="s" if delay else "q", marks=" l" if large else "")
                r.deadline = str(self.now + deadline) if deadline else "0"
                data.tasks[local] = r.text
            if delay:
                data.later[local], delayed = self.now + delay, True
            else:
                ready.append(local)
        if new:
            data.stats["submitted"] += len(new)
            lone, handed = len(items) == 1 and step == 2, False
            while lone and data.standing and not handed:
                entry = ordered(data.standing)[0]
                handed = self._hand_over(new[0][0], entry, data.standing.pop(entry), epoch)
            if not handed:
                data.lines[line] += ready
                if ready or delayed:
                    self.ring(pool_of(line), none=lone)
        return [self.now, epoch, "".join(letters)]

    def _hand_over(self, local: str, entry: str, until: int, epoch: str) -> bool:
        found, data, line = _ENTRY.fullmatch(entry), self.data, self.a["line"]
        if found is None or until <= self.now or str(pool_of(line)) not in found[3]:
            return False
        claim, lease, _, worker, channel, queue = found.groups()
        if channel not in self._listening:
            return False
        fence = self.draw_fence()
        data.tasks[local] = Entry("c", claim, line, deliveries=1).text
        head = f"window {queue} {claim} {fence} {self.now} {epoch} {local} {data.tasks[local]}\n"
        self.publish(channel, head.encode() + data.bodies[local])
        data.held |= {claim: f"{fence} {worker} 0 {local}", claim + "#": "1"}
        data.leases[claim] = self.now + int(lease)
        data.stats["claimed"] += 1
        return True

    def do_stop(self) -> Any:
        data, reply = self.data, list[Any]()
        for local, value in zip(map(text_of, self.rest[0::2]), map(bytes_of, self.rest[1::2]), strict=True):
            r = data.entry(local)
            answer: tuple[Any, ...] = ("unknown", "", "", "")
            if local in data.bodies and (local not in data.tasks or (r is not None and not r.is_held)):
                answer = ("cancelled", "", "", self.finish(local, r, "X", value))
            elif local in data.bodies and r is not None:
                worker = data.held.get(r.claim, "- -").split()[1].strip("-")
                answer = ("held", r.claim, worker, "")
                if self.a["mode"] == "stop":
                    answer = ("requested", r.claim, worker, "")
                    if self.a["order"] != "d" or r.stop == "-":
                        r.stop = self.a["order"]
                        data.tasks[local] = r.text
                    data.stops[f"{r.claim} {local}"] = 0
                    told = f"{self.a['queue_name']} {r.claim} {local} {r.stop}"
                    self.publish(self.a["channel"] + worker, told.encode())
            elif local not in data.bodies and local in data.results:
                outcome = data.results[local]
                answer = ("cancelled" if self.is_made_of(outcome, value) else "ended", "", "", outcome)
            reply += answer
        return reply

    def do_expire(self) -> Any:
        data, reply = self.data, list[Any]()
        for local, value in zip(map(text_of, self.rest[0::2]), map(bytes_of, self.rest[1::2]), strict=True):
            r = data.entry(local)
            answer: tuple[Any, ...] = ("unknown", "")
            if local in data.bodies:
                answer = ("waiting", "")
                if r is not None and r.state not in "qs":
                    answer = ("held", "")
                elif r is not None and 0 < int(r.deadline) <= self.now:
                    answer = ("expired", self.finish(local, r, "E", value))
            elif local in data.results:
                outcome = data.results[local]
                answer = ("expired" if self.is_made_of(outcome, value) else "ended", outcome)
            reply += answer
        return reply

    def do_peek(self) -> Any:
        return [self.data.results.get(local, int(local in self.data.bodies)) for local in map(text_of, self.rest)]

    def do_stats(self) -> Any:
        data = self.data
        claimed = sum(int(data.held[claim + "#"]) for claim in data.leases)
        sent = []
        for ids in data.lines.values():
            blobs = [data.bodies[local] for local in ids[:20] if local in data.bodies]
            sent += [blob[21:29] for blob in blobs[:1]]
        ready = len(data.bodies) - claimed - len(data.later) - len(data.suspects)
        lengths = [len(ids) for ids in data.lines.values()]
        return [self.now, ready, claimed, len(data.later), len(data.suspects), sent, lengths, dict(data.stats)]

    def do_inspect(self) -> Any:
        data, local = self.data, self.a["id"]
        blob, r = data.bodies.get(local, b""), data.entry(local)
        before, due, worker, lease = "", "", "", ""
        line = chr(blob[8]) if blob else ""
        if r is not None and r.is_held:
            worker = data.held.get(r.claim, "- ").split(" ")[1]
            lease = str(data.leases.get(r.claim, ""))
        elif r is not None and r.state == "s":
            due = str(data.later.get(local, ""))
        elif line and line in data.lines:
            waiting = data.suspects if r is not None and r.is_suspect else data.lines[line]
            if local in waiting[: int(self.a["limit"])]:
                before = str(waiting.index(local))
                if waiting is not data.suspects:
                    ahead = [data.lines[chr(code)] for code in range(97 + 3 * pool_of(line), ord(line))]
                    before = str(waiting.index(local) + sum(map(len, ahead)))
        told = (data.results.get(local, b""), before, due, worker, lease, data.progress.get(local, b""))
        return [self.now, data.tasks.get(local, ""), blob, *told]
