-- Claim exactly these tasks, as far as they are queued, and lease them to a worker.
--
-- Their entries stay in their line, where later claims pass them over. Sent twice, it brings the same window again.
--
-- transition: claim
-- KEYS: bodies, tasks, later, leases, held, stops, suspects, meta, stats
-- ARGV: now_ms, claim, worker, lease_ms, max_bytes, epoch, ids...
-- reply: now_ms, epoch, next_due_ms or 0, suspects, 0, fence or 0, 0, then id, blob, record of each task
-- refuses: none
-- cost: O(ids)

local now = begin()
local claim, lease, max_bytes = A.claim, tonumber(A.lease_ms), tonumber(A.max_bytes)
local epoch = read_meta(now, lease)
local fence, taken, size, reply, records, names = 0, 0, 0, {}, {}, {}

local known = call('HGET', K.held, claim)
local next_due = call('ZRANGE', K.later, 0, 0, 'WITHSCORES')
for i = REST, #ARGV do
  local id = ARGV[i]
  local blob, text = call('HGET', K.bodies, id), call('HGET', K.tasks, id)
  if known then
    if not (blob and is_held_by(text, claim)) then text = nil end
  elseif blob and (taken == 0 or size + #blob <= max_bytes) then
    local r = text and parse(text) or not text and fresh(sub(blob, 9, 9))
    text = nil
    if r and r.state == 'q' and r.losses < 2 then
      r.state, r.claim, r.started, r.deliveries = 'c', claim, '0', r.deliveries + 1
      if r.stop ~= '-' then call('ZADD', K.stops, 0, claim .. ' ' .. id) end
      text = text_of(r)
      -- Written at once: the same id a second time in the call is then no longer queued.
      call('HSET', K.tasks, id, text)
      taken, size = taken + 1, size + #blob
      names[taken] = id
    end
  else
    text = nil
  end
  if text then reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = id, blob, text end
end

if known then
  fence = tonumber(string.match(known, '^%d+'))
  call('ZADD', K.leases, int(now + lease), claim)
elseif taken > 0 then
  fence = call('HINCRBY', K.meta, 'fence', 1)
  call('HSET', K.held, claim, int(fence) .. ' ' .. A.worker .. ' 0 ' .. table.concat(names, ' '), claim .. '#', int(taken))
  call('ZADD', K.leases, int(now + lease), claim)
  call('HINCRBY', K.stats, 'claimed', taken)
end

local head = { int(now), epoch, next_due[2] or '0', call('LLEN', K.suspects), 0, int(fence), '0' }
for i = 1, #reply do head[7 + i] = reply[i] end
return head
