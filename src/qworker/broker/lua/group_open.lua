-- Open a task group, below the groups that its opener is in; they must take tasks themselves.
--
-- `groups` are the hashes of the groups above it, root first; `siblings` the members of the innermost of them (its own
-- members, which stay as they are, when there is none). Sent twice, it finds its own group.
--
-- transition: none
-- KEYS: group, siblings, groups...
-- ARGV: now_ms, id, name, owner, on_loss, lease_ms, timeout_ms, ttl_ms, most, channel, path...
-- reply: now_ms, then nothing, or the id and the state of the group above that takes nothing, and why
-- refuses: none
-- cost: O(depth)

local now = clock()
if call('EXISTS', K.group) == 1 then return { int(now) } end
local path, last = {}, #KEYS - RESULTS + 1
for i = 1, last do path[i] = ARGV[REST + i - 1] end
local refusal = refuse(now, path, last, K.siblings, 1, A.id)
if refusal then return refusal end

local timeout = tonumber(A.timeout_ms)
call(
  'HSET', K.group, 'state', 'open', 'name', A.name, 'owner', A.owner, 'on_loss', A.on_loss, 'lease_ms', A.lease_ms,
  'beat_ms', int(now), 'deadline_ms', timeout > 0 and int(now + timeout) or '0', 'opened_ms', int(now),
  'path', table.concat(path, ' ')
)
call('PEXPIRE', K.group, A.ttl_ms)
if last > 0 then
  call('ZADD', K.siblings, 'NX', int(now), A.id)
  call('PEXPIRE', K.siblings, A.ttl_ms)
end
return { int(now) }
