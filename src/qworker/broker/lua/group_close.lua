-- Close a group whose block is left: nothing joins it any more, and nothing of it starts.
--
-- `seen`: how many members the owner knows to have ended. When there are others it stays open, so that the owner looks
-- again; -1 closes it all the same. What its owner could not wait for must not start either: workers take `closed` as a
-- stop. `survivors` are the ids of tasks whose code runs on, told to who leaves a group above. Sent twice, it finds it
-- closed.
--
-- transition: none
-- `groups` are the hashes of the groups above it, root first, and `path` their ids.
--
-- KEYS: group, members, groups...
-- ARGV: now_ms, seen, survivors, ttl_ms, path...
-- reply: its state before (`more`: there are other members; empty: not known), why it was stopped, how many members,
--   which group above it was stopped (empty: none)
-- refuses: none
-- cost: O(1)

local now = begin(K.group)
local group, count = read_group(K.group), call('ZCARD', K.members)
local above = ''
for i = RESULTS, #KEYS do
  local state = call('HGET', KEYS[i], 'state')
  if above == '' and state and not OPEN[state] then above = ARGV[REST + i - RESULTS] end
end
if not group then return { '', '', count, above } end
local seen = tonumber(A.seen)
if seen >= 0 and seen < count then return { 'more', group.reason, count, above } end
local state = group.state
if OPEN[state] then call('HSET', K.group, 'state', 'closed') end
if call('HSETNX', K.group, 'closed_ms', int(now)) == 1 then
  if A.survivors ~= '' then call('HSET', K.group, 'survivors', A.survivors) end
  call('PEXPIRE', K.group, A.ttl_ms)
  call('PEXPIRE', K.members, A.ttl_ms)
end
return { state, group.reason, count, above }
