-- What the scripts share; scripts.py puts what each of them uses into its text, and places for the names of keys (K) and
-- arguments (A), LINES, BELLS, RESULTS and REST.
--
-- A record is text, `state claim line stop run attempt deliveries losses exact started_ms deadline_ms once`; ` a` behind it
-- says that an earlier start of it may run still, ` l` that the body is too large to be brought into a script (records.py
-- describes it); no record stands for another task that was queued and never touched. `held` has three fields per claim:
--   <claim>   fence worker alone id id …   as it was handed out
--   <claim>#  how many of them it still holds; the claim goes with the last one
--   <claim>+  there once it was renewed or settled: its worker has seen it
-- `standing` has the claims that idle workers leave, `claim lease_ms needs worker channel queue`, until they lapse. They
-- stand only while nothing is queued for those workers: who puts something into a line takes them all away.

local call, sub, byte, KEYS, ARGV = redis.call, string.sub, string.byte, KEYS, ARGV
local CHUNK = 1000 -- values per variadic call: unpack ends near 7,000. Even, so that pairs stay together.
local NO_CLAIM, ADRIFT = '------------', '-----------a'
local STAND_MS = 2500 -- an idle worker asks each second
local DEAD_MAX, DEAD_MS = 10000, 7 * 24 * 3600 * 1000

local OUTCOMES = {
  S = 'succeeded', F = 'failed', T = 'timed_out', X = 'cancelled', K = 'crashed', E = 'expired',
}
-- These keep their body in the dead set, for a retry as run + 1.
local KEPT = { F = true, T = true, K = true, E = true }

-- A number as it is stored and replied: tostring would turn large ones into 1.7e+12.
local function int(number)
  return string.format('%d', number)
end

-- The server's time in ms; tests give another.
local function clock()
  if A.now_ms ~= '' then return tonumber(A.now_ms) end
  local time = call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Let a script write on a full server: Redis checks its memory before the first write of a script that may grow, and lets
-- all later ones pass once any write ran. This one never changes anything.
local function make_way(key)
  call('HDEL', key or K.tasks, '')
end

-- Start a script that must work on a full server. Returns the time in ms.
local function begin(key)
  make_way(key)
  return clock()
end

-- Draw a fence that is larger than any before, also than those that this server has forgotten: it goes by the clock, and
-- on by itself where that stands still or steps back. In steps of one and twelves, so that the lists of a pool, of which
-- there are four at most, take turns by it.
local function draw_fence(last, now)
  local fence = last + 1 + 12 * math.ceil(math.max(0, now - last - 1) / 12)
  call('HSET', K.meta, 'fence', int(fence))
  return fence
end

local function many(command, key, values)
  local last = #values
  for first = 1, last, CHUNK do
    call(command, key, unpack(values, first, math.min(first + CHUNK - 1, last)))
  end
end

-- HMGET of any number of fields.
local function fetch(key, fields)
  local last = #fields
  if last == 0 then return {} end
  if last <= CHUNK then return call('HMGET', key, unpack(fields)) end
  local found = {}
  for first = 1, last, CHUNK do
    local part = call('HMGET', key, unpack(fields, first, math.min(first + CHUNK - 1, last)))
    for i = 1, #part do found[first + i - 1] = part[i] end
  end
  return found
end

local RECORD = '^(%a) (............) (%l) (%S+) (%d+) (%d+) (%d+) (%d+) (%d) (%d+) (%d+) (%d)( ?a? ?l?)$'

-- Take a record apart; nil for text that is none.
local function parse(text)
  local state, claim, line, stop, run, attempt, deliveries, losses, exact, started, deadline, once, marks =
    string.match(text, RECORD)
  if not state then return nil end
  return {
    state = state, claim = claim, line = line, stop = stop, run = run, attempt = tonumber(attempt),
    deliveries = tonumber(deliveries), losses = tonumber(losses), exact = exact, started = started,
    deadline = deadline, once = once, marks = marks,
  }
end

local function text_of(r)
  return table.concat({
    r.state, r.claim, r.line, r.stop, r.run, int(r.attempt), int(r.deliveries), int(r.losses), r.exact, r.started,
    r.deadline, r.once,
  }, ' ') .. r.marks
end

-- Whether an earlier start of it may run still: its worker went silent, or could not end it. Nobody takes that back.
local function is_adrift(r)
  return sub(r.marks, 2, 2) == 'a'
end

local function cast_adrift(r)
  if not is_adrift(r) then r.marks = ' a' .. r.marks end
end

local function fresh(line)
  return {
    state = 'q', claim = NO_CLAIM, line = line, stop = '-', run = '1', attempt = 1, deliveries = 0, losses = 0,
    exact = '0', started = '0', deadline = '0', once = '0', marks = '',
  }
end

-- Whether a record (as text) says that this claim holds the task. Every write of a worker asks this first.
local function is_held_by(text, claim)
  if not text or sub(text, 3, 14) ~= claim then return false end
  local state = byte(text, 1)
  return state == 99 or state == 114 -- c, r
end

-- A line is a letter: three priorities of one pool after the other.
local function pool_of(line)
  return math.floor((byte(line) - 97) / 3)
end

local function is_line(text)
  return string.find(text, '^[a-l]$') ~= nil
end

local function line_key(line)
  return KEYS[LINES + byte(line) - 96]
end

-- Ring for one worker. One token is enough: who wakes claims, and rings again if it leaves work. `none`: no claim stands,
-- as the caller knows.
local function ring(bell, none)
  if not none then call('DEL', K.standing) end
  if call('LLEN', bell) == 0 then call('LPUSH', bell, '1') end
end

local function ring_all(pools)
  for pool in pairs(pools) do ring(KEYS[BELLS + pool]) end
end

-- The list in which a queued task waits: who was lost twice waits to be run alone in a worker.
local function list_of(r)
  return r.losses < 2 and line_key(r.line) or K.suspects
end

-- Put ids back to the front of a list, the first of them foremost.
local function push_front(key, ids)
  local reversed, last = {}, #ids
  for i = 1, last do reversed[i] = ids[last + 1 - i] end
  many('LPUSH', key, reversed)
end

-- What is put back in one call, gathered first so that its order is kept: the front of each line, and the suspects.
local function new_returns()
  return { front = {}, suspects = {}, records = {}, pools = {} }
end

-- A task that was lost twice waits to be run alone in a worker, the others go to the front of their line.
local function give_back(returns, id, r)
  r.state, r.started = 'q', '0'
  local list = returns.suspects
  if r.losses < 2 then
    list = returns.front[r.line]
    if not list then
      list = {}
      returns.front[r.line] = list
    end
  end
  list[#list + 1] = id
  returns.pools[pool_of(r.line)] = true
  local records = returns.records
  records[#records + 1] = id
  records[#records + 1] = text_of(r)
end

-- It was there when something died: one loss and one attempt more. `exact`: nobody else can be to blame.
local function charge(r, exact)
  r.losses, r.attempt, r.deliveries = r.losses + 1, r.attempt + 1, 0
  r.exact = exact and '1' or '0'
end

local function write_returns(returns)
  many('HSET', K.tasks, returns.records)
  for line, ids in pairs(returns.front) do push_front(line_key(line), ids) end
  many('RPUSH', K.suspects, returns.suspects)
  ring_all(returns.pools)
end

local function drop_claim(claim)
  call('HDEL', K.held, claim, claim .. '#', claim .. '+')
  call('ZREM', K.leases, claim)
end

-- Put back what these claims hold. A claim that its worker never renewed nor settled was not delivered: nobody is
-- charged. A stop that waits stays on its task, and the next claim's worker buries it. Returns how many tasks, and claim
-- and id of the first 20, as one text: 'count claim id claim id …'. `dead`: the worker's process is known to have ended;
-- of one that is merely silent what it had begun may go on, whatever becomes of the task.
local function rescue(claims, dead)
  local returns, count, named = new_returns(), 0, {}
  for i = 1, #claims do
    local claim = claims[i]
    local about = call('HMGET', K.held, claim, claim .. '+')
    local alone, ids, word = false, {}, 0
    for text in string.gmatch(about[1] or '', '%S+') do
      word = word + 1
      if word == 3 then alone = text == '1' elseif word > 3 then ids[word - 3] = text end
    end
    local records = fetch(K.tasks, ids)
    for j = 1, #ids do
      local r = is_held_by(records[j], claim) and parse(records[j])
      if r then
        if r.stop ~= '-' then call('ZREM', K.stops, claim .. ' ' .. ids[j]) end
        if about[2] then charge(r, alone) end
        if not dead then cast_adrift(r) end
        r.claim = NO_CLAIM -- so that a late settle of this claim is refused, not taken for a repetition
        give_back(returns, ids[j], r)
        count = count + 1
        if count <= 20 then named[count] = claim .. ' ' .. ids[j] end
      end
    end
    drop_claim(claim)
  end
  if count > 0 then
    write_returns(returns)
    call('HINCRBY', K.stats, 'rescued', count)
  end
  return count .. ' ' .. table.concat(named, ' ')
end

-- Leave a claim of an idle worker standing, if nothing is queued: a submit may fill it. It lapses unless it is renewed.
-- Not one that is filled already: this call has come late then, after its repetition, and the next task to be handed over
-- would take the place of the one that is held.
local function stand(entry, now)
  if call('EXISTS', K.suspects, unpack(KEYS, LINES + 1, LINES + 12)) > 0 then return end
  if call('HGET', K.held, sub(entry, 1, 12)) then return end
  call('ZADD', K.standing, int(now + STAND_MS), entry)
end

-- Append to the reply the cursors that earlier attempts left to these tasks: id, cursor; how many is its eighth element.
local function add_cursors(reply, ids)
  if #ids == 0 or call('EXISTS', K.cursors) == 0 then return end
  local found, count, at = fetch(K.cursors, ids), 0, #reply
  for i = 1, #ids do
    if found[i] then
      reply[at + 1], reply[at + 2] = ids[i], found[i]
      count, at = count + 1, at + 2
    end
  end
  reply[8] = count
end

-- Append to the reply what a claim still holds of its window: fence, alone, how many cursors, then id, blob, record of
-- each task, and those cursors.
local function add_window(reply, claim, about)
  local fence, _, alone, names = string.match(about, '^(%d+) (%S+) (%d) (.*)$')
  reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = fence, alone, 0
  local ids = {}
  for id in string.gmatch(names, '%S+') do
    local text, blob = call('HGET', K.tasks, id), call('HGET', K.bodies, id)
    if blob and is_held_by(text, claim) then
      reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = id, blob, text
      ids[#ids + 1] = id
    end
  end
  add_cursors(reply, ids)
end

-- What tasks told of themselves goes with them; mostly there is nothing of the kind.
local function forget_notes(ids)
  if #ids > 0 and call('EXISTS', K.cursors, K.progress) > 0 then
    many('HDEL', K.cursors, ids)
    many('HDEL', K.progress, ids)
  end
end

-- Read what claims and renewals go by, and see to the leases when the clock or the server has misbehaved.
--
-- A worker that saw the server stand still, or its clock step, is a witness that leases lapsed for no fault of their
-- holders: then nothing is rescued for one lease. Without a witness silence proves nothing, and lapsed is lapsed.
-- `none`: there are no leases, as the caller knows.
local function read_meta(now, lease, none)
  local meta = call('HMGET', K.meta, 'epoch', 'fence', 'hold', 'longest')
  local epoch, hold, longest = meta[1], tonumber(meta[3] or '0'), tonumber(meta[4] or '0')
  if not epoch then
    make_way()
    epoch = A.epoch
    call('HSET', K.meta, 'epoch', epoch)
  end
  if lease > longest then
    make_way()
    longest = lease
    call('HSET', K.meta, 'longest', int(lease))
  end
  -- After a backward step no lease may end further away than any lease is long.
  local far = none and {} or call('ZRANGEBYSCORE', K.leases, '(' .. int(now + longest), '+inf', 'LIMIT', 0, CHUNK)
  for i = 1, #far do call('ZADD', K.leases, int(now + lease), far[i]) end
  local expected = tonumber(A.expected_ms or '')
  if A.stalled == '1' or (expected and math.abs(now - expected) > lease / 2) or hold > now + longest then
    make_way()
    hold = now + lease
    call('HSET', K.meta, 'hold', int(hold))
    call('HINCRBY', K.stats, 'amnesties', 1)
  end
  return epoch, tonumber(meta[2] or '0'), hold
end

-- The stops that wait for tasks of these claims (ARGV from `first` to `last`), appended to the reply as claim, id, order.
local function add_stops(reply, first, last)
  if call('ZCARD', K.stops) == 0 then return end
  for i = first, last do
    local claim = ARGV[i]
    local waiting = call('ZRANGEBYLEX', K.stops, '[' .. claim .. ' ', '(' .. claim .. '!')
    for j = 1, #waiting do
      local id = sub(waiting[j], 14)
      local text = call('HGET', K.tasks, id)
      local r = is_held_by(text, claim) and parse(text)
      if r then
        reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = claim, id, r.stop
      end
    end
  end
end

-- Keep what ended badly, with its run, for `retry`: at most so many, and not for ever.
local function bury(id, blob, run, now)
  call('HSET', K.dead_bodies, id, run .. ' ' .. blob)
  call('ZADD', K.dead, int(now), id)
end

local function trim_dead(now)
  local old = call('ZRANGEBYSCORE', K.dead, '-inf', int(now - DEAD_MS), 'LIMIT', 0, CHUNK)
  local over = call('ZCARD', K.dead) - #old - DEAD_MAX
  if over > 0 then
    local more = call('ZRANGE', K.dead, #old, #old + math.min(over, CHUNK) - 1)
    for i = 1, #more do old[#old + 1] = more[i] end
  end
  if #old > 0 then
    many('ZREM', K.dead, old)
    many('HDEL', K.dead_bodies, old)
  end
end

-- End a task that no worker has: record the outcome that the caller packed (with the digest of this task's blob put in)
-- and tell the client that waits. The caller has not read the task's record, which may say that it is adrift: then the
-- outcome says so in place of a claim's name, and is returned; else '' is.
local function finish(id, blob, record, code, value, result_key, now)
  local outcome = #blob < 8 and value or sub(value, 1, 3) .. sub(blob, 1, 8) .. sub(value, 12)
  local told = ''
  if record and is_adrift(record) then
    outcome = sub(outcome, 1, 12) .. ADRIFT .. sub(outcome, 25)
    told = outcome
  end
  call('SET', result_key, outcome, 'PX', A.ttl_ms)
  call('HDEL', K.bodies, id)
  forget_notes({ id })
  if record then
    call('HDEL', K.tasks, id)
    if record.state == 's' then call('ZREM', K.later, id) end
    if record.losses >= 2 then call('LREM', K.suspects, 0, id) end
  end
  if KEPT[code] then
    bury(id, blob, record and record.run or '1', now)
    trim_dead(now)
  end
  call('HINCRBY', K.stats, OUTCOMES[code], 1)
  local client = sub(blob, 10, 21)
  if client ~= '            ' then call('PUBLISH', A.inbox .. client, outcome) end
  return told
end

-- Whether an outcome is what `finish` made of this value before.
local function is_made_of(outcome, value)
  local claim = sub(outcome, 13, 24)
  return (claim == NO_CLAIM or claim == ADRIFT) and sub(outcome, 25) == sub(value, 25)
end
