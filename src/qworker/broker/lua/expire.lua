-- End tasks that still wait past their deadline. Any waiter may ask; a worker that claims one buries it itself.
--
-- `items` are id and packed expired outcome of each task. Sent twice, it knows its own outcome again.
--
-- transition: expire
-- KEYS: bodies, tasks, later, suspects, cursors, progress, dead, dead_bodies, stats, results...
-- ARGV: now_ms, ttl_ms, inbox, items...
-- reply: code, outcome of each task
-- refuses: none
-- cost: O(items)

local now = begin()
local reply, at = {}, 0
for i = REST, #ARGV, 2 do
  local id, value, result_key = ARGV[i], ARGV[i + 1], KEYS[RESULTS + (i - REST) / 2]
  local code, outcome = 'unknown', ''
  local blob = call('HGET', K.bodies, id)
  if blob then
    local text = call('HGET', K.tasks, id)
    local r = text and parse(text)
    code = 'waiting'
    if r and r.state ~= 'q' and r.state ~= 's' then
      code = 'held'
    elseif r and r.deadline ~= '0' and tonumber(r.deadline) <= now then
      outcome = finish(id, blob, r, 'E', value, result_key, now)
      code = 'expired'
    end
  else
    outcome = call('GET', result_key) or ''
    if outcome ~= '' then
      code = 'ended'
      if is_made_of(outcome, value) then code = 'expired' end
    end
  end
  reply[at + 1], reply[at + 2] = code, outcome
  at = at + 2
end
return reply
