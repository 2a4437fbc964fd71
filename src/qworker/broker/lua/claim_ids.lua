-- Claim exactly these tasks, as far as they are queued, and lease them to a worker.
--
-- Their entries stay in their line, where later claims pass them over. Sent twice, it brings the same window again.
--
-- transition: claim
-- KEYS: bodies, tasks, later, leases, held, stops, suspects, cursors, meta, stats
-- ARGV: now_ms, claim, worker, lease_ms, max_bytes, epoch, ids...
-- reply: now_ms, epoch, next_due_ms or 0, suspects, 0, fence or 0, 0, how many cursors, then id, blob, record of each
--   task, then id, cursor of each that has one
-- refuses: none
-- cost: O(ids)

local now = begin()
local claim, lease, max_bytes = A.claim, tonumber(A.lease_ms), tonumber(A.max_bytes)
local epoch = read_meta(now, lease)

local next_due = call('ZRANGE', K.later, 0, 0, 'WITHSCORES')
local reply = { int(now), epoch, next_due[2] or '0', call('LLEN', K.suspects), 0, '0', '0', 0 }
local known = call('HGET', K.held, claim)
if known then
  call('ZADD', K.leases, int(now + lease), claim)
  reply[6], reply[7], reply[8] = nil, nil, nil
  add_window(reply, claim, known)
  return reply
end

local names, taken, size = {}, 0, 0
for i = REST, #ARGV do
  local id = ARGV[i]
  local blob, text = call('HGET', K.bodies, id), call('HGET', K.tasks, id)
  local r = nil
  if blob and (taken == 0 or size + #blob <= max_bytes) then
    if text then r = parse(text) else r = fresh(sub(blob, 9, 9)) end
  end
  if r and r.state == 'q' and r.losses < 2 then
    r.state, r.claim, r.started, r.deliveries = 'c', claim, '0', r.deliveries + 1
    if r.stop ~= '-' then call('ZADD', K.stops, 0, claim .. ' ' .. id) end
    text = text_of(r)
    -- Written at once: the same id a second time in the call is then no longer queued.
    call('HSET', K.tasks, id, text)
    taken, size = taken + 1, size + #blob
    names[taken] = id
    reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = id, blob, text
  end
end

if taken > 0 then
  local fence = int(call('HINCRBY', K.meta, 'fence', 1))
  reply[6] = fence
  call('HSET', K.held, claim, fence .. ' ' .. A.worker .. ' 0 ' .. table.concat(names, ' '), claim .. '#', int(taken))
  call('ZADD', K.leases, int(now + lease), claim)
  call('HINCRBY', K.stats, 'claimed', taken)
end
add_cursors(reply, names)
return reply
