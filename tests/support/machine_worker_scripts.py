"""The scripts of workers written once more, in Python; see machine_scripts.py."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection
from itertools import accumulate
from typing import Any

from support.machine_data import Entry, ordered, pool_of
from support.machine_scripts import COUNTED, KEPT, Producers, Returns, bytes_of, text_of

RESCUE_CLAIMS, RESCUE_TASKS, DUE_TASKS = 32, 500, 500
PASS_OVER, FIRST, BATCH, WIDE = 1_000, 32, 128, 32
RESCUE_MOST = 1_000
_ID = re.compile(r"[\w.=@+-]{1,64}", re.ASCII)


def is_line(code: str) -> bool:
    """Whether a body names a line."""
    return len(code) == 1 and "a" <= code <= "l"


def line_of(blob: bytes) -> str:
    """What a body has in the place where it names its line."""
    return blob[8:9].decode("latin-1")


class _Window:
    """What one claim is to bring."""

    def __init__(self, room_bytes: int) -> None:
        self.ids: list[str] = []
        self.blobs: list[bytes] = []
        self.room_bytes = room_bytes
        self.size = 0
        self.passed = 0
        self.unseen = 0  # lines that hold something and were not looked at
        self.left: set[int] = set()  # pools that may have work
        self.cut = False  # it stopped at a limit


class Twin(Producers):
    """All scripts of a queue."""

    def __init__(self, listening: Collection[str]) -> None:
        super().__init__(listening)
        self.workers: dict[str, int] = {}  # when each was heard
        self.accounts: dict[str, str] = {}  # of themselves, by key

    def others(self, workers: str) -> dict[str, Any]:
        """The keys that are not of the queue; `workers` is the name of the list."""
        found: dict[str, Any] = {key: {b"record": text.encode()} for key, text in self.accounts.items()}
        if self.workers:
            found[workers] = [(worker.encode(), float(self.workers[worker])) for worker in ordered(self.workers)]
        return found

    # -- claims ---------------------------------------------------------------------------------------------------

    def do_claim(self) -> Any:
        data, a, now = self.data, self.a, self.now
        lease, window = int(a["lease_ms"]), _Window(int(a["max_bytes"]))
        standing = a["standing"].split("\n") if a["standing"] else []
        for entry in standing:
            data.standing.pop(entry, None)
        epoch, hold = self.read_meta()
        last = int(data.meta.get("fence", "0"))
        known = next((each for each in (a["claim"], *[entry[:12] for entry in standing]) if each in data.held), "")
        if known:
            data.leases[known] = now + lease
            reply = [now, epoch, min(data.later.values(), default=0), len(data.suspects), 0]
            self.add_window(reply, known)
            return reply
        lapses = min(data.leases.values(), default=0)
        rescued: Any = 0
        if 0 < lapses <= now and hold <= now and a["expected_ms"] != "new":
            rescued = self._rescue_lapsed(window)
        self._bring_due(window)
        due = min(data.later.values(), default=0)
        lapses = max(lapses, hold) if lapses else 0
        if lapses > now and (not due or lapses < due):
            due = lapses
        alone = a["alone"] == "1" and self._take_suspect(window)
        if not window.ids:
            self._take_from_lines(window, last)
        fence = self._open(a["claim"], window.ids, alone=alone, lease=lease)
        if len(window.ids) >= WIDE:
            data.spread.add("tasks")
        for pool in window.left:
            if any(data.lines[chr(97 + 3 * pool + priority)] for priority in range(3)):
                self.ring(pool)
        if not window.ids:
            self.stand(a["stand"], now)
        reply = [now, epoch, now if window.cut else due, len(data.suspects), rescued, fence, int(alone), 0]
        for local, blob in zip(window.ids, window.blobs, strict=True):
            reply += [local, blob, data.tasks[local]]
        self.add_cursors(reply, window.ids)
        return reply

    def _open(self, claim: str, ids: list[str], *, alone: bool, lease: int) -> int:
        """Note who holds these from now on. Returns the fence."""
        if not ids:
            return 0
        data, fence = self.data, self.draw_fence()
        data.held |= {claim: f"{fence} {self.a['worker']} {int(alone)} {' '.join(ids)}", claim + "#": str(len(ids))}
        data.leases[claim] = self.now + lease
        data.stats["claimed"] += len(ids)
        return fence

    def _rescue_lapsed(self, window: _Window) -> str:
        """So many claims, or so many tasks, at once."""
        leases = self.data.leases
        lapsed = [claim for claim in ordered(leases) if leases[claim] <= self.now][:RESCUE_CLAIMS]
        part: list[str] = []
        for claim in lapsed:
            part.append(claim)
            if sum(int(self.data.held.get(each + "#", "0")) for each in part) >= RESCUE_TASKS:
                break
        window.cut = len(part) < len(lapsed) or len(lapsed) == RESCUE_CLAIMS
        return self.rescue(part, dead=False)

    def _bring_due(self, window: _Window) -> None:
        """What is due comes to the back of its line; suspects are for a worker that is alone."""
        data, rung = self.data, set()
        for local in [each for each in ordered(data.later) if data.later[each] <= self.now][:DUE_TASKS]:
            del data.later[local]
            r = data.entry(local)
            if r is None or r.state != "s":
                continue
            r.state = "q"
            data.tasks[local] = r.text
            self.list_of(r).append(local)
            (rung if r.is_suspect else window.left).add(pool_of(r.line))
        for pool in rung:
            self.ring(pool)

    def _take(self, window: _Window, local: str, line: str, blob: bytes, size: int, *, suspect: bool) -> bool:
        """Hand it out, if it may be from here."""
        data, claim = self.data, self.a["claim"]
        r = Entry(line=line)
        if local in data.tasks:
            found = data.entry(local)
            if found is None or found.state != "q" or found.line != line or found.is_suspect != suspect:
                return False
            r = found
        r.state, r.claim, r.started, r.deliveries = "c", claim, "0", r.deliveries + 1
        if r.stop != "-":
            data.stops[f"{claim} {local}"] = 0
        data.tasks[local] = r.text
        window.ids.append(local)
        window.blobs.append(blob)
        window.size += size
        return True

    def _take_suspect(self, window: _Window) -> bool:
        data = self.data
        serves = {int(digit) for needs in self.rest[0::2] for digit in text_of(needs)}
        others = []
        for local in data.suspects[:PASS_OVER]:
            line = data.tasks.get(local, "")[15:16]
            if is_line(line) and _ID.fullmatch(local) and data.bodies.get(local) and pool_of(line) not in serves:
                others.append(local)
                continue
            data.suspects.remove(local)
            if not is_line(line) or not _ID.fullmatch(local) or not data.bodies.get(local):
                continue
            blob = data.bodies[local]
            agree = line_of(blob) == line or not is_line(line_of(blob))
            if agree and self._take(window, local, line, blob, len(blob), suspect=True):
                return True
        data.suspects[:] = data.suspects[len(others) :] + others
        return False

    def _take_from_lines(self, window: _Window, last: int) -> None:
        """By priority, and the lists of a pool take turns."""
        rooms = [[text_of(needs), int(room)] for needs, room in zip(self.rest[0::2], self.rest[1::2], strict=True)]
        lists = [chr(97 + 3 * int(need) + each) for needs, _ in rooms for need in str(needs) for each in range(3)]
        window.unseen = sum(bool(self.data.lines[line]) for line in lists)
        for priority in range(3):
            for pair in rooms:
                needs, room = str(pair[0]), int(pair[1])
                for n in range(len(needs)):
                    if not window.unseen:
                        break
                    turn = int(needs[(n + last) % len(needs)])
                    room = self._drain(window, chr(97 + 3 * turn + priority), room)
                pair[1] = room

    def _drain(self, window: _Window, line: str, room: int) -> int:
        ids, batch, counted, pool = self.data.lines[line], FIRST, False, pool_of(line)
        while room > 0:
            if window.size >= window.room_bytes or window.passed >= PASS_OVER:
                window.left.add(pool)
                window.cut = True
                return room
            ask = min(room, batch)
            popped, ids[:ask] = ids[:ask], []
            if not popped:
                return room
            window.unseen, counted = window.unseen - (not counted), True
            if len(popped) >= WIDE:
                self.data.spread.add("bodies")
            for at, local in enumerate(popped):
                blob = self.data.bodies.get(local)
                size = len(blob or b"")
                if blob is not None and self.data.tasks.get(local, "").endswith("l"):
                    blob = b""  # it is fetched apart
                named = line_of(blob or b"")
                fits = blob is not None and local not in window.ids and (named == line or not is_line(named))
                if blob is None or not fits or not _ID.fullmatch(local):
                    window.passed += 1
                elif window.ids and window.size + size > window.room_bytes:
                    ids[:0] = popped[at:]
                    window.size, window.cut = window.room_bytes, True
                    window.left.add(pool)
                    break
                elif self._take(window, local, line, blob, size, suspect=False):
                    room -= 1
                else:
                    window.passed += 1
            if len(popped) < ask:
                return room
            batch, taken = BATCH, len(window.ids)
            if taken:
                likely = (window.room_bytes - window.size) * taken // (window.size + 1) + 1
                batch = max(1, min(BATCH, likely))
        window.left.add(pool)
        return room

    def do_claim_ids(self) -> Any:
        data, a, now = self.data, self.a, self.now
        claim, lease, max_bytes, most = a["claim"], int(a["lease_ms"]), int(a["max_bytes"]), int(a["most"])
        epoch, _ = self.read_meta()
        reply: list[Any] = [now, epoch, min(data.later.values(), default=0), len(data.suspects), 0]
        if claim in data.held:
            data.leases[claim] = now + lease
            self.add_window(reply, claim)
            return reply
        window, elsewhere, handed = _Window(max_bytes), 0, []
        for local in map(text_of, self.rest):
            blob, r = data.bodies.get(local), data.entry(local)
            line = line_of(blob or b"")
            if local not in data.tasks and is_line(line):
                r = Entry(line=line)
            if blob is None or r is None or r.state != "q":
                elsewhere += 1
            elif (
                len(window.ids) < most
                and (not window.ids or window.size + len(blob) <= max_bytes)
                and (not a["needs"] or str(pool_of(r.line)) in a["needs"])
            ):
                if r.is_suspect:
                    data.suspects[:] = [each for each in data.suspects if each != local]
                self._take(window, local, r.line, blob, len(blob), suspect=r.is_suspect)
                handed += [local, blob, data.tasks[local]]
        fence = self._open(claim, window.ids, alone=False, lease=lease)
        reply[4] = 0 if window.ids else elsewhere
        reply += [fence, 0, 0, *handed]
        self.add_cursors(reply, window.ids)
        return reply

    # -- what becomes of claims -----------------------------------------------------------------------------------

    def do_settle(self) -> Any:
        data, rest, at = self.data, self.rest, 0
        letters = ""
        self.settled: Counter[str] = Counter()
        messages: dict[str, bytes] = {}
        buried = False
        for _ in range(int(self.a["groups"])):
            claim, code, ttl, client = map(text_of, rest[at : at + 4])
            size = int(rest[at + 4])
            parts = rest[at + 5 : at + 5 + 3 * size]
            for id_, given, hint in zip(parts[0::3], parts[1::3], parts[2::3], strict=True):
                local, value = text_of(id_), bytes_of(given)
                kept = value or data.stashes.pop(local, b"")
                letter = "o" if data.holds(local, claim) else self._late(data.results.get(local, b"")[12:24], claim)
                letters += letter
                if letter != "o":
                    continue
                data.keep(local, kept, int(ttl))
                r = data.entry(local)
                if code in KEPT and local in data.bodies:
                    self.bury(local, r)
                buried = buried or code in KEPT
                data.stops.pop(f"{claim} {local}", None)
                messages[client] = messages.get(client, b"") + (bytes_of(hint) or value)
                self.settled[claim] += 1
                data.stats[COUNTED[code]] += 1
                for table in (data.bodies, data.tasks, data.cursors, data.progress):
                    table.pop(local, None)  # type: ignore[attr-defined]
            at += 5 + 3 * size
        letters += self._move(at, int(self.a["moves"]))
        at += 5 * int(self.a["moves"])
        for claim, n in self.settled.items():
            left = int(data.held[claim + "#"]) - n
            data.held |= {claim + "#": str(left), claim + "+": "1"}
            if left <= 0:
                self.drop_claim(claim)
        self.stand(self.a["stand"], self.now)
        if buried:
            self.trim_dead()
        for client, message in messages.items():
            if client:
                self.publish(self.a["inbox"] + client, message)
        reply: list[Any] = [letters]
        self.add_stops(reply, list(map(text_of, rest[at:])))
        return reply

    def _late(self, by: bytes, claim: str) -> str:
        """What is said to a claim that does not hold the task: it is its own repetition, or one too late."""
        if by == claim.encode():
            return "a"
        if self.a["resend"] != "1":
            self.data.stats["refused_late"] += 1
        return "l"

    def _move(self, at: int, moves: int) -> str:
        data, returns, letters = self.data, Returns(), ""
        back: dict[str, list[str]] = defaultdict(list)
        rung: set[int] = set()
        for first in range(at, at + 5 * moves, 5):
            kind, local, claim, x, _ = map(text_of, self.rest[first : first + 5])
            cursor = bytes_of(self.rest[first + 4])
            r = data.entry(local)
            if r is None or r.claim != claim:
                letters += self._late(b"", claim)
                continue
            if not r.is_held or r.stop != "-":
                letters += "s" if r.is_held else "a"
                continue
            letters += "o"
            self.settled[claim] += 1
            if cursor:
                data.cursors[local] = cursor
            delay = -1  # it is queued at once
            if kind == "R":
                data.stats["released"] += 1
                r.deliveries, r.once = max(0, r.deliveries - 1), "0"
            elif kind == "L":
                data.stats["lost"] += 1
                r.charge(x == "1")
            elif kind == "P":
                data.stats["parked"] += 1
                r.deliveries, delay = max(0, r.deliveries - 1), int(x)
            else:
                data.stats["retried"] += 1
                r.attempt, r.deliveries, delay = r.attempt + 1, 0, int(x) or -1
                if kind == "O":
                    r.cast_adrift()
            if kind in "RL":
                self.give_back(returns, local, r)
                continue
            r.state, r.started = "s" if delay >= 0 else "q", "0"
            data.tasks[local] = r.text
            if delay >= 0:
                data.later[local] = self.now + delay
            else:
                back["" if r.is_suspect else r.line].append(local)
                rung.add(pool_of(r.line))
        self.write_returns(returns)
        for line, ids in back.items():
            (data.lines[line] if line else data.suspects).extend(ids)
        for pool in rung:
            self.ring(pool)
        return letters

    def do_renew(self) -> Any:
        data, rest, now, lease = self.data, self.rest, self.now, int(self.a["lease_ms"])
        epoch, _ = self.read_meta()
        count, started = int(self.a["claims"]), int(self.a["started"])
        claims, begun = list(map(text_of, rest[:count])), rest[count : count + 4 * started]
        lost = [claim for claim in claims if claim not in data.held]
        for claim in claims:
            if claim in data.held:
                data.leases[claim], data.held[claim + "+"] = now + lease, "1"
        # All as it was before: the same task may be there twice.
        records: dict[str, str] = {}
        for at in range(0, len(begun), 4):
            claim, local, ran, once = map(text_of, begun[at : at + 4])
            r = data.entry(local)
            if r is None or not data.holds(local, claim) or (r.state == "r" and (once != "1" or r.once == "1")):
                continue
            if r.state == "c":
                r.state, r.started = "r", str(now - int(ran))
            r.once = "1" if once == "1" else r.once
            records[local] = r.text
        data.tasks |= records
        messages: dict[str, bytes] = defaultdict(bytes)
        notes = rest[count + 4 * started :]
        for at in range(0, len(notes), 5):
            claim, local, client = map(text_of, notes[at : at + 3])
            cursor, progress = map(bytes_of, notes[at + 3 : at + 5])
            if not data.holds(local, claim):
                continue
            if cursor:
                data.cursors[local] = cursor
            if progress:
                data.progress[local] = progress
                messages[client] += progress
        for client, message in messages.items():
            if client:
                self.publish(self.a["inbox"] + client, message)
        reply = [now, epoch, len(lost), *lost]
        self.add_stops(reply, claims)
        return reply

    def do_rescue(self) -> Any:
        data = self.data
        theirs = [claim for claim in ordered(data.leases) if data.held.get(claim, "- -").split()[1] == self.a["worker"]]
        sizes = accumulate((int(data.held[claim + "#"]) for claim in theirs), initial=0)
        part = [claim for claim, before in zip(theirs, sizes, strict=False) if before < RESCUE_MOST]
        return [self.rescue(part, dead=True), int(len(part) < len(theirs))]

    # -- workers of themselves ------------------------------------------------------------------------------------

    def do_enlist(self) -> Any:
        silent = self.now - int(self.a["forget_ms"])
        self.workers = {worker: at for worker, at in self.workers.items() if at > silent}
        self.workers[self.a["member"]] = self.now
        return self.now

    def do_beat(self) -> Any:
        first = self.key not in self.accounts
        self.accounts[self.key] = self.a["record"]
        self.data.lives[self.key] = int(self.a["ttl_ms"])
        if first:
            self.publish(self.a["hello"], b"")
        return int(first)
