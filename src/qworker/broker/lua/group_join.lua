-- List tasks as members of a group before they are queued; all groups on their path must take tasks.
--
-- `groups` are the hashes of their groups, the outermost first, and `members` is the list of the innermost. `items` are
-- the ids of those groups, then the full ids of the tasks. Sent twice, it finds them listed.
--
-- transition: none
-- KEYS: members, groups...
-- ARGV: now_ms, ttl_ms, most, channel, items...
-- reply: now_ms, then nothing, or the id and the state of the group that takes nothing, and why
-- refuses: none
-- cost: O(tasks log members)

local now = clock()
local path, last = {}, #KEYS - RESULTS + 1
for i = 1, last do path[i] = ARGV[REST + i - 1] end
local refusal = refuse(now, path, last, K.members, #ARGV - REST - last + 1, ARGV[REST + last])
if refusal then return refusal end

local listed = {}
for i = REST + last, #ARGV do
  listed[#listed + 1], listed[#listed + 2] = int(now), ARGV[i]
end
for first = 1, #listed, CHUNK do
  call('ZADD', K.members, 'NX', unpack(listed, first, math.min(first + CHUNK - 1, #listed)))
end
call('PEXPIRE', K.members, A.ttl_ms)
call('PEXPIRE', KEYS[#KEYS], A.ttl_ms)
return { int(now) }
