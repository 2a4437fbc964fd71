-- Count a queue.
--
-- transition: none
-- KEYS: bodies, tasks, later, leases, held, suspects, stats, lines
-- ARGV: now_ms
-- reply: now_ms, ready, claimed, scheduled, suspects, when the oldest entry of each line was sent (8 bytes each), the
--   length of each line, counters
-- refuses: none
-- cost: O(open claims)

local now = clock()
local claims, claimed = call('ZRANGE', K.leases, 0, -1), 0
for i = 1, #claims do claims[i] = claims[i] .. '#' end
local sizes = fetch(K.held, claims)
for i = 1, #sizes do claimed = claimed + tonumber(sizes[i] or '0') end
local scheduled, suspects = call('ZCARD', K.later), call('LLEN', K.suspects)
local sent, lengths = {}, {}
for n = 97, 108 do
  local key = KEYS[LINES + n - 96]
  lengths[#lengths + 1] = call('LLEN', key)
  if lengths[#lengths] > 0 then
    -- The first entries may be what a cancel left behind.
    local head = call('LRANGE', key, 0, 19)
    for i = 1, #head do
      local blob = call('HGET', K.bodies, head[i])
      if blob then
        sent[#sent + 1] = sub(blob, 22, 29)
        break
      end
    end
  end
end
local ready = call('HLEN', K.bodies) - claimed - scheduled - suspects
return { int(now), ready, claimed, scheduled, suspects, sent, lengths, call('HGETALL', K.stats) }
