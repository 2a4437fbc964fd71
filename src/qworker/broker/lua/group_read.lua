-- Say where groups stand, for a worker that holds tasks of theirs; an owner's lease that has lapsed is applied.
--
-- `items` are the ids of the groups.
--
-- transition: none
-- KEYS: groups...
-- ARGV: now_ms, ttl_ms, channel, items...
-- reply: state, grace in ms (empty: each task's own) of each; an empty state: it is not known
-- refuses: none
-- cost: O(groups)

local now, reply = begin(KEYS[1]), {}
for i = 1, #KEYS do
  local group, state = read_group(KEYS[i]), ''
  if group then
    state = judge(KEYS[i], ARGV[REST + i - 1], group, now)
    -- Its tasks are alive, so it stays, though nobody joins it any more.
    if OPEN[state] and call('PTTL', KEYS[i]) * 2 < tonumber(A.ttl_ms) then call('PEXPIRE', KEYS[i], A.ttl_ms) end
  end
  reply[#reply + 1], reply[#reply + 2] = state, group and group.grace or ''
end
return reply
