-- Renew the lease of an owner on its groups, and say where they stand. An owner that comes back has its group again.
--
-- transition: none
-- KEYS: groups...
-- ARGV: now_ms, ttl_ms
-- reply: state, reason of each; empty: it is not known
-- refuses: none
-- cost: O(groups)

local now, reply = begin(KEYS[1]), {}
for i = 1, #KEYS do
  local group = read_group(KEYS[i])
  if group and OPEN[group.state] then
    group.state = 'open'
    call('HSET', KEYS[i], 'state', 'open', 'beat_ms', int(now), 'late_ms', '0')
    call('PEXPIRE', KEYS[i], A.ttl_ms)
  end
  reply[#reply + 1], reply[#reply + 2] = group and group.state or '', group and group.reason or ''
end
return reply
