-- Claim a window of tasks and lease it to a worker.
--
-- First what others left: claims whose lease lapsed are put back, and what is due comes into its line. Then suspects (one,
-- and only for a worker that is `alone`), then the lines by priority. An id in a list is only a promise: it counts when
-- its body is there, names this very line, and is queued; anything else is what a cancel or an earlier life left behind,
-- or nothing that qworker wrote. A body that names no line at all is handed out: its worker will say what is wrong.
-- `rooms` are two arguments each: the needs of a pool as digits, and how many tasks it has room for.
-- Sent twice, the same claim id brings the same window and fence again. `standing` are claims that this worker has left
-- before: one that was filled meanwhile is answered in place of this claim, the others stand no longer. If there is
-- nothing to be had, `stand` is left standing. All of them are whole entries, the former one a line.
-- A call that stops at one of its limits has not seen the end of what is there: then next_due_ms is the present.
--
-- transition: rescue, due, claim
-- KEYS: bodies, tasks, later, leases, held, standing, stops, suspects, cursors, meta, stats, lines, bells
-- ARGV: now_ms, claim, worker, lease_ms, alone, max_bytes, expected_ms, stalled, epoch, stand, standing,
--   rooms...
-- reply: now_ms, epoch, next_due_ms or 0, suspects, 0 or what was rescued ('count claim id …'), fence or 0, alone, how many cursors, then id, blob, record
--   of each task, then id, cursor of each that has one; a large blob is empty here, and is to be fetched
-- refuses: none
-- cost: O(tasks handed out + tasks put back and tasks due, at most 500 each + entries and suspects passed over, at most 1,000 each)

local RESCUE_TASKS, DUE_TASKS, PASS_OVER, BATCH, MANY = 500, 500, 1000, 128, 32
local RESCUE_CLAIMS = 32

local now = clock()
local claim, lease, max_bytes = A.claim, tonumber(A.lease_ms), tonumber(A.max_bytes)
-- Where nobody holds anything and nothing was ever put aside, one look stands for eight.
local quiet = call('EXISTS', K.tasks, K.leases, K.held, K.later, K.suspects, K.cursors) == 0
-- Else the first write takes a task from its line, and a full server lets that pass, too.
if not quiet or A.stand ~= '' then make_way() end
if A.standing ~= '' then
  -- library
  for entry in string.gmatch(A.standing, '[^\n]+') do call('ZREM', K.standing, entry) end
end
local epoch, fence, hold = read_meta(now, lease, quiet)
local left = {} -- pools that may have work when we are done
local due_ms, rescued = '0', 0
local cut = false -- this call stopped at a limit, so that more may be had at once

if not quiet then
  -- library
  local known = call('HGET', K.held, claim)
  for entry in string.gmatch(A.standing, '[^\n]+') do
    if known then break end
    known = call('HGET', K.held, sub(entry, 1, 12))
    if known then claim = sub(entry, 1, 12) end
  end
  if known then
    -- This claim was sent before. Its worker is there and has not seen the window: the lease begins anew.
    call('ZADD', K.leases, int(now + lease), claim)
    local next_due = call('ZRANGE', K.later, 0, 0, 'WITHSCORES')
    local reply = { int(now), epoch, next_due[2] or '0', call('LLEN', K.suspects), 0 }
    add_window(reply, claim, known)
    return reply
  end

  -- Rescue, a bounded part per call: whatever is looked at is also moved, so nothing at the front can hide the rest. Not
  -- by a newcomer: if the clock has just stepped it cannot know, and those who do have not called yet.
  local lapses = tonumber(call('ZRANGE', K.leases, 0, 0, 'WITHSCORES')[2] or '0')
  if 0 < lapses and lapses <= now and hold <= now and A.expected_ms ~= 'new' then
    local lapsed = call('ZRANGEBYSCORE', K.leases, '-inf', int(now), 'LIMIT', 0, RESCUE_CLAIMS)
    local part, size = {}, 0
    for i = 1, #lapsed do
      part[i] = lapsed[i]
      size = size + tonumber(call('HGET', K.held, lapsed[i] .. '#') or '0')
      if size >= RESCUE_TASKS then break end
    end
    cut = #part < #lapsed or #lapsed == RESCUE_CLAIMS
    rescued = rescue(part)
  end

  -- What is due comes to the back of its line, in the order of its due times.
  local next_due = call('ZRANGE', K.later, 0, 0, 'WITHSCORES')
  if next_due[2] and tonumber(next_due[2]) <= now then
    local due = call('ZRANGEBYSCORE', K.later, '-inf', int(now), 'LIMIT', 0, DUE_TASKS)
    local texts, records, by_list, apart = fetch(K.tasks, due), {}, {}, {}
    for i = 1, #due do
      local r = texts[i] and parse(texts[i])
      if r and r.state == 's' then
        r.state = 'q'
        records[#records + 1], records[#records + 2] = due[i], text_of(r)
        local key = list_of(r)
        local list = by_list[key]
        if not list then
          list = {}
          by_list[key] = list
        end
        list[#list + 1] = due[i]
        local pools = r.losses < 2 and left or apart
        pools[pool_of(r.line)] = true
      end
    end
    many('ZREM', K.later, due)
    many('HSET', K.tasks, records)
    for key, ids in pairs(by_list) do many('RPUSH', key, ids) end
    ring_all(apart) -- suspects are for a worker that is alone, whatever this one takes
    next_due = call('ZRANGE', K.later, 0, 0, 'WITHSCORES')
  end
  -- The next claim has something to do when the next task is due, and when the next lease lapses.
  due_ms = next_due[2] or '0'
  lapses = lapses > 0 and math.max(lapses, hold) or 0
  if lapses > now and (due_ms == '0' or lapses < tonumber(due_ms)) then due_ms = int(lapses) end
end

local ids, blobs, texts, pairs_to_write = {}, {}, {}, {}
local taken, size, passed, seen = 0, 0, 0, {}
local unseen = 0 -- how many of the lines hold something, and were not looked at yet
local first_texts = {} -- per line, the record of a task that is claimed for the first time: one text for all

local function take(id, blob, text, bytes)
  taken = taken + 1
  size = size + bytes
  seen[id] = true
  ids[taken], blobs[taken], texts[taken] = id, blob, text
  pairs_to_write[2 * taken - 1], pairs_to_write[2 * taken] = id, text
end

-- The record that a queued task gets by being claimed; nil when it may not be handed out from here.
local function claimed_text(id, line, text, suspect)
  if text then
    -- library
    local r = parse(text)
    if not r or r.state ~= 'q' or r.line ~= line or (r.losses >= 2) ~= suspect then return nil end
    r.state, r.claim, r.started, r.deliveries = 'c', claim, '0', r.deliveries + 1
    if r.stop ~= '-' then call('ZADD', K.stops, 0, claim .. ' ' .. id) end
    return text_of(r)
  end
  local first = first_texts[line]
  if not first then
    first = 'c ' .. claim .. ' ' .. line .. ' - 1 1 1 0 0 0 0 0'
    first_texts[line] = first
  end
  return first
end

-- An id that nobody can have given or drawn would not survive the lists of ids in `held`, nor its way to Python.
local function is_id(text)
  return #text <= 64 and string.find(text, '^[%w_.=@+-]+$') ~= nil
end

-- Up to 512 short fields a hash is a list that is searched from end to end: in a window, microseconds a task. One long
-- name makes it a table, for as long as there is anything in it.
local function spread(key)
  local long = string.rep('-', 65)
  call('HSET', key, long, '')
  call('HDEL', key, long)
end

-- The bodies of tasks, and the sizes of those that stay where they are, for which '' stands: those of large tasks.
local function fetch_bodies(ids, records)
  local found, bytes, small, asked = {}, {}, {}, ids
  for i = 1, #ids do
    if records[i] and sub(records[i], -1) == 'l' then
      bytes[i] = call('HSTRLEN', K.bodies, ids[i])
      found[i], asked = bytes[i] > 0 and '', small
    end
  end
  if asked == ids then return fetch(K.bodies, ids), bytes end
  for i = 1, #ids do
    if not bytes[i] then small[#small + 1] = ids[i] end
  end
  local blobs, n = fetch(K.bodies, small), 0
  for i = 1, #ids do
    if not bytes[i] then
      n = n + 1
      found[i] = blobs[n]
    end
  end
  return found, bytes
end

-- Take up to `room` tasks from one line. Returns how much room is left.
local function drain(line, room)
  local key, batch, counted = line_key(line), 32, false
  while room > 0 do
    if size >= max_bytes or passed >= PASS_OVER then
      left[pool_of(line)] = true
      cut = true
      return room
    end
    -- Bodies are fetched to be looked at, so a batch is kept to what the byte limit is likely to allow.
    local ask = math.min(room, batch)
    local popped = call('LPOP', key, ask)
    if not popped then return room end
    if not counted then unseen, counted = unseen - 1, true end
    if #popped >= MANY then spread(K.bodies) end
    local records = quiet and {} or fetch(K.tasks, popped)
    local found, bytes = fetch_bodies(popped, records)
    for i = 1, #popped do
      local id, blob = popped[i], found[i]
      local text = nil
      if blob and not seen[id] and (sub(blob, 9, 9) == line or not is_line(sub(blob, 9, 9))) and is_id(id) then
        if taken > 0 and size + (bytes[i] or #blob) > max_bytes then
          -- library
          local rest = {}
          for j = i, #popped do rest[#rest + 1] = popped[j] end
          push_front(key, rest)
          size, left[pool_of(line)] = max_bytes, true
          cut = true
          break
        end
        text = claimed_text(id, line, records[i], false)
      end
      if text then
        take(id, blob, text, bytes[i] or #blob)
        room = room - 1
      else
        passed = passed + 1
      end
    end
    if #popped < ask then return room end
    batch = taken > 0 and math.max(1, math.min(BATCH, math.floor((max_bytes - size) * taken / (size + 1)) + 1)) or BATCH
  end
  left[pool_of(line)] = true
  return room
end

-- One suspect, whose pool this worker has room for, and nothing beside it.
local alone = '0'
if A.alone == '1' and not quiet then
  local serves = {}
  for i = REST, #ARGV, 2 do
    for digit in string.gmatch(ARGV[i], '%d') do serves[tonumber(digit)] = true end
  end
  -- Their records say what they need, so that no body is brought here for what another worker is to run.
  local waiting = call('LRANGE', K.suspects, 0, PASS_OVER - 1)
  local records, others = fetch(K.tasks, waiting), {}
  for i = 1, #waiting do
    local id, record = waiting[i], records[i]
    local line = record and sub(record, 16, 16) or ''
    if not is_line(line) or not is_id(id) or call('HSTRLEN', K.bodies, id) == 0 then
      call('LREM', K.suspects, 1, id)
    elseif serves[pool_of(line)] then
      call('LREM', K.suspects, 1, id)
      local blob = call('HGET', K.bodies, id)
      local named = sub(blob, 9, 9)
      local text = (named == line or not is_line(named)) and claimed_text(id, line, record, true)
      if text then
        take(id, blob, text, #blob)
        alone = '1'
        break
      end
    else
      others[#others + 1] = id
    end
  end
  if taken == 0 and call('LLEN', K.suspects) > #others then
    -- None of so many is for this worker: the next look is for those behind them, who else would wait for ever.
    call('LPOP', K.suspects, #others)
    many('RPUSH', K.suspects, others)
  end
end

if taken == 0 then
  local keys = {}
  for i = REST, #ARGV, 2 do
    for n = 1, #ARGV[i] do
      local first = 97 + tonumber(sub(ARGV[i], n, n)) * 3
      for code = first, first + 2 do keys[#keys + 1] = KEYS[LINES + code - 96] end
    end
  end
  unseen = #keys > 0 and call('EXISTS', unpack(keys)) or 0
  for priority = 0, 2 do
    for i = REST, #ARGV, 2 do
      local needs, room = ARGV[i], tonumber(ARGV[i + 1])
      -- The lists of one pool take turns at being first, so that none of them can starve another.
      for n = 0, #needs - 1 do
        if unseen == 0 then break end
        local turn = (n + fence) % #needs + 1
        room = drain(string.char(97 + tonumber(sub(needs, turn, turn)) * 3 + priority), room)
      end
      ARGV[i + 1] = int(room)
    end
  end
end

if taken > 0 then
  fence = draw_fence(fence, now)
  many('HSET', K.tasks, pairs_to_write)
  if taken >= MANY then spread(K.tasks) end
  local about = int(fence) .. ' ' .. A.worker .. ' ' .. alone .. ' ' .. table.concat(ids, ' ')
  call('HSET', K.held, claim, about, claim .. '#', int(taken))
  call('ZADD', K.leases, int(now + lease), claim)
  call('HINCRBY', K.stats, 'claimed', taken)
else
  fence = 0
end

-- Ring again for what stays: a push rings once, whatever the number of its tasks.
for pool in pairs(left) do
  local first = 97 + pool * 3
  for n = first, first + 2 do
    if call('LLEN', KEYS[LINES + n - 96]) > 0 then
      -- library
      ring(KEYS[BELLS + pool])
      break
    end
  end
end

if taken == 0 and A.stand ~= '' then
  -- library
  stand(A.stand, now)
end

-- What stays in `later` and is due says so by itself.
if cut then due_ms = int(now) end
local suspects = quiet and 0 or call('LLEN', K.suspects)
local reply = { int(now), epoch, due_ms, suspects, rescued, int(fence), alone, 0 }
local at = 8
for i = 1, taken do
  reply[at + 1], reply[at + 2], reply[at + 3] = ids[i], blobs[i], texts[i]
  at = at + 3
end
if not quiet then
  -- library
  add_cursors(reply, ids)
end
return reply
