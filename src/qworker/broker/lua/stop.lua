-- Cancel tasks that no worker has; in mode "stop", flag those that a worker has, and tell it.
--
-- `items` are id and packed cancelled outcome of each task. A flag stays on its task until the task ends: renewals and
-- settles of its claim report it, and the message to the worker only makes it quicker.
-- Sent twice, it knows its own outcome again and answers `cancelled` as before.
--
-- transition: cancel
-- KEYS: bodies, tasks, later, held, stops, suspects, cursors, progress, dead, dead_bodies, stats, results...
-- ARGV: now_ms, mode, order, ttl_ms, queue_name, inbox, channel, items...
-- reply: code, claim, worker, outcome of each task
-- refuses: none
-- cost: O(items)

local now = begin()
local reply, at = {}, 0
for i = REST, #ARGV, 2 do
  local id, value, result_key = ARGV[i], ARGV[i + 1], KEYS[RESULTS + (i - REST) / 2]
  local code, claim, worker, outcome = 'unknown', '', '', ''
  local blob = call('HGET', K.bodies, id)
  if blob then
    local text = call('HGET', K.tasks, id)
    local r = text and parse(text)
    if not text or (r and (r.state == 'q' or r.state == 's')) then
      outcome = finish(id, blob, r, 'X', value, result_key, now)
      code = 'cancelled'
    elseif r then
      code, claim = 'held', r.claim
      worker = string.match(call('HGET', K.held, claim) or '', '^%S+ (%S+)') or ''
      if A.mode == 'stop' then
        code = 'requested'
        -- A grace that was asked for stands until another one is: a plain stop does not take it back.
        if A.order ~= 'd' or r.stop == '-' then
          r.stop = A.order
          call('HSET', K.tasks, id, text_of(r))
        end
        call('ZADD', K.stops, 0, claim .. ' ' .. id)
        call('PUBLISH', A.channel .. worker, A.queue_name .. ' ' .. claim .. ' ' .. id .. ' ' .. r.stop)
      end
    end
  else
    outcome = call('GET', result_key) or ''
    if outcome ~= '' then
      code = 'ended'
      if is_made_of(outcome, value) then code = 'cancelled' end
    end
  end
  reply[at + 1], reply[at + 2], reply[at + 3], reply[at + 4] = code, claim, worker, outcome
  at = at + 4
end
return reply
