-- Put back at once what the claims of a worker hold that is known to be dead, without waiting for its leases.
--
-- transition: rescue
-- KEYS: tasks, leases, held, standing, stops, suspects, stats, lines, bells
-- ARGV: now_ms, worker
-- reply: how many tasks and which ('count claim id …'), whether there may be more (1 or 0)
-- refuses: none
-- cost: O(open claims + tasks put back, at most about 1,000)

begin()
local claims, part, size, more = call('ZRANGE', K.leases, 0, -1), {}, 0, 0
local held = fetch(K.held, claims)
for i = 1, #claims do
  if held[i] and string.match(held[i], '^%S+ (%S+)') == A.worker then
    if size >= 1000 then
      more = 1
      break
    end
    part[#part + 1] = claims[i]
    size = size + tonumber(call('HGET', K.held, claims[i] .. '#') or '0')
  end
end
return { rescue(part, true), more }
