-- Claim up to `most` of these tasks, as far as they are queued and for one of the pools in `needs` (digits as in
-- POOL_NEEDS; empty: for any), and lease them to a worker. The first of them come first.
--
-- Their entries stay in their line, where later claims pass them over. Suspects, too: a task that waits for one holds
-- the only worker that could come to be idle. Sent twice, it brings the same window again.
--
-- transition: claim
-- KEYS: bodies, tasks, later, leases, held, stops, suspects, cursors, meta, stats
-- ARGV: now_ms, claim, worker, lease_ms, max_bytes, epoch, most, needs, ids...
-- reply: now_ms, epoch, next_due_ms or 0, suspects, how many are not queued if none is handed out, fence or 0, 0,
--   how many cursors, then id, blob, record of each task, then id, cursor of each that has one
-- refuses: none
-- cost: O(ids)

local now = begin()
local claim, lease, max_bytes, most = A.claim, tonumber(A.lease_ms), tonumber(A.max_bytes), tonumber(A.most)
local epoch, last = read_meta(now, lease)

local next_due = call('ZRANGE', K.later, 0, 0, 'WITHSCORES')
local reply = { int(now), epoch, next_due[2] or '0', call('LLEN', K.suspects), 0, '0', '0', 0 }
local known = call('HGET', K.held, claim)
if known then
  call('ZADD', K.leases, int(now + lease), claim)
  reply[6], reply[7], reply[8] = nil, nil, nil
  add_window(reply, claim, known)
  return reply
end

local names, taken, size, elsewhere = {}, 0, 0, 0
for i = REST, #ARGV do
  local id = ARGV[i]
  local blob, text = call('HGET', K.bodies, id), call('HGET', K.tasks, id)
  local r = nil
  if blob then
    local line = sub(blob, 9, 9)
    -- What names no line, though nobody claimed it yet, is handed out by the line that it stands in.
    if text then r = parse(text) elseif is_line(line) then r = fresh(line) end
  end
  if not r or r.state ~= 'q' then
    elsewhere = elsewhere + 1
  elseif taken < most and (taken == 0 or size + #blob <= max_bytes)
    and (A.needs == '' or string.find(A.needs, tostring(pool_of(r.line)), 1, true)) then
    if r.losses >= 2 then call('LREM', K.suspects, 0, id) end
    r.state, r.claim, r.started, r.deliveries = 'c', claim, '0', r.deliveries + 1
    if r.stop ~= '-' then call('ZADD', K.stops, 0, claim .. ' ' .. id) end
    text = text_of(r)
    -- Written at once: the same id a second time in the call is then no longer queued.
    call('HSET', K.tasks, id, text)
    taken, size = taken + 1, size + #blob
    names[taken] = id
    reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = id, blob, text
    if taken == most then break end
  end
end

if taken == 0 then
  reply[5] = elsewhere
else
  local fence = int(draw_fence(last, now))
  reply[6] = fence
  call('HSET', K.held, claim, fence .. ' ' .. A.worker .. ' 0 ' .. table.concat(names, ' '), claim .. '#', int(taken))
  call('ZADD', K.leases, int(now + lease), claim)
  call('HINCRBY', K.stats, 'claimed', taken)
end
add_cursors(reply, names)
return reply
